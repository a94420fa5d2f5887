//! Live capture for `zktrace.engine.native`: packets go from the kernel's ring to the decoder without
//! Python in between.

use std::io;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyNotImplementedError, PyOSError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::live::{Capture, Form, Instruction, Interface, Spec};
use crate::python::Engine;

/// The engine is kept from those who ask for so long.
const SLICE: Duration = Duration::from_millis(2);

/// Sockets that capture, see `zktrace.capture.live.Capture`.
#[pyclass(module = "zktrace._native")]
pub struct LiveCapture {
    capture: Capture,
}

fn os_error(error: io::Error) -> PyErr {
    match error.raw_os_error() {
        // Python makes the subclass that fits, PermissionError and the like.
        Some(number) => PyOSError::new_err((number, text(&error))),
        None if error.kind() == io::ErrorKind::Unsupported => {
            PyNotImplementedError::new_err(error.to_string())
        }
        None => PyOSError::new_err(error.to_string()),
    }
}

/// An error's text without its number, which Rust puts behind it and Python before it.
pub(crate) fn text(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text.get(..end).unwrap_or_default().to_owned()
}

#[pymethods]
impl LiveCapture {
    /// `interfaces`: number and whether it is the loopback one. `record`: pcap, pcapng, or nothing.
    #[new]
    #[pyo3(signature = (interfaces, program, *, cooked, promiscuous, ring_bytes, block_ms, record))]
    fn new(
        interfaces: Vec<(u32, bool)>,
        program: Vec<Instruction>,
        cooked: bool,
        promiscuous: bool,
        ring_bytes: usize,
        block_ms: u32,
        record: &str,
    ) -> PyResult<Self> {
        let interfaces = interfaces
            .into_iter()
            .map(|(index, loopback)| Interface { index, loopback })
            .collect();
        let spec = Spec {
            interfaces,
            cooked,
            program,
            promiscuous,
            ring_bytes,
            block_ms,
            record: match record {
                "pcap" => Some(Form::Pcap),
                "pcapng" => Some(Form::Pcapng),
                _ => None,
            },
        };
        let capture = Capture::open(&spec).map_err(os_error)?;
        Ok(LiveCapture { capture })
    }

    /// Waits for packets, up to `timeout_ms`. Gives whether an interface is down.
    fn wait(&mut self, py: Python<'_>, timeout_ms: i32) -> PyResult<bool> {
        let capture = &mut self.capture;
        py.detach(|| capture.wait(timeout_ms)).map_err(os_error)
    }

    /// Hands packets to an engine, for up to `budget_ms` and up to `most` of them; with `stay` it waits for
    /// more for all of that time. Gives their number, whether no more wait, the engine's waiting rows,
    /// and whether an interface is down.
    #[pyo3(signature = (engine, budget_ms, most, stay=false))]
    fn turn(
        &mut self,
        py: Python<'_>,
        engine: &Bound<'_, Engine>,
        budget_ms: u64,
        most: u64,
        stay: bool,
    ) -> PyResult<(u64, bool, usize, bool)> {
        let (shared, capture) = (&engine.get().shared, &mut self.capture);
        let (began, budget) = (Instant::now(), Duration::from_millis(budget_ms));
        let turn = py.detach(|| {
            let (mut packets, mut idle, mut rows, mut down) = (0, false, 0, false);
            loop {
                let left = budget.saturating_sub(began.elapsed());
                if stay && idle {
                    let wait = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
                    let began = Instant::now();
                    down = capture.wait(wait)?;
                    // A signal ended the waiting, or nothing came.
                    let early = began.elapsed() < Duration::from_millis(left.as_millis() as u64);
                    if down || (early && !capture.ready()) {
                        return Ok((packets, idle, rows, down));
                    }
                }
                let slice = left.min(SLICE);
                let turn = shared.feeding(|inner| {
                    let turn = capture.turn(slice, most - packets, &mut |packet| {
                        inner.decoder.packet(packet);
                    });
                    rows = inner.waiting();
                    turn
                });
                packets += turn.packets;
                idle = turn.idle;
                let over = packets >= most || began.elapsed() >= budget;
                if over || (idle && !stay) {
                    return Ok((packets, idle, rows, down));
                }
            }
        });
        turn.map_err(os_error)
    }

    /// Forgets what was captured and lost so far.
    fn discard(&mut self) -> PyResult<()> {
        self.capture.discard().map_err(os_error)
    }

    /// Puts another filter in place of the one it was opened with.
    fn filter(&mut self, program: Vec<Instruction>) -> PyResult<()> {
        self.capture.filter(&program).map_err(os_error)
    }

    /// Packets lost in the kernel so far.
    fn drops(&mut self) -> PyResult<u64> {
        self.capture.drops().map_err(os_error)
    }

    /// Records of a file, of the packets since the last call.
    fn take_records<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.capture.take_records())
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<LiveCapture>()
}
