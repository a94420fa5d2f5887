"""Bounds of the latency histogram's buckets: 32 per octave, exact integers.

Both engines' histograms use them: the native one is handed them, so that it cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from typing import Final

PER_OCTAVE: Final = 32
#: Octaves of a non-negative 64-bit integer.
OCTAVES: Final = 63
BUCKETS: Final = PER_OCTAVE * OCTAVES


#: Shown quantiles: name and thousandths (integers, so that ranks are exact).
QUANTILES: Final = (("p50", 500), ("p90", 900), ("p99", 990), ("p999", 999))


def _bounds() -> Iterator[int]:
    """2**(i / 32), rounded up, for i from 0 on."""
    # The first octave, times 2**OCTAVES and rounded down: the 32nd root of a power of 2 is five
    # square roots, floors and all. The other octaves are its leading bits.
    octave = []
    for i in range(PER_OCTAVE):
        root = 1 << (i + PER_OCTAVE * OCTAVES)
        for _ in range(PER_OCTAVE.bit_length() - 1):
            root = isqrt(root)
        octave.append(root)
    for power in range(OCTAVES):
        yield 1 << power
        # Irrational, so never whole: up is one more than down.
        yield from (1 + (root >> (OCTAVES - power)) for root in octave[1:])
    yield 1 << OCTAVES


#: ``BUCKETS + 1`` ascending bounds; the last is 2**63.
BOUNDS: Final = tuple(_bounds())
