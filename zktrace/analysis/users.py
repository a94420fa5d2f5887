"""Whose each row is, from what connections told.

Connections tell of a user by a row of their own (event ``authenticated``, ``detail`` who it is),
which comes before all that the user's name is on: the user of a row is that of the last such row of
its connection with a smaller ``seq``. Knows nothing of what is counted.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zktrace.stream.events import AUTHENTICATED

_NONE: Final = np.zeros(0, dtype=np.int64)


class Users:
    """Grows with the number of times that a connection told of a user."""

    def __init__(self) -> None:
        self._seqs: list[int] = []
        self._conns: list[int] = []
        self._names: list[str] = []

    def add(self, connections: pa.Table | pa.RecordBatch) -> None:
        """Rows of the table of connections, in order of ``seq`` over all calls."""
        wanted = pc.fill_null(
            pc.equal(pc.cast(connections["event"], pa.utf8()), AUTHENTICATED), False
        )
        told = connections.select(["seq", "conn", "detail"]).filter(wanted)
        for seq, conn, name in zip(*(told[i].to_pylist() for i in range(3)), strict=True):
            if name is not None:
                self._seqs.append(seq)
                self._conns.append(conn)
                self._names.append(name)

    def of(self, rows: pa.Table | pa.RecordBatch) -> pa.DictionaryArray:
        """The user of each row of a table with ``seq`` and ``conn``; null where none is known."""
        names = sorted(set(self._names))
        at = {name: i for i, name in enumerate(names)}
        indices = np.full(rows.num_rows, -1, dtype=np.int32)
        if names:
            indices = self._indices(_longs(rows["seq"]), _longs(rows["conn"]), at)
        return pa.DictionaryArray.from_arrays(
            pa.array(indices, mask=indices < 0), pa.array(names, pa.utf8())
        )

    def _indices(self, seqs: Any, conns: Any, at: dict[str, int]) -> Any:
        changes = len(self._seqs)
        known, ranks = np.unique(np.array(self._conns, dtype=np.int64), return_inverse=True)
        # A change is after those of smaller connections, and the changes of its own before it.
        keys = ranks.astype(np.int64) * (changes + 1) + np.arange(1, changes + 1)
        order = np.argsort(keys)
        named = np.array([at[name] for name in self._names], dtype=np.int32)[order]
        place = np.minimum(np.searchsorted(known, conns), len(known) - 1)
        before = np.searchsorted(np.array(self._seqs, dtype=np.int64), seqs)
        last = np.searchsorted(keys[order], place * (changes + 1) + before, side="right") - 1
        found = (known[place] == conns) & (last >= 0)
        found &= ranks[order][np.maximum(last, 0)] == place
        return np.where(found, named[np.maximum(last, 0)], np.int32(-1)).astype(np.int32)


def _longs(column: pa.Array | pa.ChunkedArray) -> Any:
    return column.to_numpy() if len(column) else _NONE
