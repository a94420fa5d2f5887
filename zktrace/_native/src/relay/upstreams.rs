//! Which server a new connection goes to: in turn, and the next one when one does not answer.
//!
//! Never under an open connection: watches, outstanding requests and their order live in it.

use std::net::SocketAddr;

/// Whose turn it is behind a listener.
#[derive(Debug, Default)]
pub struct Turn(usize);

impl Turn {
    /// All of them in the order in which this connection tries them; the next connection begins with
    /// the next one.
    pub fn order(&mut self, all: &[SocketAddr]) -> Vec<SocketAddr> {
        let count = all.len();
        let first = self.0 % count.max(1);
        self.0 = first + 1;
        (0..count).map(|i| all[(first + i) % count]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_turn() {
        let [a, b]: [SocketAddr; 2] = ["127.0.0.1:1", "127.0.0.1:2"].map(|x| x.parse().unwrap());
        let mut turn = Turn::default();
        assert_eq!(turn.order(&[a, b]), [a, b]);
        assert_eq!(turn.order(&[a, b]), [b, a]);
        assert_eq!(turn.order(&[a, b]), [a, b]);
        // They may change in between.
        assert_eq!(turn.order(&[b]), [b]);
        assert_eq!(turn.order(&[]), []);
    }
}
