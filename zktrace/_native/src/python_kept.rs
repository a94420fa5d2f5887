//! What is kept of single events, for Python: `zktrace/store/kept.py` says what the methods do and does
//! the same for the Python engine.
//!
//! What is asked is copied under the lock with the GIL released, and made into Python's objects after it.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::events::Endpoint;
use crate::json::{Form, JsonSink};
use crate::kept::recent::{Snapshot, Wanted};
use crate::kept::sessions::{Chosen, Session};
use crate::kept::shape::Largest;
use crate::kept::slow::{Beside, Entry};
use crate::kept::watches::KINDS;
use crate::kept::Kept as Sink;
use crate::python::Shared;
use crate::python_tables::{arrow_error, batches_to_py, feed, ArrowBatch};
use crate::tables::TableSink;

/// Kinds of events, by bit (`recent_code.rs`).
const TABLES: [&str; 7] = [
    "exchanges",
    "watch_events",
    "connections",
    "four_letter",
    "anomalies",
    "quorum",
    "elections",
];

enum Source {
    /// An engine's.
    Shared(Arc<Shared>),
    /// Fed by Python: tests.
    Own(Box<Mutex<Sink>>),
}

#[pyclass(frozen, module = "zktrace._native")]
pub struct Kept {
    source: Source,
}

impl Kept {
    pub fn of(shared: Arc<Shared>) -> Self {
        Kept {
            source: Source::Shared(shared),
        }
    }

    fn ask<R: Send>(&self, py: Python<'_>, f: impl FnOnce(&mut Sink) -> R + Send) -> PyResult<R> {
        let found = match &self.source {
            Source::Own(kept) => Some(f(&mut kept.lock().unwrap_or_else(PoisonError::into_inner))),
            Source::Shared(shared) => py.detach(|| shared.ask(|inner| inner.kept().map(f))),
        };
        found.ok_or_else(|| PyValueError::new_err("nothing was to be kept"))
    }
}

/// Where the rows of a slow exchange and its company get the names of ops from.
struct Named<T> {
    names: Vec<Option<String>>,
    entries: Vec<T>,
}

fn text(endpoint: Endpoint) -> String {
    endpoint.to_string()
}

fn session_to_py<'py>(py: Python<'py>, one: &Session) -> PyResult<Bound<'py, PyTuple>> {
    let notes = PyList::empty(py);
    for note in &one.notes {
        let (client, server) = note
            .ends
            .map(|(client, server)| (text(client), text(server)))
            .unzip();
        notes.append((note.at, note.what, client, server, note.number))?;
    }
    let numbers = PyTuple::new(
        py,
        [
            one.first_ns,
            one.last_ns,
            one.requests,
            one.errors,
            one.watch_events,
            one.timeout_ms,
            one.silence_ns,
            one.silence_at,
            one.silence_wait,
            one.last_wait,
            one.ended_ns,
            one.proposed_ns,
            one.connects,
            one.moves,
            one.near,
            i64::from(one.state),
        ],
    )?;
    (
        one.id,
        text(one.client),
        text(one.server),
        numbers,
        notes,
        one.unanswered.clone(),
        one.losses.clone(),
    )
        .into_pyobject(py)
}

fn beside_to_py<'py>(
    py: Python<'py>,
    one: &Beside,
    op: Option<&str>,
) -> PyResult<Bound<'py, PyDict>> {
    let row = PyDict::new(py);
    row.set_item("seq", one.seq)?;
    row.set_item("ts_ns", one.ts_ns)?;
    row.set_item("op", op)?;
    row.set_item("path", one.path.as_deref())?;
    row.set_item("latency_ns", one.latency_ns)?;
    row.set_item("request_bytes", one.request_bytes)?;
    row.set_item("reply_bytes", one.reply_bytes)?;
    Ok(row)
}

fn entry_to_py<'py>(
    py: Python<'py>,
    one: &Entry,
    names: &mut impl Iterator<Item = Option<String>>,
) -> PyResult<Bound<'py, PyDict>> {
    let mut name = || names.next().flatten();
    let row = PyDict::new(py);
    row.set_item("seq", one.seq)?;
    row.set_item("ts_ns", one.ts_ns)?;
    row.set_item("client", text(one.client))?;
    row.set_item("server", text(one.server))?;
    row.set_item("op", name())?;
    row.set_item("xid", one.xid)?;
    row.set_item("session", one.session)?;
    row.set_item("path", one.path.as_deref())?;
    row.set_item("error", one.error)?;
    row.set_item("zxid", one.zxid)?;
    row.set_item("latency_ns", one.latency_ns)?;
    row.set_item("request_bytes", one.request_bytes)?;
    row.set_item("reply_bytes", one.reply_bytes)?;
    let company = one.company();
    row.set_item("outstanding", company.outstanding)?;
    let beside = PyList::empty(py);
    for other in &company.beside {
        beside.append(beside_to_py(py, other, name().as_deref())?)?;
    }
    row.set_item("beside", beside)?;
    let largest = match &company.largest {
        Some(largest) => Some(beside_to_py(py, largest, name().as_deref())?),
        None => None,
    };
    row.set_item("largest", largest)?;
    Ok(row)
}

fn codes(one: &Entry) -> impl Iterator<Item = Option<i32>> + '_ {
    let beside = one.company().beside.iter().map(|other| other.op);
    let largest = one.company().largest.iter().map(|other| other.op);
    std::iter::once(one.op).chain(beside).chain(largest)
}

fn counts<'py, 'a>(
    py: Python<'py>,
    names: impl Iterator<Item = (&'a str, u64)>,
) -> PyResult<Bound<'py, PyDict>> {
    let all = PyDict::new(py);
    for (name, count) in names {
        all.set_item(name, count)?;
    }
    Ok(all)
}

#[pymethods]
impl Kept {
    #[new]
    #[pyo3(signature = (changing, max_sessions, recent_rows, hash_key=None))]
    fn new(
        changing: Vec<i32>,
        max_sessions: usize,
        recent_rows: usize,
        hash_key: Option<[u8; 16]>,
    ) -> Self {
        Kept {
            source: Source::Own(Box::new(Mutex::new(Sink::new(
                changing,
                max_sessions,
                recent_rows,
                hash_key,
            )))),
        }
    }

    /// `(kind, row)` pairs, paths as bytes.
    fn feed(&self, rows: Vec<(String, Bound<'_, PyTuple>)>) -> PyResult<()> {
        match &self.source {
            Source::Own(kept) => feed(
                &rows,
                &mut *kept.lock().unwrap_or_else(PoisonError::into_inner),
            ),
            Source::Shared(_) => Err(PyValueError::new_err("an engine feeds this")),
        }
    }

    /// Events so far.
    fn rows(&self, py: Python<'_>) -> PyResult<u64> {
        self.ask(py, |kept| kept.rows)
    }

    fn session<'py>(&self, py: Python<'py>, id: i64) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let found = self.ask(py, |kept| kept.sessions.get(id).cloned())?;
        found.map(|one| session_to_py(py, &one)).transpose()
    }

    #[pyo3(signature = (sort, now_ns, since_ns, ids, client, limit))]
    #[allow(clippy::too_many_arguments)]
    fn sessions<'py>(
        &self,
        py: Python<'py>,
        sort: &str,
        now_ns: i64,
        since_ns: Option<i64>,
        ids: Option<Vec<i64>>,
        client: Option<String>,
        limit: usize,
    ) -> PyResult<(Bound<'py, PyList>, usize)> {
        let chosen = Chosen {
            since_ns,
            ids,
            client,
        };
        let (found, total) = self.ask(py, |kept| {
            kept.sessions.select(sort, now_ns, &chosen, limit)
        })?;
        let list = PyList::empty(py);
        for one in &found {
            list.append(session_to_py(py, one)?)?;
        }
        Ok((list, total))
    }

    /// How many sessions are open, closed, expired, overdue; how many were forgotten.
    fn session_states(&self, py: Python<'_>, now_ns: i64) -> PyResult<([u64; 4], u64)> {
        self.ask(py, |kept| {
            (kept.sessions.states(now_ns), kept.sessions.forgotten)
        })
    }

    #[pyo3(signature = (bounds, sort, limit))]
    fn slow<'py>(
        &self,
        py: Python<'py>,
        bounds: Option<(i64, i64)>,
        sort: &str,
        limit: Option<usize>,
    ) -> PyResult<(Bound<'py, PyList>, usize)> {
        let (found, total) = self.ask(py, |kept| {
            let mut entries = kept.slow.entries(bounds);
            entries.sort_unstable_by_key(|one| {
                let first = match sort {
                    "time" => one.ts_ns,
                    "outstanding" => i64::try_from(one.company().outstanding).unwrap_or(i64::MAX),
                    _ => one.latency_ns,
                };
                (Reverse(first), Reverse(one.latency_ns), one.seq)
            });
            let total = entries.len();
            entries.truncate(limit.unwrap_or(total));
            let names = entries.iter().flat_map(|one| codes(one));
            let names = names.map(|code| code.map(|code| kept.ops.name(code)));
            let names = names.collect();
            (Named { names, entries }, total)
        })?;
        let list = PyList::empty(py);
        let mut names = found.names.into_iter();
        for one in &found.entries {
            list.append(entry_to_py(py, one, &mut names)?)?;
        }
        Ok((list, total))
    }

    fn watch_counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (registered, restored, fired, numbers, growing) = self.ask(py, |kept| {
            let watches = &kept.watches;
            let ledger = &watches.ledger;
            let numbers = [
                ("forgotten_paths", watches.forgotten_paths),
                ("forgotten_writes", watches.forgotten_writes),
                ("outstanding", ledger.len() as u64),
                ("not_kept", ledger.overflow),
            ];
            (
                watches.registered,
                watches.restored,
                watches.fired.clone(),
                numbers,
                ledger.growing(),
            )
        })?;
        let all = counts(py, numbers.into_iter())?;
        all.set_item("registered", counts(py, KINDS.into_iter().zip(registered))?)?;
        all.set_item("restored", counts(py, KINDS.into_iter().zip(restored))?)?;
        let fired = fired.iter().map(|(name, count)| (name.as_str(), *count));
        all.set_item("fired", counts(py, fired)?)?;
        let growing = growing
            .iter()
            .map(|one| (one.session, one.before, one.now, one.seconds));
        all.set_item("growing", growing.collect::<Vec<_>>())?;
        Ok(all)
    }

    /// Sessions and how many watches they should have set, most first.
    fn watch_most(&self, py: Python<'_>, limit: usize) -> PyResult<Vec<(i64, u32)>> {
        self.ask(py, |kept| kept.watches.ledger.most(limit))
    }

    #[allow(clippy::type_complexity)]
    fn watch_paths(
        &self,
        py: Python<'_>,
        sort: &str,
        limit: Option<usize>,
    ) -> PyResult<(Vec<(String, u64, u64)>, usize)> {
        let limit = limit.unwrap_or(usize::MAX);
        let (paths, total) = self.ask(py, |kept| kept.watches.paths(sort, limit))?;
        let paths = paths.into_iter();
        let paths = paths.map(|(path, [registered, fired])| (path, registered, fired));
        Ok((paths.collect(), total))
    }

    fn watch_writes<'py>(
        &self,
        py: Python<'py>,
        since_ns: Option<i64>,
        limit: Option<usize>,
    ) -> PyResult<Bound<'py, PyList>> {
        let (since, limit) = (since_ns.unwrap_or(i64::MIN), limit.unwrap_or(usize::MAX));
        let list = PyList::empty(py);
        for one in self.ask(py, |kept| kept.watches.writes(since, limit))? {
            let row = PyDict::new(py);
            row.set_item("zxid", one.zxid)?;
            row.set_item("exact", one.zxid.is_some())?;
            row.set_item("first_ns", one.first_ns)?;
            row.set_item("last_ns", one.last_ns)?;
            row.set_item("path", &one.path)?;
            let kinds = one
                .kinds
                .iter()
                .map(|(name, count)| (name.as_str(), *count));
            row.set_item("kinds", counts(py, kinds)?)?;
            row.set_item("events", one.events)?;
            row.set_item("bytes", one.bytes)?;
            row.set_item("sessions", one.sessions)?;
            row.set_item("op", one.op.as_deref())?;
            row.set_item("client", one.client.map(text))?;
            row.set_item("rereads", one.rereads)?;
            row.set_item("reread_bytes", one.reread_bytes)?;
            list.append(row)?;
        }
        Ok(list)
    }

    /// Of paths with most data, most children and the largest messages `(path, value, time, op)`.
    fn shape<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyDict>> {
        let found = self.ask(py, |kept| {
            let ops = &kept.ops;
            let named = |one: Largest| {
                let op = one.op.map(|code| ops.name(code));
                (one.path, one.value, one.ts_ns, op)
            };
            let ranked = kept.shape.ranked(limit);
            ranked.map(|top| top.into_iter().map(named).collect::<Vec<_>>())
        })?;
        let all = PyDict::new(py);
        for (name, rows) in ["data", "children", "messages"].into_iter().zip(found) {
            all.set_item(name, rows)?;
        }
        Ok(all)
    }

    /// The latest events with a number greater than `after` (and perhaps some before).
    fn recent(&self, py: Python<'_>, after: i64) -> PyResult<Recent> {
        let snapshot = self.ask(py, |kept| kept.recent.snapshot(after))?;
        Ok(Recent { snapshot })
    }
}

/// The latest events at a moment.
#[pyclass(frozen, module = "zktrace._native")]
pub struct Recent {
    snapshot: Snapshot,
}

fn bits(kinds: &[String]) -> u8 {
    let all = TABLES.iter().enumerate();
    let chosen = all.filter(|(_, name)| kinds.is_empty() || kinds.iter().any(|kind| kind == *name));
    chosen.fold(0, |bits, (at, _)| bits | 1 << at)
}

#[pymethods]
impl Recent {
    fn __len__(&self) -> usize {
        self.snapshot.len()
    }

    /// Numbers of the first and the last.
    fn numbers(&self) -> Option<(i64, i64)> {
        self.snapshot.numbers()
    }

    /// The earliest time of the events of some kinds.
    fn earliest(&self, py: Python<'_>, kinds: Vec<String>) -> Option<i64> {
        py.detach(|| self.snapshot.earliest(bits(&kinds)))
    }

    /// Events as columns: of some kinds (none: all), in `[from, to)`, with a number greater than `after`.
    #[pyo3(signature = (kinds, from_ns=None, to_ns=None, after=None))]
    fn batches(
        &self,
        py: Python<'_>,
        kinds: Vec<String>,
        from_ns: Option<i64>,
        to_ns: Option<i64>,
        after: Option<i64>,
    ) -> PyResult<Vec<ArrowBatch>> {
        let wanted = Wanted {
            after: after.unwrap_or(i64::MIN),
            kinds: bits(&kinds),
            from: from_ns.unwrap_or(i64::MIN),
            to: to_ns.unwrap_or(i64::MAX),
            most: usize::MAX,
        };
        py.detach(|| {
            let mut sink = TableSink::new(usize::MAX);
            self.snapshot.replay(wanted, &mut sink);
            let mut batches = Vec::new();
            while sink.rows() > 0 {
                batches.extend(batches_to_py(sink.take()?));
            }
            Ok(batches)
        })
        .map_err(arrow_error)
    }

    /// The last `most` events with a number greater than `after` as JSON lines, and how many such there are.
    fn lines<'py>(
        &self,
        py: Python<'py>,
        form: &str,
        hash_key: Option<[u8; 16]>,
        after: i64,
        most: usize,
    ) -> PyResult<(Bound<'py, PyBytes>, usize)> {
        let form = Form::parse(form).map_err(PyRuntimeError::new_err)?;
        let wanted = Wanted {
            after,
            kinds: u8::MAX,
            from: i64::MIN,
            to: i64::MAX,
            most,
        };
        let (sink, total) = py.detach(|| {
            let mut sink = JsonSink::new(form, hash_key);
            let total = self.snapshot.replay(wanted, &mut sink);
            (sink, total)
        });
        Ok((PyBytes::new(py, sink.bytes()), total))
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Kept>()?;
    module.add_class::<Recent>()
}
