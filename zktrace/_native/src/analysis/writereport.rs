//! What `zktrace trace` tells: one object per write, and a summary of all.
//!
//! `zktrace/analysis/writereport.py` is the reference, docs/trace.md has the shapes. What is text on Python's side only
//! (names of errors, what stands for a session) is left to it. Must not know how objects are shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::blame::{self, Whose, PARTS};
use super::columns::{View, NONE};
use super::join::Join;
use super::value::{quotient, rounded, Value};
use super::writepath::{paths, Origin, Path, Paths, MOMENTS, REPLY};
use super::writerows::spread;
use crate::histogram::{Histogram, Scale};

/// The slow ones: one in so many writes.
const SLOW: usize = 100;

/// The paths of all writes of a capture.
pub struct WriteReport<'a> {
    pub join: Join<'a>,
    pub paths: Arc<Paths>,
    pub scale: &'a Scale,
}

impl<'a> WriteReport<'a> {
    /// `voters`: how many there are, where the user knows.
    pub fn new(view: View<'a>, scale: &'a Scale, voters: Option<i64>) -> Self {
        let join = Join::new(view);
        let paths = Arc::new(paths(&join, voters));
        WriteReport { join, paths, scale }
    }

    /// Numbers of the slowest, the slowest first; of equals the earliest.
    pub fn slowest(&self, count: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.paths.length.len() as u32).collect();
        let key = |&at: &u32| {
            let path = &self.paths.all[at as usize];
            (-self.paths.length[at as usize], blame::begin(path), at)
        };
        if count < order.len() {
            if count > 0 {
                order.select_nth_unstable_by_key(count - 1, key);
            }
            order.truncate(count);
        }
        order.sort_unstable_by_key(key);
        order
    }

    /// All, by time.
    pub fn by_time(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.paths.length.len() as u32).collect();
        order.sort_by_key(|&at| blame::begin(&self.paths.all[at as usize]));
        order
    }

    fn spread(&self, values: impl Iterator<Item = i64>) -> Value {
        let mut histogram = Histogram::default();
        for value in values {
            histogram.add(value, self.scale.bucket(value));
        }
        spread(&histogram, self.scale)
    }

    pub fn spread_of(&self, values: &[i64]) -> Value {
        self.spread(values.iter().copied())
    }

    /// Whether a path is that of a client's write whose reply was seen.
    pub fn answered(path: &Path) -> bool {
        path.write >= 0 && path.moments[REPLY] != NONE
    }

    fn whole(&self, rows: impl Iterator<Item = usize>) -> i128 {
        let whole: i128 = rows.map(|row| i128::from(self.paths.length[row])).sum();
        whole.max(1)
    }

    /// Counts, percentiles per stage and follower, what the time went to.
    pub fn summary(&self) -> Value {
        let all = &self.paths.all;
        let answered = || {
            let known = all.iter().zip(&self.paths.length);
            known
                .filter(|(path, _)| Self::answered(path))
                .map(|(_, &length)| length)
        };
        let mut lost = [0i64; 6];
        for path in all {
            for (count, gone) in lost.iter_mut().zip(blame::gone(path)) {
                *count += i64::from(gone);
            }
        }
        let missing = MOMENTS
            .into_iter()
            .zip(lost)
            .filter(|(_, count)| *count > 0);
        let count = |which: fn(&Path) -> bool| {
            Value::Int(all.iter().filter(|path| which(path)).count() as i64)
        };
        Value::Map(vec![
            ("kind", Value::Name("summary")),
            ("writes", Value::Int(all.len() as i64)),
            ("by_origin", self.origins()),
            ("answered", count(Self::answered)),
            ("complete", count(blame::complete)),
            (
                "not_seen",
                Value::Map(missing.map(|(name, n)| (name, Value::Int(n))).collect()),
            ),
            ("reordered", count(|path| path.reordered)),
            ("latency_us", self.spread(answered())),
            ("stages", self.stage_rows()),
            ("parts", self.part_rows(0..all.len())),
            ("slow", self.slow()),
            ("quorums", self.quorum_rows()),
            ("learners", self.learners()),
            ("points", Value::List(Vec::new())),
        ])
    }

    fn origins(&self) -> Value {
        let counts = Origin::ALL.into_iter().map(|origin| {
            let mine = self.paths.all.iter().filter(|path| path.origin == origin);
            let name = if origin == Origin::Unknown {
                "unknown"
            } else {
                origin.name()
            };
            (name, mine.count() as i64)
        });
        let known = counts.filter(|(_, count)| *count > 0);
        Value::Map(
            known
                .map(|(name, count)| (name, Value::Int(count)))
                .collect(),
        )
    }

    fn stage_rows(&self) -> Value {
        let mut held: BTreeMap<blame::Stage, Histogram> = BTreeMap::new();
        for path in &self.paths.all {
            for stage in blame::stages(path) {
                let took = path.moments[stage.1].wrapping_sub(path.moments[stage.0]);
                held.entry(stage)
                    .or_default()
                    .add(took, self.scale.bucket(took));
            }
        }
        let whole = self.whole(0..self.paths.length.len());
        let rows = held.into_iter().map(|((begin, end, name), histogram)| {
            Value::Map(vec![
                ("stage", Value::Name(name)),
                ("from", Value::Name(MOMENTS[begin])),
                ("to", Value::Name(MOMENTS[end])),
                ("count", Value::Int(histogram.count as i64)),
                ("us", spread(&histogram, self.scale)),
                ("share", share(histogram.sum, whole)),
            ])
        });
        Value::List(rows.collect())
    }

    /// Time by part and place, most first.
    fn part_rows(&self, rows: impl Iterator<Item = usize> + Clone) -> Value {
        let whole = self.whole(rows.clone());
        let mut held: BTreeMap<(usize, i64), i128> = BTreeMap::new();
        for row in rows {
            let path = &self.paths.all[row];
            let spent = blame::parts(&self.join, &self.paths, path);
            for (part, ns) in spent.into_iter().enumerate().filter(|(_, ns)| *ns != 0) {
                let place = self.place_of(path, PARTS[part].whose);
                *held.entry((part, place)).or_default() += i128::from(ns);
            }
        }
        let named = held.into_iter().filter(|(_, total)| *total != 0);
        let mut named: Vec<(i128, usize, Option<String>)> = named
            .map(|((part, place), total)| (total, part, self.place_name(place)))
            .collect();
        named.sort_by(|a, b| {
            let order = |one: &(i128, usize, Option<String>)| (-one.0, PARTS[one.1].name);
            let place = |one: &(i128, usize, Option<String>)| one.2.clone().unwrap_or_default();
            order(a)
                .cmp(&order(b))
                .then_with(|| place(a).cmp(&place(b)))
        });
        let rows = named.into_iter().map(|(total, part, place)| {
            let part = &PARTS[part];
            Value::Map(vec![
                ("part", Value::Name(part.name)),
                ("stage", Value::name(part.stage)),
                ("where", Value::some(place, Value::Text)),
                ("meaning", Value::Name(part.meaning)),
                ("us", Value::Float(quotient(total, 1000))),
                ("share", share(total, whole)),
            ])
        });
        Value::List(rows.collect())
    }

    /// What the slowest one in a hundred writes spent their time on.
    fn slow(&self) -> Value {
        let count = self.paths.length.len().div_ceil(SLOW);
        if count == 0 {
            return Value::None;
        }
        let rows = self.slowest(count);
        let least = rows
            .iter()
            .map(|&row| self.paths.length[row as usize])
            .min();
        Value::Map(vec![
            ("writes", Value::Int(count as i64)),
            ("from_us", Value::Us(least.unwrap_or(0))),
            (
                "parts",
                self.part_rows(rows.iter().map(|&row| row as usize)),
            ),
        ])
    }

    fn quorum_rows(&self) -> Value {
        let rows = self.paths.quorums.iter().map(|quorum| {
            Value::Map(vec![
                ("leader", Value::text(self.address(quorum.leader))),
                ("epoch", Value::Int(quorum.epoch)),
                ("followers", Value::Int(quorum.followers)),
                ("least_acks", Value::some(quorum.least_acks, Value::Int)),
                ("needed", Value::some(quorum.needed, Value::Int)),
                ("how", Value::some(quorum.how, Value::Name)),
                ("txns", Value::Int(quorum.txns)),
            ])
        });
        Value::List(rows.collect())
    }

    pub fn address(&self, code: i32) -> &str {
        self.join.view.address(code).unwrap_or_default()
    }

    // ---- places: addresses, or peers (numbered from -2 down)

    /// Whose a part of a path is.
    pub fn place_of(&self, path: &Path, whose: Whose) -> i64 {
        let join = &self.join;
        let number = |at: i32| usize::try_from(at).ok();
        match whose {
            Whose::Server => match (number(path.write), path.peer) {
                (Some(write), _) => {
                    let row = join.writes.row[write] as usize;
                    i64::from(join.view.server(join.view.exchanges.conn.get(row)))
                }
                // Without a client's exchange the connection of its server says who it is.
                (None, peer) if peer >= 0 => -2 - i64::from(peer),
                (None, _) => -1,
            },
            Whose::Leader => number(path.txn).map_or(-1, |txn| i64::from(join.txns.leader[txn])),
            Whose::Follower => {
                number(path.acker).map_or(-1, |at| -2 - i64::from(join.deliveries.peer[at]))
            }
            Whose::Nobody => -1,
        }
    }

    pub fn place_name(&self, place: i64) -> Option<String> {
        if place >= -1 {
            return self.join.view.address(place as i32).map(str::to_owned);
        }
        let peer = &self.join.peers[(-2 - place) as usize];
        let learner = self.address(peer.learner);
        Some(match peer.sid {
            None => learner.to_owned(),
            Some(sid) => format!("{learner} (sid {sid})"),
        })
    }
}

/// A part of a whole, to four decimals.
pub fn share(part: i128, whole: i128) -> Value {
    Value::Float(rounded(quotient(part, whole), 4))
}
