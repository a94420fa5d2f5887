"""The tree as it was when the recording began, as far as its replies tell.

Fed with effects in the total order of the recording: a node that something succeeded on before the
recording made it was there, with the data that a read showed before it was changed. What nothing
tells of is not made. Memory: one entry per path that the recording names, up to a limit; a
recording that never ends (`passing`) is told of nodes as they are found, and of paths only the
latest are remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from zktrace.wire.records import ACL, Stat
from zktrace_proxy.messages.latest import Latest
from zktrace_proxy.replay.effects import Effects, parent

#: Paths that are remembered; of others it is not inferred whether they were there.
PATHS_MAX: Final = 2_000_000
#: The server's own.
OWN: Final = "/zookeeper"


@dataclass(slots=True)
class Node:
    """A node that was there at the start. `data` is None where no reply showed it; `owner` is the
    session of an ephemeral one, else 0.
    """

    path: str
    data: bytes | None = None
    length: int = 0
    owner: int = 0
    #: None: all may do all
    acl: list[ACL] | None = None


class StartState:
    """Nodes that were there, by path, parents first."""

    def __init__(self, limit: int = PATHS_MAX, *, passing: bool = False) -> None:
        self.nodes: dict[str, Node] = {}
        self._limit = limit
        self._passing = passing
        #: paths of which it is known whether they were there; True: their data is still as it was
        self._known: Latest[str, bool] = Latest(limit if passing else None)
        #: of which the first thing that is known is that they were not there
        self._absent: set[str] = set()
        #: paths beyond the limit
        self.left_out = 0
        #: told of each node, and of its data if that is known later
        self.tell: Callable[[Node], None] = lambda node: None
        self.tell_data: Callable[[Node], None] = lambda node: None

    def observe(self, found: Effects, *, error: int | None) -> None:
        """The next exchange's effects."""
        for path in found.absent:
            self._note_absent(path)
        for path, stat, data, children in found.seen:
            self._note_present(path, stat, data)
            for name in children or ():
                self._note_present(f"{path.rstrip('/')}/{name}", None, None)
        for made in found.made:
            self._note_present(parent(made.path), None, None)
            self._note_absent(made.path)
        for path in found.removed:
            self._note_present(path, None, None)
            self._changed(path)
        if not error:
            for key in found.writes:
                if key[0] == "n" and key[1:] in self._known:
                    self._changed(key[1:])

    def was_absent(self, path: str) -> bool:
        """Whether the recording shows that it was not there at the start."""
        return path in self._absent

    @property
    def known(self) -> int:
        """Paths that are remembered."""
        return len(self._known)

    def _changed(self, path: str) -> None:
        """Its data is not as it was; it had been seen."""
        if path in self._known:
            self._put(path, False)
        if self._passing:
            self.nodes.pop(path, None)

    def _put(self, path: str, as_it_was: bool) -> None:
        for old, _ in self._known.put(path, as_it_was):
            self.nodes.pop(old, None)
            self.left_out += 1

    def _room(self) -> bool:
        if self._passing or len(self._known) < self._limit:
            return True
        self.left_out += 1
        return False

    def _note_absent(self, path: str) -> None:
        if path in self._known:
            if self._passing:
                self._put(path, bool(self._known.get(path)))
        elif self._room():
            self._put(path, False)
            if not self._passing:
                self._absent.add(path)

    def _note_present(self, path: str, stat: Stat | None, data: bytes | None) -> None:
        own = path == "/" or path == OWN or path.startswith(OWN + "/")
        if own or not path.startswith("/"):
            return
        as_it_was = self._known.get(path)
        new = as_it_was is None
        if as_it_was is None:
            if not self._room():
                return
            above = parent(path)
            if above != "/":
                self._note_present(above, None, None)
            as_it_was = True
            self._put(path, True)
            self.nodes[path] = Node(path)
        elif self._passing:
            self._put(path, as_it_was)
        node = self.nodes.get(path) if as_it_was else None
        if node is None:
            return
        if stat is not None:
            node.length = stat.data_length
            owner = stat.ephemeral_owner
            node.owner = owner if is_session(owner) else 0
        found = data is not None and node.data is None
        if found:
            node.data = data
        if new:
            self.tell(node)
        elif found:
            self.tell_data(node)
        if found and self._passing:
            del self.nodes[path]


def is_session(owner: int) -> bool:
    """Containers and nodes with a TTL have owners that are no sessions (EphemeralType)."""
    unsigned = owner & 0xFFFFFFFFFFFFFFFF
    return owner != 0 and unsigned != 1 << 63 and unsigned >> 56 != 0xFF
