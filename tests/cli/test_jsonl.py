"""The bytes of ``decode --json``: they are a contract, with users and with the native engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zktrace.analysis.tables import SCHEMAS, batch_from_rows
from zktrace.export import jsonl
from zktrace.export.coverage import COVERAGE_KEYS, coverage_line
from zktrace.export.form import extra_keys

CLIENT, SERVER = "10.0.0.9:40000", "10.0.0.1:2181"


def batch(kind: str, *rows: dict[str, Any]) -> Any:
    common = {"ts_ns": 1_700_000_000_123_456_789, "conn": 0, "client": CLIENT, "server": SERVER}
    if kind == "exchanges":
        common |= {"state": "complete"}
    names = SCHEMAS[kind].names
    full = [{"seq": i} | common | row for i, row in enumerate(rows)]
    return batch_from_rows(kind, [tuple(row.get(name) for name in names) for row in full])


def exchange(**row: Any) -> str:
    (line,) = jsonl.lines({"exchanges": batch("exchanges", row)})
    return line


GET_DATA: dict[str, Any] = {
    "op": "getData",
    "opcode": 4,
    "xid": 7,
    "session": -0x7FFF_FFFF_FFFF_FF00,
    "path": "/a",
    "watch": True,
    "error": 0,
    "zxid": 0x1_0000_0002,
    "latency_ns": 12_345,
    "request_bytes": 20,
    "reply_bytes": 100,
    "data_length": 3,
    "stat": {
        "czxid": 1,
        "mzxid": 2,
        "ctime": 3,
        "mtime": 4,
        "version": 5,
        "cversion": 6,
        "aversion": 7,
        "ephemeral_owner": 0x1000,
        "data_length": 3,
        "num_children": 8,
        "pzxid": -1,
    },
}


def test_exchange_bytes() -> None:
    assert exchange(**GET_DATA) == (
        '{"kind":"exchange","ts_ns":1700000000123456789'
        ',"flow":"10.0.0.9:40000>10.0.0.1:2181","op":"getData","opcode":4,"xid":7'
        ',"client":"10.0.0.9:40000","server":"10.0.0.1:2181","session":"0x8000000000000100"'
        ',"path":"/a","watch":true,"error":0,"error_name":"OK","zxid":"0x100000002"'
        ',"latency_us":12.345,"request_bytes":20,"reply_bytes":100,"state":"complete"'
        ',"data_length":3,"stat":{"czxid":"0x1","mzxid":"0x2","ctime":3,"mtime":4,"version":5'
        ',"cversion":6,"aversion":7,"ephemeral_owner":"0x0000000000001000","data_length":3'
        ',"num_children":8,"pzxid":"0xffffffffffffffff"}}'
    )


def test_reply_without_request() -> None:
    row = json.loads(exchange(state="no_request", xid=9, error=-101, zxid=5, reply_bytes=16))
    assert row["op"] is None
    assert row["opcode"] is None
    assert row["error_name"] == "NoNode"
    assert "stat" not in row
    assert list(row)[-1] == "state"


def test_an_op_always_has_the_same_keys() -> None:
    whole = json.loads(exchange(**GET_DATA))
    failed = json.loads(exchange(op="getData", opcode=4, error=-101))
    assert whole.keys() == failed.keys()
    assert failed["stat"] is None
    assert failed["data_length"] is None


@pytest.mark.parametrize(
    ("op", "keys"),
    [
        ("ping", set()),
        ("create", {"flags", "data_length", "created_path"}),
        ("create2", {"flags", "data_length", "created_path", "stat"}),
        ("createTTL", {"flags", "data_length", "created_path", "stat", "ttl"}),
        ("delete", {"version"}),
        ("exists", {"stat"}),
        ("setData", {"data_length", "version", "stat"}),
        ("getChildren", {"children"}),
        ("getChildren2", {"children", "stat"}),
        ("getAllChildrenNumber", {"children"}),
        ("multi", {"sub"}),
        ("multiRead", {"sub"}),
        ("setWatches", {"watches"}),
        ("setWatches2", {"watches"}),
        ("addWatch", {"mode"}),
        ("removeWatches", {"mode"}),
        (
            "connect",
            {
                "requested_timeout_ms",
                "timeout_ms",
                "last_zxid_seen",
                "read_only",
                "protocol_version",
            },
        ),
        ("op4242", set()),
        (None, set()),
    ],
)
def test_keys_that_apply(op: str | None, keys: set[str]) -> None:
    assert set(extra_keys(op)) == keys


def test_connect() -> None:
    row = json.loads(
        exchange(
            op="connect",
            opcode=-10,
            session=0,
            error=-112,
            requested_timeout_ms=10_000,
            timeout_ms=0,
            last_zxid_seen=0x1_0000_0001,
            read_only=False,
            protocol_version=0,
        )
    )
    assert row["xid"] is None
    assert row["session"] == "0x0000000000000000"
    assert row["error_name"] == "SessionExpired"
    assert row["last_zxid_seen"] == "0x100000001"
    assert row["read_only"] is False


def test_multi_and_set_watches() -> None:
    sub = [
        {"op": "create", "path": "/a", "error": 0},
        {"op": None, "path": None, "error": None},
    ]
    row = json.loads(exchange(op="multi", opcode=14, sub=sub))
    assert row["sub"] == sub
    assert row["path"] is None
    watches = {"data": 1, "exist": 2, "child": 3, "persistent": None, "persistent_recursive": None}
    assert json.loads(exchange(op="setWatches", watches=watches))["watches"] == watches


def test_other_kinds() -> None:
    event = {
        "session": 1,
        "event": "NodeDeleted",
        "keeper_state": "SyncConnected",
        "path": "/a",
        "bytes": 30,
    }
    (line,) = jsonl.lines({"watch_events": batch("watch_events", event)})
    assert line == (
        '{"kind":"watch_event","ts_ns":1700000000123456789,"flow":"10.0.0.9:40000>10.0.0.1:2181"'
        ',"event":"NodeDeleted","keeper_state":"SyncConnected","path":"/a","zxid":null'
        ',"client":"10.0.0.9:40000","server":"10.0.0.1:2181","session":"0x0000000000000001"'
        ',"bytes":30}'
    )
    (line,) = jsonl.lines(
        {"connections": batch("connections", {"role": "client", "event": "opened"})}
    )
    assert json.loads(line)["kind"] == "connection"
    (line,) = jsonl.lines({"four_letter": batch("four_letter", {"word": "ruok", "reply_bytes": 4})})
    assert json.loads(line)["word"] == "ruok"
    (line,) = jsonl.lines({"anomalies": batch("anomalies", {"reason": "gap", "bytes": 7})})
    assert json.loads(line)["direction"] is None


def test_kinds_are_interleaved_in_order() -> None:
    made = jsonl.lines(
        {
            "exchanges": batch("exchanges", {"seq": 1}, {"seq": 4}),
            "watch_events": batch("watch_events", {"seq": 2}),
            "anomalies": batch("anomalies", {"seq": 0}, {"seq": 3}),
        }
    )
    kinds = [json.loads(line)["kind"] for line in made]
    assert kinds == ["anomaly", "exchange", "watch_event", "anomaly", "exchange"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_path_survives_on_one_line(path: str) -> None:
    line = exchange(op="exists", path=path)
    assert json.loads(line)["path"] == path
    assert line.splitlines() == [line]


@pytest.mark.parametrize("text", ["\x1b[31m", "\x9b31m", "\x7f", "\u202e", "\u2028", "\ufeff"])
def test_what_drives_terminals_is_escaped(text: str) -> None:
    assert text[0] not in jsonl.text(text)


def test_ordinary_letters_are_not_escaped() -> None:
    assert jsonl.text("/ключ/鍵/é/😀") == '"/ключ/鍵/é/😀"'


@pytest.mark.parametrize(
    ("ns", "shown"),
    [
        (0, "0"),
        (1, "0.001"),
        (1000, "1"),
        (1500, "1.5"),
        (-1500, "-1.5"),
        (123_456_789, "123456.789"),
        (None, "null"),
    ],
)
def test_latency(ns: int | None, shown: str) -> None:
    assert jsonl.latency_us(ns) == shown


@given(st.integers(0, 2**50))
def test_latency_is_what_json_would_write(ns: int) -> None:
    whole = ns // 1000 if ns % 1000 == 0 else ns / 1000
    assert jsonl.latency_us(ns) == json.dumps(whole)


def test_coverage_line() -> None:
    line = coverage_line({"zebra": 1, "packets": 3, "last_ts_ns": 5, "flows": {"client": 1}})
    row = json.loads(line)
    assert row["kind"] == "coverage"
    assert row["ts_ns"] == 5
    assert row["packets"] == 3
    assert row["kernel_drops"] is None
    assert list(row) == ["kind", "ts_ns", "flow", *COVERAGE_KEYS, "zebra"]
