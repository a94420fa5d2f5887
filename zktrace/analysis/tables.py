"""Event tables: the Arrow schema of every kind of event, and rows to tables.

This module is the one definition of the columns. The native engine builds the same schemas in
``tables.rs`` (a test compares them field by field). It knows nothing of how events are found or
shown.

Rows are tuples in column order. Structs are dicts (missing keys are null) or None, lists are lists
of dicts. Times are nanoseconds, sizes bytes; ``session`` is the bit pattern of the id as a signed
64-bit integer. Columns of few distinct values are dictionary-encoded; two tables that differ only
in their dictionaries hold the same rows (see :func:`plain`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from zktrace.engine.base import KINDS

#: One event: values in column order.
Row = tuple[Any, ...]

_TEXT: Final = pa.dictionary(pa.int32(), pa.utf8())

STAT: Final = pa.struct(
    [
        pa.field("czxid", pa.int64()),
        pa.field("mzxid", pa.int64()),
        pa.field("ctime", pa.int64()),
        pa.field("mtime", pa.int64()),
        pa.field("version", pa.int32()),
        pa.field("cversion", pa.int32()),
        pa.field("aversion", pa.int32()),
        pa.field("ephemeral_owner", pa.int64()),
        pa.field("data_length", pa.int32()),
        pa.field("num_children", pa.int32()),
        pa.field("pzxid", pa.int64()),
    ]
)

SUB: Final = pa.list_(
    pa.field(
        "item",
        pa.struct(
            [
                pa.field("op", pa.utf8()),
                pa.field("path", pa.utf8()),
                pa.field("error", pa.int32()),
            ]
        ),
    )
)

WATCHES: Final = pa.struct(
    [
        pa.field("data", pa.int32()),
        pa.field("exist", pa.int32()),
        pa.field("child", pa.int32()),
        pa.field("persistent", pa.int32()),
        pa.field("persistent_recursive", pa.int32()),
    ]
)

_COMMON: Final = [
    pa.field("seq", pa.int64(), nullable=False),
    pa.field("ts_ns", pa.int64(), nullable=False),
    pa.field("conn", pa.int64(), nullable=False),
    pa.field("client", _TEXT),
    pa.field("server", _TEXT),
]


def _schema(*fields: tuple[str, pa.DataType], always: str | None = None) -> pa.Schema:
    own = [pa.field(name, kind, nullable=name != always) for name, kind in fields]
    return pa.schema([*_COMMON, *own])


#: Schema per kind of event; the order of kinds is that of the tables everywhere.
SCHEMAS: Final[Mapping[str, pa.Schema]] = {
    "exchanges": _schema(
        ("op", _TEXT),
        ("opcode", pa.int32()),
        ("xid", pa.int64()),
        ("session", pa.int64()),
        ("path", _TEXT),
        ("watch", pa.bool_()),
        ("error", pa.int32()),
        ("zxid", pa.int64()),
        ("latency_ns", pa.int64()),
        ("request_bytes", pa.int64()),
        ("reply_bytes", pa.int64()),
        ("state", _TEXT),
        ("flags", pa.int32()),
        ("mode", pa.int32()),
        ("version", pa.int32()),
        ("data_length", pa.int32()),
        ("children", pa.int32()),
        ("ttl", pa.int64()),
        ("created_path", _TEXT),
        ("stat", STAT),
        ("sub", SUB),
        ("watches", WATCHES),
        ("requested_timeout_ms", pa.int32()),
        ("timeout_ms", pa.int32()),
        ("last_zxid_seen", pa.int64()),
        ("read_only", pa.bool_()),
        ("protocol_version", pa.int32()),
        always="state",
    ),
    "watch_events": _schema(
        ("session", pa.int64()),
        ("event", _TEXT),
        ("keeper_state", _TEXT),
        ("path", _TEXT),
        ("zxid", pa.int64()),
        ("bytes", pa.int64()),
    ),
    "connections": _schema(
        ("role", _TEXT),
        ("event", _TEXT),
        ("detail", pa.utf8()),
    ),
    "four_letter": _schema(
        ("word", _TEXT),
        ("reply_bytes", pa.int64()),
    ),
    "anomalies": _schema(
        ("reason", _TEXT),
        ("direction", _TEXT),
        ("bytes", pa.int64()),
        ("detail", pa.utf8()),
    ),
    # Of quorum connections the client is the learner, of election connections the opener.
    "quorum": _schema(
        ("type", _TEXT),
        ("direction", _TEXT),
        ("zxid", pa.int64()),
        ("bytes", pa.int64()),
        ("session", pa.int64()),
        ("cxid", pa.int64()),
        ("txn_type", _TEXT),
        ("path", _TEXT),
        ("error", pa.int32()),
        ("sid", pa.int64()),
        ("epoch", pa.int64()),
        ("timeout_ms", pa.int32()),
        ("valid", pa.bool_()),
        ("sessions", pa.int32()),
        ("digest", pa.int64()),
        ("sub", SUB),
        ("snapshot_bytes", pa.int64()),
        ("snapshot_nodes", pa.int64()),
        ("config", _TEXT),
        # True where a copy may have passed before; the hash where it was asked for.
        ("late", pa.bool_()),
        ("txn_hash", pa.int64()),
    ),
    "elections": _schema(
        ("type", _TEXT),
        ("direction", _TEXT),
        ("sid", pa.int64()),
        ("address", _TEXT),
        ("state", _TEXT),
        ("leader", pa.int64()),
        ("zxid", pa.int64()),
        ("election_epoch", pa.int64()),
        ("peer_epoch", pa.int64()),
        ("version", pa.int32()),
        ("bytes", pa.int64()),
    ),
}

assert tuple(SCHEMAS) == KINDS


def batch_from_rows(kind: str, rows: Sequence[Row]) -> pa.RecordBatch:
    """Rows of one kind to a record batch.

    A row of the wrong length is a ValueError, a value of the wrong type pyarrow's ArrowInvalid /
    ArrowTypeError.
    """
    schema = SCHEMAS[kind]
    columns: Iterable[Sequence[Any]] = (
        zip(*rows, strict=True) if rows else ((),) * len(schema)  # transposes
    )
    arrays = [
        pa.array(column, type=field.type) for field, column in zip(schema, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class TableBuilder:
    """Collects rows of all kinds and gives Arrow batches or tables.

    ``rows`` holds what :meth:`take_batches` has not yet taken away:
    ``builder.rows["exchanges"].append(row)``.
    """

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {kind: [] for kind in KINDS}
        self._batches: dict[str, list[pa.RecordBatch]] = {kind: [] for kind in KINDS}

    def append(self, kind: str, row: Row) -> None:
        self.rows[kind].append(row)

    def extend(self, kind: str, rows: Iterable[Row]) -> None:
        self.rows[kind].extend(rows)

    def __len__(self) -> int:
        """Rows not yet taken."""
        return sum(map(len, self.rows.values()))

    def take_batches(self) -> dict[str, pa.RecordBatch]:
        """Rows since the last call, one batch per kind that has any."""
        taken = {kind: batch_from_rows(kind, rows) for kind, rows in self.rows.items() if rows}
        for rows in self.rows.values():
            rows.clear()
        return taken

    def flush(self) -> None:
        """Turns the rows held into batches that :meth:`tables` will return (frees the Python
        objects).
        """
        for kind, batch in self.take_batches().items():
            self._batches[kind].append(batch)

    def tables(self) -> dict[str, pa.Table]:
        """Everything flushed or appended and not taken, one table per kind (empty ones too)."""
        self.flush()
        return {kind: table_from_batches(kind, self._batches[kind]) for kind in KINDS}


def table_from_batches(kind: str, batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """Batches of one kind to a table (zero-copy; each batch keeps its dictionaries)."""
    return pa.Table.from_batches(list(batches), schema=SCHEMAS[kind])


def empty_tables() -> dict[str, pa.Table]:
    """A table without rows per kind."""
    return {kind: schema.empty_table() for kind, schema in SCHEMAS.items()}


def plain(table: pa.Table) -> pa.Table:
    """The same rows with dictionaries decoded, in one chunk: equal for any two tables of equal
    rows.
    """
    fields = []
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        kind = field.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
            column = column.cast(kind)
        fields.append(pa.field(field.name, kind, nullable=field.nullable))
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields)).combine_chunks()
