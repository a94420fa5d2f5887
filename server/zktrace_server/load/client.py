"""A client: one session, one connection at a time, requests as they are called (ClientCnxn).

Replies come in the order of the requests; a reply that does not, or bytes that are no reply, end
the connection. A lost connection fails what is under way with :class:`ConnectionLost`; `open` takes
the session up again at another server, with its watches. One-shot watches are futures. Whoever
watches the client (`Observer`) is told of each request.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from ssl import SSLContext, SSLError
from typing import Final, Protocol

from zktrace.wire import opcodes
from zktrace.wire.jute import WireError
from zktrace.wire.message import Body, decode_reply, encode_request
from zktrace.wire.multi import MultiOp, MultiRequest, MultiResponse
from zktrace.wire.records import (
    ACL,
    AddWatchRequest,
    ConnectRequest,
    ConnectResponse,
    Create2Response,
    CreateRequest,
    CreateResponse,
    Empty,
    GetChildren2Response,
    GetChildrenResponse,
    GetDataResponse,
    Id,
    PathRequest,
    PathVersionRequest,
    PathWatchRequest,
    ReplyHeader,
    SetDataRequest,
    SetWatches,
    Stat,
    StatResponse,
    WatcherEvent,
)

OPEN_ACL: Final = [ACL(31, Id("world", "anyone"))]
#: CreateMode.
PERSISTENT, EPHEMERAL, SEQUENTIAL, EPHEMERAL_SEQUENTIAL, CONTAINER = 0, 1, 2, 3, 4

OK: Final = 0
NO_NODE: Final = -101
BAD_VERSION: Final = -103
NODE_EXISTS: Final = -110

_LENGTH: Final = struct.Struct(">i")
_XID: Final = struct.Struct(">i")
#: A reply of more than this is taken for noise (jute.maxbuffer of clients, times four).
_MAX_FRAME: Final = 16 << 20
_CONNECT_S: Final = 5.0
_LAST_XID: Final = (1 << 31) - 1
#: SetWatches of many paths is split, as ClientCnxn does (SET_WATCHES_MAX_LENGTH).
_WATCHES_AT_ONCE: Final = 1000

Address = tuple[str, int]
#: Which watches an event's type fires (ClientCnxn, ZKWatchManager.materialize).
_FIRES: Final = {
    1: ("data", "exist"),
    2: ("data", "exist", "child"),
    3: ("data", "exist"),
    4: ("child",),
}


class ConnectionLost(Exception):
    """The connection ended; whether what was under way has happened is not known."""


class SessionExpired(Exception):
    """The server does not know the session any more; its ephemeral nodes are gone, too."""


class Unreachable(Exception):
    """No server takes a connection. The text names each with the reason."""


class Observer(Protocol):
    """Whoever counts, and may hold back."""

    async def admit(self) -> None:
        """Before each request; what it raises, the caller of the request gets."""

    def answered(self, number: int, body: Body | None, err: int, ns: int) -> None:
        """A request of this opcode, its body, the error code, and what it took. `body` is None for
        the request for a session.
        """

    def lost(self) -> None:
        """A connection was lost."""

    def event(self) -> None:
        """A watch event."""


@dataclass(frozen=True, slots=True)
class Reply:
    """`err` 0, and a body where the opcode has one; else an error code."""

    err: int
    zxid: int
    body: Body | None

    @property
    def ok(self) -> bool:
        return self.err == OK

    @property
    def path(self) -> str:
        """Of the node that was made."""
        assert isinstance(self.body, (CreateResponse, Create2Response))
        return self.body.created_path or ""

    @property
    def data(self) -> bytes:
        assert isinstance(self.body, GetDataResponse)
        return self.body.data or b""

    @property
    def stat(self) -> Stat:
        assert isinstance(
            self.body, (GetDataResponse, StatResponse, Create2Response, GetChildren2Response)
        )
        return self.body.stat

    @property
    def children(self) -> list[str]:
        assert isinstance(self.body, (GetChildrenResponse, GetChildren2Response))
        return [name or "" for name in self.body.children or ()]


@dataclass(slots=True)
class _Call:
    xid: int
    number: int
    body: Body
    future: asyncio.Future[Reply]
    since_ns: int


Changed = asyncio.Future[None]


class Session:
    """`servers` are tried in turn, beginning with number `first`. Times in ms."""

    def __init__(
        self,
        servers: Sequence[Address],
        observer: Observer,
        *,
        timeout_ms: int = 10_000,
        first: int = 0,
        tls: SSLContext | None = None,
    ) -> None:
        self.id = 0
        self.password = bytes(16)
        self.timeout_ms = timeout_ms
        self.last_zxid = 0
        self._servers = servers
        self._next = first
        self._observer = observer
        self._tls = tls
        self._wire: _Wire | None = None
        #: Done when the connection is lost; one for each connection.
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._xid = 0
        self._watches: dict[tuple[str, str], list[Changed]] = {}

    @property
    def connected(self) -> bool:
        return self._wire is not None and not self._wire.ended

    # --- the connection -----------------------------------------------------------------------

    async def open(self) -> None:
        """A new session, or the one that there was. Unreachable, or SessionExpired."""
        await self._observer.admit()
        reasons = []
        for _ in range(len(self._servers)):
            host, port = self._servers[self._next % len(self._servers)]
            self._next += 1
            try:
                await self._connect(host, port)
                return
            except TimeoutError:
                reasons.append(f"{host}:{port}: no answer within {_CONNECT_S:.0f} s")
            except (OSError, ConnectionLost, WireError) as error:
                reasons.append(f"{host}:{port}: {_reason(error)}")
        raise Unreachable("; ".join(reasons))

    async def _connect(self, host: str, port: int) -> None:
        self.drop()
        loop = asyncio.get_running_loop()
        begun = time.perf_counter_ns()
        async with asyncio.timeout(_CONNECT_S):
            _, wire = await loop.create_connection(lambda: _Wire(self), host, port, ssl=self._tls)
            try:
                request = ConnectRequest(
                    0, self.last_zxid, self.timeout_ms, self.id, self.password, False
                )
                wire.send(request.encode())
                response = await wire.greeting
            except BaseException:
                wire.abort()
                raise
        if response.session_id == 0:
            wire.abort()
            self.id, self.password, self.last_zxid = 0, bytes(16), 0
            self._forget()
            raise SessionExpired
        self._observer.answered(opcodes.CREATE_SESSION, None, OK, time.perf_counter_ns() - begun)
        self.id, self.password = response.session_id, response.password or b""
        self.timeout_ms = response.timeout_ms
        self._wire, self.gone = wire, loop.create_future()
        wire.keep_alive(response.timeout_ms / 1000)
        self._watch_again(wire)

    def drop(self) -> None:
        """Ends the connection without a word; the session goes on until it expires."""
        if self._wire is not None:
            self._wire.abort()
            self._wire = None

    async def close(self) -> None:
        """Ends the session."""
        if self.connected:
            await self._observer.admit()
            try:
                await self._send(opcodes.CLOSE_SESSION, Empty())
            except ConnectionLost:
                pass  # as it is with Java's client: the server may be the first to close
        self.abandon()

    def abandon(self) -> None:
        """Forgets the session, which ends when the server has not heard of it for long enough."""
        self.drop()
        self.id, self.password, self.last_zxid = 0, bytes(16), 0
        self._forget()

    def _forget(self) -> None:
        for waiting in self._watches.values():
            for future in waiting:
                future.cancel()
        self._watches.clear()

    # --- requests -----------------------------------------------------------------------------

    async def call(self, number: int, body: Body) -> Reply:
        """A request of any opcode. ConnectionLost where there will be no answer."""
        await self._observer.admit()
        return await self._send(number, body)

    def _send(self, number: int, body: Body) -> asyncio.Future[Reply]:
        wire = self._wire
        if wire is None or wire.ended:
            raise ConnectionLost
        self._xid = self._xid % _LAST_XID + 1
        call = _Call(
            self._xid,
            number,
            body,
            asyncio.get_running_loop().create_future(),
            time.perf_counter_ns(),
        )
        wire.pending.append(call)
        wire.send(encode_request(self._xid, number, body))
        return call.future

    async def create(
        self, path: str, data: bytes = b"", flags: int = PERSISTENT, *, stat: bool = False
    ) -> Reply:
        number = 19 if flags == CONTAINER else 15 if stat else 1
        return await self.call(number, CreateRequest(path, data, OPEN_ACL, flags))

    async def ensure(self, *paths: str, data: bytes = b"") -> None:
        """Makes nodes that are not there yet, parents first."""
        for path in paths:
            await self.create(path, data)

    async def delete(self, path: str, version: int = -1) -> Reply:
        return await self.call(2, PathVersionRequest(path, version))

    async def set(self, path: str, data: bytes, version: int = -1) -> Reply:
        return await self.call(5, SetDataRequest(path, data, version))

    async def get(self, path: str) -> Reply:
        return await self.call(4, PathWatchRequest(path, False))

    async def exists(self, path: str) -> Reply:
        return await self.call(3, PathWatchRequest(path, False))

    async def list(self, path: str, *, stat: bool = True) -> Reply:
        """Children's names."""
        return await self.call(12 if stat else 8, PathWatchRequest(path, False))

    async def sync(self, path: str) -> Reply:
        return await self.call(9, PathRequest(path))

    async def multi(self, *ops: MultiOp) -> Reply:
        return await self.call(14, MultiRequest(list(ops)))

    # --- watches ------------------------------------------------------------------------------

    async def watch_data(self, path: str) -> tuple[Reply, Changed | None]:
        """getData with a watch. The future is done when the node changes; None without a watch."""
        return await self._watched(4, "data", path)

    async def watch_list(self, path: str) -> tuple[Reply, Changed | None]:
        """getChildren2 with a watch."""
        return await self._watched(12, "child", path)

    async def watch_exists(self, path: str) -> tuple[Reply, Changed]:
        """exists with a watch, which is there whatever the answer is."""
        reply, changed = await self._watched(3, "exist", path)
        assert changed is not None
        return reply, changed

    async def watch_tree(self, path: str) -> Reply:
        """A persistent recursive watch (ZooKeeper 3.6); its events are counted, and no more."""
        return await self.call(opcodes.BY_NAME["addWatch"].number, AddWatchRequest(path, 1))

    async def _watched(self, number: int, kind: str, path: str) -> tuple[Reply, Changed | None]:
        changed: Changed = asyncio.get_running_loop().create_future()
        # Before the answer, since the event may be right behind it.
        waiting = self._watches.setdefault((kind, path), [])
        waiting.append(changed)
        try:
            reply = await self.call(number, PathWatchRequest(path, True))
        except BaseException:
            self._unwatch(kind, path, changed)
            raise
        if reply.ok or (number == 3 and reply.err == NO_NODE):
            return reply, changed
        self._unwatch(kind, path, changed)
        return reply, None

    def _unwatch(self, kind: str, path: str, changed: Changed) -> None:
        waiting = self._watches.get((kind, path), [])
        if changed in waiting:
            waiting.remove(changed)
            if not waiting:
                del self._watches[kind, path]

    def fired(self, event: WatcherEvent) -> None:
        """A watch event came."""
        self._observer.event()
        for kind in _FIRES.get(event.type, ()):
            for future in self._watches.pop((kind, event.path or ""), ()):
                if not future.done():
                    future.set_result(None)

    def _watch_again(self, wire: _Wire) -> None:
        """What was watched, to another server (ClientCnxn.primeConnection)."""
        keys = list(self._watches)
        for at in range(0, len(keys), _WATCHES_AT_ONCE):
            by_kind: dict[str, list[str | None]] = {"data": [], "exist": [], "child": []}
            for kind, path in keys[at : at + _WATCHES_AT_ONCE]:
                by_kind[kind].append(path)
            body = SetWatches(self.last_zxid, by_kind["data"], by_kind["exist"], by_kind["child"])
            wire.send(encode_request(opcodes.SET_WATCHES_XID, opcodes.SET_WATCHES, body))

    # --- what the connection tells -------------------------------------------------------------

    def replied(self, call: _Call, header: ReplyHeader, body: Body | None) -> None:
        err = header.err
        if isinstance(body, MultiResponse):
            # That of the operation which failed; those behind it only say that one did.
            err = next((result.err for result in body.results if result.err), OK)
        self._observer.answered(call.number, call.body, err, time.perf_counter_ns() - call.since_ns)
        if not call.future.done():
            call.future.set_result(Reply(err, header.zxid, body))

    def lost(self, wire: _Wire) -> None:
        if wire is self._wire:
            self._wire = None
            self.gone.set_result(None)
            self._observer.lost()


def _reason(error: Exception) -> str:
    # asyncio's text has the address again; ssl's has no such number.
    number = getattr(error, "errno", None)
    if number and number > 0 and not isinstance(error, SSLError):
        return os.strerror(number)
    return getattr(error, "strerror", None) or str(error) or "closed by the server"


class _Wire(asyncio.Protocol):
    """One connection of a session: frames, pings, replies to the calls that wait."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._heard = self._sent = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.greeting: asyncio.Future[ConnectResponse] = self._loop.create_future()
        self.pending: deque[_Call] = deque()
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, payload: bytes) -> None:
        self._sent = self._loop.time()
        self._transport.write(_LENGTH.pack(len(payload)) + payload)

    def abort(self) -> None:
        """Without a word, and not counted as lost."""
        self._end(ConnectionLost())
        self._transport.abort()

    def keep_alive(self, timeout_s: float) -> None:
        """Pings when there is nothing else to say, and no more patience than Java's client has:
        two thirds of the timeout.
        """
        now = self._loop.time()
        if (
            self._heard
            and now - self._heard > timeout_s * 2 / 3
            and (self.pending or self._sent > self._heard)
        ):
            self._lost()
            return
        if now - self._sent >= timeout_s / 3:
            self.send(encode_request(opcodes.PING_XID, opcodes.PING, Empty()))
        self._timer = self._loop.call_later(timeout_s / 6, self.keep_alive, timeout_s)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        buffer = self._buffer
        buffer += data
        pos = 0
        try:
            while len(buffer) - pos >= 4 and not self.ended:
                length = _LENGTH.unpack_from(buffer, pos)[0]
                if not 0 <= length <= _MAX_FRAME:
                    raise WireError(f"a frame of {length} bytes")
                if len(buffer) - pos - 4 < length:
                    break
                self._frame(bytes(buffer[pos + 4 : pos + 4 + length]))
                pos += 4 + length
        except WireError:
            self._lost()
        del buffer[:pos]

    def _frame(self, payload: bytes) -> None:
        if not self.greeting.done():
            self.greeting.set_result(ConnectResponse.decode(payload))
            return
        header, pos = ReplyHeader.decode_from(payload, 0, len(payload))
        if header.xid == opcodes.WATCH_XID:
            self._session.fired(WatcherEvent.decode(payload[pos:]))
            return
        if header.zxid > 0:
            self._session.last_zxid = max(self._session.last_zxid, header.zxid)
        if header.xid in (opcodes.PING_XID, opcodes.SET_WATCHES_XID):
            return
        if not self.pending or self.pending[0].xid != header.xid:
            raise WireError(f"a reply to xid {header.xid}, which is not the next")
        call = self.pending.popleft()
        body: Body | None = None
        try:
            header, body = decode_reply(call.number, payload)
        except WireError:
            self.pending.appendleft(call)
            raise
        self._session.replied(call, header, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    def _lost(self) -> None:
        if not self.ended:
            self._end(ConnectionLost())
            self._transport.abort()
            self._session.lost(self)

    def _end(self, reason: Exception) -> None:
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        if not self.greeting.done():
            self.greeting.set_exception(reason)
            # Who connects may have given up already.
            self.greeting.exception()
        for call in self.pending:
            if not call.future.done():
                call.future.set_exception(reason)
                call.future.exception()
        self.pending.clear()
