"""Several sources as one capture in time order.

The packet with the smallest time among the next ones of every source comes first, ties go by the
order of the arguments. Files are opened when their first packet is due, so that a thousand rotated
files do not mean a thousand open ones. Must not know: link types.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from zktrace.capture.container import Container
from zktrace.capture.counters import CaptureCounters
from zktrace.capture.segment import Packet
from zktrace.capture.source import BLOCK, Source, can_reopen, open_blocks, source_name


def first_ts(source: Source) -> int | None:
    """Time of the first packet; None when there is none or looking would consume the source."""
    if not can_reopen(source):
        return None
    counters = CaptureCounters()
    for packet in _packets(source, counters, BLOCK):
        return packet.ts_ns
    return None


def read_packets(
    sources: Sequence[Source], counters: CaptureCounters, block: int = BLOCK
) -> Iterator[Packet]:
    """Packets of all sources in time order. Raises CaptureError."""
    if len(sources) == 1:
        yield from _packets(sources[0], counters, block)
        return
    # (time of the next packet, place among the arguments); that packet, unless not opened yet
    due: list[tuple[int, int]] = []
    heads: dict[int, Packet] = {}
    streams = [_packets(source, counters, block) for source in sources]
    opening = [first_ts(source) for source in sources]
    for index, opens in enumerate(opening):
        if opens is not None:
            due.append((opens, index))
            continue
        head = next(streams[index], None)
        if head is not None:
            heads[index] = head
            due.append((head.ts_ns, index))
    heapq.heapify(due)
    while due:
        index = due[0][1]
        head = heads.pop(index, None)
        if head is not None:
            yield head
        head = next(streams[index], None)
        if head is None:
            heapq.heappop(due)
        else:
            heads[index] = head
            heapq.heapreplace(due, (head.ts_ns, index))


def _packets(source: Source, counters: CaptureCounters, block: int) -> Iterator[Packet]:
    container = Container(counters, source_name(source))
    for data in open_blocks(source, counters, block):
        yield from container.feed(data)
    yield from container.finish()
