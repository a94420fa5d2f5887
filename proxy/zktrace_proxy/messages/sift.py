"""A capture written once more with only what a filter selects.

Requests with their replies, and watch events, as they were captured: bytes and times stay. What is
left out leaves no holes, as if clients had asked nothing else, so that the rest is decoded and
replayed without loss; that it is filtered is told by the file's head
(:data:`zktrace.capture.pcapng.FILTERED`). Always kept: connects, ``auth``, SASL, closeSession and
ends of connections, which replays need. ``zktrace/_native/src/relay/sieve.rs`` does the same while
it is recorded. Secrets stay as they are in the capture.

What is no client connection is left out, and counted; so are messages of which bytes are missing,
as holes.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from zktrace.capture.pcapng import FILTERED
from zktrace.capture.source import Source
from zktrace.capture.write import PcapngWriter
from zktrace.engine.base import EngineOptions
from zktrace.engine.driver import Run
from zktrace.engine.frames import FrameEngine
from zktrace.stream.events import NO_REPLY, Row
from zktrace.stream.frames import CONNECT
from zktrace.wire.opcodes import AUTH, CLOSE_SESSION
from zktrace_proxy.messages.copied import Copied
from zktrace_proxy.messages.exchanges import SASL_OP
from zktrace_proxy.messages.packets import Flow, Packets
from zktrace_proxy.messages.reader import Progress

if TYPE_CHECKING:
    from zktrace.analysis.filter import Filter

#: How large a hole is where the capture does not say how much is missing.
HOLE: Final = 1_000
#: Messages of a connection that wait until it is known whether a request is wanted; beyond, it is.
WAITING_MAX: Final = 10_000
_ALWAYS: Final = frozenset((AUTH, SASL_OP, CLOSE_SESSION))


@dataclass(slots=True)
class Sifted(Copied):
    #: messages that the filter did not select
    left_out: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "connections": self.connections,
            "messages": self.messages,
            "left_out_messages": self.left_out,
            "damaged_messages": self.damaged,
            "four_letter_words": self.four_letter,
            "dropped_connections": self.dropped,
        }


@dataclass(slots=True)
class _Message:
    """`row`: the row that decides; -1: none yet."""

    side: int
    first_ns: int
    ts_ns: int
    payload: bytes
    whole: bool
    keep: bool | None = None
    row: int = -1
    #: instead of a message: a hole, or the end
    lost: bool = False
    closed: bool | None = None


@dataclass(slots=True)
class _Conn:
    flow: Flow
    opened: bool
    queue: deque[_Message] = field(default_factory=deque)
    asked: dict[int, _Message] = field(default_factory=dict)


class _Sink:
    """A :class:`zktrace.stream.frames.FrameSink` that holds messages until rows tell which are
    wanted.
    """

    def __init__(self, out: PcapngWriter, everything: bool) -> None:
        self.told = Sifted()
        self.packets = Packets(out)
        self.engine: FrameEngine | None = None
        self._everything: bool | None = True if everything else None
        self._conns: dict[int, _Conn] = {}
        self._touched: dict[int, _Conn] = {}

    def begun(self, conn: int, client: str, server: str, opened: bool) -> None:
        self._conns[conn] = _Conn(Flow(endpoint(client), endpoint(server)), opened)
        self.told.connections += 1

    def request(self, conn: int, number: int, ts: int, payload: bytes, whole: bool) -> None:
        one = self._conns[conn]
        opcode = int.from_bytes(payload[4:8], "big", signed=True)
        always = number == CONNECT or opcode in _ALWAYS
        keep = True if always else self._everything
        message = _Message(0, ts, ts, payload, whole, keep)
        one.asked[number] = message
        self._put(conn, message)

    def reply(
        self, conn: int, number: int | None, first: int, ts: int, payload: bytes, whole: bool
    ) -> None:
        asked = None if number is None else self._conns[conn].asked.pop(number, None)
        message = _Message(1, first, ts, payload, whole, self._everything)
        if asked is not None and asked.keep is not None:
            message.keep = asked.keep
        elif number == CONNECT:
            message.keep = True
        elif message.keep is None:
            message.row = self._row("exchanges")
            if asked is not None:
                asked.row = message.row
        self._put(conn, message)

    def event(self, conn: int, ts: int, payload: bytes, whole: bool) -> None:
        message = _Message(1, ts, ts, payload, whole, self._everything)
        if message.keep is None:
            message.row = self._row("watch_events")
        self._put(conn, message)

    def _row(self, kind: str) -> int:
        assert self.engine is not None
        return self.engine.last_row(kind)

    def lost(self, conn: int, ts: int, to_server: bool) -> None:
        side = 0 if to_server else 1
        self._put(conn, _Message(side, ts, ts, b"", True, True, lost=True))

    def ended(self, conn: int, ts: int, closed: bool) -> None:
        self._put(conn, _Message(0, ts, ts, b"", True, True, closed=closed))

    def _put(self, conn: int, message: _Message) -> None:
        one = self._conns[conn]
        one.queue.append(message)
        self._touched[conn] = one

    def settle(self, chosen: set[int], unanswered: set[tuple[int, int, int]]) -> None:
        """Writes what is known by now. `chosen`: rows that are wanted; `unanswered`: requests that
        are, as (conn, xid, time).
        """
        for conn, one in self._touched.items():
            over = one.queue[-1].closed is not None
            full = len(one.queue) > WAITING_MAX
            while one.queue:
                message = one.queue[0]
                if message.keep is None and message.row >= 0:
                    message.keep = message.row in chosen
                if message.keep is None and over:
                    xid = int.from_bytes(message.payload[:4], "big", signed=True)
                    message.keep = (conn, xid, message.ts_ns) in unanswered
                if message.keep is None and not full:
                    break
                self._write(one, one.queue.popleft())
            if over:
                del self._conns[conn]
        self._touched.clear()

    def _write(self, one: _Conn, message: _Message) -> None:
        flow = one.flow
        if message.closed is not None:
            if message.closed and flow.begun:
                self.packets.close(flow, message.ts_ns)
            return
        if message.keep is False:
            self.told.left_out += 1
            return
        if not flow.begun:
            flow.begun = True
            if one.opened:
                self.packets.open(flow, message.first_ns)
        if message.lost:
            self.packets.gap(flow, message.side, HOLE)
        elif not message.whole:
            self.told.damaged += 1
            self.packets.gap(flow, message.side, 4 + len(message.payload))
        else:
            self.told.messages += 1
            payload = message.payload
            data = len(payload).to_bytes(4, "big") + payload
            self.packets.data(flow, message.side, message.first_ns, message.ts_ns, data)


def endpoint(text: str) -> tuple[bytes, int]:
    """Address and port of ``ip:port``."""
    host, _, port = text.rpartition(":")
    return ipaddress.ip_address(host.strip("[]")).packed, int(port)


def pass_on_filtered(writer: PcapngWriter, coverage: dict[str, Any]) -> None:
    """What is made of a filtered recording is filtered, too: its last section says so."""
    if coverage["filtered"]:
        writer.section(comment=FILTERED.decode() + "that of what this was made of")


def sift(
    sources: Sequence[Source],
    out: BinaryIO,
    where: str | None,
    options: EngineOptions | None = None,
    progress: Progress | None = None,
) -> Sifted:
    """Writes a pcapng file of what `where`, an expression of the filter language, selects (None:
    all) of the client connections in `sources`.

    :raises CaptureError: a source that is no capture.
    :raises FilterError: a wrong expression.
    """
    chosen: Filter | None = None
    if where is not None:
        from zktrace.analysis.filter import compile_filter

        chosen = compile_filter(where)
    comment = None if where is None else FILTERED.decode() + where
    writer = PcapngWriter(out, comment=comment)
    writer.interface(name="sifted")
    sink = _Sink(writer, everything=where is None)
    engine = FrameEngine(options or EngineOptions(), sink, rows=True)
    sink.engine = engine
    run = Run(sources, engine, batch_rows=1, progress=progress)
    told = sink.told

    def settle() -> None:
        rows = engine.take()
        told.four_letter += len(rows["four_letter"])
        if chosen is None:
            sink.settle(set(), set())
        else:
            sink.settle(*_selected(rows, chosen))

    for _ in run:
        settle()
    settle()
    sink.packets.finish()
    coverage = run.coverage()
    if where is None:
        pass_on_filtered(writer, coverage)
    flows = coverage["flows"]
    told.dropped = {role: count for role, count in flows.items() if role != "client" and count}
    return told


def _selected(
    rows: Mapping[str, list[Row]], where: Filter
) -> tuple[set[int], set[tuple[int, int, int]]]:
    """The numbers of the rows that are wanted; of requests without a reply (conn, xid, time)."""
    from zktrace.analysis.tables import batch_from_rows

    chosen: set[int] = set()
    unanswered: set[tuple[int, int, int]] = set()
    for kind in ("exchanges", "watch_events"):
        if not rows[kind]:
            continue
        batch = batch_from_rows(kind, rows[kind])
        wanted = batch.filter(where.mask(kind, batch))
        chosen.update(wanted.column("seq").to_pylist())
        if kind == "exchanges":
            columns = ("state", "conn", "xid", "ts_ns")
            for state, *which in zip(
                *(wanted.column(name).to_pylist() for name in columns), strict=True
            ):
                if state == NO_REPLY:
                    unanswered.add((which[0], which[1], which[2]))
    return chosen, unanswered
