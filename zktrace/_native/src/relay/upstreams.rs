//! Which server a new connection goes to: in turn, and the next one when one does not answer.
//!
//! Never under an open connection: watches, outstanding requests and their order live in it.

use std::net::SocketAddr;
use std::sync::Arc;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub address: SocketAddr,
    /// The name that its certificate is to be for.
    pub name: Arc<str>,
}

impl From<SocketAddr> for Upstream {
    /// One that has no name but its address.
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            name: address.ip().to_string().into(),
        }
    }
}

/// Whose turn it is behind a listener.
#[derive(Debug, Default)]
pub struct Turn(usize);

impl Turn {
    /// All of them in the order in which this connection tries them; the next connection begins with
    /// the next one.
    pub fn order(&mut self, all: &[Upstream]) -> Vec<Upstream> {
        let count = all.len();
        let first = self.0 % count.max(1);
        self.0 = first + 1;
        (0..count)
            .map(|i| all[(first + i) % count].clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_turn() {
        let [a, b] = ["127.0.0.1:1", "127.0.0.1:2"]
            .map(|text| Upstream::from(text.parse::<SocketAddr>().unwrap()));
        let both = [a.clone(), b.clone()];
        let mut turn = Turn::default();
        assert_eq!(turn.order(&both), both);
        assert_eq!(turn.order(&both), [b.clone(), a]);
        assert_eq!(turn.order(&both), both);
        // They may change in between.
        let one = std::slice::from_ref(&b);
        assert_eq!(turn.order(one), one);
        assert_eq!(turn.order(&[]), []);
    }
}
