//! Windows for Python: a grouping as keys and columns of packed integers, which numpy reads without
//! a loop (`Part.of` in `zktrace/store/part.py`).

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::agg::{By, Row};
use crate::windows::{Window, Windows};

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Rows as they are handed over, but for being Python's.
#[derive(Default)]
pub struct Packed {
    keys: Vec<Option<String>>,
    rests: Vec<u8>,
    numbers: Vec<u8>,
    at_rows: Vec<u8>,
    buckets: Vec<u8>,
    counts: Vec<u8>,
    errors: Vec<u8>,
    missed: Vec<u8>,
}

impl Packed {
    /// Keys, flags, ten numbers a row, histogram entries, errors; little-endian.
    fn of<'r>(rows: impl Iterator<Item = (Option<&'r str>, bool, &'r Row)>) -> Self {
        let mut packed = Packed::default();
        for (i, (key, rest, row)) in (0u32..).zip(rows) {
            packed.keys.push(key.map(str::to_owned));
            packed.rests.push(u8::from(rest));
            let latency = &row.latency;
            let some = latency.count > 0;
            let sum = latency
                .sum
                .clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
            for number in [
                clamp(row.requests),
                clamp(row.replies),
                row.request_bytes,
                row.reply_bytes,
                clamp(row.watch_events),
                clamp(latency.count),
                sum,
                if some { latency.min } else { 0 },
                if some { latency.max } else { 0 },
                i64::from(row.most_in_flight()),
            ] {
                packed.numbers.extend_from_slice(&number.to_le_bytes());
            }
            for (bucket, count) in latency.buckets() {
                packed.at_rows.extend_from_slice(&i.to_le_bytes());
                packed.buckets.extend_from_slice(&bucket.to_le_bytes());
                packed.counts.extend_from_slice(&count.to_le_bytes());
            }
            let mut codes = row.errors().to_vec();
            codes.sort_unstable();
            for (code, count) in codes {
                for number in [i64::from(i), i64::from(code), clamp(count)] {
                    packed.errors.extend_from_slice(&number.to_le_bytes());
                }
            }
        }
        packed
    }

    fn into_py(self, py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        (
            self.keys,
            PyBytes::new(py, &self.rests),
            PyBytes::new(py, &self.numbers),
            PyBytes::new(py, &self.at_rows),
            PyBytes::new(py, &self.buckets),
            PyBytes::new(py, &self.counts),
            PyBytes::new(py, &self.errors),
        )
            .into_pyobject(py)
    }
}

/// `[(second, {grouping: part})]`.
pub fn windows<'py>(py: Python<'py>, ended: &[Window]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for window in ended {
        let groups = PyDict::new(py);
        for (by, rows) in &window.groups {
            let rows = rows.iter();
            let rows = rows.map(|one| (one.key.as_deref(), one.rest, &one.row));
            groups.set_item(by.name(), Packed::of(rows).into_py(py)?)?;
        }
        list.append((window.second, groups))?;
    }
    Ok(list)
}

/// A grouping since the beginning.
pub fn pack_totals(windows: &Windows, by: By) -> Packed {
    let rows = windows.totals(by);
    let shown = rows.iter();
    let shown = shown.map(|one| (one.key.as_deref(), one.rest, one.row));
    let mut packed = Packed::of(shown);
    for one in &rows {
        packed
            .missed
            .extend_from_slice(&clamp(one.missed).to_le_bytes());
    }
    packed
}

/// `(part, missed)`: of each row how many requests there may have been before it was kept.
pub fn totals(py: Python<'_>, packed: Packed) -> PyResult<Bound<'_, PyTuple>> {
    let missed = PyBytes::new(py, &packed.missed);
    (packed.into_py(py)?, missed).into_pyobject(py)
}
