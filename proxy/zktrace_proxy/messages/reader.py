"""Exchanges out of capture files, streaming: memory does not grow with the capture.

Capture, flow and pairing are zktrace's Python engine (:mod:`zktrace.engine.frames`); this module
drives it and says what was not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from zktrace.capture.source import Source
from zktrace.engine.base import EngineOptions
from zktrace.engine.driver import Run
from zktrace.engine.frames import FrameEngine
from zktrace.stream.events import COMPLETE, Row
from zktrace.wire.opcodes import CLOSE_SESSION
from zktrace_proxy.messages.exchanges import (
    CONNECT_OP,
    END_OP,
    Conversation,
    Conversations,
    Exchange,
)


@dataclass(slots=True)
class Heard:
    """What a capture held beside exchanges, filled while it is read."""

    conversations: dict[int, Conversation] = field(default_factory=dict)
    coverage: dict[str, Any] = field(default_factory=dict)
    four_letter: int = 0

    @property
    def gaps(self) -> int:
        """Places in client connections where bytes are missing."""
        return sum(one.gaps for one in self.conversations.values())

    @property
    def filtered(self) -> bool:
        """Only what a filter let through was recorded."""
        return bool(self.coverage.get("filtered"))

    @property
    def joined(self) -> int:
        """Connections that were under way when the capture began."""
        return sum(not one.opened for one in self.conversations.values())

    @property
    def orphans(self) -> int:
        return sum(one.orphans for one in self.conversations.values())

    @property
    def dialects(self) -> int:
        return sum(one.dialect for one in self.conversations.values())

    @property
    def flows(self) -> dict[str, int]:
        """Connections by role."""
        return dict(self.coverage.get("flows", {}))


Progress = Callable[[int, int | None], None]


class Reader:
    """Iterating gives the exchanges; `heard` is complete when that is over.

    With `where`, a filter expression of the project's language, only exchanges that it selects are
    given; connects, ends of connections and closeSession always are.

    :raises zktrace.capture.errors.CaptureError: a source that is no capture.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        options: EngineOptions | None = None,
        *,
        where: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.heard = Heard()
        self._ready: list[Exchange] = []
        self._sink = Conversations(self._ready.append, self._begin)
        self._filter = None
        if where is not None:
            from zktrace.analysis.filter import compile_filter

            self._filter = compile_filter(where)
        #: rows that the filter selects, and of each connection what was left out
        self._chosen: set[int] = set()
        self._left_out: dict[int, int] = {}
        rows = self._filter is not None
        self._engine = FrameEngine(options or EngineOptions(), self._sink, rows=rows)
        if rows:
            self._sink.row_of = self._engine.last_row
        self._run = Run(sources, self._engine, batch_rows=1, progress=progress)

    def _begin(self, conversation: Conversation) -> None:
        self.heard.conversations[conversation.conn] = conversation

    def stop(self) -> None:
        """Ends reading soon, as if the capture ended there."""
        self._run.stop()

    def __iter__(self) -> Iterator[Exchange]:
        for _ in self._run:
            yield from self._take()
        yield from self._take()
        self.heard.coverage = self._run.coverage()

    def _take(self) -> Iterator[Exchange]:
        rows = self._engine.take()
        self.heard.four_letter += len(rows["four_letter"])
        ready = list(self._ready)
        self._ready.clear()
        if self._filter is None:
            yield from ready
            return
        self._select(rows["exchanges"])
        yield from filter(self._is_chosen, ready)

    def _select(self, rows: list[Row]) -> None:
        """Remembers which rows the filter selects, until their exchanges come."""
        if not rows:
            return
        from zktrace.analysis.tables import batch_from_rows

        assert self._filter is not None
        batch = batch_from_rows("exchanges", rows)
        mask = self._filter.mask("exchanges", batch).to_pylist()
        states = batch.column("state").to_pylist()
        ops = batch.column("op").to_pylist()
        for row, wanted, state, op in zip(rows, mask, states, ops, strict=True):
            if wanted and state == COMPLETE and op not in ("ping", "connect"):
                self._chosen.add(row[0])

    def _is_chosen(self, exchange: Exchange) -> bool:
        left_out = self._left_out
        if exchange.row in self._chosen:
            self._chosen.discard(exchange.row)
        elif exchange.opcode not in (CONNECT_OP, CLOSE_SESSION, END_OP):
            left_out[exchange.conn] = left_out.get(exchange.conn, 0) + 1
            return False
        exchange.answered_before = max(exchange.answered_before - left_out.get(exchange.conn, 0), 0)
        if exchange.opcode == END_OP:
            left_out.pop(exchange.conn, None)
        return True
