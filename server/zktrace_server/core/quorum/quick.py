"""setData, the write that comes most, through an ensemble from bytes to bytes: without records, in
a few steps each.

Three cases: a learner's request becomes the leader's txn (`prepare`); a txn that is proposed is
recognised (`read`), and applied when it is committed (`apply`). Each only where nothing is special
about it: no quota, no right to be looked up, nothing to refuse, a digest of the usual kind.
Whatever is left goes the way that all txns can go, which `tests/server/quorum/test_quick.py` holds
this one to: same txns, same trees, same answers. Knows no connection and no order.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from zktrace_server.core import request as op
from zktrace_server.core.node import DIGEST_VERSION, Node
from zktrace_server.core.prepare import Preparer
from zktrace_server.core.tree import DataTree

#: A ForwardedRequest: session id, xid, opcode, then the request's body, which begins with a length.
REQUEST: Final = struct.Struct(">qiii").unpack_from
REQUEST_SIZE: Final = 20
#: A TxnHeader, and the length of the path behind it.
_TXN: Final = struct.Struct(">qiqqii")
_ZXID_TIME_KIND: Final = struct.Struct(">qqi").pack
_INT: Final = struct.Struct(">i").unpack_from
#: What is behind the data: the version, and the digest.
_END: Final = struct.Struct(">iiq")
_HALF: Final = 1 << 63
_ALL: Final = (1 << 64) - 1


class SetData(NamedTuple):
    """The txn, as a Transaction with a SetDataTxn and a TxnDigest has it. `time_ms` by the leader's
    clock; `tree_digest` a signed long.
    """

    session_id: int
    cxid: int
    zxid: int
    time_ms: int
    path: str
    data: bytes
    version: int
    tree_digest: int


#: What a NamedTuple's own `__new__` does, without the call.
_made: Final = tuple.__new__


def prepare(
    preparer: Preparer, tree: DataTree, forwarded: bytes, session_id: int, xid: int, size: int
) -> tuple[bytes, SetData] | None:
    """The txn of a ForwardedRequest that is a setData, encoded and not, with what it promises in
    the preparer's outstanding changes; its first three values are those given. None, and nothing
    has happened, where it has to be looked at more closely. The session is the caller's affair.
    """
    at = REQUEST_SIZE + size + 4
    end = len(forwarded)
    if size <= 1 or at + 4 > end or tree.quotas:
        return None
    length = _INT(forwarded, at - 4)[0]
    behind = at + length
    if length < 0 or behind + 4 != end:
        return None
    try:
        path = forwarded[REQUEST_SIZE : REQUEST_SIZE + size].decode()
    except UnicodeDecodeError:
        return None
    data = forwarded[at:behind]
    zxid, now = preparer.zxid + 1, preparer.now_ms
    expected = _INT(forwarded, behind)[0]
    change = preparer.outstanding.set_data(path, data, expected, zxid, now)
    if change is None or change.stat is None:
        return None
    preparer.zxid = zxid
    version = change.stat.version
    digest = (change.tree_digest + _HALF & _ALL) - _HALF
    payload = b"".join(
        (
            forwarded[:12],
            _ZXID_TIME_KIND(zxid, now, op.SET_DATA),
            forwarded[16:behind],
            _END.pack(version, DIGEST_VERSION, digest),
        )
    )
    return payload, _made(SetData, (session_id, xid, zxid, now, path, data, version, digest))


def read(payload: bytes) -> SetData | None:
    """The txn of these bytes; None if it is another, or of another shape."""
    end = len(payload)
    if end < _TXN.size:
        return None
    session_id, cxid, zxid, time_ms, kind, size = _TXN.unpack_from(payload)
    if kind != op.SET_DATA or not 1 < size <= end - _TXN.size - 4 - _END.size:
        return None
    at = _TXN.size + size + 4
    length = _INT(payload, at - 4)[0]
    if length < 0 or at + length + _END.size != end:
        return None
    version, digest_version, digest = _END.unpack_from(payload, end - _END.size)
    if digest_version != DIGEST_VERSION:
        return None
    path = payload[_TXN.size : _TXN.size + size].decode("utf-8", "replace")
    data = payload[at : at + length]
    return _made(SetData, (session_id, cxid, zxid, time_ms, path, data, version, digest))


def apply(tree: DataTree, txn: SetData) -> Node | None:
    """Changes the tree; None, and nothing has happened, if the node is not there."""
    _, _, zxid, time_ms, path, data, version, _ = txn
    if path not in tree.nodes:
        return None
    node = tree.set_data(path, data, version, zxid, time_ms)
    if zxid > tree.last_zxid:
        tree.last_zxid = zxid
    return node


def agrees(tree: DataTree, txn: SetData) -> bool:
    """Whether the tree is that of who made the txn, by its digest."""
    return not (tree.digest - txn.tree_digest) & _ALL
