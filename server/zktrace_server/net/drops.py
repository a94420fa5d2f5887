"""Tells the log why connections between servers end: a line each, with the peer and the reason.

A peer that comes and goes without an end must not fill the disk: of one port and one peer only so
many are told in a time, and the line that is the last of these says so. Knows nothing of protocols.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

log: Final = logging.getLogger(__name__)

#: Lines about one peer in `WINDOW_S` seconds.
MOST: Final = 5
WINDOW_S: Final = 10.0
#: Peers that are counted apart; who is not known is counted by host.
_PEERS: Final = 256


def ended(error: Exception | None) -> str:
    """In words, as what a connection was lost that we did not close."""
    if error is None:
        return "the other end closed it"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


@dataclass(slots=True)
class _Window:
    begun: float
    told: int = 0
    untold: int = 0


class Drops:
    """`clock` gives seconds, and only goes forward."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, int | str], _Window] = {}

    def say(self, port: str, sid: int | None, address: str, why: str) -> None:
        """A connection of the "quorum" or "election" port has ended; `address` is host:port."""
        key = (port, address.rpartition(":")[0] if sid is None else sid)
        now = self._clock()
        window = self._windows.get(key)
        before = 0
        if window is None or now >= window.begun + WINDOW_S:
            if window is not None:
                before = window.untold
                del self._windows[key]
            elif len(self._windows) >= _PEERS:
                del self._windows[next(iter(self._windows))]
            self._windows[key] = window = _Window(now)
        if window.told == MOST:
            window.untold += 1
            return
        window.told += 1
        whom = address if sid is None else f"server {sid} ({address})"
        more = f"; {before} before it were not told" if before else ""
        if window.told == MOST:
            more += f"; more within {WINDOW_S:.0f} s are not told"
        log.info("%s connection with %s closed: %s%s", port, whom, why, more)
