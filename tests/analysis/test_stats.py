"""Statistics: by hand, by batches, and the same from tables and from native aggregates."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analysis import native
from tests.analysis.native import needs_native
from tests.analysis.rows import EVENTS, Event, tables
from zktrace.analysis.stats import (
    GROUPINGS,
    OTHER_ERROR,
    Latency,
    StatsCollector,
    StatsData,
    merge_rows,
    stats,
    stats_result,
)
from zktrace.analysis.tables import SCHEMAS

COVERAGE = {"first_ts_ns": 1_000_000_000, "last_ts_ns": 3_500_000_000}
DEPTHS = st.none() | st.integers(1, 3)
OPCODES = {"create": 1, "getData": 4, "ping": 11, "connect": -10}


def exchange(**values: Any) -> Event:
    row = {
        "seq": 0,
        "ts_ns": 0,
        "conn": 0,
        "client": "10.0.0.1:4000",
        "server": "10.0.0.2:2181",
        "state": "complete",
        "opcode": OPCODES.get(values.get("op", "")),
        **values,
    }
    return ("exchanges", tuple(row.get(name) for name in SCHEMAS["exchanges"].names))


def watch_event(**values: Any) -> Event:
    row = {
        "seq": 0,
        "ts_ns": 0,
        "conn": 0,
        "client": "10.0.0.1:4000",
        "server": "10.0.0.2:2181",
        "bytes": 30,
        **values,
    }
    return ("watch_events", tuple(row.get(name) for name in SCHEMAS["watch_events"].names))


def us(ns: int) -> dict[str, float]:
    names = ("min", "mean", "p50", "p90", "p99", "p999", "max")
    return dict.fromkeys(names, ns / 1000)


SOME = [
    exchange(op="create", path=b"/a/b", latency_ns=2_000_000, request_bytes=50, reply_bytes=20),
    exchange(op="create", path=b"/a/c", error=-110, latency_ns=2_000_000, request_bytes=50),
    exchange(op="getData", path=b"/z", state="no_reply", request_bytes=10),
    exchange(op="ping", latency_ns=9, reply_bytes=16),
    exchange(state="no_request", error=0, reply_bytes=16),
    watch_event(path=b"/a/b/c"),
    watch_event(path=b"/only/watched"),
]


def test_numbers_by_hand() -> None:
    result = stats(tables(SOME), COVERAGE, by=("op", "path"), depth=1)
    assert result["coverage"] == COVERAGE
    assert result["duration_s"] == 2.5
    assert list(result) == ["coverage", "duration_s", "total", "by_op", "by_path"]
    assert result["total"] == {
        "requests": 4,
        "replies": 4,
        "errors": {"NodeExists": 1},
        "request_bytes": 110,
        "reply_bytes": 52,
        "watch_events": 2,
        "latency_us": us(2_000_000),
    }
    ops = {row["op"]: row for row in result["by_op"]}
    assert list(ops) == ["create", "getData", "ping", None]
    assert [row["requests"] for row in ops.values()] == [2, 1, 1, 0]
    assert [row["replies"] for row in ops.values()] == [2, 0, 1, 1]
    assert ops["ping"]["latency_us"] == us(9)
    assert ops["getData"]["latency_us"] is None
    assert {row["watch_events"] for row in ops.values()} == {0}
    assert [(row["path"], row["requests"], row["watch_events"]) for row in result["by_path"]] == [
        ("/a", 2, 1),
        ("/z", 1, 0),
        (None, 1, 0),
        ("/only", 0, 1),
    ]
    json.dumps(result)


def test_keys_as_they_are_shown() -> None:
    events = [
        exchange(client="[::1]:4000", server="[2001:db8::1]:2181", session=-1),
        exchange(conn=1, client="10.0.0.1:1", session=0x1000),
    ]
    result = stats(tables(events), {}, by=("client", "server", "session"))
    assert [row["client"] for row in result["by_client"]] == ["10.0.0.1", "::1"]
    assert [row["server"] for row in result["by_server"]] == ["10.0.0.2:2181", "[2001:db8::1]:2181"]
    assert [row["session"] for row in result["by_session"]] == [
        "0x0000000000001000",
        "0xffffffffffffffff",
    ]
    assert result["duration_s"] is None


def test_top_and_the_rest() -> None:
    result = stats(tables(SOME), {}, by=("op",), top=1)["by_op"]
    assert [row["op"] for row in result] == ["create", None]
    assert "rest" not in result[0]
    rest = result[1]
    assert (rest["rest"], rest["groups"]) == (True, 3)
    assert (rest["requests"], rest["replies"], rest["reply_bytes"]) == (2, 2, 32)
    assert rest["latency_us"] == us(9)
    everything = stats(tables(SOME), {}, by=("op",), top=4)["by_op"]
    assert [row["op"] for row in everything] == ["create", "getData", "ping", None]
    assert not any(row.get("rest") for row in everything)


def test_nothing_at_all() -> None:
    result = stats(tables([]), {}, by=GROUPINGS)
    assert result["total"]["requests"] == 0
    assert result["total"]["latency_us"] is None
    assert all(result[f"by_{name}"] == [] for name in GROUPINGS)


def test_sums_do_not_overflow() -> None:
    longest = 2**63 - 1
    events = [exchange(op="create", latency_ns=longest), exchange(op="create", latency_ns=longest)]
    latency = collected(events)["total"].latency
    assert latency is not None
    assert latency.sum == 2 * longest


def collected(events: list[Event]) -> StatsData:
    collector = StatsCollector(GROUPINGS)
    collector.add(tables(events))
    return collector.data()


def test_wrong_groupings_are_refused() -> None:
    with pytest.raises(ValueError, match="no grouping 'pth'"):
        StatsCollector(["pth"])
    with pytest.raises(ValueError, match="depth"):
        StatsCollector(["path"], depth=0)


def test_error_names() -> None:
    events = [exchange(error=code) for code in (-101, -101, 12345)]
    assert stats(tables(events), {})["total"]["errors"] == {"NoNode": 2, "12345": 1}
    row = collected(events)["total"]._replace(errors={OTHER_ERROR: 3})
    data: StatsData = {"total": row, "by": {}, "folded": {}, "overflow": {}}
    assert stats_result(data, {})["total"]["errors"] == {"other": 3}


@given(EVENTS, DEPTHS, st.integers(0, 30))
@settings(max_examples=40)
def test_batches_add_up(events: list[Event], depth: int | None, at: int) -> None:
    whole = StatsCollector(GROUPINGS, depth)
    whole.add(tables(events))
    parts = StatsCollector(GROUPINGS, depth)
    parts.add(tables(events[:at]))
    parts.add(tables(events[at:]))
    assert parts.data() == whole.data()


def test_many_batches_are_summed_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zktrace.analysis.stats._COMPACT_ROWS", 3)
    parts = StatsCollector(GROUPINGS)
    for event in SOME:
        parts.add(tables([event]))
    assert parts.data() == collected(SOME)


@given(EVENTS)
@settings(max_examples=40)
def test_groupings_sum_to_the_total(events: list[Event]) -> None:
    data = collected(events)
    total = data["total"]
    for name in GROUPINGS:
        merged = merge_rows(data["by"][name])
        assert merged[2:7] == total[2:7]
        if name != "op":
            assert merged[7:] == total[7:]


@needs_native
@given(EVENTS, DEPTHS)
@settings(max_examples=150)
def test_native_aggregates_are_the_same(events: list[Event], depth: int | None) -> None:
    collector = StatsCollector(GROUPINGS, depth)
    collector.add(tables(events))
    assert native.aggregates(events, GROUPINGS, depth=depth) == collector.data()


@needs_native
@given(EVENTS, st.integers(0, 3))
@settings(max_examples=40)
def test_native_rest_is_the_same(events: list[Event], top: int) -> None:
    data = collected(events)
    got = native.aggregates(events, GROUPINGS, top=top)
    for name in GROUPINGS:
        beyond = data["by"][name][top:]
        expected = [*data["by"][name][:top], *([merge_rows(beyond)] if beyond else [])]
        assert got["by"][name] == expected
        assert got["folded"].get(name, 0) == len(beyond)
    assert stats_result(got, COVERAGE, top=top) == stats_result(data, COVERAGE, top=top)
    everything = native.aggregates(events, GROUPINGS)
    assert stats_result(everything, COVERAGE, top=top) == stats_result(data, COVERAGE, top=top)


@needs_native
def test_native_overflow_is_told() -> None:
    events = [
        exchange(op="create", path=b"/%d" % (i % 50), latency_ns=1000 + i) for i in range(200)
    ]
    events += [watch_event(path=b"/%d" % i) for i in range(60)]
    data = native.aggregates(events, ("op", "path"), key_limit=10)
    assert data["overflow"] == {"path": 160 + 50}
    *_, rest = data["by"]["path"]
    assert len(data["by"]["path"]) == 11
    assert rest[:3] == (None, True, 160)
    assert Latency(*rest[8]).samples == 160
    result = stats_result(data, {}, top=5)["by_path"]
    assert len(result) == 6
    assert result[-1]["overflow"] == 210
    assert "groups" not in result[-1]
    assert sum(row["requests"] for row in result) == 200
    assert sum(row["watch_events"] for row in result) == 60


@needs_native
def test_native_error_codes_are_bounded() -> None:
    events = [exchange(op="create", error=code) for code in range(1, 400)]
    errors = native.aggregates(events, ("op",))["total"][4]
    assert len(errors) == 257
    assert errors[OTHER_ERROR] == 399 - 256
