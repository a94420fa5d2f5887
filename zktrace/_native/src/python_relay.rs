//! The proxy's data plane for `zktrace_proxy.native`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::python::Engine;
use crate::python_live::text;
use crate::python_rules::{debug_holds, decision, definition, question, test, verdict};
use crate::python_tls::{tls, Clients, Servers};
use crate::relay::desk::{Message, Verdict};
use crate::relay::facts::Ops;
use crate::relay::recording::{Filter, Options, Recording};
use crate::relay::upstreams::Upstream;
use crate::relay::{start, Config, Listener, Queue, Relay, WhenDown};

/// A running data plane; see `zktrace_proxy.plane.Plane`.
#[pyclass(frozen, module = "zktrace._native", name = "Relay")]
pub struct PyRelay {
    relay: Relay,
    taps: Vec<Arc<Queue>>,
    recording: Option<Recording>,
}

fn address(text: &str) -> PyResult<SocketAddr> {
    text.parse()
        .map_err(|_| PyValueError::new_err(format!("{text:?} is not IP:PORT")))
}

fn servers(given: &[(String, String)]) -> PyResult<Vec<Upstream>> {
    let one = |(at, name): &(String, String)| {
        Ok(Upstream {
            address: address(at)?,
            name: name.as_str().into(),
        })
    };
    given.iter().map(one).collect()
}

/// path, rotate_bytes, rotate_ms, keep, redact, data_kept, filter: its expression and program
type Record<'py> = (
    PathBuf,
    Option<u64>,
    Option<u64>,
    Option<usize>,
    bool,
    Option<u64>,
    Option<(String, Bound<'py, PyAny>)>,
);

#[pymethods]
impl PyRelay {
    #[new]
    #[pyo3(signature = (listeners, *, spill_limit, slow_reader_ms, connect_timeout_ms, max_connections, tap_limit,
                        lossless, taps, record, max_frame, when_down, paths, watches, rules, tls_clients, tls_servers))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        listeners: Vec<(String, Vec<(String, String)>)>,
        spill_limit: usize,
        slow_reader_ms: Option<u64>,
        connect_timeout_ms: u64,
        max_connections: usize,
        tap_limit: usize,
        lossless: bool,
        taps: Vec<bool>,
        record: Option<Record<'_>>,
        max_frame: usize,
        when_down: &str,
        paths: Vec<i32>,
        watches: Vec<i32>,
        rules: Vec<Bound<'_, PyAny>>,
        tls_clients: Option<Clients>,
        tls_servers: Option<Servers>,
    ) -> PyResult<Self> {
        let listeners = listeners
            .iter()
            .map(|(listen, upstreams)| {
                Ok(Listener {
                    address: address(listen)?,
                    upstreams: servers(upstreams)?,
                })
            })
            .collect::<PyResult<_>>()?;
        let config = Config {
            listeners,
            spill_limit,
            slow_reader: slow_reader_ms.map(Duration::from_millis),
            connect_timeout: Duration::from_millis(connect_timeout_ms),
            max_connections,
            when_down: match when_down {
                "accept" => WhenDown::Accept,
                "reset" => WhenDown::Reset,
                "close-listener" => WhenDown::CloseListener,
                _ => return Err(PyValueError::new_err(format!("not known: {when_down}"))),
            },
            max_frame,
            ops: Ops {
                paths: paths.into_iter().collect(),
                watches: watches.into_iter().collect(),
            },
            rules: rules.iter().map(definition).collect::<PyResult<_>>()?,
            tls: tls(tls_clients, tls_servers)?,
        };
        let taps: Vec<_> = taps
            .into_iter()
            .map(|lossless| Queue::new(tap_limit, lossless))
            .collect();
        let mut queues = taps.clone();
        let recording = match record {
            None => None,
            Some((path, rotate_bytes, rotate_ms, keep, redact, data_kept, filter)) => {
                let filter = filter
                    .map(|(expression, program)| {
                        Ok::<_, PyErr>(Filter {
                            expression,
                            test: test(&program)?,
                            ops: config.ops.clone(),
                        })
                    })
                    .transpose()?;
                let rotate_after = rotate_ms.map(Duration::from_millis);
                let options = Options {
                    path,
                    rotate_bytes,
                    rotate_after,
                    keep,
                    redact,
                    data_kept,
                    filter,
                };
                let queue = Queue::new(tap_limit, lossless);
                let name = options.path.display().to_string();
                let recording = Recording::start(options, Arc::clone(&queue))
                    .map_err(|error| PyOSError::new_err(format!("{name}: {}", text(&error))))?;
                queues.push(queue);
                Some(recording)
            }
        };
        let relay = start(config, queues).map_err(|error| PyOSError::new_err(text(&error)))?;
        Ok(PyRelay {
            relay,
            taps,
            recording,
        })
    }

    /// Where it listens.
    fn addresses(&self) -> Vec<String> {
        self.relay
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// The next bytes of a tap; None when none came in time.
    fn next<'py>(
        &self,
        py: Python<'py>,
        tap: usize,
        timeout_ms: u64,
    ) -> Option<Bound<'py, PyBytes>> {
        let tap = self.taps.get(tap)?;
        let block = py.detach(|| tap.next(Duration::from_millis(timeout_ms)))?;
        Some(PyBytes::new(py, &block))
    }

    /// Feeds a source of an engine with a tap's bytes, for up to `budget_ms`, without Python in between. Gives
    /// whether anything came.
    fn feed(
        &self,
        py: Python<'_>,
        tap: usize,
        engine: &Bound<'_, Engine>,
        source: usize,
        budget_ms: u64,
    ) -> PyResult<bool> {
        let Some(tap) = self.taps.get(tap) else {
            return Ok(false);
        };
        let (engine, end) = (
            engine.get(),
            Instant::now() + Duration::from_millis(budget_ms),
        );
        let fed = py.detach(|| {
            let mut some = false;
            loop {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() && some {
                    return Ok(some);
                }
                let Some(block) = tap.next(left) else {
                    return Ok(some);
                };
                engine
                    .shared
                    .feeding(|inner| inner.decoder.feed(source, &block))?;
                some = true;
            }
        });
        fed.map_err(|error| engine.source_error(py, error))
    }

    /// Whether the tap has given all it will.
    fn ended(&self, tap: usize) -> bool {
        self.taps.get(tap).is_none_or(|tap| tap.ended())
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        for (name, value) in self.relay.counters.all() {
            out.set_item(name, value)?;
        }
        Ok(out)
    }

    /// Bytes recorded, files begun, and why nothing can be written at the moment.
    fn recorded(&self) -> (u64, u64, Option<String>) {
        self.recording.as_ref().map_or((0, 0, None), |recording| {
            let (bytes, files) = recording.written();
            (bytes, files, recording.problem())
        })
    }

    /// The servers behind a listener from now on.
    fn set_upstreams(&self, listener: usize, given: Vec<(String, String)>) -> PyResult<()> {
        self.relay.set_upstreams(listener, servers(&given)?);
        Ok(())
    }

    /// Certificates and keys of connections from now on.
    fn set_tls(&self, clients: Option<Clients>, servers: Option<Servers>) -> PyResult<()> {
        self.relay.set_tls(tls(clients, servers)?);
        Ok(())
    }

    /// What went wrong with TLS since it was last asked, and how much more of it there was.
    fn notices(&self) -> (Vec<String>, u64) {
        self.relay.notices.take()
    }

    /// Ends connections between two frames, over this time; how many were still open then.
    fn drain(&self, py: Python<'_>, over_ms: u64) -> u64 {
        py.detach(|| self.relay.drain(Duration::from_millis(over_ms)))
    }

    /// Puts a rule in force.
    fn add_rule(&self, rule: &Bound<'_, PyAny>) -> PyResult<()> {
        self.relay.add_rule(definition(rule)?);
        Ok(())
    }

    /// Takes a rule back; whether there was one.
    fn remove_rule(&self, id: u64) -> bool {
        self.relay.remove_rule(id)
    }

    /// Of each rule: its number, how often it matched, how often it did something, whether it is over.
    fn rules(&self) -> Vec<(u64, u64, u64, bool)> {
        let rules = self.relay.rules();
        let one = |rule: &std::sync::Arc<crate::relay::rules::Rule>| {
            (
                rule.definition.id,
                rule.matched.load(Relaxed),
                rule.fired.load(Relaxed),
                rule.over(),
            )
        };
        rules.iter().map(one).collect()
    }

    /// What rules did since it was last asked, and how much of it was forgotten.
    fn decisions<'py>(&self, py: Python<'py>) -> PyResult<(Vec<Bound<'py, PyDict>>, u64)> {
        let (list, forgotten) = self.relay.decisions.take();
        let list = list.iter().map(|one| decision(py, one));
        Ok((list.collect::<PyResult<_>>()?, forgotten))
    }

    /// The next frame that is to be decided about; None when none came in time.
    fn question<'py>(
        &self,
        py: Python<'py>,
        timeout_ms: u64,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let next = || self.relay.desk.next(Duration::from_millis(timeout_ms));
        py.detach(next).map(|one| question(py, &one)).transpose()
    }

    /// Decides about a frame; whether its connection is still there.
    fn decide(
        &self,
        connection: u64,
        ticket: u64,
        what: &str,
        frame: Option<Vec<u8>>,
    ) -> PyResult<bool> {
        let message = Message::Verdict(ticket, verdict(what, frame)?);
        Ok(self.relay.desk.tell(connection, message))
    }

    /// Sends a frame to a client; whether its connection is still there.
    fn inject(&self, connection: u64, frame: Vec<u8>) -> PyResult<bool> {
        let Verdict::Replace(frame) = verdict("replace", Some(frame))? else {
            return Ok(false);
        };
        Ok(self.relay.desk.tell(connection, Message::Inject(frame)))
    }

    /// Ends all connections, and writes the recording to its end.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| {
            self.relay.stop();
            if let Some(recording) = &self.recording {
                recording.finish();
            }
        });
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyRelay>()?;
    module.add_function(wrap_pyfunction!(debug_holds, module)?)
}
