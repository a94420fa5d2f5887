"""Sessions from tables: what is counted, bounded, and who was silent."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from zktrace.analysis.tables import SCHEMAS
from zktrace.store.sessions import MAX_EVENTS, Session, Sessions
from zktrace.store.verdict import verdict

_MS = 1_000_000
_S = 1_000_000_000
_CLIENT, _SERVER = "10.0.0.1:40001", "10.0.0.9:2181"


def _batch(kind: str, rows: list[dict[str, Any]]) -> dict[str, pa.RecordBatch]:
    common = {"conn": 1, "client": _CLIENT, "server": _SERVER}
    made = [{"seq": i, **common, **row} for i, row in enumerate(rows)]
    return {kind: pa.RecordBatch.from_pylist(made, schema=SCHEMAS[kind])}


def _exchange(ts_ms: int, op: str = "ping", wait_ms: int | None = 1, **more: Any) -> dict[str, Any]:
    row = {
        "ts_ns": ts_ms * _MS,
        "op": op,
        "session": 7,
        "state": "no_reply" if wait_ms is None else "complete",
        "error": None if wait_ms is None else 0,
        "latency_ns": None if wait_ms is None else wait_ms * _MS,
    }
    return {**row, **more}


def _of(*kinds: tuple[str, list[dict[str, Any]]], now_ms: int = 60_000) -> Session:
    sessions = Sessions()
    for kind, rows in kinds:
        sessions.add(_batch(kind, rows))
    found = sessions.get(7, now_ms * _MS)
    assert found is not None
    return found


_CONNECT = _exchange(0, "connect", timeout_ms=9_000)
_BACK = _exchange(20_000, "connect", conn=2, client="10.0.0.1:40002", timeout_ms=9_000)
_END = ("connections", [{"ts_ns": 5 * _S, "event": "closed"}])


@pytest.mark.parametrize(
    ("kinds", "who"),
    [
        ([("exchanges", [_CONNECT, _exchange(3000)]), _END, ("exchanges", [_BACK])], "client"),
        ([("exchanges", [_CONNECT, _exchange(3000)]), ("exchanges", [_BACK])], "network"),
        (
            [("exchanges", [_CONNECT, _exchange(3000, wait_ms=None)]), ("exchanges", [_BACK])],
            "server",
        ),
        (
            [("exchanges", [_CONNECT, _exchange(3000, wait_ms=4000)]), ("exchanges", [_BACK])],
            "server",
        ),
        (
            [
                ("exchanges", [_CONNECT, _exchange(3000)]),
                ("anomalies", [{"ts_ns": 4 * _S, "reason": "gap", "bytes": 10}]),
                ("exchanges", [_BACK]),
            ],
            "unknown",
        ),
    ],
)
def test_who_was_silent(kinds: Any, who: str) -> None:
    judged = verdict(_of(*kinds, now_ms=20_001))
    assert judged is not None
    assert judged.who == who
    assert judged.why


def test_nobody_was_silent() -> None:
    rows = [_CONNECT, *(_exchange(ms) for ms in range(3000, 30_000, 3000))]
    one = _of(("exchanges", rows), now_ms=30_000)
    assert verdict(one) is None
    assert (one.near_misses, one.silence_percent()) == (0, 33.3)
    assert verdict(_of(("exchanges", [_exchange(0)]))) is None  # its timeout was not seen


def test_one_that_is_silent_for_too_long_is_overdue() -> None:
    one = _of(("exchanges", [_CONNECT, _exchange(3000)]), now_ms=13_000)
    assert (one.state, one.silence_percent()) == ("overdue", 111.1)
    judged = verdict(one)
    assert judged is not None
    assert judged.who == "client"


def test_a_leader_that_closes_a_session_unasked_expired_it() -> None:
    proposal = {"ts_ns": 13 * _S, "type": "PROPOSAL", "txn_type": "closeSession", "session": 7}
    rows = [_CONNECT, _exchange(3000)]
    assert _of(("exchanges", rows), ("quorum", [proposal])).state == "expired"
    asked = _exchange(12_900, "closeSession", wait_ms=200)
    closed = _of(("exchanges", rows), ("quorum", [proposal]), ("exchanges", [asked]))
    assert closed.state == "closed"


@pytest.mark.parametrize("pieces", [1, 2, 5, 40])
def test_batches_may_be_cut_anywhere(pieces: int) -> None:
    times = [0, 3000, 6000, 13_000, 14_000, 21_000, 21_500, 30_500]
    rows = [_CONNECT, *(_exchange(ms, session=7 + n % 3) for ms in times for n in range(5))]
    rows.sort(key=lambda row: row["ts_ns"])
    sessions = Sessions()
    for at in range(0, len(rows), max(len(rows) // pieces, 1)):
        sessions.add(_batch("exchanges", rows[at : at + max(len(rows) // pieces, 1)]))
    one = sessions.get(7, 31 * _S)
    assert one is not None
    assert (one.requests, one.near_misses, one.silence_ns) == (17, 3, 9 * _S)
    assert one.silence_at_ns == 21_500 * _MS
    assert len(sessions) == 3


def test_what_is_kept_is_bounded() -> None:
    sessions = Sessions(limit=100)
    for i in range(500):
        sessions.add(_batch("exchanges", [_exchange(i, "connect", session=i + 1, timeout_ms=5000)]))
    assert len(sessions) <= 100
    assert sessions.forgotten == 500 - len(sessions)
    assert sessions.get(500, 0) is not None
    assert sessions.get(1, 0) is None
    for i in range(200):
        sessions.add(_batch("exchanges", [_exchange(i * 20_000, "connect", session=500)]))
    last = sessions.get(500, 0)
    assert last is not None
    assert len(last.events) == MAX_EVENTS
    found, groups = sessions.select("last_seen", 0, limit=5)
    assert groups == len(sessions)
    assert [one.id for one in found] == sorted((one.id for one in found), reverse=True)
