"""The latest events, as the tables they came in: for the tail, for filters, for details.

A ring of batches, bounded in rows; all but the newest are kept compressed, as Arrow's IPC format
has it. Readers take references (batches never change) and work on them in their own time; a reader
that follows keeps the number of the last event it saw, so that a slow one falls behind by itself
and delays nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

import pyarrow as pa

from zktrace.analysis.filter import Filter

#: Some 10 MB compressed.
RECENT_ROWS: Final = 65_536
#: Rows that are kept as they came: what followers read.
PLAIN_ROWS: Final = 8_192

Batches = Mapping[str, pa.RecordBatch]


def _compressed(batch: pa.RecordBatch) -> pa.Buffer:
    codec = "lz4" if pa.Codec.is_available("lz4") else None
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


class Step:
    """Batches that came together; numbers of the first and the last of their events."""

    __slots__ = ("_packed", "_plain", "first", "last", "rows")

    def __init__(self, batches: Batches) -> None:
        self.first, self.last = _numbers(batches)
        self.rows = sum(batch.num_rows for batch in batches.values())
        self._plain: Batches | None = batches
        self._packed: dict[str, pa.Buffer] = {}

    def pack(self) -> None:
        """To as few bytes as is worth it."""
        if self._plain is not None:
            self._packed = {kind: _compressed(batch) for kind, batch in self._plain.items()}
            self._plain = None

    def batches(self, *kinds: str) -> dict[str, pa.RecordBatch]:
        """The batches of some kinds, or of all."""
        plain = self._plain
        if plain is not None:
            return {kind: batch for kind, batch in plain.items() if not kinds or kind in kinds}
        return {
            kind: pa.ipc.open_stream(packed).read_next_batch()
            for kind, packed in self._packed.items()
            if not kinds or kind in kinds
        }


def _numbers(batches: Batches) -> tuple[int, int]:
    columns = [batch.column("seq") for batch in batches.values()]
    firsts = [column[0].as_py() for column in columns]
    lasts = [column[len(column) - 1].as_py() for column in columns]
    return min(firsts), max(lasts)


class Recent:
    """The ring. `add` and `steps` not at the same time."""

    def __init__(self, rows: int = RECENT_ROWS) -> None:
        self._limit = rows
        self._steps: deque[Step] = deque()
        self._plain: deque[Step] = deque()
        self._plain_rows = 0
        self._rows = 0
        self.last = -1
        """Number of the latest event."""

    def __len__(self) -> int:
        return self._rows

    def add(self, batches: Batches) -> None:
        batches = {kind: batch for kind, batch in batches.items() if batch.num_rows}
        if not batches:
            return
        step = Step(batches)
        self._steps.append(step)
        self._plain.append(step)
        self._rows += step.rows
        self._plain_rows += step.rows
        self.last = step.last
        while len(self._steps) > 1 and self._rows - self._steps[0].rows >= self._limit:
            self._rows -= self._steps.popleft().rows
        while len(self._plain) > 1 and self._plain_rows > PLAIN_ROWS:
            old = self._plain.popleft()
            self._plain_rows -= old.rows
            old.pack()

    def steps(self, after: int = -1) -> list[Step]:
        """Steps with events of a number greater than `after`, oldest first."""
        found = []
        for step in reversed(self._steps):
            if step.last <= after:
                break
            found.append(step)
        return found[::-1]


def later(batches: Batches, after: int) -> dict[str, pa.RecordBatch]:
    """Events of a number greater than `after`."""
    result = {}
    for kind, batch in batches.items():
        numbers = batch.column("seq").to_numpy()
        start = int(numbers.searchsorted(after, side="right"))
        if start < len(numbers):
            result[kind] = batch.slice(start)
    return result


def matching(steps: list[Step], where: Filter | None) -> Iterator[dict[str, pa.RecordBatch]]:
    """The events of steps that a filter selects, latest step first."""
    for step in reversed(steps):
        batches = step.batches()
        if where is not None:
            batches = where.batches(batches)
        if batches:
            yield batches
