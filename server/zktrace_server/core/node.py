"""A znode, its Stat and its digest (DataNode, EphemeralType, DigestCalculator)."""

from __future__ import annotations

import struct
from enum import Enum
from typing import Final
from zlib import crc32

from zktrace.wire.records import Stat, StatPersisted

CONTAINER_OWNER: Final = -(1 << 63)
_TTL_BYTE: Final = 0xFF
_RESERVED: Final = 0xFFFF << 40
#: Longest time to live, in ms: 40 bits.
MAX_TTL: Final = (1 << 40) - 1

#: Version of the digest below (DigestCalculator.DIGEST_VERSION).
DIGEST_VERSION: Final = 2
#: What is under here has no digest: quotas are counted by each server for itself.
_UNDIGESTED: Final = "/zookeeper/"

_STAT: Final = struct.Struct(">qqqqiiiqiiq").pack
_DIGESTED: Final = struct.Struct(">qqqqqiiiq").pack


class Owner(Enum):
    """What a node's ephemeral owner says of it."""

    NONE = 0
    SESSION = 1
    CONTAINER = 2
    TTL = 3


def owner_kind(owner: int, extended: bool) -> Owner:
    """Kind of an ephemeral owner; TTLs are known where extended types are enabled only."""
    if owner == 0:
        return Owner.NONE
    if extended and owner >> 56 & 0xFF == _TTL_BYTE and not owner & _RESERVED:
        return Owner.TTL
    return Owner.CONTAINER if owner == CONTAINER_OWNER else Owner.SESSION


def ttl_owner(ttl_ms: int) -> int:
    """The owner that stands for a time to live."""
    return (_TTL_BYTE << 56 | ttl_ms) - (1 << 64)


def ttl_of(owner: int) -> int:
    """The time to live, in ms, that an owner of kind TTL stands for."""
    return owner & MAX_TTL


class Node:
    """A znode. `cversion` counts children created, as it is stored; clients are told all changes
    of the children. `children` is None where there never was one; its order is that of creation.
    `digest` and `keys` (of replies kept, see `replies`) belong to the present state.
    """

    __slots__ = (
        "acl",
        "aversion",
        "children",
        "ctime",
        "cversion",
        "czxid",
        "data",
        "digest",
        "keys",
        "mtime",
        "mzxid",
        "owner",
        "pzxid",
        "version",
    )

    def __init__(self, data: bytes | None, acl: int, zxid: int, time_ms: int, owner: int) -> None:
        self.data = data
        self.acl = acl
        self.czxid = self.mzxid = self.pzxid = zxid
        self.ctime = self.mtime = time_ms
        self.version = self.cversion = self.aversion = 0
        self.owner = owner
        self.children: dict[str, None] | None = None
        self.digest: int | None = None
        self.keys: list[bytes] | None = None

    @classmethod
    def restored(cls, data: bytes | None, acl: int, stat: StatPersisted) -> Node:
        """A node as a snapshot has it."""
        node = cls(data, acl, stat.czxid, stat.ctime, stat.ephemeral_owner)
        node.mzxid, node.mtime, node.pzxid = stat.mzxid, stat.mtime, stat.pzxid
        node.version, node.cversion, node.aversion = stat.version, stat.cversion, stat.aversion
        return node

    def persisted(self) -> StatPersisted:
        """The Stat as it is stored."""
        return StatPersisted(
            self.czxid,
            self.mzxid,
            self.ctime,
            self.mtime,
            self.version,
            self.cversion,
            self.aversion,
            self.owner,
            self.pzxid,
        )

    def _shown(
        self, extended: bool
    ) -> tuple[int, int, int, int, int, int, int, int, int, int, int]:
        """Fields of the Stat that clients see.

        Every child that is no more was deleted once, so creations * 2 - children is the number of
        changes (DataNode.copyStat). Containers and TTL nodes show no owner.
        """
        owner = self.owner
        if owner and owner_kind(owner, extended) is not Owner.SESSION:
            owner = 0
        count = len(self.children) if self.children else 0
        cversion = (self.cversion * 2 - count + 0x80000000 & 0xFFFFFFFF) - 0x80000000
        return (
            self.czxid,
            self.mzxid,
            self.ctime,
            self.mtime,
            self.version,
            cversion,
            self.aversion,
            owner,
            len(self.data) if self.data else 0,
            count,
            self.pzxid,
        )

    def stat(self, extended: bool) -> Stat:
        """The Stat as clients see it."""
        return Stat(*self._shown(extended))

    def stat_bytes(self, extended: bool) -> bytes:
        """The same, encoded: 68 bytes."""
        return _STAT(*self._shown(extended))

    def child_names(self) -> list[str]:
        """Names of the children, oldest first."""
        return list(self.children) if self.children else []


def node_digest(path: str, node: Node) -> int:
    """A node's share in the tree's digest: CRC-32 of path, data and Stat. It is kept until the
    node changes (`digest` is None then).
    """
    digest = node.digest
    if digest is None:
        digest = node.digest = state_digest(
            path,
            node.data,
            _DIGESTED(
                node.czxid,
                node.mzxid,
                node.pzxid,
                node.ctime,
                node.mtime,
                node.version,
                node.cversion,
                node.aversion,
                node.owner,
            ),
        )
    return digest


def stat_digest(path: str, data: bytes | None, stat: StatPersisted) -> int:
    """The same of a node that is not in the tree yet."""
    return state_digest(
        path,
        data,
        _DIGESTED(
            stat.czxid,
            stat.mzxid,
            stat.pzxid,
            stat.ctime,
            stat.mtime,
            stat.version,
            stat.cversion,
            stat.aversion,
            stat.ephemeral_owner,
        ),
    )


def state_digest(path: str, data: bytes | None, stat: bytes) -> int:
    """DigestCalculator.calculateDigest. The root counts under its name ""."""
    if path.startswith(_UNDIGESTED):
        return 0
    crc = crc32(b"" if path == "/" else path.encode())
    if data:
        crc = crc32(data, crc)
    return crc32(stat, crc)
