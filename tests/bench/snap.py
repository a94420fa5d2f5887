"""A snapshot of any size on the quorum port: what decoding it takes.

    python -m tests.bench.snap                1 GB, to zktrace stats, decode, trace and verify
    python -m tests.bench.snap --megabytes 64

The capture is made as it is read, through a pipe: a learner's handshake, a SNAP, the snapshot
stream (protocol reference, section 7.2) of znodes of 1 to 64 kB, UPTODATE. Peak memory is that of
the process; exit status 1 where it is 100 MB or more, or the znodes are not all counted.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO

from tests.support.peak import measured, peak_kb
from zktrace.wire.quorum import (
    PACKET_TYPES,
    PROTOCOL_VERSION,
    LeaderInfo,
    LearnerInfo,
    QuorumPacket,
)

LIMIT_MB = 100
_NUMBER = {name: number for number, name in PACKET_TYPES.items()}
_SEGMENT = 60_000
_STAT = bytes(60)


def _text(raw: bytes) -> bytes:
    return struct.pack(">i", len(raw)) + raw


def snapshot(size: int, nodes: list[int]) -> Iterator[bytes]:
    """The stream, of some `size` bytes; how many znodes it has is put in `nodes`."""
    yield struct.pack(">iqi", 1, 0x1000, 4000) + struct.pack(">i", 0)
    made = 0
    data = os.urandom(65_536)
    count = 0
    while made < size:
        path = b"" if not count else b"/n%d" % count
        body = data[: 1024 + count * 7919 % 64_512]
        node = _text(path) + _text(body) + struct.pack(">q", -1) + _STAT
        made += len(node)
        count += 1
        yield node
    nodes.append(count)
    yield _text(b"/") + _text(b"BenWasHere")


class _Stream:
    """TCP segments of both directions, in order."""

    def __init__(self) -> None:
        self.ts = 1_700_000_000_000_000
        self.seq = [1000, 5000]
        self.ident = [1, 1]

    def record(self, side: int, flags: int, data: bytes = b"") -> bytes:
        ports = (40_000, 2888) if side == 0 else (2888, 40_000)
        tcp = struct.pack(
            ">HHIIBBHHH", *ports, self.seq[side], self.seq[1 - side], 5 << 4, flags, 65_535, 0, 0
        )
        hosts = (b"\x0a\0\0\1", b"\x0a\0\0\2") if side == 0 else (b"\x0a\0\0\2", b"\x0a\0\0\1")
        size = 20 + len(tcp) + len(data)
        ident = self.ident[side] = self.ident[side] + 1 & 0xFFFF
        ip = struct.pack(">BBHHHBBH", 0x45, 0, size, ident, 0x4000, 64, 6, 0) + b"".join(hosts)
        self.seq[side] = self.seq[side] + len(data) + bool(flags & 3) & 0xFFFFFFFF
        self.ts += 20
        frame = bytes(12) + b"\x08\0" + ip + tcp + data
        head = struct.pack("<IIII", *divmod(self.ts, 1_000_000), len(frame), len(frame))
        return head + frame


def capture(size: int, nodes: list[int]) -> Iterator[bytes]:
    """A pcap, piece by piece."""
    stream = _Stream()
    yield struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)
    yield stream.record(0, 2) + stream.record(1, 0x12) + stream.record(0, 0x10)

    def packet(side: int, kind: str, zxid: int, data: bytes | None = None) -> bytes:
        return stream.record(side, 0x18, QuorumPacket(_NUMBER[kind], zxid, data, None).encode())

    info = LearnerInfo(1, PROTOCOL_VERSION, 1 << 32).encode()
    yield packet(0, "FOLLOWERINFO", 0, info)
    yield packet(1, "LEADERINFO", 1 << 32, LeaderInfo(PROTOCOL_VERSION).encode())
    yield packet(0, "ACKEPOCH", 0, struct.pack(">i", 0))
    yield packet(1, "SNAP", 7)
    held = b""
    for number, piece in enumerate(snapshot(size, nodes)):
        held += piece
        while len(held) >= _SEGMENT:
            yield stream.record(1, 0x18, held[:_SEGMENT])
            held = held[_SEGMENT:]
        if number % 50 == 0:
            yield stream.record(0, 0x10)
    yield stream.record(1, 0x18, held)
    yield packet(1, "NEWLEADER", 1 << 32)
    yield packet(0, "ACK", 1 << 32)
    yield packet(1, "UPTODATE", -1)


def measure(command: list[str], size: int) -> tuple[int, str, int]:
    """Peak memory in kB, standard output, znodes that the snapshot had."""
    nodes: list[int] = []
    with subprocess.Popen(
        measured(*command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        said = [b"", b""]

        def read(at: int, pipe: IO[bytes]) -> None:
            said[at] = pipe.read()

        readers = [
            threading.Thread(target=read, args=place)
            for place in enumerate((process.stdout, process.stderr))
        ]
        for reader in readers:
            reader.start()
        for piece in capture(size, nodes):
            process.stdin.write(piece)
        process.stdin.close()
        for reader in readers:
            reader.join()
    out, err = (text.decode() for text in said)
    if process.returncode:
        raise RuntimeError(f"{command}: status {process.returncode}: {err}")
    return peak_kb(err), out, nodes[0]


def counted(output: str) -> int | None:
    """Znodes of the SNAP in `decode --json`."""
    rows = (json.loads(line) for line in output.splitlines())
    return next((row["snapshot_nodes"] for row in rows if row.get("type") == "SNAP"), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--megabytes", type=int, default=1024)
    size = parser.parse_args().megabytes << 20
    failed = False
    for name in (["decode", "--json"], ["stats"], ["trace"], ["verify"]):
        peak, output, nodes = measure([*name, "-"], size)
        found = counted(output) if name[0] == "decode" else nodes
        right = found == nodes and peak < LIMIT_MB * 1024
        failed |= not right
        told = f", {found:,} of {nodes:,} znodes counted" if name[0] == "decode" else ""
        print(f"{' '.join(name):14} {size >> 20:,} MB of snapshot: {peak / 1024:.0f} MB{told}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
