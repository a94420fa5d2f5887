"""One side of a connection in an event loop: a socket, or TLS over one.

What TLS has to send goes out within `send`, `end` and `receive`, in the order in which it was made.
As ``zktrace/_native/src/relay/wire.rs``; knows nothing of what the bytes mean.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from typing import Final, Protocol

CHUNK: Final = 64 * 1024
_LINGER_0: Final = struct.pack("ii", 1, 0)


class Slow(Exception):
    """One side takes nothing for too long."""


class Wire(Protocol):
    """A side."""

    socket: socket.socket

    async def receive(self) -> bytes:
        """Some bytes; none: no more will come.

        :raises OSError: it is gone, or what it sends is no TLS.
        """

    async def send(self, data: bytes) -> None:
        """All of it.

        :raises Slow: nothing of it was taken for too long.
        :raises OSError: it is gone.
        """

    async def end(self) -> None:
        """Tells it that no more will come."""

    def close(self) -> None:
        """Closes the socket."""


def reset(one: socket.socket) -> None:
    """Makes closing a reset."""
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    except OSError:
        pass  # it has no connection any more


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Plain:
    """A socket, which does not block."""

    def __init__(self, one: socket.socket, slow_s: float | None) -> None:
        self.socket = one
        self._loop = asyncio.get_running_loop()
        self._slow_s = slow_s

    async def receive(self) -> bytes:
        return await self._loop.sock_recv(self.socket, CHUNK)

    async def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                pass
            if not rest:
                return
            writable = self._loop.create_future()
            self._loop.add_writer(self.socket, _set, writable)
            try:
                await asyncio.wait_for(writable, self._slow_s)
            except TimeoutError:
                raise Slow from None
            finally:
                self._loop.remove_writer(self.socket)

    async def end(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # that side is gone, which reading from it tells

    def close(self) -> None:
        self.socket.close()


class Secured:
    """TLS over a socket."""

    def __init__(self, plain: Plain, context: ssl.SSLContext, name: str | None) -> None:
        """`name`: of the server, whose client this is then; None: this is the server."""
        self.socket = plain.socket
        self._plain = plain
        self._coming, self._going = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._coming, self._going, server_side=name is None, server_hostname=name
        )
        self._sending = asyncio.Lock()

    async def _flush(self) -> None:
        while self._going.pending:
            async with self._sending:
                data = self._going.read()
                if data:
                    await self._plain.send(data)

    async def handshake(self) -> None:
        """:raises OSError: it is gone, or TLS does not come about (`ssl.SSLError`)."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._plain.receive()
                if not data:
                    raise ConnectionError("it closed the connection within the handshake") from None
                self._coming.write(data)
            except ssl.SSLError:
                await self._flush()  # the alert
                raise
            else:
                await self._flush()
                return

    async def receive(self) -> bytes:
        while True:
            try:
                return self._tls.read(CHUNK)
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._plain.receive()
                if data:
                    self._coming.write(data)
                else:
                    self._coming.write_eof()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                # With a goodbye, or without, as many clients end: frames tell what is whole.
                return b""

    async def send(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    async def end(self) -> None:
        self._goodbye()
        try:
            await self._flush()
        except OSError:
            return  # that side is gone, which reading from it tells
        await self._plain.end()

    def _goodbye(self) -> None:
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # said; the other side has not answered

    def close(self) -> None:
        self._plain.close()
