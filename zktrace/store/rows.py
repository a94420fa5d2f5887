"""Windows of a second from rows, one by one: what ``windows.rs`` does, for the Python engine.

The rules are written there. Rows are tuples in the column order of ``zktrace.analysis.tables``.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from heapq import merge as in_order
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from zktrace.analysis.fingerprint import fingerprint
from zktrace.engine.base import WINDOW_GROUPINGS
from zktrace.engine.buckets import BOUNDS
from zktrace.store.depth import InFlight
from zktrace.store.part import Key
from zktrace.stream.events import AUTHENTICATED

_BACK_S: Final = 60
_PREFIXES: Final = 64
_PREFIX_BYTES: Final = 256
_LONGEST_KEY: Final = 1024
_SPILL_ROWS: Final = 8192
_SPILL_EVENTS: Final = 1 << 18
_LOOK: Final = 1024
_SPILL_BYTES: Final = 1 << 20
_SPILL_KEYS: Final = 1024
_TOTAL_BYTES: Final = 4 << 20
_NANOS: Final = 1_000_000_000
_USERS: Final = 1 << 16
_ASIDE: Final = ("ping", "connect")
_LIMITS: Final = (-(1 << 63), (1 << 63) - 1)
_COUNTED: Final = tuple(by for by in WINDOW_GROUPINGS if by != "fingerprint")


class _Row:
    __slots__ = ("buckets", "errors", "in_flight", "latency", "numbers")

    def __init__(self) -> None:
        #: requests, replies, request bytes, reply bytes, watch events
        self.numbers = [0, 0, 0, 0, 0]
        #: samples, sum, least, most
        self.latency = [0, 0, 0, 0]
        self.in_flight = 0
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
        self.in_flight = max(self.in_flight, other.in_flight)
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
#: The most requests that a key can have had, where that is not what its row has.
_Bounds = Mapping[Key, int]


def _size(key: str | None) -> int:
    return 0 if key is None else len(key.encode("utf-8", "surrogatepass"))


def _cut(path: str, depth: int) -> str:
    """The first components of a path."""
    parts = path.split("/", depth + 1)
    return "/".join(parts[: depth + 1])


def _is_long(key: Key) -> bool:
    return not key[1] and _size(key[0]) > _LONGEST_KEY


def _fold(by: str, rows: _Rows, keep: int, bounds: _Bounds = MappingProxyType({})) -> _Folded:
    def order(key: Key) -> tuple[int, bool, str, bool]:
        return -bounds.get(key, rows[key].numbers[0]), key[0] is None, key[0] or "", key[1]

    kept: _Rows = {}
    folded: _Rows = {}
    depths = [0, 0]
    most, left = 0, keep
    for name in sorted(rows, key=order):
        row = rows[name]
        key, rest = name
        counted = not rest and not _is_long(name)
        if counted and (key is None or left > 0):
            left -= key is not None
            kept[name] = row
            continue
        if counted:
            most = max(most, bounds.get(name, row.numbers[0]))
        target: str | None = None
        if by == "path" and key is not None:
            for i, depth in enumerate((2, 1)):
                prefix = _cut(key, depth)
                if not 0 < _size(prefix) <= _PREFIX_BYTES:
                    continue
                if (prefix, True) not in folded:
                    if depths[i] >= _PREFIXES:
                        continue
                    depths[i] += 1
                target = prefix
                break
        folded.setdefault((target, True), _Row()).merge(row)

    def shown(item: tuple[Key, _Row]) -> tuple[int, bool, str]:
        return -item[1].numbers[0], item[0][0] is None, item[0][0] or ""

    kept.update(sorted(folded.items(), key=shown))
    return _Folded(kept, most)


class _Folded(NamedTuple):
    rows: _Rows
    most: int
    """The most requests of a key that was summed."""


class _Total:
    """A grouping since the beginning."""

    def __init__(self, by: str) -> None:
        self.by = by
        self.rows: _Rows = {}
        self.missed: dict[Key, int] = {}
        self._bytes = 0
        self._floor = 0

    def add(self, rows: _Rows) -> None:
        for key, row in rows.items():
            if key not in self.rows:
                self.rows[key] = _Row()
                self._bytes += 1 + _size(key[0])
                if self._floor and key[0] is not None and not key[1]:
                    self.missed[key] = self._floor
            self.rows[key].merge(row)

    def _is_full(self, limit: int) -> bool:
        return len(self.rows) > limit or self._bytes > _TOTAL_BYTES

    def prune(self, limit: int) -> None:
        keep = min(limit, len(self.rows)) if self._is_full(limit) else 0
        while keep > 0:
            keep //= 2
            bounds = {key: self.rows[key].numbers[0] + n for key, n in self.missed.items()}
            self.rows, most = _fold(self.by, self.rows, keep, bounds)
            self.missed = {key: n for key, n in self.missed.items() if key in self.rows}
            self._bytes = sum(1 + _size(key) for key, _ in self.rows)
            self._floor = max(self._floor, most)
            if self._bytes <= _TOTAL_BYTES:
                break


def _packed(rows: _Rows) -> tuple[Any, ...]:
    """As ``python_windows.rs`` packs them."""
    numbers, places, errors = array("q"), array("I"), array("q")
    buckets, counts = array("H"), array("Q")
    low, high = _LIMITS
    for i, row in enumerate(rows.values()):
        count, total, least, most = row.latency
        in_flight = max(row.in_flight, min(count, 1))
        values = (*row.numbers, count, total, least, most, in_flight)
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
        self._now: dict[str, _Rows] = {by: {} for by in _COUNTED}
        self._users: dict[int, str] = {}
        self._in_flight = InFlight()
        self._waiting = 0
        self._waiting_bytes = 0
        self._counted = 0
        self._spilled: dict[str, _Rows] = {by: {} for by in WINDOW_GROUPINGS}
        self._ended: list[tuple[int, dict[str, Any]]] = []
        self._totals = {by: _Total(by) for by in WINDOW_GROUPINGS}

    def add(self, rows: Mapping[str, Iterable[tuple[Any, ...]]]) -> None:
        """Rows of all kinds as the engine gives them."""
        kinds = {
            "exchanges": self._exchange,
            "watch_events": self._watch_event,
            "connections": self._connection,
        }
        by_kind = [[(row[0], kind, row) for row in rows.get(kind, ())] for kind in kinds]
        for _, kind, row in in_order(*by_kind, key=itemgetter(0)):
            kinds[kind](row)

    def _connection(self, row: tuple[Any, ...]) -> None:
        conn, event, detail = row[2], row[6], row[7]
        if event == AUTHENTICATED and detail is not None:
            if len(self._users) >= _USERS:
                self._users.clear()
            self._users[conn] = detail
        elif event in ("closed", "reset"):
            self._users.pop(conn, None)
            self._in_flight.ended(conn)

    def _exchange(self, row: tuple[Any, ...]) -> None:
        ts_ns, client, server, op = row[1], row[3], row[4], row[5]
        path, error = row[9], row[11]
        latency, sent, received, state = row[13:17]
        if state != "no_reply" or self._second is None:
            self._tick(ts_ns + (latency or 0))
        in_flight = 0
        if latency is not None and op not in _ASIDE:
            in_flight = self._in_flight.sent(row[2], ts_ns, latency)
        for by, key in self._named(row[2], op, client, path, server):
            one = self._row(by, key)
            one.in_flight = max(one.in_flight, in_flight)
            numbers = one.numbers
            numbers[0] += state != "no_request"
            numbers[1] += state != "no_reply"
            numbers[2] += sent or 0
            numbers[3] += received or 0
            if error:
                one.errors[error] = one.errors.get(error, 0) + 1
            if latency is not None and (by == "op" or op not in _ASIDE):
                one.add_latency(latency)
        self._counted_one(path)

    def _watch_event(self, row: tuple[Any, ...]) -> None:
        self._tick(row[1])
        for by, key in self._named(row[2], None, row[3], row[8], row[4]):
            if by != "op":
                self._row(by, key).numbers[4] += 1
        self._counted_one(row[8])

    def _named(
        self, conn: int, op: str | None, client: str, path: str | None, server: str
    ) -> tuple[tuple[str, str | None], ...]:
        user = self._users.get(conn)
        of_user = () if user is None else (("user", user),)
        return (
            *of_user,
            ("op", op),
            ("client", client.rpartition(":")[0].strip("[]")),
            ("path", path),
            ("server", server),
        )

    def _row(self, by: str, key: str | None) -> _Row:
        rows = self._now[by]
        name = (key, False)
        if name not in rows:
            rows[name] = _Row()
        return rows[name]

    def _counted_one(self, path: str | None) -> None:
        self._counted += 1
        self._waiting += 1
        size = _size(path)
        self._waiting_bytes += size if size > _PREFIX_BYTES else 0
        if self._waiting % _LOOK == 0 or self._waiting_bytes >= _SPILL_BYTES:
            self._look()

    def _look(self) -> None:
        if (
            self._waiting >= _SPILL_EVENTS
            or self._waiting_bytes >= _SPILL_BYTES
            or max(self._keys(rows) for rows in self._now.values()) >= _SPILL_ROWS
        ):
            self._spill(max(self._window_keys, _SPILL_KEYS))

    @staticmethod
    def _keys(rows: _Rows) -> int:
        """Without the row of those that have none."""
        return len(rows) - ((None, False) in rows)

    def _tick(self, ns: int) -> None:
        second = ns // _NANOS
        now = self._second
        if now is None:
            self._second = second
        elif not now - _BACK_S <= second <= now:
            self._end()
            self._second = second

    def _spill(self, keep: int) -> None:
        self._waiting = self._waiting_bytes = 0
        for by in _COUNTED:
            rows, self._now[by] = self._now[by], {}
            if by == "path":
                shapes: _Rows = {}
                for (path, _), row in rows.items():
                    shape = None if path is None else fingerprint(path)
                    shapes.setdefault((shape, False), _Row()).merge(row)
                self._put("fingerprint", shapes, keep)
            self._put(by, rows, keep)

    def _put(self, by: str, rows: _Rows, keep: int) -> None:
        if any(map(_is_long, rows)):
            rows = _fold(by, rows, len(rows)).rows
        self._totals[by].add(rows)
        self._totals[by].prune(self._total_keys)
        merged = self._spilled[by]
        for key, row in rows.items():
            merged.setdefault(key, _Row()).merge(row)
        self._spilled[by] = _fold(by, merged, keep).rows

    def _end(self) -> None:
        if self._second is None or not self._counted:
            return
        self._counted = 0
        self._spill(self._window_keys)
        groups = {by: _packed(rows) for by, rows in self._spilled.items()}
        self._spilled = {by: {} for by in WINDOW_GROUPINGS}
        self._ended.append((self._second, groups))

    def drain(self, all: bool = False) -> list[tuple[int, dict[str, Any]]]:
        """As the native engine's."""
        if all:
            self._end()
        ended, self._ended = self._ended, []
        return ended

    def totals(self, by: str) -> tuple[Any, bytes]:
        """As the native engine's."""
        total = self._totals[by]
        missed = array("q", (total.missed.get(key, 0) for key in total.rows))
        return _packed(total.rows), missed.tobytes()
