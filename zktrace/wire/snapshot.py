"""Snapshots: the raw stream behind a SNAP packet, and the same in files
(SerializeUtils.serializeSnapshot, DataTree.serialize, FileSnap; LearnerHandler adds the signature
on the wire).

Sessions, ACL cache, nodes depth first until a lone path "/". No magic, no length on the wire. Holds
all data and all password hashes: never show any of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zktrace.wire.codec import Record, record
from zktrace.wire.jute import Buffer, Int, Long, UString, Vector, WireError
from zktrace.wire.quorum import SessionTimeout
from zktrace.wire.records import ACL, StatPersisted

# Ends the nodes; the root itself has the empty path.
END_PATH: Final = "/"
SIGNATURE: Final = "BenWasHere"
# A node's ACL id for world:anyone with all rights (ReferenceCountedACLCache.OPEN_UNSAFE_ACL_ID).
OPEN_ACL: Final = -1


@record
class AclCacheEntry(Record):
    """An ACL that nodes refer to by id."""

    id: Long
    acl: Vector[ACL]


@record
class SnapshotHead(Record):
    """Everything before the nodes: both counts and what they count."""

    sessions: Vector[SessionTimeout]
    acls: Vector[AclCacheEntry]


@record
class DataNode(Record):
    data: Buffer
    acl: Long
    stat: StatPersisted


@record
class PathName(Record):
    """A node's path, in front of it; or one of the strings that end a snapshot."""

    path: UString


@record
class ZxidDigest(Record):
    """Behind the nodes of a file since 3.6; before version 2 the digest was text."""

    zxid: Long
    version: Int
    digest: Long


@record
class LastZxid(Record):
    """Behind the digest of a file since 3.9."""

    zxid: Long


@record
class SnapshotSeal(Record):
    """Behind each part of a file: checksum (Adler-32) of what came before, and "/"."""

    checksum: Long
    mark: UString


@dataclass(slots=True)
class Snapshot:
    """A whole snapshot, in memory."""

    head: SnapshotHead
    nodes: list[tuple[str, DataNode]]

    def encode(self, *, signature: bool = True) -> bytes:
        """With the signature as on the wire, without it as in files."""
        out = bytearray(self.head.encode())
        for path, node in self.nodes:
            out += PathName(path).encode() + node.encode()
        out += PathName(END_PATH).encode()
        if signature:
            out += PathName(SIGNATURE).encode()
        return bytes(out)

    @classmethod
    def decode_from(
        cls, buf: bytes, pos: int, end: int, *, signature: bool = True
    ) -> tuple[Snapshot, int]:
        """Reads a snapshot; gives it and the place behind it."""
        head, pos = SnapshotHead.decode_from(buf, pos, end)
        nodes: list[tuple[str, DataNode]] = []
        while True:
            at = pos
            name, pos = PathName.decode_from(buf, pos, end)
            if name.path == END_PATH:
                break
            if name.path is None:
                raise WireError("a node without a path", at, "PathName.path")
            node, pos = DataNode.decode_from(buf, pos, end)
            nodes.append((name.path, node))
        if signature:
            at = pos
            sign, pos = PathName.decode_from(buf, pos, end)
            if sign.path != SIGNATURE:
                raise WireError("the signature is missing", at, "Snapshot")
        return cls(head, nodes), pos
