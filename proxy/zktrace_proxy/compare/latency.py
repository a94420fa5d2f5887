"""Latencies of two sides, per op: medians side by side, and whether they differ by more than noise.

The noise bound is of the medians: with n values of one side the median's rank is uncertain by some
sqrt(n)/2 (a binomial's deviation), so the quantiles at that distance, twice, bound it. What differs
by less than both sides' bounds together is noise. Latencies of a recording and of a replay in which
other load ran are not the same thing; the numbers say what was, no more.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, Final

import numpy as np

from zktrace.analysis.histogram import Histogram
from zktrace.engine.buckets import BOUNDS

_FLUSH: Final = 4096


class Side:
    """Latencies of one side of one op, in ns."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self._values: list[int] = []

    def note(self, ns: int) -> None:
        self._values.append(ns)
        if len(self._values) >= _FLUSH:
            self.flush()

    def flush(self) -> None:
        self.histogram.add(np.array(self._values, dtype=np.int64))
        self._values = []

    def bounds(self) -> tuple[int, int]:
        """Of the median: what noise may make of it."""
        count = self.histogram.count
        if not count:
            return 0, 0
        spread = sqrt(count)  # two deviations
        return self._at(max(count / 2 - spread, 1)), self._at(min(count / 2 + spread, count))

    def _at(self, rank: float) -> int:
        buckets, counts = self.histogram.buckets()
        index = int(np.searchsorted(np.cumsum(counts), rank))
        bucket = int(buckets[min(index, len(buckets) - 1)])
        return min(max(BOUNDS[bucket], self.histogram.min), self.histogram.max)


class Latencies:
    """By op."""

    def __init__(self) -> None:
        self._ops: dict[str, tuple[Side, Side]] = {}

    def note(self, op: str, recorded_ns: int | None, live_ns: int | None) -> None:
        """One exchange's latencies; None where it is not known."""
        sides = self._ops.get(op)
        if sides is None:
            sides = self._ops[op] = (Side(), Side())
        if recorded_ns is not None and recorded_ns >= 0:
            sides[0].note(recorded_ns)
        if live_ns is not None and live_ns >= 0:
            sides[1].note(live_ns)

    def rows(self) -> list[dict[str, Any]]:
        """Per op: counts, quantiles in us, and ``slower``, ``faster`` or ``same`` (the second side
        against the first; None where one has no values).
        """
        rows = []
        for op, (one, two) in sorted(self._ops.items()):
            one.flush()
            two.flush()
            (a, *_), (b, *_) = one.histogram.quantiles(), two.histogram.quantiles()
            verdict = None
            if one.histogram.count and two.histogram.count:
                low, high = one.bounds(), two.bounds()
                verdict = "same"
                if low[1] < high[0] and b > a:
                    verdict = "slower"
                elif high[1] < low[0] and b < a:
                    verdict = "faster"
            rows.append(
                {
                    "op": op,
                    "recorded": _quantiles(one.histogram),
                    "live": _quantiles(two.histogram),
                    "verdict": verdict,
                }
            )
        return rows


def _quantiles(histogram: Histogram) -> dict[str, Any]:
    p50, p90, p99, _ = (value / 1000 for value in histogram.quantiles())
    return {"count": histogram.count, "p50_us": p50, "p90_us": p90, "p99_us": p99}
