"""Carries a plan out: connections, their order, the maps, pings, time limits, and the outcome.

One asyncio loop, one connection per recorded one. Steps come from the plan's file a few thousand at
a time. The earliest step under way waits for no other; where it waits for a watch event that does
not come, or for a reply, a time limit ends that and the report says so: nothing waits for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from zktrace.wire.jute import WireError
from zktrace.wire.message import frame
from zktrace.wire.opcodes import CLOSE_SESSION
from zktrace.wire.records import ConnectRequest, ConnectResponse
from zktrace_proxy.compare.canonical import Judge
from zktrace_proxy.compare.outcome import Outcome
from zktrace_proxy.messages.maps import Maps, Names, Session
from zktrace_proxy.replay import steps
from zktrace_proxy.replay.connection import Connection
from zktrace_proxy.replay.live import open_wire, reason
from zktrace_proxy.replay.names import request_name, session_text
from zktrace_proxy.replay.order import Mode, Order
from zktrace_proxy.replay.plan import Plan
from zktrace_proxy.replay.prelude import Prelude, PreludeError
from zktrace_proxy.replay.prepare import connect_of
from zktrace_proxy.replay.report import Lag, Report, Stall
from zktrace_proxy.replay.results import Results
from zktrace_proxy.replay.rewrite import Rewriter, Versions
from zktrace_proxy.replay.steps import Step

#: Steps under way at most: enough for any concurrency, little memory.
UNDER_WAY: Final = 8_192
#: Fed between two looks at the sockets.
_BURST: Final = 256
_LOOK_S: Final = 0.1
#: Waits for watch events that did not come in time; after so many, the wait is short.
_PATIENT_STALLS: Final = 5
_SHORT_WAIT_S: Final = 0.05
_BAD_PASSWORD: Final = b"\xff" * 16


@dataclass(frozen=True, slots=True)
class Options:
    """How to replay. `speed` is a factor, None: as fast as possible. Times in seconds."""

    address: tuple[str, int]
    order: Mode = Mode.conflict
    speed: float | None = 1.0
    max_think_s: float | None = None
    versions: Versions = Versions.map
    prefix: str = ""
    credentials: Mapping[str, bytes] = field(default_factory=dict)
    wait_s: float = 5.0
    reply_timeout_s: float = 30.0
    session_timeout_ms: int | None = None
    start_state: bool = True
    drop_lost: bool = False
    #: whether data of a recorded path holds names of sequential nodes; the plan has to know it, too
    names_in: Callable[[str], object] | None = None


class ReplayError(Exception):
    """It cannot begin; one line that says why."""


class Replayer:
    """One run of a plan. `progress` is told steps done and all."""

    def __init__(
        self,
        plan: Plan,
        options: Options,
        progress: Callable[[int, int], None] | None = None,
        outcome: Outcome | None = None,
        maps: Maps | None = None,
    ) -> None:
        self.plan = plan
        self.options = options
        self.fast = options.speed is None
        self.maps = maps or Maps(Names(options.prefix))
        self.rewriter = Rewriter(self.maps, options.versions, options.credentials, options.names_in)
        self.outcome = outcome or Outcome()
        self.results = Results(plan, Judge(self.maps, options.names_in), self.outcome)
        self.report = Report(plan, options, self.outcome, self.maps)
        self.stray = 0
        self.live_events = 0
        self.time = time.monotonic
        self.now_ns = time.monotonic_ns
        self.waits_for_events = options.order in (Mode.strict, Mode.conflict)
        self._progress = progress
        self._order = Order(options.order)
        self._connections: dict[int, Connection] = {}
        #: where a session is, and where the steps added last have it
        self._of_session: dict[int, Connection] = {}
        self._last_of_session: dict[int, Connection] = {}
        self._over: set[int] = set()
        self._dirty: dict[Connection, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._lag = Lag()
        self._waits_for_room = False
        self._enough = 0
        self._done = 0
        self._begin = 0.0
        self._connect_clock: tuple[int, float] | None = None
        self._stop = False

    # ---- the run

    async def run(self) -> Report:
        """All of it. :class:`ReplayError` where the target cannot be used at all."""
        prelude = Prelude(self.options.address, self.options.prefix, self.options.reply_timeout_s)
        nodes = self.plan.start.nodes.values() if self.options.start_state else ()
        try:
            self.report.start = await prelude.make(nodes)
        except PreludeError as error:
            raise ReplayError(str(error)) from None
        self._begin = self.time()
        monitor = asyncio.ensure_future(self._monitor())
        try:
            await self._feed()
            await self._until(0)
            self.report.seconds = self.time() - self._begin
            await self._drain()
        finally:
            monitor.cancel()
            for connection in self._connections.values():
                connection.ended = True
                if connection.wire is not None:
                    connection.wire.close()
        self.results.events(self._connections.values())
        self.outcome.settle()
        self.report.stray = self.stray
        self.report.lag = self._lag
        self.report.live_events = self.live_events
        return self.report

    def stop(self) -> None:
        """Ends soon; what is known so far is reported."""
        self._stop = self.report.interrupted = True
        self._room.set()

    async def _feed(self) -> None:
        for number, (exchange, notes) in enumerate(self.plan.spool):
            if self._stop:
                return
            self._add(Step(number, exchange, notes))
            if number % _BURST == 0:
                await asyncio.sleep(0)
            await self._room_for_more()

    async def _room_for_more(self) -> None:
        if self._order.under_way >= UNDER_WAY:
            await self._until(UNDER_WAY // 2)

    def _add(self, step: Step) -> Connection:
        """The next step of the total order."""
        exchange = step.exchange
        connection = self._connections.get(step.conn)
        if connection is None:
            about = self.plan.heard.conversations[step.conn]
            connection = Connection(self, step.conn, about.client, not about.opened)
            connection.last = self.time()
            self._connections[step.conn] = connection
        if connection.session == 0:
            connection.session = step.session
        if self.options.drop_lost and step.kind == steps.REQUEST and exchange.reply is None:
            step.kind = steps.SKIP
            self.report.dropped += 1
        self._order.add(step)
        for free in self._order.freed():
            self._dirty[self._connections[free.conn]] = None
        if step.kind in steps.CONNECTS:
            self._chain(connection, step)
        connection.queue.append(step)
        if len(connection.queue) == 1:
            connection.pump()
        if self._dirty:
            self.pump_others(connection)
        return connection

    async def _until(self, enough: int) -> None:
        """Waits until so few steps are under way."""
        self._enough = enough
        self._waits_for_room = True
        while self._order.under_way > enough and not self._stop:
            self._room.clear()
            await self._room.wait()
        self._waits_for_room = False

    def _chain(self, connection: Connection, step: Step) -> None:
        """A session comes again when its last connection has nothing under way."""
        before = self._last_of_session.get(step.session)
        self._last_of_session[step.session] = connection
        if before is None or before is connection:
            return
        under_way = before.queue or before.inflight
        last = under_way[-1] if under_way else before.connecting
        if last is not None:
            self._order.after(step, last)

    def pump_others(self, connection: Connection) -> None:
        """Those whose next step may be sent since another one is done."""
        while self._dirty:
            other = next(iter(self._dirty))
            del self._dirty[other]
            if other is not connection or other.queue:
                other.pump()

    def later(self, at: float, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(max(at - self.time(), 0), self._timed, call)

    def _timed(self, call: Callable[[], None]) -> None:
        call()
        while self._dirty:
            other = next(iter(self._dirty))
            del self._dirty[other]
            other.pump()

    def due(self, connection: Connection, step: Step) -> float:
        """When a step is to be sent, at a limited speed."""
        exchange = step.exchange
        speed = self.options.speed or 1.0
        most = self.options.max_think_s
        if self.options.order is Mode.time or step.kind in steps.CONNECTS:
            since = (exchange.sent_ns - self.plan.first_ns) / 1e9
            if most is None:
                return self._begin + since / speed
            clock = self._connect_clock or (self.plan.first_ns, self._begin)
            gap = min(max(exchange.sent_ns - clock[0], 0) / 1e9, most)
            at = clock[1] + gap / speed
            self._connect_clock = (max(exchange.sent_ns, clock[0]), at)
            return at
        think = exchange.think_ns / 1e9
        if most is not None:
            think = min(think, most)
        return connection.last + think / speed

    # ---- sessions

    def is_over(self, session: int) -> bool:
        """Whether its live session was closed."""
        return session in self._over

    def connect(self, connection: Connection, step: Step | None) -> None:
        """Opens a connection, for a recorded connect or (None) a session that was joined."""
        task = asyncio.ensure_future(self._connect(connection, step))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: Connection, step: Step | None) -> None:
        options = self.options
        request = ConnectRequest(0, 0, 30_000, 0, bytes(16), False)
        if step is not None:
            recorded, _ = connect_of(step.exchange)
            assert recorded is not None
            request.timeout_ms, request.read_only = recorded.timeout_ms, recorded.read_only
            request.protocol_version = recorded.protocol_version
            request.last_zxid_seen = self.maps.zxids.floor(recorded.last_zxid_seen)
            if step.kind != steps.CONNECT_NEW:
                self._resume(connection, step, request)
        if options.session_timeout_ms is not None:
            request.timeout_ms = options.session_timeout_ms
        try:
            wire = await open_wire(
                options.address,
                options.reply_timeout_s,
                connection.on_frames,
                connection.on_lost,
            )
        except OSError as error:
            held, connection.connecting = connection.connecting, None
            if held is not None:
                self.connected(connection, held, None, f"cannot connect: {reason(error)}")
            connection.pump()
            self.pump_others(connection)
            return
        connection.wire = wire
        connection.last_sent = self.time()
        wire.send(frame(request.encode()))

    def _resume(self, connection: Connection, step: Step, request: ConnectRequest) -> None:
        live = self.maps.sessions.live(step.session)
        if live is None:
            self.report.note("sessions that are older than the recording begin anew")
            return
        request.session_id, request.password = live.sid, live.password
        if step.kind == steps.CONNECT_WRONG:
            request.password = _BAD_PASSWORD
            return
        before = self._of_session.get(step.session)
        if before is not None and before is not connection:
            before.ended = True
            if before.wire is not None:
                before.wire.close()

    def connected(
        self, connection: Connection, step: Step, payload: bytes | None, why: str = ""
    ) -> None:
        """The answer to a ConnectRequest; None: there was none. `step`: what it was for."""
        response: ConnectResponse | None = None
        if payload is not None:
            try:
                response = ConnectResponse.decode(payload)
            except WireError:
                why = "it answered the connect in a form that is not known"
                if len(payload) == 16:
                    why = "it is read-only (it has lost its quorum)"
        implied = step.kind not in steps.CONNECTS
        if response is not None and response.read_only:
            self.report.note("the target is read-only: it refuses all writes")
        if response is not None and response.session_id:
            session = Session(response.session_id, response.password or b"", response.timeout_ms)
            if step.kind not in (steps.CONNECT_REFUSED, steps.CONNECT_WRONG):
                self.maps.sessions.learn(step.session, session)
                self._of_session[step.session] = connection
                connection.session = step.session
                connection.timeout_ms = response.timeout_ms
        elif implied or step.kind in (steps.CONNECT_NEW, steps.CONNECT_AGAIN):
            connection.dead = why or "the target refused the session"
            self.report.failed_connects[connection.dead] += 1
        if not implied:
            connection.answered += 1
            self.finish(connection, step, payload)

    # ---- results

    def finish(self, connection: Connection, step: Step, live: bytes | None) -> None:
        """A step is done: its reply, or None."""
        if step.kind == steps.EXPIRE or (
            step.exchange.opcode == CLOSE_SESSION and live is not None and live[12:16] == bytes(4)
        ):
            self._over.add(step.session)
        if step.kind == steps.REQUEST or step.kind in steps.CONNECTS:
            self.results.judge(step, live)
        if step.sent_ns:
            exchange = step.exchange
            self.report.sent += 1
            if live is not None:
                latency = self.now_ns() - step.sent_ns
                self.report.latency(request_name(exchange.opcode), exchange.latency_ns, latency)
            if not self.fast:
                ideal = self._begin + (exchange.sent_ns - self.plan.first_ns) / 1e9 / (
                    self.options.speed or 1.0
                )
                self._lag.note(step.sent_ns / 1e9 - ideal)
        for free in self._order.finish(step):
            self._dirty[self._connections[free.conn]] = None
        self._done += 1
        if self._waits_for_room and self._order.under_way <= self._enough:
            self._room.set()
        if self._progress is not None and not self._done & 255:
            self._progress(self._done, self.plan.spool.count)

    def unsent(self, connection: Connection, step: Step) -> None:
        """It cannot be sent: the connection is gone."""
        if step.kind == steps.REQUEST:
            self.report.unsent += 1
            if step.exchange.reply is not None:
                self.results.unsent(step, connection.dead)
        self.finish_quietly(step)

    def finish_quietly(self, step: Step) -> None:
        for free in self._order.finish(step):
            self._dirty[self._connections[free.conn]] = None
        self._done += 1
        self._room.set()

    # ---- limits

    def connection_lost(self, connection: Connection, why: str, lost: int) -> None:
        """The target closed a connection that was to go on."""
        self.report.lost_connections[why] += 1
        self.report.lost_requests += lost

    async def _monitor(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            now = self.time()
            for connection in self._connections.values():
                idle_ms = (now - connection.last_sent) * 1000
                if connection.timeout_ms and idle_ms > connection.timeout_ms / 3:
                    connection.ping()
            self._look(now)

    def _look(self, now: float) -> None:
        """Ends waits that have lasted too long: of the earliest step, since all others wait for
        it, directly or not, or will be the earliest.
        """
        step: Step | None = self._order.first()
        if step is None:
            return
        connection = self._connections[step.conn]
        head = connection.queue[0] if connection.queue else None
        if head is step and connection.waits_for_events():
            stalls = self.report.stalls
            wait = self.options.wait_s if len(stalls) < _PATIENT_STALLS else _SHORT_WAIT_S
            if step.since is None:
                step.since = now
            elif now - step.since > wait:
                for key in connection.give_up_events(step):
                    self.report.stall(
                        Stall(session_text(step.session), step.exchange.index,
                              request_name(step.exchange.opcode), key[2], now - self._begin)
                    )  # fmt: skip
                connection.pump()
                self.pump_others(connection)
        elif head is step:
            # its time comes, or its session's other connection has to end first
            connection.pump()
            self.pump_others(connection)
        started = step.sent_ns / 1e9 if step.sent_ns else connection.last_sent
        waiting = connection.inflight or connection.connecting is not None
        if waiting and started and now - started > self.options.reply_timeout_s:
            self.report.note(
                f"no reply within {self.options.reply_timeout_s:g} s: connections were given up"
            )
            connection.dead = f"no reply within {self.options.reply_timeout_s:g} s"
            if connection.wire is not None:
                connection.wire.close()
            else:
                connection.on_lost(connection.dead)

    async def _drain(self) -> None:
        """Watch events of what was answered come before the answer to a ping."""
        waiting = []
        for connection in self._connections.values():
            if connection.wire is not None and (connection.open_end or not connection.ended):
                waiting.append((connection, connection.pongs))
        for connection, _ in waiting:
            connection.ping()
        until = self.time() + self.options.wait_s
        while self.time() < until:
            if all(c.pongs > before or c.wire is None for c, before in waiting):
                break
            await asyncio.sleep(0.01)
