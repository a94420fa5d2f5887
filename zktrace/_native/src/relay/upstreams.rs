//! Which server a new connection goes to: in turn, and the next one when one does not answer.
//!
//! Never under an open connection: watches, outstanding requests and their order live in it.

use std::net::SocketAddr;

/// The servers behind a listener.
#[derive(Debug)]
pub struct Upstreams {
    all: Vec<SocketAddr>,
    next: usize,
}

impl Upstreams {
    #[must_use]
    pub fn new(all: Vec<SocketAddr>) -> Self {
        Self { all, next: 0 }
    }

    /// All of them in the order in which this connection tries them; the next connection begins with
    /// the next one.
    pub fn order(&mut self) -> Vec<SocketAddr> {
        let count = self.all.len();
        let first = self.next;
        self.next = (first + 1) % count.max(1);
        (0..count).map(|i| self.all[(first + i) % count]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_turn() {
        let [a, b]: [SocketAddr; 2] = ["127.0.0.1:1", "127.0.0.1:2"].map(|x| x.parse().unwrap());
        let mut upstreams = Upstreams::new(vec![a, b]);
        assert_eq!(upstreams.order(), [a, b]);
        assert_eq!(upstreams.order(), [b, a]);
        assert_eq!(upstreams.order(), [a, b]);
        assert_eq!(Upstreams::new(Vec::new()).order(), []);
    }
}
