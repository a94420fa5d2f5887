"""One live connection that stands for a recorded one: its steps, in its own order.

A step is sent when it is its connection's next, waits for no other step, was preceded by the watch
events and (at a limited speed) the replies that preceded it in the recording, and its time has
come. Knows one connection; what is between connections is the replayer's.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from zktrace.wire.message import frame
from zktrace.wire.opcodes import CLOSE_SESSION, PING_XID, WATCH_XID
from zktrace_proxy.replay import steps
from zktrace_proxy.replay.live import PING_FRAME, Wire
from zktrace_proxy.replay.steps import Step

if TYPE_CHECKING:
    from zktrace_proxy.replay.run import Replayer

#: Requests under way on a connection where nothing limits the speed.
WINDOW: Final = 64
#: xid of requests that the recording does not have.
OWN_XID: Final = 0x7F000000

_LENGTH: Final = struct.Struct(">i")
_XID: Final = struct.Struct(">i")
_WATCH: Final = _XID.pack(WATCH_XID)
_PING: Final = _XID.pack(PING_XID)

EventKey = tuple[int, int, str]


class Connection:
    """See the module. `label` names it in reports."""

    def __init__(self, run: Replayer, conn: int, label: str, joined: bool) -> None:
        self.run = run
        self.conn = conn
        self.label = label
        #: it was under way when the recording began: its first step is no connect
        self.joined = joined
        self.queue: deque[Step] = deque()
        self.inflight: deque[Step] = deque()
        self.wire: Wire | None = None
        self.connecting: Step | None = None
        self.session = 0
        self.timeout_ms = 0
        #: its recorded end has come: what the server still says is not compared
        self.ended = False
        #: and its last step is done
        self.finished = False
        #: the recording ended before the connection did
        self.open_end = False
        #: why no more can be sent
        self.dead: str | None = None
        self.answered = 0
        self.last = 0.0
        self.last_sent = 0.0
        #: live watch events less recorded ones, of steps that were looked at
        self.balance: Counter[EventKey] = Counter()
        self.pongs = 0
        #: its session is being closed: whether watch events still come is a matter of chance, of
        #: both sides those that did
        self.closing = False
        self.late: tuple[Counter[EventKey], Counter[EventKey]] = (Counter(), Counter())
        self._timer = False
        self._debited: Step | None = None

    # ---- steps

    def pump(self) -> None:
        """Sends what may be sent."""
        queue = self.queue
        out: list[bytes] = []
        run = self.run
        while queue and self.connecting is None:
            step = queue[0]
            if step.waits:
                break
            kind = step.kind
            if kind == steps.END and self.dead is not None:
                queue.popleft()
                if run.is_over(self.session):
                    self._heard(step)  # what came while it was being closed was heard, too
                self._end(step)
                continue
            if self.dead is not None:
                queue.popleft()
                run.unsent(self, step)
                continue
            if kind == steps.SKIP:
                queue.popleft()
                self.answered += 1
                run.finish(self, step, None)
                continue
            if kind == steps.END and self.inflight:
                break
            if not self._is_due(step):
                break
            if kind in steps.CONNECTS:
                if self.inflight:
                    break
                queue.popleft()
                self.connecting = step
                run.connect(self, step)
                break
            if kind == steps.END:
                queue.popleft()
                self._end(step)
                continue
            if self.wire is None:
                if not self.joined:
                    self.dead = "it got no session"
                    continue
                self.connecting = step
                run.connect(self, None)
                break
            if run.fast and len(self.inflight) >= WINDOW:
                break
            payload = self._payload(step)
            queue.popleft()
            if payload is None:
                self.answered += 1
                run.finish(self, step, None)
                continue
            self.inflight.append(step)
            if kind == steps.REQUEST and step.exchange.opcode == CLOSE_SESSION:
                self.closing = True
            step.sent_ns = run.now_ns()
            out.append(_LENGTH.pack(len(payload)))
            out.append(payload)
        if out and self.wire is not None:
            self.wire.send(b"".join(out))
            self.last = self.last_sent = run.time()

    def _payload(self, step: Step) -> bytes | None:
        if step.kind == steps.EXPIRE:
            return _header(OWN_XID, CLOSE_SESSION)
        return self.run.rewriter.request(step.exchange)

    def _is_due(self, step: Step) -> bool:
        """Whether what preceded it in the recording has happened, and its time has come."""
        run = self.run
        exchange = step.exchange
        if not run.fast and exchange.answered_before > self.answered and step.kind != steps.EXPIRE:
            return False
        if exchange.events and not self._heard(step):
            return False
        if run.fast:
            return True
        if step.due is None:
            step.due = run.due(self, step)
        now = run.time()
        if step.due > now:
            if not self._timer:
                self._timer = True
                run.later(step.due, self._wake)
            return False
        return True

    def _wake(self) -> None:
        self._timer = False
        self.pump()

    def _heard(self, step: Step) -> bool:
        """Whether the watch events came that preceded it."""
        keys = self.run.results.event_keys(step)
        if self._debited is not step:
            self._debited = step
            for key in keys:
                self._count(key, -1)
            if self.closing:
                self.late[0].update(keys)
        if self.closing:
            return True
        if not self.run.waits_for_events or step.since == -1.0:
            return True
        return all(self.balance[key] >= 0 for key in keys)

    def _count(self, key: EventKey, by: int) -> None:
        self.balance[key] += by
        if not self.balance[key]:
            del self.balance[key]

    def give_up_events(self, step: Step) -> list[EventKey]:
        """Go on without the watch events that the next step waits for; which they are."""
        missing = [key for key in self.run.results.event_keys(step) if self.balance[key] < 0]
        step.since = -1.0
        return missing

    def waits_for_events(self) -> bool:
        """Whether its next step waits for nothing else."""
        if not self.queue or self.connecting is not None:
            return False
        step = self.queue[0]
        return self._debited is step and step.since != -1.0 and not self._heard(step)

    def _end(self, step: Step) -> None:
        self.ended = self.finished = True
        self.open_end = not step.exchange.closed
        # A session that was not closed lives on: it may come again, or it is to expire in time.
        if step.exchange.closed and self.run.is_over(self.session) and self.wire is not None:
            self.wire.close()
        self.run.finish(self, step, None)

    # ---- from the server

    def on_frames(self, frames: list[bytes]) -> None:
        run = self.run
        self.last = run.time()
        for payload in frames:
            if self.connecting is not None:
                step = self.connecting
                self.connecting = None
                run.connected(self, step, payload)
                continue
            head = payload[:4]
            if head == _WATCH and len(payload) >= 16:
                self._event(payload)
            elif head == _PING:
                self.pongs += 1
            else:
                self._reply(payload)
        self.pump()
        run.pump_others(self)

    def _event(self, payload: bytes) -> None:
        if self.ended:
            return
        key = self.run.results.live_event(payload)
        self.run.live_events += 1
        if key is not None:
            self._count(key, 1)
            if self.closing:
                self.late[1][key] += 1

    def _reply(self, payload: bytes) -> None:
        inflight = self.inflight
        xid = _XID.unpack_from(payload)[0] if len(payload) >= 4 else 0
        step = None
        if inflight and _xid(inflight[0]) == xid:
            step = inflight.popleft()
        else:
            # auth is answered at receipt; else the server left a request without an answer
            for one in inflight:
                if _xid(one) == xid:
                    step = one
                    break
            if step is None:
                self.run.stray += 1
                return
            inflight.remove(step)
        self.answered += 1
        self.run.finish(self, step, payload)

    def on_lost(self, why: str) -> None:
        self.wire = None
        run = self.run
        if self.connecting is not None:
            step, self.connecting = self.connecting, None
            run.connected(self, step, None, why)
        lost, self.inflight = list(self.inflight), deque()
        if not run.is_over(self.session) and not self.ended:
            self.dead = why
            run.connection_lost(self, why, len(lost))
        elif self.dead is None:
            self.dead = "the session is over"
        for step in lost:
            run.finish(self, step, None)
        self.pump()
        run.pump_others(self)

    def ping(self) -> None:
        """Keeps the session alive."""
        if self.wire is not None:
            self.wire.send(PING_FRAME)
            self.last_sent = self.run.time()

    def close_session(self) -> None:
        """At the end of a replay that leaves no sessions behind."""
        if self.wire is not None:
            self.wire.send(frame(_header(OWN_XID + 1, CLOSE_SESSION)))


def _header(xid: int, opcode: int) -> bytes:
    return struct.pack(">ii", xid, opcode)


def _xid(step: Step) -> int:
    return OWN_XID if step.kind == steps.EXPIRE else step.exchange.xid
