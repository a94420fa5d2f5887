"""What the live server named differently: sessions, names of sequential nodes, zxids, versions.

Only differences are kept where what is equal needs no entry. All maps have a limit; what is older
is not known any more, and counted: a zxid or a version that is not known is allowed to differ.
No input or output.
"""

from __future__ import annotations

import re
from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from zktrace_proxy.messages.latest import Latest

#: Pairs of zxids that are kept: 16 bytes each in arrays, some 200 in the tables.
ZXIDS_MAX: Final = 1 << 20
#: Names with another number that are kept: some 700 bytes each.
NAMES_MAX: Final = 1 << 18
#: Paths with other versions that are kept: some 250 bytes each.
OFFSETS_MAX: Final = 1 << 18

MASK: Final = (1 << 64) - 1

_SEQUENCE: Final = re.compile(r"[0-9]{10}(?=/|$)")
#: In node data: what may be such a name, or a path that ends in one.
_IN_DATA: Final = re.compile(rb"[^\x00-\x20\"',]*[0-9]{10}(?![0-9])")


_Paths: TypeAlias = "dict[str, str] | Latest[str, str]"


@dataclass(slots=True)
class Session:
    """A live session that stands for a recorded one."""

    sid: int
    password: bytes
    timeout_ms: int
    #: no requests can be made in it any more
    closed: bool = False


class Names:
    """Recorded path to live path, of nodes whose sequence numbers differ."""

    def __init__(self, prefix: str = "", limit: int = NAMES_MAX) -> None:
        self.prefix = prefix
        self._live: Latest[str, str] = Latest(limit)
        self._recorded: dict[str, str] = {}
        #: the same of names without their paths, as data has them: of several, the one made last
        self._live_names: dict[str, str] = {}
        self._recorded_names: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._live)

    @property
    def forgotten(self) -> int:
        """Names that were given up for room."""
        return self._live.forgotten

    @property
    def is_identity(self) -> bool:
        """Nothing is named differently."""
        return not self._live and not self.prefix

    def learn(self, recorded: str, live: str) -> None:
        """A node was made under these names; both without the prefix."""
        self.forget(recorded)
        if recorded != live:
            self._recorded[live] = recorded
            one, two = _name(recorded), _name(live)
            self._live_names[one] = two
            self._recorded_names[two] = one
            for gone in self._live.put(recorded, live):
                self._unname(*gone)

    def forget(self, recorded: str) -> None:
        """The node is no more, and nothing will name it."""
        live = self._live.pop(recorded)
        if live is not None:
            self._unname(recorded, live)

    def _unname(self, recorded: str, live: str) -> None:
        if self._recorded.get(live) == recorded:
            del self._recorded[live]
        one, two = _name(recorded), _name(live)
        if self._live_names.get(one) == two:
            del self._live_names[one]
        if self._recorded_names.get(two) == one:
            del self._recorded_names[two]

    def __contains__(self, recorded: str) -> bool:
        """Whether the node itself has another name."""
        return recorded in self._live

    def to_live(self, path: str) -> str:
        """A recorded path as the live server has it, prefix included."""
        if self._live:
            path = _translated(path, self._live)
        if self.prefix and not path.startswith("/zookeeper"):
            return self.prefix + (path if path != "/" else "")
        return path

    def to_recorded(self, path: str) -> str:
        """A live path as the recording has it."""
        if self.prefix and (path == self.prefix or path.startswith(self.prefix + "/")):
            path = path[len(self.prefix) :] or "/"
        if self._recorded:
            path = _translated(path, self._recorded)
        return path

    def data_to_live(self, data: bytes) -> bytes:
        """Node data with the live names of what it names: paths, or names alone. Of equal length,
        since a number has ten digits.
        """
        return _in_data(data, self._live, self._live_names)

    def data_to_recorded(self, data: bytes) -> bytes:
        """The other way."""
        return _in_data(data, self._recorded, self._recorded_names)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def named_in(data: bytes) -> list[str]:
    """What in node data may be the name of a sequential node, or a path to one."""
    return [found.group().decode("utf-8", "replace") for found in _IN_DATA.finditer(data)]


def _in_data(data: bytes, paths: _Paths, names: dict[str, str]) -> bytes:
    if not names:
        return data

    def other(found: re.Match[bytes]) -> bytes:
        try:
            text = found.group().decode()
        except UnicodeDecodeError:
            return found.group()
        if text.startswith("/"):
            return _translated(text, paths).encode()
        return "/".join(names.get(part, part) for part in text.split("/")).encode()

    return _IN_DATA.sub(other, data)


def _translated(path: str, names: _Paths) -> str:
    # the longest beginning that has another name; names of nodes below it are made of live ones
    for end in reversed([found.end() for found in _SEQUENCE.finditer(path)]):
        other = names.get(path[:end])
        if other is not None:
            return other + path[end:]
    return path


class Zxids:
    """Recorded zxid to live zxid, of writes."""

    def __init__(self, limit: int = ZXIDS_MAX) -> None:
        self._limit = limit
        self._live: dict[int, int] = {}
        self._recorded: dict[int, int] = {}
        #: recorded ones, in order
        self._sorted: list[int] = []
        #: pairs that were given up for room
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._live)

    def learn(self, recorded: int, live: int) -> None:
        """A write has these zxids."""
        before = self._live.get(recorded)
        if before is None:
            insort(self._sorted, recorded)
        elif before != live:
            self._recorded.pop(before, None)
        self._live[recorded] = live
        self._recorded[live] = recorded
        if len(self._live) > self._limit:
            old = self._sorted[: self._limit // 4]
            del self._sorted[: len(old)]
            for zxid in old:
                self._recorded.pop(self._live.pop(zxid), None)
            self.forgotten += len(old)

    def live(self, recorded: int) -> int | None:
        """Of exactly this write."""
        return self._live.get(recorded)

    def recorded(self, live: int) -> int | None:
        """The same, the other way."""
        return self._recorded.get(live)

    def floor(self, recorded: int) -> int:
        """The live zxid of the last known write up to this one; 0 where none is."""
        at = bisect_right(self._sorted, recorded)
        return self._live[self._sorted[at - 1]] if at else 0


@dataclass(slots=True)
class Offsets:
    """By how much live versions are ahead of recorded ones: (version, cversion, aversion)."""

    by_path: Latest[str, tuple[int, int, int]] = field(default_factory=lambda: Latest(OFFSETS_MAX))

    def learn(self, path: str, recorded: tuple[int, ...], live: tuple[int, ...]) -> None:
        """Both versions, children's versions and ACL's versions of a node at the same point."""
        offset = (live[0] - recorded[0], live[1] - recorded[1], live[2] - recorded[2])
        if any(offset):
            self.by_path.put(path, offset)
        else:
            self.by_path.pop(path)

    def forget(self, path: str) -> None:
        self.by_path.pop(path)

    def version(self, path: str, version: int) -> int:
        """A recorded expected version as the live server has it; -1, any, stays."""
        return self._ahead(path, version, 0)

    def aversion(self, path: str, version: int) -> int:
        """The same of a setACL."""
        return self._ahead(path, version, 2)

    def _ahead(self, path: str, version: int, which: int) -> int:
        offset = self.by_path.get(path)
        return version if version < 0 or offset is None else max(version + offset[which], 0)


class Sessions:
    """Recorded session id to live session. Ids are unsigned here."""

    def __init__(self) -> None:
        self._live: dict[int, Session] = {}
        self._recorded: dict[int, int] = {}

    def __iter__(self) -> Iterator[tuple[int, Session]]:
        return iter(self._live.items())

    def learn(self, recorded: int, live: Session) -> None:
        self._live[recorded] = live
        self._recorded[live.sid & MASK] = recorded

    def forget(self, recorded: int) -> None:
        """It is over, and nothing will name it."""
        live = self._live.pop(recorded, None)
        if live is not None and self._recorded.get(live.sid & MASK) == recorded:
            del self._recorded[live.sid & MASK]

    def __len__(self) -> int:
        return len(self._live)

    def live(self, recorded: int) -> Session | None:
        return self._live.get(recorded)

    def recorded(self, live: int) -> int | None:
        return self._recorded.get(live & MASK)


@dataclass(slots=True)
class Maps:
    """All that the live server named differently."""

    names: Names = field(default_factory=Names)
    sessions: Sessions = field(default_factory=Sessions)
    zxids: Zxids = field(default_factory=Zxids)
    offsets: Offsets = field(default_factory=Offsets)
