"""The native engine's plain arrays: the columns of a whole capture that an analysis asked for.

What ``zktrace trace`` of several capture points stands on where the engine can give it (ability
``arrays``): no batches, no Arrow, each number in as few bytes as it takes. Columns have the names
and meanings of :mod:`zktrace.analysis.tables`, ``kind.column``. Must not know what they are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from zktrace.analysis.columns import NONE, Bools, Codes, Dictionary, Ints
from zktrace.analysis.native import drive
from zktrace.engine.driver import Run

#: What stands for an unknown value among narrow numbers (``arrays.rs``).
_NARROW_NONE: Final = -(1 << 31)


class Arrays:
    """Columns by kind of event. What is given out is not to be written to."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        """`given`: what the engine's ``arrays()`` gave."""
        self._columns: dict[str, dict[str, tuple[int, bytes]]] = given["columns"]
        dictionaries: dict[int, Dictionary] = {}

        def dictionary(parts: tuple[bytes, bytes]) -> Dictionary:
            # columns that share a dictionary are given the same object
            return dictionaries.setdefault(id(parts), Dictionary.of(*parts))

        self._words = {key: dictionary(parts) for key, parts in given["texts"].items()}
        self._ends = [np.frombuffer(keys, dtype=np.int32) for keys in given["ends"]]
        self._addresses = dictionary(given["addresses"])

    def rows(self, kind: str) -> int:
        """Rows of a kind of which a column was asked for."""
        width, data = self._columns[kind]["seq"]
        return len(data) // width

    def ints(self, kind: str, column: str) -> Ints:
        """Integers (:data:`~zktrace.analysis.columns.NONE` for null)."""
        width, data = self._columns[kind][column]
        if width == 8:
            return np.frombuffer(data, dtype="<i8")
        narrow = np.frombuffer(data, dtype="<i4")
        values: Ints = narrow.astype(np.int64)
        values[narrow == _NARROW_NONE] = NONE
        return values

    def codes(self, kind: str, column: str) -> Codes:
        """Places in :meth:`words`, -1 for null."""
        if column in ("client", "server"):
            return self._ends[column == "server"][self.ints(kind, "conn")]
        _, data = self._columns[kind][column]
        places: Codes = np.maximum(np.frombuffer(data, dtype="<i4"), -1)
        return places

    def words(self, kind: str, column: str) -> Dictionary:
        """The distinct texts of a column; those of all columns of paths are one object."""
        if column in ("client", "server"):
            return self._addresses
        return self._words[kind, column]

    def flags(self, kind: str, column: str) -> Bools:
        """Booleans, null being false."""
        _, data = self._columns[kind][column]
        found: Bools = np.frombuffer(data, dtype="<i4") == 1
        return found


def taken(run: Run) -> Arrays:
    """What a run of :func:`~zktrace.analysis.native.array_run` gives; drives it to its end."""
    return Arrays(drive(run).arrays())
