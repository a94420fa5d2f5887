"""The data tree: znodes by path, and what follows from each change of one - Stat, digest, quotas,
ephemerals, watches (DataTree, NodeHashMapImpl).

Changes come as txns that were found good before; replayed ones may already be in the tree, or the
other way round, since snapshots are taken while txns go on. So nothing in here refuses a change for
its version or its rights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from zktrace.wire.records import ACL
from zktrace_server.core.acl import READ_ONLY_ACL, AclCache
from zktrace_server.core.errors import NO_NODE, NODE_EXISTS, KeeperError
from zktrace_server.core.node import Node, Owner, node_digest, owner_kind
from zktrace_server.core.paths import CONFIG, QUOTA, ROOT, ZOOKEEPER, split
from zktrace_server.core.quota import LIMITS, STATS, QuotaPaths, Track, stats_path
from zktrace_server.core.replies import Replies
from zktrace_server.core.watches import RECURSIVE, Watches

#: Watch events by number (Watcher.Event.EventType).
CREATED: Final = 1
DELETED: Final = 2
DATA_CHANGED: Final = 3
CHILDREN_CHANGED: Final = 4

#: Tells a watcher of a change: (watcher, event, path, zxid, the node's ACL).
Deliver = Callable[[object, int, str, int, tuple[ACL, ...]], None]

_HALF: Final = 1 << 63
_ALL: Final = (1 << 64) - 1


def _silence(watcher: object, event: int, path: str, zxid: int, acl: tuple[ACL, ...]) -> None:
    raise AssertionError("a watch in a tree that nobody listens to")


class DataTree:
    """`nodes` holds the root twice, as "" and as "/". `digest` grows without bound; `tree_digest`
    is what Java has of it. `last_zxid` is that of the latest txn applied.
    """

    def __init__(self, extended: bool = False, deliver: Deliver = _silence) -> None:
        self.extended = extended
        self.deliver = deliver
        self.acls = AclCache()
        self.replies = Replies()
        self.quotas = QuotaPaths()
        self.data_watches: Watches[object] = Watches()
        self.child_watches: Watches[object] = Watches()
        self.nodes: dict[str, Node] = {}
        self.ephemerals: dict[int, dict[str, None]] = {}
        self.containers: dict[str, None] = {}
        self.ttls: dict[str, None] = {}
        self.digest = 0
        self.data_bytes = 0
        self.last_zxid = 0
        self._plant()

    def _plant(self) -> None:
        """What every tree has from the start; digests are taken before the children are known,
        as they do not count in them.
        """
        for path in ("", ZOOKEEPER, QUOTA, CONFIG):
            acl = self.acls.use(READ_ONLY_ACL if path == CONFIG else None)
            node = Node(b"", acl, 0, 0, 0)
            if path == CONFIG:
                # DataTree.addConfigNode sets its ACL with version -1.
                node.aversion = -1
            self.put(path, node)

    def put(self, path: str, node: Node) -> None:
        """A node that is there without a txn: of a new tree, or of a snapshot, parents first.
        KeyError if the parent is missing.
        """
        if path:
            parent, name = split(path)
            self._add_child(self.nodes[parent], name)
        else:
            self.nodes[ROOT] = node
        self.nodes[path] = node
        self._register(path, node.owner)
        self.digest += node_digest(path, node)
        self.data_bytes += _size(path, node.data)

    def clear(self) -> None:
        """Makes room for a snapshot: not even a root is left."""
        self.acls = AclCache()
        self.replies.clear()
        self.quotas.clear()
        self.nodes.clear()
        self.ephemerals.clear()
        self.containers.clear()
        self.ttls.clear()
        self.digest = self.data_bytes = 0

    @property
    def tree_digest(self) -> int:
        """Sum of the nodes' digests, as a signed long."""
        return (self.digest + _HALF & _ALL) - _HALF

    def count(self) -> int:
        """Number of names in the tree, the root's two included, as Java counts them."""
        return len(self.nodes)

    def node(self, path: str) -> Node:
        """NoNode if there is none."""
        node = self.nodes.get(path)
        if node is None:
            raise KeeperError(NO_NODE)
        return node

    def acl(self, node: Node) -> tuple[ACL, ...]:
        return self.acls.acl(node.acl)

    # --- changes ------------------------------------------------------------------------------

    def create(
        self,
        path: str,
        data: bytes | None,
        acl: int,
        owner: int,
        parent_cversion: int,
        zxid: int,
        time_ms: int,
    ) -> Node:
        """A new node. `acl` is its number, already counted as used. `parent_cversion` -1: count on
        (logs older than 3.4 do not have it).
        """
        parent_path, name = split(path)
        nodes = self.nodes
        parent = nodes.get(parent_path)
        if parent is None:
            self.acls.drop(acl)
            raise KeeperError(NO_NODE)
        existing = nodes.get(path)
        if existing is not None:
            # Replayed: the snapshot has the node, perhaps not yet the number of its ACL.
            self.acls.drop(existing.acl)
            existing.acl = acl
            raise KeeperError(NODE_EXISTS)
        self.digest -= node_digest(parent_path, parent)
        if parent_cversion == -1:
            parent_cversion = parent.cversion + 1
        if parent_cversion > parent.cversion:
            parent.cversion = parent_cversion
            parent.pzxid = zxid
        node = Node(data, acl, zxid, time_ms, owner)
        self._add_child(parent, name)
        parent.digest = None
        if parent.keys is not None:
            self.replies.forget(parent)
        nodes[path] = node
        self.digest += node_digest(parent_path, parent) + node_digest(path, node)
        self.data_bytes += _size(path, data)
        if owner:
            self._register(path, owner)
        if path.startswith(QUOTA):
            self._quota_created(parent_path, name)
        if self.quotas:
            self._count(path, len(data) if data else 0, 1)
        if self.data_watches.by_path:
            self._fire(self.data_watches, CREATED, path, zxid, acl)
        if self.child_watches.by_path:
            self._fire(self.child_watches, CHILDREN_CHANGED, parent_path or ROOT, zxid, parent.acl)
        return node

    def delete(self, path: str, zxid: int) -> None:
        """A node goes; its parent is touched even if it was gone before."""
        parent_path, name = split(path)
        parent = self.nodes.get(parent_path)
        if parent is None:
            raise KeeperError(NO_NODE)
        self.digest -= node_digest(parent_path, parent)
        if parent.children is not None:
            parent.children.pop(name, None)
        if zxid > parent.pzxid:
            parent.pzxid = zxid
        parent.digest = None
        if parent.keys is not None:
            self.replies.forget(parent)
        self.digest += node_digest(parent_path, parent)
        node = self.nodes.pop(path, None)
        if node is None:
            raise KeeperError(NO_NODE)
        self.digest -= node_digest(path, node)
        if node.keys is not None:
            self.replies.forget(node)
        self.data_bytes -= _size(path, node.data)
        if node.owner:
            self._unregister(path, node.owner)
        if name == LIMITS and parent_path.startswith(QUOTA):
            self.quotas.discard(parent_path[len(QUOTA) :])
        if self.quotas:
            self._count(path, -len(node.data) if node.data else 0, -1)
        gone = self._fire(self.data_watches, DELETED, path, zxid, node.acl)
        if self.child_watches.by_path:
            self._fire(self.child_watches, DELETED, path, zxid, node.acl, gone)
            self._fire(self.child_watches, CHILDREN_CHANGED, parent_path or ROOT, zxid, parent.acl)
        self.acls.drop(node.acl)

    def set_data(
        self, path: str, data: bytes | None, version: int, zxid: int, time_ms: int
    ) -> Node:
        """New data, and the version that goes with it."""
        node = self.nodes.get(path)
        if node is None:
            raise KeeperError(NO_NODE)
        before = node_digest(path, node) if node.digest is None else node.digest
        more = (len(data) if data else 0) - (len(node.data) if node.data else 0)
        node.data = data
        node.mtime = time_ms
        node.mzxid = zxid
        node.version = version
        node.digest = None
        if node.keys is not None:
            self.replies.forget(node)
        self.digest += node_digest(path, node) - before
        self.data_bytes += more
        if self.quotas:
            self._count(path, more, 0)
        if self.data_watches.by_path:
            self._fire(self.data_watches, DATA_CHANGED, path, zxid, node.acl)
        return node

    def set_acl(self, path: str, acl: list[ACL] | None, version: int) -> Node:
        """A new ACL, and the aversion that goes with it."""
        node = self.node(path)
        self.digest -= node_digest(path, node)
        before, node.acl = node.acl, self.acls.use(acl)
        self.acls.drop(before)
        node.aversion = version
        self.changed(node)
        self.digest += node_digest(path, node)
        return node

    def repair_cversion(self, path: str, cversion: int, zxid: int) -> None:
        """A replayed create found its node there: its parent may still lag behind
        (DataTree.setCversionPzxid).
        """
        node = self.node(path)
        if cversion == -1:
            cversion = node.cversion + 1
        if cversion > node.cversion:
            self.digest -= node_digest(path, node)
            node.cversion, node.pzxid = cversion, zxid
            self.changed(node)
            self.digest += node_digest(path, node)

    def end_session(self, session_id: int, paths: list[str | None] | None, zxid: int) -> None:
        """Deletes a session's ephemerals: those that the txn names, then what is left of them."""
        own = self.ephemerals.pop(session_id, {})
        wanted = dict.fromkeys(p for p in paths or () if p is not None)
        for path in [*wanted, *(p for p in own if p not in wanted)]:
            try:
                self.delete(path, zxid)
            except KeeperError:
                pass  # replayed: it was deleted before

    def changed(self, node: Node) -> None:
        """What was made of the node's former state is no longer true."""
        node.digest = None
        self.replies.forget(node)

    # --- what follows from them ---------------------------------------------------------------

    def _fire(
        self,
        watches: Watches[object],
        event: int,
        path: str,
        zxid: int,
        acl: int,
        but: list[object] | None = None,
    ) -> list[object]:
        told = watches.fire(path, but or ())
        for watcher in told:
            self.deliver(watcher, event, path, zxid, self.acls.acl(acl))
        return told

    def _add_child(self, parent: Node, name: str) -> None:
        if parent.children is None:
            parent.children = {name: None}
        else:
            parent.children[name] = None

    def _register(self, path: str, owner: int) -> None:
        kind = owner_kind(owner, self.extended)
        if kind is Owner.SESSION:
            self.ephemerals.setdefault(owner, {})[path] = None
        elif kind is Owner.CONTAINER:
            self.containers[path] = None
        elif kind is Owner.TTL:
            self.ttls[path] = None

    def _unregister(self, path: str, owner: int) -> None:
        kind = owner_kind(owner, self.extended)
        if kind is Owner.SESSION:
            own = self.ephemerals.get(owner)
            if own is not None:
                own.pop(path, None)
                if not own:
                    del self.ephemerals[owner]
        elif kind is Owner.CONTAINER:
            self.containers.pop(path, None)
        elif kind is Owner.TTL:
            self.ttls.pop(path, None)

    def _quota_created(self, parent_path: str, name: str) -> None:
        if name == LIMITS:
            self.quotas.add(parent_path[len(QUOTA) :])
        elif name == STATS:
            self.recount(parent_path[len(QUOTA) :])

    def recount(self, path: str) -> None:
        """Counts anew what a path uses."""
        stats = self.nodes.get(stats_path(path))
        if stats is None:
            return
        count = size = 0
        below = [path]
        while below:
            at = below.pop()
            node = self.nodes.get(at)
            if node is not None:
                count += 1
                size += len(node.data or b"")
                below += [f"{at}/{name}" for name in node.children or ()]
        track = Track()
        track["count"], track["bytes"] = count, size
        self._set_stats(stats, track)

    def load_quotas(self) -> None:
        """Finds the limits in a tree that came from a snapshot (DataTree.setupQuota)."""
        start = len(QUOTA)
        for path in [p for p in self.nodes if p.startswith(QUOTA) and p.endswith(f"/{LIMITS}")]:
            target = path[start : -len(LIMITS) - 1]
            self.quotas.add(target)
            self.recount(target)

    def _count(self, path: str, size: int, count: int) -> None:
        prefix = self.quotas.over(path)
        stats = self.nodes.get(stats_path(prefix)) if prefix is not None else None
        if stats is not None:
            track = Track(stats.data)
            track["count"] += count
            track["bytes"] += size
            self._set_stats(stats, track)

    def _set_stats(self, stats: Node, track: Track) -> None:
        data = track.encode()
        self.data_bytes += len(data) - len(stats.data or b"")
        stats.data = data
        self.changed(stats)

    # --- watches ------------------------------------------------------------------------------

    def watch_recursively(self, path: str | None, watcher: object) -> None:
        """Recursive watches are data watches only: they never tell of children."""
        self.data_watches.add(path, watcher, RECURSIVE)

    def forget_watcher(self, watcher: object) -> None:
        self.data_watches.remove_watcher(watcher)
        self.child_watches.remove_watcher(watcher)


def _size(path: str, data: bytes | None) -> int:
    return len(path) + (len(data) if data else 0)
