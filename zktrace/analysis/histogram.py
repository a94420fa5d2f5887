"""Log2 histograms of nanoseconds: 32 buckets per octave, so that a value is known to 1.1 %.

Bucket i holds the integers from ``BOUNDS[i]`` to ``BOUNDS[i + 1] - 1`` where ``BOUNDS[i]`` is
2**(i/32) rounded up, exactly (no floats: the native engine is handed these bounds and must find the
same bucket for every value). Values below 2 are in bucket 0. Where a bound repeats (below 45 ns,
buckets are narrower than one nanosecond) the last bucket of that bound holds the values. Merging is
addition. At scale 5 these are OpenTelemetry's exponential buckets.

The value shown for a quantile q is the middle, rounded down, of the bucket that holds rank ceil(q *
count), kept within the exact [min, max]. Above some 50 ns it is at most 1.1 % ((2**(1/32) - 1) / 2)
off plus the rounding to whole nanoseconds.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from zktrace.engine.buckets import BOUNDS, BUCKETS, QUANTILES

Ints = npt.NDArray[np.int64]

_LOWER: Final = np.array(BOUNDS, dtype=np.uint64)
_MIDDLES: Final = np.array([(low + high) // 2 for low, high in pairwise(BOUNDS)], dtype=np.int64)


def bucket_of(values: Ints) -> Ints:
    """Bucket of each value."""
    values = np.maximum(values, 1).astype(np.uint64)
    return np.searchsorted(_LOWER, values, side="right") - 1


def ranks(counts: Ints, thousandths: int) -> Ints:
    """Rank ceil(q * count) for each count, 1-based."""
    # In two steps, so that no product overflows.
    whole, part = np.divmod(counts, 1000)
    rank: Ints = whole * thousandths + -(-(part * thousandths) // 1000)
    return rank


def quantiles(buckets: Ints, counts: Ints, low: int, high: int) -> tuple[int, ...]:
    """Values at :data:`QUANTILES` of one histogram (buckets ascending, counts above 0) of values in
    [low, high].
    """
    below = np.cumsum(counts)
    wanted = np.array([ranks(below[-1:], q)[0] for _, q in QUANTILES])
    middles = _MIDDLES[buckets[np.searchsorted(below, wanted, side="left")]]
    return tuple(int(value) for value in np.clip(middles, low, high))


def grouped_quantiles(
    groups: Ints, buckets: Ints, counts: Ints, low: Ints, high: Ints
) -> list[Ints]:
    """As :func:`quantiles` for histograms 0, 1, 2 ... at once: an array per quantile, 0 where a
    histogram is empty.

    `groups`, `buckets` and `counts` run in parallel, sorted by group, then bucket; `low` and `high`
    are per group.
    """
    totals = np.zeros(len(low), dtype=np.int64)
    np.add.at(totals, groups, counts)
    below = np.cumsum(counts)
    base = np.cumsum(totals) - totals
    values = []
    for _, q in QUANTILES:
        shown = np.zeros(len(low), dtype=np.int64)
        some = totals > 0
        wanted = base[some] + ranks(totals[some], q)
        middles = _MIDDLES[buckets[np.searchsorted(below, wanted, side="left")]]
        shown[some] = np.clip(middles, low[some], high[some])
        values.append(shown)
    return values


class Histogram:
    """One histogram, filled from arrays; for what is not grouped."""

    def __init__(self) -> None:
        self.counts: Ints = np.zeros(BUCKETS, dtype=np.int64)
        self.count = 0
        self.sum = 0
        self.min = 0
        self.max = 0

    def add(self, values: Ints) -> None:
        """Counts values (ns)."""
        if len(values):
            # Halves, so that the sum is exact whatever the values are.
            total = (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())
            counts = np.bincount(bucket_of(values), minlength=BUCKETS)
            self._add(counts, len(values), total, int(values.min()), int(values.max()))

    def merge(self, other: Histogram) -> None:
        """Adds what another one counted."""
        if other.count:
            self._add(other.counts, other.count, other.sum, other.min, other.max)

    def _add(self, counts: Ints, count: int, total: int, low: int, high: int) -> None:
        self.min = min(self.min, low) if self.count else low
        self.max = max(self.max, high) if self.count else high
        self.counts = self.counts + counts
        self.count += count
        self.sum += total

    def buckets(self) -> tuple[Ints, Ints]:
        """Buckets in use, ascending, and their counts."""
        used = np.flatnonzero(self.counts)
        return used, self.counts[used]

    def quantiles(self) -> tuple[int, ...]:
        """Values at :data:`QUANTILES`; all 0 when nothing was counted."""
        if not self.count:
            return (0,) * len(QUANTILES)
        return quantiles(*self.buckets(), self.min, self.max)
