"""What statistics are, and the object that ``zktrace stats --json`` prints of them.

Plain Python: where the native engine has counted, neither numpy nor Arrow needs to be loaded,
which would take longer than to decode 100 MB. Knows rows of numbers, not where they come from
(:mod:`zktrace.analysis.stats`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from struct import pack, unpack
from typing import Any, Final, NamedTuple, TypedDict

from zktrace.engine.buckets import BOUNDS, QUANTILES
from zktrace.wire.errors import error_name

#: Stands for the error codes that the native engine had no room for.
OTHER_ERROR: Final = -(2**31)


class Latency(NamedTuple):
    """A histogram with its exact ends; nanoseconds."""

    samples: int
    min: int
    max: int
    sum: int
    p50: int
    p90: int
    p99: int
    p999: int
    buckets: bytes
    """Buckets in use, ascending, little-endian u16."""
    counts: bytes
    """Their counts, little-endian u64."""

    def histogram(self) -> Iterator[tuple[int, int]]:
        """Buckets with their counts, ascending."""
        used = len(self.buckets) // 2
        return zip(unpack(f"<{used}H", self.buckets), unpack(f"<{used}Q", self.counts), strict=True)


class StatsRow(NamedTuple):
    """What is counted per key. ``errors``: by code; ``latency``: None without any."""

    key: str | None
    rest: bool
    requests: int
    replies: int
    errors: dict[int, int]
    request_bytes: int
    reply_bytes: int
    watch_events: int
    latency: Latency | None


class StatsData(TypedDict):
    """``by``: rows per grouping, its rest row last; ``folded``: how many rows that is the sum of,
    of groupings that were cut to the top; ``overflow``: events per grouping only its rest row
    counts.
    """

    total: StatsRow
    by: dict[str, list[StatsRow]]
    folded: dict[str, int]
    overflow: dict[str, int]


def _quantiles(buckets: Sequence[tuple[int, int]], low: int, high: int) -> list[int]:
    """Values at :data:`QUANTILES` of buckets with their counts, ascending, of values in [low,
    high].
    """
    below = list(accumulate(n for _, n in buckets))
    shown = []
    for _, thousandths in QUANTILES:
        rank = -(-below[-1] * thousandths // 1000)
        bucket = buckets[bisect_left(below, rank)][0]
        middle = (BOUNDS[bucket] + BOUNDS[bucket + 1]) // 2
        shown.append(min(max(middle, low), high))
    return shown


def merge_rows(rows: Iterable[StatsRow]) -> StatsRow:
    """The sum of rows, as a row of the rest."""
    errors: dict[int, int] = {}
    sums = [0] * 5
    latencies = []
    for row in rows:
        for code, n in row.errors.items():
            errors[code] = errors.get(code, 0) + n
        for i, value in enumerate((row.requests, row.replies, *row[5:8])):
            sums[i] += value
        if row.latency is not None:
            latencies.append(row.latency)
    latency = None
    if latencies:
        counts: dict[int, int] = {}
        for one in latencies:
            for bucket, n in one.histogram():
                counts[bucket] = counts.get(bucket, 0) + n
        used = sorted(counts)
        least = min(one.min for one in latencies)
        most = max(one.max for one in latencies)
        p50, p90, p99, p999 = _quantiles([(bucket, counts[bucket]) for bucket in used], least, most)
        latency = Latency(
            sum(one.samples for one in latencies),
            least,
            most,
            sum(one.sum for one in latencies),
            p50,
            p90,
            p99,
            p999,
            pack(f"<{len(used)}H", *used),
            pack(f"<{len(used)}Q", *(counts[bucket] for bucket in used)),
        )
    requests, replies, sent, got, watches = sums
    return StatsRow(None, True, requests, replies, errors, sent, got, watches, latency)


def _us(ns: float) -> float:
    return round(ns / 1000, 3)


def _row_json(row: StatsRow) -> dict[str, Any]:
    latency = None
    if row.latency is not None:
        one = row.latency
        latency = {
            "min": _us(one.min),
            "mean": round(one.sum / (one.samples * 1000), 3),
            "p50": _us(one.p50),
            "p90": _us(one.p90),
            "p99": _us(one.p99),
            "p999": _us(one.p999),
            "max": _us(one.max),
        }
    named: dict[str, int] = {}
    for code, n in sorted(row.errors.items(), key=lambda item: (-item[1], -item[0])):
        named["other" if code == OTHER_ERROR else error_name(code)] = n
    return {
        "requests": row.requests,
        "replies": row.replies,
        "errors": named,
        "request_bytes": row.request_bytes,
        "reply_bytes": row.reply_bytes,
        "watch_events": row.watch_events,
        "latency_us": latency,
    }


def _group_json(
    name: str, rows: Sequence[StatsRow], top: int | None, folded: int, overflow: int
) -> list[dict[str, Any]]:
    known = [StatsRow(*row) for row in rows if not row[1]]
    rest = [StatsRow(*row) for row in rows if row[1]]
    shown = known if top is None else known[:top]
    beyond = known[len(shown) :]
    result = [{name: row.key, **_row_json(row)} for row in shown]
    if beyond or rest:
        last: dict[str, Any] = {name: None, "rest": True}
        if overflow:
            last["overflow"] = overflow
        else:
            last["groups"] = len(beyond) + folded
        result.append({**last, **_row_json(merge_rows([*beyond, *rest]))})
    return result


def stats_result(
    data: StatsData, coverage: Mapping[str, Any], *, top: int | None = None
) -> dict[str, Any]:
    """The object that ``zktrace stats --json`` prints.

    `data` is that of :class:`StatsCollector` or of the native engine's aggregates (plain tuples
    will do). Latencies are microseconds, None where there are none. With `top`, rows beyond it are
    summed in a last row with the key null and ``rest`` true; its ``groups`` tells of how many rows
    it is the sum. Where the native engine ran out of room for keys it tells ``overflow`` instead,
    the number of events whose key was not kept.
    """
    first, last = coverage.get("first_ts_ns"), coverage.get("last_ts_ns")
    duration = None if first is None or last is None else round((last - first) / 1e9, 6)
    result: dict[str, Any] = {
        "coverage": dict(coverage),
        "duration_s": duration,
        "total": _row_json(_row(data["total"])),
    }
    for name, rows in data["by"].items():
        folded, overflow = data["folded"].get(name, 0), data["overflow"].get(name, 0)
        named = [_row(row) for row in rows]
        result[f"by_{name}"] = _group_json(name, named, top, folded, overflow)
    return result


def _row(row: Sequence[Any]) -> StatsRow:
    """A row of either engine with its names."""
    named = StatsRow(*row)
    if named.latency is not None:
        named = named._replace(latency=Latency(*named.latency))
    return named
