//! Byte strings to small consecutive numbers, fast: the dictionaries of `tables` and the keys of
//! `agg`.
//!
//! Open addressing over one contiguous copy of all strings. The hash is seeded per process, so that
//! a capture made to collide cannot slow the decoder down; numbers are given in order of first
//! appearance, so the seed never shows in any output. Knows nothing of events.

use std::hash::BuildHasher;

/// Odd constants without structure (digits of pi and e), as multiplicative hashes want.
const MULTIPLY: u64 = 0x243f_6a88_85a3_08d3;
const REMAINDER: u64 = 0xb7e1_5162_8aed_2a6b;

/// Slots of a new table; doubled when half full.
const FIRST_SLOTS: usize = 64;

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ ((wide >> 64) as u64)
}

#[inline]
fn word(bytes: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*bytes)
}

/// Seeded hash of a byte string.
#[inline]
pub fn hash_bytes(seed: u64, bytes: &[u8]) -> u64 {
    let mut state = seed ^ (bytes.len() as u64).wrapping_mul(REMAINDER);
    let mut rest = bytes;
    while let (Some(first), true) = (rest.first_chunk::<16>(), rest.len() > 16) {
        let (low, high) = first.split_at(8);
        let low = low.first_chunk::<8>().map_or(0, word);
        let high = high.first_chunk::<8>().map_or(0, word);
        state = fold(low ^ state, high ^ MULTIPLY);
        rest = rest.get(16..).unwrap_or_default();
    }
    // The last 1 to 16 bytes: two possibly overlapping words (the length is in the state already).
    let (low, high) = if let (Some(a), Some(b)) = (rest.first_chunk::<8>(), rest.last_chunk::<8>())
    {
        (word(a), word(b))
    } else if let (Some(a), Some(b)) = (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
        (
            u64::from(u32::from_le_bytes(*a)),
            u64::from(u32::from_le_bytes(*b)),
        )
    } else {
        let mut low = 0;
        for &byte in rest {
            low = low << 8 | u64::from(byte);
        }
        (low, 0)
    };
    fold(fold(low ^ state, high ^ MULTIPLY), REMAINDER ^ seed)
}

/// Distinct byte strings, numbered 0, 1, 2 ... in order of appearance.
pub struct Interner {
    seed: u64,
    /// High half: 32 bits of the hash (they place the entry, too); low half: number + 1, 0 for an
    /// empty slot.
    slots: Vec<u64>,
    /// String i is `bytes[ends[i]..ends[i + 1]]`; that is Arrow's layout of a string array.
    ends: Vec<i32>,
    bytes: Vec<u8>,
}

impl Default for Interner {
    fn default() -> Self {
        Self::new()
    }
}

impl Interner {
    pub fn new() -> Self {
        let seed = std::collections::hash_map::RandomState::new().hash_one(0u64);
        Interner {
            seed,
            slots: vec![0; FIRST_SLOTS],
            ends: vec![0],
            bytes: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.ends.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all strings together.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Offsets and bytes, as Arrow wants them.
    pub fn parts(&self) -> (&[i32], &[u8]) {
        (&self.ends, &self.bytes)
    }

    /// Offsets and bytes, as Arrow wants them; it is empty then.
    pub fn take(&mut self) -> (Vec<i32>, Vec<u8>) {
        let parts = (
            std::mem::replace(&mut self.ends, vec![0]),
            std::mem::take(&mut self.bytes),
        );
        self.clear();
        parts
    }

    pub fn clear(&mut self) {
        self.slots.clear();
        self.slots.resize(FIRST_SLOTS, 0);
        self.slots.shrink_to_fit();
        self.ends.truncate(1);
        self.bytes.clear();
    }

    /// String number `index`, empty if there is none.
    pub fn get(&self, index: u32) -> &[u8] {
        let index = index as usize;
        match (self.ends.get(index), self.ends.get(index + 1)) {
            (Some(&start), Some(&end)) => self
                .bytes
                .get(start as usize..end as usize)
                .unwrap_or_default(),
            _ => &[],
        }
    }

    /// What [`Interner::guess`] wants.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u32 {
        (hash_bytes(self.seed, key) >> 32) as u32
    }

    /// Number of a string with this hash, most likely the one wanted if that is there.
    #[inline]
    pub fn guess(&self, hash: u32) -> Option<u32> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = hash as usize & mask;
        loop {
            let slot = *self.slots.get(at)?;
            if slot == 0 {
                return None;
            }
            if (slot >> 32) as u32 == hash {
                return Some((slot as u32).wrapping_sub(1));
            }
            at = (at + 1) & mask;
        }
    }

    /// Number of a string that is there.
    #[inline]
    fn find(&self, hash: u32, key: &[u8]) -> Option<u32> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = hash as usize & mask;
        loop {
            let slot = *self.slots.get(at)?;
            if slot == 0 {
                return None;
            }
            if (slot >> 32) as u32 == hash {
                let index = (slot as u32).wrapping_sub(1);
                if self.get(index) == key {
                    return Some(index);
                }
            }
            at = (at + 1) & mask;
        }
    }

    fn place(slots: &mut [u64], slot: u64) {
        let mask = slots.len().wrapping_sub(1);
        let mut at = (slot >> 32) as usize & mask;
        while let Some(place) = slots.get_mut(at) {
            if *place == 0 {
                *place = slot;
                return;
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a string known to be absent. None when numbers or offsets are used up (2 GiB of
    /// strings).
    fn insert(&mut self, hash: u32, key: &[u8]) -> Option<u32> {
        let end = i32::try_from(self.bytes.len().checked_add(key.len())?).ok()?;
        let index = u32::try_from(self.len()).ok().filter(|&i| i < u32::MAX)?;
        self.bytes.extend_from_slice(key);
        self.ends.push(end);
        if self.len() * 2 > self.slots.len() {
            let mut grown = vec![0; self.slots.len() * 2];
            for &slot in self.slots.iter().filter(|&&slot| slot != 0) {
                Self::place(&mut grown, slot);
            }
            self.slots = grown;
        }
        Self::place(
            &mut self.slots,
            u64::from(hash) << 32 | u64::from(index + 1),
        );
        Some(index)
    }

    /// Number of the string, if it was seen before.
    #[inline]
    pub fn lookup(&self, key: &[u8]) -> Option<u32> {
        self.find(self.hash(key), key)
    }

    /// Number of the string, a new one if it was not seen before.
    #[inline]
    pub fn intern(&mut self, key: &[u8]) -> Option<u32> {
        let hash = self.hash(key);
        match self.find(hash, key) {
            Some(index) => Some(index),
            None => self.insert(hash, key),
        }
    }

    /// As `lookup`, of the text that the bytes stand for (invalid UTF-8 replaced).
    #[inline]
    pub fn lookup_text(&self, raw: &[u8]) -> Option<u32> {
        match self.lookup(raw) {
            None if std::str::from_utf8(raw).is_err() => self.lookup(lossy(raw).as_bytes()),
            found => found,
        }
    }

    /// As `intern`, of the text that the bytes stand for: all strings stay valid and distinct
    /// UTF-8.
    #[inline]
    pub fn intern_text(&mut self, raw: &[u8]) -> Option<u32> {
        let hash = self.hash(raw);
        if let Some(index) = self.find(hash, raw) {
            return Some(index);
        }
        match std::str::from_utf8(raw) {
            Ok(_) => self.insert(hash, raw),
            Err(_) => self.intern(lossy(raw).as_bytes()),
        }
    }
}

/// Bytes as text. Rust and CPython both replace "maximal subparts" (Unicode 16, 3.9), so this is
/// Python's `bytes.decode("utf-8", "replace")`; a test compares them.
pub fn lossy(raw: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_order_and_stable() {
        let mut strings = Interner::new();
        let keys: Vec<String> = (0..5000)
            .map(|i| "/x".repeat(i % 37) + &i.to_string())
            .collect();
        for (i, key) in keys.iter().enumerate() {
            assert_eq!(strings.intern(key.as_bytes()), Some(i as u32));
        }
        for (i, key) in keys.iter().enumerate() {
            assert_eq!(strings.intern(key.as_bytes()), Some(i as u32));
            assert_eq!(strings.get(i as u32), key.as_bytes());
        }
        assert_eq!(strings.lookup(b"absent"), None);
        strings.clear();
        assert_eq!(strings.intern(b""), Some(0));
        assert_eq!(strings.len(), 1);
    }

    #[test]
    fn text_is_replaced_once() {
        let mut strings = Interner::new();
        let first = strings.intern_text(b"/a\xff");
        assert_eq!(strings.intern_text(b"/a\xfe"), first);
        assert_eq!(strings.lookup_text(b"/a\xfd"), first);
        assert_eq!(strings.len(), 1);
    }

    #[test]
    fn hash_sees_every_byte() {
        for len in 0..70 {
            let mut bytes = vec![7u8; len];
            let plain = hash_bytes(1, &bytes);
            for i in 0..len {
                bytes[i] ^= 1;
                assert_ne!(hash_bytes(1, &bytes), plain, "{len} {i}");
                bytes[i] ^= 1;
            }
        }
    }
}
