//! Log2 histograms of nanoseconds: 32 buckets per octave, exact merging, a few bytes per bucket in
//! use.
//!
//! `zktrace/analysis/histogram.py` is the same with numpy, and makes the bounds. Knows nothing of
//! events.

/// Sub-buckets per octave, and octaves of a non-negative i64.
const PER_OCTAVE: usize = 32;
const OCTAVES: usize = 63;
pub const BUCKETS: usize = PER_OCTAVE * OCTAVES;
/// A slice of 1/64 octave (linear) holds at most one bound: the narrowest bucket is 2^(1/32) - 1 >
/// 1/64 wide.
const SLICE_BITS: u32 = 6;

/// Shown quantiles in thousandths.
pub const QUANTILES: [u64; 4] = [500, 900, 990, 999];

/// Which bucket holds a value: the last one whose bound is not greater. `bounds[i]` =
/// ceil(2^(i/32)), exact integers made by Python (`histogram.py`).
pub struct Scale {
    bounds: Vec<u64>,
    slices: [u8; 1 << SLICE_BITS],
}

impl Scale {
    /// Takes `BUCKETS + 1` ascending bounds.
    pub fn new(bounds: Vec<u64>) -> Result<Self, String> {
        if bounds.len() != BUCKETS + 1 || !bounds.is_sorted() || bounds.first() != Some(&1) {
            return Err(format!("expected {} ascending bounds", BUCKETS + 1));
        }
        let mut slices = [0; 1 << SLICE_BITS];
        let top = bounds.get(BUCKETS - PER_OCTAVE..).unwrap_or_default();
        for (i, slice) in slices.iter_mut().enumerate() {
            // Start of the slice in the last octave, where integers are finest.
            let start = ((1u64 << SLICE_BITS) + i as u64) << (OCTAVES as u32 - 1 - SLICE_BITS);
            let below = top.iter().take_while(|&&bound| bound <= start).count();
            *slice = below.saturating_sub(1).min(PER_OCTAVE - 1) as u8;
        }
        Ok(Scale { bounds, slices })
    }

    #[inline]
    pub fn bucket(&self, value: i64) -> u16 {
        if value <= 1 {
            return 0;
        }
        let value = value as u64;
        let octave = 63 - value.leading_zeros();
        let slice = (value << (63 - octave) >> (63 - SLICE_BITS)) & ((1 << SLICE_BITS) - 1);
        let sub = self.slices.get(slice as usize).copied().unwrap_or(0);
        let bucket = octave as usize * PER_OCTAVE + usize::from(sub);
        let next = self.bounds.get(bucket + 1).copied().unwrap_or(u64::MAX);
        (bucket + usize::from(value >= next)) as u16
    }

    /// Middle of a bucket, rounded down.
    fn middle(&self, bucket: u16) -> i64 {
        let at = |i: usize| i128::from(self.bounds.get(i).copied().unwrap_or(u64::MAX));
        let i = usize::from(bucket);
        i64::try_from((at(i) + at(i + 1)) / 2).unwrap_or(i64::MAX)
    }
}

/// Distinct buckets from which on a histogram may become dense.
const DENSE_FROM: usize = 16;
/// It becomes dense when that takes at most this many slots per distinct bucket, or slots at all: looking for a bucket among
/// others costs each value more than the rest of what counts it.
const DENSE_FACTOR: usize = 3;
const DENSE_SPAN: usize = 256;

/// Values whose buckets are kept as they come: most keys of a grouping by path have few, and finding a place for each
/// costs more than sorting them once.
const FIRST: usize = 64;

enum Counts {
    /// Buckets of the first values, in the order in which these came.
    First(Vec<u16>),
    /// (bucket, count), ascending.
    Sparse(Vec<(u16, u32)>),
    /// Counts from the given bucket on.
    Dense(u16, Vec<u32>),
}

/// Log2 histogram: a few bytes per bucket in use.
pub struct Histogram {
    pub count: u64,
    pub sum: i128,
    pub min: i64,
    pub max: i64,
    counts: Counts,
    /// One entry for every 2^32 counts in a bucket. Boxed, since there are none: a histogram is to be small.
    #[allow(clippy::box_collection)]
    carries: Option<Box<Vec<u16>>>,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            count: 0,
            sum: 0,
            min: i64::MAX,
            max: i64::MIN,
            counts: Counts::First(Vec::new()),
            carries: None,
        }
    }
}

impl Histogram {
    /// Reads where the next value is likely to be counted; the number means nothing.
    #[inline]
    pub fn touch(&self) -> u64 {
        match &self.counts {
            Counts::First(buckets) => buckets.last().copied().map_or(0, u64::from),
            Counts::Sparse(counts) => counts.len() as u64,
            Counts::Dense(base, slots) => u64::from(*base) ^ slots.len() as u64,
        }
    }

    #[inline]
    pub fn add(&mut self, value: i64, bucket: u16) {
        self.count += 1;
        self.sum += i128::from(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.put(bucket);
    }

    /// One more in a bucket.
    #[inline]
    fn put(&mut self, bucket: u16) {
        match &mut self.counts {
            Counts::Dense(base, slots) => {
                let at = usize::from(bucket.wrapping_sub(*base));
                if let Some(slot) = slots.get_mut(at) {
                    *slot = slot.wrapping_add(1);
                    if *slot == 0 {
                        self.carry(bucket, 1);
                    }
                    return;
                }
            }
            Counts::First(first) if first.len() < FIRST => {
                first.push(bucket);
                return;
            }
            Counts::First(_) | Counts::Sparse(_) => {}
        }
        self.add_counts(bucket, 1);
    }

    #[cold]
    fn carry(&mut self, bucket: u16, carries: u64) {
        self.carries
            .get_or_insert_default()
            .extend(std::iter::repeat_n(bucket, carries as usize));
    }

    #[inline(never)]
    fn add_counts(&mut self, bucket: u16, count: u64) {
        if let Counts::First(first) = &mut self.counts {
            if count <= FIRST.saturating_sub(first.len()) as u64 {
                first.extend(std::iter::repeat_n(bucket, count as usize));
                return;
            }
            self.counts = Counts::Sparse(counted(first));
        }
        let mut carries = count >> 32;
        let count = count as u32;
        let slot = match &mut self.counts {
            Counts::First(_) => None,
            Counts::Sparse(pairs) => {
                let at = match pairs.binary_search_by_key(&bucket, |pair| pair.0) {
                    Ok(at) => at,
                    Err(at) => {
                        pairs.insert(at, (bucket, 0));
                        at
                    }
                };
                pairs.get_mut(at).map(|pair| &mut pair.1)
            }
            Counts::Dense(base, slots) => {
                cover(base, slots, bucket, 1);
                slots.get_mut(usize::from(bucket - *base))
            }
        };
        if let Some(slot) = slot {
            let (sum, overflow) = slot.overflowing_add(count);
            *slot = sum;
            carries += u64::from(overflow);
        }
        if carries > 0 {
            self.carry(bucket, carries);
        }
        self.densify();
    }

    fn densify(&mut self) {
        let Counts::Sparse(pairs) = &self.counts else {
            return;
        };
        let (Some(first), Some(last)) = (pairs.first(), pairs.last()) else {
            return;
        };
        let span = usize::from(last.0 - first.0) + 1;
        if pairs.len() < DENSE_FROM || span > (pairs.len() * DENSE_FACTOR).max(DENSE_SPAN) {
            return;
        }
        let base = first.0;
        let mut slots = vec![0; span];
        for &(bucket, count) in pairs {
            if let Some(slot) = slots.get_mut(usize::from(bucket - base)) {
                *slot = count;
            }
        }
        self.counts = Counts::Dense(base, slots);
    }

    /// (bucket, count) of all buckets in use, ascending.
    pub fn buckets(&self) -> Vec<(u16, u64)> {
        let mut all: Vec<(u16, u64)> = match &self.counts {
            Counts::First(first) => counted(&mut first.clone())
                .into_iter()
                .map(|(b, n)| (b, u64::from(n)))
                .collect(),
            Counts::Sparse(pairs) => pairs.iter().map(|&(b, n)| (b, u64::from(n))).collect(),
            Counts::Dense(base, slots) => (*base..)
                .zip(slots)
                .map(|(b, &n)| (b, u64::from(n)))
                .collect(),
        };
        for carry in self.carries.iter().flat_map(|carries| carries.iter()) {
            if let Ok(at) = all.binary_search_by_key(carry, |pair| pair.0) {
                if let Some(pair) = all.get_mut(at) {
                    pair.1 += 1 << 32;
                }
            }
        }
        all.retain(|pair| pair.1 != 0);
        all
    }

    pub fn merge(&mut self, other: &Histogram) {
        match &other.counts {
            Counts::First(first) => first.iter().for_each(|bucket| self.put(*bucket)),
            Counts::Sparse(pairs) => {
                for &(bucket, count) in pairs {
                    self.add_counts(bucket, u64::from(count));
                }
            }
            Counts::Dense(base, slots) => self.merge_dense(*base, slots),
        }
        for carry in other.carries.iter().flat_map(|carries| carries.iter()) {
            self.add_counts(*carry, 1 << 32);
        }
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    fn merge_dense(&mut self, base: u16, slots: &[u32]) {
        let Counts::Dense(own_base, own) = &mut self.counts else {
            for (bucket, &count) in (base..).zip(slots).filter(|(_, count)| **count > 0) {
                self.add_counts(bucket, u64::from(count));
            }
            return;
        };
        cover(own_base, own, base, slots.len());
        let from = usize::from(base - *own_base);
        let mut over = Vec::new();
        for ((at, own), count) in own.iter_mut().enumerate().skip(from).zip(slots) {
            let (sum, overflow) = own.overflowing_add(*count);
            *own = sum;
            if overflow {
                over.push(*own_base + at as u16);
            }
        }
        for bucket in over {
            self.carry(bucket, 1);
        }
    }

    /// Values at `QUANTILES`: the middle of the bucket of rank ceil(q * count), kept within [min,
    /// max].
    pub fn quantiles(&self, scale: &Scale) -> [i64; QUANTILES.len()] {
        let mut values = [0; QUANTILES.len()];
        let buckets = self.buckets();
        for (value, thousandths) in values.iter_mut().zip(QUANTILES) {
            let rank = (u128::from(self.count) * u128::from(thousandths)).div_ceil(1000);
            let mut below = 0u128;
            for &(bucket, count) in &buckets {
                below += u128::from(count);
                if below >= rank {
                    *value = scale.middle(bucket).max(self.min).min(self.max);
                    break;
                }
            }
        }
        values
    }
}

/// Makes room for so many buckets from one on.
fn cover(base: &mut u16, slots: &mut Vec<u32>, from: u16, size: usize) {
    if from < *base {
        let missing = usize::from(*base - from);
        slots.splice(0..0, std::iter::repeat_n(0, missing));
        *base = from;
    }
    let end = usize::from(from - *base) + size;
    if end > slots.len() {
        slots.resize(end, 0);
    }
}

/// Buckets with their counts, ascending. Sorts what it is given.
fn counted(buckets: &mut [u16]) -> Vec<(u16, u32)> {
    buckets.sort_unstable();
    buckets
        .chunk_by(|a, b| a == b)
        .filter_map(|equal| Some((*equal.first()?, equal.len() as u32)))
        .collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Near enough for tests; the exact bounds come from Python.
    pub fn scale() -> Scale {
        let bound = |i: usize| (i as f64 / 32.0).exp2().ceil() as u64;
        Scale::new((0..=BUCKETS).map(bound).collect()).unwrap()
    }

    #[test]
    fn buckets_agree_with_search() {
        let scale = scale();
        let mut value: i64 = 1;
        while value < i64::MAX / 2 {
            for v in [value - 1, value, value + 1] {
                let expected = scale.bounds.partition_point(|&b| b <= v.max(1) as u64) - 1;
                assert_eq!(usize::from(scale.bucket(v)), expected, "{v}");
            }
            value += value / 37 + 1;
        }
        assert_eq!(usize::from(scale.bucket(i64::MAX)), BUCKETS - 1);
        assert_eq!(scale.bucket(-5), 0);
    }

    #[test]
    fn histogram_merge_is_addition() {
        let scale = scale();
        let mut whole = Histogram::default();
        let mut parts = [Histogram::default(), Histogram::default()];
        for i in 0..5000i64 {
            let value = i * i * 13 % 1_000_003;
            whole.add(value, scale.bucket(value));
            parts[(i % 2) as usize].add(value, scale.bucket(value));
        }
        let [mut a, b] = parts;
        let few = |n: i64| {
            let mut few = Histogram::default();
            (0..n).for_each(|i| few.add(i * i, scale.bucket(i * i)));
            few
        };
        // of few values, of many, and of as many as just fit
        for (n, m) in [
            (3, 5),
            (40, 24),
            (40, 25),
            (1, 200),
            (200, 1),
            (0, 7),
            (300, 250),
            (70, 300),
        ] {
            let (mut one, other) = (few(n), few(m));
            one.merge(&other);
            let mut expected = std::collections::BTreeMap::new();
            for i in (0..n).chain(0..m) {
                *expected.entry(scale.bucket(i * i)).or_insert(0u64) += 1;
            }
            assert_eq!(one.buckets(), Vec::from_iter(expected), "{n} {m}");
        }
        a.merge(&b);
        assert_eq!(a.buckets(), whole.buckets());
        assert_eq!(a.quantiles(&scale), whole.quantiles(&scale));
        assert_eq!((a.sum, a.min, a.max), (whole.sum, whole.min, whole.max));
    }

    #[test]
    fn counts_beyond_32_bits_carry() {
        let mut histogram = Histogram::default();
        histogram.add_counts(7, u64::from(u32::MAX) + 3);
        histogram.add_counts(7, u64::from(u32::MAX));
        assert_eq!(histogram.buckets(), [(7, 2 * u64::from(u32::MAX) + 3)]);
        let mut other = Histogram::default();
        other.merge(&histogram);
        other.merge(&histogram);
        assert_eq!(other.buckets(), [(7, 4 * u64::from(u32::MAX) + 6)]);
    }
}
