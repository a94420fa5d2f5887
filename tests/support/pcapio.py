"""Capture files as lists of records: a reader and writers of pcap and pcapng, small and strict.

For tests only and independent of ``zktrace.capture`` on purpose. Knows files, not packets.
"""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import zstandard

ETHERNET: Final = 1
NULL: Final = 0
LOOP: Final = 108
RAW_IP: Final = 101
SLL: Final = 113
SLL2: Final = 276

_MAGIC_US: Final = 0xA1B2C3D4
_MAGIC_NS: Final = 0xA1B23C4D


@dataclass(frozen=True, slots=True)
class Record:
    """One captured packet: time in ns since the epoch, the bytes that were kept, the length it had
    on the wire.
    """

    ts_ns: int
    data: bytes
    wire_len: int = -1

    @property
    def length(self) -> int:
        """Length on the wire (that of the data unless told otherwise)."""
        return len(self.data) if self.wire_len < 0 else self.wire_len

    def at(self, ts_ns: int) -> Record:
        return replace(self, ts_ns=ts_ns)


@dataclass(slots=True)
class Capture:
    """The records of one file, in file order."""

    records: list[Record] = field(default_factory=list)
    linktype: int = ETHERNET


def unpacked(raw: bytes) -> bytes:
    """The bytes of a capture, decompressed where the magic says so."""
    if raw[:2] == b"\x1f\x8b":
        return gzip.decompress(raw)
    if raw[:4] == b"\x28\xb5\x2f\xfd":
        unpack = zstandard.ZstdDecompressor()
        with unpack.stream_reader(io.BytesIO(raw), read_across_frames=True) as reader:
            return reader.read()
    return raw


def read_pcap(path: Path) -> Capture:
    """Reads a whole, undamaged classic pcap file of either byte order and resolution."""
    raw = unpacked(path.read_bytes())
    for order in "<>":
        magic = struct.unpack_from(order + "I", raw)[0]
        if magic in (_MAGIC_US, _MAGIC_NS):
            break
    else:
        raise ValueError(f"{path.name}: not a pcap file")
    unit = 1000 if magic == _MAGIC_US else 1
    linktype = struct.unpack_from(order + "I", raw, 20)[0] & 0xFFFF
    records = []
    at = 24
    while at + 16 <= len(raw):
        sec, frac, incl, orig = struct.unpack_from(order + "IIII", raw, at)
        records.append(Record(sec * 10**9 + frac * unit, raw[at + 16 : at + 16 + incl], orig))
        at += 16 + incl
    if at != len(raw):
        raise ValueError(f"{path.name}: {len(raw) - at} stray bytes at the end")
    return Capture(records, linktype)


def pcap_bytes(
    records: Iterable[Record],
    linktype: int = ETHERNET,
    *,
    order: str = "<",
    nanoseconds: bool = False,
    snaplen: int = 262144,
) -> bytes:
    """A classic pcap file; data longer than the snap length is cut."""
    magic, unit = (_MAGIC_NS, 1) if nanoseconds else (_MAGIC_US, 1000)
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, linktype)]
    for record in records:
        sec, rest = divmod(record.ts_ns, 10**9)
        data = record.data[:snaplen]
        out.append(struct.pack(order + "IIII", sec, rest // unit, len(data), record.length))
        out.append(data)
    return b"".join(out)


def write_pcap(path: Path, records: Iterable[Record], linktype: int = ETHERNET) -> Path:
    """Writes nanosecond pcap, so that no test loses time to rounding."""
    path.write_bytes(pcap_bytes(records, linktype, nanoseconds=True))
    return path


@dataclass(frozen=True, slots=True)
class Interface:
    """A pcapng interface: link type and ``if_tsresol`` (6 = microseconds, 9 = nanoseconds, 0x80|n =
    2^-n).
    """

    linktype: int = ETHERNET
    tsresol: int | None = None
    tsoffset: int | None = None
    snaplen: int = 262144


def _block(order: str, kind: int, body: bytes) -> bytes:
    body += b"\0" * (-len(body) % 4)
    total = len(body) + 12
    return struct.pack(order + "II", kind, total) + body + struct.pack(order + "I", total)


def _option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + b"\0" * (-len(value) % 4)


def pcapng_header(interfaces: Sequence[Interface], order: str = "<") -> bytes:
    """A section header and its interface descriptions."""
    out = [_block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))]
    for one in interfaces:
        options = b""
        if one.tsresol is not None:
            options += _option(order, 9, bytes([one.tsresol]))
        if one.tsoffset is not None:
            options += _option(order, 14, struct.pack(order + "q", one.tsoffset))
        if options:
            options += _option(order, 0, b"")
        body = struct.pack(order + "HHI", one.linktype, 0, one.snaplen) + options
        out.append(_block(order, 1, body))
    return b"".join(out)


def pcapng_packet(index: int, one: Interface, record: Record, order: str = "<") -> bytes:
    """An enhanced packet block of interface number ``index``."""
    resol = 6 if one.tsresol is None else one.tsresol
    per_second = 2 ** (resol & 0x7F) if resol & 0x80 else 10**resol
    ts_ns = record.ts_ns - (one.tsoffset or 0) * 10**9
    units = -(
        -ts_ns * per_second // 10**9
    )  # rounded up, so that reading (which rounds down) gives it back
    head = struct.pack(
        order + "IIIII", index, units >> 32, units & 0xFFFFFFFF, len(record.data), record.length
    )
    data = record.data + b"\0" * (-len(record.data) % 4)
    return _block(order, 6, head + data)


def pcapng_simple(record: Record, order: str = "<") -> bytes:
    """A simple packet block (it has no time)."""
    return _block(order, 3, struct.pack(order + "I", record.length) + record.data)


def pcapng_other(kind: int, body: bytes, order: str = "<") -> bytes:
    """Any other block."""
    return _block(order, kind, body)
