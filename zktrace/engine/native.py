"""The native engine: the Rust decoder of ``zktrace._native``, given the schema as text.

The same rows as :mod:`zktrace.engine.python` makes, as Arrow batches. Nothing is decoded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from zktrace._native import Engine as _Engine
from zktrace.engine.base import EngineOptions, Rows
from zktrace.engine.buckets import BOUNDS
from zktrace.wire.layout import schema_text

ABILITIES: Final[frozenset[str]] = frozenset({"aggregates", "json", "windows"})


def create(options: EngineOptions) -> NativeEngine:
    """A new engine for one capture."""
    return NativeEngine(options)


class NativeEngine:
    """See :class:`zktrace.engine.base.Engine`."""

    name = "native"

    def __init__(self, options: EngineOptions) -> None:
        engine = _Engine(
            schema_text(),
            BOUNDS,
            client_ports=options.client_ports,
            quorum_ports=options.quorum_ports,
            election_ports=options.election_ports,
            tables=options.tables,
            aggregate_by=options.aggregate_by,
            path_depth=options.path_depth,
            json_form=options.json_form,
            hash_key=options.hash_key,
            max_connections=options.max_connections,
            window_keys=options.window_keys,
            total_keys=options.total_keys,
        )
        self._engine = engine
        # what crosses into Rust as it is
        self.add_source = engine.add_source
        self.wanted = engine.wanted
        self.feed = engine.feed
        self.end_source = engine.end_source
        self.finish = engine.finish
        self.coverage = engine.coverage
        self.aggregates = engine.aggregates
        self.take_json = engine.take_json
        self.drain = engine.drain
        self.totals = engine.totals

    def take(self) -> Mapping[str, Rows]:
        kinds: dict[str, list[Rows]] = {}
        while step := self._engine.take_step():
            for batch in step:
                kinds.setdefault(batch.kind, []).append(batch)
        return {
            kind: batches[0] if len(batches) == 1 else _joined(batches)
            for kind, batches in kinds.items()
        }


def _joined(batches: list[Any]) -> Rows:
    """Batches of one kind as one; rare, since a batch is cut early only when its text is large."""
    import pyarrow as pa

    table = pa.Table.from_batches([pa.record_batch(batch) for batch in batches])
    return table.unify_dictionaries().combine_chunks().to_batches()[0]
