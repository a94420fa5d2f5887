"""Feeds a picture from a proxy's tap, in a thread of its own: as :mod:`zktrace.store.feed` from
files.

The tap is a capture; what came through the proxy is decoded as what a sniffer saw.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from typing import Any, Final

from zktrace.store.picture import Picture
from zktrace.wire.opcodes import CREATE_SESSION, op_name
from zktrace_proxy.plane import Decision, Plane

#: How long to wait for the next bytes; after it, rows are taken.
_WAIT_S: Final = 0.1
_SECOND: Final = 1_000_000_000


def shown(decision: Decision) -> dict[str, Any]:
    """A decision as an event: an object of JSON, its session an id."""
    note = {"kind": "fault", **asdict(decision)}
    opcode = note.pop("opcode")
    note["op"] = None if opcode is None else op_name(opcode)
    if opcode == CREATE_SESSION:
        note["op"] = "connect"
    return note


class TapFeed:
    """The thread that decodes."""

    def __init__(self, picture: Picture, plane: Plane, name: str) -> None:
        picture.kind = "proxy"
        picture.sources = (name,)
        picture.more = self._lost
        self._picture = picture
        self._plane = plane
        self._source = picture.engine.add_source(name, None)
        picture.engine.kernel_drops(0)
        self._thread = threading.Thread(target=self._work, name="zktrace-feed", daemon=True)
        self.failure: Exception | None = None

    def start(self) -> None:
        self._picture.state = "reading"
        self._thread.start()

    def _lost(self) -> dict[str, int]:
        return {"tap_lost_packets": self._plane.counters()["tap_lost_packets"]}

    def _note(self) -> None:
        """What rules did, as events."""
        decisions, _ = self._plane.decisions()
        if decisions:
            self._picture.note([shown(one) for one in decisions])

    def _feed(self) -> None:
        """What comes within a moment; the lock of an engine that has none of its own is held for a
        block at a time, and never while one is waited for.
        """
        engine = self._picture.engine
        if self._picture.shared and self._plane.feed(engine, self._source, _WAIT_S):
            return
        end = time.monotonic() + _WAIT_S
        waiting = 0
        while (left := end - time.monotonic()) > 0 and waiting < self._picture.batch_rows:
            block = self._plane.next(left)
            if block is None:
                return
            with self._picture.decoding():
                waiting = engine.feed(self._source, block)

    def _work(self) -> None:
        picture = self._picture
        try:
            while not self._plane.ended():
                self._feed()
                self._note()
                picture.collect()
            self._note()
            with picture.decoding():
                picture.engine.end_source(self._source)
                picture.engine.finish()
        except Exception as error:  # a defect: the picture stays, and says so; relaying goes on
            self.failure = error
            picture.ended("failed", f"{type(error).__name__}: {error}")
            while not self._plane.ended():
                # Nobody would read the tap, and a lossless one would stop the traffic.
                self._plane.next(_WAIT_S)
        else:
            picture.ended("done")

    def join(self, timeout: float | None = None) -> bool:
        """Waits for the end; whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()
