"""The leader (Leader, LearnerHandler): finds an epoch, brings learners to its history, then
proposes, counts, commits.

Phases as in the ZAB papers: discovery (an epoch later than any that a quorum has accepted),
synchronization (a quorum has the leader's history), broadcast. It ends by `failed`, and never
begins again: the next term has a leader of its own.

What clients ask is not for this module: `host` makes txns of requests (see `serving`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Final, Protocol

from zktrace.wire import zxid as zxids
from zktrace.wire.jute import WireError
from zktrace.wire.quorum import (
    PROTOCOL_VERSION,
    Activate,
    EpochInfo,
    ForwardedRequest,
    LeaderInfo,
    LearnerInfo,
    RevalidateResponse,
    SessionTimeout,
    decode_sessions,
)
from zktrace.wire.txn import Transaction
from zktrace_server.core import request as op
from zktrace_server.core.quorum import packets as p
from zktrace_server.core.quorum.catchup import bring_up_to_date
from zktrace_server.core.quorum.ensemble import Ensemble, parse_transaction
from zktrace_server.core.quorum.handle import Handle, Stage
from zktrace_server.core.quorum.limits import Limits
from zktrace_server.core.quorum.link import Link
from zktrace_server.core.quorum.membership import Membership
from zktrace_server.core.quorum.packets import Packet
from zktrace_server.core.quorum.proposals import Proposal, Proposals
from zktrace_server.core.quorum.quick import SetData
from zktrace_server.core.quorum.replica import Replica
from zktrace_server.core.quorum.syncs import Syncs
from zktrace_server.core.request import Request

#: The last counter of an epoch: the next txn needs a new one (ZOOKEEPER-1277).
LAST_COUNTER: Final = 0xFFFFFFFF
#: What each packet is compared with.
_SYNCED: Final = Stage.SYNCED
_REQUEST: Final = p.REQUEST
_ACK: Final = p.ACK


class Phase(IntEnum):
    """Where the leader is (QuorumPeer.ZabState)."""

    DISCOVERY = 0
    EPOCH_ACKS = 1
    SYNCHRONIZATION = 2
    BROADCAST = 3


class Host(Protocol):
    """What makes txns of requests, once there is something to serve."""

    def forwarded(self, request: Request, link: Link) -> None: ...
    def quickly(self, forwarded: bytes, link: Link | None) -> bool:
        """Makes a txn of a request as it came, if that is quickly done."""
        ...

    def applied(self, zxid: int) -> None:
        """All up to there is."""
        ...

    def touch(self, session_id: int, timeout_ms: int) -> None: ...
    def revalidate(self, session_id: int, timeout_ms: int, link: Link) -> bool: ...


class Leader:
    """`epoch` is 0 until one is found. `done_syncs` counts local syncs that are done.
    `designated` is who shall lead when this one has failed, where a reconfiguration left it out: it
    commits nothing any more then.
    """

    def __init__(
        self, sid: int, membership: Membership, limits: Limits, replica: Replica, now_ms: int
    ) -> None:
        self.sid = sid
        self.phase = Phase.DISCOVERY
        self.epoch = 0
        self.failed: str | None = None
        self.host: Host | None = None
        self.now_ms = now_ms
        self.done_syncs = 0
        self.last_proposed = replica.tree.last_zxid
        self.designated: int | None = None
        self.proposals = Proposals(replica.tree.last_zxid)
        self._membership = membership
        self._own_address = _address(membership.committed, sid)
        self._limits = limits
        self._replica = replica
        self._storage = replica.storage
        self._handles: dict[Link, Handle] = {}
        self._initial = (self._storage.current_epoch(), replica.tree.last_zxid)
        self._own_logged = replica.last_logged
        self._accepted: dict[int, int] = {}
        self._know_epoch: set[int] = set()
        self._have_history: set[int] = set()
        self._phase_until = now_ms + limits.init_ms
        self._half_tick_at = now_ms + limits.tick_ms // 2
        self._odd = True
        self._syncs = Syncs()
        #: Whether there are ACKs that were not looked at, and what is committed and not yet told.
        self._acks = False
        self._committed: list[Proposal] = []
        self._epoch_from(sid, self._storage.accepted_epoch())

    @property
    def history_zxid(self) -> int:
        """The zxid of NEWLEADER."""
        return zxids.make(self.epoch, 0)

    def synced(self) -> list[int]:
        """Sids of learners that serve."""
        return [h.sid for h in self._handles.values() if h.stage is Stage.SYNCED]

    def deadline(self) -> int:
        """When `tick` is to be called next."""
        until = self._half_tick_at
        return until if self.phase is Phase.BROADCAST else min(until, self._phase_until)

    def _fail(self, reason: str) -> None:
        if self.failed is None:
            self.failed = reason

    # --- connections --------------------------------------------------------------------------

    def accept(self, link: Link) -> None:
        """A learner has connected."""
        self._handles[link] = Handle(link, self.now_ms, self._limits)

    def lost(self, link: Link, why: str = "") -> None:
        """Its connection is gone, or ends now; `why` is for the log."""
        handle = self._handles.pop(link, None)
        if handle is None:
            return
        link.close(why)
        # What it logged may be cut off when it comes back: it does not count until it says so.
        self.proposals.forget(handle.sid)
        self._syncs.forget(link)
        if self.designated is not None:
            # They go over to the one that leads next.
            self._check_quorum()

    def close(self) -> None:
        """The end of the term."""
        for link in list(self._handles):
            self.lost(link, f"this server leads no longer: {self.failed}")

    def packet(self, link: Link, packet: Packet) -> None:
        """What a learner says. It loses its connection where that makes no sense."""
        handle = self._handles.get(link)
        if handle is None:
            return
        handle.heard_ms = self.now_ms
        if handle.stage is _SYNCED:
            # Most packets.
            kind, zxid, data, _ = packet
            if kind == _REQUEST:
                host = self.host
                if host is not None and data is not None and host.quickly(data, link):
                    return
            elif kind == _ACK:
                # The counter is 0 in the ACK of UPTODATE.
                if zxid & LAST_COUNTER:
                    self._acked(handle, zxid)
                return
        try:
            wrong = self._packet(handle, packet)
        except WireError as error:
            wrong = f"{packet.name}: {error}"
        if wrong is not None:
            self.lost(link, wrong)

    def _packet(self, handle: Handle, packet: Packet) -> str | None:
        match handle.stage:
            case Stage.SYNCED | Stage.WAIT_START:
                return self._while_synced(handle, packet)
            case Stage.INFO:
                return self._info(handle, packet)
            case Stage.ACK_EPOCH:
                return self._epoch_acked(handle, packet)
            case Stage.ACK_LEADER:
                return self._leader_acked(handle, packet)
        return f"{packet.name} out of turn"

    # --- discovery ----------------------------------------------------------------------------

    def _info(self, handle: Handle, packet: Packet) -> str | None:
        if packet.type not in (p.FOLLOWERINFO, p.OBSERVERINFO):
            return f"{packet.name} as the first packet"
        if packet.data is None or len(packet.data) < 8:
            return "a learner without a sid"
        info = LearnerInfo.decode_from(packet.data, 0, len(packet.data))[0]
        handle.sid = handle.link.sid = info.server_id
        handle.observer = packet.type == p.OBSERVERINFO
        handle.accepted_epoch = zxids.epoch(packet.zxid)
        handle.stage = Stage.WAIT_EPOCH
        if info.protocol_version is None or info.protocol_version < PROTOCOL_VERSION:
            return "a learner of before 3.4"
        if (info.config_version or 0) > self._membership.committed.version:
            # LearnerHandler.run: to lead it would be to take back what was committed.
            return f"a learner with configuration {info.config_version:#x}, later than the leader's"
        for other in [h for h in self._handles.values() if h.sid == handle.sid]:
            if other is not handle:
                self.lost(other.link, "it has connected again")
        self._epoch_from(handle.sid, handle.accepted_epoch)
        if self.phase is not Phase.DISCOVERY and handle.stage is Stage.WAIT_EPOCH:
            self._send_epoch(handle)
        return None

    def _epoch_from(self, sid: int, accepted: int) -> None:
        """A peer that will accept an epoch later than this one (Leader.getEpochToPropose)."""
        if self.phase is not Phase.DISCOVERY:
            return
        self._accepted[sid] = accepted
        self.epoch = max(self.epoch, accepted + 1)
        # Java asks for a quorum of the committed configuration only. If the other one is in force
        # already, its leader may have the same epoch then.
        if not self._membership.has_quorum(self._accepted):
            return
        self._storage.save_accepted_epoch(self.epoch)
        self.phase = Phase.EPOCH_ACKS
        self._phase_until = self.now_ms + self._limits.init_ms
        membership = self._membership
        if membership.committed.version == 0 and not membership.changing:
            # The first configuration gets a version when a quorum has it, so that it is preferred
            # to those of servers that were not there (ZOOKEEPER-1783).
            membership.see(membership.committed.at(self.history_zxid))
        for handle in list(self._handles.values()):
            if handle.stage is Stage.WAIT_EPOCH:
                self._send_epoch(handle)
        self._epoch_known_by(self.sid)

    def _send_epoch(self, handle: Handle) -> None:
        info = LeaderInfo(PROTOCOL_VERSION).encode()
        handle.link.send(p.with_data(p.LEADERINFO, self.history_zxid, info))
        handle.stage = Stage.ACK_EPOCH
        handle.heard(self.now_ms)

    def _epoch_acked(self, handle: Handle, packet: Packet) -> str | None:
        if packet.type != p.ACKEPOCH or packet.data is None:
            return f"{packet.name} instead of ACKEPOCH"
        epoch = EpochInfo.decode_from(packet.data, 0, len(packet.data))[0].current_epoch
        handle.zxid = packet.zxid
        handle.stage = Stage.WAIT_SYNC
        if self.phase is Phase.EPOCH_ACKS and epoch != -1:
            if (epoch, packet.zxid) > self._initial:
                return "a learner with a later history than the leader's"
            # -1 as a zxid: it has no data that it could vouch for.
            if packet.zxid != -1:
                self._epoch_known_by(handle.sid)
        if self.phase > Phase.EPOCH_ACKS and handle.stage is Stage.WAIT_SYNC:
            self._synchronize(handle)
        return None

    def _epoch_known_by(self, sid: int) -> None:
        """Leader.waitForEpochAck."""
        if self.phase is not Phase.EPOCH_ACKS:
            return
        self._know_epoch.add(sid)
        self._epoch_begins()

    def _epoch_begins(self) -> None:
        """A quorum knows the epoch, and all that this server was elected for is on its disk. Before
        that the epoch may not be its current one: after a crash it would have the epoch without the
        history, and win over those who have the history. (Java's servers write their log out before
        they look for a leader: SyncRequestProcessor.shutdown.)
        """
        if self.sid not in self._know_epoch or not self._membership.has_quorum(self._know_epoch):
            return
        if not self._replica.settled:
            return
        self._storage.save_current_epoch(self.epoch)
        self.phase = Phase.SYNCHRONIZATION
        self._phase_until = self.now_ms + self._limits.init_ms
        self.last_proposed = self.history_zxid
        for handle in list(self._handles.values()):
            if handle.stage is Stage.WAIT_SYNC:
                self._synchronize(handle)
        self._own_history()

    # --- synchronization ----------------------------------------------------------------------

    def _synchronize(self, handle: Handle) -> None:
        # What it activates at UPTODATE: before there is a quorum that is what this leader will
        # activate then, afterwards what is committed.
        established = self.phase is Phase.BROADCAST
        config = self._membership.committed if established else self._membership.seen
        new_leader = p.with_data(p.NEWLEADER, self.history_zxid, config.text())
        outstanding = self.proposals.outstanding
        bring_up_to_date(handle, self._replica, self._limits, new_leader, outstanding, self.now_ms)

    def _leader_acked(self, handle: Handle, packet: Packet) -> str | None:
        if packet.type != p.ACK:
            return f"{packet.name} instead of an ACK of NEWLEADER"
        if zxids.counter(packet.zxid):
            # Java's learners log what they were sent behind DIFF when NEWLEADER comes, in a thread
            # of its own, which says so before or after the ACK of NEWLEADER.
            self._acked(handle, packet.zxid)
            return None
        if packet.zxid != self.history_zxid:
            return "an ACK of another NEWLEADER"
        handle.stage = Stage.WAIT_START
        if not handle.observer:
            self._have_history.add(handle.sid)
        if self.phase is Phase.BROADCAST:
            self._start(handle)
        else:
            self._history_counted()
        return None

    def durable(self, zxid: int) -> None:
        """Our own log is, up to there."""
        self._own_logged = zxid
        if self.phase is Phase.BROADCAST:
            self.proposals.ack(self.sid, zxid)
            self._acks = True
        elif self.phase is Phase.SYNCHRONIZATION:
            self._own_history()
        elif self.phase is Phase.EPOCH_ACKS:
            self._epoch_begins()

    def _own_history(self) -> None:
        if self._replica.settled:
            self._have_history.add(self.sid)
            self._history_counted()

    def _history_counted(self) -> None:
        """Leader.waitForNewLeaderAck."""
        if self.phase is not Phase.SYNCHRONIZATION:
            return
        have = self._have_history
        if self.sid not in have or not self._membership.has_quorum(have):
            return
        self.phase = Phase.BROADCAST
        # What the last leader has left undone is done by that (ZOOKEEPER-1324).
        seen = self._membership.seen
        if self._membership.reconfig:
            self._activate(seen, self._choose(seen, dict.fromkeys(have, 0)))
        self._half_tick_at = self.now_ms + self._limits.tick_ms // 2
        for handle in list(self._handles.values()):
            if handle.stage is Stage.WAIT_START:
                self._start(handle)

    def _start(self, handle: Handle) -> None:
        handle.link.send(p.bare(p.UPTODATE, -1))
        handle.release(self.now_ms)
        handle.stage = Stage.SYNCED
        handle.heard(self.now_ms)

    # --- broadcast ----------------------------------------------------------------------------

    def propose(self, txn: Transaction) -> None:
        """A txn, of the next zxid of this epoch."""
        zxid = txn.header.zxid
        payload = txn.encode()
        # Of the configurations before it and behind it, if it is a reconfiguration.
        quorums, target = self._membership.quorums, None
        if txn.header.type == op.RECONFIG:
            target = parse_transaction(txn)
            self._membership.see(target)
            quorums = self._membership.quorums
        self._propose(txn, Proposal(zxid, payload, quorums, target))

    def propose_set_data(self, txn: SetData, payload: bytes) -> None:
        """The same of a setData, which is encoded already."""
        self._propose(txn, Proposal(txn.zxid, payload, self._membership.quorums))

    def _propose(self, txn: Transaction | SetData, proposal: Proposal) -> None:
        zxid, payload = proposal.zxid, proposal.payload
        self._replica.append(zxid, payload, txn)
        self.last_proposed = zxid
        self.proposals.add(proposal)
        packet = p.with_data(p.PROPOSAL, zxid, payload)
        now = self.now_ms
        for handle in self._handles.values():
            if handle.forwarding and not handle.observer:
                handle.propose(zxid, packet, now)
        if zxid & LAST_COUNTER == LAST_COUNTER:
            self._fail("the epoch has no zxid left")

    def _while_synced(self, handle: Handle, packet: Packet) -> str | None:
        kind, data = packet.type, packet.data or b""
        if kind == p.ACK:
            if zxids.counter(packet.zxid):
                self._acked(handle, packet.zxid)
            return None
        if kind == p.PING:
            handle.pongs += 1
            if self.host is not None:
                for session in decode_sessions(data):
                    self.host.touch(session.session_id, session.timeout_ms)
            self._finish_syncs()
            return None
        if self.host is None:
            return f"{packet.name} before UPTODATE"
        if kind == p.REQUEST:
            asked = ForwardedRequest.decode(data)
            if asked.type == op.SYNC:
                self.sync(handle.link)
                return None
            request = Request(
                asked.session_id, asked.cxid, asked.type, asked.body, tuple(packet.ids or ())
            )
            self.host.forwarded(request, handle.link)
            return None
        if kind == p.REVALIDATE:
            session = SessionTimeout.decode(data)
            valid = self.host.revalidate(session.session_id, session.timeout_ms, handle.link)
            answer = RevalidateResponse(session.session_id, valid).encode()
            handle.link.send(p.with_data(p.REVALIDATE, packet.zxid, answer))
            return None
        return f"{packet.name} of a learner"

    def _acked(self, handle: Handle, zxid: int) -> None:
        handle.acked(zxid)
        if not handle.observer and self.phase is Phase.BROADCAST:
            self.proposals.ack(handle.sid, zxid)
            self._acks = True

    def commit(self) -> None:
        """What has come together is handed in: all that has its quorums by that is committed.
        Behind a reconfiguration that makes another leader: nothing.
        """
        if not self._acks:
            return
        self._acks = False
        while self.designated is None:
            done = self.proposals.take()
            if done is None:
                break
            if done.target is not None:
                self._tell_committed()
                self._reconfigured(done, done.target)
            else:
                self._committed.append(done)
            self._replica.commit(done.zxid)
        if self.host is not None:
            self.host.applied(self.proposals.committed)
        self._tell_committed()
        self._finish_syncs()

    def _tell_committed(self) -> None:
        done, self._committed = self._committed, []
        if done:
            commits = b"".join([p.bare(p.COMMIT, each.zxid) for each in done])
            self._tell(
                commits, lambda: [p.with_data(p.INFORM, each.zxid, each.payload) for each in done]
            )

    def _tell(self, commits: bytes, informs: Callable[[], list[bytes]]) -> None:
        """That something is committed: to those who have the proposals, and to observers, with all
        that is in them.
        """
        whole = b""
        for handle in self._handles.values():
            if handle.forwarding:
                if handle.observer:
                    whole = whole or b"".join(informs())
                handle.send(whole if handle.observer else commits)

    # --- reconfiguration ----------------------------------------------------------------------

    def quorum_synced(self, ensemble: Ensemble) -> bool:
        """Whether a quorum of it serves as followers of this leader (Leader.isQuorumSynced)."""
        there = [
            h.sid
            for h in self._handles.values()
            if h.stage is Stage.SYNCED and not h.observer and h.present(self.now_ms)
        ]
        return ensemble.has_quorum([self.sid, *there])

    def _reconfigured(self, done: Proposal, target: Ensemble) -> None:
        """A reconfiguration is committed (commitAndActivate, informAndActivate)."""
        acked = {s: upto for s, upto in self.proposals.logged().items() if upto >= done.zxid}
        leader = self._choose(target, acked)
        self._activate(target, leader)
        told, informed = Activate(leader, b"").encode(), Activate(leader, done.payload).encode()
        commit = p.with_data(p.COMMIT_AND_ACTIVATE, done.zxid, told)
        self._tell(commit, lambda: [p.with_data(p.INFORM_AND_ACTIVATE, done.zxid, informed)])

    def _choose(self, target: Ensemble, acked: Mapping[int, int]) -> int:
        """Who leads then: this one, if it votes and has the same address; else who has logged most
        of those who have logged the reconfiguration (Leader.getDesignatedLeader).
        """
        if target.votes(self.sid) and _address(target, self.sid) == self._own_address:
            return self.sid
        others = [sid for sid in target.voters if sid in acked and sid != self.sid]
        return max(others, key=lambda sid: (acked[sid], -sid), default=self.sid)

    def _activate(self, target: Ensemble, leader: int) -> None:
        self._membership.activate(target)
        if leader != self.sid:
            self.designated = leader

    # --- sync ---------------------------------------------------------------------------------

    def sync(self, link: Link | None) -> None:
        """Of a learner, or of a client of our own (None)."""
        self._syncs.add(link)

    def flush(self) -> None:
        """To be called before anything is sent: one ping for all syncs that came together."""
        self.commit()
        if not self._syncs.waiting:
            return
        self._ping(only_voters=True)
        pings = {h.sid: h.pings for h in self._serving_voters()}
        self._syncs.begin(self.last_proposed, pings)
        self._finish_syncs()

    def _serving_voters(self) -> list[Handle]:
        return [h for h in self._handles.values() if h.stage is Stage.SYNCED and not h.observer]

    def _finish_syncs(self) -> None:
        if not self._syncs.under_way:
            return
        proposals = self.proposals
        done = self._syncs.take_done(
            lambda zxid: zxid <= proposals.committed or not proposals.outstanding,
            {h.sid: h.pongs for h in self._handles.values()},
            lambda sids: self._membership.has_quorum([self.sid, *sids]),
        )
        for link in done:
            if link is None:
                self.done_syncs += 1
            else:
                link.send(p.bare(p.SYNC, 0))

    # --- time ---------------------------------------------------------------------------------

    def tick(self) -> None:
        """`now_ms` has changed."""
        now = self.now_ms
        if self.phase is not Phase.BROADCAST and now >= self._phase_until:
            self._fail(f"no quorum in {self.phase.name.lower()} within initLimit")
            return
        if now < self._half_tick_at:
            return
        self._half_tick_at = now + self._limits.tick_ms // 2
        for handle in list(self._handles.values()):
            why = handle.overdue(now)
            if why is not None:
                self.lost(handle.link, why)
        if self.phase is not Phase.BROADCAST:
            return
        self._odd = not self._odd
        if not self._odd and not self._check_quorum():
            return
        self._ping(only_voters=False)

    def _check_quorum(self) -> bool:
        """Whether there is one of learners that are there; else this term is over."""
        present = [
            h.sid for h in self._handles.values() if h.present(self.now_ms) and not h.observer
        ]
        if not self._membership.has_quorum([self.sid, *present]):
            self._fail(f"no quorum any more, only {sorted({self.sid, *present})}")
            return False
        return True

    def _ping(self, *, only_voters: bool) -> None:
        ping = p.bare(p.PING, self.last_proposed)
        for handle in self._handles.values():
            if handle.stage is Stage.SYNCED and not (only_voters and handle.observer):
                handle.link.send(ping)
                handle.pings += 1


def _address(ensemble: Ensemble, sid: int) -> tuple[str, int] | None:
    """Where a server can be reached by those who follow it."""
    member = ensemble.members.get(sid)
    return None if member is None else (member.host, member.quorum_port)
