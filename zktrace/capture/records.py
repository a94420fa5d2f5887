"""The loop that both containers share: records out of blocks of any size, and past damage.

A container says of a place in the buffer whether a good record begins there; this module keeps the
buffer, skips what is damaged and counts it. Nothing here depends on how the bytes were cut into
blocks. Must not know: what is in a record, where blocks come from.

Two rules go beyond a plain "scan forward":

* End of file inside a record: either the file was cut, or the record's length is damaged and good
  records follow. Those are looked for first; only without any is the file `truncated`.
* A container may call a record bad that is well-formed but odd (see pcap.py), so that a run of
  zeros or a hole in the file is not read as packets.
"""

from __future__ import annotations

from zktrace.capture.counters import CaptureCounters
from zktrace.capture.segment import Packet

NEED_MORE = -1
"""Verdict on a record or candidate: cannot be told before more of the file is seen."""
BAD = 0
"""Verdict on a record: damaged; on a candidate: no record begins here."""

MAX_TS_NS = (1 << 63) - 1
MIN_TS_NS = -(1 << 63)


class RecordParser:
    """Push parser of one capture: `feed` blocks, then `finish`."""

    def __init__(self, counters: CaptureCounters) -> None:
        self.counters = counters
        self.buffer = bytearray()
        self.packets: list[Packet] = []
        self._scanning = False
        self._skipped = 0

    def record(self, pos: int, eof: bool) -> int:
        """Takes the record at `pos`; returns its length, BAD or NEED_MORE."""
        raise NotImplementedError

    def candidate(self, pos: int, eof: bool) -> int:
        """Whether a good record begins at `pos`, seen after damage: 1, BAD or NEED_MORE."""
        raise NotImplementedError

    def feed(self, block: bytes) -> list[Packet]:
        """Packets that are complete now."""
        self.buffer += block
        return self._run(eof=False)

    def finish(self) -> list[Packet]:
        """End of file: the packets whose verdict hung on what follows them."""
        packets = self._run(eof=True)
        if self._scanning:
            self._damage(self._skipped)
            self._scanning = False
        return packets

    def _damage(self, length: int) -> None:
        self.counters.damaged_bytes += length
        self.counters.damaged_places += 1

    def _run(self, eof: bool) -> list[Packet]:
        pos = 0
        size = len(self.buffer)
        while pos < size:
            if self._scanning:
                verdict = self.candidate(pos, eof)
                if verdict == NEED_MORE:
                    break
                if verdict == BAD:
                    pos += 1
                    self._skipped += 1
                    continue
                self._scanning = False
                self._damage(self._skipped)
            verdict = self.record(pos, eof)
            if verdict > 0:
                pos += verdict
            elif verdict == BAD:
                self._scanning = True
                self._skipped = 1
                pos += 1
            elif not eof:
                break
            else:
                found = self._next_candidate(pos + 1, size)
                if found is None:
                    self.counters.truncated += 1
                    pos = size
                else:
                    self._damage(found - pos)
                    pos = found
        del self.buffer[:pos]
        packets = self.packets
        self.packets = []
        return packets

    def _next_candidate(self, pos: int, size: int) -> int | None:
        for place in range(pos, size):
            if self.candidate(place, True) > 0:
                return place
        return None
