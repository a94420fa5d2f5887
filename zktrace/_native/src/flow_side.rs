//! One direction of a TCP connection: where its stream stands, and what waits behind a hole.
//!
//! Positions are 64-bit offsets from the first byte of the stream; sequence numbers (32 bits, they
//! wrap: RFC 9293, section 3.4) become offsets by their signed distance to the next expected one.
//! Knows nothing of connections, sinks or policies: it stores, and answers where things are. The
//! reference is `zktrace/flow/side.py`; both must do the same.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use crate::flow_past::Past;

/// Farther than this from the next expected byte is not reordering or loss: it is another connection
/// on the same ports, or nonsense. Sixteen times the buffer limit, far below the 2^31 where signed
/// distances turn over.
pub const WINDOW: i64 = 1 << 23;

/// What a buffered piece costs beside its bytes: a flood of one-byte segments hits the limits too.
pub const CHUNK_OVERHEAD: u64 = 128;

/// No FIN seen, or not where it could be.
const NO_OFFSET: i64 = i64::MAX;

/// Signed distance from sequence number `b` to `a`.
#[inline]
pub fn distance(a: u32, b: u32) -> i64 {
    i64::from(a.wrapping_sub(b) as i32)
}

/// When a segment came: its own time, the count of packets of its connection, and the clock of the
/// capture (the latest time seen so far: packet times may go backwards).
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    pub ts_ns: i64,
    pub packet: u64,
    pub clock: i64,
}

/// Captured bytes that wait for earlier ones.
pub struct Chunk {
    pub data: Vec<u8>,
    pub ack: Option<u32>,
    pub stamp: Stamp,
    pub late: bool,
}

impl Chunk {
    /// Of the bytes from `off` on, another copy of those from `low` to `end` was captured.
    fn again(&mut self, off: i64, (low, end): (i64, i64), ts_ns: i64, late: bool) {
        if ts_ns >= self.stamp.ts_ns {
            return;
        }
        if low <= off && off + self.data.len() as i64 <= end {
            self.stamp.ts_ns = ts_ns;
            self.late = late;
        } else {
            self.late = true; // a part is older than the rest
        }
    }
}

/// Bytes that were on the wire but were cut from the packet by the snap length.
pub struct Cut {
    pub end: i64,
    pub stamp: Stamp,
}

/// A segment that waits until the start of its stream is known.
pub struct Held {
    pub seq: u32,
    pub data: Vec<u8>,
    pub wire_len: u32,
    pub ack: Option<u32>,
    pub stamp: Stamp,
    pub late: bool,
    pub copy: bool,
}

/// What most sides never have: allocated when needed, freed when empty.
#[derive(Default)]
struct Waiting {
    /// By offset, without overlaps, all beyond `next`.
    chunks: BTreeMap<i64, Chunk>,
    cuts: BTreeMap<i64, Cut>,
    held: Vec<Held>,
}

/// What comes off the buffer next.
pub enum Ready {
    Data(Chunk),
    Cut { end: i64, stamp: Stamp },
}

/// State of one direction.
pub struct Side {
    /// Offset of the next byte to deliver.
    pub next: i64,
    /// Sequence number of offset 0.
    pub base: u32,
    pub past: Past,
    /// Offset in the other side's stream that the last packet acknowledges, and that with data.
    pub acks: u64,
    pub data_acks: u64,
    /// `base` is known.
    pub started: bool,
    /// Any packet of this sender.
    pub seen: bool,
    pub fin_seen: bool,
    has_fin_seq: bool,
    has_acks: bool,
    /// The peer acknowledged up to here; of interest only when beyond `next`.
    pub acked: i64,
    fin_off: i64,
    /// Value of `next` for which an acknowledgement beyond it was first seen, and when.
    ack_noted_at: i64,
    ack_noted_packet: u64,
    ack_noted_clock: i64,
    /// Of chunks, cuts and held segments.
    pub cost: u64,
    waiting: Option<Box<Waiting>>,
    // Only until the side is started:
    pub hold_since: Option<(u64, i64)>,
    hold_seq: u32,
    fin_seq: u32,
    ack_low: u32,
    ack_high: u32,
    ack_high_ts: i64,
}

impl Default for Side {
    fn default() -> Self {
        Side {
            next: 0,
            base: 0,
            past: Past::default(),
            acks: 0,
            data_acks: 0,
            started: false,
            seen: false,
            fin_seen: false,
            has_fin_seq: false,
            has_acks: false,
            acked: 0,
            fin_off: NO_OFFSET,
            ack_noted_at: -1,
            ack_noted_packet: 0,
            ack_noted_clock: 0,
            cost: 0,
            waiting: None,
            hold_since: None,
            hold_seq: 0,
            fin_seq: 0,
            ack_low: 0,
            ack_high: 0,
            ack_high_ts: 0,
        }
    }
}

impl Side {
    #[inline]
    pub fn next_seq(&self) -> u32 {
        self.base.wrapping_add(self.next as u32)
    }

    /// Nothing but the next bytes is expected, and nothing needs a look at each packet.
    pub fn is_plain(&self) -> bool {
        self.started
            && self.seen
            && !self.fin_seen
            && self.waiting.is_none()
            && self.acked <= self.next
            && self.past.is_plain(self.next)
    }

    /// Is something held back, or missing, that time alone may settle?
    pub fn waits(&self) -> bool {
        if !self.started {
            return self.hold_since.is_some();
        }
        self.has_waiting() || self.acked > self.next
    }

    /// Does `seq` belong to another connection?
    pub fn is_far(&self, seq: u32) -> bool {
        if self.started {
            distance(seq, self.next_seq()).abs() > WINDOW
        } else if self.hold_since.is_some() {
            distance(seq, self.hold_seq).abs() > WINDOW
        } else {
            false
        }
    }

    /// Does `seq` come after the last byte that this sender had to send?
    pub fn is_beyond_fin(&self, seq: u32) -> bool {
        self.started
            && self.fin_off != NO_OFFSET
            && self.next.wrapping_add(distance(seq, self.next_seq())) > self.fin_off
    }

    /// Everything up to its FIN was delivered.
    pub fn ended(&self) -> bool {
        self.fin_off != NO_OFFSET && self.next >= self.fin_off
    }

    // -- before the start is known

    /// Take note that the stream starts at `seq` or before.
    fn hold(&mut self, seq: u32, stamp: Stamp) {
        if self.hold_since.is_none() {
            self.hold_since = Some((stamp.packet, stamp.clock));
            self.hold_seq = seq;
        } else if distance(seq, self.hold_seq) < 0 {
            self.hold_seq = seq;
        }
    }

    pub fn hold_segment(&mut self, held: Held) {
        self.hold(held.seq, held.stamp);
        self.cost += held.data.len() as u64 + CHUNK_OVERHEAD;
        self.waiting().held.push(held);
    }

    /// A FIN at `fin`, in a segment that starts at `seq`, before offsets are known.
    pub fn hold_fin(&mut self, seq: u32, fin: u32, stamp: Stamp) {
        self.fin_seen = true;
        self.has_fin_seq = true;
        self.fin_seq = fin;
        self.hold(seq, stamp);
    }

    /// The peer acknowledged `ack`, of which the offset is not known yet.
    pub fn hold_ack(&mut self, ack: u32, ts_ns: i64) {
        if !self.has_acks {
            self.has_acks = true;
            self.ack_low = ack;
            self.ack_high = ack;
            self.ack_high_ts = ts_ns;
        } else if distance(ack, self.ack_low).abs() <= WINDOW {
            if distance(ack, self.ack_low) < 0 {
                self.ack_low = ack;
            }
            if distance(ack, self.ack_high) > 0 {
                self.ack_high = ack;
                self.ack_high_ts = ts_ns;
            }
        }
    }

    /// Whether `ack`, sent by the peer, acknowledges bytes that are held.
    pub fn is_held_before(&self, ack: u32) -> bool {
        distance(ack, self.hold_seq) > 0
    }

    /// Is `start` where the segments held so far can begin?
    pub fn can_start_at(&self, start: u32) -> bool {
        self.hold_since.is_none() || (0..=WINDOW).contains(&distance(self.hold_seq, start))
    }

    /// The best start known without a SYN of this side. With `syn`, the other side's was seen, so an
    /// acknowledgement below the first byte held speaks of bytes that were lost.
    pub fn likely_start(&self, syn: bool) -> u32 {
        let ahead = distance(self.hold_seq, self.ack_low);
        if syn && self.has_acks && ahead > 0 && ahead <= WINDOW {
            self.ack_low
        } else {
            self.hold_seq
        }
    }

    /// Whether bytes from `seq` on may have passed before, uncaptured, for all that is known.
    pub fn is_held_late(&mut self, seq: u32, ts_ns: i64) -> bool {
        let acked = self.has_acks && distance(seq, self.ack_high) < 0;
        self.past.is_late(0, ts_ns, 0, -1) || (acked && ts_ns > self.ack_high_ts)
    }

    /// Offset 0 is sequence number `base`. Returns what was held, in order of arrival.
    pub fn start(&mut self, base: u32) -> Vec<Held> {
        self.started = true;
        self.base = base;
        if self.has_fin_seq {
            self.set_fin(self.fin_seq);
        }
        self.hold_since = None;
        let held = match self.waiting.as_mut() {
            Some(waiting) => std::mem::take(&mut waiting.held),
            None => Vec::new(),
        };
        for item in &held {
            self.cost -= item.data.len() as u64 + CHUNK_OVERHEAD;
        }
        self.tidy();
        held
    }

    /// What was acknowledged before the start was known.
    pub fn note_held_acks(&mut self) {
        if self.has_acks {
            self.note_ack(self.ack_high, self.ack_high_ts);
        }
    }

    // -- once it is known

    pub fn set_fin(&mut self, seq: u32) {
        let d = distance(seq, self.next_seq());
        if self.fin_off == NO_OFFSET && d.abs() <= WINDOW {
            self.fin_seen = true;
            self.fin_off = self.next.wrapping_add(d).max(0);
            // The acknowledgement of a FIN counts one more than there are bytes.
            self.acked = self.acked.min(self.fin_off);
        }
    }

    /// The peer acknowledged `ack`. One absurdly far ahead is no evidence of lost bytes.
    pub fn note_ack(&mut self, ack: u32, ts_ns: i64) {
        let d = distance(ack, self.next_seq());
        if d > 0 && d <= WINDOW {
            let off = self.next.wrapping_add(d).min(self.fin_off);
            self.acked = self.acked.max(off);
            self.past.prove(off, ts_ns, self.next);
        }
    }

    /// A packet without data has the number of the byte that will be sent next.
    pub fn note_seq(&mut self, seq: u32, ts_ns: i64) {
        let d = distance(seq, self.next_seq());
        if d == 0 {
            self.past.nothing_beyond();
        } else if d > 0 && d <= WINDOW {
            self.past.prove(self.next.wrapping_add(d), ts_ns, self.next);
        }
    }

    /// Whether the new bytes of a segment may have passed before, uncaptured; and from now on they have. The sender
    /// knows that the bytes before `acked` arrived.
    pub fn is_late(&mut self, off: i64, end: i64, ts_ns: i64, acked: i64) -> bool {
        let low = off.max(self.next);
        let late = self.past.is_late(low, ts_ns, self.next, acked);
        self.past.prove(end, ts_ns, self.next);
        late
    }

    /// Offset up to which `ack`, sent by the peer, acknowledges this side; 0 if unknown.
    pub fn need(&self, ack: Option<u32>) -> u64 {
        let Some(ack) = ack else { return 0 };
        if !self.started {
            return 0;
        }
        let d = distance(ack, self.next_seq());
        if d > WINDOW {
            return 0;
        }
        self.next.wrapping_add(d).min(self.fin_off).max(0) as u64
    }

    /// Bytes known to have been sent that were never captured, when nothing more will come. A FIN
    /// proves the bytes before it, an acknowledgement too; but if it is one byte beyond the last, it
    /// acknowledges a FIN.
    pub fn lost_at_end(&self) -> i64 {
        if self.fin_off != NO_OFFSET {
            return (self.fin_off - self.next).max(0);
        }
        let lost = self.acked - self.next;
        if lost > 1 {
            lost
        } else {
            0
        }
    }

    /// Buffer what is new of a segment; of bytes that wait already the first copy stays, with the earliest time. Was
    /// anything new?
    pub fn put(
        &mut self,
        off: i64,
        data: &[u8],
        wire_len: u32,
        ack: Option<u32>,
        stamp: Stamp,
        late: bool,
    ) -> bool {
        let end = off.wrapping_add(data.len() as i64);
        let wire_end = off.wrapping_add(i64::from(wire_len));
        let low = off.max(self.next);
        let mut new = false;
        if end > low {
            let fresh = data.get((low - off) as usize..).unwrap_or_default();
            new = self.put_data(low, fresh, ack, stamp, late);
        }
        let low = low.max(end);
        if wire_end > low {
            new |= self.put_cut(low, wire_end, stamp);
        }
        self.tidy();
        new
    }

    fn put_data(
        &mut self,
        low: i64,
        data: &[u8],
        ack: Option<u32>,
        stamp: Stamp,
        late: bool,
    ) -> bool {
        let end = low + data.len() as i64;
        let chunks = &mut self.waiting.get_or_insert_with(Default::default).chunks;
        // The holes between chunks that this segment fills.
        let mut pieces: Vec<(i64, i64)> = Vec::new();
        let mut first = low;
        if let Some((&off, chunk)) = chunks.range_mut(..=low).next_back() {
            let stop = off + chunk.data.len() as i64;
            if stop > low {
                chunk.again(off, (low, end), stamp.ts_ns, late);
                first = stop;
            }
        }
        for (&off, chunk) in chunks.range_mut((Excluded(low), Unbounded)) {
            if off >= end {
                break;
            }
            chunk.again(off, (low, end), stamp.ts_ns, late);
            if off > first {
                pieces.push((first, off));
            }
            first = off + chunk.data.len() as i64;
        }
        if first < end {
            pieces.push((first, end));
        }
        let new = !pieces.is_empty();
        for (from, to) in pieces {
            if let Some(bytes) = data.get((from - low) as usize..(to - low) as usize) {
                self.cost += bytes.len() as u64 + CHUNK_OVERHEAD;
                let data = bytes.to_vec();
                let chunk = Chunk {
                    data,
                    ack,
                    stamp,
                    late,
                };
                chunks.insert(from, chunk);
            }
        }
        new
    }

    fn put_cut(&mut self, low: i64, end: i64, stamp: Stamp) -> bool {
        let waiting = self.waiting();
        if end_before(&waiting.chunks, low) > low {
            return false;
        }
        if let Some((_, cut)) = waiting.cuts.range(..=low).next_back() {
            if cut.end > low {
                return false;
            }
        }
        waiting.cuts.insert(low, Cut { end, stamp });
        self.cost += CHUNK_OVERHEAD;
        true
    }

    /// Whether anything waits behind a hole: no in-order segment may pass it by unseen.
    #[inline]
    pub fn has_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// What comes right behind the hole: its offset and stamp.
    pub fn first_waiting(&self) -> Option<(i64, Stamp)> {
        let waiting = self.waiting.as_ref()?;
        let chunk = waiting.chunks.first_key_value();
        let cut = waiting.cuts.first_key_value();
        match (chunk, cut) {
            (Some((&off, chunk)), Some((&cut_off, _))) if off <= cut_off => {
                Some((off, chunk.stamp))
            }
            (_, Some((&off, cut))) => Some((off, cut.stamp)),
            (Some((&off, chunk)), None) => Some((off, chunk.stamp)),
            (None, None) => None,
        }
    }

    /// Takes off the buffer what no longer waits. A cut ends where captured bytes begin.
    pub fn pop_ready(&mut self) -> Option<Ready> {
        let next = self.next;
        let waiting = self.waiting.as_mut()?;
        let first_chunk = waiting.chunks.keys().next().copied();
        if first_chunk.is_some_and(|off| off <= next) {
            let (_, chunk) = waiting.chunks.pop_first()?;
            self.cost -= chunk.data.len() as u64 + CHUNK_OVERHEAD;
            self.tidy();
            return Some(Ready::Data(chunk));
        }
        if *waiting.cuts.keys().next()? > next {
            return None;
        }
        let (_, cut) = waiting.cuts.pop_first()?;
        let end = cut.end.min(first_chunk.unwrap_or(i64::MAX));
        self.cost -= CHUNK_OVERHEAD;
        self.tidy();
        Some(Ready::Cut {
            end,
            stamp: cut.stamp,
        })
    }

    /// When the hole at `next` was first noticed (least count, earliest clock); None: no hole.
    ///
    /// Bytes that wait are evidence of a hole, and so is an acknowledgement beyond `next`, except for
    /// one of a single byte: that is most likely a FIN that was not captured.
    pub fn hole_since(&mut self, now: Stamp) -> Option<(u64, i64)> {
        let waiting = self.first_waiting();
        if self.acked <= self.next {
            return waiting.map(|(_, stamp)| (stamp.packet, stamp.clock));
        }
        if self.ack_noted_at != self.next {
            self.ack_noted_at = self.next;
            self.ack_noted_packet = now.packet;
            self.ack_noted_clock = now.clock;
        }
        let (packet, clock) = (self.ack_noted_packet, self.ack_noted_clock);
        match waiting {
            Some((_, stamp)) => Some((packet.min(stamp.packet), clock.min(stamp.clock))),
            None if self.acked - self.next > 1 => Some((packet, clock)),
            None => None,
        }
    }

    fn waiting(&mut self) -> &mut Waiting {
        self.waiting.get_or_insert_with(Default::default)
    }

    /// Frees the buffers when nothing is in them.
    fn tidy(&mut self) {
        if let Some(waiting) = &self.waiting {
            if waiting.chunks.is_empty() && waiting.cuts.is_empty() && waiting.held.is_empty() {
                self.waiting = None;
            }
        }
    }
}

/// The end of the last chunk that begins at or before `low`.
fn end_before(chunks: &BTreeMap<i64, Chunk>, low: i64) -> i64 {
    match chunks.range(..=low).next_back() {
        Some((&off, chunk)) => off + chunk.data.len() as i64,
        None => i64::MIN,
    }
}
