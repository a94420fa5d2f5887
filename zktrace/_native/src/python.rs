//! The Python module: the engine as `zktrace.engine.native` uses it.
//!
//! One thread may feed it while others ask: a lock stands between them, which whoever feeds holds for
//! milliseconds at a time, with the GIL released.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::agg::{Aggregator, By, KEY_LIMIT};
use crate::analysis::verify::Given;
use crate::arrays::ArraySink;
use crate::container::Packet;
use crate::decoder::Decoder;
use crate::events::{
    Anomaly, Connection, Counted, Election, EventSink, Exchange, FourLetter, Looks, Quorum,
    WatchEvent,
};
use crate::flow::Limits;
use crate::histogram::Scale;
use crate::ip::Ip;
use crate::json::{Form, JsonSink};
use crate::kept::Kept as KeptSink;
use crate::merge::SourceError;
use crate::python_analysis::{self, verified, PyConfig, PyOutcome, Writes};
use crate::python_arrays;
use crate::python_kept::Kept;
use crate::python_tables::{
    aggregates_to_py, batches_to_py, parse_by, parse_kind, stretches_to_py, ArrowBatch, PyStretch,
};
use crate::python_windows;
use crate::roles::{Port, Roles};
use crate::schema::Schema;
use crate::tables::TableSink;
use crate::windows::Windows;

/// Rows of a batch that is cut before it is asked for; between two blocks far fewer come.
const BATCH_ROWS: usize = 1 << 20;

/// Where the rows go.
pub(crate) struct Sinks {
    tables: Option<TableSink>,
    arrays: Option<ArraySink>,
    txn_key: Option<u64>,
    aggregates: Option<Aggregator>,
    json: Option<JsonSink>,
    windows: Option<Windows>,
    kept: Option<Box<KeptSink>>,
}

macro_rules! pass_on {
    ($name:ident, $row:ty) => {
        #[inline]
        fn $name(&mut self, row: &$row) {
            if let Some(aggregates) = &mut self.aggregates {
                aggregates.$name(row);
            }
            if let Some(tables) = &mut self.tables {
                tables.$name(row);
            }
            if let Some(arrays) = &mut self.arrays {
                arrays.$name(row);
            }
            if let Some(json) = &mut self.json {
                json.$name(row);
            }
            if let Some(windows) = &mut self.windows {
                windows.$name(row);
            }
            if let Some(kept) = &mut self.kept {
                kept.$name(row);
            }
        }
    };
}

impl EventSink for Sinks {
    /// Statistics are of exchanges and watch events.
    fn looks(&self) -> Looks {
        let arrays = self.arrays.as_ref().is_some_and(ArraySink::reads_quorum);
        let events = self.tables.is_some() || self.json.is_some() || self.kept.is_some();
        let rows = events || self.arrays.is_some() || self.windows.is_some();
        let counted = self.aggregates.as_ref().map(EventSink::looks);
        Looks {
            quorum: events || arrays,
            rows,
            paths: rows || counted.is_some_and(|looks| looks.paths),
        }
    }

    #[inline]
    fn count(&mut self, row: &Counted<'_>) {
        if let Some(aggregates) = &mut self.aggregates {
            aggregates.count(row);
        }
    }

    #[inline]
    fn txn_key(&self) -> Option<u64> {
        self.txn_key
    }

    pass_on!(exchange, Exchange<'_>);
    pass_on!(watch_event, WatchEvent<'_>);
    pass_on!(connection, Connection<'_>);
    pass_on!(four_letter, FourLetter<'_>);
    pass_on!(anomaly, Anomaly<'_>);
    pass_on!(quorum, Quorum<'_>);
    pass_on!(election, Election<'_>);
}

/// What the lock is about.
pub(crate) struct Inner {
    pub(crate) decoder: Decoder<Sinks>,
    names: Vec<String>,
    by: Vec<By>,
    /// Rows kept when windows were drained last.
    drained: u64,
}

/// An engine as threads share it.
pub struct Shared {
    inner: Mutex<Inner>,
    /// Threads that wait to ask.
    asking: AtomicUsize,
}

/// What whoever feeds sleeps when somebody waits, since a lock is not handed over by itself.
const GIVE_WAY: Duration = Duration::from_micros(50);

impl Shared {
    /// For whoever feeds.
    pub(crate) fn feeding<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        if self.asking.load(Ordering::Relaxed) > 0 {
            std::thread::sleep(GIVE_WAY);
        }
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// For whoever asks.
    pub(crate) fn ask<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        self.asking.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.asking.fetch_sub(1, Ordering::Relaxed);
        f(&mut inner)
    }
}

impl Inner {
    fn sinks(&mut self) -> &mut Sinks {
        &mut self.decoder.analyzer.shared.sink
    }

    pub(crate) fn kept(&mut self) -> Option<&mut KeptSink> {
        self.sinks().kept.as_deref_mut()
    }

    /// Rows (and lines) that wait to be taken; where they are only counted, those since the last `drain`.
    pub(crate) fn waiting(&mut self) -> usize {
        let drained = self.drained;
        let sinks = self.sinks();
        let rows = sinks.tables.as_ref().map_or(0, TableSink::rows);
        let lines = sinks.json.as_ref().map_or(0, JsonSink::lines);
        let kept = sinks.kept.as_ref().map_or(0, |kept| kept.rows - drained);
        rows + lines + kept as usize
    }
}

/// The native engine; see `zktrace.engine.base.Engine` for what its methods do.
#[pyclass(frozen, module = "zktrace._native")]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

fn port(port: (Option<Vec<u8>>, u16)) -> PyResult<Port> {
    let (ip, number) = port;
    let ip = match ip.as_deref() {
        None => None,
        Some([a, b, c, d]) => Some(Ip::from_v4(u32::from_be_bytes([*a, *b, *c, *d]))),
        Some(long) => {
            let bits = <[u8; 16]>::try_from(long)
                .map_err(|_| PyValueError::new_err("an address has 4 or 16 bytes"))?;
            let bits = u128::from_be_bytes(bits);
            Some(Ip::from_v6((bits >> 64) as u64, bits as u64))
        }
    };
    Ok((ip, number))
}

type PyPort = (Option<Vec<u8>>, u16);

fn ports(given: Vec<PyPort>) -> PyResult<Vec<Port>> {
    given.into_iter().map(port).collect()
}

impl Engine {
    pub(crate) fn source_error(&self, py: Python<'_>, error: SourceError) -> PyErr {
        let name = self.ask(py, |inner| inner.names.get(error.source).cloned());
        let name = name.unwrap_or_else(|| "capture".to_owned());
        let made = py
            .import("zktrace.capture.errors")
            .and_then(|module| module.getattr("CaptureError"))
            .and_then(|class| class.call1((name, error.reason)));
        match made {
            Ok(value) => PyErr::from_value(value),
            Err(error) => error,
        }
    }

    /// The lock is waited for without the GIL, which whoever has it may want.
    fn ask<R: Send>(&self, py: Python<'_>, f: impl FnOnce(&mut Inner) -> R + Send) -> R {
        match self.shared.inner.try_lock() {
            Ok(mut inner) => f(&mut inner),
            Err(_) => py.detach(|| self.shared.ask(f)),
        }
    }

    fn locked(&self, py: Python<'_>) -> MutexGuard<'_, Inner> {
        loop {
            if let Ok(inner) = self.shared.inner.try_lock() {
                return inner;
            }
            // Whoever has the lock may want the GIL; the lock itself cannot be taken along.
            py.detach(|| self.shared.ask(|_| ()));
        }
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (schema, bounds, *, client_ports, quorum_ports, election_ports, tables, aggregate_by, path_depth,
                        json_form, hash_key, max_connections, window_keys=None, total_keys=20_000, whole=false,
                        keep=None, arrays=None, array_ops=None, txn_key=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        schema: &str,
        bounds: Vec<u64>,
        client_ports: Vec<PyPort>,
        quorum_ports: Vec<PyPort>,
        election_ports: Vec<PyPort>,
        tables: bool,
        aggregate_by: Option<Vec<String>>,
        path_depth: Option<usize>,
        json_form: Option<&str>,
        hash_key: Option<[u8; 16]>,
        max_connections: usize,
        window_keys: Option<usize>,
        total_keys: usize,
        whole: bool,
        keep: Option<(Vec<i32>, usize, usize)>,
        arrays: Option<Vec<String>>,
        array_ops: Option<Vec<i32>>,
        txn_key: Option<u64>,
    ) -> PyResult<Self> {
        let schema = Schema::parse(schema).map_err(PyValueError::new_err)?;
        let roles = Roles::new(
            ports(client_ports)?,
            ports(quorum_ports)?,
            ports(election_ports)?,
        );
        let by = parse_by(aggregate_by.as_deref().unwrap_or_default())?;
        let windows = match window_keys {
            None => None,
            Some(keys) => {
                let scale = Scale::new(bounds.clone()).map_err(PyValueError::new_err)?;
                Some(Windows::new(scale, keys, total_keys))
            }
        };
        let aggregates = match aggregate_by {
            None => None,
            Some(_) => {
                let scale = Scale::new(bounds).map_err(PyValueError::new_err)?;
                Some(Aggregator::new(scale, &by, path_depth, KEY_LIMIT))
            }
        };
        let json = match json_form {
            None => None,
            Some(form) => {
                let form = Form::parse(form).map_err(PyValueError::new_err)?;
                Some(JsonSink::new(form, hash_key))
            }
        };
        let arrays = arrays.map(|columns| ArraySink::new(&columns, array_ops));
        let arrays = arrays.transpose().map_err(PyValueError::new_err)?;
        let sinks = Sinks {
            tables: tables.then(|| match whole {
                true => TableSink::whole(),
                false => TableSink::new(BATCH_ROWS),
            }),
            arrays,
            txn_key,
            aggregates,
            json,
            windows,
            kept: keep.map(|(changing, sessions, recent)| {
                Box::new(KeptSink::new(changing, sessions, recent, hash_key))
            }),
        };
        let limits = Limits {
            connections: max_connections,
            ..Limits::default()
        };
        let inner = Inner {
            decoder: Decoder::new(schema, sinks, roles, limits),
            names: Vec::new(),
            by,
            drained: 0,
        };
        Ok(Engine {
            shared: Arc::new(Shared {
                inner: Mutex::new(inner),
                asking: AtomicUsize::new(0),
            }),
        })
    }

    #[getter]
    fn name(&self) -> &'static str {
        "native"
    }

    fn add_source(&self, py: Python<'_>, name: String, first_ts_ns: Option<i64>) -> usize {
        self.ask(py, |inner| {
            inner.names.push(name);
            inner.decoder.add_source(first_ts_ns)
        })
    }

    fn wanted(&self, py: Python<'_>) -> Option<usize> {
        self.ask(py, |inner| inner.decoder.wanted())
    }

    fn feed(&self, py: Python<'_>, source: usize, block: &Bound<'_, PyBytes>) -> PyResult<usize> {
        let bytes = block.as_bytes();
        let fed = py.detach(|| {
            self.shared.feeding(|inner| {
                inner.decoder.feed(source, bytes)?;
                Ok(inner.waiting())
            })
        });
        fed.map_err(|error| self.source_error(py, error))
    }

    fn end_source(&self, py: Python<'_>, source: usize) -> PyResult<()> {
        let ended = py.detach(|| {
            self.shared
                .feeding(|inner| inner.decoder.end_source(source))
        });
        ended.map_err(|error| self.source_error(py, error))
    }

    fn packet(
        &self,
        py: Python<'_>,
        ts_ns: i64,
        linktype: u16,
        data: &[u8],
        wire_len: u32,
    ) -> usize {
        self.ask(py, |inner| {
            inner.decoder.packet(Packet {
                ts_ns,
                linktype,
                data,
                wire_len: wire_len.max(data.len() as u32),
            });
            inner.waiting()
        })
    }

    fn tick(&self, py: Python<'_>, now_ns: i64) -> usize {
        py.detach(|| {
            self.shared.feeding(|inner| {
                inner.decoder.tick(now_ns);
                inner.waiting()
            })
        })
    }

    fn kernel_drops(&self, py: Python<'_>, drops: u64) {
        self.ask(py, |inner| inner.decoder.set_kernel_drops(drops));
    }

    fn finish(&self, py: Python<'_>) {
        py.detach(|| self.shared.feeding(|inner| inner.decoder.finish()));
    }

    /// The oldest rows not taken yet, a batch per kind that has any. Empty when there are none.
    fn take_step(&self, py: Python<'_>) -> PyResult<Vec<ArrowBatch>> {
        let step = self.ask(py, |inner| {
            inner.sinks().tables.as_mut().map(TableSink::take)
        });
        match step {
            None => Ok(Vec::new()),
            Some(Ok(step)) => Ok(batches_to_py(step)),
            Some(Err(error)) => Err(PyRuntimeError::new_err(error.to_string())),
        }
    }

    /// All rows of a table, of an engine that keeps them whole: see `zktrace.engine.base`.
    fn take_whole(&self, py: Python<'_>, kind: &str) -> PyResult<Vec<PyStretch>> {
        let kind = parse_kind(kind)?;
        let stretches = py.detach(|| {
            self.shared.ask(|inner| {
                let tables = inner.sinks().tables.as_mut();
                tables.map(|tables| tables.take_whole(kind))
            })
        });
        match stretches {
            None => Ok(Vec::new()),
            Some(Ok(stretches)) => Ok(stretches_to_py(kind, stretches)),
            Some(Err(error)) => Err(PyRuntimeError::new_err(error.to_string())),
        }
    }

    /// How many rows of a table are kept whole.
    fn whole_rows(&self, py: Python<'_>, kind: &str) -> PyResult<usize> {
        let kind = parse_kind(kind)?;
        let rows = self.ask(py, |inner| {
            let tables = inner.sinks().tables.as_ref();
            tables.map_or(0, |tables| tables.whole_rows(kind))
        });
        Ok(rows)
    }

    /// The columns that were asked for, as plain arrays; once, at the end.
    fn arrays<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        match &mut self.locked(py).sinks().arrays {
            Some(arrays) => python_arrays::take(py, arrays),
            None => Err(PyValueError::new_err("no arrays were asked for")),
        }
    }

    /// Texts of the configurations that were collected, by number.
    fn config_texts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        match &self.locked(py).sinks().arrays {
            Some(arrays) => python_analysis::config_texts(py, arrays),
            None => Err(PyValueError::new_err("no arrays were asked for")),
        }
    }

    /// The ways of the writes: of the columns that were collected, which are given away.
    fn writes(
        &self,
        py: Python<'_>,
        bounds: Vec<u64>,
        configs: Vec<Option<PyConfig>>,
        voters: Option<i64>,
    ) -> PyResult<Writes> {
        let scale = Scale::new(bounds).map_err(PyValueError::new_err)?;
        match self.ask(py, |inner| inner.sinks().arrays.take()) {
            Some(arrays) => Ok(py.detach(|| Writes::new(arrays, scale, configs, voters))),
            None => Err(PyValueError::new_err("no arrays were asked for")),
        }
    }

    /// What checks find: in the columns that were collected, which are given away.
    #[pyo3(signature = (names, configs, errors, *, voters, times_hold, hash_key))]
    #[allow(clippy::too_many_arguments)]
    fn verify(
        &self,
        py: Python<'_>,
        names: Vec<String>,
        configs: Vec<Option<PyConfig>>,
        errors: HashMap<i64, String>,
        voters: Option<i64>,
        times_hold: bool,
        hash_key: Option<[u8; 16]>,
    ) -> PyResult<Vec<PyOutcome>> {
        let known = Given {
            voters,
            times_hold,
            hash_key,
            errors,
        };
        match self.ask(py, |inner| inner.sinks().arrays.take()) {
            Some(arrays) => Ok(py.detach(|| verified(&arrays, configs, &known, &names))),
            None => Err(PyValueError::new_err("no arrays were asked for")),
        }
    }

    /// The JSON lines not taken yet.
    fn take_json<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut inner = self.locked(py);
        let Some(json) = &mut inner.sinks().json else {
            return PyBytes::new(py, b"");
        };
        let lines = PyBytes::new(py, json.bytes());
        json.clear();
        lines
    }

    #[pyo3(signature = (top=None))]
    fn aggregates<'py>(&self, py: Python<'py>, top: Option<usize>) -> PyResult<Bound<'py, PyDict>> {
        let mut inner = self.locked(py);
        let by = inner.by.clone();
        match &mut inner.sinks().aggregates {
            Some(aggregates) => aggregates_to_py(py, aggregates, &by, top),
            None => Err(PyValueError::new_err("no aggregates were asked for")),
        }
    }

    /// Windows of a second that ended since the last call (with `all`: the one under way, too).
    #[pyo3(signature = (all=false))]
    fn drain<'py>(&self, py: Python<'py>, all: bool) -> PyResult<Bound<'py, PyList>> {
        let ended = self.ask(py, |inner| {
            inner.drained = inner.kept().map_or(0, |kept| kept.rows);
            let windows = inner.sinks().windows.as_mut();
            windows.map(|windows| windows.drain(all))
        });
        match ended {
            Some(ended) => python_windows::windows(py, &ended),
            None => Err(PyValueError::new_err("no windows were asked for")),
        }
    }

    /// A grouping since the beginning: its rows, and how many requests of each may be missing.
    fn totals<'py>(&self, py: Python<'py>, by: &str) -> PyResult<Bound<'py, PyTuple>> {
        let known = By::WINDOWS.into_iter().find(|known| known.name() == by);
        let by = known.ok_or_else(|| PyValueError::new_err(format!("no grouping {by:?}")))?;
        let packed = self.ask(py, |inner| {
            let windows = inner.sinks().windows.as_ref();
            windows.map(|windows| python_windows::pack_totals(windows, by))
        });
        match packed {
            Some(packed) => python_windows::totals(py, packed),
            None => Err(PyValueError::new_err("no windows were asked for")),
        }
    }

    /// What is kept of single events.
    fn kept(&self) -> Kept {
        Kept::of(self.shared.clone())
    }

    fn coverage<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let inner = self.locked(py);
        let capture = inner.decoder.capture_counters();
        let flow = inner.decoder.flow_counters();
        let analyzer = &inner.decoder.analyzer;
        let client = &analyzer.shared.counters;
        let all = PyDict::new(py);
        all.set_item("packets", capture.packets)?;
        all.set_item("bytes", capture.bytes)?;
        let flows = PyDict::new(py);
        flows.set_item("client", analyzer.flows.client)?;
        flows.set_item("quorum", analyzer.flows.quorum)?;
        flows.set_item("election", analyzer.flows.election)?;
        flows.set_item("tls", analyzer.flows.tls)?;
        flows.set_item("unknown", analyzer.flows.unknown)?;
        all.set_item("flows", flows)?;
        let frames = PyDict::new(py);
        frames.set_item("to_server", client.frames_to_server)?;
        frames.set_item("to_client", client.frames_to_client)?;
        all.set_item("frames", frames)?;
        let exchanges = PyDict::new(py);
        exchanges.set_item("complete", client.complete)?;
        exchanges.set_item("no_reply", client.no_reply)?;
        exchanges.set_item("no_request", client.no_request)?;
        all.set_item("exchanges", exchanges)?;
        all.set_item("watch_events", client.watch_events)?;
        all.set_item("quorum_packets", client.quorum_packets)?;
        all.set_item("election_messages", client.election_messages)?;
        all.set_item("retransmitted_segments", flow.retransmitted_segments)?;
        all.set_item("gaps", flow.gaps)?;
        all.set_item("skipped_bytes", client.skipped_bytes)?;
        all.set_item("kernel_drops", capture.kernel_drops)?;
        all.set_item("truncated", capture.truncated)?;
        all.set_item("first_ts_ns", capture.first_ts_ns)?;
        all.set_item("last_ts_ns", capture.last_ts_ns)?;
        all.set_item("tcp_segments", capture.tcp_segments)?;
        all.set_item("other_packets", capture.other_packets)?;
        all.set_item("undecoded_packets", capture.undecoded_packets)?;
        all.set_item("undecoded_linktypes", capture.undecoded_linktypes)?;
        all.set_item("malformed_packets", capture.malformed_packets)?;
        all.set_item("fragments_dropped", capture.fragments_dropped)?;
        all.set_item("damaged_bytes", capture.damaged_bytes)?;
        all.set_item("damaged_places", capture.damaged_places)?;
        all.set_item("filtered", capture.filtered)?;
        all.set_item("connections", flow.connections)?;
        all.set_item("joined_connections", flow.joined_connections)?;
        all.set_item("out_of_order_segments", flow.out_of_order_segments)?;
        all.set_item("duplicate_packets", flow.duplicate_packets)?;
        all.set_item("keepalives", flow.keepalives)?;
        all.set_item("late_segments", flow.late_segments)?;
        all.set_item("gap_bytes", flow.gap_bytes)?;
        all.set_item("stray_segments", flow.stray_segments)?;
        all.set_item("buffer_limit_hits", flow.buffer_limit_hits)?;
        all.set_item("evicted_connections", flow.evicted_connections)?;
        all.set_item("damaged_frames", client.damaged_frames)?;
        all.set_item("desyncs", client.desyncs)?;
        all.set_item("resyncs", client.resyncs)?;
        all.set_item("cut_frames", analyzer.shared.budget.cut)?;
        all.set_item("held_limit_hits", analyzer.held_limit_hits)?;
        all.set_item("memory_limit_hits", analyzer.memory_limit_hits)?;
        all.set_item("given_up_requests", client.given_up_requests)?;
        Ok(all)
    }
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // Compiling the codecs in Python to write it takes as long as the rest of a start.
    module.add("SCHEMA", include_str!("../schema.txt"))?;
    module.add_class::<Engine>()?;
    python_analysis::register(module)?;
    crate::python_capture::register(module)?;
    crate::python_flow::register(module)?;
    crate::python_json::register(module)?;
    crate::python_kept::register(module)?;
    crate::python_live::register(module)?;
    crate::python_relay::register(module)?;
    crate::python_tables::register(module)?;
    Ok(())
}
