"""Feeds a picture from a live capture, in a thread of its own: as :mod:`zktrace.store.feed` from
files.

The native engine takes packets by itself, without Python, for a fifth of a second at a time; those
who ask it wait for milliseconds. Of the Python engine the picture's lock is held for a few
milliseconds at a time, and never while packets are waited for. Packets wait meanwhile in the
kernel's ring, so that those who ask, however many or slow, cost no packet.
"""

from __future__ import annotations

import threading
from typing import Final

from zktrace.engine.live import LiveRun
from zktrace.store.picture import Picture

#: The lock is held for about so long.
_TURN_MS: Final = 5
#: The native engine is left to itself for so long.
_STAY_MS: Final = 200


class LiveFeed:
    """The thread that listens. Used as :class:`zktrace.store.feed.Feed` is."""

    def __init__(self, picture: Picture, run: LiveRun) -> None:
        """`run` has the picture's engine."""
        run.guard = picture.decoding
        run.stay = picture.shared
        run.budget_ms = _STAY_MS if picture.shared else _TURN_MS
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
        # What was captured while all else was loaded may be more than the ring holds.
        self._run.discard()
        self._picture.state = "reading"
        self._thread.start()

    def _work(self) -> None:
        picture = self._picture
        try:
            for _ in self._run:
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
