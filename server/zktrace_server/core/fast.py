"""The requests that come most, answered from their bytes: without records, in a few steps.

Four cases: what was asked before and is kept ready (`replies`); getData without a watch; setData;
create of a plain or an ephemeral node that is open to all. Each only where nothing is special about
it: no quota, no right to be looked up, nothing promised that is not applied, nothing to refuse.
Whatever is left goes the way that all requests can go, which `tests/server/core/test_fast.py` holds
this one to: same txns, same replies, same events.
"""

from __future__ import annotations

import struct
from typing import Final

from zktrace_server.core import acl as rights
from zktrace_server.core import paths
from zktrace_server.core import request as op
from zktrace_server.core.connection import Connection
from zktrace_server.core.errors import KeeperError
from zktrace_server.core.node import DIGEST_VERSION
from zktrace_server.core.prepare import Preparer
from zktrace_server.core.tree import DataTree

#: Length of a frame, xid, opcode, and what every request with a path goes on with: its length.
_HEAD: Final = struct.Struct(">iiii").unpack_from
_HEAD_SIZE: Final = 16
_INT: Final = struct.Struct(">i").unpack_from
_INT_BYTES: Final = struct.Struct(">i").pack
_NULL: Final = _INT_BYTES(-1)
_REPLY: Final = struct.Struct(">iiqi").pack
_TXN: Final = struct.Struct(">qiqqi").pack
_NUMBER_AND_DIGEST: Final = struct.Struct(">iiq").pack
_FLAG_NUMBER_AND_DIGEST: Final = struct.Struct(">?iiq").pack
_STAT_SIZE: Final = 68
#: What a getData has besides its path: xid, opcode, the path's length, the watch flag.
_GET_DATA_MORE: Final = 13

_OPEN_KEY: Final = b"".join(entry.encode() for entry in rights.OPEN_ACL)
#: How a create ends that is open to all: a vector of one ACL, then the flags.
_OPEN_VECTOR: Final = len(rights.OPEN_ACL).to_bytes(4, "big") + _OPEN_KEY
_PLAIN: Final = 0
_EPHEMERAL: Final = 1
#: A version or a count beyond this needs care.
_LARGE: Final = 1 << 30


class Fast:
    """Takes frames off the front of the bytes of one connection, as long as it can."""

    def __init__(
        self, tree: DataTree, preparer: Preparer, log: list[bytes], max_buffer: int
    ) -> None:
        self.log = log
        self._tree = tree
        self._preparer = preparer
        self._max_buffer = max_buffer

    def take(self, connection: Connection, data: bytes, pos: int, end: int) -> int:
        """Answers frames from data[pos:end]; gives the place of the first that it left."""
        bodies = self._tree.replies.bodies
        zxid = self._tree.last_zxid
        add = connection.out.append
        most = self._max_buffer
        count = last = last_kind = 0
        while end - pos >= _HEAD_SIZE:
            length, xid, kind, size = _HEAD(data, pos)
            after = pos + 4 + length
            if after > end or not 12 <= length <= most:
                break
            body = bodies.get(data[pos + 8 : after])
            if body is not None:
                add(_REPLY(16 + len(body), xid, zxid, 0))
                add(body)
            elif kind == op.SET_DATA and size > 1:
                if not self._set_data(connection, data, pos, after, xid, size):
                    break
                zxid = self._tree.last_zxid
            elif kind == op.GET_DATA and length == size + _GET_DATA_MORE:
                if not self._get_data(connection, data, pos, after, xid, zxid):
                    break
            elif kind == op.CREATE and size > 1:
                if not self._create(connection, data, pos, after, xid, size):
                    break
                zxid = self._tree.last_zxid
            else:
                break
            pos = after
            count += 1
            last = xid
            last_kind = kind
        if count:
            connection.received += count
            connection.last_xid, connection.last_kind = last, last_kind
        return pos

    def _get_data(
        self, connection: Connection, data: bytes, pos: int, after: int, xid: int, zxid: int
    ) -> bool:
        """Keeps the answer ready for whoever asks next."""
        tree = self._tree
        node = tree.nodes.get(data[pos + _HEAD_SIZE : after - 1].decode("utf-8", "replace"))
        if node is None or data[after - 1] or not tree.acls.world[node.acl] & rights.READ:
            return False
        value = node.data
        stat = node.stat_bytes(tree.extended)
        body = _NULL + stat if value is None else _INT_BYTES(len(value)) + value + stat
        connection.out.append(_REPLY(16 + len(body), xid, zxid, 0) + body)
        tree.replies.keep(data[pos + 8 : after], body, node)
        return True

    def _set_data(
        self, connection: Connection, data: bytes, pos: int, after: int, xid: int, size: int
    ) -> bool:
        start = pos + _HEAD_SIZE
        data_at = start + size + 4
        if data_at > after:
            return False
        length = _INT(data, data_at - 4)[0]
        data_end = data_at + length
        if length < 0 or data_end + 4 != after:
            return False
        tree, preparer = self._tree, self._preparer
        path = data[start : start + size].decode("utf-8", "replace")
        node = tree.nodes.get(path)
        if (
            node is None
            or not tree.acls.world[node.acl] & rights.WRITE
            or _INT(data, data_end)[0] not in (-1, node.version)
            or node.version >= _LARGE
            or tree.quotas
            or preparer.outstanding
        ):
            return False
        zxid = preparer.zxid = preparer.zxid + 1
        now = preparer.now_ms
        version = node.version + 1
        tree.set_data(path, data[data_at:data_end], version, zxid, now)
        tree.last_zxid = zxid
        self.log.append(
            _TXN(connection.session_id, xid, zxid, now, op.SET_DATA)
            + data[pos + 12 : data_end]
            + _NUMBER_AND_DIGEST(version, DIGEST_VERSION, tree.tree_digest)
        )
        connection.out.append(
            _REPLY(16 + _STAT_SIZE, xid, zxid, 0) + node.stat_bytes(tree.extended)
        )
        return True

    def _create(
        self, connection: Connection, data: bytes, pos: int, after: int, xid: int, size: int
    ) -> bool:
        start = pos + _HEAD_SIZE
        data_at = start + size + 4
        acl_at = after - 4 - len(_OPEN_VECTOR)
        if data_at > acl_at or data[acl_at : after - 4] != _OPEN_VECTOR:
            return False
        flags = _INT(data, after - 4)[0]
        if _INT(data, data_at - 4)[0] != acl_at - data_at or flags not in (_PLAIN, _EPHEMERAL):
            return False
        tree, preparer = self._tree, self._preparer
        path = data[start : start + size].decode("utf-8", "replace")
        slash = path.rfind("/")
        parent = tree.nodes.get(path[:slash]) if slash >= 0 else None
        if (
            parent is None
            or parent.owner
            or path in tree.nodes
            or not tree.acls.world[parent.acl] & rights.CREATE
            or parent.cversion >= _LARGE
            or tree.quotas
            or path.startswith(paths.ZOOKEEPER)
            or preparer.outstanding
        ):
            return False
        try:
            paths.validate(path)
        except KeeperError:
            return False
        zxid = preparer.zxid = preparer.zxid + 1
        now = preparer.now_ms
        cversion = parent.cversion + 1
        session_id = connection.session_id
        acl = tree.acls.use(rights.OPEN_ACL, _OPEN_KEY)
        owner = session_id if flags == _EPHEMERAL else 0
        tree.create(path, data[data_at:acl_at], acl, owner, cversion, zxid, now)
        tree.last_zxid = zxid
        self.log.append(
            _TXN(session_id, xid, zxid, now, op.CREATE)
            + data[pos + 12 : after - 4]
            + _FLAG_NUMBER_AND_DIGEST(
                flags == _EPHEMERAL, cversion, DIGEST_VERSION, tree.tree_digest
            )
        )
        connection.out.append(_REPLY(20 + size, xid, zxid, 0) + data[pos + 12 : start + size])
        return True
