"""Nodes that end by themselves: containers that are empty again, TTL nodes idle for too long
(ContainerManager).

Looked for every `container_check_interval_ms`, and deleted at no more than so many a minute.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from zktrace_server.core.node import Owner, owner_kind, ttl_of
from zktrace_server.core.settings import Settings
from zktrace_server.core.tree import DataTree

_MINUTE_MS: Final = 60_000


class Reaper:
    """Says which paths are due; whether they still are is for the txn's checks."""

    def __init__(self, tree: DataTree, settings: Settings) -> None:
        self._tree = tree
        self._settings = settings
        self._found: deque[str] = deque()
        self._next_search = 0
        self._last_ms = 0

    def start(self, now_ms: int) -> None:
        """The first search is an interval away."""
        self._next_search = now_ms + self._settings.container_check_interval_ms
        self._last_ms = now_ms

    def due(self, now_ms: int, wall_ms: int) -> list[str]:
        """Paths to delete now."""
        if now_ms >= self._next_search:
            self._next_search = now_ms + self._settings.container_check_interval_ms
            if not self._found:
                self._found.extend(self._search(wall_ms))
                self._last_ms = now_ms
        if not self._found:
            return []
        # One at once, the others at their pace.
        passed = now_ms - self._last_ms
        allowed = max(1, passed * self._settings.container_max_per_minute // _MINUTE_MS)
        self._last_ms = now_ms
        return [self._found.popleft() for _ in range(min(allowed, len(self._found)))]

    def _search(self, wall_ms: int) -> list[str]:
        tree, settings = self._tree, self._settings
        found = []
        for path in tree.containers:
            node = tree.nodes[path]
            unused = settings.container_max_never_used_ms
            if not node.children and (
                # One that never had a child is given time to get the first.
                node.cversion > 0 or (unused and wall_ms - node.mtime > unused)
            ):
                found.append(path)
        for path in tree.ttls:
            node = tree.nodes[path]
            if (
                not node.children
                and owner_kind(node.owner, tree.extended) is Owner.TTL
                and 0 != ttl_of(node.owner) < wall_ms - node.mtime
            ):
                found.append(path)
        return found
