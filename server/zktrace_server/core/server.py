"""The server: connections and their bytes in, replies and watch events out, txns to be logged.

One order for all: a request is answered when those before it are, of whatever connection. Java gets
that by queues between threads. Here a request runs from its bytes to its reply at once, and what
makes it true is that nothing of `out` may be sent before all of `log` is on disk: whoever drives
this takes both together (`take_log`), makes the log durable, and then sends.

Time is set by the driver (`set_time`) before it calls anything else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from zktrace.wire import session
from zktrace.wire.jute import WireError
from zktrace.wire.multi import MultiResponse, MultiResult
from zktrace.wire.records import (
    ACL,
    AuthPacket,
    ConnectRequest,
    ConnectResponse,
    Create2Response,
    CreateResponse,
    ErrorResponse,
    Id,
    PathRequest,
    PathWatchRequest,
    SaslToken,
    StatResponse,
    WatcherEvent,
)
from zktrace.wire.txn import CreateSessionTxn, Transaction
from zktrace_server.core import acl as rights
from zktrace_server.core import request as op
from zktrace_server.core.apply import ERROR, Result, apply
from zktrace_server.core.connection import Connection, State
from zktrace_server.core.errors import (
    AUTH_FAILED,
    OK,
    SASL_AUTH_REQUIRED,
    UNIMPLEMENTED,
    KeeperError,
)
from zktrace_server.core.fast import Fast
from zktrace_server.core.prepare import Preparer
from zktrace_server.core.read import Reader
from zktrace_server.core.reaper import Reaper
from zktrace_server.core.request import Request
from zktrace_server.core.sasl import SaslError, SaslServer
from zktrace_server.core.sessions import Sessions
from zktrace_server.core.settings import Settings
from zktrace_server.core.tree import DataTree

_REPLY: Final = struct.Struct(">iiqi").pack
_LENGTH: Final = struct.Struct(">i")
_KIND: Final = _LENGTH.pack
_HEADER: Final = struct.Struct(">ii")
_HEADER_SIZE: Final = 16
_WATCH_XID: Final = -1
_PING_XID: Final = -2
_SYNC_CONNECTED: Final = 3
#: The zxid in the reply to what the server does not know.
_NO_ZXID: Final = -1

#: Types of a multi's results; those that make a node of another kind than create answer as create2.
_RESULT_TYPES: Final = {op.CREATE_TTL: op.CREATE2, op.CREATE_CONTAINER: op.CREATE2}


class Refused(Exception):
    """A connection is closed without an answer; the text says why, for the log."""


class NotServing(Refused):
    """For no fault of the client's: told once for all, when the server serves again."""


class Server:
    """`dirty` are the connections that have something to send, or are to be closed. `fast`: take
    the short way where there is one.
    """

    #: Whether it says of itself that nobody can write.
    read_only = False

    def __init__(
        self,
        settings: Settings,
        tree: DataTree,
        timeouts: dict[int, int],
        *,
        fast: bool = True,
    ) -> None:
        self.settings = settings
        self.tree = tree
        self.wall_ms = 0
        self.now_ms = 0
        self.dirty: dict[Connection, None] = {}
        self.connections: dict[Connection, None] = {}
        self.log: list[bytes] = []
        self.auth_failures = 0
        #: Sessions that ended since nobody was heard of.
        self.expired = 0
        #: Whether one more session may begin, or (True) be taken up again.
        self.may_connect: Callable[[bool], bool] = lambda renew: True
        #: Told of what a log should have of a connection.
        self.tell: Callable[[Connection, str], None] = lambda connection, text: None
        self.sessions: Sessions
        self.preparer: Preparer
        self._timeouts = timeouts
        # The short way asks nobody who they are.
        self._want_fast = fast and not settings.skip_acl and not settings.enforce_schemes
        self._fast: Fast | None = None
        self._of_session: dict[int, Connection] = {}
        self._reader = Reader(tree, settings.skip_acl, self._send_event)
        self._reaper = Reaper(tree, settings)
        self._event: tuple[tuple[int, str, int], bytes] = ((0, "", 0), b"")
        tree.deliver = self._deliver

    def start(self, wall_ms: int, now_ms: int) -> None:
        """Sessions that were there before have their whole timeout from now on. Ephemerals of
        sessions that nobody knows are deleted, as Java does when it loads its database.
        """
        settings = self.settings
        self.sessions = Sessions(settings.tick_ms, settings.server_id, now_ms)
        for session_id, timeout_ms in self._timeouts.items():
            self.sessions.track(session_id, timeout_ms, now_ms)
        for session_id in [i for i in self.tree.ephemerals if i not in self._timeouts]:
            self.tree.end_session(session_id, None, self.tree.last_zxid)
        self.preparer = Preparer(self.tree, self.sessions, settings)
        if self._want_fast:
            self._fast = Fast(self.tree, self.preparer, self.log, settings.max_buffer)
        self.set_time(wall_ms, now_ms)
        self._reaper.start(now_ms)

    def set_time(self, wall_ms: int, now_ms: int) -> None:
        """`wall_ms` since 1970, for Stats and txns; `now_ms` of a clock that only goes forward."""
        self.wall_ms = self.preparer.now_ms = wall_ms
        self.now_ms = now_ms

    def take_log(self) -> list[bytes]:
        """Txns since the last call, in order, encoded: to be durable before anything is sent."""
        taken = self.log.copy()
        self.log.clear()
        return taken

    def tick(self) -> None:
        """Ends sessions whose time is over, and nodes that are kept for a time only."""
        for session_id in self.sessions.expired(self.now_ms):
            self.expired += 1
            self.expire(session_id)
        for path in self._reaper.due(self.now_ms, self.wall_ms):
            body = PathRequest(path).encode()
            self._commit(self.preparer.prepare(Request(0, 0, op.DELETE_CONTAINER, body, ())))

    def expire(self, session_id: int) -> None:
        """Ends a session for its client."""
        request = Request(session_id, 0, op.CLOSE_SESSION, b"", ())
        self._commit(self.preparer.prepare(request))
        self.sessions.remove(session_id)
        connection = self._of_session.get(session_id)
        if connection is not None:
            self._end(connection, drop=True)

    # --- connections --------------------------------------------------------------------------

    def connect(self, address: str, nonce: str = "", subject: str | None = None) -> Connection:
        """A client has connected. `nonce`: chance, for SASL; `subject`: that of the certificate
        which it has proved to own.
        """
        connection = Connection(address)
        settings = self.settings
        if settings.sasl_users is not None:
            connection.sasl = SaslServer(settings.sasl_users, nonce, settings.sasl_super_password)
        if subject is not None:
            # X509AuthenticationProvider.handleAuthentication.
            if subject == settings.x509_super_user:
                connection.prove([Id("super", subject)])
            connection.prove([Id("x509", subject)])
        self.connections[connection] = None
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Its socket is closed; the session goes on until it expires."""
        connection.end(drop=True)
        self.connections.pop(connection, None)
        self.dirty.pop(connection, None)
        self.tree.forget_watcher(connection)
        if self._of_session.get(connection.session_id) is connection:
            del self._of_session[connection.session_id]

    def _end(self, connection: Connection, *, drop: bool = False) -> None:
        """Like `disconnect`, but it is the server who closes."""
        connection.end(drop=drop)
        self.tree.forget_watcher(connection)
        if self._of_session.get(connection.session_id) is connection:
            del self._of_session[connection.session_id]
        self.dirty[connection] = None

    def receive(self, connection: Connection, data: bytes) -> None:
        """Bytes from a client. Refused where Java closes the connection without an answer: the
        connection is ending then.
        """
        if connection.rest:
            connection.rest += data
            if len(connection.rest) < connection.need:
                return
            data = bytes(connection.rest)
            connection.rest.clear()
        pos, end = 0, len(data)
        if connection.state is State.OPEN and not self._touch(connection):
            return
        try:
            while connection.state is not State.ENDING and not connection.held:
                if (
                    self._fast is not None
                    and connection.state is State.OPEN
                    and not connection.queue
                ):
                    before, pos = pos, self._fast.take(connection, data, pos, end)
                    if pos != before:
                        self.dirty[connection] = None
                if end - pos < 4:
                    connection.need = 4
                    break
                length = _LENGTH.unpack_from(data, pos)[0]
                if not 0 <= length <= self.settings.max_buffer:
                    raise Refused(
                        f"a frame of {length} bytes; jute.maxbuffer is {self.settings.max_buffer}"
                    )
                if end - pos - 4 < length:
                    connection.need = 4 + length
                    break
                pos += 4
                connection.received += 1
                self._frame(connection, data, pos, pos + length)
                pos += length
        except Refused:
            self._end(connection, drop=True)
            raise
        if pos < end and connection.state is not State.ENDING:
            connection.rest += data[pos:]

    def _frame(self, connection: Connection, data: bytes, pos: int, end: int) -> None:
        """One whole frame, data[pos:end]."""
        if connection.state is State.NEW:
            self._connect(connection, data[pos:end])
            return
        if end - pos < 8:
            raise Refused("a frame without a request header")
        xid, kind = _HEADER.unpack_from(data, pos)
        connection.last_xid, connection.last_kind = xid, kind
        body = data[pos + 8 : end]
        if kind == op.AUTH:
            self._auth(connection, xid, body)
        elif kind == op.SASL:
            self._sasl(connection, xid, body)
        elif self.settings.enforce_schemes and not self._is_proved(connection):
            self._reply(connection, xid, 0, SASL_AUTH_REQUIRED)
            self._end(connection)
        else:
            self._request(
                connection, Request(connection.session_id, xid, kind, body, connection.ids)
            )

    # --- beginning and identity ---------------------------------------------------------------

    def _connect(self, connection: Connection, payload: bytes) -> None:
        """ZooKeeperServer.processConnectRequest."""
        try:
            request = ConnectRequest.decode_from(payload, 0, len(payload))[0]
        except WireError as error:
            raise Refused(f"no ConnectRequest: {error}") from None
        if not self.may_connect(request.session_id != 0):
            raise Refused("the throttle of connections has no token left")
        if request.last_zxid_seen > self.tree.last_zxid:
            raise Refused(
                f"it has seen zxid {request.last_zxid_seen:#x}, the last one here is "
                f"{self.tree.last_zxid:#x}"
            )
        self._admit(request)
        settings = self.settings
        timeout_ms = max(request.timeout_ms, settings.min_session_timeout_ms)
        timeout_ms = min(timeout_ms, settings.max_session_timeout_ms)
        connection.timeout_ms = timeout_ms
        connection.knows_read_only = request.read_only is not None
        if request.session_id == 0:
            self._begin(connection)
            return
        # The session moves here, whoever asks: Java looks at the password only then.
        before = self._of_session.get(request.session_id)
        if before is not None:
            self._end(before, drop=True)
        connection.session_id = request.session_id
        self._of_session[request.session_id] = connection
        if request.password == session.password(request.session_id):
            self._resume(connection)
        else:
            self._welcome(connection, False)

    def _admit(self, request: ConnectRequest) -> None:
        """Refused: this client is not served here."""

    def _begin(self, connection: Connection) -> None:
        """A new session."""
        session_id = connection.session_id = self.sessions.new_id()
        self._of_session[session_id] = connection
        self.sessions.track(session_id, connection.timeout_ms, self.now_ms)
        self._commit(self.preparer.prepare(create_session(connection)))
        self._welcome(connection, True)

    def _resume(self, connection: Connection) -> None:
        """A session that was there before, of a client that knows its password."""
        valid = self.sessions.touch(connection.session_id, connection.timeout_ms, self.now_ms)
        self._welcome(connection, valid)

    def _welcome(self, connection: Connection, valid: bool) -> None:
        """Tells a client that it has its session, or that there is none."""
        read_only = self.read_only if connection.knows_read_only else None
        if valid:
            connection.state = State.OPEN
            password = session.password(connection.session_id)
            response = ConnectResponse(
                0, connection.timeout_ms, connection.session_id, password, read_only
            )
        else:
            response = ConnectResponse(0, 0, 0, bytes(session.PASSWORD_LENGTH), read_only)
        payload = response.encode()
        self._send(connection, _LENGTH.pack(len(payload)) + payload)
        if not valid:
            self._end(connection)

    def _auth(self, connection: Connection, xid: int, body: bytes) -> None:
        try:
            packet = AuthPacket.decode_from(body, 0, len(body))[0]
        except WireError as error:
            raise Refused(f"no AuthPacket: {error.reason}") from None
        if packet.scheme == "x509":
            ids = [who for who in connection.ids if who.scheme == "x509"]
        else:
            ids = rights.authenticate(
                packet.scheme, packet.auth, connection.address, self.settings.super_digest
            )
        connection.prove(ids)
        self._reply(connection, xid, 0, OK if ids else AUTH_FAILED)
        if not ids:
            self.auth_failures += 1
            self._end(connection)

    def _sasl(self, connection: Connection, xid: int, body: bytes) -> None:
        """ZooKeeperServer.processSasl. The token in the answer is null where there is no login."""
        try:
            token = SaslToken.decode_from(body, 0, len(body))[0].token
        except WireError:
            raise Refused("no GetSASLRequest") from None
        answer = None
        sasl = connection.sasl
        if sasl is not None and token is not None:
            try:
                answer = sasl.evaluate(token)
            except SaslError as reason:
                self._sasl_failed(connection, xid, reason)
                return
            if sasl.authorized is not None:
                connection.prove([Id("sasl", sasl.authorized)])
                if sasl.authorized in self.settings.super_users:
                    connection.prove([rights.SUPER])
        self._reply(connection, xid, 0, OK, SaslToken(answer).encode())

    def _sasl_failed(self, connection: Connection, xid: int, reason: SaslError) -> None:
        required = "sasl" in self.settings.enforce_schemes
        if self.settings.allow_failed_sasl and not required:
            self._reply(connection, xid, 0, OK, SaslToken(None).encode())
            return
        error = SASL_AUTH_REQUIRED if required else AUTH_FAILED
        self.auth_failures += 1
        # With a body behind the error, as Java sends it.
        self._reply(connection, xid, 0, error, SaslToken(None).encode())
        self._end(connection)
        self.tell(connection, f"closed, SASL: {reason}")

    # --- requests -----------------------------------------------------------------------------

    def _request(self, connection: Connection, request: Request) -> None:
        kind = request.kind
        handler = self._reader.handlers.get(kind)
        if handler is not None:
            try:
                body = handler(connection, request)
            except KeeperError as error:
                self._reply(connection, request.xid, self.tree.last_zxid, error.code)
            else:
                self._reply(connection, request.xid, self.tree.last_zxid, OK, body)
                if kind in op.KEPT:
                    self._keep(request, body)
        elif kind == op.PING:
            self._reply(connection, _PING_XID, self.tree.last_zxid, OK)
        elif kind in op.WRITES and kind not in (op.CREATE_SESSION, op.DELETE_CONTAINER):
            self._write(connection, request)
        else:
            # A bare `check` is among these: as a txn it would break every server that reads it.
            self._reply(connection, request.xid, _NO_ZXID, UNIMPLEMENTED)
            self._end(connection)

    def _is_proved(self, connection: Connection) -> bool:
        """Whether the client is one of those that may ask at all (AuthenticationHelper)."""
        return any(who.scheme in self.settings.enforce_schemes for who in connection.ids)

    def _keep(self, request: Request, body: bytes) -> None:
        """Keeps an answer that is the same for all who ask."""
        record = request.read(PathWatchRequest)
        node = self.tree.nodes.get(record.path or "")
        if node is not None and not record.watch and self.tree.acls.world[node.acl] & rights.READ:
            self.tree.replies.keep(_KIND(request.kind) + request.body, body, node)

    def _touch(self, connection: Connection) -> bool:
        """Bytes keep a session alive. If it is being expired Java drops the requests; the
        connection is closed with the session.
        """
        session_id = connection.session_id
        return self.sessions.touch(session_id, connection.timeout_ms, self.now_ms)

    def _write(self, connection: Connection, request: Request) -> None:
        try:
            txn = self.preparer.prepare(request)
        except KeeperError as error:
            self._reply(connection, request.xid, self.tree.last_zxid, error.code)
            return
        result = self._commit(txn)
        zxid = self.tree.last_zxid
        if result.type == ERROR:
            self._reply(connection, request.xid, zxid, result.err)
        else:
            self._reply(connection, request.xid, zxid, OK, write_reply(request.kind, result))
        if request.kind == op.CLOSE_SESSION:
            self.sessions.remove(request.session_id)
            self._end(connection)

    def _commit(self, txn: Transaction) -> Result:
        """Logs a txn and applies it. It counts only when the log is durable."""
        self.log.append(txn.encode())
        result = apply(self.tree, txn)
        self.preparer.outstanding.done(txn.header.zxid)
        return result

    # --- sending ------------------------------------------------------------------------------

    def _reply(
        self, connection: Connection, xid: int, zxid: int, err: int, body: bytes = b""
    ) -> None:
        self._send(connection, _REPLY(_HEADER_SIZE + len(body), xid, zxid, err) + body)

    def _send(self, connection: Connection, frame: bytes) -> None:
        connection.out.append(frame)
        self.dirty[connection] = None

    def _deliver(
        self, watcher: object, event: int, path: str, zxid: int, acl: tuple[ACL, ...]
    ) -> None:
        """A change, to one who may know of the node (ServerCnxn.process since 3.9.2)."""
        assert isinstance(watcher, Connection)
        if self.settings.skip_acl or rights.allowed(acl, rights.READ, watcher.ids):
            self._send_event(watcher, event, path, zxid)

    def _send_event(self, connection: Connection, event: int, path: str, zxid: int) -> None:
        if connection.state is not State.OPEN:
            return
        key = (event, path, zxid)
        if self._event[0] != key:
            body = WatcherEvent(event, _SYNC_CONNECTED, path).encode()
            self._event = (key, _REPLY(_HEADER_SIZE + len(body), _WATCH_XID, zxid, OK) + body)
        connection.events += 1
        self._send(connection, self._event[1])


def create_session(connection: Connection) -> Request:
    body = CreateSessionTxn(connection.timeout_ms).encode()
    return Request(connection.session_id, 0, op.CREATE_SESSION, body, ())


def write_reply(kind: int, result: Result) -> bytes:
    """Body of a successful write's reply."""
    if kind == op.MULTI:
        return MultiResponse([_multi_result(part) for part in result.parts]).encode()
    if kind == op.CREATE:
        return CreateResponse(result.path).encode()
    if kind in (op.CREATE2, op.CREATE_CONTAINER, op.CREATE_TTL):
        assert result.stat is not None
        return Create2Response(result.path, result.stat).encode()
    if kind in (op.SET_DATA, op.SET_ACL):
        assert result.stat is not None
        return StatResponse(result.stat).encode()
    return b""


def _multi_result(part: Result) -> MultiResult:
    if part.type == ERROR:
        return MultiResult(ERROR, part.err, ErrorResponse(part.err))
    kind = _RESULT_TYPES.get(part.type, part.type)
    if kind == op.CREATE:
        return MultiResult(kind, OK, CreateResponse(part.path))
    if part.stat is not None and kind == op.CREATE2:
        return MultiResult(kind, OK, Create2Response(part.path, part.stat))
    if part.stat is not None:
        return MultiResult(kind, OK, StatResponse(part.stat))
    return MultiResult(kind, OK, None)
