"""Sessions as the wire shows them: connects, moves between servers, silences, how they ended.

Filled from batches of events: numbers by numpy, a Python step only per session that is new, per
connect or close, and per silence worth telling. A silence is the time between two requests (pings
are requests) of a session; as a share of the session's timeout it says how near it came to expiry.
A client pings after a third of the timeout and gives its connection up after two thirds without an
answer (``ClientCnxn``), so from :data:`NEAR_PERCENT` on something was wrong.

Who was silent is judged in :mod:`zktrace.store.verdict`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zktrace.wire.errors import error_name

#: Sessions kept; beyond, the ones longest without a request are forgotten (and counted).
MAX_SESSIONS: Final = 20_000
#: Events of a session's timeline, and its requests without answer that are remembered.
MAX_EVENTS: Final = 50
MAX_UNANSWERED: Final = 8
#: Connections whose session is remembered; beyond, the older half is forgotten.
MAX_CONNECTIONS: Final = 65_536
#: Silences of a batch that become events of timelines; all are counted.
MAX_NOTED: Final = 256
#: Two thirds of the timeout: when a client stops to wait.
NEAR_PERCENT: Final = 66
_SESSION_EXPIRED: Final = -112

STATES: Final = ("open", "closed", "expired")
_OPEN, _CLOSED, _EXPIRED = range(3)

_INTS: Final = (
    *("first_ns", "last_ns", "requests", "errors", "watch_events", "timeout_ms"),
    *("silence_ns", "silence_at", "silence_wait", "last_wait", "ended_ns", "proposed_ns"),
    *("connects", "moves", "near", "state"),
)
ROW: Final = np.dtype([(name, "<i8") for name in _INTS])
#: No answer was seen (of ``last_wait`` and ``silence_wait``, nanoseconds from request to reply).
NO_ANSWER: Final = -1


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


class Sessions:
    """The table."""

    def __init__(self, limit: int = MAX_SESSIONS) -> None:
        self._limit = limit
        self._slots: dict[int, int] = {}
        self._rows = np.zeros(256, dtype=ROW)
        self._places: list[tuple[str | None, str | None]] = []
        """Client and server of each."""
        self._notes: dict[int, list[tuple[int, str, str | None, str | None, str | None]]] = {}
        self._unanswered: dict[int, list[int]] = {}
        self._losses: dict[int, list[int]] = {}
        self._conns: dict[int, int] = {}
        """Sessions of connections."""
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def expired(self) -> int:
        """How many are expired."""
        return self.states(0)["expired"]

    # -- the feeding side

    def add(self, batches: dict[str, pa.RecordBatch]) -> None:
        rows = batches.get("exchanges")
        if rows is not None and rows.num_rows:
            self._exchanges(rows)
        rows = batches.get("watch_events")
        if rows is not None and rows.num_rows:
            ids = pc.fill_null(rows.column("session"), 0).to_numpy()
            known, counts = np.unique(ids, return_counts=True)
            slots = np.array([self._slots.get(one, -1) for one in known.tolist()])
            self._rows["watch_events"][slots[slots >= 0]] += counts[slots >= 0]
        for kind in ("connections", "anomalies"):
            rows = batches.get(kind)
            if rows is not None and rows.num_rows:
                self._connections(kind, rows)
        rows = batches.get("quorum")
        if rows is not None and rows.num_rows:
            self._proposed(rows)
        if len(self._slots) > self._limit:
            self._forget()

    def _slot(self, session: int, first: int) -> int:
        slot = self._slots[session] = len(self._slots)
        if slot == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros(slot, dtype=ROW)])
        row = self._rows[slot]
        row["first_ns"] = row["last_ns"] = first
        self._places.append((None, None))
        return slot

    def _note(self, session: int, at: int, what: str, *more: str | None) -> None:
        notes = self._notes.setdefault(session, [])
        client, server, words = (*more, None, None, None)[:3]
        notes.append((at, what, client, server, words))
        if len(notes) > MAX_EVENTS:
            del notes[0]

    def _exchanges(self, rows: pa.RecordBatch) -> None:
        ids = pc.fill_null(rows.column("session"), 0).to_numpy()
        ts = rows.column("ts_ns").to_numpy()
        state = rows.column("state").cast(pa.utf8())
        asked = pc.not_equal(state, "no_request").to_numpy(zero_copy_only=False)
        wanted = np.flatnonzero((ids != 0) & asked)
        if not len(wanted):
            return
        order = wanted[np.lexsort((ts[wanted], ids[wanted]))]
        ids, ts = ids[order], ts[order]
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        lengths = np.diff(np.append(starts, len(ids)))
        ends = starts + lengths - 1
        of = np.repeat(np.arange(len(starts)), lengths)
        sessions = ids[starts].tolist()
        slots = np.array([self._slots.get(one, -1) for one in sessions])
        new = np.flatnonzero(slots < 0).tolist()
        if new:
            firsts = order[starts[new]]
            clients = rows.column("client").take(pa.array(firsts)).to_pylist()
            servers = rows.column("server").take(pa.array(firsts)).to_pylist()
            for i, client, server in zip(new, clients, servers, strict=True):
                slots[i] = self._slot(sessions[i], int(ts[starts[i]]))
                self._places[slots[i]] = client, server
        table = self._rows
        self._granted(rows)
        conns, at = np.unique(rows.column("conn").to_numpy()[order], return_index=True)
        for conn, session in zip(conns.tolist(), ids[at].tolist(), strict=True):
            self._conns.setdefault(conn, session)
        if len(self._conns) > MAX_CONNECTIONS:
            for conn in list(self._conns)[: MAX_CONNECTIONS // 2]:
                del self._conns[conn]
        wait = pc.fill_null(rows.column("latency_ns"), NO_ANSWER).to_numpy()[order]
        # Time since the request before, and how long that one waited.
        before = np.empty_like(ts)
        before[1:], before[starts] = ts[:-1], table["last_ns"][slots]
        waited = np.empty_like(wait)
        waited[1:], waited[starts] = wait[:-1], table["last_wait"][slots]
        gaps = ts - before
        gaps[(table["state"][slots] != _OPEN)[of]] = 0
        longest = np.maximum.reduceat(gaps, starts)
        at = np.flatnonzero(gaps == longest[of])
        at = at[np.unique(of[at], return_index=True)[1]]
        longer = longest > table["silence_ns"][slots]
        chosen = slots[longer]
        table["silence_ns"][chosen] = longest[longer]
        table["silence_at"][chosen] = before[at][longer]
        table["silence_wait"][chosen] = waited[at][longer]
        self._near(ids, slots[of], gaps, before)
        errors = pc.fill_null(rows.column("error"), 0).to_numpy()[order] != 0
        table["requests"][slots] += lengths
        table["errors"][slots] += np.add.reduceat(errors.astype(np.int64), starts)
        table["first_ns"][slots] = np.minimum(table["first_ns"][slots], ts[starts])
        later = ts[ends] >= table["last_ns"][slots]
        table["last_wait"][slots[later]] = wait[ends][later]
        table["last_ns"][slots] = np.maximum(table["last_ns"][slots], ts[ends])
        self._lonely(rows, state)
        self._changes(rows)
        self._revived(rows, state)

    def _granted(self, rows: pa.RecordBatch) -> None:
        """Timeouts of sessions that were granted one."""
        timeouts = pc.fill_null(rows.column("timeout_ms"), 0)
        chosen = pc.and_(pc.greater(timeouts, 0), pc.equal(rows.column("error"), 0))
        chosen = pc.fill_null(chosen, False)
        for row in rows.select(["session", "timeout_ms"]).filter(chosen).to_pylist():
            slot = self._slots.get(row["session"] or 0)
            if slot is not None:
                self._rows[slot]["timeout_ms"] = row["timeout_ms"]

    def _near(self, ids: Any, slots: Any, gaps: Any, before: Any) -> None:
        """Counts and notes silences that came near the timeout."""
        timeouts = self._rows["timeout_ms"][slots] * 1_000_000
        near = np.flatnonzero((timeouts > 0) & (gaps * 100 >= timeouts * NEAR_PERCENT))
        np.add.at(self._rows["near"], slots[near], 1)
        for i in near[:MAX_NOTED].tolist():
            percent = round(int(gaps[i]) * 100 / int(timeouts[i]))
            words = f"{percent} % of the timeout without a request"
            self._note(int(ids[i]), int(before[i]), "silent", None, None, words)

    def _lonely(self, rows: pa.RecordBatch, state: Any) -> None:
        """Requests without answer; that a connection was closed before the answer to
        closeSession came is usual.
        """
        op = rows.column("op").cast(pa.utf8())
        chosen = pc.and_(pc.equal(state, "no_reply"), pc.not_equal(op, "closeSession"))
        for row in rows.select(["session", "ts_ns"]).filter(chosen).to_pylist():
            if row["session"] in self._slots:
                sent = self._unanswered.setdefault(row["session"], [])
                sent.append(row["ts_ns"])
                if len(sent) > MAX_UNANSWERED:
                    del sent[0]

    def _changes(self, rows: pa.RecordBatch) -> None:
        """Connects and closes, one by one in order of time."""
        ops = pa.array(["connect", "closeSession"])
        chosen = rows.filter(pc.is_in(rows.column("op").cast(pa.utf8()), ops))
        if not chosen.num_rows:
            return
        names = ("ts_ns", "op", "session", "client", "server", "error")
        chosen = chosen.select(list(names)).sort_by("ts_ns")
        for row in chosen.to_pylist():
            slot = self._slots.get(row["session"] or 0)
            if slot is None:
                continue
            session = self._rows[slot]
            at, error = row["ts_ns"], row["error"]
            where = row["client"], row["server"]
            if row["op"] == "closeSession":
                if error == 0:
                    session["state"], session["ended_ns"] = _CLOSED, at
                    self._note(row["session"], at, "closed", *where)
            elif error == 0:
                moved = session["connects"] > 0 and self._places[slot][1] != row["server"]
                session["connects"] += 1
                session["moves"] += bool(moved)
                session["state"] = _OPEN
                self._places[slot] = where
                self._note(row["session"], at, "moved" if moved else "connected", *where)
            elif error == _SESSION_EXPIRED:
                session["state"], session["ended_ns"] = _EXPIRED, at
                self._note(row["session"], at, "expired", *where)
            elif error is not None:
                self._note(row["session"], at, "refused", *where, error_name(error))

    def _revived(self, rows: pa.RecordBatch, state: Any) -> None:
        """A session that goes on was not expired: servers answer a wrong password alike."""
        if not np.any(self._rows["state"][: len(self._slots)] == _EXPIRED):
            return
        op = rows.column("op").cast(pa.utf8())
        chosen = pc.and_(pc.equal(state, "complete"), pc.not_equal(op, "connect"))
        chosen = pc.and_(chosen, pc.not_equal(pc.fill_null(rows.column("error"), 0), -112))
        for row in rows.select(["session", "ts_ns", "op"]).filter(chosen).to_pylist():
            slot = self._slots.get(row["session"] or 0)
            if slot is None:
                continue
            session = self._rows[slot]
            if session["state"] == _EXPIRED and row["ts_ns"] > session["ended_ns"]:
                session["state"] = _CLOSED if row["op"] == "closeSession" else _OPEN
                words = "it was not expired: the password was wrong, or it was another's"
                self._note(row["session"], row["ts_ns"], "went on", None, None, words)

    def _connections(self, kind: str, rows: pa.RecordBatch) -> None:
        """Ends of connections, and bytes of them that were not captured."""
        column = "event" if kind == "connections" else "reason"
        wanted = pa.array(["closed", "reset"] if kind == "connections" else ["gap"])
        chosen = pc.is_in(rows.column(column).cast(pa.utf8()), wanted)
        rows = rows.select(["ts_ns", "conn", "client", "server", column]).filter(chosen)
        for row in rows.to_pylist():
            session = self._conns.get(row["conn"])
            if session is None or session not in self._slots:
                continue
            if kind == "anomalies":
                losses = self._losses.setdefault(session, [])
                losses.append(row["ts_ns"])
                del losses[:-MAX_UNANSWERED]
            else:
                what = f"connection {row['event']}"
                self._note(session, row["ts_ns"], what, row["client"], row["server"])

    def _proposed(self, rows: pa.RecordBatch) -> None:
        """A leader proposed to close a session: its client asked for it, or it expired."""
        chosen = pc.and_(
            pc.equal(rows.column("txn_type").cast(pa.utf8()), "closeSession"),
            pc.equal(rows.column("type").cast(pa.utf8()), "PROPOSAL"),
        )
        chosen = pc.fill_null(chosen, False)
        for row in rows.select(["session", "ts_ns"]).filter(chosen).to_pylist():
            slot = self._slots.get(row["session"] or 0)
            if slot is not None and not self._rows[slot]["proposed_ns"]:
                self._rows[slot]["proposed_ns"] = row["ts_ns"]

    def _forget(self) -> None:
        count = len(self._slots)
        keep = self._limit * 9 // 10
        last = self._rows["last_ns"][:count]
        kept = np.sort(np.argpartition(last, count - keep)[count - keep :])
        ids = list(self._slots)
        self._rows = self._rows[kept].copy()
        self._places = [self._places[i] for i in kept.tolist()]
        self._slots = {ids[i]: at for at, i in enumerate(kept.tolist())}
        self.forgotten += count - keep
        for notes in (self._notes, self._unanswered, self._losses):
            for gone in notes.keys() - self._slots.keys():
                del notes[gone]

    # -- the asking side

    def _states(self, now_ns: int) -> Any:
        """Columns: the state of each (3: overdue), and its silence that goes on."""
        table = self._rows[: len(self._slots)]
        state = table["state"].copy()
        idle = np.maximum(now_ns - table["last_ns"], 0)
        is_open = state == _OPEN
        state[is_open & (table["proposed_ns"] > table["last_ns"])] = _EXPIRED
        timeouts = table["timeout_ms"] * 1_000_000
        state[(state == _OPEN) & (timeouts > 0) & (idle > timeouts)] = 3
        return state, np.where(is_open, idle, 0)

    def states(self, now_ns: int) -> dict[str, int]:
        """How many sessions are in which state, by the capture's clock."""
        counts = np.bincount(self._states(now_ns)[0], minlength=4).tolist()
        return dict(zip((*STATES, "overdue"), counts, strict=True))

    def get(self, session: int, now_ns: int) -> Session | None:
        """One session, by its id as it is in tables (signed)."""
        slot = self._slots.get(session)
        return None if slot is None else self._made([slot], now_ns)[0]

    def select(
        self,
        sort: str,
        now_ns: int,
        since_ns: int | None = None,
        wanted: Iterable[int] | None = None,
        client: str | None = None,
        limit: int | None = None,
    ) -> tuple[list[Session], int]:
        """Sessions in the order of `sort` (most first), and how many there are: those with a
        request since a time, of some ids, of a client's address.
        """
        table = self._rows[: len(self._slots)]
        chosen = np.ones(len(table), dtype=bool)
        if since_ns is not None:
            chosen &= table["last_ns"] >= since_ns
        if wanted is not None:
            some = [self._slots[one] for one in wanted if one in self._slots]
            mask = np.zeros(len(table), dtype=bool)
            mask[some] = True
            chosen &= mask
        if client is not None:
            chosen &= np.array([_address(place[0]) == client for place in self._places], dtype=bool)
        _, idle = self._states(now_ns)
        silence = np.maximum(table["silence_ns"], idle)
        timeouts = np.maximum(table["timeout_ms"], 1) * 10_000
        columns = {
            "last_seen": table["last_ns"],
            "first_seen": table["first_ns"],
            "silence": silence,
            "silence_percent": np.where(table["timeout_ms"] > 0, silence / timeouts, 0),
            "near_misses": table["near"],
        }
        column = columns[sort] if sort in columns else table[sort]
        found = np.flatnonzero(chosen)
        ids = np.fromiter(self._slots, dtype=np.int64, count=len(table))
        order = found[np.lexsort((ids.view(np.uint64)[found], -column[found]))]
        return self._made(order[:limit].tolist(), now_ns), len(found)

    def _made(self, slots: Sequence[int], now_ns: int) -> list[Session]:
        states, idle = self._states(now_ns)
        by_slot = dict.fromkeys(slots, 0)
        by_slot.update((slot, one) for one, slot in self._slots.items() if slot in by_slot)
        return [
            self._session(by_slot[slot], slot, int(states[slot]), int(idle[slot])) for slot in slots
        ]

    def _session(self, session: int, slot: int, state: int, idle: int) -> Session:
        row = dict(zip(_INTS, self._rows[slot].tolist(), strict=True))
        silence, at, wait = row["silence_ns"], row["silence_at"], row["silence_wait"]
        if idle > silence:
            silence, at, wait = idle, row["last_ns"], row["last_wait"]
        events = [
            {"ts_ns": ts, "event": what, "client": client, "server": server, "detail": words}
            for ts, what, client, server, words in self._notes.get(session, ())
        ]
        if state == _EXPIRED and row["state"] == _OPEN:
            events.append(
                {
                    **dict.fromkeys(("client", "server")),
                    "ts_ns": row["proposed_ns"],
                    "event": "expired",
                    "detail": "the leader closed it, and its client had not asked for that",
                }
            )
        return Session(
            id=session,
            state=(*STATES, "overdue")[state],
            client=self._places[slot][0],
            server=self._places[slot][1],
            first_ns=row["first_ns"],
            last_ns=row["last_ns"],
            timeout_ms=row["timeout_ms"] or None,
            connects=row["connects"],
            moves=row["moves"],
            requests=row["requests"],
            errors=row["errors"],
            watch_events=row["watch_events"],
            near_misses=row["near"],
            silence_ns=silence,
            silence_at_ns=at if silence else None,
            silence_wait_ns=None if wait == NO_ANSWER else wait,
            events=sorted(events, key=lambda event: event["ts_ns"]),
            unanswered=tuple(self._unanswered.get(session, ())),
            losses=tuple(self._losses.get(session, ())),
        )


def _address(endpoint: str | None) -> str | None:
    return None if endpoint is None else endpoint.rpartition(":")[0].strip("[]")
