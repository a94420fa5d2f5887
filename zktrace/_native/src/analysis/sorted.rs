//! Rows in order and in groups. Knows no meaning of any number.

use std::collections::hash_map::RandomState;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher};

/// Hashes numbers quickly, and so that whoever makes them up cannot tell which collide.
#[derive(Clone)]
pub struct Quick(u64);

impl Default for Quick {
    fn default() -> Self {
        Quick(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for Quick {
    type Hasher = QuickHasher;

    #[inline]
    fn build_hasher(&self) -> QuickHasher {
        QuickHasher(self.0)
    }
}

pub struct QuickHasher(u64);

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        // both halves of the product, so that each bit of it counts
        let product = u128::from(self.0 ^ number) * 0x9E37_79B9_7F4A_7C15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    #[inline]
    fn write_i64(&mut self, number: i64) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A set of numbers.
pub type Numbers = HashSet<i64, Quick>;

/// A counting sort's table may have so many entries per row, and so many in any case.
const PER_ROW: usize = 4;
const SMALL: usize = 65_536;

/// Places ordered by key, else as they were; and which of them are the first of theirs.
pub fn grouped(keys: &[i64]) -> (Vec<u32>, Vec<bool>) {
    let order = order_by(keys);
    let mut first = Vec::with_capacity(order.len());
    let mut last = None;
    for &at in &order {
        let key = keys.get(at as usize).copied();
        first.push(key != last);
        last = key;
    }
    (order, first)
}

/// Places ordered by key, those of equal keys as they were.
pub fn order_by(keys: &[i64]) -> Vec<u32> {
    let (Some(&low), Some(&high)) = (keys.iter().min(), keys.iter().max()) else {
        return Vec::new();
    };
    let wide = usize::try_from(high.wrapping_sub(low)).unwrap_or(usize::MAX);
    if wide < PER_ROW * keys.len() + SMALL {
        let of = |key: i64| key.wrapping_sub(low) as usize;
        return buckets(keys.len(), wide + 1, |at| Some(of(keys[at]))).1;
    }
    let mut order: Vec<u32> = (0..keys.len() as u32).collect();
    order.sort_by_key(|&at| keys[at as usize]);
    order
}

/// Places by bucket: where each bucket begins (and one more, where the last ends), and the places of all, in each
/// bucket as they were. None is in no bucket.
pub fn buckets(
    places: usize,
    count: usize,
    of: impl Fn(usize) -> Option<usize>,
) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32; count + 1];
    for at in 0..places {
        if let Some(bucket) = of(at) {
            starts[bucket + 1] += 1;
        }
    }
    for bucket in 0..count {
        starts[bucket + 1] += starts[bucket];
    }
    let mut next = starts.clone();
    let total = starts.last().copied().unwrap_or(0);
    let mut order = vec![0u32; total as usize];
    for at in 0..places {
        if let Some(bucket) = of(at) {
            let place = &mut next[bucket];
            order[*place as usize] = at as u32;
            *place += 1;
        }
    }
    (starts, order)
}

/// Where each value is among the distinct ones in ascending order.
pub fn ranked(values: &[i64]) -> Vec<i64> {
    let mut distinct = values.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let place = |value| distinct.partition_point(|known| known < value) as i64;
    values.iter().map(place).collect()
}

/// How many distinct values there are.
pub fn distinct(values: impl Iterator<Item = i64>) -> usize {
    let mut all: Vec<i64> = values.collect();
    all.sort_unstable();
    all.dedup();
    all.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_order_of_equals() {
        for keys in [
            vec![3, 1, 3, 2, 1],
            vec![i64::MAX, i64::MIN, i64::MAX, 0, i64::MIN],
        ] {
            let (order, first) = grouped(&keys);
            let mut wanted: Vec<u32> = (0..5).collect();
            wanted.sort_by_key(|&at| keys[at as usize]);
            assert_eq!(order, wanted);
            assert_eq!(first, [true, false, true, true, false]);
        }
        assert!(grouped(&[]).0.is_empty());
    }

    #[test]
    fn ranks_and_counts() {
        assert_eq!(ranked(&[30, 10, 30, i64::MIN]), [2, 1, 2, 0]);
        assert_eq!(distinct([3, 1, 3].into_iter()), 2);
    }
}
