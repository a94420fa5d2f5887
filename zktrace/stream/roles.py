"""What the user said about ports, and what was learned about listeners.

A listener is the (ip, port) that accepts connections. Explicit ports restrict a role to them;
without any, the first bytes decide and the well-known ports are hints for connections that were
joined mid-stream. Knows no bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

CLIENT, QUORUM, ELECTION, TLS, UNKNOWN = "client", "quorum", "election", "tls", "unknown"
HINTS = {2181: CLIENT, 2888: QUORUM, 3888: ELECTION}

#: Listeners remembered; an ensemble has a handful, a capture of many ensembles some hundreds.
LISTENERS_MAX = 4_096

#: A port, on every address where the first part is None.
Port = tuple[bytes | None, int]


@dataclass(slots=True)
class Roles:
    """Roles of listeners: given, learned, hinted."""

    given: dict[str, frozenset[Port]] = field(default_factory=dict)
    _learned: dict[tuple[bytes, int], str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        client: Iterable[Port] = (),
        quorum: Iterable[Port] = (),
        election: Iterable[Port] = (),
    ) -> Roles:
        """Roles as given on the command line; an empty list leaves that role to the bytes."""
        given = {
            CLIENT: frozenset(client),
            QUORUM: frozenset(quorum),
            ELECTION: frozenset(election),
        }
        return cls({role: ports for role, ports in given.items() if ports})

    def allowed(self, role: str, ip: bytes, port: int) -> bool:
        """Whether a listener may have this role by what the user gave."""
        ports = self.given.get(role)
        if ports is not None:
            return (ip, port) in ports or (None, port) in ports
        explicit = self._given_role(ip, port)
        return explicit is None or explicit == role

    def _given_role(self, ip: bytes, port: int) -> str | None:
        for role, ports in self.given.items():
            if (ip, port) in ports or (None, port) in ports:
                return role
        return None

    def learn(self, role: str, ip: bytes, port: int) -> None:
        """Note that a connection to this listener proved its role."""
        if len(self._learned) < LISTENERS_MAX:
            self._learned.setdefault((ip, port), role)

    def known(self, ip: bytes, port: int) -> str | None:
        """The role of a listener, given or learned; None where it is neither."""
        return self._given_role(ip, port) or self._learned.get((ip, port))

    def hinted(self, ip: bytes, port: int) -> str | None:
        """As `known`, or the role that usually has this port."""
        return self.known(ip, port) or HINTS.get(port)
