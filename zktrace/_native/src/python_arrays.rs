//! Plain arrays for Python: bytes that numpy reads where they lie.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::arrays::ArraySink;
use crate::intern::Interner;
use crate::numbers::Plain;

/// Little-endian bytes and how many of them a number has.
fn numbers_to_py<'py>(py: Python<'py>, numbers: Plain) -> PyResult<Bound<'py, PyTuple>> {
    let (width, bytes) = match numbers {
        Plain::Narrow(values) => (4, little(py, &values, i32::to_le_bytes)?),
        Plain::Wide(values) => (8, little(py, &values, i64::to_le_bytes)?),
    };
    (width, bytes).into_pyobject(py)
}

fn little<'py, T: Copy, const N: usize>(
    py: Python<'py>,
    values: &[T],
    of: fn(T) -> [u8; N],
) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, values.len() * N, |place| {
        for (to, value) in place.chunks_exact_mut(N).zip(values) {
            to.copy_from_slice(&of(*value));
        }
        Ok(())
    })
}

/// Where each text ends (and before them 0), as little-endian i32, and all texts.
fn texts_to_py<'py>(py: Python<'py>, texts: &Interner) -> PyResult<Bound<'py, PyTuple>> {
    let (ends, bytes) = texts.parts();
    (little(py, ends, i32::to_le_bytes)?, PyBytes::new(py, bytes)).into_pyobject(py)
}

/// `{kind: {column: (width, numbers)}}`, dictionaries of texts, and of every connection the keys of client and server
/// with their dictionary. `texts` is `((kind, column, number of the dictionary), ...)` and the dictionaries.
pub fn take<'py>(py: Python<'py>, sink: &mut ArraySink) -> PyResult<Bound<'py, PyDict>> {
    let all = PyDict::new(py);
    let kinds = PyDict::new(py);
    for (kind, columns) in sink.take() {
        let made = PyDict::new(py);
        for (name, numbers) in columns {
            made.set_item(name, numbers_to_py(py, numbers)?)?;
        }
        kinds.set_item(kind, made)?;
    }
    all.set_item("columns", kinds)?;
    let [clients, servers] = sink.take_ends();
    let keys = (
        little(py, &clients, i32::to_le_bytes)?,
        little(py, &servers, i32::to_le_bytes)?,
    );
    all.set_item("ends", keys)?;
    all.set_item("addresses", texts_to_py(py, sink.addresses())?)?;
    // a dictionary that several columns share is given once
    let mut given: Vec<(*const Interner, Bound<'py, PyTuple>)> = Vec::new();
    let texts = PyDict::new(py);
    for (kind, column, interner) in sink.texts() {
        let known = given
            .iter()
            .find(|(known, _)| std::ptr::eq(*known, interner));
        let made = match known {
            Some((_, made)) => made.clone(),
            None => {
                let made = texts_to_py(py, interner)?;
                given.push((interner, made.clone()));
                made
            }
        };
        texts.set_item((kind, column), made)?;
    }
    all.set_item("texts", texts)?;
    Ok(all)
}
