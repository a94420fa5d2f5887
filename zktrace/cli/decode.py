"""``zktrace decode``: one line per event, for people or (``--json``) for programs; the coverage
is last.
"""

from __future__ import annotations

import sys
from signal import SIGTERM
from typing import TYPE_CHECKING, Any, BinaryIO

from zktrace.cli.groups import grouped
from zktrace.cli.options import (
    FilterOption,
    Follow,
    Hashing,
    JsonOption,
    Limit,
    NoColor,
    Ports,
    Sources,
    Time,
    Times,
    follower,
)
from zktrace.cli.terminal import interruptible, look, need_stdout, prepare_stdout, progress
from zktrace.engine.base import BATCH_ROWS, abilities, create

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zktrace.engine.driver import Steps


@grouped
def decode(
    sources: Sources,
    filter: FilterOption = None,
    follow: Follow = False,
    json: JsonOption = False,
    limit: Limit = None,
    times: Time = Times.utc,
    ports: Ports = Ports(),
    hashing: Hashing = Hashing(),
    no_color: NoColor = False,
) -> None:
    """Print one line per event.

    The last line (with --json: a JSON object a line) says what was seen and what was not.
    """
    from zktrace.capture.source import can_reopen
    from zktrace.engine.driver import Run

    need_stdout()
    key = hashing.key()
    # An engine that writes the lines itself needs tables only to be asked which lines are wanted;
    # without a filter pyarrow is not even loaded.
    native = json and "json" in abilities()
    options = ports.engine(
        tables=not native or filter is not None,
        json_form=json_form() if native else None,
        hash_key=key if native else None,
    )
    # A bar would be torn by lines on the same terminal.
    with progress(not sys.stdout.isatty() and not follow) as report:
        # What comes through a pipe may come slowly: lines go out as soon as they are there.
        slow = follow or not all(can_reopen(source) for source in sources)
        prompt = slow or sys.stdout.isatty()
        run = Run(
            follower(sources) if follow else sources,
            create(options),
            batch_rows=1 if prompt or limit is not None else BATCH_ROWS,
            progress=report,
        )
        job = EventOutput(limit, prompt, at_once=slow)
        with interruptible(run, *([SIGTERM] if follow else [])):
            if native:
                job.write_native(run, filter)
            elif json:
                job.write_json(run, filter, key)
            else:
                job.write_text(run, filter, key, times, no_color)


def json_form() -> str:
    """What an engine that writes JSON lines itself is told."""
    from zktrace.export.form import form_text

    return form_text()


class EventOutput:
    """Events to standard output, each form of it; then the coverage."""

    def __init__(self, limit: int | None, prompt: bool, *, at_once: bool = False) -> None:
        """`limit`: events to show; `prompt`: lines go out as soon as they are there; `at_once`: the
        limit ends the run even if it is not known whether there is more, which may take long.
        """
        self._left = limit
        self._limited = False
        self._prompt = prompt
        self._at_once = at_once

    def _coverage(self, run: Steps) -> dict[str, Any]:
        coverage = run.coverage()
        if self._limited:
            coverage.pop("interrupted", None)
            coverage["limited"] = True
        return coverage

    def _take(self, count: int, run: Steps) -> int:
        """How many of `count` lines may still be written; stops the run where there are more, or
        other events, so that a limit that nothing was left out by is not told.
        """
        if self._left is None:
            return count
        more = self._left == 0 or self._at_once
        allowed = min(count, self._left)
        self._left -= allowed
        if count > allowed or (self._left == 0 and more and not run.ended):
            self._limited = True
            run.stop()
        return allowed

    def write_native(self, run: Steps, filter: str | None) -> None:
        from zktrace.export.coverage import coverage_line

        out = _Output()
        for lines in self._native_lines(run, filter):
            if self._left is not None:
                split = lines.splitlines(keepends=True)
                lines = b"".join(split[: self._take(len(split), run)])
            out.write(lines)
            if self._prompt:
                out.flush()
        out.write(coverage_line(self._coverage(run)).encode() + b"\n")
        out.flush()

    def _native_lines(self, run: Steps, filter: str | None) -> Iterator[bytes]:
        """Lines that the engine wrote; with a filter those whose numbers it lets through."""
        if filter is None:
            for _ in run:
                yield run.engine.take_json()
            return
        first = 0  # rows are numbered from 0 over all kinds, in the order of the lines
        for batches in self._batches(run, filter, None):
            lines = run.engine.take_json().splitlines(keepends=True)
            wanted: list[int] = []
            for batch in batches.values():
                wanted += batch.column("seq").to_pylist()
            yield b"".join(lines[seq - first] for seq in sorted(wanted))
            first += len(lines)

    def _batches(self, run: Steps, filter: str | None, key: bytes | None) -> Iterator[Any]:
        from zktrace.analysis.trace import Batches
        from zktrace.cli.filtering import compiled

        return iter(Batches(run, where=compiled(filter), hash_key=key))

    def write_json(self, run: Steps, filter: str | None, key: bytes | None) -> None:
        from zktrace.export.coverage import coverage_line
        from zktrace.export.jsonl import lines

        out = _Output()
        for batches in self._batches(run, filter, key):
            made = lines(batches)
            made = made[: self._take(len(made), run)]
            if made:
                out.write(("\n".join(made) + "\n").encode())
            if self._prompt:
                out.flush()
        out.write(coverage_line(self._coverage(run)).encode() + b"\n")
        out.flush()

    def write_text(
        self, run: Steps, filter: str | None, key: bytes | None, times: Times, no_color: bool
    ) -> None:
        from zktrace.export.summary import coverage_lines, joined
        from zktrace.export.text import EventLines

        prepare_stdout()
        style = look(no_color)
        writer = EventLines(style, times.value)
        for batches in self._batches(run, filter, key):
            made = writer.lines(batches)
            sys.stdout.write(joined(made[: self._take(len(made), run)]))
            if self._prompt:
                sys.stdout.flush()
        sys.stdout.write(joined(coverage_lines(self._coverage(run), style)))


class _Output:
    """Standard output for bytes. Where Python does not buffer it (PYTHONUNBUFFERED), a signal can
    end a write in the middle: the rest is written all the same.
    """

    def __init__(self) -> None:
        sys.stdout.flush()
        self._file: BinaryIO = sys.stdout.buffer
        self.flush = self._file.flush

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) or 0 :]
