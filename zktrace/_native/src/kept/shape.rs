//! The shape of the tree as replies show it: the znodes with most data and most children, and the
//! largest messages.
//!
//! `zktrace/store/shape.py` is the reference, row by row, and says what counts. Knows nothing of
//! Python.

use std::collections::HashMap;

use super::short;
use crate::events::{Exchange, State};

/// Paths of each kind that are kept.
pub const SHOWN: usize = 100;
/// So many are kept before all but the first are given up.
const KEPT: usize = 4 * SHOWN;
/// Sets of two paths whose largest values are remembered, by hash: they mostly stay.
const SETS: usize = 1024;

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
#[derive(Default)]
pub struct Top {
    paths: HashMap<String, (i64, i64, Option<i32>)>,
    floor: i64,
}

impl Top {
    #[inline(never)]
    fn keep(&mut self, path: &[u8], value: i64, row: &Exchange<'_>) {
        let op = row.op.map(|(code, _)| code);
        let path = short(path);
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

/// A path's largest values, in the order of [`Shape::tops`].
#[derive(Clone, Copy, Default)]
struct Known {
    hash: u64,
    values: [i64; 3],
}

const DATA: usize = 0;
const CHILDREN: usize = 1;
const MESSAGES: usize = 2;

pub struct Shape {
    /// Bytes of data, number of children, bytes of a message.
    tops: [Top; 3],
    /// Of each set the path that came last first.
    cache: Vec<[Known; 2]>,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            tops: Default::default(),
            cache: vec![[Known::default(); 2]; SETS],
        }
    }
}

impl Shape {
    /// An exchange; `hash`: that of its path (`hashed` hashes another one).
    #[inline]
    pub fn exchange(&mut self, row: &Exchange<'_>, hash: u64, hashed: impl Fn(&[u8]) -> u64) {
        let Some(path) = row.path else { return };
        let (sent, got) = (row.request_bytes, row.reply_bytes);
        let mut values = [0; 3];
        values[MESSAGES] = sent.unwrap_or_default().max(got.unwrap_or_default());
        if row.error == Some(0) && row.state == State::Complete {
            if let Some(stat) = row.stat {
                let (data, children) = stat.sizes();
                (values[DATA], values[CHILDREN]) = (i64::from(data), i64::from(children));
            } else if let Some(length) = row.data_length {
                match row.created_path {
                    Some(created) => {
                        let made = [i64::from(length), 0, 0];
                        self.see(created, hashed(created), made, row);
                    }
                    None => values[DATA] = i64::from(length),
                }
            }
            if let Some(children) = row.children {
                values[CHILDREN] = values[CHILDREN].max(i64::from(children));
            }
        }
        self.see(path, hash, values, row);
    }

    /// Values of a path; 0: not known, or nothing.
    #[inline]
    fn see(&mut self, path: &[u8], hash: u64, values: [i64; 3], row: &Exchange<'_>) {
        let more = |known: &[i64; 3]| values.iter().zip(known).any(|(now, known)| now > known);
        if !more(&[0, 1, 2].map(|at: usize| self.tops[at].floor)) {
            return;
        }
        let Some(set) = self.cache.get_mut(hash as usize & (SETS - 1)) else {
            return;
        };
        let known = match set.iter().position(|known| known.hash == hash) {
            Some(at) => &mut set[at],
            None => {
                set[1] = set[0];
                set[0] = Known {
                    hash,
                    values: [0; 3],
                };
                &mut set[0]
            }
        };
        if more(&known.values) {
            let before = known.values;
            for (known, now) in known.values.iter_mut().zip(values) {
                *known = now.max(*known);
            }
            self.grown(path, before, values, row);
        }
    }

    #[inline(never)]
    fn grown(&mut self, path: &[u8], before: [i64; 3], values: [i64; 3], row: &Exchange<'_>) {
        for (top, (before, now)) in self.tops.iter_mut().zip(before.into_iter().zip(values)) {
            if now > before && now > top.floor {
                top.keep(path, now, row);
            }
        }
    }

    /// By bytes of data, by number of children, by bytes of a message: the first of each.
    pub fn ranked(&self, limit: usize) -> [Vec<Largest>; 3] {
        let [data, children, messages] = &self.tops;
        [data, children, messages].map(|top| top.ranked(limit))
    }
}
