"""Writes a large synthetic capture: many znodes, many interleaved connections.

What it is made of (seeded, so that two runs write the same bytes): `connections` clients with a
handshake each, then reads, writes, existence checks, child lists, pings and now and then a watch
event and an error, over `paths` znodes drawn evenly (the worst case for caches). Each client has
up to four requests under way. Ethernet, IPv4, TCP with timestamps, one message per segment.
Checksums are zero, as offloading network cards leave them.
"""

from __future__ import annotations

import argparse
import random
import struct
from collections import deque
from pathlib import Path

RECORD = struct.Struct("<IIII")  # seconds, microseconds, captured, on the wire
# Ethernet, IPv4 up to and with both addresses, TCP with the timestamp option (12 bytes).
HEADERS = struct.Struct(">12sH BBHHHBBH4s4s HHIIBBHHH BBBBII")
OVERHEAD = HEADERS.size
MACS = bytes.fromhex("020000000002020000000001")
SYN, PSH, ACK, SYN_ACK, PSH_ACK = 0x02, 0x08, 0x10, 0x12, 0x18
SERVER = bytes((10, 0, 0, 1))
SERVER_PORT = 2181
LONG_AGO_MS = 1_700_000_000_000

PING, CREATE, DELETE, EXISTS, GET_DATA, SET_DATA, GET_CHILDREN2 = 11, 1, 2, 3, 4, 5, 12
MIX = [GET_DATA] * 55 + [EXISTS] * 12 + [SET_DATA] * 12 + [GET_CHILDREN2] * 8
MIX += [CREATE] * 5 + [DELETE] * 4 + [PING] * 4
NO_NODE = -101


class Client:
    """One connection: sequence numbers of both sides and the requests under way."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.address = bytes((10, 1 + number // 250, 0, 1 + number % 250))
        self.port = 32768 + number
        self.sent = rng.getrandbits(32)  # next sequence number of the client
        self.got = rng.getrandbits(32)  # and of the server
        self.xid = 0
        self.waiting: deque[tuple[int, int, bytes]] = deque()


class Writer:
    """Packets of a pcap file, with a clock that moves on a little at each."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.path = path
        self.out = path.open("wb", buffering=1 << 20)
        self.out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
        self.size = 24
        self.clock_us = LONG_AGO_MS * 1000
        self.rng = rng

    def packet(self, client: Client, to_server: bool, flags: int, body: bytes = b"") -> None:
        self.clock_us += 1 + int(self.rng.random() * 20)
        seconds, micros = divmod(self.clock_us, 1_000_000)
        length = OVERHEAD + len(body)
        if to_server:
            seq, ack = client.sent, client.got
            ends = (client.address, SERVER, client.port, SERVER_PORT)
        else:
            seq, ack = client.got, client.sent
            ends = (SERVER, client.address, SERVER_PORT, client.port)
        if flags == SYN:
            ack = 0
        stamp = self.clock_us // 1000 & 0xFFFFFFFF
        headers = HEADERS.pack(
            *(MACS, 0x0800),
            *(0x45, 0, length - 14, 0, 0x4000, 64, 6, 0, ends[0], ends[1]),
            *(ends[2], ends[3], seq, ack, 0x80, flags, 512, 0, 0),
            *(1, 1, 8, 10, stamp, stamp),
        )
        self.out.write(RECORD.pack(seconds, micros, length, length) + headers + body)
        self.size += RECORD.size + length
        used = len(body) + (flags & SYN != 0)
        if to_server:
            client.sent = client.sent + used & 0xFFFFFFFF
        else:
            client.got = client.got + used & 0xFFFFFFFF


def frame(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def handshake(writer: Writer, client: Client, number: int) -> None:
    writer.packet(client, True, SYN)
    writer.packet(client, False, SYN_ACK)
    writer.packet(client, True, ACK)
    request = struct.pack(">iqiq", 0, 0, 30_000, 0) + struct.pack(">i16s?", 16, bytes(16), False)
    writer.packet(client, True, PSH_ACK, frame(request))
    session = 0x1000_0000_0000_0000 + number
    reply = struct.pack(">iiqi16s?", 0, 30_000, session, 16, bytes(16), False)
    writer.packet(client, False, PSH_ACK, frame(reply))


def request_body(op: int, xid: int, path: bytes, data: bytes) -> bytes:
    if op == PING:
        return struct.pack(">ii", -2, PING)
    head = struct.pack(">iii", xid, op, len(path)) + path
    if op == CREATE:
        acl = struct.pack(">ii", 1, 31) + struct.pack(">i5si6s", 5, b"world", 6, b"anyone")
        return head + struct.pack(">i", len(data)) + data + acl + struct.pack(">i", 0)
    if op == SET_DATA:
        return head + struct.pack(">i", len(data)) + data + struct.pack(">i", -1)
    if op == DELETE:
        return head + struct.pack(">i", -1)
    return head + b"\0"  # no watch


def reply_body(op: int, xid: int, zxid: int, path: bytes, data: bytes, error: int) -> bytes:
    head = struct.pack(">iqi", -2 if op == PING else xid, zxid, error)
    if error or op in (PING, DELETE):
        return head
    if op == CREATE:
        return head + struct.pack(">i", len(path)) + path
    stat = struct.pack(
        ">qqqqiiiqiiq", zxid, zxid, LONG_AGO_MS, LONG_AGO_MS, 1, 0, 0, 0, len(data), 0, zxid
    )
    if op == GET_DATA:
        return head + struct.pack(">i", len(data)) + data + stat
    if op == GET_CHILDREN2:
        children = b"".join(struct.pack(">i8s", 8, b"member-%d" % n) for n in range(5))
        return head + struct.pack(">i", 5) + children + stat
    return head + stat


def write(
    path: Path, size: int, paths: int = 20_000, connections: int = 400, seed: int = 1
) -> dict[str, int]:
    """Write a capture of at least `size` bytes to `path`; return how much of what is in it."""
    rng = random.Random(seed)
    names = [
        b"/services/team-%03d/shard-%02d/node-%06d" % (n % 200, n % 16, n) for n in range(paths)
    ]
    values = [rng.randbytes(rng.randrange(400)) for _ in range(257)]
    clients = [Client(number, rng) for number in range(connections)]
    writer = Writer(path, rng)
    for number, client in enumerate(clients):
        handshake(writer, client, number)
    zxid = 0x1_0000_0000
    counts = {"requests": 0, "replies": 0, "watch_events": 0}
    pick, choose = rng.random, rng.choice

    def reply(client: Client) -> None:
        op, xid, name = client.waiting.popleft()
        error = NO_NODE if op != PING and pick() < 0.01 else 0
        body = reply_body(op, xid, zxid, name, choose(values), error)
        writer.packet(client, False, PSH_ACK, frame(body))
        counts["replies"] += 1

    while writer.size < size:
        client = clients[int(pick() * connections)]
        if client.waiting and (len(client.waiting) == 4 or pick() < 0.6):
            reply(client)
            if pick() < 0.2:
                writer.packet(client, True, ACK)
            continue
        if pick() < 0.005:
            name = names[int(pick() * paths)]
            event = struct.pack(">iqiiii", -1, -1, 0, 3, 3, len(name)) + name
            writer.packet(client, False, PSH_ACK, frame(event))
            counts["watch_events"] += 1
            continue
        op = choose(MIX)
        client.xid += op != PING
        name = names[int(pick() * paths)]
        zxid += op in (CREATE, SET_DATA, DELETE)
        client.waiting.append((op, client.xid, name))
        body = request_body(op, client.xid, name, choose(values))
        writer.packet(client, True, PSH_ACK, frame(body))
        counts["requests"] += 1
    for client in clients:
        while client.waiting:
            reply(client)
    writer.out.close()
    counts["connects"] = connections
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--megabytes", type=int, default=210)
    parser.add_argument("--paths", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    counts = write(args.path, args.megabytes * 10**6, args.paths, args.connections, args.seed)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))


if __name__ == "__main__":
    main()
