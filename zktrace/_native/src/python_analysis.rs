//! Analyses for Python: results as its own objects.

use std::sync::Arc;

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString};

use crate::analysis::columns::{Config, View};
use crate::analysis::join::{Join, Joined};
use crate::analysis::value::{us, Value};
use crate::analysis::verify::{self, Evidence, Given};
use crate::analysis::writepath::Paths;
use crate::analysis::writereport::WriteReport;
use crate::arrays::ArraySink;
use crate::histogram::Scale;

/// A configuration as Python read it: voters, addresses of the quorum ports, whether a majority decides, and a number for
/// what it means.
pub type PyConfig = (Vec<String>, Vec<(String, String)>, bool, usize);

fn configs(given: Vec<Option<PyConfig>>) -> Vec<Option<Config>> {
    let made = given.into_iter().map(|one| {
        one.map(|(voters, addresses, simple, meaning)| Config {
            voters,
            addresses,
            simple,
            meaning,
        })
    });
    made.collect()
}

pub fn to_py<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::None => py.None().into_bound(py),
        Value::Bool(known) => PyBool::new(py, *known).to_owned().into_any(),
        Value::Int(number) => PyInt::new(py, *number).into_any(),
        Value::Us(ns) => PyFloat::new(py, us(*ns)).into_any(),
        Value::Float(number) => PyFloat::new(py, *number).into_any(),
        Value::Name(name) => PyString::intern(py, name).into_any(),
        Value::Text(text) => PyString::new(py, text).into_any(),
        Value::List(values) => {
            let made = PyList::empty(py);
            for value in values {
                made.append(to_py(py, value)?)?;
            }
            made.into_any()
        }
        Value::Map(fields) => {
            let made = PyDict::new(py);
            for (name, value) in fields {
                made.set_item(PyString::intern(py, name), to_py(py, value)?)?;
            }
            made.into_any()
        }
    })
}

/// Texts of the configurations, by number.
pub fn config_texts<'py>(py: Python<'py>, sink: &ArraySink) -> PyResult<Bound<'py, PyList>> {
    let made = PyList::empty(py);
    if let Some(texts) = sink.dictionary("quorum", "config") {
        for number in 0..texts.len() as u32 {
            let text = std::str::from_utf8(texts.get(number)).unwrap_or_default();
            made.append(text)?;
        }
    }
    Ok(made)
}

/// The ways of the writes of a capture: `zktrace.analysis.writereport.WriteReport`, but for what is text on Python's side.
#[pyclass(frozen, module = "zktrace._native")]
pub struct Writes {
    sink: ArraySink,
    configs: Vec<Option<Config>>,
    scale: Scale,
    joined: Arc<Joined>,
    paths: Arc<Paths>,
}

impl Writes {
    pub fn new(
        sink: ArraySink,
        scale: Scale,
        given: Vec<Option<PyConfig>>,
        voters: Option<i64>,
    ) -> Self {
        let configs = configs(given);
        let report = WriteReport::new(View::new(&sink, &configs), &scale, voters);
        let (joined, paths) = (report.join.joined, report.paths);
        Writes {
            sink,
            configs,
            scale,
            joined,
            paths,
        }
    }

    fn report(&self) -> WriteReport<'_> {
        WriteReport {
            join: Join {
                view: View::new(&self.sink, &self.configs),
                joined: self.joined.clone(),
            },
            paths: self.paths.clone(),
            scale: &self.scale,
        }
    }
}

#[pymethods]
impl Writes {
    fn __len__(&self) -> usize {
        self.paths.all.len()
    }

    fn slowest(&self, count: usize) -> Vec<u32> {
        self.report().slowest(count)
    }

    fn by_time(&self) -> Vec<u32> {
        self.report().by_time()
    }

    fn write<'py>(&self, py: Python<'py>, number: usize) -> PyResult<Bound<'py, PyAny>> {
        match self.report().write(number) {
            Some(write) => to_py(py, &write),
            None => Err(PyIndexError::new_err(number)),
        }
    }

    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_py(py, &py.detach(|| self.report().summary()))
    }
}

/// A packet that proves: time, flow, number of its row, what it is.
type PyPacket = (i64, String, i64, String);

/// What came of a check: what was looked at, not seen, assumed; findings; violations.
pub type PyOutcome = (
    Vec<(&'static str, usize)>,
    Vec<String>,
    Vec<String>,
    Vec<(String, Vec<PyPacket>)>,
    usize,
);

/// What came of the checks of these names; of one that there is not nothing.
pub fn verified(
    sink: &ArraySink,
    given: Vec<Option<PyConfig>>,
    known: &Given,
    names: &[String],
) -> Vec<PyOutcome> {
    let configs = configs(given);
    let evidence = Evidence::new(View::new(sink, &configs), known);
    let outcomes = names.iter().filter_map(|name| verify::run(&evidence, name));
    let told = outcomes.map(|outcome| {
        let findings = outcome.findings.into_iter().map(|finding| {
            let packets = finding.packets.into_iter();
            let packets = packets.map(|one| (one.ts_ns, one.flow, one.seq, one.what));
            (finding.text, packets.collect())
        });
        (
            outcome.looked,
            outcome.unseen,
            outcome.assumed,
            findings.collect(),
            outcome.violations,
        )
    });
    told.collect()
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Writes>()
}
