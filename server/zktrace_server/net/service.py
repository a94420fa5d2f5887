"""Drives the core: gives it the time and the bytes, makes its txns durable, then lets its answers
go.

All connections that had something to read in one turn of the event loop share one sync of the log
(group commit). While the log is written nothing else happens: what arrives meanwhile makes the next
batch.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from typing import Final, Protocol

from zktrace_server.core.connection import Connection, State
from zktrace_server.core.server import Refused, Server
from zktrace_server.core.tree import DataTree
from zktrace_server.net.config import Config
from zktrace_server.net.sockets import AVAILABLE, Sockets
from zktrace_server.net.stats import Stats
from zktrace_server.net.throttle import ConnectionThrottle
from zktrace_server.storage import store
from zktrace_server.storage.directory import Directories, StorageError
from zktrace_server.storage.snapshots import SnapshotWriter
from zktrace_server.storage.txnlog import TxnLog

log: Final = logging.getLogger(__name__)

_HOUR_S: Final = 3600
_NONCE: Final = 32
#: A little behind a tick's end, so that it is over whatever the clock's grain.
_TICK_SLACK_S: Final = 0.001


class Peer(Protocol):
    """What sends a connection's bytes."""

    def send(self, data: bytes) -> None: ...
    def close(self) -> None: ...


class Service:
    """`failed` is set when the server cannot go on: its result says why."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self.stats = Stats()
        self.failed: asyncio.Future[str] = loop.create_future()
        self._loop = loop
        self._init_state()
        self.directories = Directories(config.data_dir, config.data_log_dir)
        try:
            self.server = self._load()
        except BaseException:
            self.directories.release()
            raise
        self._log = TxnLog(
            self.directories.logs, preallocate=config.preallocate, force_sync=config.force_sync
        )
        self._choose_snapshot_size()

    @property
    def serving(self) -> bool:
        """Whether clients are served."""
        return True

    @property
    def mode(self) -> str:
        """As srvr says it."""
        return "standalone"

    def place(self) -> str:
        """What conf says of a server's place in an ensemble: lines, none of one that has none."""
        return ""

    def _init_state(self) -> None:
        self.started = time.monotonic()
        self.throttle = ConnectionThrottle(self.config.throttle, _clocks()[1], random.random)
        self._peers: dict[Connection, Peer] = {}
        self._commit_at_turn = self._in_turn = False
        self._since_ms = 0
        self._held = self._held_txns = 0
        self._txns = self._bytes = 0
        #: All that is read together in one turn; None where asyncio does that.
        self.sockets: Sockets | None = None
        if AVAILABLE:
            self.sockets = Sockets(self._loop, self.begin_turn, self.end_turn)
        self._tick: asyncio.TimerHandle | None = None
        self._purge: asyncio.Handle | None = None
        self._snapshot: SnapshotWriter | None = None
        self._snapshot_begun = 0.0
        self._finishing: asyncio.Future[None] | None = None

    def _load(self) -> Server:
        begun = time.monotonic()
        settings = self.config.settings
        tree = DataTree(settings.extended_types)
        loaded = store.load(
            self.directories,
            tree,
            log.warning,
            trust_empty_snapshot=self.config.trust_empty_snapshot,
        )
        server = Server(settings, tree, loaded.timeouts)
        self.stats.load.add((time.monotonic() - begun) * 1000)
        server.start(*_clocks())
        server.tell = self._tell
        server.may_connect = self._may_connect
        if loaded.replayed or loaded.snapshot_zxid is None:
            store.save(self.directories, tree, server.sessions.timeouts())
        return server

    def start(self) -> None:
        """Time begins to pass."""
        self._schedule_tick()
        if self.config.purge_interval_h > 0:
            self._purge = self._loop.call_soon(self._purge_now)

    def stop(self) -> None:
        """Everything acknowledged is durable already; what is half done is left."""
        for timer in (self._tick, self._purge):
            if timer is not None:
                timer.cancel()
        if self._snapshot is not None and self._finishing is None:
            self._snapshot.abandon()
        self._log.close()
        self.directories.release()

    # --- connections --------------------------------------------------------------------------

    def connected(self, address: str, peer: Peer, subject: str | None = None) -> Connection:
        """A socket was accepted; `subject` is that of the client's certificate."""
        connection = self.server.connect(address, self._nonce(), subject)
        connection.established_ms = _clocks()[0]
        self._peers[connection] = peer
        return connection

    def _nonce(self) -> str:
        """Chance, where SASL wants it."""
        return "" if self.config.settings.sasl_users is None else secrets.token_urlsafe(_NONCE)

    def _may_connect(self, renew: bool) -> bool:
        self.stats.sessions_asked += 1
        admitted = self.throttle.admit(renew, _clocks()[1])
        if not admitted:
            self.stats.dropped += 1
        self.stats.token_deficit.add(self.throttle.deficit)
        return admitted

    def _tell(self, connection: Connection, text: str) -> None:
        """The core has something to say of a connection."""
        peer = self._peers.get(connection)
        log.info("%s: %s", getattr(peer, "name", connection.address), text)

    def disconnected(self, connection: Connection) -> None:
        """A socket is closed."""
        self.server.disconnect(connection)
        self._peers.pop(connection, None)

    def connections(self) -> list[tuple[Connection, Peer]]:
        """All that are open."""
        return list(self._peers.items())

    def begin_turn(self) -> None:
        """Several `received` follow, at one time as the core sees it, then `end_turn`."""
        self._in_turn = True
        self.server.set_time(*_clocks())

    def end_turn(self) -> None:
        self._in_turn = False
        if self.server.dirty or self.server.log:
            self._commit()

    def received(self, connection: Connection, data: bytes) -> None:
        """Bytes of a client. Refused when the connection was closed for them."""
        server = self.server
        if not self._in_turn:
            server.set_time(*_clocks())
        before = connection.received
        try:
            server.receive(connection, data)
        finally:
            count = connection.received - before
            self.stats.came(count, len(data))
            if not self._held:
                self._since_ms = server.now_ms
            self._held += count
            if not server.log:
                self._send()
            elif self._held > self.config.outstanding_limit:
                self._commit()
                server.set_time(*_clocks())
            elif not self._in_turn and not self._commit_at_turn:
                self._commit_at_turn = True
                self._loop.call_soon(self._commit_turn)

    # --- making it true -----------------------------------------------------------------------

    def _commit_turn(self) -> None:
        self._commit_at_turn = False
        self._commit()

    def _commit(self) -> None:
        """The log first, then the answers."""
        if self.failed.done():
            return
        txns = self.server.take_log()
        if txns:
            try:
                self._log.append(txns)
            except StorageError as error:
                self._fail(str(error))
                return
            self._synced(len(txns))
            self._txns += len(txns)
            self._bytes += sum(map(len, txns))
            if self._txns > self._snapshot_txns or self._bytes > self._snapshot_bytes:
                self._begin_snapshot()
        self._send()

    def _synced(self, txns: int) -> None:
        stats, ms = self.stats, self._log.sync_ns / 1_000_000
        self._held_txns += txns
        stats.committed += txns
        stats.batch.add(txns)
        stats.fsync.add(ms)
        if ms > self.config.fsync_warning_ms:
            stats.slow_fsyncs += 1
            log.warning(
                "writing the txn log to disk took %d ms, which each answer waits for", int(ms)
            )

    def _fail(self, reason: str) -> None:
        """Nothing that is not durable may be acknowledged, now or later."""
        self.failed.set_result(reason)
        for connection in list(self.server.dirty):
            connection.out.clear()
        self.server.dirty.clear()

    def _send(self) -> None:
        server = self.server
        if self.failed.done() or not server.dirty:
            self._held = self._held_txns = 0
            return
        self._send_of(server, _now_ms())

    def _send_of(self, server: Server, now_ms: int) -> None:
        """What a server has to send, at this time."""
        dirty, server.dirty = server.dirty, {}
        sent = 0
        latency_ms = now_ms - self._since_ms if self._held else 0
        zxid = server.tree.last_zxid
        for connection in dirty:
            out = connection.out
            peer = self._peers.get(connection)
            if peer is None:
                continue
            if out:
                sent += connection.account(now_ms, latency_ms, zxid)
                data = b"".join(out) if len(out) > 1 else out[0]
                self.stats.response_bytes += len(data)
                peer.send(data)
                out.clear()
            if connection.state is State.ENDING:
                peer.close()
        self.stats.sent += sent
        if self._held:
            stats, updates = self.stats, self._held_txns
            stats.answered(self._held, latency_ms)
            if updates:
                stats.updates.add(latency_ms, updates)
            if self._held > updates:
                stats.reads.add(latency_ms, self._held - updates)
            self._held = self._held_txns = 0

    # --- what time brings ---------------------------------------------------------------------

    def _schedule_tick(self) -> None:
        due_ms = self.server.sessions.next_expiry() - _clocks()[1]
        delay = max(0.0, due_ms / 1000) + _TICK_SLACK_S
        self._tick = self._loop.call_later(delay, self._on_tick)

    def _on_tick(self) -> None:
        self.server.set_time(*_clocks())
        self.server.tick()
        self._commit()
        self._schedule_tick()

    def _choose_snapshot_size(self) -> None:
        """Between half and all of the limit, so that the servers of an ensemble do not all write
        snapshots at the same time (SyncRequestProcessor.resetSnapshotStats).
        """
        self._txns = self._bytes = 0
        half, half_bytes = self.config.snap_count // 2, self.config.snap_size // 2
        self._snapshot_txns = half + random.randrange(max(half, 1))
        self._snapshot_bytes = half_bytes + random.randrange(max(half_bytes, 1))

    def _begin_snapshot(self) -> None:
        self._choose_snapshot_size()
        self._log.roll()
        if self._snapshot is not None:
            log.warning("the last snapshot is still being written, this one is left out")
            return
        self._snapshot_begun = time.monotonic()
        try:
            self._snapshot = SnapshotWriter(
                self.directories.snapshots, self.server.tree, self._timeouts()
            )
        except StorageError as error:
            log.error("%s", error)
            return
        self._loop.call_soon(self._go_on_with_snapshot)

    def _timeouts(self) -> dict[int, int]:
        return self.server.sessions.timeouts()

    def _go_on_with_snapshot(self) -> None:
        """A piece to each turn of the loop, the connections in between."""
        writer = self._snapshot
        if writer is None:
            return
        try:
            if writer.step():
                self._loop.call_soon(self._go_on_with_snapshot)
                return
        except StorageError as error:
            log.error("%s", error)
            writer.abandon()
            self._snapshot = None
            return
        self._finishing = self._loop.run_in_executor(None, writer.finish)
        self._finishing.add_done_callback(self._snapshot_done)

    def _snapshot_done(self, finishing: asyncio.Future[None]) -> None:
        writer, self._snapshot, self._finishing = self._snapshot, None, None
        if finishing.cancelled():
            return
        error = finishing.exception()
        if error is not None and writer is not None:
            log.error("%s", error)
            writer.abandon()
        else:
            self.stats.snapshots += 1
            self.stats.snapshot.add((time.monotonic() - self._snapshot_begun) * 1000)

    def _purge_now(self) -> None:
        try:
            for path in store.purge(self.directories, self.config.retain):
                log.info("deleted %s", path)
        except OSError as error:
            log.error("old snapshots and logs are left: %s", error)
        self._purge = self._loop.call_later(self.config.purge_interval_h * _HOUR_S, self._purge_now)


def _clocks() -> tuple[int, int]:
    """(wall clock, clock that only goes forward), in ms."""
    return int(time.time() * 1000), _now_ms()


def _now_ms() -> int:
    return int(time.monotonic() * 1000)


__all__ = ["Peer", "Refused", "Service"]
