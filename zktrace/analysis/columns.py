"""Columns of event tables as numpy arrays, gathered batch by batch.

What analyses over many rows stand on: integers with one value for "not known", text as small
numbers that mean the same in all batches (each batch has dictionaries of its own). Must not know
what the columns mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints: TypeAlias = npt.NDArray[np.int64]
Codes: TypeAlias = npt.NDArray[np.int32]
Bools: TypeAlias = npt.NDArray[np.bool_]

#: What stands for an integer that is not known. No zxid, time or size is so small; an observer's
#: vote is, and null in the tables, too.
NONE: Final = -(1 << 63)


def ints(column: pa.Array) -> Ints:
    """An integer column as int64, :data:`NONE` where it is null."""
    if column.null_count:
        column = pc.fill_null(column.cast(pa.int64()), NONE)
    values: Ints = column.to_numpy(zero_copy_only=False)
    return values if values.dtype == np.int64 else values.astype(np.int64)


class Words:
    """Text as numbers: 0, 1, 2 ... in the order in which words come, -1 for null. Words given at
    the start have the first numbers.
    """

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._codes: dict[str, int] = {word: code for code, word in enumerate(words)}
        self._list = list(self._codes)

    def __len__(self) -> int:
        return len(self._list)

    def code(self, word: str | None) -> int:
        """The number of a word, a new one if need be."""
        if word is None:
            return -1
        code = self._codes.setdefault(word, len(self._list))
        if code == len(self._list):
            self._list.append(word)
        return code

    def word(self, code: int) -> str | None:
        """The word of a number."""
        return self._list[code] if code >= 0 else None

    def codes(self, column: pa.Array) -> Codes:
        """The numbers of a dictionary-encoded column."""
        table = np.array([*map(self.code, column.dictionary.to_pylist()), -1], dtype=np.int32)
        indices = column.indices
        if indices.null_count:
            indices = pc.fill_null(indices, len(table) - 1)
        codes: Codes = table[indices.to_numpy(zero_copy_only=False)]
        return codes


class Gatherer:
    """Columns of one kind of event: numbers of some, words of others, kept as arrays."""

    def __init__(self, numbers: Sequence[str], words: Mapping[str, Words]) -> None:
        self._numbers = tuple(numbers)
        self._words = dict(words)
        self._parts: dict[str, list[Any]] = {name: [] for name in (*self._numbers, *self._words)}
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Takes the columns of a batch."""
        for name in self._numbers:
            self._parts[name].append(ints(batch.column(name)))
        for name, words in self._words.items():
            self._parts[name].append(words.codes(batch.column(name)))
        self.rows += batch.num_rows

    def take(self) -> dict[str, Any]:
        """The arrays, each as long as all batches together."""
        return {
            name: np.concatenate(parts) if parts else np.empty(0, self._dtype(name))
            for name, parts in self._parts.items()
        }

    def _dtype(self, name: str) -> type[np.signedinteger[Any]]:
        return np.int32 if name in self._words else np.int64


def first_rows(keys: Ints, wanted: Ints) -> Ints:
    """For each of `wanted` the place where it first occurs in `keys`, -1 where it does not."""
    if not len(keys):
        return np.full(len(wanted), -1, dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    at = np.searchsorted(ordered, wanted)
    at[at == len(ordered)] = 0
    found: Ints = np.where(ordered[at] == wanted, order[at], -1)
    return found
