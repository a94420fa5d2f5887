//! What a gate does with whole frames: asks the rules about a request, a reply, a watch event, and lets what is left of it
//! go on.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::facts::{int, long, text, Facts, Request, EVENT, REPLY_BODY};
use super::gate::{Around, Gate, Pending};
use super::gate_ask::Asking;
use super::rules::{Action, At, Rule};
use super::track::EVENT_XID;

/// Of the request that closes a session in its client's name; clients count upwards from 1.
const EXPIRE_XID: i32 = i32::MAX;
const CLOSE_SESSION: i32 = -11;
/// How long the server may take to close a session.
const EXPIRE_WAIT: Duration = Duration::from_secs(10);

impl Gate {
    pub(super) fn request(
        &mut self,
        frame: Vec<u8>,
        first: bool,
        skip: usize,
        around: &mut Around<'_>,
    ) {
        if self.expiring.is_some() {
            return;
        }
        let now = around.now;
        let session = around.track.session.map(|session| session.id);
        let request = if first {
            self.seen = long(&frame, 8).unwrap_or(0);
            Request::connect(&frame)
        } else {
            match Request::read(&frame, around.ops) {
                Some(request) => request,
                None => {
                    self.lanes[0].push(frame, now, now, true, false);
                    return;
                }
            }
        };
        let mut asked = Vec::new();
        let mut at = now;
        for (number, rule) in Rc::clone(&self.rules).iter().enumerate() {
            if rule.definition.at != At::Request {
                if matches!(rule.definition.action, Action::Stale) {
                    asked = frame[8..].to_vec();
                }
                continue;
            }
            if number < skip {
                continue;
            }
            if !rule.matches(&self.facts(Some(&request), session)) || !rule.fires() {
                continue;
            }
            let say = |gate: &mut Self, words: &str| {
                gate.decide(around.decisions, rule, Some(&request), session, words);
            };
            match rule.definition.action {
                Action::Delay { delay, jitter } => {
                    let delay = rule.jittered(delay, jitter);
                    at += delay;
                    say(
                        self,
                        &format!("the request waits for {} ms", delay.as_millis()),
                    );
                }
                Action::Error { code } if !first => {
                    say(
                        self,
                        &format!("answered with error {code}, not sent to the server"),
                    );
                    let answer = reply(request.xid, self.seen, code);
                    self.pending.push_back(Pending {
                        request: Some(request),
                        since: now,
                        asked,
                        answer: Some(answer),
                    });
                    return;
                }
                Action::Drop { reset } => {
                    say(self, "the request is not sent to the server");
                    self.ended = reset;
                    self.mute = !reset;
                    return;
                }
                Action::Close => {
                    say(self, "this connection is reset");
                    self.ended = true;
                    return;
                }
                Action::Ask { limit, open } if !first => {
                    let asking = Asking {
                        kind: "request",
                        next: number + 1,
                        frame,
                        pending: None,
                        until: now + limit,
                        open,
                        rule: Arc::clone(rule),
                    };
                    self.ask(asking, Some(&request), around);
                    return;
                }
                Action::Expire if session.is_some() => {
                    self.expire(rule, Some(&request), around);
                    return;
                }
                Action::Move if session.is_some() => {
                    say(
                        self,
                        "another server is told that the session has moved to it",
                    );
                    self.moving = true;
                }
                _ => {}
            }
        }
        self.pending.push_back(Pending {
            request: Some(request),
            since: now,
            asked,
            answer: None,
        });
        self.lanes[0].push(frame, at, now, true, false);
    }

    fn facts<'a>(&self, request: Option<&'a Request>, session: Option<u64>) -> Facts<'a> {
        let facts = Facts::of(self.client, self.server, session);
        match request {
            Some(request) => facts.asked(request),
            None => facts,
        }
    }

    /// Takes what was asked with this xid out of what is pending.
    pub(super) fn answered(&mut self, xid: i32) -> Option<Pending> {
        let waits = |one: &Pending| one.answer.is_none();
        let with = |one: &Pending| {
            one.request
                .as_ref()
                .is_some_and(|request| request.xid == xid)
        };
        let known = self.pending.iter().position(|one| waits(one) && with(one));
        let unknown = || self.pending.iter().position(|one| one.request.is_none());
        let which = known.or_else(unknown)?;
        self.pending.remove(which)
    }

    pub(super) fn reply(&mut self, frame: Vec<u8>, first: bool, around: &mut Around<'_>) {
        let session = around.track.session.map(|session| session.id);
        let xid = if first {
            0
        } else {
            int(&frame, 4).unwrap_or(0)
        };
        if let Some((_, rule)) = self.expiring.clone() {
            if !first && xid == EXPIRE_XID {
                self.decide(
                    around.decisions,
                    &rule,
                    None,
                    session,
                    "the server has closed the session",
                );
                self.expiring = None;
                self.ended = true;
            }
            return;
        }
        let pending = self.answered(xid);
        self.answer(frame, pending, first, 0, around);
    }

    /// A reply and what was asked, from a rule on.
    pub(super) fn answer(
        &mut self,
        mut frame: Vec<u8>,
        pending: Option<Pending>,
        first: bool,
        skip: usize,
        around: &mut Around<'_>,
    ) {
        let now = around.now;
        let session = around.track.session.map(|session| session.id);
        let xid = if first {
            0
        } else {
            int(&frame, 4).unwrap_or(0)
        };
        let request = pending.as_ref().and_then(|one| one.request.as_ref());
        let (zxid, error) = if first {
            (None, None)
        } else {
            (long(&frame, 8), int(&frame, 16))
        };
        let mut at = now;
        for (number, rule) in Rc::clone(&self.rules).iter().enumerate().skip(skip) {
            if rule.definition.at != At::Reply {
                continue;
            }
            let mut facts = self.facts(request, session);
            facts.zxid = zxid;
            facts.error = error.map(i64::from);
            facts.reply_bytes = Some(frame.len() as i64 - 4);
            facts.latency_ns = pending
                .as_ref()
                .filter(|one| one.request.is_some())
                .map(|one| now.saturating_duration_since(one.since).as_nanos() as i64);
            if !rule.matches(&facts) {
                continue;
            }
            if let Action::Stale = rule.definition.action {
                let (Some(zxid), Some(one)) = (zxid, &pending) else {
                    continue;
                };
                if let Some(older) = self.stale(rule, one, zxid, &frame) {
                    if rule.fires() {
                        self.decide(
                            around.decisions,
                            rule,
                            request,
                            session,
                            "an older reply is given",
                        );
                        frame = [&frame[..8], &older[8..]].concat();
                        frame[..4].copy_from_slice(&older[..4]);
                    }
                }
                continue;
            }
            if !rule.fires() {
                continue;
            }
            let say = |gate: &mut Self, words: &str| {
                gate.decide(around.decisions, rule, request, session, words);
            };
            let error = error.unwrap_or(0);
            match rule.definition.action {
                Action::Delay { delay, jitter } => {
                    let delay = rule.jittered(delay, jitter);
                    at += delay;
                    say(
                        self,
                        &format!("the reply waits for {} ms", delay.as_millis()),
                    );
                }
                Action::Error { code } if !first => {
                    say(
                        self,
                        &format!("the reply (error {error}) becomes error {code}"),
                    );
                    frame = reply(xid, zxid.unwrap_or(self.seen), code);
                }
                Action::Drop { reset } => {
                    say(self, &format!("the reply (error {error}) is not passed on"));
                    self.ended = reset;
                    self.mute = !reset;
                    return;
                }
                Action::Close => {
                    say(self, "this connection is reset");
                    self.ended = true;
                    return;
                }
                Action::Ask { limit, open } if !first => {
                    let request = pending.as_ref().and_then(|one| one.request.clone());
                    let asking = Asking {
                        kind: "reply",
                        next: number + 1,
                        frame,
                        pending,
                        until: now + limit,
                        open,
                        rule: Arc::clone(rule),
                    };
                    self.ask(asking, request.as_ref(), around);
                    return;
                }
                _ => {}
            }
        }
        if let Some(zxid) = long(&frame, 8).filter(|_| !first && frame.len() >= REPLY_BODY) {
            self.seen = self.seen.max(zxid);
        }
        self.lanes[1].push(frame, at, now, true, false);
    }

    fn stale(&self, rule: &Rule, one: &Pending, zxid: i64, frame: &[u8]) -> Option<Vec<u8>> {
        if one.asked.is_empty() || frame.len() < REPLY_BODY {
            return None;
        }
        let mut cache = rule
            .cache
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        cache.instead(&one.asked, zxid, frame, self.seen)
    }

    /// Answers that were made here and whose turn it is now.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Some(answer) = self.pending.front_mut().and_then(|one| one.answer.take()) {
            self.pending.pop_front();
            self.lanes[1].push(answer, now, now, true, false);
        }
    }

    pub(super) fn event(&mut self, frame: Vec<u8>, skip: usize, around: &mut Around<'_>) {
        if self.expiring.is_some() {
            return;
        }
        let now = around.now;
        let session = around.track.session.map(|session| session.id);
        let kind = int(&frame, REPLY_BODY);
        let path = text(&frame, REPLY_BODY + 8).map(|(path, _)| path);
        let shown = Request {
            xid: EVENT_XID,
            opcode: 0,
            path,
            watch: None,
            bytes: 0,
        };
        let mut at = now;
        for (number, rule) in Rc::clone(&self.rules).iter().enumerate().skip(skip) {
            let mut facts = self.facts(None, session);
            facts.kind = EVENT;
            facts.path = shown.path.as_deref();
            facts.event = kind.map(i64::from);
            facts.reply_bytes = Some(frame.len() as i64 - 4);
            if rule.definition.at != At::Event || !rule.matches(&facts) || !rule.fires() {
                continue;
            }
            let say = |gate: &mut Self, words: &str| {
                gate.decide(around.decisions, rule, Some(&shown), session, words);
            };
            match rule.definition.action {
                Action::Delay { delay, jitter } => {
                    at += rule.jittered(delay, jitter);
                    say(self, "the watch event waits, and what is behind it");
                }
                Action::Late { delay } => {
                    say(
                        self,
                        &format!("the watch event comes {} ms late", delay.as_millis()),
                    );
                    self.lanes[1].push_late(frame, now + delay);
                    return;
                }
                Action::Duplicate => {
                    say(self, "the watch event comes twice");
                    self.lanes[1].push(frame.clone(), at, now, true, false);
                }
                Action::Drop { .. } => {
                    say(self, "the watch event is not passed on");
                    return;
                }
                Action::Close => {
                    say(self, "this connection is reset");
                    self.ended = true;
                    return;
                }
                Action::Ask { limit, open } => {
                    let asking = Asking {
                        kind: "event",
                        next: number + 1,
                        frame,
                        pending: None,
                        until: now + limit,
                        open,
                        rule: Arc::clone(rule),
                    };
                    self.ask(asking, Some(&shown), around);
                    return;
                }
                _ => {}
            }
        }
        self.lanes[1].push(frame, at, now, true, false);
    }

    /// Has the server close the session, in the client's name; then the connection is reset. What the client had under way is
    /// lost, as when its session expires.
    pub(super) fn expire(
        &mut self,
        rule: &Arc<Rule>,
        request: Option<&Request>,
        around: &mut Around<'_>,
    ) {
        let session = around.track.session.map(|session| session.id);
        self.decide(
            around.decisions,
            rule,
            request,
            session,
            "the session is closed at the server",
        );
        let close = [
            &8_i32.to_be_bytes()[..],
            &EXPIRE_XID.to_be_bytes(),
            &CLOSE_SESSION.to_be_bytes(),
        ]
        .concat();
        let now = around.now;
        self.lanes[0].push(close, now, now, true, false);
        self.expiring = Some((now + EXPIRE_WAIT, Arc::clone(rule)));
    }
}

/// A reply that is but an error.
#[must_use]
pub fn reply(xid: i32, zxid: i64, code: i32) -> Vec<u8> {
    [
        &16_i32.to_be_bytes()[..],
        &xid.to_be_bytes(),
        &zxid.to_be_bytes(),
        &code.to_be_bytes(),
    ]
    .concat()
}
