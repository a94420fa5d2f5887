"""The latest so many keys, with a value each: what is remembered where not all can be.

Knows nothing of what the keys are. What was put longest ago is forgotten first, and counted; an
eighth of all at once, since a dict's first key is found slowly where keys before it were deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Latest(Generic[K, V]):
    """`limit` keys at most; None: all."""

    __slots__ = ("_entries", "forgotten", "limit")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        #: keys that were given up for room
        self.forgotten = 0
        self._entries: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        """The oldest first."""
        return iter(self._entries)

    def get(self, key: K) -> V | None:
        """Its value; the key does not become younger."""
        return self._entries.get(key)

    def put(self, key: K, value: V) -> list[tuple[K, V]]:
        """The latest key, new or not. What was forgotten for it."""
        entries = self._entries
        entries.pop(key, None)
        entries[key] = value
        if self.limit is None or len(entries) <= self.limit:
            return []
        oldest = list(islice(entries.items(), max(self.limit // 8, 1)))
        for one, _ in oldest:
            del entries[one]
        self.forgotten += len(oldest)
        return oldest

    def pop(self, key: K) -> V | None:
        """Takes it out; None where it is not there."""
        return self._entries.pop(key, None)
