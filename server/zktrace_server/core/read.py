"""Requests that change nothing but watches (FinalRequestProcessor): body in, body out.

Each answers as its opcode's reply record says, encoded, or raises the error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from zktrace.wire.multi import MultiResponse, MultiResult
from zktrace.wire.records import (
    AddWatchRequest,
    ErrorResponse,
    GetACLResponse,
    GetAllChildrenNumberResponse,
    GetChildren2Response,
    GetChildrenResponse,
    GetDataResponse,
    GetEphemeralsRequest,
    PathRequest,
    PathWatchRequest,
    SetWatches,
    SetWatches2,
    StatResponse,
    SyncResponse,
    WatchTypeRequest,
    WhoAmIResponse,
)
from zktrace_server.core import acl as rights
from zktrace_server.core import request as op
from zktrace_server.core import tree as events
from zktrace_server.core.connection import Connection
from zktrace_server.core.errors import (
    BAD_ARGUMENTS,
    MARSHALLING_ERROR,
    NO_WATCHER,
    KeeperError,
)
from zktrace_server.core.node import Node
from zktrace_server.core.request import Request
from zktrace_server.core.tree import DataTree
from zktrace_server.core.watches import ANY, PERSISTENT, RECURSIVE, STANDARD

#: The zxid in events that catch up with what was missed: none.
NO_ZXID: Final = -1

# Watcher.WatcherType.
_CHILDREN: Final = 1
_DATA: Final = 2
_ANY: Final = 3
_PERSISTENT: Final = 4
_RECURSIVE: Final = 5


class Reader:
    """Answers from the tree. `send_event` tells a connection of a change without asking whether it
    may know: it did watch the node.
    """

    def __init__(
        self,
        tree: DataTree,
        skip_acl: bool,
        send_event: Callable[[Connection, int, str, int], None],
    ) -> None:
        self._tree = tree
        self._skip_acl = skip_acl
        self._send_event = send_event
        self.handlers: Final[dict[int, Callable[[Connection, Request], bytes]]] = {
            op.EXISTS: self._exists,
            op.GET_DATA: self._get_data,
            op.GET_ACL: self._get_acl,
            op.GET_CHILDREN: self._get_children,
            op.GET_CHILDREN2: self._get_children2,
            op.SYNC: self._sync,
            op.CHECK_WATCHES: self._check_watches,
            op.REMOVE_WATCHES: self._remove_watches,
            op.MULTI_READ: self._multi_read,
            op.SET_WATCHES: self._set_watches,
            op.SET_WATCHES2: self._set_watches2,
            op.GET_EPHEMERALS: self._get_ephemerals,
            op.GET_ALL_CHILDREN_NUMBER: self._get_all_children_number,
            op.ADD_WATCH: self._add_watch,
            op.WHO_AM_I: self._who_am_i,
        }

    def _readable(self, path: str | None, connection: Connection, perm: int = rights.READ) -> Node:
        """The node, if the client may read it. Java trips over a null path."""
        if path is None:
            raise KeeperError(MARSHALLING_ERROR)
        node = self._tree.node(path)
        self._check(node, connection, perm)
        return node

    def _check(self, node: Node, connection: Connection, perm: int) -> None:
        if not self._skip_acl and not self._tree.acls.world[node.acl] & perm:
            rights.check(self._tree.acl(node), perm, connection.ids)

    def _exists(self, connection: Connection, request: Request) -> bytes:
        record = request.read(PathWatchRequest)
        path = record.path
        if path is None:
            raise KeeperError(MARSHALLING_ERROR)
        if "\0" in path:
            raise KeeperError(BAD_ARGUMENTS)
        node = self._tree.nodes.get(path)
        if node is not None:
            self._check(node, connection, rights.READ)
        if record.watch:
            self._tree.data_watches.add(path, connection)
        return StatResponse(self._tree.node(path).stat(self._tree.extended)).encode()

    def _get_data(self, connection: Connection, request: Request) -> bytes:
        return self._data(connection, request.read(PathWatchRequest)).encode()

    def _data(self, connection: Connection, record: PathWatchRequest) -> GetDataResponse:
        node = self._readable(record.path, connection)
        if record.watch:
            self._tree.data_watches.add(record.path, connection)
        return GetDataResponse(node.data, node.stat(self._tree.extended))

    def _get_children(self, connection: Connection, request: Request) -> bytes:
        return self._children(connection, request.read(PathWatchRequest)).encode()

    def _children(self, connection: Connection, record: PathWatchRequest) -> GetChildrenResponse:
        node = self._readable(record.path, connection)
        if record.watch:
            self._tree.child_watches.add(record.path, connection)
        return GetChildrenResponse([*node.child_names()])

    def _get_children2(self, connection: Connection, request: Request) -> bytes:
        record = request.read(PathWatchRequest)
        children = self._children(connection, record).children
        assert record.path is not None
        stat = self._tree.nodes[record.path].stat(self._tree.extended)
        return GetChildren2Response(children, stat).encode()

    def _multi_read(self, connection: Connection, request: Request) -> bytes:
        response = MultiResponse()
        for part in op.read_multi(request.body):
            record = part.body
            if not isinstance(record, PathWatchRequest):
                raise KeeperError(MARSHALLING_ERROR)
            # A multi's reads set no watch, whatever they say (Op.getData, Op.getChildren).
            record.watch = False
            try:
                if part.type == op.GET_DATA:
                    result = MultiResult(part.type, 0, self._data(connection, record))
                else:
                    result = MultiResult(part.type, 0, self._children(connection, record))
            except KeeperError as error:
                result = MultiResult(-1, error.code, ErrorResponse(error.code))
            response.results.append(result)
        return response.encode()

    def _get_acl(self, connection: Connection, request: Request) -> bytes:
        node = self._readable(
            request.read(PathRequest).path, connection, rights.READ | rights.ADMIN
        )
        acl = [*self._tree.acl(node)]
        if not self._skip_acl and not rights.allowed(acl, rights.ADMIN, connection.ids):
            acl = rights.masked(acl)
        return GetACLResponse(acl, node.stat(self._tree.extended)).encode()

    def _get_all_children_number(self, connection: Connection, request: Request) -> bytes:
        path = request.read(PathRequest).path
        self._readable(path, connection)
        nodes = self._tree.nodes
        # The root counts all but its own two names; the name "" is no prefix of anything else.
        if path == "/":
            number = len(nodes) - 2
        else:
            number = sum(1 for p in nodes if p.startswith(f"{path}/"))
        return GetAllChildrenNumberResponse(number).encode()

    def _get_ephemerals(self, connection: Connection, request: Request) -> bytes:
        prefix = request.read(GetEphemeralsRequest).prefix_path
        own = self._tree.ephemerals.get(connection.session_id, {})
        # String.trim: what is up to the space counts as space.
        trimmed = (prefix or "").strip("".join(map(chr, range(33))))
        everything = prefix is None or trimmed in ("", "/")
        return GetChildrenResponse(
            [path for path in own if everything or path.startswith(prefix or "")]
        ).encode()

    def _sync(self, connection: Connection, request: Request) -> bytes:
        return SyncResponse(request.read(PathRequest).path).encode()

    def _who_am_i(self, connection: Connection, request: Request) -> bytes:
        return WhoAmIResponse([*rights.who_am_i(connection.ids)]).encode()

    # --- watches ------------------------------------------------------------------------------

    def _add_watch(self, connection: Connection, request: Request) -> bytes:
        record = request.read(AddWatchRequest)
        if record.mode == 0:
            self._tree.data_watches.add(record.path, connection, PERSISTENT)
            self._tree.child_watches.add(record.path, connection, PERSISTENT)
        elif record.mode == 1:
            self._tree.watch_recursively(record.path, connection)
        else:
            raise KeeperError(MARSHALLING_ERROR)
        return ErrorResponse(0).encode()

    def _check_watches(self, connection: Connection, request: Request) -> bytes:
        record = request.read(WatchTypeRequest)
        path, data, children = record.path, self._tree.data_watches, self._tree.child_watches
        match record.type:
            case 1:
                found = children.has(path, connection, STANDARD)
            case 2:
                found = data.has(path, connection, STANDARD)
            case 3:
                found = children.has(path, connection) or data.has(path, connection)
            case 4:
                found = data.has(path, connection, PERSISTENT)
            case 5:
                found = data.has(path, connection, RECURSIVE)
            case _:
                raise KeeperError(MARSHALLING_ERROR)
        if not found:
            raise KeeperError(NO_WATCHER)
        return b""

    def _remove_watches(self, connection: Connection, request: Request) -> bytes:
        record = request.read(WatchTypeRequest)
        modes = {
            _CHILDREN: (STANDARD, 0),
            _DATA: (0, STANDARD),
            _ANY: (ANY, ANY),
            _PERSISTENT: (PERSISTENT, PERSISTENT),
            _RECURSIVE: (0, RECURSIVE),
        }.get(record.type)
        if modes is None:
            raise KeeperError(MARSHALLING_ERROR)
        children = self._tree.child_watches.remove(record.path, connection, modes[0])
        data = self._tree.data_watches.remove(record.path, connection, modes[1])
        if not (children or data):
            raise KeeperError(NO_WATCHER)
        return b""

    def _set_watches(self, connection: Connection, request: Request) -> bytes:
        r = request.read(SetWatches)
        return self._catch_up(
            connection, r.relative_zxid, r.data_watches, r.exist_watches, r.child_watches, [], []
        )

    def _set_watches2(self, connection: Connection, request: Request) -> bytes:
        r = request.read(SetWatches2)
        return self._catch_up(
            connection,
            r.relative_zxid,
            r.data_watches,
            r.exist_watches,
            r.child_watches,
            r.persistent_watches,
            r.persistent_recursive_watches,
        )

    def _catch_up(
        self,
        connection: Connection,
        zxid: int,
        data: list[str | None] | None,
        exist: list[str | None] | None,
        child: list[str | None] | None,
        persistent: list[str | None] | None,
        recursive: list[str | None] | None,
    ) -> bytes:
        """Watches of a client that was away since `zxid`: for each, the event that it missed, or
        the watch again (DataTree.setWatches).
        """
        tree = self._tree
        for path in _vector(data):
            node = tree.nodes.get(_name(path))
            if node is None:
                self._send_event(connection, events.DELETED, _name(path), NO_ZXID)
            elif node.mzxid > zxid:
                self._send_event(connection, events.DATA_CHANGED, _name(path), NO_ZXID)
            else:
                tree.data_watches.add(path, connection)
        for path in _vector(exist):
            if _name(path) in tree.nodes:
                self._send_event(connection, events.CREATED, _name(path), NO_ZXID)
            else:
                tree.data_watches.add(path, connection)
        for path in _vector(child):
            node = tree.nodes.get(_name(path))
            if node is None:
                self._send_event(connection, events.DELETED, _name(path), NO_ZXID)
            elif node.pzxid > zxid:
                self._send_event(connection, events.CHILDREN_CHANGED, _name(path), NO_ZXID)
            else:
                tree.child_watches.add(path, connection)
        for path in _vector(persistent):
            tree.child_watches.add(path, connection, PERSISTENT)
            tree.data_watches.add(path, connection, PERSISTENT)
        for path in _vector(recursive):
            tree.watch_recursively(path, connection)
        return b""


def _vector(paths: list[str | None] | None) -> list[str | None]:
    """Java trips over a null vector when its turn comes."""
    if paths is None:
        raise KeeperError(MARSHALLING_ERROR)
    return paths


def _name(path: str | None) -> str:
    """And over a null path where it is looked up."""
    if path is None:
        raise KeeperError(MARSHALLING_ERROR)
    return path
