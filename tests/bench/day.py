"""Memory of ``zktrace serve`` over a day, under a scan, and with many of all; prints a table.

    python -m tests.bench.day [--hours 24] [--rate 20] [--scan 1000000] [--paths 1000000]

Each scene is a capture that this program writes into the server's standard input, its clock as
fast as the pipe takes it:

* day: ``rate`` requests each second of the capture; each minute ten sessions end (half of them
  without a word: reset) and ten others begin, from 2,000 addresses; one request in four is a create
  of a sequential node that was never there before. Memory is read each hour of the capture.
* scan: SYNs to the client port, each from another address and port, that nobody answers, with one
  client working between them: its requests must all be counted.
* wide: 10,000 connections at once over 1,000,000 distinct znodes.

What is asked of the server in between (a page's four answers for each hour) is part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

from tests.bench.synth import (
    CREATE,
    GET_DATA,
    PING,
    PSH_ACK,
    SYN,
    Client,
    Writer,
    frame,
    handshake,
    reply_body,
    request_body,
)

FIN_ACK: Final = 0x11
RST: Final = 0x04
LIVE: Final = 200
#: Of resident memory, with 10,000 connections and 1,000,000 znodes.
LIMIT_MB: Final = 150
#: What was measured, in MB.
Scene = Iterator[tuple[str, float]]
#: Sessions that end, and begin, each minute of the capture.
CHURN: Final = 10
DATA: Final = bytes(100)
ASKED: Final = ("/api/summary?window=1h", "/api/ops?window=6h", "/api/paths?window=1d", "/metrics")


@dataclass
class Server:
    """`zktrace serve -r -`, its standard input a :class:`Writer`."""

    process: subprocess.Popen[bytes]
    writer: Writer
    port: int

    def memory_mb(self, what: str = "VmRSS") -> float:
        """Memory that it has now, or (VmHWM) ever had."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{what}:\s+(\d+) kB", text)
        assert found
        return int(found.group(1)) / 1000

    def ask(self, path: str) -> bytes:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        assert answer.status == 200, (path, answer.status)
        return body

    def total(self) -> int:
        """Requests that it counts once it has read all, after the last packet."""
        self.writer.out.close()
        while True:
            answer = json.loads(self.ask("/api/summary?window=all"))
            if answer["source"]["state"] == "done":
                return int(answer["total"]["requests"])
            assert answer["source"]["error"] is None, answer["source"]
            time.sleep(0.5)


@contextmanager
def serving(engine: str | None = None) -> Iterator[Server]:
    env = dict(os.environ) | ({"ZKTRACE_ENGINE": engine} if engine else {})
    process = subprocess.Popen(
        [sys.executable, "-m", "zktrace", "serve", "-r", "-", "--http", "127.0.0.1:0"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        rng = random.Random(1)
        writer = Writer(Path(f"/dev/fd/{process.stdin.fileno()}"), rng)
        process.stdin.close()
        writer.out.flush()
        while not (found := re.search(rb"http://127.0.0.1:(\d+)/", process.stderr.readline())):
            assert process.poll() is None
        yield Server(process, writer, int(found.group(1)))
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


class Crowd:
    """Clients that come and go, and what they have asked so far."""

    def __init__(self, writer: Writer, rng: random.Random) -> None:
        self.writer = writer
        self.rng = rng
        self.opened = 0
        self.live: list[Client] = []
        self.requests = 0
        self.zxid = 0x1_0000_0000

    def open(self, addresses: int = 2_000) -> None:
        client = Client(self.opened % addresses, self.rng)
        client.port = 1024 + (self.opened // addresses * 7 + self.opened) % 60_000
        handshake(self.writer, client, self.opened)
        self.opened += 1
        self.requests += 1  # its connect
        self.live.append(client)

    def close(self) -> None:
        """One of them goes: by FIN, or by a reset."""
        client = self.live.pop(int(self.rng.random() * len(self.live)))
        if self.rng.random() < 0.5:
            self.writer.packet(client, True, RST)
            return
        self.writer.packet(client, True, FIN_ACK)
        self.writer.packet(client, False, FIN_ACK)

    def ask(self, op: int, name: bytes, client: Client | None = None) -> None:
        """A request and, at once, its reply."""
        if client is None:
            client = self.live[int(self.rng.random() * len(self.live))]
        client.xid += op != PING
        self.zxid += op == CREATE
        self.requests += 1
        self.writer.packet(client, True, PSH_ACK, frame(request_body(op, client.xid, name, DATA)))
        body = reply_body(op, client.xid, self.zxid, name, DATA, 0)
        self.writer.packet(client, False, PSH_ACK, frame(body))


def check(server: Server, crowd: Crowd) -> None:
    """Nothing may be lost or made up on the way."""
    told = server.total()
    if told != crowd.requests:
        raise SystemExit(f"{crowd.requests} requests were written, it tells of {told}")


def day(hours: int, rate: int) -> Scene:
    with serving() as server:
        writer = server.writer
        crowd = Crowd(writer, writer.rng)
        for _ in range(LIVE):
            crowd.open()
        began = writer.clock_us
        for second in range(hours * 3600):
            writer.clock_us = began + second * 1_000_000
            if second % 60 == 59:
                for _ in range(CHURN):
                    crowd.close()
                    crowd.open()
            for number in range(rate):
                if number % 4:
                    crowd.ask(GET_DATA, b"/config/team-%03d/limits" % (number * second % 500))
                else:
                    crowd.ask(CREATE, b"/queue/q-%02d/n-%010d" % (second % 50, crowd.zxid))
            if second % 3600 == 3599:
                for path in ASKED:
                    server.ask(path)
                yield f"day: after {second // 3600 + 1} h", server.memory_mb()
        check(server, crowd)
        yield (
            f"day: peak ({crowd.requests:,} requests, {crowd.opened:,} sessions)",
            server.memory_mb("VmHWM"),
        )


def scan(count: int) -> Scene:
    with serving() as server:
        writer = server.writer
        crowd = Crowd(writer, writer.rng)
        crowd.open()
        for number in range(count):
            one = Client(0, writer.rng)
            one.address = (0x0B00_0000 + number * 7).to_bytes(4, "big")
            one.port = 1024 + number * 13 % 60_000
            writer.packet(one, True, SYN)
            if number % 100 == 0:
                crowd.ask(GET_DATA, b"/config")
            if number == count // 10:
                writer.out.flush()
                time.sleep(2)  # it reads as fast as it is written to
                yield f"scan: after {number:,} SYNs", server.memory_mb()
        check(server, crowd)
        yield f"scan: peak ({count:,} SYNs)", server.memory_mb("VmHWM")


def wide(connections: int, paths: int) -> Scene:
    with serving() as server:
        writer = server.writer
        crowd = Crowd(writer, writer.rng)
        for _ in range(connections):
            crowd.open(connections)
        for number in range(paths):
            name = b"/services/team-%03d/shard-%02d/node-%07d" % (number % 200, number % 16, number)
            crowd.ask(GET_DATA, name, crowd.live[number % connections])
        check(server, crowd)
        for path in ASKED:
            server.ask(path)
        yield (
            f"wide: {connections:,} connections, {paths:,} znodes, peak",
            server.memory_mb("VmHWM"),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--rate", type=int, default=20, help="requests each second of the day")
    parser.add_argument("--scan", type=int, default=1_000_000)
    parser.add_argument("--paths", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=10_000)
    args = parser.parse_args()
    print("| | MB |\n| --- | ---: |")
    for scene in (
        scan(args.scan),
        wide(args.connections, args.paths),
        day(args.hours, args.rate),
    ):
        for what, memory in scene:
            print(f"| {what} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
