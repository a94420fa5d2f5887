"""The slow log, the latest events, and that both engines keep the same of the same rows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analysis.rows import EVENTS, in_python
from tests.analysis.rows import Event as AnyRow
from tests.store.keeping import MS, Event, Keeper, S
from zktrace.export.form import form_text
from zktrace.export.jsonl import lines
from zktrace.store.recent import HasLines, Latest
from zktrace.store.sessions import Session
from zktrace.store.short import LONGEST_PATH
from zktrace.store.slow import CONTEXT_ROWS, PER_SLOT, SLOT_S, SLOTS, SLOWEST


def _exchange(at_ms: int, took_ms: int | None, path: str = "/a", **more: Any) -> Event:
    row = {
        "ts_ns": at_ms * MS,
        "op": "getData",
        "path": path,
        "session": 7,
        "error": 0,
        "latency_ns": None if took_ms is None else took_ms * MS,
        "request_bytes": 20,
        "reply_bytes": 100,
        "state": "complete",
    }
    return "exchanges", {**row, **more}


def _slow(engine: str, events: list[Event]) -> list[dict[str, Any]]:
    keeper = Keeper(engine)
    keeper.feed(events)
    return keeper.kept.slow(None, "latency", None)[0]


def test_a_slow_exchange_with_its_company(engine: str) -> None:
    found = _slow(
        engine,
        [
            _exchange(0, 1, "/done"),
            _exchange(500, 1, "/large", reply_bytes=900_000),
            _exchange(1000, 400, "/head", op="setData", request_bytes=70_000),
            _exchange(1000, 401, "/next"),
            _exchange(1100, 301, "/other", conn=2),  # of another connection
            _exchange(1200, 202, "/behind"),
        ],
    )
    by_path = {one["path"]: one for one in found}
    behind = by_path["/behind"]
    assert behind["outstanding"] == 2
    assert [one["path"] for one in behind["beside"]] == ["/next", "/head"]
    assert behind["largest"]["path"] == "/large"
    assert behind["largest"]["reply_bytes"] == 900_000
    assert (by_path["/other"]["outstanding"], by_path["/other"]["largest"]) == (0, None)
    assert by_path["/done"]["largest"] is None
    assert [one["path"] for one in found[:2]] == ["/next", "/head"]


def test_company_is_looked_for_among_the_latest_only(engine: str) -> None:
    keeper = Keeper(engine)
    keeper.feed([_exchange(0, 50_000, "/head")])
    keeper.feed(_exchange(1, 0, conn=2) for _ in range(CONTEXT_ROWS - 1))
    keeper.feed([_exchange(2, 49_999, "/seen"), _exchange(3, 49_998, "/late")])
    found = {one["path"]: one["outstanding"] for one in keeper.kept.slow(None, "latency", 3)[0]}
    assert found == {"/head": 0, "/seen": 1, "/late": 1}


def test_pings_and_connects_are_no_slow_exchanges(engine: str) -> None:
    events = [_exchange(0, 900, op=op) for op in ("ping", "connect", "exists")]
    assert [one["op"] for one in _slow(engine, [*events, _exchange(1, None)])] == ["exists"]


def test_the_slowest_of_all_time_and_of_each_ten_seconds(engine: str) -> None:
    keeper = Keeper(engine)
    for slot in range(SLOTS + 30):
        at = slot * SLOT_S * 1000
        keeper.feed(_exchange(at + i, 1 + (i * 7) % 97) for i in range(PER_SLOT * 2))
    entries, groups = keeper.kept.slow(None, "latency", 10)
    assert groups == SLOWEST
    assert [one["latency_ns"] for one in entries] == [97 * MS] * 10
    last = (SLOTS + 29) * SLOT_S * S
    entries, groups = keeper.kept.slow((last, last + SLOT_S * S), "time", None)
    assert groups == PER_SLOT
    assert entries == sorted(entries, key=lambda one: -one["ts_ns"])
    assert keeper.kept.slow((0, S), "latency", None) == ([], 0)  # forgotten


def test_a_clock_that_is_set_keeps_the_slots_around_it(engine: str) -> None:
    keeper = Keeper(engine)
    future = 10**8 * SLOT_S
    keeper.feed(_exchange(future * 1000 + i * SLOT_S * 1000, 5) for i in range(SLOTS))
    keeper.feed(_exchange(i * SLOT_S * 1000, 5) for i in range(SLOTS))
    assert keeper.kept.slow((0, SLOTS * SLOT_S * S), "latency", None)[1] == SLOTS


def test_a_path_is_kept_up_to_a_length(engine: str) -> None:
    long = "/" + "ü" * 700
    (one,) = _slow(engine, [_exchange(0, 1, long)])
    assert len(one["path"].encode()) <= LONGEST_PATH + len("…".encode())
    assert one["path"].endswith("ü…")


def test_the_largest_znodes_and_messages(engine: str) -> None:
    keeper = Keeper(engine)
    stat = {"data_length": 70_000, "num_children": 3}
    keeper.feed(
        [
            _exchange(0, 1, "/big", stat=stat, reply_bytes=70_090),
            _exchange(1, 1, "/big", stat={**stat, "data_length": 10}),
            _exchange(2, 1, "/parent", op="getChildren", children=40_000, reply_bytes=900_000),
            _exchange(3, 1, "/seq-", op="create", data_length=90, created_path="/seq-01"),
            _exchange(4, 1, "/denied", op="create", data_length=99_999, error=-102),
            _exchange(5, 1, "/asked", op="setData", request_bytes=1_048_570, error=-101),
        ]
    )
    shape = keeper.kept.shape(2)
    assert [one[:2] for one in shape["data"]] == [("/big", 70_000), ("/seq-01", 90)]
    assert [one[:2] for one in shape["children"]] == [("/parent", 40_000), ("/big", 3)]
    assert [tuple(one) for one in shape["messages"]] == [
        ("/asked", 1_048_570, 5 * MS, "setData"),
        ("/parent", 900_000, 2 * MS, "getChildren"),
    ]


def test_the_largest_of_many_are_exact(engine: str) -> None:
    keeper = Keeper(engine)
    sizes = [(i * 7919) % 5003 + 1 for i in range(5000)]
    keeper.feed(
        _exchange(i, 1, f"/n{i % 2500}", stat={"data_length": size}) for i, size in enumerate(sizes)
    )
    largest = {f"/n{i}": max(sizes[i], sizes[i + 2500]) for i in range(2500)}
    expected = sorted(largest.items(), key=lambda item: (-item[1], item[0]))
    assert [one[:2] for one in keeper.kept.shape(100)["data"]] == expected[:100]


def _latest(keeper: Keeper, after: int = -1) -> Latest:
    return Latest(keeper.kept.recent(after), None)


def test_the_latest_events_are_bounded_and_numbered(engine: str) -> None:
    keeper = Keeper(engine, recent=5000)
    keeper.feed(_exchange(i, 1) for i in range(20_000))
    latest = _latest(keeper)
    assert latest.last == 19_999
    assert 5000 <= len(latest) < 5000 + 2048
    assert latest.first == 20_000 - len(latest)
    assert not latest.complete
    batch = latest.batches(after=19_989)["exchanges"]
    assert batch.column("seq").to_pylist() == list(range(19_990, 20_000))
    keeper.feed([_exchange(1, 1)])
    assert latest.last == 19_999  # a view does not change
    assert len(_latest(keeper, 19_999)) == 1
    assert len(_latest(keeper, 20_000)) == 0


def test_the_latest_events_by_kind_and_time(engine: str) -> None:
    keeper = Keeper(engine)
    keeper.feed([_exchange(i, 1) for i in range(100)])
    keeper.feed([("four_letter", {"ts_ns": 50 * MS, "word": "ruok"})])
    latest = _latest(keeper)
    found = latest.batches("exchanges", "watch_events", from_ns=40 * MS, to_ns=60 * MS)
    assert {kind: batch.num_rows for kind, batch in found.items()} == {"exchanges": 20}
    assert set(latest.batches()) == {"exchanges", "four_letter"}
    assert latest.view.earliest(["four_letter"]) == 50 * MS
    assert latest.view.earliest(["quorum"]) is None


def _plain(batches: Any) -> Any:
    return {kind: batch.to_pylist() for kind, batch in sorted(batches.items())}


def _everything(keeper: Keeper) -> Any:
    kept = keeper.kept
    now = 2**40
    sessions, total = kept.sessions("requests", now, None, None, None, 1000)
    latest = _latest(keeper)
    batches = latest.batches()
    whole = {
        "rows": kept.rows(),
        "sessions": [asdict(Session.of(raw, now)) for raw in sessions],
        "total": total,
        "states": [list(map(int, kept.session_states(now)[0])), kept.session_states(now)[1]],
        "slow": kept.slow(None, "latency", None),
        "window": kept.slow((0, 2**41), "outstanding", 5),
        "watches": kept.watch_counts(),
        "most": [tuple(one) for one in kept.watch_most(10)],
        "paths": kept.watch_paths("fired", 50),
        "writes": kept.watch_writes(None, None),
        "shape": {name: [tuple(one) for one in rows] for name, rows in kept.shape(100).items()},
        "recent": _plain(batches),
    }
    return whole, batches


@pytest.fixture(scope="module")
def native() -> None:
    pytest.importorskip("zktrace._native")


def _timely(events: list[AnyRow]) -> list[AnyRow]:
    """Times within some minutes; of txns no hash, which only a run that compares them makes."""
    rows = [(kind, (row[0], row[1] % 2**38, *row[2:])) for kind, row in events]
    return [(kind, (*row[:-1], None) if kind == "quorum" else row) for kind, row in rows]


@settings(max_examples=150, deadline=None)
@given(made=EVENTS.map(_timely), key=st.none() | st.binary(min_size=16, max_size=16))
def test_both_keep_the_same(native: None, made: list[AnyRow], key: bytes | None) -> None:
    one, other = Keeper("python", hash_key=key), Keeper("native", hash_key=key)
    one.feed_rows([in_python(event) for event in made])
    other.feed_rows(list(made))
    expected, batches = _everything(one)
    found, _ = _everything(other)
    assert found == expected
    view = _latest(other).view
    assert isinstance(view, HasLines)
    text, total = view.lines(form_text(), None, -(2**63), 10)
    assert total == len(made)
    if batches:
        assert text.decode().split("\n")[:-1] == lines(batches)[-10:]
