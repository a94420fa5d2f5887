"""A client in the simulation: a session that moves from server to server, does a few things at a
time, and writes down what it saw (`history.Op`).

It speaks bytes, as any client. Values are all different. Watch events are recorded in the place
where they came.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from zktrace.wire.records import (
    ACL,
    ConnectRequest,
    ConnectResponse,
    CreateRequest,
    GetDataResponse,
    Id,
    PathRequest,
    PathWatchRequest,
    SetDataRequest,
    StatResponse,
    WatcherEvent,
)
from zktrace_server.core import request as op
from zktrace_server.core.connection import Connection as ServerSide
from zktrace_server.sim.history import EVENT, READ, SYNC, WRITE, Op
from zktrace_server.sim.node import Node
from zktrace_server.sim.world import Connection, World

PATHS = ("/a", "/b", "/c")
_OPEN = [ACL(31, Id("world", "anyone"))]
_REPLY = struct.Struct(">iqi")
#: Most operations under way.
_PIPELINE = 3
_OK = 0
_EXPIRED = -112
_MOVED = -118


@dataclass(slots=True)
class _Asked:
    """What waits for its reply."""

    op: Op
    kind: int
    xid: int


class Client:
    """`number` is its host, beyond those of servers. It stops asking when `quiet` is set."""

    def __init__(
        self,
        world: World,
        number: int,
        nodes: list[Node],
        record: Callable[[Op], None],
        timeout_ms: int,
    ) -> None:
        self.world = world
        self.number = number
        self.quiet = False
        #: Mean time between two things that it does, in microseconds.
        self.pace_us = 20_000
        self.session = 0
        #: Whether it can live with a server that has no leader, and whether it has one now.
        self.can_read_only = self._read_only = False
        #: Whether sessions may be one server's own: their end is no txn then.
        self.private = False
        #: Ephemerals that it made in the present session and knows to be there.
        self.ephemerals: set[str] = set()
        self.last_zxid = 0
        self.answers = 0
        self._nodes = nodes
        self._record = record
        self._timeout_ms = timeout_ms
        self._password = bytes(16)
        self._connection: Connection | None = None
        self._server: tuple[Node, ServerSide] | None = None
        self._buffer = b""
        self._open = False
        self._under_way: deque[_Asked] = deque()
        self._xid = 0
        self._order = 0
        self._value = 0
        self._heard_us = 0
        self._generation = 0
        self._sync_asked: int | None = None
        world.after(world.chance.randrange(10_000, 400_000), self._turn)

    def under_way(self) -> list[Op]:
        """What was asked and is not answered."""
        return [asked.op for asked in self._under_way]

    # --- connections --------------------------------------------------------------------------

    def _turn(self) -> None:
        """Something to do now and then."""
        world = self.world
        if self._connection is None:
            self._connect()
        elif world.now_us - self._heard_us > self._timeout_ms * 700:
            self._drop()
        elif self._open:
            if not self.quiet and len(self._under_way) < _PIPELINE:
                self._ask_something()
            elif not self._under_way:
                self._send(-2, op.PING, b"")
        # Its session must not end for its own silence: all that it says is said in turns.
        pace = (
            min(self.pace_us, self._timeout_ms * 300) if not self.quiet else self._timeout_ms * 200
        )
        world.after(world.chance.randrange(pace // 10, pace * 2), self._turn)

    def _connect(self) -> None:
        node = self.world.chance.choice(self._nodes)
        self._heard_us = self.world.now_us
        self._generation += 1
        generation = self._generation
        world = self.world

        def arrived(data: bytes | None) -> None:
            if generation == self._generation:
                self._arrived(data)

        def at_server(data: bytes | None) -> None:
            if self._server is not None and generation == self._generation:
                node.client_received(self._server[1], data)
            elif data is None or generation != self._generation:
                side = sides.get(0)
                if side is not None:
                    node.client_received(side, None)

        sides: dict[int, ServerSide] = {}
        connection = Connection(world, self.number, node.sid, arrived, at_server)
        if world.blocked(self.number, node.sid) or world.blocked(node.sid, self.number):
            return
        side = node.accept_client(connection)
        if side is None:
            return
        sides[0] = side
        self._connection, self._server = connection, (node, side)
        self._buffer = b""
        self._open = False
        request = ConnectRequest(
            0,
            self.last_zxid,
            self._timeout_ms,
            self.session,
            self._password,
            self.can_read_only,
        ).encode()
        connection.to_b.send(len(request).to_bytes(4, "big") + request)

    def _drop(self) -> None:
        """The connection is no good."""
        connection, self._connection = self._connection, None
        self._generation += 1
        if connection is not None:
            connection.to_b.send(None)
        self._server = None
        self._open = False
        self._sync_asked = None
        for asked in self._under_way:
            self._record(asked.op)
        self._under_way.clear()

    def _arrived(self, data: bytes | None) -> None:
        if data is None:
            self._drop()
            return
        self._heard_us = self.world.now_us
        self._buffer += data
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if len(self._buffer) < 4 + length:
                return
            frame, self._buffer = self._buffer[4 : 4 + length], self._buffer[4 + length :]
            if self._open:
                self._reply(frame)
            else:
                self._welcomed(frame)
            if self._connection is None:
                return

    def _welcomed(self, frame: bytes) -> None:
        response = ConnectResponse.decode_from(frame, 0, len(frame))[0]
        if response.timeout_ms <= 0:
            self.session = 0
            self._password = bytes(16)
            self.ephemerals.clear()
            self.last_zxid = 0
            self._order = 0
            self._drop()
            return
        self._open = True
        self._read_only = bool(response.read_only)
        if self._read_only and not self.can_read_only:
            raise AssertionError(f"client {self.number}: given a read-only server")
        self.session = response.session_id
        self._password = response.password or b""

    # --- asking -------------------------------------------------------------------------------

    def _send(self, xid: int, kind: int, body: bytes) -> None:
        if self._connection is not None:
            head = struct.pack(">iii", 8 + len(body), xid, kind)
            self._connection.to_b.send(head + body)

    def _ask(self, kind: int, what: str, path: str, body: bytes, value: bytes | None) -> Op:
        self._xid += 1
        asked = Op(self.session, what, path, value, self.world.now_us, xid=self._xid)
        asked.connection = self._generation
        self._under_way.append(_Asked(asked, kind, self._xid))
        self._send(self._xid, kind, body)
        return asked

    def _ask_something(self) -> None:
        chance = self.world.chance
        path = chance.choice(PATHS)
        what = chance.random()
        if what < 0.45:
            self._value += 1
            value = b"%d:%d" % (self.number, self._value)
            if chance.random() < 0.1:
                body = CreateRequest(path, value, _OPEN, 0).encode()
                self._ask(op.CREATE, WRITE, path, body, value)
            else:
                self._ask(op.SET_DATA, WRITE, path, SetDataRequest(path, value, -1).encode(), value)
        elif what < 0.75:
            self._read(path, None)
        elif what < 0.9:
            self._ask(op.SYNC, SYNC, path, PathRequest(path).encode(), None)
            self._read(path, self.world.now_us)
        elif what < 0.97:
            name = f"/e{self.number}-{self._xid}"
            body = CreateRequest(name, b"", _OPEN, 1).encode()
            self._ask(op.CREATE, WRITE, name, body, None)
        elif self.ephemerals and what < 0.99:
            name = chance.choice(sorted(self.ephemerals))
            body = PathRequest(name).encode() + b"\xff\xff\xff\xff"
            self._ask(op.DELETE, WRITE, name, body, None)
        else:
            self._ask(op.CLOSE_SESSION, WRITE, "", b"", None)

    def _read(self, path: str, behind_sync: int | None) -> None:
        watch = self.world.chance.random() < 0.5
        asked = self._ask(op.GET_DATA, READ, path, PathWatchRequest(path, watch).encode(), None)
        asked.watch = watch
        asked.behind_sync = behind_sync

    # --- being answered -----------------------------------------------------------------------

    def _reply(self, frame: bytes) -> None:
        xid, zxid, err = _REPLY.unpack_from(frame, 0)
        body = frame[_REPLY.size :]
        self._order += 1
        if xid == -1:
            event = WatcherEvent.decode_from(body, 0, len(body))[0]
            now = self.world.now_us
            self._record(
                Op(self.session, EVENT, event.path or "", None, now, now, order=self._order)
            )
            return
        if not self._read_only:
            self.last_zxid = max(self.last_zxid, zxid)
        if xid == -2:
            return
        if not self._under_way or self._under_way[0].xid != xid:
            raise AssertionError(f"client {self.number}: reply to {xid} out of turn")
        asked = self._under_way.popleft()
        self.answers += 1
        done = asked.op
        done.order, done.zxid = self._order, zxid
        done.answered = self.world.now_us
        if self._read_only and err == _OK and done.kind == WRITE and done.path:
            raise AssertionError(f"client {self.number}: {done.path} written without a leader")
        if self._read_only or (self.private and asked.kind == op.CLOSE_SESSION):
            # What is shown without a leader may never have been committed.
            done.kind, done.behind_sync, done.watch = SYNC, None, False
        elif err != _OK:
            # Refused: it has a zxid, and its effect is none. A read of nothing shows no state.
            done.kind, done.behind_sync = SYNC, None
            done.watch = False
        elif asked.kind == op.GET_DATA:
            read = GetDataResponse.decode_from(body, 0, len(body))[0]
            done.value, done.mzxid = read.data, read.stat.mzxid
        elif asked.kind == op.SET_DATA:
            done.mzxid = StatResponse.decode_from(body, 0, len(body))[0].stat.mzxid
        elif done.kind == WRITE:
            done.mzxid = zxid
        if err == _OK and asked.kind == op.CREATE and done.path.startswith("/e"):
            self.ephemerals.add(done.path)
        elif asked.kind == op.DELETE:
            self.ephemerals.discard(done.path)
        self._record(done)
        if asked.kind == op.CLOSE_SESSION and err == _OK:
            self.session = 0
            self._password = bytes(16)
            self.ephemerals.clear()
            self.last_zxid = 0
            self._order = 0
            self._drop()
        elif err in (_EXPIRED, _MOVED):
            self._drop()
