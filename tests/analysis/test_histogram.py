"""Bounds, buckets, quantiles: exact, and the same in both languages."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analysis import native
from tests.analysis.native import needs_native
from zktrace.analysis.histogram import (
    Histogram,
    bucket_of,
    grouped_quantiles,
    quantiles,
)
from zktrace.engine.buckets import BOUNDS, BUCKETS, PER_OCTAVE, QUANTILES

#: Half a bucket: (2**(1/32) - 1) / 2.
ERROR = 0.01095

VALUES = st.lists(
    st.integers(-3, 70)
    | st.integers(0, 2**63 - 1)
    | st.integers(10_000, 30_000)
    | st.sampled_from([bound + d for bound in BOUNDS[:-1] for d in (-1, 0, 1)]),
    max_size=200,
)


def array(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


def test_bounds_are_powers_rounded_up() -> None:
    assert len(BOUNDS) == BUCKETS + 1
    for i, bound in enumerate(BOUNDS):
        # bound - 1 < 2**(i / 32) <= bound, in integers.
        assert (bound - 1) ** PER_OCTAVE < 2**i <= bound**PER_OCTAVE
    assert BOUNDS[-1] == 2**63


def test_buckets_hold_what_their_bounds_say() -> None:
    values = [bound + d for bound in BOUNDS[1:-1] for d in (-1, 0)]
    for value, bucket in zip(values, bucket_of(array(values)).tolist(), strict=True):
        assert BOUNDS[bucket] <= value < BOUNDS[bucket + 1]
    assert bucket_of(array([-(2**63), -1, 0, 1, 2**63 - 1])).tolist() == [0, 0, 0, 0, BUCKETS - 1]


def test_error_of_a_shown_value() -> None:
    values = sorted({bound + d for bound in BOUNDS[200:-1] for d in (-1, 0)})
    for value in values:
        one = Histogram()
        # Ends far away, so that the middle is not kept within them.
        one.add(array([0, value, 2**63 - 1]))
        median = one.quantiles()[0]
        assert abs(median - value) <= ERROR * value + 1


def test_quantiles_by_hand() -> None:
    one = Histogram()
    one.add(array([1000]))
    assert one.quantiles() == (1000,) * 4
    one.add(array([2000] * 8 + [9000]))
    # Ranks 5, 9, 10, 10 of 10.
    p50, p90, p99, p999 = one.quantiles()
    assert abs(p50 - 2000) <= 2000 * ERROR
    assert p50 == p90
    assert p99 == p999 == 9000 or abs(p99 - 9000) <= 9000 * ERROR
    assert (one.count, one.sum, one.min, one.max) == (10, 26_000, 1000, 9000)
    assert Histogram().quantiles() == (0, 0, 0, 0)


@given(VALUES)
def test_ranks_are_exact(values: list[int]) -> None:
    if not values:
        return
    one = Histogram()
    one.add(array(values))
    ordered = sorted(values)
    for (_, q), shown in zip(QUANTILES, one.quantiles(), strict=True):
        rank = -(-Fraction(q * len(values), 1000) // 1)
        bucket = int(bucket_of(array([ordered[int(rank) - 1]]))[0])
        middle = (BOUNDS[bucket] + BOUNDS[bucket + 1]) // 2
        assert shown == min(max(middle, ordered[0]), ordered[-1])
    assert one.sum == sum(values)


@given(VALUES, VALUES)
def test_merging_is_addition(a: list[int], b: list[int]) -> None:
    parts = [Histogram(), Histogram()]
    parts[0].add(array(a))
    parts[1].add(array(b))
    parts[0].merge(parts[1])
    whole = Histogram()
    whole.add(array(a + b))
    assert vars(parts[0]).keys() == vars(whole).keys()
    assert parts[0].counts.tolist() == whole.counts.tolist()
    assert parts[0].quantiles() == whole.quantiles()
    assert (parts[0].sum, parts[0].min, parts[0].max) == (whole.sum, whole.min, whole.max)


@given(st.lists(VALUES, max_size=5))
def test_many_at_once(groups: list[list[int]]) -> None:
    all_groups, all_buckets, all_counts, low, high, expected = [], [], [], [], [], []
    for number, values in enumerate(groups):
        one = Histogram()
        one.add(array(values))
        buckets, counts = one.buckets()
        all_groups += [number] * len(buckets)
        all_buckets += buckets.tolist()
        all_counts += counts.tolist()
        low.append(one.min)
        high.append(one.max)
        expected.append(one.quantiles())
        if values:
            assert quantiles(buckets, counts, one.min, one.max) == one.quantiles()
    columns = map(array, (all_groups, all_buckets, all_counts, low, high))
    got = [column.tolist() for column in grouped_quantiles(*columns)]
    assert list(zip(*got, strict=True)) == expected


@needs_native
@given(VALUES)
@settings(max_examples=300)
def test_native_histogram_is_the_same(values: list[int]) -> None:
    buckets, counts, shown = native.histogram(values)
    one = Histogram()
    one.add(array(values))
    assert buckets == bucket_of(array(values)).tolist()
    assert counts == list(zip(*(part.tolist() for part in one.buckets()), strict=True))
    assert tuple(shown) == one.quantiles()


@needs_native
def test_native_buckets_at_every_bound() -> None:
    values = [bound + d for bound in BOUNDS[:-1] for d in (-1, 0, 1)]
    assert native.histogram(values)[0] == bucket_of(array(values)).tolist()
