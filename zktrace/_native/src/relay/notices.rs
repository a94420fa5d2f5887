//! What whoever runs the proxy is to be told: TLS that failed, and with whom. A bounded list; what is over it is counted.

use std::sync::{Mutex, PoisonError};

/// Lines that wait to be read.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub struct Notices(Mutex<(Vec<String>, u64)>);

impl Notices {
    pub fn push(&self, line: String) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.len() < MOST {
            state.0.push(line);
        } else {
            state.1 += 1;
        }
    }

    /// What came since it was last asked, and how much more there was.
    pub fn take(&self) -> (Vec<String>, u64) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
