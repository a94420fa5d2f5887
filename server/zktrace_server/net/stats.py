"""Numbers about the traffic (ServerStats, ServerMetrics), for four-letter words, the admin server
and Prometheus. All names are Java's.
"""

from __future__ import annotations

from collections import deque
from typing import Final

#: Observations that quantiles are made of: the latest.
_KEPT: Final = 1024


class Summary:
    """Observations: count, sum, extremes since the last reset; quantiles of the latest."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.min = self.max = 0.0
        self._latest: deque[tuple[float, int]] = deque(maxlen=_KEPT)

    def add(self, value: float, times: int = 1) -> None:
        """One observation, made so often."""
        if not self.count or value < self.min:
            self.min = value
        if not self.count or value > self.max:
            self.max = value
        self.count += times
        self.sum += value * times
        self._latest.append((value, times))

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else 0.0

    def quantiles(self, *wanted: float) -> list[float]:
        """Of the latest observations; not a number where there are none."""
        ordered = sorted(self._latest)
        total = sum(times for _, times in ordered)
        found = []
        for quantile in wanted:
            left = quantile * total
            at = -1
            while left > 0:
                at += 1
                left -= ordered[at][1]
            found.append(ordered[at][0] if ordered else float("nan"))
        return found


class Stats:
    """Packets; latencies in ms, from a request's arrival to its answer's departure; sizes in bytes.
    What srst resets is what it resets in Java.
    """

    def __init__(self) -> None:
        self.sessions_asked = 0
        self.rejected = 0
        self.dropped = 0
        self.sessionless_expired = 0
        self.failed_handshakes = 0
        self.handshakes = 0
        self.bytes_received = 0
        self.response_bytes = 0
        self.snapshots = 0
        self.slow_fsyncs = 0
        self.committed = 0
        self.fsync = Summary()
        self.snapshot = Summary()
        self.batch = Summary()
        self.reads = Summary()
        self.updates = Summary()
        self.token_deficit = Summary()
        self.load = Summary()
        self.reset()

    def reset(self) -> None:
        """Begins anew, as srst asks for."""
        self.received = self.sent = 0
        self._count = self._total = self._max = 0
        self._min: int | None = None

    def came(self, count: int, size: int) -> None:
        """Bytes of a client, and how many packets they were the ends of."""
        self.received += count
        self.bytes_received += size

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
