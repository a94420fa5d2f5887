"""The leader's commit rule: a proposal is committed when a quorum has logged it and all before it
are committed (Leader.processAck, tryToCommit).

Who acknowledges a txn has logged all before it, since a connection keeps the order: so one zxid
says all about a peer.
"""

from __future__ import annotations

from collections import deque

from zktrace_server.core.quorum.ensemble import Ensemble


class Proposals:
    """`committed` is the zxid up to which all is."""

    def __init__(self, ensemble: Ensemble, committed: int) -> None:
        self.committed = committed
        self.outstanding: deque[tuple[int, bytes]] = deque()
        self._ensemble = ensemble
        self._logged: dict[int, int] = {}

    def add(self, zxid: int, payload: bytes) -> None:
        """Proposed."""
        self.outstanding.append((zxid, payload))

    def ack(self, sid: int, zxid: int) -> list[tuple[int, bytes]]:
        """`sid` has logged all up to `zxid`: what is committed by that, in order."""
        if not self._ensemble.votes(sid) or self._logged.get(sid, -1) >= zxid:
            return []
        self._logged[sid] = zxid
        done: list[tuple[int, bytes]] = []
        outstanding = self.outstanding
        while outstanding and outstanding[0][0] <= zxid and self._has_quorum(outstanding[0][0]):
            self.committed = outstanding[0][0]
            done.append(outstanding.popleft())
        return done

    def forget(self, sid: int) -> None:
        """Its connection is gone: what it logged is told anew by the next."""
        self._logged.pop(sid, None)

    def _has_quorum(self, zxid: int) -> bool:
        return self._ensemble.has_quorum(s for s, logged in self._logged.items() if logged >= zxid)
