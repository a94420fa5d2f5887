"""The latest events, as the tables they came in: for the tail, for filters, for details.

A ring of batches, bounded in rows. Readers take references (batches never change) and work on them
in their own time; a reader that follows keeps the number of the last event it saw, so that a slow
one falls behind by itself and delays nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import pyarrow as pa

from zktrace.analysis.filter import Filter

#: Some 30 MB.
RECENT_ROWS: Final = 100_000

Batches = Mapping[str, pa.RecordBatch]


class Step(NamedTuple):
    """Batches that came together; numbers of the first and the last of their events."""

    first: int
    last: int
    rows: int
    batches: Batches


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
        self._rows = 0
        self.last = -1
        """Number of the latest event."""

    def __len__(self) -> int:
        return self._rows

    def add(self, batches: Batches) -> None:
        batches = {kind: batch for kind, batch in batches.items() if batch.num_rows}
        if not batches:
            return
        first, last = _numbers(batches)
        rows = sum(batch.num_rows for batch in batches.values())
        self._steps.append(Step(first, last, rows, batches))
        self._rows += rows
        self.last = last
        while len(self._steps) > 1 and self._rows - self._steps[0].rows >= self._limit:
            self._rows -= self._steps.popleft().rows

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
        batches = dict(step.batches)
        if where is not None:
            batches = where.batches(batches)
        if batches:
            yield batches
