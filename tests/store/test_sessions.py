"""Sessions: what is counted, bounded, and who was silent; of both engines."""

from __future__ import annotations

from typing import Any

import pytest

from tests.store.keeping import MS, Event, Keeper, S
from zktrace.store.sessions import MAX_ALL_EVENTS, MAX_EVENTS, STATES, Session
from zktrace.store.verdict import verdict


def _exchange(ts_ms: int, op: str = "ping", wait_ms: int | None = 1, **more: Any) -> Event:
    row = {
        "ts_ns": ts_ms * MS,
        "op": op,
        "session": 7,
        "state": "no_reply" if wait_ms is None else "complete",
        "error": None if wait_ms is None else 0,
        "latency_ns": None if wait_ms is None else wait_ms * MS,
    }
    return "exchanges", {**row, **more}


def _of(engine: str, *events: Event, now_ms: int = 60_000, session: int = 7) -> Session:
    keeper = Keeper(engine)
    keeper.feed(events)
    raw = keeper.kept.session(session)
    assert raw is not None
    return Session.of(raw, now_ms * MS)


_CONNECT = _exchange(0, "connect", timeout_ms=9_000)
_BACK = _exchange(20_000, "connect", conn=2, client="10.0.0.1:40002", timeout_ms=9_000)
_END: Event = ("connections", {"ts_ns": 5 * S, "event": "closed", "role": "client"})
_GAP: Event = ("anomalies", {"ts_ns": 4 * S, "reason": "gap", "bytes": 10})


@pytest.mark.parametrize(
    ("events", "who"),
    [
        ([_CONNECT, _exchange(3000), _END, _BACK], "client"),
        ([_CONNECT, _exchange(3000), _BACK], "network"),
        ([_CONNECT, _exchange(3000, wait_ms=None), _BACK], "server"),
        ([_CONNECT, _exchange(3000, wait_ms=4000), _BACK], "server"),
        ([_CONNECT, _exchange(3000), _GAP, _BACK], "unknown"),
    ],
)
def test_who_was_silent(engine: str, events: list[Event], who: str) -> None:
    judged = verdict(_of(engine, *events, now_ms=20_001))
    assert judged is not None
    assert judged.who == who
    assert judged.why


def test_nobody_was_silent(engine: str) -> None:
    events = [_CONNECT, *(_exchange(ms) for ms in range(3000, 30_000, 3000))]
    one = _of(engine, *events, now_ms=30_000)
    assert verdict(one) is None
    assert (one.near_misses, one.silence_percent()) == (0, 33.3)
    assert verdict(_of(engine, _exchange(0))) is None  # its timeout was not seen


def test_one_that_is_silent_for_too_long_is_overdue(engine: str) -> None:
    one = _of(engine, _CONNECT, _exchange(3000), now_ms=13_000)
    assert (one.state, one.silence_percent()) == ("overdue", 111.1)
    judged = verdict(one)
    assert judged is not None
    assert judged.who == "client"


def test_a_leader_that_closes_a_session_unasked_expired_it(engine: str) -> None:
    proposal: Event = (
        "quorum",
        {
            "ts_ns": 13 * S,
            "type": "PROPOSAL",
            "direction": "to_learner",
            "txn_type": "closeSession",
            "session": 7,
        },
    )
    assert _of(engine, _CONNECT, _exchange(3000), proposal).state == "expired"
    asked = _exchange(12_900, "closeSession", wait_ms=200)
    assert _of(engine, _CONNECT, _exchange(3000), proposal, asked).state == "closed"


def test_a_session_that_goes_on_was_not_expired(engine: str) -> None:
    refused = _exchange(4000, "connect", error=-112, conn=2)
    one = _of(engine, _CONNECT, refused, now_ms=4000)
    assert one.state == "expired"
    one = _of(engine, _CONNECT, refused, _exchange(5000), now_ms=5000)
    assert one.state == "open"
    assert [event["event"] for event in one.events] == ["connected", "expired", "went on"]


def test_silences_are_counted_and_noted(engine: str) -> None:
    times = [3000, 6000, 13_000, 14_000, 21_000, 21_500, 30_500]
    events = [_CONNECT, *(_exchange(ms, session=7 + n % 3) for ms in times for n in range(5))]
    keeper = Keeper(engine)
    keeper.feed(events)
    raw = keeper.kept.session(7)
    assert raw is not None
    one = Session.of(raw, 31 * S)
    assert (one.requests, one.near_misses, one.silence_ns) == (15, 3, 9 * S)
    assert one.silence_at_ns == 21_500 * MS
    assert [event["detail"] for event in one.events if event["event"] == "silent"] == [
        "78 % of the timeout without a request",
        "78 % of the timeout without a request",
        "100 % of the timeout without a request",
    ]
    assert sum(keeper.kept.session_states(31 * S)[0]) == 3


def test_what_is_kept_is_bounded(engine: str) -> None:
    keeper = Keeper(engine, sessions=100)
    keeper.feed(_exchange(i, "connect", session=i + 1, timeout_ms=5000) for i in range(500))
    counts, forgotten = keeper.kept.session_states(0)
    assert sum(counts) <= 100
    assert forgotten == 500 - sum(counts)
    assert keeper.kept.session(500) is not None
    assert keeper.kept.session(1) is None
    keeper.feed(_exchange(i * 20_000, "connect", session=500) for i in range(200))
    raw = keeper.kept.session(500)
    assert raw is not None
    assert len(Session.of(raw, 0).events) == MAX_EVENTS
    found, groups = keeper.kept.sessions("last_seen", 0, None, None, None, 5)
    assert groups == sum(counts)
    ids = [one[0] for one in found]
    assert ids == sorted(ids, reverse=True)
    assert ids[0] == 500


def test_events_of_all_timelines_are_bounded(engine: str) -> None:
    sessions = MAX_ALL_EVENTS // MAX_EVENTS + 100
    keeper = Keeper(engine)
    for i in range(MAX_EVENTS):
        keeper.feed(_exchange(i, "connect", session=one + 1) for one in range(sessions))
    raws, _ = keeper.kept.sessions("last_seen", 0, None, None, None, sessions)
    kept = sum(len(Session.of(raw, 0).events) for raw in raws)
    assert 4 * sessions <= kept <= MAX_ALL_EVENTS


def test_the_order_asked_for(engine: str) -> None:
    keeper = Keeper(engine)
    keeper.feed(
        [
            _exchange(0, "connect", session=1, timeout_ms=10_000),
            _exchange(0, "connect", session=2, timeout_ms=4000, conn=2, client="10.0.0.2:1"),
            _exchange(3000, session=2, conn=2, client="10.0.0.2:1", error=-101),
            _exchange(5000, session=1),
            _exchange(6000, session=1),
        ]
    )

    def ids(
        sort: str,
        since_ns: int | None = None,
        ids: list[int] | None = None,
        client: str | None = None,
    ) -> list[int]:
        found, _ = keeper.kept.sessions(sort, 6000 * MS, since_ns, ids, client, 10)
        return [one[0] for one in found]

    assert ids("last_seen") == ids("requests") == ids("silence") == [1, 2]
    assert ids("silence_percent") == ids("errors") == [2, 1]
    assert ids("last_seen", since_ns=4 * S) == [1]
    assert ids("last_seen", ids=[2, 99]) == [2]
    assert ids("last_seen", client="10.0.0.2") == [2]
    counts = keeper.kept.session_states(8000 * MS)[0]
    assert dict(zip(STATES, counts, strict=True))["overdue"] == 1
