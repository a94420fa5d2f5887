//! A column of numbers, in as few bytes each as its values take so far: 1, 2, 4 or 8, and 4 where they are longs that lie
//! near each other, as the zxids of an epoch do. Rows may have none; where longs are wide, those take a bit each. Knows no
//! meaning of any number.

/// What stands for an unknown value.
pub const NONE: i64 = i64::MIN;
/// The same in columns of 32 bits.
pub const NARROW_NONE: i32 = i32::MIN;

/// Of a column of longs near each other: how much each is beyond the base, but for these two.
const NEAR_NONE: u32 = u32::MAX;
const NEAR_ZERO: u32 = u32::MAX - 1;

#[derive(Debug, PartialEq, Eq)]
enum Held {
    Tiny(Vec<i8>),
    Short(Vec<i16>),
    Narrow(Vec<i32>),
    Near(i64, Vec<u32>),
    Wide(Vec<i64>),
    Rare(Rare),
}

/// Longs of which some rows have none.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rare {
    /// A bit a row: it has one.
    some: Vec<u64>,
    /// How many rows before those of a word have one.
    before: Vec<u32>,
    values: Vec<i64>,
    /// Up to the last one that has one.
    rows: usize,
}

impl Rare {
    #[inline]
    fn put(&mut self, row: usize, value: i64) {
        let word = row / 64;
        if self.some.len() <= word {
            self.some.resize(word + 1, 0);
            self.before.resize(word + 1, self.values.len() as u32);
        }
        if let Some(bits) = self.some.get_mut(word) {
            *bits |= 1 << (row % 64);
        }
        self.values.push(value);
        self.rows = row + 1;
    }

    #[inline]
    fn get(&self, row: usize) -> i64 {
        let word = row / 64;
        let (Some(bits), Some(before)) = (self.some.get(word), self.before.get(word)) else {
            return NONE;
        };
        if bits >> (row % 64) & 1 == 0 {
            return NONE;
        }
        let among = bits & ((1 << (row % 64)) - 1);
        let at = *before as usize + among.count_ones() as usize;
        self.values.get(at).copied().unwrap_or(NONE)
    }
}

/// A column. Rows behind the last one that has a value are not there.
#[derive(Debug, PartialEq, Eq)]
pub struct Numbers(Held);

/// A column as it leaves: each number has 4 bytes or 8.
#[derive(Debug, PartialEq, Eq)]
pub enum Plain {
    Narrow(Vec<i32>),
    Wide(Vec<i64>),
}

impl Default for Numbers {
    fn default() -> Self {
        Numbers(Held::Tiny(Vec::new()))
    }
}

/// Appends the value of a row, those before it that have none first.
#[inline(always)]
fn push<T: Copy>(values: &mut Vec<T>, row: usize, value: T, none: T) {
    if values.len() != row {
        values.resize(row, none);
    }
    values.push(value);
}

/// The same if the value fits and does not stand for none.
#[inline(always)]
fn fits<T: Copy + PartialEq + TryFrom<i64>>(
    values: &mut Vec<T>,
    row: usize,
    value: i64,
    none: T,
) -> bool {
    match T::try_from(value) {
        Ok(small) if small != none => {
            push(values, row, small, none);
            true
        }
        _ => false,
    }
}

/// How a long is written beside a base.
#[inline(always)]
fn near(base: i64, value: i64) -> Option<u32> {
    if value == 0 {
        return Some(NEAR_ZERO);
    }
    let beyond = u32::try_from(value.wrapping_sub(base)).ok()?;
    (beyond < NEAR_ZERO).then_some(beyond)
}

#[inline(always)]
fn far(base: i64, beyond: u32) -> i64 {
    match beyond {
        NEAR_NONE => NONE,
        NEAR_ZERO => 0,
        beyond => base.wrapping_add(i64::from(beyond)),
    }
}

impl Numbers {
    #[inline(always)]
    pub fn put(&mut self, row: usize, value: i64) {
        let put = match &mut self.0 {
            Held::Tiny(values) => fits(values, row, value, i8::MIN),
            Held::Short(values) => fits(values, row, value, i16::MIN),
            Held::Narrow(values) => fits(values, row, value, NARROW_NONE),
            Held::Near(base, values) => match near(*base, value) {
                Some(beyond) => {
                    push(values, row, beyond, NEAR_NONE);
                    true
                }
                None => false,
            },
            Held::Wide(values) if values.len() == row => {
                values.push(value);
                true
            }
            Held::Wide(_) => false,
            Held::Rare(rare) => {
                rare.put(row, value);
                true
            }
        };
        if !put {
            self.widen(row, value);
            self.put(row, value);
        }
    }

    /// Makes room for a value that does not fit.
    #[cold]
    #[inline(never)]
    fn widen(&mut self, row: usize, value: i64) {
        let rows = match &self.0 {
            Held::Tiny(values) => values.len(),
            Held::Short(values) => values.len(),
            Held::Narrow(values) => values.len(),
            Held::Near(_, values) => values.len(),
            Held::Wide(values) => values.len(),
            Held::Rare(rare) => rare.rows,
        };
        let all = || (0..rows).map(|row| self.get(row));
        if matches!(self.0, Held::Tiny(_) | Held::Short(_) | Held::Narrow(_)) {
            if i16::try_from(value).is_ok_and(|short| short != i16::MIN) {
                let short = |value: i64| i16::try_from(value).unwrap_or(i16::MIN);
                self.0 = Held::Short(all().map(short).collect());
                return;
            }
            if i32::try_from(value).is_ok_and(|narrow| narrow != NARROW_NONE) {
                let narrow = |value: i64| i32::try_from(value).unwrap_or(NARROW_NONE);
                self.0 = Held::Narrow(all().map(narrow).collect());
                return;
            }
            // numbers count up from where their high half begins, as zxids do in an epoch
            let base = value & !i64::from(u32::MAX);
            let beyond = |value: i64| match value {
                NONE => Some(NEAR_NONE),
                known => near(base, known),
            };
            if near(base, value).is_some() {
                if let Some(values) = all().map(beyond).collect() {
                    self.0 = Held::Near(base, values);
                    return;
                }
            }
        }
        if rows == row && all().all(|value| value != NONE) {
            self.0 = Held::Wide(all().collect());
            return;
        }
        let mut rare = Rare::default();
        for (row, value) in all().enumerate().filter(|one| one.1 != NONE) {
            rare.put(row, value);
        }
        self.0 = Held::Rare(rare);
    }

    /// The value of a row, [`NONE`] where it has none.
    #[inline]
    pub fn get(&self, row: usize) -> i64 {
        match &self.0 {
            Held::Tiny(values) => match values.get(row) {
                Some(&known) if known != i8::MIN => i64::from(known),
                _ => NONE,
            },
            Held::Short(values) => match values.get(row) {
                Some(&known) if known != i16::MIN => i64::from(known),
                _ => NONE,
            },
            Held::Narrow(values) => match values.get(row) {
                Some(&known) if known != NARROW_NONE => i64::from(known),
                _ => NONE,
            },
            Held::Near(base, values) => values.get(row).map_or(NONE, |&one| far(*base, one)),
            Held::Wide(values) => values.get(row).copied().unwrap_or(NONE),
            Held::Rare(rare) => rare.get(row),
        }
    }

    /// So many rows.
    pub fn plain(self, rows: usize) -> Plain {
        match self.0 {
            Held::Narrow(mut values) => {
                values.resize(rows, NARROW_NONE);
                Plain::Narrow(values)
            }
            Held::Wide(mut values) => {
                values.resize(rows, NONE);
                Plain::Wide(values)
            }
            Held::Near(..) | Held::Rare(_) => {
                Plain::Wide((0..rows).map(|row| self.get(row)).collect())
            }
            Held::Tiny(_) | Held::Short(_) => {
                let narrow = |row| match self.get(row) {
                    NONE => NARROW_NONE,
                    known => known as i32,
                };
                Plain::Narrow((0..rows).map(narrow).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_put_however_wide() {
        let small: Vec<i64> = vec![7, -1, 0, 127, -128, 128, -32_768, 40_000];
        let epoch = 3i64 << 32;
        let longs = [
            i64::from(i32::MIN),
            i64::from(i32::MAX) + 1,
            i64::MIN + 1,
            i64::MAX,
            epoch,
            epoch + 5,
            epoch - 1,
            epoch + i64::from(u32::MAX) - 1,
            epoch + i64::from(u32::MAX) - 2,
            epoch + i64::from(u32::MAX),
        ];
        for first in &longs {
            for second in longs.iter().chain(&small) {
                for before in [0, 3, small.len()] {
                    let mut numbers = Numbers::default();
                    let mut wanted = Vec::new();
                    for value in small[..before].iter().chain([first, second]) {
                        // a row without a value before each
                        numbers.put(wanted.len() + 1, *value);
                        wanted.extend([NONE, *value]);
                        let got: Vec<i64> = (0..wanted.len()).map(|row| numbers.get(row)).collect();
                        assert_eq!(got, wanted);
                    }
                    assert_eq!(numbers.get(wanted.len()), NONE);
                    wanted.push(NONE);
                    assert_eq!(numbers.plain(wanted.len()), Plain::Wide(wanted));
                }
            }
        }
    }

    #[test]
    fn zxids_of_an_epoch_take_four_bytes() {
        let mut numbers = Numbers::default();
        for (row, value) in [0, 5 << 32, (5 << 32) + 1].into_iter().enumerate() {
            numbers.put(row, value);
        }
        assert_eq!(numbers.0, Held::Near(5 << 32, vec![NEAR_ZERO, 0, 1]));
        numbers.put(3, 6 << 32);
        let wide = vec![0, 5 << 32, (5 << 32) + 1, 6 << 32];
        assert_eq!(numbers.0, Held::Wide(wide));
    }

    #[test]
    fn rows_without_a_long_take_a_bit() {
        let mut numbers = Numbers::default();
        let mut wanted = vec![NONE; 1000];
        for row in [3, 63, 64, 65, 200, 999] {
            let value = (row as i64) << 40;
            numbers.put(row, value);
            wanted[row] = value;
        }
        let got: Vec<i64> = (0..1000).map(|row| numbers.get(row)).collect();
        assert_eq!(got, wanted);
        assert!(matches!(&numbers.0, Held::Rare(rare) if rare.values.len() == 6));
    }

    #[test]
    fn leaves_in_four_bytes_where_they_are_enough() {
        let none = NARROW_NONE;
        for (value, before) in [(-1, 7), (-300, 7), (1 << 20, 300)] {
            let mut numbers = Numbers::default();
            numbers.put(1, before);
            numbers.put(3, value);
            let (before, value) = (before as i32, value as i32);
            let wanted = vec![none, before, none, value, none];
            assert_eq!(numbers.plain(5), Plain::Narrow(wanted));
        }
    }
}
