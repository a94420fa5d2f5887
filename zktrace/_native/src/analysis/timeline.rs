//! When the messages of a write passed, in one capture: what the stages of a write are cut from.
//!
//! `zktrace/analysis/timeline.py` is the reference; captures of several places, which see a message twice, are joined
//! there only. Must not know what a stage is.

use super::columns::{Kind, NONE};
use super::join::Join;

/// Round trips of a connection's PINGs: when each was sent, and how long its echo took.
pub type Pings = Vec<(i64, i64)>;

/// When the messages of a delivery passed.
#[derive(Clone, Copy)]
pub struct Seen {
    pub proposal: i64,
    pub ack: i64,
    /// The COMMIT to a follower, the INFORM to an observer.
    pub told: i64,
}

impl Join<'_> {
    pub fn seen(&self, delivery: usize) -> Seen {
        Seen {
            proposal: self.sure(self.deliveries.proposal_row[delivery]),
            ack: self.sure(self.deliveries.ack_row[delivery]),
            told: self.sure(self.deliveries.told_row[delivery]),
        }
    }

    /// When a write's request and its reply passed.
    pub fn ends(&self, write: usize) -> (i64, i64) {
        let x = &self.view.exchanges;
        let row = self.writes.row[write] as usize;
        let (ts, latency) = (x.ts.get(row), x.latency.get(row));
        if latency != NONE {
            return (ts, ts.wrapping_add(latency));
        }
        // Both ends were seen, and yet there is no latency: one of the times is not certain, and which is not said.
        let answered = x.state.text(row) == Some("complete");
        (if answered { NONE } else { ts }, NONE)
    }
}

/// Of each peer. A learner echoes a PING from the thread that reads the connection, so that its disk has no part in them.
pub fn pings(join: &Join<'_>) -> Vec<Pings> {
    let q = &join.view.packets;
    let mut rows: Vec<Vec<(i64, bool, u32)>> = vec![Vec::new(); join.peers.len()];
    for row in 0..q.rows {
        if q.kind(row) == Kind::Ping && q.late.get(row) != 1 {
            rows[join.peer(row)].push((q.ts.get(row), q.to_leader(row), row as u32));
        }
    }
    let trips = rows.into_iter().map(|mut mine| {
        mine.sort_unstable();
        let mut sent = None;
        let mut trips = Vec::new();
        for (ts, echo, _) in mine {
            match (echo, sent) {
                (false, _) => sent = Some(ts),
                (true, Some(sent)) => trips.push((sent, ts - sent)),
                (true, None) => {}
            }
        }
        trips
    });
    trips.collect()
}
