//! Tables and aggregates for Python: Arrow batches through the PyCapsule interface, and functions
//! that feed rows made in Python to the sinks, so that tests can compare both engines without a
//! capture.

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use arrow_array::{Array, ArrayRef, RecordBatch, StructArray};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyDict, PyList, PyTuple};

use crate::agg::{Aggregator, By, Row};
use crate::events::{Anomaly, ConnInfo, Connect, Connection, ConnectionEvent, Direction};
use crate::events::{Endpoint, EventSink, Exchange, FourLetter, RawStat, Role, State, SubOp};
use crate::events::{WatchEvent, Watches};
use crate::histogram::{Histogram, Scale};
use crate::python_quorum;
use crate::table_schema::KINDS;
use crate::tables::{Kind, Step, Stretch, TableSink};

/// A record batch; `pyarrow.record_batch(batch)` takes it over without copying.
#[pyclass(frozen, module = "zktrace._native")]
pub struct ArrowBatch {
    kind: Kind,
    batch: RecordBatch,
}

pub fn arrow_error(error: arrow_schema::ArrowError) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}

#[pymethods]
impl ArrowBatch {
    /// Name of the table that the rows belong to.
    #[getter]
    fn kind(&self) -> &'static str {
        self.kind.name()
    }

    #[getter]
    fn num_rows(&self) -> usize {
        self.batch.num_rows()
    }

    fn __len__(&self) -> usize {
        self.batch.num_rows()
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let schema =
            FFI_ArrowSchema::try_from(self.batch.schema().as_ref()).map_err(arrow_error)?;
        PyCapsule::new_with_value(py, schema, c"arrow_schema")
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
        // The interface allows to ignore the request; the consumer casts or refuses.
        drop(requested_schema);
        let array = FFI_ArrowArray::new(&StructArray::from(self.batch.clone()).to_data());
        let array = PyCapsule::new_with_value(py, array, c"arrow_array")?;
        Ok((self.__arrow_c_schema__(py)?, array))
    }
}

/// An array; `pyarrow.array(array)` takes it over without copying.
#[pyclass(frozen, module = "zktrace._native")]
pub struct ArrowTexts(ArrayRef);

#[pymethods]
impl ArrowTexts {
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
        drop(requested_schema);
        let schema = FFI_ArrowSchema::try_from(self.0.data_type()).map_err(arrow_error)?;
        let array = FFI_ArrowArray::new(&self.0.to_data());
        Ok((
            PyCapsule::new_with_value(py, schema, c"arrow_schema")?,
            PyCapsule::new_with_value(py, array, c"arrow_array")?,
        ))
    }
}

/// Batches of a table, and its dictionaries where the batches have keys in place of texts.
pub type PyStretch = (Vec<ArrowBatch>, Option<Vec<ArrowTexts>>);

pub fn stretches_to_py(kind: Kind, stretches: Vec<Stretch>) -> Vec<PyStretch> {
    let stretches = stretches.into_iter().map(|stretch| {
        let batches = stretch.batches.into_iter();
        let texts = stretch.dictionaries;
        (
            batches.map(|batch| ArrowBatch { kind, batch }).collect(),
            texts.map(|texts| texts.into_iter().map(ArrowTexts).collect()),
        )
    });
    stretches.collect()
}

pub fn parse_kind(name: &str) -> PyResult<Kind> {
    let known = KINDS.into_iter().find(|kind| kind.name() == name);
    known.ok_or_else(|| PyValueError::new_err(format!("no table {name:?}")))
}

/// A step as Python objects, each of which knows its kind.
pub fn batches_to_py(step: Step) -> Vec<ArrowBatch> {
    step.into_iter()
        .map(|(kind, batch)| ArrowBatch { kind, batch })
        .collect()
}

/// `Latency` in stats.py, None without values. The histogram is there for merging: its buckets as
/// little-endian u16, their counts as little-endian u64.
fn latency_to_py<'py>(
    py: Python<'py>,
    latency: &Histogram,
    scale: &Scale,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    if latency.count == 0 {
        return Ok(None);
    }
    let [p50, p90, p99, p999] = latency.quantiles(scale);
    let pairs = latency.buckets();
    let buckets: Vec<u8> = pairs.iter().flat_map(|pair| pair.0.to_le_bytes()).collect();
    let counts: Vec<u8> = pairs.iter().flat_map(|pair| pair.1.to_le_bytes()).collect();
    (
        latency.count,
        latency.min,
        latency.max,
        latency.sum,
        p50,
        p90,
        p99,
        p999,
        PyBytes::new(py, &buckets),
        PyBytes::new(py, &counts),
    )
        .into_pyobject(py)
        .map(Some)
}

/// `StatsRow` in stats.py.
fn row_to_py<'py>(
    py: Python<'py>,
    key: Option<&str>,
    rest: bool,
    row: &Row,
    scale: &Scale,
) -> PyResult<Bound<'py, PyTuple>> {
    let errors = PyDict::new(py);
    for (code, count) in row.errors() {
        errors.set_item(code, count)?;
    }
    (
        key,
        rest,
        row.requests,
        row.replies,
        errors,
        row.request_bytes,
        row.reply_bytes,
        row.watch_events,
        latency_to_py(py, &row.latency, scale)?,
    )
        .into_pyobject(py)
}

/// What `stats_result.py` calls `StatsData`: `{"total": row, "by": {grouping: [row, ...]}, "folded": {grouping: n},
/// "overflow": {grouping: n}}`. `top` rows per grouping at most; what is beyond is summed in a last row.
pub fn aggregates_to_py<'py>(
    py: Python<'py>,
    sink: &mut Aggregator,
    by: &[By],
    top: Option<usize>,
) -> PyResult<Bound<'py, PyDict>> {
    let groups = PyDict::new(py);
    let (folded, overflow) = (PyDict::new(py), PyDict::new(py));
    for &by in by {
        let Some(shown) = sink.shown(by, top) else {
            continue;
        };
        let rows = PyList::empty(py);
        for (key, row) in &shown.rows {
            rows.append(row_to_py(py, key.as_deref(), false, row, shown.scale)?)?;
        }
        if let Some(rest) = &shown.rest {
            rows.append(row_to_py(py, None, true, rest, shown.scale)?)?;
        }
        groups.set_item(by.name(), rows)?;
        if shown.folded > 0 {
            folded.set_item(by.name(), shown.folded)?;
        }
        if shown.overflow_rows > 0 {
            overflow.set_item(by.name(), shown.overflow_rows)?;
        }
    }
    let result = PyDict::new(py);
    result.set_item(
        "total",
        row_to_py(py, None, false, &sink.total(), sink.scale())?,
    )?;
    result.set_item("by", groups)?;
    result.set_item("folded", folded)?;
    result.set_item("overflow", overflow)?;
    Ok(result)
}

/// Names of groupings, as users give them.
pub fn parse_by(names: &[String]) -> PyResult<Vec<By>> {
    names
        .iter()
        .map(|name| {
            By::parse(name).ok_or_else(|| PyValueError::new_err(format!("no grouping {name:?}")))
        })
        .collect()
}

// ---- rows made in Python (tests) ----

fn endpoint(text: &str) -> PyResult<Endpoint> {
    let address: std::net::SocketAddr = text
        .parse()
        .map_err(|_| PyValueError::new_err(format!("not ip:port: {text}")))?;
    Ok(match address {
        std::net::SocketAddr::V4(v4) => Endpoint::v4(v4.ip().octets(), v4.port()),
        std::net::SocketAddr::V6(v6) => Endpoint::v6(v6.ip().octets(), v6.port()),
    })
}

/// Reads a row tuple column by column.
pub(crate) struct Reader<'py> {
    row: Bound<'py, PyTuple>,
    at: usize,
}

impl<'py> Reader<'py> {
    pub(crate) fn any(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let value = self.row.get_item(self.at)?;
        self.at += 1;
        Ok(value)
    }

    pub(crate) fn get<T: for<'a> FromPyObject<'a, 'py, Error = PyErr>>(&mut self) -> PyResult<T> {
        self.any()?.extract()
    }

    fn conn(&mut self) -> PyResult<(i64, i64, ConnInfo)> {
        let (seq, ts_ns, id) = (self.get()?, self.get()?, self.get()?);
        let client: String = self.get()?;
        let server: String = self.get()?;
        let conn = ConnInfo {
            id,
            client: endpoint(&client)?,
            server: endpoint(&server)?,
        };
        Ok((seq, ts_ns, conn))
    }
}

/// A dict's value, None if the dict or the key is absent.
fn item<'py, T: for<'a> FromPyObject<'a, 'py, Error = PyErr>>(
    dict: &Bound<'py, PyDict>,
    key: &str,
) -> PyResult<Option<T>> {
    match dict.get_item(key)? {
        Some(value) => value.extract(),
        None => Ok(None),
    }
}

/// The Stat of a dict as it lies on the wire.
fn stat(dict: &Bound<'_, PyDict>) -> PyResult<[u8; 68]> {
    let long = |key| -> PyResult<[u8; 8]> { Ok(item(dict, key)?.unwrap_or(0i64).to_be_bytes()) };
    let int = |key| -> PyResult<[u8; 4]> { Ok(item(dict, key)?.unwrap_or(0i32).to_be_bytes()) };
    let mut wire = Vec::new();
    for key in ["czxid", "mzxid", "ctime", "mtime"] {
        wire.extend(long(key)?);
    }
    for key in ["version", "cversion", "aversion"] {
        wire.extend(int(key)?);
    }
    wire.extend(long("ephemeral_owner")?);
    for key in ["data_length", "num_children"] {
        wire.extend(int(key)?);
    }
    wire.extend(long("pzxid")?);
    <[u8; 68]>::try_from(wire).map_err(|_| PyValueError::new_err("a Stat has 68 bytes"))
}

/// Operation, path and error of an operation of a multi.
pub(crate) type Sub = (Option<String>, Option<Vec<u8>>, Option<i32>);

pub(crate) fn subs(list: &Bound<'_, PyAny>) -> PyResult<Option<Vec<Sub>>> {
    if list.is_none() {
        return Ok(None);
    }
    let mut subs = Vec::new();
    for dict in list.try_iter()? {
        let dict = dict?.cast_into::<PyDict>()?;
        subs.push((
            item(&dict, "op")?,
            item(&dict, "path")?,
            item(&dict, "error")?,
        ));
    }
    Ok(Some(subs))
}

pub(crate) fn sub_ops(subs: &[Sub]) -> Vec<SubOp<'_>> {
    let ops = subs.iter().map(|(op, path, error)| SubOp {
        op: op.as_deref(),
        path: path.as_deref(),
        error: *error,
    });
    ops.collect()
}

fn exchange(row: Bound<'_, PyTuple>, sink: &mut dyn EventSink) -> PyResult<()> {
    let mut read = Reader { row, at: 0 };
    let (seq, ts_ns, conn) = read.conn()?;
    let op: Option<String> = read.get()?;
    let opcode: Option<i32> = read.get()?;
    let mut row = Exchange::new(seq, ts_ns, &conn, State::Complete);
    row.op = opcode.zip(op.as_deref());
    row.xid = read.get()?;
    row.session = read.get()?;
    let path: Option<Vec<u8>> = read.get()?;
    row.path = path.as_deref();
    row.watch = read.get()?;
    row.error = read.get()?;
    row.zxid = read.get()?;
    row.latency_ns = read.get()?;
    row.request_bytes = read.get()?;
    row.reply_bytes = read.get()?;
    let state: String = read.get()?;
    let states = [State::Complete, State::NoReply, State::NoRequest];
    row.state = states
        .into_iter()
        .find(|known| known.as_str() == state)
        .ok_or_else(|| PyValueError::new_err(state))?;
    row.flags = read.get()?;
    row.mode = read.get()?;
    row.version = read.get()?;
    row.data_length = read.get()?;
    row.children = read.get()?;
    row.ttl = read.get()?;
    let created_path: Option<Vec<u8>> = read.get()?;
    row.created_path = created_path.as_deref();
    let stat_dict = read.any()?;
    let stat = match stat_dict.cast::<PyDict>() {
        Ok(dict) => Some(stat(dict)?),
        Err(_) => None,
    };
    row.stat = stat.as_ref().map(RawStat);
    let sub = subs(&read.any()?)?;
    let sub = sub.as_deref().map(sub_ops);
    row.sub = sub.as_deref();
    let watches_dict = read.any()?;
    let watches = match watches_dict.cast::<PyDict>() {
        Ok(dict) => Some(Watches {
            data: item(dict, "data")?,
            exist: item(dict, "exist")?,
            child: item(dict, "child")?,
            persistent: item(dict, "persistent")?,
            persistent_recursive: item(dict, "persistent_recursive")?,
        }),
        Err(_) => None,
    };
    row.watches = watches.as_ref();
    let connect = Connect {
        requested_timeout_ms: read.get()?,
        timeout_ms: read.get()?,
        last_zxid_seen: read.get()?,
        read_only: read.get()?,
        protocol_version: read.get()?,
    };
    row.connect = (connect != Connect::default()).then_some(&connect);
    sink.exchange(&row);
    Ok(())
}

fn other(kind: &str, row: Bound<'_, PyTuple>, sink: &mut dyn EventSink) -> PyResult<()> {
    let mut read = Reader { row, at: 0 };
    let (seq, ts_ns, conn) = read.conn()?;
    let conn = &conn;
    match kind {
        "watch_events" => {
            let session = read.get()?;
            let event: Option<String> = read.get()?;
            let keeper_state: Option<String> = read.get()?;
            let path: Option<Vec<u8>> = read.get()?;
            sink.watch_event(&WatchEvent {
                seq,
                ts_ns,
                conn,
                session,
                event: event.as_deref(),
                keeper_state: keeper_state.as_deref(),
                path: path.as_deref(),
                zxid: read.get()?,
                bytes: read.get()?,
            });
        }
        "connections" => {
            let role: String = read.get()?;
            let event: String = read.get()?;
            let detail: Option<String> = read.get()?;
            let roles = [
                Role::Client,
                Role::Quorum,
                Role::Election,
                Role::Tls,
                Role::Unknown,
            ];
            let events = ConnectionEvent::ALL;
            let role = roles.into_iter().find(|known| known.as_str() == role);
            let event = events.into_iter().find(|known| known.as_str() == event);
            if let (Some(role), Some(event)) = (role, event) {
                sink.connection(&Connection {
                    seq,
                    ts_ns,
                    conn,
                    role,
                    event,
                    detail: detail.as_deref(),
                });
            }
        }
        "four_letter" => {
            let word: String = read.get()?;
            sink.four_letter(&FourLetter {
                seq,
                ts_ns,
                conn,
                word: &word,
                reply_bytes: read.get()?,
            });
        }
        "anomalies" => {
            let reason: String = read.get()?;
            let direction: Option<String> = read.get()?;
            let bytes = read.get()?;
            let detail: Option<String> = read.get()?;
            let directions = [Direction::ToServer, Direction::ToClient];
            sink.anomaly(&Anomaly {
                seq,
                ts_ns,
                conn,
                reason: &reason,
                direction: directions
                    .into_iter()
                    .find(|known| Some(known.as_str()) == direction.as_deref()),
                bytes,
                detail: detail.as_deref(),
            });
        }
        "quorum" => python_quorum::quorum(read, (seq, ts_ns, conn), sink)?,
        "elections" => python_quorum::election(read, (seq, ts_ns, conn), sink)?,
        _ => return Err(PyValueError::new_err(format!("no table {kind:?}"))),
    }
    Ok(())
}

/// Rows made in Python, to any sink.
pub(crate) fn feed(
    rows: &[(String, Bound<'_, PyTuple>)],
    sink: &mut dyn EventSink,
) -> PyResult<()> {
    for (kind, row) in rows {
        match kind.as_str() {
            "exchanges" => exchange(row.clone(), sink)?,
            _ => other(kind, row.clone(), sink)?,
        }
    }
    Ok(())
}

/// `(kind, row)` pairs, paths as bytes, to batches of `batch_rows` rows.
#[pyfunction]
fn debug_tables(
    rows: Vec<(String, Bound<'_, PyTuple>)>,
    batch_rows: usize,
) -> PyResult<Vec<ArrowBatch>> {
    let mut sink = TableSink::new(batch_rows);
    feed(&rows, &mut sink)?;
    let mut batches = Vec::new();
    while sink.rows() > 0 {
        batches.extend(batches_to_py(sink.take().map_err(arrow_error)?));
    }
    Ok(batches)
}

/// `(kind, row)` pairs, paths as bytes, to tables that are kept whole: of each kind the number of rows, then what
/// `Engine.take_whole` gives.
#[pyfunction]
fn debug_whole(
    rows: Vec<(String, Bound<'_, PyTuple>)>,
) -> PyResult<Vec<(&'static str, usize, Vec<PyStretch>)>> {
    let mut sink = TableSink::whole();
    feed(&rows, &mut sink)?;
    let mut tables = Vec::new();
    for kind in KINDS {
        let rows = sink.whole_rows(kind);
        let stretches = sink.take_whole(kind).map_err(arrow_error)?;
        tables.push((kind.name(), rows, stretches_to_py(kind, stretches)));
    }
    Ok(tables)
}

/// `(kind, row)` pairs, paths as bytes, to aggregates.
#[pyfunction]
#[pyo3(signature = (rows, bounds, by, depth, key_limit, top))]
fn debug_aggregates<'py>(
    py: Python<'py>,
    rows: Vec<(String, Bound<'py, PyTuple>)>,
    bounds: Vec<u64>,
    by: Vec<String>,
    depth: Option<usize>,
    key_limit: usize,
    top: Option<usize>,
) -> PyResult<Bound<'py, PyDict>> {
    let by = parse_by(&by)?;
    let scale = Scale::new(bounds).map_err(PyValueError::new_err)?;
    let mut sink = Aggregator::new(scale, &by, depth, key_limit);
    feed(&rows, &mut sink)?;
    aggregates_to_py(py, &mut sink, &by, top)
}

/// Buckets and quantiles of values: `([bucket of each], [(bucket, count)], quantiles)`.
#[pyfunction]
#[allow(clippy::type_complexity)]
fn debug_histogram(
    bounds: Vec<u64>,
    values: Vec<i64>,
) -> PyResult<(Vec<u16>, Vec<(u16, u64)>, Vec<i64>)> {
    let scale = Scale::new(bounds).map_err(PyValueError::new_err)?;
    let mut histogram = Histogram::default();
    let buckets: Vec<u16> = values.iter().map(|&value| scale.bucket(value)).collect();
    for (&value, &bucket) in values.iter().zip(&buckets) {
        histogram.add(value, bucket);
    }
    let quantiles = histogram.quantiles(&scale).to_vec();
    Ok((buckets, histogram.buckets(), quantiles))
}

/// Bytes as the tables show them.
#[pyfunction]
fn debug_text(raw: Vec<u8>) -> String {
    crate::intern::lossy(&raw).into_owned()
}

/// Adds what this file has to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ArrowBatch>()?;
    module.add_class::<ArrowTexts>()?;
    module.add_function(wrap_pyfunction!(debug_tables, module)?)?;
    module.add_function(wrap_pyfunction!(debug_aggregates, module)?)?;
    module.add_function(wrap_pyfunction!(debug_whole, module)?)?;
    module.add_function(wrap_pyfunction!(debug_histogram, module)?)?;
    module.add_function(wrap_pyfunction!(debug_text, module)?)?;
    Ok(())
}
