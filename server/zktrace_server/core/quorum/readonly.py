"""What a server serves while it has no leader, if it may (ReadOnlyZooKeeperServer): reads of what
it has, to clients that have said they can live with that.

What it shows may be old, and the last of it may never have been committed. Its sessions are its
own: no txn makes or ends them, so they are gone with it, and nothing here takes a zxid. Knows
nothing of elections; `peer` begins and ends it.
"""

from __future__ import annotations

from typing import Final

from zktrace.wire.records import ConnectRequest
from zktrace_server.core import request as op
from zktrace_server.core.connection import Connection
from zktrace_server.core.errors import NOT_READ_ONLY, OK
from zktrace_server.core.prepare import Preparer
from zktrace_server.core.quorum.replica import Replica
from zktrace_server.core.quorum.serving import Reads
from zktrace_server.core.request import Request
from zktrace_server.core.server import Refused, Server
from zktrace_server.core.sessions import Sessions
from zktrace_server.core.settings import Settings

#: What is refused (ReadOnlyRequestProcessor): writes, and what promises to be up to date. A bare
#: check is no request at all, as in 3.9; 3.8 has it among these.
_REFUSED: Final = op.WRITES - {op.CREATE_SESSION, op.CLOSE_SESSION} | {op.SYNC}


class ReadOnlyServer(Server):
    """Begins with `start`, ends with `end`."""

    read_only = True

    def __init__(self, settings: Settings, replica: Replica) -> None:
        super().__init__(settings, replica.tree, replica.timeouts)

    def start(self, wall_ms: int, now_ms: int) -> None:
        """Nothing is done to the tree."""
        settings = self.settings
        self.sessions = Sessions(settings.tick_ms, settings.server_id, now_ms)
        self.preparer = Preparer(self.tree, self.sessions, settings)
        if self._want_fast:
            self._fast = Reads(self.tree, self.preparer, self.log, settings.max_buffer)
        self.set_time(wall_ms, now_ms)

    def end(self) -> None:
        """There is a leader, or another election: clients look for a server anew."""
        for connection in list(self.connections):
            self._end(connection)

    def tick(self) -> None:
        for session_id in self.sessions.expired(self.now_ms):
            self.sessions.remove(session_id)
            connection = self._of_session.get(session_id)
            if connection is not None:
                self._end(connection, drop=True)

    def _admit(self, request: ConnectRequest) -> None:
        """Clients that want to write, and sessions of the whole ensemble, have to go elsewhere
        (processConnectRequest, validateSession).
        """
        if not request.read_only:
            raise Refused("this server is read-only, and the client wants to write")
        if request.session_id in self._timeouts:
            raise Refused("this server is read-only, and the session is the ensemble's")

    def _begin(self, connection: Connection) -> None:
        connection.session_id = self.sessions.new_id()
        self._of_session[connection.session_id] = connection
        self.sessions.track(connection.session_id, connection.timeout_ms, self.now_ms)
        self._welcome(connection, True)

    def _request(self, connection: Connection, request: Request) -> None:
        if request.kind in _REFUSED:
            self._reply(connection, request.xid, self.tree.last_zxid, NOT_READ_ONLY)
        elif request.kind == op.CLOSE_SESSION:
            self._reply(connection, request.xid, self.tree.last_zxid, OK)
            self.sessions.remove(connection.session_id)
            self._end(connection)
        else:
            super()._request(connection, request)
