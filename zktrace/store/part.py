"""Rows of one grouping as columns: what an engine hands over per second, and sums of such.

A :class:`Part` is small, never changes and can be added to others; keys come with a flag that tells
a row of what was not kept apart (``rest``: of paths, what lies at or below the key). Numbers are
those of ``zktrace.analysis.stats``; shown rows are those of ``zktrace stats --json``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from zktrace.analysis import histogram
from zktrace.analysis.histogram import Ints
from zktrace.analysis.stats_result import OTHER_ERROR
from zktrace.engine.buckets import BUCKETS, QUANTILES
from zktrace.wire.errors import error_name

#: A key (None: unknown or none), and whether the row is a rest.
Key: TypeAlias = tuple[str | None, bool]

#: Columns of :attr:`Part.numbers`.
REQUESTS, REPLIES, SENT, RECEIVED, WATCH_EVENTS, SAMPLES, SUM, MIN, MAX, IN_FLIGHT = range(10)
COLUMNS: Final = 10

#: Histograms of so many rows are summed in one array of all buckets (at most 4 MB), unless few of
#: these are in use: sorting them is less than looking through all.
_DENSE_ROWS: Final = 256
_DENSE_FACTOR: Final = 4
_HUGE: Final = np.iinfo(np.int64).max

_EMPTY: Final[Ints] = np.zeros(0, dtype=np.int64)


class Part(NamedTuple):
    """Rows in columns; arrays are never written to."""

    keys: tuple[Key, ...]
    numbers: Ints
    """A row of :data:`COLUMNS` per key."""
    rows: Any
    """Histograms: row, bucket and count of every bucket in use, by row, then bucket."""
    buckets: Any
    counts: Any
    errors: Ints
    """Row, code, count."""

    @classmethod
    def of(cls, packed: Sequence[Any]) -> Part:
        """Of what an engine hands over (``python_windows.rs``)."""
        keys, rests, numbers, rows, buckets, counts, errors = packed
        count = np.frombuffer(counts, dtype="<u8")
        if not len(count) or int(count.max()) < 1 << 32:
            count = count.astype(np.uint32)
        return cls(
            tuple(zip(keys, map(bool, rests), strict=True)),
            np.frombuffer(numbers, dtype="<i8").reshape(-1, COLUMNS),
            np.frombuffer(rows, dtype="<u4"),
            np.frombuffer(buckets, dtype="<u2"),
            count,
            np.frombuffer(errors, dtype="<i8").reshape(-1, 3),
        )

    def take(self, wanted: Ints) -> Part:
        """Some rows, in that order."""
        place = np.full(len(self.keys), -1, dtype=np.int64)
        place[wanted] = np.arange(len(wanted))
        rows = place[self.rows]
        order = np.flatnonzero(rows >= 0)
        order = order[np.argsort(rows[order], kind="stable")]
        errors = self.errors.copy()
        errors[:, 0] = place[errors[:, 0]]
        return Part(
            tuple(self.keys[i] for i in wanted.tolist()),
            self.numbers[wanted],
            rows[order],
            self.buckets[order],
            self.counts[order],
            errors[errors[:, 0] >= 0],
        )

    def coarse(self, keep: int, per: int) -> Part:
        """The first rows, the others as one rest, with histograms of `per` buckets in one."""
        part = self
        if len(part.keys) > keep:
            names: list[Key] = [
                key if i < keep or key[0] is None else (None, True)
                for i, key in enumerate(part.keys)
            ]
            part = _sum(part, names)
        if per > 1:
            # The middle one stands for all of them.
            buckets = (part.buckets.astype(np.int64) // per) * per + per // 2
            part = _sum(part._replace(buckets=buckets), part.keys)
        return part


EMPTY: Final = Part((), _EMPTY.reshape(0, COLUMNS), _EMPTY, _EMPTY, _EMPTY, _EMPTY.reshape(0, 3))


def _sum(part: Part, names: Sequence[Key]) -> Part:
    """Rows of one name added up."""
    index: dict[Key, int] = {}
    place = np.fromiter((index.setdefault(name, len(index)) for name in names), np.int64)
    size = len(index)
    numbers = np.zeros((size, COLUMNS), dtype=np.int64)
    numbers[:, MIN] = _HUGE
    np.add.at(numbers[:, :MIN], place, part.numbers[:, :MIN])
    some = part.numbers[:, SAMPLES] > 0
    np.minimum.at(numbers[:, MIN], place[some], part.numbers[some, MIN])
    np.maximum.at(numbers[:, MAX], place[some], part.numbers[some, MAX])
    numbers[numbers[:, SAMPLES] == 0, MIN] = 0
    np.maximum.at(numbers[:, IN_FLIGHT], place, part.numbers[:, IN_FLIGHT])

    spots = place[part.rows] * BUCKETS + part.buckets
    amounts = part.counts.astype(np.int64)
    if size <= _DENSE_ROWS and size * BUCKETS <= _DENSE_FACTOR * len(spots):
        dense = np.zeros(size * BUCKETS, dtype=np.int64)
        np.add.at(dense, spots, amounts)
        used = np.flatnonzero(dense)
        counts = dense[used]
    elif len(spots):
        # Rows come in order, so that this is mostly sorted.
        by_spot = np.argsort(spots, kind="stable")
        spots = spots[by_spot]
        first = np.flatnonzero(np.diff(spots, prepend=-1))
        used, counts = spots[first], np.add.reduceat(amounts[by_spot], first)
    else:
        used = counts = _EMPTY
    errors = part.errors
    if len(errors):
        pairs = np.stack([place[errors[:, 0]], errors[:, 1]], axis=1)
        distinct, where = np.unique(pairs, axis=0, return_inverse=True)
        sums = np.zeros(len(distinct), dtype=np.int64)
        np.add.at(sums, where.reshape(-1), errors[:, 2])
        errors = np.concatenate([distinct, sums[:, None]], axis=1)
    small = counts.astype(np.uint32) if not len(counts) or counts.max() < 1 << 32 else counts
    return Part(
        tuple(index),
        numbers,
        (used // BUCKETS).astype(np.uint32),
        (used % BUCKETS).astype(np.uint16),
        small,
        errors,
    )


def merge(
    parts: Iterable[Part],
    rename: Callable[[Key], Key | None] | None = None,
    keys: Callable[[Key], bool] | None = None,
) -> Part:
    """The sum of parts, by key as `rename` gives it (None: left out), most requests first."""
    parts = list(parts)
    if not parts:
        return EMPTY
    names: list[Key] = []
    wanted: list[int] = []
    known: dict[Key, Key | None] = {}
    at = 0
    offsets = []
    for part in parts:
        offsets.append(at)
        for i, key in enumerate(part.keys, at):
            name: Key | None = key
            if rename is not None:
                if key not in known:
                    known[key] = rename(key)
                name = known[key]
            if name is not None and (keys is None or keys(name)):
                wanted.append(i)
                names.append(name)
        at += len(part.keys)

    def moved(column: Any, offset: int) -> Ints:
        return np.asarray(column, dtype=np.int64) + offset

    errors = [part.errors.copy() for part in parts]
    for one, offset in zip(errors, offsets, strict=True):
        one[:, 0] += offset
    whole = Part(
        ((None, False),) * at,
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([moved(p.rows, o) for p, o in zip(parts, offsets, strict=True)]),
        np.concatenate([part.buckets for part in parts]),
        np.concatenate([np.asarray(part.counts, dtype=np.int64) for part in parts]),
        np.concatenate(errors),
    )
    if len(wanted) < at:
        whole = whole.take(np.array(wanted, dtype=np.int64))
    summed = _sum(whole, names)
    return summed.take(order(summed, "requests"))


def errors_of(part: Part) -> Ints:
    """Errors per row."""
    total = np.zeros(len(part.keys), dtype=np.int64)
    np.add.at(total, part.errors[:, 0], part.errors[:, 2])
    return total


_SORTS: Final[Mapping[str, int]] = {
    "requests": REQUESTS,
    "replies": REPLIES,
    "request_bytes": SENT,
    "reply_bytes": RECEIVED,
    "watch_events": WATCH_EVENTS,
    "min": MIN,
    "max": MAX,
    "in_flight": IN_FLIGHT,
}
_QUANTILES: Final = tuple(name for name, _ in QUANTILES)
#: What rows can be sorted by.
SORTS: Final = (*_SORTS, "errors", "bytes", "mean", *_QUANTILES, "total_time", "key")


def quantiles_of(part: Part) -> list[Ints]:
    """A column per quantile of :data:`QUANTILES`."""
    return histogram.grouped_quantiles(
        np.asarray(part.rows, dtype=np.int64),
        np.asarray(part.buckets, dtype=np.int64),
        np.asarray(part.counts, dtype=np.int64),
        part.numbers[:, MIN],
        part.numbers[:, MAX],
    )


def order(part: Part, sort: str) -> Ints:
    """Rows in the order of `sort` (most first; ``key``: alphabetical), ties by requests and key;
    null keys after others.
    """
    numbers = part.numbers
    column: Ints
    if sort in _SORTS:
        column = numbers[:, _SORTS[sort]]
    elif sort == "errors":
        column = errors_of(part)
    elif sort == "bytes":
        column = numbers[:, SENT] + numbers[:, RECEIVED]
    elif sort == "total_time":
        column = numbers[:, SUM]
    elif sort == "mean":
        column = numbers[:, SUM] // np.maximum(numbers[:, SAMPLES], 1)
    elif sort in _QUANTILES:
        column = quantiles_of(part)[_QUANTILES.index(sort)]
    else:
        column = np.zeros(len(part.keys), dtype=np.int64)
    values = column.tolist()
    requests = numbers[:, REQUESTS].tolist()
    if sort == "key":
        requests = values

    def place(i: int) -> tuple[int, int, bool, str, bool]:
        key, rest = part.keys[i]
        return -values[i], -requests[i], key is None, key or "", rest

    return np.array(sorted(range(len(part.keys)), key=place), dtype=np.int64)


def us(ns: float) -> float:
    return round(ns / 1000, 3)


def shown(part: Part, seconds: float) -> list[dict[str, Any]]:
    """Rows as ``zktrace stats --json`` shows them, without their keys; and what was in flight in
    these seconds: as many requests on average as their latencies add up to seconds in one of them
    (Little's law), whoever's connections they were on, and the most at once on one connection.
    """
    named: list[list[tuple[int, int]]] = [[] for _ in part.keys]
    for row, code, count in part.errors.tolist():
        named[row].append((code, count))
    columns = [column.tolist() for column in quantiles_of(part)]
    result = []
    for i, numbers in enumerate(part.numbers.tolist()):
        latency = None
        if numbers[SAMPLES]:
            latency = {
                "min": us(numbers[MIN]),
                "mean": round(numbers[SUM] / (numbers[SAMPLES] * 1000), 3),
                **{name: us(column[i]) for name, column in zip(_QUANTILES, columns, strict=True)},
                "max": us(numbers[MAX]),
            }
        errors = sorted(named[i], key=lambda pair: (-pair[1], -pair[0]))
        result.append(
            {
                "requests": numbers[REQUESTS],
                "replies": numbers[REPLIES],
                "errors": {
                    "other" if code == OTHER_ERROR else error_name(code): n for code, n in errors
                },
                "request_bytes": numbers[SENT],
                "reply_bytes": numbers[RECEIVED],
                "watch_events": numbers[WATCH_EVENTS],
                "latency_us": latency,
                "in_flight": {
                    "mean": round(numbers[SUM] / 1e9 / seconds, 4),
                    "most": numbers[IN_FLIGHT],
                }
                if numbers[IN_FLIGHT] and seconds > 0
                else None,
            }
        )
    return result
