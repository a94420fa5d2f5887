//! The latest events, packed (`recent_code.rs`), in segments that readers share.
//!
//! A reader takes references to the segments (of a segment under way a small copy, or it is closed)
//! and replays what it wants of them in its own time, to columns or to JSON lines: nobody who asks
//! holds up who writes. `zktrace/store/recent.py` is the same for the Python engine. Knows nothing of
//! Python.

use std::collections::VecDeque;
use std::sync::Arc;

use super::recent_code as code;
use super::recent_code::Reader;
use crate::events::{
    Anomaly, ConnInfo, Connection, Election, EventSink, Exchange, FourLetter, Quorum, WatchEvent,
};

/// Events kept, and bytes that they may take.
pub const RECENT_ROWS: usize = 65_536;
pub const RECENT_BYTES: usize = 12 << 20;
/// A segment is closed when it has so many events, or bytes.
const SEGMENT_ROWS: usize = 2048;
const SEGMENT_BYTES: usize = 256 << 10;
/// A segment under way with fewer events is copied for a reader, otherwise closed.
const COPIED_ROWS: usize = 64;
/// Connections whose place in a segment is remembered (direct mapped by number).
const CONN_CACHE: usize = 1024;

/// Events that came one after another.
#[derive(Clone, Default)]
pub struct Segment {
    bytes: Vec<u8>,
    conns: Vec<ConnInfo>,
    rows: usize,
    /// Numbers of the first and last event.
    first: i64,
    last: i64,
    /// Times that none of them is before, or behind.
    earliest: i64,
    latest: i64,
    /// Of which kinds there are some.
    kinds: u8,
}

impl Segment {
    fn size(&self) -> usize {
        self.bytes.len() + self.conns.len() * std::mem::size_of::<ConnInfo>()
    }
}

/// What is wanted of the latest events.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// Only with a greater number.
    pub after: i64,
    /// Kinds, as a set of bits.
    pub kinds: u8,
    /// Only with a time in `[from, to)`.
    pub from: i64,
    pub to: i64,
    /// The last so many of those.
    pub most: usize,
}

/// The segments at a moment.
#[derive(Clone, Default)]
pub struct Snapshot {
    segments: Vec<Arc<Segment>>,
}

impl Snapshot {
    /// Numbers of the first and last event that is kept.
    pub fn numbers(&self) -> Option<(i64, i64)> {
        let (first, last) = (self.segments.first()?, self.segments.last()?);
        Some((first.first, last.last))
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.rows).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    fn rows(&self, wanted: Wanted) -> impl Iterator<Item = (&Segment, Reader<'_>)> {
        let segments = self.segments.iter().map(AsRef::as_ref);
        let segments = segments.filter(move |segment| {
            segment.last > wanted.after
                && segment.kinds & wanted.kinds != 0
                && segment.latest >= wanted.from
                && segment.earliest < wanted.to
        });
        segments.flat_map(move |segment| {
            let mut rest = segment.bytes.as_slice();
            std::iter::from_fn(move || {
                let (row, behind) = Reader::first(rest)?;
                rest = behind;
                Some((segment, row))
            })
            .filter(move |(_, row)| {
                row.seq > wanted.after
                    && row.kind & wanted.kinds != 0
                    && row.ts_ns >= wanted.from
                    && row.ts_ns < wanted.to
            })
        })
    }

    /// Hands rows to a sink, oldest first. Gives how many were wanted but for `most`, and the earliest time
    /// of the events of those kinds that are kept, wanted or not.
    pub fn replay(&self, wanted: Wanted, sink: &mut dyn EventSink) -> usize {
        let total = match wanted.most {
            usize::MAX => usize::MAX,
            _ => self.rows(wanted).count(),
        };
        let skipped = total.saturating_sub(wanted.most);
        let skipped = if total == usize::MAX { 0 } else { skipped };
        let mut replayed = 0;
        for (segment, row) in self.rows(wanted).skip(skipped) {
            row.replay(&segment.conns, sink);
            replayed += 1;
        }
        replayed + skipped
    }

    /// The earliest time of the events of some kinds.
    pub fn earliest(&self, kinds: u8) -> Option<i64> {
        let some = self
            .segments
            .iter()
            .find(|segment| segment.kinds & kinds != 0)?;
        let all = Wanted {
            after: i64::MIN,
            kinds,
            from: i64::MIN,
            to: i64::MAX,
            most: usize::MAX,
        };
        let only = Snapshot {
            segments: vec![some.clone()],
        };
        let earliest = only.rows(all).map(|(_, row)| row.ts_ns).min();
        earliest
    }
}

/// The ring.
pub struct Recent {
    closed: VecDeque<Arc<Segment>>,
    open: Segment,
    /// Connection and its place in the open segment.
    places: Box<[(i64, u32); CONN_CACHE]>,
    limit: usize,
    /// Of the closed ones.
    rows: usize,
    bytes: usize,
    /// A segment whose memory is used again.
    spare: Option<Segment>,
}

impl Recent {
    pub fn new(limit: usize) -> Self {
        Recent {
            closed: VecDeque::new(),
            open: Segment::default(),
            places: Box::new([(-1, 0); CONN_CACHE]),
            limit,
            rows: 0,
            bytes: 0,
            spare: None,
        }
    }

    /// Where the connection's ends are in the open segment.
    #[inline]
    fn place(&mut self, conn: &ConnInfo) -> u32 {
        let at = conn.id as usize & (CONN_CACHE - 1);
        match self.places.get_mut(at) {
            Some(known) if known.0 == conn.id => known.1,
            known => {
                let place = self.open.conns.len() as u32;
                self.open.conns.push(*conn);
                if let Some(known) = known {
                    *known = (conn.id, place);
                }
                place
            }
        }
    }

    /// After a row.
    #[inline]
    fn added(&mut self, kind: u8, seq: i64, ts_ns: i64) {
        let open = &mut self.open;
        if open.rows == 0 {
            (open.first, open.earliest, open.latest) = (seq, ts_ns, ts_ns);
        }
        open.rows += 1;
        open.kinds |= kind;
        open.last = seq;
        open.earliest = open.earliest.min(ts_ns);
        open.latest = open.latest.max(ts_ns);
        if open.rows >= SEGMENT_ROWS || open.bytes.len() >= SEGMENT_BYTES {
            self.close();
        }
    }

    #[inline(never)]
    fn close(&mut self) {
        let spare = self.spare.take().unwrap_or_default();
        let closed = std::mem::replace(&mut self.open, spare);
        self.places.fill((-1, 0));
        self.rows += closed.rows;
        self.bytes += closed.size();
        self.closed.push_back(Arc::new(closed));
        while let Some(oldest) = self.closed.front() {
            let enough = self.rows - oldest.rows >= self.limit;
            if self.closed.len() < 2 || !(enough || self.bytes > RECENT_BYTES) {
                break;
            }
            self.rows -= oldest.rows;
            self.bytes -= oldest.size();
            let oldest = self.closed.pop_front().map(Arc::try_unwrap);
            if let Some(Ok(mut segment)) = oldest {
                if segment.bytes.capacity() <= 2 * SEGMENT_BYTES {
                    segment.bytes.clear();
                    segment.conns.clear();
                    segment.conns.shrink_to(CONN_CACHE);
                    segment = Segment {
                        bytes: segment.bytes,
                        conns: segment.conns,
                        ..Segment::default()
                    };
                    self.spare = Some(segment);
                }
            }
        }
    }

    /// The latest events with a number greater than `after`, and perhaps some before them.
    pub fn snapshot(&mut self, after: i64) -> Snapshot {
        if self.open.rows >= COPIED_ROWS && self.open.last > after {
            let mut spare = self.open.bytes.capacity();
            self.close();
            if let Some(closed) = self.closed.back_mut().and_then(Arc::get_mut) {
                spare -= closed.bytes.len();
                if spare > closed.bytes.len() {
                    closed.bytes.shrink_to_fit();
                    closed.conns.shrink_to_fit();
                }
            }
        }
        let from = self.closed.partition_point(|segment| segment.last <= after);
        let mut segments: Vec<Arc<Segment>> = self.closed.range(from..).cloned().collect();
        if self.open.rows > 0 && self.open.last > after {
            segments.push(Arc::new(self.open.clone()));
        }
        Snapshot { segments }
    }
}

impl EventSink for Recent {
    #[inline]
    fn exchange(&mut self, row: &Exchange<'_>) {
        let place = self.place(row.conn);
        code::exchange(&mut self.open.bytes, row, place);
        self.added(code::EXCHANGES, row.seq, row.ts_ns);
    }

    fn watch_event(&mut self, row: &WatchEvent<'_>) {
        let place = self.place(row.conn);
        code::watch_event(&mut self.open.bytes, row, place);
        self.added(code::WATCH_EVENTS, row.seq, row.ts_ns);
    }

    fn connection(&mut self, row: &Connection<'_>) {
        let place = self.place(row.conn);
        code::connection(&mut self.open.bytes, row, place);
        self.added(code::CONNECTIONS, row.seq, row.ts_ns);
    }

    fn four_letter(&mut self, row: &FourLetter<'_>) {
        let place = self.place(row.conn);
        code::four_letter(&mut self.open.bytes, row, place);
        self.added(code::FOUR_LETTER, row.seq, row.ts_ns);
    }

    fn anomaly(&mut self, row: &Anomaly<'_>) {
        let place = self.place(row.conn);
        code::anomaly(&mut self.open.bytes, row, place);
        self.added(code::ANOMALIES, row.seq, row.ts_ns);
    }

    fn quorum(&mut self, row: &Quorum<'_>) {
        let place = self.place(row.conn);
        code::quorum(&mut self.open.bytes, row, place);
        self.added(code::QUORUM, row.seq, row.ts_ns);
    }

    fn election(&mut self, row: &Election<'_>) {
        let place = self.place(row.conn);
        code::election(&mut self.open.bytes, row, place);
        self.added(code::ELECTIONS, row.seq, row.ts_ns);
    }
}
