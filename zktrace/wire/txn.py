"""Transactions (zookeeper.jute: org.apache.zookeeper.txn; SerializeUtils.deserializeTxn): data of
PROPOSAL and INFORM packets, entries of the txn log.

TxnHeader, a body by type, and often a TxnDigest. Nothing says whether the digest is there, nor
which of two layouts an old CreateTxn has: what is left over decides (0 or 12 bytes is right).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zktrace.wire.codec import Record, record
from zktrace.wire.jute import Bool, Buffer, Int, Long, UString, Vector, WireError
from zktrace.wire.records import ACL


@record
class TxnHeader(Record):
    """`time_ms` by the leader's clock; (session_id, cxid) names the client's request."""

    session_id: Long
    cxid: Int
    zxid: Long
    time_ms: Long
    type: Int


@record
class CreateTxnV0(Record):
    """CreateTxn of logs older than 3.3."""

    path: UString
    data: Buffer
    acl: Vector[ACL]
    ephemeral: Bool


@record
class CreateTxn(Record):
    path: UString
    data: Buffer
    acl: Vector[ACL]
    ephemeral: Bool
    parent_cversion: Int


@record
class CreateTTLTxn(Record):
    path: UString
    data: Buffer
    acl: Vector[ACL]
    parent_cversion: Int
    ttl_ms: Long


@record
class CreateContainerTxn(Record):
    path: UString
    data: Buffer
    acl: Vector[ACL]
    parent_cversion: Int


@record
class DeleteTxn(Record):
    path: UString


@record
class SetDataTxn(Record):
    """`version` is the new one. Also a reconfig's txn, on /zookeeper/config."""

    path: UString
    data: Buffer
    version: Int


@record
class SetACLTxn(Record):
    path: UString
    acl: Vector[ACL]
    version: Int


@record
class CheckVersionTxn(Record):
    path: UString
    version: Int


@record
class Txn(Record):
    """One part of a MultiTxn: `data` is a body as its type says."""

    type: Int
    data: Buffer


@record
class MultiTxn(Record):
    txns: Vector[Txn]


@record
class ErrorTxn(Record):
    err: Int


@record
class CreateSessionTxn(Record):
    timeout_ms: Int


@record
class CloseSessionTxn(Record):
    """Ephemerals to delete. The whole body is missing where a server does not write it."""

    paths_to_delete: Vector[UString]


@record
class TxnDigest(Record):
    """Digest of the whole tree after the txn."""

    version: Int
    tree_digest: Long


_DIGEST_SIZE: Final = 12

# Bodies by type, likeliest first. No body at all is a case of closeSession only.
BODIES: Final[dict[int, tuple[type[Record], ...]]] = {
    -11: (CloseSessionTxn,),
    -10: (CreateSessionTxn,),
    -1: (ErrorTxn,),
    1: (CreateTxn, CreateTxnV0),
    2: (DeleteTxn,),
    5: (SetDataTxn,),
    7: (SetACLTxn,),
    13: (CheckVersionTxn,),
    14: (MultiTxn,),
    15: (CreateTxn, CreateTxnV0),
    16: (SetDataTxn,),
    19: (CreateContainerTxn,),
    20: (DeleteTxn,),
    21: (CreateTTLTxn,),
}


@dataclass(slots=True)
class Transaction:
    """A txn as proposed or logged."""

    header: TxnHeader
    body: Record | None
    digest: TxnDigest | None = None

    def encode(self) -> bytes:
        parts = (self.header, self.body, self.digest)
        return b"".join(p.encode() for p in parts if p is not None)

    @classmethod
    def decode(cls, data: bytes) -> Transaction:
        header, pos = TxnHeader.decode_from(data, 0, len(data))
        body, pos = _body(header.type, data, pos, (0, _DIGEST_SIZE))
        digest = TxnDigest.decode(data[pos:]) if pos < len(data) else None
        return cls(header, body, digest)


def decode_part(txn: Txn) -> Record | None:
    """Body of one part of a MultiTxn (no digest inside)."""
    data = txn.data or b""
    return _body(txn.type, data, 0, (0,))[0]


def _body(
    number: int, data: bytes, pos: int, allowed: tuple[int, ...]
) -> tuple[Record | None, int]:
    end = len(data)
    classes = BODIES.get(number)
    if classes is None:
        raise WireError(f"unknown txn type {number}", pos, "TxnHeader.type")
    error: WireError | None = None
    for cls in classes:
        try:
            body, after = cls.decode_from(data, pos, end)
        except WireError as e:
            error = error or e
            continue
        if end - after in allowed:
            return body, after
    if CloseSessionTxn in classes and end - pos in allowed:
        return None, pos
    raise error or WireError("bytes left over that are no digest", pos, classes[0].__name__)
