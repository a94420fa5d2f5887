"""A capture into a plan: steps on disk in the total order, and what is known before they are sent.

Exchanges come in the order of their replies; a window of them is sorted by zxid, so that memory
does not grow with the capture. What goes through the window is looked at once, in the total order:
effects, sessions, zxids of writes that nobody recorded, the tree at the start.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable
from typing import Any, Final

from zktrace.wire.jute import WireError
from zktrace.wire.opcodes import AUTH, BY_NUMBER, CLOSE_SESSION, op_name
from zktrace.wire.records import AuthPacket, ConnectRequest, ConnectResponse
from zktrace_proxy.messages.exchanges import CONNECT_OP, END_OP, SASL_OP, Exchange
from zktrace_proxy.messages.latest import Latest
from zktrace_proxy.messages.reader import Heard, Reader
from zktrace_proxy.messages.spool import Spool
from zktrace_proxy.replay import steps
from zktrace_proxy.replay.effects import Effects, effects, parent
from zktrace_proxy.replay.indata import NamesInData
from zktrace_proxy.replay.plan import Plan, RecordedSession, Span
from zktrace_proxy.replay.start import StartState
from zktrace_proxy.replay.watching import Watching, event_of

#: Exchanges, and bytes of them, that are sorted: servers lag by some hundred milliseconds.
WINDOW: Final = 16_384
WINDOW_BYTES: Final = 64 << 20

_CHECK, _RECONFIG = 13, 16
#: Greater than any zxid.
_LAST: Final = 1 << 63
_MASK: Final = (1 << 64) - 1


class Planner:
    """Takes exchanges as a reader gives them; :meth:`finish` gives the plan.

    `ended_max`: so many of the sessions that have ended are remembered, the latest; None: all.
    """

    def __init__(
        self,
        heard: Heard,
        *,
        server: str | None = None,
        span: Span | None = None,
        spool: Spool | None = None,
        names_in: Callable[[str], object] | None = None,
        start: StartState | None = None,
        ended_max: int | None = None,
    ) -> None:
        self.plan = Plan(spool or Spool(), heard, start or StartState())
        self._span = span or Span()
        self._first_ns = 0
        self._server = server
        self._heap: list[tuple[int, int, int, Exchange]] = []
        self._bytes = 0
        self._count = 0
        self._popped = (-1, -1)
        #: (zxid, 0 or 1) of each connection's last exchange, session of each connection
        self._keys: dict[int, tuple[int, int]] = {}
        self._of_conn: dict[int, int] = {}
        #: as exchanges come: the session of a connection, and the last key of a session
        self._sid_of: dict[int, int] = {}
        self._session_keys: dict[int, tuple[int, int]] = {}
        #: when sessions began, of those whose zxids are behind the last write's
        self._began: list[int] = []
        self._write_ns = (0, 0)
        self._anonymous = 0
        #: when the first of the waiting sessions has ended, whatever shows
        self._late_ns = _LAST
        self._ended_sessions: Latest[int, None] = Latest(ended_max)
        #: whose ephemeral node a path is
        self._owners: dict[str, RecordedSession] = {}
        self._watching = Watching()
        self._named = None if names_in is None else NamesInData(names_in)

    def add(self, exchange: Exchange) -> None:
        """The next exchange."""
        about = self.plan.heard.conversations.get(exchange.conn)
        if about is None:
            if exchange.opcode != END_OP:
                return  # it is followed no more, and was forgotten
        elif self._server is not None and about.server != self._server:
            return
        elif about.dialect:
            self.plan.skipped["of ClickHouse Keeper's own dialects"] += exchange.opcode != END_OP
            return
        self._first_ns = self._first_ns or exchange.sent_ns
        always = exchange.opcode in (CONNECT_OP, END_OP, CLOSE_SESSION)
        if not always and not self._span.holds(exchange, self._first_ns):
            self.plan.skipped["outside of what was asked for (--from, --until)"] += 1
            return
        key = self._key(exchange)
        if exchange.opcode == END_OP:
            self._keys.pop(exchange.conn, None)
            self._sid_of.pop(exchange.conn, None)
        self._count += 1
        heapq.heappush(self._heap, (*key, self._count, exchange))
        self._bytes += _weight(exchange)
        while len(self._heap) > WINDOW or self._bytes > WINDOW_BYTES:
            self._pop()

    def leave(self, end: Exchange) -> bool:
        """The end of a connection that was not followed to its end; whether it was ever followed,
        so that steps of it are still to come.
        """
        known = end.conn in self._keys
        if known:
            self.add(end)
        return known

    def held(self) -> dict[str, int]:
        """How many entries are held, by what they are."""
        return {
            "sessions": len(self.plan.sessions),
            "session_zxids": len(self._session_keys),
            "connections": len(self._keys),
            "exchanges": len(self._heap),
            "ephemerals": len(self._owners),
            "paths": self.plan.start.known,
            "start_nodes": len(self.plan.start.nodes),
        }

    def _key(self, exchange: Exchange) -> tuple[int, int]:
        before = self._keys.get(exchange.conn, (0, 0))
        if exchange.opcode == CONNECT_OP:
            key = self._connect_key(exchange)
        elif own_zxid(exchange):
            key = (exchange.zxid, 0)
        elif exchange.reply is None and not exchange.closed:
            # under way when the capture ended: behind all that was answered
            key = (_LAST, 1)
        else:
            key = (max(exchange.zxid, before[0]), 1)
        if key < before:
            self.plan.disordered += key[0] < before[0]
            key = before
        self._keys[exchange.conn] = key
        sid = self._sid_of.get(exchange.conn)
        if sid is not None and key[0]:
            self._session_keys[sid] = max(self._session_keys.get(sid, key), key)
        return key

    def _connect_key(self, exchange: Exchange) -> tuple[int, int]:
        """A new session comes as early as it may; one that comes again, behind what it did."""
        sid = self._sid_of[exchange.conn] = _session_of(exchange)
        return self._session_keys.get(sid, (0, 0))

    def _pop(self) -> None:
        zxid, kind, _, exchange = heapq.heappop(self._heap)
        self._bytes -= _weight(exchange)
        if (zxid, kind) < self._popped and exchange.opcode != CONNECT_OP and zxid:
            self.plan.disordered += 1
        self._popped = max(self._popped, (zxid, kind))
        self._take(exchange)

    def release(self, until_ns: int) -> None:
        """Of traffic under way: what was answered up to this time has come in its order by now."""
        while self._heap:
            exchange = self._heap[0][3]
            if (exchange.answered_ns or exchange.sent_ns) > until_ns:
                break
            self._pop()

    def finish(self) -> Plan:
        while self._heap:
            self._pop()
        return self.plan

    # ---- in the total order

    def _take(self, exchange: Exchange) -> None:
        plan = self.plan
        plan.first_ns = min(plan.first_ns or exchange.sent_ns, exchange.sent_ns)
        plan.last_ns = max(plan.last_ns, exchange.sent_ns, exchange.answered_ns)
        plan.watch_events += len(exchange.events)
        if exchange.opcode == CONNECT_OP:
            self._connect(exchange)
        elif exchange.opcode == END_OP:
            self._end(exchange)
        else:
            self._request(exchange)

    def _put(
        self, exchange: Exchange, kind: int, session: int, found: Effects | None = None
    ) -> None:
        own = own_zxid(exchange)
        notes: tuple[Any, ...] = (kind, session, own, (), (), False, (), ())
        if found is not None:
            reads = tuple(found.reads - found.writes)
            names = tuple(made.path for made in found.made if made.sequential)
            adds = tuple(found.adds - found.alone)
            notes = (kind, session, own, reads, tuple(found.writes), found.wide, names, adds)
        self.plan.spool.append(exchange, notes)

    def _connect(self, exchange: Exchange) -> None:
        plan = self.plan
        plan.connections += 1
        request, reply = connect_of(exchange)
        if request is None or reply is None:
            plan.skipped["to connect that got no answer"] += 1
            self._of_conn[exchange.conn] = -1
            return
        plan.ops["connect"] += 1
        asked, granted = request.session_id & _MASK, reply.session_id & _MASK
        if granted == 0:
            self._of_conn[exchange.conn] = -1
            session = plan.sessions.get(asked)
            if session is None:
                plan.skipped["to connect to sessions that the capture does not know"] += 1
                return
            wrong = session.password and request.password and any(request.password)
            if wrong and request.password != session.password:
                self._put(exchange, steps.CONNECT_WRONG, asked)
                return
            self._expire(session, exchange)
            self._put(exchange, steps.CONNECT_REFUSED, asked)
            return
        self._of_conn[exchange.conn] = granted
        session = plan.sessions.get(granted)
        if session is None:
            session = plan.sessions[granted] = RecordedSession(granted, began=asked == 0)
            if asked == 0:
                insort(self._began, exchange.answered_ns)
            kind = steps.CONNECT_NEW
        else:
            kind = steps.CONNECT_AGAIN
        session.timeout_ms = reply.timeout_ms
        session.password = reply.password if any(reply.password or b"") else None
        session.conn, session.gone_ns = exchange.conn, 0
        self.plan.waiting.pop(granted, None)
        self._ended_sessions.pop(granted)
        self._put(exchange, kind, granted)

    def _end(self, exchange: Exchange) -> None:
        sid = self._session(exchange)
        session = self.plan.sessions.get(sid)
        if session is not None and session.conn == exchange.conn and exchange.closed:
            session.gone_ns = exchange.sent_ns
            if session.closed or session.expired:
                self._has_ended(sid)
            else:
                self.plan.waiting[sid] = session
                self._late_ns = min(self._late_ns, _late_ns(session))
        # what would have set off its watches comes later
        found = Effects()
        self._watching.heard(exchange.conn, exchange.events)
        self._watching.end(exchange.conn, found, persistent=False)
        self._put(exchange, steps.END, sid, found)
        self._of_conn.pop(exchange.conn, None)

    def _session(self, exchange: Exchange) -> int:
        """The session of a connection; one without an id for those that were joined."""
        sid = self._of_conn.get(exchange.conn)
        if sid is None:
            self._anonymous += 1
            sid = self._of_conn[exchange.conn] = -1 - self._anonymous
            self.plan.sessions[sid] = RecordedSession(sid, 0, began=False, conn=exchange.conn)
        return sid

    def _request(self, exchange: Exchange) -> None:
        plan = self.plan
        sid = self._session(exchange)
        reason = self._unfit(exchange, sid)
        if reason is not None:
            plan.skipped[reason] += 1
            self._put(exchange, steps.SKIP, sid)
            return
        plan.ops[op_name(exchange.opcode)] += 1
        plan.no_reply += exchange.reply is None
        if exchange.opcode == AUTH:
            self._auth(exchange, sid)
            return
        found = effects(exchange)
        session = plan.sessions.get(sid)
        if session is None:  # it had ended, and was forgotten
            session = plan.sessions[sid] = RecordedSession(sid, began=False, conn=exchange.conn)
        self._zxid(exchange)
        self._evidence(exchange, found)
        self._watching.heard(exchange.conn, exchange.events)
        self._watching.asked(exchange, found)
        if exchange.opcode == CLOSE_SESSION:
            session.closed = True
            self._watching.end(exchange.conn, found, persistent=True)
            self._removals(found, session)
        else:
            self._ephemerals(found, session)
        plan.sequential += sum(made.sequential for made in found.made)
        if self._named is not None:
            self._named.asked(found)
        if exchange.reply is not None:
            plan.start.observe(found, error=exchange.error)
        self._put(exchange, steps.REQUEST, sid, found)

    def _unfit(self, exchange: Exchange, sid: int) -> str | None:
        """Why a request is not sent; None: it is."""
        if not exchange.whole:
            return "of which not all was captured"
        if sid == -1:
            return "on connections that got no session"
        if exchange.opcode == SASL_OP:
            return "of SASL (the rounds of a login cannot be repeated)"
        if exchange.opcode == _RECONFIG:
            return "reconfig (it would change the target's ensemble)"
        if exchange.opcode == _CHECK:
            return "check outside a multi (it takes down followers of ZooKeeper 3.8)"
        return None

    def _auth(self, exchange: Exchange, sid: int) -> None:
        try:
            packet = AuthPacket.decode(exchange.request[8:])
        except WireError:
            self.plan.skipped["auth that cannot be read"] += 1
            self._put(exchange, steps.SKIP, sid)
            return
        redacted = not any(packet.auth or b"")
        (self.plan.auths_redacted if redacted else self.plan.auths)[packet.scheme or ""] += 1
        self._put(exchange, steps.AUTH_STEP, sid)

    def _zxid(self, exchange: Exchange) -> None:
        plan = self.plan
        if not own_zxid(exchange):
            return
        plan.writes += 1
        zxid = exchange.zxid
        last = plan.last_zxid
        if last == 0:
            plan.first_zxid = zxid
        elif zxid == last:
            plan.twice += 1
        elif zxid >> 32 == last >> 32:
            plan.missing_zxids += zxid - last - 1
        plan.last_zxid = max(zxid, last)
        self._write_ns = (self._write_ns[0] or exchange.answered_ns, exchange.answered_ns)
        if self._began:
            first, last = self._write_ns
            upto = bisect_right(self._began, last)
            plan.session_zxids += upto - bisect_right(self._began, first, 0, upto)
            del self._began[:upto]

    # ---- sessions that end by themselves

    def _ephemerals(self, found: Effects, session: RecordedSession) -> None:
        for made in found.made:
            if made.ephemeral:
                session.ephemerals.add(made.path)
                self._owners[made.path] = session
        for path in found.removed:
            owner = self._owners.pop(path, None)
            if owner is not None:
                owner.ephemerals.discard(path)

    def _evidence(self, exchange: Exchange, found: Effects) -> None:
        """Does this show that a session without a connection has ended, or is it time?"""
        waiting = self.plan.waiting
        if not waiting:
            return
        gone = [*found.absent, *(made.path for made in found.made)]
        for payload in exchange.events:
            event = event_of(payload)
            if event is not None and event.type == 2 and event.path:
                gone.append(event.path)
        over = {owner.sid: owner for path in gone if (owner := self._owners.get(path)) is not None}
        for path, _stat, _data, children in found.seen:
            if children is not None:
                base = path.rstrip("/")
                names = set(children)
                for session in waiting.values():
                    for one in session.ephemerals:
                        above, _, name = one.rpartition("/")
                        if above == base and name not in names:
                            over[session.sid] = session
                            break
        if exchange.sent_ns > self._late_ns:
            over.update((one.sid, one) for one in waiting.values()
                        if exchange.sent_ns > _late_ns(one))  # fmt: skip
        for sid, session in over.items():
            if sid in waiting:
                self._expire(session, exchange)
        if exchange.sent_ns > self._late_ns:
            self._late_ns = min(map(_late_ns, waiting.values()), default=_LAST)

    def _expire(self, session: RecordedSession, by: Exchange) -> None:
        self.plan.waiting.pop(session.sid, None)
        if session.closed or session.expired:
            return
        session.expired = True
        self._has_ended(session.sid)
        self.plan.expired += 1
        self.plan.session_zxids += 1
        found = Effects()
        self._removals(found, session)
        exchange = Exchange(session.conn, -1, CLOSE_SESSION, 0, b"", by.sent_ns)
        self._put(exchange, steps.EXPIRE, session.sid, found)

    def _has_ended(self, sid: int) -> None:
        for old, _ in self._ended_sessions.put(sid, None):
            self.plan.sessions.pop(old, None)
            self._session_keys.pop(old, None)

    def _removals(self, found: Effects, session: RecordedSession) -> None:
        for path in session.ephemerals:
            found.writes.update(("n" + path, "c" + path, "c" + parent(path)))
            found.alone.add("c" + path)
            found.adds.add("c" + parent(path))
            self._owners.pop(path, None)
        session.ephemerals.clear()


def _late_ns(session: RecordedSession) -> int:
    """When a session without a connection has ended."""
    return session.gone_ns + 2 * session.timeout_ms * 1_000_000


def own_zxid(exchange: Exchange) -> bool:
    """Whether the zxid of the reply is that of this request: it became a txn, or an error txn."""
    op = BY_NUMBER.get(exchange.opcode)
    if op is None or op.effect != "w" or exchange.zxid == 0:
        return False
    # refused before it became one: Unimplemented, ThrottledOp
    return exchange.error not in (-6, -127)


def connect_of(exchange: Exchange) -> tuple[ConnectRequest | None, ConnectResponse | None]:
    """Both halves of a handshake, as far as they are whole."""
    request = reply = None
    try:
        request = ConnectRequest.decode(exchange.request)
        if exchange.reply is not None and len(exchange.reply) >= 20:
            reply = ConnectResponse.decode(exchange.reply)
    except WireError:
        pass  # cut short, or a dialect: told as a connect without an answer
    return request, reply


def _session_of(exchange: Exchange) -> int:
    request, reply = connect_of(exchange)
    if reply is not None and reply.session_id:
        return reply.session_id & _MASK
    return 0 if request is None else request.session_id & _MASK


def _weight(exchange: Exchange) -> int:
    return len(exchange.request) + len(exchange.reply or b"") + 512


def prepare(reader: Reader | Iterable[Exchange], heard: Heard, **options: Any) -> Plan:
    """Reads all of it."""
    planner = Planner(heard, **options)
    for exchange in reader:
        planner.add(exchange)
    return planner.finish()
