"""Whatever bytes come: an answer or a closed connection, no other session harmed, nothing unsound
logged.
"""

from __future__ import annotations

import random
import struct

import pytest

from tests.server.core.harness import World
from tests.server.operations import Operations
from zktrace.wire.txn import Transaction
from zktrace_server.core.connection import Connection, State
from zktrace_server.core.server import Refused


def mutated(data: bytes, r: random.Random) -> bytes:
    """Some bytes other, fewer or more."""
    changed = bytearray(data)
    for _ in range(r.choice((0, 1, 1, 3))):
        at = r.randrange(len(changed) + 1)
        match r.randrange(4):
            case 0:
                changed[at : at + 1] = bytes([r.randrange(256)])
            case 1:
                del changed[at : at + r.choice((1, 4, 50))]
            case 2:
                changed[at:at] = r.randbytes(r.choice((1, 4)))
            case 3:
                number = r.choice((-1, -2, 0, 0x7FFFFFFF, -0x80000000, 1 << 20, 3))
                changed[at : at + 4] = struct.pack(">i", number)
    return bytes(changed)


@pytest.mark.parametrize("seed", range(8))
def test_mutated_requests(seed: int) -> None:
    world = World()
    honest = world.client(timeout_ms=60_000)
    honest.create("/honest", b"data")
    ops = Operations(seed, old=False)
    r = ops.random
    closed = answered = 0
    for _ in range(150):
        guest = world.client().connection
        for _ in range(r.randrange(1, 12)):
            payload = mutated(ops.payload(1, *ops.one()), r)
            length = len(payload) if r.random() < 0.97 else r.randrange(-5, 200)
            answered += feed(world, guest, struct.pack(">i", length) + payload, r)
        closed += guest.state is State.ENDING
        world.server.disconnect(guest)
        for data in world.server.take_log():
            assert Transaction.decode(data).encode() == data
    assert closed > 5
    assert answered > 200
    assert honest.exists("/").num_children >= 1
    assert world.server.preparer.zxid == world.tree.last_zxid


def feed(world: World, guest: Connection, data: bytes, r: random.Random) -> int:
    """The number of frames that came back."""
    pieces = [data] if r.random() < 0.7 else [data[: len(data) // 2], data[len(data) // 2 :]]
    for piece in pieces:
        try:
            world.server.receive(guest, piece)
        except Refused:
            assert guest.state is State.ENDING
    count = len(guest.out)
    guest.out.clear()
    return count


@pytest.mark.parametrize("seed", range(4))
def test_noise(seed: int) -> None:
    """Also as the first bytes of a connection."""
    world = World()
    r = random.Random(seed)
    for _ in range(200):
        guest = world.server.connect("10.0.0.1")
        size = r.randrange(60)
        framed = struct.pack(">i", size) if r.random() < 0.8 else b""
        feed(world, guest, framed + r.randbytes(size), r)
        world.server.disconnect(guest)
    assert world.client().children("/") == ["zookeeper"]
    assert len(world.server.connections) == 1


def test_the_beginning_of_a_frame_takes_no_more_than_its_bytes() -> None:
    world = World()
    guest = world.client().connection
    world.server.receive(guest, struct.pack(">i", world.settings.max_buffer))
    for _ in range(1000):
        world.server.receive(guest, b"x")
    assert len(guest.rest) == 1004
    assert guest.out == [] or len(guest.out) == 1
