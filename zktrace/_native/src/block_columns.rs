//! Columns that take 64 rows at a time: values in a run, and a word of which of them are there. Knows nothing of
//! events.

use std::sync::Arc;

use arrow_array::types::ArrowPrimitiveType;
use arrow_array::{new_null_array, Array, ArrayRef, BooleanArray, PrimitiveArray};
use arrow_buffer::{ArrowNativeType, BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType};

use crate::columns::Dictionary;

/// Rows of a block, one per bit of a word.
pub const BLOCK: usize = 64;

/// Which rows have a value: a word per block. Words behind the last one are zero.
#[derive(Default)]
pub struct Words {
    words: Vec<u64>,
    gaps: bool,
}

impl Words {
    /// Block number `block`, of `all` rows.
    #[inline]
    fn set(&mut self, block: usize, word: u64, all: u64) {
        self.gaps |= word != all || self.words.len() != block;
        self.words.resize(block, 0);
        self.words.push(word);
    }

    /// Whether rows lack a value; None if none does.
    fn finish(&mut self, rows: usize) -> Option<NullBuffer> {
        let blocks = rows.div_ceil(BLOCK);
        let mut words = std::mem::take(&mut self.words);
        let gaps = std::mem::take(&mut self.gaps) || words.len() != blocks;
        words.resize(blocks, 0);
        gaps.then(|| NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(words), 0, rows)))
    }
}

/// Values of fixed width. Blocks without any value cost nothing before the next one that has.
#[derive(Default)]
pub struct BlockColumn<T> {
    values: Vec<T>,
    valid: Words,
    /// Blocks so far.
    blocks: usize,
}

impl<T: Copy + Default> BlockColumn<T> {
    #[inline(always)]
    pub fn extend(&mut self, word: u64, all: u64, values: impl Iterator<Item = T>) {
        if word != 0 {
            self.valid.set(self.blocks, word, all);
            self.values.resize(self.blocks * BLOCK, T::default());
            self.values.extend(values);
        }
        self.blocks += 1;
    }

    fn take(&mut self, rows: usize) -> Vec<T> {
        self.blocks = 0;
        // The next batch will be about as long.
        let room = self.values.len() + self.values.len() / 8;
        let mut values = std::mem::replace(&mut self.values, Vec::with_capacity(room));
        values.resize(rows, T::default());
        values
    }

    pub fn finish<P: ArrowPrimitiveType<Native = T>>(
        &mut self,
        rows: usize,
        blanks: &mut Blanks,
    ) -> ArrayRef
    where
        T: ArrowNativeType,
    {
        if self.values.is_empty() {
            self.start_anew();
            return blanks.of(&P::DATA_TYPE, rows);
        }
        let nulls = self.valid.finish(rows);
        Arc::new(PrimitiveArray::<P>::new(
            ScalarBuffer::from(self.take(rows)),
            nulls,
        ))
    }

    /// As `finish`, of a child of a struct: whether there is a value is known to the struct alone.
    pub fn finish_unmarked<P: ArrowPrimitiveType<Native = T>>(&mut self, rows: usize) -> ArrayRef
    where
        T: ArrowNativeType,
    {
        self.valid.finish(rows);
        Arc::new(PrimitiveArray::<P>::new(
            ScalarBuffer::from(self.take(rows)),
            None,
        ))
    }

    /// Which rows have a value, for the struct that this is a child of.
    pub fn finish_nulls(&mut self, rows: usize) -> Option<NullBuffer> {
        self.valid.finish(rows)
    }

    /// Forgets blocks without values.
    pub fn start_anew(&mut self) {
        self.blocks = 0;
    }

    /// No row has a value.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl BlockColumn<i32> {
    /// The column of what these keys stand for, and whether the dictionary starts anew.
    pub fn finish_keys(
        &mut self,
        dictionary: &mut Dictionary,
        rows: usize,
    ) -> Result<(ArrayRef, bool), ArrowError> {
        let nulls = self.valid.finish(rows);
        dictionary.finish(self.take(rows), nulls)
    }
}

/// Booleans.
#[derive(Default)]
pub struct Bits {
    valid: Vec<u64>,
    values: Vec<u64>,
}

impl Bits {
    #[inline]
    pub fn push(&mut self, valid: u64, values: u64) {
        self.valid.push(valid);
        self.values.push(values);
    }

    pub fn finish(&mut self, rows: usize) -> ArrayRef {
        let valid = Buffer::from_vec(std::mem::take(&mut self.valid));
        let values = Buffer::from_vec(std::mem::take(&mut self.values));
        let nulls = NullBuffer::new(BooleanBuffer::new(valid, 0, rows));
        Arc::new(BooleanArray::new(
            BooleanBuffer::new(values, 0, rows),
            Some(nulls).filter(|nulls| nulls.null_count() > 0),
        ))
    }
}

/// Columns of nulls: batches share the memory of theirs.
#[derive(Default)]
pub struct Blanks(Vec<ArrayRef>);

impl Blanks {
    pub fn of(&mut self, kind: &DataType, rows: usize) -> ArrayRef {
        let known = self.0.iter().position(|array| array.data_type() == kind);
        if let Some(array) = known.and_then(|at| self.0.get(at)) {
            if array.len() >= rows {
                return array.slice(0, rows);
            }
        }
        let array = new_null_array(kind, rows.next_power_of_two());
        let blank = array.slice(0, rows);
        match known.and_then(|at| self.0.get_mut(at)) {
            Some(place) => *place = array,
            None => self.0.push(array),
        }
        blank
    }
}

/// Rows of bits to columns: bit `c` of word `r` becomes bit `r` of word `c` (Hacker's Delight, 7-3).
pub fn transpose(words: &mut [u64; BLOCK]) {
    let mut width = BLOCK / 2;
    let mut mask = u64::MAX >> (BLOCK / 2);
    while width != 0 {
        let mut at = 0;
        while at < BLOCK {
            let (low, high) = (words[at & (BLOCK - 1)], words[(at + width) & (BLOCK - 1)]);
            let swapped = ((low >> width) ^ high) & mask;
            words[at & (BLOCK - 1)] = low ^ (swapped << width);
            words[(at + width) & (BLOCK - 1)] = high ^ swapped;
            at = (at + width + 1) & !width;
        }
        width /= 2;
        mask ^= mask << width;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes() {
        let mut words = [0u64; BLOCK];
        let bit = |r: usize, c: usize| (r * 7 + c * 13 + r * c).is_multiple_of(5);
        for (r, word) in words.iter_mut().enumerate() {
            *word = (0..BLOCK).map(|c| u64::from(bit(r, c)) << c).sum();
        }
        transpose(&mut words);
        for (c, word) in words.iter().enumerate() {
            for r in 0..BLOCK {
                assert_eq!(word >> r & 1 == 1, bit(r, c), "{r} {c}");
            }
        }
    }
}
