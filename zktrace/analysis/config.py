"""The ensemble's configuration as its text says it: who votes, and where each server listens.

A NEWLEADER carries the text (QuorumVerifier.toString). Must not know packets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

#: server.1=host:2888:3888|host2:2888:3888:participant;0.0.0.0:2181 (QuorumServer.toString)
_SERVER: Final = re.compile(r"server\.(-?\d+)=(.*)")
_ADDRESS: Final = re.compile(r"(\[[^\]]*\]|[^:|;\[\]]+):(\d+):(\d+)")


@dataclass(frozen=True, slots=True)
class Config:
    """What a configuration's text says about who votes."""

    voters: frozenset[int]
    addresses: frozenset[tuple[int, str]]
    """sid and ``host:port`` of the quorum port; several per server where it has them."""
    simple: bool
    """A majority decides: no groups or weights (QuorumHierarchical)."""

    def sids(self, listener: str) -> set[int]:
        """Servers that listen there, by their literal addresses."""
        return {sid for sid, address in self.addresses if address == listener}

    @property
    def servers(self) -> frozenset[tuple[int, str]]:
        return self.addresses


def parse_config(text: str) -> Config | None:
    """The text of a NEWLEADER; None where it names no server."""
    voters, addresses = set(), set()
    for line in text.splitlines():
        found = _SERVER.fullmatch(line.strip())
        if found is None:
            continue
        sid, rest = int(found[1]), found[2].split(";")[0]
        if not rest.endswith(":observer"):
            voters.add(sid)
        for host, quorum_port, _ in _ADDRESS.findall(rest):
            addresses.add((sid, f"{host}:{quorum_port}"))
    simple = not re.search(r"^(group|weight)\.", text, re.MULTILINE)
    return Config(frozenset(voters), frozenset(addresses), simple) if addresses else None
