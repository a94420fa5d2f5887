"""Relays in a thread with an event loop: see :class:`zktrace_proxy.plane.Plane`.

A direction of a connection is a coroutine that reads a chunk, copies it to the tap and sends it on
before it reads the next: what a side does not take stops the other side. A half close is passed on
as one, a reset as a reset.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Coroutine, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from zktrace_proxy.fallback.tap import Flow, Queue, Tap
from zktrace_proxy.fallback.wire import Plain, Secured, Slow, Wire, reset
from zktrace_proxy.plane import (
    Config,
    Decision,
    Listener,
    PlaneError,
    Question,
    Upstream,
    Verdict,
)
from zktrace_proxy.tls import TlsError, client_context, server_context

if TYPE_CHECKING:
    from zktrace.engine.base import LiveEngine

_BACKLOG: Final = 1024
_ACCEPT_PAUSE_S: Final = 0.05
#: How long a client may take to agree on TLS.
_HANDSHAKE_S: Final = 10.0
#: Lines that wait to be read.
_NOTICES: Final = 64
_NATIVE: Final = "needs zktrace's native engine, which was not built here"


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET


def _shown(where: Any) -> str:
    return f"[{where[0]}]:{where[1]}" if ":" in where[0] else f"{where[0]}:{where[1]}"


class AsyncioPlane:
    """The plane."""

    def __init__(self, config: Config) -> None:
        for wanted, what in ((config.record, "a recording"), (config.rules, "a fault")):
            if wanted:
                raise PlaneError(f"{what} {_NATIVE}")
        if config.when_down != "reset":
            raise PlaneError(f"--upstream-down {config.when_down} {_NATIVE}")
        if config.tls.clients is not None and len(config.tls.clients.identities) > 1:
            raise PlaneError(f"more than one certificate {_NATIVE}")
        self._config = config
        self._contexts = self._read_tls()
        self._notices: list[str] = []
        self._more_notices = 0
        lossless = [config.lossless] * config.taps + [False] * config.observers
        self._queues = [Queue(config.tap_limit, one) for one in lossless]
        self._tap = Tap(self._queues)
        self._counted = dict.fromkeys(
            (
                *("accepted", "open", "unreachable", "upstream_failures", "refused", "resets"),
                *("slow_readers", "faulted", "drained", "accept_failures", "tls_failures"),
                *("bytes_to_server", "bytes_to_client"),
            ),
            0,
        )
        self._bound: list[socket.socket] = []
        try:
            for listener in config.listeners:
                self._bound.append(self._bind(listener))
        except PlaneError:
            self._close()
            raise
        self._addresses = [_shown(one.getsockname()) for one in self._bound]
        self._upstreams = [listener.upstreams for listener in config.listeners]
        self._draining = threading.Event()
        self._turns = [0] * len(self._bound)
        self._loop = asyncio.new_event_loop()
        self._room = asyncio.Event()
        for queue in self._queues:
            queue.on_room = self._on_room
        self._stopping = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="zktrace-relay", daemon=True)
        self._thread.start()

    def _read_tls(self) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
        tls = self._config.tls
        try:
            return (
                None if tls.clients is None else server_context(tls.clients),
                None if tls.servers is None else client_context(tls.servers),
            )
        except TlsError as error:
            raise PlaneError(str(error)) from None

    def _bind(self, listener: Listener) -> socket.socket:
        host, port = _split(listener.address)
        bound = socket.socket(_family(host), socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
            bound.listen(_BACKLOG)
            bound.setblocking(False)
        except OSError as error:
            bound.close()
            raise PlaneError(f"{listener.address}: {error.strerror or error}") from None
        return bound

    def _close(self) -> None:
        for one in self._bound:
            one.close()

    # -- what can be asked of it

    def addresses(self) -> list[str]:
        return list(self._addresses)

    def next(self, timeout_s: float, tap: int = 0) -> bytes | None:
        return self._queues[tap].next(timeout_s)

    def feed(self, engine: LiveEngine, source: int, budget_s: float, tap: int = 0) -> bool:
        return False

    def ended(self, tap: int = 0) -> bool:
        return tap >= len(self._queues) or self._queues[tap].ended()

    def counters(self) -> dict[str, int]:
        lost = {
            "tap_lost_packets": self._tap.lost_packets,
            "tap_lost_bytes": self._tap.lost_bytes,
        }
        return {**self._counted, **lost}

    def recorded(self) -> tuple[int, int, str | None]:
        return 0, 0, None

    def add_rule(self, form: tuple[Any, ...]) -> None:
        raise PlaneError(f"a fault {_NATIVE}")

    def remove_rule(self, number: int) -> bool:
        return False

    def rules(self) -> list[tuple[int, int, int, bool]]:
        return []

    def decisions(self) -> tuple[list[Decision], int]:
        return [], 0

    def set_upstreams(self, listener: int, servers: Sequence[Upstream]) -> None:
        self._upstreams[listener] = tuple(servers)

    def reload_tls(self) -> None:
        self._contexts = self._read_tls()

    def notices(self) -> tuple[list[str], int]:
        told = self._notices, self._more_notices
        self._notices, self._more_notices = [], 0
        return told

    def _notice(self, whom: str, error: Exception) -> None:
        if isinstance(error, TimeoutError):
            why = "nothing came of it in time"
        else:
            said = (getattr(error, name, None) for name in ("verify_message", "reason"))
            why = next(filter(None, said), None) or str(error)
        line = f"TLS with {whom}: {why}"
        if len(self._notices) < _NOTICES:
            self._notices.append(line)
        else:
            self._more_notices += 1

    def drain(self, over_s: float) -> int:
        """Knows no frames: waits for those who end by themselves."""
        self._draining.set()
        until = time.monotonic() + over_s
        while self._counted["open"] and time.monotonic() < until:
            time.sleep(_ACCEPT_PAUSE_S)
        return self._counted["open"]

    def question(self, timeout_s: float) -> Question | None:
        return None

    def decide(self, question: Question, what: Verdict, frame: bytes | None = None) -> bool:
        return False

    def inject(self, connection: int, frame: bytes) -> bool:
        return False

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    # -- the thread

    def _on_room(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._room.set)
        except RuntimeError:
            pass  # the loop has ended: nobody waits

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._close()
            for queue in self._queues:
                queue.close()
            self._loop.close()

    async def _serve(self) -> None:
        accepting = [
            self._loop.create_task(self._accept(index, bound))
            for index, bound in enumerate(self._bound)
        ]
        await self._stopping.wait()
        tasks = [*accepting, *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, index: int, bound: socket.socket) -> None:
        while True:
            try:
                client, address = await self._loop.sock_accept(bound)
            except OSError:
                self._counted["accept_failures"] += 1
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            self._counted["accepted"] += 1
            full = self._counted["open"] >= self._config.max_connections
            if full or self._draining.is_set():
                self._counted["refused"] += 1
                reset(client)
                client.close()
                continue
            self._counted["open"] += 1
            task = self._loop.create_task(self._connection(index, client, address[:2]))
            self._connections.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._counted["open"] -= 1

    async def _greet(self, client: socket.socket, address: Any) -> Wire | None:
        """The client's side; None: TLS does not come about with it."""
        plain = Plain(client, self._config.slow_reader_s)
        context = self._contexts[0]
        if context is None:
            return plain
        secured = Secured(plain, context, None)
        try:
            await asyncio.wait_for(secured.handshake(), _HANDSHAKE_S)
        except (OSError, Slow) as error:
            self._counted["tls_failures"] += 1
            self._notice(f"client {_shown(address)}", error)
            return None
        return secured

    async def _reach(self, upstream: Upstream) -> tuple[Wire, tuple[str, int]]:
        """A connection to that server; what was opened for one that fails is closed."""
        host, port = _split(upstream.address)
        server = socket.socket(_family(host), socket.SOCK_STREAM)
        try:
            server.setblocking(False)
            await self._loop.sock_connect(server, (host, port))
            plain = Plain(server, self._config.slow_reader_s)
            context = self._contexts[1]
            if context is None:
                return plain, (host, port)
            secured = Secured(plain, context, upstream.name)
            try:
                await secured.handshake()
            except OSError as error:
                self._notice(f"server {upstream.address}", error)
                raise
            return secured, (host, port)
        except BaseException:
            server.close()
            raise

    async def _connect(self, index: int) -> tuple[Wire, tuple[str, int]] | None:
        upstreams = self._upstreams[index]
        first = self._turns[index]
        self._turns[index] = first + 1
        for number in range(len(upstreams)):
            reaching = self._reach(upstreams[(first + number) % len(upstreams)])
            try:
                return await asyncio.wait_for(reaching, self._config.connect_timeout_s)
            except (OSError, TimeoutError, Slow):
                self._counted["upstream_failures"] += 1
        return None

    async def _connection(self, index: int, client: socket.socket, address: Any) -> None:
        sockets = [client]
        client.setblocking(False)
        try:
            greeted = await self._greet(client, address)
            if greeted is None:
                return
            found = await self._connect(index)
            if found is None:
                self._counted["unreachable"] += 1
                reset(client)
                return
            server, upstream = found
            sockets.append(server.socket)
            for one in sockets:
                try:
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                except OSError:
                    pass  # it is gone, which reading from it tells
            flow = Flow(self._tap, address, upstream, time.time_ns())
            await self._relay(greeted, server, flow)
        except asyncio.CancelledError:
            for one in sockets:
                reset(one)
        finally:
            for one in sockets:
                one.close()

    async def _relay(self, client: Wire, server: Wire, flow: Flow) -> None:
        ways: list[Coroutine[Any, Any, None]] = [
            self._way(0, client, server, flow),
            self._way(1, server, client, flow),
        ]
        tasks = [self._loop.create_task(way) for way in ways]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            errors = [task.exception() for task in done if task.exception() is not None]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if errors:
            slow = any(isinstance(error, Slow) for error in errors)
            self._counted["slow_readers" if slow else "resets"] += 1
            flow.reset(1, time.time_ns())
            reset(client.socket)
            reset(server.socket)
            if not all(isinstance(error, Slow | OSError) for error in errors):
                raise ExceptionGroup("relaying", [e for e in errors if isinstance(e, Exception)])

    async def _way(self, direction: int, source: Wire, sink: Wire, flow: Flow) -> None:
        name = "bytes_to_client" if direction else "bytes_to_server"
        while True:
            while self._tap.presses:
                self._room.clear()
                if self._tap.presses:
                    await self._room.wait()
            data = await source.receive()
            ts_ns = time.time_ns()
            if not data:
                flow.fin(direction, ts_ns)
                await sink.end()
                return
            flow.data(direction, data, ts_ns)
            await sink.send(data)
            self._counted[name] += len(data)
