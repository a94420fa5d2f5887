"""The native engine: the Rust decoder of ``zktrace._native``, given the schema as text: that of
:func:`zktrace.wire.layout.schema_text` when it was built, which a test holds to today's, so that a
start need not compile the codecs of all records.

The same rows as :mod:`zktrace.engine.python` makes, as Arrow batches. Nothing is decoded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from zktrace._native import SCHEMA
from zktrace._native import Engine as _Engine
from zktrace._native import LiveCapture as _LiveCapture
from zktrace.engine.base import EngineOptions, Rows
from zktrace.engine.buckets import BOUNDS

if TYPE_CHECKING:
    from zktrace._native import Relay as _Relay
    from zktrace.capture.live import Plan, Taker, Turn

ABILITIES: Final[frozenset[str]] = frozenset(
    {"aggregates", "analysis", "arrays", "json", "kept", "shared", "whole", "windows"}
)


def create(options: EngineOptions) -> NativeEngine:
    """A new engine for one capture."""
    return NativeEngine(options)


def schema_text() -> str:
    """The schema that the engine is given."""
    return SCHEMA


class NativeEngine:
    """See :class:`zktrace.engine.base.Engine`."""

    name = "native"

    def __init__(self, options: EngineOptions) -> None:
        engine = _Engine(
            SCHEMA,
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
            whole=options.whole,
            keep=options.keep,
            arrays=options.arrays,
            array_ops=options.array_ops,
            txn_key=options.txn_key,
        )
        self._engine = engine
        # what crosses into Rust as it is
        self.add_source = engine.add_source
        self.wanted = engine.wanted
        self.feed = engine.feed
        self.end_source = engine.end_source
        self.packet = engine.packet
        self.tick = engine.tick
        self.kernel_drops = engine.kernel_drops
        self.finish = engine.finish
        self.coverage = engine.coverage
        self.aggregates = engine.aggregates
        self.arrays = engine.arrays
        self.config_texts = engine.config_texts
        self.writes = engine.writes
        self.verify = engine.verify
        self.take_json = engine.take_json
        self.drain = engine.drain
        self.totals = engine.totals
        self.take_whole = engine.take_whole
        self.whole_rows = engine.whole_rows
        self.kept = engine.kept

    def feed_from(self, relay: _Relay, tap: int, source: int, budget_ms: int) -> None:
        """Feeds a source with what a proxy's tap gives, for up to so long, without Python."""
        relay.feed(tap, self._engine, source, budget_ms)

    def take(self) -> Mapping[str, Rows]:
        kinds: dict[str, list[Rows]] = {}
        while step := self._engine.take_step():
            for batch in step:
                kinds.setdefault(batch.kind, []).append(batch)
        return {
            kind: batches[0] if len(batches) == 1 else _joined(batches)
            for kind, batches in kinds.items()
        }


def listen(plan: Plan) -> NativeCapture:
    """Begins to capture for engines of this module. OSError where it may not,
    NotImplementedError where there is no such thing.
    """
    return NativeCapture(plan)


class NativeCapture:
    """See :class:`zktrace.capture.live.Capture`: rings shared with the kernel."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._capture: _LiveCapture | None = _LiveCapture(
            [(interface.index, interface.loopback) for interface in plan.interfaces],
            plan.program(),
            cooked=plan.cooked,
            promiscuous=plan.promiscuous,
            ring_bytes=plan.ring_bytes,
            block_ms=plan.block_ms,
            record=plan.record or "",
        )

    def _opened(self) -> _LiveCapture:
        if self._capture is None:
            raise ValueError("the capture was closed")
        return self._capture

    def wait(self, timeout_ms: int) -> bool:
        return self._opened().wait(timeout_ms)

    def turn(self, taker: Taker, budget_ms: int, most: int, stay: bool = False) -> Turn:
        from zktrace.capture.live import Turn

        assert isinstance(taker, NativeEngine)
        return Turn(*self._opened().turn(taker._engine, budget_ms, most, stay))

    def discard(self) -> None:
        self._opened().discard()

    def sample(self, level: int) -> bool:
        self._opened().filter(self._plan.program(level))
        return True

    def drops(self) -> int:
        return self._opened().drops()

    def take_records(self) -> bytes:
        return self._opened().take_records()

    def close(self) -> None:
        self._capture = None


def _joined(batches: list[Any]) -> Rows:
    """Batches of one kind as one; rare, since a batch is cut early only when its text is large."""
    import pyarrow as pa

    table = pa.Table.from_batches([pa.record_batch(batch) for batch in batches])
    return table.unify_dictionaries().combine_chunks().to_batches()[0]
