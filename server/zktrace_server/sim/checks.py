"""What must hold, of the ensemble as a whole; looked at after every step of a server, with each txn
that one commits or applies, and with each write that is answered. The names are those of ZAB's
papers and of Apache's TLA+ specification.

* One leader per epoch: no two servers lead in one.
* Committed prefix: there is one sequence of committed txns, and every server that serves has a
  beginning of it, with the same tree.
* Leader completeness: who begins to serve as a leader has all that was ever committed in epochs up
  to its own. (One that slept while others began a later epoch may find the ACKs of a quorum when it
  wakes, and serves until it has found out; it can commit nothing.)
* Primary order: the sequence goes up in zxids, so in epochs.
* Integrity: what is committed was proposed by that epoch's leader.
* One configuration per version: whoever goes by one of the same version has the same.
* No acknowledged write is lost; ephemerals are there only as long as their session.

`Broken` says which one does not, and how.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from zktrace.wire import zxid as zxids
from zktrace_server.core.quorum.ensemble import Ensemble
from zktrace_server.core.quorum.leader import Phase
from zktrace_server.core.quorum.serving import MemberServer
from zktrace_server.sim.node import Node


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True, slots=True)
class _Txn:
    """One of the committed sequence: its place, its bytes' checksum, and the tree's digest."""

    place: int
    checksum: int
    digest: int


class Checks:
    """Watches all nodes (`node.Watcher`)."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.committed_txns: dict[int, _Txn] = {}
        self.acknowledged = 0
        #: Configurations that some server took for committed, by version.
        self.configurations: dict[int, bytes] = {}
        self._leaders: dict[int, int] = {}
        self._serving: dict[int, MemberServer] = {}
        #: Of each process, what it applied since it began: zxid to checksum and digest.
        self._applied: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}
        #: Of each node, the configuration that it was seen to go by last.
        self._configuration: dict[int, Ensemble] = {}

    # --- told by nodes ------------------------------------------------------------------------

    def applied(self, node: Node, zxid: int, checksum: int, digest: int) -> None:
        self._applied.setdefault((node.sid, node.term), {})[zxid] = (checksum, digest)

    def forgets(self, node: Node) -> None:
        """Its history is cut or replaced; what is left of it is told again."""
        self._applied.pop((node.sid, node.term), None)

    def committed(self, node: Node, zxid: int, checksum: int, digest: int) -> None:
        peer = node.peer
        if peer is None:
            return
        leader = peer.leader
        if leader is not None and leader.phase is Phase.BROADCAST:
            if zxids.epoch(zxid) != leader.epoch:
                raise Broken(f"integrity: {node.sid} commits {zxid:#x} in epoch {leader.epoch}")
            self._append(node, zxid, checksum, digest)
        elif peer.server is not None:
            self._same(node, zxid, checksum, digest)

    def _append(self, node: Node, zxid: int, checksum: int, digest: int) -> None:
        known = self.committed_txns.get(zxid)
        if known is not None:
            self._same(node, zxid, checksum, digest)
            return
        if self.order and zxid <= self.order[-1]:
            raise Broken(f"primary order: {node.sid} commits {zxid:#x} behind {self.order[-1]:#x}")
        self.committed_txns[zxid] = _Txn(len(self.order), checksum, digest)
        self.order.append(zxid)

    def _same(self, node: Node, zxid: int, checksum: int, digest: int) -> None:
        known = self.committed_txns.get(zxid)
        if known is None:
            raise Broken(f"committed prefix: {node.sid} shows {zxid:#x}, which is not committed")
        if known.checksum and known.checksum != checksum:
            raise Broken(f"committed prefix: {node.sid} has another txn {zxid:#x}")
        if known.digest != digest:
            raise Broken(f"committed prefix: {node.sid} has another tree at {zxid:#x}")

    # --- after each step ------------------------------------------------------------------------

    def after(self, node: Node) -> None:
        """Something may have changed at this node."""
        peer = node.peer
        if peer is None:
            self._serving.pop(node.sid, None)
            return
        committed = peer.membership.committed
        if committed.version and self._configuration.get(node.sid) is not committed:
            self._configuration[node.sid] = committed
            text = self.configurations.setdefault(committed.version, committed.text())
            if text != committed.text():
                raise Broken(f"one configuration per version: {node.sid} has another")
        leader = peer.leader
        if leader is not None and leader.phase >= Phase.SYNCHRONIZATION:
            other = self._leaders.setdefault(leader.epoch, node.sid)
            if other != node.sid:
                raise Broken(f"one leader per epoch: {other} and {node.sid} in {leader.epoch}")
        server = peer.server
        if server is None:
            self._serving.pop(node.sid, None)
        elif self._serving.get(node.sid) is not server:
            self._serving[node.sid] = server
            self._begins(node)
        if peer.replica.mismatches:
            raise Broken(f"digest: {node.sid} computes another than its leader")

    def _begins(self, node: Node) -> None:
        """A server begins to serve: its tree must be that of a committed txn; a leader's of the
        last up to its epoch, and what it has beyond is committed by that.
        """
        assert node.peer is not None
        replica = node.peer.replica
        last = replica.tree.last_zxid
        if node.peer.leader is not None:
            self._completes(node, last)
        if last and last not in self.committed_txns:
            raise Broken(f"committed prefix: {node.sid} serves at {last:#x}, not committed")
        if last and self.committed_txns[last].digest != replica.tree.tree_digest:
            raise Broken(f"committed prefix: {node.sid} serves another tree at {last:#x}")
        self._sessions(node)

    def _completes(self, node: Node, last: int) -> None:
        assert node.peer is not None
        assert node.peer.leader is not None
        upto = bisect_left(self.order, zxids.make(node.peer.leader.epoch + 1, 0))
        if upto and last < self.order[upto - 1]:
            raise Broken(
                f"leader completeness: {node.sid} leads with {last:#x}, committed is "
                f"{self.order[upto - 1]:#x}"
            )
        applied = self._applied.get((node.sid, node.term), {})
        for zxid, (checksum, digest) in sorted(applied.items()):
            known = self.committed_txns.get(zxid)
            if known is None and zxid <= last and (not self.order or zxid > self.order[-1]):
                self._append(node, zxid, checksum, digest)
        if last and last not in self.committed_txns:
            # It came with a snapshot: what is in between nobody saw.
            self._append(node, last, 0, node.peer.replica.tree.tree_digest)

    def _sessions(self, node: Node) -> None:
        assert node.peer is not None
        replica = node.peer.replica
        for session in replica.tree.ephemerals:
            if session not in replica.timeouts:
                raise Broken(f"ephemerals: {node.sid} has some of {session:#x}, which is over")

    # --- at the end ---------------------------------------------------------------------------

    def acknowledge(self, zxid: int) -> None:
        """A client was told that this write is done."""
        self.acknowledged += 1
        if zxid not in self.committed_txns:
            raise Broken(f"no acknowledged write lost: {zxid:#x} was acknowledged, not committed")

    def settled(self, nodes: list[Node]) -> bool:
        """All serve, with one tree."""
        states = set()
        for node in nodes:
            if node.peer is None or node.peer.server is None:
                return False
            tree = node.peer.replica.tree
            states.add((tree.last_zxid, tree.tree_digest))
        return len(states) == 1

    def at_rest(self, node: Node) -> None:
        """Ephemerals of a server that has all."""
        self._sessions(node)
