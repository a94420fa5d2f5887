//! The slowest exchanges, with what else was going on: of all time, and of each ten seconds.
//!
//! `zktrace/store/slow.py` is the reference, row by row. What an exchange was sent beside is looked up
//! among the latest exchanges of its connection, which are kept in a ring for that. Knows nothing of
//! Python.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, OnceLock};

use super::ops::{Class, CONNECT, PING};
use super::short;
use crate::events::{Endpoint, Exchange, State};

/// Entries of all time, and of each slot; seconds of a slot, and slots.
const SLOWEST: usize = 1000;
const PER_SLOT: usize = 50;
const SLOT_NS: i64 = 10_000_000_000;
const SLOTS: usize = 361;
/// Exchanges before a slow one among which its company is looked for, of all connections. That is done
/// when so many more have come, for those that are still among the slowest: most are not.
const CONTEXT_ROWS: u64 = 4096;
const RING_ROWS: u64 = 2 * CONTEXT_ROWS;
/// Exchanges in flight beside a slow one that are shown.
const BESIDE: usize = 5;
const SECOND: i64 = 1_000_000_000;

/// An exchange as company of another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beside {
    pub seq: i64,
    pub ts_ns: i64,
    pub op: Option<i32>,
    pub path: Option<String>,
    pub latency_ns: Option<i64>,
    pub request_bytes: Option<i64>,
    pub reply_bytes: Option<i64>,
}

pub struct Entry {
    pub seq: i64,
    pub ts_ns: i64,
    pub client: Endpoint,
    pub server: Endpoint,
    pub op: Option<i32>,
    pub xid: Option<i64>,
    pub session: Option<i64>,
    pub path: Option<String>,
    pub error: Option<i32>,
    pub zxid: Option<i64>,
    pub latency_ns: i64,
    pub request_bytes: Option<i64>,
    pub reply_bytes: Option<i64>,
    /// Number of the last exchange of its connection before it, + 1, and its own.
    last: u64,
    number: u64,
    company: OnceLock<Company>,
}

/// What an exchange was sent beside.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Company {
    /// Requests of its connection that were not answered when it was sent.
    pub outstanding: u64,
    /// Those of them that took longest.
    pub beside: Vec<Beside>,
    /// The largest message of the second before.
    pub largest: Option<Beside>,
}

static ALONE: Company = Company {
    outstanding: 0,
    beside: Vec::new(),
    largest: None,
};

impl Entry {
    pub fn company(&self) -> &Company {
        self.company.get().unwrap_or(&ALONE)
    }
}

/// Slowest first, then the earlier one.
#[derive(Clone)]
struct Ranked(Arc<Entry>);

impl Ranked {
    fn rank(&self) -> (i64, Reverse<i64>) {
        (self.0.latency_ns, Reverse(self.0.seq))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}
impl Eq for Ranked {}
impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// The slowest so many.
#[derive(Default)]
struct Top(BinaryHeap<Reverse<Ranked>>);

impl Top {
    /// What an entry must be slower than.
    fn floor(&self, size: usize) -> i64 {
        match self.0.peek() {
            Some(Reverse(least)) if self.0.len() >= size => least.0.latency_ns,
            _ => -1,
        }
    }

    fn add(&mut self, entry: Ranked, size: usize) {
        self.0.push(Reverse(entry));
        if self.0.len() > size {
            self.0.pop();
        }
    }
}

/// An exchange of the ring: one cache line, since every exchange writes one.
#[derive(Clone, Default)]
#[repr(align(64))]
struct Past {
    /// Number of the exchange before it on its connection, + 1; 0: none.
    before: u64,
    seq: i64,
    ts_ns: i64,
    /// These three: [`ABSENT`] where there is none.
    latency_ns: i64,
    request_bytes: i64,
    reply_bytes: i64,
    /// Where its path is among those of its half of the ring, and how long; [`NO_PATH`]: it has none.
    path_at: u32,
    path_length: u16,
    has_op: bool,
    op: i32,
}

const _: () = assert!(size_of::<Past>() == 64);

/// No number of an exchange is that.
const ABSENT: i64 = i64::MIN;
const NO_PATH: u16 = u16::MAX;

fn some(value: i64) -> Option<i64> {
    (value != ABSENT).then_some(value)
}

impl Past {
    /// What is not there is less than nothing.
    fn size(&self) -> i64 {
        self.request_bytes.max(self.reply_bytes).max(0)
    }
}

/// Bytes of a path that the ring keeps, and memory for paths that is not given back.
const PATH_MEMORY: usize = 1028;
const PATHS_MEMORY: usize = 1 << 20;

pub struct Slow {
    all: Top,
    slots: BTreeMap<i64, Top>,
    /// The slot of the last row, and what an entry of it must be slower than.
    slot: Option<(i64, i64)>,
    floor: i64,
    ring: Vec<Past>,
    /// Paths of either half of the ring, one behind the other, as they came. Who reaches back from one half
    /// reaches into the other, and not beyond: a half's paths go when it is begun anew.
    paths: [Vec<u8>; 2],
    /// Those whose company was not looked for yet.
    pending: Vec<Arc<Entry>>,
    /// Exchanges so far.
    number: u64,
}

impl Default for Slow {
    fn default() -> Self {
        Slow {
            all: Top::default(),
            slots: BTreeMap::new(),
            slot: None,
            floor: -1,
            ring: Vec::new(),
            paths: [Vec::new(), Vec::new()],
            pending: Vec::new(),
            number: 0,
        }
    }
}

impl Slow {
    /// An exchange, what its op is, and the number of the last one of its connection, + 1.
    #[inline]
    pub fn exchange(
        &mut self,
        row: &Exchange<'_>,
        is: Class,
        session: Option<i64>,
        last: &mut u64,
    ) {
        if row.state == State::NoReply {
            return;
        }
        if let Some(latency) = row.latency_ns {
            if !is.any(PING | CONNECT) && latency > self.least(row.ts_ns.div_euclid(SLOT_NS)) {
                self.keep(row, latency, session, *last);
            }
        }
        self.remember(row, *last);
        *last = self.number;
    }

    /// What a row of a slot must be slower than to be kept.
    #[inline]
    fn least(&mut self, slot: i64) -> i64 {
        if self.slot.map(|known| known.0) != Some(slot) {
            let floor = self.slots.get(&slot).map_or(-1, |top| top.floor(PER_SLOT));
            self.slot = Some((slot, floor));
        }
        self.floor.min(self.slot.map_or(-1, |known| known.1))
    }

    #[inline]
    fn remember(&mut self, row: &Exchange<'_>, before: u64) {
        let at = self.number % RING_ROWS;
        let [even, odd] = &mut self.paths;
        let paths = if at < CONTEXT_ROWS { even } else { odd };
        if at.is_multiple_of(CONTEXT_ROWS) {
            paths.clear();
            paths.shrink_to(PATHS_MEMORY);
        }
        let path_at = paths.len() as u32;
        let path_length = row.path.map_or(NO_PATH, |path| {
            let path = path.get(..PATH_MEMORY).unwrap_or(path);
            paths.extend_from_slice(path);
            path.len() as u16
        });
        let past = Past {
            before,
            seq: row.seq,
            ts_ns: row.ts_ns,
            latency_ns: row.latency_ns.unwrap_or(ABSENT),
            request_bytes: row.request_bytes.unwrap_or(ABSENT),
            reply_bytes: row.reply_bytes.unwrap_or(ABSENT),
            path_at,
            path_length,
            has_op: row.op.is_some(),
            op: row.op.map_or(0, |(code, _)| code),
        };
        match self.ring.get_mut(at as usize) {
            Some(known) => *known = past,
            None => self.ring.push(past),
        }
        self.number += 1;
        if self.number.is_multiple_of(CONTEXT_ROWS) {
            self.settle();
        }
    }

    fn shown(&self, past: &Past, at: usize) -> Beside {
        let [even, odd] = &self.paths;
        let half = if (at as u64) < CONTEXT_ROWS {
            even
        } else {
            odd
        };
        let from = past.path_at as usize;
        let path = half.get(from..from + usize::from(past.path_length));
        Beside {
            seq: past.seq,
            ts_ns: past.ts_ns,
            op: past.has_op.then_some(past.op),
            path: (past.path_length != NO_PATH).then(|| short(path.unwrap_or_default())),
            latency_ns: some(past.latency_ns),
            request_bytes: some(past.request_bytes),
            reply_bytes: some(past.reply_bytes),
        }
    }

    #[cold]
    fn keep(&mut self, row: &Exchange<'_>, latency_ns: i64, session: Option<i64>, last: u64) {
        let entry = Arc::new(Entry {
            seq: row.seq,
            ts_ns: row.ts_ns,
            client: row.conn.client,
            server: row.conn.server,
            op: row.op.map(|(code, _)| code),
            xid: row.xid,
            session,
            path: row.path.map(short),
            error: row.error,
            zxid: row.zxid,
            latency_ns,
            request_bytes: row.request_bytes,
            reply_bytes: row.reply_bytes,
            last,
            number: self.number,
            company: OnceLock::new(),
        });
        if last > 0 {
            self.pending.push(entry.clone());
        }
        let entry = Ranked(entry);
        self.all.add(entry.clone(), SLOWEST);
        self.floor = self.all.floor(SLOWEST);
        let slot = row.ts_ns.div_euclid(SLOT_NS);
        let top = self.slots.entry(slot).or_default();
        top.add(entry, PER_SLOT);
        self.slot = Some((slot, top.floor(PER_SLOT)));
        if self.slots.len() > SLOTS {
            // The farthest: the oldest one, or one from before the clock was set back.
            let ends = [self.slots.first_key_value(), self.slots.last_key_value()];
            let ends = ends.into_iter().flatten().map(|(&at, _)| at);
            if let Some(far) = ends.max_by_key(|&at| (at.abs_diff(slot), Reverse(at))) {
                self.slots.remove(&far);
            }
        }
    }

    /// Looks for the company of entries that are kept.
    fn settle(&mut self) {
        for entry in std::mem::take(&mut self.pending) {
            if Arc::strong_count(&entry) > 1 {
                let company = self.company(&entry);
                // It was empty: each entry is pending once.
                let _ = entry.company.set(company);
            }
        }
    }

    /// Of the entry's connection: how many requests were in flight when it was sent, some of them, and the
    /// largest message of the second before.
    fn company(&self, entry: &Entry) -> Company {
        let (mut outstanding, mut largest) = (0, None::<(&Past, usize)>);
        let mut most = 0;
        let mut beside: Vec<(&Past, usize)> = Vec::new();
        let rank = |one: &Past| (Reverse(some(one.latency_ns)), one.seq);
        let since = entry.ts_ns.saturating_sub(SECOND);
        let mut at = entry.last;
        while at > 0 && entry.number - (at - 1) <= CONTEXT_ROWS {
            let place = ((at - 1) % RING_ROWS) as usize;
            let Some(past) = self.ring.get(place) else {
                break;
            };
            at = past.before;
            let answered = past.latency_ns != ABSENT;
            let done = past
                .ts_ns
                .saturating_add(if answered { past.latency_ns } else { 0 });
            if done < since {
                if answered {
                    break; // replies come in order: all before were done earlier
                }
                continue;
            }
            if past.ts_ns > entry.ts_ns {
                continue;
            }
            if past.size() >= most {
                (most, largest) = (past.size(), Some((past, place)));
            }
            if done > entry.ts_ns {
                outstanding += 1;
                let full = beside.len() >= BESIDE;
                if !full
                    || beside
                        .last()
                        .is_some_and(|least| rank(past) < rank(least.0))
                {
                    beside.push((past, place));
                    beside.sort_by_key(|one| rank(one.0));
                    beside.truncate(BESIDE);
                }
            }
        }
        let shown = |(past, place): (&Past, usize)| self.shown(past, place);
        Company {
            outstanding,
            beside: beside.into_iter().map(shown).collect(),
            largest: largest.map(shown),
        }
    }

    /// Entries of all time, or with a time in `[start, end)` in nanoseconds (of the last hour), in no order.
    pub fn entries(&mut self, bounds: Option<(i64, i64)>) -> Vec<Arc<Entry>> {
        self.settle();
        let shared = |one: &Reverse<Ranked>| one.0 .0.clone();
        match bounds {
            None => self.all.0.iter().map(shared).collect(),
            Some((start, end)) if start < end => {
                let slots = start.div_euclid(SLOT_NS)..=(end - 1).div_euclid(SLOT_NS);
                let slots = self.slots.range(slots);
                let entries = slots.flat_map(|(_, top)| top.0.iter().map(shared));
                entries
                    .filter(|one| (start..end).contains(&one.ts_ns))
                    .collect()
            }
            Some(_) => Vec::new(),
        }
    }
}
