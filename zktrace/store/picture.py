"""The picture of traffic under way: an engine that is fed on one side, questions on the other.

One thread decodes (:mod:`zktrace.store.feed`), any others ask. An engine that is shared
(``zktrace.engine.base``) has a lock of its own and may be asked at any time; the picture's lock
then guards only the windows. Of another engine it stands between decoding and asking; whoever asks
holds it for as long as it takes to copy what is shown (and, at most twice a second, to have the
window under way counted), so that viewers cannot slow decoding down, however many or slow they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, Protocol, cast

import numpy as np

from zktrace.analysis.hashing import SessionHasher
from zktrace.analysis.names import vocabulary
from zktrace.capture.keep import Ring
from zktrace.engine.base import EngineOptions, LiveEngine, Rows, abilities, create
from zktrace.engine.live import Listening
from zktrace.store.kept import Kept, RowKept
from zktrace.store.measure import Measure
from zktrace.store.notes import Notes
from zktrace.store.part import EMPTY, Key, Part, merge
from zktrace.store.recent import RECENT_ROWS, Latest
from zktrace.store.rows import RowWindows
from zktrace.store.sessions import MAX_SESSIONS, STATES, Session
from zktrace.store.windows import WINDOW_KEYS, Saved, Windows

#: Seconds for which a window under way is not counted anew.
_FRESH_S: Final = 0.5
#: What decoding sleeps when somebody waits for the lock, which Python does not hand over.
_GIVE_WAY_S: Final = 0.0005
#: Rows that are taken at once from an engine that is not shared: few, since whoever asks waits.
_BATCH_ROWS: Final = 4096
_ALL: Final = 1 << 62
#: Keys of the totals of a grouping.
TOTAL_KEYS: Final = 20_000

#: Spans that can be asked for, in seconds; None: everything.
SPANS: Final[Mapping[str, int | None]] = {
    "10s": 10,
    "1m": 60,
    "5m": 300,
    "1h": 3600,
    "6h": 21_600,
    "1d": 86_400,
    "7d": 604_800,
    "all": None,
}


class _Counter(Protocol):
    """What counts: a native engine, or :class:`RowWindows`."""

    def drain(self, all: bool = False) -> list[tuple[int, dict[str, Any]]]: ...

    def totals(self, by: str) -> tuple[Any, bytes]: ...


class Counting(_Counter, Protocol):
    """What is not fed with packets, but counts, and has rows and a coverage as an engine has."""

    name: str

    def take(self) -> Mapping[str, Rows]: ...

    def coverage(self) -> dict[str, Any]: ...


class Span:
    """A stretch of the capture's clock."""

    def __init__(self, name: str, start: int, end: int, whole: bool) -> None:
        self.name = name
        self.start = start
        self.end = end
        """In seconds, end not included."""
        self.whole = whole


class Picture:
    """What is known so far. Methods of the feeding thread are `advance`, `finish`, `fail`."""

    def __init__(
        self,
        options: EngineOptions | None = None,
        *,
        hash_key: bytes | None = None,
        recent_rows: int = RECENT_ROWS,
        total_keys: int = TOTAL_KEYS,
        engine: str | Counting | None = None,
    ) -> None:
        """`engine`: its name, or one that is there and counts itself."""
        from dataclasses import replace

        options = options or EngineOptions()
        self._hasher = SessionHasher(hash_key) if hash_key is not None else None
        self.hash_key = hash_key
        named, given = (engine, None) if isinstance(engine, str) else (None, engine)
        can = abilities(named) if given is None else frozenset()
        self.shared = {"windows", "kept", "shared"} <= can
        """Decoding and asking need no lock between them."""
        self._row_windows: RowWindows | None = None
        self._row_kept: RowKept | None = None
        self.kept: Kept
        """What is kept of single events; to be asked within :meth:`asking`."""
        if self.shared:
            writes = tuple(vocabulary().opcodes[name] for name in sorted(vocabulary().writes))
            options = replace(
                options,
                tables=False,
                window_keys=WINDOW_KEYS,
                total_keys=total_keys,
                keep=(writes, MAX_SESSIONS, recent_rows),
                hash_key=hash_key,
            )
            self.engine: LiveEngine = create(options, named)
            self._counter = cast(_Counter, self.engine)
            self.kept = cast(Any, self.engine).kept()
        elif given is not None:
            self.engine = cast(LiveEngine, given)
            self._counter = given
            self.kept = self._row_kept = RowKept(MAX_SESSIONS, recent_rows, self._hasher)
        else:
            self.engine = create(options, named)
            self._counter = self._row_windows = RowWindows(WINDOW_KEYS, total_keys)
            self.kept = self._row_kept = RowKept(MAX_SESSIONS, recent_rows, self._hasher)
        self.batch_rows = _ALL if self.shared else _BATCH_ROWS
        """So many rows should be collected soon."""
        self._counted = 0
        self._lock = threading.RLock()
        self._waiting = 0
        self._refreshed = 0.0
        self.windows = Windows()
        self.notes = Notes()
        self.version = 0
        """Grows whenever there is something new."""
        self.state = "starting"
        """starting, reading, done, failed."""
        self.error: str | None = None
        self.speed: float | None = None
        """How fast the capture's clock runs; None: as fast as can be decoded."""
        self.sources: tuple[str, ...] = ()
        self.kind = "file"
        """file, interface or proxy."""
        self.under_way = False
        """Of files: what is read is still written."""
        self.listening: Listening | None = None
        """Of interfaces: how that goes."""
        self.ring: Ring | None = None
        """Where the latest packets are kept."""
        self.more: Callable[[], Mapping[str, int]] = dict
        """Counters of the coverage that the engine does not know."""
        self.measures: Callable[[], Iterable[Measure]] = tuple
        """Metrics of whoever feeds it."""
        self._fed_at = time.monotonic()
        self.started_at = time.time()

    # -- the feeding side

    def decoding(self) -> AbstractContextManager[None]:
        """What the feeding thread holds while it uses the engine."""
        return nullcontext() if self.shared else self._decoding()

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        if self._waiting:
            time.sleep(_GIVE_WAY_S)
        with self._lock:
            yield

    def collect(self, all: bool = False) -> None:
        """Takes what the engine has."""
        with self._lock:
            if self._row_kept is not None:
                rows = self.engine.take()
                if self._row_windows is not None:
                    self._row_windows.add(rows)
                self._row_kept.add(rows)
            windows = self._counter.drain(all)
            counted = self.kept.rows()
            if counted != self._counted:
                self._counted = counted
                self._fed_at = time.monotonic()
                self.version += 1
            for second, groups in windows:
                self.windows.add(second, {by: Part.of(packed) for by, packed in groups.items()})
                self.version += 1

    def note(self, notes: list[dict[str, Any]]) -> None:
        """Adds notes (:class:`zktrace.store.notes.Notes`); a ``session`` is an id, or None."""
        for note in notes:
            session = note.get("session")
            if session is not None:
                if self._hasher is not None:
                    session = self._hasher.session(session) or 0
                note["session"] = f"0x{session & 0xFFFF_FFFF_FFFF_FFFF:016x}"
        if notes:
            self.notes.add(notes)
            self.version += 1

    def ended(self, state: str, error: str | None = None) -> None:
        """Nothing will be fed any more."""
        with self._lock:
            self.collect(all=True)
            self.state, self.error = state, error
            self.version += 1

    def save(self) -> Saved:
        """What is kept over a restart."""
        with self.asking():
            return self.windows.save()

    def restore(self, saved: Saved, now: int) -> None:
        """What was kept, before anything is fed; `now` in seconds."""
        with self._lock:
            self.windows.restore(saved, now)
            self.version += 1

    # -- the asking side

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The lock, for whoever asks, with what is under way counted up to now."""
        self._waiting += 1
        try:
            with self._lock:
                now = time.monotonic()
                if self.state == "reading" and now - self._refreshed > _FRESH_S:
                    self._refreshed = now
                    self.collect(all=True)
                yield
        finally:
            self._waiting -= 1

    def coverage(self) -> dict[str, Any]:
        with self.asking():
            coverage = self.engine.coverage()
        for name, value in self.more().items():
            coverage[name] = coverage[name] + value if name in coverage else value
        return coverage

    def session_states(self) -> dict[str, int]:
        """How many sessions are in which state."""
        with self.asking():
            counts, _ = self.kept.session_states(self.now_ns())
        return dict(zip(STATES, counts, strict=True))

    def session(self, id: int) -> Session | None:
        """One session, by its id as it is in tables (signed)."""
        with self.asking():
            raw, now = self.kept.session(id), self.now_ns()
        return None if raw is None else Session.of(raw, now)

    def latest(self, after: int = -1) -> Latest:
        """The latest events, with a number greater than `after` and perhaps some before."""
        with self.asking():
            view = self.kept.recent(after)
        return Latest(view, self._hasher)

    def clock(self) -> int | None:
        """The capture's clock in seconds: it goes on while nothing is sent, as far as it runs by
        itself. To be called with the lock held.
        """
        last = self.windows.last
        if last is None:
            return None
        runs = self.kind != "file" or self.under_way or self.speed is not None
        if self.state == "reading" and runs:
            return last + int((time.monotonic() - self._fed_at) * (self.speed or 1.0))
        return last

    def now_ns(self) -> int:
        """The capture's clock in nanoseconds. To be called with the lock held."""
        last: int | None = self.engine.coverage().get("last_ts_ns")
        return max(last or 0, (self.clock() or 0) * 1_000_000_000)

    def span(self, name: str) -> Span:
        """The span of that name (:data:`SPANS`), up to now."""
        with self.asking():
            return self._span(name)

    def _span(self, name: str) -> Span:
        now, first = self.clock(), self.windows.first
        length = SPANS[name]
        if now is None or first is None:
            return Span(name, 0, 0, length is None)
        end = now + 1
        if length is None:
            return Span(name, first, end, True)
        return Span(name, end - length, end, False)

    def rows(
        self, by: str, span: Span, rename: Callable[[Key], Key | None] | None = None
    ) -> tuple[Part, dict[Key, int] | None]:
        """The sums of a grouping in a span; and of keys that were not kept all the time how many
        requests may be missing, at most. None where that is not known key by key, but only from
        the rests: in windows, and where keys are renamed.
        """
        missed: dict[Key, int] | None = None
        with self.asking():
            if span.whole:
                packed, column = self._counter.totals(by)
                part = Part.of(packed)
                parts = [part]
                if rename is None:
                    counts = np.frombuffer(column, dtype="<i8")
                    some = np.flatnonzero(counts).tolist()
                    missed = {part.keys[i]: int(counts[i]) for i in some}
            else:
                start = self.windows.clamp(span.start)
                windows = list(self.windows.span(start, span.end))
        if not span.whole:
            parts = [window.part(by) for window in windows]
        return merge(parts, rename) if parts else EMPTY, missed

    def points(self, span: Span, step: int) -> list[Any]:
        with self.asking():
            return self.windows.points(self.windows.clamp(span.start), span.end, step)
