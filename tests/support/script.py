"""Captures as scripts of messages: taken apart, edited, and written again as clean TCP.

What a test changes is a message: its bytes, its place, its time, or that it was sent at all. The
capture is then made anew, a segment per message with sequence numbers and ACKs of its own, so that
an edit leaves no trace in TCP. Framing is the tests' own; the codecs of ``zktrace.wire`` read and
write quorum packets.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support import net, oracle
from tests.support.net import Address, Seg
from tests.support.pcapio import Record
from zktrace.wire.jute import WireError
from zktrace.wire.quorum import PACKET_TYPES, QuorumPacket

#: What ends a snapshot behind a SNAP.
_SNAPSHOT_END = b"\x00\x00\x00\x01/\x00\x00\x00\nBenWasHere"
_SNAP = 15

CLIENT, SERVER = 0, 1


@dataclass(frozen=True, slots=True)
class Message:
    """What one side of a connection sent: a frame of a client's connection, or a quorum packet."""

    ts_ns: int
    conn: int
    side: int
    data: bytes

    def but(self, **changes: object) -> Message:
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def packet(self) -> QuorumPacket:
        """It as a quorum packet (without the snapshot behind a SNAP)."""
        return QuorumPacket.decode_from(self.data, 0, len(self.data))[0]

    @property
    def kind(self) -> str:
        """Type of a quorum packet."""
        return PACKET_TYPES.get(struct.unpack_from(">i", self.data)[0], "")

    @property
    def zxid(self) -> int:
        """Of a quorum packet."""
        return int(struct.unpack_from(">q", self.data, 4)[0])

    def at_zxid(self, zxid: int) -> Message:
        """The same quorum packet with another zxid in its head, and in the txn's."""
        data = bytearray(self.data)
        struct.pack_into(">q", data, 4, zxid)
        if self.kind in ("PROPOSAL", "INFORM"):
            struct.pack_into(">q", data, 16 + 12, zxid)
        return self.but(data=bytes(data))


@dataclass(slots=True)
class Party:
    """One connection."""

    client: Address
    server: Address
    role: str
    began: bool = True
    closed: bool = True


@dataclass(slots=True)
class Script:
    """Connections and what passed on them, in order."""

    parties: list[Party] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    def edited(self, edit: Callable[[list[Message]], Iterable[Message]]) -> Script:
        """Another script, whose messages are what a function makes of these."""
        return Script(self.parties, list(edit(list(self.messages))))

    def replaced(self, old: Message, *new: Message) -> Script:
        """Another script, in which a message is gone or others are in its place."""
        at = next(place for place, one in enumerate(self.messages) if one is old)
        return Script(self.parties, [*self.messages[:at], *new, *self.messages[at + 1 :]])

    def pick(self, *, role: str, kind: str | None = None, **wanted: int) -> list[Message]:
        """Messages of connections of a role, of a type of packet, with these attributes."""
        return [
            one
            for one in self.messages
            if self.parties[one.conn].role == role
            and (kind is None or one.kind == kind)
            and all(getattr(one, name) == value for name, value in wanted.items())
        ]

    def records(self) -> list[Record]:
        """The capture."""
        segs: list[Seg] = []
        sent = {number: [1000, 2000] for number in range(len(self.parties))}
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for one in self.messages:
            first.setdefault(one.conn, one.ts_ns)
            last[one.conn] = max(one.ts_ns, last.get(one.conn, 0))
        for one in self.messages:
            party, counts = self.parties[one.conn], sent[one.conn]
            ends = (party.client, party.server)
            if one.conn in first:
                ts = first.pop(one.conn) - 3
                if party.began:
                    syn, both = net.SYN, net.SYN | net.ACK
                    segs.append(Seg(ts, *ends, counts[0] - 1, 0, syn))
                    segs.append(Seg(ts + 1, *ends[::-1], counts[1] - 1, counts[0], both))
                    segs.append(Seg(ts + 2, *ends, counts[0], counts[1], net.ACK))
            way = ends if one.side == CLIENT else ends[::-1]
            for start in range(0, len(one.data), 60_000):
                part = one.data[start : start + 60_000]
                mine, other = counts[one.side], counts[1 - one.side]
                segs.append(Seg(one.ts_ns, *way, mine, other, net.ACK | net.PSH, part))
                counts[one.side] += len(part)
        for number, party in enumerate(self.parties):
            if party.closed and number in last:
                ends, (mine, other) = (party.client, party.server), sent[number]
                fin = net.FIN | net.ACK
                segs.append(Seg(last[number] + 1, *ends, mine, other, fin))
                segs.append(Seg(last[number] + 2, *ends[::-1], other, mine + 1, fin))
        segs.sort(key=lambda seg: seg.ts_ns)
        return [net.record(seg) for seg in segs]


def frames(data: bytes) -> list[bytes]:
    """Frames of a client's connection, their lengths included; what is left over is one more."""
    out, at = [], 0
    while at + 4 <= len(data):
        end = at + 4 + struct.unpack_from(">i", data, at)[0]
        if not at + 4 <= end <= len(data):
            break
        out.append(data[at:end])
        at = end
    return out + ([data[at:]] if at < len(data) else [])


def packets(data: bytes) -> list[bytes]:
    """Quorum packets, a SNAP with the snapshot behind it; what is left over is one more."""
    out, at = [], 0
    while at < len(data):
        try:
            packet, end = QuorumPacket.decode_from(data, at, len(data))
        except WireError:
            break
        if packet.type == _SNAP:
            end = data.index(_SNAPSHOT_END, end) + len(_SNAPSHOT_END)
        out.append(data[at:end])
        at = end
    return out + ([data[at:]] if at < len(data) else [])


_FRAMING: dict[str, Callable[[bytes], list[bytes]]] = {"client": frames, "quorum": packets}


def take_apart(records: Iterable[Record], listeners: dict[Address, str]) -> Script:
    """The script of a capture without damage: connections of these listeners (roles ``client`` and
    ``quorum``), others being left out.
    """
    script = Script()
    found: list[tuple[int, int, Message]] = []
    for talk in oracle.conversations(records, listeners):
        role = listeners.get(talk.server)
        if role is None or not any(stream.data for stream in talk.streams):
            continue
        number = len(script.parties)
        closed = any(seg.flags & (net.FIN | net.RST) for side in talk.segs for seg in side)
        script.parties.append(Party(talk.client, talk.server, role, talk.began, closed))
        for side, stream in enumerate(talk.streams):
            at = 0
            for data in _FRAMING[role](stream.data):
                ts = stream.time_of_last(at, at + len(data))
                found.append((ts, len(found), Message(ts, number, side, data)))
                at += len(data)
    found.sort(key=lambda item: item[:2])
    script.messages = [one for _, _, one in found]
    return script


def listeners(ports: Path) -> dict[Address, str]:
    """Client and quorum listeners of a folder of captures, by its ``ports.json``."""
    found = dict.fromkeys(oracle.client_listeners(ports), "client")
    for host, port in json.loads(ports.read_text()).get("quorum", {}).values():
        found[host, port] = "quorum"
    return found
