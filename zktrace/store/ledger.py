"""The watches that should still be set, per session, and which sessions only ever add to them.

Fed row by row; ``zktrace/_native/src/kept/ledger.rs`` is the same for the native engine. A watch
(session, path and what fires it) enters when a reply grants a one-shot watch, and leaves when its
event is sent or the session is closed; asking again for what is set adds nothing. Every
:data:`SAMPLE_S` of the capture's clock the number per session is noted.

*Fact*: how many watches of a session were granted and neither fired nor went with the session, as
far as was seen. *Guess*: that a session whose number grew in each of the last :data:`SAMPLES`
samples leaks them (:data:`LEAST` or more). It cannot know of watches that were set before the
capture began, or of ones that a client removed by ``removeWatches``; and one that connects to
another server sets again what its library remembers, which may be less.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

#: Watches that are remembered; beyond, new ones are counted in `overflow`.
MAX_WATCHES: Final = 200_000
SAMPLE_S: Final = 60
SAMPLES: Final = 5
#: Fewer watches are no leak worth telling.
LEAST: Final = 100
_SAMPLE_NS: Final = SAMPLE_S * 1_000_000_000

DATA: Final = "data"
CHILD: Final = "child"


class Growing(NamedTuple):
    """A session whose watches only grow."""

    session: int
    before: int
    now: int
    seconds: int


class Ledger:
    """The watches that are set."""

    def __init__(self, limit: int = MAX_WATCHES) -> None:
        self._limit = limit
        self._watches: dict[int, set[tuple[str, str]]] = {}
        self._count = 0
        self._sample: int | None = None
        self._history: dict[int, list[int]] = {}
        self.overflow = 0

    def __len__(self) -> int:
        return self._count

    def granted(self, session: int, path: str, what: str) -> None:
        watches = self._watches.get(session, set())
        if (path, what) in watches:
            return
        if self._count >= self._limit:
            self.overflow += 1
            return
        watches.add((path, what))
        self._watches[session] = watches
        self._count += 1

    def fired(self, session: int, path: str, what: str) -> None:
        watches = self._watches.get(session)
        if watches is not None and (path, what) in watches:
            watches.discard((path, what))
            self._count -= 1
            if not watches:
                del self._watches[session]

    def closed(self, session: int) -> None:
        """The session was closed: its watches are gone."""
        self._count -= len(self._watches.pop(session, ()))

    def tick(self, ts_ns: int) -> None:
        """Time goes on."""
        sample = ts_ns // _SAMPLE_NS
        # One sample back is a row that came late; more, and the clock was set.
        if self._sample is not None and self._sample - 1 <= sample <= self._sample:
            return
        self._sample = sample
        before = self._history
        self._history = {
            session: [*before.get(session, ())[-SAMPLES:], len(watches)]
            for session, watches in self._watches.items()
            if len(watches) >= LEAST // 4
        }

    def most(self, limit: int) -> list[tuple[int, int]]:
        """Sessions and how many watches they should have set, most first."""
        counts = [(session, len(watches)) for session, watches in self._watches.items()]
        return sorted(counts, key=lambda item: (-item[1], item[0]))[:limit]

    def growing(self) -> list[Growing]:
        """Sessions whose watches grew in each of the last samples, most first."""
        found = []
        for session, counts in self._history.items():
            grew = all(a < b for a, b in pairwise(counts))
            if len(counts) > SAMPLES and grew and counts[-1] >= LEAST:
                found.append(Growing(session, counts[0], counts[-1], SAMPLES * SAMPLE_S))
        return sorted(found, key=lambda one: (-one.now, one.session))
