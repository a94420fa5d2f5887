//! One connection: two sockets, and what goes from each to the other.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, Sleep};

use super::gate::Gate;
use super::rules::Rules;
use super::serve::{Orders, Shared};
use super::tap::{now_ns, TapFlow, CHUNK};
use super::track::Track;
use super::upstreams::Upstream;
use super::wire::Wire;

/// Reads of one direction before others have their turn.
pub(super) const TURNS: usize = 16;

thread_local! {
    /// What is read goes here first, and mostly on from here: an idle connection has no buffer.
    pub(super) static SCRATCH: RefCell<Box<[u8; CHUNK]>> = RefCell::new(Box::new([0; CHUNK]));
}

/// What came from one side and is for the other.
#[derive(Default)]
pub(super) struct Half {
    /// Not yet taken by the socket, from `sent` on.
    pub(super) spill: Vec<u8>,
    pub(super) sent: usize,
    /// No more will come.
    pub(super) ended: bool,
    /// The other side has been told so.
    pub(super) told: bool,
    /// With a gate: the other side does not take what it is to have.
    pub(super) blocked: bool,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides closed.
    Closed,
    /// This side reset it, or was gone when it was written to.
    Reset(usize),
    /// This side did not read for too long.
    Slow(usize),
    /// A rule wants it reset, or closed.
    Fault,
    Cut,
    /// It was to end, and nothing was under way.
    Drained,
}

/// The future of a connection; ready when it has ended.
pub struct Pair {
    pub(super) shared: Rc<Shared>,
    /// Client, server.
    pub(super) sockets: [Wire; 2],
    /// From the client, from the server.
    pub(super) halves: [Half; 2],
    pub(super) flow: TapFlow,
    /// Runs while something waits to be sent and nothing of it is taken.
    pub(super) slow: Option<Pin<Box<Sleep>>>,
    pub(super) track: Track,
    /// Rules that are given meanwhile.
    pub(super) orders: watch::Receiver<Orders>,
    pub(super) rules: Rules,
    /// Where rules may concern the connection.
    pub(super) gate: Option<Box<Gate>>,
    /// Until the gate has something to do.
    pub(super) timer: Option<Pin<Box<Sleep>>>,
    /// Which connection it is to the desk, and whether the desk knows it.
    pub(super) number: u64,
    pub(super) asked: bool,
    /// It is to end as soon as nothing is under way.
    pub draining: bool,
    /// Servers that its session could be moved to.
    pub(super) others: Vec<Upstream>,
    /// Whoever holds the session at another server, until this is dropped.
    pub(super) holding: Option<oneshot::Sender<()>>,
}

impl Pair {
    pub fn new(
        shared: Rc<Shared>,
        client: Wire,
        server: Wire,
        flow: TapFlow,
        orders: watch::Receiver<Orders>,
        others: Vec<Upstream>,
    ) -> Self {
        let rules = Arc::clone(&orders.borrow().rules);
        let number = shared.numbered();
        let mut pair = Self {
            shared,
            sockets: [client, server],
            halves: Default::default(),
            flow,
            slow: None,
            track: Track::default(),
            orders,
            rules,
            gate: None,
            timer: None,
            number,
            asked: false,
            draining: false,
            others,
            holding: None,
        };
        pair.look();
        pair
    }

    /// A part of a time, from 0 to 1, another one for each connection.
    #[must_use]
    pub fn spread(&self) -> f64 {
        // The golden ratio's multiples are spread evenly.
        (self.number as f64 * 0.618_033_988_749_895).fract() * 0.9
    }

    /// Between two frames on both sides, and all that was asked is answered. Never of what is no ZooKeeper.
    fn idle(&self) -> bool {
        self.track.outstanding == 0
            && self.track.session.is_some()
            && [0, 1].iter().all(|&from| self.track.left(from) == Some(0))
            && self.halves.iter().all(|half| half.spill.is_empty())
            && !self.sockets.iter().any(Wire::holds)
            && self.gate.as_ref().is_none_or(|gate| gate.idle())
    }

    /// Ends both sides with a reset rather than an orderly close.
    pub fn reset(&mut self) {
        for socket in &mut self.sockets {
            socket.reset();
        }
    }

    pub(super) fn count(&self, from: usize) -> &AtomicU64 {
        let counters = &self.shared.counters;
        if from == 0 {
            &counters.bytes_to_server
        } else {
            &counters.bytes_to_client
        }
    }

    /// Sends what waits. Ready: nothing waits any more.
    fn flush(&mut self, from: usize, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let to = 1 - from;
        let half = &mut self.halves[from];
        while half.sent < half.spill.len() {
            match self.sockets[to].try_write(&half.spill[half.sent..]) {
                Ok(count) => {
                    half.sent += count;
                    self.slow = None;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if ready!(self.sockets[to].poll_write_ready(cx)).is_err() {
                        return Poll::Ready(Err(End::Reset(to)));
                    }
                }
                Err(_) => return Poll::Ready(Err(End::Reset(to))),
            }
        }
        half.spill = Vec::new();
        half.sent = 0;
        let flushed = ready!(self.sockets[to].poll_flushed(cx));
        Poll::Ready(flushed.map_err(|_| End::Reset(to)))
    }

    /// Moves what there is in one direction. Ready: no more will come from there, and the other side knows.
    fn step(&mut self, from: usize, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let to = 1 - from;
        for _ in 0..TURNS {
            if self.gate.is_some() {
                return self.gated(from, cx);
            }
            if let Err(end) = ready!(self.flush(from, cx)) {
                return Poll::Ready(Err(end));
            }
            if self.halves[from].ended {
                if !self.halves[from].told {
                    // It fails when that side is gone, which reading from it tells.
                    let _ = ready!(self.sockets[to].poll_end(cx));
                    self.halves[from].told = true;
                }
                return Poll::Ready(Ok(()));
            }
            if self.shared.tap.borrow_mut().must_wait(cx) {
                return Poll::Pending;
            }
            let read = SCRATCH.with_borrow_mut(|scratch| self.chunk(from, &mut scratch[..], cx));
            if ready!(read).is_err() {
                return Poll::Ready(Err(End::Reset(from)));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once: stamps it, sends it on, and only then copies it.
    pub(super) fn chunk(
        &mut self,
        from: usize,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let room = self.shared.spill_limit.min(scratch.len());
        let count = ready!(self.sockets[from].poll_read(cx, &mut scratch[..room]))?;
        // Behind reading: what was sent after a rule had been given is subject to it.
        if self.orders.has_changed().unwrap_or(false) {
            let rules = Arc::clone(&self.orders.borrow_and_update().rules);
            self.given(rules);
        }
        if self.gate.is_some() {
            self.gated_chunk(from, &scratch[..count]);
            return Poll::Ready(Ok(()));
        }
        let ts_ns = now_ns();
        if count == 0 {
            self.halves[from].ended = true;
            self.flow.fin(&mut self.shared.tapping(), from, ts_ns);
            return Poll::Ready(Ok(()));
        }
        // What went wrong with the other side is found when the rest is sent, or when it is read.
        let sent = self.sockets[1 - from]
            .try_write(&scratch[..count])
            .unwrap_or(0);
        if sent < count {
            self.halves[from]
                .spill
                .extend_from_slice(&scratch[sent..count]);
        }
        self.flow
            .data(&mut self.shared.tapping(), from, &scratch[..count], ts_ns);
        super::add(self.count(from), count as u64);
        if self.track.pass(from, &scratch[..count]) && !self.rules.is_empty() {
            self.look();
        }
        Poll::Ready(Ok(()))
    }

    /// Whether one side has taken nothing of what waits for it for too long.
    fn too_slow(&mut self, limit: Duration, cx: &mut Context<'_>) -> Option<End> {
        let waits = |from: &usize| {
            let half = &self.halves[*from];
            half.blocked || !half.spill.is_empty() || self.sockets[1 - from].holds()
        };
        let from = [0, 1].into_iter().find(waits);
        let Some(from) = from else {
            self.slow = None;
            return None;
        };
        let timer = self.slow.get_or_insert_with(|| Box::pin(sleep(limit)));
        timer
            .as_mut()
            .poll(cx)
            .is_ready()
            .then_some(End::Slow(1 - from))
    }
}

impl Future for Pair {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let this = self.get_mut();
        let mut done = 0;
        if let Some(end) = this.gate_time(cx) {
            return Poll::Ready(end);
        }
        for from in [0, 1] {
            match this.step(from, cx) {
                Poll::Ready(Ok(())) => done += 1,
                Poll::Ready(Err(end)) => {
                    if let End::Reset(side) | End::Slow(side) = end {
                        this.flow.reset(&mut this.shared.tapping(), side, now_ns());
                    }
                    return Poll::Ready(end);
                }
                Poll::Pending => {}
            }
        }
        if let Some(end) = this.gate_end(cx) {
            return Poll::Ready(end);
        }
        if done == 2 {
            return Poll::Ready(End::Closed);
        }
        if this.draining && this.idle() {
            let ts_ns = now_ns();
            for side in [0, 1] {
                this.flow.fin(&mut this.shared.tapping(), side, ts_ns);
            }
            return Poll::Ready(End::Drained);
        }
        if let Some(end) = this
            .shared
            .slow_reader
            .and_then(|limit| this.too_slow(limit, cx))
        {
            this.flow.reset(&mut this.shared.tapping(), 1, now_ns());
            return Poll::Ready(end);
        }
        Poll::Pending
    }
}
