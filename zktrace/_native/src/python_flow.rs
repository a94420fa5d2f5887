//! Reassembly as a Python function, for differential tests against `zktrace.flow`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::flow::{Counters, End, Endpoint, FlowSink, Limits, Reassembler};
use crate::ip::{Ip, Segment};

/// Fields of `zktrace.capture.segment.Segment`.
type SegmentTuple<'py> = (
    i64,
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
    u16,
    u16,
    u32,
    u32,
    u8,
    Bound<'py, PyBytes>,
    u32,
    u16,
);

fn ip_of(bytes: &[u8]) -> PyResult<Ip> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ip::from_v4(u32::from_be_bytes(four)));
    }
    let sixteen = <[u8; 16]>::try_from(bytes)
        .map_err(|_| PyValueError::new_err("an IP address has 4 or 16 bytes"))?;
    let bits = u128::from_be_bytes(sixteen);
    Ok(Ip::from_v6((bits >> 64) as u64, bits as u64))
}

/// Keeps the calls as Python tuples, and checks what slots promise.
struct Recorder<'py> {
    calls: Bound<'py, PyList>,
    slots: Vec<Option<u64>>,
    error: Option<PyErr>,
}

impl<'py> Recorder<'py> {
    fn push(&mut self, call: PyResult<Bound<'py, PyTuple>>) {
        if let Err(error) = call.and_then(|call| self.calls.append(call)) {
            self.error.get_or_insert(error);
        }
    }

    fn expect(&mut self, slot: u32, conn_id: u64) {
        if self.slots.get(slot as usize) != Some(&Some(conn_id)) {
            let text = format!("slot {slot} is not that of connection {conn_id}");
            self.error.get_or_insert(PyValueError::new_err(text));
        }
    }

    fn endpoint(&self, endpoint: Endpoint) -> PyResult<Bound<'py, PyTuple>> {
        let py = self.calls.py();
        let ip = endpoint.ip;
        let bits = u128::from(ip.hi) << 64 | u128::from(ip.lo);
        let bytes = if ip.v6 {
            PyBytes::new(py, &bits.to_be_bytes())
        } else {
            PyBytes::new(py, &(bits as u32).to_be_bytes())
        };
        (bytes, endpoint.port).into_pyobject(py)
    }
}

impl FlowSink for Recorder<'_> {
    fn open(&mut self, slot: u32, conn_id: u64, ts_ns: i64, a: Endpoint, b: Endpoint, syn: bool) {
        let place = slot as usize;
        if place >= self.slots.len() {
            self.slots.resize(place + 1, None);
        }
        if let Some(entry) = self.slots.get_mut(place) {
            if entry.replace(conn_id).is_some() {
                let text = format!("slot {slot} is in use");
                self.error.get_or_insert(PyValueError::new_err(text));
            }
        }
        let call = self.endpoint(a).and_then(|a| {
            let b = self.endpoint(b)?;
            ("open", conn_id, ts_ns, a, b, syn).into_pyobject(self.calls.py())
        });
        self.push(call);
    }

    fn data(&mut self, slot: u32, conn_id: u64, side: u8, ts_ns: i64, need: u64, data: &[u8]) {
        self.expect(slot, conn_id);
        let py = self.calls.py();
        let bytes = PyBytes::new(py, data);
        self.push(("data", conn_id, side, ts_ns, need, bytes, false).into_pyobject(py));
    }

    fn late_data(&mut self, slot: u32, conn_id: u64, side: u8, ts_ns: i64, need: u64, data: &[u8]) {
        self.expect(slot, conn_id);
        let py = self.calls.py();
        let bytes = PyBytes::new(py, data);
        self.push(("data", conn_id, side, ts_ns, need, bytes, true).into_pyobject(py));
    }

    fn gap(&mut self, slot: u32, conn_id: u64, side: u8, ts_ns: i64, n: u64) {
        self.expect(slot, conn_id);
        self.push(("gap", conn_id, side, ts_ns, n).into_pyobject(self.calls.py()));
    }

    fn end(&mut self, slot: u32, conn_id: u64, ts_ns: i64, how: End) {
        self.expect(slot, conn_id);
        if let Some(entry) = self.slots.get_mut(slot as usize) {
            *entry = None;
        }
        self.push(("end", conn_id, ts_ns, how.name()).into_pyobject(self.calls.py()));
    }
}

fn counters_dict<'py>(py: Python<'py>, counters: &Counters) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("connections", counters.connections)?;
    dict.set_item("joined_connections", counters.joined_connections)?;
    dict.set_item("retransmitted_segments", counters.retransmitted_segments)?;
    dict.set_item("duplicate_packets", counters.duplicate_packets)?;
    dict.set_item("keepalives", counters.keepalives)?;
    dict.set_item("late_segments", counters.late_segments)?;
    dict.set_item("out_of_order_segments", counters.out_of_order_segments)?;
    dict.set_item("gaps", counters.gaps)?;
    dict.set_item("gap_bytes", counters.gap_bytes)?;
    dict.set_item("stray_segments", counters.stray_segments)?;
    dict.set_item("buffer_limit_hits", counters.buffer_limit_hits)?;
    dict.set_item("evicted_connections", counters.evicted_connections)?;
    Ok(dict)
}

/// Reassembles a list of segments. Returns the handler's calls, each as a tuple that starts with the
/// method's name, and the counters. `ticks`: (number of segments before it, time), in order.
#[pyfunction]
#[pyo3(signature = (segments, *, connections=65_536, side_buffer=4 << 20, total_buffer=32 << 20, tombstones=65_536, ticks=None))]
fn debug_reassemble<'py>(
    py: Python<'py>,
    segments: Vec<SegmentTuple<'py>>,
    connections: usize,
    side_buffer: u64,
    total_buffer: u64,
    tombstones: usize,
    ticks: Option<Vec<(usize, i64)>>,
) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyDict>)> {
    let mut reassembler = Reassembler::new(Limits {
        connections,
        side_buffer,
        total_buffer,
        tombstones,
    });
    let mut recorder = Recorder {
        calls: PyList::empty(py),
        slots: Vec::new(),
        error: None,
    };
    let ticks = ticks.unwrap_or_default();
    let mut ticks = ticks.iter().peekable();
    for (index, fields) in segments.iter().enumerate() {
        while let Some((_, now_ns)) = ticks.next_if(|(before, _)| *before <= index) {
            reassembler.tick(*now_ns, &mut recorder);
        }
        let (ts_ns, src, dst, sport, dport, seq, ack, flags, payload, wire_len, ident) = fields;
        let segment = Segment {
            ts_ns: *ts_ns,
            src: ip_of(src.as_bytes())?,
            dst: ip_of(dst.as_bytes())?,
            sport: *sport,
            dport: *dport,
            seq: *seq,
            ack: *ack,
            flags: *flags,
            payload: payload.as_bytes(),
            wire_len: *wire_len,
            ident: *ident,
        };
        reassembler.segment(&segment, &mut recorder);
    }
    for (_, now_ns) in ticks {
        reassembler.tick(*now_ns, &mut recorder);
    }
    reassembler.finish(&mut recorder);
    if let Some(error) = recorder.error {
        return Err(error);
    }
    if reassembler.cost() != 0 || reassembler.live() != 0 {
        return Err(PyValueError::new_err("something is left"));
    }
    let counters = counters_dict(py, reassembler.counters())?;
    Ok((recorder.calls, counters))
}

/// Adds what this file has to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(debug_reassemble, module)?)
}
