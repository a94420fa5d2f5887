"""The tree as it was when the recording began, as far as its replies tell.

Fed with effects in the total order of the recording: a node that something succeeded on before the
recording made it was there, with the data that a read showed before it was changed. What nothing
tells of is not made. Memory: one entry per path that the recording names, up to a limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from zktrace.wire.records import ACL, Stat
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

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        #: paths of which it is known whether they were there; True: their data is still as it was
        self._known: dict[str, bool] = {"/": False, OWN: False}
        #: of which the first thing that is known is that they were not there
        self._absent: set[str] = set()
        #: paths beyond the limit
        self.left_out = 0
        #: told of each node, and again when its data is known
        self.tell: Callable[[Node], None] = lambda node: None

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
            self._known[path] = False
        if not error:
            for key in found.writes:
                if key[0] == "n" and key[1:] in self._known:
                    self._known[key[1:]] = False

    def was_absent(self, path: str) -> bool:
        """Whether the recording shows that it was not there at the start."""
        return path in self._absent

    def _room(self, path: str) -> bool:
        if len(self._known) < PATHS_MAX:
            return True
        self.left_out += path not in self._known
        return path in self._known

    def _note_absent(self, path: str) -> None:
        if path not in self._known and self._room(path):
            self._known[path] = False
            self._absent.add(path)

    def _note_present(self, path: str, stat: Stat | None, data: bytes | None) -> None:
        if path == OWN or path.startswith(OWN + "/") or not path.startswith("/"):
            return
        if path not in self._known:
            if not self._room(path):
                return
            above = parent(path)
            if above != "/":
                self._note_present(above, None, None)
            self._known[path] = True
            self.nodes[path] = Node(path)
            self.tell(self.nodes[path])
        if not self._known[path]:
            return
        node = self.nodes.get(path)
        if node is None:
            return
        if stat is not None:
            node.length = stat.data_length
            owner = stat.ephemeral_owner
            node.owner = owner if is_session(owner) else 0
        if data is not None and node.data is None:
            node.data = data
            self.tell(node)


def is_session(owner: int) -> bool:
    """Containers and nodes with a TTL have owners that are no sessions (EphemeralType)."""
    unsigned = owner & 0xFFFFFFFFFFFFFFFF
    return owner != 0 and unsigned != 1 << 63 and unsigned >> 56 != 0xFF
