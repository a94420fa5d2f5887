"""Reads capture files and feeds them to an engine: the loop that both engines share.

It knows files and blocks, not what is in them. Results are taken between blocks, so that memory
stays flat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from zktrace.engine.base import BATCH_ROWS, Engine

if TYPE_CHECKING:
    from zktrace.capture.source import Source

#: Bytes read at once. 64 KiB to 1 MiB make no difference in speed; small ones keep output prompt
#: when a pipe is slow.
BLOCK: Final = 256 * 1024


class Run:
    """One capture (one or more files, merged by time) through one engine.

    Iterating feeds the engine and stops, giving the number of rows, each time `batch_rows` of them
    wait to be taken, and once more at the end; the consumer takes what it wants
    (``run.engine.take()`` or ``take_json()``). :meth:`stop` ends the run at the next block as if
    the capture ended there.
    """

    def __init__(
        self,
        sources: Sequence[str],
        engine: Engine,
        *,
        batch_rows: int = BATCH_ROWS,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> None:
        """`progress` is told the bytes read of the files as they lie on disk, and their size
        (None: unknown).
        """
        if not sources:
            raise ValueError("no source given")
        self.engine = engine
        self.interrupted = False
        self._names = list(sources)
        self._batch_rows = batch_rows
        self._progress = progress
        self._stop = False
        self._reading = False

    def stop(self) -> bool:
        """Ends the run soon; True when it waits for input, which only an exception ends
        (KeyboardInterrupt).
        """
        self.interrupted = self._stop = True
        return self._reading

    def __iter__(self) -> Iterator[int]:
        engine = self.engine
        sources = _Sources(self._names, engine)
        waiting = 0
        try:
            while not self._stop:
                try:
                    index = engine.wanted()
                    if index is None:
                        break
                    self._reading = True
                    block = sources.read(index)
                    self._reading = False
                except KeyboardInterrupt:
                    self._reading = False
                    self.stop()
                    break
                if block:
                    waiting = engine.feed(index, block)
                else:
                    engine.end_source(index)
                if self._progress is not None:
                    self._progress(sources.position(), sources.size())
                if waiting >= self._batch_rows:
                    yield waiting
                    waiting = 0
            engine.finish()
            yield waiting
        finally:
            sources.close()


class _Sources:
    """The files of a run; each is opened when the engine first wants it and closed at its end."""

    def __init__(self, names: Sequence[str], engine: Engine) -> None:
        from zktrace.capture.source import first_time

        self._names = names
        self._open: dict[int, Source] = {}
        self._done = 0  # bytes of files already closed
        several = len(names) > 1
        for name in names:
            engine.add_source(name, first_time(name) if several and name != "-" else 0)
        self._sizes = [_size(name) for name in names]

    def read(self, index: int) -> bytes:
        from zktrace.capture.source import open_source

        source = self._open.get(index)
        if source is None:
            source = self._open[index] = open_source(self._names[index])
        block = source.read(BLOCK)
        if not block:
            self._done += source.position
            source.close()
            del self._open[index]
        return block

    def position(self) -> int:
        return self._done + sum(source.position for source in self._open.values())

    def size(self) -> int | None:
        total = 0
        for size in self._sizes:
            if size is None:
                return None
            total += size
        return total

    def close(self) -> None:
        for source in self._open.values():
            source.close()
        self._open.clear()


def _size(name: str) -> int | None:
    from pathlib import Path

    if name == "-":
        return None
    path = Path(name)
    return path.stat().st_size if path.is_file() else None
