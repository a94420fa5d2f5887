"""Packets and files made by hand, and both engines' capture layers behind one function."""

from __future__ import annotations

import dataclasses
import importlib
import io
import struct
from collections.abc import Callable, Iterable
from typing import Any

from zktrace.capture.counters import CaptureCounters
from zktrace.capture.errors import CaptureError
from zktrace.capture.reader import SegmentReader
from zktrace.capture.segment import Segment
from zktrace.capture.write import PcapngWriter, PcapWriter

# Where the extension was not built this is the crate's directory, or nothing at all.
try:
    native: Any = importlib.import_module("zktrace._native")
except ImportError:
    native = None

HAVE_NATIVE = hasattr(native, "_debug_segments")

Outcome = tuple[list[tuple[Any, ...]], dict[str, Any]]
Reader = Callable[..., Outcome]

T0 = 1_700_000_000_123_456_789
SRC = bytes([10, 0, 0, 1])
DST = bytes([10, 0, 0, 2])
SRC6 = bytes.fromhex("20010db8000000000000000000000001")
DST6 = bytes.fromhex("20010db8000000000000000000000002")


def read_python(data: bytes, block: int = 1 << 20) -> Outcome:
    """Segments and counters by the Python engine. Raises ValueError on what is no capture."""
    counters = CaptureCounters()
    reader = SegmentReader(counters)
    segments: list[Segment] = []
    try:
        for pos in range(0, len(data), block):
            segments += reader.feed(data[pos : pos + block])
        segments += reader.finish()
    except CaptureError as error:
        raise ValueError(0, error.reason) from None
    return [tuple(s) for s in segments], dataclasses.asdict(counters)


def read_native(data: bytes, block: int = 1 << 20) -> Outcome:
    """The same by the native engine."""
    return native._debug_segments(data, block), native._debug_capture_counters(data, block)


def tcp(
    payload: bytes = b"",
    *,
    sport: int = 40000,
    dport: int = 2181,
    seq: int = 1000,
    ack: int = 2000,
    flags: int = 0x18,
    options: bytes = b"",
) -> bytes:
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack(">HHIIBBHHH", sport, dport, seq, ack, offset, flags, 512, 0, 0)
    return head + options + payload


def udp(payload: bytes, dport: int, sport: int = 50000) -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload


def ip4(
    payload: bytes,
    protocol: int = 6,
    *,
    src: bytes = SRC,
    dst: bytes = DST,
    total: int | None = None,
    ident: int = 7,
    frag: int = 0,
    options: bytes = b"",
) -> bytes:
    header = 20 + len(options)
    if total is None:
        total = header + len(payload)
    fields = (0x40 | header // 4, 0, total, ident, frag, 64, protocol, 0, src, dst)
    return struct.pack(">BBHHHBBH4s4s", *fields) + options + payload


def ip6(payload: bytes, protocol: int = 6, *, length: int | None = None) -> bytes:
    if length is None:
        length = len(payload)
    return struct.pack(">IHBB16s16s", 0x60000000, length, protocol, 64, SRC6, DST6) + payload


def ether(payload: bytes, ethertype: int = 0x0800) -> bytes:
    return bytes(12) + struct.pack(">H", ethertype) + payload


def pcap(packets: Iterable[bytes], linktype: int = 1, **options: Any) -> bytes:
    """A pcap file, one packet a millisecond from T0 on."""
    file = io.BytesIO()
    writer = PcapWriter(file, linktype, **options)
    for number, data in enumerate(packets):
        writer.packet(T0 + number * 1_000_000, data)
    return file.getvalue()


def pcapng(packets: Iterable[bytes], linktype: int = 1, **options: Any) -> bytes:
    """The same as pcapng."""
    file = io.BytesIO()
    writer = PcapngWriter(file)
    writer.interface(linktype, **options)
    for number, data in enumerate(packets):
        writer.packet(T0 + number * 1_000_000, data)
    return file.getvalue()


def frames(count: int) -> list[bytes]:
    """Ethernet frames with a TCP segment each; `payloads` gives what they carry."""
    return [ether(ip4(tcp(payload_of(number), seq=number * 100))) for number in range(count)]


def payload_of(number: int) -> bytes:
    return b"payload %03d of a segment" % number


def payloads(segments: Iterable[tuple[Any, ...]]) -> list[bytes]:
    return [segment[8] for segment in segments]


def expect(counters: dict[str, Any], **expected: Any) -> None:
    """Those counters have these values, and nothing else was lost or wrong."""
    silent = {
        "other_packets": 0,
        "undecoded_packets": 0,
        "malformed_packets": 0,
        "truncated": 0,
        "fragments_dropped": 0,
        "damaged_bytes": 0,
        "damaged_places": 0,
        "kernel_drops": None,
    }
    assert {name: counters[name] for name in silent | expected} == silent | expected
