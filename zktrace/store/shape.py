"""The shape of the tree as replies show it: the znodes with most data and most children, and the
largest messages.

Fed row by row; ``zktrace/_native/src/kept/shape.rs`` is the same for the native engine. The data of
a znode are as long as its Stat says, or as what was written where the reply has no Stat (create,
of the path that was made); it has as many children as its Stat says, or as getChildren gave. Of
each path the largest value that was ever seen is kept, with the time. A message is a request or a
reply about one path, as the peer counts it against ``jute.maxbuffer`` (without its length).

*Fact*: what was seen. It cannot know of znodes that nobody asked for, nor what limit servers and
clients were given; :data:`JUTE_MAXBUFFER` is what both have without ``-Djute.maxbuffer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from zktrace.store.short import short

#: Paths of each kind that are shown.
SHOWN: Final = 100
_KEPT: Final = 4 * SHOWN
#: ``BinaryInputArchive.maxBuffer``: longer messages end the connection.
JUTE_MAXBUFFER: Final = 0xFFFFF


class Largest(NamedTuple):
    """The largest value seen of a path, when it was seen first, and by what op."""

    path: str
    value: int
    ts_ns: int
    op: str | None


class _Top:
    """The paths with the largest values: exact, since one that was given up had no more than those
    kept.
    """

    def __init__(self) -> None:
        self._paths: dict[str, tuple[int, int, str | None]] = {}
        self._floor = 0

    def see(self, path: str, value: int, row: Any) -> None:
        if value <= self._floor:
            return
        path = short(path)
        if path not in self._paths or value > self._paths[path][0]:
            self._paths[path] = value, row.ts_ns, row.op
        if len(self._paths) > _KEPT:
            kept = self.ranked(SHOWN)
            self._floor = kept[-1].value
            self._paths = {one.path: one[1:] for one in kept}

    def ranked(self, limit: int) -> list[Largest]:
        """The first of them, largest first."""
        all_of = [Largest(path, *rest) for path, rest in self._paths.items()]
        all_of.sort(key=lambda one: (-one.value, one.path.encode("utf-8", "surrogatepass")))
        return all_of[:limit]


class Shape:
    """Largest values by path."""

    def __init__(self) -> None:
        self.data = _Top()
        self.children = _Top()
        self.messages = _Top()

    def exchange(
        self,
        row: Any,
        stat: Mapping[str, Any] | None,
        data_length: int | None,
        children: int | None,
        created_path: str | None,
    ) -> None:
        path = row.path
        if path is None:
            return
        self.messages.see(path, max(row.request_bytes or 0, row.reply_bytes or 0), row)
        if row.error != 0 or row.state != "complete":
            return
        if stat is not None:
            self.data.see(path, stat.get("data_length") or 0, row)
            self.children.see(path, stat.get("num_children") or 0, row)
        elif data_length is not None:
            self.data.see(path if created_path is None else created_path, data_length, row)
        if children is not None:
            self.children.see(path, children, row)
