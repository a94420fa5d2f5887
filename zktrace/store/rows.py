"""Windows of a second from rows, one by one: what ``windows.rs`` does, for the Python engine.

The rules are written there. Rows are tuples in the column order of ``zktrace.analysis.tables``.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from heapq import merge as in_order
from operator import itemgetter
from typing import Any, Final

from zktrace.engine.base import GROUPINGS
from zktrace.engine.buckets import BOUNDS
from zktrace.store.part import Key

_BACK_S: Final = 60
_PREFIXES: Final = 64
_SECOND_KEYS: Final = 50_000
_NANOS: Final = 1_000_000_000
_ASIDE: Final = ("ping", "connect")
_LIMITS: Final = (-(1 << 63), (1 << 63) - 1)


class _Row:
    __slots__ = ("buckets", "errors", "latency", "numbers")

    def __init__(self) -> None:
        #: requests, replies, request bytes, reply bytes, watch events
        self.numbers = [0, 0, 0, 0, 0]
        #: samples, sum, least, most
        self.latency = [0, 0, 0, 0]
        self.errors: dict[int, int] = {}
        self.buckets: dict[int, int] = {}

    def add_latency(self, ns: int) -> None:
        count, total, least, most = self.latency
        self.latency = [
            count + 1,
            total + ns,
            min(least, ns) if count else ns,
            max(most, ns) if count else ns,
        ]
        bucket = bisect_right(BOUNDS, max(ns, 1)) - 1
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def merge(self, other: _Row) -> None:
        self.numbers = [a + b for a, b in zip(self.numbers, other.numbers, strict=True)]
        for mine, its in ((self.errors, other.errors), (self.buckets, other.buckets)):
            for key, n in its.items():
                mine[key] = mine.get(key, 0) + n
        if other.latency[0]:
            count, total, least, most = self.latency
            more, its_total, its_least, its_most = other.latency
            self.latency = [
                count + more,
                total + its_total,
                min(least, its_least) if count else its_least,
                max(most, its_most) if count else its_most,
            ]


_Rows = dict[Key, _Row]


def _order(item: tuple[Key, _Row]) -> tuple[int, bool, str, bool]:
    (key, rest), row = item
    return -row.numbers[0], key is None, key or "", rest


def _cut(path: str, depth: int) -> str:
    """The first components of a path."""
    parts = path.split("/", depth + 1)
    return "/".join(parts[: depth + 1])


def _fold(by: str, rows: _Rows, keep: int) -> tuple[_Rows, int]:
    kept: _Rows = {}
    folded: _Rows = {}
    depths = [0, 0]
    most, left = 0, keep
    for (key, rest), row in sorted(rows.items(), key=_order):
        if not rest and (key is None or left > 0):
            left -= key is not None
            kept[key, rest] = row
            continue
        if not rest:
            most = max(most, row.numbers[0])
        target: str | None = None
        if by == "path" and key is not None:
            for i, depth in enumerate((2, 1)):
                prefix = _cut(key, depth)
                if (prefix, True) not in folded:
                    if depths[i] >= _PREFIXES:
                        continue
                    depths[i] += 1
                target = prefix
                break
        if (target, True) in folded:
            folded[target, True].merge(row)
        else:
            copy = folded[target, True] = _Row()
            copy.merge(row)
    kept.update(sorted(folded.items(), key=_order))
    return kept, most


def _packed(rows: _Rows) -> tuple[Any, ...]:
    """As ``python_windows.rs`` packs them."""
    numbers, places, errors = array("q"), array("I"), array("q")
    buckets, counts = array("H"), array("Q")
    low, high = _LIMITS
    for i, row in enumerate(rows.values()):
        count, total, least, most = row.latency
        values = (*row.numbers, count, total, least, most)
        numbers.extend(max(low, min(value, high)) for value in values)
        for bucket, n in sorted(row.buckets.items()):
            places.append(i)
            buckets.append(bucket)
            counts.append(n)
        for code, n in sorted(row.errors.items()):
            errors.extend((i, code, n))
    keys = [key for key, _ in rows]
    rests = bytes(rest for _, rest in rows)
    columns = (numbers, places, buckets, counts, errors)
    return keys, rests, *(column.tobytes() for column in columns)


class RowWindows:
    """Counts rows of the Python engine."""

    def __init__(self, window_keys: int, total_keys: int) -> None:
        self._window_keys = window_keys
        self._total_keys = total_keys
        self._second: int | None = None
        self._now: dict[str, _Rows] = {by: {} for by in GROUPINGS}
        self._counted = 0
        self._ended: list[tuple[int, dict[str, Any]]] = []
        self._totals: dict[str, _Rows] = {by: {} for by in GROUPINGS}
        self._short = dict.fromkeys(GROUPINGS, 0)

    def add(self, rows: Mapping[str, Iterable[tuple[Any, ...]]]) -> None:
        """Rows of all kinds as the engine gives them."""
        exchanges = ((row[0], True, row) for row in rows.get("exchanges", ()))
        watch_events = ((row[0], False, row) for row in rows.get("watch_events", ()))
        for _, exchange, row in in_order(exchanges, watch_events, key=itemgetter(0)):
            if exchange:
                self._exchange(row)
            else:
                self._watch_event(row)

    def _exchange(self, row: tuple[Any, ...]) -> None:
        ts_ns, client, server, op = row[1], row[3], row[4], row[5]
        session, path, error = row[8], row[9], row[11]
        latency, sent, received, state = row[13:17]
        if state != "no_reply" or self._second is None:
            self._tick(ts_ns + (latency or 0))
        self._counted += 1
        for by, key in self._keys(op, client, path, session, server):
            one = self._row(by, key)
            numbers = one.numbers
            numbers[0] += state != "no_request"
            numbers[1] += state != "no_reply"
            numbers[2] += sent or 0
            numbers[3] += received or 0
            if error:
                one.errors[error] = one.errors.get(error, 0) + 1
            if latency is not None and (by == "op" or op not in _ASIDE):
                one.add_latency(latency)

    def _watch_event(self, row: tuple[Any, ...]) -> None:
        self._tick(row[1])
        self._counted += 1
        for by, key in self._keys(None, row[3], row[8], row[5], row[4]):
            if by != "op":
                self._row(by, key).numbers[4] += 1

    @staticmethod
    def _keys(
        op: str | None, client: str, path: str | None, session: int | None, server: str
    ) -> tuple[tuple[str, str | None], ...]:
        return (
            ("op", op),
            ("client", client.rpartition(":")[0].strip("[]")),
            ("path", path),
            ("session", None if session is None else f"0x{session & (1 << 64) - 1:016x}"),
            ("server", server),
        )

    def _row(self, by: str, key: str | None) -> _Row:
        rows = self._now[by]
        name = (key, False)
        if name not in rows and key is not None and len(rows) >= _SECOND_KEYS:
            name = (None, True)
        return rows.setdefault(name, _Row()) if name not in rows else rows[name]

    def _tick(self, ns: int) -> None:
        second = ns // _NANOS
        now = self._second
        if now is None:
            self._second = second
        elif not now - _BACK_S <= second <= now:
            self._end()
            self._second = second

    def _end(self) -> None:
        if self._second is None or not self._counted:
            return
        self._counted = 0
        groups = {}
        for by in GROUPINGS:
            rows, self._now[by] = self._now[by], {}
            self._add_totals(by, rows)
            groups[by] = _packed(_fold(by, rows, self._window_keys)[0])
        self._ended.append((self._second, groups))

    def _add_totals(self, by: str, rows: _Rows) -> None:
        totals = self._totals[by]
        for key, row in rows.items():
            totals.setdefault(key, _Row()).merge(row)
        if len(totals) > self._total_keys:
            self._totals[by], most = _fold(by, totals, self._total_keys // 2)
            self._short[by] += most

    def drain(self, all: bool = False) -> list[tuple[int, dict[str, Any]]]:
        """As the native engine's."""
        if all:
            self._end()
        ended, self._ended = self._ended, []
        return ended

    def totals(self, by: str) -> tuple[Any, int]:
        """As the native engine's."""
        return _packed(self._totals[by]), self._short[by]
