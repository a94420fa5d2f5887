"""A number that whoever feeds a picture counts itself, to be shown among the metrics: of a proxy
its connections and servers. Not of traffic, which is decoded and counted elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple


class Measure(NamedTuple):
    """One metric. `name` without prefix and unit's suffix of a counter (``_total``), `rows`: values
    of the labels, and the number.
    """

    name: str
    words: str
    grows: bool
    """It only grows: a counter; else a gauge."""
    labels: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], float], ...]

    @classmethod
    def of(cls, name: str, words: str, value: float, *, grows: bool) -> Measure:
        """One without labels."""
        return cls(name, words, grows, (), (((), value),))
