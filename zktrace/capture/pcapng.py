"""The pcapng container (draft-ietf-opsawg-pcapng). Push parser; see records.py.

Reads section headers (a new section resets byte order and interfaces; a comment that begins with
:data:`FILTERED` says that the rest was filtered away), interface descriptions
(if_tsresol, if_tsoffset), enhanced, simple and obsolete packet blocks, and the drop counts of
interface statistics; other blocks are skipped. Must not know: link types.

Damage: a block whose length is below 12, above 32 MiB, no multiple of 4, or not repeated at its
end; behind it, a block of a known type with a right length begins again, at any byte. A block with
a good frame but bad contents (unknown interface, packet longer than the block) is skipped alone.
A simple packet block has no time: it gets that of the packet before it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from zktrace.capture.counters import CaptureCounters
from zktrace.capture.records import BAD, MAX_TS_NS, MIN_TS_NS, NEED_MORE, RecordParser
from zktrace.capture.segment import Packet

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
OBSOLETE_PACKET = 2
SIMPLE_PACKET = 3
INTERFACE_STATISTICS = 5
ENHANCED_PACKET = 6
# Where reading may start again: the above, name resolution (4), secrets (10), custom blocks.
KNOWN_TYPES = frozenset({SECTION_HEADER, 1, 2, 3, 4, 5, 6, 10, 0x0BAD, 0x40000BAD})
# Shortest block of each type whose contents are read: fixed fields and framing.
MIN_LENGTH = {
    INTERFACE_DESCRIPTION: 20,
    OBSOLETE_PACKET: 32,
    SIMPLE_PACKET: 16,
    INTERFACE_STATISTICS: 24,
    ENHANCED_PACKET: 32,
}
MIN_SECTION_HEADER = 28
# The largest block believed: twice the largest snap length believed in pcap files.
MAX_BLOCK = 32 << 20
# A section with more interfaces than any capture tool opens is an attack on memory.
MAX_INTERFACES = 4096

_BYTE_ORDER_MAGIC = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
#: What the comment of a section begins with that holds only some messages; the filter follows.
FILTERED = b"zktrace filter: "

_COMMENT = 1
_IF_TSRESOL = 9
_IF_TSOFFSET = 14
_ISB_IFDROP = 5
_ISB_OSDROP = 7


@dataclass(slots=True)
class Interface:
    """What an interface description says."""

    linktype: int
    snaplen: int
    resolution: int = 1_000_000
    """Time units in a second."""
    offset_s: int = 0
    drops: int | None = None


class PcapngParser(RecordParser):
    """Packets of a pcapng file, from its first byte; the byte-order magic was checked before."""

    def __init__(self, counters: CaptureCounters, order_magic: bytes) -> None:
        super().__init__(counters)
        self._order = _BYTE_ORDER_MAGIC[order_magic]
        self._interfaces: list[Interface] = []
        self._last_ts_ns = 0

    def record(self, pos: int, eof: bool) -> int:
        framed = self._frame(pos)
        if framed is None:
            return NEED_MORE
        order, kind, length = framed
        if length == 0:
            return BAD
        end = pos + length
        if end > len(self.buffer):
            return NEED_MORE
        if struct.unpack_from(order + "I", self.buffer, end - 4)[0] != length:
            return BAD
        if kind == SECTION_HEADER:
            self._order = order
            self._interfaces = []
            told = self._options(bytes(self.buffer[pos + 24 : end - 4]), 0)
            if any(code == _COMMENT and value.startswith(FILTERED) for code, value in told):
                self.counters.filtered += 1
        elif kind in MIN_LENGTH:
            body = bytes(self.buffer[pos + 8 : end - 4])
            if length < MIN_LENGTH[kind] or not self._contents(kind, body):
                self._damage(length)
        return length

    def candidate(self, pos: int, eof: bool) -> int:
        framed = self._frame(pos)
        if framed is None:
            return BAD if eof else NEED_MORE
        order, kind, length = framed
        if length == 0 or kind not in KNOWN_TYPES:
            return BAD
        end = pos + length
        if end > len(self.buffer):
            return BAD if eof else NEED_MORE
        return 1 if struct.unpack_from(order + "I", self.buffer, end - 4)[0] == length else BAD

    def _frame(self, pos: int) -> tuple[str, int, int] | None:
        """Byte order, type and length (0: cannot be) of the block at `pos`; None: too few bytes."""
        if pos + 12 > len(self.buffer):
            return None
        order = self._order
        shortest = 12
        if self.buffer.startswith(b"\x0a\x0d\x0d\x0a", pos):
            shortest = MIN_SECTION_HEADER
            found = _BYTE_ORDER_MAGIC.get(bytes(self.buffer[pos + 8 : pos + 12]))
            if found is None:
                return order, SECTION_HEADER, 0
            order = found
        kind, length = struct.unpack_from(order + "II", self.buffer, pos)
        if length < shortest or length % 4 or length > MAX_BLOCK:
            length = 0
        return order, kind, length

    def _contents(self, kind: int, body: bytes) -> bool:
        """Uses the body of a block; False when it contradicts itself."""
        if kind == ENHANCED_PACKET:
            number, high, low, captured, wire_len = struct.unpack_from(self._order + "5I", body)
            return self._packet(number, high << 32 | low, captured, wire_len, body)
        if kind == OBSOLETE_PACKET:
            number, high, low, captured, wire_len = struct.unpack_from(self._order + "H2x4I", body)
            return self._packet(number, high << 32 | low, captured, wire_len, body)
        if kind == SIMPLE_PACKET:
            return self._simple_packet(body)
        if kind == INTERFACE_DESCRIPTION:
            return self._describe(body)
        return self._statistics(body)

    def _packet(self, number: int, units: int, captured: int, wire_len: int, body: bytes) -> bool:
        if number >= len(self._interfaces) or captured > len(body) - 20:
            return False
        interface = self._interfaces[number]
        ts_ns = units * 1_000_000_000 // interface.resolution
        ts_ns += interface.offset_s * 1_000_000_000
        self._last_ts_ns = max(MIN_TS_NS, min(ts_ns, MAX_TS_NS))
        self._emit(interface, body[20 : 20 + captured], wire_len)
        return True

    def _simple_packet(self, body: bytes) -> bool:
        if not self._interfaces:
            return False
        interface = self._interfaces[0]
        (wire_len,) = struct.unpack_from(self._order + "I", body)
        captured = min(wire_len, len(body) - 4)
        if interface.snaplen:
            captured = min(captured, interface.snaplen)
        self._emit(interface, body[4 : 4 + captured], wire_len)
        return True

    def _emit(self, interface: Interface, data: bytes, wire_len: int) -> None:
        wire_len = max(wire_len, len(data))
        self.packets.append(Packet(self._last_ts_ns, interface.linktype, data, wire_len))

    def _describe(self, body: bytes) -> bool:
        if len(self._interfaces) >= MAX_INTERFACES:
            return False
        interface = Interface(*struct.unpack_from(self._order + "H2xI", body))
        for code, value in self._options(body, 8):
            if code == _IF_TSRESOL and len(value) == 1:
                power = value[0] & 0x7F
                interface.resolution = 2**power if value[0] & 0x80 else 10**power
            elif code == _IF_TSOFFSET and len(value) == 8:
                (interface.offset_s,) = struct.unpack(self._order + "q", value)
        self._interfaces.append(interface)
        return True

    def _statistics(self, body: bytes) -> bool:
        (number,) = struct.unpack_from(self._order + "I", body)
        if number >= len(self._interfaces):
            return False
        drops: int | None = None
        for code, value in self._options(body, 12):
            if code in (_ISB_IFDROP, _ISB_OSDROP) and len(value) == 8:
                (count,) = struct.unpack(self._order + "Q", value)
                # Clamped: the native engine counts in 64 bits, and no more were ever dropped.
                drops = min((drops or 0) + min(count, MAX_TS_NS), MAX_TS_NS)
        if drops is not None:
            # Counts run from the start of the capture: a later block replaces an earlier one.
            interface = self._interfaces[number]
            total = (self.counters.kernel_drops or 0) - (interface.drops or 0) + drops
            self.counters.kernel_drops = min(total, MAX_TS_NS)
            interface.drops = drops
        return True

    def _options(self, body: bytes, pos: int) -> list[tuple[int, bytes]]:
        options: list[tuple[int, bytes]] = []
        while pos + 4 <= len(body):
            code, length = struct.unpack_from(self._order + "HH", body, pos)
            pos += 4
            if code == 0 or pos + length > len(body):
                break
            options.append((code, body[pos : pos + length]))
            pos += (length + 3) & ~3
        return options
