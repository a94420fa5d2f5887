"""Changes that were promised but are not in the tree yet (ZooKeeperServer.outstandingChanges).

A request is judged by the tree as it will be when its turn comes: by the latest promise for a path,
else by the tree. A multi needs that for its own parts; a leader needs it for all that its quorum
has not acknowledged. Also foretold: the tree's digest after each change.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from zktrace.wire.records import ACL, StatPersisted
from zktrace_server.core import acl as rights
from zktrace_server.core.errors import NO_NODE, KeeperError
from zktrace_server.core.node import node_digest, stat_digest
from zktrace_server.core.tree import DataTree

_HALF: Final = 1 << 63
_ALL: Final = (1 << 64) - 1
#: A version beyond this needs care.
_LARGE: Final = 1 << 30


@dataclass(slots=True)
class Change:
    """A node as it will be after txn `zxid`; `stat` None: it will be gone. `digest` is the node's,
    `tree_digest` that of the whole tree after this change.
    """

    zxid: int
    path: str
    stat: StatPersisted | None
    data: bytes | None
    children: int
    acl: tuple[ACL, ...]
    digest: int = 0
    tree_digest: int = 0

    def at(self, zxid: int) -> Change:
        """A copy that a later txn may alter."""
        assert self.stat is not None
        return Change(zxid, self.path, _copy(self.stat), self.data, self.children, self.acl)


def _copy(s: StatPersisted) -> StatPersisted:
    """dataclasses.replace takes several times as long."""
    return StatPersisted(
        s.czxid,
        s.mzxid,
        s.ctime,
        s.mtime,
        s.version,
        s.cversion,
        s.aversion,
        s.ephemeral_owner,
        s.pzxid,
    )


class Outstanding:
    """Changes in the order of their txns."""

    def __init__(self, tree: DataTree) -> None:
        self._tree = tree
        self._queue: deque[Change] = deque()
        self._latest: dict[str, Change] = {}

    def __bool__(self) -> bool:
        return bool(self._queue)

    def get(self, path: str) -> Change:
        """The node as it will be: NoNode if it will not be there."""
        name = "" if path == "/" else path
        change = self._latest.get(name)
        if change is None:
            node = self._tree.node(name)
            return Change(
                -1,
                name,
                node.persisted(),
                node.data,
                len(node.children) if node.children else 0,
                self._tree.acl(node),
                node_digest(name, node),
            )
        if change.stat is None:
            raise KeeperError(NO_NODE)
        return change

    def has(self, path: str) -> bool:
        """Whether the node will be there."""
        change = self._latest.get(path)
        return path in self._tree.nodes if change is None else change.stat is not None

    def add(self, change: Change) -> None:
        """Promises a change, made of what `get` gave."""
        before = self._latest.get(change.path)
        node = self._tree.nodes.get(change.path)
        if before is not None:
            old = before.digest
        else:
            old = node_digest(change.path, node) if node is not None else 0
        change.digest = (
            stat_digest(change.path, change.data, change.stat) if change.stat is not None else 0
        )
        change.tree_digest = self._sum() - old + change.digest
        self._queue.append(change)
        self._latest[change.path] = change

    def set_data(
        self, path: str, data: bytes, expected: int, zxid: int, now_ms: int
    ) -> Change | None:
        """Promises new data of a node: what `get`, `Change.at` and `add` do, at once. `expected` is
        the version asked for. None, and nothing is promised, where there is more to look at: the
        node is not there, not open to all, or of another version.
        """
        tree = self._tree
        node = tree.nodes.get(path)
        if node is None or not tree.acls.world.get(node.acl, 0) & rights.WRITE:
            return None
        before = self._latest.get(path)
        acl = tree.acls.by_number[node.acl]
        if before is None:
            s = node.persisted()
            children = len(node.children) if node.children else 0
            old = node.digest
            if old is None:
                old = node_digest(path, node)
        else:
            # The same object: nobody has changed it meanwhile.
            if before.stat is None or before.acl is not acl:
                return None
            s, children, old = _copy(before.stat), before.children, before.digest
        if expected not in (-1, s.version) or s.version >= _LARGE:
            return None
        s.version += 1
        s.mzxid, s.mtime = zxid, now_ms
        digest = stat_digest(path, data, s)
        queue = self._queue
        total = queue[-1].tree_digest if queue else tree.digest
        change = Change(zxid, path, s, data, children, acl, digest, total - old + digest)
        self._queue.append(change)
        self._latest[path] = change
        return change

    def remove(self, path: str, zxid: int) -> None:
        """Promises that a node will be gone."""
        self.add(Change(zxid, path, None, None, -1, ()))

    def ephemerals(self, session_id: int) -> list[str]:
        """Paths of a session's ephemerals as they will be."""
        paths = dict(self._tree.ephemerals.get(session_id, {}))
        for change in self._queue:
            if change.stat is None:
                paths.pop(change.path, None)
            elif change.stat.ephemeral_owner == session_id:
                paths[change.path] = None
        return list(paths)

    def tree_digest(self) -> int:
        """The tree's digest when all is done, as a signed long."""
        return (self._sum() + _HALF & _ALL) - _HALF

    def done(self, zxid: int) -> None:
        """The txns up to this one are in the tree."""
        queue, latest = self._queue, self._latest
        while queue and queue[0].zxid <= zxid:
            change = queue.popleft()
            if latest.get(change.path) is change:
                del latest[change.path]

    def undo(self, zxid: int) -> None:
        """Takes back what the latest txn promised."""
        paths = []
        while self._queue and self._queue[-1].zxid == zxid:
            paths.append(self._queue.pop().path)
        for path in paths:
            del_or_restore = [c for c in self._queue if c.path == path]
            if del_or_restore:
                self._latest[path] = del_or_restore[-1]
            else:
                self._latest.pop(path, None)

    def _sum(self) -> int:
        return self._queue[-1].tree_digest if self._queue else self._tree.digest
