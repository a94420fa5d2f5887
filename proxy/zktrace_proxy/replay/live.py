"""A connection to the target: frames out, frames in. Knows the protocol's framing, no replay."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable
from typing import Final, cast

from zktrace.wire.message import frame
from zktrace.wire.opcodes import PING, PING_XID

_LENGTH: Final = struct.Struct(">i")
#: Replies may be larger than jute.maxbuffer; beyond this it is no ZooKeeper.
LENGTH_MAX: Final = 64 << 20
PING_FRAME: Final = frame(struct.pack(">ii", PING_XID, PING))


class Wire(asyncio.Protocol):
    """`on_frames` takes all frames of a piece of bytes at once; `on_lost` is told the reason."""

    def __init__(
        self,
        on_frames: Callable[[list[bytes]], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._why = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, data: bytes) -> None:
        """Frames, with their lengths."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        position, end = 0, len(buffer)
        frames = []
        while end - position >= 4:
            length = _LENGTH.unpack_from(buffer, position)[0]
            if not 0 <= length <= LENGTH_MAX:
                self._why = f"a frame of length {length}: that is no ZooKeeper"
                self.close()
                break
            stop = position + 4 + length
            if stop > end:
                break
            frames.append(buffer[position + 4 : stop])
            position = stop
        self._buffer = buffer[position:]
        if frames:
            self._on_frames(frames)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        why = self._why or (str(error) if error is not None else "the target closed it")
        self._on_lost(why)

    def close(self) -> None:
        """Without a word to the server."""
        if self._transport is not None:
            self._transport.abort() if self._why else self._transport.close()


async def open_wire(
    address: tuple[str, int],
    timeout_s: float,
    on_frames: Callable[[list[bytes]], None],
    on_lost: Callable[[str], None],
) -> Wire:
    """A TCP connection. OSError, TimeoutError where there is none in time."""
    loop = asyncio.get_running_loop()
    made = loop.create_connection(lambda: Wire(on_frames, on_lost), *address)
    _, wire = await asyncio.wait_for(made, timeout_s)
    return wire


def reason(error: OSError) -> str:
    """Why there is no connection, in words (asyncio has its own where the system has better)."""
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
