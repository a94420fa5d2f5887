"""Clients' sockets, all of one turn read together.

asyncio makes a call of its own of each socket that can be read, and another turn of its loop of
what shall happen when all are read; with a request on each of many connections that costs more than
the request. Here one epoll has all clients, and is itself the one file that asyncio watches. A
turn: everything that can be read is read and handled, then `ended` is called, once (a log is
synced, answers leave).

A connection is an asyncio.Transport to its protocol, with the flow control that one has, so that
the protocol cannot tell it from asyncio's own; those of TLS are asyncio's. Knows nothing of
ZooKeeper. Linux only: elsewhere asyncio does it all.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import select
import socket
from collections.abc import Callable
from typing import Any, Final

log: Final = logging.getLogger(__name__)

#: Whether this system has it.
AVAILABLE: Final = hasattr(select, "epoll")

#: Bytes read from one socket in one turn. Who sends more has its next turn like all the others.
_READ: Final = 64 << 10
#: Sockets served in one turn. While they were served others became ready: to look costs less than
#: to come back by asyncio's loop, whose own files and timers have theirs after so many turns.
_TURN: Final = 256
_TURNS: Final = 8
#: Connections accepted in one turn.
_ACCEPTED: Final = 128
#: How long nobody is accepted where no file can be opened any more.
_PAUSE_S: Final = 1.0
_NO_FILES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
#: A protocol may write so much before it is asked to pause, if it does not say otherwise.
_HIGH_WATER: Final = 64 << 10

if AVAILABLE:
    _IN: Final = select.EPOLLIN
    _OUT: Final = select.EPOLLOUT
    _GONE: Final = select.EPOLLERR | select.EPOLLHUP


class Sockets:
    """The epoll. `begun` and `ended` are called around what came in one turn."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        begun: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self.loop = loop
        self.epoll = select.epoll()
        self.by_file: dict[int, SocketTransport] = {}
        self._begun = begun
        self._ended = ended
        loop.add_reader(self.epoll.fileno(), self._turns)

    def _turns(self) -> None:
        for _ in range(_TURNS):
            ready = self.epoll.poll(0, _TURN)
            if not ready:
                break
            self._turn(ready)

    def _turn(self, ready: list[tuple[int, int]]) -> None:
        by_file = self.by_file
        self._begun()
        try:
            for file, events in ready:
                transport = by_file.get(file)
                if transport is not None:
                    try:
                        transport.ready(events)
                    except Exception:
                        # A defect of the protocol harms no other connection.
                        log.exception("a connection is closed")
                        transport.abort()
        finally:
            self._ended()

    def close(self) -> None:
        """With all connections."""
        self.loop.remove_reader(self.epoll.fileno())
        for transport in list(self.by_file.values()):
            transport.abort()
        self.epoll.close()


class SocketTransport(asyncio.Transport):
    """One connection."""

    __slots__ = (
        "_buffer",
        "_closing",
        "_file",
        "_high",
        "_mask",
        "_paused",
        "_protocol",
        "_receive",
        "_send",
        "_socket",
        "_sockets",
    )

    def __init__(
        self, sockets: Sockets, connected: socket.socket, protocol: asyncio.Protocol, peer: object
    ) -> None:
        super().__init__({"peername": peer, "socket": connected})
        self._sockets = sockets
        self._socket = connected
        self._receive = protocol.data_received
        self._send = connected.send
        self._protocol = protocol
        self._file = connected.fileno()
        self._buffer = bytearray()
        self._high = _HIGH_WATER
        self._closing = False
        self._paused = False
        self._mask = _IN
        sockets.by_file[self._file] = self
        sockets.epoll.register(self._file, _IN)
        protocol.connection_made(self)

    # --- what comes ---------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        """It can be read or written, or is broken."""
        if events & _OUT:
            self._write_on()
        if self._mask & _IN and self._file >= 0:
            if events & (_IN | _GONE):
                self._read()
        elif events & _GONE:
            # Nobody wants to read, so that nobody would see it.
            self.abort()

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if data:
            self._receive(data)
        elif not self._protocol.eof_received():
            self.close()
        else:
            self.pause_reading()

    def is_reading(self) -> bool:
        return bool(self._mask & _IN)

    def pause_reading(self) -> None:
        self._want(self._mask & ~_IN)

    def resume_reading(self) -> None:
        if not self._closing:
            self._want(self._mask | _IN)

    def _want(self, mask: int) -> None:
        if mask != self._mask and self._file >= 0:
            self._mask = mask
            self._sockets.epoll.modify(self._file, mask)

    # --- what goes ----------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._file < 0:
            return
        buffer = self._buffer
        if not buffer:
            try:
                sent = self._send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._lose(error)
                return
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
            self._want(self._mask | _OUT)
        buffer += data
        if len(buffer) > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _write_on(self) -> None:
        buffer = self._buffer
        try:
            sent = self._send(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        del buffer[:sent]
        if self._paused and len(buffer) <= self._high // 4:
            self._paused = False
            self._protocol.resume_writing()
        if not buffer:
            self._want(self._mask & ~_OUT)
            if self._closing:
                self._lose(None)

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._high // 4, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = _HIGH_WATER if high is None else high

    def can_write_eof(self) -> bool:
        return False

    # --- its end ------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """When what was written is sent; nothing more is read."""
        if self._closing:
            return
        self._closing = True
        self.pause_reading()
        if not self._buffer:
            self._lose(None)

    def abort(self) -> None:
        """Now."""
        self._lose(None)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def _lose(self, error: OSError | None) -> None:
        if self._file < 0:
            return
        self._closing = True
        del self._sockets.by_file[self._file]
        self._sockets.epoll.unregister(self._file)
        self._file = -1
        self._mask = 0
        self._buffer.clear()
        # Later, as asyncio does it: whoever is in the middle of something is not disturbed.
        self._sockets.loop.call_soon(self._lost, error)

    def _lost(self, error: OSError | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._socket.close()


class Listener:
    """Sockets that are bound and listen; each connection gets a protocol of `factory`."""

    def __init__(
        self,
        sockets: Sockets,
        factory: Callable[[], asyncio.Protocol],
        bound: list[socket.socket],
        backlog: int,
    ) -> None:
        self.sockets = bound
        self._all = sockets
        self._factory = factory
        self._timers: list[asyncio.TimerHandle] = []
        for one in bound:
            one.listen(backlog)
            one.setblocking(False)
            self._watch(one)

    def _watch(self, one: socket.socket) -> None:
        self._all.loop.add_reader(one.fileno(), self._accept, one)

    def _accept(self, one: socket.socket) -> None:
        for _ in range(_ACCEPTED):
            try:
                connected, peer = one.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_FILES:
                    raise
                log.error("no connection can be accepted for a second: %s", error.strerror)
                loop = self._all.loop
                loop.remove_reader(one.fileno())
                self._timers.append(loop.call_later(_PAUSE_S, self._watch, one))
                return
            connected.setblocking(False)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            SocketTransport(self._all, connected, self._factory(), peer)

    def close(self) -> None:
        """Nobody is accepted any more."""
        for timer in self._timers:
            timer.cancel()
        for one in self.sockets:
            if one.fileno() >= 0:
                self._all.loop.remove_reader(one.fileno())
                one.close()


async def connect(
    sockets: Sockets, factory: Callable[[], asyncio.Protocol], host: str, port: int
) -> None:
    """Connects to the first address of `host` that answers; OSError if none does."""
    loop = sockets.loop
    failed: OSError | None = None
    for family, kind, number, _, address in await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        connected = socket.socket(family, kind, number)
        try:
            connected.setblocking(False)
            await loop.sock_connect(connected, address)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            connected.close()
            failed = error
            continue
        except BaseException:
            connected.close()
            raise
        SocketTransport(sockets, connected, factory(), address)
        return
    raise failed or OSError(errno.EADDRNOTAVAIL, f"{host} has no address")


async def listen(
    sockets: Sockets,
    factory: Callable[[], asyncio.Protocol],
    address: str | None,
    port: int,
    backlog: int,
) -> Listener:
    """Opens a port; OSError as of asyncio's create_server, which resolves and binds."""
    server = await sockets.loop.create_server(factory, address, port, start_serving=False)
    try:
        bound = [one.dup() for one in server.sockets]
    finally:
        server.close()
    return Listener(sockets, factory, bound, backlog)
