"""TCP reassembly: segments in, the bytes of both directions of each connection out, in order.

Sans-IO, and knows nothing of ZooKeeper. This is the readable reference of the native engine's
`flow.rs`, which makes the same calls on every input. Rules that RFC 9293 does not give, since a
sniffer may miss what the receiver got and the other way round:

* Capture times may go backwards; the clock of the capture is the latest time seen.
* A stream starts behind its SYN. Where that was not captured, its first segments are held for a
  few packets, since captures are reordered, and the smallest sequence number is the start. When
  at least the peer's SYN was seen, an acknowledgement below that is the better start.
* Of bytes captured twice the first copy counts, of those that wait for earlier ones with the
  earliest time. A wrong TCP checksum does not count against a copy: offload leaves those of the
  capturing host's own packets unfinished. Bytes of which an earlier copy may have passed without
  being captured are *late* (`zktrace.flow.past` says when): their time is not to be trusted.
* A segment that brings nothing is a keep-alive probe by its form (RFC 1122, 4.2.3.6: one byte or
  none, before the next), a packet captured twice if its number was captured (or, of a sender that
  does not number, if it comes sooner than any timer), else a retransmission.
* A hole is declared a gap when the peer acknowledged what is in it and enough packets passed that
  reordering is no explanation; when nobody can acknowledge (a capture of one direction); when too
  much waits behind it; when the connection ends. Bytes cut by the snap length are one at once.
* The acknowledgement of a FIN covers a byte that is none. Data beyond a FIN are another
  connection's, whose SYN was not captured.
* When both FINs, or an RST, were seen, late packets are still taken for a while.
* The payload of an RST is a diagnostic text (RFC 1122, 4.2.2.12), not data. An RST far outside of
  the window in sequence and acknowledgement is a forgery or a leftover of an earlier connection
  (RFC 5961) and ignored.
* A SYN+ACK that comes before its SYN says by its acknowledgement where the opener's stream starts.
* Late packets of an ended connection are no new connection, but when more than a few carry data,
  it was not ended (an RST that the receiver did not accept).
* Where there are too many connections, those of which not both sides have sent data yet may take
  a part of the table, and beyond it the longest silent of them goes first: a flood of SYNs, or of
  forged segments, does not cost the connections that are at work. Within that part they are as good
  as any, so that new connections have their chance when the table is full of old ones.
"""

from __future__ import annotations

from collections import OrderedDict

from zktrace.capture.segment import ACK, FIN, RST, SYN, Segment
from zktrace.flow.api import FlowCounters, FlowHandler, How, Limits
from zktrace.flow.side import CHUNK_OVERHEAD, MASK, NO_ACK, WINDOW, Held, Side, Stamp, distance

SECOND = 1_000_000_000

# A stream joined mid-way starts when so many packets of its connection followed its first one, or
# after so long. Reordering by a capture spans a few packets.
START_PACKETS = 16
START_NS = SECOND

# A hole that the peer acknowledged is lost after so many packets, or fewer when time passed too.
LOST_PACKETS = 64
LOST_PACKETS_SLOW = 4
LOST_NS = SECOND
# Without any packet of the peer nobody acknowledges: retransmissions may yet come.
LOST_ONE_SIDED_NS = 2 * SECOND

# A connection that both sides closed, or that was reset, takes late packets for so long.
CLOSING_PACKETS = 64
CLOSING_NS = SECOND

# More late segments with data than this mean that the connection lives.
LATE_SEGMENTS = 64

# Connections of which not both sides sent data may be one in so many before they are evicted first.
UNANSWERED_SHARE = 4

Key = tuple[tuple[int, bytes, int], tuple[int, bytes, int]]


class Connection:
    """State of one connection. `flip`: side A is the greater endpoint of the key."""

    __slots__ = (
        "answered",
        "closed_clock",
        "closed_ts",
        "closing",
        "flip",
        "id",
        "key",
        "last_ts",
        "packets",
        "packets_left",
        "sides",
        "syn",
    )

    def __init__(self, conn_id: int, key: Key, flip: bool, syn: bool, ts_ns: int) -> None:
        self.id = conn_id
        self.key = key
        self.flip = flip
        self.syn = syn
        self.sides = (Side(), Side())
        self.packets = 0
        self.last_ts = ts_ns
        self.answered = False  # both sides sent data
        self.closing: How | None = None
        self.closed_ts = 0
        self.closed_clock = 0
        self.packets_left = CLOSING_PACKETS


class Tombstone:
    """What is remembered of an ended connection."""

    __slots__ = ("flip", "late", "sides")

    def __init__(self, conn: Connection) -> None:
        self.flip = conn.flip
        self.late = 0
        # Sequence numbers of the start and the end of each stream, and whether it ended by a FIN.
        self.sides = tuple(
            (s.base, s.next_seq, s.fin_off is not None and s.next >= s.fin_off)
            if s.started
            else None
            for s in conn.sides
        )

    def covers(self, seg: Segment, upper: bool) -> bool:
        """Is this segment a late one of the ended connection?"""
        side = self.sides[upper != self.flip]
        if seg.flags & SYN and not seg.flags & RST:
            return side is not None and side[0] == (seg.seq + 1) & MASK
        if seg.flags & RST or not seg.wire_len:
            return True
        if side is not None and abs(distance(seg.seq, side[1])) > WINDOW:
            return False
        if side is not None and side[2] and distance(seg.seq, side[1]) > 0:
            return False  # beyond the FIN
        self.late += 1
        return self.late <= LATE_SEGMENTS


class Reassembler:
    """Feed `segment` in order of capture, then call `finish` once."""

    def __init__(self, handler: FlowHandler, limits: Limits | None = None) -> None:
        self.counters = FlowCounters()
        self._handler = handler
        self._limits = limits or Limits()
        self._clock = -(1 << 63)
        self._cost = 0  # of what all connections hold
        # By time of the last packet, for eviction.
        self._connections: OrderedDict[Key, Connection] = OrderedDict()
        # Those of which not both sides sent data, in the same order.
        self._unanswered: OrderedDict[int, Connection] = OrderedDict()
        # By time of closing.
        self._closing: OrderedDict[int, Connection] = OrderedDict()
        self._tombstones: OrderedDict[Key, Tombstone] = OrderedDict()

    def segment(self, seg: Segment) -> None:
        """Take the next segment of the capture."""
        self._clock = max(self._clock, seg.ts_ns)
        self._expire()
        src = (len(seg.src), seg.src, seg.sport)
        dst = (len(seg.dst), seg.dst, seg.dport)
        upper = src > dst
        key = (dst, src) if upper else (src, dst)
        conn = self._connections.get(key)
        if conn is None:
            conn = self._first(seg, key, upper)
            if conn is None:
                self.counters.stray_segments += 1
                return
        else:
            self._connections.move_to_end(key)
            if not conn.answered:
                self._unanswered.move_to_end(conn.id)
            if self._is_other(conn, upper, seg):
                self._finalize(conn, "reused", seg.ts_ns)
                conn = self._open(seg, key, upper)
        self._step(conn, int(upper != conn.flip), seg)

    def tick(self, now_ns: int) -> None:
        """Time went on without a segment: a live capture of an idle line.

        Like an unrelated segment at that time; beyond that, connections that wait are looked at as
        at a segment of their own that brings nothing and is not counted, since the next one may be
        far away.
        """
        self._clock = max(self._clock, now_ns)
        self._expire()
        waiting = [conn for conn in self._connections.values() if any(s.waits for s in conn.sides)]
        for conn in sorted(waiting, key=lambda conn: conn.id):
            self._check(conn, Stamp(self._clock, conn.packets, self._clock))

    def finish(self) -> None:
        """The capture ended: end all connections."""
        for conn in sorted(self._connections.values(), key=lambda conn: conn.id):
            self._finalize(conn, "eof", conn.last_ts)

    # -- connections come and go

    def _first(self, seg: Segment, key: Key, upper: bool) -> Connection | None:
        """A segment of no known connection: open one, if it is worth it."""
        tombstone = self._tombstones.get(key)
        if tombstone is not None:
            if tombstone.covers(seg, upper):
                return None
            del self._tombstones[key]
        if seg.flags & RST or not (seg.flags & SYN or seg.wire_len):
            return None
        return self._open(seg, key, upper)

    def _open(self, seg: Segment, key: Key, upper: bool) -> Connection:
        if len(self._connections) >= max(self._limits.connections, 1):
            full = len(self._unanswered) > self._limits.connections // UNANSWERED_SHARE
            longest = self._unanswered if full else self._connections
            self.counters.evicted_connections += 1
            self._finalize(next(iter(longest.values())), "evicted", seg.ts_ns)
        syn = bool(seg.flags & SYN)
        a, b = (seg.src, seg.sport), (seg.dst, seg.dport)
        flip = upper
        if syn and seg.flags & ACK:
            # The answer to a SYN: its receiver is the opener.
            a, b = b, a
            flip = not upper
        conn = Connection(self.counters.connections, key, flip, syn, seg.ts_ns)
        self.counters.connections += 1
        self.counters.joined_connections += not syn
        self._connections[key] = conn
        self._unanswered[conn.id] = conn
        self._tombstones.pop(key, None)
        self._handler.open(conn.id, seg.ts_ns, a, b, syn)
        if syn and seg.flags & ACK:
            conn.sides[0].start(seg.ack)
        return conn

    def _is_other(self, conn: Connection, upper: bool, seg: Segment) -> bool:
        """Does this segment belong to a new connection on the addresses and ports of `conn`?"""
        if seg.flags & RST:
            return False
        side = conn.sides[upper != conn.flip]
        if not seg.flags & SYN:
            return seg.wire_len > 0 and (side.is_far(seg.seq) or side.is_beyond_fin(seg.seq))
        start = (seg.seq + 1) & MASK
        if side.started:
            return side.base != start
        if side.hold_since is not None and not 0 <= distance(side.hold_seq, start) <= WINDOW:
            return True
        other = conn.sides[upper == conn.flip]
        if seg.flags & ACK and other.started:
            # It answers the SYN that we know, or another one.
            return not 0 <= distance(seg.ack, other.base) <= WINDOW
        return False

    def _expire(self) -> None:
        """End the connections that were closed long enough ago."""
        while self._closing:
            conn = next(iter(self._closing.values()))
            if self._clock - conn.closed_clock < CLOSING_NS:
                return
            self._finalize(conn, "closed", conn.closed_ts)

    def _close(self, conn: Connection, how: How, ts_ns: int) -> None:
        """Nothing new is expected; `end` follows when late packets had their chance."""
        if conn.closing is None:
            conn.closing = how
            conn.closed_ts = ts_ns
            conn.closed_clock = self._clock
            self._closing[conn.id] = conn

    def _finalize(self, conn: Connection, how: How, ts_ns: int) -> None:
        if conn.closing is not None:
            how, ts_ns = conn.closing, conn.closed_ts
            del self._closing[conn.id]
        del self._connections[conn.key]
        self._unanswered.pop(conn.id, None)
        self._start_held(conn)
        for index, side in enumerate(conn.sides):
            while side.first_waiting() is not None:
                self._declare(conn, index, ts_ns)
            # A FIN proves the bytes before it, an acknowledgement too; but if it is one byte beyond
            # the last, it acknowledges a FIN.
            if side.fin_off is not None:
                lost = side.fin_off - side.next
            else:
                lost = side.acked - side.next
                lost = lost if lost > 1 else 0
            if lost > 0:
                self._gap(conn, index, ts_ns, lost)
        if conn.closing is not None:
            self._tombstones[conn.key] = Tombstone(conn)
            if len(self._tombstones) > self._limits.tombstones:
                self._tombstones.popitem(last=False)
        self._handler.end(conn.id, ts_ns, how)

    # -- one segment of a connection

    def _step(self, conn: Connection, index: int, seg: Segment) -> None:
        me, other = conn.sides[index], conn.sides[1 - index]
        conn.packets += 1
        conn.last_ts = max(conn.last_ts, seg.ts_ns)
        me.seen = True
        if not seg.flags & RST:
            me.past.packet(seg.ident, seg.wire_len, seg.ts_ns, conn.packets)
        if conn.closing is not None:
            conn.packets_left -= 1
        stamp = Stamp(seg.ts_ns, conn.packets, self._clock)
        if seg.flags & RST:
            if me.is_far(seg.seq) and not (
                seg.flags & ACK
                and other.started
                and abs(distance(seg.ack, other.next_seq)) <= WINDOW
            ):
                self.counters.stray_segments += 1
            else:
                self._close(conn, "reset", seg.ts_ns)
        else:
            self._take(conn, index, seg, stamp)
        self._check(conn, stamp)
        if conn.closing is not None and conn.packets_left <= 0:
            self._finalize(conn, conn.closing, conn.closed_ts)

    def _take(self, conn: Connection, index: int, seg: Segment, stamp: Stamp) -> None:
        """SYN, acknowledgement, FIN and payload of a segment."""
        me, other = conn.sides[index], conn.sides[1 - index]
        seq = seg.seq
        if seg.flags & SYN:
            seq = (seq + 1) & MASK  # data may come with a SYN, behind it (RFC 7413)
            if not me.started:
                self._start(conn, index, seq)
        ack = NO_ACK
        if seg.flags & ACK:
            ack = seg.ack
            if other.started:
                other.note_ack(ack, seg.ts_ns)
            else:
                other.hold_ack(ack, seg.ts_ns)
            if other.started:
                if me.acks < other.next:
                    me.past.owed(other.past.last_ts, seg.ts_ns)
                me.acks = other.need(ack)
        if seg.wire_len:
            me.data_acks = me.acks
        if seg.flags & FIN and not me.fin_seen and not me.is_far(seq):
            fin = (seq + seg.wire_len) & MASK
            if me.started:
                me.set_fin(fin)
            else:
                me.fin_seen = True
                me.fin_seq = fin
                me.hold(seq, stamp)
            if me.fin_seen and other.fin_seen:
                self._close(conn, "closed", seg.ts_ns)
        if seg.wire_len:
            if me.started:
                self._payload(conn, index, seg, seq, ack, stamp)
            else:
                cost = me.cost
                late = me.is_held_late(seq, seg.ts_ns)
                held = Held(seq, seg.payload, seg.wire_len, ack, stamp, late, me.past.is_copy)
                me.hold_segment(held)
                self._cost += me.cost - cost
        elif me.started and not seg.flags & SYN:
            me.note_seq(seq, seg.ts_ns)
            self.counters.keepalives += seq == (me.next_seq - 1) & MASK

    def _payload(
        self, conn: Connection, index: int, seg: Segment, seq: int, ack: int, stamp: Stamp
    ) -> None:
        me, other = conn.sides[index], conn.sides[1 - index]
        if other.hold_since is not None and ack != NO_ACK and distance(ack, other.hold_seq) > 0:
            # what the other side sent before this is held still: cause comes before effect
            self._start(conn, 1 - index)
        off = me.next + distance(seq, me.next_seq)
        end = off + seg.wire_len
        if end <= me.next:
            self._again(conn, index, end, seg.wire_len, me.past.is_copy)
            return
        # Who acknowledges the last data of the other side has what that acknowledged.
        acked = other.data_acks if me.acks >= other.next else -1
        late = me.is_late(off, end, seg.ts_ns, acked)
        if off <= me.next and len(seg.payload) == seg.wire_len and not me.chunks and not me.cuts:
            self._data(conn, index, seg.ts_ns, ack, seg.payload[me.next - off :], late)
        else:
            cost = me.cost
            new = me.put(off, seg.payload, seg.wire_len, ack, stamp, late)
            self._cost += me.cost - cost
            if not new:
                self._again(conn, index, end, seg.wire_len, me.past.is_copy)
            elif off > me.next:
                self.counters.out_of_order_segments += 1
            self._drain(conn, index)

    def _again(self, conn: Connection, index: int, end: int, length: int, copy: bool) -> None:
        """A segment, up to `end`, brought nothing."""
        me, other = conn.sides[index], conn.sides[1 - index]
        if length == 1 and end == me.next:
            self.counters.keepalives += 1
        elif copy:
            self.counters.duplicate_packets += 1
        else:
            self.counters.retransmitted_segments += 1
            other.past.asked_again(me.past)

    def _start(self, conn: Connection, index: int, base: int | None = None) -> None:
        """The stream of a side starts at `base`, or else at the smallest byte known."""
        self._begin(conn, index, base)
        self._drain(conn, index)

    def _start_held(self, conn: Connection) -> None:
        """Start both sides as far as they are held: each must know the other's start for `need`."""
        held = [index for index, side in enumerate(conn.sides) if side.hold_since is not None]
        for index in held:
            self._begin(conn, index, None)
        for index in held:
            self._drain(conn, index)

    def _begin(self, conn: Connection, index: int, base: int | None) -> None:
        me = conn.sides[index]
        if base is None:
            base = me.hold_seq
            if conn.syn and me.ack_low is not None and 0 < distance(base, me.ack_low) <= WINDOW:
                base = me.ack_low
        cost = me.cost
        for held in me.start(base):
            off = distance(held.seq, base)
            end = off + held.wire_len
            late = me.is_late(off, end, held.stamp.ts_ns, -1) or held.late
            if not me.put(off, held.data, held.wire_len, held.ack, held.stamp, late):
                self._again(conn, index, end, held.wire_len, held.copy)
        me.note_held_acks()
        self._cost += me.cost - cost

    # -- delivery

    def _check(self, conn: Connection, now: Stamp) -> None:
        """Start sides that waited long enough, and declare holes lost."""
        if any(
            me.hold_since is not None
            and (
                conn.packets - me.hold_since.packet >= START_PACKETS
                or self._clock - me.hold_since.clock >= START_NS
                or self._is_over(me)
            )
            for me in conn.sides
        ):
            self._start_held(conn)
        for index, me in enumerate(conn.sides):
            if not me.started:
                continue
            peer_seen = conn.sides[1 - index].seen
            while (since := me.hole_since(now)) is not None and self._is_lost(
                me, peer_seen, conn.packets - since.packet, self._clock - since.clock
            ):
                self._declare(conn, index, now.ts_ns)
            if self._is_over(me):
                self.counters.buffer_limit_hits += 1
                while self._is_over(me):
                    self._declare(conn, index, now.ts_ns)
        if not conn.answered and all(me.next for me in conn.sides):
            conn.answered = True
            del self._unanswered[conn.id]

    def _is_over(self, me: Side) -> bool:
        return me.cost > self._limits.side_buffer or (
            me.cost > 0 and self._cost > self._limits.total_buffer
        )

    @staticmethod
    def _is_lost(me: Side, peer_seen: bool, packets: int, elapsed: int) -> bool:
        if me.acked > me.next:
            return packets >= LOST_PACKETS or (packets >= LOST_PACKETS_SLOW and elapsed >= LOST_NS)
        return not peer_seen and packets >= LOST_PACKETS and elapsed >= LOST_ONE_SIDED_NS

    def _declare(self, conn: Connection, index: int, ts_ns: int) -> None:
        """The hole at `next` is lost: up to what waits behind it, or to what the peer has."""
        me = conn.sides[index]
        waiting = me.first_waiting()
        if waiting is None:
            self._gap(conn, index, ts_ns, me.acked - me.next)
        else:
            self._gap(conn, index, waiting.stamp.ts_ns, waiting.off - me.next)
            self._drain(conn, index)

    def _drain(self, conn: Connection, index: int) -> None:
        """Deliver what no longer waits."""
        me = conn.sides[index]
        chunks, cuts = me.chunks, me.cuts
        used = used_cuts = 0
        cost = me.cost
        while True:
            if used < len(chunks) and chunks[used].off <= me.next:
                chunk = chunks[used]
                used += 1
                me.cost -= len(chunk.data) + CHUNK_OVERHEAD
                self._data(conn, index, chunk.stamp.ts_ns, chunk.ack, chunk.data, chunk.late)
            elif used_cuts < len(cuts) and cuts[used_cuts].off <= me.next:
                cut = cuts[used_cuts]
                used_cuts += 1
                me.cost -= CHUNK_OVERHEAD
                end = min(cut.end, chunks[used].off) if used < len(chunks) else cut.end
                if end > me.next:
                    self._gap(conn, index, cut.stamp.ts_ns, end - me.next)
            else:
                break
        del chunks[:used]
        del cuts[:used_cuts]
        self._cost += me.cost - cost

    def _data(
        self, conn: Connection, index: int, ts_ns: int, ack: int, data: bytes, late: bool
    ) -> None:
        need = conn.sides[1 - index].need(ack)
        conn.sides[index].next += len(data)
        self.counters.late_segments += late
        self._handler.data(conn.id, index, ts_ns, need, data, late)

    def _gap(self, conn: Connection, index: int, ts_ns: int, n: int) -> None:
        self.counters.gaps += 1
        self.counters.gap_bytes += n
        conn.sides[index].next += n
        self._handler.gap(conn.id, index, ts_ns, n)
