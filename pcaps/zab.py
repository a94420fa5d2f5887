"""Captures of what the transcripts of the reference ensemble say
(``tests/server/quorum/transcripts``): elections, each way to bring a learner up to date, a leader's
end.

The simulation's servers and clients made the bytes; this puts them into TCP connections. Servers
are 10.0.0.N with ports 2181, 2888, 3888, clients 10.0.9.N. What is counted for the truth is what
was handed to the connections, before it was bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tests.server.quorum.transcripts import Script, files, replay
from tests.support import net
from tests.support.net import ACK, FIN, PSH, SYN, Address, Seg
from tests.support.pcapio import Record
from zktrace.wire.election import PROTOCOL_V1, InitialMessage, Notification
from zktrace.wire.snapshot import Snapshot
from zktrace.wire.txn import Transaction
from zktrace_server.sim.world import Connection, Pipe

_START_NS: Final = 1_700_000_000_000_000_000
_CLIENT, _QUORUM, _ELECTION = 2181, 2888, 3888
_FIRST_CLIENT: Final = 100
#: Bytes of a segment.
_PIECE: Final = 1448


@dataclass(slots=True)
class _Flow:
    """A connection: who dialled first."""

    ends: tuple[Address, Address]
    next: list[int] = field(default_factory=lambda: [1000, 5000])
    closed: list[bool] = field(default_factory=lambda: [False, False])
    #: Each end numbers its packets, as Linux does.
    idents: list[int] = field(default_factory=lambda: [0, 0])


def _host(number: int) -> str:
    return f"10.0.9.{number - _FIRST_CLIENT + 1}" if number >= _FIRST_CLIENT else f"10.0.0.{number}"


class Recorder:
    """Packets in `records`; `votes` counts election messages in the words of a ``.ref.json``;
    `clients` are the flows of clients, by their host.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.votes: Counter[str] = Counter()
        self.clients: dict[int, str] = {}
        self._flows: dict[Pipe, tuple[_Flow, int]] = {}
        self._channels: dict[tuple[int, int], _Flow] = {}
        self._ports = 40_000
        self._now_ns = _START_NS

    # --- TCP ----------------------------------------------------------------------------------

    def _packet(self, flow: _Flow, side: int, flags: int, payload: bytes = b"") -> None:
        """`side`: 0 for who dialled."""
        # A microsecond apart, as they are in order.
        self._now_ns += 1000
        ack = flow.next[1 - side] if flags & ACK else 0
        seg = Seg(
            self._now_ns,
            flow.ends[side],
            flow.ends[1 - side],
            flow.next[side],
            ack,
            flags,
            payload,
            ident=flow.idents[side] & 0xFFFF,
        )
        flow.idents[side] += 1
        self.records.append(net.record(seg))
        flow.next[side] += seg.span

    def _open(self, now_us: int, source: int, target: int, port: int) -> _Flow:
        self._at(now_us)
        self._ports += 1
        flow = _Flow(((_host(source), self._ports), (_host(target), port)))
        self._packet(flow, 0, SYN)
        self._packet(flow, 1, SYN | ACK)
        self._packet(flow, 0, ACK)
        return flow

    def _say(self, flow: _Flow, side: int, data: bytes) -> None:
        for at in range(0, len(data), _PIECE):
            self._packet(flow, side, PSH | ACK, data[at : at + _PIECE])

    def _end(self, flow: _Flow, side: int) -> None:
        if not flow.closed[side]:
            flow.closed[side] = True
            self._packet(flow, side, FIN | ACK)

    def _at(self, now_us: int) -> None:
        self._now_ns = max(self._now_ns, _START_NS + now_us * 1000)

    # --- what the simulation tells ------------------------------------------------------------

    def dialled(self, now_us: int, connection: Connection, server: bool) -> None:
        """A learner (`server`) or a client has a connection."""
        source, target = connection.to_b.ends
        flow = self._open(now_us, source, target, _QUORUM if server else _CLIENT)
        self._flows[connection.to_b] = (flow, 0)
        self._flows[connection.to_a] = (flow, 1)
        if not server:
            self.clients[source] = f"{net.show(flow.ends[0])}>{net.show(flow.ends[1])}"

    def carried(self, now_us: int, pipe: Pipe, data: bytes | None) -> None:
        """Bytes, or the end."""
        self._at(now_us)
        flow, side = self._flows[pipe]
        if data is None:
            self._end(flow, side)
        elif not flow.closed[side]:
            self._say(flow, side, data)

    def voted(self, now_us: int, sid: int, target: int, vote: Notification) -> None:
        """A notification; who has the larger sid has dialled."""
        pair = (max(sid, target), min(sid, target))
        flow = self._channels.get(pair)
        if flow is None:
            flow = self._channels[pair] = self._open(now_us, *pair, _ELECTION)
            address = f"{_host(pair[0])}:{_ELECTION}"
            self._say(flow, 0, InitialMessage(PROTOCOL_V1, pair[0], address).encode())
            self.votes[f"initial v={PROTOCOL_V1} sid={pair[0]} addr={address}"] += 1
        self._at(now_us)
        data = vote.encode()
        self._say(flow, 0 if sid == pair[0] else 1, len(data).to_bytes(4, "big") + data)
        state, leader, version = vote.state, vote.leader, vote.version
        self.votes[f"notif state={state} leader={leader} len={len(data)} ver={version}"] += 1

    def crashed(self, now_us: int, sid: int) -> None:
        """All its connections are gone: its system ends them, and so do the other ends."""
        self._at(now_us)
        for flow, side in list(self._flows.values()):
            if flow.ends[side][0] == _host(sid):
                self._end(flow, side)
                self._end(flow, 1 - side)
        for pair in [pair for pair in self._channels if sid in pair]:
            flow = self._channels.pop(pair)
            side = 0 if sid == pair[0] else 1
            self._end(flow, side)
            self._end(flow, 1 - side)


def _exchanges(script: Script, recorder: Recorder) -> list[dict[str, Any]]:
    rows = []
    for host, asked in script.writes.items():
        for xid, (path, answered) in enumerate(asked):
            row: dict[str, Any] = {
                "op": "connect" if path is None else "create",
                "opcode": -10 if path is None else 1,
                "xid": None if path is None else xid,
                "state": "complete" if answered else "no_reply",
                "error": 0 if answered else None,
                "flow": recorder.clients[host],
            }
            rows.append(row | ({} if path is None else {"path": path}))
    return rows


def _reference(script: Script, recorder: Recorder) -> dict[str, Any]:
    packets = script.packets
    txns: Counter[str] = Counter()
    nodes = size = 0
    for packet in packets:
        if packet.data is None:
            continue
        if packet.name in ("PROPOSAL", "INFORM"):
            txns[f"txn:{Transaction.decode(packet.data).header.type}"] += 1
        elif packet.name == "SNAP":
            nodes += len(Snapshot.decode_from(packet.data, 0, len(packet.data))[0].nodes)
            size += len(packet.data)
    extra: dict[str, int] = dict(sorted(txns.items()))
    if size:
        extra |= {"snap.nodes": nodes, "snap.bytes": size}
    asked = [answered for some in script.writes.values() for _, answered in some]
    return {
        "client_frames": {"c2s": len(asked), "s2c": sum(asked)},
        "quorum": dict(sorted(Counter(packet.name for packet in packets).items())),
        "quorum_extra": extra,
        "election": dict(sorted(recorder.votes.items())),
    }


def captures() -> Iterator[tuple[str, str, list[Record], dict[str, Any], dict[str, Any]]]:
    """Name, what it holds, packets, what to expect, and the counts."""
    for path in files():
        text = path.read_text(encoding="utf-8")
        recorder = Recorder()
        script = replay(text, recorder)
        comment = [line.removeprefix("# ") for line in text.splitlines() if line[:1] == "#"]
        expect = {"exchanges": _exchanges(script, recorder), "watch_events": [], "anomalies": []}
        counts = _reference(script, recorder)
        yield f"zab_{path.stem}", " ".join(comment), recorder.records, expect, counts
