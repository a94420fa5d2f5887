//! TCP reassembly: segments in, ordered bytes per connection out. Knows nothing of ZooKeeper.
//!
//! The rules, and why they are so, are told in `zktrace/flow/tcp.py`, the readable reference; both
//! make the same calls on every input. What is here beside it is speed: the common segment costs one
//! look at a small cache of recent connections, no copy and no allocation.

use crate::flow_conn::{Conn, Shared, CLOSING_NS, FREE};
use crate::flow_table::{key_map, Key, KeyMap, Recent, Tombstones};
use crate::ip::{Ip, Segment, ACK, RST, SYN};

/// An address and a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    pub ip: Ip,
    pub port: u16,
}

/// Why a connection ended: FIN from both sides, RST, a new SYN (or far-away data) on the same
/// addresses and ports, too many connections, end of the capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Closed,
    Reset,
    Reused,
    Evicted,
    Eof,
}

impl End {
    pub fn name(self) -> &'static str {
        match self {
            End::Closed => "closed",
            End::Reset => "reset",
            End::Reused => "reused",
            End::Evicted => "evicted",
            End::Eof => "eof",
        }
    }
}

/// Takes what reassembly finds. Side 0 is A, side 1 is B.
///
/// Per connection the calls are: one `open`, any number of `data` and `gap`, one `end`. The bytes of a
/// side are the concatenation of its `data` and `gap` calls: a position in a stream is the sum of the
/// lengths so far. `conn_id` counts connections; `slot` is a small number that is used again after
/// `end`, so that a sink can keep its state in a vector.
pub trait FlowSink {
    /// A connection was found. With `syn`, A is known to be its TCP opener; without, A is the sender
    /// of the first packet with data (the capture joined it mid-stream).
    fn open(&mut self, slot: u32, conn_id: u64, ts_ns: i64, a: Endpoint, b: Endpoint, syn: bool);

    /// The next bytes of a side, captured at `ts_ns`. Never empty, never merged across segments.
    ///
    /// `need`: so many bytes of the OTHER side's stream had been received by this side when it sent
    /// these; 0 where that is not known. A `need` may be 1 more than ever arrives when the other
    /// side's FIN is captured later, or not at all: the FIN counts as a byte in TCP.
    fn data(&mut self, slot: u32, conn_id: u64, side: u8, ts_ns: i64, need: u64, data: &[u8]);

    /// The next bytes of a side, of which an earlier copy may have passed that was not captured.
    fn late_data(&mut self, slot: u32, conn_id: u64, side: u8, ts_ns: i64, need: u64, data: &[u8]);

    /// The next `n` (at least 1) bytes of a side were not captured.
    fn gap(&mut self, slot: u32, conn_id: u64, side: u8, ts_ns: i64, n: u64);

    /// Nothing more will come of this connection.
    fn end(&mut self, slot: u32, conn_id: u64, ts_ns: i64, how: End);
}

/// What a hostile or huge capture may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Live connections. A busy ensemble has some thousands; a SYN flood stops here.
    pub connections: usize,
    /// Bytes held for one side, behind a hole or before its start is known. Above jute.maxbuffer
    /// (1 MiB), and above any default receive window that could be in flight.
    pub side_buffer: u64,
    /// Bytes held for all connections together; keeps the process below 100 MB.
    pub total_buffer: u64,
    /// Ended connections remembered, so that their late packets do not look like new ones.
    pub tombstones: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 32_768,
            side_buffer: 4 << 20,
            total_buffer: 16 << 20,
            tombstones: 16_384,
        }
    }
}

/// Coverage of this layer.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    pub connections: u64,
    pub joined_connections: u64,
    pub retransmitted_segments: u64,
    pub duplicate_packets: u64,
    pub keepalives: u64,
    pub late_segments: u64,
    pub out_of_order_segments: u64,
    pub gaps: u64,
    pub gap_bytes: u64,
    pub stray_segments: u64,
    pub buffer_limit_hits: u64,
    pub evicted_connections: u64,
}

/// Connections of which not both sides sent data may be one in so many before they are evicted first.
const UNANSWERED_SHARE: usize = 4;

/// Connections by time of their last segment, the longest silent one last, as of some time ago: those
/// with a segment since are stale. Number of the segment, slot, connection.
type Silent = Vec<(u64, u32, u64)>;

/// Feed `segment` in order of capture, then call `finish` once.
pub struct Reassembler {
    shared: Shared,
    table: KeyMap<u32>,
    conns: Vec<Conn>,
    free: Vec<u32>,
    /// Where connections of recent segments are, in place of a look at `table`.
    recent: Recent,
    /// Segments so far.
    serial: u64,
    /// Clock of the first entry of `shared.closing`.
    closing_clock: i64,
    tombstones: Tombstones,
    /// Of all connections, and of those of which not both sides sent data.
    silent: Silent,
    silent_unanswered: Silent,
}

impl Default for Reassembler {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Reassembler {
    pub fn new(limits: Limits) -> Self {
        Reassembler {
            shared: Shared {
                limits,
                counters: Counters::default(),
                clock: i64::MIN,
                cost: 0,
                unanswered: 0,
                closing: Default::default(),
            },
            table: key_map(),
            conns: Vec::new(),
            free: Vec::new(),
            recent: Recent::default(),
            serial: 0,
            closing_clock: i64::MAX,
            tombstones: Tombstones::new(limits.tombstones),
            silent: Vec::new(),
            silent_unanswered: Vec::new(),
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Live connections, those included that were closed a moment ago.
    pub fn live(&self) -> usize {
        self.table.len()
    }

    /// What is held back, in bytes with overhead: for tests of the limits.
    pub fn cost(&self) -> u64 {
        self.shared.cost
    }

    /// Takes the next segment of the capture.
    pub fn segment<S: FlowSink>(&mut self, seg: &Segment<'_>, sink: &mut S) {
        self.plain_segment(seg, sink);
    }

    /// The same, to be compiled into its caller.
    #[inline(always)]
    pub fn plain_segment<S: FlowSink>(&mut self, seg: &Segment<'_>, sink: &mut S) {
        self.serial += 1;
        if seg.ts_ns > self.shared.clock {
            self.shared.clock = seg.ts_ns;
            if self.is_closing_due() {
                self.expire(sink);
            }
        }
        let place = Recent::place(seg);
        let (slot, upper) = self.recent.get(place);
        if let Some(conn) = self.conns.get_mut(slot as usize) {
            if conn.key == Key::directed(seg, upper) && conn.id != FREE {
                conn.touched = self.serial;
                if !conn.fast(upper, seg, sink) {
                    // a copy: only here it must lie in memory
                    let seg = *seg;
                    self.slow(slot, upper, &seg, sink);
                }
                return;
            }
        }
        let seg = *seg;
        self.look_up(place, &seg, sink);
    }

    /// A segment whose connection is not among the recent ones.
    #[inline(never)]
    fn look_up<S: FlowSink>(&mut self, place: usize, seg: &Segment<'_>, sink: &mut S) {
        let (key, upper) = Key::of(seg);
        let Some(slot) = self.table.get(&key).copied() else {
            self.unknown(key, upper, seg, sink);
            return;
        };
        self.recent.set(place, slot, upper);
        let Some(conn) = self.conns.get_mut(slot as usize) else {
            return;
        };
        conn.touched = self.serial;
        if !conn.fast(upper, seg, sink) {
            self.slow(slot, upper, seg, sink);
        }
    }

    /// Time went on without a segment: a live capture of an idle line.
    pub fn tick<S: FlowSink>(&mut self, now_ns: i64, sink: &mut S) {
        self.shared.clock = self.shared.clock.max(now_ns);
        if self.is_closing_due() {
            self.expire(sink);
        }
        let mut waiting: Vec<(u64, u32)> = self
            .conns
            .iter()
            .filter(|conn| !conn.plain && conn.id != FREE && conn.waits())
            .map(|conn| (conn.id, conn.slot))
            .collect();
        waiting.sort_unstable();
        for (_, slot) in waiting {
            if let Some(conn) = self.conns.get_mut(slot as usize) {
                conn.tick(&mut self.shared, sink);
            }
        }
    }

    /// The capture ended: ends all connections.
    pub fn finish<S: FlowSink>(&mut self, sink: &mut S) {
        let mut live: Vec<(u64, u32)> = self
            .conns
            .iter()
            .filter(|conn| conn.id != FREE)
            .map(|conn| (conn.id, conn.slot))
            .collect();
        live.sort_unstable();
        for (_, slot) in live {
            let ts_ns = self.conns.get(slot as usize).map_or(0, Conn::last_ts);
            self.finalize(slot, End::Eof, ts_ns, sink);
        }
    }

    /// A segment that is not simply the next one of a known connection.
    #[cold]
    #[inline(never)]
    fn slow<S: FlowSink>(&mut self, slot: u32, upper: bool, seg: &Segment<'_>, sink: &mut S) {
        let Some(conn) = self.conns.get_mut(slot as usize) else {
            return;
        };
        if conn.is_other(upper, seg) {
            let key = conn.key;
            self.finalize(slot, End::Reused, seg.ts_ns, sink);
            self.open(key, upper, seg, sink);
        } else {
            self.step(slot, upper, seg, sink);
        }
    }

    fn step<S: FlowSink>(&mut self, slot: u32, upper: bool, seg: &Segment<'_>, sink: &mut S) {
        let Some(conn) = self.conns.get_mut(slot as usize) else {
            return;
        };
        if conn.step(upper, seg, &mut self.shared, sink) {
            self.finalize(slot, End::Closed, seg.ts_ns, sink);
        }
        self.note_closing();
    }

    /// A segment of no known connection: opens one, if it is worth it.
    #[cold]
    #[inline(never)]
    fn unknown<S: FlowSink>(&mut self, key: Key, upper: bool, seg: &Segment<'_>, sink: &mut S) {
        let is_late = self.tombstones.covers(&key, seg, upper);
        if is_late || seg.flags & RST != 0 || (seg.flags & SYN == 0 && seg.wire_len == 0) {
            self.shared.counters.stray_segments += 1;
            return;
        }
        self.open(key, upper, seg, sink);
    }

    /// Opens a connection with its first segment.
    fn open<S: FlowSink>(&mut self, key: Key, upper: bool, seg: &Segment<'_>, sink: &mut S) {
        if self.table.len() >= self.shared.limits.connections.max(1) {
            self.evict(seg.ts_ns, sink);
        }
        let syn = seg.flags & SYN != 0;
        let answer = syn && seg.flags & ACK != 0;
        let src = Endpoint {
            ip: seg.src,
            port: seg.sport,
        };
        let dst = Endpoint {
            ip: seg.dst,
            port: seg.dport,
        };
        // The receiver of the answer to a SYN is the opener.
        let (a, b) = if answer { (dst, src) } else { (src, dst) };
        let counters = &mut self.shared.counters;
        let id = counters.connections;
        counters.connections += 1;
        counters.joined_connections += u64::from(!syn);
        let slot = self.free.pop().unwrap_or(self.conns.len() as u32);
        let mut conn = Conn::new(id, slot, key, upper != answer, syn, seg.ts_ns);
        conn.touched = self.serial;
        if answer {
            conn.pair(0).0.start(seg.ack);
        }
        match self.conns.get_mut(slot as usize) {
            Some(place) => *place = conn,
            None => self.conns.push(conn),
        }
        self.table.insert(key, slot);
        self.shared.unanswered += 1;
        self.tombstones.remove(&key);
        sink.open(slot, id, seg.ts_ns, a, b, syn);
        self.step(slot, upper, seg, sink);
    }

    /// Ends the connection that was silent for longest: of those of which not both sides sent data, where these take more
    /// than their share.
    fn evict<S: FlowSink>(&mut self, ts_ns: i64, sink: &mut S) {
        let full = self.shared.unanswered > self.shared.limits.connections / UNANSWERED_SHARE;
        let silent = if full {
            &mut self.silent_unanswered
        } else {
            &mut self.silent
        };
        loop {
            while let Some((touched, slot, id)) = silent.pop() {
                let is_current = self
                    .conns
                    .get(slot as usize)
                    .is_some_and(|conn| conn.id == id && conn.touched == touched);
                if is_current {
                    self.shared.counters.evicted_connections += 1;
                    self.finalize(slot, End::Evicted, ts_ns, sink);
                    return;
                }
            }
            // All live ones, so that whoever is not in the list had a segment after all who are.
            *silent = self
                .conns
                .iter()
                .filter(|conn| conn.id != FREE && !(full && conn.answered))
                .map(|conn| (conn.touched, conn.slot, conn.id))
                .collect();
            if silent.is_empty() {
                return;
            }
            silent.sort_unstable_by(|x, y| y.cmp(x));
        }
    }

    #[inline]
    fn is_closing_due(&self) -> bool {
        self.shared.clock.saturating_sub(self.closing_clock) >= CLOSING_NS
    }

    /// Ends the connections that were closed long enough ago.
    #[cold]
    #[inline(never)]
    fn expire<S: FlowSink>(&mut self, sink: &mut S) {
        while self.is_closing_due() {
            if let Some((slot, id, _)) = self.shared.closing.pop_front() {
                if self.is_live(slot, id) {
                    self.finalize(slot, End::Closed, 0, sink);
                }
            }
            self.note_closing();
        }
    }

    fn is_live(&self, slot: u32, id: u64) -> bool {
        self.conns
            .get(slot as usize)
            .is_some_and(|conn| conn.id == id)
    }

    fn note_closing(&mut self) {
        // A clock that stands still lets entries of ended connections pile up.
        if self.shared.closing.len() > 2 * self.table.len() + 1024 {
            let mut closing = std::mem::take(&mut self.shared.closing);
            closing.retain(|(slot, id, _)| self.is_live(*slot, *id));
            self.shared.closing = closing;
        }
        self.closing_clock = match self.shared.closing.front() {
            Some((_, _, clock)) => *clock,
            None => i64::MAX,
        };
    }

    /// Ends a connection; one that was closed or reset, as that.
    fn finalize<S: FlowSink>(&mut self, slot: u32, how: End, ts_ns: i64, sink: &mut S) {
        let Some(conn) = self.conns.get_mut(slot as usize) else {
            return;
        };
        let (how, ts_ns) = conn.closing.unwrap_or((how, ts_ns));
        conn.flush(ts_ns, &mut self.shared, sink);
        self.shared.unanswered -= usize::from(!conn.answered);
        let id = std::mem::replace(&mut conn.id, FREE);
        if conn.closing.is_some() {
            self.tombstones.insert(conn.key, conn.tombstone());
        }
        self.table.remove(&conn.key);
        self.free.push(slot);
        sink.end(slot, id, ts_ns, how);
    }
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
