//! Rules of the proxy as `zktrace_proxy.native` hands them over: tuples made by `zktrace.analysis.filter_program` and
//! `zktrace_proxy.rules`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::relay::decisions::Decision;
use crate::relay::desk::{Question, Verdict};
use crate::relay::facts::{int, Facts};
use crate::relay::program::{Glob, Network, Number, Order, Test, Tri};
use crate::relay::rules::{Action, At, Definition};

/// An address with its prefix's length, and a port.
type Given = (String, u32, Option<u16>);

fn wrong(what: &str) -> PyErr {
    PyValueError::new_err(format!("not a rule: {what}"))
}

fn side(name: &str) -> PyResult<usize> {
    match name {
        "client" => Ok(0),
        "server" => Ok(1),
        _ => Err(wrong(name)),
    }
}

fn number(name: &str) -> PyResult<Number> {
    Ok(match name {
        "kind" => Number::Kind,
        "opcode" => Number::Opcode,
        "xid" => Number::Xid,
        "zxid" => Number::Zxid,
        "error" => Number::Error,
        "event" => Number::Event,
        "size" => Number::Size,
        "request_bytes" => Number::RequestBytes,
        "reply_bytes" => Number::ReplyBytes,
        "latency" => Number::Latency,
        _ => return Err(wrong(name)),
    })
}

/// See `zktrace.analysis.filter_program.Program`. Nested no deeper than expressions may be.
pub fn test(form: &Bound<'_, PyAny>) -> PyResult<Test> {
    let form = form.cast::<PyTuple>()?;
    let name: String = form.get_item(0)?.extract()?;
    let parts = || -> PyResult<Vec<Test>> {
        form.get_item(1)?
            .try_iter()?
            .map(|part| test(&part?))
            .collect()
    };
    Ok(match name.as_str() {
        "all" => Test::All(parts()?),
        "any" => Test::Any(parts()?),
        "not" => Test::Not(Box::new(test(&form.get_item(1)?)?)),
        "number" => {
            let (_, field, how, values): (String, String, String, Vec<i64>) = form.extract()?;
            let order = match how.as_str() {
                "in" => Order::Among,
                "not in" => Order::NotAmong,
                "<" => Order::Below,
                ">" => Order::Above,
                _ => return Err(wrong(&how)),
            };
            Test::Number(number(&field)?, order, values)
        }
        "path" => {
            let (_, not, values): (String, bool, Vec<String>) = form.extract()?;
            Test::Path(values, not)
        }
        "path like" => {
            let (_, not, pattern): (String, bool, String) = form.extract()?;
            Test::PathLike(Glob::new(&pattern), not)
        }
        "address" => {
            let (_, field, not, values): (String, String, bool, Vec<Given>) = form.extract()?;
            let networks = values
                .into_iter()
                .map(|(ip, prefix, port)| {
                    let ip: IpAddr = ip.parse().map_err(|_| wrong(&ip))?;
                    Ok(Network { ip, prefix, port })
                })
                .collect::<PyResult<_>>()?;
            Test::Address(side(&field)?, networks, not)
        }
        "address like" => {
            let (_, field, not, pattern): (String, String, bool, String) = form.extract()?;
            Test::AddressLike(side(&field)?, Glob::new(&pattern), not)
        }
        "session" => {
            let (_, not, values): (String, bool, Vec<(u32, u64)>) = form.extract()?;
            Test::Session(values, not)
        }
        "watch" => {
            let (_, wanted): (String, bool) = form.extract()?;
            Test::Watch(wanted)
        }
        _ => return Err(wrong(&name)),
    })
}

/// Values of an action by name; times in seconds.
struct Values<'py>(Bound<'py, PyDict>);

impl Values<'_> {
    fn get<T>(&self, name: &str) -> PyResult<T>
    where
        for<'a, 'b> T: FromPyObject<'a, 'b, Error = PyErr>,
    {
        self.0
            .get_item(name)?
            .ok_or_else(|| wrong(name))?
            .extract::<T>()
    }

    fn time(&self, name: &str) -> PyResult<Duration> {
        let seconds: f64 = self.get(name)?;
        Duration::try_from_secs_f64(seconds).map_err(|_| wrong(name))
    }

    fn ways(&self) -> PyResult<[bool; 2]> {
        let (to_server, to_client) = self.get::<(bool, bool)>("ways")?;
        Ok([to_server, to_client])
    }
}

fn action(name: &str, values: &Values<'_>) -> PyResult<Action> {
    Ok(match name {
        "latency" => Action::Latency {
            delay: values.time("delay")?,
            jitter: values.time("jitter")?,
            ways: values.ways()?,
        },
        "bandwidth" => Action::Bandwidth {
            bytes_per_s: values.get("rate")?,
            ways: values.ways()?,
        },
        "slicer" => Action::Slicer {
            size: values.get("size")?,
            pause: values.time("pause")?,
            ways: values.ways()?,
        },
        "timeout" => Action::Timeout {
            after: match values.get::<Option<f64>>("delay")? {
                None => None,
                Some(_) => Some(values.time("delay")?),
            },
            ways: values.ways()?,
        },
        "reset" => Action::Reset {
            after: values.time("delay")?,
        },
        "slow-close" => Action::SlowClose {
            delay: values.time("delay")?,
            ways: values.ways()?,
        },
        "limit-data" => Action::LimitData {
            bytes: values.get("size")?,
            ways: values.ways()?,
        },
        "down" => Action::Down,
        "delay" => Action::Delay {
            delay: values.time("delay")?,
            jitter: values.time("jitter")?,
        },
        "error" => Action::Error {
            code: values.get("code")?,
        },
        "drop" => Action::Drop {
            reset: values.get("reset")?,
        },
        "duplicate" => Action::Duplicate,
        "late" => Action::Late {
            delay: values.time("delay")?,
        },
        "expire" => Action::Expire,
        "move" => Action::Move,
        "stale" => Action::Stale,
        "close" => Action::Close,
        "ask" => Action::Ask {
            limit: values.time("limit")?,
            open: values.get("open")?,
        },
        _ => return Err(wrong(name)),
    })
}

/// id, name, program or None, where it is asked, action, its values, limits.
type Form<'py> = (
    u64,
    String,
    Bound<'py, PyAny>,
    String,
    String,
    Bound<'py, PyDict>,
    Limits,
);
/// nth, after, times, seconds, probability, seed.
type Limits = (Option<u64>, u64, Option<u64>, Option<f64>, f64, u64);

pub fn definition(form: &Bound<'_, PyAny>) -> PyResult<Definition> {
    let (id, name, when, at, what, values, limits): Form<'_> = form.extract()?;
    let (nth, after, times, lasting, probability, seed) = limits;
    let when = if when.is_none() {
        None
    } else {
        Some(test(&when)?)
    };
    let at = match at.as_str() {
        "connection" => At::Connection,
        "request" => At::Request,
        "reply" => At::Reply,
        "event" => At::Event,
        _ => return Err(wrong(&at)),
    };
    let lasting = lasting
        .map(|seconds| Duration::try_from_secs_f64(seconds).map_err(|_| wrong("for")))
        .transpose()?;
    Ok(Definition {
        id,
        name,
        when,
        at,
        action: action(&what, &Values(values))?,
        nth,
        after,
        times,
        lasting,
        probability,
        seed,
    })
}

/// A decision as `zktrace_proxy.plane.Decision` has it.
pub fn decision<'py>(py: Python<'py>, one: &Decision) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    out.set_item("ts_ns", one.ts_ns)?;
    out.set_item("rule", one.rule)?;
    out.set_item("action", &one.action)?;
    out.set_item("client", one.client.to_string())?;
    out.set_item("server", one.server.to_string())?;
    out.set_item("session", one.session)?;
    out.set_item("opcode", one.opcode)?;
    out.set_item("path", &one.path)?;
    out.set_item("xid", one.xid)?;
    out.set_item("detail", &one.detail)?;
    Ok(out)
}

/// A question as `zktrace_proxy.plane.Question` has it.
pub fn question<'py>(py: Python<'py>, one: &Question) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    out.set_item("connection", one.connection)?;
    out.set_item("ticket", one.ticket)?;
    out.set_item("rule", one.rule)?;
    out.set_item("kind", one.kind)?;
    out.set_item("client", one.client.to_string())?;
    out.set_item("server", one.server.to_string())?;
    out.set_item("session", one.session)?;
    out.set_item("opcode", one.opcode)?;
    out.set_item("path", &one.path)?;
    out.set_item("xid", one.xid)?;
    out.set_item("frame", PyBytes::new(py, &one.frame))?;
    Ok(out)
}

/// A verdict by its name; the frame of those that have one is checked to be one.
pub fn verdict(name: &str, frame: Option<Vec<u8>>) -> PyResult<Verdict> {
    let whole = |frame: Option<Vec<u8>>| {
        frame
            .filter(|frame| {
                frame.len() >= 8 && int(frame, 0) == i32::try_from(frame.len() - 4).ok()
            })
            .ok_or_else(|| PyValueError::new_err("not a frame"))
    };
    Ok(match name {
        "pass" => Verdict::Pass,
        "replace" => Verdict::Replace(whole(frame)?),
        "answer" => Verdict::Answer(whole(frame)?),
        "drop" => Verdict::Drop,
        "close" => Verdict::Close,
        _ => return Err(PyValueError::new_err(format!("not a verdict: {name}"))),
    })
}

/// For tests: whether a program is true of a frame; None: not known (`open`: what is missing may yet come).
#[pyfunction]
pub fn debug_holds(
    program: &Bound<'_, PyAny>,
    facts: &Bound<'_, PyDict>,
    open: bool,
) -> PyResult<Option<bool>> {
    let facts = Values(facts.clone());
    let long = |name: &str| facts.get::<Option<i64>>(name);
    let end = |name: &str| -> PyResult<SocketAddr> {
        let (ip, port): (String, u16) = facts.get(name)?;
        let ip: IpAddr = ip.parse().map_err(|_| wrong(&ip))?;
        Ok(SocketAddr::new(ip, port))
    };
    let path: Option<String> = facts.get("path")?;
    let frame = Facts {
        kind: long("kind")?.unwrap_or(0),
        path: path.as_deref(),
        watch: facts.get("watch")?,
        opcode: long("opcode")?,
        xid: long("xid")?,
        zxid: long("zxid")?,
        error: long("error")?,
        event: long("event")?,
        request_bytes: long("request_bytes")?,
        reply_bytes: long("reply_bytes")?,
        latency_ns: long("latency")?,
        ..Facts::of(end("client")?, end("server")?, facts.get("session")?)
    };
    let missing = if open { Tri::Maybe } else { Tri::No };
    Ok(match test(program)?.holds(&frame, missing) {
        Tri::Yes => Some(true),
        Tri::No => Some(false),
        Tri::Maybe => None,
    })
}
