"""Watches of one kind (WatchManager of 3.9): who watches which path, in which mode.

A server has two of these: data watches (getData, exists, and all recursive ones) and child watches
(getChildren). A watcher is whatever the caller takes for one; here it is only a key.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterator
from typing import Final, Generic, TypeVar

#: Fires once.
STANDARD: Final = 1
PERSISTENT: Final = 2
#: Fires for all below its path, too.
RECURSIVE: Final = 4
ANY: Final = STANDARD | PERSISTENT | RECURSIVE

W = TypeVar("W", bound=Hashable)


class Watches(Generic[W]):
    """Both directions of one relation: path to watchers, watcher to paths with the modes in force
    there. A path of None is taken and never fires.
    """

    def __init__(self) -> None:
        self.by_path: dict[str | None, dict[W, None]] = {}
        self.by_watcher: dict[W, dict[str | None, int]] = {}
        self._recursive = 0

    def __len__(self) -> int:
        return sum(map(len, self.by_path.values()))

    def add(self, path: str | None, watcher: W, mode: int = STANDARD) -> None:
        """A path may be watched in several modes at once."""
        self.by_path.setdefault(path, {})[watcher] = None
        modes = self.by_watcher.setdefault(watcher, {})
        before = modes.get(path, 0)
        modes[path] = before | mode
        if mode == RECURSIVE and not before & RECURSIVE:
            self._recursive += 1

    def has(self, path: str | None, watcher: W, modes: int = ANY) -> bool:
        return bool(self.by_watcher.get(watcher, {}).get(path, 0) & modes)

    def remove(self, path: str | None, watcher: W, modes: int = ANY) -> bool:
        """Whether any of these modes was in force."""
        paths = self.by_watcher.get(watcher, {})
        before = paths.get(path, 0)
        if not before & modes:
            return False
        if before & modes & RECURSIVE:
            self._recursive -= 1
        if left := before & ~modes:
            paths[path] = left
        else:
            self._forget(path, watcher)
        return True

    def remove_watcher(self, watcher: W) -> None:
        """It is gone, with all its watches."""
        for path, modes in self.by_watcher.pop(watcher, {}).items():
            if modes & RECURSIVE:
                self._recursive -= 1
            watchers = self.by_path[path]
            del watchers[watcher]
            if not watchers:
                del self.by_path[path]

    def fire(self, path: str, but: Container[W] = ()) -> list[W]:
        """Those to be told of a change at `path`, without those in `but`; one-shot watches end,
        of those in `but` too.
        """
        told: dict[W, None] = {}
        for watcher in list(self.by_path.get(path, ())):
            told[watcher] = None
            paths = self.by_watcher[watcher]
            if left := paths[path] & ~STANDARD:
                paths[path] = left
            else:
                self._forget(path, watcher)
        if self._recursive:
            for above in _above(path):
                for watcher in self.by_path.get(above, ()):
                    if self.by_watcher[watcher][above] & RECURSIVE:
                        told[watcher] = None
        return [w for w in told if w not in but]

    def _forget(self, path: str | None, watcher: W) -> None:
        paths = self.by_watcher[watcher]
        del paths[path]
        if not paths:
            del self.by_watcher[watcher]
        watchers = self.by_path[path]
        del watchers[watcher]
        if not watchers:
            del self.by_path[path]


def _above(path: str) -> Iterator[str]:
    """Ancestors of a path, nearest first, the root last."""
    while path not in ("/", ""):
        path = path[: path.rfind("/")] or "/"
        yield path
