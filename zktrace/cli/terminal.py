"""Where output goes: colours, width, progress, Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from zktrace.cli.failure import Failure

if TYPE_CHECKING:
    from zktrace.engine.driver import Steps
    from zktrace.export.text import Look

#: Short work needs no progress bar.
_BAR_AFTER_S = 0.5
_BAR_EVERY_S = 0.1


def look(no_color: bool = False, stream: TextIO | None = None) -> Look:
    """Colours on a terminal that can and may show them; lines as wide as it is. A pipe gets
    neither.
    """
    from shutil import get_terminal_size

    from zktrace.export.text import Look

    stream = stream or sys.stdout
    if not stream.isatty():
        return Look()
    plain = no_color or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return Look(color=not plain, width=max(get_terminal_size().columns, 60))


def need_stdout() -> None:
    """A process started with standard output closed is told so before it does any work."""
    if sys.stdout is None:
        raise Failure("standard output is closed")


def prepare_stdout() -> None:
    """Text on a stream that cannot encode it is escaped instead of ending the program."""
    need_stdout()
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


@contextmanager
def interruptible(run: Steps, *signals: signal.Signals) -> Iterator[None]:
    """Ctrl-C, or one of these signals, ends the run as if the capture ended there; a second one
    ends the program.
    """

    def on_interrupt(signum: int, frame: FrameType | None) -> None:
        if run.interrupted or run.stop():
            raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, *signals):
            before[number] = signal.signal(number, on_interrupt)
    except ValueError:
        pass  # not in the main thread: whoever started us handles signals
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress(wanted: bool = True) -> Iterator[Callable[[int, int | None], None] | None]:
    """A progress bar on standard error where that is a terminal; gives what to call with bytes
    read and size.
    """
    if not wanted or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    bar: Any = None
    task: Any = None
    started = shown = time.monotonic()

    def update(done: int, total: int | None) -> None:
        nonlocal bar, task, shown
        now = time.monotonic()
        if now - started < _BAR_AFTER_S or now - shown < _BAR_EVERY_S:
            return
        shown = now
        if bar is None:
            bar = _bar()
            task = bar.add_task("reading", total=total)
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield update
    finally:
        if bar is not None:
            bar.stop()


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
