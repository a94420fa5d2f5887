//! Live capture for `zktrace.engine.native`: packets go from the kernel's ring to the decoder without
//! Python in between.

use std::io;
use std::time::Duration;

use pyo3::exceptions::{PyNotImplementedError, PyOSError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::live::{Capture, Form, Instruction, Interface, Spec};
use crate::python::Engine;

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

    /// Hands packets that are there to an engine, for up to `budget_ms` and up to `most` of them. Gives
    /// their number, whether no more wait, and the engine's waiting rows.
    fn turn(
        &mut self,
        py: Python<'_>,
        engine: &Bound<'_, Engine>,
        budget_ms: u64,
        most: u64,
    ) -> PyResult<(u64, bool, usize)> {
        let mut engine = engine.try_borrow_mut()?;
        let (decoder, capture) = (&mut engine.decoder, &mut self.capture);
        let budget = Duration::from_millis(budget_ms);
        let turn = py.detach(|| {
            capture.turn(budget, most, &mut |packet| {
                decoder.packet(packet);
            })
        });
        Ok((turn.packets, turn.idle, engine.waiting()))
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
