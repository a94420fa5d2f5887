//! The columns of a table with many rows. Rows come one by one, columns are made by the block: 64 rows are put down in a
//! small place, then every column takes its values of all of them at once, and a word of which rows have one. That costs
//! a fraction of appending to some thirty columns for every row. What few rows have is pushed to columns of its own
//! (`columns`). Knows nothing of events.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow_array::types::{ArrowPrimitiveType, Int32Type, Int64Type};
use arrow_array::{new_null_array, Array, ArrayRef, BooleanArray, PrimitiveArray};
use arrow_buffer::{ArrowNativeType, BooleanBuffer, Buffer, NullBuffer, ScalarBuffer, ToByteSlice};
use arrow_schema::{ArrowError, DataType};
use bytes::BytesMut;

use crate::columns::Dictionary;
use crate::slab::Slab;

/// Rows of a block, one per bit of a word.
pub const BLOCK: usize = 64;

/// No more room is taken in advance.
const MAX_EXPECTED: usize = 1 << 15;

/// Bits of `Row::known`.
const BITS: usize = 32;

/// Which rows of a block have something: a word per bit of `Row::known`.
pub type Words = [u64; BITS];

/// Rows of a table, and the columns made of them, of 64 and of 32 bits.
pub struct Columns<const LONGS: usize, const INTS: usize> {
    /// Rows in the block.
    at: usize,
    /// Which columns a row has a value in: the longs, the ints, then what else the table wants to know of a row.
    known: [u32; BLOCK],
    long_block: [[i64; BLOCK]; LONGS],
    int_block: [[i32; BLOCK]; INTS],
    longs: [BlockColumn<i64>; LONGS],
    ints: [BlockColumn<i32>; INTS],
}

impl<const LONGS: usize, const INTS: usize> Default for Columns<LONGS, INTS> {
    fn default() -> Self {
        const { assert!(LONGS + INTS <= BITS) };
        Columns {
            at: 0,
            known: [0; BLOCK],
            long_block: [[0; BLOCK]; LONGS],
            int_block: [[0; BLOCK]; INTS],
            longs: [(); LONGS].map(|()| BlockColumn::default()),
            ints: [(); INTS].map(|()| BlockColumn::default()),
        }
    }
}

/// A row that is being put down. What is not known is zero.
pub struct Row<'a, const LONGS: usize, const INTS: usize> {
    known: u32,
    at: usize,
    columns: &'a mut Columns<LONGS, INTS>,
}

impl<const LONGS: usize, const INTS: usize> Row<'_, LONGS, INTS> {
    #[inline(always)]
    pub fn long(&mut self, column: usize, value: Option<i64>) {
        self.known |= u32::from(value.is_some()) << column;
        if let Some(block) = self.columns.long_block.get_mut(column) {
            block[self.at % BLOCK] = value.unwrap_or_default();
        }
    }

    #[inline(always)]
    pub fn int(&mut self, column: usize, value: Option<i32>) {
        self.known |= u32::from(value.is_some()) << (LONGS + column);
        if let Some(block) = self.columns.int_block.get_mut(column) {
            block[self.at % BLOCK] = value.unwrap_or_default();
        }
    }

    /// Bits behind those of the columns, counted from 0.
    #[inline(always)]
    pub fn mark(&mut self, bit: usize, set: bool) {
        self.known |= u32::from(set) << (LONGS + INTS + bit);
    }

    /// Whether the block is full: it is to be flushed.
    #[inline(always)]
    pub fn done(self) -> bool {
        self.columns.known[self.at % BLOCK] = self.known;
        self.columns.at = self.at + 1;
        self.columns.at >= BLOCK
    }
}

impl<const LONGS: usize, const INTS: usize> Columns<LONGS, INTS> {
    /// Begins a row. The block is not full.
    #[inline(always)]
    pub fn row(&mut self) -> Row<'_, LONGS, INTS> {
        Row {
            known: 0,
            at: self.at,
            columns: self,
        }
    }

    pub fn is_flushed(&self) -> bool {
        self.at == 0
    }

    /// Moves the block to the columns. Gives the words of the bits that belong to no column, and that of all rows.
    #[inline(always)]
    pub fn flush(&mut self, out: &mut Out) -> (Words, u64) {
        let count = self.at.clamp(1, BLOCK);
        let words = words(self.known.iter().take(count).copied());
        let all = u64::MAX >> (BLOCK - count);
        let longs = self.longs.iter_mut().zip(&self.long_block);
        for ((column, block), word) in longs.zip(words) {
            column.extend(word, all, block.get(..count).unwrap_or(block), out);
        }
        let ints = self.ints.iter_mut().zip(&self.int_block);
        for ((column, block), word) in ints.zip(words.into_iter().skip(LONGS)) {
            column.extend(word, all, block.get(..count).unwrap_or(block), out);
        }
        self.at = 0;
        let mut marks = [0; BITS];
        let rest = words.get(LONGS + INTS..).unwrap_or_default();
        for (mark, word) in marks.iter_mut().zip(rest) {
            *mark = *word;
        }
        (marks, all)
    }

    pub fn finish_long(&mut self, column: usize, rows: usize, out: &mut Out) -> ArrayRef {
        match self.longs.get_mut(column) {
            Some(values) => values.finish::<Int64Type>(rows, out),
            None => out.blanks.of(&DataType::Int64, rows),
        }
    }

    pub fn finish_int(&mut self, column: usize, rows: usize, out: &mut Out) -> ArrayRef {
        match self.ints.get_mut(column) {
            Some(values) => values.finish::<Int32Type>(rows, out),
            None => out.blanks.of(&DataType::Int32, rows),
        }
    }

    /// The column of what these keys stand for, and whether the dictionary starts anew. Of a table that is kept whole,
    /// the keys alone: its dictionary is still to grow.
    pub fn finish_keys(
        &mut self,
        column: usize,
        dictionary: &mut Dictionary,
        rows: usize,
        out: &mut Out,
    ) -> Result<(ArrayRef, bool), ArrowError> {
        if out.whole {
            return Ok((self.finish_int(column, rows, out), false));
        }
        match self.ints.get_mut(column) {
            Some(keys) => {
                let nulls = keys.valid.finish(rows, &mut out.slab);
                dictionary.finish(keys.finish_values(rows, out), nulls)
            }
            None => dictionary.finish(Vec::new().into(), None),
        }
    }
}

/// Where columns are put.
#[derive(Default)]
pub struct Out {
    pub slab: Slab,
    pub blanks: Blanks,
    /// All batches of the table are kept, with one dictionary for all of them.
    pub whole: bool,
    /// Rows that the batch under way will have, about.
    pub expected: usize,
}

impl Out {
    /// The next batch will be about as long as this one.
    pub fn expect(&mut self, rows: usize) {
        if !self.whole {
            self.expected = rows.min(MAX_EXPECTED);
        }
    }

    /// Bytes for a column that has so many, and is to have `more`.
    #[cold]
    fn make_room(&mut self, held: &mut BytesMut, width: usize, more: usize) {
        let expected = self.expected.max(BLOCK) * width;
        let mut room = self.slab.room(expected.max((held.len() + more) * 2));
        room.extend_from_slice(held);
        *held = room;
    }
}

/// Which rows have a value: a word per block. Words behind the last one are zero.
#[derive(Default)]
struct Valid {
    words: Vec<u64>,
    gaps: bool,
}

impl Valid {
    /// Block number `block`, of `all` rows.
    #[inline]
    fn set(&mut self, block: usize, word: u64, all: u64) {
        self.gaps |= word != all || self.words.len() != block;
        self.words.resize(block, 0);
        self.words.push(word);
    }

    /// Whether rows lack a value; None if none does.
    fn finish(&mut self, rows: usize, slab: &mut Slab) -> Option<NullBuffer> {
        let blocks = rows.div_ceil(BLOCK);
        let gaps = std::mem::take(&mut self.gaps) || self.words.len() != blocks;
        self.words.resize(blocks, 0);
        let nulls = gaps.then(|| NullBuffer::new(bits(&self.words, rows, slab)));
        self.words.clear();
        nulls
    }
}

fn bits(words: &[u64], rows: usize, slab: &mut Slab) -> BooleanBuffer {
    BooleanBuffer::new(slab.put(words.to_byte_slice()), 0, rows)
}

/// Values of fixed width. Blocks without any value cost nothing before the next one that has.
pub struct BlockColumn<T> {
    values: BytesMut,
    valid: Valid,
    /// Blocks so far.
    blocks: usize,
    kind: PhantomData<T>,
}

impl<T> Default for BlockColumn<T> {
    fn default() -> Self {
        BlockColumn {
            values: BytesMut::new(),
            valid: Valid::default(),
            blocks: 0,
            kind: PhantomData,
        }
    }
}

impl<T: Copy + Default + ArrowNativeType> BlockColumn<T> {
    /// A block of `all` rows; those of `word` have a value.
    #[inline(always)]
    pub fn extend(&mut self, word: u64, all: u64, values: &[T], out: &mut Out) {
        if word != 0 {
            self.valid.set(self.blocks, word, all);
            let bytes = values.to_byte_slice();
            let start = self.blocks * BLOCK * size_of::<T>();
            if self.values.capacity() < start + bytes.len() {
                let more = start + bytes.len() - self.values.len();
                out.make_room(&mut self.values, size_of::<T>(), more);
            }
            if self.values.len() != start {
                self.values.resize(start, 0);
            }
            self.values.extend_from_slice(bytes);
        }
        self.blocks += 1;
    }

    fn finish_values(&mut self, rows: usize, out: &mut Out) -> ScalarBuffer<T> {
        self.blocks = 0;
        let mut values = std::mem::take(&mut self.values);
        let length = rows * size_of::<T>();
        if values.capacity() < length {
            let more = length - values.len();
            out.make_room(&mut values, size_of::<T>(), more);
        }
        values.resize(length, 0);
        ScalarBuffer::new(Buffer::from(values.freeze()), 0, rows)
    }

    pub fn finish<P: ArrowPrimitiveType<Native = T>>(
        &mut self,
        rows: usize,
        out: &mut Out,
    ) -> ArrayRef {
        if self.values.is_empty() {
            self.start_anew();
            return out.blanks.of(&P::DATA_TYPE, rows);
        }
        let nulls = self.valid.finish(rows, &mut out.slab);
        let values = self.finish_values(rows, out);
        Arc::new(PrimitiveArray::<P>::new(values, nulls))
    }

    /// As `finish`, of a child of a struct: whether there is a value is known to the struct alone.
    pub fn finish_unmarked<P: ArrowPrimitiveType<Native = T>>(
        &mut self,
        rows: usize,
        out: &mut Out,
    ) -> ArrayRef {
        self.valid.words.clear();
        self.valid.gaps = false;
        let values = self.finish_values(rows, out);
        Arc::new(PrimitiveArray::<P>::new(values, None))
    }

    /// Which rows have a value, for the struct that this is a child of.
    pub fn finish_nulls(&mut self, rows: usize, out: &mut Out) -> Option<NullBuffer> {
        self.valid.finish(rows, &mut out.slab)
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

    pub fn finish(&mut self, rows: usize, out: &mut Out) -> ArrayRef {
        let some = self.valid.iter().any(|word| *word != 0);
        let array: ArrayRef = if some {
            let nulls = NullBuffer::new(bits(&self.valid, rows, &mut out.slab));
            Arc::new(BooleanArray::new(
                bits(&self.values, rows, &mut out.slab),
                Some(nulls).filter(|nulls| nulls.null_count() > 0),
            ))
        } else {
            out.blanks.of(&DataType::Boolean, rows)
        };
        self.valid.clear();
        self.values.clear();
        array
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

/// Rows of bits to columns: bit `c` of row `r` becomes bit `r` of word `c` (Hacker's Delight, 7-3). At most 64 rows.
#[inline(always)]
fn words(rows: impl Iterator<Item = u32>) -> Words {
    let mut low = [0; BITS];
    let mut high = [0; BITS];
    for (place, row) in low.iter_mut().chain(&mut high).zip(rows) {
        *place = row;
    }
    transpose(&mut low);
    transpose(&mut high);
    let mut words = [0; BITS];
    for ((word, low), high) in words.iter_mut().zip(low).zip(high) {
        *word = u64::from(low) | u64::from(high) << 32;
    }
    words
}

#[inline(always)]
fn transpose(rows: &mut [u32; BITS]) {
    swap::<16>(rows, 0x0000_ffff);
    swap::<8>(rows, 0x00ff_00ff);
    swap::<4>(rows, 0x0f0f_0f0f);
    swap::<2>(rows, 0x3333_3333);
    swap::<1>(rows, 0x5555_5555);
}

/// Of every square of 2 x WIDTH bits, the two off its diagonal change places.
#[inline(always)]
fn swap<const WIDTH: usize>(rows: &mut [u32; BITS], mask: u32) {
    for pair in rows.chunks_exact_mut(2 * WIDTH) {
        let (first, second) = pair.split_at_mut(WIDTH);
        for (low, high) in first.iter_mut().zip(second) {
            let swapped = ((*low >> WIDTH) ^ *high) & mask;
            *low ^= swapped << WIDTH;
            *high ^= swapped;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes() {
        let bit = |r: usize, c: usize| (r * 7 + c * 13 + r * c).is_multiple_of(5);
        for rows in [0, 1, 31, 32, 33, 63, 64] {
            let row = |r: usize| (0..BITS).map(|c| u32::from(bit(r, c)) << c).sum();
            for (c, word) in words((0..rows).map(row)).iter().enumerate() {
                for r in 0..64 {
                    assert_eq!(word >> r & 1 == 1, r < rows && bit(r, c), "{r} {c}");
                }
            }
        }
    }
}
