"""The slowest exchanges, with what else was going on: of all time, and of each ten seconds.

Fed row by row; ``zktrace/_native/src/kept/slow.rs`` is the same for the native engine. Pings and
connects are left out, as in totals. Company is of the same connection: how many requests were
unanswered when the slow one was sent, which of them took longest (replies come in order, so that
is what it waited for), and the largest message of the second before. It is looked for among the
latest exchanges, of all connections together; when a reply is told, those it had to wait for were
told just before. Knows neither engines nor Arrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappush, heappushpop
from typing import Any, Final, NamedTuple

from zktrace.store.short import short

SLOWEST: Final = 1000
PER_SLOT: Final = 50
SLOT_S: Final = 10
SLOTS: Final = 361
#: Exchanges before a slow one among which its company is looked for.
CONTEXT_ROWS: Final = 4096
#: Exchanges in flight beside a slow one that are shown.
BESIDE: Final = 5
_SECOND: Final = 1_000_000_000
_SLOT_NS: Final = SLOT_S * _SECOND

_Heap = list[tuple[int, int, dict[str, Any]]]


class _Past(NamedTuple):
    """An exchange that may be company; `before` is the number of the one before it on its
    connection.
    """

    before: int | None
    seq: int
    ts_ns: int
    op: str | None
    path: str | None
    latency_ns: int | None
    request_bytes: int | None
    reply_bytes: int | None

    def size(self) -> int:
        return max(self.request_bytes or 0, self.reply_bytes or 0)

    def shown(self) -> dict[str, Any]:
        fields = self._asdict()
        del fields["before"]
        return {**fields, "path": short(self.path)}


class Slow:
    """The log."""

    def __init__(self) -> None:
        self._all: _Heap = []
        self._slots: dict[int, _Heap] = {}
        self._ring: list[_Past] = []
        self._number = 0

    def exchange(self, row: Any, session: int | None, last: int | None) -> int | None:
        """An exchange, and the number of the last one of its connection; gives its own number."""
        if row.state == "no_reply":
            return last
        latency = row.latency_ns
        if latency is not None and row.op not in ("ping", "connect"):
            heap = self._slots.get(row.ts_ns // _SLOT_NS, [])
            if latency > min(_floor(self._all, SLOWEST), _floor(heap, PER_SLOT)):
                self._keep(row, session, last)
        past = _Past(
            last, row.seq, row.ts_ns, row.op, row.path, latency, row.request_bytes, row.reply_bytes
        )
        number = self._number
        if number < CONTEXT_ROWS:
            self._ring.append(past)
        else:
            self._ring[number % CONTEXT_ROWS] = past
        self._number += 1
        return number

    def _keep(self, row: Any, session: int | None, last: int | None) -> None:
        outstanding, beside, largest = self._company(row, last)
        entry = {
            "seq": row.seq,
            "ts_ns": row.ts_ns,
            "client": row.client,
            "server": row.server,
            "op": row.op,
            "xid": row.xid,
            "session": session,
            "path": short(row.path),
            "error": row.error,
            "zxid": row.zxid,
            "latency_ns": row.latency_ns,
            "request_bytes": row.request_bytes,
            "reply_bytes": row.reply_bytes,
            "outstanding": outstanding,
            "beside": [one.shown() for one in beside],
            "largest": None if largest is None else largest.shown(),
        }
        item = (row.latency_ns, -row.seq, entry)
        slot = row.ts_ns // _SLOT_NS
        for heap, size in ((self._all, SLOWEST), (self._slots.setdefault(slot, []), PER_SLOT)):
            if len(heap) < size:
                heappush(heap, item)
            else:
                heappushpop(heap, item)
        if len(self._slots) > SLOTS:
            # The farthest: the oldest one, or one from before the clock was set back.
            del self._slots[max(self._slots, key=lambda at: (abs(at - slot), -at))]

    def _walk(self, last: int | None) -> Iterator[_Past]:
        while last is not None and self._number - last <= CONTEXT_ROWS:
            past = self._ring[last % CONTEXT_ROWS]
            yield past
            last = past.before

    def _company(self, row: Any, last: int | None) -> tuple[int, list[_Past], _Past | None]:
        outstanding = 0
        beside: list[_Past] = []
        largest: _Past | None = None
        for past in self._walk(last):
            done = past.ts_ns + (past.latency_ns or 0)
            recent = done >= row.ts_ns - _SECOND
            if past.latency_ns is not None and not recent:
                break  # replies come in order: all before were done earlier
            if past.ts_ns > row.ts_ns or not recent:
                continue
            if largest is None or past.size() >= largest.size():
                largest = past
            if done > row.ts_ns:
                outstanding += 1
                beside.append(past)
        beside.sort(key=lambda one: (-(one.latency_ns or 0), one.seq))
        return outstanding, beside[:BESIDE], largest

    def entries(
        self, bounds: tuple[int, int] | None, sort: str, limit: int | None
    ) -> tuple[list[dict[str, Any]], int]:
        """The first entries in an order (most first), and how many there are: of all time, or
        with a time in [start, end) in nanoseconds (of the last hour).
        """
        if bounds is None:
            found = [row for _, _, row in self._all]
        else:
            start, end = bounds
            slots = range(start // _SLOT_NS, (end - 1) // _SLOT_NS + 1)
            heaps = [heap for slot, heap in self._slots.items() if slot in slots]
            found = [row for heap in heaps for _, _, row in heap if start <= row["ts_ns"] < end]
        by = {"time": "ts_ns", "outstanding": "outstanding"}.get(sort, "latency_ns")
        found.sort(key=lambda row: (-row[by], -row["latency_ns"], row["seq"]))
        return found[:limit], len(found)


def _floor(heap: _Heap, size: int) -> int:
    return heap[0][0] if len(heap) >= size else -1
