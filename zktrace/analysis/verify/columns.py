"""The columns of Arrow tables that checks look at, made when they are first asked for.

Must not know what the columns mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from zktrace.analysis.columns import Bools, Codes, Ints, Words, flags, ints

if TYPE_CHECKING:
    import pyarrow as pa

#: Kinds of events that are looked at.
KINDS: Final = ("exchanges", "watch_events", "connections", "anomalies", "quorum")


class Columns:
    """Those of one kind of event."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._ints: dict[str, Ints] = {}
        self._codes: dict[str, Codes] = {}

    def ints(self, name: str) -> Ints:
        """Integers, :data:`~zktrace.analysis.columns.NONE` for null; ``stat.mzxid`` is a field of
        a struct.
        """
        found = self._ints.get(name)
        if found is None:
            found = self._ints[name] = self._make_ints(name)
        return found

    def codes(self, name: str) -> Codes:
        """Places in :meth:`words`, -1 for null."""
        found = self._codes.get(name)
        if found is None:
            found = self._codes[name] = self._make_codes(name)
        return found

    def flags(self, name: str) -> Bools:
        """Booleans, null being false."""
        raise NotImplementedError

    def words(self, name: str) -> Sequence[str]:
        """The distinct texts of a column."""
        raise NotImplementedError

    def value(self, name: str, row: int) -> Any:
        """One value, None for null."""
        raise NotImplementedError

    def _make_ints(self, name: str) -> Ints:
        raise NotImplementedError

    def _make_codes(self, name: str) -> Codes:
        raise NotImplementedError

    def among(self, name: str, words: Set[str]) -> Bools:
        """Which rows have one of these texts."""
        table = np.array([*(word in words for word in self.words(name)), False])
        found: Bools = table[self.codes(name)]
        return found

    def among_at(self, name: str, words: Set[str], rows: Ints) -> Bools:
        """Which of these rows have one of these texts."""
        table = np.array([*(word in words for word in self.words(name)), False])
        found: Bools = table[self.codes(name)[rows]]
        return found


class TableColumns(Columns):
    """Of an Arrow table."""

    def __init__(self, table: pa.Table) -> None:
        super().__init__(table.num_rows)
        self._table = table
        self._words: dict[str, Words] = {}

    def flags(self, name: str) -> Bools:
        parts = [flags(chunk) for chunk in self._table.column(name).chunks]
        return np.concatenate(parts) if parts else np.empty(0, np.bool_)

    def words(self, name: str) -> Sequence[str]:
        self.codes(name)
        return self._words[name].all

    def value(self, name: str, row: int) -> Any:
        return self._table.column(name)[row].as_py()

    def _make_ints(self, name: str) -> Ints:
        column, _, part = name.partition(".")
        chunks = self._table.column(column).chunks
        if part:
            # flattened, so that a struct's null is its fields' one
            at = self._table.schema.field(column).type.get_field_index(part)
            chunks = [chunk.flatten()[at] for chunk in chunks]
        parts = [ints(chunk) for chunk in chunks]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _make_codes(self, name: str) -> Codes:
        words = self._words[name] = Words()
        parts = [words.codes(chunk) for chunk in self._table.column(name).chunks]
        return np.concatenate(parts) if parts else np.empty(0, np.int32)


def of_tables(tables: Mapping[str, pa.Table]) -> dict[str, Columns]:
    """Columns of tables, those of :func:`zktrace.read` say."""
    return {kind: TableColumns(tables[kind]) for kind in KINDS}


def united(*columns: Sequence[str]) -> tuple[list[Ints], int]:
    """One numbering of the texts of several columns: the number of each text of each, and how many
    numbers there are.
    """
    numbers: dict[str, int] = {}
    found = [
        np.array([numbers.setdefault(text, len(numbers)) for text in one], dtype=np.int64)
        for one in columns
    ]
    return found, len(numbers)
