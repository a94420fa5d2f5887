//! How many requests were in flight on a connection when another one was sent, from exchanges as they end.
//!
//! Replies of a connection come in the order of its requests, so that the exchanges that ended before an exchange did are
//! those that were sent before it: of them those were in flight that ended after it was sent. Only exchanges count whose
//! beginning and end are known for certain; what was lost makes the number smaller, never larger. `zktrace/store/depth.py`
//! is the same in Python.

use std::collections::{HashMap, VecDeque};

use crate::agg::{CONNECT, PING};
use crate::events::Exchange;

/// Ends that are remembered, of all connections; beyond, all are forgotten.
const ENDS: usize = 1 << 18;
/// Connections of which some are.
const CONNECTIONS: usize = 1 << 16;

#[derive(Default)]
pub struct InFlight {
    /// When exchanges ended that may be in flight yet when the next one is sent, oldest first.
    ends: HashMap<i64, VecDeque<i64>>,
    total: usize,
}

impl InFlight {
    /// Requests in flight when this one was sent, itself included; 0 where it is not known. Pings and connects are none.
    pub fn sent(&mut self, row: &Exchange<'_>) -> u32 {
        let Some(latency) = row.latency_ns else {
            return 0;
        };
        if matches!(row.op, Some((PING | CONNECT, _))) {
            return 0;
        }
        if self.total >= ENDS || self.ends.len() >= CONNECTIONS {
            self.ends.clear();
            self.total = 0;
        }
        let ends = self.ends.entry(row.conn.id).or_default();
        while ends.front().is_some_and(|end| *end <= row.ts_ns) {
            ends.pop_front();
            self.total -= 1;
        }
        ends.push_back(row.ts_ns.saturating_add(latency));
        self.total += 1;
        u32::try_from(ends.len()).unwrap_or(u32::MAX)
    }

    /// Nothing more comes of a connection.
    pub fn ended(&mut self, conn: i64) {
        if let Some(ends) = self.ends.remove(&conn) {
            self.total -= ends.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{ConnInfo, State};

    fn sent(depths: &mut InFlight, conn: i64, from: i64, to: i64) -> u32 {
        let conn = ConnInfo {
            id: conn,
            ..ConnInfo::default()
        };
        let mut row = Exchange::new(0, from, &conn, State::Complete);
        row.latency_ns = Some(to - from);
        depths.sent(&row)
    }

    #[test]
    fn of_a_connection() {
        let mut depths = InFlight::default();
        let found = [(0, 10), (1, 11), (2, 12), (10, 13), (20, 21), (21, 22)]
            .map(|(from, to)| sent(&mut depths, 7, from, to));
        assert_eq!(found, [1, 2, 3, 3, 1, 1]);
        assert_eq!(sent(&mut depths, 8, 0, 100), 1);
        depths.ended(7);
        assert_eq!(depths.total, 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut depths = InFlight::default();
        for i in 0..2 * ENDS as i64 {
            sent(&mut depths, i & 1, i, i64::MAX);
            assert!(depths.total <= ENDS);
        }
        for conn in 0..2 * CONNECTIONS as i64 {
            sent(&mut depths, conn, 0, 1);
            assert!(depths.ends.len() <= CONNECTIONS);
        }
    }
}
