//! Aggregates per second of capture time, and since the beginning, in bounded memory.
//!
//! `zktrace/store/rows.py` is the same in Python. Rules:
//!
//! * The clock is the time of what is seen: of a complete exchange that of its reply, of others that
//!   of the row; a request without reply, which is told late, does not move it. A window ends when
//!   the clock passes it. Rows that come late count in the window under way; when the clock goes back
//!   by more than `BACK_S` it was set, and the window of that time begins.
//! * When a window ends its rows are added to the totals, and the `window_keys` rows with the most
//!   requests of each grouping are kept; the others are summed: of paths into a row per prefix of
//!   two components (at most `PREFIXES`), of one (as many), then all in one.
//! * Totals hold at most `total_keys` keys per grouping; beyond, the half with fewest requests is
//!   folded in the same way. What a key had when it was folded is missing when it comes again:
//!   `short` bounds by how many requests.
//!
//! Knows nothing of Python.

use std::collections::HashMap;

use crate::agg::{cut_path, Aggregator, By, KeyRow, Row, KEY_LIMIT};
use crate::events::{Anomaly, Connection, EventSink, Exchange, FourLetter, State, WatchEvent};
use crate::histogram::Scale;
use crate::intern::Interner;

/// Seconds that the clock may go back without a new window: captures are not quite in order.
const BACK_S: i64 = 60;
/// Prefixes of paths, per depth, that what is not kept apart is summed under.
const PREFIXES: usize = 64;
/// Keys of a second: bounds memory under a flood of names; beyond, they are the rest.
const SECOND_KEYS: usize = KEY_LIMIT / 4;
const NANOS: i64 = 1_000_000_000;

/// The rows of a second, folded.
pub struct Window {
    pub second: i64,
    pub groups: Vec<(By, Vec<KeyRow>)>,
}

/// Key, whether it is a rest, and the row.
pub type Named<'a> = (Option<String>, bool, &'a Row);

/// A grouping since the beginning. Keys are tagged (see `tag`).
struct Total {
    by: By,
    keys: Interner,
    rows: Vec<Row>,
    short: u64,
}

pub struct Windows {
    now: Aggregator,
    second: Option<i64>,
    /// Rows counted since the window began.
    counted: u64,
    ended: Vec<Window>,
    totals: Vec<Total>,
    window_keys: usize,
    total_keys: usize,
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

/// Order in which rows are shown: most requests first, then by key; null keys and rests last.
fn sort(rows: &mut [KeyRow]) {
    rows.sort_by(|a, b| {
        let order = b.row.requests.cmp(&a.row.requests);
        let order = order.then_with(|| a.key.is_none().cmp(&b.key.is_none()));
        let order = order.then_with(|| a.key.cmp(&b.key));
        order.then_with(|| a.rest.cmp(&b.rest))
    });
}

/// Keeps the first `keep` keys and sums the others; gives the most requests of a key that was
/// summed.
fn fold(by: By, mut rows: Vec<KeyRow>, keep: usize) -> (Vec<KeyRow>, u64) {
    sort(&mut rows);
    let mut kept: Vec<KeyRow> = Vec::new();
    let mut folded: Vec<KeyRow> = Vec::new();
    let mut places: HashMap<Option<String>, usize> = HashMap::new();
    let mut depths = [0usize; 2];
    let mut most = 0;
    let mut left = keep;
    for one in rows {
        if !one.rest && (one.key.is_none() || left > 0) {
            left -= usize::from(one.key.is_some());
            kept.push(one);
            continue;
        }
        if !one.rest {
            most = most.max(one.row.requests);
        }
        let mut target = None;
        if let (By::Path, Some(path)) = (by, &one.key) {
            for (depth, used) in [2, 1].into_iter().zip(&mut depths) {
                let prefix = cut_path(path.as_bytes(), Some(depth));
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
            Some(known) => known.row.merge(&one.row),
            None => {
                places.insert(target.clone(), folded.len());
                folded.push(KeyRow {
                    key: target,
                    rest: true,
                    row: one.row,
                });
            }
        }
    }
    sort(&mut folded);
    kept.append(&mut folded);
    (kept, most)
}

impl Total {
    fn add(&mut self, rows: &[KeyRow], scratch: &mut Vec<u8>) {
        for one in rows {
            tag(scratch, one.key.as_deref(), one.rest);
            let Some(index) = self.keys.intern(scratch) else {
                continue;
            };
            if self.keys.len() > self.rows.len() {
                self.rows.push(Row::default());
            }
            if let Some(row) = self.rows.get_mut(index as usize) {
                row.merge(&one.row);
            }
        }
    }

    fn prune(&mut self, limit: usize, scratch: &mut Vec<u8>) {
        if self.keys.len() <= limit {
            return;
        }
        let keys = std::mem::take(&mut self.keys);
        let rows = std::mem::take(&mut self.rows);
        let rows = (0u32..).zip(rows).map(|(i, row)| {
            let (key, rest) = untag(keys.get(i));
            KeyRow { key, rest, row }
        });
        let (rows, most) = fold(self.by, rows.collect(), limit / 2);
        self.short += most;
        self.add(&rows, scratch);
    }
}

impl Windows {
    pub fn new(scale: Scale, window_keys: usize, total_keys: usize) -> Self {
        let total = |by| Total {
            by,
            keys: Interner::new(),
            rows: Vec::new(),
            short: 0,
        };
        Windows {
            now: Aggregator::new(scale, &By::ALL, None, SECOND_KEYS),
            second: None,
            counted: 0,
            ended: Vec::new(),
            totals: By::ALL.into_iter().map(total).collect(),
            window_keys,
            total_keys,
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

    /// Ends the window under way.
    fn end(&mut self) {
        let Some(second) = self.second.filter(|_| self.counted > 0) else {
            return;
        };
        self.counted = 0;
        let mut scratch = Vec::new();
        let mut groups = Vec::new();
        for (by, rows) in self.now.take() {
            if let Some(total) = self.totals.iter_mut().find(|total| total.by == by) {
                total.add(&rows, &mut scratch);
                total.prune(self.total_keys, &mut scratch);
            }
            groups.push((by, fold(by, rows, self.window_keys).0));
        }
        self.ended.push(Window { second, groups });
    }

    /// Windows that ended since the last call; with `all` the one under way ends, too.
    pub fn drain(&mut self, all: bool) -> Vec<Window> {
        if all {
            self.end();
        }
        std::mem::take(&mut self.ended)
    }

    /// A grouping over all windows that ended, in the order shown, and `short`.
    pub fn totals(&self, by: By) -> (Vec<Named<'_>>, u64) {
        let Some(total) = self.totals.iter().find(|total| total.by == by) else {
            return (Vec::new(), 0);
        };
        let rows = (0u32..).zip(&total.rows).map(|(i, row)| {
            let (key, rest) = untag(total.keys.get(i));
            (key, rest, row)
        });
        (rows.collect(), total.short)
    }
}

impl EventSink for Windows {
    #[inline]
    fn exchange(&mut self, row: &Exchange<'_>) {
        // A request without reply is told late: it counts, but does not move the clock.
        if row.state != State::NoReply || self.second.is_none() {
            self.tick(row.ts_ns.saturating_add(row.latency_ns.unwrap_or(0)));
        }
        self.counted += 1;
        self.now.exchange(row);
    }

    #[inline]
    fn watch_event(&mut self, row: &WatchEvent<'_>) {
        self.tick(row.ts_ns);
        self.counted += 1;
        self.now.watch_event(row);
    }

    fn connection(&mut self, _: &Connection<'_>) {}
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
        assert_eq!(windows.totals(By::Path).0.len(), 7);
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
        let (rows, short) = windows.totals(By::Path);
        assert!(rows.len() <= 50 + 2 * PREFIXES + 2);
        assert_eq!(rows.iter().map(|row| row.2.requests).sum::<u64>(), 800);
        assert!(short > 0);
    }
}
