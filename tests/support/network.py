"""TCP as it behaves on a network that loses packets, seen at a capture point that loses others.

A :class:`Wire` runs two ends (Linux' habits: delayed acknowledgements, tail-loss probes, fast
retransmission, retransmission timeouts that send several segments as one or cut anew, duplicate
acknowledgements, keep-alive probes, numbered packets) over a path whose both halves lose and delay
packets. What passes its middle is what a perfect capture holds; `true_times` says when each byte
passed there first. A function of its seed. Knows nothing of ZooKeeper.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.support.net import ACK, PSH, SYN, Address, Seg

US: Final = 1_000
MS: Final = 1_000_000
MSS: Final = 1448
_RTO_MIN: Final = 200 * MS
#: What a tail-loss probe allows for a delayed acknowledgement (RFC 8985).
_DELACK: Final = 200 * MS
#: How packets are numbered: as Linux does, not at all, as a host that has one count for all its
#: traffic, at random.
NUMBERINGS: Final = ("counted", "zero", "shared", "random")


@dataclass(slots=True)
class Path:
    """What happens between an end and the middle, each way."""

    delay: int
    loss: float
    jitter: int = 0


@dataclass(slots=True)
class Sent:
    """A segment that is not acknowledged yet."""

    off: int
    end: int
    at: int
    again: int = 0


@dataclass(slots=True)
class Packet:
    off: int
    data: bytes
    ack: int
    flags: int
    keepalive: bool = False


class End:
    """One end of a connection, after the handshake. Offsets are from the first byte of data."""

    def __init__(self, wire: Wire, side: int, numbering: str) -> None:
        self.wire = wire
        self.side = side
        self.numbering = numbering
        self.ident = wire.rng.randrange(1, 65536)
        self.stream = bytearray()
        self.sent: list[Sent] = []
        self.una = 0
        self.nxt = 0
        self.dups = 0
        self.recovering_to = 0
        self.srtt = 0
        self.timer = 0  # generation: a timer of an earlier one is void
        self.tries = 0
        self.probed = False
        self.received = bytearray()
        self.early: dict[int, bytes] = {}
        self.owed = 0  # segments received since the last acknowledgement
        self.delack = 0
        self.read = 0
        self.on_data: Callable[[int, bytes], None] = lambda _now, _data: None

    # sending

    def number(self) -> int:
        if self.numbering == "zero":
            return 0
        if self.numbering == "random":
            return self.wire.rng.randrange(65536)
        step = self.wire.rng.choice((1, 1, 1, 2, 5, 30)) if self.numbering == "shared" else 1
        self.ident = (self.ident + step) & 0xFFFF
        return self.ident

    def write(self, now: int, data: bytes) -> None:
        for at in range(0, len(data), MSS):
            piece = data[at : at + MSS]
            self.stream += piece
            self.sent.append(Sent(self.nxt, self.nxt + len(piece), now))
            self.nxt += len(piece)
            self.put(now, self.nxt - len(piece), piece, PSH | ACK)
        self.arm(now)

    def put(self, now: int, off: int, data: bytes, flags: int = ACK) -> None:
        self.owed = 0
        self.delack += 1
        self.wire.send(now, self, Packet(off, data, len(self.received), flags))

    def arm(self, now: int) -> None:
        self.timer += 1
        if not self.sent:
            return
        rto = max(_RTO_MIN, 2 * self.srtt) << min(self.tries, 6)
        if not self.probed and not self.tries and self.srtt and not self.recovering_to:
            wait = max(2 * self.srtt + (_DELACK if len(self.sent) == 1 else 0), 2 * MS)
            if wait < rto:
                self.wire.at(now + wait, self.probe, self.timer)
                return
        self.wire.at(now + rto, self.timeout, self.timer)

    def probe(self, now: int, timer: int) -> None:
        """RFC 8985: the last segment again."""
        if timer != self.timer or not self.sent:
            return
        self.probed = True
        self.again(now, self.sent[-1])
        self.arm(now)

    def timeout(self, now: int, timer: int) -> None:
        if timer != self.timer or not self.sent:
            return
        self.tries += 1
        if self.tries > 8:
            return
        self.merge_or_cut()
        self.recovering_to = self.nxt
        self.again(now, self.sent[0])
        self.arm(now)

    def merge_or_cut(self) -> None:
        """Small segments are sent again as one; a path may have become narrower."""
        rng = self.wire.rng
        first = self.sent[0]
        if rng.random() < 0.6:
            while len(self.sent) > 1 and self.sent[1].end - first.off <= MSS:
                first.end = self.sent.pop(1).end
        elif first.end - first.off > 20 and rng.random() < 0.5:
            middle = rng.randrange(first.off + 1, first.end)
            self.sent.insert(1, Sent(middle, first.end, first.at, first.again))
            first.end = middle

    def again(self, now: int, sent: Sent) -> None:
        sent.again += 1
        self.put(now, sent.off, bytes(self.stream[sent.off : sent.end]), PSH | ACK)

    def keepalive(self, now: int) -> None:
        if not self.sent:
            data = b"\0" if self.wire.rng.random() < 0.3 and self.nxt else b""
            self.wire.send(now, self, Packet(self.nxt - 1, data, len(self.received), ACK, True))

    # receiving

    def take(self, now: int, packet: Packet) -> None:
        self.acknowledged(now, packet.ack, bool(packet.data))
        if packet.keepalive:
            self.put(now, self.nxt, b"")
            return
        if not packet.data:
            return
        have = len(self.received)
        end = packet.off + len(packet.data)
        if packet.off > have or end <= have:
            if packet.off > have:
                old = self.early.get(packet.off, b"")
                self.early[packet.off] = max(old, packet.data, key=len)
            self.put(now, self.nxt, b"")  # duplicate acknowledgement
            return
        self.received += packet.data[have - packet.off :]
        filled = False
        while True:
            have = len(self.received)
            fits = [o for o, d in self.early.items() if o <= have]
            if not fits:
                break
            for off in fits:
                data = self.early.pop(off)
                if off + len(data) > len(self.received):
                    self.received += data[len(self.received) - off :]
                    filled = True
        self.owed += 1
        if self.owed >= 2 or filled or self.early:
            self.put(now, self.nxt, b"")
        else:
            self.delack += 1
            self.wire.at(now + self.wire.rng.randrange(5, 40) * MS, self.delayed, self.delack)
        new = bytes(self.received[self.read :])
        self.read = len(self.received)
        self.on_data(now, new)

    def delayed(self, now: int, generation: int) -> None:
        if generation == self.delack and self.owed:
            self.put(now, self.nxt, b"")

    def acknowledged(self, now: int, ack: int, has_data: bool) -> None:
        if ack > self.una:
            self.una = ack
            self.dups = self.tries = 0
            self.probed = False
            while self.sent and self.sent[0].end <= ack:
                done = self.sent.pop(0)
                if not done.again:
                    rtt = now - done.at
                    self.srtt = rtt if not self.srtt else (7 * self.srtt + rtt) // 8
            if self.sent and self.sent[0].off < ack:
                self.sent[0].off = ack
            if ack >= self.recovering_to:
                self.recovering_to = 0
            elif len(self.sent) > 1:
                # The next hole. With selective acknowledgements (RFC 6675) the last segment is not
                # one, since nothing behind it can have arrived.
                self.again(now, self.sent[0])
            self.arm(now)
        elif ack == self.una and self.sent and not has_data:
            self.dups += 1
            if self.dups == 3 and not self.recovering_to:
                self.recovering_to = self.nxt
                self.again(now, self.sent[0])
                self.arm(now)


class Wire:
    """Two ends, the path between them, a clock; and what passes its middle."""

    def __init__(
        self,
        rng: random.Random,
        client: Address,
        server: Address,
        paths: tuple[Path, Path],
        *,
        numbering: str = "counted",
        start: int = 0,
    ) -> None:
        self.rng = rng
        self.addresses = (client, server)
        self.paths = paths
        self.now = start
        self.isn = (rng.getrandbits(32), rng.getrandbits(32))
        self.ends = (End(self, 0, numbering), End(self, 1, numbering))
        self.passed: list[Seg] = []
        self.first: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self._queue: list[tuple[int, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0
        self._latest = [[0, 0], [0, 0]]
        self._handshake(start)

    def at(self, when: int, call: Callable[..., None], *arguments: object) -> None:
        self._count += 1
        heapq.heappush(self._queue, (when, self._count, call, arguments))

    def run(self, until: int | None = None) -> None:
        while self._queue and (until is None or self._queue[0][0] <= until):
            self.now, _, call, arguments = heapq.heappop(self._queue)
            call(self.now, *arguments)

    def _handshake(self, now: int) -> None:
        near, far = self.paths
        out, back = now + near.delay, now + near.delay + 2 * far.delay
        self._pass(out, 0, -1, b"", SYN, self.ends[0].number(), 0)
        self._pass(back, 1, -1, b"", SYN | ACK, 0, 0)
        self.now = back + near.delay
        self._pass(self.now + near.delay, 0, 0, b"", ACK, self.ends[0].number(), 0)
        self.now += 2 * near.delay + far.delay

    def send(self, now: int, end: End, packet: Packet) -> None:
        side = end.side
        ident = end.number()
        passes = self._leg(now, side, 0)
        if passes is None:
            return
        self.at(passes, self._middle, side, packet, ident)

    def _leg(self, now: int, side: int, half: int) -> int | None:
        """When a packet has passed a half of the path; None: it was lost."""
        path = self.paths[side ^ half]
        if self.rng.random() < path.loss:
            return None
        when = now + path.delay + (self.rng.randrange(path.jitter) if path.jitter else 0)
        if self.rng.random() > 0.02:  # seldom out of order
            when = max(when, self._latest[side][half] + 1)
            self._latest[side][half] = when
        return when

    def _middle(self, now: int, side: int, packet: Packet, ident: int) -> None:
        self._pass(now, side, packet.off, packet.data, packet.flags, ident, packet.ack)
        if not packet.keepalive:
            for off in range(packet.off, packet.off + len(packet.data)):
                self.first[side].setdefault(off, now)
        arrives = self._leg(now, side, 1)
        if arrives is not None:
            self.at(arrives, self._arrive, side, packet)

    def _arrive(self, now: int, side: int, packet: Packet) -> None:
        self.ends[1 - side].take(now, packet)

    def _pass(
        self, now: int, side: int, off: int, data: bytes, flags: int, ident: int, ack: int
    ) -> None:
        src, dst = self.addresses[side], self.addresses[1 - side]
        seq = (self.isn[side] + 1 + off) & 0xFFFFFFFF
        acked = (self.isn[1 - side] + 1 + ack) & 0xFFFFFFFF if flags & ACK else 0
        self.passed.append(Seg(now, src, dst, seq, acked, flags, data, ident=ident))
