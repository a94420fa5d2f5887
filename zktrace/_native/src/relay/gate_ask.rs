//! Frames of a gate that someone outside decides about (`desk`): what waits meanwhile, and what becomes of it.
//!
//! The direction that such a frame came in waits, the other one does not. A verdict that does not come in time is made by the
//! rule: the frame passes, or the connection is reset.

use std::sync::Arc;
use std::time::Instant;

use super::desk::{Question, Verdict};
use super::facts::Request;
use super::gate::{Around, Gate, Pending};
use super::rules::Rule;

/// A frame that waits for its verdict.
#[derive(Debug)]
pub(super) struct Asking {
    pub kind: &'static str,
    /// The rule to go on with.
    pub next: usize,
    pub frame: Vec<u8>,
    /// Of a reply: what was asked.
    pub pending: Option<Pending>,
    pub until: Instant,
    pub open: bool,
    pub rule: Arc<Rule>,
}

impl Gate {
    pub(super) fn ask(
        &mut self,
        asking: Asking,
        request: Option<&Request>,
        around: &mut Around<'_>,
    ) {
        self.tickets += 1;
        let from = usize::from(asking.kind != "request");
        around.desk.ask(Question {
            connection: self.connection,
            ticket: self.tickets,
            rule: asking.rule.definition.id,
            kind: asking.kind,
            client: self.client,
            server: self.server,
            session: around.track.session.map(|session| session.id),
            opcode: request.map(|request| request.opcode),
            path: request.and_then(|request| request.path.clone()),
            xid: request.map_or(0, |request| request.xid),
            frame: asking.frame.clone(),
        });
        self.asking[from] = Some((self.tickets, asking));
    }

    /// A verdict; one that comes too late is about nothing.
    pub fn resolve(&mut self, ticket: u64, verdict: Verdict, around: &mut Around<'_>) {
        let which =
            |one: &Option<(u64, Asking)>| one.as_ref().is_some_and(|(own, _)| *own == ticket);
        let Some(from) = self.asking.iter().position(which) else {
            return;
        };
        let Some((_, asking)) = self.asking[from].take() else {
            return;
        };
        self.decided(from, asking, verdict, around);
    }

    fn decided(&mut self, from: usize, asking: Asking, verdict: Verdict, around: &mut Around<'_>) {
        let now = around.now;
        let session = around.track.session.map(|session| session.id);
        let request = match asking.kind {
            "request" => Request::read(&asking.frame, around.ops),
            _ => asking.pending.as_ref().and_then(|one| one.request.clone()),
        };
        let said = match &verdict {
            Verdict::Pass => None,
            Verdict::Replace(_) => Some("changed by a hook"),
            Verdict::Answer(_) => Some("answered by a hook, not sent to the server"),
            Verdict::Drop => Some("not passed on, by a hook"),
            Verdict::Close => Some("this connection is reset by a hook"),
        };
        if let Some(said) = said {
            let rule = Arc::clone(&asking.rule);
            self.decide(around.decisions, &rule, request.as_ref(), session, said);
        }
        match verdict {
            Verdict::Pass => self.goes_on(asking, around),
            Verdict::Replace(frame) => self.goes_on(Asking { frame, ..asking }, around),
            Verdict::Answer(answer) if from == 0 => self.pending.push_back(Pending {
                request,
                since: now,
                asked: Vec::new(),
                answer: Some(answer),
            }),
            Verdict::Answer(frame) => self.goes_on(Asking { frame, ..asking }, around),
            Verdict::Drop => {}
            Verdict::Close => self.ended = true,
        }
        self.settle(now);
        // What came behind it.
        self.input(from, &[], around);
    }

    fn goes_on(&mut self, asking: Asking, around: &mut Around<'_>) {
        let Asking {
            kind,
            next,
            frame,
            pending,
            ..
        } = asking;
        match kind {
            "request" => self.request(frame, false, next, around),
            "reply" => self.answer(frame, pending, false, next, around),
            _ => self.event(frame, next, around),
        }
    }

    /// Those who should have decided did not.
    pub(super) fn overdue(&mut self, around: &mut Around<'_>) {
        for from in [0, 1] {
            let late = |(_, asking): &mut (u64, Asking)| asking.until <= around.now;
            let Some((_, asking)) = self.asking[from].take_if(late) else {
                continue;
            };
            let session = around.track.session.map(|session| session.id);
            let request = Request::read(&asking.frame, around.ops).filter(|_| from == 0);
            let (said, verdict) = if asking.open {
                ("the hook did not answer in time: it passes", Verdict::Pass)
            } else {
                (
                    "the hook did not answer in time: this connection is reset",
                    Verdict::Close,
                )
            };
            let rule = Arc::clone(&asking.rule);
            self.decide(around.decisions, &rule, request.as_ref(), session, said);
            let verdict = match verdict {
                Verdict::Close => {
                    self.ended = true;
                    continue;
                }
                other => other,
            };
            self.decided(from, asking, verdict, around);
        }
    }

    /// A frame for the client that no server sent.
    pub fn inject(&mut self, frame: Vec<u8>, now: Instant) {
        if !self.mute && self.expiring.is_none() {
            self.lanes[1].push_late(frame, now);
        }
    }
}
