"""Feeds a picture from a proxy's tap, in a thread of its own: as :mod:`zktrace.store.feed` from
files.

The tap is a capture; what came through the proxy is decoded as what a sniffer saw.
"""

from __future__ import annotations

import threading
from typing import Final

from zktrace.store.picture import Picture
from zktrace_proxy.plane import Plane

#: Rows taken at once: few, since whoever asks waits meanwhile.
_BATCH_ROWS: Final = 4096
#: How long to wait for the next bytes; after it, rows are taken.
_WAIT_S: Final = 0.1
_SECOND: Final = 1_000_000_000


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

    def _work(self) -> None:
        picture = self._picture
        try:
            while not self._plane.ended():
                block = self._plane.next(_WAIT_S)
                with picture.decoding():
                    waiting = 0 if block is None else picture.engine.feed(self._source, block)
                    if block is None or waiting >= _BATCH_ROWS:
                        picture.collect()
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
