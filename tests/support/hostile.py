"""Captures that make a decoder hold as much as it can be made to: made quickly, packet by packet.

Each maker yields the records of a classic pcap. Many connections at once leave something unfinished
(requests without reply, frames that do not end, boundaries that are lost), and what becomes of it
is up to the decoder's limits. A script is what one connection does. Checksums are left out, since
nobody checks them, and so is :mod:`tests.support.talk`, which is made for few packets and their
truth. Knows nothing of limits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Final

from tests.support import zk
from tests.support.net import ACK, PSH, SYN

#: Most that a segment here carries: what a capture of a host with TCP segmentation offload holds.
SEGMENT: Final = 60_000
_HEADER: Final = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)
_ETHERNET: Final = bytes.fromhex("0200000000010200000000020800")
_SERVER: Final = bytes((10, 9, 0, 1))
_START_S: Final = 1_700_000_000


class Wire:
    """A clock that gives each packet its record, a microsecond apart."""

    def __init__(self) -> None:
        self._us = 0

    def record(self, packet: bytes) -> bytes:
        self._us += 1
        seconds, us = divmod(self._us, 1_000_000)
        return struct.pack("<IIII", _START_S + seconds, us, len(packet), len(packet)) + packet


class Peer:
    """One connection: segments of either side, each with the acknowledgement that is due."""

    def __init__(self, wire: Wire, number: int, port: int = 2181) -> None:
        self._wire = wire
        self._client = bytes((10, 1 + (number >> 16), number >> 8 & 0xFF, number & 0xFF))
        self._ports = (20_000 + number % 40_000, port)
        self.next = [1_000, 900_000]

    def segment(self, side: int, payload: bytes = b"", flags: int = ACK | PSH) -> bytes:
        """One segment of the client (side 0) or the server (1)."""
        src, dst = (self._client, _SERVER) if side == 0 else (_SERVER, self._client)
        sport, dport = self._ports if side == 0 else self._ports[::-1]
        ack = self.next[1 - side] if flags & ACK else 0
        tcp = struct.pack(
            ">HHIIBBHHH", sport, dport, self.next[side], ack, 0x50, flags, 65_535, 0, 0
        )
        total = 40 + len(payload)
        head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, total, 0, 0x4000, 64, 6, 0, src, dst)
        self.next[side] += len(payload) + (flags & SYN != 0)
        return self._wire.record(_ETHERNET + head + tcp + payload)

    def open(self) -> Iterator[bytes]:
        """The three packets that open it."""
        yield self.segment(0, flags=SYN)
        yield self.segment(1, flags=SYN | ACK)
        yield self.segment(0, flags=ACK)

    def session(self) -> Iterator[bytes]:
        """Opened, with a session."""
        yield from self.open()
        yield self.segment(0, zk.frame(zk.connect_request()))
        yield self.segment(1, zk.frame(zk.connect_response(session=0x1000)))

    def say(self, side: int, data: bytes) -> Iterator[bytes]:
        """Bytes of one side, in as few segments as may be."""
        for at in range(0, len(data), SEGMENT):
            yield self.segment(side, data[at : at + SEGMENT])


Script = Iterator[bytes]


def _ping() -> bytes:
    return zk.frame(zk.request(zk.XID_PING, zk.PING))


def _get(xid: int, path: str) -> bytes:
    return zk.frame(zk.request(xid, zk.GET_DATA, zk.ustring(path) + zk.boolean(False)))


def _reply(xid: int, zxid: int) -> bytes:
    return zk.frame(zk.reply(xid, zxid))


def pings(peer: Peer, count: int) -> Script:
    """A session that pings and is not answered."""
    yield from peer.session()
    yield from peer.say(0, _ping() * count)


def requests(peer: Peer, count: int, path: int = 300) -> Script:
    """Requests of long paths that are not answered, their xids neither in order nor once each."""
    yield from peer.session()
    name = "/" + "p" * path
    yield from peer.say(0, b"".join(_get(i * 7919 % 4_001 + 1, name) for i in range(count)))


def one_unanswered(peer: Peer, count: int) -> Script:
    """A request that is never answered, and many after it that are."""
    yield from peer.session()
    yield peer.segment(0, _get(1, "/never"))
    for first in range(2, count, 500):
        xids = range(first, first + 500)
        yield peer.segment(0, b"".join(_get(xid, "/a") for xid in xids))
        yield peer.segment(1, b"".join(_reply(xid, 7) for xid in xids))


def multis(peer: Peer, count: int, parts: int) -> Script:
    """Multis of many parts that are not answered."""
    part = zk.i32(zk.CHECK) + zk.boolean(False) + zk.i32(-1) + zk.ustring("/c") + zk.i32(0)
    body = part * parts + zk.i32(-1) + zk.boolean(True) + zk.i32(-1)
    yield from peer.session()
    for xid in range(1, count + 1):
        yield from peer.say(0, zk.frame(zk.request(xid, zk.MULTI, body)))


def halves(peer: Peer, size: int, kept: int) -> Script:
    """A frame of `size` bytes of which `kept` come, both ways."""
    yield from peer.session()
    start = zk.i32(size) + zk.i32(1) + zk.i32(zk.SET_DATA) + zk.ustring("/d") + zk.i32(size)
    yield from peer.say(0, start + bytes(kept))
    yield from peer.say(1, zk.i32(size) + zk.reply(1, 9) + bytes(kept))


def lost(peer: Peer, size: int, piece: int = SEGMENT) -> Script:
    """A session whose boundaries are lost both ways, then bytes that have none, in pieces."""
    noise = (b"\0\0\4\1\xee" * (size // 5 + 1))[:size]
    yield from peer.session()
    for side in (0, 1):
        yield peer.segment(side, zk.i32(-5))
        for at in range(0, size, piece):
            yield peer.segment(side, noise[at : at + piece])


def joined(peer: Peer, size: int) -> Script:
    """A connection whose beginning was not captured, and of which nothing tells what it is."""
    yield from peer.say(0, b"\xee" * size)
    yield from peer.say(1, b"\xee" * size)


def held(peer: Peer, size: int, piece: int = 1_000) -> Script:
    """A server that acknowledges what its client has not sent, so that its bytes must wait."""
    yield from peer.session()
    peer.next[0] += 1
    for at in range(0, size, piece):
        yield peer.segment(1, bytes(min(size - at, piece)))


def votes(peer: Peer, size: int = 2_000) -> Script:
    """Who opened on the election port an initial message that does not end."""
    yield from peer.open()
    yield peer.segment(0, zk.i64(-65_536) + zk.i64(1) + zk.i32(2_048) + b"a" * size)


def learners(peer: Peer, size: int, *, whole: bool) -> Script:
    """A learner whose request does not end, or came in two pieces."""
    info = struct.pack(">iqi", 11, 0, 20) + struct.pack(">qiq", 1, 0x10000, 0) + zk.i32(-1)
    yield from peer.open()
    yield peer.segment(0, info)
    size_told = size if whole else 2 * size
    yield peer.segment(0, struct.pack(">iqi", 1, -1, size_told) + struct.pack(">qii", 5, 1, 1))
    yield from peer.say(0, bytes(size - 16))
    if whole:
        yield peer.segment(0, zk.i32(-1))


def idle(peer: Peer) -> Script:
    """A session that did what real ones do, and is open still."""
    yield from peer.session()
    yield peer.segment(0, _ping())
    yield peer.segment(1, _reply(zk.XID_PING, 5))
    yield peer.segment(0, _get(1, "/zookeeper/quota") + _get(2, "/zookeeper/quota"))
    yield peer.segment(1, _reply(1, 5))
    yield peer.segment(1, _reply(2, 5))


def crowd(connections: int, script: Callable[[Peer], Script], port: int = 2181) -> Script:
    """So many connections, one after another, all open at the end."""
    wire = Wire()
    for number in range(connections):
        yield from script(Peer(wire, number, port))


def syns(live: int, flood: int) -> Script:
    """Sessions that have been silent for a while, a flood of SYNs, then an answer to each."""
    wire = Wire()
    peers = [Peer(wire, number) for number in range(live)]
    for peer in peers:
        yield from peer.session()
        yield peer.segment(0, _get(1, "/a"))
    for number in range(flood):
        yield Peer(wire, 100_000 + number).segment(0, flags=SYN)
    for peer in peers:
        yield peer.segment(1, _reply(1, 5))


def mixed(random: Random) -> Script:
    """A bit of everything, as chance interleaves it, that together is too much to hold."""
    wire = Wire()
    kinds: list[Callable[[Peer], Script]] = [
        lambda peer: requests(peer, random.randrange(1, 200)),
        lambda peer: one_unanswered(peer, 600),
        lambda peer: multis(peer, random.randrange(1, 5), random.randrange(1, 400)),
        lambda peer: halves(peer, random.choice((90, 5_000, 1_000_000)), random.randrange(0, 80)),
        lambda peer: halves(peer, random.randrange(9_000, 90_000), random.randrange(0, 9_000)),
        lambda peer: lost(peer, random.randrange(10, 9_000), random.choice((3, 50, SEGMENT))),
        lambda peer: joined(peer, random.randrange(1, 40_000)),
        lambda peer: held(peer, random.randrange(1, 40_000), random.choice((7, 1_000))),
        lambda peer: votes(peer, random.randrange(1, 2_040)),
        lambda peer: learners(peer, random.randrange(100, 90_000), whole=random.random() < 0.5),
        idle,
    ]
    ports = {8: 3888, 9: 2888}
    scripts = []
    for number in range(400):
        if number % 5:
            scripts.append(pings(Peer(wire, number), random.randrange(1, 600)))
        else:
            kind = random.randrange(len(kinds))
            scripts.append(kinds[kind](Peer(wire, number, ports.get(kind, 2181))))
    while scripts:
        at = random.randrange(min(len(scripts), 60))
        record = next(scripts[at], None)
        if record is None:
            scripts.pop(at)
        else:
            yield record


def write(path: Path, records: Iterable[bytes]) -> Path:
    """A capture file of these records."""
    with path.open("wb") as file:
        file.write(_HEADER)
        file.writelines(records)
    return path


def capture(records: Iterable[bytes]) -> bytes:
    """The bytes of such a file."""
    return _HEADER + b"".join(records)


#: By name, in sizes that a decoder without limits holds some hundred megabytes of.
MAKERS: Final[dict[str, Callable[[], Script]]] = {
    "pings": lambda: crowd(60, lambda peer: pings(peer, 60_000)),
    "requests": lambda: crowd(300, lambda peer: requests(peer, 1_000)),
    "one unanswered": lambda: crowd(6, lambda peer: one_unanswered(peer, 300_000)),
    "multis": lambda: crowd(100, lambda peer: multis(peer, 20, 1_000)),
    "halves": lambda: crowd(150, lambda peer: halves(peer, 900_000, 500_000)),
    "lost": lambda: crowd(300, lambda peer: lost(peer, 200_000)),
    "lost in small pieces": lambda: crowd(60, lambda peer: lost(peer, 20_000, 3)),
    "joined": lambda: crowd(1_500, lambda peer: joined(peer, 30_000)),
    "held": lambda: crowd(700, lambda peer: held(peer, 200_000)),
    "votes": lambda: crowd(65_000, votes, 3888),
    "learners": lambda: crowd(1_500, lambda peer: learners(peer, 60_000, whole=False), 2888),
    "whole learners": lambda: crowd(1_500, lambda peer: learners(peer, 60_000, whole=True), 2888),
    "idle": lambda: crowd(65_000, idle),
    "syns": lambda: syns(200, 200_000),
}
