"""The native sinks, fed with rows made in Python. Only for tests marked :data:`needs_native`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pyarrow as pa
import pytest

from tests.analysis.rows import Event
from zktrace.engine.buckets import BOUNDS


def _module() -> Any:
    return import_module("zktrace._native")


def _built() -> bool:
    try:
        return hasattr(_module(), "debug_tables")
    except ImportError:
        return False


#: Only the extension is needed here, not the whole engine.
needs_native = pytest.mark.skipif(not _built(), reason="the native engine was not built")


def batches(events: list[Event], batch_rows: int) -> list[tuple[str, pa.RecordBatch]]:
    """The events as native record batches, in the order in which they were cut."""
    cut = _module().debug_tables(events, batch_rows)
    return [(batch.kind, pa.record_batch(batch)) for batch in cut]


class Whole:
    """The events as an engine keeps them whole: :class:`zktrace.engine.base.WholeEngine`."""

    def __init__(self, events: list[Event]) -> None:
        self._tables = {kind: (n, kept) for kind, n, kept in _module().debug_whole(events)}

    def take_whole(self, kind: str) -> Any:
        return self._tables[kind][1]

    def whole_rows(self, kind: str) -> int:
        return int(self._tables[kind][0])


def aggregates(
    events: list[Event],
    by: tuple[str, ...],
    *,
    depth: int | None = None,
    key_limit: int = 100_000,
    top: int | None = None,
) -> Any:
    """The events as native aggregates: ``StatsData``."""
    return _module().debug_aggregates(events, list(BOUNDS), list(by), depth, key_limit, top)


def histogram(values: list[int]) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    """The bucket of each value, the counts, the quantiles."""
    result: tuple[list[int], list[tuple[int, int]], list[int]]
    result = _module().debug_histogram(list(BOUNDS), values)
    return result


def text(raw: bytes) -> str:
    return str(_module().debug_text(raw))
