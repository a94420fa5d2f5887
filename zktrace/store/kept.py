"""What is kept of single events of traffic under way: sessions, watches, the slowest, the latest.

Windows (:mod:`zktrace.store.windows`) count; this remembers. A native engine keeps it itself
(``zktrace/_native/src/kept``); for the Python engine it is made of rows. The same rows give the
same answers, which the tests hold both to; answers are plain values, copied, so that whoever asks
holds nobody up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from zktrace.analysis.hashing import SessionHasher
from zktrace.analysis.names import vocabulary
from zktrace.store.recent import RECENT_ROWS, RowRecent, View, in_order
from zktrace.store.sessions import MAX_SESSIONS, Raw, Sessions
from zktrace.store.shape import Shape
from zktrace.store.slow import Slow
from zktrace.store.watches import Watches

#: Connections that are remembered; beyond, those that were first seen earliest are forgotten, half
#: of them.
MAX_CONNECTIONS: Final = 65_536


class Kept(Protocol):
    """What is asked."""

    def rows(self) -> int:
        """Events so far."""

    def session(self, id: int) -> Raw | None: ...

    def sessions(
        self,
        sort: str,
        now_ns: int,
        since_ns: int | None,
        ids: Sequence[int] | None,
        client: str | None,
        limit: int,
    ) -> tuple[list[Raw], int]:
        """:meth:`zktrace.store.sessions.Sessions.select`."""

    def session_states(self, now_ns: int) -> tuple[list[int], int]:
        """Sessions in each of ``STATES``, and how many were forgotten."""

    def slow(
        self, bounds: tuple[int, int] | None, sort: str, limit: int | None
    ) -> tuple[list[dict[str, Any]], int]:
        """:meth:`zktrace.store.slow.Slow.entries`."""

    def watch_counts(self) -> dict[str, Any]:
        """``registered``, ``restored``, ``fired``: counts by kind; ``outstanding``, ``not_kept``,
        ``forgotten_paths``, ``forgotten_writes``: numbers; ``growing``: of sessions.
        """

    def watch_most(self, limit: int) -> list[tuple[int, int]]:
        """:meth:`zktrace.store.ledger.Ledger.most`."""

    def watch_paths(
        self, sort: str, limit: int | None
    ) -> tuple[list[tuple[str, int, int]], int]: ...

    def watch_writes(self, since_ns: int | None, limit: int | None) -> list[dict[str, Any]]: ...

    def shape(self, limit: int) -> Mapping[str, Sequence[tuple[str, int, int, str | None]]]:
        """``data``, ``children``, ``messages``: path, value, time and op of the largest of each
        (:mod:`zktrace.store.shape`), largest first.
        """

    def recent(self, after: int) -> View:
        """The latest events with a number greater than `after`, and perhaps some before."""


class _Exchange(NamedTuple):
    seq: int
    ts_ns: int
    conn: int
    client: str
    server: str
    op: str | None
    opcode: int | None
    xid: int | None
    session: int | None
    path: str | None
    watch: bool | None
    error: int | None
    zxid: int | None
    latency_ns: int | None
    request_bytes: int | None
    reply_bytes: int | None
    state: str
    flags: int | None
    mode: int | None


class _WatchEvent(NamedTuple):
    seq: int
    ts_ns: int
    conn: int
    client: str
    server: str
    session: int | None
    event: str | None
    keeper_state: str | None
    path: str | None
    zxid: int | None
    bytes: int


class _Connection(NamedTuple):
    seq: int
    ts_ns: int
    conn: int
    client: str
    server: str
    role: str
    event: str


#: Columns of tables, by place.
_DATA, _CHILDREN, _CREATED, _STAT, _WATCHES, _TIMEOUT = 20, 21, 23, 24, 26, 28
_REASON: Final = 5
_PACKET, _SESSION, _TXN = 5, 9, 11


class _Conn:
    __slots__ = ("last", "session")

    def __init__(self) -> None:
        self.session = 0
        """The first session that used it; 0: none yet."""
        self.last: int | None = None
        """Number of its last exchange."""


class RowKept:
    """Makes it of the rows of the Python engine."""

    def __init__(
        self,
        max_sessions: int = MAX_SESSIONS,
        recent_rows: int = RECENT_ROWS,
        hasher: SessionHasher | None = None,
    ) -> None:
        self._sessions = Sessions(max_sessions)
        self._slow = Slow()
        self._watches = Watches(vocabulary().writes)
        self._shape = Shape()
        self._recent = RowRecent(recent_rows)
        self._hasher = hasher
        self._conns: dict[int, _Conn] = {}
        self._rows = 0

    # -- the feeding side

    def add(self, rows: Mapping[str, Sequence[tuple[Any, ...]]]) -> None:
        """Rows of all kinds as the engine gives them."""
        self.feed(in_order(rows))

    def feed(self, rows: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
        """Kinds and rows in order."""
        for kind, row in rows:
            self._rows += 1
            if kind == "exchanges":
                self._exchange(row)
            elif kind == "watch_events":
                self._watch_event(_WatchEvent(*row))
            elif kind == "connections":
                if (known := self._conns.get(row[2])) is not None and known.session:
                    self._sessions.connection(known.session, _Connection(*row[:7]))
            elif kind == "anomalies":
                known = self._conns.get(row[2])
                if known is not None and known.session and row[_REASON] == "gap":
                    self._sessions.gap(known.session, row[1])
            elif kind == "quorum" and row[_TXN] == "closeSession" and row[_PACKET] == "PROPOSAL":
                session = self._shown(row[_SESSION])
                if session is not None:
                    self._sessions.proposed(session, row[1])
            self._recent.add(kind, row)

    def _shown(self, session: int | None) -> int | None:
        return session if self._hasher is None else self._hasher.session(session)

    def _exchange(self, row: tuple[Any, ...]) -> None:
        one = _Exchange(*row[: len(_Exchange._fields)])
        session = self._shown(one.session)
        conn = self._conns.get(one.conn)
        if conn is None:
            if len(self._conns) >= MAX_CONNECTIONS:
                for old in list(self._conns)[: MAX_CONNECTIONS // 2]:
                    del self._conns[old]
            conn = self._conns[one.conn] = _Conn()
        conn.last = self._slow.exchange(one, session, conn.last)
        if session and one.state != "no_request":
            conn.session = conn.session or session
            self._sessions.exchange(session, one, row[_TIMEOUT])
        self._watches.exchange(one, session, row[_WATCHES])
        self._shape.exchange(one, row[_STAT], row[_DATA], row[_CHILDREN], row[_CREATED])

    def _watch_event(self, row: _WatchEvent) -> None:
        session = self._shown(row.session)
        if session is not None:
            self._sessions.watch_event(session)
        self._watches.watch_event(row, session)

    # -- the asking side: see Kept

    def rows(self) -> int:
        return self._rows

    def session(self, id: int) -> Raw | None:
        return self._sessions.get(id)

    def sessions(
        self,
        sort: str,
        now_ns: int,
        since_ns: int | None,
        ids: Sequence[int] | None,
        client: str | None,
        limit: int,
    ) -> tuple[list[Raw], int]:
        return self._sessions.select(sort, now_ns, since_ns, ids, client, limit)

    def session_states(self, now_ns: int) -> tuple[list[int], int]:
        return self._sessions.states(now_ns), self._sessions.forgotten

    def slow(
        self, bounds: tuple[int, int] | None, sort: str, limit: int | None
    ) -> tuple[list[dict[str, Any]], int]:
        return self._slow.entries(bounds, sort, limit)

    def watch_counts(self) -> dict[str, Any]:
        watches = self._watches
        return {
            "registered": dict(watches.registered),
            "restored": dict(watches.restored),
            "fired": dict(watches.fired),
            "forgotten_paths": watches.forgotten_paths,
            "forgotten_writes": watches.forgotten_writes,
            "outstanding": len(watches.ledger),
            "not_kept": watches.ledger.overflow,
            "growing": [tuple(one) for one in watches.ledger.growing()],
        }

    def watch_most(self, limit: int) -> list[tuple[int, int]]:
        return self._watches.ledger.most(limit)

    def watch_paths(self, sort: str, limit: int | None) -> tuple[list[tuple[str, int, int]], int]:
        return self._watches.paths(sort, limit)

    def watch_writes(self, since_ns: int | None, limit: int | None) -> list[dict[str, Any]]:
        return self._watches.writes(since_ns, limit)

    def shape(self, limit: int) -> Mapping[str, Sequence[tuple[str, int, int, str | None]]]:
        shape = self._shape
        tops = {"data": shape.data, "children": shape.children, "messages": shape.messages}
        return {name: top.ranked(limit) for name, top in tops.items()}

    def recent(self, after: int) -> View:
        return self._recent.view(after)
