"""A copy of the traffic as a pcapng stream, as ``zktrace/_native/src/relay/tap.rs`` makes it.

pcapng: draft-ietf-opsawg-pcapng, sections 4.1 to 4.3; link type RAW (101): packets begin with IP.
Checksums of TCP are 0.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from zktrace.capture.write import initial_numbers

#: Payload of a packet; longer chunks are cut.
CHUNK: Final = 60 * 1024
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
HEADER: Final = (
    struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    + struct.pack("<IIHHI", 1, 32, 101, 0, 65535)
    + struct.pack("<HHB3xHHI", 9, 1, 9, 0, 0, 32)
)
_PACKET: Final = struct.Struct("<IIIIIII")
_TCP: Final = struct.Struct(">HHIIBBHHH")
_V4: Final = struct.Struct(">BBHHHBBH4s4s")
_V6: Final = struct.Struct(">IHBB16s16s")
_WORD: Final = struct.Struct("<I")

Address = tuple[str, int]


class Queue:
    """Bytes that wait for one reader."""

    def __init__(self, limit: int, lossless: bool) -> None:
        self._limit = limit
        self.lossless = lossless
        self._blocks: deque[bytes] = deque([HEADER])
        self._bytes = len(HEADER)
        self._closed = False
        self._state = threading.Condition()
        #: Called, from the reader's thread, when there is room again.
        self.on_room: Callable[[], None] = lambda: None

    def push(self, block: bytes) -> bool:
        """False: it is full and not lossless, so it was left out."""
        with self._state:
            if self._closed:
                return True
            if not self.lossless and self._bytes >= self._limit:
                return False
            self._blocks.append(block)
            self._bytes += len(block)
            self._state.notify()
        return True

    @property
    def presses(self) -> bool:
        """Traffic has to wait for the reader."""
        return self.lossless and not self._closed and self._bytes >= self._limit

    def next(self, timeout_s: float) -> bytes | None:
        with self._state:
            self._state.wait_for(lambda: self._blocks or self._closed, timeout_s)
            if not self._blocks:
                return None
            # As few calls as there can be for whoever decodes.
            block = b"".join(self._blocks)
            self._blocks.clear()
            room = self._bytes >= self._limit
            self._bytes = 0
        if room:
            self.on_room()
        return block

    def ended(self) -> bool:
        with self._state:
            return self._closed and not self._blocks

    def close(self) -> None:
        with self._state:
            self._closed = True
            self._state.notify_all()


class Tap:
    """Where connections put their copies; of one thread."""

    def __init__(self, queues: list[Queue]) -> None:
        self._queues = queues
        self.lost_packets = 0
        self.lost_bytes = 0

    @property
    def presses(self) -> bool:
        return any(queue.presses for queue in self._queues)

    def put(self, packet: bytes) -> None:
        for queue in self._queues:
            if not queue.push(packet):
                self.lost_packets += 1
                self.lost_bytes += len(packet)

    @property
    def wanted(self) -> bool:
        return bool(self._queues)


class Flow:
    """One connection as the tap shows it. Directions: 0 from the client, 1 from the server."""

    def __init__(self, tap: Tap, client: Address, server: Address, ts_ns: int) -> None:
        self._tap = tap
        ends = [(_canonical(host), port) for host, port in (client, server)]
        self._v4 = all(isinstance(ip, IPv4Address) for ip, _ in ends)
        self._ips = [ip.packed if self._v4 else _six(ip) for ip, _ in ends]
        self._ports = [port for _, port in ends]
        self._seq = list(initial_numbers(ts_ns))
        self._packet(0, SYN, b"", ts_ns)
        self._seq[0] = (self._seq[0] + 1) & 0xFFFF_FFFF
        self._packet(1, SYN | ACK, b"", ts_ns)
        self._seq[1] = (self._seq[1] + 1) & 0xFFFF_FFFF
        self._packet(0, ACK, b"", ts_ns)

    def data(self, direction: int, data: bytes, ts_ns: int) -> None:
        for at in range(0, len(data), CHUNK):
            part = data[at : at + CHUNK]
            self._packet(direction, PSH | ACK, part, ts_ns)
            self._seq[direction] = (self._seq[direction] + len(part)) & 0xFFFF_FFFF

    def fin(self, direction: int, ts_ns: int) -> None:
        self._packet(direction, FIN | ACK, b"", ts_ns)
        self._seq[direction] = (self._seq[direction] + 1) & 0xFFFF_FFFF

    def reset(self, direction: int, ts_ns: int) -> None:
        self._packet(direction, RST | ACK, b"", ts_ns)

    def _packet(self, direction: int, flags: int, data: bytes, ts_ns: int) -> None:
        if not self._tap.wanted:
            return
        there, back = direction, 1 - direction
        acked = self._seq[back] if flags & ACK else 0
        ports = self._ports[there], self._ports[back]
        tcp = _TCP.pack(*ports, self._seq[there], acked, 0x50, flags, 0xFFFF, 0, 0)
        size = 20 + len(data)
        ips = self._ips[there], self._ips[back]
        if self._v4:
            head = _V4.pack(0x45, 0, 20 + size, 0, 0x4000, 64, 6, 0, *ips)
            words = sum(struct.unpack(">10H", head))
            words = (words & 0xFFFF) + (words >> 16)
            checksum = ~((words & 0xFFFF) + (words >> 16)) & 0xFFFF
            head = head[:10] + checksum.to_bytes(2, "big") + head[12:]
        else:
            head = _V6.pack(6 << 28, size, 6, 64, *ips)
        length = len(head) + size
        padding = -length % 4
        total = 32 + length + padding
        times = ts_ns >> 32, ts_ns & 0xFFFF_FFFF
        block = _PACKET.pack(6, total, 0, *times, length, length)
        self._tap.put(block + head + tcp + data + bytes(padding) + _WORD.pack(total))


def _canonical(host: str) -> IPv4Address | IPv6Address:
    ip = ip_address(host.partition("%")[0])
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


def _six(ip: IPv4Address | IPv6Address) -> bytes:
    return ip.packed if isinstance(ip, IPv6Address) else bytes(10) + b"\xff\xff" + ip.packed
