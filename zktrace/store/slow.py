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
_SIZES: Final = ("request_bytes", "reply_bytes")
_SECOND: Final = 1_000_000_000

_Heap = list[tuple[int, int, dict[str, Any]]]


class _Columns:
    """What context needs of a batch, rows of a connection side by side."""

    def __init__(self, rows: pa.RecordBatch) -> None:
        conn = rows.column("conn").to_numpy()
        order = np.argsort(conn, kind="stable")
        self.conn = conn[order]
        self.seq = rows.column("seq").to_numpy()[order]
        self.sent = rows.column("ts_ns").to_numpy()[order]
        latency = pc.fill_null(rows.column("latency_ns"), 0).to_numpy()
        self.done = self.sent + latency[order]
        sizes = [pc.fill_null(rows.column(name), 0).to_numpy() for name in _SIZES]
        self.size = np.maximum(*sizes)[order]

    def before(self, row: dict[str, Any]) -> tuple[int, int]:
        """Requests of the row's connection unanswered when it was sent; the largest message."""
        low, high = np.searchsorted(self.conn, [row["conn"], row["conn"] + 1]).tolist()
        at = row["ts_ns"]
        sent, done = self.sent[low:high], self.done[low:high]
        earlier = (sent < at) | ((sent == at) & (self.seq[low:high] < row["seq"]))
        near = (sent <= at) & (done >= at - _SECOND)
        outstanding = int(np.count_nonzero(earlier & (done > at)))
        return outstanding, int(self.size[low:high][near].max(initial=0))


class Slow:
    """The log."""

    def __init__(self) -> None:
        self._all: _Heap = []
        self._slots: dict[int, _Heap] = {}
        self._before: _Columns | None = None

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
        columns = _Columns(rows)
        if picked:
            chosen = rows.select(list(_COLUMNS)).take(pa.array(sorted(picked)))
            for row in chosen.to_pylist():
                self._keep(row, columns)
        while len(self._slots) > SLOTS:
            del self._slots[min(self._slots)]
        self._before = columns

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

    def _keep(self, row: dict[str, Any], columns: _Columns) -> None:
        outstanding, largest = 0, 0
        for batch in (self._before, columns):
            if batch is not None:
                waiting, size = batch.before(row)
                outstanding += waiting
                largest = max(largest, size)
        row["outstanding"], row["largest_before_bytes"] = outstanding, largest
        if row["error"] is not None:
            row["error_name"] = error_name(row["error"])
        entry = (row["latency_ns"], -row["seq"], row)
        slot = row["ts_ns"] // (SLOT_S * _SECOND)
        for heap, size in ((self._all, SLOWEST), (self._slots.setdefault(slot, []), PER_SLOT)):
            if len(heap) < size:
                heappush(heap, entry)
            else:
                heappushpop(heap, entry)

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
