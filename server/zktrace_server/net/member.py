"""Drives a server of an ensemble: sockets, clocks and disk for `core.quorum.peer`.

All that came in one turn of the event loop makes one step: proposals go out first, so that the
others write while this server does; then its own log, one sync for all; then what that allows.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from zktrace.wire.election import Notification
from zktrace_server.core.connection import Connection
from zktrace_server.core.quorum.election import State as PeerState
from zktrace_server.core.quorum.ensemble import Ensemble, Member
from zktrace_server.core.quorum.link import Link
from zktrace_server.core.quorum.membership import Membership
from zktrace_server.core.quorum.peer import Front, Peer
from zktrace_server.core.quorum.replica import Replica
from zktrace_server.core.server import NotServing, Server
from zktrace_server.core.tree import DataTree
from zktrace_server.net.config import Config, ConfigError
from zktrace_server.net.drops import Drops
from zktrace_server.net.election import ElectionPort
from zktrace_server.net.quorum import QuorumConnection
from zktrace_server.net.quorumkeys import QuorumConfig
from zktrace_server.net.quorumsasl import accepting, dialling
from zktrace_server.net.service import Peer as ClientPeer
from zktrace_server.net.service import Service
from zktrace_server.net.sockets import Listener, connect, listen
from zktrace_server.net.stats import Stats
from zktrace_server.net.tls import reason
from zktrace_server.net.wire import Wire
from zktrace_server.storage import store
from zktrace_server.storage.configs import ConfigFiles
from zktrace_server.storage.directory import Directories, StorageError
from zktrace_server.storage.member import MemberStorage
from zktrace_server.storage.txnlog import TxnLog

log: Final = logging.getLogger(__name__)

_BACKLOG: Final = 128
#: Bytes of one connection between servers that are handled before what follows from them is sent.
_AT_ONCE: Final = 32 << 10
_MODES: Final = {
    PeerState.LEADING: "leader",
    PeerState.FOLLOWING: "follower",
    PeerState.OBSERVING: "observer",
}


class MemberService(Service):
    """`server` is a server that nobody reaches while `serving` is false."""

    def __init__(
        self,
        config: Config,
        quorum: QuorumConfig,
        loop: asyncio.AbstractEventLoop,
        faults: Path | None = None,
    ) -> None:
        """`faults`: a file with what is to go wrong between servers (`net.wire`)."""
        own = replace(config.settings, server_id=quorum.sid)
        self.config = config = replace(config, settings=own)
        self.quorum = quorum
        self.stats = Stats()
        self.failed = loop.create_future()
        self._loop = loop
        self._init_state()
        self.directories = Directories(config.data_dir, config.data_log_dir)
        try:
            self._log = TxnLog(
                self.directories.logs, preallocate=config.preallocate, force_sync=config.force_sync
            )
            self.replica, self.storage = self._load_replica()
        except BaseException:
            self.directories.release()
            raise
        self.membership = Membership(
            quorum.ensemble,
            quorum.seen,
            reconfig=config.settings.reconfig_enabled,
            keeper=ConfigFiles(quorum.path, quorum.sid) if quorum.path is not None else None,
        )
        self._own = quorum.ensemble.members[quorum.sid]
        self._told_config = quorum.ensemble
        self.peer = Peer(quorum.sid, self.membership, quorum.limits, config.settings, self.replica)
        self.server: Server = Server(config.settings, self.replica.tree, self.replica.timeouts)
        self._idle = self.server
        self._servers: dict[Connection, Front] = {}
        self._links: dict[Link, QuorumConnection] = {}
        self._turn_due = self._plan_due = self._stopped = False
        #: Whom the timer was set for: while that serves, packets and clients only put things off.
        self._planned_for: Front | None = None
        self._dials: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._applied = 0
        self._told_state: tuple[PeerState, bool] | None = None
        self._mismatches = 0
        self._sent_away = 0
        self._drops = Drops(loop.time)
        self._wire = Wire(loop, faults)
        self.election = ElectionPort(
            quorum.sid,
            self.membership,
            self,
            self._drops,
            self._wire,
            None if quorum.tls is None else quorum.tls.dialling,
            quorum.sasl,
        )
        self._listeners: list[asyncio.Server | Listener] = []
        self._choose_snapshot_size()

    def _load_replica(self) -> tuple[Replica, MemberStorage]:
        tree = DataTree(self.config.settings.extended_types)
        entries = []
        loaded = store.load(
            self.directories,
            tree,
            log.warning,
            trust_empty_snapshot=self.config.trust_empty_snapshot,
            seen=lambda txn: entries.append((txn.header.zxid, txn.encode())),
        )
        if loaded.snapshot_zxid is None:
            store.save(self.directories, tree, loaded.timeouts)
        since = loaded.snapshot_zxid or 0
        storage = MemberStorage(self.directories, self._log, log.warning, tree.last_zxid, since)
        storage.on_replace = self._drop_snapshot
        replica = Replica(tree, loaded.timeouts, storage)
        replica.history.extend(entries)
        return replica, storage

    def _drop_snapshot(self) -> None:
        """The tree it is of is about to be another."""
        if self._snapshot is not None and self._finishing is None:
            self._snapshot.abandon()
            self._snapshot = None

    def _timeouts(self) -> dict[int, int]:
        return self.replica.timeouts

    @property
    def serving(self) -> bool:
        return self._front() is not None

    def _front(self) -> Front | None:
        """What clients find here: nothing where the leader has others to work for."""
        peer = self.peer
        return peer.front if self.quorum.leader_serves or peer.leader is None else None

    @property
    def mode(self) -> str:
        if self.peer.reads is not None:
            return "read-only"
        return _MODES.get(self.peer.state, "looking")

    def place(self) -> str:
        """QuorumZooKeeperServer.dumpConf."""
        committed, limits = self.membership.committed, self.quorum.limits
        own = committed.members.get(self.quorum.sid, self._own)
        return (
            f"initLimit={limits.init_limit}\n"
            f"syncLimit={limits.sync_limit}\n"
            "electionAlg=3\n"
            f"electionPort={own.election_port}\n"
            f"quorumPort={own.quorum_port}\n"
            f"peerType={int(committed.observes(self.quorum.sid))}\n"
            f"membership: \n{committed.text().decode()}"
        )

    # --- life ---------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Opens the quorum and election ports. ConfigError if one cannot be opened."""
        own, tls = self._own, self.quorum.tls
        host = None if self.quorum.listen_on_all else own.host
        for port, factory in (
            (own.quorum_port, self._accepted),
            (own.election_port, self.election.accept),
        ):
            try:
                listener: asyncio.Server | Listener
                if self.sockets is not None and tls is None:
                    listener = await listen(self.sockets, factory, host, port, _BACKLOG)
                else:
                    secure = None if tls is None else tls.accepting
                    listener = await self._loop.create_server(factory, host, port, ssl=secure)
            except OSError as error:
                for opened in self._listeners:
                    opened.close()
                raise ConfigError(
                    f"cannot listen on {host or '*'}:{port}: {error.strerror or error}"
                ) from None
            self._listeners.append(listener)

    def _accepted(self) -> QuorumConnection:
        exchange = accepting(self.quorum.sasl)
        return QuorumConnection(self, self._links, self._drops, self._wire, None, exchange)

    def start(self) -> None:
        self._set_time()
        self.peer.start()
        self._wake()
        if self.config.purge_interval_h > 0:
            self._purge = self._loop.call_soon(self._purge_now)

    def stop(self) -> None:
        for listener in self._listeners:
            listener.close()
        self.election.close()
        self._wire.close()
        for task in list(self._dials):
            task.cancel()
        for connection in list(self._links.values()):
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()
        self._stopped = True
        super().stop()

    def _set_time(self) -> None:
        self.peer.set_time(int(time.time() * 1000), int(time.monotonic() * 1000))

    # --- what comes in ------------------------------------------------------------------------

    def _wake(self, *, plan: bool = True) -> None:
        """A step at the end of this turn of the loop. `plan`: something may be due sooner by that
        than what the timer is set for.
        """
        self._plan_due = self._plan_due or plan
        if not self._turn_due and not self._stopped:
            self._turn_due = True
            if not self._in_turn:
                self._loop.call_soon(self._turn_now)

    def notification(self, sid: int, given: Notification) -> None:
        self._set_time()
        self._guard(lambda: self.peer.notification(sid, given))

    def election_connected(self, sid: int) -> None:
        self.peer.election_connected(sid)
        self._wake()

    def link_accepted(self, address: str) -> Link:
        self._set_time()
        self._wake()
        return self.peer.accept(address)

    def link_opened(self, sid: int, address: str) -> Link:
        self._set_time()
        self._wake()
        return self.peer.opened(sid, address)

    def link_refused(self, sid: int) -> None:
        """A connection that was dialled is gone before the core has heard of it."""
        self._set_time()
        self._guard(lambda: self.peer.not_opened(sid))

    def link_received(self, link: Link, data: bytes) -> None:
        if not self._in_turn:
            self._set_time()
        if len(data) <= _AT_ONCE:
            self._guard(partial(self.peer.received, link, data), plan=False)
            return
        # What follows from the first of much goes out before the last of it is looked at: the
        # others work on that meanwhile.
        for at in range(0, len(data), _AT_ONCE):
            piece = data[at : at + _AT_ONCE]
            self._guard(partial(self.peer.received, link, piece), plan=False)
            if self.failed.done():
                return
            self._send_links()

    def link_lost(self, link: Link) -> None:
        self._set_time()
        self._guard(lambda: self.peer.lost(link))

    def _guard(self, act: Callable[[], None], *, plan: bool = True) -> None:
        """What the disk cannot do any more ends the server."""
        if self.failed.done():
            return
        try:
            act()
        except StorageError as error:
            self._fail(str(error))
            return
        self._wake(plan=plan)

    # --- clients ------------------------------------------------------------------------------

    def connected(self, address: str, peer: ClientPeer, subject: str | None = None) -> Connection:
        server = self._front()
        if server is None:
            connection = Connection(address)
            self._peers[connection] = peer
            return connection
        server.tell = self._tell
        server.may_connect = self._may_connect
        connection = server.connect(address, self._nonce(), subject)
        connection.established_ms = int(time.time() * 1000)
        self._servers[connection] = server
        self._peers[connection] = peer
        return connection

    def disconnected(self, connection: Connection) -> None:
        server = self._servers.pop(connection, None)
        if server is not None:
            server.disconnect(connection)
        self._peers.pop(connection, None)

    def begin_turn(self) -> None:
        """Several connections follow, of clients and servers, at one time as the core sees it."""
        self._in_turn = True
        self._set_time()

    def end_turn(self) -> None:
        self._in_turn = False
        self._turn_now()

    def received(self, connection: Connection, data: bytes) -> None:
        server = self._servers.get(connection)
        if server is None or server is not self.peer.front:
            connection.end(drop=True)
            peer = self._peers.get(connection)
            if peer is not None:
                peer.close()
            self._sent_away += 1
            raise NotServing("this server serves nobody at the moment")
        if not self._in_turn:
            self._set_time()
        before = connection.received
        try:
            server.receive(connection, data)
        finally:
            count = connection.received - before
            self.stats.came(count, len(data))
            if not self._held:
                self._since_ms = server.now_ms
            self._held += count
            self._wake(plan=False)

    # --- a step -------------------------------------------------------------------------------

    def _turn_now(self) -> None:
        """The end of a turn, if something has happened in it."""
        if not self._turn_due:
            return
        self._turn_due = False
        if self.failed.done() or self._stopped:
            return
        try:
            self._set_time()
            peer = self.peer
            peer.flush()
            self._send_all()
            while peer.replica.unsaved:
                payloads = peer.replica.take_log()
                self._log.append(payloads)
                self._txns += len(payloads)
                self._bytes += sum(map(len, payloads))
                self._synced(len(payloads))
                peer.logged(len(payloads))
                peer.flush()
                self._send_all()
            full = self._txns > self._snapshot_txns or self._bytes > self._snapshot_bytes
            if full and peer.server is not None:
                self._begin_snapshot()
        except StorageError as error:
            self._fail(str(error))
            return
        self._say()
        self._schedule()

    def _send_all(self) -> None:
        peer = self.peer
        if peer.election.out:
            votes, peer.election.out = peer.election.out, []
            for sid, vote in votes:
                self.election.send(sid, vote)
        self._send_links()
        target = peer.take_dial()
        if target is not None:
            task = self._loop.create_task(self._dial(target))
            self._dials.add(task)
            task.add_done_callback(self._dials.discard)
        for server in peer.ended:
            self._answer(server)
        peer.ended.clear()
        current = peer.front
        self.server = current if current is not None else self._idle
        if current is not None:
            self._answer(current)

    def _send_links(self) -> None:
        peer = self.peer
        if peer.dirty:
            dirty = list(peer.dirty)
            peer.dirty.clear()
            for link in dirty:
                connection = self._links.get(link)
                if connection is not None:
                    connection.flush()
                elif not link.over():
                    peer.dirty[link] = None  # it is being made

    def _answer(self, server: Front) -> None:
        if not server.dirty:
            return
        self._send_of(server, server.now_ms)

    async def _dial(self, sid: int) -> None:
        member = self.membership.find(sid)
        try:
            if member is None:
                raise OSError(errno.EHOSTUNREACH, "no configuration names it")
            async with asyncio.timeout(max(0.1, self.quorum.limits.tick_ms / 1000)):
                await self._wire.reach(sid)
                exchange = dialling(self.quorum.sasl)
                protocol = partial(
                    QuorumConnection, self, self._links, self._drops, self._wire, sid, exchange
                )
                host, port = member.host, member.quorum_port
                tls = self.quorum.tls
                if tls is not None:
                    secure = tls.dialling
                    await self._loop.create_connection(
                        protocol, host, port, ssl=secure, server_hostname=host
                    )
                elif self.sockets is not None:
                    await connect(self.sockets, protocol, host, port)
                else:
                    await self._loop.create_connection(protocol, host, port)
        except OSError as error:
            if isinstance(error, ssl.SSLError):
                self._drops.say("quorum", sid, "", f"TLS: {reason(error)}")
            log.debug("cannot reach server %d: %s", sid, error)
            self._set_time()
            self._guard(lambda: self.peer.not_opened(sid))

    def _say(self) -> None:
        """What an operator wants to know."""
        state = (self.peer.state, self.serving)
        if state != self._told_state:
            self._told_state = state
            mode = self.mode + ("" if self.serving else ", not serving")
            why = f" ({self.peer.why})" if self.peer.state is PeerState.LOOKING else ""
            leader = self.peer.election.leader if self.peer.learner is not None else None
            whom = f" server {leader}" if leader is not None else ""
            away, self._sent_away = self._sent_away, 0
            clients = f"; closed {away} connections of clients before" if away else ""
            zxid = self.replica.tree.last_zxid
            log.info("%s%s%s, zxid 0x%x%s", mode, whom, why, zxid, clients)
        committed = self.membership.committed
        if committed is not self._told_config:
            before, self._told_config = self._told_config, committed
            self._say_members(before, committed)
        if self.replica.mismatches != self._mismatches:
            self._mismatches = self.replica.mismatches
            log.error("this server's tree differs from that of the server that made the last txns")

    def _say_members(self, before: Ensemble, now: Ensemble) -> None:
        """What has changed, and what takes a restart to follow."""
        servers = ", ".join(f"{sid}={now.members[sid].text()}" for sid in sorted(now.members))
        log.info("configuration %x: %s", now.version, servers)
        sid = self.quorum.sid
        was, own = before.members.get(sid), now.members.get(sid)
        if own is None:
            log.warning("server %d is no member any more: it follows without a vote", sid)
        elif was is not None and _ports(was) != _ports(own):
            log.warning("the ports of this server change when it is started again")

    def _schedule(self) -> None:
        serving = self.peer.server
        if not self._plan_due and serving is not None and serving is self._planned_for:
            return
        self._plan_due = False
        self._planned_for = serving
        due = self.peer.deadline()
        if self._timer is not None:
            # What is due later than that is looked for again then: most deadlines move on with each
            # packet, and are never reached.
            if due >= self._timer_ms:
                return
            self._timer.cancel()
        self._timer_ms = due
        delay = max(1, due - int(time.monotonic() * 1000) + 1) / 1000
        self._timer = self._loop.call_later(delay, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._set_time()
        self._guard(self.peer.tick)


def _ports(member: Member) -> tuple[str, int, int, str, str]:
    """Where it listens."""
    return member.host, member.quorum_port, member.election_port, member.client, member.secure
