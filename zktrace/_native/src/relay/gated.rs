//! Moves what goes through a gate: reads into it, sends what its lanes have due, and keeps its time.

use std::io::ErrorKind;
use std::task::{ready, Context, Poll};
use std::time::Instant;

use tokio::time::sleep_until;

use super::desk::Message;
use super::facts::Facts;
use super::gate::{Around, Gate};
use super::pair::{End, Pair, SCRATCH, TURNS};
use super::program::Tri;
use super::rules::Rules;
use super::takeover;
use super::tap::now_ns;

impl Drop for Pair {
    fn drop(&mut self) {
        if self.asked {
            self.shared.desk.forget(self.number);
        }
    }
}

impl Pair {
    /// These are in force from now on.
    pub fn given(&mut self, rules: Rules) {
        self.rules = rules;
        self.look();
    }

    /// Rules or the session are new: whether there has to be a gate.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        if self.gate.is_none() {
            let [client, server] = self.flow.ends();
            let session = self.track.session.map(|session| session.id);
            let facts = Facts::of(client, server, session);
            if self
                .rules
                .iter()
                .all(|rule| rule.over() || rule.concerns(&facts) == Tri::No)
            {
                return;
            }
            let mut gate = Gate::new(self.number, client, server, &self.track, now);
            for (lane, half) in gate.lanes.iter_mut().zip(&mut self.halves) {
                let spill = std::mem::take(&mut half.spill);
                lane.push(spill[half.sent..].to_vec(), now, now, true, true);
                half.sent = 0;
                if half.ended && !half.told {
                    lane.push_end(now);
                }
            }
            self.gate = Some(Box::new(gate));
        }
        self.around(now, |gate, around| gate.look(around));
    }

    /// Lets the gate do something, and tells the tap what it has decided.
    fn around(&mut self, now: Instant, act: impl FnOnce(&mut Gate, &mut Around<'_>)) {
        let Some(gate) = self.gate.as_mut() else {
            return;
        };
        let mut around = Around {
            rules: &self.rules,
            ops: &self.shared.ops,
            decisions: &self.shared.decisions,
            desk: &self.shared.desk,
            max_frame: self.shared.max_frame,
            track: &mut self.track,
            now,
        };
        act(gate, &mut around);
        for note in gate.notes.drain(..) {
            self.flow.note(&mut self.shared.tapping(), &note, now_ns());
        }
        if std::mem::take(&mut gate.moving) {
            self.holding = takeover::begin(
                &self.shared,
                &self.flow,
                &self.track,
                &self.others,
                self.orders.borrow().tls.clone(),
            );
        }
    }

    /// Sends what is due. Blocked or early: Pending, and woken in time.
    fn pump(&mut self, from: usize, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let to = 1 - from;
        let now = Instant::now();
        loop {
            let Some(gate) = self.gate.as_mut() else {
                return Poll::Ready(Ok(()));
            };
            let Some(piece) = gate.lanes[from].due(now) else {
                break;
            };
            if piece.end {
                // It fails when that side is gone, which reading from it tells.
                let _ = ready!(self.sockets[to].poll_end(cx));
                gate.lanes[from].sent(0);
                self.halves[from].told = true;
                if from == 1 {
                    self.flow.fin(&mut self.shared.tapping(), 1, now_ns());
                }
                continue;
            }
            let rest = &piece.bytes[piece.start..];
            match self.sockets[to].try_write(rest) {
                Ok(count) => {
                    if from == 1 && !piece.tapped {
                        self.flow
                            .data(&mut self.shared.tapping(), 1, &rest[..count], now_ns());
                    }
                    gate.lanes[from].sent(count);
                    self.halves[from].blocked = false;
                    self.slow = None;
                    super::add(self.count(from), count as u64);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.halves[from].blocked = true;
                    if ready!(self.sockets[to].poll_write_ready(cx)).is_err() {
                        return Poll::Ready(Err(End::Reset(to)));
                    }
                }
                Err(_) => return Poll::Ready(Err(End::Reset(to))),
            }
        }
        self.halves[from].blocked = self.sockets[to].holds();
        let flushed = ready!(self.sockets[to].poll_flushed(cx));
        self.halves[from].blocked = false;
        Poll::Ready(flushed.map_err(|_| End::Reset(to)))
    }

    /// As `step`, with a gate.
    pub(super) fn gated(&mut self, from: usize, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        for _ in 0..TURNS {
            if let Poll::Ready(Err(end)) = self.pump(from, cx) {
                return Poll::Ready(Err(end));
            }
            if self.halves[from].told {
                return Poll::Ready(Ok(()));
            }
            let limit = self.shared.spill_limit;
            let wants = self
                .gate
                .as_ref()
                .is_some_and(|gate| !gate.ended && gate.wants(from, limit));
            if self.halves[from].ended || !wants || self.shared.tap.borrow_mut().must_wait(cx) {
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

    /// What was read; nothing: the end.
    pub(super) fn gated_chunk(&mut self, from: usize, data: &[u8]) {
        let now = Instant::now();
        if data.is_empty() {
            self.halves[from].ended = true;
            if from == 0 {
                self.flow.fin(&mut self.shared.tapping(), 0, now_ns());
            }
            self.around(now, |gate, _| gate.finish(from, now));
            return;
        }
        if from == 0 {
            self.flow
                .data(&mut self.shared.tapping(), 0, data, now_ns());
        }
        self.around(now, |gate, around| gate.input(from, data, around));
    }

    /// What time brings to the gate; whether it ends the connection.
    pub(super) fn gate_time(&mut self, cx: &mut Context<'_>) -> Option<End> {
        self.gate.as_ref()?;
        let now = Instant::now();
        self.around(now, |gate, around| gate.tick(around));
        if self.gate.as_ref().is_some_and(|gate| gate.asks) {
            self.asked = true;
        }
        if self.asked {
            for message in self.shared.desk.clone().take(self.number, cx.waker()) {
                self.around(now, |gate, around| match message {
                    Message::Verdict(ticket, verdict) => gate.resolve(ticket, verdict, around),
                    Message::Inject(frame) => gate.inject(frame, now),
                });
            }
        }
        self.ended_by_rule()
    }

    fn ended_by_rule(&mut self) -> Option<End> {
        let gate = self.gate.as_ref()?;
        if gate.ended {
            self.flow.reset(&mut self.shared.tapping(), 1, now_ns());
            return Some(End::Fault);
        }
        let cut = gate.lanes.iter().any(|lane| lane.cut && lane.is_empty());
        if cut {
            let ts_ns = now_ns();
            for side in [0, 1] {
                self.flow.fin(&mut self.shared.tapping(), side, ts_ns);
            }
            return Some(End::Cut);
        }
        None
    }

    /// After both directions were moved: whether a rule ends the connection, when to look again, whether the gate can go.
    pub(super) fn gate_end(&mut self, cx: &mut Context<'_>) -> Option<End> {
        if let Some(end) = self.ended_by_rule() {
            return Some(end);
        }
        let gate = self.gate.as_ref()?;
        if !gate.needed() && self.halves.iter().all(|half| half.told || !half.ended) {
            self.gate = None;
            self.timer = None;
            // The short way has to register for what comes.
            cx.waker().wake_by_ref();
            return None;
        }
        let blocked = [0, 1].map(|from| self.halves[from].blocked);
        let Some(next) = gate.next(blocked) else {
            self.timer = None;
            return None;
        };
        let at = tokio::time::Instant::from_std(next);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        if std::future::Future::poll(timer.as_mut(), cx).is_ready() {
            self.timer = None;
            cx.waker().wake_by_ref();
        }
        None
    }
}
