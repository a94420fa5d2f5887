"""Watches: which should still be set, what a write fired and made its receivers read; of both
engines.
"""

from __future__ import annotations

from typing import Any

from tests.store.keeping import MS, Event, Keeper
from zktrace.store.ledger import LEAST, MAX_WATCHES, SAMPLE_S, SAMPLES
from zktrace.store.watches import MAX_PATHS, MAX_WRITES


def _read(
    ms: int, path: str, session: int = 1, *, op: str = "getData", error: int = 0, watch: bool = True
) -> Event:
    row = {"ts_ns": ms * MS, "op": op, "path": path, "session": session, "watch": watch}
    return "exchanges", {**row, "error": error, "state": "complete", "reply_bytes": 10}


def _event(ms: int, path: str, session: int = 1, event: str = "NodeDataChanged") -> Event:
    row = {"ts_ns": ms * MS, "event": event, "path": path, "session": session, "zxid": ms}
    return "watch_events", {**row, "bytes": 50}


def _write(ms: int, path: str, zxid: int, **more: Any) -> Event:
    row = {"ts_ns": ms * MS, "op": "setData", "path": path, "session": 99, "zxid": zxid}
    return "exchanges", {**row, "error": 0, "state": "complete", **more}


def _kept(engine: str, events: list[Event]) -> Any:
    keeper = Keeper(engine)
    keeper.feed(events)
    return keeper.kept


def test_what_is_still_set(engine: str) -> None:
    kept = _kept(
        engine,
        [
            _read(0, "/a"),
            _read(1, "/a"),  # set already
            _read(2, "/a", 2),
            _read(3, "/a", op="getChildren"),
            _read(4, "/gone", op="exists", error=-101),
            _read(5, "/gone", 2, error=-101),  # getData of an absent znode grants none
            _event(6, "/a"),
            _event(7, "/gone", event="NodeCreated"),
            _read(8, "/gone"),
            _read(9, "/b", 3),
            _event(10, "/b", 3, "NodeDeleted"),
            (
                "exchanges",
                {
                    "ts_ns": 11 * MS,
                    "op": "closeSession",
                    "session": 2,
                    "error": 0,
                    "state": "complete",
                },
            ),
        ],
    )
    # Of session 1 the children of /a and the data of /gone; 2 was closed, 3's fired.
    assert kept.watch_most(10) == [(1, 2)]
    counts = kept.watch_counts()
    assert counts["outstanding"] == 2
    assert counts["registered"] == {
        "data": 5,
        "exist": 1,
        "child": 1,
        "persistent": 0,
        "persistent_recursive": 0,
    }
    assert counts["fired"] == {"NodeDataChanged": 1, "NodeCreated": 1, "NodeDeleted": 1}
    paths, groups = kept.watch_paths("registered", 2)
    assert (paths, groups) == ([("/a", 4, 1), ("/gone", 2, 1)], 3)
    assert kept.watch_paths("key", None)[0][1] == ("/b", 1, 1)


def test_a_session_that_closes_and_comes_again_has_no_watches(engine: str) -> None:
    closing: Event = (
        "exchanges",
        {"ts_ns": 2 * MS, "op": "closeSession", "session": 1, "error": 0, "state": "complete"},
    )
    kept = _kept(engine, [_read(0, "/a"), _read(1, "/b"), closing, _event(3, "/a"), _read(4, "/b")])
    assert kept.watch_most(9) == [(1, 1)]
    assert kept.watch_counts()["outstanding"] == 1


def test_a_session_that_only_adds_watches_is_called_growing(engine: str) -> None:
    events: list[Event] = []
    for minute in range(SAMPLES + 2):
        ms = minute * SAMPLE_S * 1000
        events += [_read(ms + i, f"/leak/{minute}/{i}") for i in range(LEAST // 2)]
        events += [_read(ms + i, f"/fine/{i}", 2) for i in range(LEAST * 2)]
    ((session, before, now, seconds),) = _kept(engine, events).watch_counts()["growing"]
    assert session == 1
    assert LEAST // 4 <= before < now
    assert now >= LEAST
    assert seconds == SAMPLES * SAMPLE_S


def test_a_clock_that_is_set_back_does_not_stop_the_samples(engine: str) -> None:
    events = [_read(10_000_000_000, "/far")]
    for minute in range(SAMPLES + 2):
        ms = minute * SAMPLE_S * 1000
        events += [_read(ms + i, f"/leak/{minute}/{i}") for i in range(LEAST // 2)]
    assert len(_kept(engine, events).watch_counts()["growing"]) == 1


def test_what_is_kept_is_bounded(engine: str) -> None:
    keeper = Keeper(engine)
    count = MAX_WATCHES + 70
    for first in range(0, count, 10_000):
        last = min(first + 10_000, count)
        keeper.feed(_read(i // 100, f"/n{i}") for i in range(first, last))
    counts = keeper.kept.watch_counts()
    assert (counts["outstanding"], counts["not_kept"]) == (MAX_WATCHES, 70)
    paths, groups = keeper.kept.watch_paths("fired", None)
    assert len(paths) == groups <= MAX_PATHS
    assert counts["forgotten_paths"] == count - groups


def test_writes_are_bounded_and_the_smallest_go(engine: str) -> None:
    keeper = Keeper(engine)
    keeper.feed(_event(1, "/big", session) for session in range(30))
    keeper.feed(_event(i, "/small", 3) for i in range(2, MAX_WRITES + 20))
    writes = keeper.kept.watch_writes(None, None)
    assert (writes[0]["path"], writes[0]["sessions"]) == ("/big", 30)
    forgotten = keeper.kept.watch_counts()["forgotten_writes"]
    assert len(writes) + forgotten == MAX_WRITES + 19


def test_reads_after_an_event_are_of_the_write(engine: str) -> None:
    kept = _kept(
        engine,
        [
            _read(0, "/a", watch=False),  # before the event: none of it
            *(_event(1000, "/a", session) for session in range(1, 31)),
            *(_read(1000 + session, "/a", session) for session in range(1, 26)),
            _read(1040, "/other", 26),
            _read(1050, "/a", 1),  # answered already
            _read(2500, "/a", 30),  # too late
            _event(3000, "/a", 1),
            _read(3001, "/a", 1),
        ],
    )
    first, second = kept.watch_writes(None, None)
    assert (first["events"], first["rereads"], first["reread_bytes"]) == (30, 25, 250)
    assert (second["events"], second["rereads"]) == (1, 1)
    assert kept.watch_writes(2_999 * MS, None) == [second]


def test_the_request_of_a_write_is_known_whether_it_was_answered_before_or_after(
    engine: str,
) -> None:
    kept = _kept(
        engine,
        [
            _write(0, "/a", zxid=5),
            _event(5, "/a"),
            _event(6, "/b"),
            _write(4, "/b", zxid=6, client="10.0.0.7:1"),
            _event(7, "/c"),
            _write(8, "/c", zxid=7, error=-101),
        ],
    )
    writes = {one["path"]: (one["op"], one["client"]) for one in kept.watch_writes(None, None)}
    assert writes == {
        "/a": ("setData", "10.0.0.1:40001"),
        "/b": ("setData", "10.0.0.7:1"),
        "/c": (None, None),
    }
