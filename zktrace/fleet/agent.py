"""The agent: a run of an engine, whose counts and events go into a spool once a second.

Knows neither what is captured nor where messages go. The sums of all messages are what the engine
counted; a window that is sent in several pieces is added up by whoever reads it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

from zktrace.analysis.hashing import SessionHasher
from zktrace.analysis.trace import to_batch
from zktrace.engine.base import EngineOptions, LiveEngine, abilities, create
from zktrace.engine.driver import Steps
from zktrace.fleet.message import Piece, Sender, bundles, encode, event_pieces, window_pieces
from zktrace.fleet.spool import Spool
from zktrace.store.part import Part
from zktrace.store.rows import RowWindows
from zktrace.store.windows import WINDOW_KEYS

#: How often a message is made.
_EVERY_S: Final = 1.0
#: And when there is nothing to tell.
_HEARTBEAT_S: Final = 15.0


class _Counter(Protocol):
    def drain(self, all: bool = False) -> list[tuple[int, dict[str, Any]]]: ...


class Counting:
    """An engine that counts windows, whichever it is."""

    def __init__(self, options: EngineOptions) -> None:
        from dataclasses import replace

        self._rows: RowWindows | None = None
        if "windows" in abilities():
            self.engine: LiveEngine = create(replace(options, window_keys=WINDOW_KEYS))
            counter: Any = self.engine
        else:
            self.engine = create(options)
            counter = self._rows = RowWindows(WINDOW_KEYS, WINDOW_KEYS)
        self._counter: _Counter = counter

    def take(self) -> Mapping[str, Any]:
        rows = self.engine.take()
        if self._rows is not None:
            self._rows.add(rows)
        return rows

    def windows(self, all: bool) -> list[tuple[int, dict[str, Part]]]:
        return [
            (second, {by: Part.of(packed) for by, packed in groups.items()})
            for second, groups in self._counter.drain(all)
        ]


class Agent:
    """See the module."""

    def __init__(
        self,
        counting: Counting,
        run: Steps,
        spool: Spool,
        sender: Sender,
        *,
        hash_key: bytes | None = None,
        events: bool = True,
    ) -> None:
        """`run` has the engine of `counting`. `events`: not only what is counted is sent."""
        self._counting = counting
        self._run = run
        self._spool = spool
        self._sender = sender
        self._hasher = SessionHasher(hash_key) if hash_key is not None else None
        self._events = events
        self._pieces: list[Piece] = []
        self._sent = time.monotonic()
        self.messages = 0

    def work(self) -> None:
        """To the end of the run. The run has to call :meth:`idle` while nothing comes."""
        for _ in self._run:
            self._collect()
            self.idle()
        self._collect()
        self._send()

    def idle(self) -> None:
        """Sends what there is, once a second; and that the agent is there, now and then."""
        waited = time.monotonic() - self._sent
        if waited >= _EVERY_S:
            self._collect()
            self._count()
            if self._pieces or waited >= _HEARTBEAT_S:
                self._send()

    def _collect(self) -> None:
        for kind, some in self._counting.take().items():
            if self._events and len(some):
                batch = to_batch(kind, some)
                if self._hasher is not None:
                    batch = self._hasher.batch(batch)
                self._pieces += event_pieces(kind, batch)

    def _count(self) -> None:
        # The one under way, too: sums of what is sent in two pieces are the same.
        for second, groups in self._counting.windows(all=True):
            self._pieces += window_pieces(second, groups)

    def _send(self) -> None:
        self._count()
        pieces, self._pieces = self._pieces, []
        self._sent = time.monotonic()
        coverage = self._run.coverage()
        for bundle in bundles(pieces):
            data = encode(
                self._sender,
                self._spool.next,
                time.time_ns(),
                self._spool.lost,
                coverage,
                bundle,
            )
            self._spool.add(data)
            self.messages += 1
