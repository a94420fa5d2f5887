//! The columns of exchanges that are structs or lists.

use std::sync::Arc;

use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{ArrayRef, StructArray};
use arrow_schema::{ArrowError, DataType};

use crate::columns::{nulls, Column, ListOffsets, StructValidity, TextColumn};
use crate::events::{Stat, SubOp, Watches};
use crate::table_schema::{stat_fields, sub_fields, sub_item, watches_fields};

#[derive(Default)]
pub struct StatColumns {
    rows: StructValidity,
    longs: [Column<i64>; 6],
    ints: [Column<i32>; 5],
}

impl StatColumns {
    #[inline]
    pub fn push(&mut self, row: usize, stat: &Stat) {
        self.rows.push(row);
        let longs = [
            stat.czxid,
            stat.mzxid,
            stat.ctime,
            stat.mtime,
            stat.ephemeral_owner,
            stat.pzxid,
        ];
        for (column, value) in self.longs.iter_mut().zip(longs) {
            column.push_unmarked(row, value);
        }
        let ints = [
            stat.version,
            stat.cversion,
            stat.aversion,
            stat.data_length,
            stat.num_children,
        ];
        for (column, value) in self.ints.iter_mut().zip(ints) {
            column.push_unmarked(row, value);
        }
    }

    pub fn finish(&mut self, rows: usize) -> Result<ArrayRef, ArrowError> {
        if self.rows.is_empty() {
            return Ok(nulls(&DataType::Struct(stat_fields()), rows));
        }
        let [czxid, mzxid, ctime, mtime, owner, pzxid] = self
            .longs
            .each_mut()
            .map(|column| column.finish_unmarked::<Int64Type>(rows));
        let [version, cversion, aversion, data_length, num_children] = self
            .ints
            .each_mut()
            .map(|column| column.finish_unmarked::<Int32Type>(rows));
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
        self.rows.finish(&stat_fields(), children, rows)
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

    pub fn finish(&mut self, rows: usize) -> Result<ArrayRef, ArrowError> {
        let field = sub_item();
        if self.lists.is_empty() {
            return Ok(nulls(&DataType::List(field), rows));
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

    pub fn finish(&mut self, rows: usize) -> Result<ArrayRef, ArrowError> {
        if self.rows.is_empty() {
            return Ok(nulls(&DataType::Struct(watches_fields()), rows));
        }
        let counts = self.counts.each_mut();
        let children = counts.map(|column| column.finish::<Int32Type>(rows));
        self.rows.finish(&watches_fields(), children.into(), rows)
    }
}
