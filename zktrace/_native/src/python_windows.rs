//! Windows for Python: a grouping as keys and columns of packed integers, which numpy reads without
//! a loop (`Part.of` in `zktrace/store/part.py`).

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::agg::{By, Row};
use crate::windows::Windows;

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Keys, flags, nine numbers a row, histogram entries, errors; little-endian.
fn part<'py, 'r>(
    py: Python<'py>,
    rows: impl Iterator<Item = (Option<&'r str>, bool, &'r Row)>,
) -> PyResult<Bound<'py, PyTuple>> {
    let keys = PyList::empty(py);
    let (mut rests, mut numbers) = (Vec::new(), Vec::new());
    let (mut at_rows, mut buckets, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    let mut errors = Vec::new();
    for (i, (key, rest, row)) in (0u32..).zip(rows) {
        keys.append(key)?;
        rests.push(u8::from(rest));
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
        ] {
            numbers.extend_from_slice(&number.to_le_bytes());
        }
        for (bucket, count) in latency.buckets() {
            at_rows.extend_from_slice(&i.to_le_bytes());
            buckets.extend_from_slice(&bucket.to_le_bytes());
            counts.extend_from_slice(&count.to_le_bytes());
        }
        let mut codes = row.errors().to_vec();
        codes.sort_unstable();
        for (code, count) in codes {
            for number in [i64::from(i), i64::from(code), clamp(count)] {
                errors.extend_from_slice(&number.to_le_bytes());
            }
        }
    }
    (
        keys,
        PyBytes::new(py, &rests),
        PyBytes::new(py, &numbers),
        PyBytes::new(py, &at_rows),
        PyBytes::new(py, &buckets),
        PyBytes::new(py, &counts),
        PyBytes::new(py, &errors),
    )
        .into_pyobject(py)
}

/// `[(second, {grouping: part})]`.
pub fn drain<'py>(
    py: Python<'py>,
    windows: &mut Windows,
    all: bool,
) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for window in windows.drain(all) {
        let groups = PyDict::new(py);
        for (by, rows) in &window.groups {
            let rows = rows.iter();
            let rows = rows.map(|one| (one.key.as_deref(), one.rest, &one.row));
            groups.set_item(by.name(), part(py, rows)?)?;
        }
        list.append((window.second, groups))?;
    }
    Ok(list)
}

/// `(part, missed)`: of each row how many requests there may have been before it was kept.
pub fn totals<'py>(py: Python<'py>, windows: &Windows, by: By) -> PyResult<Bound<'py, PyTuple>> {
    let rows = windows.totals(by);
    let mut missed = Vec::new();
    for one in &rows {
        missed.extend_from_slice(&clamp(one.missed).to_le_bytes());
    }
    let rows = rows.iter();
    let rows = rows.map(|one| (one.key.as_deref(), one.rest, one.row));
    (part(py, rows)?, PyBytes::new(py, &missed)).into_pyobject(py)
}
