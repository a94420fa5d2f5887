"""Feeds a picture from capture files, in a thread of its own; as fast as it goes, or paced; to
their ends, or for as long as they are written.

Paced, the capture's clock runs at `speed` times that of the wall: bytes are fed in small pieces,
and the next one waits until the time of the last packet has come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from zktrace.capture.errors import CaptureError
from zktrace.capture.follow import Follower
from zktrace.capture.source import can_reopen, source_name
from zktrace.engine.base import Rows
from zktrace.engine.driver import Run
from zktrace.store.picture import Picture

#: Rows are taken at least so often.
_TAKE_S: Final = 0.25
#: Bytes of a paced piece: some packets; more when packets come faster than pieces are fed.
_PIECE: Final = 1024
_LARGEST_PIECE: Final = 1 << 20
_NAP_S: Final = 0.1


class _Pump:
    """The engine as the driver sees it: what comes out goes to the picture."""

    def __init__(self, picture: Picture, prompt: bool, stopping: threading.Event) -> None:
        self.name = picture.engine.name
        self._picture = picture
        self._engine = picture.engine
        self._prompt = prompt
        self._stopping = stopping
        self._taken = 0.0
        self._begun: tuple[float, int] | None = None
        self._piece = _PIECE
        self.fed = False

    def add_source(self, name: str, first_ts_ns: int | None) -> int:
        return self._engine.add_source(name, first_ts_ns)

    def wanted(self) -> int | None:
        with self._picture.decoding():
            return self._engine.wanted()

    def feed(self, source: int, block: bytes) -> int:
        if self._picture.speed is None:
            self._feed(source, block)
        else:
            at = 0
            while at < len(block) and not self._stopping.is_set():
                piece = block[at : at + self._piece]
                self._feed(source, piece)
                at += len(piece)
                self._pace(self._picture.speed)
        return 0

    def _feed(self, source: int, block: bytes) -> None:
        picture = self._picture
        with picture.decoding():
            waiting = self._engine.feed(source, block)
        self.fed = True
        now = time.monotonic()
        if waiting >= picture.batch_rows or (
            waiting and (self._prompt or now - self._taken > _TAKE_S)
        ):
            self._taken = now
            picture.collect()

    def _pace(self, speed: float) -> None:
        with self._picture.decoding():
            last = self._engine.coverage().get("last_ts_ns")
        if last is None:
            return
        now = time.monotonic()
        if self._begun is None:
            self._begun = now, last
        begun, first = self._begun
        ahead = begun + (last - first) / 1e9 / speed - now
        if ahead <= 0:
            self._piece = min(self._piece * 2, _LARGEST_PIECE)
            return
        self._piece = _PIECE
        while ahead > 0 and not self._stopping.wait(min(ahead, _NAP_S)):
            ahead = begun + (last - first) / 1e9 / speed - time.monotonic()

    def end_source(self, source: int) -> None:
        with self._picture.decoding():
            self._engine.end_source(source)

    def finish(self) -> None:
        with self._picture.decoding():
            self._engine.finish()

    def take(self) -> Mapping[str, Rows]:
        return {}

    def take_json(self) -> bytes:
        raise NotImplementedError

    def coverage(self) -> dict[str, Any]:
        return {}

    def aggregates(self, top: int | None = None) -> Any:
        raise NotImplementedError


class Feed:
    """The thread that reads files."""

    def __init__(
        self,
        picture: Picture,
        sources: Sequence[str],
        *,
        speed: float | None = None,
        follower: Follower | None = None,
    ) -> None:
        """`follower`: of these sources, where they are followed."""
        picture.speed = speed
        picture.sources = tuple(map(source_name, sources))
        self._picture = picture
        self._stopping = threading.Event()
        picture.under_way = follower is not None or not all(map(can_reopen, sources))
        prompt = speed is not None or picture.under_way
        self._pump = _Pump(picture, prompt, self._stopping)
        self._run = Run(sources if follower is None else follower, self._pump)
        picture.more = self._run.more
        self._thread = threading.Thread(target=self._work, name="zktrace-feed", daemon=True)
        self.failure: Exception | None = None

    def start(self) -> None:
        self._picture.state = "reading"
        self._thread.start()

    def _work(self) -> None:
        try:
            for _ in self._run:
                pass
        except (CaptureError, OSError) as error:
            self.failure = error
            self._picture.ended("failed", str(error))
        except Exception as error:  # a defect: what is known stays visible, and it is said
            self.failure = error
            self._picture.ended("failed", f"{type(error).__name__}: {error}")
        else:
            self._picture.ended("done")

    @property
    def useless(self) -> bool:
        """It failed before anything was read."""
        return self.failure is not None and not self._pump.fed

    @property
    def begun(self) -> bool:
        """The first bytes were those of a capture."""
        return self._pump.fed

    def join(self, timeout: float | None = None) -> bool:
        """Waits for the end; whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Ends reading soon."""
        self._stopping.set()
        self._run.stop()
