"""ZooKeeper exchanges over a network with losses, and the truth about them at a capture point.

The conversation is decided by a seed, its packets by `tests.support.network`. The truth is what a
capture that lost nothing shows: an exchange's request is complete when the last of its bytes passed
for the first time, its latency ends when the first byte of its reply did.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests.support import net, zk
from tests.support.network import MS, US, Path, Wire
from tests.support.pcapio import Record
from tests.support.truth import Truth

Row = dict[str, Any]
_START = 1_700_000_000 * 10**9
_SERVER = ("10.3.0.9", 2181)


@dataclass(slots=True)
class Asked:
    """An exchange: places of its frames in the streams."""

    row: Row
    request: tuple[int, int]
    reply: tuple[int, int] | None = None


@dataclass(slots=True)
class Setting:
    """How a capture is to be: losses of the network on each side of the capture point, how packets
    are numbered, IPv6, at which end the capture runs (0 client, 1 server, None between).
    """

    loss: float = 0.02
    numbering: str = "counted"
    v6: bool = False
    near: int | None = None


@dataclass(slots=True)
class Chat:
    """One connection in the making."""

    rng: random.Random
    wire: Wire
    flow: str
    asked: list[Asked] = field(default_factory=list)
    waiting: list[tuple[Asked, bytes]] = field(default_factory=list)
    xid: int = 0
    zxid: int = 0x100000000
    busy_until: int = 0
    taken: int = 0
    buffer: bytearray = field(default_factory=bytearray)
    left: int = 0
    depth: int = 1
    pause: int = 0
    service: tuple[int, int] = (100 * US, 5 * MS)

    def begin(self) -> None:
        client, server = self.wire.ends
        server.on_data = self.at_server
        client.on_data = self.at_client
        payload = zk.connect_request()
        row = {"op": "connect", "opcode": -10, "xid": None, "path": None}
        answer = zk.connect_response(session=0x1000_0000_0000_0001 + self.rng.randrange(9999))
        self.ask(self.wire.now, row, payload, answer, {"zxid": None})

    def ask(self, now: int, row: Row, payload: bytes, answer: bytes, told: Row) -> None:
        client = self.wire.ends[0]
        frame = zk.frame(payload)
        made: Row = {"flow": self.flow, "error": 0, "request_bytes": len(payload)} | row | told
        made["reply_bytes"] = len(answer)
        made["state"] = "complete"
        one = Asked(made, (client.nxt, client.nxt + len(frame)))
        self.asked.append(one)
        self.waiting.append((one, zk.frame(answer)))
        client.write(now, frame)

    def at_server(self, now: int, data: bytes) -> None:
        self.taken += len(data)
        for one, answer in list(self.waiting):
            if one.request[1] > self.taken:
                break
            self.waiting.pop(0)
            low, high = self.service
            done = max(now, self.busy_until) + self.rng.randrange(low, high)
            self.busy_until = done
            self.wire.at(done, self.respond, one, answer)

    def respond(self, now: int, one: Asked, answer: bytes) -> None:
        server = self.wire.ends[1]
        one.reply = (server.nxt, server.nxt + len(answer))
        server.write(now, answer)

    def at_client(self, now: int, data: bytes) -> None:
        self.buffer += data
        while len(self.buffer) >= 4:
            length = int.from_bytes(self.buffer[:4], "big")
            if len(self.buffer) < 4 + length:
                break
            del self.buffer[: 4 + length]
            self.wire.at(now + self.think(), self.next_request)

    def think(self) -> int:
        if self.pause and self.rng.random() < 0.5:
            return self.rng.randrange(self.pause)
        return self.rng.randrange(20 * US, 2 * MS)

    def next_request(self, now: int) -> None:
        count = 1 if self.rng.random() < 0.8 else self.depth
        for _ in range(min(count, self.left)):
            self.left -= 1
            self.request(now)
        if self.rng.random() < 0.05:
            self.wire.at(now + self.rng.randrange(50, 400) * MS, self.wire.ends[0].keepalive)
            self.wire.at(now + self.rng.randrange(50, 400) * MS, self.wire.ends[1].keepalive)

    def request(self, now: int) -> None:
        rng = self.rng
        kind = rng.choice((zk.PING, zk.GET_DATA, zk.GET_DATA, zk.SET_DATA, zk.EXISTS))
        if kind == zk.PING:
            row = {"op": "ping", "opcode": zk.PING, "xid": -2, "path": None}
            self.ask(now, row, zk.request(-2, kind), zk.reply(-2, self.zxid), {"zxid": self.zxid})
            return
        self.xid += 1
        self.zxid += 1
        path = f"/app/{rng.randrange(50)}/node"
        data = rng.randbytes(rng.choice((0, 10, 200, 3000)))
        stat = zk.stat(czxid=self.zxid, data_length=len(data))
        body, answer, error = zk.path_watch(path), stat, 0
        if kind == zk.SET_DATA:
            body = zk.set_data(path, data)
        elif kind == zk.GET_DATA:
            answer = zk.buffer(data) + stat
        elif rng.random() < 0.3:
            answer, error = b"", -101
        row = {"op": zk.op_name(kind), "opcode": kind, "xid": self.xid, "path": path}
        payload = zk.reply(self.xid, self.zxid, error, answer)
        told = {"zxid": self.zxid, "error": error}
        self.ask(now, row, zk.request(self.xid, kind, body), payload, told)

    def truth(self) -> list[Row]:
        """Exchanges of which all passed the capture point; those of which a part did, too."""
        requests, replies = self.wire.first
        rows = []
        for one in self.asked:
            row = dict(one.row)
            times = [requests.get(off) for off in range(*one.request)]
            known = [at for at in times if at is not None]
            row["ts_ns"] = max(known) if len(known) == len(times) else None
            first = None if one.reply is None else replies.get(one.reply[0])
            if first is None:
                row["state"] = "no_reply"
            elif row["ts_ns"] is not None:
                row["latency_ns"] = first - row["ts_ns"] if first >= row["ts_ns"] else None
            row.setdefault("latency_ns", None)
            rows.append(row)
        return rows


def converse(rng: random.Random, setting: Setting, number: int, requests: int) -> Chat:
    """One connection, from its handshake until all is said."""
    v6 = setting.v6
    client = (f"fd00::{number + 1:x}" if v6 else f"10.3.1.{number + 1}", 40_000 + number)
    server = ("fd00::9:9", 2181) if v6 else _SERVER
    delay = rng.choice((100 * US, 400 * US, 2 * MS, 10 * MS))
    halves = [delay, rng.choice((50 * US, delay))]
    rng.shuffle(halves)
    losses = [setting.loss / 2, setting.loss / 2]
    if setting.near is not None:
        halves[setting.near], losses[setting.near] = 2 * US, 0.0
        losses[1 - setting.near] = setting.loss
    first, second = (Path(at, loss, at // 4) for at, loss in zip(halves, losses, strict=True))
    start = _START + number * 3 * MS
    wire = Wire(rng, client, server, (first, second), numbering=setting.numbering, start=start)
    chat = Chat(rng, wire, f"{net.show(client)}>{net.show(server)}")
    chat.left = requests
    chat.depth = rng.choice((1, 3, 10))
    chat.pause = rng.choice((0, 50 * MS, 500 * MS))
    chat.service = rng.choice(((100 * US, MS), (100 * US, 20 * MS), (MS, 300 * MS)))
    chat.begin()
    wire.run()
    return chat


def make(
    seed: int | str, setting: Setting, connections: int = 6, requests: int = 60
) -> tuple[list[Record], Truth]:
    """What a perfect capture holds, in order of time, and the truth about it."""
    rng = random.Random(seed)
    chats = [converse(rng, setting, number, requests) for number in range(connections)]
    segs = [seg for chat in chats for seg in chat.wire.passed]
    segs.sort(key=lambda seg: seg.ts_ns)
    truth = Truth(exchanges=[row for chat in chats for row in chat.truth()])
    return [net.record(seg) for seg in segs], truth


def lose(records: list[Record], rng: random.Random, share: float) -> list[Record]:
    """What is left by a capture point that loses packets, whichever they are."""
    return [record for record in records if rng.random() >= share]
