"""The watches that should still be set, and what an event made its receivers read."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from zktrace.analysis.tables import SCHEMAS
from zktrace.store.ledger import LEAST, SAMPLE_S, SAMPLES, Ledger
from zktrace.store.watches import Watches

_MS = 1_000_000
Row = tuple[str, dict[str, Any]]


def _read(ms: int, path: str, session: int = 1, *, op: str = "getData", error: int = 0) -> Row:
    row = {"ts_ns": ms * _MS, "op": op, "path": path, "session": session, "watch": True}
    return "exchanges", {**row, "error": error, "state": "complete", "reply_bytes": 10}


def _event(ms: int, path: str, session: int = 1, event: str = "NodeDataChanged") -> Row:
    row = {"ts_ns": ms * _MS, "event": event, "path": path, "session": session, "zxid": ms}
    return "watch_events", {**row, "bytes": 50}


def _batches(rows: list[Row], first: int) -> dict[str, pa.RecordBatch]:
    made: dict[str, list[dict[str, Any]]] = {}
    for seq, (kind, row) in enumerate(rows, first):
        common = {"seq": seq, "conn": 1, "client": "1.2.3.4:5", "server": "1.2.3.5:2181"}
        made.setdefault(kind, []).append({**common, **row})
    return {
        kind: pa.RecordBatch.from_pylist(some, schema=SCHEMAS[kind]) for kind, some in made.items()
    }


def _ledger(rows: list[Row], piece: int = 1000) -> Ledger:
    ledger = Ledger()
    for at in range(0, len(rows), piece):
        batches = _batches(rows[at : at + piece], at)
        ledger.add(batches.get("exchanges"), batches.get("watch_events"))
    return ledger


_ROWS = [
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
    ("exchanges", {"ts_ns": 11 * _MS, "op": "closeSession", "session": 2, "error": 0}),
]
for _, _row in _ROWS:
    _row.setdefault("state", "complete" if "op" in _row else None)
    if _row["state"] is None:
        del _row["state"]


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 100])
def test_what_is_still_set(piece: int) -> None:
    ledger = _ledger(_ROWS, piece)
    # Of session 1 the children of /a and the data of /gone; 2 was closed, 3's fired.
    assert ledger.most(10) == [(1, 2)]
    assert len(ledger) == 2


def test_a_session_that_only_adds_watches_is_called_growing() -> None:
    leaking: list[Row] = []
    steady: list[Row] = []
    for minute in range(SAMPLES + 2):
        ms = minute * SAMPLE_S * 1000
        leaking += [_read(ms + i, f"/leak/{minute}/{i}") for i in range(LEAST // 2)]
        for i in range(LEAST * 2):
            steady += [_read(ms + i, f"/fine/{i}", 2)]
    rows = sorted(leaking + steady, key=lambda row: row[1]["ts_ns"])
    ledger = _ledger(rows, 250)
    (one,) = ledger.growing()
    assert one.session == 1
    assert LEAST // 4 <= one.before < one.now
    assert one.now >= LEAST
    assert one.seconds == SAMPLES * SAMPLE_S


def test_what_is_kept_is_bounded() -> None:
    ledger = Ledger(limit=50)
    batches = _batches([_read(i, f"/n{i}") for i in range(120)], 0)
    ledger.add(batches["exchanges"], None)
    assert (len(ledger), ledger.overflow) == (50, 70)


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 100])
def test_reads_after_an_event_are_of_the_write(piece: int) -> None:
    rows = [
        _read(0, "/a"),  # before the event: none of it
        *(_event(1000, "/a", session) for session in range(1, 31)),
        *(_read(1000 + session, "/a", session) for session in range(1, 26)),
        _read(1040, "/other", 26),
        _read(1050, "/a", 1),  # answered already
        _read(2500, "/a", 30),  # too late
        _event(3000, "/a", 1),
        _read(3001, "/a", 1),
    ]
    watches = Watches()
    for at in range(0, len(rows), piece):
        watches.add(_batches(rows[at : at + piece], at))
    first, second = watches.writes[1000,], watches.writes[3000,]
    assert (first["events"], first["rereads"], first["reread_bytes"]) == (30, 25, 250)
    assert (second["events"], second["rereads"]) == (1, 1)
