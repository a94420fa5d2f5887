"""Numbers about the traffic (ServerStats), for the four-letter words."""

from __future__ import annotations


class Stats:
    """Packets, and latencies in ms: from a request's arrival to its answer's departure."""

    def __init__(self) -> None:
        #: Connections that passed a limit; handshakes of TLS that failed. Not reset.
        self.rejected = 0
        self.failed_handshakes = 0
        self.reset()

    def reset(self) -> None:
        """Begins anew, as srst asks for."""
        self.received = self.sent = 0
        self._count = self._total = self._max = 0
        self._min: int | None = None

    def answered(self, count: int, latency_ms: int) -> None:
        """So many requests were answered together."""
        self._count += count
        self._total += count * latency_ms
        self._max = max(self._max, latency_ms)
        self._min = latency_ms if self._min is None else min(self._min, latency_ms)

    def latencies(self) -> tuple[int, float, int]:
        """Least, mean and greatest."""
        mean = self._total / self._count if self._count else 0.0
        return self._min or 0, mean, self._max
