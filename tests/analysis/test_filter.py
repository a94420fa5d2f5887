"""The filter language: what is selected, against a row-by-row model, and what is refused."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any, Final

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analysis import native
from tests.analysis.native import needs_native
from tests.analysis.rows import EVENTS, OPS, PATHS, Event, in_python, tables
from tests.analysis.test_stats import exchange, watch_event
from zktrace.analysis.filter import FilterError, compile_filter
from zktrace.analysis.filter_fields import KINDS
from zktrace.analysis.filter_syntax import MAX_NESTING
from zktrace.analysis.names import vocabulary
from zktrace.analysis.tables import SCHEMAS
from zktrace.wire.errors import error_name

Model = Callable[[dict[str, Any]], bool]

ORDER: Final = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


# -- the model: one row at a time ----------------------------------------------------------------


def glob(pattern: str, text: str) -> bool:
    """By trying, without regular expressions."""
    if not pattern:
        return not text
    if pattern.startswith("**"):
        return any(glob(pattern[2:], text[i:]) for i in range(len(text) + 1))
    if pattern[0] == "*":
        end = text.find("/")
        end = len(text) if end < 0 else end
        return any(glob(pattern[1:], text[i:]) for i in range(end + 1))
    if pattern[0] == "?":
        return bool(text) and text[0] != "/" and glob(pattern[1:], text[1:])
    if pattern[0] == "\\" and len(pattern) > 1:
        pattern = pattern[1:]
    return text[:1] == pattern[0] and glob(pattern[1:], text[1:])


def endpoint(wanted: str, text: str) -> bool:
    ip, _, _ = text.rpartition(":")
    if ":" in wanted.replace("[", "") and wanted.rpartition(":")[0] == ip:
        return wanted == text
    address = ip_address(ip.strip("[]"))
    try:
        return address in ip_network(wanted)
    except ValueError:
        return wanted == text


def size(row: dict[str, Any]) -> int | None:
    known = [
        row[name] for name in ("request_bytes", "reply_bytes", "bytes") if row.get(name) is not None
    ]
    return sum(known) if known else None


def compared(value: Any, how: str, wanted: list[Any], equal: Callable[[Any, Any], bool]) -> bool:
    """False where there is no value."""
    if value is None:
        return False
    if how in ("!=", "!~"):
        return not equal(wanted[0], value)
    if how in ("==", "=~", "in"):
        return any(equal(one, value) for one in wanted)
    return bool(ORDER[how](value, wanted[0]))


def value_of(field: str, row: dict[str, Any]) -> Any:
    if field == "size":
        return size(row)
    if field == "latency":
        return row.get("latency_ns")
    if field == "error_name":
        return None if row.get("error") is None else error_name(row["error"])
    return row.get(field)


# -- expressions with their models ---------------------------------------------------------------

Case = tuple[str, Model]


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _listed(field: str, how: str, texts: list[str], model: Model) -> Case:
    shown = texts[0] if how != "in" else f"({', '.join(texts)})"
    return f"{field} {how} {shown}", model


@st.composite
def _text(draw: st.DrawFn, field: str, values: list[str]) -> Case:
    how = draw(st.sampled_from(["==", "!=", "in"]))
    count = 3 if how == "in" else 1
    wanted = draw(st.lists(st.sampled_from(values), min_size=1, max_size=count))
    model = partial(_model, field, how, wanted, operator.eq)
    return _listed(field, how, list(map(quoted, wanted)), model)


def _model(
    field: str,
    how: str,
    wanted: list[Any],
    equal: Callable[[Any, Any], bool],
    row: dict[str, Any],
) -> bool:
    return compared(value_of(field, row), how, wanted, equal)


@st.composite
def _pattern(draw: st.DrawFn, field: str, values: list[str]) -> Case:
    how = draw(st.sampled_from(["=~", "!~"]))
    parts = st.sampled_from([*values, "*", "**", "?", "/", "a", "N", ".", "\\*", "\n"])
    pattern = "".join(draw(st.lists(parts, max_size=4)))
    return _listed(field, how, [quoted(pattern)], partial(_model, field, how, [pattern], glob))


@st.composite
def _number(draw: st.DrawFn, field: str, values: st.SearchStrategy[tuple[str, Fraction]]) -> Case:
    how = draw(st.sampled_from([*ORDER, "in"]))
    count = 3 if how == "in" else 1
    wanted = draw(st.lists(values, min_size=1, max_size=count))
    numbers = [number for _, number in wanted]
    model = partial(_model, field, how, numbers, operator.eq)
    return _listed(field, how, [text for text, _ in wanted], model)


@st.composite
def _endpoint(draw: st.DrawFn, field: str) -> Case:
    how = draw(st.sampled_from(["==", "!=", "in"]))
    count = 3 if how == "in" else 1
    values = [
        "10.0.0.1",
        "10.0.0.1:40000",
        "10.0.0.0/8",
        "10.1.0.0/30",
        "::1",
        "[::1]:65535",
        "2001:db8::/32",
        "::ffff:10.1.0.1",
        "0.0.0.0/0",
    ]
    wanted = draw(st.lists(st.sampled_from(values), min_size=1, max_size=count))
    return _listed(field, how, wanted, partial(_model, field, how, wanted, endpoint))


def _session(wanted: str, value: int) -> bool:
    digits = f"{value & (2**64 - 1):016x}"
    prefix = wanted[2:].rstrip(".*")
    return digits.startswith(prefix) if wanted[-1] in ".*" else digits == prefix.zfill(16)


@st.composite
def _sessions(draw: st.DrawFn) -> Case:
    how = draw(st.sampled_from(["==", "!=", "in"]))
    count = 3 if how == "in" else 1
    values = ["0x1000a2b3c4d50001", "0x1000...", "0x1*", "0xf...", "0xffffffffffffffff", "0x0"]
    wanted = draw(st.lists(st.sampled_from(values), min_size=1, max_size=count))
    return _listed("session", how, wanted, partial(_model, "session", how, wanted, _session))


def _flag(name: str) -> Case:
    words = vocabulary()
    if name == "watch":
        return name, lambda row: row.get("watch") is True
    ops = words.reads if name == "read" else words.writes
    return name, lambda row: row.get("op") in ops


def _no(name: str) -> Case:
    words = vocabulary()
    if name == "watch":
        return "watch == false", lambda row: row.get("watch") is False
    ops = words.reads if name == "read" else words.writes
    return f"{name} != true", lambda row: row.get("op") is not None and row["op"] not in ops


def _scaled(units: dict[str, int]) -> st.SearchStrategy[tuple[str, Fraction]]:
    numbers = st.integers(0, 10**6) | st.integers(0, 2**70)
    return st.tuples(
        numbers, st.sampled_from(["", ".5", ".0001"]), st.sampled_from(list(units))
    ).map(
        lambda part: (
            f"{part[0]}{part[1]}{part[2]}",
            Fraction(f"{part[0]}{part[1]}") * units[part[2]],
        )
    )


INTEGERS = (st.integers(-5, 5) | st.integers(-(2**70), 2**70)).map(lambda n: (str(n), Fraction(n)))
ZXIDS = st.integers(0, 2**64 - 1).map(
    lambda n: (f"{n:#x}", Fraction(n - 2**64 if n >= 2**63 else n))
)
ERRORS = st.sampled_from(
    [("NoNode", -101), ("-101", -101), ("0", 0), ("NodeExists", -110), ("7", 7)]
).map(lambda pair: (pair[0], Fraction(pair[1])))
DURATIONS = _scaled({"ns": 1, "us": 1000, "ms": 10**6, "s": 10**9})
SIZES = _scaled({"": 1, "k": 1024, "M": 1024**2})

TEXT_PATHS = [path.decode("utf-8", "replace") for path in PATHS]
TESTS: Final = st.one_of(
    _text("op", [*OPS, "delete"]),
    _pattern("op", list(OPS)),
    _text("path", TEXT_PATHS),
    _pattern("path", ["/a", "/a/b", "/", "\ufffd"]),
    _pattern("error_name", ["No", "Node", "OK", "7"]),
    _text("error_name", ["NoNode", "OK", "7"]),
    _text("state", ["complete", "no_reply", "no_request"]),
    _text("kind", list(KINDS.values())),
    _text("event", ["NodeCreated", "opened", "reset"]),
    _text("role", ["client", "tls"]),
    _text("reason", ["gap", "other"]),
    _text("word", ["ruok", "mntr"]),
    _pattern("detail", ["a", "0"]),
    _endpoint("client"),
    _endpoint("server"),
    _sessions(),
    _number("error", ERRORS),
    _number("latency", DURATIONS),
    _number("size", SIZES),
    _number("request_bytes", SIZES),
    _number("reply_bytes", SIZES),
    _number("zxid", INTEGERS | ZXIDS),
    _number("xid", INTEGERS),
    _number("data_length", INTEGERS),
    st.sampled_from(["read", "write", "watch"]).map(_flag),
    st.sampled_from(["read", "write", "watch"]).map(_no),
)


def _joined(cases: list[Case], word: str, every: Callable[[list[bool]], bool]) -> Case:
    models = [model for _, model in cases]
    text = f" {word} ".join(f"({text})" for text, _ in cases)
    return text, lambda row: every([model(row) for model in models])


def _negated(case: Case, word: str) -> Case:
    text, model = case
    return f"{word}({text})", lambda row: not model(row)


def _nested(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    some = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(some, st.sampled_from(["and", "&&", "AND"])).map(
            lambda pair: _joined(pair[0], pair[1], all)
        ),
        st.tuples(some, st.sampled_from(["or", "||"])).map(
            lambda pair: _joined(pair[0], pair[1], any)
        ),
        st.tuples(inner, st.sampled_from(["not ", "!"])).map(lambda pair: _negated(*pair)),
    )


CASES = st.recursive(TESTS, _nested, max_leaves=5)


def rows_of(events: list[Event]) -> list[tuple[str, dict[str, Any]]]:
    result = []
    for kind, row in map(in_python, events):
        named = dict(zip(SCHEMAS[kind].names, row, strict=True))
        result.append((kind, {**named, "kind": KINDS[kind]}))
    return result


@given(EVENTS, CASES)
@settings(max_examples=400)
def test_selects_what_the_model_selects(events: list[Event], case: Case) -> None:
    expression, model = case
    chosen = compile_filter(expression).tables(tables(events))
    got = sorted(seq for table in chosen.values() for seq in table["seq"].to_pylist())
    assert got == [row["seq"] for _, row in rows_of(events) if model(row)]


@needs_native
@given(EVENTS, CASES, st.sampled_from([2, 100]))
@settings(max_examples=100)
def test_selects_the_same_of_native_batches(
    events: list[Event], case: Case, batch_rows: int
) -> None:
    expression, model = case
    where = compile_filter(expression)
    got: list[int] = []
    for kind, batch in native.batches(events, batch_rows):
        for chosen in where.batches({kind: batch}).values():
            assert chosen.num_rows
            got += chosen["seq"].to_pylist()
    assert sorted(got) == [row["seq"] for _, row in rows_of(events) if model(row)]


# -- by hand -------------------------------------------------------------------------------------

EXAMPLES = [
    exchange(seq=0, op="create", path=b"/locks/a/b", latency_ns=10_000_001, request_bytes=40_000),
    exchange(seq=1, op="create", path=b"/locks/a", latency_ns=10_000_000, error=-110),
    exchange(seq=2, op="getData", path=b"/x", error=0, watch=True, client="10.9.9.9:1"),
    exchange(seq=3, op="getData", state="no_reply", client="192.168.0.1:1", session=-1),
    exchange(seq=4, state="no_request", reply_bytes=70_000, zxid=-(2**63)),
    watch_event(seq=5, path=b"/locks/a", event="NodeDeleted"),
]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('op == "create" and path =~ "/locks/**" and latency > 10ms', [0]),
        ("op==create&&path=~/locks/**&&latency>=10ms", [0, 1]),
        ("path =~ /locks/*", [1, 5]),
        ("error != 0", [1]),
        ("error == NodeExists", [1]),
        ("error_name =~ Node*", [1]),
        ("not (error == 0)", [0, 1, 3, 4, 5]),
        ("client == 10.0.0.0/8", [0, 1, 2, 4, 5]),
        ("client =~ '192.*'", [3]),
        ("client == 10.9.9.9:1", [2]),
        ("session == 0xffff...", [3]),
        ("session == 0xffffffffffffffff", [3]),
        ("session == -1", [3]),
        ("zxid == 0x8000000000000000", [4]),
        ("write", [0, 1]),
        ("read", [2, 3]),
        ("watch", [2]),
        ("read and not watch", [3]),
        ("write == false", [2, 3]),
        ("size > 64k", [4]),
        ("size > 39k", [0, 4]),
        ("op in (create, getData) and state != complete", [3]),
        ("op not in (create)", [2, 3, 4, 5]),
        ("kind == watch_event", [5]),
        ("kind != exchange", [5]),
        ("event == NodeDeleted or read", [2, 3, 5]),
        ("read or write and error == -110", [1, 2, 3]),
        ("(read or write) and error == -110", [1]),
        ("latency > 0", [0, 1]),
        ("latency == 10.000001ms", [0]),
        ("latency < 10.0000005ms", [1]),
        ("op == op12345", []),
        ("opcode == 4", [2, 3]),
    ],
)
def test_examples(expression: str, expected: list[int]) -> None:
    chosen = compile_filter(expression).tables(tables(EXAMPLES))
    got = sorted(seq for table in chosen.values() for seq in table["seq"].to_pylist())
    assert got == expected


def test_masks_have_no_nulls_and_kinds_without_rows_are_left_out() -> None:
    made = tables(EXAMPLES)
    where = compile_filter("latency > 1s")
    mask = where.mask("exchanges", made["exchanges"])
    assert (mask.type, mask.null_count, len(mask)) == (pa.bool_(), 0, 5)
    batches = {
        kind: table.combine_chunks().to_batches()[0] for kind, table in made.items() if len(table)
    }
    assert where.batches(batches) == {}
    assert list(where.tables(made)) == list(made)
    assert len(where.mask("anomalies", made["anomalies"])) == 0


@pytest.mark.parametrize(
    ("expression", "position", "message"),
    [
        ("pth == 1", 0, "unknown field 'pth', did you mean 'path'?"),
        ("read and latncy > 1ms", 9, "unknown field 'latncy', did you mean 'latency'?"),
        ("xyzzy", 0, "unknown field 'xyzzy'"),
        ("op == creat", 6, "unknown op 'creat', did you mean 'create'?"),
        ("op in (create, Delete)", 15, "unknown op 'Delete', did you mean 'delete'?"),
        ("op = create", 3, "'=' is not an operator, did you mean '=='?"),
        ("read & write", 5, "'&' is not an operator, did you mean '&&'?"),
        ("latency > 10", 10, "needs a unit"),
        ("latency > 10min", 10, "unknown unit 'min'"),
        ("latency > fast", 10, "'fast' is no duration"),
        ("size > 64kk", 7, "unknown unit 'kk'"),
        ("size =~ 6", 0, "cannot be compared by =~"),
        ("op < create", 0, "cannot be compared by <"),
        ("client == 10.0.0", 10, "no address"),
        ("client == 10.0.0.1:99999999", 10, "no address"),
        ("error == NoNod", 9, "unknown error 'NoNod', did you mean 'NoNode'?"),
        ("session == zz", 11, "no session id"),
        ("session == 0x10000000000000000", 11, "64 bits"),
        ("xid == 1e9", 7, "not a whole number"),
        ("xid == " + "9" * 5000, 7, "not a whole number"),
        ("state == done", 9, "unknown state 'done'"),
        ("watch == 1", 9, "true or false"),
        ("path == 'abc", 8, "a quote is not closed"),
        ("(read", 5, "expected ')', got the end"),
        ("read)", 4, "expected 'and', 'or' or the end, got ')'"),
        ("read and", 8, "expected a field, got the end"),
        ("and read", 0, "expected a field, got 'and'"),
        ("read write", 5, "expected 'and', 'or' or the end, got 'write'"),
        ("op ==", 5, "expected a value, got the end"),
        ("op in create", 6, "expected '(' and a list"),
        ("op in (create", 13, "expected ',' or ')'"),
        ("op in ()", 7, "expected a value, got ')'"),
        ("op", 0, "must be compared"),
        ("'op' == create", 0, "expected a field"),
        ("  ", 2, "the expression is empty"),
        ("path =~ " + "a" * 1001, 8, "at most 1000 characters"),
        ("(" * 500 + "read" + ")" * 500, MAX_NESTING, "nested more than"),
        ("!" * 500 + "read", MAX_NESTING, "nested more than"),
    ],
)
def test_refused(expression: str, position: int, message: str) -> None:
    with pytest.raises(FilterError) as caught:
        compile_filter(expression)
    assert message in caught.value.message
    assert caught.value.position == position
    *_, shown, caret = str(caught.value).split("\n")
    assert caret == " " * (2 + position) + "^"
    assert len(shown) == 2 + len(expression)


def test_caret_stands_right_after_tabs_and_newlines() -> None:
    with pytest.raises(FilterError) as caught:
        compile_filter("read\n\tand pth == 1")
    assert str(caught.value).endswith("\n  read  and pth == 1\n            ^")


@given(
    st.text(max_size=30)
    | st.lists(st.sampled_from([*"()!=<>~&|,\"' \\", "op", "not", "in", "read", "and", "1"])).map(
        "".join
    )
)
@settings(max_examples=500)
def test_any_text_is_compiled_or_refused(expression: str) -> None:
    try:
        where = compile_filter(expression)
    except FilterError as error:
        place = error.position
    else:
        place = 0
        where.tables(tables(EXAMPLES))
    assert 0 <= place <= len(expression)


@given(
    st.lists(
        st.sampled_from(["*", "**", "?", "/", "a", "\\", "[", ".", "(", "$", "\n", "é"]), max_size=8
    ),
    st.sampled_from(["/a/a", "a", "", "/", "a\n", "[a.(", "é/é", "\\", "*a"]),
)
@settings(max_examples=500)
def test_patterns(parts: list[str], text: str) -> None:
    # A backslash at the very end stands for itself.
    pattern = "".join(parts)
    where = compile_filter(f"path =~ {quoted(pattern)}")
    made = tables([exchange(path=text.encode())])
    assert where.mask("exchanges", made["exchanges"]).to_pylist() == [glob(pattern, text)]


def test_long_chains_are_fine() -> None:
    expression = " or ".join(["error == -110"] * 5000)
    assert compile_filter(expression).tables(tables(EXAMPLES))["exchanges"].num_rows == 1


def test_every_documented_field_is_known() -> None:
    from zktrace.analysis import filter as module
    from zktrace.analysis.filter_fields import fields

    documented = set(re.findall(r"[a-z_]+", module.__doc__ or ""))
    for name in fields(vocabulary()):
        assert name in documented, name
