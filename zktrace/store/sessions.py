"""Sessions as the wire shows them: connects, moves between servers, silences, how they ended.

Fed row by row; ``zktrace/_native/src/kept/sessions.rs`` is the same for the native engine. A
silence is the time between two requests (pings are requests) of a session; as a share of the
session's timeout it says how near it came to expiry. A client pings after a third of the timeout
and gives its connection up after two thirds without an answer (``ClientCnxn``), so from
:data:`NEAR_PERCENT` on something was wrong.

Who was silent is judged in :mod:`zktrace.store.verdict`. Knows neither engines nor Arrow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from zktrace.wire.errors import error_name

#: Sessions kept; beyond, the tenth that is longest without a request is forgotten (and counted).
MAX_SESSIONS: Final = 20_000
#: Events of a session's timeline, and its requests without answer that are remembered.
MAX_EVENTS: Final = 50
MAX_UNANSWERED: Final = 8
#: Events of all timelines; beyond, each keeps its latest :data:`FEW_EVENTS`.
MAX_ALL_EVENTS: Final = 100_000
FEW_EVENTS: Final = 4
#: Two thirds of the timeout: when a client stops to wait.
NEAR_PERCENT: Final = 66
_SESSION_EXPIRED: Final = -112

STATES: Final = ("open", "closed", "expired", "overdue")
_OPEN, _CLOSED, _EXPIRED, _OVERDUE = range(4)

#: No answer was seen (of ``last_wait`` and ``silence_wait``, nanoseconds from request to reply).
NO_ANSWER: Final = -1
_MILLION: Final = 1_000_000

#: Time, what, client, server, number (an error's code, or percent).
Note: TypeAlias = tuple[int, str, str | None, str | None, int | None]


class Numbers(NamedTuple):
    """What is counted of a session; times in nanoseconds."""

    first_ns: int
    last_ns: int
    requests: int
    errors: int
    watch_events: int
    timeout_ms: int
    silence_ns: int
    silence_at: int
    silence_wait: int
    last_wait: int
    ended_ns: int
    proposed_ns: int
    connects: int
    moves: int
    near: int
    state: int


#: Id, client, server, :class:`Numbers`, notes, unanswered, losses: how a session is handed over.
Raw: TypeAlias = tuple[int, str, str, Any, list[Note], list[int], list[int]]


@dataclass(slots=True)
class Session:
    """One session; times in nanoseconds, None: not seen."""

    id: int
    state: str
    """open, closed, expired; overdue: nothing was seen of it for longer than its timeout."""
    client: str | None
    server: str | None
    first_ns: int
    last_ns: int
    timeout_ms: int | None
    connects: int
    moves: int
    requests: int
    errors: int
    watch_events: int
    near_misses: int
    """Silences of :data:`NEAR_PERCENT` of the timeout or more."""
    silence_ns: int
    """The longest."""
    silence_at_ns: int | None
    silence_wait_ns: int | None
    """How long the request before it waited for its answer; None: no answer was seen."""
    events: list[dict[str, Any]]
    unanswered: tuple[int, ...]
    """When the latest requests without answer were sent."""
    losses: tuple[int, ...]
    """When bytes of its connection were not captured."""

    def silence_percent(self) -> float | None:
        if not self.timeout_ms:
            return None
        return round(self.silence_ns / (self.timeout_ms * 10_000), 1)

    @classmethod
    def of(cls, raw: Raw, now_ns: int) -> Session:
        """As it is by the capture's clock."""
        session, client, server, numbers, notes, unanswered, losses = raw
        row = Numbers(*numbers)
        state, idle = state_of(row, now_ns)
        silence, at, wait = row.silence_ns, row.silence_at, row.silence_wait
        if idle > silence:
            silence, at, wait = idle, row.last_ns, row.last_wait
        events: list[dict[str, Any]] = [
            {
                "ts_ns": ts,
                "event": what,
                "client": of_client,
                "server": of_server,
                "detail": _words(what, number),
            }
            for ts, what, of_client, of_server, number in notes
        ]
        if state == _EXPIRED and row.state == _OPEN:
            events.append(
                {
                    **dict.fromkeys(("client", "server")),
                    "ts_ns": row.proposed_ns,
                    "event": "expired",
                    "detail": "the leader closed it, and its client had not asked for that",
                }
            )
        return cls(
            id=session,
            state=STATES[state],
            client=client,
            server=server,
            first_ns=row.first_ns,
            last_ns=row.last_ns,
            timeout_ms=row.timeout_ms or None,
            connects=row.connects,
            moves=row.moves,
            requests=row.requests,
            errors=row.errors,
            watch_events=row.watch_events,
            near_misses=row.near,
            silence_ns=silence,
            silence_at_ns=at if silence else None,
            silence_wait_ns=None if wait == NO_ANSWER else wait,
            events=sorted(events, key=lambda event: event["ts_ns"]),
            unanswered=tuple(unanswered),
            losses=tuple(losses),
        )


def _words(what: str, number: int | None) -> str | None:
    if what == "silent":
        return f"{number} % of the timeout without a request"
    if what == "refused":
        return error_name(number or 0)
    if what == "went on":
        return "it was not expired: the password was wrong, or it was another's"
    return None


def state_of(row: Any, now_ns: int) -> tuple[int, int]:
    """The state by the capture's clock, and the silence that goes on."""
    idle = max(now_ns - row.last_ns, 0)
    state: int = row.state
    if state != _OPEN:
        return state, 0
    if row.proposed_ns > row.last_ns:
        return _EXPIRED, idle
    if row.timeout_ms > 0 and idle > row.timeout_ms * _MILLION:
        return _OVERDUE, idle
    return _OPEN, idle


class _Session:
    """A session as it is kept; times in nanoseconds."""

    def __init__(self, session: int, first_ns: int, client: str, server: str) -> None:
        self.id = session
        self.client = client
        self.server = server
        self.first_ns = self.last_ns = first_ns
        self.requests = self.errors = self.watch_events = self.timeout_ms = 0
        self.silence_ns = self.silence_at = self.silence_wait = self.last_wait = 0
        self.ended_ns = self.proposed_ns = self.connects = self.moves = self.near = 0
        self.state = _OPEN
        self.notes: list[Note] = []
        self.unanswered: list[int] = []
        self.losses: list[int] = []

    def raw(self) -> Raw:
        numbers = Numbers(*(getattr(self, name) for name in Numbers._fields))
        lists = list(self.notes), list(self.unanswered), list(self.losses)
        return self.id, self.client, self.server, numbers, *lists

    def rank(self, sort: str, now_ns: int) -> float:
        if sort in ("silence", "silence_percent"):
            silence = max(self.silence_ns, state_of(self, now_ns)[1])
            if sort == "silence":
                return silence
            return silence / self.timeout_ms if self.timeout_ms > 0 else 0.0
        renamed = {"last_seen": "last_ns", "first_seen": "first_ns", "near_misses": "near"}
        value: int = getattr(self, renamed.get(sort, sort))
        return value


class Sessions:
    """The table."""

    def __init__(self, limit: int = MAX_SESSIONS) -> None:
        self._limit = limit
        self._table: dict[int, _Session] = {}
        self._notes = 0
        self.forgotten = 0

    # -- the feeding side

    def exchange(self, session: int, row: Any, timeout_ms: int | None) -> None:
        """A request of a session (not 0), with or without reply."""
        one = self._table.get(session)
        if one is None:
            if len(self._table) >= self._limit:
                self._forget()
            one = _Session(session, row.ts_ns, row.client, row.server)
            self._table[session] = one
        error = row.error or 0
        if timeout_ms is not None and timeout_ms > 0 and row.error == 0:
            one.timeout_ms = timeout_ms
        near: tuple[int, int] | None = None
        if one.state == _OPEN:
            gap = row.ts_ns - one.last_ns
            if gap > one.silence_ns:
                one.silence_ns, one.silence_at = gap, one.last_ns
                one.silence_wait = one.last_wait
            timeout = one.timeout_ms * _MILLION
            if timeout > 0 and gap * 100 >= timeout * NEAR_PERCENT:
                one.near += 1
                near = one.last_ns, round(gap * 100.0 / timeout)
        one.requests += 1
        one.errors += error != 0
        one.first_ns = min(one.first_ns, row.ts_ns)
        if row.ts_ns >= one.last_ns:
            one.last_wait = NO_ANSWER if row.latency_ns is None else row.latency_ns
            one.last_ns = row.ts_ns
        if near is not None:
            self._note(one, near[0], "silent", None, near[1])
        # That a connection was closed before the answer to closeSession came is usual.
        if row.state == "no_reply" and row.op != "closeSession":
            _push(one.unanswered, row.ts_ns)
        if row.op == "connect":
            self._connected(one, row)
        elif row.op == "closeSession" and row.error == 0:
            one.state, one.ended_ns = _CLOSED, row.ts_ns
            self._note(one, row.ts_ns, "closed", row)
        elif one.state == _EXPIRED:
            self._revived(one, row)

    def _note(
        self, one: _Session, at: int, what: str, row: Any = None, number: int | None = None
    ) -> None:
        if len(one.notes) >= MAX_EVENTS:
            del one.notes[0]
            self._notes -= 1
        client, server = (None, None) if row is None else (row.client, row.server)
        one.notes.append((at, what, client, server, number))
        self._notes += 1
        if self._notes > MAX_ALL_EVENTS:
            for each in self._table.values():
                del each.notes[:-FEW_EVENTS]
            self._notes = sum(len(each.notes) for each in self._table.values())

    def _connected(self, one: _Session, row: Any) -> None:
        if row.error == 0:
            moved = one.connects > 0 and one.server != row.server
            one.connects += 1
            one.moves += moved
            one.state = _OPEN
            one.client, one.server = row.client, row.server
            self._note(one, row.ts_ns, "moved" if moved else "connected", row)
        elif row.error == _SESSION_EXPIRED:
            one.state, one.ended_ns = _EXPIRED, row.ts_ns
            self._note(one, row.ts_ns, "expired", row)
        elif row.error is not None:
            self._note(one, row.ts_ns, "refused", row, row.error)

    def _revived(self, one: _Session, row: Any) -> None:
        """A session that goes on was not expired: servers answer a wrong password alike."""
        fine = row.state == "complete" and row.error != _SESSION_EXPIRED
        if fine and row.ts_ns > one.ended_ns:
            one.state = _CLOSED if row.op == "closeSession" else _OPEN
            self._note(one, row.ts_ns, "went on")

    def watch_event(self, session: int) -> None:
        if (one := self._table.get(session)) is not None:
            one.watch_events += 1

    def connection(self, session: int, row: Any) -> None:
        """The end of a connection that a session used."""
        one = self._table.get(session)
        if one is not None and row.event in ("closed", "reset"):
            self._note(one, row.ts_ns, f"connection {row.event}", row)

    def gap(self, session: int, ts_ns: int) -> None:
        """Bytes of its connection that were not captured."""
        if (one := self._table.get(session)) is not None:
            _push(one.losses, ts_ns)

    def proposed(self, session: int, ts_ns: int) -> None:
        """A leader proposed to close a session: its client asked for it, or it expired."""
        one = self._table.get(session)
        if one is not None and not one.proposed_ns:
            one.proposed_ns = ts_ns

    def _forget(self) -> None:
        keep = self._limit * 9 // 10
        ranked = sorted(
            ((one.last_ns, at, one) for at, one in enumerate(self._table.values())), reverse=True
        )
        kept = sorted(ranked[:keep], key=lambda item: item[1])
        self.forgotten += len(ranked) - len(kept)
        self._table = {one.id: one for _, _, one in kept}
        self._notes = sum(len(one.notes) for one in self._table.values())

    # -- the asking side

    def get(self, session: int) -> Raw | None:
        """One session, by its id as it is in tables (signed)."""
        one = self._table.get(session)
        return None if one is None else one.raw()

    def states(self, now_ns: int) -> list[int]:
        """How many sessions are in each of :data:`STATES`, by the capture's clock."""
        counts = [0] * len(STATES)
        for one in self._table.values():
            counts[state_of(one, now_ns)[0]] += 1
        return counts

    def select(
        self,
        sort: str,
        now_ns: int,
        since_ns: int | None,
        wanted: Iterable[int] | None,
        client: str | None,
        limit: int,
    ) -> tuple[list[Raw], int]:
        """The first sessions in the order of `sort` (most first), and how many there are: those
        with a request since a time, of some ids, of a client's address.
        """
        ids = None if wanted is None else set(wanted)
        found = [
            one
            for one in self._table.values()
            if (since_ns is None or one.last_ns >= since_ns)
            and (ids is None or one.id in ids)
            and (client is None or _address(one.client) == client)
        ]
        found.sort(key=lambda one: (-one.rank(sort, now_ns), one.id & (1 << 64) - 1))
        return [one.raw() for one in found[:limit]], len(found)


def _push(values: list[int], value: int) -> None:
    if len(values) >= MAX_UNANSWERED:
        del values[0]
    values.append(value)


def _address(endpoint: str) -> str:
    return endpoint.rpartition(":")[0].strip("[]")
