//! The columns of exchanges that are structs or lists.

use std::sync::Arc;

use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{ArrayRef, StructArray};
use arrow_buffer::ArrowNativeType;
use arrow_schema::{ArrowError, DataType};

use crate::block_columns::{BlockColumn, Out, BLOCK};
use crate::columns::{Column, ListOffsets, StructValidity, TextColumn};
use crate::events::{SubOp, Watches};
use crate::table_schema::{stat_fields, sub_fields, sub_item, watches_fields};

/// The Stat's fields, taken from its bytes by the block.
#[derive(Default)]
pub struct StatColumns {
    longs: [BlockColumn<i64>; 6],
    ints: [BlockColumn<i32>; 5],
}

#[inline(always)]
fn long_at<const AT: usize>(stat: &[u8; 68]) -> i64 {
    let bytes = stat.get(AT..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

#[inline(always)]
fn int_at<const AT: usize>(stat: &[u8; 68]) -> i32 {
    let bytes = stat.get(AT..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| i32::from_be_bytes(*bytes))
}

/// A field of a block's Stats.
#[inline(always)]
fn put<T: Copy + Default + ArrowNativeType>(
    column: &mut BlockColumn<T>,
    word: u64,
    all: u64,
    stats: &[[u8; 68]],
    field: impl Fn(&[u8; 68]) -> T,
    out: &mut Out,
) {
    let mut values = [T::default(); BLOCK];
    for (value, stat) in values.iter_mut().zip(stats) {
        *value = field(stat);
    }
    let values = values.get(..stats.len()).unwrap_or_default();
    column.extend(word, all, values, out);
}

impl StatColumns {
    /// A block's Stats; which of them are there by `word`.
    #[inline]
    pub fn extend(&mut self, word: u64, all: u64, stats: &[[u8; 68]], out: &mut Out) {
        let [czxid, mzxid, ctime, mtime, owner, pzxid] = &mut self.longs;
        put(czxid, word, all, stats, long_at::<0>, out);
        put(mzxid, word, all, stats, long_at::<8>, out);
        put(ctime, word, all, stats, long_at::<16>, out);
        put(mtime, word, all, stats, long_at::<24>, out);
        let [version, cversion, aversion, data_length, num_children] = &mut self.ints;
        put(version, word, all, stats, int_at::<32>, out);
        put(cversion, word, all, stats, int_at::<36>, out);
        put(aversion, word, all, stats, int_at::<40>, out);
        put(owner, word, all, stats, long_at::<44>, out);
        put(data_length, word, all, stats, int_at::<52>, out);
        put(num_children, word, all, stats, int_at::<56>, out);
        put(pzxid, word, all, stats, long_at::<60>, out);
    }

    pub fn finish(&mut self, rows: usize, out: &mut Out) -> Result<ArrayRef, ArrowError> {
        let kind = DataType::Struct(stat_fields());
        if self.longs.iter().all(BlockColumn::is_empty) {
            self.longs.iter_mut().for_each(BlockColumn::start_anew);
            self.ints.iter_mut().for_each(BlockColumn::start_anew);
            return Ok(out.blanks.of(&kind, rows));
        }
        let [czxid, ..] = &mut self.longs;
        let nulls = czxid.finish_nulls(rows, out);
        let [czxid, mzxid, ctime, mtime, owner, pzxid] = self
            .longs
            .each_mut()
            .map(|column| column.finish_unmarked::<Int64Type>(rows, out));
        let [version, cversion, aversion, data_length, num_children] = self
            .ints
            .each_mut()
            .map(|column| column.finish_unmarked::<Int32Type>(rows, out));
        let children = vec![
            czxid,
            mzxid,
            ctime,
            mtime,
            version,
            cversion,
            aversion,
            owner,
            data_length,
            num_children,
            pzxid,
        ];
        Ok(Arc::new(StructArray::try_new(
            stat_fields(),
            children,
            nulls,
        )?))
    }
}

#[derive(Default)]
pub struct SubColumns {
    lists: ListOffsets,
    op: TextColumn,
    path: TextColumn,
    error: Column<i32>,
}

impl SubColumns {
    pub fn byte_len(&self) -> usize {
        self.op.byte_len() + self.path.byte_len()
    }

    pub fn push(&mut self, row: usize, ops: &[SubOp<'_>]) {
        self.lists.push(row);
        for op in ops {
            let item = self.lists.items;
            self.lists.items += 1;
            if let Some(name) = op.op {
                self.op.push_bytes(item, name.as_bytes());
            }
            if let Some(path) = op.path {
                self.path.push_bytes(item, path);
            }
            self.error.push_some(item, op.error);
        }
    }

    pub fn finish(&mut self, rows: usize, out: &mut Out) -> Result<ArrayRef, ArrowError> {
        let field = sub_item();
        if self.lists.is_empty() {
            return Ok(out.blanks.of(&DataType::List(field), rows));
        }
        let items = self.lists.items;
        let children = vec![
            self.op.finish(items)?,
            self.path.finish(items)?,
            self.error.finish::<Int32Type>(items),
        ];
        let items = StructArray::try_new_with_length(sub_fields(), children, None, items)?;
        self.lists.finish(&field, Arc::new(items), rows)
    }
}

#[derive(Default)]
pub struct WatchesColumns {
    rows: StructValidity,
    counts: [Column<i32>; 5],
}

impl WatchesColumns {
    pub fn push(&mut self, row: usize, watches: &Watches) {
        self.rows.push(row);
        let counts = [
            watches.data,
            watches.exist,
            watches.child,
            watches.persistent,
            watches.persistent_recursive,
        ];
        for (column, value) in self.counts.iter_mut().zip(counts) {
            column.push_some(row, value);
        }
    }

    pub fn finish(&mut self, rows: usize, out: &mut Out) -> Result<ArrayRef, ArrowError> {
        if self.rows.is_empty() {
            return Ok(out.blanks.of(&DataType::Struct(watches_fields()), rows));
        }
        let counts = self.counts.each_mut();
        let children = counts.map(|column| column.finish::<Int32Type>(rows));
        self.rows.finish(&watches_fields(), children.into(), rows)
    }
}
