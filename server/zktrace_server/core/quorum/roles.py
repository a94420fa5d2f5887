"""What a leader and a learner do with their clients' requests (LeaderZooKeeperServer,
PrepRequestProcessor, SessionTrackerImpl; LearnerZooKeeperServer). What they have in common is in
`serving`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, Protocol

from zktrace.wire.records import Id, PathRequest, ReconfigRequest
from zktrace.wire.txn import ErrorTxn, Transaction
from zktrace_server.core import request as op
from zktrace_server.core.apply import ERROR
from zktrace_server.core.connection import Connection, State
from zktrace_server.core.errors import (
    NEW_CONFIG_NO_QUORUM,
    RECONFIG_IN_PROGRESS,
    SESSION_MOVED,
    UNIMPLEMENTED,
    KeeperError,
)
from zktrace_server.core.quorum import quick
from zktrace_server.core.quorum.ensemble import Ensemble
from zktrace_server.core.quorum.link import Link
from zktrace_server.core.quorum.localsessions import LeaderSessions
from zktrace_server.core.quorum.membership import Membership
from zktrace_server.core.quorum.quick import SetData
from zktrace_server.core.quorum.reconfig import next_ensemble
from zktrace_server.core.quorum.replica import Replica
from zktrace_server.core.quorum.serving import MemberServer
from zktrace_server.core.reaper import Reaper
from zktrace_server.core.request import Request
from zktrace_server.core.sessions import Sessions
from zktrace_server.core.settings import Settings

_ID: Final = struct.Struct(">q").pack
_XID_AND_KIND: Final = struct.Struct(">ii")


class Proposer(Protocol):
    """The leader, as far as it is needed here."""

    def propose(self, txn: Transaction) -> None: ...
    def propose_set_data(self, txn: SetData, payload: bytes) -> None: ...
    def sync(self, link: Link | None) -> None: ...
    def quorum_synced(self, ensemble: Ensemble) -> bool: ...
    @property
    def history_zxid(self) -> int: ...


class LeaderServer(MemberServer):
    """Also makes the txns, for all servers; ends sessions, and nodes that are kept for a time only
    (LeaderZooKeeperServer, PrepRequestProcessor, SessionTrackerImpl).
    """

    def __init__(
        self, settings: Settings, replica: Replica, leader: Proposer, membership: Membership
    ) -> None:
        super().__init__(settings, replica)
        self._leader = leader
        self._membership = membership
        #: Where each session's client is: a learner's link, or None for here.
        self._owners: dict[int, Link | None] = {}

    def start(self, wall_ms: int, now_ms: int) -> None:
        super().start(wall_ms, now_ms)
        self.preparer.zxid = self._leader.history_zxid
        self.preparer.reconfigure = self._reconfigure
        for session_id, timeout_ms in self.replica.timeouts.items():
            self.sessions.track(session_id, timeout_ms, now_ms)
        self._reaper = Reaper(self.tree, self.settings)
        self._reaper.start(now_ms)

    def _ensembles_sessions(self, now_ms: int) -> Sessions:
        if self.local is None:
            return super()._ensembles_sessions(now_ms)
        settings = self.settings
        return LeaderSessions(settings.tick_ms, settings.server_id, now_ms, self.local)

    def deadline(self) -> int:
        return min(self.sessions.next_expiry(), super().deadline() or self.sessions.next_expiry())

    def tick(self) -> None:
        super().tick()
        for session_id in self.sessions.expired(self.now_ms):
            self.expire(session_id)
        for path in self._reaper.due(self.now_ms, self.wall_ms):
            body = PathRequest(path).encode()
            self._propose(Request(0, 0, op.DELETE_CONTAINER, body, ()))

    def operate(self, request: Request) -> None:
        """A request of an operator's, in the name of some session; nobody waits for its answer."""
        self._propose(request)

    def expire(self, session_id: int) -> None:
        self._propose(Request(session_id, 0, op.CLOSE_SESSION, b"", ()))

    def _resume_lasting(self, connection: Connection) -> None:
        valid = self.revalidate(connection.session_id, connection.timeout_ms, None)
        self._welcome(connection, valid)

    def ask(self, session_id: int, asked: bytes, ids: Iterable[Id]) -> None:
        if not self.quickly(_ID(session_id) + asked, None):
            xid, kind = _XID_AND_KIND.unpack_from(asked)
            self.forwarded(Request(session_id, xid, kind, asked[8:], ids), None)

    def ask_sync(self, request: Request) -> None:
        self._leader.sync(None)

    # --- Host of the leader -------------------------------------------------------------------

    def quickly(self, forwarded: bytes, link: Link | None) -> bool:
        if len(forwarded) < quick.REQUEST_SIZE:
            return False
        session_id, xid, kind, size = quick.REQUEST(forwarded)
        # The short way asks nobody who they are; of local sessions nothing is known here.
        if kind != op.SET_DATA or self._fast is None or self.local is not None:
            return False
        session = self.sessions.get(session_id)
        if session is None or session.closing:
            return False
        if self._owners.setdefault(session_id, link) is not link:
            return False
        made = quick.prepare(self.preparer, self.tree, forwarded, session_id, xid, size)
        if made is None:
            return False
        self._leader.propose_set_data(made[1], made[0])
        return True

    def applied(self, zxid: int) -> None:
        self.preparer.outstanding.done(zxid)

    def forwarded(self, request: Request, link: Link | None) -> None:
        """A write, of a client of the learner at `link` or of our own."""
        kind, session_id = request.kind, request.session_id
        if kind == op.CREATE_SESSION:
            if len(request.body) < 4:
                self._refuse(request, UNIMPLEMENTED)
                return
            timeout_ms = int.from_bytes(request.body[:4], "big", signed=True)
            self.sessions.track(session_id, timeout_ms, self.now_ms)
            self._owners[session_id] = link
        elif kind not in op.WRITES or kind == op.DELETE_CONTAINER:
            self._refuse(request, UNIMPLEMENTED)
            return
        elif (
            kind != op.CLOSE_SESSION
            and self.sessions.get(session_id) is not None
            and self._owners.setdefault(session_id, link) is not link
        ):
            self._refuse(request, SESSION_MOVED)
            return
        self._propose(request)

    def touch(self, session_id: int, timeout_ms: int) -> None:
        self.sessions.touch(session_id, timeout_ms, self.now_ms)

    def revalidate(self, session_id: int, timeout_ms: int, link: Link | None) -> bool:
        valid = self.sessions.touch(session_id, timeout_ms, self.now_ms)
        if valid:
            self._owners[session_id] = link
        return valid

    def _propose(self, request: Request) -> None:
        try:
            txn = self.preparer.prepare(request)
        except KeeperError as error:
            self._refuse(request, error.code)
            return
        self._leader.propose(txn)

    def _reconfigure(self, request: ReconfigRequest, zxid: int) -> bytes:
        """The text of the configuration that a txn of this zxid would make the committed one."""
        membership = self._membership
        if membership.changing:
            raise KeeperError(RECONFIG_IN_PROGRESS)
        standalone = self.settings.standalone_enabled
        ensemble = next_ensemble(membership.seen, request, zxid, standalone=standalone)
        if not self._leader.quorum_synced(ensemble):
            raise KeeperError(NEW_CONFIG_NO_QUORUM)
        return ensemble.text()

    def _refuse(self, request: Request, code: int) -> None:
        header = self.preparer.header(request)
        header.type = ERROR
        self._leader.propose(Transaction(header, ErrorTxn(code)))

    def _closed(self, session_id: int) -> None:
        self.sessions.remove(session_id)
        self._owners.pop(session_id, None)
        super()._closed(session_id)


class Forwarder(Protocol):
    """The learner, as far as it is needed here."""

    def request(self, session_id: int, asked: bytes, ids: Iterable[Id]) -> None: ...
    def revalidate(self, session_id: int, timeout_ms: int) -> None: ...


class LearnerServer(MemberServer):
    """Sends writes to the leader, and says with each ping which sessions it has heard of."""

    def __init__(self, settings: Settings, replica: Replica, learner: Forwarder) -> None:
        super().__init__(settings, replica)
        self._learner = learner
        self._touched: dict[int, int] = {}
        self._revalidating: dict[int, Connection] = {}

    def _touch_lasting(self, connection: Connection) -> bool:
        self._touched[connection.session_id] = connection.timeout_ms
        return True

    def _resume_lasting(self, connection: Connection) -> None:
        connection.held = True
        self._revalidating[connection.session_id] = connection
        self._learner.revalidate(connection.session_id, connection.timeout_ms)

    def ask(self, session_id: int, asked: bytes, ids: Iterable[Id]) -> None:
        self._learner.request(session_id, asked, ids)

    def ask_sync(self, request: Request) -> None:
        asked = _XID_AND_KIND.pack(request.xid, request.kind) + request.body
        self._learner.request(request.session_id, asked, request.ids)

    # --- Host of the learner ------------------------------------------------------------------

    def revalidated(self, session_id: int, valid: bool) -> None:
        connection = self._revalidating.pop(session_id, None)
        if connection is not None and connection.state is State.NEW:
            self._welcome(connection, valid)

    def take_touched(self) -> dict[int, int]:
        touched, self._touched = self._touched, {}
        return touched
