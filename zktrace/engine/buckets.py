"""Bounds of the latency histogram's buckets: 32 per octave, exact integers.

Both engines' histograms use them: the native one is handed them, so that it cannot disagree.
"""

from __future__ import annotations

from math import isqrt
from typing import Final

PER_OCTAVE: Final = 32
#: Octaves of a non-negative 64-bit integer.
OCTAVES: Final = 63
BUCKETS: Final = PER_OCTAVE * OCTAVES


def _bound(i: int) -> int:
    """2**(i / 32), rounded up."""
    power = 1 << i
    root = power
    for _ in range(
        PER_OCTAVE.bit_length() - 1
    ):  # the 32nd root is five square roots, floors and all
        root = isqrt(root)
    return root if root**PER_OCTAVE == power else root + 1


#: ``BUCKETS + 1`` ascending bounds; the last is 2**63.
BOUNDS: Final = tuple(_bound(i) for i in range(BUCKETS + 1))
