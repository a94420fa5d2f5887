//! The slowest exchanges, with what else was going on: of all time, and of each ten seconds.
//!
//! `zktrace/store/slow.py` is the reference, row by row. What an exchange was sent beside is looked up
//! among the latest exchanges of its connection, which are kept in a ring for that. Knows nothing of
//! Python.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, OnceLock};

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
/// Numbers whose names are remembered; others are called `op<n>`.
const FIRST_OP: i32 = -16;
const OPS: usize = 256;

/// Names of ops by their number.
pub struct OpNames(Vec<Option<Box<str>>>);

impl Default for OpNames {
    fn default() -> Self {
        OpNames(vec![None; OPS])
    }
}

fn place(code: i32) -> usize {
    usize::try_from(code.wrapping_sub(FIRST_OP)).unwrap_or(usize::MAX)
}

impl OpNames {
    #[inline]
    pub fn learn(&mut self, (code, name): (i32, &str)) {
        if let Some(known) = self.0.get_mut(place(code)) {
            if known.is_none() {
                *known = Some(name.into());
            }
        }
    }

    pub fn name(&self, code: i32) -> String {
        let known = self.0.get(place(code)).and_then(Option::as_deref);
        known.map_or_else(|| format!("op{code}"), str::to_owned)
    }
}

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

/// An exchange of the ring.
#[derive(Clone, Default)]
struct Past {
    /// Number of the exchange before it on its connection, + 1; 0: none.
    before: u64,
    seq: i64,
    ts_ns: i64,
    op: Option<i32>,
    has_path: bool,
    /// As it came; its memory is used again.
    path: Vec<u8>,
    latency_ns: Option<i64>,
    request_bytes: Option<i64>,
    reply_bytes: Option<i64>,
}

impl Past {
    fn shown(&self) -> Beside {
        Beside {
            seq: self.seq,
            ts_ns: self.ts_ns,
            op: self.op,
            path: self.has_path.then(|| short(&self.path)),
            latency_ns: self.latency_ns,
            request_bytes: self.request_bytes,
            reply_bytes: self.reply_bytes,
        }
    }

    fn size(&self) -> i64 {
        let (sent, got) = (self.request_bytes, self.reply_bytes);
        sent.unwrap_or_default().max(got.unwrap_or_default())
    }
}

/// A path of the ring keeps no more memory than that.
const PATH_MEMORY: usize = 1028;

pub struct Slow {
    all: Top,
    slots: BTreeMap<i64, Top>,
    /// The slot of the last row, and what an entry of it must be slower than.
    slot: Option<(i64, i64)>,
    floor: i64,
    ring: Vec<Past>,
    /// Those whose company was not looked for yet.
    pending: Vec<Arc<Entry>>,
    /// Exchanges so far.
    number: u64,
    pub names: OpNames,
}

impl Default for Slow {
    fn default() -> Self {
        Slow {
            all: Top::default(),
            slots: BTreeMap::new(),
            slot: None,
            floor: -1,
            ring: Vec::new(),
            pending: Vec::new(),
            number: 0,
            names: OpNames::default(),
        }
    }
}

impl Slow {
    /// An exchange; `last` is the number of the last one of its connection, + 1.
    #[inline]
    pub fn exchange(&mut self, row: &Exchange<'_>, session: Option<i64>, last: &mut u64) {
        if let Some(op) = row.op {
            self.names.learn(op);
        }
        if row.state == State::NoReply {
            return;
        }
        if let Some(latency) = row.latency_ns {
            let aside = row
                .op
                .is_some_and(|(_, name)| matches!(name, "ping" | "connect"));
            if !aside && latency > self.least(row.ts_ns.div_euclid(SLOT_NS)) {
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
        let at = (self.number % RING_ROWS) as usize;
        self.number += 1;
        if self.number.is_multiple_of(CONTEXT_ROWS) {
            self.settle();
        }
        if at == self.ring.len() {
            self.ring.push(Past::default());
        }
        let Some(past) = self.ring.get_mut(at) else {
            return;
        };
        past.before = before;
        past.seq = row.seq;
        past.ts_ns = row.ts_ns;
        past.op = row.op.map(|(code, _)| code);
        past.latency_ns = row.latency_ns;
        past.request_bytes = row.request_bytes;
        past.reply_bytes = row.reply_bytes;
        past.has_path = row.path.is_some();
        past.path.clear();
        let path = row.path.unwrap_or_default();
        past.path
            .extend_from_slice(path.get(..PATH_MEMORY).unwrap_or(path));
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
        let (mut outstanding, mut largest) = (0, None::<&Past>);
        let mut beside: Vec<&Past> = Vec::new();
        let rank = |one: &Past| (Reverse(one.latency_ns), one.seq);
        let mut at = entry.last;
        while at > 0 && entry.number - (at - 1) <= CONTEXT_ROWS {
            let Some(past) = self.ring.get(((at - 1) % RING_ROWS) as usize) else {
                break;
            };
            at = past.before;
            let done = past.ts_ns.saturating_add(past.latency_ns.unwrap_or(0));
            let recent = done >= entry.ts_ns.saturating_sub(SECOND);
            if past.latency_ns.is_some() && !recent {
                break; // replies come in order: all before were done earlier
            }
            if past.ts_ns > entry.ts_ns || !recent {
                continue;
            }
            if largest.is_none_or(|known| past.size() >= known.size()) {
                largest = Some(past);
            }
            if done > entry.ts_ns {
                outstanding += 1;
                if beside.len() < BESIDE
                    || beside.last().is_some_and(|least| rank(past) < rank(least))
                {
                    beside.push(past);
                    beside.sort_by_key(|one| rank(one));
                    beside.truncate(BESIDE);
                }
            }
        }
        Company {
            outstanding,
            beside: beside.into_iter().map(Past::shown).collect(),
            largest: largest.map(Past::shown),
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
