"""Feeds a picture from a live capture, in a thread of its own: as :mod:`zktrace.store.feed` from
files.

The picture's lock is held for a few milliseconds at a time, and never while packets are waited
for; whoever asks waits for no longer. Packets wait meanwhile in the kernel's ring, so that those
who ask, however many or slow, cost no packet.
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import Final

from zktrace.engine.live import LiveRun
from zktrace.store.picture import Picture

#: What pyarrow loads when it is first asked to compute.
_FIRST: Final = ("pandas", "pyarrow.compute", "pyarrow.acero", "pyarrow.dataset")
#: The lock is held for about so long.
_TURN_MS: Final = 5


class LiveFeed:
    """The thread that listens. Used as :class:`zktrace.store.feed.Feed` is."""

    def __init__(self, picture: Picture, run: LiveRun) -> None:
        """`run` has the picture's engine."""
        run.guard = picture.decoding
        run.budget_ms = _TURN_MS
        run.prompt = False  # each batch costs as much as some thousand rows
        picture.kind = "interface"
        picture.sources = tuple(run.listening.interfaces)
        picture.listening = run.listening
        picture.more = run.more
        self._picture = picture
        self._run = run
        self._thread = threading.Thread(target=self._work, name="zktrace-feed", daemon=True)
        self.failure: Exception | None = None

    def start(self) -> None:
        # With the first batch they would be loaded for most of a second, which the ring may not
        # hold; the same holds for what was captured while all else was loaded.
        for name in _FIRST:
            import_module(name)
        self._run.discard()
        self._picture.state = "reading"
        self._thread.start()

    def _work(self) -> None:
        picture = self._picture
        try:
            for _ in self._run:
                with picture.decoding():
                    picture.collect()
        except Exception as error:  # a defect, or the kernel's: what is known stays visible
            self.failure = error
            picture.ended("failed", f"{type(error).__name__}: {error}")
            return
        if self._run.interrupted:
            picture.ended("done")
        else:
            picture.ended("failed", "no interface is left to listen on")

    @property
    def useless(self) -> bool:
        """A capture that was opened is not."""
        return False

    @property
    def begun(self) -> bool:
        return True

    def join(self, timeout: float | None = None) -> bool:
        """Waits for the end; whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Ends listening soon."""
        self._run.stop()
