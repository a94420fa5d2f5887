"""Columns of event tables as numpy arrays, gathered batch by batch.

What analyses over many rows stand on: integers with one value for "not known", text as small
numbers that mean the same in all batches (each batch has dictionaries of its own). Must not know
what the columns mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, overload

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Codes: TypeAlias = np.ndarray[Any, np.dtype[np.int32]]
Bools: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

#: What stands for an integer that is not known. No zxid, time or size is so small; an observer's
#: vote is, and null in the tables, too.
NONE: Final = -(1 << 63)


def ints(column: pa.Array) -> Ints:
    """An integer column as int64, :data:`NONE` where it is null.

    A copy: an array that shows a batch's memory holds all of the batch.
    """
    raw, known = _raw(column)
    values: Ints = raw.astype(np.int64)
    if known is not None:
        values[~known] = NONE
    return values


def flags(column: pa.Array) -> Bools:
    """A column of booleans, null being false."""
    found = np.zeros(len(column), dtype=np.bool_)
    validity, data = column.buffers()
    if column.null_count == len(column) or data is None:
        return found
    begin, end = column.offset, column.offset + len(column)
    found = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=end, bitorder="little") != 0
    if validity is not None:
        known = np.frombuffer(validity, dtype=np.uint8)
        found &= np.unpackbits(known, count=end, bitorder="little") != 0
    shown: Bools = found[begin:]
    return shown


def _raw(column: pa.Array) -> tuple[np.ndarray[Any, Any], Bools | None]:
    """An integer column's values, those of nulls being anything, and which are none (None: all).

    By the buffers themselves: pyarrow.compute takes longer to import than this takes.
    """
    validity, data = column.buffers()
    begin, end = column.offset, column.offset + len(column)
    values = np.frombuffer(data, dtype=column.type.to_pandas_dtype())[begin:end]
    if not column.null_count or validity is None:
        return values, None
    bits = np.unpackbits(np.frombuffer(validity, dtype=np.uint8), count=end, bitorder="little")
    return values, bits[begin:].view(np.bool_)


class Words:
    """Text as numbers: 0, 1, 2 ... in the order in which words come, -1 for null. Words given at
    the start have the first numbers.
    """

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._codes: dict[str, int] = {word: code for code, word in enumerate(words)}
        self._list = list(self._codes)

    def __len__(self) -> int:
        return len(self._list)

    @property
    def all(self) -> Sequence[str]:
        """All words, by number."""
        return self._list

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
        return self.mapped(column.dictionary.to_pylist(), places(column))

    def mapped(self, words: Iterable[str], codes: Codes) -> Codes:
        """The numbers of texts that are given as places in a list, -1 for null."""
        table = np.array([*map(self.code, words), -1], dtype=np.int32)
        return table[codes]


def places(column: pa.Array) -> Codes:
    """Places of a dictionary-encoded column in its dictionary, -1 for null."""
    if not len(column.indices):
        return np.empty(0, dtype=np.int32)
    values, known = _raw(column.indices)
    found: Codes = values.astype(np.int32)
    if known is not None:
        found[~known] = -1
    return found


def ranked(values: Ints) -> tuple[Ints, Ints]:
    """Distinct values in ascending order, and which one each value is.

    By a table where values are close together, as zxids of an epoch are; else by sorting.
    """
    if not len(values):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    low, high = int(values.min()), int(values.max())
    if high - low < _TABLE_ROWS * len(values) + _TABLE_MIN:
        near = values - low
        there = np.zeros(high - low + 1, dtype=np.bool_)
        there[near] = True
        found = np.flatnonzero(there)
        number = np.empty(len(there), dtype=np.int64)
        number[found] = np.arange(len(found))
        return found + low, number[near]
    ordered = np.sort(values)
    ordered = ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))]
    return ordered, np.searchsorted(ordered, values)


class Texts:
    """A text column as numbers and dictionaries, read one by one when it is shown.

    Batches of the native engine have one dictionary that grows: it is held once.
    """

    def __init__(self) -> None:
        self._dictionaries: list[Dictionary] = []
        self._batch: list[Codes] = []
        self._place: list[Codes] = []
        self._whole: tuple[Codes, Codes] | None = None

    def add(self, column: pa.Array, rows: Ints | None = None) -> None:
        """Takes a batch's column, or some rows of it."""
        where = places(column)
        where = where if rows is None else where[rows]
        dictionary = Dictionary.of_arrow(column.dictionary)
        if self._dictionaries and dictionary.continues(self._dictionaries[-1]):
            if len(dictionary) > len(self._dictionaries[-1]):
                self._dictionaries[-1] = dictionary.copy()
        else:
            self._dictionaries.append(dictionary.copy())
        self._batch.append(np.full(len(where), len(self._dictionaries) - 1, dtype=np.int32))
        self._place.append(where)
        self._whole = None

    def put(self, words: Dictionary, places: Codes) -> None:
        """Takes a whole column: places in a dictionary, -1 for null."""
        self._dictionaries.append(words)
        self._batch.append(np.full(len(places), len(self._dictionaries) - 1, dtype=np.int32))
        self._place.append(places)
        self._whole = None

    def keep(self, rows: Ints) -> None:
        """Only these rows, in this order."""
        batch, place = self._arrays()
        self._whole = (batch[rows], place[rows])
        self._batch, self._place = [self._whole[0]], [self._whole[1]]

    def __len__(self) -> int:
        return len(self._arrays()[0])

    def __getitem__(self, row: int) -> str | None:
        batch, place = self._arrays()
        if place[row] < 0:
            return None
        dictionary = self._dictionaries[int(batch[row])]
        return dictionary[int(place[row])]

    def _arrays(self) -> tuple[Codes, Codes]:
        if self._whole is None:
            empty = np.empty(0, dtype=np.int32)
            self._whole = (
                np.concatenate(self._batch or [empty]),
                np.concatenate(self._place or [empty]),
            )
            self._batch, self._place = [self._whole[0]], [self._whole[1]]
        return self._whole


#: A table of numbers may have so many rows per value, and so many in any case.
_TABLE_ROWS: Final = 4
_TABLE_MIN: Final = 65_536


class Dictionary(Sequence[str]):
    """Distinct texts as two blocks of memory; each is made when it is asked for."""

    def __init__(self, ends: Any, texts: Any) -> None:
        """Text number i lies in `texts` from ``ends[i]`` to ``ends[i + 1]``."""
        self._ends = ends
        self._bytes = texts
        self._size = len(ends) - 1

    @classmethod
    def of(cls, ends: bytes, texts: bytes) -> Dictionary:
        """Of little-endian numbers of 32 bits."""
        return cls(np.frombuffer(ends, dtype="<i4"), texts)

    @classmethod
    def of_arrow(cls, words: pa.Array) -> Dictionary:
        """Of an Arrow array of texts, in whose memory they stay."""
        size = len(words)
        if not size:
            return cls(np.zeros(1, dtype=np.int32), b"")
        _, ends, data = words.buffers()
        begin = words.offset
        places = np.frombuffer(ends, dtype=np.int32)[begin : begin + size + 1]
        return cls(places, memoryview(data) if data is not None else b"")

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(self._size))]
        if not 0 <= place < self._size:
            raise IndexError(place)
        begin, end = int(self._ends[place]), int(self._ends[place + 1])
        return bytes(self._bytes[begin:end]).decode("utf-8", "replace")

    def copy(self) -> Dictionary:
        """The same in memory of its own."""
        return Dictionary(self._ends.copy(), bytes(self._bytes[: int(self._ends[-1])]))

    def continues(self, other: Dictionary) -> bool:
        """Whether it begins with all words of another one."""
        end = int(other._ends[-1])
        return (
            self._size >= other._size
            and np.array_equal(self._ends[: other._size + 1], other._ends)
            and bytes(self._bytes[:end]) == other._bytes
        )


class Gatherer:
    """Columns of one kind of event: numbers of some, words of others, kept as arrays."""

    def __init__(
        self, numbers: Sequence[str], words: Mapping[str, Words], flags: Sequence[str] = ()
    ) -> None:
        self._numbers = tuple(numbers)
        self._words = dict(words)
        self._flags = tuple(flags)
        names = (*self._numbers, *self._words, *self._flags)
        self._parts: dict[str, list[Any]] = {name: [] for name in names}
        self.rows = 0

    def add(self, batch: pa.RecordBatch, rows: Ints | None = None) -> None:
        """Takes the columns of a batch, or some rows of them."""
        for name in self._numbers:
            column = ints(batch.column(name))
            self._parts[name].append(column if rows is None else column[rows])
        for name, words in self._words.items():
            codes = words.codes(batch.column(name))
            self._parts[name].append(codes if rows is None else codes[rows])
        for name in self._flags:
            marks = flags(batch.column(name))
            self._parts[name].append(marks if rows is None else marks[rows])
        self.rows += batch.num_rows if rows is None else len(rows)

    def put(self, columns: Mapping[str, Any], rows: int) -> None:
        """Takes whole columns: numbers, and numbers of words."""
        for name, column in columns.items():
            self._parts[name].append(column)
        self.rows += rows

    def take(self) -> dict[str, Any]:
        """The arrays, each as long as all batches together."""
        taken = {}
        for name, parts in self._parts.items():
            if len(parts) == 1:
                taken[name] = parts[0]
                continue
            taken[name] = np.concatenate(parts) if parts else np.empty(0, self._dtype(name))
            parts.clear()  # one column at a time is there twice
            parts.append(taken[name])
        return taken

    def _dtype(self, name: str) -> type[np.generic]:
        if name in self._flags:
            return np.bool_
        return np.int32 if name in self._words else np.int64


def grouped(*columns: Ints | Codes) -> tuple[list[tuple[int, ...]], Ints]:
    """Distinct tuples of columns of small numbers, in order, and which one each row has.

    Numbers are those of things that were counted (none below 0), so that a tuple fits 63 bits.
    """
    if not len(columns[0]):
        return [], np.empty(0, dtype=np.int64)
    sizes = [int(column.max()) + 1 for column in columns]
    packed = columns[0].astype(np.int64)
    for column, size in zip(columns[1:], sizes[1:], strict=True):
        packed = packed * size + column
    found, which = ranked(packed)
    rows = []
    for key in found.tolist():
        row = []
        for size in reversed(sizes[1:]):
            key, rest = divmod(key, size)
            row.append(rest)
        rows.append((key, *reversed(row)))
    return rows, which


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
