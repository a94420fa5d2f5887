"""Drives an engine from a live capture: what :mod:`zktrace.engine.driver` is for files.

Knows clocks and turns; how packets are got, the engines know (:func:`listen`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from zktrace.capture.interfaces import is_there, is_up
from zktrace.capture.keep import Keeper
from zktrace.capture.live import Capture, Plan, Turn, described, refused
from zktrace.engine.base import BATCH_ROWS, Engine, LiveEngine, choose
from zktrace.engine.budget import Budget, Meter

#: The longest wait for packets: rows of an idle line are late by no more.
_WAIT_MS: Final = 100
#: Time spent on packets before rows are taken and signals seen.
_BUDGET_MS: Final = 100
#: The engine is told the time so often when no packet tells it.
_TICK_NS: Final = 200_000_000
_SECOND_NS: Final = 1_000_000_000
#: At the end packets that were already captured are still taken, for so long.
_LAST_NS: Final = _SECOND_NS
_ALL: Final = 1 << 62

_STATES: Final = {"up": "is up again", "down": "is down, waiting for it", "gone": "is gone"}


def listen(plan: Plan, engine: str | None = None) -> Capture:
    """Begins to capture, for engines of that name (None: the one that is taken by default).
    CaptureError where that is not possible, in a line that says what to do.
    """
    try:
        if choose(engine).name == "native":
            from zktrace.engine.native import listen as native

            try:
                return native(plan)
            except NotImplementedError:
                pass  # not on this platform
        return _python(plan)
    except OSError as error:
        raise refused(error, plan) from error


def _python(plan: Plan) -> Capture:
    import socket

    if hasattr(socket, "AF_PACKET"):
        from zktrace.capture.packetsocket import PacketSockets

        return PacketSockets(plan)
    from zktrace.capture.sniffer import Sniffer

    return Sniffer(plan)


@dataclass(slots=True)
class Listening:
    """What a live capture tells of itself; read by other threads while it runs."""

    what: str
    """Where it listens and to what, in a line."""
    interfaces: dict[str, str]
    """Name to `up`, `down` or `gone`."""
    downs: int = 0
    """How often an interface went away or down."""
    budget: Budget | None = None
    """What listening may cost, and how much is left out for that."""

    def coverage(self) -> dict[str, Any]:
        """As members of the coverage."""
        downs = {"interface_downs": self.downs} if self.downs else {}
        return downs | (self.budget.coverage() if self.budget is not None else {})


class LiveRun:
    """A live capture through an engine; used as :class:`zktrace.engine.driver.Run` is.

    Iterating gives the number of rows whenever some wait, at least each 200 ms when there are any,
    and once more at the end: after `packets` of them, after `duration_s`, when :meth:`stop` is
    called, or when all interfaces went away.
    """

    def __init__(
        self,
        plan: Plan,
        capture: Capture,
        engine: LiveEngine,
        *,
        packets: int | None = None,
        duration_s: float | None = None,
        keeper: Keeper | None = None,
        budget: Budget | None = None,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`keeper` gets the packets (the plan must say `record`); `budget` is what all of this
        process may cost; `notice` is told what the user should know.
        """
        self.engine: Engine = engine
        self.guard: Callable[[], AbstractContextManager[None]] = nullcontext
        """What is held while the engine is used, which is never while packets are waited for."""
        self.budget_ms = _BUDGET_MS
        """How long it is held for one look at the packets that wait, about."""
        self.stay = False
        """Packets are waited for without leaving the engine, which is then used unguarded."""
        self.idle: Callable[[], None] = lambda: None
        """Called several times a second, whether anything comes or not."""
        self.prompt = True
        """Rows are given out as soon as no packets wait, too."""
        self.batch_rows = BATCH_ROWS
        """Rows that are given out though they have not waited for 200 ms, and more packets wait."""
        self.listening = Listening(described(plan), {at.name: "up" for at in plan.interfaces})
        self.interrupted = False
        self.ended = False
        self._engine = engine
        self._plan = plan
        self._capture = capture
        self._left = _ALL if packets is None else packets
        self._duration_s = duration_s
        self.listening.budget = budget
        self._meter = Meter()
        self._keeper = keeper
        self._notice = notice
        self._gone = False

    def stop(self) -> bool:
        """Ends the run soon. It waits for nothing that only an exception would end."""
        self.interrupted = True
        return False

    def discard(self) -> None:
        """Before it runs: forgets what was captured while something else was to be done first."""
        self._capture.discard()

    def coverage(self) -> dict[str, Any]:
        """The engine's coverage, with :meth:`more`."""
        return self.engine.coverage() | self.more()

    def more(self) -> dict[str, Any]:
        """What else is known of the capture, as members of the coverage."""
        kept = {} if self._keeper is None else self._keeper.coverage()
        return self.listening.coverage() | kept

    def __iter__(self) -> Iterator[int]:
        engine, capture = self._engine, self._capture
        self._notice(self.listening.what)
        if self._keeper is not None:
            self._keeper.begin()
        self._drops()
        started = now = time.monotonic_ns()
        end = None if self._duration_s is None else started + int(self._duration_s * _SECOND_NS)
        ticked = checked = yielded = started
        idle = True
        try:
            while not self.interrupted and not self._gone and self._left > 0:
                if idle and not self.stay:
                    wait = _WAIT_MS
                    if end is not None:
                        wait = min(wait, max(end - now, 0) // 1_000_000 + 1)
                    if capture.wait(wait):
                        self._check()
                waiting, idle = self._turn(end)
                self.idle()
                now = time.monotonic_ns()
                if idle and now - ticked >= _TICK_NS:
                    # Blocks that are not full yet may hold packets of the time since.
                    lag = 2 * self._plan.block_ms * 1_000_000
                    with self.guard():
                        waiting = engine.tick(time.time_ns() - lag)
                    ticked = now
                if now - checked >= _SECOND_NS:
                    self._check()
                    checked = now
                late = now - yielded >= _TICK_NS
                prompt = idle and self.prompt
                if waiting and (prompt or late or waiting >= self.batch_rows):
                    yield waiting
                    yielded = now
                if end is not None and now >= end:
                    break
            self._last()
            with self.guard():
                engine.finish()
            yield 0
        finally:
            capture.close()
            if self._keeper is not None:
                self._keeper.close()

    def _turn(self, end: int | None) -> tuple[int, bool]:
        """Rows that wait now, and whether no packets do."""
        budget, stay = self.budget_ms, self.stay
        if stay and end is not None:
            budget = min(budget, max(end - time.monotonic_ns(), 0) // 1_000_000 + 1)
        with self.guard():
            turn = self._capture.turn(self._engine, budget, self._left, stay)
        if turn.down:
            self._check()
        return turn.rows, self._took(turn)

    def _took(self, turn: Turn) -> bool:
        """Whether no more packets wait."""
        self._left -= turn.packets
        if self._keeper is not None and turn.packets:
            self._keeper.add(self._capture.take_records(), turn.packets)
        return turn.idle

    def _last(self) -> None:
        """What was captured before the end, and what was lost."""
        end = time.monotonic_ns() + _LAST_NS
        idle = False
        self._capture.wait(2 * self._plan.block_ms)
        while self._left > 0 and not idle and time.monotonic_ns() < end:
            with self.guard():
                turn = self._capture.turn(self._engine, self.budget_ms, self._left)
            idle = self._took(turn)
        self._drops()

    def _drops(self) -> None:
        drops = self._capture.drops()
        if drops is not None:
            with self.guard():
                self._engine.kernel_drops(drops)
            if self._keeper is not None:
                self._keeper.drops(drops)

    def _spend(self) -> None:
        """Takes fewer connections where it costs too much, and more again."""
        budget = self.listening.budget
        if budget is None or not budget.check(*self._meter.read()):
            return
        if not self._capture.sample(budget.level):
            self.listening.budget = None
            self._notice("the budget cannot be kept: no connections can be left out here")
        elif budget.level:
            self._notice(f"budget: only 1 of {2**budget.level} connections is listened to")
        else:
            self._notice("all connections are listened to again")

    def _check(self) -> None:
        """Once a second: losses, cost, and whether the interfaces are there."""
        self._drops()
        self._spend()
        states = self.listening.interfaces
        for interface in self._plan.interfaces:
            before, state = states[interface.name], "up"
            if not is_there(interface):
                state = "gone"
            elif not is_up(interface):
                state = "down"
            if state != before:
                states[interface.name] = state
                self.listening.downs += before == "up"
                self._notice(f"{interface.name} {_STATES[state]}")
        self._gone = all(state == "gone" for state in states.values())
