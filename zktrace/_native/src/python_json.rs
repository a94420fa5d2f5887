//! JSON lines for Python tests: rows made in Python, written by the native sink, compared with the reference.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::json::{Form, JsonSink};
use crate::python_tables::feed;

/// `(kind, row)` pairs, paths as bytes, to lines.
#[pyfunction]
fn debug_json<'py>(
    py: Python<'py>,
    rows: Vec<(String, Bound<'py, PyTuple>)>,
    form: &str,
    hash_key: Option<[u8; 16]>,
) -> PyResult<Bound<'py, PyBytes>> {
    let form = Form::parse(form).map_err(PyValueError::new_err)?;
    let mut sink = JsonSink::new(form, hash_key);
    feed(&rows, &mut sink)?;
    Ok(PyBytes::new(py, sink.bytes()))
}

/// Adds what this file has to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(debug_json, module)?)
}
