"""The stand-in at a socket: frames in, frames out, time; and other servers for what it passes on.

One asyncio loop for all clients: what one of them asks for is done before the next one is looked
at. `ruok` is answered, other four-letter words are not.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Sequence
from typing import Final

from zktrace.wire.fourletter import WORDS
from zktrace.wire.jute import WireError
from zktrace.wire.message import frame
from zktrace.wire.opcodes import PING, PING_XID, WATCH_XID
from zktrace.wire.records import ConnectRequest, ConnectResponse, ReplyHeader
from zktrace_proxy.replay.live import PING_FRAME, Wire, open_wire, reason
from zktrace_proxy.replay.plan import Plan
from zktrace_proxy.replay.standin.model import MAX_FRAME, Connection, Model, Refused, State
from zktrace_proxy.replay.standin.playing import Otherwise, Player, Stage
from zktrace_proxy.replay.standin.script import script

_LENGTH: Final = struct.Struct(">i")
_TICK_S: Final = 0.25
_WATCH: Final = WATCH_XID.to_bytes(4, "big", signed=True)
_PING: Final = struct.pack(">ii", PING_XID, PING)
_CONNECTION_LOSS: Final = -4
#: For another server to answer what is passed on.
_FORWARD_S: Final = 30.0


class StandIn:
    """`faithful`: connections that were lost in the recording are lost again. `forward`: where
    unrecognised requests go (`otherwise` is Otherwise.forward then).
    """

    def __init__(
        self,
        plan: Plan,
        *,
        clients: Sequence[str] = (),
        otherwise: Otherwise = Otherwise.model,
        forward: tuple[str, int] | None = None,
        faithful: bool = True,
    ) -> None:
        self.model = Model(*_clocks())
        part = script(plan, clients)
        self.stage = Stage(plan, part, self.model, otherwise, faithful=faithful)
        self.forward = forward
        self.address: tuple[str, int] = ("", 0)
        self._server: asyncio.Server | None = None
        self._clients: dict[Connection, Client] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listens; `address` says where. OSError: it cannot."""
        self._server = await asyncio.start_server(self._accept, host, port)
        name = self._server.sockets[0].getsockname()
        self.address = (name[0], name[1])
        self._ticking = asyncio.ensure_future(self._tick())

    async def stop(self) -> None:
        """Closes all connections."""
        if self._server is not None:
            self._server.close()
        if self._ticking is not None:
            self._ticking.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(Client(self, reader, writer).run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self.set_time()
            self.stage.tick()
            self.flush()

    def set_time(self) -> None:
        self.model.server.set_time(*_clocks())

    def add(self, client: Client) -> None:
        """A connection of the tree's is this client's."""
        self._clients[client.connection] = client

    def remove(self, client: Client) -> None:
        """Its socket is closed."""
        self._clients.pop(client.connection, None)
        self.model.server.disconnect(client.connection)

    def flush(self) -> None:
        """Sends what the tree has to say, to whom it may be."""
        dirty, self.model.server.dirty = self.model.server.dirty, {}
        for connection in dirty:
            client = self._clients.get(connection)
            if client is not None:
                client.flush()


class Client:
    """One connection."""

    def __init__(
        self, of: StandIn, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._of = of
        self._reader = reader
        self._writer = writer
        peer = writer.get_extra_info("peername") or ("", 0)
        self.connection = of.model.connect(peer[0])
        self._task: asyncio.Task[None] | None = None
        self._player: Player | None = None
        self._elsewhere: Elsewhere | None = None

    async def run(self) -> None:
        """Until either side closes it."""
        self._task = asyncio.current_task()
        self._of.add(self)
        try:
            await self._requests()
        except (asyncio.IncompleteReadError, OSError, Refused):
            pass  # the client has gone, or was told to go
        finally:
            self._of.remove(self)
            if self._elsewhere is not None:
                self._elsewhere.close()
            self._writer.close()

    async def _requests(self) -> None:
        first = await self._reader.readexactly(4)
        if first in WORDS:
            self._writer.write(b"imok" if first == b"ruok" else b"")
            return
        while True:
            length = _LENGTH.unpack(first)[0]
            if not 0 <= length <= MAX_FRAME:
                return
            payload = await self._reader.readexactly(length)
            self._of.set_time()
            if self.connection.state is State.NEW:
                self._connect(payload)
            elif self.connection.state is State.OPEN and len(payload) >= 8:
                await self._request(payload)
            self._of.flush()
            await self._writer.drain()
            ending = self.connection.state is State.ENDING
            if ending or (self._player is not None and self._player.cut):
                return
            first = await self._reader.readexactly(4)

    def _connect(self, payload: bytes) -> None:
        stage = self._of.stage
        try:
            request = ConnectRequest.decode_from(payload, 0, len(payload))[0]
        except WireError:
            raise Refused("no ConnectRequest") from None
        if request.session_id:
            stage.connecting(request.session_id)
        answer = self._of.model.begin_session(self.connection, payload)
        if self.connection.state is State.OPEN:
            self._player = stage.connected(self.connection)
        self._of.model.say(self.connection, answer)

    async def _request(self, payload: bytes) -> None:
        assert self._player is not None
        model = self._of.model
        if payload[:8] == _PING:
            model.say(self.connection, model.ask(self.connection, payload))
            if self._elsewhere is not None:
                self._elsewhere.ping()
        elif not self._of.stage.request(self._player, payload):
            self._of.flush()
            model.say(self.connection, await self._passed_on(payload))

    async def _passed_on(self, payload: bytes) -> bytes:
        assert self._of.forward is not None
        if self._elsewhere is None:
            self._elsewhere = Elsewhere(self._of.forward, self._writer)
        try:
            return await self._elsewhere.ask(payload)
        except (OSError, TimeoutError):
            xid = int.from_bytes(payload[:4], "big", signed=True)
            return ReplyHeader(xid, 0, _CONNECTION_LOSS).encode()

    def flush(self) -> None:
        """Sends what is in the connection's `out`; closes it if the tree says so."""
        out = self.connection.out
        if out:
            self._writer.write(b"".join(out))
            out.clear()
        if self.connection.state is State.ENDING and self._task is not asyncio.current_task():
            assert self._task is not None
            self._task.cancel()


class Elsewhere:
    """A session on another server, for one client's requests that are passed on. Its watch events
    go to that client.
    """

    def __init__(self, address: tuple[str, int], client: asyncio.StreamWriter) -> None:
        self._address = address
        self._client = client
        self._wire: Wire | None = None
        self._answers: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._why = ""

    async def ask(self, payload: bytes) -> bytes:
        """The other server's answer. OSError, TimeoutError where there is none."""
        if self._wire is None:
            await self._open()
        assert self._wire is not None
        self._wire.send(frame(payload))
        while True:
            answer = await self._next()
            if answer[:4] == payload[:4]:
                return answer

    async def _open(self) -> None:
        try:
            wire = await open_wire(self._address, _FORWARD_S, self._take, self._lost)
        except OSError as error:
            raise ConnectionError(reason(error)) from None
        wire.send(frame(ConnectRequest(0, 0, 30_000, 0, bytes(16), False).encode()))
        try:
            response = ConnectResponse.decode(await self._next())
        except WireError:
            raise ConnectionError("it grants no session") from None
        if not response.session_id:
            raise ConnectionError("it grants no session")
        self._wire = wire

    async def _next(self) -> bytes:
        payload = await asyncio.wait_for(self._answers.get(), _FORWARD_S)
        if payload is None:
            self._wire = None
            raise ConnectionError(self._why)
        return payload

    def _take(self, frames: list[bytes]) -> None:
        for payload in frames:
            if payload[:4] == _WATCH:
                self._client.write(frame(payload))
            elif payload[:4] != _PING[:4]:
                self._answers.put_nowait(payload)

    def _lost(self, why: str) -> None:
        self._why = why
        self._answers.put_nowait(None)

    def ping(self) -> None:
        """Keeps the session alive."""
        if self._wire is not None:
            self._wire.send(PING_FRAME)

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()


def _clocks() -> tuple[int, int]:
    return int(time.time() * 1000), int(time.monotonic() * 1000)
