//! What is counted per key of a grouping, and what events add to it. Knows nothing of keys.

use crate::events::{Counted, State};
use crate::histogram::Histogram;

/// ZooKeeper has 30 error codes; a hostile capture could hold 2^32.
const ERROR_LIMIT: usize = 256;
/// Stands for all codes beyond `ERROR_LIMIT` (no server sends it).
pub const OTHER_ERROR: i32 = i32::MIN;

/// What is counted per key. Two cache lines: with many keys, fetching a row is what an event costs.
#[derive(Default)]
#[repr(align(64))]
pub struct Row {
    pub requests: u64,
    pub replies: u64,
    pub request_bytes: i64,
    pub reply_bytes: i64,
    pub watch_events: u64,
    /// What most keys have not.
    rare: Option<Box<Rare>>,
    pub latency: Histogram,
}

const _: () = assert!(size_of::<Row>() == 128);

#[derive(Default)]
struct Rare {
    /// (code, count) in order of appearance.
    errors: Vec<(i32, u64)>,
    /// Where it was more than one.
    most_in_flight: u32,
}

/// What an event adds to a row.
#[derive(Clone, Copy, Default)]
pub struct Delta {
    pub request: bool,
    pub reply: bool,
    pub watch_event: bool,
    /// 0: none.
    pub error: i32,
    pub request_bytes: i64,
    pub reply_bytes: i64,
    /// As of `Counted`.
    pub in_flight: u32,
    /// Value and bucket.
    pub latency: Option<(i64, u16)>,
}

impl Delta {
    #[inline(always)]
    pub fn of(row: &Counted<'_>, latency: Option<(i64, u16)>) -> Self {
        Delta {
            request: row.state != State::NoRequest,
            reply: row.state != State::NoReply,
            watch_event: false,
            error: row.error.unwrap_or(0),
            request_bytes: row.request_bytes.unwrap_or(0),
            reply_bytes: row.reply_bytes.unwrap_or(0),
            in_flight: row.in_flight,
            latency,
        }
    }
}

impl Row {
    #[inline(always)]
    pub fn add(&mut self, delta: &Delta) {
        self.requests += u64::from(delta.request);
        self.replies += u64::from(delta.reply);
        self.watch_events += u64::from(delta.watch_event);
        self.request_bytes = self.request_bytes.wrapping_add(delta.request_bytes);
        self.reply_bytes = self.reply_bytes.wrapping_add(delta.reply_bytes);
        if delta.error != 0 {
            self.add_error(delta.error, 1);
        }
        if delta.in_flight > 1 {
            self.deeper(delta.in_flight);
        }
        if let Some((value, bucket)) = delta.latency {
            self.latency.add(value, bucket);
        }
    }

    /// Reads what `add` will write, so that it is near then; the number means nothing.
    #[inline]
    pub fn touch(&self) -> u64 {
        self.requests ^ self.latency.touch()
    }

    pub fn is_empty(&self) -> bool {
        self.requests == 0 && self.replies == 0 && self.watch_events == 0
    }

    /// (code, count) in order of appearance.
    pub fn errors(&self) -> &[(i32, u64)] {
        self.rare
            .as_ref()
            .map_or(&[], |rare| rare.errors.as_slice())
    }

    /// The most requests that were in flight at once on a connection when one of these was sent; 0: not known.
    pub fn most_in_flight(&self) -> u32 {
        let most = self.rare.as_ref().map_or(0, |rare| rare.most_in_flight);
        most.max(u32::from(self.latency.count > 0))
    }

    fn deeper(&mut self, in_flight: u32) {
        let rare = self.rare.get_or_insert_default();
        rare.most_in_flight = rare.most_in_flight.max(in_flight);
    }

    fn add_error(&mut self, code: i32, count: u64) {
        let errors = &mut self.rare.get_or_insert_default().errors;
        if let Some(known) = errors.iter_mut().find(|known| known.0 == code) {
            known.1 += count;
        } else if errors.len() < ERROR_LIMIT || code == OTHER_ERROR {
            errors.push((code, count));
        } else {
            self.add_error(OTHER_ERROR, count);
        }
    }

    pub fn merge(&mut self, other: &Row) {
        self.merge_counts(other);
        self.latency.merge(&other.latency);
    }

    pub fn merge_counts(&mut self, other: &Row) {
        self.requests += other.requests;
        self.replies += other.replies;
        self.request_bytes = self.request_bytes.wrapping_add(other.request_bytes);
        self.reply_bytes = self.reply_bytes.wrapping_add(other.reply_bytes);
        self.watch_events += other.watch_events;
        let Some(rare) = &other.rare else {
            return;
        };
        for &(code, count) in &rare.errors {
            self.add_error(code, count);
        }
        if rare.most_in_flight > 1 {
            self.deeper(rare.most_in_flight);
        }
    }
}

/// Events that are counted together.
pub const WAITING: usize = 64;

/// Events whose paths are yet to be looked up.
#[derive(Default)]
pub struct Waiting {
    pub events: Vec<PathEvent>,
    /// Their paths, one behind the other.
    pub paths: Vec<u8>,
}

pub struct PathEvent {
    pub hash: u32,
    /// Of its path.
    pub end: usize,
    pub delta: Delta,
}

impl Waiting {
    /// Whether it is time to count them.
    #[inline]
    pub fn push(&mut self, hash: u32, path: &[u8], delta: &Delta) -> bool {
        self.paths.extend_from_slice(path);
        self.events.push(PathEvent {
            hash,
            end: self.paths.len(),
            delta: *delta,
        });
        self.events.len() >= WAITING
    }
}
