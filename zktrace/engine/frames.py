"""The Python engine for the messages of client connections instead of rows.

Fed as any engine is (:class:`zktrace.engine.driver.Run` reads the files). What it gives are the
calls of a :class:`zktrace.stream.frames.FrameSink`; traffic between servers is told apart and
skipped.
"""

from __future__ import annotations

from zktrace.capture.segment import Packet
from zktrace.engine.base import EngineOptions
from zktrace.engine.python import PythonEngine
from zktrace.stream.frames import FrameMachine, FrameSink
from zktrace.stream.machine import Context


class FrameEngine(PythonEngine):
    """`rows`: rows are made as well (:meth:`take`), the row of an exchange before its reply is
    given to the sink.
    """

    name = "frames"

    def __init__(self, options: EngineOptions, frames: FrameSink, *, rows: bool = False) -> None:
        def client(
            context: Context, who: tuple[int, str, str], opened: bool, extra: int
        ) -> FrameMachine:
            return FrameMachine(context, who, opened, extra, frames, rows=rows)

        super().__init__(options, client=client, servers=False)
        #: capture time of the latest packet
        self.last_ts_ns = 0

    def _packet(self, packet: Packet) -> None:
        self.last_ts_ns = max(self.last_ts_ns, packet.ts_ns)
        super()._packet(packet)

    def feed(self, source: int, block: bytes) -> int:
        """Never less than 1: messages are to be taken after each block."""
        return max(super().feed(source, block), 1)

    def last_row(self, kind: str = "exchanges") -> int:
        """Number of the row that was made last; -1: it was taken already, or there was none."""
        rows = self._rows.kinds[kind]
        return int(rows[-1][0]) if rows else -1
