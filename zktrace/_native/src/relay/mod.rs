//! The data plane of the inline proxy: bytes from client to server and back, and a copy for the decoder.
//!
//! One thread with a loop of its own, which never takes Python's lock. A connection's bytes are sent on at once,
//! then copied to the tap (`tap`), as packets of a pcapng stream: what decodes and what records read the same
//! bytes as from any capture. What cannot be sent waits in a bounded buffer, and meanwhile nothing more is read from
//! the side that it came from (`pair`). A side is a socket, or TLS over one (`wire`; `tls` has certificates and keys): what is
//! copied is decrypted then. `dial` finds a server for a connection.
//!
//! Each connection's frames are counted as they pass (`track`). Where a rule (`rules`) may concern it, its bytes go through a
//! `gate`, which puts frames together, asks the rules about them (`facts`), and lets what passes into the `lane` of its
//! direction; `gated` moves what is in the lanes. All other connections stay on the short way. What rules did is told
//! (`decisions`), and noted in the tap, which shows the client's side of what happens: requests as clients sent them, replies as
//! clients got them.
//!
//! `recording` writes the tap's packets to files, without secrets (`redact`), and of them, if need be, only what a filter lets through (`sieve`). Must not know: Python; and what relays, what
//! the bytes mean.

pub mod decisions;
pub mod desk;
mod dial;
pub mod facts;
mod gate;
mod gate_ask;
mod gate_frames;
mod gated;
mod lane;
pub mod notices;
mod pair;
pub mod program;
pub mod recording;
pub mod redact;
mod redact_bodies;
pub mod rules;
mod serve;
mod sieve;
mod stale;
mod takeover;
mod tap;
#[cfg(test)]
mod tests;
pub mod tls;
mod track;
pub mod upstreams;
mod wire;

pub use serve::{start, Relay};
pub use tap::{Queue, SNAPLEN};

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What the proxy does; all that has to be known at the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect, and where each listener leads.
    pub listeners: Vec<Listener>,
    /// Bytes that wait to be sent, per direction of a connection; beyond, its source is not read.
    pub spill_limit: usize,
    /// Longest time that bytes may wait to be sent; then the connection is reset. None: for ever.
    pub slow_reader: Option<Duration>,
    /// How long one upstream may take to accept.
    pub connect_timeout: Duration,
    /// Connections at once; beyond, new ones are reset.
    pub max_connections: usize,
    pub when_down: WhenDown,
    /// Frames up to this size are put together where rules concern a connection; larger ones pass unseen.
    pub max_frame: usize,
    /// What rules need to know of the schema.
    pub ops: facts::Ops,
    /// In force from the start.
    pub rules: Vec<rules::Definition>,
    /// What clients and servers speak.
    pub tls: tls::Tls,
}

/// What a client gets while no server behind its listener accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenDown {
    /// It waits: servers are tried again for as long as it stays.
    Accept,
    /// A reset.
    Reset,
    /// A reset, and those who come after it are refused by the kernel until a server accepts again.
    CloseListener,
}

/// An address to listen on, and the servers behind it.
#[derive(Clone, Debug)]
pub struct Listener {
    pub address: SocketAddr,
    pub upstreams: Vec<upstreams::Upstream>,
}

/// What happened so far. Only grows, but for `open`.
#[derive(Debug, Default)]
pub struct Counters {
    pub accepted: AtomicU64,
    pub open: AtomicU64,
    /// No upstream accepted.
    pub unreachable: AtomicU64,
    /// Attempts at an upstream that failed.
    pub upstream_failures: AtomicU64,
    /// Clients with whom TLS failed.
    pub tls_failures: AtomicU64,
    /// Over `max_connections`.
    pub refused: AtomicU64,
    /// Ended by a reset of one side, which the other was given, too.
    pub resets: AtomicU64,
    /// Reset because they did not read for longer than `slow_reader`.
    pub slow_readers: AtomicU64,
    /// Accepting failed, as when there are no more descriptors.
    pub accept_failures: AtomicU64,
    pub bytes_to_server: AtomicU64,
    pub bytes_to_client: AtomicU64,
    /// Ended between two frames, since the proxy was to end.
    pub drained: AtomicU64,
    /// Ended by a rule.
    pub faulted: AtomicU64,
    /// Packets and bytes that the tap left out.
    pub tap_lost_packets: AtomicU64,
    pub tap_lost_bytes: AtomicU64,
}

impl Counters {
    /// Names and values.
    #[must_use]
    pub fn all(&self) -> [(&'static str, u64); 15] {
        let read = |value: &AtomicU64| value.load(Relaxed);
        [
            ("accepted", read(&self.accepted)),
            ("open", read(&self.open)),
            ("unreachable", read(&self.unreachable)),
            ("upstream_failures", read(&self.upstream_failures)),
            ("tls_failures", read(&self.tls_failures)),
            ("refused", read(&self.refused)),
            ("resets", read(&self.resets)),
            ("slow_readers", read(&self.slow_readers)),
            ("faulted", read(&self.faulted)),
            ("drained", read(&self.drained)),
            ("accept_failures", read(&self.accept_failures)),
            ("bytes_to_server", read(&self.bytes_to_server)),
            ("bytes_to_client", read(&self.bytes_to_client)),
            ("tap_lost_packets", read(&self.tap_lost_packets)),
            ("tap_lost_bytes", read(&self.tap_lost_bytes)),
        ]
    }
}

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Relaxed);
}
