"""Reads a capture's client connections and writes them with pseudonyms, message by message.

What cannot be understood is not copied: connections of other protocols and between servers,
four-letter words, frames of which bytes are missing. Each is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from zktrace.capture.source import Source
from zktrace.capture.write import PcapngWriter
from zktrace.engine.base import EngineOptions
from zktrace.engine.driver import Run
from zktrace.engine.frames import FrameEngine
from zktrace.stream.frames import CONNECT
from zktrace.wire.opcodes import PING, PING_XID
from zktrace_proxy.messages.copied import Copied
from zktrace_proxy.messages.packets import Flow, Packets
from zktrace_proxy.messages.reader import Progress
from zktrace_proxy.messages.sift import HOLE, endpoint, pass_on_filtered
from zktrace_proxy.scrub.bodies import Bodies
from zktrace_proxy.scrub.pseudonyms import Pseudonyms

_PING: Final = PING_XID.to_bytes(4, "big", signed=True)


@dataclass(slots=True)
class Scrubbed(Copied):
    #: bodies of no known layout: their header was kept
    unknown_bodies: int = 0
    #: connections in dialects that are not understood
    dialects: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "connections": self.connections,
            "messages": self.messages,
            "damaged_messages": self.damaged,
            "unknown_bodies": self.unknown_bodies,
            "dialect_connections": self.dialects,
            "four_letter_words": self.four_letter,
            "dropped_connections": self.dropped,
        }


@dataclass(slots=True)
class _Conn:
    flow: Flow
    opened: bool
    #: opcodes of requests that wait for their reply
    ops: dict[int, int] = field(default_factory=dict)
    #: nothing of it is written
    left_out: bool = False


class _Sink:
    """A :class:`zktrace.stream.frames.FrameSink` that writes."""

    def __init__(self, names: Pseudonyms, out: PcapngWriter) -> None:
        self.told = Scrubbed()
        self.bodies = Bodies(names)
        self.packets = Packets(out)
        self._names = names
        self._conns: dict[int, _Conn] = {}

    def begun(self, conn: int, client: str, server: str, opened: bool) -> None:
        flow = Flow(self._endpoint(client), self._endpoint(server))
        self._conns[conn] = _Conn(flow, opened)
        self.told.connections += 1

    def _endpoint(self, text: str) -> tuple[bytes, int]:
        address, port = endpoint(text)
        return self._names.address(address), port

    def request(self, conn: int, number: int, ts: int, payload: bytes, whole: bool) -> None:
        one = self._conns[conn]
        made = None
        if number == CONNECT:
            if payload[:4] != bytes(4) and int.from_bytes(payload[:4], "big") in range(10, 42):
                self.told.dialects += 1
                one.left_out = True
            elif whole:
                made = self.bodies.connect_request(payload)
        else:
            opcode = int.from_bytes(payload[4:8], "big", signed=True)
            if opcode != PING:
                one.ops[number] = opcode
            if whole:
                made = self.bodies.request(opcode, payload)
        self._write(one, 0, (ts, ts), payload, made)

    def reply(
        self, conn: int, number: int | None, first: int, ts: int, payload: bytes, whole: bool
    ) -> None:
        one = self._conns[conn]
        made = None
        if number == CONNECT:
            made = self.bodies.connect_response(payload) if whole else None
        else:
            opcode = None if number is None else one.ops.pop(number, None)
            if payload[:4] == _PING:
                opcode = PING
            made = self.bodies.reply(opcode, payload) if whole else None
        self._write(one, 1, (first, ts), payload, made)

    def event(self, conn: int, ts: int, payload: bytes, whole: bool) -> None:
        made = self.bodies.event(payload) if whole else None
        self._write(self._conns[conn], 1, (ts, ts), payload, made)

    def _write(
        self, one: _Conn, side: int, times: tuple[int, int], payload: bytes, made: bytes | None
    ) -> None:
        if one.left_out:
            return
        if not one.flow.begun:
            one.flow.begun = True
            if one.opened:
                self.packets.open(one.flow, times[0])
        if made is None:
            self.told.damaged += 1
            self.packets.gap(one.flow, side, 4 + len(payload))
            return
        self.told.messages += 1
        self.packets.data(one.flow, side, *times, len(made).to_bytes(4, "big") + made)

    def lost(self, conn: int, ts: int, to_server: bool) -> None:
        self.packets.gap(self._conns[conn].flow, 0 if to_server else 1, HOLE)

    def ended(self, conn: int, ts: int, closed: bool) -> None:
        one = self._conns.pop(conn)
        if closed and one.flow.begun and not one.left_out:
            self.packets.close(one.flow, ts)


def scrub(
    sources: Sequence[Source],
    out: BinaryIO,
    key: bytes,
    options: EngineOptions | None = None,
    progress: Progress | None = None,
) -> Scrubbed:
    """Writes a pcapng file of what `sources` hold. CaptureError: a source that is no capture."""
    writer = PcapngWriter(out)
    writer.interface(name="scrubbed")
    sink = _Sink(Pseudonyms(key), writer)
    engine = FrameEngine(options or EngineOptions(), sink)
    run = Run(sources, engine, batch_rows=1, progress=progress)
    told = sink.told
    for _ in run:
        told.four_letter += len(engine.take()["four_letter"])
    told.four_letter += len(engine.take()["four_letter"])
    sink.packets.finish()
    told.unknown_bodies = sink.bodies.unknown
    coverage = run.coverage()
    pass_on_filtered(writer, coverage)
    flows = coverage["flows"]
    told.dropped = {role: count for role, count in flows.items() if role != "client" and count}
    return told
