"""The schema as text: up to date in the native crate, complete, and the same as the codecs."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.strategies import of_record
from zktrace.wire.errors import ERRORS, error_name
from zktrace.wire.layout import ROLES, schema_text, steps
from zktrace.wire.opcodes import BY_NAME, BY_NUMBER, OPS, Op, op_name
from zktrace.wire.records import Empty, Stat
from zktrace.wire.txn import BODIES

ROOT = Path(__file__).resolve().parents[2]

# The columns a role may name (zktrace/analysis/tables.py has them all).
COLUMNS = {
    "path", "watch", "flags", "mode", "version", "data_length", "stat", "children", "created_path",
    "ttl", "data", "exist", "child", "persistent", "persistent_recursive",
}  # fmt: skip

# ZooDefs.OpCode, by name.
ZOODEFS = {
    "notification": 0, "create": 1, "delete": 2, "exists": 3, "getData": 4, "setData": 5,
    "getACL": 6, "setACL": 7, "getChildren": 8, "sync": 9, "ping": 11, "getChildren2": 12,
    "check": 13, "multi": 14, "create2": 15, "reconfig": 16, "checkWatches": 17,
    "removeWatches": 18, "createContainer": 19, "deleteContainer": 20, "createTTL": 21,
    "multiRead": 22, "auth": 100, "setWatches": 101, "sasl": 102, "getEphemerals": 103,
    "getAllChildrenNumber": 104, "setWatches2": 105, "addWatch": 106, "whoAmI": 107,
    "createSession": -10, "closeSession": -11, "error": -1,
}  # fmt: skip


def split(text: str) -> list[str]:
    """Steps of a list, minding parentheses."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if c == "," and not depth:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]] if text != "-" else []


def walk(text: str, data: bytes, pos: int = 0) -> int:
    """Interprets steps over a body, as the engines do; gives the place behind it."""
    for step in split(text):
        kind = step.rpartition(":")[0] if ":" in step.rpartition(")")[2] else step
        sizes = {"byte": 1, "bool": 1, "int": 4, "long": 8, "stat": 68}
        if kind in sizes:
            pos += sizes[kind]
        elif kind == "rest":
            pos = len(data)
        else:
            (n,) = struct.unpack_from(">i", data, pos)
            pos += 4
            if kind.startswith("vec("):
                for _ in range(n):
                    pos = walk(kind[4:-1], data, pos)
            else:
                assert kind in ("ustring", "buffer")
                pos += max(n, 0)
    return pos


def test_committed_copy_is_up_to_date() -> None:
    """To renew, write what `schema_text()` gives to the file."""
    assert (ROOT / "zktrace/_native/schema.txt").read_text(encoding="utf-8") == schema_text()


def test_the_native_engine_was_built_with_it() -> None:
    native = pytest.importorskip("zktrace.engine.native", exc_type=ImportError)
    assert schema_text() == native.SCHEMA


def test_opcodes_are_unique_and_all_there() -> None:
    assert len(BY_NUMBER) == len(BY_NAME) == len(OPS)
    assert {op.name: op.number for op in OPS if op.since != "keeper"} == ZOODEFS
    assert [op.number for op in OPS if op.since == "keeper"] == list(range(500, 508))
    assert op_name(1) == "create"
    assert op_name(4242) == "op4242"


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
@settings(max_examples=25)
@given(data=st.data())
def test_steps_consume_what_the_codec_writes(op: Op, data: st.DataObject) -> None:
    for body in (op.request, op.reply):
        if not isinstance(body, str):
            raw = data.draw(of_record(body)).encode()
            assert walk(steps(body), raw) == len(raw)


def test_lines() -> None:
    lines = schema_text().splitlines()
    by_kind: dict[str, list[list[str]]] = {}
    for line in lines:
        kind, *words = line.split(" ")
        by_kind.setdefault(kind, []).append(words)
    kinds = {"op", "error", "event", "state", "word", "txn", "packet", "vote"}
    assert set(by_kind) == kinds
    assert {int(words[0]) for words in by_kind["txn"]} == set(BODIES)
    assert all(BY_NUMBER[int(words[0])].name == words[1] for words in by_kind["txn"])
    assert [int(words[0]) for words in by_kind["packet"]] == list(range(1, 20))
    assert [words[1] for words in by_kind["vote"]] == [
        *("LOOKING", "FOLLOWING", "LEADING", "OBSERVING")
    ]
    for words in by_kind["op"]:
        assert len(words) == 5
        int(words[0])
        assert words[2] in ("r", "w", "l", "-")
        assert len(words[4]) > 0
    assert all(len(bytes.fromhex(words[0])) == 4 for words in by_kind["word"])
    assert ["telnet", "close"] in [words[1:] for words in by_kind["word"]]


@pytest.mark.parametrize(
    ("name", "request_steps", "reply_steps"),
    [
        (
            "create",
            "ustring:path,buffer:data_length,vec(int,ustring,ustring),int:flags",
            "ustring:created_path",
        ),
        (
            "createTTL",
            "ustring:path,buffer:data_length,vec(int,ustring,ustring),int:flags,long:ttl",
            "ustring:created_path,stat:stat",
        ),
        ("getData", "ustring:path,bool:watch", "buffer:data_length,stat:stat"),
        ("sync", "ustring:path", "ustring"),
        ("reconfig", "ustring,ustring,ustring,long", "buffer:data_length,stat:stat"),
        ("removeWatches", "ustring:path,int:mode", "-"),
        ("addWatch", "ustring:path,int:mode", "int"),
        ("auth", "int,ustring,buffer", "-"),
        ("sasl", "buffer", "buffer"),
        ("setWatches", "long,vec(ustring):data,vec(ustring):exist,vec(ustring):child", "-"),
        ("getEphemerals", "ustring:path", "vec(ustring):children"),
        ("getAllChildrenNumber", "ustring:path", "int:children"),
        ("whoAmI", "-", "vec(ustring,ustring)"),
        ("multi", "multi", "multiresult"),
        ("multiRead", "multi", "multiresult"),
        ("error", "-", "int"),
        ("ping", "-", "-"),
        ("checkStat", "ustring:path,int:version,stat", "-"),
    ],
)
def test_steps(name: str, request_steps: str, reply_steps: str) -> None:
    op = BY_NAME[name]
    assert (steps(op.request), steps(op.reply)) == (request_steps, reply_steps)


def test_roles_are_columns_and_secrets_have_none() -> None:
    assert set(ROLES.values()) <= COLUMNS | {""}
    assert not {"auth", "token", "password", "acl", "id", "scheme"} & set(ROLES)


def test_fixed_parts() -> None:
    assert steps(Empty) == "-"
    assert len(Stat(*range(11)).encode()) == 68
    assert error_name(-101) == "NoNode"
    assert error_name(-999) == "-999"
    assert len(ERRORS) == 33 - 1
