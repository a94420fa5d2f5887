//! Column builders whose nulls cost nothing: a column holds what came before its last known value;
//! whatever is missing is filled in when the next value comes or the batch ends. Knows nothing of
//! events.

use std::sync::Arc;

use arrow_array::types::{ArrowPrimitiveType, Int32Type};
use arrow_array::{ArrayRef, BooleanArray, DictionaryArray, PrimitiveArray};
use arrow_array::{ListArray, StringArray, StructArray};
use arrow_buffer::{
    ArrowNativeType, BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer,
};
use arrow_schema::{ArrowError, Field, Fields};

use crate::block_columns::Blanks;
use crate::intern::Interner;

/// Entries of a dictionary that is kept in any case from one batch to the next.
const KEEP_ENTRIES: usize = 1024;
/// A dictionary is copied into every batch that changed it, so it starts anew when it holds more
/// than this many entries per row of the batch, or these many entries or bytes at all.
const KEEP_PER_ROW: usize = 4;
const MAX_ENTRIES: usize = 1 << 20;
const MAX_DICTIONARY_BYTES: usize = 16 << 20;

/// Which rows have a value. None while all of them have.
#[derive(Default)]
struct Validity(Option<Vec<u8>>);

impl Validity {
    #[cold]
    fn first_gap(len: usize) -> Vec<u8> {
        let mut bits = vec![0xff; len / 8];
        if !len.is_multiple_of(8) {
            bits.push((1 << (len % 8)) - 1);
        }
        bits
    }

    /// Row `row` has a value, after `len` rows pushed or filled so far.
    #[inline]
    fn set(&mut self, row: usize, len: usize) {
        if self.0.is_none() && row != len {
            self.0 = Some(Self::first_gap(len));
        }
        if let Some(bits) = &mut self.0 {
            let at = row / 8;
            if at >= bits.len() {
                bits.resize(at + 1, 0);
            }
            if let Some(byte) = bits.get_mut(at) {
                *byte |= 1 << (row % 8);
            }
        }
    }

    fn finish(&mut self, rows: usize, len: usize) -> Option<NullBuffer> {
        if self.0.is_none() && rows != len {
            self.0 = Some(Self::first_gap(len));
        }
        let mut bits = self.0.take()?;
        bits.resize(rows.div_ceil(8), 0);
        Some(NullBuffer::new(BooleanBuffer::new(
            Buffer::from_vec(bits),
            0,
            rows,
        )))
    }
}

/// Values of fixed width.
#[derive(Default)]
pub struct Column<T> {
    values: Vec<T>,
    valid: Validity,
}

impl<T: Copy + Default> Column<T> {
    /// `row` is the number of the row within the batch; rows may be left out.
    #[inline(always)]
    pub fn push(&mut self, row: usize, value: T) {
        if self.values.len() == row && self.valid.0.is_none() {
            self.values.push(value);
        } else {
            self.push_after_gap(row, value);
        }
    }

    /// Kept apart, so that the common case stays small enough to be compiled into its callers.
    #[inline(never)]
    fn push_after_gap(&mut self, row: usize, value: T) {
        self.valid.set(row, self.values.len());
        self.push_unmarked(row, value);
    }

    fn push_unmarked(&mut self, row: usize, value: T) {
        if self.values.len() != row {
            self.values.resize(row, T::default());
        }
        self.values.push(value);
    }

    #[inline(always)]
    pub fn push_some(&mut self, row: usize, value: Option<T>) {
        if let Some(value) = value {
            self.push(row, value);
        }
    }

    fn take(&mut self, rows: usize) -> (Vec<T>, Option<NullBuffer>) {
        let nulls = self.valid.finish(rows, self.values.len());
        // The next batch will be about as long.
        let next = Vec::with_capacity(self.values.len());
        let mut values = std::mem::replace(&mut self.values, next);
        values.resize(rows, T::default());
        (values, nulls)
    }

    pub fn finish<P: ArrowPrimitiveType<Native = T>>(&mut self, rows: usize) -> ArrayRef
    where
        T: ArrowNativeType,
    {
        let (values, nulls) = self.take(rows);
        Arc::new(PrimitiveArray::<P>::new(ScalarBuffer::from(values), nulls))
    }
}

impl<T: Copy + Default + ArrowNativeType> Column<T> {
    /// As `finish`, of a column that most batches have no value of.
    pub fn finish_sparse<P: ArrowPrimitiveType<Native = T>>(
        &mut self,
        rows: usize,
        blanks: &mut Blanks,
    ) -> ArrayRef {
        if self.values.is_empty() {
            return blanks.of(&P::DATA_TYPE, rows);
        }
        self.finish::<P>(rows)
    }
}

impl Column<bool> {
    pub fn finish_bool(&mut self, rows: usize) -> ArrayRef {
        let (values, nulls) = self.take(rows);
        Arc::new(BooleanArray::new(BooleanBuffer::from(values), nulls))
    }
}

/// Texts, each stored by itself.
pub struct TextColumn {
    ends: Vec<i32>,
    bytes: Vec<u8>,
    valid: Validity,
}

impl Default for TextColumn {
    fn default() -> Self {
        TextColumn {
            ends: vec![0],
            bytes: Vec::new(),
            valid: Validity::default(),
        }
    }
}

impl TextColumn {
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    pub fn push_bytes(&mut self, row: usize, raw: &[u8]) {
        let text = crate::intern::lossy(raw);
        // Batches are cut long before 2 GiB.
        let Ok(end) = i32::try_from(self.bytes.len() + text.len()) else {
            return;
        };
        self.valid.set(row, self.ends.len() - 1);
        let last = self.ends.last().copied().unwrap_or(0);
        self.ends.resize(row + 1, last);
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(end);
    }

    pub fn finish(&mut self, rows: usize) -> Result<ArrayRef, ArrowError> {
        let nulls = self.valid.finish(rows, self.ends.len() - 1);
        let mut column = std::mem::take(self);
        let last = column.ends.last().copied().unwrap_or(0);
        column.ends.resize(rows + 1, last);
        let ends = OffsetBuffer::new(ScalarBuffer::from(column.ends));
        let array = StringArray::try_new(ends, Buffer::from_vec(column.bytes), nulls)?;
        Ok(Arc::new(array))
    }
}

/// Texts as numbers; lives on from batch to batch while it is small enough.
#[derive(Default)]
pub struct Dictionary {
    texts: Interner,
    /// The texts as of the last batch; good for the next one if nothing was added.
    values: Option<ArrayRef>,
}

impl Dictionary {
    pub fn byte_len(&self) -> usize {
        self.texts.byte_len()
    }

    /// Key of a short text (names and addresses cannot fill a dictionary).
    #[inline]
    pub fn key(&mut self, raw: &[u8]) -> i32 {
        self.text_key(raw).unwrap_or(0)
    }

    /// None only when one batch holds 2 GiB of text; batches are cut long before.
    #[inline]
    pub fn text_key(&mut self, raw: &[u8]) -> Option<i32> {
        self.texts.intern_text(raw).map(|key| key as i32)
    }

    /// The texts, which start anew.
    pub fn take(&mut self) -> Result<ArrayRef, ArrowError> {
        self.values = None;
        let (ends, bytes) = self.texts.take();
        let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
        Ok(Arc::new(StringArray::try_new(
            ends,
            Buffer::from_vec(bytes),
            None,
        )?))
    }

    /// The column of these keys, and whether the dictionary starts anew (keys known from before are void).
    pub fn finish(
        &mut self,
        keys: ScalarBuffer<i32>,
        nulls: Option<NullBuffer>,
    ) -> Result<(ArrayRef, bool), ArrowError> {
        let rows = keys.len();
        let values = match &self.values {
            Some(values) if values.len() == self.texts.len() => values.clone(),
            _ => {
                let (ends, bytes) = self.texts.parts();
                let ends = OffsetBuffer::new(ScalarBuffer::from(ends.to_vec()));
                let values: ArrayRef = Arc::new(StringArray::try_new(
                    ends,
                    Buffer::from_vec(bytes.to_vec()),
                    None,
                )?);
                self.values = Some(values.clone());
                values
            }
        };
        let keys = PrimitiveArray::<Int32Type>::new(keys, nulls);
        let array = DictionaryArray::try_new(keys, values)?;
        let limit = MAX_ENTRIES.min(KEEP_ENTRIES.max(rows * KEEP_PER_ROW));
        let renew = self.texts.len() > limit || self.texts.byte_len() > MAX_DICTIONARY_BYTES;
        if renew {
            self.texts.clear();
            self.values = None;
        }
        Ok((Arc::new(array), renew))
    }
}

/// Texts as numbers into a dictionary.
#[derive(Default)]
pub struct DictColumn {
    keys: Column<i32>,
    dictionary: Dictionary,
}

impl DictColumn {
    pub fn byte_len(&self) -> usize {
        self.dictionary.byte_len()
    }

    #[inline]
    pub fn push_some(&mut self, row: usize, raw: Option<&[u8]>) {
        if let Some(key) = raw.and_then(|raw| self.dictionary.text_key(raw)) {
            self.keys.push(row, key);
        }
    }

    pub fn finish(&mut self, rows: usize) -> Result<ArrayRef, ArrowError> {
        Ok(self.keys.finish_keys(&mut self.dictionary, rows)?.0)
    }

    #[inline]
    pub fn key(&mut self, raw: &[u8]) -> Option<i32> {
        self.dictionary.text_key(raw)
    }

    #[inline]
    pub fn push_key(&mut self, row: usize, key: Option<i32>) {
        self.keys.push_some(row, key);
    }

    /// The keys alone.
    pub fn finish_indices(&mut self, rows: usize, blanks: &mut Blanks) -> ArrayRef {
        self.keys.finish_sparse::<Int32Type>(rows, blanks)
    }

    /// The texts, which start anew.
    pub fn take(&mut self) -> Result<ArrayRef, ArrowError> {
        self.dictionary.take()
    }

    /// As `finish`, of a column that most batches have no value of.
    pub fn finish_sparse(
        &mut self,
        rows: usize,
        blanks: &mut Blanks,
    ) -> Result<ArrayRef, ArrowError> {
        if self.keys.values.is_empty() {
            return Ok(blanks.of(&crate::table_schema::text(), rows));
        }
        self.finish(rows)
    }
}

impl Column<i32> {
    /// The column of what these keys stand for, and whether the dictionary starts anew.
    pub fn finish_keys(
        &mut self,
        dictionary: &mut Dictionary,
        rows: usize,
    ) -> Result<(ArrayRef, bool), ArrowError> {
        let (keys, nulls) = self.take(rows);
        dictionary.finish(keys.into(), nulls)
    }
}

/// Rows of a struct column that are not null; the children are columns of their own.
#[derive(Default)]
pub struct StructValidity {
    rows: Validity,
    /// Rows pushed or filled.
    len: usize,
}

impl StructValidity {
    #[inline]
    pub fn push(&mut self, row: usize) {
        self.rows.set(row, self.len);
        self.len = row + 1;
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn take(&mut self, rows: usize) -> Option<NullBuffer> {
        let nulls = self.rows.finish(rows, self.len);
        self.len = 0;
        nulls
    }

    /// The struct column of these children.
    pub fn finish(
        &mut self,
        fields: &Fields,
        children: Vec<ArrayRef>,
        rows: usize,
    ) -> Result<ArrayRef, ArrowError> {
        let nulls = self.take(rows);
        Ok(Arc::new(StructArray::try_new(
            fields.clone(),
            children,
            nulls,
        )?))
    }
}

/// Rows of a list column; the items are a column of their own.
#[derive(Default)]
pub struct ListOffsets {
    starts: Vec<i32>,
    rows: StructValidity,
    /// Items of all rows so far.
    pub items: usize,
}

impl ListOffsets {
    /// Row `row` has a list; its items are those pushed until the next call.
    pub fn push(&mut self, row: usize) {
        self.rows.push(row);
        self.starts
            .resize(row + 1, i32::try_from(self.items).unwrap_or(i32::MAX));
    }

    pub fn finish(
        &mut self,
        field: &Arc<Field>,
        items: ArrayRef,
        rows: usize,
    ) -> Result<ArrayRef, ArrowError> {
        let mut starts = std::mem::take(&mut self.starts);
        starts.resize(rows + 1, i32::try_from(items.len()).unwrap_or(i32::MAX));
        self.items = 0;
        Ok(Arc::new(ListArray::try_new(
            field.clone(),
            OffsetBuffer::new(ScalarBuffer::from(starts)),
            items,
            self.rows.take(rows),
        )?))
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}
