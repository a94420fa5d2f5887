//! SipHash-2-4 (Aumasson and Bernstein, 2012) of session ids; `zktrace/analysis/hashing.py` says why and is
//! the reference.

struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.v0 = self.v0.wrapping_add(self.v1);
            self.v1 = self.v1.rotate_left(13) ^ self.v0;
            self.v0 = self.v0.rotate_left(32);
            self.v2 = self.v2.wrapping_add(self.v3);
            self.v3 = self.v3.rotate_left(16) ^ self.v2;
            self.v0 = self.v0.wrapping_add(self.v3);
            self.v3 = self.v3.rotate_left(21) ^ self.v0;
            self.v2 = self.v2.wrapping_add(self.v1);
            self.v1 = self.v1.rotate_left(17) ^ self.v2;
            self.v2 = self.v2.rotate_left(32);
        }
    }

    fn word(&mut self, word: u64) {
        self.v3 ^= word;
        self.rounds(2);
        self.v0 ^= word;
    }
}

/// The hash of 8 bytes, given as the little-endian integer that SipHash reads them as.
fn siphash24(key: &[u8; 16], word: u64) -> u64 {
    let key = u128::from_le_bytes(*key);
    let (k0, k1) = (key as u64, (key >> 64) as u64);
    let mut state = State {
        v0: k0 ^ 0x736f_6d65_7073_6575,
        v1: k1 ^ 0x646f_7261_6e64_6f6d,
        v2: k0 ^ 0x6c79_6765_6e65_7261,
        v3: k1 ^ 0x7465_6462_7974_6573,
    };
    state.word(word);
    // The last word holds the length.
    state.word(8 << 56);
    state.v2 ^= 0xff;
    state.rounds(4);
    state.v0 ^ state.v1 ^ state.v2 ^ state.v3
}

/// What stands for a session id: the hash of its big-endian bytes without the highest byte; 0 (no session) stays.
pub fn hash_session(key: &[u8; 16], session: i64) -> i64 {
    if session == 0 {
        return 0;
    }
    (siphash24(key, (session as u64).swap_bytes()) & (u64::MAX >> 8)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vector() {
        let key = std::array::from_fn(|i| i as u8);
        let message = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(
            siphash24(&key, message).to_le_bytes(),
            [0x62, 0x24, 0x93, 0x9a, 0x79, 0xf5, 0xf5, 0x93]
        );
    }

    #[test]
    fn no_session_stays() {
        assert_eq!(hash_session(&[1; 16], 0), 0);
        assert_eq!(hash_session(&[1; 16], -5) >> 56, 0);
    }
}
