"""Requests with their replies, connection by connection, in the order in which they were sent.

Takes the frames of :mod:`zktrace.stream.frames` and gives :class:`Exchange` objects: of each
connection in order of sending, as soon as what was sent before has its reply (or will have none).
So what is held is what waits for its reply. Pings are left out: they are the clients' own
business. Knows neither files nor what bodies mean.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from zktrace.stream.frames import CONNECT
from zktrace.wire.opcodes import AUTH, CLOSE_SESSION, CREATE_SESSION, PING

#: `opcode` of a connect, and of what stands for the end of a connection.
CONNECT_OP: Final = CREATE_SESSION
END_OP: Final = -1000
SASL_OP: Final = 102
#: Answered at receipt, ahead of what was asked before (zktrace.stream.pairing).
_OUT_OF_ORDER: Final = (AUTH, SASL_OP)


@dataclass(slots=True)
class Exchange:
    """One request, its reply, and what led to it. Times in ns since 1970.

    `opcode` is :data:`CONNECT_OP` for a ConnectRequest, :data:`END_OP` for the end of a connection
    (then `request` is empty). `closed`: the connection ended, or this request was passed over,
    before it was answered; else the capture ended first.
    """

    conn: int
    #: of this connection: 0, 1, ...
    index: int
    opcode: int
    xid: int
    request: bytes
    sent_ns: int
    reply: bytes | None = None
    first_ns: int = 0
    answered_ns: int = 0
    #: since the last thing said on the connection, by either side
    think_ns: int = 0
    #: exchanges of the connection that were answered when this one was sent
    answered_before: int = 0
    #: payloads of the watch events since the last exchange was sent
    events: list[bytes] = field(default_factory=list)
    #: all of the request was captured
    whole: bool = True
    #: all of the reply was captured
    reply_whole: bool = True
    closed: bool = False
    #: row of the exchange, where rows are made
    row: int = -1

    @property
    def zxid(self) -> int:
        """Of the reply's header; 0 where there is none, or it says nothing."""
        if self.reply is None or self.opcode == CONNECT_OP or len(self.reply) < 16:
            return 0
        return max(int.from_bytes(self.reply[4:12], "big", signed=True), 0)

    @property
    def error(self) -> int | None:
        """Of the reply's header; None where there is no reply."""
        if self.reply is None or len(self.reply) < 16 or self.opcode == CONNECT_OP:
            return None
        return int.from_bytes(self.reply[12:16], "big", signed=True)

    @property
    def latency_ns(self) -> int | None:
        return self.first_ns - self.sent_ns if self.reply is not None else None


@dataclass(slots=True)
class Conversation:
    """A connection: who with whom, and what of it was not seen."""

    conn: int
    client: str
    server: str
    #: it was seen to begin
    opened: bool
    #: places where bytes are missing
    gaps: int = 0
    #: replies of which the request is not known
    orphans: int = 0
    #: ClickHouse Keeper's dialects with 64-bit xids or tracing contexts
    dialect: bool = False


class _State:
    __slots__ = ("about", "answered", "by_number", "events", "index", "last_ts", "queue")

    def __init__(self, about: Conversation) -> None:
        self.about = about
        self.queue: deque[_Asked] = deque()
        self.by_number: dict[int, _Asked] = {}
        self.events: list[bytes] = []
        self.index = 0
        self.answered = 0
        self.last_ts = 0


@dataclass(slots=True, eq=False)
class _Asked:
    number: int
    exchange: Exchange
    done: bool = False


class Conversations:
    """A :class:`zktrace.stream.frames.FrameSink` that gives exchanges to `emit`.

    `begin` is told of each connection before its first exchange.
    """

    def __init__(
        self, emit: Callable[[Exchange], None], begin: Callable[[Conversation], None]
    ) -> None:
        self._emit = emit
        self._begin = begin
        self._states: dict[int, _State] = {}
        #: told of connections of which bytes are missing
        self.on_lost: Callable[[int], None] = lambda conn: None
        #: called when a reply is known, before its exchange is given: for rows
        self.row_of: Callable[[], int] | None = None

    def begun(self, conn: int, client: str, server: str, opened: bool) -> None:
        about = Conversation(conn, client, server, opened)
        self._states[conn] = _State(about)
        self._begin(about)

    def request(self, conn: int, number: int, ts: int, payload: bytes, whole: bool) -> None:
        state = self._states[conn]
        think = max(ts - state.last_ts, 0) if state.last_ts else 0
        if number == CONNECT:
            opcode, xid = CONNECT_OP, 0
            if payload[:4] != bytes(4):
                state.about.dialect = int.from_bytes(payload[:4], "big") in range(10, 42)
        else:
            xid = int.from_bytes(payload[:4], "big", signed=True)
            opcode = int.from_bytes(payload[4:8], "big", signed=True)
            if opcode == PING:
                return
        state.last_ts = ts
        events, state.events = state.events, []
        exchange = Exchange(
            conn,
            state.index,
            opcode,
            xid,
            payload,
            ts,
            think_ns=think,
            answered_before=state.answered,
            events=events,
            whole=whole,
        )
        state.index += 1
        asked = _Asked(number, exchange)
        state.queue.append(asked)
        state.by_number[number] = asked

    def reply(
        self, conn: int, number: int | None, first: int, ts: int, payload: bytes, whole: bool
    ) -> None:
        state = self._states[conn]
        asked = None if number is None else state.by_number.pop(number, None)
        if asked is None:
            if payload[:4] != b"\xff\xff\xff\xfe":
                state.about.orphans += number is None
            return
        state.last_ts = ts
        exchange = asked.exchange
        exchange.reply, exchange.first_ns, exchange.answered_ns = payload, first, ts
        exchange.reply_whole = whole
        if self.row_of is not None:
            exchange.row = self.row_of()
        asked.done = True
        state.answered += 1
        queue = state.queue
        if exchange.opcode not in _OUT_OF_ORDER:
            # a server answers in order: what came before has no answer, or it was not captured
            while queue and queue[0] is not asked:
                queue[0].exchange.closed = not queue[0].done
                self._given(state, queue.popleft())
        while queue and queue[0].done:
            self._given(state, queue.popleft())

    def _given(self, state: _State, asked: _Asked) -> None:
        state.by_number.pop(asked.number, None)
        self._emit(asked.exchange)

    def event(self, conn: int, ts: int, payload: bytes, whole: bool) -> None:
        state = self._states[conn]
        state.last_ts = ts
        if whole:
            state.events.append(payload)

    def lost(self, conn: int, ts: int, to_server: bool) -> None:
        self._states[conn].about.gaps += 1
        self.on_lost(conn)

    def ended(self, conn: int, ts: int, closed: bool) -> None:
        state = self._states.pop(conn)
        while state.queue:
            state.queue[0].exchange.closed = closed and not state.queue[0].done
            self._given(state, state.queue.popleft())
        think = max(ts - state.last_ts, 0) if state.last_ts else 0
        self._emit(
            Exchange(
                conn,
                state.index,
                END_OP,
                0,
                b"",
                ts,
                think_ns=think,
                answered_before=state.answered,
                events=state.events,
                closed=closed,
            )
        )


def is_session_end(exchange: Exchange) -> bool:
    """Whether it is a closeSession that the server took."""
    return exchange.opcode == CLOSE_SESSION and exchange.error == 0
