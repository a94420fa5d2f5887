"""One language: what a filter selects in tables is what its program says of each frame, in Python
and natively.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zktrace
from tests.conftest import needs_native
from zktrace.analysis.filter import FilterError, compile_filter
from zktrace.analysis.filter_program import (
    CONNECTION_FIELDS,
    REQUEST_FIELDS,
    compile_program,
    fields_of,
    holds,
)
from zktrace.analysis.names import vocabulary

CAPTURES = Path(__file__).resolve().parents[2] / "pcaps"
EXPRESSIONS = (
    'op == "create"',
    "op != getData",
    'op in ("create", "setData", delete)',
    'op =~ "get*"',
    'op !~ "*e*"',
    "opcode >= 5",
    "opcode < 4",
    "opcode <= 3",
    "opcode > 1",
    'path =~ "/**"',
    'path !~ "/*"',
    'path == "/a" or path != "/zookeeper"',
    "client == 127.0.0.0/8",
    "client == ::1",
    'client =~ "127.*"',
    'server !~ "*:2181"',
    "server != 10.0.0.1:2181",
    "session == 0x1*",
    "session != 0x10*",
    "error == OK",
    "error != 0",
    "not (error == 0)",
    "error_name == NoNode",
    'error_name =~ "No*"',
    "error_name != NodeExists",
    "zxid > 0x5",
    "zxid >= 99999999999999999999",
    "xid in (1, 2, 3)",
    "xid < 0",
    "read",
    "not write",
    "write == false and not read",
    "watch",
    "watch == false",
    "latency > 1ms",
    "latency <= 0.5ms",
    "size > 100",
    "request_bytes == 8",
    "reply_bytes > 1k",
    "kind == exchange",
    'kind == "watch_event" or read',
    'path =~ "/a/**" and (op == create || !read) && latency >= 1us',
)


def endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def facts_of(row: dict[str, Any]) -> dict[str, Any]:
    names = vocabulary().opcodes
    opcode = row["opcode"] if row["opcode"] is not None else names.get(row["op"] or "")
    session = row["session"]
    return {
        "kind": 0,
        "opcode": opcode,
        "path": row["path"],
        "watch": row["watch"],
        "client": endpoint(row["client"]),
        "server": endpoint(row["server"]),
        "session": None if session is None else session % 2**64,
        "xid": row["xid"],
        "zxid": row["zxid"],
        "error": row["error"],
        "event": None,
        "request_bytes": row["request_bytes"],
        "reply_bytes": row["reply_bytes"],
        "latency": row["latency_ns"],
        "size": None
        if row["request_bytes"] is None and row["reply_bytes"] is None
        else (row["request_bytes"] or 0) + (row["reply_bytes"] or 0),
    }


def captures() -> list[Path]:
    found = [path for path in sorted(CAPTURES.rglob("*.pcap*")) if path.stat().st_size < 300_000]
    assert len(found) > 3
    return found


@needs_native
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_programs_say_what_tables_do(expression: str, rows: list[tuple[Any, Any, Any]]) -> None:
    from zktrace._native import debug_holds  # type: ignore[attr-defined]

    where = compile_filter(expression)
    program = compile_program(expression)
    looked = 0
    for table, _, frames in rows:
        mask = where.mask("exchanges", table).to_pylist()
        for expected, facts in zip(mask, frames, strict=True):
            assert holds(program, facts) == expected, facts
            assert debug_holds(program, facts, False) == expected, facts
            looked += 1
    assert looked > 200


@pytest.fixture(scope="module")
def rows() -> list[tuple[Any, Any, Any]]:
    result = []
    for path in captures():
        table = zktrace.read(str(path)).exchanges.slice(0, 150)
        listed = table.to_pylist()
        result.append((table, listed, [facts_of(row) for row in listed]))
    return result


PATHS = st.text("ab/*é?", max_size=8)


@needs_native
@given(pattern=PATHS, path=PATHS, open=st.booleans(), none=st.booleans())
def test_patterns_are_the_same_natively(pattern: str, path: str, open: bool, none: bool) -> None:
    from zktrace._native import debug_holds  # type: ignore[attr-defined]

    facts: dict[str, Any] = {
        **dict.fromkeys(("watch", "opcode", "xid", "zxid", "error", "event", "session")),
        **dict.fromkeys(("request_bytes", "reply_bytes", "latency")),
        "kind": 0,
        "path": None if none else path,
        "client": ("10.0.0.1", 5),
        "server": ("::1", 2181),
    }
    for program in (
        ("path like", False, pattern),
        ("any", (("path like", True, pattern), ("path", False, (pattern,)))),
        ("not", ("all", (("path like", False, pattern), ("address", "client", False, ())))),
    ):
        expected = holds(program, facts, None if open else False)
        assert debug_holds(program, facts, open) == expected


def test_what_is_not_known_yet_is_open() -> None:
    program = compile_program('client == 10.0.0.0/8 and path == "/a"')
    assert fields_of(program) == {"client", "path"}
    here, elsewhere = {"client": ("10.1.1.1", 1)}, {"client": ("11.1.1.1", 1)}
    assert holds(program, here, None) is None
    assert holds(program, elsewhere, None) is False
    assert holds(("not", program), here, None) is None
    assert holds(compile_program("client == 10.0.0.0/8 or read"), here, None) is True


@pytest.mark.parametrize(
    ("expression", "known", "words"),
    [
        ("error == 0", REQUEST_FIELDS, "'error' is not known when"),
        ("path == x", CONNECTION_FIELDS, "'path' is not known when"),
        ("role == client", REQUEST_FIELDS, "'role' is not known when"),
        ("kind == connection", REQUEST_FIELDS, "no frame is 'connection'"),
        ("pth == x", REQUEST_FIELDS, "did you mean 'path'"),
        ("path ==", REQUEST_FIELDS, "expected a value"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    expression: str, known: frozenset[str], words: str
) -> None:
    with pytest.raises(FilterError, match=words) as caught:
        compile_program(expression, known, "when it is asked")
    assert 0 <= caught.value.position <= len(expression)
