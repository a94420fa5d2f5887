"""A server without sockets, clocks or disk, and clients that speak to it."""

from __future__ import annotations

import struct
from typing import Any, Final

from zktrace.wire.message import Body, decode_reply, encode_request
from zktrace.wire.opcodes import AUTH_XID, BY_NAME, WATCH_XID
from zktrace.wire.records import (
    ACL,
    AuthPacket,
    ConnectRequest,
    ConnectResponse,
    CreateRequest,
    Empty,
    Id,
    PathRequest,
    PathVersionRequest,
    PathWatchRequest,
    ReplyHeader,
    SetDataRequest,
    Stat,
    WatcherEvent,
)
from zktrace_server.core.connection import Connection
from zktrace_server.core.server import Server
from zktrace_server.core.settings import Settings
from zktrace_server.core.tree import DataTree

OPEN: Final = [ACL(31, Id("world", "anyone"))]
_LENGTH: Final = struct.Struct(">i")
#: Whatever the clock says.
WALL_MS: Final = 1_700_000_000_000
NOW_MS: Final = 5_000_000


class Refusal(AssertionError):
    """A reply says that it is an error: `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class World:
    """The server, and its time."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**{"tick_ms": 2000, "extended_types": True, **settings})
        self.tree = DataTree(self.settings.extended_types)
        self.server = Server(self.settings, self.tree, {})
        self.server.start(WALL_MS, NOW_MS)

    def pass_time(self, ms: int) -> None:
        """The clocks go on, and what is due happens."""
        server = self.server
        server.set_time(server.wall_ms + ms, server.now_ms + ms)
        server.tick()

    def client(self, timeout_ms: int = 10_000, **how: Any) -> Client:
        return Client(self, timeout_ms, **how)


class Client:
    """One connection. `response` is None where the server closed instead."""

    def __init__(
        self,
        world: World,
        timeout_ms: int,
        *,
        session_id: int = 0,
        password: bytes = bytes(16),
        address: str = "127.0.0.1",
    ) -> None:
        self.world = world
        self.connection: Connection = world.server.connect(address)
        self.events: list[tuple[int, str | None, int]] = []
        self._xid = 0
        request = ConnectRequest(0, 0, timeout_ms, session_id, password, False)
        self.feed(_framed(request.encode()))
        self.response = ConnectResponse.decode(self.frames()[0])

    def feed(self, data: bytes) -> None:
        self.world.server.receive(self.connection, data)

    def frames(self) -> list[bytes]:
        """What was sent since the last call."""
        data = b"".join(self.connection.out)
        self.connection.out.clear()
        got, pos = [], 0
        while pos < len(data):
            end = pos + 4 + _LENGTH.unpack_from(data, pos)[0]
            got.append(data[pos + 4 : end])
            pos = end
        return got

    def hear(self) -> list[tuple[int, str | None, int]]:
        """(type, path, zxid) of the events since the last call."""
        for payload in self.frames():
            self._event(payload)
        heard, self.events = self.events, []
        return heard

    def _event(self, payload: bytes) -> None:
        header, pos = ReplyHeader.decode_from(payload, 0, len(payload))
        assert header.xid == WATCH_XID
        event = WatcherEvent.decode(payload[pos:])
        self.events.append((event.type, event.path, header.zxid))

    def ask(self, name: str, body: Body | None = None, xid: int | None = None) -> Any:
        """Body of the reply; Refusal if there is none but an error."""
        if xid is None:
            self._xid += 1
            xid = self._xid
        number = BY_NAME[name].number
        self.feed(_framed(encode_request(xid, number, body or Empty())))
        frames = self.frames()
        for payload in frames[:-1]:
            self._event(payload)
        header, answer = decode_reply(number, frames[-1])
        assert header.xid == xid
        if header.err:
            raise Refusal(header.err)
        return answer

    def create(self, path: str, data: bytes = b"", flags: int = 0, acl: Any = None) -> str:
        body = CreateRequest(path, data, OPEN if acl is None else acl, flags)
        created: str = self.ask("create", body).created_path
        return created

    def delete(self, path: str, version: int = -1) -> None:
        self.ask("delete", PathVersionRequest(path, version))

    def set(self, path: str, data: bytes, version: int = -1) -> Stat:
        stat: Stat = self.ask("setData", SetDataRequest(path, data, version)).stat
        return stat

    def get(self, path: str, watch: bool = False) -> Any:
        return self.ask("getData", PathWatchRequest(path, watch))

    def exists(self, path: str, watch: bool = False) -> Stat:
        stat: Stat = self.ask("exists", PathWatchRequest(path, watch)).stat
        return stat

    def children(self, path: str, watch: bool = False) -> list[str]:
        children: list[str] = self.ask("getChildren", PathWatchRequest(path, watch)).children
        return children

    def acl(self, path: str) -> list[ACL]:
        acl: list[ACL] = self.ask("getACL", PathRequest(path)).acl
        return acl

    def auth(self, credential: bytes, scheme: str = "digest") -> None:
        self.ask("auth", AuthPacket(0, scheme, credential), AUTH_XID)

    def leave(self) -> None:
        """The socket is closed."""
        self.world.server.disconnect(self.connection)


def _framed(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload
