//! Rules: which frames or connections, how often, and what is done to them.
//!
//! Chance is seeded, so that the same traffic has the same fate.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::facts::Facts;
use super::program::{Test, Tri};
use super::stale::Cache;

/// When a rule is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// When a connection is opened, or the rule given: once a connection.
    Connection,
    Request,
    Reply,
    Event,
}

/// What is done. Directions: which of `[to the server, to the client]`.
#[derive(Clone, Debug)]
pub enum Action {
    // To a whole connection, whatever it carries.
    Latency {
        delay: Duration,
        jitter: Duration,
        ways: [bool; 2],
    },
    Bandwidth {
        bytes_per_s: f64,
        ways: [bool; 2],
    },
    Slicer {
        size: usize,
        pause: Duration,
        ways: [bool; 2],
    },
    /// Nothing passes; after the time, if one is given, the connection is reset.
    Timeout {
        after: Option<Duration>,
        ways: [bool; 2],
    },
    Reset {
        after: Duration,
    },
    SlowClose {
        delay: Duration,
        ways: [bool; 2],
    },
    LimitData {
        bytes: u64,
        ways: [bool; 2],
    },
    Down,
    // To a frame.
    Delay {
        delay: Duration,
        jitter: Duration,
    },
    /// A request is answered with this error, and not sent to the server; or a reply becomes one.
    Error {
        code: i32,
    },
    /// It is not passed on; whether the connection is reset then.
    Drop {
        reset: bool,
    },
    Duplicate,
    /// The event alone is late; others overtake it.
    Late {
        delay: Duration,
    },
    Expire,
    Move,
    Stale,
    Close,
    /// Someone outside decides (`desk`); what happens if they do not in time: it passes, or the connection is reset.
    Ask {
        limit: Duration,
        open: bool,
    },
}

/// What a rule is, as it was given.
#[derive(Clone, Debug)]
pub struct Definition {
    pub id: u64,
    /// The name of the action, for what is told of it.
    pub name: String,
    pub when: Option<Test>,
    pub at: At,
    pub action: Action,
    /// Only this one of the matches behind `after`, the first being 1.
    pub nth: Option<u64>,
    /// So many matches are let be.
    pub after: u64,
    /// So often at most.
    pub times: Option<u64>,
    /// Only so long after it was given.
    pub lasting: Option<Duration>,
    pub probability: f64,
    pub seed: u64,
}

/// All rules in force.
pub type Rules = Arc<Vec<Arc<Rule>>>;

/// A rule in force.
#[derive(Debug)]
pub struct Rule {
    pub definition: Definition,
    since: Instant,
    pub matched: AtomicU64,
    pub fired: AtomicU64,
    chance: Mutex<u64>,
    pub cache: Mutex<Cache>,
}

impl Rule {
    #[must_use]
    pub fn new(definition: Definition) -> Arc<Self> {
        let chance = Mutex::new(definition.seed);
        Arc::new(Self {
            definition,
            since: Instant::now(),
            matched: AtomicU64::new(0),
            fired: AtomicU64::new(0),
            chance,
            cache: Mutex::new(Cache::default()),
        })
    }

    /// When its time is over, if it has one.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.definition.lasting.map(|lasting| self.since + lasting)
    }

    /// Its time is over.
    #[must_use]
    pub fn lasted(&self) -> bool {
        self.definition
            .lasting
            .is_some_and(|lasting| self.since.elapsed() >= lasting)
    }

    /// It will not fire again.
    #[must_use]
    pub fn over(&self) -> bool {
        self.lasted()
            || self
                .definition
                .times
                .is_some_and(|times| self.fired.load(Relaxed) >= times)
    }

    /// Whether frames of a connection may match, or the connection does.
    #[must_use]
    pub fn concerns(&self, facts: &Facts<'_>) -> Tri {
        self.definition
            .when
            .as_ref()
            .map_or(Tri::Yes, |test| test.holds(facts, Tri::Maybe))
    }

    #[must_use]
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        self.definition
            .when
            .as_ref()
            .is_none_or(|test| test.holds(facts, Tri::No) == Tri::Yes)
    }

    /// Counts a match; whether something is done about this one.
    pub fn fires(&self) -> bool {
        if self.over() {
            return false;
        }
        let definition = &self.definition;
        let number = self.matched.fetch_add(1, Relaxed) + 1;
        let Some(number) = number
            .checked_sub(definition.after)
            .filter(|number| *number > 0)
        else {
            return false;
        };
        let fires = definition.nth.is_none_or(|nth| nth == number)
            && (definition.probability >= 1.0 || self.chance() < definition.probability);
        if fires {
            self.fired.fetch_add(1, Relaxed);
        }
        fires
    }

    /// A number from 0 to 1, 1 not included; the next one of the seed's.
    pub fn chance(&self) -> f64 {
        let mut state = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        // SplitMix64 (Steele, Lea, Flood, 2014).
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A delay with its jitter: between `delay - jitter` and `delay + jitter`, and not below 0.
    pub fn jittered(&self, delay: Duration, jitter: Duration) -> Duration {
        if jitter.is_zero() {
            return delay;
        }
        (delay + jitter.mul_f64(2.0 * self.chance())).saturating_sub(jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Definition {
        Definition {
            id: 1,
            name: "error".into(),
            when: None,
            at: At::Request,
            action: Action::Close,
            nth: None,
            after: 0,
            times: None,
            lasting: None,
            probability: 1.0,
            seed: 7,
        }
    }

    #[test]
    fn nth_after_times_and_chance() {
        let fired = |definition: Definition, count: usize| -> Vec<usize> {
            let rule = Rule::new(definition);
            (1..=count).filter(|_| rule.fires()).collect()
        };
        let nth = Definition {
            nth: Some(2),
            after: 3,
            ..definition()
        };
        assert_eq!(fired(nth, 9), [5]);
        let times = Definition {
            times: Some(2),
            after: 1,
            ..definition()
        };
        assert_eq!(fired(times, 9), [2, 3]);
        let half = Definition {
            probability: 0.5,
            ..definition()
        };
        let one = fired(half.clone(), 1000);
        assert_eq!(
            one,
            fired(half.clone(), 1000),
            "a seed gives the same again"
        );
        assert!((400..600).contains(&one.len()), "{}", one.len());
        assert_ne!(one, fired(Definition { seed: 8, ..half }, 1000));
        let over = Definition {
            lasting: Some(Duration::ZERO),
            ..definition()
        };
        assert_eq!(fired(over, 3), [0; 0]);
    }
}
