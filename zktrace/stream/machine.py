"""What the stream machines share: a direction whose boundaries are lost, and how they are found.

A machine decodes the bytes of a direction as long as it knows where its messages begin. Where it
does not know, bytes are held and looked through until a boundary proves itself, and decoding goes
on from there. That loop, what is held meanwhile, and what of it is counted and told is here, once
for the client, quorum and election ports. What a message is, and what proves a boundary, is each
machine's own. Sans-IO; never raises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from zktrace.stream.budget import Budget
from zktrace.stream.events import EventSink
from zktrace.stream.resync import Scan
from zktrace.stream.rows import Counters
from zktrace.stream.schema import Scanner, Schema

#: Anomalies where all connections together held too much.
GIVEN_UP_BYTES = "bytes in which a boundary was looked for: too much is held (limit)"
GIVEN_UP_MESSAGE = "what was kept of an unfinished message: too much is held (limit)"


@dataclass(slots=True)
class Context:
    """What all machines of a capture share."""

    sink: EventSink
    schema: Schema
    scanner: Scanner
    counters: Counters
    budget: Budget
    #: of the hashes of txns, where they are wanted
    txn_key: int | None = None


class Way:
    """One direction of a connection."""

    __slots__ = ("anomaly", "charged", "scan")

    def __init__(self, anomaly: str) -> None:
        #: the direction in the words of anomalies
        self.anomaly = anomaly
        #: bytes while boundaries are not known
        self.scan: Scan | None = None
        #: what the budget has been told of `held`
        self.charged = 0

    @property
    def held(self) -> int:
        """What it holds by itself (what reads its messages tells the budget of it directly)."""
        return 0 if self.scan is None else self.scan.cost

    @property
    def cost(self) -> int:
        """All that it holds."""
        return self.held

    def cut(self) -> bool:
        """Give up the bytes of the message at hand; whether there were any."""
        return False

    def lose(self) -> None:
        """Where the next message begins is not known."""
        self.scan = Scan()

    def resume(self) -> None:
        """A message begins with the next byte."""
        self.scan = None


AnyWay = TypeVar("AnyWay", bound=Way)


class StreamMachine(ABC, Generic[AnyWay]):
    """Takes the ordered bytes of one connection; a subclass says what they mean."""

    #: what is framed, in the words of anomalies
    _what: str

    def __init__(
        self, context: Context, who: tuple[int, str, str], to_server: AnyWay, to_client: AnyWay
    ) -> None:
        self._sink = context.sink
        self._counters = context.counters
        self._budget = context.budget
        self._who = who
        self._ways = (to_server, to_client)

    # ---- what a subclass says

    @abstractmethod
    def _decode(self, way: AnyWay, ts: int, data: bytes) -> int:
        """Decode up to where the boundary is lost (`way.scan` is set then), or all; the position
        reached.
        """

    @abstractmethod
    def _find(self, way: AnyWay, scan: Scan) -> int:
        """Offset of a boundary that proves itself, -1 where none does yet."""

    @abstractmethod
    def _missing(self, way: AnyWay, missing: int) -> None:
        """So many bytes were not captured while boundaries were known."""

    def _missing_in_scan(self, way: AnyWay) -> None:
        """Bytes were not captured while boundaries were not known anyway."""

    def _is_ignored(self, way: AnyWay) -> bool:
        """Whether nothing of this direction is decoded any more."""
        return False

    def _fits(self, way: AnyWay, scan: Scan) -> bool:
        """Whether what is in hand at the end are messages from its first byte to its last."""
        return False

    # ---- bytes in

    def to_server(self, ts: int, data: bytes) -> None:
        """Take the next bytes of the one who opened the connection."""
        self._feed(self._ways[0], ts, data)

    def to_client(self, ts: int, data: bytes) -> None:
        """Take the next bytes of the one who accepted it."""
        self._feed(self._ways[1], ts, data)

    def _feed(self, way: AnyWay, ts: int, data: bytes) -> None:
        # a loop, not recursion: how often boundaries are lost and found again is up to the sender
        chunks = deque(((ts, data),))
        while chunks:
            ts, data = chunks.popleft()
            pos = self._decode(way, ts, data) if way.scan is None else 0
            if self._is_ignored(way):
                self._counters.skipped_bytes += len(data) - pos
            elif way.scan is not None:
                way.scan.add(ts, data[pos:])
                at = self._find(way, way.scan)
                self._counters.skipped_bytes += way.scan.take_dropped()
                if at >= 0:
                    chunks.extendleft(reversed(self._resume(way, way.scan, at)))
        self._settle(way)

    def _resume(self, way: AnyWay, scan: Scan, at: int) -> list[tuple[int, bytes]]:
        # the chunks from the boundary on
        self._counters.skipped_bytes += at
        self._counters.resyncs += 1
        skipped = scan.skipped + at
        if skipped:
            detail = f"{self._what} boundary found again"
            self._anomaly(scan.ts_at(at), "resync", way.anomaly, skipped, detail)
        way.resume()
        return list(scan.chunks_from(at))

    def gap(self, to_server: bool, ts: int, missing: int) -> None:
        """`missing` bytes of one direction were not captured."""
        way = self._ways[0] if to_server else self._ways[1]
        self._anomaly(ts, "gap", way.anomaly, missing, "bytes not captured")
        self._counters.skipped_bytes += missing
        if self._is_ignored(way):
            return
        if way.scan is None:
            self._missing(way, missing)
        else:
            self._counters.skipped_bytes += way.scan.clear()
            self._missing_in_scan(way)
        self._settle(way)

    def _end_scan(self, way: AnyWay) -> None:
        """The connection is over: nothing more can prove a boundary."""
        scan = way.scan
        if scan is not None and self._fits(way, scan):
            for chunk in self._resume(way, scan, 0):
                self._decode(way, *chunk)
        elif scan is not None:
            self._counters.skipped_bytes += scan.clear()

    def end(self, ts: int) -> None:
        """The connection is over, or the capture is."""
        for way in self._ways:
            self._end_scan(way)
            self._budget.release(way.charged)
            way.charged = 0

    # ---- what is held

    def _settle(self, way: AnyWay) -> None:
        # the budget is told of what has come or gone
        held = way.held
        if held != way.charged:
            self._budget.take(held - way.charged)
            way.charged = held

    @property
    def cost(self) -> int:
        """What the connection holds."""
        return sum(way.cost for way in self._ways)

    def give_up(self, ts: int) -> None:
        """All connections together hold too much, and this one most: it holds nothing then."""
        for way in self._ways:
            if way.scan is not None and way.scan.buf:
                size = way.scan.clear()
                self._counters.skipped_bytes += size
                self._missing_in_scan(way)
                self._anomaly(ts, "given_up", way.anomaly, size, GIVEN_UP_BYTES)
            if way.cut():
                self._anomaly(ts, "given_up", way.anomaly, None, GIVEN_UP_MESSAGE)
            self._settle(way)

    # ---- telling

    def _lost(self, way: AnyWay) -> None:
        way.lose()
        self._counters.desyncs += 1

    def _anomaly(
        self, ts: int, reason: str, direction: str | None, size: int | None, detail: str
    ) -> None:
        """Something that should not be."""
        self._sink.anomaly((ts, *self._who, reason, direction, size, detail))
