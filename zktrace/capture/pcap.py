"""The classic pcap container: a 24-byte header, then records. Push parser; see records.py.

Understands the magics a1b2c3d4 (microseconds), a1b23c4d (nanoseconds) and a1b2cd34 (Kuznetzov's,
with 8 more bytes in each record header), in both byte orders. Must not know: link types.

What is damage (draft-ietf-opsawg-pcap does not say, so this is ours):

* A record longer than `max_packet` is damaged.
* A record is *odd* when its time is more than a day from the last one, its fraction out of range,
  its captured length 0 or its wire length above 64 MiB. An odd record is believed only when the
  record behind it has lengths that can be (or the file ends); 16 zero bytes are never a record.
* Behind damage a record begins where a header is not odd, its captured length does not exceed its
  wire length, and the same holds for the header behind it, or the file ends exactly there. More
  than a day from the last good record, two headers behind it have to hold (files written one
  behind the other are days apart).
"""

from __future__ import annotations

import struct

from zktrace.capture.counters import CaptureCounters
from zktrace.capture.records import BAD, NEED_MORE, RecordParser
from zktrace.capture.segment import Packet

FILE_HEADER = 24
# The greatest snap length that libpcap itself writes (MAXIMUM_SNAPLEN); a file may declare more.
MAX_PACKET = 262_144
# A declared snap length beyond this is taken for damage of the header: it would let one wrong
# length swallow everything behind it.
MAX_SNAPLEN = 16 << 20
# No link carries frames that large; segmentation offload stays below 256 KiB, IPv6 jumbograms are
# not used on them.
MAX_WIRE_LEN = 64 << 20
MAX_TIME_STEP_S = 86_400

# magic as a big-endian number -> struct byte order, unit of the fraction, record header length
MAGICS = {
    0xA1B2C3D4: (">", 1_000_000, 16),
    0xD4C3B2A1: ("<", 1_000_000, 16),
    0xA1B23C4D: (">", 1_000_000_000, 16),
    0x4D3CB2A1: ("<", 1_000_000_000, 16),
    0xA1B2CD34: (">", 1_000_000, 24),
    0x34CDB2A1: ("<", 1_000_000, 24),
}


class PcapParser(RecordParser):
    """Packets of a pcap file, its first four bytes included."""

    def __init__(self, counters: CaptureCounters, magic: int) -> None:
        super().__init__(counters)
        order, self._unit, self._header_len = MAGICS[magic]
        self._fields = struct.Struct(order + "IIII")
        self._file_header = struct.Struct(order + "16xII")
        self._ns = 1_000_000_000 // self._unit
        self._started = False
        self._linktype = 0
        self._max_packet = MAX_PACKET
        self._last_s: int | None = None

    def record(self, pos: int, eof: bool) -> int:
        buffer = self.buffer
        size = len(buffer)
        if not self._started:
            if size < FILE_HEADER:
                return NEED_MORE
            snaplen, network = self._file_header.unpack_from(buffer)
            self._max_packet = max(MAX_PACKET, min(snaplen, MAX_SNAPLEN))
            # The upper half holds the length of the frame check sequence, if any.
            self._linktype = network & 0xFFFF
            self._started = True
            return FILE_HEADER
        start = pos + self._header_len
        if start > size:
            return NEED_MORE
        seconds, fraction, incl, orig = self._header(pos)
        if incl > self._max_packet:
            return BAD
        end = start + incl
        if self._odd(seconds, fraction, incl, orig, self._last_s):
            if seconds == fraction == incl == orig == 0:
                return BAD
            if end + 16 > size:
                if not eof:
                    return NEED_MORE
            elif not self._lengths_can_be(end):
                return BAD
        if end > size:
            return NEED_MORE
        self._last_s = seconds
        ts_ns = seconds * 1_000_000_000 + fraction * self._ns
        data = bytes(buffer[start:end])
        self.packets.append(Packet(ts_ns, self._linktype, data, max(orig, incl)))
        return self._header_len + incl

    def candidate(self, pos: int, eof: bool) -> int:
        if not self._started:
            return BAD
        size = len(self.buffer)
        start = pos + self._header_len
        if start > size:
            return BAD if eof else NEED_MORE
        seconds, fraction, incl, orig = self._header(pos)
        if incl > orig or self._odd(seconds, fraction, incl, orig, None):
            return BAD
        links = 1 if self._near(seconds, self._last_s) else 2
        for link in range(links):
            end = start + incl
            if end + 16 > size:
                if not eof:
                    return NEED_MORE
                return 1 if end == size and link == links - 1 else BAD
            last_s = seconds
            seconds, fraction, incl, orig = self._header(end)
            if incl > orig or self._odd(seconds, fraction, incl, orig, last_s):
                return BAD
            start = end + self._header_len
        return 1

    def _header(self, pos: int) -> tuple[int, int, int, int]:
        seconds, fraction, incl, orig = self._fields.unpack_from(self.buffer, pos)
        return seconds, fraction, incl, orig

    def _odd(self, seconds: int, fraction: int, incl: int, orig: int, last_s: int | None) -> bool:
        return (
            incl == 0
            or incl > self._max_packet
            or fraction >= self._unit
            or orig > MAX_WIRE_LEN
            or not self._near(seconds, last_s)
        )

    @staticmethod
    def _near(seconds: int, last_s: int | None) -> bool:
        return last_s is None or abs(seconds - last_s) <= MAX_TIME_STEP_S

    def _lengths_can_be(self, pos: int) -> bool:
        _, _, incl, orig = self._header(pos)
        return 0 < incl <= self._max_packet and orig <= MAX_WIRE_LEN
