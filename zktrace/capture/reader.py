"""The capture layer as one call: sources in, TCP segments in time order out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zktrace.capture.container import Container
from zktrace.capture.counters import CaptureCounters
from zktrace.capture.decap import Decapsulator
from zktrace.capture.merge import read_packets
from zktrace.capture.segment import Segment
from zktrace.capture.source import BLOCK, Source


def read_segments(
    sources: Sequence[Source], counters: CaptureCounters, block: int = BLOCK
) -> Iterator[Segment]:
    """TCP segments of paths, `-` or open binary files. Raises CaptureError on what is no capture.

    `counters` is complete when the iterator is exhausted.
    """
    decapsulator = Decapsulator(counters)
    for packet in read_packets(sources, counters, block):
        segment = decapsulator.packet(packet)
        if segment is not None:
            yield segment
    decapsulator.finish()


class SegmentReader:
    """The same for one capture whose blocks somebody else reads: does no I/O of its own."""

    def __init__(self, counters: CaptureCounters, name: str = "capture") -> None:
        self._container = Container(counters, name)
        self._decapsulator = Decapsulator(counters)

    def feed(self, block: bytes) -> list[Segment]:
        """Segments of the packets that are complete now. Raises CaptureError."""
        found = map(self._decapsulator.packet, self._container.feed(block))
        return [segment for segment in found if segment is not None]

    def finish(self) -> list[Segment]:
        """End of the capture. Raises CaptureError when it was none."""
        found = map(self._decapsulator.packet, self._container.finish())
        segments = [segment for segment in found if segment is not None]
        self._decapsulator.finish()
        return segments
