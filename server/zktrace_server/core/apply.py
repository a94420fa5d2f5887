"""Txns applied to the tree (DataTree.processTxn). What a txn says was found good before; the errors
that can still come are those of replaying a log over a snapshot that has a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from zktrace.wire.jute import WireError
from zktrace.wire.records import Stat
from zktrace.wire.txn import (
    CheckVersionTxn,
    CloseSessionTxn,
    CreateContainerTxn,
    CreateTTLTxn,
    CreateTxn,
    CreateTxnV0,
    DeleteTxn,
    ErrorTxn,
    MultiTxn,
    SetACLTxn,
    SetDataTxn,
    Transaction,
    TxnHeader,
    decode_part,
)
from zktrace_server.core.errors import (
    NODE_EXISTS,
    OK,
    RUNTIME_INCONSISTENCY,
    KeeperError,
)
from zktrace_server.core.node import CONTAINER_OWNER, ttl_owner
from zktrace_server.core.paths import split
from zktrace_server.core.tree import DataTree

Create = CreateTxn | CreateTxnV0 | CreateTTLTxn | CreateContainerTxn

ERROR: Final = -1
CLOSE_SESSION: Final = -11
_NO_PATH: Final = "a txn without a path"


@dataclass(slots=True)
class Result:
    """What came of a txn: ProcessTxnResult. `type` is the txn's."""

    type: int
    err: int = OK
    path: str | None = None
    stat: Stat | None = None
    parts: list[Result] = field(default_factory=list)


def apply(tree: DataTree, txn: Transaction) -> Result:
    """Changes the tree as the txn says. WireError if it says nothing that can be understood."""
    result = _apply(tree, txn.header, txn.header.type, txn.body)
    tree.last_zxid = max(tree.last_zxid, txn.header.zxid)
    return result


def _apply(tree: DataTree, header: TxnHeader, kind: int, body: object) -> Result:
    result = Result(kind)
    try:
        if isinstance(body, Create):
            result.path = _path(body.path)
            _create(tree, header, result, body)
        elif isinstance(body, DeleteTxn):
            result.path = _path(body.path)
            tree.delete(result.path, header.zxid)
        elif isinstance(body, SetDataTxn):
            result.path = _path(body.path)
            node = tree.set_data(result.path, body.data, body.version, header.zxid, header.time_ms)
            result.stat = node.stat(tree.extended)
        elif isinstance(body, SetACLTxn):
            result.path = _path(body.path)
            result.stat = tree.set_acl(result.path, body.acl, body.version).stat(tree.extended)
        elif isinstance(body, CheckVersionTxn):
            result.path = body.path
        elif isinstance(body, ErrorTxn):
            result.err = body.err
        elif isinstance(body, MultiTxn):
            _multi(tree, header, body, result)
        elif kind == CLOSE_SESSION:
            paths = body.paths_to_delete if isinstance(body, CloseSessionTxn) else None
            tree.end_session(header.session_id, paths, header.zxid)
    except KeeperError as error:
        result.err = error.code
    return result


def _path(path: str | None) -> str:
    if path is None:
        raise WireError(_NO_PATH)
    return path


def _create(tree: DataTree, header: TxnHeader, result: Result, txn: Create) -> None:
    assert txn.path is not None
    owner, cversion = 0, -1
    if isinstance(txn, (CreateTxn, CreateTxnV0)):
        owner = header.session_id if txn.ephemeral else 0
    elif isinstance(txn, CreateContainerTxn):
        owner = CONTAINER_OWNER
    else:
        owner = ttl_owner(txn.ttl_ms)
    if not isinstance(txn, CreateTxnV0):
        cversion = txn.parent_cversion
    number = tree.acls.use(txn.acl)
    try:
        node = tree.create(txn.path, txn.data, number, owner, cversion, header.zxid, header.time_ms)
    except KeeperError as error:
        if error.code == NODE_EXISTS and isinstance(txn, (CreateTxn, CreateTxnV0)):
            tree.repair_cversion(split(txn.path)[0], cversion, header.zxid)
        raise
    result.stat = node.stat(tree.extended)
    # As it was created: where it counts for a quota, its data have been replaced by the count.
    result.stat.data_length = len(txn.data or b"")


def _multi(tree: DataTree, header: TxnHeader, txn: MultiTxn, result: Result) -> None:
    """All parts, or, if one of them is an error, none: then those before it carry 0, those behind
    it RuntimeInconsistency.
    """
    parts = txn.txns or []
    if any(part.type == ERROR for part in parts):
        behind = False
        for part in parts:
            if part.type == ERROR:
                behind = True
                body = decode_part(part)
                assert isinstance(body, ErrorTxn)
                err = body.err
            else:
                err = RUNTIME_INCONSISTENCY if behind else OK
            result.parts.append(Result(ERROR, err))
    else:
        for part in parts:
            result.parts.append(_apply(tree, header, part.type, decode_part(part)))
    result.err = next((part.err for part in result.parts if part.err), OK)
