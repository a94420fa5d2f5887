"""Who is who on the quorum port: learners' connections, terms of leaders, ensembles.

A *learner* is one connection of a follower or observer to the server that it learns from. A *term*
is one listener leading in one epoch. Listeners belong to one ensemble only where the capture shows
it: their configurations share a server, and the addresses seen agree about who is who. Two
ensembles that cannot be told apart for certain are treated as two, so that nothing is compared
between them. Must not know what is right or wrong.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

import numpy as np

from zktrace.analysis.columns import NONE, Ints
from zktrace.analysis.config import Config, parse_config
from zktrace.analysis.verify.arrays import grouped

if TYPE_CHECKING:
    from zktrace.analysis.verify.evidence import Evidence

FOLLOWER: Final = "follower"
OBSERVER: Final = "observer"

SYNCS: Final = ("DIFF", "TRUNC", "SNAP")
TXNS: Final = frozenset(("PROPOSAL", "INFORM", "INFORMANDACTIVATE"))
COMMITS: Final = frozenset(("COMMIT", "COMMITANDACTIVATE"))
_HANDSHAKE: Final = frozenset(
    (*SYNCS, "FOLLOWERINFO", "OBSERVERINFO", "LEADERINFO", "ACKEPOCH", "NEWLEADER", "UPTODATE")
)

#: Listeners with a configuration that are held against each other: an ensemble has a handful, and
#: made-up traffic is not to take the square of its size.
LISTENERS_MAX: Final = 64


@dataclass(slots=True)
class Learner:
    """One connection of a learner."""

    conn: int
    client: str
    server: str
    rows: Ints
    """Its packets, in the quorum table, in order."""
    whole: bool
    """Seen from its first packet on, nothing lost in between."""
    role: str | None = None
    sid: int | None = None
    accepted: int | None = None
    """Epoch that the learner had accepted before."""
    epoch: int | None = None
    """The leader's."""
    proven_epoch: bool = False
    """Told by the leader's NEWLEADER, or by ACKs of what it broadcasts."""
    config: Config | None = None
    handshake: dict[str, list[int]] = field(default_factory=dict)
    """Rows of each type of handshake packet."""
    live_from: int = 0
    """Row from which on the leader broadcasts; before, its packets bring the learner up to date."""

    def first(self, name: str) -> int | None:
        """Row of the first packet of a type."""
        rows = self.handshake.get(name)
        return rows[0] if rows else None


@dataclass(slots=True)
class Term:
    """One listener leading in one epoch."""

    server: str
    epoch: int
    ensemble: int
    learners: list[Learner]

    @property
    def followers(self) -> list[Learner]:
        return [one for one in self.learners if one.role == FOLLOWER]

    @property
    def config(self) -> Config | None:
        """The one all learners of the term were told; None where they were told different ones."""
        told = {one.config for one in self.learners if one.config is not None}
        return next(iter(told)) if len(told) == 1 else None

    @property
    def established(self) -> Learner | None:
        """A follower that proves that a quorum follows this leader in this epoch."""
        return next((one for one in self.followers if one.proven_epoch), None)


class Ensembles:
    """All of them."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self.learners = self._learners()
        self.of_server = self._united()
        terms: dict[tuple[str, int], Term] = {}
        for one in self.learners:
            if one.epoch is not None:
                key = (one.server, one.epoch)
                if key not in terms:
                    terms[key] = Term(one.server, one.epoch, self.of_server[one.server], [])
                terms[key].learners.append(one)
        self.terms = sorted(terms.values(), key=lambda term: (term.ensemble, term.epoch))

    def of_rows(self) -> Ints:
        """The ensemble of each quorum packet."""
        conn = self._evidence.quorum.ints("conn")
        table = np.zeros(int(conn.max(initial=0)) + 1, dtype=np.int64)
        for one in self.learners:
            table[one.conn] = self.of_server[one.server]
        return table[conn]

    def by_ensemble(self) -> dict[int, list[Term]]:
        """Terms of each, by epoch."""
        found = defaultdict(list)
        for term in self.terms:
            found[term.ensemble].append(term)
        return dict(found)

    def led(self) -> set[str]:
        """Listeners that have followers: leaders. A follower may serve observers, too
        (ObserverMaster), and passes the leader's packets on to them.
        """
        return {one.server for one in self.learners if one.role == FOLLOWER}

    # ---- connections

    def _learners(self) -> list[Learner]:
        evidence = self._evidence
        q = evidence.quorum
        conn = q.ints("conn")
        if not q.rows:
            return []
        order, first = grouped(conn)
        starts = np.flatnonzero(first)
        ends = np.append(starts[1:], len(order))
        learners = []
        clients, servers = q.words("client"), q.words("server")
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            rows = order[start:end]
            at = int(rows[0])
            number = int(conn[at])
            learners.append(
                Learner(
                    number,
                    clients[q.codes("client")[at]],
                    servers[q.codes("server")[at]],
                    rows,
                    number not in evidence.broken_conns,
                )
            )
        of_conn = {one.conn: one for one in learners}
        for row in np.flatnonzero(q.among("type", _HANDSHAKE)).tolist():
            self._handshake(of_conn[int(conn[row])], row)
        for one in learners:
            self._broadcast(one)
        return learners

    def _handshake(self, one: Learner, row: int) -> None:
        q = self._evidence.quorum
        name = str(q.value("type", row))
        if not one.handshake:
            # until the sync is over, all that comes is part of it
            one.live_from = q.rows
        one.handshake.setdefault(name, []).append(row)
        if name in ("FOLLOWERINFO", "OBSERVERINFO"):
            one.role = FOLLOWER if name == "FOLLOWERINFO" else OBSERVER
            one.sid = q.value("sid", row)
            one.accepted = q.value("epoch", row)
        elif name == "LEADERINFO" and one.epoch is None:
            one.epoch = q.value("epoch", row)
        elif name == "NEWLEADER":
            one.epoch, one.proven_epoch = q.value("epoch", row), True
            text = q.value("config", row)
            one.config = parse_config(text) if text else None
        elif name == "UPTODATE":
            one.live_from = row + 1

    def _broadcast(self, one: Learner) -> None:
        """Role and epoch of a connection whose beginning was not seen. Only followers acknowledge
        txns, and none before they are up to date.
        """
        q = self._evidence.quorum
        one.whole = one.whole and (
            one.first("FOLLOWERINFO") == one.rows[0] or one.first("OBSERVERINFO") == one.rows[0]
        )
        if one.epoch is not None and one.role is not None:
            return
        zxid = q.ints("zxid")[one.rows]
        counted = (zxid != NONE) & (zxid & 0xFFFF_FFFF != 0)
        acks = counted & q.among_at("type", {"ACK"}, one.rows)
        if acks.any():
            one.role = one.role or FOLLOWER
            if one.epoch is None:
                one.epoch, one.proven_epoch = int(zxid[acks].max()) >> 32, True
        informs = counted & q.among_at("type", {"INFORM", "INFORMANDACTIVATE"}, one.rows)
        if one.role is None and informs.any():
            one.role = OBSERVER
            if one.epoch is None:
                one.epoch = int(zxid[informs].max()) >> 32

    # ---- which listeners belong together

    def _united(self) -> dict[str, int]:
        servers = sorted({one.server for one in self.learners})
        of = {server: number for number, server in enumerate(servers)}
        configs: dict[str, set[Config]] = defaultdict(set)
        for one in self.learners:
            if one.config is not None:
                configs[one.server].add(one.config)
        # few listeners have a configuration; made-up traffic may have many without
        told = sorted(configs)[:LISTENERS_MAX]
        for i, left in enumerate(told):
            for right in told[i + 1 :]:
                if of[left] != of[right] and self._same(left, right, configs):
                    _merge(of, of[left], of[right])
        for server in servers:
            if server not in configs:
                for other in told:
                    # a listener that another one's configuration names by its address
                    if any(config.sids(server) for config in configs[other]):
                        _merge(of, of[other], of[server])
                        break
        return of

    def _same(self, left: str, right: str, configs: dict[str, set[Config]]) -> bool:
        named = [
            {entry for config in configs[server] for entry in config.servers}
            for server in (left, right)
        ]
        if not named[0] & named[1]:
            return False
        literal = {address for _, address in named[0] & named[1]}
        if left in literal and right in literal and _is_literal(left):
            return True
        seen: list[dict[int, set[str]]] = [defaultdict(set), defaultdict(set)]
        hosts: list[set[str]] = [{_host(left)}, {_host(right)}]
        for one in self.learners:
            for side, server in enumerate((left, right)):
                if one.server == server:
                    hosts[side].add(_host(one.client))
                    if one.sid is not None:
                        seen[side][one.sid].add(_host(one.client))
        agree = all(seen[0][sid] & seen[1][sid] for sid in seen[0].keys() & seen[1].keys())
        return agree and bool(hosts[0] & hosts[1])

    def different(self, left: Term, right: Term) -> bool:
        """Two listeners are certainly two servers: not one with several addresses."""
        if left.server == right.server:
            return False
        configs = {one.config for one in (*left.learners, *right.learners) if one.config}
        sids = [
            {sid for config in configs for sid in config.sids(server)}
            for server in (left.server, right.server)
        ]
        if len(sids[0]) == len(sids[1]) == 1:
            return sids[0] != sids[1]
        if sids[0] or sids[1]:
            return False
        # nobody follows itself
        followers = {_host(one.client) for one in left.learners}
        return _host(right.server) in followers and _host(left.server) != _host(right.server)


def _merge(of: dict[str, int], left: int, right: int) -> None:
    for server, number in of.items():
        if number == right:
            of[server] = left


def _host(endpoint: str) -> str:
    return endpoint.rpartition(":")[0]


def _is_literal(endpoint: str) -> bool:
    try:
        ip_address(_host(endpoint).strip("[]"))
    except ValueError:
        return False
    return True
