//! The Python module.

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    crate::python_capture::register(module)?;
    crate::python_flow::register(module)?;
    crate::python_json::register(module)?;
    crate::python_tables::register(module)?;
    Ok(())
}
