"""Quotas: limits that live in /zookeeper/quota/<path>/zookeeper_limits, and what is used of them
in .../zookeeper_stats (Quotas, StatsTrack, PathTrie, DataTree).

Each server counts for itself, when it applies a txn: the counts are in no txn and in no digest.
"""

from __future__ import annotations

import re
from typing import Final

from zktrace_server.core.paths import QUOTA

LIMITS: Final = "zookeeper_limits"
STATS: Final = "zookeeper_stats"

_PAIRS: Final = re.compile("[,;]+")
_NUMBER: Final = re.compile(r"[+-]?[0-9]+\Z")


class Track:
    """Numbers by name, as text: "count=2,bytes=3", then what newer servers add. -1 is no limit.

    Text that is none of this reads as far as it goes: the node can be written by clients, and a
    server must not fall over it.
    """

    def __init__(self, text: bytes | None = b"") -> None:
        self._values: dict[str, int] = {}
        for pair in _PAIRS.split((text or b"").decode("utf-8", "replace")):
            name, *rest = pair.split("=")
            if rest and _NUMBER.match(rest[0] or "-1"):
                self._values[name] = int(rest[0] or "-1")

    def __getitem__(self, name: str) -> int:
        return self._values.get(name, -1)

    def __setitem__(self, name: str, value: int) -> None:
        self._values[name] = value

    def encode(self) -> bytes:
        """As a server writes it; an extra "=" keeps old servers from reading what is new."""
        others = sorted(self._values.keys() - {"count", "bytes"})
        text = f"count={self['count']},bytes={self['bytes']}"
        if others:
            text += "=" + "".join(f";{name}={self._values[name]}" for name in others)
        return text.encode()


def limits_path(path: str) -> str:
    """Where the limits of a path are."""
    return f"{QUOTA}{path}/{LIMITS}"


def stats_path(path: str) -> str:
    """Where is counted what a path uses."""
    return f"{QUOTA}{path}/{STATS}"


def exceeded(limits: Track, used: Track, bytes_more: int, count_more: int) -> bool:
    """Whether a hard limit would be passed. Soft limits never refuse anything."""
    count_limit, byte_limit = limits["countHardLimit"], limits["byteHardLimit"]
    return (count_more != 0 and count_limit > -1 and used["count"] + count_more > count_limit) or (
        bytes_more != 0 and byte_limit > -1 and used["bytes"] + bytes_more > byte_limit
    )


class QuotaPaths:
    """Paths that have limits."""

    def __init__(self) -> None:
        self._paths: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._paths)

    def add(self, path: str) -> None:
        """The root's own quota ("") is not kept: it is not enforced either (Java dies of it)."""
        if path:
            self._paths[path] = None

    def discard(self, path: str) -> None:
        self._paths.pop(path, None)

    def clear(self) -> None:
        self._paths.clear()

    def over(self, path: str) -> str | None:
        """The nearest path with limits, from this one upwards."""
        if not self._paths:
            return None
        while path:
            if path in self._paths:
                return path
            path = path[: path.rfind("/")] if "/" in path else ""
        return None
