"""The native engine writes the same JSON lines as the reference."""

from __future__ import annotations

from importlib import import_module

from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.native import needs_native
from tests.analysis.rows import EVENTS, INT64, Event, tables
from zktrace.analysis.hashing import SessionHasher
from zktrace.export.form import form_text
from zktrace.export.jsonl import latency_us, lines
from zktrace.wire.opcodes import OPS

pytestmark = needs_native

# Every op, so that every set of keys is met.
_OP = st.sampled_from([(op.name, op.number) for op in OPS] + [("connect", -10), ("op99", 99)])


def _with_op(event: Event, op: tuple[str, int]) -> Event:
    kind, row = event
    if kind != "exchanges" or row[5] is None:
        return event
    return kind, (*row[:5], *op, *row[7:])


def reference(events: list[Event], key: bytes | None) -> bytes:
    batches = {
        kind: table.combine_chunks().to_batches()[0]
        for kind, table in tables(events).items()
        if table.num_rows
    }
    if key is not None:
        hasher = SessionHasher(key)
        batches = {kind: hasher.batch(batch) for kind, batch in batches.items()}
    return "".join(f"{line}\n" for line in lines(batches)).encode()


def native(events: list[Event], key: bytes | None) -> bytes:
    made: bytes = import_module("zktrace._native").debug_json(events, form_text(), key)
    return made


@given(
    EVENTS, st.lists(_OP, min_size=30, max_size=30), st.none() | st.binary(min_size=16, max_size=16)
)
def test_lines_are_the_same(
    events: list[Event], ops: list[tuple[str, int]], key: bytes | None
) -> None:
    events = [_with_op(event, op) for event, op in zip(events, ops, strict=False)]
    assert native(events, key) == reference(events, key)


@given(INT64)
def test_latency(ns: int) -> None:
    row = (0, 0, 0, "1.1.1.1:1", "1.1.1.1:2", None, None, *[None] * 6, ns, None, None, "complete")
    made = native([("exchanges", (*row, *[None] * 15))], None).decode()
    assert f'"latency_us":{latency_us(ns)},' in made


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text(detail: str) -> None:
    event: Event = ("anomalies", (0, 0, 0, "1.1.1.1:1", "1.1.1.1:2", "gap", None, None, detail))
    assert native([event], None) == reference([event], None)
