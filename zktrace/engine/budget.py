"""How much of the traffic is listened to, so that listening stays within what it may cost.

Beyond its budget of CPU or memory a capture takes only some connections, whole ones: 1 of 2, 1 of
4, ... (:func:`zktrace.capture.bpf.compile_filter` chooses them, by addresses and ports). It takes
more again once twice the load would still leave a fifth of the budget for a while, so that it does
not swing. Counts are never scaled: what is left out is told in the coverage, as it is.

Decides from numbers that it is told; knows neither clocks nor processes (:class:`Meter` does).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any, Final

#: 1 of 65,536: the last step before nothing at all.
MOST: Final = 16
#: Checks in a row that must be good before more is taken.
_GOOD_CHECKS: Final = 5
#: Share of the budget that must be left.
_SPARE: Final = 0.8
#: Memory grew, and not only swings.
_GROWN: Final = 1.01


@dataclass(slots=True)
class Budget:
    """What listening may cost, and what is done about it. `level` n: 1 of 2^n connections."""

    max_cpu: float | None = None
    """Percent of one core."""
    max_memory: int | None = None
    """Bytes."""
    level: int = 0
    most: int = 0
    """The highest level there was."""
    seconds: float = 0.0
    """For how long not all was taken."""
    _good: int = field(default=0, repr=False)
    _memory: int = field(default=0, repr=False)
    """At the last step."""

    def check(self, cpu: float, memory: int, seconds: float) -> bool:
        """What it cost lately: percent of a core, and bytes now. Whether the level changed."""
        if self.level:
            self.seconds += seconds
        before = self.level
        too_much = 0
        if self.max_cpu is not None:
            while cpu / 2**too_much > self.max_cpu and too_much < MOST:
                too_much += 1
        if self.max_memory is not None and memory > self.max_memory:
            # Memory that was freed is not always given back: less is taken only while it grows.
            too_much = max(too_much, int(not self.level or memory > _GROWN * self._memory))
        if too_much:
            self._memory = memory
            self.level = min(self.level + too_much, MOST)
            self._good = 0
        elif self.level and self._light(cpu, memory):
            self._good += 1
            if self._good >= _GOOD_CHECKS:
                self.level -= 1
                self._good = 0
        else:
            self._good = 0
        self.most = max(self.most, self.level)
        return self.level != before

    def _light(self, cpu: float, memory: int) -> bool:
        """Twice as much would do."""
        return (self.max_cpu is None or 2 * cpu < _SPARE * self.max_cpu) and (
            self.max_memory is None or memory < _SPARE * self.max_memory
        )

    def coverage(self) -> dict[str, Any]:
        """As members of the coverage; none where all was taken all the time."""
        if not self.most:
            return {}
        told = {"one_in": 2**self.level, "most": 2**self.most, "seconds": round(self.seconds, 1)}
        return {"sampling": told}


class Meter:
    """What this process costs. Linux; elsewhere memory is the largest that it ever was."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._cpu = time.process_time()

    def read(self) -> tuple[float, int, float]:
        """Percent of a core since the last call, bytes now, seconds since the last call."""
        now, cpu = time.monotonic(), time.process_time()
        seconds = max(now - self._at, 1e-3)
        percent = (cpu - self._cpu) / seconds * 100
        self._at, self._cpu = now, cpu
        return percent, resident(), seconds


def resident() -> int:
    """Resident memory of this process, in bytes, without the ring that the kernel shares."""
    try:
        with open("/proc/self/statm", "rb") as file:
            _, pages, shared = file.read().split()[:3]
    except OSError:
        import resource
        import sys

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return (int(pages) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
