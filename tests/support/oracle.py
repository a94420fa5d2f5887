"""An oracle: what a capture of plain Ethernet holds, found the slow and simple way.

It holds the whole capture in memory, puts each TCP stream together by sequence number (first copy
wins), cuts client streams into frames and pairs replies by xid. No limits, no resynchronisation: a
stream with a hole is read up to the hole. Made of ``struct`` and the wire reference only; shares
nothing with zktrace, so that shared mistakes show.
"""

from __future__ import annotations

import json
import struct
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support import net
from tests.support.net import Address, Seg
from tests.support.pcapio import ETHERNET, Record, read_pcap

WORDS: Final = frozenset(
    b"conf cons crst dirs dump envi gtmk hash isro mntr ruok "
    b"srvr srst stat stmk wchc wchp wchs".split()
) | {b"\xff\xf4\xff\xfd"}

_FAR: Final = 1 << 26


@dataclass(slots=True)
class Stream:
    """One direction: its bytes as far as they are whole, and when each was captured."""

    data: bytes = b""
    marks: list[tuple[int, int]] = field(default_factory=list)  # (offset, ts) ascending by offset
    holes: int = 0

    def time_of(self, offset: int) -> int:
        """Capture time of the byte at ``offset``."""
        low, high = 0, len(self.marks)
        while high - low > 1:
            middle = (low + high) // 2
            if self.marks[middle][0] <= offset:
                low = middle
            else:
                high = middle
        return self.marks[low][1]

    def time_of_last(self, start: int, end: int) -> int:
        """When [start, end) was complete."""
        inside = [ts for at, ts in self.marks if start <= at < end]
        return max([self.time_of(start), *inside])


@dataclass(slots=True)
class Conversation:
    """One TCP connection. ``client`` opened it or, joined, is not the known listener."""

    client: Address
    server: Address
    began: bool
    number: int = 0
    segs: tuple[list[Seg], list[Seg]] = field(default_factory=lambda: ([], []))
    isn: list[int | None] = field(default_factory=lambda: [None, None])
    streams: tuple[Stream, Stream] = field(default_factory=lambda: (Stream(), Stream()))

    @property
    def flow(self) -> str:
        return f"{net.show(self.client)}>{net.show(self.server)}"


def _assemble(segs: Sequence[Seg], isn: int | None) -> Stream:
    stream = Stream()
    held = [s for s in segs if s.payload]
    if not held:
        return stream
    first = held[0].seq if isn is None else (isn + 1)
    if (
        isn is None
    ):  # joined: the smallest sequence number seen (no wrap at the very start is assumed)
        first = min((s.seq - first + 2**31) % 2**32 for s in held) - 2**31 + first
    pieces: dict[int, tuple[int, int]] = {}  # offset -> (byte, ts)
    marks: dict[int, int] = {}
    for seg in held:  # capture order: the first copy wins
        start = (seg.seq + (seg.flags & net.SYN != 0) - first + 2**31) % 2**32 - 2**31
        if abs(start) > _FAR:
            continue
        for index, byte in enumerate(seg.payload):
            if start + index >= 0:
                pieces.setdefault(start + index, (byte, seg.ts_ns))
    out = bytearray()
    last: int | None = None
    for offset in range(len(pieces)):
        found = pieces.get(offset)
        if found is None:
            stream.holes = 1
            break
        out.append(found[0])
        if found[1] != last:
            last = found[1]
            marks[offset] = last
    stream.data = bytes(out)
    stream.marks = sorted(marks.items())
    return stream


def conversations(
    records: Iterable[Record], listeners: Iterable[Address] = ()
) -> list[Conversation]:
    """The TCP connections of a capture, in order of their first packet."""
    known = set(listeners)
    live: dict[frozenset[Address], Conversation] = {}
    done: list[Conversation] = []
    for rec in records:
        seg = net.segment(rec)
        if seg is None:
            continue
        key = frozenset((seg.src, seg.dst))
        talk = live.get(key)
        syn, ack = seg.flags & net.SYN != 0, seg.flags & net.ACK != 0
        if talk is not None and syn and not ack:
            side = 0 if seg.src == talk.client else 1
            if talk.isn[side] not in (None, seg.seq):
                talk = None
        if talk is None:
            if not syn and not seg.payload:
                continue
            client, server = (seg.dst, seg.src) if (syn and ack) else (seg.src, seg.dst)
            if not syn and seg.src in known and seg.dst not in known:
                client, server = seg.dst, seg.src
            talk = Conversation(client, server, syn, len(done))
            live[key] = talk
            done.append(talk)
        side = 0 if seg.src == talk.client else 1
        if syn:
            talk.isn[side] = seg.seq
            talk.began = True
        talk.segs[side].append(seg)
    for talk in done:
        talk.streams = (
            _assemble(talk.segs[0], talk.isn[0]),
            _assemble(talk.segs[1], talk.isn[1]),
        )
    return done


@dataclass(slots=True)
class Frame:
    """A frame of the client protocol; ``number`` of its connection, ``first`` is the time of its
    first byte.
    """

    flow: str
    number: int
    to_server: bool
    ts_ns: int
    first_ns: int
    payload: bytes

    def ints(self, layout: str) -> tuple[int, ...]:
        return struct.unpack_from(layout, self.payload)


@dataclass(slots=True)
class Pair:
    """A request with its reply, either of which may be missing."""

    flow: str
    number: int
    opcode: int | None
    xid: int | None
    request: Frame | None = None
    reply: Frame | None = None
    ambiguous: bool = False
    session: int | None = None

    @property
    def state(self) -> str:
        if self.request is None:
            return "no_request"
        return "complete" if self.reply is not None else "no_reply"

    @property
    def ts_ns(self) -> int:
        one = self.request or self.reply
        assert one is not None
        return one.ts_ns

    @property
    def latency_ns(self) -> int | None:
        if self.request is None or self.reply is None:
            return None
        return self.reply.first_ns - self.request.ts_ns

    @property
    def error(self) -> int | None:
        """Of the reply's header; of a connect what the interfaces lay down. That of a multi is None
        here: see body.
        """
        if self.reply is None:
            return None
        if self.opcode == -10:
            if len(self.reply.payload) == 16:
                return int(self.reply.ints(">iqi")[2])
            return 0 if self.session else -112
        return int(self.reply.ints(">iqi")[2])

    @property
    def zxid(self) -> int | None:
        if self.reply is None or (self.opcode == -10 and len(self.reply.payload) != 16):
            return None
        return int(self.reply.ints(">iqi")[1])


@dataclass(slots=True)
class Word:
    flow: str
    word: str
    reply_bytes: int
    whole: bool


@dataclass(slots=True)
class Reading:
    """All that the oracle found."""

    pairs: list[Pair] = field(default_factory=list)
    events: list[Frame] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    client_flows: set[str] = field(default_factory=set)
    holes: int = 0

    def count(self, to_server: bool) -> int:
        return sum(f.to_server == to_server for f in self.frames)


def _frames(talk: Conversation, side: int, start: int = 0) -> list[Frame]:
    stream = talk.streams[side]
    out, at = [], start
    while at + 4 <= len(stream.data):
        (length,) = struct.unpack_from(">i", stream.data, at)
        if not 0 <= length <= 64 << 20 or at + 4 + length > len(stream.data):
            break
        out.append(
            Frame(
                talk.flow,
                talk.number,
                side == 0,
                stream.time_of_last(at, at + 4 + length),
                stream.time_of(at),
                stream.data[at + 4 : at + 4 + length],
            )
        )
        at += 4 + length
    return out


def _is_connect(data: bytes) -> bool:
    # 44 or 45 bytes; 28 or 29 where the password is empty or null.
    return (
        len(data) >= 8
        and data[:3] == bytes(3)
        and data[3] in (28, 29, 44, 45)
        and data[4:8] == bytes(4)
    )


def _pair(talk: Conversation, out: Reading) -> None:
    requests, replies = _frames(talk, 0), _frames(talk, 1)
    out.frames += requests + replies
    waiting: dict[int, deque[Pair]] = defaultdict(deque)
    session: int | None = None
    if talk.began and requests:
        connect = Pair(talk.flow, talk.number, -10, None, requests.pop(0))
        out.pairs.append(connect)
        if replies:
            connect.reply = replies.pop(0)
            if len(connect.reply.payload) >= 32:
                session = connect.session = int(connect.reply.ints(">iiQ")[2])
    for frame in requests:
        xid, opcode = frame.ints(">ii")
        pair = Pair(talk.flow, talk.number, opcode, xid, frame, session=session)
        pair.ambiguous = bool(waiting[xid])
        waiting[xid].append(pair)
        out.pairs.append(pair)
    for frame in replies:
        (xid,) = frame.ints(">i")
        if xid == -1:
            out.events.append(frame)
        elif waiting[xid]:
            waiting[xid].popleft().reply = frame
        else:
            known = {-2: 11, -4: 100}.get(xid)
            out.pairs.append(Pair(talk.flow, talk.number, known, xid, None, frame, session=session))


def read(records: Sequence[Record], listeners: Iterable[Address] = ()) -> Reading:
    """Reads the client conversations among ``records``; joined ones only at the given listeners."""
    out = Reading()
    known = set(listeners)
    for talk in conversations(records, known):
        data = talk.streams[0].data
        if talk.began and data[:4] in WORDS:
            name = "telnet close" if data[0] == 0xFF else data[:4].decode()
            reply = talk.streams[1]
            out.words.append(Word(talk.flow, name, len(reply.data), not reply.holes))
            out.client_flows.add(talk.flow)
        elif (talk.began and _is_connect(data)) or (not talk.began and talk.server in known):
            out.client_flows.add(talk.flow)
            out.holes += talk.streams[0].holes + talk.streams[1].holes
            _pair(talk, out)
    return out


def client_listeners(ports: Path) -> set[Address]:
    """The client listeners that a ``ports.json`` names."""
    if not ports.exists():
        return set()
    known = json.loads(ports.read_text())
    found = {tuple(a) for a in known.get("client", {}).values()}
    found |= {
        tuple(v["client"])
        for v in known.values()
        if isinstance(v, dict) and isinstance(v.get("client"), list)
    }
    return {(str(ip), int(port)) for ip, port in found}


def read_file(path: Path) -> Reading | None:
    """The reading of a file, None where it is not a pcap of Ethernet (the oracle reads nothing
    else).
    """
    try:
        capture = read_pcap(path)
    except ValueError:
        return None
    if capture.linktype != ETHERNET:
        return None
    return read(capture.records, client_listeners(path.parent / "ports.json"))
