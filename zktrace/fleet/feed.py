"""Feeds pictures from the stream of agents: one of all, and one of each ensemble. Used as
:class:`zktrace.store.feed.Feed` is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from zktrace.fleet.merged import Merged
from zktrace.fleet.message import Message, decode
from zktrace.fleet.way import Way
from zktrace.store.picture import TOTAL_KEYS, Picture
from zktrace.store.windows import Windows

#: Ensembles that have a picture of their own; those beyond are in the one of all.
MAX_ENSEMBLES: Final = 100


class _One:
    """A picture, and what feeds it."""

    def __init__(self, way: Way, ensemble: str | None) -> None:
        self.merged = Merged(TOTAL_KEYS)
        self.picture = Picture(engine=self.merged)
        self.picture.windows = Windows(one_clock=False)
        self.picture.kind = "fleet"
        self.picture.sources = (way.shown if ensemble is None else ensemble,)
        self.picture.state = "reading"

    def take(self, message: Message) -> None:
        with self.picture.decoding():
            if self.merged.take_message(message):
                self.picture.collect()


class FleetFeed:
    """The thread that reads."""

    def __init__(self, way: Way, notice: Callable[[str], None] = lambda text: None) -> None:
        self._way = way
        self._whole = _One(way, None)
        self._ensembles: dict[str, _One] = {}
        self._guard = threading.Lock()
        self._reader = way.reader(self._take, notice)
        self.failure: Exception | None = None

    @property
    def picture(self) -> Picture:
        """Of all agents."""
        return self._whole.picture

    def ensemble(self, name: str) -> Picture | None:
        """Of the agents of an ensemble."""
        with self._guard:
            one = self._ensembles.get(name)
        return None if one is None else one.picture

    def ensembles(self) -> list[str]:
        with self._guard:
            return sorted(self._ensembles)

    def state(self) -> dict[str, Any]:
        """What is known of the agents, and of the way to them."""
        with self.picture.asking():
            agents = self._whole.merged.agents()
        return {
            "bus": self._way.bus,
            "nats": self._way.shown if self._way.bus == "NATS" else None,
            "kafka": self._way.shown if self._way.bus == "Kafka" else None,
            "problem": self._reader.problem,
            "behind": self._reader.behind,
            "ensembles": self.ensembles(),
            "agents": sorted(agents, key=lambda one: (one["ensemble"], one["name"])),
        }

    def _take(self, data: bytes) -> None:
        try:
            message = decode(data)
        except ValueError:
            with self.picture.decoding():
                self._whole.merged.damaged += 1
            return
        self._whole.take(message)
        with self._guard:
            one = self._ensembles.get(message.sender.ensemble)
            if one is None and len(self._ensembles) < MAX_ENSEMBLES:
                one = _One(self._way, message.sender.ensemble)
                self._ensembles[message.sender.ensemble] = one
        if one is not None:
            one.take(message)

    # -- as a feed

    def start(self) -> None:
        self._reader.start()

    @property
    def useless(self) -> bool:
        """Whoever is not there yet may come."""
        return False

    @property
    def begun(self) -> bool:
        return True

    def join(self, timeout: float | None = None) -> bool:
        return self._reader.stop(timeout or 0.0)

    def stop(self) -> None:
        self._reader.stopping.set()
