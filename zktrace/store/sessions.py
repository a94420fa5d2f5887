"""Sessions as the wire shows them: connects, moves between servers, silences, how they ended.

Filled from batches of exchanges: numbers by numpy, a Python step only per session of a batch and
per connect or close. A silence is the time between two requests (pings are requests) of a session
that were seen answered; as a share of the session's timeout it says how near it came to expiry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zktrace.wire.errors import error_name

#: Sessions kept; beyond, the ones longest without a request are forgotten (and counted).
MAX_SESSIONS: Final = 20_000
#: Events of a session's timeline.
MAX_EVENTS: Final = 50
_SESSION_EXPIRED: Final = -112


@dataclass(slots=True)
class Session:
    """One session; times in nanoseconds, None: not seen."""

    first_ns: int
    last_ns: int
    state: str = "open"
    """open, closed, expired, refused."""
    client: str | None = None
    server: str | None = None
    timeout_ms: int | None = None
    connects: int = 0
    moves: int = 0
    requests: int = 0
    errors: int = 0
    watch_events: int = 0
    longest_silence_ns: int = 0
    longest_silence_at_ns: int | None = None
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))

    def silence(self, before: int, after: int) -> None:
        gap = after - before
        if gap > self.longest_silence_ns:
            self.longest_silence_ns = gap
            self.longest_silence_at_ns = before

    def silence_percent(self) -> float | None:
        if not self.timeout_ms:
            return None
        return round(self.longest_silence_ns / (self.timeout_ms * 10_000), 1)

    def note(self, ts_ns: int, what: str, **more: Any) -> None:
        self.events.append({"ts_ns": ts_ns, "event": what, **more})


class Sessions:
    """The table."""

    def __init__(self, limit: int = MAX_SESSIONS) -> None:
        self._limit = limit
        self.known: dict[int, Session] = {}
        self.forgotten = 0
        self.expired = 0

    def add(self, batches: dict[str, pa.RecordBatch]) -> None:
        rows = batches.get("exchanges")
        if rows is not None:
            self._exchanges(rows)
        rows = batches.get("watch_events")
        if rows is not None:
            ids = pc.fill_null(rows.column("session"), 0).to_numpy()
            for session, count in zip(*np.unique(ids, return_counts=True), strict=True):
                if session and int(session) in self.known:
                    self.known[int(session)].watch_events += int(count)
        if len(self.known) > self._limit:
            self._forget()

    def _exchanges(self, rows: pa.RecordBatch) -> None:
        ids = pc.fill_null(rows.column("session"), 0).to_numpy()
        ts = rows.column("ts_ns").to_numpy()
        state = pc.equal(rows.column("state").cast(pa.utf8()), "no_request")
        wanted = np.flatnonzero((ids != 0) & ~state.to_numpy(zero_copy_only=False))
        if not len(wanted):
            return
        order = wanted[np.lexsort((ts[wanted], ids[wanted]))]
        ids, ts = ids[order], ts[order]
        errors = pc.fill_null(rows.column("error"), 0).to_numpy()[order] != 0
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        ends = np.concatenate([starts[1:], [len(ids)]])
        gaps = np.diff(ts, prepend=ts[:1])
        gaps[starts] = 0
        bad = np.add.reduceat(errors.astype(np.int64), starts)
        firsts = order[starts]
        clients = rows.column("client").take(pa.array(firsts)).to_pylist()
        servers = rows.column("server").take(pa.array(firsts)).to_pylist()
        for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            first, last = int(ts[start]), int(ts[end - 1])
            session = self.known.get(int(ids[start]))
            if session is None:
                session = self.known[int(ids[start])] = Session(first, first)
            if session.client is None:
                session.client, session.server = clients[i], servers[i]
            if session.state == "open":
                session.silence(session.last_ns, first)
                widest = start + int(np.argmax(gaps[start:end]))
                session.silence(int(ts[widest] - gaps[widest]), int(ts[widest]))
            session.requests += end - start
            session.errors += int(bad[i])
            session.first_ns = min(session.first_ns, first)
            session.last_ns = max(session.last_ns, last)
        self._changes(rows)

    def _changes(self, rows: pa.RecordBatch) -> None:
        """Connects and closes, one by one in order of time."""
        ops = pa.array(["connect", "closeSession"])
        chosen = rows.filter(pc.is_in(rows.column("op").cast(pa.utf8()), ops))
        if not chosen.num_rows:
            return
        names = ("ts_ns", "op", "session", "client", "server", "error", "timeout_ms")
        chosen = chosen.select(list(names)).sort_by("ts_ns")
        for row in chosen.to_pylist():
            session = self.known.get(row["session"] or 0)
            if session is None:
                continue
            at, error = row["ts_ns"], row["error"]
            where = {"client": row["client"], "server": row["server"]}
            if row["op"] == "closeSession":
                if error == 0:
                    session.state = "closed"
                    session.note(at, "closed", **where)
            elif error == 0:
                moved = session.connects > 0 and session.server != row["server"]
                session.connects += 1
                session.moves += moved
                session.state = "open"
                session.client, session.server = row["client"], row["server"]
                session.timeout_ms = row["timeout_ms"] or session.timeout_ms
                session.note(at, "moved" if moved else "connected", **where)
            elif error == _SESSION_EXPIRED:
                self.expired += session.state != "expired"
                session.state = "expired"
                session.note(at, "expired", **where)
            elif error is not None:
                session.note(at, "refused", error=error_name(error), **where)

    def _forget(self) -> None:
        ranked = sorted(self.known, key=lambda key: self.known[key].last_ns)
        for key in ranked[: len(ranked) - self._limit * 9 // 10]:
            del self.known[key]
            self.forgotten += 1

    def items(self) -> Iterable[tuple[int, Session]]:
        return list(self.known.items())
