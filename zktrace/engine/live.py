"""Drives an engine from a live capture: what :mod:`zktrace.engine.driver` is for files.

Knows clocks and turns; how packets are got, the engines know (:func:`listen`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

from zktrace.capture.interfaces import is_there, is_up
from zktrace.capture.live import Capture, Plan, described, pcap_header, refused
from zktrace.engine.base import BATCH_ROWS, Engine, LiveEngine

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


def listen(plan: Plan, engine: LiveEngine) -> Capture:
    """Begins to capture for an engine. CaptureError where that is not possible, in a line that
    says what to do.
    """
    try:
        if engine.name == "native":
            from zktrace.engine.native import listen as native

            try:
                return native(plan, engine)
            except NotImplementedError:
                pass  # not on this platform
        return _python(plan, engine)
    except OSError as error:
        raise refused(error, plan) from error


def _python(plan: Plan, engine: LiveEngine) -> Capture:
    import socket

    if hasattr(socket, "AF_PACKET"):
        from zktrace.capture.packetsocket import PacketSockets

        return PacketSockets(plan, engine)
    from zktrace.capture.sniffer import Sniffer

    return Sniffer(plan, engine)


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
        write: BinaryIO | None = None,
        notice: Callable[[str], None] = lambda text: None,
        batch_rows: int = 1,
    ) -> None:
        """`write` gets the packets as a pcap file (the plan must say `record`); `notice` is told
        what the user should know.
        """
        self.engine: Engine = engine
        self._engine = engine
        self.interrupted = False
        self._plan = plan
        self._capture = capture
        self._left = _ALL if packets is None else packets
        self._duration_s = duration_s
        self._write = write
        self._notice = notice
        self._batch_rows = batch_rows
        self._down: set[str] = set()
        self._gone = False

    def stop(self) -> bool:
        """Ends the run soon. It waits for nothing that only an exception would end."""
        self.interrupted = True
        return False

    def coverage(self) -> dict[str, Any]:
        """The engine's coverage."""
        return self.engine.coverage()

    def __iter__(self) -> Iterator[int]:
        engine, capture = self._engine, self._capture
        self._notice(described(self._plan))
        self._keep(pcap_header(self._plan))
        started = now = time.monotonic_ns()
        end = None if self._duration_s is None else started + int(self._duration_s * _SECOND_NS)
        ticked = checked = yielded = started
        try:
            while not self.interrupted and not self._gone and self._left > 0:
                wait = _WAIT_MS
                if end is not None:
                    if now >= end:
                        break
                    wait = min(wait, (end - now) // 1_000_000 + 1)
                waiting, idle = self._turn(wait)
                now = time.monotonic_ns()
                if idle and now - ticked >= _TICK_NS:
                    # Blocks that are not full yet may hold packets of the time since.
                    lag = 2 * self._plan.block_ms * 1_000_000
                    waiting = engine.tick(time.time_ns() - lag)
                    ticked = now
                if now - checked >= _SECOND_NS:
                    self._check()
                    checked = now
                late = now - yielded >= _TICK_NS
                if waiting >= self._batch_rows and (idle or late or waiting >= BATCH_ROWS):
                    yield waiting
                    yielded = now
            self._last()
            engine.finish()
            yield 0
        finally:
            capture.close()

    def _turn(self, wait_ms: int) -> tuple[int, bool]:
        """Rows that wait now, and whether no packets do."""
        turn = self._capture.turn(wait_ms, _BUDGET_MS, self._left)
        self._left -= turn.packets
        if self._plan.record and turn.packets:
            self._keep(self._capture.take_records())
        if turn.down:
            self._check()
        return turn.rows, turn.idle

    def _last(self) -> None:
        """What was captured before the end, and what was lost."""
        end = time.monotonic_ns() + _LAST_NS
        wait = 2 * self._plan.block_ms
        while self._left > 0 and time.monotonic_ns() < end:
            _, idle = self._turn(wait)
            wait = 0
            if idle:
                break
        self._drops()

    def _keep(self, data: bytes) -> None:
        """Writes; a full disk ends the writing, not the capture."""
        if self._write is None:
            return
        try:
            left = memoryview(data)
            while left:
                left = left[self._write.write(left) or 0 :]
        except OSError as error:
            self._write = None
            self._notice(f"packets are no longer written: {error.strerror or error}")

    def _drops(self) -> None:
        drops = self._capture.drops()
        if drops is not None:
            self._engine.kernel_drops(drops)

    def _check(self) -> None:
        """Once a second: losses, and whether the interfaces are there."""
        self._drops()
        there = 0
        for interface in self._plan.interfaces:
            if not is_there(interface):
                state = "is gone"
            elif not is_up(interface):
                state, there = "is down, waiting for it", there + 1
            else:
                there += 1
                if interface.name in self._down:
                    self._down.discard(interface.name)
                    self._notice(f"{interface.name} is up again")
                continue
            if interface.name not in self._down:
                self._down.add(interface.name)
                self._notice(f"{interface.name} {state}")
        self._gone = there == 0
