"""The engine in plain Python: the readable reference of the native one, and its fallback.

It puts the layers together and nothing more: containers to packets (merged by time), packets to
segments, segments to ordered bytes, bytes to rows. Rows are kept until they are taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from zktrace.capture.container import Container
from zktrace.capture.counters import CaptureCounters
from zktrace.capture.decap import Decapsulator
from zktrace.capture.segment import Packet
from zktrace.engine.base import EngineOptions
from zktrace.flow.api import Limits
from zktrace.flow.tcp import Reassembler
from zktrace.stream.client import ClientMachine
from zktrace.stream.connection import Analyzer, MakeClient
from zktrace.stream.events import Row
from zktrace.stream.roles import Roles
from zktrace.stream.schema import parse_schema
from zktrace.wire.layout import schema_text

#: Rows only: JSON and aggregates are made from them by other layers.
ABILITIES: Final[frozenset[str]] = frozenset()

KINDS: Final = (
    *("exchanges", "watch_events", "connections", "four_letter", "anomalies"),
    *("quorum", "elections"),
)


def create(options: EngineOptions) -> PythonEngine:
    """A new engine for one capture."""
    return PythonEngine(options)


class _Rows:
    """The sink: rows per kind, numbered in the order in which they come."""

    def __init__(self) -> None:
        self.kinds: dict[str, list[Row]] = {kind: [] for kind in KINDS}
        self.waiting = 0
        self._next = 0

    def _add(self, kind: str, row: Row) -> None:
        self.kinds[kind].append((self._next, *row))
        self._next += 1
        self.waiting += 1

    def exchange(self, row: Row) -> None:
        self._add("exchanges", row)

    def watch_event(self, row: Row) -> None:
        self._add("watch_events", row)

    def connection(self, row: Row) -> None:
        self._add("connections", row)

    def four_letter(self, row: Row) -> None:
        self._add("four_letter", row)

    def anomaly(self, row: Row) -> None:
        self._add("anomalies", row)

    def quorum(self, row: Row) -> None:
        self._add("quorum", row)

    def election(self, row: Row) -> None:
        self._add("elections", row)


#: A file that is being read must say its next packet's time before any packet is taken.
_AT_ONCE: Final = -(1 << 63)


class _Source:
    """One file: its parser, and packets that wait for their turn."""

    def __init__(self, name: str, first_ts_ns: int | None, counters: CaptureCounters) -> None:
        self.container = Container(counters, name)
        self.packets: deque[Packet] = deque()
        self.first_ts_ns = _AT_ONCE if first_ts_ns is None else first_ts_ns
        self.ended = False

    def due(self) -> int:
        """When its next packet is due, as far as that is known."""
        return self.packets[0].ts_ns if self.packets else self.first_ts_ns


class PythonEngine:
    """See :class:`zktrace.engine.base.Engine`."""

    name = "python"

    def __init__(
        self,
        options: EngineOptions,
        *,
        client: MakeClient = ClientMachine,
        servers: bool = True,
    ) -> None:
        self._capture = CaptureCounters()
        self._sources: deque[_Source] = deque()
        self._gone = 0  # sources that are done, at the front: taken out
        self._rows = _Rows()
        roles = Roles.of(options.client_ports, options.quorum_ports, options.election_ports)
        self._analyzer = Analyzer(
            self._rows,
            parse_schema(schema_text()),
            roles,
            client=client,
            servers=servers,
            txn_key=options.txn_key,
        )
        self._decapsulator = Decapsulator(self._capture)
        limits = Limits(connections=options.max_connections)
        self._flow = Reassembler(self._analyzer, limits)

    def add_source(self, name: str, first_ts_ns: int | None) -> int:
        self._sources.append(_Source(name, first_ts_ns, self._capture))
        return self._gone + len(self._sources) - 1

    def wanted(self) -> int | None:
        return self._advance()

    def feed(self, source: int, block: bytes) -> int:
        at = self._sources[source - self._gone]
        at.packets.extend(at.container.feed(block))
        if at.packets:
            at.first_ts_ns = _AT_ONCE
        self._advance()
        return self._rows.waiting

    def end_source(self, source: int) -> None:
        at = self._sources[source - self._gone]
        at.ended = True
        at.packets.extend(at.container.finish())
        self._advance()
        # Files that are followed come one by one, for as long as it runs.
        while self._sources and self._sources[0].ended and not self._sources[0].packets:
            self._sources.popleft()
            self._gone += 1

    def _advance(self) -> int | None:
        """Take packets in time order while their order is certain; the source that it needs."""
        sources = self._sources
        while True:
            best: int | None = None
            for index, source in enumerate(sources):
                if source.ended and not source.packets:
                    continue
                if best is None or source.due() < sources[best].due():
                    best = index
            if best is None:
                return None
            packets = sources[best].packets
            if not packets:
                return self._gone + best
            while packets:
                self._packet(packets.popleft())
                if len(sources) > 1:
                    break

    def _packet(self, packet: Packet) -> None:
        segment = self._decapsulator.packet(packet)
        if segment is not None:
            self._flow.segment(segment)

    def packet(self, ts_ns: int, linktype: int, data: bytes, wire_len: int) -> int:
        self._packet(Packet(ts_ns, linktype, data, max(wire_len, len(data))))
        return self._rows.waiting

    def tick(self, now_ns: int) -> int:
        self._flow.tick(now_ns)
        return self._rows.waiting

    def kernel_drops(self, drops: int) -> None:
        self._capture.kernel_drops = drops

    def finish(self) -> None:
        self._decapsulator.finish()
        self._flow.finish()

    def take(self) -> Mapping[str, list[Row]]:
        taken = self._rows.kinds
        self._rows.kinds = {kind: [] for kind in KINDS}
        self._rows.waiting = 0
        return taken

    def take_json(self) -> bytes:
        raise NotImplementedError("the Python engine does not write JSON: see ABILITIES")

    def aggregates(self, top: int | None = None) -> Mapping[str, Any]:
        raise NotImplementedError("the Python engine does not aggregate: see ABILITIES")

    def coverage(self) -> dict[str, Any]:
        capture = asdict(self._capture)
        flow = asdict(self._flow.counters)
        client = self._analyzer.counters
        return {
            "packets": capture.pop("packets"),
            "bytes": capture.pop("bytes"),
            "flows": dict(self._analyzer.flows),
            "frames": {
                "to_server": client.frames_to_server,
                "to_client": client.frames_to_client,
            },
            "exchanges": {
                "complete": client.complete,
                "no_reply": client.no_reply,
                "no_request": client.no_request,
            },
            "watch_events": client.watch_events,
            "quorum_packets": client.quorum_packets,
            "election_messages": client.election_messages,
            "retransmitted_segments": flow.pop("retransmitted_segments"),
            "gaps": flow.pop("gaps"),
            "skipped_bytes": client.skipped_bytes,
            "kernel_drops": capture.pop("kernel_drops"),
            "truncated": capture.pop("truncated"),
            **capture,
            **flow,
            "damaged_frames": client.damaged_frames,
            "desyncs": client.desyncs,
            "resyncs": client.resyncs,
            "cut_frames": self._analyzer.cut_frames,
            "held_limit_hits": self._analyzer.held_limit_hits,
            "memory_limit_hits": self._analyzer.memory_limit_hits,
            "given_up_requests": client.given_up_requests,
        }
