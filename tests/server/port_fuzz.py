"""Noise at the port of a server that runs: real requests, damaged, cut, repeated, mixed.

    python -m tests.server.port_fuzz --seconds 600 [--seed 0]

Watched is what must not happen: the server ends, its log has a traceback or a line without the
client's address, the session of another client suffers, memory grows without end. A bounded run is
in ``tests/server/net/test_many.py``.
"""

from __future__ import annotations

import argparse
import random
import socket
import struct
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.server.operations import OPEN
from tests.server.ourzk import OurServer, ours
from tests.server.rawclient import RawClient
from zktrace.wire.message import Body, decode_reply, encode_request
from zktrace.wire.multi import MultiOp, MultiRequest
from zktrace.wire.records import (
    AddWatchRequest,
    AuthPacket,
    ConnectRequest,
    CreateRequest,
    Empty,
    GetEphemeralsRequest,
    PathRequest,
    PathVersionRequest,
    PathWatchRequest,
    SaslToken,
    SetDataRequest,
    SetWatches,
    SetWatches2,
    WatchTypeRequest,
)

_PATHS: Final = ("/", "/a", "/a/b", "/zookeeper/quota", "", "a", "/a//b", "/\0", "/é" * 50)
#: What the server's process may take, whatever comes.
MOST_KIB: Final = 400 << 10
#: Nobody waits for answers longer than that; the server may have none.
_PATIENCE_S: Final = 0.05


def requests(chance: random.Random) -> list[tuple[int, Body]]:
    """Some requests of all kinds."""
    path = chance.choice(_PATHS)
    data = chance.randbytes(chance.choice((0, 1, 100, 10_000)))
    every: list[tuple[int, Body]] = [
        (1, CreateRequest(path, data, OPEN, chance.randrange(-1, 9))),
        (2, PathVersionRequest(path, chance.randrange(-1, 3))),
        (3, PathWatchRequest(path, True)),
        (4, PathWatchRequest(path, False)),
        (5, SetDataRequest(path, data, -1)),
        (8, PathWatchRequest(path, True)),
        (9, PathRequest(path)),
        (11, Empty()),
        (13, PathVersionRequest(path, -1)),
        (14, MultiRequest([MultiOp(1, CreateRequest(path, data, OPEN, 0))] * 3)),
        (18, WatchTypeRequest(path, 3)),
        (22, MultiRequest([MultiOp(4, PathWatchRequest(path, False))] * 3)),
        (100, AuthPacket(0, "digest", data[:100])),
        (101, SetWatches(0, [path] * 3, [path], [])),
        (102, SaslToken(data[:100])),
        (103, GetEphemeralsRequest(path)),
        (105, SetWatches2(0, [path], [], [path], [path], [path])),
        (106, AddWatchRequest(path, chance.randrange(3))),
        (chance.randrange(-20, 600), Empty()),
        (-11, Empty()),
    ]
    return chance.choices(every, k=chance.randrange(1, 12))


def conversation(chance: random.Random) -> bytes:
    """What a client might send, with damage."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(2000))
    frames = []
    if chance.random() < 0.9:
        password = chance.randbytes(16)
        session = chance.choice((0, 0, 0, 1, -1, chance.getrandbits(63)))
        frames.append(ConnectRequest(0, 0, 5000, session, password, False).encode())
    frames += [encode_request(n, kind, body) for n, (kind, body) in enumerate(requests(chance), 1)]
    out = bytearray(b"".join(struct.pack(">i", len(frame)) + frame for frame in frames))
    for _ in range(chance.choice((0, 1, 1, 3, 30))):
        at = chance.randrange(len(out))
        kind = chance.randrange(4)
        if kind == 0:
            out[at] = chance.randrange(256)
        elif kind == 1:
            out[at : at + chance.randrange(40)] = b""
        elif kind == 2:
            out[at:at] = out[max(0, at - 30) : at]
        else:
            out[at : at + 4] = struct.pack(">i", chance.choice((-1, 0, 1 << 20, -(1 << 31), 60)))
        if not out:
            break
    return bytes(out)


def attack(address: tuple[str, int], chance: random.Random) -> None:
    """One connection, ended in one of the ways that there are."""
    with socket.create_connection(address, timeout=10) as one:
        one.settimeout(_PATIENCE_S)
        try:
            data = conversation(chance)
            while data:
                size = chance.choice((len(data), 1 + chance.randrange(50)))
                one.sendall(data[:size])
                data = data[size:]
                if chance.random() < 0.05:
                    one.recv(100)
            if chance.random() < 0.5:
                one.recv(10_000)
            if chance.random() < 0.3:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # closed, as it should be, or silent


class Watcher:
    """Another client, to whom nothing of that is to happen."""

    def __init__(self, server: OurServer) -> None:
        self._server = server
        self._client = RawClient(server.address)
        assert self._client.connect(timeout_ms=40_000) is not None
        self._client.request(1, 1, CreateRequest("/watcher", b"mine", OPEN, 1))
        assert decode_reply(1, self._client.replies(1)[0])[0].err == 0

    def check(self) -> None:
        """AssertionError where something is wrong."""
        self._client.request(2, 3, PathWatchRequest("/watcher", False))
        replies = self._client.replies(1)
        assert replies, "the session of another client has ended"
        assert decode_reply(3, replies[0])[0].err == 0
        log = self._server.log.read_text(errors="replace")
        assert "Traceback" not in log, log[-3000:]
        strange = [
            line for line in log.splitlines() if "closed" in line and "127.0.0.1:" not in line
        ]
        assert not strange, strange[:3]
        status = Path(f"/proc/{self._server.pid}/status").read_text()
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        assert int(resident.split()[1]) < MOST_KIB, resident

    def close(self) -> None:
        self._client.close()


def campaign(server: OurServer, seed: int, *, seconds: float, most: int) -> int:
    """Connections until the time is over or `most` were made; how many."""
    chance = random.Random(seed)
    watcher = Watcher(server)
    deadline = time.monotonic() + seconds
    count = 0
    while count < most and time.monotonic() < deadline:
        attack(server.address, chance)
        count += 1
        if count % 50 == 0:
            watcher.check()
    watcher.check()
    watcher.close()
    return count


def main() -> None:
    """Prints how many connections were survived."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ours(Path(name) / "server") as server:
        count = campaign(server, given.seed, seconds=given.seconds, most=1 << 60)
        print(f"{count:,} connections, {server.log.stat().st_size:,} bytes of log, no harm")


if __name__ == "__main__":
    main()
