"""Memory of commands that run for days: what was freed goes back to the system.

glibc raises its limit between heap and mmap with each large block that is freed (mallopt(3),
M_MMAP_THRESHOLD), and keeps an arena for each thread. A picture that each second makes and drops
some large buffers beside many small things that stay then keeps the holes for good: 30 MB more
after an hour of :mod:`tests.bench.day`. With the limits fixed they stay where they are at the
start. Other C libraries have no such knobs, and nothing is done there.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

#: malloc.h of glibc.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGE: Final = 64 << 10
_FREE: Final = 128 << 10
_ARENAS: Final = 2


def set_limits(mmap_bytes: int, trim_bytes: int, arenas: int | None = None) -> bool:
    """From what size on blocks are mapped, how much may lie free at the heap's end, and how many
    arenas there may be; whether there is a libc that knows them.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = [(_M_MMAP_THRESHOLD, mmap_bytes), (_M_TRIM_THRESHOLD, trim_bytes)]
    if arenas is not None:
        wanted.append((_M_ARENA_MAX, arenas))
    taken: list[int] = [mallopt(knob, value) for knob, value in wanted]
    return all(taken)


def keep_tight() -> bool:
    """Fixes the limits of this process's heap; whether there is a libc that knows them."""
    return set_limits(_LARGE, _FREE, _ARENAS)
