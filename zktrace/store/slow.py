"""The slowest exchanges, with what else was going on: of all time, and of each ten seconds.

Pings and connects are left out, as in totals. Context is of the same connection: how many requests
were unanswered when the slow one was sent, and the largest message of the second before it; it is
looked for in the batch of the exchange and the one before, since a reply is not told long after
those it had to wait for.
"""

from __future__ import annotations

from heapq import heappush, heappushpop
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zktrace.wire.errors import error_name

SLOWEST: Final = 1000
PER_SLOT: Final = 50
SLOT_S: Final = 10
SLOTS: Final = 361
_COLUMNS: Final = (
    "seq",
    "ts_ns",
    "conn",
    "client",
    "server",
    "op",
    "xid",
    "session",
    "path",
    "error",
    "zxid",
    "latency_ns",
    "request_bytes",
    "reply_bytes",
)
_SECOND: Final = 1_000_000_000

_Heap = list[tuple[int, int, dict[str, Any]]]


class Slow:
    """The log."""

    def __init__(self) -> None:
        self._all: _Heap = []
        self._slots: dict[int, _Heap] = {}
        self._before: pa.RecordBatch | None = None

    def add(self, batches: dict[str, pa.RecordBatch]) -> None:
        rows = batches.get("exchanges")
        if rows is None or not rows.num_rows:
            return
        latency = pc.fill_null(rows.column("latency_ns"), -1).to_numpy().copy()
        aside = pc.is_in(rows.column("op").cast(pa.utf8()), pa.array(["ping", "connect"]))
        latency[aside.to_numpy(zero_copy_only=False)] = -1
        slots = rows.column("ts_ns").to_numpy() // (SLOT_S * _SECOND)
        picked: set[int] = set(self._largest(latency, self._floor(self._all, SLOWEST), SLOWEST))
        for slot in np.unique(slots)[-SLOTS:].tolist():
            inside = np.where(slots == slot, latency, -1)
            heap = self._slots.get(slot, [])
            picked.update(self._largest(inside, self._floor(heap, PER_SLOT), PER_SLOT))
        for at in picked:
            self._keep(rows, at)
        while len(self._slots) > SLOTS:
            del self._slots[min(self._slots)]
        self._before = rows

    @staticmethod
    def _floor(heap: _Heap, size: int) -> int:
        return heap[0][0] if len(heap) >= size else -1

    @staticmethod
    def _largest(latency: Any, floor: int, most: int) -> list[int]:
        found = np.flatnonzero(latency > floor)
        if len(found) > most:
            found = found[np.argpartition(latency[found], -most)[-most:]]
        picked: list[int] = found.tolist()
        return picked

    def _keep(self, rows: pa.RecordBatch, at: int) -> None:
        row: dict[str, Any] = {name: rows.column(name)[at].as_py() for name in _COLUMNS}
        row |= self._context(rows, row)
        if row["error"] is not None:
            row["error_name"] = error_name(row["error"])
        entry = (row["latency_ns"], -row["seq"], row)
        slot = row["ts_ns"] // (SLOT_S * _SECOND)
        for heap, size in ((self._all, SLOWEST), (self._slots.setdefault(slot, []), PER_SLOT)):
            if len(heap) < size:
                heappush(heap, entry)
            else:
                heappushpop(heap, entry)

    def _context(self, rows: pa.RecordBatch, row: dict[str, Any]) -> dict[str, Any]:
        outstanding, largest = 0, 0
        at = row["ts_ns"]
        for batch in (self._before, rows):
            if batch is None:
                continue
            own = batch.column("conn").to_numpy() == row["conn"]
            ts = batch.column("ts_ns").to_numpy()
            done = ts + pc.fill_null(batch.column("latency_ns"), 0).to_numpy()
            sent = (ts < at) | ((ts == at) & (batch.column("seq").to_numpy() < row["seq"]))
            outstanding += int(np.count_nonzero(own & sent & (done > at)))
            near = np.flatnonzero(own & (ts <= at) & (done >= at - _SECOND))
            for name in ("request_bytes", "reply_bytes"):
                sizes = pc.fill_null(batch.column(name), 0).to_numpy()[near]
                largest = max(largest, int(sizes.max(initial=0)))
        return {"outstanding": outstanding, "largest_before_bytes": largest}

    def entries(self, start_s: int | None = None, end_s: int | None = None) -> list[dict[str, Any]]:
        """Slowest first, of all time or of [start, end) in seconds (of the last hour)."""
        if start_s is None or end_s is None:
            heaps = [self._all]
        else:
            low, high = start_s // SLOT_S, (end_s - 1) // SLOT_S
            heaps = [heap for slot, heap in self._slots.items() if low <= slot <= high]
        found = [row for heap in heaps for _, _, row in heap]
        if start_s is not None and end_s is not None:
            found = [row for row in found if start_s <= row["ts_ns"] // _SECOND < end_s]
        return sorted(found, key=lambda row: (-row["latency_ns"], row["seq"]))
