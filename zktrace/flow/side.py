"""One direction of a TCP connection: where its stream stands, and what waits behind a hole.

Positions are 64-bit offsets from the first byte of the stream; sequence numbers (32 bits, they
wrap: RFC 9293, section 3.4) become offsets by their signed distance to the next expected one.
Knows nothing of connections, handlers or policies: it stores, and answers where things are.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import NamedTuple

from zktrace.flow.past import Past

MASK = 0xFFFF_FFFF

# Farther than this from the next expected byte is not reordering or loss: it is another connection
# on the same ports, or nonsense. Twice the buffer limit. Initial sequence numbers follow a clock
# (RFC 6528), Linux' one of 64 ns: after the second that it keeps ports for at least (RFC 6191) the
# next one is farther away.
WINDOW = 1 << 23

# What a buffered piece costs beside its bytes: a flood of one-byte segments hits the limits too.
CHUNK_OVERHEAD = 128

NO_ACK = -1


def distance(a: int, b: int) -> int:
    """Signed distance from sequence number `b` to `a`."""
    d = (a - b) & MASK
    return d - (1 << 32) if d >= 1 << 31 else d


class Stamp(NamedTuple):
    """When a segment came: its own time, the count of packets of its connection, and the clock of
    the capture (the latest time seen so far: packet times may go backwards)."""

    ts_ns: int
    packet: int
    clock: int


class Chunk(NamedTuple):
    """Captured bytes that wait for earlier ones."""

    off: int
    data: bytes
    ack: int
    stamp: Stamp
    late: bool

    @property
    def end(self) -> int:
        return self.off + len(self.data)

    def again(self, low: int, end: int, ts_ns: int, late: bool) -> Chunk:
        """Another copy of the bytes from `low` to `end` was captured."""
        if ts_ns >= self.stamp.ts_ns:
            return self
        if low <= self.off and self.end <= end:
            return self._replace(stamp=self.stamp._replace(ts_ns=ts_ns), late=late)
        return self._replace(late=True)  # a part is older than the rest


class Cut(NamedTuple):
    """Bytes that were on the wire but were cut from the packet by the snap length."""

    off: int
    end: int
    stamp: Stamp


class Held(NamedTuple):
    """A segment that waits until the start of its stream is known."""

    seq: int
    data: bytes
    wire_len: int
    ack: int
    stamp: Stamp
    late: bool
    copy: bool


_offset = itemgetter(0)


class Side:
    """State of one direction."""

    __slots__ = (
        "ack_high",
        "ack_high_ts",
        "ack_low",
        "ack_noted",
        "ack_noted_at",
        "acked",
        "acks",
        "base",
        "chunks",
        "cost",
        "cuts",
        "data_acks",
        "fin_off",
        "fin_seen",
        "fin_seq",
        "held",
        "hold_seq",
        "hold_since",
        "next",
        "past",
        "seen",
        "started",
    )

    def __init__(self) -> None:
        self.seen = False  # any packet of this sender
        self.past = Past()
        # Offset in the other side's stream that the last packet acknowledges, and that with data.
        self.acks = 0
        self.data_acks = 0
        self.started = False  # `base` is known
        self.base = 0  # sequence number of offset 0
        self.next = 0  # offset of the next byte to deliver
        self.acked = 0  # the peer acknowledged up to here; of interest only when beyond `next`
        self.ack_noted_at = -1  # value of `next` for which ...
        self.ack_noted: Stamp | None = None  # ... an acknowledgement beyond it was first seen
        self.chunks: list[Chunk] = []  # by offset, without overlaps, all beyond `next`
        self.cuts: list[Cut] = []  # by offset
        self.cost = 0  # of chunks, cuts and held segments
        self.fin_seen = False
        self.fin_off: int | None = None
        # Only until the side is started:
        self.fin_seq: int | None = None
        self.held: list[Held] = []
        self.hold_since: Stamp | None = None
        self.hold_seq = 0  # smallest sequence number held
        self.ack_low: int | None = None
        self.ack_high: int | None = None
        self.ack_high_ts = 0

    @property
    def next_seq(self) -> int:
        return (self.base + self.next) & MASK

    @property
    def waits(self) -> bool:
        """Is something held back, or missing, that time alone may settle?"""
        if not self.started:
            return self.hold_since is not None
        return bool(self.chunks or self.cuts) or self.acked > self.next

    def is_far(self, seq: int) -> bool:
        """Does `seq` belong to another connection?"""
        if self.started:
            return abs(distance(seq, self.next_seq)) > WINDOW
        if self.hold_since is not None:
            return abs(distance(seq, self.hold_seq)) > WINDOW
        return False

    def is_beyond_fin(self, seq: int) -> bool:
        """Does `seq` come after the last byte that this sender had to send?"""
        if self.fin_off is None or not self.started:
            return False
        return self.next + distance(seq, self.next_seq) > self.fin_off

    # -- before the start is known

    def hold(self, seq: int, stamp: Stamp) -> None:
        """Take note that the stream starts at `seq` or before."""
        if self.hold_since is None:
            self.hold_since = stamp
            self.hold_seq = seq
        elif distance(seq, self.hold_seq) < 0:
            self.hold_seq = seq

    def hold_segment(self, held: Held) -> None:
        self.hold(held.seq, held.stamp)
        self.held.append(held)
        self.cost += len(held.data) + CHUNK_OVERHEAD

    def hold_ack(self, ack: int, ts_ns: int) -> None:
        """The peer acknowledged `ack`, of which the offset is not known yet."""
        if self.ack_low is None or self.ack_high is None:
            self.ack_low = self.ack_high = ack
            self.ack_high_ts = ts_ns
        elif abs(distance(ack, self.ack_low)) <= WINDOW:
            if distance(ack, self.ack_low) < 0:
                self.ack_low = ack
            if distance(ack, self.ack_high) > 0:
                self.ack_high = ack
                self.ack_high_ts = ts_ns

    def is_held_late(self, seq: int, ts_ns: int) -> bool:
        """Whether bytes from `seq` on may have passed before, uncaptured, for all that is known."""
        acked = self.ack_high is not None and distance(seq, self.ack_high) < 0
        return self.past.is_late(0, ts_ns, 0, -1) or (acked and ts_ns > self.ack_high_ts)

    def start(self, base: int) -> list[Held]:
        """Offset 0 is sequence number `base`. Returns what was held, in order of arrival."""
        self.started = True
        self.base = base
        if self.fin_seq is not None:
            self.set_fin(self.fin_seq)
        held, self.held = self.held, []
        for item in held:
            self.cost -= len(item.data) + CHUNK_OVERHEAD
        self.hold_since = None
        return held

    def note_held_acks(self) -> None:
        """What was acknowledged before the start was known."""
        if self.ack_high is not None:
            self.note_ack(self.ack_high, self.ack_high_ts)

    # -- once it is known

    def set_fin(self, seq: int) -> None:
        d = distance(seq, self.next_seq)
        if self.fin_off is None and abs(d) <= WINDOW:
            self.fin_seen = True
            self.fin_off = max(self.next + d, 0)
            # The acknowledgement of a FIN counts one more than there are bytes.
            self.acked = min(self.acked, self.fin_off)

    def note_ack(self, ack: int, ts_ns: int) -> None:
        """The peer acknowledged `ack`. One absurdly far ahead is no evidence of lost bytes."""
        d = distance(ack, self.next_seq)
        if 0 < d <= WINDOW:
            off = self.next + d
            if self.fin_off is not None:
                off = min(off, self.fin_off)
            self.acked = max(self.acked, off)
            self.past.prove(off, ts_ns, self.next)

    def note_seq(self, seq: int, ts_ns: int) -> None:
        """A packet without data has the number of the byte that will be sent next."""
        d = distance(seq, self.next_seq)
        if d == 0:
            self.past.nothing_beyond()
        elif 0 < d <= WINDOW:
            self.past.prove(self.next + d, ts_ns, self.next)

    def is_late(self, off: int, end: int, ts_ns: int, acked: int) -> bool:
        """Whether the new bytes of a segment may have passed before, uncaptured; and from now on
        they have. The sender knows that the bytes before `acked` arrived."""
        late = self.past.is_late(max(off, self.next), ts_ns, self.next, acked)
        self.past.prove(end, ts_ns, self.next)
        return late

    def need(self, ack: int) -> int:
        """Offset up to which `ack`, sent by the peer, acknowledges this side; 0 if unknown."""
        if ack == NO_ACK or not self.started:
            return 0
        d = distance(ack, self.next_seq)
        if d > WINDOW:
            return 0
        off = self.next + d
        if self.fin_off is not None:
            off = min(off, self.fin_off)
        return max(off, 0)

    def put(self, off: int, data: bytes, wire_len: int, ack: int, stamp: Stamp, late: bool) -> bool:
        """Buffer what is new of a segment; of bytes that wait already the first copy stays, with
        the earliest time. Was anything new?"""
        end = off + len(data)
        wire_end = off + wire_len
        low = max(off, self.next)
        new = False
        if end > low:
            new = self._put_data(low, data[low - off :], ack, stamp, late)
        low = max(low, end)
        if wire_end > low:
            new = self._put_cut(low, wire_end, stamp) or new
        return new

    def _put_data(self, low: int, data: bytes, ack: int, stamp: Stamp, late: bool) -> bool:
        end = low + len(data)
        first = low
        pieces: list[Chunk] = []
        new = False
        i = bisect_right(self.chunks, low, key=_offset)
        if i and self.chunks[i - 1].end > low:
            i -= 1
        j = i
        if j < len(self.chunks) and self.chunks[j].off <= low:
            pieces.append(self.chunks[j].again(low, end, stamp.ts_ns, late))
            first = self.chunks[j].end
            j += 1
        while first < end:
            stop = end
            if j < len(self.chunks):
                stop = min(end, self.chunks[j].off)
            if stop > first:
                pieces.append(Chunk(first, data[first - low : stop - low], ack, stamp, late))
                self.cost += stop - first + CHUNK_OVERHEAD
                new = True
            if j >= len(self.chunks) or self.chunks[j].off >= end:
                break
            pieces.append(self.chunks[j].again(low, end, stamp.ts_ns, late))
            first = self.chunks[j].end
            j += 1
        self.chunks[i:j] = pieces
        return new

    def _put_cut(self, low: int, end: int, stamp: Stamp) -> bool:
        i = bisect_right(self.chunks, low, key=_offset)
        if i and self.chunks[i - 1].off + len(self.chunks[i - 1].data) > low:
            return False
        i = bisect_right(self.cuts, low, key=_offset)
        if i and self.cuts[i - 1].end > low:
            return False
        self.cuts.insert(i, Cut(low, end, stamp))
        self.cost += CHUNK_OVERHEAD
        return True

    def first_waiting(self) -> Chunk | Cut | None:
        """What comes right behind the hole."""
        if self.chunks and (not self.cuts or self.chunks[0].off <= self.cuts[0].off):
            return self.chunks[0]
        return self.cuts[0] if self.cuts else None

    def hole_since(self, now: Stamp) -> Stamp | None:
        """When the hole at `next` was first noticed (least count, earliest clock); None: no hole.

        Bytes that wait are evidence of a hole, and so is an acknowledgement beyond `next`, except
        for one of a single byte: that is most likely a FIN that was not captured.
        """
        waiting = self.first_waiting()
        noted: Stamp | None = None
        if self.acked > self.next:
            if self.ack_noted_at != self.next or self.ack_noted is None:
                self.ack_noted_at = self.next
                self.ack_noted = now
            noted = self.ack_noted
            if waiting is None:
                return noted if self.acked - self.next > 1 else None
        if waiting is None:
            return None
        stamp = waiting.stamp
        if noted is None:
            return stamp
        return Stamp(0, min(stamp.packet, noted.packet), min(stamp.clock, noted.clock))
