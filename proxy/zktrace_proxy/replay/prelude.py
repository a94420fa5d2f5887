"""Before a replay: is the target there, and the nodes that were there when the recording began.

A session of its own makes them, and is closed; nodes that are there already are left as they are,
and counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from zktrace.wire.errors import error_name
from zktrace.wire.jute import WireError
from zktrace.wire.message import encode_request, frame
from zktrace.wire.opcodes import CLOSE_SESSION, WATCH_XID
from zktrace.wire.records import (
    ACL,
    ConnectRequest,
    ConnectResponse,
    CreateRequest,
    Empty,
    Id,
    ReplyHeader,
    SetDataRequest,
)
from zktrace_proxy.replay.live import Wire, open_wire, reason
from zktrace_proxy.replay.start import Node

_CREATE: Final = 1
_SET_DATA: Final = 5
_NODE_EXISTS: Final = -110
_BURST: Final = 256
_OPEN: Final = ACL(31, Id("world", "anyone"))


class PreludeError(Exception):
    """The target cannot be used; one line that says why."""


@dataclass(slots=True)
class Made:
    """What became of the start state."""

    made: int = 0
    there: int = 0
    unknown_data: int = 0
    ephemeral: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    paths: list[str] = field(default_factory=list)


class Prelude:
    """One connection, used once."""

    def __init__(self, address: tuple[str, int], prefix: str, timeout_s: float) -> None:
        self._address = address
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._why = ""

    async def make(self, nodes: Iterable[Node], fill: Iterable[tuple[str, bytes]] = ()) -> Made:
        """Looks whether the target grants sessions, makes the nodes, and gives other data to those
        in `fill`.

        :raises PreludeError: it does not.
        """
        host, port = self._address
        where = f"{host}:{port}"
        try:
            wire = await open_wire(self._address, self._timeout_s, self._take, self._lost)
        except TimeoutError:
            raise PreludeError(f"{where} does not answer") from None
        except OSError as error:
            raise PreludeError(f"{where}: {reason(error)}") from None
        nodes = list(nodes)
        made = Made()
        if not nodes and not self._prefix and not fill:
            # Nothing is to be done; a session would take a zxid.
            wire.close()
            return made
        wire.send(frame(ConnectRequest(0, 0, 30_000, 0, bytes(16), False).encode()))
        try:
            payload = await self._next(where)
            response = ConnectResponse.decode(payload)
        except WireError:
            raise PreludeError(f"{where} answers, but grants no session (read-only?)") from None
        if not response.session_id:
            raise PreludeError(f"{where} answers, but grants no session")
        wanted = [(path, b"", [_OPEN]) for path in _steps(self._prefix)]
        for node in nodes:
            made.unknown_data += node.data is None and node.length > 0
            made.ephemeral += node.owner != 0
            data = node.data if node.data is not None else bytes(node.length)
            wanted.append((self._prefix + node.path, data, node.acl or [_OPEN]))
        for first in range(0, len(wanted), _BURST):
            await self._burst(wire, wanted[first : first + _BURST], made, where)
        for path, data in fill:
            body = SetDataRequest(self._prefix + path, data, -1)
            wire.send(frame(encode_request(1, _SET_DATA, body)))
            await self._next(where)
        wire.send(frame(encode_request(1, CLOSE_SESSION, Empty())))
        await self._next(where)
        wire.close()
        return made

    async def _burst(
        self, wire: Wire, nodes: list[tuple[str, bytes, list[ACL]]], made: Made, where: str
    ) -> None:
        out = b""
        for number, (path, data, acl) in enumerate(nodes):
            body = CreateRequest(path, data, acl, 0)
            out += frame(encode_request(number + 1, _CREATE, body))
        wire.send(out)
        for path, *_ in nodes:
            payload = await self._next(where)
            header, _ = ReplyHeader.decode_from(payload, 0, len(payload))
            if header.err == 0:
                made.made += path not in _steps(self._prefix)
                made.paths.append(path)
            elif header.err == _NODE_EXISTS:
                made.there += path not in _steps(self._prefix)
            else:
                made.failed[error_name(header.err)] += 1

    async def _next(self, where: str) -> bytes:
        while True:
            try:
                payload = await asyncio.wait_for(self._frames.get(), self._timeout_s)
            except TimeoutError:
                raise PreludeError(f"{where} accepts connections, but does not answer") from None
            if payload is None:
                raise PreludeError(f"{where} closes connections: {self._why}")
            if payload[:4] != WATCH_XID.to_bytes(4, "big", signed=True):
                return payload

    def _take(self, frames: list[bytes]) -> None:
        for one in frames:
            self._frames.put_nowait(one)

    def _lost(self, why: str) -> None:
        self._why = why
        self._frames.put_nowait(None)


def _steps(prefix: str) -> list[str]:
    parts = prefix.split("/")
    return ["/".join(parts[: n + 1]) for n in range(1, len(parts))]
