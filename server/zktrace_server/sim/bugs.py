"""Bugs planted in the cores, to show that the simulation finds them. Each is a mistake that
somebody could make; several were made, in Java's server or here.

    with planted("acks before its log is durable"):
        Cluster(seed).run()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from zktrace_server.core import request as op
from zktrace_server.core.connection import Connection
from zktrace_server.core.quorum import catchup, packets, serving, sync
from zktrace_server.core.quorum.election import Vote
from zktrace_server.core.quorum.leader import Leader
from zktrace_server.core.quorum.learner import Learner
from zktrace_server.core.quorum.localsessions import LeaderSessions
from zktrace_server.core.quorum.membership import Membership
from zktrace_server.core.quorum.proposals import Proposals
from zktrace_server.core.quorum.replica import Replica
from zktrace_server.core.quorum.serving import MemberServer
from zktrace_server.core.request import Request
from zktrace_server.core.server import Server
from zktrace_server.core.tree import DataTree
from zktrace_server.sim.disk import Disk

Patch = tuple[Any, str, Any]


def _ack_at_once(self: Learner, data: bytes, zxid: int) -> None:
    _append(self, data, zxid)
    self._ack(zxid)


_append: Final = Learner._append


def _forgetful(self: Disk, epoch: int) -> None:
    """Nothing is written: see `_forgotten`."""
    self._accepted = epoch
    self.__dict__["volatile"] = epoch


def _forgotten(self: Disk, tree: DataTree) -> Any:
    if "volatile" in self.__dict__:
        self._accepted = self._current
    return _load(self, tree)


_load: Final = Disk.load


def _no_cut(self: Replica, zxid: int) -> None:
    """The history stays as it is."""


def _impatient(self: MemberServer, connection: Connection, request: Request) -> None:
    if request.kind in self._reader.handlers and request.kind != op.SYNC:
        Server._request(self, connection, request)
    else:
        _request(self, connection, request)


_request: Final = MemberServer._request


def _any_follower(self: Leader, handle: Any, packet: Any) -> str | None:
    """Does not look whether the learner's history is later."""
    initial, self._initial = self._initial, (1 << 62, 0)
    try:
        return _epoch_acked(self, handle, packet)
    finally:
        self._initial = initial


_epoch_acked: Final = Leader._epoch_acked


def _always_diff(peer: int, last: int, history: Any, on_disk: Any) -> Any:
    chosen = _plan(peer, last, history, on_disk)
    if chosen.kind == packets.TRUNC:
        chosen.kind = packets.DIFF
    return chosen


_plan: Final = sync.plan


def _old_alone(self: Membership) -> None:
    """The committed configuration decides alone, whatever was proposed."""
    _derive(self)
    self.quorums = (self.committed,)


_derive: Final = Membership._derive


#: Those of `BUGS` that show only where servers join and leave.
OF_CHANGES: Final = frozenset(("counts the old quorum alone behind a reconfiguration",))

#: What is wrong, and what is put in the place of what.
BUGS: Final[dict[str, list[Patch]]] = {
    "commits without a quorum": [(Proposals, "_has_quorum", lambda self, zxid: True)],
    "acks before its log is durable": [(Learner, "_append", _ack_at_once)],
    "does not keep the epoch it promised": [
        (Disk, "save_accepted_epoch", _forgetful),
        (Disk, "load", _forgotten),
    ],
    "elects by sid alone": [
        (Vote, "better_than", lambda a, b: a.leader > b.leader),
        (Leader, "_epoch_acked", _any_follower),
    ],
    "keeps what the leader tells it to cut": [(Replica, "truncate", _no_cut)],
    "sends DIFF where it has to cut": [(catchup, "plan", _always_diff)],
    "counts the old quorum alone behind a reconfiguration": [(Membership, "_derive", _old_alone)],
    "gives ephemeral nodes to sessions of one server": [
        (serving, "to_upgrade", lambda request: False),
        (LeaderSessions, "check_lasting", LeaderSessions.check),
    ],
    "answers reads before the writes in front of them": [(MemberServer, "_request", _impatient)],
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The cores have this bug, until the block ends."""
    before = [(where, what, getattr(where, what)) for where, what, _ in BUGS[name]]
    for where, what, instead in BUGS[name]:
        setattr(where, what, instead)
    try:
        yield
    finally:
        for where, what, original in before:
            setattr(where, what, original)


def find(
    name: str, run: Callable[[int], list[str]], seeds: Iterable[int]
) -> tuple[int, str] | None:
    """The first seed that shows a bug, and what it says."""
    with planted(name):
        for seed in seeds:
            wrong = run(seed)
            if wrong:
                return seed, wrong[0]
    return None
