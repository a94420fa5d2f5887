//! The watches that should still be set, per session, and which sessions only ever add to them.
//!
//! `zktrace/store/ledger.py` is the reference and says what is fact and what is guess. A watch is a
//! hash of session, path and what fires it. Knows nothing of Python.

use std::collections::HashMap;
use std::hash::BuildHasher;

use super::ByHash;
use crate::intern::hash_bytes;

/// Watches that are remembered (some 20 bytes each); beyond, new ones are counted in `overflow`.
pub const MAX_WATCHES: usize = 200_000;
const SAMPLE_S: i64 = 60;
const SAMPLES: usize = 5;
/// Fewer watches are no leak worth telling.
const LEAST: u32 = 100;
const SECOND: i64 = 1_000_000_000;

pub const DATA: u64 = 0x9e37_79b9_7f4a_7c15;
pub const CHILD: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// A session whose watches only grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Growing {
    pub session: i64,
    pub before: u32,
    pub now: u32,
    pub seconds: i64,
}

#[derive(Default)]
struct Holder {
    /// Which of the lives of the session it is; watches of an earlier one are gone.
    life: u32,
    count: u32,
}

pub struct Ledger {
    seed: u64,
    /// Watch to the life of its session.
    keys: ByHash<u32>,
    sessions: HashMap<i64, Holder>,
    lives: u32,
    alive: usize,
    limit: usize,
    pub overflow: u64,
    sample: Option<i64>,
    history: HashMap<i64, Vec<u32>>,
}

impl Ledger {
    pub fn new(limit: usize) -> Self {
        Ledger {
            seed: std::collections::hash_map::RandomState::new().hash_one(0u64),
            keys: ByHash::default(),
            sessions: HashMap::new(),
            lives: 0,
            alive: 0,
            limit,
            overflow: 0,
            sample: None,
            history: HashMap::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.alive
    }

    pub fn is_empty(&self) -> bool {
        self.alive == 0
    }

    fn key(&self, session: i64, path: &[u8], salt: u64) -> u64 {
        hash_bytes(
            self.seed ^ salt ^ (session as u64).wrapping_mul(CHILD),
            path,
        )
    }

    pub fn granted(&mut self, session: i64, path: &[u8], salt: u64) {
        let key = self.key(session, path, salt);
        let life = self.sessions.get(&session).map(|holder| holder.life);
        if life.is_some() && self.keys.get(&key).copied() == life {
            return;
        }
        if self.alive >= self.limit {
            self.overflow += 1;
            return;
        }
        let lives = &mut self.lives;
        let holder = self.sessions.entry(session).or_insert_with(|| {
            *lives = lives.wrapping_add(1);
            Holder {
                life: *lives,
                count: 0,
            }
        });
        holder.count += 1;
        self.keys.insert(key, holder.life);
        self.alive += 1;
        if self.keys.len() > 2 * self.alive + 1024 {
            let lives = self.sessions.values().map(|holder| holder.life);
            let lives: std::collections::HashSet<u32> = lives.collect();
            self.keys.retain(|_, life| lives.contains(life));
        }
    }

    pub fn fired(&mut self, session: i64, path: &[u8], salt: u64) {
        if self.keys.is_empty() {
            return;
        }
        let key = self.key(session, path, salt);
        let Some(life) = self.keys.remove(&key) else {
            return;
        };
        if let Some(holder) = self.sessions.get_mut(&session) {
            if holder.life == life {
                holder.count -= 1;
                self.alive -= 1;
                if holder.count == 0 {
                    self.sessions.remove(&session);
                }
            }
        }
    }

    /// The session was closed: its watches are gone.
    pub fn closed(&mut self, session: i64) {
        if let Some(holder) = self.sessions.remove(&session) {
            self.alive -= holder.count as usize;
        }
    }

    /// Time goes on: every so often the number per session is noted.
    #[inline]
    pub fn tick(&mut self, ts_ns: i64) {
        let sample = ts_ns.div_euclid(SAMPLE_S * SECOND);
        // One sample back is a row that came late; more, and the clock was set.
        if self
            .sample
            .is_some_and(|known| sample == known || sample == known - 1)
        {
            return;
        }
        self.sample = Some(sample);
        let before = std::mem::take(&mut self.history);
        for (&session, holder) in &self.sessions {
            if holder.count >= LEAST / 4 {
                let mut counts = before.get(&session).cloned().unwrap_or_default();
                if counts.len() > SAMPLES {
                    counts.remove(0);
                }
                counts.push(holder.count);
                self.history.insert(session, counts);
            }
        }
    }

    /// Sessions and how many watches they should have set, most first.
    pub fn most(&self, limit: usize) -> Vec<(i64, u32)> {
        let sessions = self.sessions.iter();
        let mut found: Vec<(i64, u32)> = sessions.map(|(&id, holder)| (id, holder.count)).collect();
        found.sort_unstable_by_key(|&(id, count)| (std::cmp::Reverse(count), id));
        found.truncate(limit);
        found
    }

    /// Sessions whose watches grew in each of the last samples, most first.
    pub fn growing(&self) -> Vec<Growing> {
        let mut found = Vec::new();
        for (&session, counts) in &self.history {
            let (Some(&before), Some(&now)) = (counts.first(), counts.last()) else {
                continue;
            };
            let grew = counts.windows(2).all(|pair| pair.first() < pair.last());
            if counts.len() > SAMPLES && grew && now >= LEAST {
                found.push(Growing {
                    session,
                    before,
                    now,
                    seconds: SAMPLES as i64 * SAMPLE_S,
                });
            }
        }
        found.sort_unstable_by_key(|one| (std::cmp::Reverse(one.now), one.session));
        found
    }
}
