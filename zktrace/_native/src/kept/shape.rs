//! The shape of the tree as replies show it: the znodes with most data and most children, and the
//! largest messages.
//!
//! `zktrace/store/shape.py` is the reference, row by row, and says what counts. Knows nothing of
//! Python.

use std::collections::HashMap;
use std::hash::BuildHasher;

use super::short;
use crate::events::{Exchange, State};
use crate::intern::hash_bytes;

/// Paths of each kind that are kept.
pub const SHOWN: usize = 100;
/// So many are kept before all but the first are given up.
const KEPT: usize = 4 * SHOWN;
/// Paths whose last value is remembered (direct mapped by hash): it mostly stays.
const CACHE: usize = 512;

/// The largest value seen of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Largest {
    pub path: String,
    pub value: i64,
    /// When it was seen first.
    pub ts_ns: i64,
    pub op: Option<i32>,
}

/// The paths with the largest values: exact, since one that was given up had no more than those kept.
pub struct Top {
    seed: u64,
    cache: Vec<(u64, i64)>,
    paths: HashMap<String, (i64, i64, Option<i32>)>,
    floor: i64,
}

impl Default for Top {
    fn default() -> Self {
        Top {
            seed: std::collections::hash_map::RandomState::new().hash_one(0u64),
            cache: vec![(0, 0); CACHE],
            paths: HashMap::new(),
            floor: 0,
        }
    }
}

impl Top {
    #[inline]
    fn see(&mut self, path: &[u8], value: i64, row: &Exchange<'_>) {
        if value <= self.floor {
            return;
        }
        let hash = hash_bytes(self.seed, path);
        match self.cache.get_mut(hash as usize & (CACHE - 1)) {
            Some(known) if known.0 == hash && known.1 >= value => return,
            Some(known) => *known = (hash, value),
            None => {}
        }
        self.keep(short(path), value, row);
    }

    #[inline(never)]
    fn keep(&mut self, path: String, value: i64, row: &Exchange<'_>) {
        let op = row.op.map(|(code, _)| code);
        let known = self.paths.entry(path).or_insert((0, 0, None));
        if value > known.0 {
            *known = (value, row.ts_ns, op);
        }
        if self.paths.len() > KEPT {
            let kept = self.ranked(SHOWN);
            self.floor = kept.last().map_or(0, |least| least.value);
            let kept = kept.into_iter();
            self.paths = kept
                .map(|one| (one.path, (one.value, one.ts_ns, one.op)))
                .collect();
        }
    }

    /// The first of them, largest first.
    pub fn ranked(&self, limit: usize) -> Vec<Largest> {
        let paths = self.paths.iter();
        let mut ranked: Vec<Largest> = paths
            .map(|(path, &(value, ts_ns, op))| Largest {
                path: path.clone(),
                value,
                ts_ns,
                op,
            })
            .collect();
        ranked.sort_unstable_by(|a, b| (b.value, &a.path).cmp(&(a.value, &b.path)));
        ranked.truncate(limit);
        ranked
    }
}

#[derive(Default)]
pub struct Shape {
    /// Bytes of data, number of children, bytes of a message.
    pub data: Top,
    pub children: Top,
    pub messages: Top,
}

impl Shape {
    #[inline]
    pub fn exchange(&mut self, row: &Exchange<'_>) {
        let Some(path) = row.path else { return };
        let (sent, got) = (row.request_bytes, row.reply_bytes);
        let message = sent.unwrap_or_default().max(got.unwrap_or_default());
        self.messages.see(path, message, row);
        if row.error != Some(0) || row.state != State::Complete {
            return;
        }
        if let Some(stat) = row.stat {
            let (data, children) = stat.sizes();
            self.data.see(path, i64::from(data), row);
            self.children.see(path, i64::from(children), row);
        } else if let Some(length) = row.data_length {
            let path = row.created_path.unwrap_or(path);
            self.data.see(path, i64::from(length), row);
        }
        if let Some(children) = row.children {
            self.children.see(path, i64::from(children), row);
        }
    }
}
