"""A server in the simulation: its core as a driver runs it, with the disk that outlives it.

A step is: what has come is handed in, then `flush`; then goes out what is not held back, the log is
handed to the disk, and when that is durable `logged` is called. The same order as in
`net.member`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol
from zlib import adler32

from zktrace.wire.election import Notification, decode_notification
from zktrace.wire.txn import Transaction
from zktrace_server.core.connection import Connection as ClientConnection
from zktrace_server.core.connection import State
from zktrace_server.core.quorum.ensemble import Ensemble
from zktrace_server.core.quorum.limits import Limits
from zktrace_server.core.quorum.link import Link
from zktrace_server.core.quorum.membership import Membership
from zktrace_server.core.quorum.peer import Front, Peer
from zktrace_server.core.quorum.quick import SetData
from zktrace_server.core.quorum.replica import Replica
from zktrace_server.core.server import Refused
from zktrace_server.core.settings import Settings
from zktrace_server.core.tree import DataTree
from zktrace_server.sim.disk import Disk
from zktrace_server.sim.world import Connection, World

#: A snapshot is made when so many txns were applied since the last.
_SNAPSHOT_TXNS = 60


class Watcher(Protocol):
    """Who looks at what happens (`checks`)."""

    def applied(self, node: Node, zxid: int, checksum: int, digest: int) -> None: ...
    def forgets(self, node: Node) -> None: ...
    def after(self, node: Node) -> None: ...
    def committed(self, node: Node, zxid: int, checksum: int, digest: int) -> None: ...


class WatchedReplica(Replica):
    """Tells of each txn that is applied."""

    node: Node

    def commit(self, zxid: int) -> None:
        payload = self.pending[0][1] if self.pending else b""
        super().commit(zxid)
        self.node.watcher.committed(self.node, zxid, adler32(payload), self.tree.tree_digest)

    def truncate(self, zxid: int) -> None:
        self.node.watcher.forgets(self.node)
        super().truncate(zxid)

    def install(self, data: bytes, zxid: int) -> None:
        self.node.watcher.forgets(self.node)
        super().install(data, zxid)

    def _apply(self, zxid: int, payload: bytes, txn: Transaction | SetData) -> None:
        super()._apply(zxid, payload, txn)
        self.node.watcher.applied(self.node, zxid, adler32(payload), self.tree.tree_digest)


class Node:
    """`peer` is None while it is down. `term` counts starts of the process."""

    def __init__(
        self,
        world: World,
        sid: int,
        ensemble: Ensemble,
        limits: Limits,
        settings: Settings,
        watcher: Watcher,
    ) -> None:
        self.world = world
        self.sid = sid
        self.disk = Disk()
        self.peer: Peer | None = None
        self.others: dict[int, Node] = {}
        self.watcher = watcher
        self.term = 0
        self.wall_jump_ms = 0
        self.paused_until_us = 0
        self._asleep: deque[Callable[[Peer], object]] = deque()
        #: What a sync of the disk takes, in microseconds: at least, at most.
        self.disk_us = (50, 3000)
        self._ensemble = ensemble
        self._limits = limits
        self._settings = settings
        self._links: dict[Link, tuple[Connection, bool]] = {}
        self._clients: dict[ClientConnection, tuple[Connection, Front | None]] = {}
        self._tick_at = -1
        self._disk_free = 0
        self._last_vote: dict[int, int] = {}

    # --- its life -----------------------------------------------------------------------------

    def start(self) -> None:
        """From what is on the disk."""
        self.term += 1
        self.paused_until_us = 0
        tree = DataTree()
        self.disk.seen = lambda zxid, checksum, digest: self.watcher.applied(
            self, zxid, checksum, digest
        )
        timeouts, entries = self.disk.load(tree)
        replica = WatchedReplica(tree, timeouts, self.disk)
        replica.node = self
        replica.history.extend(entries)
        disk = self.disk
        membership = Membership(
            disk.committed or self._ensemble,
            disk.seen_config,
            reconfig=self._settings.reconfig_enabled,
            keeper=disk,
        )
        self.peer = Peer(self.sid, membership, self._limits, self._settings, replica)
        self._tick_at = -1
        self.world.say(f"{self.sid} starts, zxid {tree.last_zxid:#x}")
        self.step(lambda peer: peer.start())
        for other in self.others.values():
            self.meet(other)

    def crash(self) -> None:
        """The power is off."""
        if self.peer is None:
            return
        self.world.say(f"{self.sid} crashes")
        self.peer = None
        self.term += 1
        self._asleep.clear()
        self.disk.crash(self.world.chance)
        self._disk_free = 0
        for connection, is_a in self._links.values():
            connection.crash(is_a)
        for connection, _ in self._clients.values():
            connection.crash(False)
        self._links.clear()
        self._clients.clear()

    def pause(self, us: int) -> None:
        """SIGSTOP, or a long collection of garbage."""
        self.paused_until_us = max(self.paused_until_us, self.world.now_us + us)

    def meet(self, other: Node) -> None:
        """Election connections between the two are there (again)."""
        for one, two in ((self, other), (other, self)):
            term = one.term

            def connected(one: Node = one, two: Node = two, term: int = term) -> None:
                if one.term == term and not self.world.blocked(one.sid, two.sid):
                    one.step(lambda peer: peer.election_connected(two.sid))

            self.world.after(self.world.delay_us(one.sid, two.sid), connected)

    # --- a step -------------------------------------------------------------------------------

    def step(self, act: Callable[[Peer], object]) -> None:
        """Something happens to this server, when it is awake."""
        if self.peer is None:
            return
        if self._asleep or self.world.now_us < self.paused_until_us:
            self._asleep.append(act)
            if len(self._asleep) == 1:
                self._wake_later()
            return
        self._step(self.peer, act)

    def _wake_later(self) -> None:
        term = self.term
        self.world.at(self.paused_until_us, lambda: self._wake() if self.term == term else None)

    def _wake(self) -> None:
        """What came meanwhile happens in its order."""
        if self.world.now_us < self.paused_until_us:
            self._wake_later()
            return
        while self._asleep and self.peer is not None:
            self._step(self.peer, self._asleep.popleft())

    def _step(self, peer: Peer, act: Callable[[Peer], object]) -> None:
        peer.set_time(self._wall_ms(), self._now_ms())
        act(peer)
        peer.flush()
        self._send(peer)
        self._schedule(peer)
        self.watcher.after(self)

    def _now_ms(self) -> int:
        return self.world.now_us // 1000 + 1000 * self.sid

    def _wall_ms(self) -> int:
        return 1_700_000_000_000 + self.world.now_us // 1000 + self.wall_jump_ms

    def _send(self, peer: Peer) -> None:
        if peer.election.out:
            votes, peer.election.out = peer.election.out, []
            for sid, vote in votes:
                self._vote(sid, vote)
        if peer.dirty:
            dirty = list(peer.dirty)
            peer.dirty.clear()
            for link in dirty:
                self._send_link(link)
        target = peer.take_dial()
        if target is not None:
            self._dial(target)
        payloads = peer.replica.take_log()
        if payloads:
            self._write(payloads)
        if peer.ended:
            ended, peer.ended = peer.ended, []
            for server in ended:
                self._answer(server)
        if peer.front is not None and peer.front.dirty:
            self._answer(peer.front)
        if peer.server is not None:
            self._maybe_snapshot(peer)

    def _schedule(self, peer: Peer) -> None:
        now_us = self.world.now_us
        due = max(peer.deadline() - 1000 * self.sid, now_us // 1000 + 1) * 1000
        if self._tick_at <= now_us or due < self._tick_at:
            self._tick_at = due
            term = self.term
            self.world.at(due, lambda: self._tick(term, due))

    def _tick(self, term: int, due: int) -> None:
        if self.term != term or self._tick_at != due:
            return
        self._tick_at = -1
        self.step(lambda peer: peer.tick())

    # --- election -----------------------------------------------------------------------------

    def _vote(self, sid: int, vote: Notification) -> None:
        world, other = self.world, self.others[sid]
        if other.peer is None or world.blocked(self.sid, sid):
            return
        if world.chance.random() < 0.02:
            # The connection breaks, and comes back.
            world.after(world.chance.randrange(1000, 50_000), lambda: self.meet(other))
            return
        data = vote.encode()
        term = other.term
        when = world.now_us + world.delay_us(self.sid, sid)
        when = other.votes_from(self.sid, when)

        def arrive() -> None:
            if other.term == term and not world.blocked(self.sid, sid):
                given = decode_notification(data)
                other.step(lambda peer: peer.notification(self.sid, given))

        world.at(when, arrive)
        if world.chance.random() < 0.02:
            world.at(when, arrive)

    def votes_from(self, sid: int, when_us: int) -> int:
        """Keeps the order of a peer's notifications."""
        last = self._last_vote
        last[sid] = max(last.get(sid, 0) + 1, when_us)
        return last[sid]

    # --- quorum connections -------------------------------------------------------------------

    def _dial(self, sid: int) -> None:
        world, other, term = self.world, self.others[sid], self.term

        def arrive() -> None:
            if self.term != term or self.peer is None:
                return
            if other.peer is None or world.blocked(self.sid, sid) or world.blocked(sid, self.sid):
                self.step(lambda peer: peer.not_opened(sid))
                return
            Dialled(self, other)

        world.after(2 * world.delay_us(self.sid, sid), arrive)

    def add_link(self, link: Link, connection: Connection, is_a: bool) -> None:
        self._links[link] = (connection, is_a)

    def link_received(self, peer: Peer, link: Link | None, data: bytes | None) -> None:
        """Within a step."""
        if link is None or link not in self._links:
            return
        if data is None:
            del self._links[link]
            peer.lost(link)
        else:
            peer.received(link, data)

    def _send_link(self, link: Link) -> None:
        known = self._links.get(link)
        if known is None:
            link.out.clear()
            return
        connection, is_a = known
        pipe = connection.to_b if is_a else connection.to_a
        if link.out:
            data = b"".join(link.out)
            link.out.clear()
            # As segments have it.
            cut = self.world.chance.randrange(len(data) + 1) if len(data) < 4000 else 0
            for piece in (data[:cut], data[cut:]):
                if piece:
                    pipe.send(piece)
        if link.closed:
            pipe.send(None)
            del self._links[link]

    # --- disk ---------------------------------------------------------------------------------

    def _write(self, payloads: list[bytes]) -> None:
        self.disk.write(payloads)
        generation, term = self.disk.generation, self.term

        def done() -> None:
            if self.term != term or self.disk.generation != generation:
                return
            count = self.disk.sync()
            self.step(lambda peer: peer.logged(count))

        delay = self.world.chance.randrange(*self.disk_us)
        self._disk_free = max(self._disk_free, self.world.now_us) + delay
        self.world.at(self._disk_free, done)

    def _maybe_snapshot(self, peer: Peer) -> None:
        snapshots, replica = self.disk.snapshots, peer.replica
        old = not snapshots or snapshots[-1][0] + _SNAPSHOT_TXNS < replica.tree.last_zxid
        if old and replica.settled and not replica.pending:
            self.disk.save(replica.tree, replica.timeouts)

    # --- clients ------------------------------------------------------------------------------

    def accept_client(self, connection: Connection) -> ClientConnection | None:
        """A client connects; None if nobody is served."""
        if self.peer is None or self.peer.front is None:
            return None
        server = self.peer.front
        client = server.connect("10.0.0.1")
        self._clients[client] = (connection, server)
        return client

    def client_received(self, client: ClientConnection, data: bytes | None) -> None:
        known = self._clients.get(client)
        if known is None:
            return
        server = known[1]

        def act(peer: Peer) -> None:
            if server is None or client not in self._clients:
                return
            if data is None:
                server.disconnect(client)
                self._clients.pop(client, None)
                return
            if peer.front is not server:
                return
            try:
                server.receive(client, data)
            except Refused:
                pass  # it is ending, and closed with the others

        self.step(act)

    def _answer(self, server: Front) -> None:
        dirty, server.dirty = server.dirty, {}
        for client in dirty:
            known = self._clients.get(client)
            if known is None:
                client.out.clear()
                continue
            pipe = known[0].to_a
            if client.out:
                pipe.send(b"".join(client.out))
                client.out.clear()
            if client.state is State.ENDING:
                pipe.send(None)
                server.disconnect(client)
                del self._clients[client]


class Dialled:
    """A quorum connection between two servers: `a` has dialled."""

    def __init__(self, a: Node, b: Node) -> None:
        self._links: dict[int, Link] = {}
        connection = Connection(
            a.world,
            a.sid,
            b.sid,
            lambda data: self._arrived(a, data),
            lambda data: self._arrived(b, data),
        )

        def accepted(peer: Peer) -> None:
            link = self._links[b.sid] = peer.accept()
            b.add_link(link, connection, False)

        def opened(peer: Peer) -> None:
            link = self._links[a.sid] = peer.opened(b.sid)
            a.add_link(link, connection, True)

        b.step(accepted)
        a.step(opened)

    def _arrived(self, node: Node, data: bytes | None) -> None:
        node.step(lambda peer: node.link_received(peer, self._links.get(node.sid), data))
