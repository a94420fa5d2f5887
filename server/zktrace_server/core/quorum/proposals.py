"""The leader's commit rule: a proposal is committed when a quorum has logged it and all before it
are committed (Leader.processAck, tryToCommit). Each proposal says of which configurations that has
to be a quorum: behind a reconfiguration that is not committed it is two.

Once the reconfiguration is committed the old configuration has nothing to say any more (Shraer and
others, Dynamic Reconfiguration of Primary/Backup Clusters, 2012): who was in that one alone may
have gone to observe, and acknowledges nothing. In Java what was proposed in between goes on waiting
for both.

Who acknowledges a txn has logged all before it, since a connection keeps the order: so one zxid
says all about a peer.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from zktrace_server.core.quorum.ensemble import Ensemble
from zktrace_server.core.quorum.membership import has_quorums


@dataclass(slots=True)
class Proposal:
    """`quorums`: the configurations that have to have one. `target`: what it makes the committed
    configuration, where it is a reconfiguration.
    """

    zxid: int
    payload: bytes
    quorums: tuple[Ensemble, ...]
    target: Ensemble | None = None


class Proposals:
    """`committed` is the zxid up to which all is."""

    def __init__(self, committed: int) -> None:
        self.committed = committed
        self.outstanding: deque[Proposal] = deque()
        self._logged: dict[int, int] = {}
        #: Up to where a quorum of each of these configurations has logged, by what is in `_logged`.
        self._asked: tuple[Ensemble, ...] | None = None
        self._reached = -1

    def add(self, proposal: Proposal) -> None:
        """Proposed."""
        self.outstanding.append(proposal)

    def ack(self, sid: int, zxid: int) -> None:
        """`sid` has logged all up to `zxid`."""
        if self._logged.get(sid, -1) < zxid:
            self._logged[sid] = zxid
            self._asked = None

    def take(self) -> Proposal | None:
        """The next that is committed by what was acknowledged; it is no longer outstanding."""
        if not self.outstanding or not self._has_quorum(self.outstanding[0]):
            return None
        done = self.outstanding.popleft()
        self.committed = done.zxid
        if done.target is not None:
            # There is no second reconfiguration behind one that is not committed.
            quorums = (done.target,)
            for behind in self.outstanding:
                behind.quorums = quorums
        return done

    def logged(self) -> dict[int, int]:
        """By sid, up to where it has logged all."""
        return dict(self._logged)

    def forget(self, sid: int) -> None:
        """Its connection is gone: what it logged is told anew by the next."""
        self._logged.pop(sid, None)
        self._asked = None

    def _has_quorum(self, proposal: Proposal) -> bool:
        if proposal.quorums is not self._asked:
            self._asked = proposal.quorums
            self._reached = self._quorum_logged(proposal.quorums)
        return proposal.zxid <= self._reached

    def _quorum_logged(self, quorums: tuple[Ensemble, ...]) -> int:
        for zxid in sorted(set(self._logged.values()), reverse=True):
            logged = [sid for sid, upto in self._logged.items() if upto >= zxid]
            if has_quorums(quorums, logged):
                return zxid
        return -1
