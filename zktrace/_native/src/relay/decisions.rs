//! What rules did, for whoever shows it: bounded, the oldest are forgotten and counted.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Decisions that wait to be read.
const KEPT: usize = 8192;

/// One decision about one connection or frame.
#[derive(Clone, Debug)]
pub struct Decision {
    pub ts_ns: u64,
    pub rule: u64,
    pub action: String,
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub session: Option<u64>,
    pub opcode: Option<i32>,
    pub path: Option<String>,
    pub xid: Option<i32>,
    /// What was done, in words.
    pub detail: String,
}

#[derive(Debug, Default)]
struct State {
    list: VecDeque<Decision>,
    forgotten: u64,
}

#[derive(Debug, Default)]
pub struct Decisions(Mutex<State>);

impl Decisions {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub fn push(&self, decision: Decision) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.list.len() == KEPT {
            state.list.pop_front();
            state.forgotten += 1;
        }
        state.list.push_back(decision);
    }

    /// All that came since, and how many were forgotten before they could be read.
    pub fn take(&self) -> (Vec<Decision>, u64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = std::mem::take(&mut state.forgotten);
        (std::mem::take(&mut state.list).into(), forgotten)
    }
}
