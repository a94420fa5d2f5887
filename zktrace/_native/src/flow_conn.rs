//! One TCP connection: what a segment does to it, when a hole is declared a gap.
//!
//! The rules are told in `zktrace/flow/tcp.py`, the readable reference; both must make the same
//! calls. Knows nothing of other connections.

use std::collections::VecDeque;

use crate::flow::{Counters, End, FlowSink, Limits};
use crate::flow_side::{distance, Chunk, Held, Ready, Side, Stamp, WINDOW};
use crate::flow_table::{Key, Tombstone};
use crate::ip::{Segment, ACK, FIN, RST, SYN};

const SECOND: i64 = 1_000_000_000;

/// A stream joined mid-way starts when so many packets of its connection followed its first one, or
/// after so long. Reordering by a capture spans a few packets.
const START_PACKETS: u64 = 16;
const START_NS: i64 = SECOND;

/// A hole that the peer acknowledged is lost after so many packets, or fewer when time passed too.
const LOST_PACKETS: u64 = 64;
const LOST_PACKETS_SLOW: u64 = 4;
const LOST_NS: i64 = SECOND;
/// Without any packet of the peer nobody acknowledges: retransmissions may yet come.
const LOST_ONE_SIDED_NS: i64 = 2 * SECOND;

/// A connection that both sides closed, or that was reset, takes late packets for so long.
const CLOSING_PACKETS: u32 = 64;
pub const CLOSING_NS: i64 = SECOND;

/// `Conn::id` of a slot that is free.
pub const FREE: u64 = u64::MAX;

/// What all connections share.
pub struct Shared {
    pub limits: Limits,
    pub counters: Counters,
    /// The latest time seen.
    pub clock: i64,
    /// Of what all connections hold.
    pub cost: u64,
    /// Connections of which not both sides sent data.
    pub unanswered: usize,
    /// Slot, connection and clock, by time of closing. Connections that ended since are stale.
    pub closing: VecDeque<(u32, u64, i64)>,
}

pub struct Conn {
    pub id: u64,
    pub slot: u32,
    /// Both sides are plain and sent data, and nothing was closed: in-order segments need no further look.
    pub plain: bool,
    /// Both sides sent data.
    pub answered: bool,
    /// Side A is the greater endpoint of the key.
    pub flip: bool,
    syn: bool,
    /// Number of the last segment.
    pub touched: u64,
    pub packets: u64,
    /// Latest time of an RST, and of the first segment: of others, `sides` know.
    last_ts: i64,
    pub sides: [Side; 2],
    pub key: Key,
    pub closing: Option<(End, i64)>,
    packets_left: u32,
}

impl Counters {
    /// A segment, up to `end`, brought nothing.
    fn again(&mut self, me: &Side, other: &mut Side, end: i64, length: u32, copy: bool) {
        if length == 1 && end == me.next {
            self.keepalives += 1;
        } else if copy {
            self.duplicate_packets += 1;
        } else {
            self.retransmitted_segments += 1;
            other.past.asked_again(&me.past);
        }
    }
}

impl Conn {
    pub fn new(id: u64, slot: u32, key: Key, flip: bool, syn: bool, ts_ns: i64) -> Self {
        Conn {
            id,
            slot,
            plain: false,
            answered: false,
            flip,
            syn,
            touched: 0,
            packets: 0,
            last_ts: ts_ns,
            sides: [Side::default(), Side::default()],
            key,
            closing: None,
            packets_left: CLOSING_PACKETS,
        }
    }

    /// Latest time of a segment.
    pub fn last_ts(&self) -> i64 {
        let [a, b] = &self.sides;
        self.last_ts.max(a.past.last_ts).max(b.past.last_ts)
    }

    #[inline]
    pub fn pair(&mut self, side: usize) -> (&mut Side, &mut Side) {
        let [a, b] = &mut self.sides;
        if side == 0 {
            (a, b)
        } else {
            (b, a)
        }
    }

    /// The common case: an acknowledgement, or the next bytes. False: nothing was done, take `step`.
    #[inline(always)]
    pub fn fast<S: FlowSink>(&mut self, upper: bool, seg: &Segment<'_>, sink: &mut S) -> bool {
        if !self.plain || seg.flags & (SYN | FIN | RST) != 0 {
            return false;
        }
        let index = usize::from(upper != self.flip);
        let (me, other) = self.pair(index);
        let mut need = 0;
        let mut acks = me.acks;
        if seg.flags & ACK != 0 {
            let d = distance(seg.ack, other.next_seq());
            if d > 0 {
                return false;
            }
            need = other.next.wrapping_add(d).max(0) as u64;
            acks = need;
        }
        if seg.seq != me.next_seq()
            || !me.past.follows(seg.ident)
            || seg.payload.len() as u64 != u64::from(seg.wire_len)
        {
            return false;
        }
        me.past.pass(seg.wire_len, seg.ts_ns);
        me.acks = acks;
        if seg.wire_len != 0 {
            me.data_acks = acks;
            me.next = me.next.wrapping_add(i64::from(seg.wire_len));
            sink.data(
                self.slot,
                self.id,
                index as u8,
                seg.ts_ns,
                need,
                seg.payload,
            );
        }
        self.packets += 1;
        true
    }

    /// Does this segment belong to a new connection on the same addresses and ports?
    pub fn is_other(&mut self, upper: bool, seg: &Segment<'_>) -> bool {
        if seg.flags & RST != 0 {
            return false;
        }
        let index = usize::from(upper != self.flip);
        let (me, other) = self.pair(index);
        if seg.flags & SYN == 0 {
            return seg.wire_len > 0 && (me.is_far(seg.seq) || me.is_beyond_fin(seg.seq));
        }
        let start = seg.seq.wrapping_add(1);
        if me.started {
            return me.base != start;
        }
        if !me.can_start_at(start) {
            return true;
        }
        // A SYN+ACK answers the SYN that we know, or another one.
        seg.flags & ACK != 0
            && other.started
            && !(0..=WINDOW).contains(&distance(seg.ack, other.base))
    }

    /// Takes a segment. True: the connection is to be finalized.
    pub fn step<S: FlowSink>(
        &mut self,
        upper: bool,
        seg: &Segment<'_>,
        shared: &mut Shared,
        sink: &mut S,
    ) -> bool {
        let index = usize::from(upper != self.flip);
        self.packets += 1;
        if self.closing.is_some() {
            self.packets_left = self.packets_left.saturating_sub(1);
        }
        let now = Stamp {
            ts_ns: seg.ts_ns,
            packet: self.packets,
            clock: shared.clock,
        };
        if seg.flags & RST != 0 {
            self.last_ts = self.last_ts.max(seg.ts_ns);
        }
        let (me, other) = self.pair(index);
        me.seen = true;
        if seg.flags & RST == 0 {
            me.past
                .packet(seg.ident, seg.wire_len, seg.ts_ns, now.packet);
            self.take(index, seg, now, shared, sink);
        } else {
            let fits = seg.flags & ACK != 0
                && other.started
                && distance(seg.ack, other.next_seq()).abs() <= WINDOW;
            if me.is_far(seg.seq) && !fits {
                shared.counters.stray_segments += 1;
            } else {
                self.close(End::Reset, seg.ts_ns, shared);
            }
        }
        self.look(now, shared, sink);
        self.closing.is_some() && self.packets_left == 0
    }

    /// Time went on without a segment.
    pub fn tick<S: FlowSink>(&mut self, shared: &mut Shared, sink: &mut S) {
        let now = Stamp {
            ts_ns: shared.clock,
            packet: self.packets,
            clock: shared.clock,
        };
        self.look(now, shared, sink);
    }

    fn look<S: FlowSink>(&mut self, now: Stamp, shared: &mut Shared, sink: &mut S) {
        self.check(now, shared, sink);
        let [a, b] = &self.sides;
        if !self.answered && a.next != 0 && b.next != 0 {
            self.answered = true;
            shared.unanswered -= 1;
        }
        self.plain = self.answered && self.closing.is_none() && a.is_plain() && b.is_plain();
    }

    /// Is something held back, or missing, that time alone may settle?
    pub fn waits(&self) -> bool {
        self.sides.iter().any(Side::waits)
    }

    /// Nothing new is expected; `end` follows when late packets had their chance.
    fn close(&mut self, how: End, ts_ns: i64, shared: &mut Shared) {
        if self.closing.is_none() {
            self.closing = Some((how, ts_ns));
            shared.closing.push_back((self.slot, self.id, shared.clock));
        }
    }

    /// SYN, acknowledgement, FIN and payload of a segment.
    fn take<S: FlowSink>(
        &mut self,
        index: usize,
        seg: &Segment<'_>,
        now: Stamp,
        shared: &mut Shared,
        sink: &mut S,
    ) {
        let mut seq = seg.seq;
        if seg.flags & SYN != 0 {
            // Data may come with a SYN, behind it (RFC 7413).
            seq = seq.wrapping_add(1);
            if !self.pair(index).0.started {
                self.start(index, Some(seq), shared, sink);
            }
        }
        let (me, other) = self.pair(index);
        let ack = (seg.flags & ACK != 0).then_some(seg.ack);
        if let Some(ack) = ack {
            if other.started {
                other.note_ack(ack, seg.ts_ns);
            } else {
                other.hold_ack(ack, seg.ts_ns);
            }
            if other.started {
                if me.acks < other.next as u64 {
                    me.past.owed(other.past.last_ts, seg.ts_ns);
                }
                me.acks = other.need(Some(ack));
            }
        }
        if seg.wire_len != 0 {
            me.data_acks = me.acks;
        }
        if seg.flags & FIN != 0 && !me.fin_seen && !me.is_far(seq) {
            let fin = seq.wrapping_add(seg.wire_len);
            if me.started {
                me.set_fin(fin);
            } else {
                me.hold_fin(seq, fin, now);
            }
            if me.fin_seen && other.fin_seen {
                self.close(End::Closed, seg.ts_ns, shared);
            }
        }
        let (me, _) = self.pair(index);
        if seg.wire_len == 0 {
            if me.started && seg.flags & SYN == 0 {
                me.note_seq(seq, seg.ts_ns);
                let alive = seq == me.next_seq().wrapping_sub(1);
                shared.counters.keepalives += u64::from(alive);
            }
            return;
        }
        if me.started {
            self.payload(index, seg, seq, now, shared, sink);
        } else {
            let cost = me.cost;
            let late = me.is_held_late(seq, seg.ts_ns);
            me.hold_segment(Held {
                seq,
                data: seg.payload.to_vec(),
                wire_len: seg.wire_len,
                ack,
                stamp: now,
                late,
                copy: me.past.is_copy,
            });
            shared.cost += me.cost - cost;
        }
    }

    fn payload<S: FlowSink>(
        &mut self,
        index: usize,
        seg: &Segment<'_>,
        seq: u32,
        now: Stamp,
        shared: &mut Shared,
        sink: &mut S,
    ) {
        let ack = (seg.flags & ACK != 0).then_some(seg.ack);
        let (_, other) = self.pair(index);
        if other.hold_since.is_some() && ack.is_some_and(|ack| other.is_held_before(ack)) {
            // what the other side sent before this is held still: cause comes before effect
            self.start(1 - index, None, shared, sink);
        }
        let (me, other) = self.pair(index);
        // Who acknowledges the last data of the other side has what that acknowledged.
        let has_all = me.acks >= other.next as u64;
        let acked = if has_all { other.data_acks as i64 } else { -1 };
        let off = me.next.wrapping_add(distance(seq, me.next_seq()));
        let end = off.wrapping_add(i64::from(seg.wire_len));
        if end <= me.next {
            let copy = me.past.is_copy;
            shared.counters.again(me, other, end, seg.wire_len, copy);
            return;
        }
        let late = me.is_late(off, end, seg.ts_ns, acked);
        if off <= me.next
            && seg.payload.len() as u64 == u64::from(seg.wire_len)
            && !me.has_waiting()
        {
            let fresh = seg
                .payload
                .get((me.next - off) as usize..)
                .unwrap_or_default();
            self.data(index, seg.ts_ns, ack, fresh, late, shared, sink);
        } else {
            let cost = me.cost;
            let new = me.put(off, seg.payload, seg.wire_len, ack, now, late);
            shared.cost += me.cost - cost;
            if !new {
                let copy = me.past.is_copy;
                shared.counters.again(me, other, end, seg.wire_len, copy);
            } else if off > me.next {
                shared.counters.out_of_order_segments += 1;
            }
            self.drain(index, shared, sink);
        }
    }

    /// The stream of a side starts at `base`, or else at the smallest byte known.
    fn start<S: FlowSink>(
        &mut self,
        index: usize,
        base: Option<u32>,
        shared: &mut Shared,
        sink: &mut S,
    ) {
        self.begin(index, base, shared);
        self.drain(index, shared, sink);
    }

    /// Starts both sides as far as they are held: each must know the other's start for `need`.
    fn start_held<S: FlowSink>(&mut self, shared: &mut Shared, sink: &mut S) {
        let held = [0, 1].map(|index| self.pair(index).0.hold_since.is_some());
        for (index, held) in held.into_iter().enumerate() {
            if held {
                self.begin(index, None, shared);
            }
        }
        for (index, held) in held.into_iter().enumerate() {
            if held {
                self.drain(index, shared, sink);
            }
        }
    }

    fn begin(&mut self, index: usize, base: Option<u32>, shared: &mut Shared) {
        let syn = self.syn;
        let (me, other) = self.pair(index);
        let base = base.unwrap_or_else(|| me.likely_start(syn));
        let before = me.cost;
        for held in me.start(base) {
            let off = distance(held.seq, base);
            let end = off.wrapping_add(i64::from(held.wire_len));
            let late = me.is_late(off, end, held.stamp.ts_ns, -1) || held.late;
            if !me.put(off, &held.data, held.wire_len, held.ack, held.stamp, late) {
                shared
                    .counters
                    .again(me, other, end, held.wire_len, held.copy);
            }
        }
        me.note_held_acks();
        shared.cost = shared.cost + me.cost - before;
    }

    /// Starts sides that waited long enough, and declares holes lost.
    fn check<S: FlowSink>(&mut self, now: Stamp, shared: &mut Shared, sink: &mut S) {
        if (0..2).any(|index| self.held_long_enough(index, now, shared)) {
            self.start_held(shared, sink);
        }
        for index in 0..2 {
            if !self.pair(index).0.started {
                continue;
            }
            while self.has_lost(index, now) {
                self.declare(index, now.ts_ns, shared, sink);
            }
            if self.is_over(index, shared) {
                shared.counters.buffer_limit_hits += 1;
                while self.is_over(index, shared) {
                    self.declare(index, now.ts_ns, shared, sink);
                }
            }
        }
    }

    fn held_long_enough(&mut self, index: usize, now: Stamp, shared: &Shared) -> bool {
        let Some((packet, clock)) = self.pair(index).0.hold_since else {
            return false;
        };
        now.packet - packet >= START_PACKETS
            || now.clock.saturating_sub(clock) >= START_NS
            || self.is_over(index, shared)
    }

    fn is_over(&mut self, index: usize, shared: &Shared) -> bool {
        let cost = self.pair(index).0.cost;
        cost > shared.limits.side_buffer || (cost > 0 && shared.cost > shared.limits.total_buffer)
    }

    fn has_lost(&mut self, index: usize, now: Stamp) -> bool {
        let (me, other) = self.pair(index);
        let Some((packet, clock)) = me.hole_since(now) else {
            return false;
        };
        let packets = now.packet - packet;
        let elapsed = now.clock.saturating_sub(clock);
        if me.acked > me.next {
            packets >= LOST_PACKETS || (packets >= LOST_PACKETS_SLOW && elapsed >= LOST_NS)
        } else {
            !other.seen && packets >= LOST_PACKETS && elapsed >= LOST_ONE_SIDED_NS
        }
    }

    /// The hole at `next` is lost: up to what waits behind it, or to what the peer has.
    fn declare<S: FlowSink>(
        &mut self,
        index: usize,
        ts_ns: i64,
        shared: &mut Shared,
        sink: &mut S,
    ) {
        let (me, _) = self.pair(index);
        match me.first_waiting() {
            None => {
                let lost = me.acked - me.next;
                self.gap(index, ts_ns, lost, shared, sink);
            }
            Some((off, stamp)) => {
                let lost = off - me.next;
                self.gap(index, stamp.ts_ns, lost, shared, sink);
                self.drain(index, shared, sink);
            }
        }
    }

    /// Delivers what no longer waits.
    fn drain<S: FlowSink>(&mut self, index: usize, shared: &mut Shared, sink: &mut S) {
        let before = self.pair(index).0.cost;
        while let Some(ready) = self.pair(index).0.pop_ready() {
            match ready {
                Ready::Data(chunk) => {
                    let Chunk {
                        data,
                        ack,
                        stamp,
                        late,
                    } = chunk;
                    self.data(index, stamp.ts_ns, ack, &data, late, shared, sink);
                }
                Ready::Cut { end, stamp } => {
                    let lost = end - self.pair(index).0.next;
                    self.gap(index, stamp.ts_ns, lost, shared, sink);
                }
            }
        }
        shared.cost -= before - self.pair(index).0.cost;
    }

    /// Delivers all that is left, and says what is missing. `end` is the caller's to say.
    pub fn flush<S: FlowSink>(&mut self, ts_ns: i64, shared: &mut Shared, sink: &mut S) {
        self.start_held(shared, sink);
        for index in 0..2 {
            while self.pair(index).0.first_waiting().is_some() {
                self.declare(index, ts_ns, shared, sink);
            }
            let lost = self.pair(index).0.lost_at_end();
            self.gap(index, ts_ns, lost, shared, sink);
        }
    }

    pub fn tombstone(&self) -> Tombstone {
        let [a, b] = &self.sides;
        Tombstone {
            flip: self.flip,
            sides: [a, b].map(|side| {
                side.started
                    .then(|| (side.base, side.next_seq(), side.ended()))
            }),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn data<S: FlowSink>(
        &mut self,
        index: usize,
        ts_ns: i64,
        ack: Option<u32>,
        data: &[u8],
        late: bool,
        shared: &mut Shared,
        sink: &mut S,
    ) {
        let (me, other) = self.pair(index);
        let need = other.need(ack);
        me.next = me.next.wrapping_add(data.len() as i64);
        if late {
            shared.counters.late_segments += 1;
            sink.late_data(self.slot, self.id, index as u8, ts_ns, need, data);
        } else {
            sink.data(self.slot, self.id, index as u8, ts_ns, need, data);
        }
    }

    fn gap<S: FlowSink>(
        &mut self,
        index: usize,
        ts_ns: i64,
        lost: i64,
        shared: &mut Shared,
        sink: &mut S,
    ) {
        if lost <= 0 {
            return;
        }
        shared.counters.gaps += 1;
        shared.counters.gap_bytes += lost as u64;
        let (me, _) = self.pair(index);
        me.next = me.next.wrapping_add(lost);
        sink.gap(self.slot, self.id, index as u8, ts_ns, lost as u64);
    }
}
