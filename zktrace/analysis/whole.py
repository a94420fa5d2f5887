"""Tables of rows that an engine keeps, made when they are asked for.

An engine with the ability ``whole`` keeps rows in a fraction of the memory that their columns take,
which is also why :func:`zktrace.read` costs little more than decoding. A table is made at first
use, by taking its rows out of the engine: they are never there twice. Must not know how an engine
keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any

from zktrace.engine.base import KINDS, WholeEngine

if TYPE_CHECKING:
    import pyarrow as pa


class KeptTables(Mapping[str, "pa.Table"]):
    """Tables by kind, all kinds. Threads may share it; a copy, or what is pickled, has them all
    made.
    """

    def __init__(self, engine: WholeEngine) -> None:
        self._engine: WholeEngine | None = engine
        self._made: dict[str, pa.Table] = {}
        self._lock = Lock()

    def __getitem__(self, kind: str) -> pa.Table:
        with self._lock:
            if kind not in self._made:
                if kind not in KINDS or self._engine is None:
                    raise KeyError(kind)
                self._made[kind] = _table(self._engine, kind)
                if len(self._made) == len(KINDS):
                    self._engine = None
            return self._made[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(KINDS)

    def __len__(self) -> int:
        return len(KINDS)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def rows(self, kind: str) -> int:
        """How many rows a table has; none is made."""
        with self._lock:
            if kind in self._made or self._engine is None:
                return int(self._made[kind].num_rows)
            return self._engine.whole_rows(kind)


def _table(engine: WholeEngine, kind: str) -> pa.Table:
    """A table that an engine kept; it has one dictionary per column."""
    import pyarrow as pa

    from zktrace.analysis.tables import table_from_batches

    tables = []
    for batches, texts in engine.take_whole(kind):
        parts = [pa.record_batch(batch) for batch in batches]
        if texts is None:
            tables.append(table_from_batches(kind, parts))
        else:
            tables.append(_with_texts(kind, parts, texts))
    if len(tables) == 1 and texts is not None:
        return tables[0]  # its batches share their dictionaries
    return one_dictionary(pa.concat_tables(tables) if tables else table_from_batches(kind, ()))


def _with_texts(kind: str, batches: list[pa.RecordBatch], texts: list[Any]) -> pa.Table:
    """A table of batches that have keys in place of texts."""
    import pyarrow as pa

    from zktrace.analysis.tables import SCHEMAS

    left = iter(texts)
    schema = SCHEMAS[kind]
    columns = pa.Table.from_batches(batches).columns
    for at, field in enumerate(schema):
        if pa.types.is_dictionary(field.type):
            values = pa.array(next(left))
            columns[at] = pa.chunked_array(
                [pa.DictionaryArray.from_arrays(c, values, safe=False) for c in columns[at].chunks],
                type=field.type,
            )
    return pa.Table.from_arrays(columns, schema=schema)


def one_dictionary(table: pa.Table) -> pa.Table:
    """The same rows with one dictionary per column. An engine's dictionaries live on from batch to
    batch: where each is the beginning of the last one, that does for all, and no index is touched.
    """
    import pyarrow as pa

    columns = table.columns
    for at, column in enumerate(columns):
        if not pa.types.is_dictionary(column.type) or column.num_chunks < 2:
            continue
        chunks = column.chunks
        last = chunks[-1].dictionary
        if all(_begins(last, chunk.dictionary) for chunk in chunks):
            columns[at] = pa.chunked_array(
                [pa.DictionaryArray.from_arrays(one.indices, last, safe=False) for one in chunks]
            )
        else:
            columns[at] = column.unify_dictionaries()
    return pa.Table.from_arrays(columns, schema=table.schema)


def _begins(whole: pa.Array, part: pa.Array) -> bool:
    return len(part) <= len(whole) and whole.slice(0, len(part)).equals(part)
