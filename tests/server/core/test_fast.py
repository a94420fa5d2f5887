"""The short way and the long way: same replies, same events, same txns, byte for byte."""

from __future__ import annotations

import random
import struct

import pytest

from tests.server.core.harness import OPEN, World
from tests.server.operations import NUMBER, Operations
from zktrace.wire.message import encode_request
from zktrace.wire.records import (
    ConnectRequest,
    CreateRequest,
    PathWatchRequest,
    SetDataRequest,
)
from zktrace_server.core.connection import Connection
from zktrace_server.core.fast import Fast
from zktrace_server.core.server import Server
from zktrace_server.core.tree import DataTree

CLIENTS = 3


class Way:
    """A server, its clients, and everything that it said and logged."""

    def __init__(self, fast: bool) -> None:
        world = World()
        self.tree = DataTree(extended=True)
        self.server = Server(world.settings, self.tree, {}, fast=fast)
        self.server.start(world.server.wall_ms, world.server.now_ms)
        self.clients = [self._client() for _ in range(CLIENTS)]
        self.log: list[bytes] = []

    def _client(self) -> Connection:
        connection = self.server.connect("127.0.0.1")
        request = ConnectRequest(0, 0, 30_000, 0, bytes(16), False)
        self.server.receive(connection, framed(request.encode()))
        return connection

    def feed(self, index: int, pieces: list[bytes]) -> list[bytes]:
        """What all clients are sent for these bytes of one of them."""
        client = self.clients[index]
        if client not in self.server.connections:
            return []
        for piece in pieces:
            self.server.receive(client, piece)
        self.log += self.server.take_log()
        said = [b"".join(c.out) for c in self.clients]
        for c in self.clients:
            c.out.clear()
        return said


def framed(payload: bytes) -> bytes:
    return struct.pack(">i", len(payload)) + payload


def simple(ops: Operations) -> bytes:
    """A request that has a short way, mostly."""
    r = ops.random
    path = ops.path() if r.random() < 0.2 else "/" + r.choice("abc") * r.choice((1, 1, 2))
    match r.randrange(5):
        case 0:
            body: object = CreateRequest(path, ops.data(), OPEN, r.choice((0, 0, 1, 2)))
            return encode_request(1, NUMBER["create"], body)  # type: ignore[arg-type]
        case 1:
            version = r.choice((-1, -1, 0, 1))
            return encode_request(2, NUMBER["setData"], SetDataRequest(path, ops.data(), version))
    kind = NUMBER[r.choice(("getData", "exists", "getChildren", "getChildren2"))]
    return encode_request(3, kind, PathWatchRequest(path, r.random() < 0.1))


def cut(data: bytes, r: random.Random) -> list[bytes]:
    """The same bytes in pieces."""
    places = sorted(r.randrange(len(data)) for _ in range(r.randrange(3)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if b > a]


@pytest.mark.parametrize("seed", range(10))
def test_both_ways_are_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0
    take = Fast.take

    def counted(self: Fast, connection: Connection, data: bytes, pos: int, end: int) -> int:
        nonlocal taken
        before = connection.received
        after = take(self, connection, data, pos, end)
        taken += connection.received - before
        return after

    monkeypatch.setattr(Fast, "take", counted)
    ops = Operations(seed, old=False)
    short, long = Way(fast=True), Way(fast=False)
    for _ in range(600):
        payloads = []
        for _ in range(ops.random.choice((1, 2, 8))):
            if ops.random.random() < 0.7:
                payloads.append(simple(ops))
            else:
                payloads.append(ops.payload(4, *ops.one()))
        pieces = cut(b"".join(map(framed, payloads)), ops.random)
        index = ops.random.randrange(CLIENTS)
        assert short.feed(index, pieces) == long.feed(index, pieces)
    assert short.log == long.log
    assert short.tree.tree_digest == long.tree.tree_digest
    assert [c.received for c in short.clients] == [c.received for c in long.clients]
    assert taken > 200  # else little was compared


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from zktrace_server.core import replies

    monkeypatch.setattr(replies, "MAX_REPLIES", 10)
    world = World()
    client = world.client()
    for i in range(30):
        client.create(f"/{i}", b"x" * i)
    for _ in range(2):
        for i in range(30):
            assert client.get(f"/{i}").data == b"x" * i
            assert len(world.tree.replies.bodies) <= 10
