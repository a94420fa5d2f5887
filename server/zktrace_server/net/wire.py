"""What passes between servers of an ensemble, held back on purpose: partitions and slow links.

Faults are in a file (``zktrace server chaos partition``, ``slow``, ``heal`` write it), which only a
server that is started with one looks at; all others send at once. What is held is what *this*
server sends: a partition is told to both ends, and told to one only, it is a link that works in one
direction. TCP loses nothing, so nothing is lost here either: what is held goes out when the fault
is gone, if the connection is still there, and its end is no more seen than its bytes. Clients'
connections are never held.

Knows asyncio's transports, and nothing of what is said over them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple
from weakref import WeakSet

log: Final = logging.getLogger(__name__)

#: The environment variable that names the file.
VARIABLE: Final = "ZKTRACE_SERVER_FAULTS"
#: The file is looked at so often, in seconds.
LOOK_S: Final = 0.05


class Faults(NamedTuple):
    """`cut`: servers that hear nothing of this one; `delay_ms`: how late the others hear it."""

    cut: frozenset[int] = frozenset()
    delay_ms: int = 0

    @classmethod
    def read(cls, path: Path) -> Faults:
        """None where there is no file. ValueError says what is wrong with it."""
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        if not isinstance(given, dict):
            raise ValueError("no JSON object")
        cut, delay = given.get("cut", []), given.get("delay_ms", 0)
        if not isinstance(cut, list) or not all(type(sid) is int for sid in cut):
            raise ValueError("cut is no list of servers")
        if type(delay) is not int or delay < 0:
            raise ValueError("delay_ms is no number of milliseconds")
        return cls(frozenset(cut), delay)

    def write(self, path: Path) -> None:
        """As a whole or not at all."""
        if not self.cut and not self.delay_ms:
            path.unlink(missing_ok=True)
            return
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(
            json.dumps({"cut": sorted(self.cut), "delay_ms": self.delay_ms}), encoding="utf-8"
        )
        beside.replace(path)


class Wire:
    """All that goes to other servers. `path` is the file with the faults; None: there are none."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path | None = None) -> None:
        self.loop = loop
        self.faults = Faults()
        self.lines: WeakSet[Line] = WeakSet()
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._healed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        if path is not None:
            self._look()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        assert self._path is not None
        self._timer = self.loop.call_later(LOOK_S, self._look)
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
        except FileNotFoundError:
            stamp = None
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            faults = Faults.read(self._path)
        except ValueError as error:
            log.error("%s: %s; nothing is held back", self._path, error)
            faults = Faults()
        if faults == self.faults:
            return
        self.faults = faults
        cut = ", ".join(map(str, sorted(faults.cut))) or "none"
        log.warning("chaos: cut off from servers: %s; delay %d ms", cut, faults.delay_ms)
        self._healed.set()
        self._healed = asyncio.Event()
        for line in list(self.lines):
            line.changed()

    async def reach(self, sid: int) -> None:
        """Waits until it can be reached; to be used within a time limit."""
        while sid in self.faults.cut:
            await self._healed.wait()


class Line:
    """What one connection sends. `sid`: whom it is with, once that is known."""

    def __init__(self, wire: Wire, transport: asyncio.Transport, sid: int | None = None) -> None:
        self.sid = sid
        self._wire = wire
        self._transport = transport
        self._held: deque[tuple[float, bytes | None]] = deque()
        """When it is due, and the bytes; None: the end."""
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        wire.lines.add(self)

    @property
    def unsent(self) -> int:
        """Bytes that the other end has not taken."""
        return self._transport.get_write_buffer_size() + self._unsent

    @property
    def _cut(self) -> bool:
        return self.sid in self._wire.faults.cut

    def write(self, data: bytes) -> None:
        if not self._held and not self._wire.faults.delay_ms and not self._cut:
            self._transport.write(data)
            return
        self._hold(data)

    def close(self) -> None:
        """The end, behind what was written."""
        if not self._held and not self._wire.faults.delay_ms and not self._cut:
            self._transport.close()
            return
        if not self._held or self._held[-1][1] is not None:
            self._transport.pause_reading()
            self._hold(None)

    def _hold(self, data: bytes | None) -> None:
        self._held.append((self._wire.loop.time() + self._wire.faults.delay_ms / 1000, data))
        self._unsent += len(data or b"")
        self._plan()

    def changed(self) -> None:
        """The faults are others now."""
        if self._held:
            self._plan()

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._held and not self._cut:
            self._timer = self._wire.loop.call_at(self._held[0][0], self._pass)

    def _pass(self) -> None:
        self._timer = None
        now = self._wire.loop.time()
        while self._held and self._held[0][0] <= now and not self._cut:
            data = self._held.popleft()[1]
            if data is None:
                self._transport.close()
                self._held.clear()
                return
            self._unsent -= len(data)
            self._transport.write(data)
        self._plan()


def both_ways(path_of: dict[int, Path], groups: Iterable[Iterable[int]]) -> None:
    """Cuts each of the `groups` of servers off from the others; delays stay as they are."""
    sides = [frozenset(group) for group in groups]
    for own in sides:
        others = frozenset().union(*(side for side in sides if side is not own))
        for sid in own:
            Faults.read(path_of[sid])._replace(cut=others).write(path_of[sid])
