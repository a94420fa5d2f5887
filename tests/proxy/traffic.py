"""Random traffic through a plane, each byte the same behind it: random chunks, slow readers, half
closes.

    python -m tests.proxy.traffic --gigabytes 10 [--plane native|python]

Each connection has its own seed: how much goes which way, how it is cut, when a side sleeps, who
closes first. Both sides know what has to come, and compare all of it. Prints a line per gigabyte.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from zktrace.engine.base import ENGINE_VARIABLE, LiveEngine

if TYPE_CHECKING:
    from zktrace_proxy.plane import Plane

WAIT_S: Final = 120.0
#: Random bytes that all that is sent is cut from.
_POOL: Final = random.Random(1).randbytes(1 << 22)


def stream(seed: int, size: int) -> list[memoryview]:
    """So many bytes, in pieces that are cut at random."""
    chance = random.Random(seed)
    pool = memoryview(_POOL)
    pieces = []
    while size:
        most = chance.choice((1, 7, 100, 1500, 20_000, 300_000))
        piece = min(chance.randint(1, most), size)
        at = chance.randrange(len(pool) - piece)
        pieces.append(pool[at : at + piece])
        size -= piece
    return pieces


def _send(one: socket.socket, seed: int, pieces: list[memoryview]) -> None:
    chance = random.Random(seed)
    for piece in pieces:
        one.sendall(piece)
        if chance.random() < 0.002:
            time.sleep(chance.random() * 0.01)
    one.shutdown(socket.SHUT_WR)


def _check(one: socket.socket, seed: int, pieces: list[memoryview]) -> None:
    """Reads to the end, at a pace of its own, and compares."""
    chance = random.Random(seed)
    wanted = iter(pieces)
    now = memoryview(b"")
    total = 0
    buffer = bytearray(1 << 18)
    while True:
        count = one.recv_into(buffer, chance.choice((1, 50, 4096, 1 << 16, 1 << 18)))
        if not count:
            break
        at = 0
        while at < count:
            if not now:
                now = next(wanted, memoryview(b""))
                assert now, f"more than was sent, behind {total} bytes"
            part = min(len(now), count - at)
            assert now[:part] == memoryview(buffer)[at : at + part], f"differs behind {total} bytes"
            now = now[part:]
            at += part
            total += part
        if chance.random() < 0.001:
            time.sleep(chance.random() * 0.03)
    assert not now, f"it ends behind {total} bytes"
    assert next(wanted, None) is None, f"it ends behind {total} bytes"


def exchange(
    through: str, server: socket.socket, seed: int, size: int, *, keep: bool = False
) -> list[bytes]:
    """One connection; both directions at once, or one after the other (a half close). What was
    sent, if it is to be kept.
    """
    chance = random.Random(seed)
    there, back = (chance.randrange(size // 2, size) for _ in range(2))
    one_by_one = chance.random() < 0.3
    pieces = [stream(seed * 2, there), stream(seed * 2 + 1, back)]
    host, port = through.rsplit(":", 1)
    with socket.create_connection((host, int(port)), WAIT_S) as client:
        behind, _ = server.accept()
        with behind:
            for one in (client, behind):
                one.settimeout(WAIT_S)
            with ThreadPoolExecutor(4) as pool:
                sending = pool.submit(_send, client, seed, pieces[0])
                reading = pool.submit(_check, behind, seed + 1, pieces[0])
                if one_by_one:
                    reading.result()
                answering = pool.submit(_send, behind, seed + 2, pieces[1])
                hearing = pool.submit(_check, client, seed + 3, pieces[1])
                for job in (sending, reading, answering, hearing):
                    job.result()
    return [b"".join(some) for some in pieces] if keep else []


def taken(plane: Plane) -> Iterator[bytes]:
    """What the plane's tap gives, until it ends."""
    while not plane.ended():
        if block := plane.next(0.1):
            yield block


def fed(plane: Plane, engine: LiveEngine) -> None:
    """All of a tap, to the end, through an engine."""
    source = engine.add_source("tap", None)
    for block in taken(plane):
        engine.feed(source, block)
    engine.end_source(source)
    engine.finish()


def tapped(stream: bytes, server_port: int) -> list[bytes]:
    """The payloads of a tap's packets, per direction."""
    out: list[list[bytes]] = [[], []]
    at = 0
    while at < len(stream):
        kind, length = struct.unpack_from("<II", stream, at)
        if kind == 6:
            captured = struct.unpack_from("<I", stream, at + 20)[0]
            packet = stream[at + 28 : at + 28 + captured]
            port = struct.unpack_from(">H", packet, 20)[0]
            out[port == server_port].append(packet[40:])
        at += length
    return [b"".join(parts) for parts in out]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--plane", choices=("native", "python"), default="native")
    parser.add_argument("--connections", type=int, default=4, help="at once")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ[ENGINE_VARIABLE] = given.plane
    from zktrace_proxy.plane import Config, Listener, create

    wanted = int(given.gigabytes * 1e9)
    lock = threading.Lock()
    done = told = number = 0
    begin = time.monotonic()

    def work() -> None:
        nonlocal done, told, number
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            plane = create(Config((Listener.to("127.0.0.1:0", f"127.0.0.1:{port}"),), taps=0))
            try:
                while True:
                    with lock:
                        if done >= wanted:
                            return
                        number += 1
                        seed = given.seed + number
                    before = sum(plane.counters()[name] for name in NAMES)
                    exchange(plane.addresses()[0], server, seed * 1000, 20_000_000)
                    counted = plane.counters()
                    assert counted["resets"] == counted["unreachable"] == 0, counted
                    with lock:
                        done += sum(counted[name] for name in NAMES) - before
                        if done // 10**9 > told:
                            told = done // 10**9
                            took = time.monotonic() - begin
                            print(f"{told} GB, {number} connections, {took:.0f} s", flush=True)
            finally:
                plane.stop()

    with ThreadPoolExecutor(given.connections) as pool:
        for job in [pool.submit(work) for _ in range(given.connections)]:
            job.result()
    print(f"{given.plane}: {done:,} bytes through {number} connections, each byte as it was sent")
    return 0


NAMES: Final = ("bytes_to_server", "bytes_to_client")

if __name__ == "__main__":
    sys.exit(main())
