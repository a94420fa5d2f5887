"""A capture file of either kind, told by its first bytes. Push parser: blocks in, packets out."""

from __future__ import annotations

from zktrace.capture.counters import CaptureCounters
from zktrace.capture.errors import CaptureError
from zktrace.capture.pcap import MAGICS, PcapParser
from zktrace.capture.pcapng import PcapngParser
from zktrace.capture.records import RecordParser
from zktrace.capture.segment import Packet

EMPTY = "is empty"
NOT_A_CAPTURE = "is not a pcap or pcapng capture"

_SECTION_MAGIC = b"\x0a\x0d\x0d\x0a"
_ORDER_MAGICS = (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a")


class Container:
    """Packets of a capture fed in blocks of any size. `name` is for error messages."""

    def __init__(self, counters: CaptureCounters, name: str = "capture") -> None:
        self._counters = counters
        self._name = name
        self._start = b""
        self._parser: RecordParser | None = None

    def feed(self, block: bytes) -> list[Packet]:
        """Packets that are complete now. Raises CaptureError on what is no capture."""
        if self._parser is not None:
            return self._parser.feed(block)
        self._start += block
        if len(self._start) < 4:
            return []
        magic = int.from_bytes(self._start[:4], "big")
        if magic in MAGICS:
            self._parser = PcapParser(self._counters, magic)
        elif self._start[:4] != _SECTION_MAGIC:
            raise CaptureError(self._name, NOT_A_CAPTURE)
        elif len(self._start) < 12:
            return []
        elif self._start[8:12] not in _ORDER_MAGICS:
            raise CaptureError(self._name, NOT_A_CAPTURE)
        else:
            self._parser = PcapngParser(self._counters, self._start[8:12])
        start, self._start = self._start, b""
        return self._parser.feed(start)

    def finish(self) -> list[Packet]:
        """End of the file. Raises CaptureError when it was no capture."""
        if self._parser is not None:
            return self._parser.finish()
        if not self._start:
            raise CaptureError(self._name, EMPTY)
        if len(self._start) < 4:
            raise CaptureError(self._name, NOT_A_CAPTURE)
        self._counters.truncated += 1
        return []
