"""Small writers of pcap and pcapng files, for recordings and tests. Must not know: link types.

pcapng by default writes nanoseconds; every interface may have a resolution and an offset of its
own. Times are nanoseconds since 1970 and are rounded down to what the format can say.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, Literal

ByteOrder = Literal["little", "big"]

_SNAPLEN = 262_144
_ORDER = {"little": "<", "big": ">"}

_PCAP_MAGIC_US = 0xA1B2C3D4
_PCAP_MAGIC_NS = 0xA1B23C4D

_SECTION_HEADER = 0x0A0D0D0A
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_INTERFACE_DESCRIPTION = 1
_SIMPLE_PACKET = 3
_INTERFACE_STATISTICS = 5
_ENHANCED_PACKET = 6
_COMMENT = 1
_IF_NAME = 2
_IF_TSRESOL = 9
_IF_TSOFFSET = 14
_ISB_IFDROP = 5
_ISB_OSDROP = 7


def initial_numbers(ts_ns: int) -> tuple[int, int]:
    """What the sequence numbers of both sides of a TCP connection begin with, by the time at which
    it began (ns), for those who make packets of what they know: a connection on the ports of an
    earlier one must not look like a copy of it (RFC 6528 wants them to differ).
    """
    mixed = ts_ns * 0x9E37_79B9_7F4A_7C15
    return mixed >> 32 & 0xFFFF_FFFF, mixed >> 24 & 0xFFFF_FFFF


class PcapWriter:
    """Writes a pcap file: the header at once, then one record per `packet`."""

    def __init__(
        self,
        file: BinaryIO,
        linktype: int = 1,
        *,
        nanoseconds: bool = True,
        byte_order: ByteOrder = "little",
        snaplen: int = _SNAPLEN,
    ) -> None:
        self._file = file
        self._unit_ns = 1 if nanoseconds else 1000
        self._record = struct.Struct(_ORDER[byte_order] + "4I")
        magic = _PCAP_MAGIC_NS if nanoseconds else _PCAP_MAGIC_US
        header = struct.pack(_ORDER[byte_order] + "IHHiIII", magic, 2, 4, 0, 0, snaplen, linktype)
        file.write(header)

    def packet(self, ts_ns: int, data: bytes, wire_len: int | None = None) -> None:
        """Adds a packet; `wire_len` when more was on the wire than is in `data`."""
        seconds, ns = divmod(ts_ns, 1_000_000_000)
        length = len(data)
        orig = length if wire_len is None else wire_len
        self._file.write(self._record.pack(seconds, ns // self._unit_ns, length, orig) + data)


@dataclass(slots=True)
class _Interface:
    units: int
    offset_s: int


class PcapngWriter:
    """Writes a pcapng file: a section, then interfaces and packets as they are added."""

    def __init__(
        self, file: BinaryIO, *, byte_order: ByteOrder = "little", comment: str | None = None
    ) -> None:
        """`comment`: of the section."""
        self._file = file
        self._interfaces: list[_Interface] = []
        self._order = _ORDER[byte_order]
        self._section(comment)

    def section(self, *, byte_order: ByteOrder = "little", comment: str | None = None) -> None:
        """Starts another section: interfaces are numbered from 0 again."""
        self._order = _ORDER[byte_order]
        self._section(comment)

    def interface(
        self,
        linktype: int = 1,
        *,
        snaplen: int = 0,
        resolution: int = 9,
        binary: bool = False,
        offset_s: int = 0,
        name: str | None = None,
    ) -> int:
        """Adds an interface and gives its number. Its unit is 10^-resolution s, or 2^-... ."""
        options = []
        if name is not None:
            options.append((_IF_NAME, name.encode()))
        options.append((_IF_TSRESOL, bytes([resolution | 0x80 if binary else resolution])))
        if offset_s:
            options.append((_IF_TSOFFSET, struct.pack(self._order + "q", offset_s)))
        fixed = struct.pack(self._order + "HHI", linktype, 0, snaplen)
        self.block(_INTERFACE_DESCRIPTION, fixed + self._options(options))
        self._interfaces.append(_Interface((2 if binary else 10) ** resolution, offset_s))
        return len(self._interfaces) - 1

    def packet(
        self, ts_ns: int, data: bytes, wire_len: int | None = None, interface: int = 0
    ) -> None:
        """Adds an enhanced packet block."""
        clock = self._interfaces[interface]
        units = (ts_ns - clock.offset_s * 1_000_000_000) * clock.units // 1_000_000_000
        orig = len(data) if wire_len is None else wire_len
        high, low = divmod(units, 1 << 32)
        fixed = struct.pack(self._order + "5I", interface, high, low, len(data), orig)
        self.block(_ENHANCED_PACKET, fixed + data)

    def simple_packet(self, data: bytes, wire_len: int | None = None) -> None:
        """Adds a simple packet block: no time, first interface."""
        orig = len(data) if wire_len is None else wire_len
        self.block(_SIMPLE_PACKET, struct.pack(self._order + "I", orig) + data)

    def statistics(
        self, interface: int = 0, *, ifdrop: int | None = None, osdrop: int | None = None
    ) -> None:
        """Adds what an interface has lost since the capture began."""
        options = []
        for code, count in ((_ISB_IFDROP, ifdrop), (_ISB_OSDROP, osdrop)):
            if count is not None:
                options.append((code, struct.pack(self._order + "Q", count)))
        fixed = struct.pack(self._order + "III", interface, 0, 0)
        self.block(_INTERFACE_STATISTICS, fixed + self._options(options))

    def block(self, kind: int, body: bytes) -> None:
        """Adds any block: pads the body and frames it."""
        body += bytes(-len(body) % 4)
        length = struct.pack(self._order + "I", len(body) + 12)
        self._file.write(struct.pack(self._order + "I", kind) + length + body + length)

    def _section(self, comment: str | None = None) -> None:
        self._interfaces.clear()
        # Section length -1: not known, readers go by the blocks.
        fixed = struct.pack(self._order + "IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
        options = [] if comment is None else [(_COMMENT, comment.encode())]
        self.block(_SECTION_HEADER, fixed + self._options(options))

    def _options(self, options: list[tuple[int, bytes]]) -> bytes:
        out = b""
        for code, value in options:
            out += struct.pack(self._order + "HH", code, len(value)) + value
            out += bytes(-len(value) % 4)
        return out + bytes(4) if options else out
