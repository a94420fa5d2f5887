//! Replies that were given before, for reads that are to be answered as a server that lags behind would.
//!
//! Such a server never goes back behind what a client has seen (zxids): a reply is given again only where that holds.

use std::collections::{HashMap, VecDeque};

/// Replies kept, and their bytes, at most; the oldest go.
const REPLIES: usize = 4096;
const BYTES: usize = 16 << 20;

/// Replies by what was asked: opcode and body of the request.
#[derive(Debug, Default)]
pub struct Cache {
    replies: HashMap<Vec<u8>, (i64, Vec<u8>)>,
    order: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Cache {
    /// The older reply to give instead of this one, if there is one that a client which has seen `seen` may get; this one is
    /// kept otherwise. Replies are whole frames.
    pub fn instead(&mut self, asked: &[u8], zxid: i64, reply: &[u8], seen: i64) -> Option<Vec<u8>> {
        if let Some((old, bytes)) = self.replies.get(asked) {
            if *old >= seen {
                return (*old < zxid).then(|| bytes.clone());
            }
        }
        let size = asked.len() + reply.len();
        if size > BYTES {
            return None;
        }
        match self.replies.insert(asked.to_vec(), (zxid, reply.to_vec())) {
            Some((_, old)) => self.bytes = self.bytes + reply.len() - old.len(),
            None => {
                self.bytes += size;
                self.order.push_back(asked.to_vec());
            }
        }
        while self.order.len() > REPLIES || self.bytes > BYTES {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some((_, old)) = self.replies.remove(&oldest) {
                self.bytes -= old.len() + oldest.len();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_replies_come_again_but_never_behind_what_was_seen() {
        let mut cache = Cache::default();
        assert_eq!(cache.instead(b"get /a", 5, b"old", 5), None);
        assert_eq!(
            cache.instead(b"get /a", 6, b"new", 5),
            Some(b"old".to_vec())
        );
        assert_eq!(cache.instead(b"get /b", 6, b"x", 5), None);
        // This one has seen 6: the new reply is what it gets, and others from now on.
        assert_eq!(cache.instead(b"get /a", 6, b"new", 6), None);
        assert_eq!(
            cache.instead(b"get /a", 9, b"newer", 5),
            Some(b"new".to_vec())
        );
        for number in 0..2 * REPLIES {
            cache.instead(&number.to_be_bytes(), 1, &[0; 9000], 0);
        }
        assert!(cache.bytes <= BYTES && cache.order.len() == cache.replies.len());
    }
}
