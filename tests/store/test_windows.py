"""Windows: both engines give the same, nothing is lost between tiers, memory is bounded."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import needs_native
from zktrace.engine.base import WINDOW_GROUPINGS, EngineOptions, create
from zktrace.engine.driver import Run
from zktrace.store.part import COLUMNS, MAX, MIN, REQUESTS, SAMPLES, Part, merge
from zktrace.store.rows import RowWindows
from zktrace.store.windows import TIERS, Tier, Windows

PCAPS = Path(__file__).resolve().parents[2] / "pcaps"
NAMES = sorted(path.name for path in PCAPS.glob("*.pcap*"))


def _python(path: Path, keys: int, total: int) -> tuple[Any, Any]:
    run = Run([path], create(EngineOptions(), "python"))
    windows = RowWindows(keys, total)
    for _ in run:
        windows.add(run.engine.take())
    return windows.drain(True), {by: windows.totals(by) for by in WINDOW_GROUPINGS}


def _native(path: Path, keys: int, total: int) -> tuple[Any, Any]:
    engine: Any = create(EngineOptions(window_keys=keys, total_keys=total), "native")
    for _ in Run([path], engine):
        engine.take()
    return engine.drain(True), {by: engine.totals(by) for by in WINDOW_GROUPINGS}


def _missed(totals: Any) -> dict[Any, int]:
    keys, rests = totals[0][:2]
    missed = np.frombuffer(totals[1], dtype="<i8").tolist()
    return dict(zip(zip(keys, rests, strict=True), missed, strict=True))


def _by_key(packed: Any) -> Any:
    return merge([Part.of(packed)])


@needs_native
@pytest.mark.parametrize(("keys", "total"), [(64, 20_000), (2, 4)])
@pytest.mark.parametrize("name", NAMES)
def test_both_engines_count_the_same(name: str, keys: int, total: int) -> None:
    mine, my_totals = _python(PCAPS / name, keys, total)
    its, its_totals = _native(PCAPS / name, keys, total)
    assert [second for second, _ in mine] == [second for second, _ in its]
    for (_, left), (_, right) in zip(mine, its, strict=True):
        assert left.keys() == right.keys()
        for by in left:
            assert [list(map(_plain, left[by]))] == [list(map(_plain, right[by]))], by
    for by in WINDOW_GROUPINGS:
        # Rows of totals have no order.
        left, right = _by_key(my_totals[by][0]), _by_key(its_totals[by][0])
        assert left.keys == right.keys
        for one, other in zip(left[1:], right[1:], strict=True):
            assert np.array_equal(one, other)
        assert _missed(my_totals[by]) == _missed(its_totals[by])


_TOKENS = (
    *("/", "/", "/", "-", ":", ".", "_", "lock", "0x1f", "deadbeef1", "cafe", "é", "日"),
    *("1.2.3.4", "7", "2f1c0e1e-0f7b-4f3a-9a53-1f5d5c8e4a11", "0000000012", "12345678901"),
    *("x" * 300, "", "\x1b[31m"),
)


@needs_native
def test_both_engines_count_the_same_when_there_are_too_many_keys(tmp_path: Path) -> None:
    """Names of all shapes, more of them in a second than are kept apart, some longer than that."""
    from tests.bench import synth

    rng = random.Random(5)
    names = [
        ("/" + "".join(rng.choices(_TOKENS, k=rng.randrange(12)))).encode() for _ in range(200)
    ]
    names += [b"/flood/%d/n-%010d" % (n % 90, n) for n in range(12_000)]
    names += [b"/long/" + b"y" * 1100, b"/" + b"z" * 300 + b"/a"]
    writer = synth.Writer(tmp_path / "flood.pcap", rng)
    client = synth.Client(0, rng)
    synth.handshake(writer, client, 0)
    for _ in range(2):
        rng.shuffle(names)
        for name in names:
            client.xid += 1
            body = synth.request_body(synth.EXISTS, client.xid, name, b"")
            writer.packet(client, True, synth.PSH_ACK, synth.frame(body))
            body = synth.reply_body(synth.EXISTS, client.xid, 7, name, b"", 0)
            writer.packet(client, False, synth.PSH_ACK, synth.frame(body))
        writer.clock_us += 2_000_000
    writer.out.close()
    for keys, total in ((4, 50), (64, 20_000)):
        mine, my_totals = _python(writer.path, keys, total)
        its, its_totals = _native(writer.path, keys, total)
        assert len(mine) == len(its) > 1
        for (_, left), (_, right) in zip(mine, its, strict=True):
            for by in left:
                assert [list(map(_plain, left[by]))] == [list(map(_plain, right[by]))], by
        for by in WINDOW_GROUPINGS:
            left, right = _by_key(my_totals[by][0]), _by_key(its_totals[by][0])
            assert left.keys == right.keys
            assert np.array_equal(left.numbers, right.numbers)
            missed = _missed(my_totals[by])
            assert missed == _missed(its_totals[by])
            assert len(left.keys) <= total + 2 * 64 + 2
            requests = left.numbers[:, REQUESTS].sum()
            # Nobody authenticates.
            assert requests == (0 if by == "user" else 2 * len(names) + 1)
            assert max(missed.values(), default=0) <= 2 * requests / total
    assert any(missed.values()) is False


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, bytes | bytearray) else list(value)


def _part(key: str | None, latencies: list[int], requests: int = 1) -> Part:
    from zktrace.analysis.histogram import bucket_of

    numbers = np.zeros((1, COLUMNS), dtype=np.int64)
    numbers[0, REQUESTS] = requests
    numbers[0, SAMPLES] = len(latencies)
    if latencies:
        numbers[0, MIN], numbers[0, MAX] = min(latencies), max(latencies)
    used, counts = np.unique(
        bucket_of(np.array(latencies, dtype=np.int64)) if latencies else np.zeros(0, np.int64),
        return_counts=True,
    )
    return Part(
        ((key, False),),
        numbers,
        np.zeros(len(used), dtype=np.uint32),
        used.astype(np.uint16),
        counts.astype(np.uint32),
        np.zeros((0, 3), dtype=np.int64),
    )


def _requests(windows: Windows, start: int, end: int) -> int:
    return sum(int(one.part("op").numbers[:, REQUESTS].sum()) for one in windows.span(start, end))


@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=60),
    st.integers(-10, 3000),
    st.integers(0, 3000),
)
def test_spans_count_every_second_once(steps: list[int], start: int, length: int) -> None:
    windows = Windows()
    seconds = np.cumsum(steps).tolist()
    for second in seconds:
        groups = {by: _part("x", [1000]) for by in WINDOW_GROUPINGS}
        windows.add(second, groups)
    last = seconds[-1]
    horizon = last - TIERS[0].kept
    start = max(start, horizon)
    end = start + length
    assert _requests(windows, start, end) == sum(start <= s < end for s in seconds)
    # What is older than the seconds kept is there in steps of ten, of a minute.
    low = windows.clamp(0)
    assert _requests(windows, low - low % 60, last + 1) == len(seconds)


def test_windows_are_bounded() -> None:
    tiers = (Tier(1, 20, 4, 1), Tier(10, 12, 4, 1), Tier(60, 5, 4, 4))
    windows = Windows(tiers)
    for second in range(2000):
        windows.add(second, {by: _part(f"k{second % 9}", [second]) for by in WINDOW_GROUPINGS})
    assert len(windows) <= 20 + 12 + 5
    assert _requests(windows, 1990, 2000) == 10
    assert _requests(windows, 1800, 2000) == 200
    points = windows.points(1900, 2000, 10)
    assert [point.requests for point in points] == [10] * 10


def test_a_clock_that_is_set_back_is_followed() -> None:
    windows = Windows()
    for second in (10_000, 10_001, 500, 501):
        windows.add(second, {by: _part("x", [5]) for by in WINDOW_GROUPINGS})
    assert windows.last == 501
    assert _requests(windows, 500, 502) == 2


def test_a_clock_that_was_far_ahead_does_not_cost_the_windows_of_now() -> None:
    tiers = (Tier(1, 60, 4, 1), Tier(10, 30, 4, 1), Tier(60, 5, 4, 4))
    windows = Windows(tiers)
    ahead = 10**9
    for second in (*range(600), *range(ahead, ahead + 600), *range(600, 1200)):
        windows.add(second, {by: _part("x", [5]) for by in WINDOW_GROUPINGS})
    assert len(windows) <= 60 + 30 + 5
    assert _requests(windows, 1145, 1200) == 55
    assert _requests(windows, 960, 1200) == 240
    assert [point.requests for point in windows.points(1000, 1200, 10)] == [10] * 20


@given(st.lists(st.lists(st.integers(0, 1 << 40), max_size=20), min_size=1, max_size=6))
def test_merging_is_addition(parts: list[list[int]]) -> None:
    whole = [value for part in parts for value in part]
    merged = merge([_part("x", part) for part in parts])
    once = _part("x", whole, len(parts))
    assert np.array_equal(
        merged.numbers[:, [SAMPLES, MIN, MAX]], once.numbers[:, [SAMPLES, MIN, MAX]]
    )
    assert np.array_equal(merged.buckets, once.buckets)
    assert np.array_equal(merged.counts, once.counts)


def test_coarse_rows_keep_the_sum() -> None:
    parts = [_part(f"k{i}", [i + 100] * (i + 1), i + 1) for i in range(20)]
    whole = merge(parts)
    coarse = whole.coarse(5, 4)
    assert len(coarse.keys) == 6
    assert coarse.keys[-1] == (None, True)
    assert coarse.numbers[:, REQUESTS].sum() == whole.numbers[:, REQUESTS].sum()
    assert int(coarse.counts.sum()) == int(whole.counts.sum())
