"""Reads capture files and feeds them to an engine: the loop that both engines share.

It knows files and blocks, not what is in them. Results are taken between blocks, so that memory
stays flat.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from typing import Any, BinaryIO, Protocol, cast

from zktrace.capture.counters import CaptureCounters
from zktrace.capture.errors import CaptureError
from zktrace.capture.follow import Followed, Follower
from zktrace.capture.merge import first_ts
from zktrace.capture.source import STDIN, Source, can_reopen, open_blocks, source_name
from zktrace.engine.base import BATCH_ROWS, Engine


class Steps(Protocol):
    """A capture through an engine, step by step: :class:`Run`, or one that is live."""

    engine: Engine
    interrupted: bool
    ended: bool
    """All there is was read."""

    def stop(self) -> bool:
        """Ends it soon, see :meth:`Run.stop`."""

    def coverage(self) -> dict[str, Any]:
        """What was seen and what was not, up to now."""

    def __iter__(self) -> Iterator[int]:
        """Rows that wait to be taken, see :class:`Run`."""


class Run:
    """One capture (one or more files, merged by time) through one engine.

    Iterating feeds the engine and stops, giving the number of rows, each time `batch_rows` of them
    wait to be taken, and once more at the end; the consumer takes what it wants
    (``run.engine.take()`` or ``take_json()``). :meth:`stop` ends the run at the next block as if
    the capture ended there.
    """

    def __init__(
        self,
        sources: Sequence[Source] | Follower,
        engine: Engine,
        *,
        batch_rows: int = BATCH_ROWS,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> None:
        """`progress` is told the bytes read of the files as they lie on disk, and their size
        (None: unknown). Files that are followed end with :meth:`stop` alone.
        """
        if not isinstance(sources, Follower) and not sources:
            raise ValueError("no source given")
        self.engine = engine
        self.interrupted = False
        self.ended = False
        self._given = sources
        self._counters = CaptureCounters()
        self._batch_rows = batch_rows
        self._progress = progress
        self._stop = False
        self._reading = False

    def stop(self) -> bool:
        """Ends the run soon; True when it waits for input, which only an exception ends
        (KeyboardInterrupt).
        """
        self.interrupted = self._stop = True
        if isinstance(self._given, Follower):
            self._given.stop()
            return False
        return self._reading

    def coverage(self) -> dict[str, Any]:
        """The engine's coverage, with :meth:`more`."""
        coverage = self.engine.coverage()
        for name, value in self.more().items():
            coverage[name] = coverage[name] + value if name in coverage else value
        return coverage

    def more(self) -> dict[str, int]:
        """What was lost in decompression, before any engine saw it, and whether the run was broken
        off: to be added to an engine's coverage.
        """
        counters = self._counters
        more = {"truncated": counters.truncated, "damaged_places": counters.damaged_places}
        if isinstance(self._given, Follower):
            return more | self._given.coverage()  # whose end is always asked for
        return more | ({"interrupted": True} if self.interrupted else {})

    def __iter__(self) -> Iterator[int]:
        engine = self.engine
        sources: _Files
        if isinstance(self._given, Follower):
            sources = _Series(self._given, engine, self._counters)
        else:
            sources = _Sources(self._given, engine, self._counters)
        waiting = 0
        try:
            while not self._stop:
                try:
                    self._reading = True
                    index = engine.wanted()
                    if index is None:
                        if sources.more():
                            continue
                        self.ended = True
                        break
                    block = sources.read(index)
                    self._reading = False
                except KeyboardInterrupt:
                    self._reading = False
                    self.stop()
                    break
                try:
                    if block:
                        waiting = engine.feed(index, block)
                    else:
                        engine.end_source(index)
                except CaptureError:
                    if not sources.spoilt():
                        raise
                if self._progress is not None:
                    self._progress(sources.position(), sources.size())
                if waiting >= self._batch_rows:
                    yield waiting
                    waiting = 0
            engine.finish()
            yield waiting
        finally:
            sources.close()


class _Files(Protocol):
    """Where a run's bytes come from."""

    def more(self) -> bool:
        """All files were read; whether there is another one now."""

    def read(self, index: int) -> bytes:
        """The next block of a source; empty at its end."""

    def spoilt(self) -> bool:
        """The file that was read is no capture; whether that is to be borne."""

    def position(self) -> int:
        """Bytes read of the files as they lie on disk."""

    def size(self) -> int | None:
        """Bytes of all files; None if one of them has no known end."""

    def close(self) -> None: ...


class _Series:
    """Files that are followed, one after the other."""

    def __init__(self, follower: Follower, engine: Engine, counters: CaptureCounters) -> None:
        self._follower = follower
        self._engine = engine
        self._counters = counters
        self._file: Followed | None = None
        self._blocks: Iterator[bytes] = iter(())
        self._done = 0

    def more(self) -> bool:
        if self._file is not None:
            self._done += self._file.position()
        self._file = self._follower.next()
        if self._file is None:
            return False
        self._blocks = open_blocks(cast(BinaryIO, self._file), self._counters)
        self._engine.add_source(self._file.name, None)
        return True

    def read(self, index: int) -> bytes:
        return next(self._blocks, b"")

    def spoilt(self) -> bool:
        self._counters.damaged_places += 1
        self._blocks = iter(())
        return True

    def position(self) -> int:
        return self._done + (0 if self._file is None else self._file.position())

    def size(self) -> int | None:
        return None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Sources:
    """The files of a run; each is opened when the engine first wants it and closed at its end."""

    def __init__(
        self, sources: Sequence[Source], engine: Engine, counters: CaptureCounters
    ) -> None:
        self._sources = sources
        self._counters = counters
        self._blocks: dict[int, Iterator[bytes]] = {}
        self._files: dict[int, BinaryIO] = {}
        self._done = 0  # bytes of files already closed
        several = len(sources) > 1
        for source in sources:
            engine.add_source(source_name(source), first_ts(source) if several else None)
        self._sizes = [_size(source) for source in sources]

    def more(self) -> bool:
        return False

    def read(self, index: int) -> bytes:
        blocks = self._blocks.get(index)
        if blocks is None:
            blocks = self._blocks[index] = open_blocks(self._file(index), self._counters)
        block = next(blocks, b"")
        if not block and (file := self._files.pop(index, None)) is not None:
            self._done += file.tell() if file.seekable() else 0
            file.close()
        return block

    def spoilt(self) -> bool:
        return False

    def _file(self, index: int) -> Source:
        source = self._sources[index]
        if source == STDIN or not isinstance(source, (str, os.PathLike)):
            return source
        try:
            # Unbuffered: blocks are large, and what a pipe holds now is wanted now.
            raw = FileIO(source)
        except OSError as error:
            raise CaptureError(source_name(source), error.strerror or str(error)) from error
        file = self._files[index] = cast(BinaryIO, raw)
        return file

    def position(self) -> int:
        return self._done + sum(f.tell() for f in self._files.values() if f.seekable())

    def size(self) -> int | None:
        total = 0
        for size in self._sizes:
            if size is None:
                return None
            total += size
        return total

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def _size(source: Source) -> int | None:
    if not can_reopen(source):
        return None
    return os.stat(source).st_size  # type: ignore[arg-type]
