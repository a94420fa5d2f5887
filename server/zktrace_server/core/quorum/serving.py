"""What clients see of a server in an ensemble: reads from its own tree, writes through the leader
(FollowerRequestProcessor, CommitProcessor, FinalRequestProcessor; LearnerSessionTracker).

A session's requests are answered in their order. What waits for the ensemble stays in its
connection's queue, with all that came behind it; the others are answered at once. A server is made
when a term is there to be served, and ended with it, with all its connections.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from zktrace.wire.records import GetDataResponse, Id
from zktrace.wire.txn import CreateSessionTxn, Transaction
from zktrace_server.core import request as op
from zktrace_server.core.apply import CLOSE_SESSION, ERROR, Result
from zktrace_server.core.connection import Connection, State
from zktrace_server.core.errors import (
    EPHEMERAL_ON_LOCAL_SESSION,
    OK,
    SESSION_MOVED,
)
from zktrace_server.core.fast import Fast
from zktrace_server.core.node import Node
from zktrace_server.core.paths import CONFIG
from zktrace_server.core.prepare import Preparer
from zktrace_server.core.quorum.localsessions import to_upgrade
from zktrace_server.core.quorum.quick import SetData
from zktrace_server.core.quorum.replica import Replica
from zktrace_server.core.request import Request
from zktrace_server.core.server import Server, create_session, write_reply
from zktrace_server.core.sessions import Sessions
from zktrace_server.core.settings import Settings

#: Most forwarded requests of a connection that is gone which are remembered until they come back.
_MAX_ORPHANS: Final = 1 << 16

#: Length of a frame, xid, opcode.
_HEAD: Final = struct.Struct(">iii").unpack_from
_ASKED: Final = struct.Struct(">ii").pack
_STAT_SIZE: Final = 68
_SET_DATA_REPLY: Final = struct.Struct(">iiqi").pack
#: Writes that the leader is sent as they came.
_AS_THEY_ARE: Final = op.WRITES - {
    op.CREATE_SESSION,
    op.CLOSE_SESSION,
    op.DELETE_CONTAINER,
    op.RECONFIG,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is answered with an error, in its turn."""

    request: Request
    code: int


@dataclass(frozen=True, slots=True)
class Held:
    """A write behind a sync: the leader is asked when that is done. A sync's answer comes after a
    round of its own, so that the write's commit would overtake it.
    """

    request: Request


class Waiting:
    """A request that the ensemble has to answer; a sync is `done` when it has, and the only one of
    which more than opcode and xid is needed then.
    """

    __slots__ = ("done", "kind", "sync", "xid")

    def __init__(self, xid: int, kind: int, sync: Request | None = None) -> None:
        self.xid = xid
        self.kind = kind
        self.sync = sync
        self.done = False


class Reads(Fast):
    """The short way for reads alone."""

    def _set_data(
        self, connection: Connection, data: bytes, pos: int, after: int, xid: int, size: int
    ) -> bool:
        return False

    def _create(
        self, connection: Connection, data: bytes, pos: int, after: int, xid: int, size: int
    ) -> bool:
        return False


class Forwards(Reads):
    """The short way of members: reads are answered, writes go on to the leader as they are."""

    def __init__(self, server: MemberServer) -> None:
        super().__init__(server.tree, server.preparer, server.log, server.settings.max_buffer)
        self._server = server

    def take(self, connection: Connection, data: bytes, pos: int, end: int) -> int:
        server, most = self._server, self._max_buffer
        if server.local is not None:
            # Writes of its own sessions are more than passed on.
            return pos if connection.queue else super().take(connection, data, pos, end)
        queue, session_id, count = connection.queue, connection.session_id, 0
        while end - pos >= 12:
            length, xid, kind = _HEAD(data, pos)
            after = pos + 4 + length
            if after > end or not 8 <= length <= most:
                break
            if kind in _AS_THEY_ARE:
                if connection.syncs:
                    break
                queue.append(Waiting(xid, kind))
                server.ask(session_id, data[pos + 4 : after], connection.ids)
                count += 1
                pos = after
                connection.last_xid, connection.last_kind = xid, kind
            elif queue:
                break
            else:
                before, pos = pos, super().take(connection, data, pos, end)
                if pos == before:
                    break
        server.waiting += count
        connection.received += count
        return pos


class MemberServer(Server):
    """What leaders and learners have in common."""

    def __init__(self, settings: Settings, replica: Replica) -> None:
        super().__init__(settings, replica.tree, replica.timeouts)
        self.replica = replica
        #: Requests that wait for the ensemble.
        self.waiting = 0
        self._orphans: dict[int, deque[int]] = {}
        self._syncs: deque[tuple[Connection, Waiting]] = deque()
        #: Sessions of this server alone, if it may have some.
        self.local: Sessions | None = None

    def start(self, wall_ms: int, now_ms: int) -> None:
        """Ephemerals of unknown sessions are left: trees must not come to differ."""
        settings = self.settings
        if settings.local_sessions:
            self.local = Sessions(settings.tick_ms, settings.server_id, now_ms)
        self.sessions = self._ensembles_sessions(now_ms)
        self.preparer = Preparer(self.tree, self.sessions, settings)
        if self._want_fast:
            self._fast = Forwards(self)
        self.set_time(wall_ms, now_ms)
        self.replica.listener = self

    def _ensembles_sessions(self, now_ms: int) -> Sessions:
        return Sessions(self.settings.tick_ms, self.settings.server_id, now_ms)

    def deadline(self) -> int | None:
        """When `tick` is worth calling."""
        return None if self.local is None else self.local.next_expiry()

    def tick(self) -> None:
        """Ends local sessions that nobody was heard of."""
        if self.local is None:
            return
        for session_id in self.local.expired(self.now_ms):
            self.local.remove(session_id)
            connection = self._of_session.get(session_id)
            if connection is not None:
                self._end(connection, drop=True)

    def end(self) -> None:
        """The term is over: all connections are closed, watches forgotten."""
        self.replica.listener = None
        for connection in list(self.connections):
            self._end(connection)

    # --- connections --------------------------------------------------------------------------

    def receive(self, connection: Connection, data: bytes) -> None:
        if connection.held:
            connection.rest += data
            return
        super().receive(connection, data)

    def disconnect(self, connection: Connection) -> None:
        connection.syncs = 0
        self._ask_held(connection)  # what was sent is asked for, whoever waits for it
        self._forget(connection)
        super().disconnect(connection)

    def _end(self, connection: Connection, *, drop: bool = False) -> None:
        self._forget(connection)
        super()._end(connection, drop=drop)

    def _forget(self, connection: Connection) -> None:
        """What it waits for comes nevertheless, and is nobody's then."""
        connection.held = False
        connection.syncs = 0
        for item in connection.queue:
            if not isinstance(item, Waiting):
                continue
            self.waiting -= 1
            if item.kind != op.SYNC:
                orphans = self._orphans.setdefault(connection.session_id, deque())
                if len(orphans) < _MAX_ORPHANS:
                    orphans.append(item.xid)
        connection.queue.clear()

    def _begin(self, connection: Connection) -> None:
        session_id = self.sessions.new_id()
        while session_id in self.replica.timeouts:
            session_id = self.sessions.new_id()
        connection.session_id = session_id
        self._of_session[session_id] = connection
        if self.local is not None:
            self.local.track(session_id, connection.timeout_ms, self.now_ms)
            self._welcome(connection, True)
            return
        connection.held = True
        self._submit(connection, create_session(connection))

    def _welcome(self, connection: Connection, valid: bool) -> None:
        connection.held = False
        super()._welcome(connection, valid)
        if valid and connection.rest:
            rest = bytes(connection.rest)
            connection.rest.clear()
            self.receive(connection, rest)

    def _is_local(self, session_id: int) -> bool:
        return self.local is not None and self.local.get(session_id) is not None

    def _touch(self, connection: Connection) -> bool:
        local, session_id = self.local, connection.session_id
        if local is not None and local.touch(session_id, connection.timeout_ms, self.now_ms):
            return True
        return self._touch_lasting(connection)

    def _touch_lasting(self, connection: Connection) -> bool:
        return super()._touch(connection)

    def _resume(self, connection: Connection) -> None:
        local, session_id = self.local, connection.session_id
        if local is not None and local.touch(session_id, connection.timeout_ms, self.now_ms):
            self._welcome(connection, True)
        else:
            self._resume_lasting(connection)

    def _resume_lasting(self, connection: Connection) -> None:
        """A session of the ensemble, if it is one."""
        raise NotImplementedError

    def _own(self, connection: Connection, request: Request) -> bool:
        """A write of a local session: true if it is not the ensemble's affair. Before it makes an
        ephemeral node the session becomes one of all, if it may.
        """
        local, session_id = self.local, request.session_id
        session = local.get(session_id) if local is not None else None
        if local is None or session is None:
            return False
        if request.kind == op.CLOSE_SESSION:
            self._in_turn(connection, request)
            return True
        if not to_upgrade(request):
            return False
        if not self.settings.local_sessions_upgrade:
            self._in_turn(connection, Refusal(request, EPHEMERAL_ON_LOCAL_SESSION))
            return True
        local.remove(session_id)
        body = CreateSessionTxn(session.timeout_ms).encode()
        self.ask(session_id, _ASKED(0, op.CREATE_SESSION) + body, ())
        return False

    def _in_turn(self, connection: Connection, item: Request | Refusal) -> None:
        if connection.queue:
            connection.queue.append(item)
        else:
            self._answer_now(connection, item)

    def _answer_now(self, connection: Connection, item: Request | Refusal) -> None:
        """What waits for nothing."""
        if isinstance(item, Refusal):
            self._reply(connection, item.request.xid, self.tree.last_zxid, item.code)
        elif item.kind == op.CLOSE_SESSION and self.local is not None:
            self.local.remove(item.session_id)
            self._reply(connection, item.xid, self.tree.last_zxid, OK)
            self._end(connection)
        else:
            Server._request(self, connection, item)

    # --- requests -----------------------------------------------------------------------------

    def _request(self, connection: Connection, request: Request) -> None:
        kind = request.kind
        if kind == op.SYNC:
            waiting = Waiting(request.xid, kind, request)
            self._enqueue(connection, waiting)
            connection.syncs += 1
            self._syncs.append((connection, waiting))
            self.ask_sync(request)
        elif kind in op.WRITES and kind not in (op.CREATE_SESSION, op.DELETE_CONTAINER):
            if connection.syncs:
                connection.queue.append(Held(request))
            elif not self._own(connection, request):
                self._submit(connection, request)
        elif connection.queue:
            connection.queue.append(request)
        else:
            super()._request(connection, request)

    def _enqueue(self, connection: Connection, waiting: Waiting) -> None:
        connection.queue.append(waiting)
        self.waiting += 1

    def _submit(self, connection: Connection, request: Request) -> None:
        self._enqueue(connection, Waiting(request.xid, request.kind))
        asked = _ASKED(request.xid, request.kind) + request.body
        self.ask(request.session_id, asked, request.ids)

    def ask(self, session_id: int, asked: bytes, ids: Iterable[Id]) -> None:
        """A request, to the leader: xid, opcode and body as they came."""
        raise NotImplementedError

    def ask_sync(self, request: Request) -> None:
        """A sync, to the leader."""
        raise NotImplementedError

    def synced(self) -> None:
        """The oldest sync that waits is done."""
        if not self._syncs:
            return
        connection, waiting = self._syncs.popleft()
        waiting.done = True
        if connection.syncs:  # none: the connection has ended meanwhile
            connection.syncs -= 1
        self._go_on(connection)
        if not connection.syncs:
            self._ask_held(connection)

    def _ask_held(self, connection: Connection) -> None:
        """Asks the leader for what was behind a sync, in its turn."""
        queue = connection.queue
        if not any(isinstance(item, Held) for item in queue):
            return
        items = list(queue)
        queue.clear()
        for item in items:
            if isinstance(item, Held):
                self._request(connection, item.request)
            elif isinstance(item, Waiting):
                queue.append(item)
            else:
                assert isinstance(item, Request | Refusal)
                self._in_turn(connection, item)

    def _go_on(self, connection: Connection) -> None:
        """Answers what waits for nothing any more."""
        queue = connection.queue
        while queue and connection.state is not State.ENDING:
            head = queue[0]
            if isinstance(head, Waiting):
                if not head.done:
                    return
                self.waiting -= 1
                assert head.sync is not None
                item: Request | Refusal = head.sync
            elif isinstance(head, Held):
                return
            else:
                assert isinstance(head, Request | Refusal)
                item = head
            queue.popleft()
            self._answer_now(connection, item)

    def committed(self, txn: Transaction, result: Result) -> None:
        """A txn was applied: the client that asked for it is told, if it is ours."""
        header = txn.header
        session_id = header.session_id
        if header.type == op.CREATE_SESSION and self.local is not None:
            # It may have come back meanwhile as what it was.
            self.local.remove(session_id)
        connection = self._of_session.get(session_id)
        if not self._was_orphan(session_id, header.cxid) and connection is not None:
            head = connection.queue[0] if connection.queue else None
            if isinstance(head, Waiting) and not head.done and _answers(head, txn):
                connection.queue.popleft()
                self.waiting -= 1
                self._answer(connection, head, result)
                self._go_on(connection)
        if header.type == CLOSE_SESSION:
            self._closed(session_id)

    def set_data_committed(self, txn: SetData, node: Node) -> None:
        """The same of a setData."""
        session_id, xid = txn.session_id, txn.cxid
        if self._orphans and self._was_orphan(session_id, xid):
            return
        connection = self._of_session.get(session_id)
        if connection is None or not connection.queue:
            return
        queue = connection.queue
        head = queue[0]
        if not isinstance(head, Waiting) or head.xid != xid or head.kind != op.SET_DATA:
            # As of another of the session's connections: their xids may repeat.
            return
        queue.popleft()
        self.waiting -= 1
        zxid = self.tree.last_zxid
        reply = _SET_DATA_REPLY(16 + _STAT_SIZE, xid, zxid, OK)
        connection.out.append(reply + node.stat_bytes(self.tree.extended))
        self.dirty[connection] = None
        if queue:
            self._go_on(connection)

    def _was_orphan(self, session_id: int, cxid: int) -> bool:
        orphans = self._orphans.get(session_id)
        if not orphans or orphans[0] != cxid:
            return False
        orphans.popleft()
        if not orphans:
            del self._orphans[session_id]
        return True

    def _answer(self, connection: Connection, request: Waiting, result: Result) -> None:
        if request.kind == op.CREATE_SESSION:
            self._welcome(connection, result.type != ERROR)
            return
        zxid = self.tree.last_zxid
        if result.type != ERROR:
            body = write_reply(request.kind, result)
            if request.kind == op.RECONFIG:
                assert result.stat is not None
                body = GetDataResponse(self.tree.node(CONFIG).data, result.stat).encode()
            self._reply(connection, request.xid, zxid, OK, body)
        elif result.err == SESSION_MOVED:
            # No answer to a request but to a connection (ZOOKEEPER-710).
            self._end(connection)
            return
        else:
            self._reply(connection, request.xid, zxid, result.err)
        if request.kind == op.CLOSE_SESSION:
            self._end(connection)

    def _closed(self, session_id: int) -> None:
        """A session is over, for all."""
        self._orphans.pop(session_id, None)
        connection = self._of_session.get(session_id)
        if connection is not None:
            self._end(connection, drop=True)


def _answers(request: Waiting, txn: Transaction) -> bool:
    """Whether a txn is what became of a request. The xids of a session's connections may repeat."""
    kind, made = request.kind, txn.header.type
    if request.xid != txn.header.cxid:
        return False
    special = (op.CREATE_SESSION, op.CLOSE_SESSION)
    return kind == made if kind in special or made in special else True
