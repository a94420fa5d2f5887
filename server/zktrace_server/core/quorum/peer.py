"""One server of an ensemble (QuorumPeer): looks for a leader, then leads, follows or observes,
until that fails, and looks again.

Sans-IO: each call says what has happened, and leaves behind what is to be done - notifications
(`election.out`), bytes on quorum connections (`dirty`), a leader to connect to (`take_dial`), txns
to be logged (`replica.take_log`, then `logged`), and what clients are to be sent (`server`,
`ended`). A driver calls `set_time` before anything else, `flush` when it has handed in all that has
come together, then sends what is not held back, writes the log, and calls `logged`.

What a quorum may count on is on disk before it is said: epochs by calls of the storage, txns since
an ACK is made by `logged` alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from zktrace.wire.election import Notification
from zktrace.wire.jute import WireError
from zktrace_server.core.paths import CONFIG
from zktrace_server.core.quorum.election import Election, State
from zktrace_server.core.quorum.ensemble import parse_bytes
from zktrace_server.core.quorum.leader import Leader, Phase
from zktrace_server.core.quorum.learner import Learner, Stage
from zktrace_server.core.quorum.limits import Limits
from zktrace_server.core.quorum.link import Link
from zktrace_server.core.quorum.membership import Membership
from zktrace_server.core.quorum.readonly import ReadOnlyServer
from zktrace_server.core.quorum.replica import Replica
from zktrace_server.core.quorum.roles import LeaderServer, LearnerServer
from zktrace_server.core.quorum.serving import MemberServer
from zktrace_server.core.settings import Settings

Front = MemberServer | ReadOnlyServer
#: Most learners that wait for this server to find out that it leads.
_MAX_PARKED: Final = 1024


class Peer:
    """`server` is None while there is nobody to follow or to be followed by; `reads` serves then,
    if it may. `why` says what ended the last term.
    """

    def __init__(
        self, sid: int, membership: Membership, limits: Limits, settings: Settings, replica: Replica
    ) -> None:
        self.sid = sid
        self.membership = membership
        self.replica = replica
        self.election = Election(sid, membership)
        self.dirty: dict[Link, None] = {}
        self.server: MemberServer | None = None
        self.reads: ReadOnlyServer | None = None
        self.ended: list[Front] = []
        self.why = ""
        self.leader: Leader | None = None
        self.learner: Learner | None = None
        self.wall_ms = 0
        self.now_ms = 0
        self._limits = limits
        self._settings = replace(settings, server_id=sid)
        self._parked: dict[Link, int] = {}
        self._want_snapshot = False
        self._read_only_at: int | None = None
        self._stands_until: int | None = None
        #: Whether a leader would not have this server, as far as one can tell.
        self._turned_away = False

    @property
    def state(self) -> State:
        return self.election.state

    @property
    def front(self) -> Front | None:
        """What clients find here."""
        return self.server or self.reads

    def start(self) -> None:
        """The first election."""
        self.membership.forget_unlogged(self.replica.last_logged)
        self._look()

    def set_time(self, wall_ms: int, now_ms: int) -> None:
        """The wall clock, and a clock that only goes forward."""
        self.wall_ms, self.now_ms = wall_ms, now_ms
        for role in (self.leader, self.learner):
            if role is not None:
                role.now_ms = now_ms
        if self.front is not None:
            self.front.set_time(wall_ms, now_ms)

    def deadline(self) -> int:
        """When `tick` is worth calling."""
        times = list(self._parked.values())
        elects = self.election.deadline()
        if elects is not None:
            times.append(elects)
        for at in (self._read_only_at, self._stands_until):
            if at is not None:
                times.append(at)
        if self.reads is not None:
            times.append(self.reads.sessions.next_expiry())
        if self.leader is not None:
            times.append(self.leader.deadline())
        if self.learner is not None:
            times.append(self.learner.deadline())
        ends = self.server.deadline() if self.server is not None else None
        if ends is not None:
            times.append(ends)
        return min(times, default=self.now_ms + 1000)

    def tick(self) -> None:
        """Time has passed."""
        self.election.tick(self.now_ms)
        if self._stands_until is not None and self.now_ms >= self._stands_until:
            self._stands_until = None
            self._turned_away = False
            self.election.stand_down(self.now_ms)
        self._serve_reads()
        for link in [link for link, until in self._parked.items() if self.now_ms >= until]:
            self._unpark(link, "this server does not lead")
        if self.leader is not None:
            self.leader.tick()
            if self.server is not None and self.leader.failed is None:
                self.server.tick()
        if self.learner is not None:
            self.learner.tick()
            if self.server is not None and self.learner.failed is None:
                self.server.tick()
        self._settle()

    # --- without a leader -----------------------------------------------------------------------

    def _serve_reads(self) -> None:
        if self.reads is not None:
            self.reads.tick()
        elif self._read_only_at is not None and self.now_ms >= self._read_only_at:
            self._read_only_at = None
            self.reads = ReadOnlyServer(self._settings, self.replica)
            self.reads.start(self.wall_ms, self.now_ms)

    def _stop_reads(self) -> None:
        self._read_only_at = None
        if self.reads is not None:
            self.reads.end()
            self.ended.append(self.reads)
            self.reads = None

    # --- the election port --------------------------------------------------------------------

    def notification(self, sid: int, given: Notification) -> None:
        """Of peer `sid`."""
        self._take_over(given)
        self.election.receive(self.now_ms, sid, given)
        self._settle()

    def _take_over(self, given: Notification) -> None:
        """Who looks takes over a later configuration of another, since that is committed, and looks
        by it (FastLeaderElection.WorkerReceiver).
        """
        membership = self.membership
        if (
            not membership.reconfig
            or self.election.state is not State.LOOKING
            or not given.config
            or given.config == membership.committed.text()
        ):
            return
        try:
            told = parse_bytes(given.config)
        except WireError:
            return  # as if it had said nothing of it: the vote still counts
        if membership.activate(told):
            self._look()

    def election_connected(self, sid: int) -> None:
        """There is a connection to a peer."""
        self.election.connected(sid)

    # --- the quorum port ----------------------------------------------------------------------

    def accept(self, address: str = "") -> Link:
        """A learner has connected. Who comes before it is known who leads has to wait."""
        link = Link(self.dirty, address)
        if self.leader is not None:
            self.leader.accept(link)
        elif self.learner is not None and not self.membership.reconfig:
            link.close(f"server {self.learner.leader} leads, not this one")
        elif len(self._parked) >= _MAX_PARKED:
            link.close(f"{_MAX_PARKED} connections wait already")
        elif self.learner is not None:
            # A reconfiguration may have made this one the leader, and others have heard it first.
            self._parked[link] = self.now_ms + self._limits.tick_ms
        else:
            self._parked[link] = self.now_ms + self._limits.init_ms
        return link

    def _unpark(self, link: Link, why: str) -> None:
        self._parked.pop(link, None)
        link.close(why)

    def take_dial(self) -> int | None:
        """The leader's sid, if it is to be connected to now."""
        if self.learner is None or not self.learner.dial:
            return None
        self.learner.dial = False
        return self.learner.leader

    def opened(self, sid: int, address: str = "") -> Link:
        """Connected to peer `sid`, as was asked for."""
        link = Link(self.dirty, address)
        link.sid = sid
        if self.learner is None or self.learner.leader != sid or self.learner.stage:
            link.close("this server does not follow it any more")
        else:
            self.learner.opened(link)
        return link

    def not_opened(self, sid: int) -> None:
        """It could not be connected to."""
        if self.learner is not None and self.learner.leader == sid:
            self.learner.not_opened()

    def received(self, link: Link, data: bytes) -> None:
        """Bytes on a quorum connection."""
        if link.over():
            return
        if link in self._parked:
            # It may have said something already; nothing that it says is as long as this.
            link.early += data
            if len(link.early) > 4096:
                self._unpark(link, f"{len(link.early)} bytes before there is a leader")
            return
        leader, learner = self.leader, self.learner
        try:
            if leader is not None:
                for packet in link.reader.feed(data):
                    leader.packet(link, packet)
                    if link.closed:
                        break
                leader.commit()
            elif learner is not None:
                for packet in link.reader.feed(data):
                    learner.packet(packet)
                    if self.server is None:
                        self._advance_learner(learner)
                    if learner.failed is not None or link.closed:
                        break
        except WireError as error:
            self._broken(link, str(error))
        self._settle()

    def _broken(self, link: Link, reason: str) -> None:
        if self.leader is not None:
            self.leader.lost(link, reason)
        elif self.learner is not None:
            self.learner.failed = self.learner.failed or reason

    def lost(self, link: Link) -> None:
        """A quorum connection is gone."""
        link.closed = True
        self._parked.pop(link, None)
        if self.leader is not None:
            self.leader.lost(link)
        if self.learner is not None:
            self.learner.lost(link)
        self._settle()

    # --- the log ------------------------------------------------------------------------------

    def logged(self, count: int) -> None:
        """So many more txns of those taken are durable."""
        zxids = self.replica.logged(count)
        if self.leader is not None:
            if zxids:
                self.leader.durable(zxids[-1])
            self.leader.commit()
        elif self.learner is not None and zxids:
            self.learner.durable(zxids)
        self._settle()

    def flush(self) -> None:
        """All that came together was handed in."""
        if self.leader is not None:
            self.leader.flush()
            self._settle()

    # --- from one state to the next -----------------------------------------------------------

    def _settle(self) -> None:
        while True:
            role = self.leader or self.learner
            if role is None:
                if self.election.state is State.LOOKING:
                    return
                self._take_role()
                continue
            if role.failed is not None:
                self.why = role.failed
                self._leave()
                if role.designated is None:
                    self._look()
                else:
                    self.election.designate(role.designated, self.replica.last_logged)
                continue
            if self.leader is not None:
                self._advance_leader(self.leader)
            elif self.learner is not None:
                self._advance_learner(self.learner)
            if role.failed is None:
                return

    def _take_role(self) -> None:
        self._stop_reads()
        self._stands_until = None
        parked, self._parked = list(self._parked), {}
        if self.election.state is State.LEADING:
            self.leader = Leader(self.sid, self.membership, self._limits, self.replica, self.now_ms)
            for link in parked:
                if link.closed:
                    continue
                self.leader.accept(link)
                if link.early:
                    early = bytes(link.early)
                    link.early.clear()
                    self.received(link, early)
            return
        for link in parked:
            link.close(f"server {self.election.leader} leads, not this one")
        self.learner = Learner(
            self.sid,
            self.election.leader,
            self.election.state is State.OBSERVING,
            self.membership,
            self._limits,
            self.replica,
            self.now_ms,
            self._want_snapshot,
        )

    def _advance_leader(self, leader: Leader) -> None:
        if leader.phase is Phase.BROADCAST and self.server is None:
            self.election.lead_in(leader.epoch)
            server = LeaderServer(self._settings, self.replica, leader, self.membership)
            self._serve(server)
            leader.host = server
        while leader.done_syncs and self.server is not None:
            leader.done_syncs -= 1
            self.server.synced()

    def _advance_learner(self, learner: Learner) -> bool:
        """True if it has failed."""
        if learner.stage is Stage.SERVE and self.server is None and learner.failed is None:
            self.election.lead_in(learner.epoch)
            server = LearnerServer(self._settings, self.replica, learner)
            self._serve(server)
            learner.host = server
        return learner.failed is not None

    def _serve(self, server: MemberServer) -> None:
        """/zookeeper/config holds the committed configuration, whichever way it came here
        (ZKDatabase.initConfigInZKDatabase); no digest counts it.
        """
        tree = self.replica.tree
        config = self.membership.committed
        if CONFIG in tree.nodes:
            tree.set_data(CONFIG, config.text(), -1, config.version, self.wall_ms)
        server.start(self.wall_ms, self.now_ms)
        self.server = server

    def _leave(self) -> None:
        if self.server is not None:
            self.server.end()
            self.ended.append(self.server)
            self.server = None
        if self.leader is not None:
            self.leader.close()
            self.leader = None
            self._turned_away = False
        if self.learner is not None:
            self._want_snapshot = self.learner.want_snapshot
            self._turned_away = self.learner.turned_away
            self.learner.close()
            self.learner = None
        self.replica.fast_forward()

    def _look(self) -> None:
        self._stop_reads()
        if self._settings.read_only_enabled:
            self._read_only_at = self.now_ms + self._limits.read_only_ms
        storage = self.replica.storage
        self.election.look(
            self.now_ms,
            self.replica.last_logged,
            storage.current_epoch(),
            stand=self._turned_away,
        )
        stands = self.election.standing
        self._stands_until = self.now_ms + self._limits.init_ms if stands else None
