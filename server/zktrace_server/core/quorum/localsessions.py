"""Sessions that one server of an ensemble has for itself (localSessionsEnabled): no txn makes or
ends them, nobody else hears of them, and they are gone with the server's term
(UpgradeableSessionTracker, LocalSessionTracker).

What lasts has to be the ensemble's: before its first ephemeral node a local session becomes one of
all (`to_upgrade` says when), keeping its id. Knows no connections.
"""

from __future__ import annotations

from zktrace.wire.records import CreateRequest
from zktrace_server.core import request as op
from zktrace_server.core.errors import SESSION_EXPIRED, UNKNOWN_SESSION, KeeperError
from zktrace_server.core.request import Request
from zktrace_server.core.sessions import Sessions


class LeaderSessions(Sessions):
    """The ensemble's, where servers may have sessions of their own: `local` are this server's.
    Writes come of sessions that are not known here as well, which only their server could check
    (LeaderSessionTracker.checkSession).
    """

    def __init__(self, tick_ms: int, server_id: int, now_ms: int, local: Sessions) -> None:
        super().__init__(tick_ms, server_id, now_ms)
        self._local = local
        self._server_id = server_id & 0xFF

    def check(self, session_id: int) -> None:
        if self.get(session_id) is None and self._local.get(session_id) is not None:
            return
        try:
            super().check(session_id)
        except KeeperError as error:
            elsewhere = session_id >> 56 & 0xFF != self._server_id
            if error.code != UNKNOWN_SESSION or not elsewhere:
                raise KeeperError(SESSION_EXPIRED) from None

    def check_lasting(self, session_id: int) -> None:
        Sessions.check(self, session_id)


def to_upgrade(request: Request) -> bool:
    """Whether it makes an ephemeral node (QuorumZooKeeperServer.checkUpgradeSession). What cannot
    be read does not: it is refused where it is read.
    """
    try:
        match request.kind:
            case op.CREATE | op.CREATE2:
                return request.read(CreateRequest).flags in op.EPHEMERAL_FLAGS
            case op.MULTI:
                return any(
                    isinstance(part.body, CreateRequest)
                    and part.type in (op.CREATE, op.CREATE2)
                    and part.body.flags in op.EPHEMERAL_FLAGS
                    for part in op.read_multi(request.body)
                )
    except KeeperError:
        pass  # the leader says why
    return False
