"""A line per event of what goes through, on standard output: as ``zktrace decode`` writes them.

Reads a tap that is never waited for: a terminal that is not read (Ctrl-S, a pager) must not hold up
the traffic. What it was too slow for is left out, and told in the coverage at the end. Knows
neither the page nor hooks, which have taps of their own.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from zktrace.cli.decode import EventOutput, json_form
from zktrace.cli.filtering import compiled
from zktrace.cli.options import Times, engine_options
from zktrace.cli.terminal import need_stdout
from zktrace.engine.base import Engine, LiveEngine, abilities, create

if TYPE_CHECKING:
    from zktrace_proxy.plane import Plane

#: How long a tap is waited for; also how late a line may be.
_WAIT_S: Final = 0.05


class TapRun:
    """A :class:`zktrace.engine.driver.Steps` over a tap, until that ends: when the plane does."""

    def __init__(self, plane: Plane, tap: int, engine: LiveEngine) -> None:
        self.engine: Engine = engine
        self._live = engine
        self.interrupted = False
        self.ended = False
        self._plane = plane
        self._tap = tap
        self._stopped = False
        self._source = engine.add_source("proxy", None)
        engine.kernel_drops(0)

    def stop(self) -> bool:
        self.interrupted = self._stopped = True
        return False

    def coverage(self) -> dict[str, Any]:
        lost = self._plane.counters()["tap_lost_packets"]
        more = {"interrupted": True} if self.interrupted else {}
        return {**self.engine.coverage(), "tap_lost_packets": lost, **more}

    def __iter__(self) -> Iterator[int]:
        plane, tap, engine = self._plane, self._tap, self._live
        while not self._stopped and not plane.ended(tap):
            if not plane.feed(engine, self._source, _WAIT_S, tap):
                block = plane.next(_WAIT_S, tap)
                if block is not None:
                    engine.feed(self._source, block)
            yield 1
        self.ended = plane.ended(tap)
        engine.end_source(self._source)
        engine.finish()
        yield 1

    def rest(self) -> None:
        """Reads what nobody wants any more, so that it does not lie in memory."""
        while not self._plane.ended(self._tap):
            self._plane.next(_WAIT_S, self._tap)


class Lines:
    """What is to be written; `json`: an object a line, else text.

    :raises Failure: a wrong filter, a standard output that is closed.
    """

    def __init__(
        self, *, json: bool, filter: str | None, times: Times, no_color: bool, key: bytes | None
    ) -> None:
        need_stdout()
        compiled(filter)  # a wrong one is told before anything is bound
        self._json = json
        self._filter = filter
        self._times = times
        self._no_color = no_color
        self._key = key
        self._thread: threading.Thread | None = None

    def start(self, plane: Plane, tap: int, told: Callable[[str], None]) -> None:
        """Begins to write, in a thread of its own. `told` is called with a line when it cannot."""
        native = self._json and "json" in abilities()
        options = engine_options(
            [],
            [],
            [],
            tables=not native or self._filter is not None,
            json_form=json_form() if native else None,
            hash_key=self._key if native else None,
        )
        run = TapRun(plane, tap, create(options))
        self._thread = threading.Thread(
            target=self._work, args=(run, native, told), name="zktrace-lines", daemon=True
        )
        self._thread.start()

    def _work(self, run: TapRun, native: bool, told: Callable[[str], None]) -> None:
        job = EventOutput(None, prompt=True)
        try:
            if native:
                job.write_native(run, self._filter)
            elif self._json:
                job.write_json(run, self._filter, self._key)
            else:
                job.write_text(run, self._filter, self._key, self._times, self._no_color)
        except BrokenPipeError:
            # Whoever read the lines has gone; clients have not.
            told("nobody reads standard output any more: no more lines; relaying goes on")
            _abandon_stdout()
            run.rest()
        except OSError as error:
            told(f"no more lines, relaying goes on: standard output: {error.strerror or error}")
            _abandon_stdout()
            run.rest()

    def join(self, timeout_s: float) -> bool:
        """Waits for the last line, when the plane has stopped; whether it came."""
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


def _abandon_stdout() -> None:
    """What is buffered has nowhere to go, and would be tried once more at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
