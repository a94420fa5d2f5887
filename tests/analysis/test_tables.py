"""Rows to tables, in both languages."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analysis import native
from tests.analysis.native import needs_native
from tests.analysis.rows import EVENTS, Event, in_python, tables
from zktrace.analysis.tables import (
    SCHEMAS,
    TableBuilder,
    batch_from_rows,
    empty_tables,
    plain,
    table_from_batches,
)
from zktrace.analysis.whole import KeptTables
from zktrace.engine.base import KINDS

COLUMNS = {
    "exchanges": "seq ts_ns conn client server op opcode xid session path watch error zxid"
    " latency_ns request_bytes reply_bytes state flags mode version data_length children ttl"
    " created_path stat sub watches requested_timeout_ms timeout_ms last_zxid_seen read_only"
    " protocol_version",
    "watch_events": "seq ts_ns conn client server session event keeper_state path zxid bytes",
    "connections": "seq ts_ns conn client server role event detail",
    "four_letter": "seq ts_ns conn client server word reply_bytes",
    "anomalies": "seq ts_ns conn client server reason direction bytes detail",
    "quorum": "seq ts_ns conn client server type direction zxid bytes session cxid txn_type path"
    " error sid epoch timeout_ms valid sessions digest sub snapshot_bytes snapshot_nodes"
    " config late txn_hash",
    "elections": "seq ts_ns conn client server type direction sid address state leader zxid"
    " election_epoch peer_epoch version bytes",
}


def test_columns_are_as_documented() -> None:
    assert {kind: " ".join(schema.names) for kind, schema in SCHEMAS.items()} == COLUMNS


def test_text_columns_are_dictionaries() -> None:
    own = {"detail"}
    for schema in SCHEMAS.values():
        for field in schema:
            assert not pa.types.is_string(field.type) or field.name in own


@given(EVENTS)
@settings(max_examples=40)
def test_what_goes_in_comes_out(events: list[Event]) -> None:
    expected = [in_python(event) for event in events]
    for kind, table in tables(events).items():
        table.validate(full=True)
        got = [tuple(row.values()) for row in table.to_pylist()]
        wanted = [row for of, row in expected if of == kind]
        # Structs come back with all their fields.
        for mine, theirs in zip(got, wanted, strict=True):
            for value, given_value in zip(mine, theirs, strict=True):
                if isinstance(value, dict):
                    given_value = {**dict.fromkeys(value), **given_value}
                assert value == given_value


def test_builder_gives_batches_and_forgets_them() -> None:
    builder = TableBuilder()
    row = (0, 1, 2, "10.0.0.1:1", "10.0.0.2:2181", "ruok", 4)
    builder.append("four_letter", row)
    builder.extend("four_letter", [row, row])
    assert len(builder) == 3
    taken = builder.take_batches()
    assert {kind: batch.num_rows for kind, batch in taken.items()} == {"four_letter": 3}
    assert len(builder) == 0
    assert builder.take_batches() == {}
    builder.append("four_letter", row)
    builder.flush()
    builder.append("four_letter", row)
    assert {kind: table.num_rows for kind, table in builder.tables().items()} == {
        kind: 2 if kind == "four_letter" else 0 for kind in KINDS
    }


def test_no_rows() -> None:
    for kind, table in empty_tables().items():
        assert table.schema == SCHEMAS[kind]
        assert plain(table).num_rows == 0
        assert batch_from_rows(kind, []).num_rows == 0


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        batch_from_rows("four_letter", [(1, 2, 3)])
    with pytest.raises(ValueError, match="zip"):
        batch_from_rows("four_letter", [(1, 2, 3, "a", "b", "c", 4), (1,)])
    with pytest.raises(pa.ArrowInvalid):
        batch_from_rows("four_letter", [("x", 2, 3, "a", "b", "c", 4)])


def same(kind: str, batches: list[pa.RecordBatch], expected: pa.Table) -> None:
    """Schemas to the last flag, and all values."""
    for batch in batches:
        assert batch.schema.equals(SCHEMAS[kind], check_metadata=True)
        batch.validate(full=True)
    assert plain(table_from_batches(kind, batches)).equals(plain(expected))


@needs_native
@given(EVENTS, st.sampled_from([1, 2, 7, 1000]))
@settings(max_examples=100)
def test_native_tables_are_the_same(events: list[Event], batch_rows: int) -> None:
    got = native.batches(events, batch_rows)
    for kind, expected in tables(events).items():
        same(kind, [batch for of, batch in got if of == kind], expected)


@needs_native
@given(EVENTS)
@settings(max_examples=100)
def test_native_tables_kept_whole_are_the_same(events: list[Event]) -> None:
    """As records, then as columns: nothing of a row is lost."""
    kept = KeptTables(native.Whole(events))
    for kind, expected in tables(events).items():
        assert kept.rows(kind) == expected.num_rows
        same(kind, kept[kind].to_batches(), expected)
        assert kept.rows(kind) == expected.num_rows
    assert pickle.loads(pickle.dumps(kept)) == dict(kept)


@needs_native
@given(EVENTS, st.sampled_from([1, 3, 10]))
@settings(max_examples=30)
def test_native_steps_are_in_order(events: list[Event], batch_rows: int) -> None:
    """Kinds are cut together: all of a step is before all of the next."""
    last = -1
    step: set[int] = set()
    kinds: list[str] = []
    for kind, batch in native.batches(events, batch_rows):
        assert batch.num_rows <= batch_rows
        if kinds and KINDS.index(kind) <= KINDS.index(kinds[-1]):
            last = max(step)
            step, kinds = set(), []
        kinds.append(kind)
        step.update(batch["seq"].to_pylist())
        assert min(step) > last


@needs_native
def test_native_dictionaries_start_anew() -> None:
    """More distinct paths than a dictionary keeps, in batches far smaller than that."""
    paths = [f"/p{i % 7000}".encode() for i in range(20_000)]
    row = (None,) * 21
    head = (1, "10.0.0.1:1", "10.0.0.2:2181", "create", 1, None, None)
    middle = (None, None, None, None, None, None, "complete")
    events: list[Event] = [
        ("exchanges", (i, i, *head, path, *middle, *row[: len(SCHEMAS["exchanges"]) - 17]))
        for i, path in enumerate(paths)
    ]
    got = [batch for _, batch in native.batches(events, 500)]
    sizes = [len(batch["path"].dictionary) for batch in got]
    assert max(sizes) < 4000
    # A dictionary is used by several batches, and then no more.
    assert sizes[1] == 1000
    assert sorted(sizes) != sizes
    same("exchanges", got, tables(events)["exchanges"])


@needs_native
@given(st.binary(max_size=40) | st.lists(st.sampled_from(list(range(0x7E, 0x100)))).map(bytes))
@settings(max_examples=500)
def test_native_text_is_pythons(raw: bytes) -> None:
    assert native.text(raw) == raw.decode("utf-8", "replace")


@needs_native
def test_native_text_of_every_pair_and_many_triples() -> None:
    edges = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1]
    edges += [0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF, 0x41]
    for a in edges:
        for b in edges:
            for c in edges:
                raw = bytes([a, b, c])
                assert native.text(raw) == raw.decode("utf-8", "replace")
                assert native.text(raw + b"\x80A") == (raw + b"\x80A").decode("utf-8", "replace")
