"""A follower or an observer (Learner, Follower, Observer): accepts a leader's epoch, makes its own
history the leader's, then logs what is proposed and applies what is committed.

It ends by `failed`, and never begins again. What clients ask is not for this module: `host` is told
what the leader answers (see `serving`).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final, Protocol

from zktrace.wire import zxid as zxids
from zktrace.wire.jute import WireError
from zktrace.wire.quorum import (
    PROTOCOL_VERSION,
    Activate,
    EpochInfo,
    LearnerInfo,
    RevalidateResponse,
    SessionTimeout,
)
from zktrace.wire.records import Id
from zktrace.wire.txn import Transaction
from zktrace_server.core.node import Node
from zktrace_server.core.paths import CONFIG
from zktrace_server.core.quorum import packets as p
from zktrace_server.core.quorum import quick
from zktrace_server.core.quorum.ensemble import Ensemble, parse_bytes, parse_transaction
from zktrace_server.core.quorum.limits import Limits
from zktrace_server.core.quorum.link import Link
from zktrace_server.core.quorum.membership import Membership
from zktrace_server.core.quorum.packets import Packet
from zktrace_server.core.quorum.replica import OutOfOrder, Replica
from zktrace_server.core.quorum.storage import CannotTruncate
from zktrace_server.core.request import RECONFIG

#: Between attempts to connect to the leader, ms (leaderConnectDelayDuringRetryMs).
RETRY_MS: Final = 100
#: Said instead of the last zxid where only a snapshot helps: no log has a txn of this zxid, and
#: none is before it.
_WANT_SNAPSHOT: Final = 1


class Stage(IntEnum):
    """What the leader has to say next."""

    CONNECT = 0
    EPOCH = 1
    SYNC = 2  # DIFF, TRUNC or SNAP
    HISTORY = 3  # up to NEWLEADER
    START = 4  # UPTODATE
    SERVE = 5


#: What each packet is compared with.
_SERVE: Final = Stage.SERVE
_COMMIT: Final = p.COMMIT
_PROPOSAL: Final = p.PROPOSAL


class Host(Protocol):
    """What serves clients, once there is something to serve."""

    def synced(self) -> None: ...
    def revalidated(self, session_id: int, valid: bool) -> None: ...
    def take_touched(self) -> dict[int, int]: ...


class Learner:
    """`dial`: whoever drives it shall connect to the leader now. `want_snapshot` outlives it: the
    next one is to begin with it. `designated` is who leads next, where a reconfiguration that ended
    this term said so.
    """

    def __init__(
        self,
        sid: int,
        leader: int,
        observer: bool,
        membership: Membership,
        limits: Limits,
        replica: Replica,
        now_ms: int,
        want_snapshot: bool = False,
    ) -> None:
        self.sid = sid
        self.leader = leader
        self.observer = observer
        self.stage = Stage.CONNECT
        self.failed: str | None = None
        self.host: Host | None = None
        self.now_ms = now_ms
        self.dial = True
        self.want_snapshot = want_snapshot
        self.epoch = 0
        self.designated: int | None = None
        self._membership = membership
        #: What NEWLEADER said; in force when UPTODATE comes.
        self._config: Ensemble | None = None
        self._limits = limits
        self._sync_ms = limits.sync_ms
        self._replica = replica
        self._storage = replica.storage
        self._link: Link | None = None
        self._dial_at: int | None = None
        self._until = now_ms + limits.connect_ms
        self._promise_at: int | None = None

    def _fail(self, reason: str) -> None:
        if self.failed is None:
            self.failed = reason

    def deadline(self) -> int:
        """When `tick` is to be called next."""
        return self._until if self._dial_at is None else min(self._until, self._dial_at)

    def tick(self) -> None:
        """`now_ms` has changed."""
        if self.now_ms >= self._until:
            what = "cannot be reached" if self.stage is Stage.CONNECT else "is silent"
            self._fail(f"leader {self.leader} {what}")
        elif self._dial_at is not None and self.now_ms >= self._dial_at:
            self._dial_at = None
            self.dial = True

    def _heard(self) -> None:
        """The leader has said something: how long it may take for the next."""
        served = self.stage >= Stage.START
        self._until = self.now_ms + (self._limits.sync_ms if served else self._limits.init_ms)

    # --- the connection -----------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        """Connected to the leader."""
        self._link = link
        self.stage = Stage.EPOCH
        self._heard()
        info = LearnerInfo(self.sid, PROTOCOL_VERSION, self._membership.committed.version).encode()
        accepted = zxids.make(self._storage.accepted_epoch(), 0)
        kind = p.OBSERVERINFO if self.observer else p.FOLLOWERINFO
        link.send(p.with_data(kind, accepted, info))

    def not_opened(self) -> None:
        """It could not be reached: tried again until it takes too long."""
        self._dial_at = self.now_ms + RETRY_MS

    def lost(self, link: Link) -> None:
        """The connection is gone."""
        if link is self._link:
            self._fail(f"leader {self.leader} closed the connection")

    def close(self) -> None:
        """The end of it."""
        if self._link is not None:
            self._link.close(self.failed or "the term is over")

    @property
    def turned_away(self) -> bool:
        """Whether the leader was told of this server's history and went on no further."""
        return self.stage is Stage.SYNC

    def _send(self, packet: bytes) -> None:
        if self._link is not None:
            self._link.send(packet)

    # --- what the leader says -----------------------------------------------------------------

    def packet(self, packet: Packet) -> None:
        """One packet of the leader's."""
        try:
            if self.stage is _SERVE:
                # Most packets.
                self._until = self.now_ms + self._sync_ms
                kind, zxid, data, _ = packet
                if kind == _COMMIT:
                    self._replica.commit(zxid)
                    return
                if kind == _PROPOSAL:
                    self._append(data or b"", zxid)
                    return
            self._heard()
            wrong = self._packet(packet)
        except (WireError, OutOfOrder) as error:
            wrong = f"{packet.name}: {error}"
        if wrong is not None:
            self._fail(wrong)

    def _packet(self, packet: Packet) -> str | None:
        match self.stage:
            case Stage.EPOCH:
                return self._epoch(packet)
            case Stage.SYNC:
                return self._sync(packet)
            case Stage.CONNECT:
                return "a packet without a connection"
        match packet.type:
            case p.PROPOSAL:
                self._append(packet.data or b"", packet.zxid)
            case p.COMMIT:
                self._replica.commit(packet.zxid)
            case p.COMMIT_AND_ACTIVATE:
                self._activate(packet.data or b"", packet.zxid)
            case p.INFORM:
                self._append(packet.data or b"", packet.zxid)
                self._replica.commit(packet.zxid)
            case p.INFORM_AND_ACTIVATE:
                data = packet.data or b""
                self._append(Activate.decode_from(data, 0, len(data))[0].txn, packet.zxid)
                self._activate(data, packet.zxid)
            case p.PING if self.stage is not Stage.SERVE:
                pass  # Java says nothing before its ACK of NEWLEADER, and takes nothing else
            case p.PING:
                touched = self.host.take_touched() if self.host is not None else {}
                data = b"".join(SessionTimeout(*item).encode() for item in touched.items())
                self._send(p.with_data(p.PING, packet.zxid, data))
            case p.NEWLEADER if self.stage is Stage.HISTORY:
                self._new_leader(packet)
            case p.UPTODATE if self.stage is Stage.START:
                if self._promise_at is not None:
                    return "UPTODATE before its ACK of NEWLEADER"
                if not self._establish():
                    return "the configuration has another leader, or another role for this server"
                self.stage = Stage.SERVE
                self._send(p.bare(p.ACK, zxids.make(self.epoch, 0)))
            case p.REVALIDATE if self.host is not None:
                answer = RevalidateResponse.decode(packet.data or b"")
                self.host.revalidated(answer.session_id, answer.valid)
            case p.SYNC if self.host is not None:
                self.host.synced()
            case _:
                return f"{packet.name} out of turn"
        return None

    def _append(self, data: bytes, zxid: int) -> None:
        known = quick.read(data)
        if known is not None and known.zxid == zxid:
            self._replica.append(zxid, data, known)
            return
        txn = Transaction.decode(data)
        if txn.header.zxid != zxid:
            raise OutOfOrder(f"txn {txn.header.zxid:#x} in a packet of {zxid:#x}")
        if txn.header.type == RECONFIG:
            # Before it can be acknowledged, so before it can be committed.
            self._membership.see(parse_transaction(txn))
        self._replica.append(zxid, data, txn)

    # --- discovery ----------------------------------------------------------------------------

    def _epoch(self, packet: Packet) -> str | None:
        """LEADERINFO (Learner.registerWithLeader): the epoch is accepted before that is said."""
        if packet.type != p.LEADERINFO:
            return f"{packet.name} instead of LEADERINFO"
        epoch, accepted = zxids.epoch(packet.zxid), self._storage.accepted_epoch()
        if epoch < accepted:
            return f"the leader's epoch {epoch} is below {accepted}, which was accepted before"
        current = -1
        if epoch > accepted:
            current = self._storage.current_epoch()
            self._storage.save_accepted_epoch(epoch)
        self.epoch = epoch
        self.stage = Stage.SYNC
        zxid = _WANT_SNAPSHOT if self.want_snapshot else self._replica.last_logged
        self._send(p.with_data(p.ACKEPOCH, zxid, EpochInfo(current).encode()))
        return None

    # --- synchronization ----------------------------------------------------------------------

    def _sync(self, packet: Packet) -> str | None:
        match packet.type:
            case p.DIFF if self.want_snapshot:
                return "DIFF where only a snapshot helps"
            case p.DIFF:
                pass
            case p.TRUNC if self.want_snapshot:
                return "TRUNC where only a snapshot helps"
            case p.TRUNC:
                try:
                    self._replica.truncate(packet.zxid)
                except CannotTruncate as error:
                    self.want_snapshot = True
                    return str(error)
            case p.SNAP:
                self._replica.install(packet.data or b"", packet.zxid)
                self.want_snapshot = False
                self._see_installed()
            case _:
                return f"{packet.name} instead of DIFF, TRUNC or SNAP"
        self.stage = Stage.HISTORY
        return None

    def _new_leader(self, packet: Packet) -> None:
        if packet.zxid != zxids.make(self.epoch, 0):
            raise OutOfOrder(f"NEWLEADER of {packet.zxid:#x}, the epoch is {self.epoch}")
        if packet.data is not None and len(packet.data) > 1:
            self._config = parse_bytes(packet.data)
            self._membership.see(self._config)
        self.stage = Stage.START
        self._promise_at = self._replica.last_logged
        if self._replica.settled:
            self._promise()

    def _promise(self) -> None:
        """All of the leader's history is durable here: now its epoch is ours (ZOOKEEPER-4643 is
        what happens the other way round), and only then that is said.
        """
        upto, self._promise_at = self._promise_at, None
        assert upto is not None
        self._storage.save_current_epoch(self.epoch)
        self._send(p.bare(p.ACK, zxids.make(self.epoch, 0)))
        for zxid, _, _ in self._replica.pending:
            if zxid <= upto:
                self._ack(zxid)

    def durable(self, logged: list[int]) -> None:
        """So many more txns of our log are."""
        if self._promise_at is None:
            self._ack_all(logged)
            return
        upto = self._promise_at
        if logged[-1] >= upto:
            self._promise()
            self._ack_all([zxid for zxid in logged if zxid > upto])

    def _ack_all(self, logged: list[int]) -> None:
        if logged and not self.observer and self.stage >= Stage.START:
            self._send(b"".join([p.bare(p.ACK, zxid) for zxid in logged]))

    def _ack(self, zxid: int) -> None:
        """Each proposal has an ACK of its own."""
        if not self.observer and self.stage >= Stage.START:
            self._send(p.bare(p.ACK, zxid))

    # --- reconfiguration ----------------------------------------------------------------------

    def _see_installed(self) -> None:
        """The snapshot may be that of a later configuration. It has no zxid in a log by which
        others would know: until NEWLEADER says more, nothing counts without a quorum of it.
        """
        node: Node | None = self._replica.tree.nodes.get(CONFIG)
        if node is None or not node.data:
            return
        try:
            installed = parse_bytes(node.data)
        except WireError:
            return  # clients with the rights may write what they like there
        if installed.version > self._membership.seen.version:
            self._membership.see(installed)

    def _establish(self) -> bool:
        """What NEWLEADER said is in force. False if this term is over by that: another role, or a
        leader that does not lead by it (QuorumPeer.processReconfig without a suggested leader).
        """
        config, before = self._config, self._membership.committed
        if config is None or self._proposed(config):
            return True
        if not self._membership.activate(config):
            return True
        if config.observes(self.sid) != self.observer:
            return False
        was, now = before.members.get(self.leader), config.members.get(self.leader)
        return (
            was is not None
            and now is not None
            and not (was.observer or now.observer)
            and (was.host, was.quorum_port) == (now.host, now.quorum_port)
        )

    def _proposed(self, config: Ensemble) -> bool:
        """Whether it is only proposed: Java's leader says in NEWLEADER what it has seen, to those
        as well who come while a reconfiguration is not committed.
        """
        return any(
            zxid == config.version and isinstance(txn, Transaction) and txn.header.type == RECONFIG
            for zxid, _, txn in self._replica.pending
        )

    def _activate(self, data: bytes, zxid: int) -> None:
        """The next pending txn is a reconfiguration, and committed."""
        leader = Activate.decode_from(data, 0, len(data))[0].designated_leader
        if not self._replica.pending or self._replica.pending[0][0] != zxid:
            self._replica.commit(zxid)  # says what is out of order
            return
        txn = self._replica.pending[0][2]
        if not isinstance(txn, Transaction):
            raise WireError(f"txn {zxids.text(zxid)} is no reconfiguration", 0, "Transaction")
        config = parse_transaction(txn)
        changed = self._membership.activate(config)
        self._replica.commit(zxid)
        if changed and (leader != self.leader or config.observes(self.sid) != self.observer):
            self.designated = leader
            self._fail(f"reconfiguration {zxids.text(zxid)}: server {leader} leads")

    # --- what clients ask -----------------------------------------------------------------------

    def request(self, session_id: int, asked: bytes, ids: Iterable[Id]) -> None:
        """A request for the leader: xid, opcode and body as they came."""
        link = self._link
        if link is not None:
            link.send(p.request(session_id, asked, ids))

    def revalidate(self, session_id: int, timeout_ms: int) -> None:
        """Whether a session is still there."""
        data = SessionTimeout(session_id, timeout_ms).encode()
        self._send(p.with_data(p.REVALIDATE, -1, data))
