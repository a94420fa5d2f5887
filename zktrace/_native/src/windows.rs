//! Aggregates per second of capture time, and totals in fixed memory.
//!
//! `zktrace/store/rows.py` is the same in Python. Rules:
//!
//! * The clock is the time of what is seen: of a complete exchange that of its reply, of others that
//!   of the row; a request without reply, which is told late, does not move it. A window ends when
//!   the clock passes it. Rows that come late count in the window under way; when the clock goes back
//!   by more than `BACK_S` it was set, and the window of that time begins.
//! * When a window ends its rows are added to the totals, and the `window_keys` rows with the most
//!   requests of each grouping are kept; the others are summed: of paths into a row per prefix of
//!   two components (at most `PREFIXES`), of one (as many), then all in one. So is a key longer than
//!   `LONGEST_KEY`. In a busy second that is done, down to `SPILL_KEYS` (or `window_keys`) rows, where a
//!   grouping has `SPILL_ROWS` keys (it is looked after each `LOOK` events), after `SPILL_EVENTS` events,
//!   and after `SPILL_BYTES` of paths longer than `PREFIX_BYTES`.
//! * Totals hold at most `total_keys` keys per grouping and `TOTAL_BYTES` of them. Beyond, keys are
//!   replaced as in Space-Saving (Metwally, Agrawal, El Abbadi 2005), half of them at once: those
//!   with the smallest upper bound of requests go, and are folded as above. A key that comes (again)
//!   later counts from zero, and `missed`, the largest bound of any that went, says how many of its
//!   requests there may have been before. Each replacement takes its growth of that bound from at
//!   least `total_keys / 2` kept keys, too, so it is at most twice the requests by `total_keys`.
//! * By user only what is known to be of one counts: mostly nobody authenticates, and a row of all that is nobody's would be
//!   the total again.
//! * How many requests were in flight is what `in_flight.rs` says; of a key the most counts.
//! * Fingerprints (`fingerprint.rs`) are made of the paths that a second had, once for each.
//!
//! Knows nothing of Python.

use std::collections::HashMap;

use crate::agg::{cut_path, Aggregator, By, KeyRow, Row};
use crate::events::{
    Anomaly, Connection, ConnectionEvent, Counted, EventSink, Exchange, FourLetter, State,
    WatchEvent,
};
use crate::fingerprint::fingerprint;
use crate::histogram::Scale;
use crate::in_flight::InFlight;
use crate::intern::Interner;

/// Seconds that the clock may go back without a new window: captures are not quite in order.
const BACK_S: i64 = 60;
/// Prefixes of paths, per depth, that what is not kept apart is summed under.
const PREFIXES: usize = 64;
/// Bytes of such a prefix: most are short, and one can be as long as a frame.
const PREFIX_BYTES: usize = 256;
/// A longer key is not kept apart: a path can be as long as a frame.
const LONGEST_KEY: usize = 1024;
/// Keys of a grouping, events (each may take a bucket of a histogram), and bytes of long paths, before a second
/// is folded: what it may hold in memory.
const SPILL_ROWS: usize = 8192;
const SPILL_EVENTS: u64 = 1 << 18;
/// So many events are counted before it is looked how many keys there are.
const LOOK: u64 = 1024;
const SPILL_BYTES: usize = 1 << 20;
/// Rows that a second is folded to before it has ended.
const SPILL_KEYS: usize = 1024;
/// Bytes of the keys of a total.
const TOTAL_BYTES: usize = 4 << 20;
const NANOS: i64 = 1_000_000_000;

/// What is counted per second.
const COUNTED: [By; 5] = [By::Op, By::Client, By::Path, By::Server, By::User];

/// The rows of a second, folded.
pub struct Window {
    pub second: i64,
    pub groups: Vec<(By, Vec<KeyRow>)>,
}

/// A row of the totals.
pub struct Named<'a> {
    pub key: Option<String>,
    pub rest: bool,
    pub row: &'a Row,
    /// Requests that it may have had before it was kept, at most.
    pub missed: u64,
}

/// A grouping since the beginning. Keys are tagged (see `tag`).
struct Total {
    by: By,
    keys: Interner,
    rows: Vec<(Row, u64)>,
    /// What a key that is not there may have had, at most.
    floor: u64,
}

pub struct Windows {
    now: Aggregator,
    in_flight: InFlight,
    second: Option<i64>,
    /// Rows counted since the window began.
    counted: u64,
    /// Rows, and bytes of long paths, in `now`.
    waiting: u64,
    waiting_bytes: usize,
    /// What was taken out of `now` before the window ended.
    spilled: Vec<(By, Vec<KeyRow>)>,
    ended: Vec<Window>,
    totals: Vec<Total>,
    window_keys: usize,
    total_keys: usize,
    scratch: Vec<u8>,
}

/// First byte of a total's key.
const NULL: u8 = 0;
const KEY: u8 = 1;
const REST: u8 = 2;

fn tag(scratch: &mut Vec<u8>, key: Option<&str>, rest: bool) {
    scratch.clear();
    match (key, rest) {
        (None, false) => scratch.push(NULL),
        (_, false) => scratch.push(KEY),
        (_, true) => scratch.push(REST),
    }
    scratch.extend_from_slice(key.unwrap_or_default().as_bytes());
}

fn untag(tagged: &[u8]) -> (Option<String>, bool) {
    let (tag, key) = tagged.split_first().unwrap_or((&NULL, &[]));
    let text = || Some(String::from_utf8_lossy(key).into_owned());
    match *tag {
        KEY => (text(), false),
        REST if key.is_empty() => (None, true),
        REST => (text(), true),
        _ => (None, false),
    }
}

/// A row and the most requests that its key can have had.
type Bounded = (KeyRow, u64);

/// Order in which rows are shown: most requests first, then by key; null keys and rests last.
fn sort(rows: &mut [Bounded]) {
    rows.sort_by(|(a, most_of_a), (b, most_of_b)| {
        let order = most_of_b.cmp(most_of_a);
        let order = order.then_with(|| a.key.is_none().cmp(&b.key.is_none()));
        let order = order.then_with(|| a.key.cmp(&b.key));
        order.then_with(|| a.rest.cmp(&b.rest))
    });
}

fn is_long(one: &KeyRow) -> bool {
    !one.rest && one.key.as_ref().is_some_and(|key| key.len() > LONGEST_KEY)
}

/// Keeps the first `keep` keys and sums the others; gives the most requests of a key that was
/// summed.
fn fold(by: By, mut rows: Vec<Bounded>, keep: usize) -> (Vec<Bounded>, u64) {
    sort(&mut rows);
    let mut kept: Vec<Bounded> = Vec::new();
    let mut folded: Vec<Bounded> = Vec::new();
    let mut places: HashMap<Option<String>, usize> = HashMap::new();
    let mut depths = [0usize; 2];
    let mut most = 0;
    let mut left = keep;
    for (one, bound) in rows {
        if !one.rest && !is_long(&one) && (one.key.is_none() || left > 0) {
            left -= usize::from(one.key.is_some());
            kept.push((one, bound));
            continue;
        }
        if !one.rest && !is_long(&one) {
            most = most.max(bound);
        }
        let mut target = None;
        if let (By::Path, Some(path)) = (by, &one.key) {
            for (depth, used) in [2, 1].into_iter().zip(&mut depths) {
                let prefix = cut_path(path.as_bytes(), Some(depth));
                if prefix.is_empty() || prefix.len() > PREFIX_BYTES {
                    continue;
                }
                let prefix = Some(String::from_utf8_lossy(prefix).into_owned());
                if places.contains_key(&prefix) {
                    target = prefix;
                    break;
                }
                if *used < PREFIXES {
                    *used += 1;
                    target = prefix;
                    break;
                }
            }
        }
        match places.get(&target).and_then(|&at| folded.get_mut(at)) {
            Some((known, requests)) => {
                known.row.merge(&one.row);
                *requests = known.row.requests;
            }
            None => {
                places.insert(target.clone(), folded.len());
                let requests = one.row.requests;
                let rest = KeyRow {
                    key: target,
                    rest: true,
                    row: one.row,
                };
                folded.push((rest, requests));
            }
        }
    }
    sort(&mut folded);
    kept.append(&mut folded);
    (kept, most)
}

/// The same for rows of which nothing was missed.
fn fold_rows(by: By, rows: Vec<KeyRow>, keep: usize) -> Vec<KeyRow> {
    let bounded = rows.into_iter().map(|one| {
        let requests = one.row.requests;
        (one, requests)
    });
    let (rows, _) = fold(by, bounded.collect(), keep);
    rows.into_iter().map(|(one, _)| one).collect()
}

/// Adds rows to rows of the same keys.
fn merge_into(known: &mut Vec<KeyRow>, more: Vec<KeyRow>) {
    let places = (0..).zip(known.iter());
    let places = places.map(|(i, one)| ((one.key.clone(), one.rest), i));
    let places: HashMap<(Option<String>, bool), usize> = places.collect();
    for one in more {
        let at = places.get(&(one.key.clone(), one.rest));
        match at.and_then(|&at| known.get_mut(at)) {
            Some(row) => row.row.merge(&one.row),
            None => known.push(one),
        }
    }
}

/// Paths to a row per fingerprint.
fn fingerprints(paths: &[KeyRow], scratch: &mut Vec<u8>) -> Vec<KeyRow> {
    let mut places: HashMap<Option<String>, usize> = HashMap::new();
    let mut shapes: Vec<KeyRow> = Vec::new();
    for one in paths {
        let shape = one.key.as_ref().map(|path| {
            fingerprint(path.as_bytes(), scratch);
            String::from_utf8_lossy(scratch).into_owned()
        });
        let at = *places.entry(shape).or_insert_with_key(|shape| {
            shapes.push(KeyRow {
                key: shape.clone(),
                rest: false,
                row: Row::default(),
            });
            shapes.len() - 1
        });
        if let Some(known) = shapes.get_mut(at) {
            known.row.merge(&one.row);
        }
    }
    shapes
}

impl Total {
    fn new(by: By) -> Self {
        Total {
            by,
            keys: Interner::new(),
            rows: Vec::new(),
            floor: 0,
        }
    }

    /// The row of a key; `missed` when it is new.
    fn row(
        &mut self,
        key: Option<&str>,
        rest: bool,
        missed: u64,
        scratch: &mut Vec<u8>,
    ) -> Option<&mut (Row, u64)> {
        tag(scratch, key, rest);
        let index = self.keys.intern(scratch)?;
        if self.keys.len() > self.rows.len() {
            self.rows.push((Row::default(), missed));
        }
        self.rows.get_mut(index as usize)
    }

    fn add(&mut self, rows: &[KeyRow], scratch: &mut Vec<u8>) {
        for one in rows {
            let counted = one.key.is_some() && !one.rest;
            let missed = if counted { self.floor } else { 0 };
            if let Some((row, _)) = self.row(one.key.as_deref(), one.rest, missed, scratch) {
                row.merge(&one.row);
            }
        }
    }

    fn is_full(&self, limit: usize) -> bool {
        self.keys.len() > limit || self.keys.byte_len() > TOTAL_BYTES
    }

    fn prune(&mut self, limit: usize, scratch: &mut Vec<u8>) {
        let mut keep = limit.min(self.keys.len());
        if !self.is_full(limit) {
            return;
        }
        while keep > 0 {
            keep /= 2;
            let keys = std::mem::take(&mut self.keys);
            let rows = std::mem::take(&mut self.rows);
            let rows = (0u32..).zip(rows).map(|(i, (row, missed))| {
                let (key, rest) = untag(keys.get(i));
                let bound = row.requests.saturating_add(missed);
                (KeyRow { key, rest, row }, bound)
            });
            let (rows, most) = fold(self.by, rows.collect(), keep);
            self.floor = self.floor.max(most);
            for (one, bound) in rows {
                let counted = one.key.is_some() && !one.rest;
                let missed = bound - if counted { one.row.requests } else { bound };
                if let Some(row) = self.row(one.key.as_deref(), one.rest, missed, scratch) {
                    row.0 = one.row;
                }
            }
            if self.keys.byte_len() <= TOTAL_BYTES {
                break;
            }
        }
    }
}

impl Windows {
    pub fn new(scale: Scale, window_keys: usize, total_keys: usize) -> Self {
        // What is full is spilled, so nothing is turned away.
        let mut now = Aggregator::new(scale, &COUNTED, None, usize::MAX);
        now.nobody = false;
        Windows {
            now,
            in_flight: InFlight::default(),
            second: None,
            counted: 0,
            waiting: 0,
            waiting_bytes: 0,
            spilled: Vec::new(),
            ended: Vec::new(),
            totals: By::WINDOWS.into_iter().map(Total::new).collect(),
            window_keys,
            total_keys,
            scratch: Vec::new(),
        }
    }

    #[inline]
    fn tick(&mut self, ns: i64) {
        let second = ns.div_euclid(NANOS);
        match self.second {
            Some(now) if second <= now && second >= now.saturating_sub(BACK_S) => {}
            None => self.second = Some(second),
            Some(_) => {
                self.end();
                self.second = Some(second);
            }
        }
    }

    /// Folds the second under way where it holds enough.
    #[inline(never)]
    fn look(&mut self) {
        if self.waiting >= SPILL_EVENTS
            || self.waiting_bytes >= SPILL_BYTES
            || self.now.most_keys() >= SPILL_ROWS
        {
            self.spill(self.window_keys.max(SPILL_KEYS));
        }
    }

    /// Takes the rows of `now` to the totals, and to the window under way, `keep` of them.
    fn spill(&mut self, keep: usize) {
        self.waiting = 0;
        self.waiting_bytes = 0;
        for (by, rows) in self.now.take() {
            if by == By::Path {
                let shapes = fingerprints(&rows, &mut self.scratch);
                self.put(By::Fingerprint, shapes, keep);
            }
            self.put(by, rows, keep);
        }
    }

    fn put(&mut self, by: By, mut rows: Vec<KeyRow>, keep: usize) {
        if rows.iter().any(is_long) {
            rows = fold_rows(by, rows, usize::MAX);
        }
        if let Some(total) = self.totals.iter_mut().find(|total| total.by == by) {
            total.add(&rows, &mut self.scratch);
            total.prune(self.total_keys, &mut self.scratch);
        }
        match self.spilled.iter_mut().find(|group| group.0 == by) {
            Some((_, known)) => {
                let mut merged = std::mem::take(known);
                merge_into(&mut merged, rows);
                *known = fold_rows(by, merged, keep);
            }
            None => self.spilled.push((by, fold_rows(by, rows, keep))),
        }
    }

    /// Ends the window under way.
    fn end(&mut self) {
        let Some(second) = self.second.filter(|_| self.counted > 0) else {
            return;
        };
        self.counted = 0;
        self.spill(self.window_keys);
        let groups = std::mem::take(&mut self.spilled);
        self.ended.push(Window { second, groups });
    }

    /// Windows that ended since the last call; with `all` the one under way ends, too.
    pub fn drain(&mut self, all: bool) -> Vec<Window> {
        if all {
            self.end();
        }
        std::mem::take(&mut self.ended)
    }

    /// A grouping over all windows that ended, in no order.
    pub fn totals(&self, by: By) -> Vec<Named<'_>> {
        let Some(total) = self.totals.iter().find(|total| total.by == by) else {
            return Vec::new();
        };
        let rows = (0u32..).zip(&total.rows).map(|(i, (row, missed))| {
            let (key, rest) = untag(total.keys.get(i));
            Named {
                key,
                rest,
                row,
                missed: *missed,
            }
        });
        rows.collect()
    }

    #[inline]
    fn counted_one(&mut self, path: Option<&[u8]>) {
        self.counted += 1;
        self.waiting += 1;
        // Invalid UTF-8 is replaced by at most three times as many bytes.
        if let Some(long) = path.filter(|path| path.len() > PREFIX_BYTES / 3) {
            let bytes = String::from_utf8_lossy(long).len();
            self.waiting_bytes += if bytes > PREFIX_BYTES { bytes } else { 0 };
        }
        if self.waiting.is_multiple_of(LOOK) || self.waiting_bytes >= SPILL_BYTES {
            self.look();
        }
    }
}

impl EventSink for Windows {
    #[inline]
    fn exchange(&mut self, row: &Exchange<'_>) {
        // A request without reply is told late: it counts, but does not move the clock.
        if row.state != State::NoReply || self.second.is_none() {
            self.tick(row.ts_ns.saturating_add(row.latency_ns.unwrap_or(0)));
        }
        let in_flight = self.in_flight.sent(row);
        self.now.count(&Counted {
            in_flight,
            ..Counted::of(row)
        });
        self.counted_one(row.path);
    }

    #[inline]
    fn watch_event(&mut self, row: &WatchEvent<'_>) {
        self.tick(row.ts_ns);
        self.now.watch_event(row);
        self.counted_one(row.path);
    }

    fn connection(&mut self, row: &Connection<'_>) {
        if matches!(row.event, ConnectionEvent::Closed | ConnectionEvent::Reset) {
            self.in_flight.ended(row.conn.id);
        }
        self.now.connection(row);
    }

    fn four_letter(&mut self, _: &FourLetter<'_>) {}
    fn anomaly(&mut self, _: &Anomaly<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{ConnInfo, Endpoint};
    use crate::histogram::tests::scale;

    fn feed(windows: &mut Windows, second: i64, path: &str) {
        let conn = ConnInfo {
            id: 0,
            client: Endpoint::v4([1, 2, 3, 4], 5),
            server: Endpoint::v4([1, 2, 3, 5], 2181),
        };
        let mut row = Exchange::new(0, second * NANOS, &conn, State::Complete);
        row.path = Some(path.as_bytes());
        row.latency_ns = Some(1000);
        windows.exchange(&row);
    }

    fn paths(rows: &[KeyRow]) -> Vec<(Option<&str>, bool, u64)> {
        let shown = |one: &KeyRow| one.row.requests;
        rows.iter()
            .map(|one| (one.key.as_deref(), one.rest, shown(one)))
            .collect()
    }

    fn by_path(window: &Window) -> &[KeyRow] {
        let found = window.groups.iter().find(|group| group.0 == By::Path);
        &found.unwrap().1
    }

    #[test]
    fn seconds_and_what_is_not_kept_apart() {
        let mut windows = Windows::new(scale(), 1, 100);
        for path in ["/a/b/c", "/a/b/c", "/a/b/d", "/a/b/e", "/x"] {
            feed(&mut windows, 5, path);
        }
        feed(&mut windows, 4, "/late");
        feed(&mut windows, 7, "/y");
        let ended = windows.drain(false);
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0].second, 5);
        let expected = [
            (Some("/a/b/c"), false, 2),
            (Some("/a/b"), true, 2),
            (Some("/late"), true, 1),
            (Some("/x"), true, 1),
        ];
        assert_eq!(paths(by_path(&ended[0])), expected);
        assert_eq!(windows.drain(true)[0].second, 7);
        assert!(windows.drain(true).is_empty());
        feed(&mut windows, -1000, "/clock/was/set");
        assert_eq!(windows.drain(true)[0].second, -1000);
        assert_eq!(windows.totals(By::Path).len(), 7);
    }

    #[test]
    fn totals_are_bounded_and_lose_no_request() {
        let mut windows = Windows::new(scale(), 10, 50);
        for second in 0..20 {
            for i in 0..40 {
                feed(
                    &mut windows,
                    second,
                    &format!("/p{}/q{}", second % 3, second * 40 + i),
                );
            }
        }
        windows.drain(true);
        let rows = windows.totals(By::Path);
        assert!(rows.len() <= 50 + 2 * PREFIXES + 2);
        assert_eq!(rows.iter().map(|one| one.row.requests).sum::<u64>(), 800);
        assert!(rows.iter().any(|one| one.missed > 0));
        assert!(rows.iter().all(|one| one.missed <= 2 * 800 / 50));
    }

    #[test]
    fn a_flood_of_keys_in_a_second_is_bounded() {
        let mut windows = Windows::new(scale(), 4, 100);
        for i in 0..3 * SPILL_ROWS {
            feed(&mut windows, 1, &format!("/flood/n{i}"));
            feed(&mut windows, 1, "/hot");
            assert!(windows.waiting < 2 * (SPILL_ROWS as u64 + LOOK));
        }
        feed(&mut windows, 1, &format!("/{}", "x".repeat(SPILL_BYTES)));
        let ended = windows.drain(true);
        let rows = by_path(&ended[0]);
        assert!(rows.len() <= 4 + 2 * PREFIXES + 1);
        let spill_rows = SPILL_ROWS as u64;
        assert_eq!(paths(rows)[0], (Some("/hot"), false, 3 * spill_rows));
        let sum: u64 = rows.iter().map(|one| one.row.requests).sum();
        assert_eq!(sum, 6 * spill_rows + 1);
        let bytes: usize = rows
            .iter()
            .filter_map(|one| one.key.as_ref())
            .map(String::len)
            .sum();
        assert!(bytes < LONGEST_KEY);
        let total = windows.totals(By::Path);
        let hot = total.iter().find(|one| one.key.as_deref() == Some("/hot"));
        assert_eq!(
            hot.map(|one| (one.row.requests, one.missed)),
            Some((3 * spill_rows, 0))
        );
        let shapes = windows.totals(By::Fingerprint);
        let flood = shapes
            .iter()
            .find(|one| one.key.as_deref() == Some("/flood/n<n>"));
        assert_eq!(flood.unwrap().row.requests, 3 * spill_rows);
    }
}
