"""The kazoo client's record of its calls (it knows no frames) against the decode of its traffic."""

from __future__ import annotations

import json

import pytest

from tests.support.cases import everything
from tests.support.decoded import decode

#: Ops that a call makes, with their errors; the path is the call's unless said. Order matters.
_CALLS = {
    "create": [("create", 0)],
    "create-eph-seq": [("create", 0)],
    "create-stat": [("create2", 0)],
    "get": [("getData", 0)],
    "exists": [("exists", -101)],
    "children": [("getChildren", 0)],
    "children2": [("getChildren2", 0)],
    "set": [("setData", 0)],
    "set-badversion": [("setData", -103)],
    "get-nonode": [("getData", -101)],
    "create-exists": [("create", -110)],
    "create-none": [("create", 0)],
    "delete-notempty": [("delete", -111)],
    "delete-nonode": [("delete", -101)],
    "set_acls": [("setACL", 0)],
    "get_acls": [("getACL", 0)],
    "sync": [("sync", 0)],
    "transaction": [("multi", 0)],
    "transaction-fail": [("multi", -103)],
    "delete-recursive": [("delete", 0)],
}
_EVENTS = {"CHANGED": "NodeDataChanged", "CREATED": "NodeCreated", "CHILD": "NodeChildrenChanged"}


def _path(call: dict[str, list[str]]) -> str | None:
    return call["args"][0].strip("'") if call.get("args") else None


@pytest.mark.parametrize("name", [n for n in everything() if n.endswith("25_kazoo_ops")])
def test_calls_are_found_in_order(name: str, engine: str) -> None:
    sample = everything()[name]
    record = json.loads(sample.truth_path.read_text())
    decoded = decode(*sample.files, engine=engine)
    at = 0
    checked = 0
    for call in record["events"]:
        for op, error in _CALLS.get(call["op"], []):
            wanted = (op, _path(call) if op != "multi" else None, error)
            rest = decoded.exchanges[at:]
            rows = [(row["op"], row["path"], row["error"]) for row in rest]
            assert wanted in rows, f"{call}: nothing after exchange {at}"
            at += rows.index(wanted) + 1
            checked += 1
    assert checked == len(_CALLS)
    (connect,) = [row for row in decoded.exchanges if row["op"] == "connect"]
    assert connect["session"] == int(record["events"][0]["client_id"], 16)
    assert {row["word"] for row in decoded.four_letter} == {"ruok", "envi"}
    # kazoo pings after a third of its timeout; the capture holds one idle span of 3.2 s.
    assert any(row["op"] == "ping" and row["state"] == "complete" for row in decoded.exchanges)


@pytest.mark.parametrize("name", [n for n in everything() if n.endswith("25_kazoo_ops")])
def test_watch_events(name: str, engine: str) -> None:
    sample = everything()[name]
    record = json.loads(sample.truth_path.read_text())
    expected = []
    for text in record["watch_events"]:
        parts = text.split("'")  # WatchedEvent(type='CHANGED', state='CONNECTED', path='/kz')
        expected.append((_EVENTS[parts[1]], parts[5]))
    decoded = decode(*sample.files, engine=engine)
    assert sorted((row["event"], row["path"]) for row in decoded.watch_events) == sorted(expected)
