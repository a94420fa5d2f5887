"""Traffic under way into steps: the proxy's tap, decoded, in the order of zxids.

What is told apart here is who can no longer be followed. A session of which bytes are missing (the
tap leaves out what nobody took in time) is left out from there on; so is the busiest one, again and
again, while decoding is behind by more than :data:`LAG_S`. Knows no target.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from zktrace.engine.base import EngineOptions
from zktrace.engine.frames import FrameEngine
from zktrace.wire.opcodes import CLOSE_SESSION
from zktrace_proxy.messages.exchanges import (
    CONNECT_OP,
    END_OP,
    Conversation,
    Conversations,
    Exchange,
)
from zktrace_proxy.messages.latest import Latest
from zktrace_proxy.messages.reader import Heard
from zktrace_proxy.messages.spool import Notes, Spool
from zktrace_proxy.plane import Plane
from zktrace_proxy.replay.prepare import Planner, connect_of
from zktrace_proxy.replay.shadow import limits
from zktrace_proxy.replay.start import Node, StartState

#: Replies of several servers, and requests that turn out to have none, are in the order of zxids
#: after so long.
HOLD_NS: Final = 1_000_000_000
#: Behind by this, sessions are left out, one each :data:`_SHED_S`.
LAG_S: Final = 5.0
_SHED_S: Final = 0.25
_WAIT_S: Final = 0.05
#: Steps that wait to be taken; beyond, the tap is not read.
WAITING_MAX: Final = 16_384

_MASK: Final = (1 << 64) - 1


class Known(NamedTuple):
    """Data of a node that was there before, of which the node alone was known so far."""

    path: str
    data: bytes


Item = tuple[Exchange, Notes] | Node | Known


class _Stream(Spool):
    """What a planner appends to, taken at once."""

    def __init__(self, put: Callable[[Item], None]) -> None:
        self._put = put
        self.count = 0

    def append(self, exchange: Exchange, notes: Notes = ()) -> None:
        self.count += 1
        self._put((exchange, notes))

    def close(self) -> None:
        """There is no file."""


class ShadowFeed:
    """A thread. `left_out` is told of each connection that is no longer followed, and why."""

    def __init__(self, plane: Plane, tap: int, left_out: Callable[[int, str], None]) -> None:
        self.heard = Heard()
        start = StartState(limits.PATHS_MAX, passing=True)
        # copies: they go on to be filled while they are used
        start.tell = lambda node: self._put(replace(node))
        start.tell_data = lambda node: self._put(Known(node.path, node.data or b""))
        self.planner = Planner(
            self.heard,
            spool=_Stream(self._put),
            start=start,
            ended_max=limits.ENDED_MAX,
        )
        #: connections left out, by reason
        self.out: Counter[str] = Counter()
        self.lag_s = 0.0
        #: why sessions that begin are not followed; None: they are
        self.closed: str | None = None
        self.failure: str | None = None
        self._plane = plane
        self._tap = tap
        self._tell = left_out
        self._ready: list[Item] = []
        self._room = threading.Condition()
        self._ended = False
        self._dropped: set[int] = set()
        self._dropped_sessions: Latest[int, None] = Latest(limits.LEFT_OUT_MAX)
        self._session_of: dict[int, int] = {}
        self._busy: Counter[int] = Counter()
        self._newest_ns = 0
        self._shed_at = 0.0
        sink = Conversations(self._exchange, self._begin)
        sink.on_lost = self._lost
        self._engine = FrameEngine(EngineOptions(), sink)
        self._source = self._engine.add_source("shadow", None)
        self._thread = threading.Thread(target=self._work, name="zktrace-shadow", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self) -> tuple[list[Item], bool]:
        """What is ready, in order, and whether that was all there will be."""
        with self._room:
            ready, self._ready = self._ready, []
            self._room.notify()
            return ready, self._ended

    def held(self) -> dict[str, int]:
        """How many entries are held, by what they are."""
        return {
            **self.planner.held(),
            "waiting": len(self._ready),
            "conversations": len(self.heard.conversations),
            "sessions_left_out": len(self._dropped_sessions),
        }

    def forgotten(self) -> dict[str, int]:
        """What was given up for room."""
        return {
            "paths": self.planner.plan.start.left_out,
            "sessions_left_out": self._dropped_sessions.forgotten,
        }

    # ---- the thread

    def _work(self) -> None:
        plane, tap = self._plane, self._tap
        try:
            while not plane.ended(tap):
                block = plane.next(_WAIT_S, tap)
                if block is not None:
                    self._engine.feed(self._source, block)
                    self._engine.take()
                    # pings and packets without messages count, too: idle clients are not behind
                    self._newest_ns = self._engine.last_ts_ns
                now_ns = time.time_ns()
                if block is None:
                    # connections that were closed are over in time, whether or not others speak
                    self._engine.tick(now_ns)
                # what waits in the tap is not known yet: time is what was decoded
                seen_ns = now_ns if block is None else self._newest_ns
                self.planner.release(seen_ns - HOLD_NS)
                self._behind(seen_ns, now_ns)
                with self._room:
                    while len(self._ready) > WAITING_MAX:
                        self._room.wait(_WAIT_S)
                        self._behind(self._newest_ns, time.time_ns())
            self._engine.end_source(self._source)
            self._engine.finish()
            self.planner.finish()
        except Exception as error:  # a defect: the proxy goes on, the shadow ends and says so
            self.failure = f"{type(error).__name__}: {error}"
        with self._room:
            self._ended = True

    def _put(self, item: Item) -> None:
        with self._room:
            self._ready.append(item)

    def _begin(self, about: Conversation) -> None:
        self.heard.conversations[about.conn] = about
        if self.closed is not None:
            self._leave_out(about.conn, self.closed)

    def _exchange(self, exchange: Exchange) -> None:
        conn = exchange.conn
        if exchange.opcode == CONNECT_OP:
            _, reply = connect_of(exchange)
            if reply is not None and reply.session_id:
                sid = self._session_of[conn] = reply.session_id & _MASK
                if sid in self._dropped_sessions:
                    self._dropped.add(conn)
        if conn in self._dropped:
            known = self._session_of.get(conn)
            if exchange.opcode == END_OP:
                self._session_of.pop(conn, None)
                self._dropped.discard(conn)
                if not self.planner.leave(exchange):
                    self.forget(conn)
            elif exchange.opcode == CLOSE_SESSION and exchange.error == 0 and known is not None:
                self._dropped_sessions.pop(known)
            return
        if exchange.opcode == END_OP:
            self._session_of.pop(conn, None)
            self._busy.pop(conn, None)
        else:
            self._busy[conn] += 1
        self.planner.add(exchange)

    def _lost(self, conn: int) -> None:
        self._leave_out(conn, "bytes of it were not decoded in time")

    def _behind(self, seen_ns: int, now_ns: int) -> None:
        """Leaves the busiest session out, if too much has piled up."""
        self.lag_s = max(now_ns - seen_ns, 0) / 1e9 if seen_ns else 0.0
        now = time.monotonic()
        if self.lag_s > LAG_S and now - self._shed_at > _SHED_S and self._busy:
            self._shed_at = now
            self._leave_out(self._busy.most_common(1)[0][0], f"the shadow was {LAG_S:g} s behind")
        if now - self._shed_at > 1:
            self._busy = Counter({one: n // 2 for one, n in self._busy.items() if n > 1})

    def _leave_out(self, conn: int, why: str) -> None:
        if conn in self._dropped:
            return
        self._dropped.add(conn)
        self._busy.pop(conn, None)
        self.out[why] += 1
        sid = self._session_of.get(conn)
        if sid is not None:
            self._dropped_sessions.put(sid, None)
        self._tell(conn, why)

    def forget(self, conn: int) -> None:
        """Nothing more is asked of a connection."""
        self.heard.conversations.pop(conn, None)
