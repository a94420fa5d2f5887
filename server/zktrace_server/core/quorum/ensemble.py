"""Who belongs to an ensemble, and what a quorum of it is (QuorumMaj, QuorumHierarchical,
QuorumPeer.QuorumServer).

One configuration, which never changes: what comes of a reconfiguration is another `Ensemble` with a
later version (see `membership`). Knows nothing of who is up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from zktrace.wire.jute import WireError
from zktrace.wire.txn import SetDataTxn, Transaction
from zktrace_server.core.request import RECONFIG

PARTICIPANT: Final = "participant"
OBSERVER: Final = "observer"
#: Where a line gives a client port without a host.
ANY_HOST: Final = "0.0.0.0"
_LONG: Final = (1 << 64) - 1
_KEY: Final = re.compile(r"(server|group|weight)\.(\d{1,18})\Z")
_LINE: Final = re.compile(r"([^=:\s]+)\s*[=:\s]\s*(.*)\Z")
_VERSION: Final = re.compile(r"[0-9a-fA-F]{1,16}\Z")


class MembershipError(ValueError):
    """The lines describe no ensemble; the text says which one and why."""


class ObserversOnly(MembershipError):
    """Nobody would vote."""


@dataclass(frozen=True, slots=True)
class Member:
    """One server: where its quorum and election ports are, and whether it votes. `client` and
    `secure` are host:port of its ports for clients, where its line says so; else empty.
    """

    sid: int
    host: str
    quorum_port: int
    election_port: int
    observer: bool = False
    client: str = ""
    secure: str = ""

    def text(self) -> str:
        """As Java writes it (QuorumServer.toString)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        role = OBSERVER if self.observer else PARTICIPANT
        client = f";{self.client}" if self.client else ""
        if self.secure:
            client = f"{client or ';'};{self.secure}"
        return f"{host}:{self.quorum_port}:{self.election_port}:{role}{client}"


@dataclass(frozen=True, slots=True)
class Ensemble:
    """All servers by sid. Without groups a quorum is more than half of the voters' weight; with
    groups (sid to group) it is that in more than half of the groups that have any weight.
    """

    members: dict[int, Member]
    weights: dict[int, int] = field(default_factory=dict)
    groups: dict[int, int] = field(default_factory=dict)
    version: int = 0
    #: What follows from the rest, and is asked for often.
    voters: list[int] = field(init=False, repr=False, compare=False)
    _text: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """`voters` are the sids of participants, in order."""
        voting = (sid for sid, member in self.members.items() if not member.observer)
        object.__setattr__(self, "voters", sorted(voting))
        object.__setattr__(self, "_text", self._written())

    def votes(self, sid: int) -> bool:
        """Whether it is a participant."""
        member = self.members.get(sid)
        return member is not None and not member.observer

    def observes(self, sid: int) -> bool:
        """Whether it is an observer; who is not named at all is none (updateLearnerType)."""
        member = self.members.get(sid)
        return member is not None and member.observer

    def at(self, version: int) -> Ensemble:
        """The same servers, as a configuration of this version."""
        return replace(self, version=version)

    def same_servers(self, other: Ensemble) -> bool:
        """Whether nothing but the version differs."""
        return self.at(0) == other.at(0)

    def weight(self, sid: int) -> int:
        """Its weight; one where none is given, as Java has it without groups."""
        return self.weights.get(sid, 1)

    def has_quorum(self, sids: Iterable[int]) -> bool:
        """Whether these are one."""
        given = set(sids)
        if not self.groups:
            # Java looks at weights in a hierarchy only (QuorumMaj counts heads).
            return 2 * len(given.intersection(self.voters)) > len(self.voters)
        total: dict[int, int] = {}
        got: dict[int, int] = {}
        for sid in self.voters:
            group, weight = self.groups[sid], self.weight(sid)
            total[group] = total.get(group, 0) + weight
            got[group] = got.get(group, 0) + (weight if sid in given else 0)
        counting = [group for group, weight in total.items() if weight]
        return 2 * sum(2 * got[group] > total[group] for group in counting) > len(counting)

    def text(self) -> bytes:
        """As it goes with notifications and NEWLEADER, and stands in /zookeeper/config
        (QuorumMaj.toString, QuorumHierarchical.toString).
        """
        return self._text

    def _written(self) -> bytes:
        lines = [f"server.{sid}={self.members[sid].text()}" for sid in sorted(self.members)]
        by_group: dict[int, list[int]] = {}
        for sid, group in sorted(self.groups.items()):
            by_group.setdefault(group, []).append(sid)
        lines += [f"group.{g}={':'.join(map(str, sids))}" for g, sids in sorted(by_group.items())]
        if self.groups:
            lines += [f"weight.{sid}={weight}" for sid, weight in sorted(self.weights.items())]
        lines.append(f"version={self.version & _LONG:x}")
        return "\n".join(lines).encode()


def parse_member(sid: int, value: str) -> Member:
    """The value of a server.N line: host:port:port[:role][;[host:]client port[;TLS port]]
    (QuorumServer).
    """

    def wrong(why: str) -> MembershipError:
        return MembershipError(f"server.{sid}={value}: {why}")

    def port(text: str) -> int:
        if not text.strip().isdigit() or not 0 < int(text) <= 0xFFFF:
            raise wrong(f"{text.strip()!r} is no port")
        return int(text)

    def for_clients(text: str) -> str:
        if not text.strip():
            return ""
        host, rest = _split_host(text.strip()) if ":" in text else (ANY_HOST, text)
        shown = f"[{host}]" if ":" in host else host
        return f"{shown}:{port(rest)}"

    address, *clients = value.split(";")
    if "|" in address:
        raise wrong("several addresses of a server are not supported")
    if len(clients) > 2:
        raise wrong("there is more than a client port and a TLS port")
    host, rest = _split_host(address.strip())
    parts = rest.split(":")
    if not host or len(parts) not in (2, 3):
        raise wrong("it is not host:port:port or host:port:port:role")
    role = parts[2].strip().lower() if len(parts) == 3 else PARTICIPANT
    if role not in (PARTICIPANT, OBSERVER):
        raise wrong(f"role {role!r} is neither participant nor observer")
    quorum, election = port(parts[0]), port(parts[1])
    client, secure = (*map(for_clients, clients), "", "")[:2]
    return Member(sid, host, quorum, election, role == OBSERVER, client, secure)


def _split_host(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    host, _, rest = text.partition(":")
    return host, rest


def parse_ensemble(
    servers: dict[int, str], groups: dict[int, str], weights: dict[int, str]
) -> Ensemble:
    """Membership from the values of server.N, group.N and weight.N lines, by N."""
    members = {sid: parse_member(sid, value) for sid, value in servers.items()}
    of: dict[int, int] = {}
    for group, value in groups.items():
        for text in value.split(":"):
            if not text.strip().isdigit() or int(text) not in members:
                raise MembershipError(f"group.{group}={value}: {text!r} is no server")
            if int(text) in of:
                raise MembershipError(f"server {text} is in more than one group")
            of[int(text)] = group
    ensemble = Ensemble(members, _weights(weights, members), of)
    if groups and (missing := [sid for sid in ensemble.voters if sid not in of]):
        raise MembershipError(f"server {missing[0]} is in no group")
    if not ensemble.voters:
        raise (ObserversOnly if members else MembershipError)("there are observers only")
    return ensemble


def _weights(given: dict[int, str], members: dict[int, Member]) -> dict[int, int]:
    weights = {}
    for sid, value in given.items():
        if sid not in members or not value.strip().isdigit():
            raise MembershipError(f"weight.{sid}={value}: not a weight of a server")
        weights[sid] = int(value)
    return weights


def parse_text(text: str) -> Ensemble:
    """A configuration as it goes over the wire, stands in a dynamic configuration file, and is
    given to a reconfiguration (QuorumPeerConfig.parseDynamicConfig). MembershipError if it is none.
    """
    lines: dict[str, dict[int, str]] = {"server": {}, "group": {}, "weight": {}}
    version = 0
    for line in text.splitlines():
        line = line.strip()
        if not line or line[0] in "#!":
            continue
        match = _LINE.match(line)
        if match is None:
            raise MembershipError(f"{line!r} is no key=value")
        key, value = match[1], match[2]
        if key == "version":
            if not _VERSION.match(value):
                raise MembershipError(f"version={value} is no number")
            version = int(value, 16)
            continue
        known = _KEY.match(key)
        if known is None:
            raise MembershipError(f"{key} is no key of a configuration")
        lines[known[1]][int(known[2])] = value
    return parse_ensemble(lines["server"], lines["group"], lines["weight"]).at(version)


def parse_transaction(txn: Transaction) -> Ensemble:
    """The configuration that a reconfiguration's txn makes the committed one. WireError if there is
    none in it: who sends that is not to be followed.
    """
    body = txn.body
    if txn.header.type != RECONFIG or not isinstance(body, SetDataTxn):
        raise WireError("the txn is no reconfiguration", 0, "Transaction")
    return parse_bytes(body.data or b"")


def parse_bytes(data: bytes) -> Ensemble:
    """A configuration out of a packet. WireError if it is none."""
    try:
        return parse_text(data.decode())
    except (UnicodeDecodeError, MembershipError) as error:
        raise WireError(f"no configuration: {error}", 0, "QuorumVerifier") from None
