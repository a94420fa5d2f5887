"""Clients with habits that ZooKeeper's own do not have, and connections that use ports again.

What a reply answers is told by its xid, as long as a client does not use one twice. Some do: always
the same, a few in turn, from the beginning again. And a client that comes back with the ports it
had, sequence numbers near the old ones, looks like the connection before it where the handshake was
not captured. Losses here come in bursts as well, so that all of that happens where nobody sees it.
A function of its seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Final

from tests.support import net, zk
from tests.support.pcapio import Record
from tests.support.talk import CLIENT, SERVER, Scene, Talk
from tests.support.truth import Truth

Row = dict[str, Any]


def _counting(rng: random.Random) -> Iterator[int]:
    first = rng.choice((1, 1, 1_700_000_000 + rng.randrange(100_000), 0x7FFFFFF0))
    return (_signed(first + step) for step in range(1 << 20))


def _constant(rng: random.Random) -> Iterator[int]:
    xid = rng.choice((0, 0, 1))
    return (xid for _ in range(1 << 20))


def _few(rng: random.Random) -> Iterator[int]:
    most = rng.choice((2, 3, 8))
    return (1 + step % most for step in range(1 << 20))


def _again(rng: random.Random) -> Iterator[int]:
    length = rng.choice((5, 20))
    return (1 + step % length for step in range(1 << 20))


def _signed(xid: int) -> int:
    return (xid & 0xFFFFFFFF) - (1 << 32 if xid & 0x80000000 else 0)


#: Of these nothing wrong may be shown. Of the others a loss may hide that an xid was used again for
#: the first time: nothing in what is left tells it.
SAFE: Final = ("counting", "constant")

HABITS: Final[dict[str, Callable[[random.Random], Iterator[int]]]] = {
    "counting": _counting,
    "constant": _constant,
    "few": _few,
    "again": _again,
}


def _connect(talk: Talk, rng: random.Random, rows: list[Row]) -> None:
    asked = zk.connect_request(timeout_ms=10_000)
    granted = zk.connect_response(session=0x1000_0000_0000_0001 + rng.randrange(1 << 30))
    ts = talk.send(CLIENT, zk.frame(asked))
    done = talk.send(SERVER, zk.frame(granted))
    row = {"op": "connect", "opcode": -10, "xid": None, "path": None, "error": 0, "zxid": None}
    row |= {"request_bytes": len(asked), "reply_bytes": len(granted)}
    rows.append(
        row | {"flow": talk.flow, "state": "complete", "ts_ns": ts, "latency_ns": done - ts}
    )


def _talk(
    talk: Talk, rng: random.Random, xids: Iterator[int], requests: int, zxid: int
) -> list[Row]:
    """One connection: requests, several at a time or not, answered in order."""
    rows: list[Row] = []
    talk.open()
    _connect(talk, rng, rows)
    depth = rng.choice((1, 2, 6))
    waiting: list[tuple[Row, bytes]] = []
    left = requests
    while left or waiting:
        if left and (not waiting or (len(waiting) < depth and rng.random() < 0.6)):
            left -= 1
            zxid += 1
            row, frame, answer = _exchange(rng, next(xids), zxid)
            row |= {"flow": talk.flow, "state": "no_reply", "latency_ns": None}
            row["ts_ns"] = talk.send(CLIENT, frame)
            rows.append(row)
            waiting.append((row, answer))
        else:
            row, answer = waiting.pop(0)
            row["latency_ns"] = talk.send(SERVER, answer) - row["ts_ns"]
            row["state"] = "complete"
            if rng.random() < 0.3:
                talk.ack(CLIENT)
    return rows


def _exchange(rng: random.Random, xid: int, zxid: int) -> tuple[Row, bytes, bytes]:
    path = f"/habits/{rng.randrange(1000)}"
    kind = rng.choice((zk.GET_DATA, zk.SET_DATA, zk.EXISTS))
    data = rng.randbytes(rng.choice((0, 10, 300)))
    body = zk.set_data(path, data) if kind == zk.SET_DATA else zk.path_watch(path)
    answer = zk.stat(czxid=zxid, data_length=len(data))
    if kind == zk.GET_DATA:
        answer = zk.buffer(data) + answer
    error = 0
    if kind == zk.EXISTS and rng.random() < 0.3:
        answer, error = b"", -101
    asked, replied = zk.request(xid, kind, body), zk.reply(xid, zxid, error, answer)
    row = {"op": zk.op_name(kind), "opcode": kind, "xid": xid, "path": path, "error": error}
    row |= {"zxid": zxid, "request_bytes": len(asked), "reply_bytes": len(replied)}
    return row, zk.frame(asked), zk.frame(replied)


def make(
    seed: int | str, habit: str, connections: int = 4, requests: int = 40
) -> tuple[list[Record], Truth]:
    """One client after another on the same ports: what a perfect capture holds, and the truth."""
    rng = random.Random(seed)
    scene = Scene()
    rows: list[Row] = []
    isn = (rng.getrandbits(32), rng.getrandbits(32))
    zxid = 0x100000000
    for _ in range(connections):
        talk = Talk(scene, isn=isn)
        rows += _talk(talk, rng, HABITS[habit](rng), requests, zxid)
        zxid += requests + rng.randrange(100)
        how = rng.random()
        if how < 0.4:
            talk.close()
        elif how < 0.7:
            talk.reset(rng.choice((CLIENT, SERVER)))
        scene.tick(rng.choice((10**6, 10**9, 60 * 10**9)))
        near = rng.choice((1 << 10, 1 << 20, 1 << 22, 1 << 27))
        isn = (talk.next[0] + rng.randrange(near), talk.next[1] + rng.randrange(near))
    return [net.record(seg) for seg in scene.segs], Truth(exchanges=rows)


def lose(records: list[Record], rng: random.Random, share: float) -> list[Record]:
    """Losses one by one and in bursts."""
    left: list[Record] = []
    burst = 0
    for record in records:
        if burst == 0 and rng.random() < share / 4:
            burst = rng.choice((3, 10, 40))
        if burst:
            burst -= 1
        elif rng.random() >= share:
            left.append(record)
    return left
