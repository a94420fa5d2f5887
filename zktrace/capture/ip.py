"""IPv4 and IPv6 headers, and fragments put together again (RFC 791, 815, 8200).

Checksums are not verified: offload makes them wrong on the sending host. Must not know: TCP
connections, tunnels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from zktrace.capture.counters import CaptureCounters
from zktrace.capture.link import Malformed, NotTcp, TooShort

_V4 = struct.Struct(">BxHHHxB2x4s4s")
_V6 = struct.Struct(">B3xHBx16s16s")

HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60
# A real chain has two or three; the bound keeps hostile packets cheap.
MAX_EXTENSION_HEADERS = 16

MAX_DATAGRAM = 65_535
# Bounds on what fragments may hold: TCP is hardly ever fragmented, so a few are plenty.
MAX_DATAGRAMS = 256
MAX_FRAGMENT_BYTES = 4 << 20
# Linux gives up on a datagram after the same time (net.ipv4.ipfrag_time).
FRAGMENT_TIMEOUT_NS = 30_000_000_000


class FragmentKey(NamedTuple):
    """What fragments of one datagram share."""

    src: bytes
    dst: bytes
    protocol: int
    ident: int


class Fragment(NamedTuple):
    """One fragment: its place in the datagram, and whether more follow."""

    key: FragmentKey
    offset: int
    more: bool


class Payload(NamedTuple):
    """What an IP header wraps: whole (fragment None) or a piece of a datagram."""

    protocol: int
    src: bytes
    dst: bytes
    data: bytes
    wire: int
    fragment: Fragment | None = None
    ident: int = 0


def ipv4(data: bytes, wire: int) -> Payload:
    """The payload of an IPv4 packet. A total length of 0 means segmentation offload: all of it."""
    if len(data) < 20:
        raise TooShort
    version_ihl, total, ident, flags_offset, protocol, src, dst = _V4.unpack_from(data)
    header = (version_ihl & 0x0F) * 4
    if version_ihl >> 4 != 4 or header < 20:
        raise Malformed
    if total:
        if total < header:
            raise Malformed
        data = data[:total]
        wire = total
    if len(data) < header:
        raise TooShort
    fragment = None
    if flags_offset & 0x3FFF:
        key = FragmentKey(src, dst, protocol, ident)
        fragment = Fragment(key, (flags_offset & 0x1FFF) * 8, bool(flags_offset & 0x2000))
    return Payload(protocol, src, dst, data[header:], wire - header, fragment, ident)


def ipv6(data: bytes, wire: int) -> Payload:
    """The payload of an IPv6 packet, behind its extension headers."""
    if len(data) < 40:
        raise TooShort
    version, length, protocol, src, dst = _V6.unpack_from(data)
    if version >> 4 != 6:
        raise Malformed
    data = data[40:]
    wire -= 40
    if length:
        data = data[:length]
        wire = length
    return extension_headers(Payload(protocol, src, dst, data, wire), fragments=True)


def extension_headers(payload: Payload, fragments: bool) -> Payload:
    """Skips IPv6 extension headers. A reassembled datagram may not hold a fragment again."""
    protocol, src, dst, data, wire = payload[:5]
    for _ in range(MAX_EXTENSION_HEADERS):
        if protocol not in (HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION):
            return Payload(protocol, src, dst, data, wire)
        if len(data) < 8:
            raise TooShort
        fragment = None
        if protocol == AUTHENTICATION:
            length = (data[1] + 2) * 4
        elif protocol == FRAGMENT:
            if not fragments:
                raise NotTcp
            length = 8
            offset = data[2] << 8 | data[3]
            if offset & 0xFFF9:
                key = FragmentKey(src, dst, data[0], int.from_bytes(data[4:8], "big"))
                fragment = Fragment(key, offset & 0xFFF8, bool(offset & 1))
        else:
            length = (data[1] + 1) * 8
        if length > wire:
            raise Malformed
        if length > len(data):
            raise TooShort
        protocol = data[0]
        data = data[length:]
        wire -= length
        if fragment is not None:
            return Payload(protocol, src, dst, data, wire, fragment)
    raise NotTcp


@dataclass(slots=True)
class _Datagram:
    created_ns: int
    buffer: bytearray = field(default_factory=bytearray)
    runs: list[tuple[int, int]] = field(default_factory=list)
    """Sorted (start, end) of what is filled, none touching another."""
    total: int | None = None
    fragments: int = 0


class Reassembler:
    """Datagrams that are not whole yet, in the order in which they began.

    The first copy of a byte wins, and so does the first fragment that says where the end is.
    A fragment is dropped when it is empty, cut by the snap length, not a multiple of 8 though more
    follow, or reaches beyond 65,535; a datagram with all its fragments by age and by the limits.
    """

    def __init__(self, counters: CaptureCounters) -> None:
        self._counters = counters
        self._datagrams: dict[FragmentKey, _Datagram] = {}
        self._bytes = 0

    def add(self, ts_ns: int, payload: Payload, fragment: Fragment) -> bytes | None:
        """The whole datagram, if this fragment completes it."""
        self._expire(ts_ns)
        data = payload.data
        start, end = fragment.offset, fragment.offset + len(data)
        if (
            not data
            or len(data) < payload.wire
            or end > MAX_DATAGRAM
            or (fragment.more and len(data) % 8)
        ):
            self._counters.fragments_dropped += 1
            return None
        datagram = self._datagrams.get(fragment.key)
        if datagram is None:
            if len(self._datagrams) >= MAX_DATAGRAMS:
                self._drop_oldest()
            datagram = self._datagrams[fragment.key] = _Datagram(ts_ns)
        datagram.fragments += 1
        self._bytes += max(0, end - len(datagram.buffer))
        _fill(datagram, start, data)
        if not fragment.more and datagram.total is None:
            datagram.total = end
        total = datagram.total
        first_start, first_end = datagram.runs[0]
        if total is not None and first_start == 0 and first_end >= total:
            del self._datagrams[fragment.key]
            self._bytes -= len(datagram.buffer)
            return bytes(datagram.buffer[:total])
        while self._bytes > MAX_FRAGMENT_BYTES:
            self._drop_oldest()
        return None

    def finish(self) -> None:
        """End of the capture: what is not whole now never will be."""
        while self._datagrams:
            self._drop_oldest()

    def _expire(self, ts_ns: int) -> None:
        while self._datagrams:
            oldest = next(iter(self._datagrams.values()))
            if oldest.created_ns + FRAGMENT_TIMEOUT_NS >= ts_ns:
                return
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        datagram = self._datagrams.pop(next(iter(self._datagrams)))
        self._bytes -= len(datagram.buffer)
        self._counters.fragments_dropped += datagram.fragments


def _fill(datagram: _Datagram, start: int, data: bytes) -> None:
    """Copies what is not there yet and keeps `runs` sorted and merged."""
    end = start + len(data)
    buffer = datagram.buffer
    if end > len(buffer):
        buffer.extend(bytes(end - len(buffer)))
    pos = start
    for run_start, run_end in datagram.runs:
        if run_end <= pos:
            continue
        if run_start >= end:
            break
        if run_start > pos:
            buffer[pos:run_start] = data[pos - start : run_start - start]
        pos = run_end
    if pos < end:
        buffer[pos:end] = data[pos - start :]
    datagram.runs = _merged([*datagram.runs, (start, end)])


def _merged(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(runs):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
