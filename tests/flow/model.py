"""A model of TCP conversations that knows the true streams; a recorder of what is delivered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from zktrace.capture.segment import ACK, FIN, RST, SYN, Segment
from zktrace.flow import Endpoint, FlowCounters, How, Limits, Reassembler

MASK = 0xFFFF_FFFF
CLIENT: Endpoint = (bytes([10, 0, 0, 1]), 40_000)
SERVER: Endpoint = (bytes([10, 0, 0, 9]), 2181)
MS = 1_000_000

Call = tuple[Any, ...]


class Recorder:
    """Keeps the calls, and checks that they obey the contract of `FlowHandler`."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.ended: dict[int, How] = {}
        self.live: set[int] = set()

    def open(self, conn_id: int, ts_ns: int, a: Endpoint, b: Endpoint, syn: bool) -> None:
        assert conn_id == len(self.live) + len(self.ended)
        self.live.add(conn_id)
        self.calls.append(("open", conn_id, ts_ns, a, b, syn))

    def data(self, conn_id: int, side: int, ts_ns: int, need: int, data: bytes, late: bool) -> None:
        assert conn_id in self.live
        assert data
        assert need >= 0
        self.calls.append(("data", conn_id, side, ts_ns, need, bytes(data), late))

    def gap(self, conn_id: int, side: int, ts_ns: int, n: int) -> None:
        assert conn_id in self.live
        assert n >= 1
        self.calls.append(("gap", conn_id, side, ts_ns, n))

    def end(self, conn_id: int, ts_ns: int, how: How) -> None:
        self.live.remove(conn_id)
        self.ended[conn_id] = how
        self.calls.append(("end", conn_id, ts_ns, how))

    def named(self, name: str) -> list[Call]:
        return [call for call in self.calls if call[0] == name]

    def stream(self, side: int, conn_id: int = 0) -> bytes:
        """The bytes of a side; bytes of a gap are zeros."""
        out = b""
        for call in self.calls:
            if call[0] == "data" and call[1:3] == (conn_id, side):
                out += call[5]
            elif call[0] == "gap" and call[1:3] == (conn_id, side):
                out += bytes(call[4])
        return out

    def opens(self) -> list[tuple[Endpoint, Endpoint, bool]]:
        return [(call[3], call[4], call[5]) for call in self.named("open")]


def reassemble(
    segments: Iterable[Segment], limits: Limits | None = None
) -> tuple[Recorder, FlowCounters]:
    recorder = Recorder()
    reassembler = Reassembler(recorder, limits)
    for segment in segments:
        reassembler.segment(segment)
    reassembler.finish()
    assert not recorder.live
    assert reassembler._cost == 0
    return recorder, reassembler.counters


@dataclass
class Talk:
    """Writes the packets of one connection, in the order of the wire.

    Position n of a stream is always `pattern(side)[n]`, so any delivered byte can be checked.
    """

    client: Endpoint = CLIENT
    server: Endpoint = SERVER
    isn: tuple[int, int] = (1_000, 9_000)
    ts: int = 1_000_000 * MS
    step: int = MS
    segments: list[Segment] = field(default_factory=list)
    sent: list[int] = field(default_factory=lambda: [0, 0])  # offset, SYN and FIN not counted
    extra: list[int] = field(default_factory=lambda: [1, 1])  # bytes of SYN and FIN before `sent`
    streams: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))

    def raw(
        self,
        side: int,
        off: int,
        payload: bytes = b"",
        flags: int = ACK,
        ack: int | None = None,
        wire_len: int | None = None,
    ) -> Segment:
        """A packet of `side` with its first byte at offset `off`; `ack` as an offset too."""
        src, dst = (self.client, self.server) if side == 0 else (self.server, self.client)
        acked = self.sent[1 - side] + self.extra[1 - side] - 1 if ack is None else ack
        segment = Segment(
            self.ts,
            src[0],
            dst[0],
            src[1],
            dst[1],
            (self.isn[side] + 1 + off) & MASK,
            (self.isn[1 - side] + 1 + acked) & MASK if flags & ACK else 0,
            flags,
            payload,
            len(payload) if wire_len is None else wire_len,
        )
        self.ts += self.step
        self.segments.append(segment)
        return segment

    def handshake(self) -> Talk:
        self.raw(0, -1, flags=SYN)
        self.raw(1, -1, flags=SYN | ACK)
        self.raw(0, 0)
        return self

    def send(self, side: int, data: bytes, captured: int | None = None) -> Talk:
        kept = data if captured is None else data[:captured]
        self.raw(side, self.sent[side] + self.extra[side] - 1, kept, wire_len=len(data))
        self.sent[side] += len(data)
        self.streams[side].extend(data)
        return self

    def ack(self, side: int, count: int = 1) -> Talk:
        for _ in range(count):
            self.raw(side, self.sent[side] + self.extra[side] - 1)
        return self

    def fin(self, side: int) -> Talk:
        self.raw(side, self.sent[side], flags=ACK | FIN)
        self.extra[side] = 2
        return self

    def close(self) -> Talk:
        self.fin(0).fin(1)
        return self.ack(0)

    def rst(self, side: int, payload: bytes = b"") -> Talk:
        self.raw(side, self.sent[side] + self.extra[side] - 1, payload, flags=RST | ACK)
        return self

    def lose(self) -> Talk:
        """The last packet was not captured."""
        self.segments.pop()
        return self
