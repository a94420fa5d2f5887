"""How messages of agents get to the page, whichever bus carries them: what each has to offer, and
what is the same of all.

Both ends work in a thread of their own and begin again from what they know whenever anything goes
wrong: a publisher from its spool, a reader behind the last message that it took. Addresses and
settings may hold credentials: they are never told, nor are errors of a library, which may hold
them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from zktrace.fleet.spool import Spool

AGAIN_S: Final = 1.0
IDLE_S: Final = 0.2

Notice = Callable[[str], None]


class NoBus(Exception):
    """A bus cannot be used, for its library is not there, or what it was given is wrong."""


class Worker:
    """A thread that tries for as long as it is not stopped."""

    def __init__(self, bus: str, where: str, name: str, notice: Notice) -> None:
        self._bus = bus
        self._where = where
        self._notice = notice
        self.stopping = threading.Event()
        self.problem: str | None = None
        """Why it does not work just now."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Whether it ended in time."""
        self.stopping.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self.stopping.is_set():
            try:
                self._once()
            except Exception as error:
                # Whatever it is, it is tried again.
                self.failed(self._words(error))
                self.stopping.wait(AGAIN_S)

    def _once(self) -> None:
        """Works until it is stopped, or begins anew; anything that is wrong is raised."""
        raise NotImplementedError

    def _words(self, error: Exception) -> str:
        """What went wrong, in words that hold no secret."""
        return type(error).__name__

    def failed(self, words: str) -> None:
        self._tell(f"{self._where}: {words}")

    def works(self) -> None:
        self._tell(None)

    def _tell(self, problem: str | None) -> None:
        if problem != self.problem:
            self.problem = problem
            bus = self._bus
            self._notice(
                f"{bus} does not answer, tried again: {problem}" if problem else f"{bus} answers"
            )


class Publisher(Worker):
    """Sends what is in a spool, in order, for as long as it takes."""

    def __init__(self, bus: str, where: str, spool: Spool, notice: Notice) -> None:
        super().__init__(bus, where, "zktrace-publish", notice)
        self._spool = spool

    def flush(self, timeout: float) -> None:
        """Gives what waits some time to be sent, then ends."""
        until = time.monotonic() + timeout
        while self._spool.waiting and self.problem is None and time.monotonic() < until:
            time.sleep(0.05)
        self.stop(timeout)


class Reader(Worker):
    """Reads messages from the first that is kept, in the order of each agent, for as long as it
    takes.
    """

    def __init__(self, bus: str, where: str, take: Callable[[bytes], None], notice: Notice) -> None:
        """`take` is called with each message, in the thread of the reader."""
        super().__init__(bus, where, "zktrace-read", notice)
        self._take = take
        self.behind: int | None = None
        """Messages that were not read yet, at the last look."""


class Way(Protocol):
    """A bus, where it is and how it is used."""

    @property
    def bus(self) -> str:
        """What it is called."""

    @property
    def shown(self) -> str:
        """Where it is, without what is secret in that."""

    def publisher(self, spool: Spool, ensemble: str, notice: Notice) -> Publisher: ...

    def reader(self, take: Callable[[bytes], None], notice: Notice) -> Reader: ...
