//! ZooKeeper's guarantees, held against what a capture shows.
//!
//! `zktrace/analysis/verify/` is the reference: it says what each check holds to be true, who says so, and why what was
//! not captured is never taken for a violation. Modules here have the names of those there; texts are the same.

mod alarms;
mod ensemble;
mod epochs;
mod evidence;
mod orders;
mod quorums;
mod sessions;

pub use evidence::{Evidence, Given};

/// Findings that a check keeps, the first ones; the others are counted.
const FINDINGS_KEPT: usize = 20;

/// One message that proves a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub ts_ns: i64,
    pub flow: String,
    pub seq: i64,
    pub what: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub text: String,
    pub packets: Vec<Packet>,
}

/// What came of one check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How much was looked at, by what it is counted in.
    pub looked: Vec<(&'static str, usize)>,
    pub unseen: Vec<String>,
    pub assumed: Vec<String>,
    pub findings: Vec<Finding>,
    pub violations: usize,
}

impl Outcome {
    fn look(&mut self, name: &'static str, count: usize) {
        match self.looked.iter_mut().find(|(known, _)| *known == name) {
            Some((_, total)) => *total += count,
            None => self.looked.push((name, count)),
        }
    }

    /// Says what was not seen; with a count of 0 nothing.
    fn miss(&mut self, count: usize, text: impl FnOnce() -> String) {
        if count > 0 {
            let text = text();
            if !self.unseen.contains(&text) {
                self.unseen.push(text);
            }
        }
    }

    fn assume(&mut self, text: String) {
        if !self.assumed.contains(&text) {
            self.assumed.push(text);
        }
    }

    fn find(&mut self, text: String, packets: Vec<Packet>) {
        self.violations += 1;
        if self.findings.len() < FINDINGS_KEPT {
            self.findings.push(Finding { text, packets });
        }
    }

    /// Adds violations that are counted only.
    fn find_more(&mut self, all: usize, told: usize) {
        self.violations += all.saturating_sub(told);
    }

    /// Findings that are still kept.
    fn room(&self) -> usize {
        FINDINGS_KEPT - self.findings.len()
    }
}

type Check = fn(&Evidence<'_>, &mut Outcome);

/// All checks by name.
const CHECKS: [(&str, Check); 18] = [
    ("session-zxid", sessions::session_zxid),
    ("session-order", sessions::session_order),
    ("session-reads", sessions::session_reads),
    ("session-events", sessions::session_events),
    ("session-move", sessions::session_move),
    ("leader-order", orders::leader_order),
    ("commit-order", orders::commit_order),
    ("same-txn", orders::same_txn),
    ("digest", orders::digest),
    ("commit-quorum", quorums::commit_quorum),
    ("uptodate-quorum", quorums::uptodate_quorum),
    ("one-leader", epochs::one_leader),
    ("epoch-order", epochs::epoch_order),
    ("committed-kept", epochs::committed_kept),
    ("sync-order", epochs::sync_order),
    ("bare-check", alarms::bare_check),
    ("no-quorum", alarms::no_quorum),
    ("flapping-leader", alarms::flapping_leader),
];

/// Names of all checks.
pub fn names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|(name, _)| *name)
}

/// What comes of a check; None where there is none of this name.
pub fn run(evidence: &Evidence<'_>, name: &str) -> Option<Outcome> {
    let (_, check) = CHECKS.iter().find(|(known, _)| *known == name)?;
    let mut outcome = Outcome::default();
    check(evidence, &mut outcome);
    Some(outcome)
}
