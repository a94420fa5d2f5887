//! The capture layer for Python tests alone: they hold it against the Python engine's without going
//! through the layers above. Blocks are fed from memory.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::container::Packet;
use crate::counters::CaptureCounters;
use crate::decap::Decapsulator;
use crate::ip::{Ip, Segment};
use crate::merge::{Merger, SourceError};

/// A segment as `zktrace.capture.segment.Segment` has it.
type Row = (
    i64,
    Py<PyBytes>,
    Py<PyBytes>,
    u16,
    u16,
    u32,
    u32,
    u8,
    Py<PyBytes>,
    u32,
    u16,
);

fn address(py: Python<'_>, ip: Ip) -> Py<PyBytes> {
    let mut bytes = [0; 16];
    let (high, low) = bytes.split_at_mut(8);
    high.copy_from_slice(&ip.hi.to_be_bytes());
    low.copy_from_slice(&ip.lo.to_be_bytes());
    let used = if ip.v6 { &bytes[..] } else { &bytes[12..] };
    PyBytes::new(py, used).unbind()
}

fn row(py: Python<'_>, segment: &Segment<'_>) -> Row {
    (
        segment.ts_ns,
        address(py, segment.src),
        address(py, segment.dst),
        segment.sport,
        segment.dport,
        segment.seq,
        segment.ack,
        segment.flags,
        PyBytes::new(py, segment.payload).unbind(),
        segment.wire_len,
        segment.ident,
    )
}

/// Reads sources as the engine would: `first_ts` as for `Merger::of`, blocks of `block` bytes.
fn read(
    sources: &[Vec<u8>],
    first_ts: &[Option<i64>],
    block: usize,
    mut out: impl FnMut(Segment<'_>),
) -> PyResult<CaptureCounters> {
    let mut merger = Merger::of(first_ts);
    let mut decapsulator = Decapsulator::new();
    let mut blocks: Vec<_> = sources.iter().map(|s| s.chunks(block.max(1))).collect();
    while let Some(index) = merger.wants() {
        let mut take = |packet: Packet<'_>| decapsulator.packet(packet, &mut out);
        let source = blocks.get_mut(index).and_then(Iterator::next);
        match source {
            Some(data) => merger.feed(index, data, &mut take),
            None => merger.finish(index, &mut take),
        }
        .map_err(|SourceError { source, reason }| PyValueError::new_err((source, reason)))?;
    }
    decapsulator.finish();
    let mut counters = merger.counters();
    counters.add(&decapsulator.counters);
    Ok(counters)
}

/// Segments of one capture. Raises ValueError(0, reason) on what is none.
#[pyfunction]
fn _debug_segments(py: Python<'_>, data: Vec<u8>, block: usize) -> PyResult<Vec<Row>> {
    _debug_merged_segments(py, vec![data], vec![None], block)
}

/// Segments of several captures in time order.
#[pyfunction]
fn _debug_merged_segments(
    py: Python<'_>,
    sources: Vec<Vec<u8>>,
    first_ts: Vec<Option<i64>>,
    block: usize,
) -> PyResult<Vec<Row>> {
    let mut rows = Vec::new();
    read(&sources, &first_ts, block, |segment| {
        rows.push(row(py, &segment));
    })?;
    Ok(rows)
}

/// Counters of one capture, named as the fields of `CaptureCounters` in Python.
#[pyfunction]
fn _debug_capture_counters(
    py: Python<'_>,
    data: Vec<u8>,
    block: usize,
) -> PyResult<Bound<'_, PyDict>> {
    let counters = read(&[data], &[None], block, |_| {})?;
    counters_dict(py, &counters)
}

/// Counters by the names that they have in Python.
pub fn counters_dict<'py>(
    py: Python<'py>,
    counters: &CaptureCounters,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("packets", counters.packets)?;
    dict.set_item("bytes", counters.bytes)?;
    dict.set_item("first_ts_ns", counters.first_ts_ns)?;
    dict.set_item("last_ts_ns", counters.last_ts_ns)?;
    dict.set_item("tcp_segments", counters.tcp_segments)?;
    dict.set_item("other_packets", counters.other_packets)?;
    dict.set_item("undecoded_packets", counters.undecoded_packets)?;
    let linktypes = PyDict::new(py);
    for (linktype, count) in &counters.undecoded_linktypes {
        linktypes.set_item(linktype, count)?;
    }
    dict.set_item("undecoded_linktypes", linktypes)?;
    dict.set_item("malformed_packets", counters.malformed_packets)?;
    dict.set_item("truncated", counters.truncated)?;
    dict.set_item("fragments_dropped", counters.fragments_dropped)?;
    dict.set_item("damaged_bytes", counters.damaged_bytes)?;
    dict.set_item("damaged_places", counters.damaged_places)?;
    dict.set_item("filtered", counters.filtered)?;
    dict.set_item("kernel_drops", counters.kernel_drops)?;
    Ok(dict)
}

/// An address of 4 or 16 bytes as the native engine prints it.
#[pyfunction]
fn _debug_ip_text(ip: &[u8]) -> PyResult<String> {
    let ip = match *ip {
        [a, b, c, d] => Ip::from_v4(u32::from_be_bytes([a, b, c, d])),
        _ => {
            let bytes: [u8; 16] = ip.try_into()?;
            let bits = u128::from_be_bytes(bytes);
            Ip::from_v6((bits >> 64) as u64, bits as u64)
        }
    };
    Ok(ip.to_string())
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_debug_segments, module)?)?;
    module.add_function(wrap_pyfunction!(_debug_merged_segments, module)?)?;
    module.add_function(wrap_pyfunction!(_debug_capture_counters, module)?)?;
    module.add_function(wrap_pyfunction!(_debug_ip_text, module)?)?;
    Ok(())
}
