"""A snapshot as it is written while the tree changes, and a tree as a snapshot has it
(SerializeUtils, DataTree.serializeNodes).

What is written is not the tree of one moment: each node is as it was when its turn came. The txns
since the beginning, replayed, make it whole. So the name of a snapshot is the zxid at which it was
begun.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from zktrace.wire.jute import WireError
from zktrace.wire.quorum import SessionTimeout
from zktrace.wire.snapshot import (
    END_PATH,
    AclCacheEntry,
    DataNode,
    PathName,
    Snapshot,
    SnapshotHead,
    ZxidDigest,
)
from zktrace_server.core.node import DIGEST_VERSION, Node
from zktrace_server.core.tree import DataTree

#: Nodes to a piece: some milliseconds of work.
NODES_PER_PIECE: Final = 500


def pieces(tree: DataTree, timeouts: dict[int, int]) -> Iterator[bytes]:
    """The bytes between a snapshot file's header and its first seal, a piece at a time; the tree
    may change between pieces.
    """
    sessions = [SessionTimeout(i, timeout_ms) for i, timeout_ms in timeouts.items()]
    acls = [AclCacheEntry(number, [*acl]) for number, acl in tree.acls.stored()]
    yield SnapshotHead(sessions, acls).encode()
    out = bytearray()
    count = 0
    below = [""]
    while below:
        path = below.pop()
        node = tree.nodes.get(path)
        if node is None:
            continue
        PathName(path).encode_into(out)
        DataNode(node.data, node.acl, node.persisted()).encode_into(out)
        below += [f"{path}/{name}" for name in reversed(node.child_names())]
        count += 1
        if count == NODES_PER_PIECE:
            yield bytes(out)
            out.clear()
            count = 0
    PathName(END_PATH).encode_into(out)
    yield bytes(out)


def digest(tree: DataTree) -> ZxidDigest:
    """What stands behind the first seal: the digest of the tree, and of which zxid it is."""
    return ZxidDigest(tree.last_zxid, DIGEST_VERSION, tree.tree_digest)


def restore(tree: DataTree, snapshot: Snapshot) -> dict[int, int]:
    """Makes the tree what the snapshot holds; gives the sessions' timeouts by id. WireError if it
    is no tree.
    """
    tree.clear()
    for entry in snapshot.head.acls or ():
        tree.acls.put(entry.id, tuple(entry.acl or ()))
    for path, stored in snapshot.nodes:
        tree.acls.use_number(stored.acl)
        try:
            tree.put(path, Node.restored(stored.data, stored.acl, stored.stat))
        except KeyError:
            raise WireError("a node without its parent", 0, "Snapshot") from None
    if "" not in tree.nodes:
        raise WireError("no root", 0, "Snapshot")
    tree.load_quotas()
    tree.acls.purge()
    return {s.session_id: s.timeout_ms for s in snapshot.head.sessions or ()}
