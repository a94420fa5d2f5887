"""Messages as packets of a capture: a plain TCP conversation per connection.

Sequence numbers run from anywhere (``initial_numbers``); each message is a packet (or several,
where it is large) at the time at which it was complete, a reply's first byte at the time of its
own. What is left out is a hole in the numbers, which every reader of captures tells. Packets are
sorted within a window. Writes IPv4 or IPv6 over Ethernet, checksums included; knows no ZooKeeper.
"""

from __future__ import annotations

import heapq
import struct
from dataclasses import dataclass, field
from typing import Final

from zktrace.capture.segment import ACK, FIN, PSH, SYN
from zktrace.capture.write import PcapngWriter, initial_numbers

#: Bytes of TCP payload in a packet: below what the length field of IP can say.
_MOST: Final = 60_000
_WINDOW: Final = 8_192
_ETHERNET: Final = bytes.fromhex("020000000002020000000001")

Endpoint = tuple[bytes, int]


@dataclass(slots=True)
class Flow:
    """A connection being written: both ends, how many bytes each has sent, and the numbers that
    they are counted from.
    """

    client: Endpoint
    server: Endpoint
    sent: list[int] = field(default_factory=lambda: [1, 1])
    idents: list[int] = field(default_factory=lambda: [0, 0])
    initial: tuple[int, int] = (0, 0)
    begun: bool = False


class Packets:
    """Writes to `out`; :meth:`finish` writes what waits to be sorted."""

    def __init__(self, out: PcapngWriter) -> None:
        self._out = out
        self._heap: list[tuple[int, int, bytes]] = []
        self._count = 0

    def open(self, flow: Flow, ts_ns: int) -> None:
        """The handshake, just before the first message."""
        flow.initial = initial_numbers(ts_ns)
        for side, flags, seq, ack in ((0, SYN, 0, 0), (1, SYN | ACK, 0, 1), (0, ACK, 1, 1)):
            self._put(flow, side, ts_ns, seq, ack, flags, b"")

    def data(self, flow: Flow, side: int, first_ns: int, ts_ns: int, payload: bytes) -> None:
        """A message of the client (side 0) or the server; its first byte was at `first_ns`."""
        if first_ns < ts_ns and len(payload) > 1:
            half = min(len(payload) // 2, _MOST)
            self._send(flow, side, first_ns, payload[:half])
            payload = payload[half:]
        for at in range(0, len(payload), _MOST):
            self._send(flow, side, ts_ns, payload[at : at + _MOST])

    def _send(self, flow: Flow, side: int, ts_ns: int, payload: bytes) -> None:
        seq, ack = flow.sent[side], flow.sent[1 - side]
        self._put(flow, side, ts_ns, seq, ack, ACK | PSH, payload)
        flow.sent[side] += len(payload)

    def gap(self, flow: Flow, side: int, size: int) -> None:
        """So many bytes are left out."""
        flow.sent[side] += size

    def close(self, flow: Flow, ts_ns: int) -> None:
        """Both sides end it."""
        for side in (0, 1):
            seq, ack = flow.sent[side], flow.sent[1 - side]
            self._put(flow, side, ts_ns, seq, ack, ACK | FIN, b"")
            flow.sent[side] += 1

    def _put(
        self, flow: Flow, side: int, ts_ns: int, seq: int, ack: int, flags: int, payload: bytes
    ) -> None:
        src, dst = (flow.client, flow.server) if side == 0 else (flow.server, flow.client)
        # each side numbers its packets, as Linux does: a hole would look like a loss
        flow.idents[side] = (flow.idents[side] + 1) & 0xFFFF
        seq, ack = seq + flow.initial[side], ack + flow.initial[1 - side]
        packet = _packet(src, dst, (seq, ack, flags), payload, flow.idents[side])
        self._count += 1
        heapq.heappush(self._heap, (ts_ns, self._count, packet))
        if len(self._heap) > _WINDOW:
            self._write()

    def _write(self) -> None:
        ts_ns, _, packet = heapq.heappop(self._heap)
        self._out.packet(ts_ns, packet)

    def finish(self) -> None:
        while self._heap:
            self._write()


def _packet(
    src: Endpoint, dst: Endpoint, what: tuple[int, int, int], payload: bytes, ident: int
) -> bytes:
    seq, ack, flags = what
    acked = ack & 0xFFFFFFFF if flags & ACK else 0
    tcp = struct.pack(
        ">HHIIBBHHH", src[1], dst[1], seq & 0xFFFFFFFF, acked, 5 << 4, flags, 0xFFFF, 0, 0
    )
    size = len(tcp) + len(payload)
    if len(src[0]) == 4:
        pseudo = src[0] + dst[0] + struct.pack(">BBH", 0, 6, size)
        ip = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + size, ident, 0x4000, 64, 6, 0, src[0], dst[0]
        )
        ip = ip[:10] + struct.pack(">H", _checksum(ip)) + ip[12:]
        kind = b"\x08\x00"
    else:
        pseudo = src[0] + dst[0] + struct.pack(">IHBB", size, 0, 0, 6)
        ip = struct.pack(">IHBB16s16s", 6 << 28, size, 6, 64, src[0], dst[0])
        kind = b"\x86\xdd"
    check = _checksum(pseudo + tcp + payload)
    tcp = tcp[:16] + struct.pack(">H", check) + tcp[18:]
    return _ETHERNET + kind + ip + tcp + payload


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    # a number modulo 0xffff is the folded sum of its 16-bit digits
    total = int.from_bytes(data, "big")
    folded = total % 0xFFFF
    if folded == 0 and total:
        folded = 0xFFFF
    return ~folded & 0xFFFF
