"""How many requests were in flight on a connection when another one was sent: what ``in_flight.rs``
does, for the Python engine. The rules are written there.
"""

from __future__ import annotations

from collections import deque
from typing import Final

_ENDS: Final = 1 << 18
_CONNECTIONS: Final = 1 << 16


class InFlight:
    """Of exchanges as they end."""

    def __init__(self) -> None:
        self._ends: dict[int, deque[int]] = {}
        self._total = 0

    def sent(self, conn: int, ts_ns: int, latency_ns: int) -> int:
        """Requests in flight when this one was sent, itself included."""
        if self._total >= _ENDS or len(self._ends) >= _CONNECTIONS:
            self._ends.clear()
            self._total = 0
        ends = self._ends.setdefault(conn, deque())
        while ends and ends[0] <= ts_ns:
            ends.popleft()
            self._total -= 1
        ends.append(ts_ns + latency_ns)
        self._total += 1
        return len(ends)

    def ended(self, conn: int) -> None:
        """Nothing more comes of a connection."""
        self._total -= len(self._ends.pop(conn, ()))
