"""The configurations that one server goes by (QuorumPeer.getQuorumVerifier and
getLastSeenQuorumVerifier): the committed one, and the last one that was proposed.

While the two differ nothing counts without a quorum of each: the committed one may have been
replaced already without this server knowing, and the proposed one may never be. A reconfiguration
is one txn, and there is no second one before it is committed.

Knows nothing of how a proposal comes to be committed. What it is told is on disk (`Keeper`) when
the call returns, so before this server acknowledges anything that rests on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from zktrace.wire import zxid as zxids
from zktrace_server.core.quorum.ensemble import Ensemble, Member


class Keeper(Protocol):
    """Where configurations outlive the process. Each call returns when it is durable."""

    def save_seen(self, seen: Ensemble) -> None: ...

    def save_committed(self, committed: Ensemble, *, settled: bool) -> None:
        """`settled`: what was seen is no later than this, and can be forgotten."""
        ...


class Membership:
    """`reconfig`: whether it may change at all (reconfigEnabled); if not, it is what zoo.cfg says
    for as long as the server runs, and what others say of it is ignored.
    """

    def __init__(
        self,
        committed: Ensemble,
        seen: Ensemble | None = None,
        *,
        reconfig: bool = False,
        keeper: Keeper | None = None,
    ) -> None:
        self.reconfig = reconfig
        self.committed = committed
        later = reconfig and seen is not None and seen.version > committed.version
        self.seen = seen if later and seen is not None else committed
        self._keeper = keeper
        self._derive()

    def _derive(self) -> None:
        both = (self.committed, self.seen)
        #: Of each of these a quorum is needed.
        self.quorums: tuple[Ensemble, ...] = both if self.changing else both[:1]
        #: Sids of all that vote in one of them, in order.
        self.voters: list[int] = sorted({sid for one in self.quorums for sid in one.voters})

    @property
    def changing(self) -> bool:
        """Whether there is a proposal that is not known to be committed."""
        return self.seen.version > self.committed.version

    def votes(self, sid: int) -> bool:
        """Whether it is a participant of one that counts (FastLeaderElection.validVoter)."""
        return any(one.votes(sid) for one in self.quorums)

    def find(self, sid: int) -> Member | None:
        """Where a server is, by the committed configuration or else by the one that was seen."""
        return self.committed.members.get(sid) or self.seen.members.get(sid)

    def has_quorum(self, sids: Iterable[int]) -> bool:
        """Whether these are a quorum of each that counts."""
        return has_quorums(self.quorums, sids)

    def see(self, proposed: Ensemble) -> None:
        """A proposal, or what a new leader has seen: that may be older than what was seen here, if
        that was never committed (QuorumPeer.setLastSeenQuorumVerifier).
        """
        if not self.reconfig or proposed.version == self.seen.version:
            return
        if self._keeper is not None:
            self._keeper.save_seen(proposed)
        self.seen = proposed
        self._derive()

    def forget_unlogged(self, last_logged: int) -> None:
        """At the start: a proposal whose txn is not in the log was never acknowledged here. It came
        before that, and a crash between the two is not to leave this server waiting for a quorum
        of servers that may know nothing of it.
        """
        version = self.seen.version
        if self.changing and zxids.counter(version) and version > last_logged:
            self.see(self.committed)

    def activate(self, new: Ensemble) -> bool:
        """It is committed. True if other servers than before are in it; False as well where it is
        known already (QuorumPeer.processReconfig, setQuorumVerifier).
        """
        if not self.reconfig or new.version <= self.committed.version:
            return False
        if self._keeper is not None:
            self._keeper.save_committed(new, settled=new.version >= self.seen.version)
        before, self.committed = self.committed, new
        if new.version > self.seen.version:
            self.seen = new
        self._derive()
        return not new.same_servers(before)


def has_quorums(ensembles: Iterable[Ensemble], sids: Iterable[int]) -> bool:
    """Whether these are a quorum of each."""
    given = set(sids)
    return all(one.has_quorum(given) for one in ensembles)
