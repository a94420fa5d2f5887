"""From request to txn (PrepRequestProcessor): the checks, in Java's order, so that a request with
several faults gets the same error; then the promise of what will change.

A refused write uses a zxid and becomes an error txn, as in Java, except where its body cannot be
read: then Java logs a txn with the zxid of the one before, and this server none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from zktrace.wire.codec import Record
from zktrace.wire.multi import MultiOp
from zktrace.wire.records import (
    CreateRequest,
    CreateTTLRequest,
    PathRequest,
    PathVersionRequest,
    ReconfigRequest,
    SetACLRequest,
    SetDataRequest,
    StatPersisted,
)
from zktrace.wire.txn import (
    CheckVersionTxn,
    CloseSessionTxn,
    CreateContainerTxn,
    CreateSessionTxn,
    CreateTTLTxn,
    CreateTxn,
    DeleteTxn,
    ErrorTxn,
    MultiTxn,
    SetACLTxn,
    SetDataTxn,
    Transaction,
    Txn,
    TxnDigest,
    TxnHeader,
)
from zktrace_server.core import acl as rights
from zktrace_server.core import errors as e
from zktrace_server.core import paths
from zktrace_server.core import request as op
from zktrace_server.core.errors import KeeperError
from zktrace_server.core.node import (
    CONTAINER_OWNER,
    DIGEST_VERSION,
    MAX_TTL,
    Owner,
    owner_kind,
    ttl_owner,
)
from zktrace_server.core.outstanding import Change, Outstanding
from zktrace_server.core.quota import Track, exceeded, limits_path, stats_path
from zktrace_server.core.request import Request
from zktrace_server.core.sessions import Sessions
from zktrace_server.core.settings import Settings
from zktrace_server.core.tree import DataTree


class Preparer:
    """`zxid` is the latest one used. `now_ms` is the wall clock, set by whoever drives."""

    def __init__(self, tree: DataTree, sessions: Sessions, settings: Settings) -> None:
        self.zxid = tree.last_zxid
        self.now_ms = 0
        self.outstanding = Outstanding(tree)
        #: A reconfiguration's configuration as text; None where there is no ensemble.
        self.reconfigure: Callable[[ReconfigRequest, int], bytes] | None = None
        self._tree = tree
        self._sessions = sessions
        self._settings = settings

    def prepare(self, request: Request) -> Transaction:
        """The txn of a write. A refused one is an error txn. KeeperError where there is none at
        all, since the body is malformed.
        """
        if request.kind == op.MULTI:
            return self._multi(request)
        record = self._read(request)
        header = self.header(request)
        try:
            body = self._txn(request, header, request.kind, record)
        except KeeperError as error:
            header.type = -1
            return Transaction(header, ErrorTxn(error.code))
        return Transaction(header, body, self._digest())

    def _read(self, request: Request) -> Record | None:
        match request.kind:
            case op.CREATE | op.CREATE2 | op.CREATE_CONTAINER:
                return request.read(CreateRequest)
            case op.CREATE_TTL:
                return request.read(CreateTTLRequest)
            case op.DELETE:
                return request.read(PathVersionRequest)
            case op.DELETE_CONTAINER:
                return request.read(PathRequest)
            case op.SET_DATA:
                return request.read(SetDataRequest)
            case op.SET_ACL:
                return request.read(SetACLRequest)
            case op.RECONFIG:
                return request.read(ReconfigRequest)
            case op.CREATE_SESSION:
                return request.read(CreateSessionTxn)
        return None

    def header(self, request: Request) -> TxnHeader:
        """The header of the next txn."""
        self.zxid += 1
        return TxnHeader(request.session_id, request.xid, self.zxid, self.now_ms, request.kind)

    def _digest(self) -> TxnDigest:
        return TxnDigest(DIGEST_VERSION, self.outstanding.tree_digest())

    def _txn(self, request: Request, header: TxnHeader, kind: int, record: object) -> Record:
        match record:
            case CreateRequest() | CreateTTLRequest():
                return self._create(request, header, kind, record)
            case SetDataRequest():
                return self._set_data(request, header, record)
            case SetACLRequest():
                return self._set_acl(request, header, record)
            case PathVersionRequest() if kind == op.CHECK:
                return self._check(request, record)
            case PathVersionRequest():
                return self._delete(request, header, record)
            case PathRequest():
                return self._delete_container(header, record)
            case ReconfigRequest():
                return self._reconfig(request, header, record)
            case CreateSessionTxn():
                return record
        assert request.kind == op.CLOSE_SESSION
        return self._close_session(request, header)

    # --- one operation each -------------------------------------------------------------------

    def _create(
        self,
        request: Request,
        header: TxnHeader,
        kind: int,
        record: CreateRequest | CreateTTLRequest,
    ) -> Record:
        ttl = record.ttl if isinstance(record, CreateTTLRequest) else -1
        self._check_mode(request, kind, record.flags, ttl)
        if record.path is None:
            raise KeeperError(e.MARSHALLING_ERROR)
        path = record.path
        parent_path = paths.parent_for_create(path)
        acl = rights.fixup(record.acl, request.ids, self._settings.schemes)
        parent = self.outstanding.get(parent_path)
        assert parent.stat is not None
        self._check_rights(parent, rights.CREATE, request)
        if record.flags in op.SEQUENTIAL_FLAGS:
            path = f"{path}{_sequence(parent.stat.cversion)}"
        paths.validate(path)
        if path == paths.ROOT or self.outstanding.has(path):
            raise KeeperError(e.NODE_EXISTS)
        if self._owner_kind(parent) is Owner.SESSION:
            raise KeeperError(e.NO_CHILDREN_FOR_EPHEMERALS)
        self._check_quota(path, len(record.data or b""), 1)
        cversion = parent.stat.cversion + 1
        ephemeral = record.flags in op.EPHEMERAL_FLAGS
        owner = 0
        body: Record
        if kind == op.CREATE_CONTAINER:
            owner = CONTAINER_OWNER
            body = CreateContainerTxn(path, record.data, acl, cversion)
        elif kind == op.CREATE_TTL:
            owner = ttl_owner(ttl)
            body = CreateTTLTxn(path, record.data, acl, cversion, ttl)
        else:
            owner = request.session_id if ephemeral else 0
            body = CreateTxn(path, record.data, acl, ephemeral, cversion)
        changed = parent.at(header.zxid)
        assert changed.stat is not None
        changed.children += 1
        changed.stat.cversion = cversion
        changed.stat.pzxid = header.zxid
        self.outstanding.add(changed)
        zxid, now = header.zxid, header.time_ms
        stat = StatPersisted(zxid, zxid, now, now, 0, 0, 0, owner, zxid)
        self.outstanding.add(Change(zxid, path, stat, record.data, 0, tuple(acl)))
        return body

    def _check_mode(self, request: Request, kind: int, flags: int, ttl: int) -> None:
        """PrepRequestProcessor.validateCreateRequest."""
        if flags not in op.FLAGS:
            raise KeeperError(e.BAD_ARGUMENTS)
        timed = flags in op.TTL_FLAGS
        if timed and not self._settings.extended_types:
            raise KeeperError(e.UNIMPLEMENTED)
        if not 0 < ttl <= MAX_TTL if timed else ttl >= 0:
            raise KeeperError(e.BAD_ARGUMENTS)
        if kind == op.CREATE_TTL and not timed:
            # Java takes this for a TTL node without a time to live, logs it, and dies of it.
            raise KeeperError(e.BAD_ARGUMENTS)
        if flags not in op.EPHEMERAL_FLAGS:
            self._sessions.check(request.session_id)
            return
        try:
            self._sessions.check_lasting(request.session_id)
        except KeeperError:
            raise KeeperError(e.SESSION_EXPIRED) from None

    def _delete(self, request: Request, header: TxnHeader, record: PathVersionRequest) -> DeleteTxn:
        self._sessions.check(request.session_id)
        path = _there(record.path)
        parent = self.outstanding.get(paths.parent_for_delete(path))
        self._check_rights(parent, rights.DELETE, request)
        node = self.outstanding.get(path)
        assert node.stat is not None
        _next_version(node.stat.version, record.version)
        return self._deleted(header, parent, node)

    def _delete_container(self, header: TxnHeader, record: PathRequest) -> DeleteTxn:
        """Of the server itself: an empty container, or a TTL node that was idle too long."""
        path = _there(record.path)
        parent_path = paths.parent_for_delete(path)
        node = self.outstanding.get(path)
        if node.children > 0:
            raise KeeperError(e.NOT_EMPTY)
        if self._owner_kind(node) in (Owner.SESSION, Owner.NONE):
            raise KeeperError(e.BAD_VERSION)
        return self._deleted(header, self.outstanding.get(parent_path), node)

    def _deleted(self, header: TxnHeader, parent: Change, node: Change) -> DeleteTxn:
        if node.children > 0:
            raise KeeperError(e.NOT_EMPTY)
        self._orphan(header, parent)
        self.outstanding.remove(node.path, header.zxid)
        return DeleteTxn(node.path)

    def _orphan(self, header: TxnHeader, parent: Change) -> None:
        changed = parent.at(header.zxid)
        assert changed.stat is not None
        changed.children -= 1
        changed.stat.pzxid = header.zxid
        self.outstanding.add(changed)

    def _set_data(self, request: Request, header: TxnHeader, record: SetDataRequest) -> SetDataTxn:
        self._sessions.check(request.session_id)
        path = paths.validate(record.path)
        node = self.outstanding.get(path)
        assert node.stat is not None
        self._check_rights(node, rights.WRITE, request)
        self._check_quota(path, len(record.data or b"") - len(node.data or b""), 0)
        version = _next_version(node.stat.version, record.version)
        changed = node.at(header.zxid)
        assert changed.stat is not None
        changed.stat.version = version
        changed.stat.mtime = header.time_ms
        changed.stat.mzxid = header.zxid
        changed.data = record.data
        self.outstanding.add(changed)
        return SetDataTxn(path, record.data, version)

    def _set_acl(self, request: Request, header: TxnHeader, record: SetACLRequest) -> SetACLTxn:
        self._sessions.check(request.session_id)
        path = paths.validate(record.path)
        acl = rights.fixup(record.acl, request.ids, self._settings.schemes)
        node = self.outstanding.get(path)
        assert node.stat is not None
        self._check_rights(node, rights.ADMIN, request)
        version = _next_version(node.stat.aversion, record.version)
        changed = node.at(header.zxid)
        assert changed.stat is not None
        changed.stat.aversion = version
        # Java's record keeps the old ACL; requests behind it then go by that until it is applied.
        changed.acl = tuple(acl)
        self.outstanding.add(changed)
        return SetACLTxn(path, acl, version)

    def _check(self, request: Request, record: PathVersionRequest) -> CheckVersionTxn:
        self._sessions.check(request.session_id)
        path = paths.validate(record.path)
        node = self.outstanding.get(path)
        assert node.stat is not None
        self._check_rights(node, rights.READ, request)
        return CheckVersionTxn(path, _next_version(node.stat.version, record.version))

    def _reconfig(self, request: Request, header: TxnHeader, record: ReconfigRequest) -> SetDataTxn:
        """Rights come last: what is wrong with the request, anybody is told."""
        if not self._settings.reconfig_enabled:
            raise KeeperError(e.RECONFIG_DISABLED)
        self._sessions.check(request.session_id)
        if self.reconfigure is None:
            # Standalone: Java looks no further than this.
            raise KeeperError(e.UNIMPLEMENTED)
        text = self.reconfigure(record, header.zxid)
        node = self.outstanding.get(paths.CONFIG)
        self._check_rights(node, rights.WRITE, request)
        changed = node.at(header.zxid)
        assert changed.stat is not None
        changed.stat.version = -1
        changed.stat.mtime = header.time_ms
        changed.stat.mzxid = header.zxid
        changed.data = text
        self.outstanding.add(changed)
        return SetDataTxn(paths.CONFIG, text, -1)

    def _close_session(self, request: Request, header: TxnHeader) -> CloseSessionTxn:
        ephemerals = self.outstanding.ephemerals(request.session_id)
        for path in ephemerals:
            self._orphan(header, self.outstanding.get(paths.split(path)[0]))
            self.outstanding.remove(path, header.zxid)
        self._sessions.close(request.session_id)
        return CloseSessionTxn(list(ephemerals))

    # --- multi --------------------------------------------------------------------------------

    def _multi(self, request: Request) -> Transaction:
        try:
            ops = op.read_multi(request.body)
        except KeeperError as error:
            header = self.header(request)
            return Transaction(replace(header, type=-1), ErrorTxn(error.code))
        header = self.header(request)
        # Java trips over reads, and over a null path (NullPointerException), for all parts at once.
        if op.is_read_multi(ops) or any(getattr(part.body, "path", None) is None for part in ops):
            return Transaction(replace(header, type=-1), ErrorTxn(e.MARSHALLING_ERROR))
        try:
            txns = self._parts(request, header, ops)
        except KeeperError as error:
            self.outstanding.undo(header.zxid)
            return Transaction(replace(header, type=-1), ErrorTxn(error.code))
        return Transaction(header, MultiTxn(txns), self._digest())

    def _parts(self, request: Request, header: TxnHeader, ops: list[MultiOp]) -> list[Txn]:
        """A multi's parts as txns: all of them, or an error where one is refused. MarshallingError
        is that of the whole multi: to Java it is no refusal but an accident.
        """
        txns: list[Txn] = []
        failed = False
        for part in ops:
            kind, body = part.type, ErrorTxn(e.RUNTIME_INCONSISTENCY) if failed else None
            if body is None:
                try:
                    txn = self._txn(request, header, kind, part.body)
                    txns.append(Txn(kind, txn.encode()))
                    continue
                except KeeperError as error:
                    if error.code == e.MARSHALLING_ERROR:
                        raise
                    self.outstanding.undo(header.zxid)
                    failed = True
                    body = ErrorTxn(error.code)
            txns.append(Txn(-1, body.encode()))
        return txns

    # --- what several need --------------------------------------------------------------------

    def _owner_kind(self, change: Change) -> Owner:
        assert change.stat is not None
        return owner_kind(change.stat.ephemeral_owner, self._settings.extended_types)

    def _check_rights(self, change: Change, perm: int, request: Request) -> None:
        if not self._settings.skip_acl:
            rights.check(change.acl, perm, request.ids)

    def _check_quota(self, path: str, size: int, count: int) -> None:
        """Limits are looked up in the tree, not among the promises, as in Java."""
        if not self._settings.enforce_quota:
            return
        prefix = self._tree.quotas.over(path)
        if prefix is None:
            return
        limits = self._tree.nodes.get(limits_path(prefix))
        stats = self._tree.nodes.get(stats_path(prefix))
        if limits is None or stats is None:
            return
        if exceeded(Track(limits.data), Track(stats.data), size, count):
            raise KeeperError(e.QUOTA_EXCEEDED)


def _there(path: str | None) -> str:
    """Java trips over a null path (NullPointerException), which is a MarshallingError."""
    if path is None:
        raise KeeperError(e.MARSHALLING_ERROR)
    return path


def _next_version(current: int, expected: int) -> int:
    if expected not in (-1, current):
        raise KeeperError(e.BAD_VERSION)
    return current + 1


def _sequence(number: int) -> str:
    """Ten digits; a negative number has its sign among them (%010d)."""
    return f"{number:010d}"
