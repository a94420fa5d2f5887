//! A connection that rules concern: each frame is looked at before it goes on.
//!
//! Frames are put together, rules are asked about them, and what goes on is put into the lane of its direction. Requests are
//! remembered until their replies have come: replies have no op and no path of their own, and an answer that is made here has
//! to wait for its turn, since ZooKeeper answers a connection's requests in their order (org.apache.zookeeper.ClientCnxn).
//! What is no ZooKeeper, and frames larger than the limit, pass as they are. No sockets, no clock of its own.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::decisions::{Decision, Decisions};
use super::desk::Desk;
use super::facts::{int, Facts, Ops, Request};
use super::gate_ask::Asking;
use super::lane::Lane;
use super::program::Tri;
use super::rules::{Action, At, Rule};
use super::tap::now_ns;
use super::track::{Track, EVENT_XID, FRAME_MAX};

/// What a gate needs of the plane each time.
pub struct Around<'a> {
    pub rules: &'a [Arc<Rule>],
    pub ops: &'a Ops,
    pub decisions: &'a Decisions,
    pub desk: &'a Desk,
    pub max_frame: usize,
    pub track: &'a mut Track,
    pub now: Instant,
}

/// A request whose reply has not gone to the client yet.
#[derive(Debug)]
pub(super) struct Pending {
    /// None: it was sent before rules concerned the connection.
    pub(super) request: Option<Request>,
    pub(super) since: Instant,
    /// Opcode and body, where a rule wants it with the reply.
    pub(super) asked: Vec<u8>,
    /// The reply, where it is made here.
    pub(super) answer: Option<Vec<u8>>,
}

/// See the module.
#[derive(Debug)]
pub struct Gate {
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    /// Of frames.
    pub(super) rules: Rc<Vec<Arc<Rule>>>,
    /// Rules of connections that were asked about this one.
    asked: HashSet<u64>,
    pub lanes: [Lane; 2],
    coming: [Vec<u8>; 2],
    /// The frame under way passes as it is.
    passing: [bool; 2],
    pub(super) pending: VecDeque<Pending>,
    /// The latest zxid that the client was shown.
    pub(super) seen: i64,
    /// Nothing passes any more.
    pub(super) mute: bool,
    /// The server is closing the session; until when it may.
    pub(super) expiring: Option<(Instant, Arc<Rule>)>,
    end_at: Option<Instant>,
    /// The connection is to be reset.
    pub ended: bool,
    /// The session is to be taken over at another server.
    pub moving: bool,
    /// Rules want to have frames decided about outside, and those that are.
    pub asks: bool,
    pub(super) asking: [Option<(u64, Asking)>; 2],
    pub(super) tickets: u64,
    pub(super) connection: u64,
    /// What was decided, for the tap.
    pub notes: Vec<String>,
}

impl Gate {
    /// For a connection of which this much has passed.
    #[must_use]
    pub fn new(
        connection: u64,
        client: SocketAddr,
        server: SocketAddr,
        track: &Track,
        now: Instant,
    ) -> Self {
        let unknown = || Pending {
            request: None,
            since: now,
            asked: Vec::new(),
            answer: None,
        };
        Self {
            client,
            server,
            rules: Rc::new(Vec::new()),
            asked: HashSet::new(),
            lanes: Default::default(),
            coming: Default::default(),
            passing: [0, 1].map(|from| track.left(from) != Some(0)),
            pending: (0..track.outstanding).map(|_| unknown()).collect(),
            seen: 0,
            mute: false,
            expiring: None,
            end_at: None,
            ended: false,
            moving: false,
            asks: false,
            asking: Default::default(),
            tickets: 0,
            connection,
            notes: Vec::new(),
        }
    }

    /// Whether there is any use for it.
    #[must_use]
    pub fn needed(&self) -> bool {
        !self.rules.is_empty()
            || self.mute
            || self.expiring.is_some()
            || self.asking.iter().any(Option::is_some)
            || self.end_at.is_some()
            || self.pending.iter().any(|one| one.answer.is_some())
            || self.coming.iter().any(|coming| !coming.is_empty())
            || self
                .lanes
                .iter()
                .any(|lane| lane.shaped() || !lane.is_empty())
    }

    /// Nothing is on its way.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.asking.iter().all(Option::is_none)
            && self.pending.is_empty()
            && self.coming.iter().all(Vec::is_empty)
            && self.lanes.iter().all(Lane::is_empty)
    }

    /// Whether more may be read from a side.
    #[must_use]
    pub fn wants(&self, from: usize, limit: usize) -> bool {
        self.asking[from].is_none()
            && self.lanes[from].waiting() < limit
            && (self.mute || !self.lanes[from].silent())
    }

    /// When there is something to do, if nothing comes before. What a side does not take wakes by itself.
    #[must_use]
    pub fn next(&self, blocked: [bool; 2]) -> Option<Instant> {
        let free = self
            .lanes
            .iter()
            .zip(blocked)
            .filter(|(_, blocked)| !blocked);
        let lanes = free.filter_map(|(lane, _)| lane.next());
        let expiring = self.expiring.as_ref().map(|(until, _)| *until);
        let asking = self.asking.iter().flatten().map(|(_, one)| one.until);
        lanes.chain(expiring).chain(asking).chain(self.end_at).min()
    }

    /// What time brings.
    pub fn tick(&mut self, around: &mut Around<'_>) {
        let (now, decisions) = (around.now, around.decisions);
        self.overdue(around);
        if self.end_at.is_some_and(|at| at <= now) {
            self.ended = true;
        }
        if let Some((until, rule)) = self.expiring.take_if(|(until, _)| *until <= now) {
            let _ = until;
            self.decide(
                decisions,
                &rule,
                None,
                None,
                "the server did not close the session",
            );
            self.ended = true;
        }
    }

    /// Rules have changed, or the session became known.
    pub fn look(&mut self, around: &mut Around<'_>) {
        let session = around.track.session.map(|session| session.id);
        let facts = Facts::of(self.client, self.server, session);
        let given = |rule: &Rule| {
            around
                .rules
                .iter()
                .any(|one| one.definition.id == rule.definition.id)
        };
        self.lanes.iter_mut().for_each(|lane| lane.prune(&given));
        let mut rules = Vec::new();
        for rule in around.rules {
            let concerns = rule.concerns(&facts);
            let whole = matches!(
                rule.definition.action,
                Action::Expire | Action::Move | Action::Close
            );
            if rule.definition.at == At::Connection || (whole && concerns == Tri::Yes) {
                let ready = !whole || session.is_some() || around.track.raw(0);
                if concerns == Tri::Yes
                    && ready
                    && self.asked.insert(rule.definition.id)
                    && rule.fires()
                {
                    self.connection(rule, around);
                }
            } else if concerns != Tri::No && !rule.over() {
                rules.push(Arc::clone(rule));
            }
        }
        self.asks = rules
            .iter()
            .any(|rule| matches!(rule.definition.action, Action::Ask { .. }));
        self.rules = Rc::new(rules);
    }

    /// A fault of the whole connection.
    fn connection(&mut self, rule: &Arc<Rule>, around: &mut Around<'_>) {
        let now = around.now;
        let mut on = |ways: [bool; 2]| {
            for (lane, _) in self.lanes.iter_mut().zip(ways).filter(|(_, way)| *way) {
                lane.shape(Arc::clone(rule), now);
            }
        };
        let said = match rule.definition.action {
            Action::Latency { ways, .. }
            | Action::Bandwidth { ways, .. }
            | Action::Slicer { ways, .. }
            | Action::SlowClose { ways, .. }
            | Action::LimitData { ways, .. } => {
                on(ways);
                "this connection has it"
            }
            Action::Timeout { after, ways } => {
                on(ways);
                if let Some(after) = after {
                    self.end_at = Some(now + after);
                }
                "nothing passes on this connection"
            }
            Action::Reset { after } => {
                self.end_at = Some(now + after);
                "this connection is reset"
            }
            Action::Down | Action::Close => {
                self.ended = true;
                "this connection is reset"
            }
            Action::Expire => {
                self.expire(rule, None, around);
                return;
            }
            Action::Move => {
                self.moving = true;
                "another server is told that the session has moved to it"
            }
            _ => return,
        };
        self.decide(
            around.decisions,
            rule,
            None,
            around.track.session.map(|one| one.id),
            said,
        );
    }

    pub(super) fn decide(
        &mut self,
        decisions: &Decisions,
        rule: &Rule,
        request: Option<&Request>,
        session: Option<u64>,
        detail: &str,
    ) {
        let definition = &rule.definition;
        let path = request.and_then(|request| request.path.clone());
        let mut note = format!(
            "zktrace fault {}: {}: {detail}",
            definition.id, definition.name
        );
        if let Some(request) = request {
            note += &format!(" (opcode {}, xid {}", request.opcode, request.xid);
            if let Some(path) = &path {
                note += &format!(", {path}");
            }
            note.push(')');
        }
        self.notes.push(note);
        decisions.push(Decision {
            ts_ns: now_ns(),
            rule: definition.id,
            action: definition.name.clone(),
            client: self.client,
            server: self.server,
            session,
            opcode: request.map(|request| request.opcode),
            xid: request.map(|request| request.xid),
            path,
            detail: detail.to_owned(),
        });
    }

    /// Bytes from a side.
    pub fn input(&mut self, from: usize, data: &[u8], around: &mut Around<'_>) {
        if self.mute {
            around.track.pass(from, data);
            return;
        }
        let mut coming = std::mem::take(&mut self.coming[from]);
        coming.extend_from_slice(data);
        let mut at = 0;
        while at < coming.len() && !self.ended && !self.mute && self.asking[from].is_none() {
            let taken = self.part(from, &coming[at..], around);
            if taken == 0 {
                break;
            }
            at += taken;
        }
        coming.drain(..at);
        if self.mute {
            coming.clear();
        }
        self.coming[from] = coming;
    }

    /// No more will come from a side.
    pub fn finish(&mut self, from: usize, now: Instant) {
        let rest = std::mem::take(&mut self.coming[from]);
        if self.mute {
            // The other side would wait for ever.
            self.ended = true;
            return;
        }
        if from == 1 && self.expiring.is_some() {
            self.ended = true;
            return;
        }
        self.lanes[from].push(rest, now, now, true, false);
        self.lanes[from].push_end(now);
    }

    /// The next part of what has come, a frame where it can be; how much of it. 0: more has to come.
    fn part(&mut self, from: usize, data: &[u8], around: &mut Around<'_>) -> usize {
        let now = around.now;
        if !around.track.raw(from) && !self.passing[from] {
            let Some(length) = int(data, 0) else { return 0 };
            let length = length as u32;
            let whole = length as usize + 4;
            if length <= FRAME_MAX && whole <= around.max_frame.max(64) {
                if data.len() < whole {
                    return 0;
                }
                self.frame(from, data[..whole].to_vec(), around);
                return whole;
            }
            if length <= FRAME_MAX {
                if data.len() < 12 {
                    return 0;
                }
                self.large(from, data, now);
                self.passing[from] = true;
            } else {
                around.track.pass(from, &data[..4]);
                self.lanes[from].push(data[..4].to_vec(), now, now, true, false);
                return 4;
            }
        }
        let taken = if around.track.raw(from) {
            data.len()
        } else {
            // Of a frame that has not begun for the track, all but its end is not known yet.
            let left = around
                .track
                .left(from)
                .filter(|left| *left > 0)
                .unwrap_or(1);
            left.min(data.len() as u64) as usize
        };
        around.track.pass(from, &data[..taken]);
        let last = around.track.raw(from) || around.track.left(from) == Some(0);
        self.passing[from] &= !last;
        if self.expiring.is_none() {
            self.lanes[from].push(data[..taken].to_vec(), now, now, last, false);
        }
        taken
    }

    /// A frame over the limit passes unseen; but that there is one is remembered.
    fn large(&mut self, from: usize, data: &[u8], now: Instant) {
        let xid = int(data, 4).unwrap_or(0);
        if from == 0 {
            self.pending.push_back(Pending {
                request: Some(Request {
                    xid,
                    opcode: int(data, 8).unwrap_or(0),
                    path: None,
                    watch: None,
                    bytes: i64::from(int(data, 0).unwrap_or(0)),
                }),
                since: now,
                asked: Vec::new(),
                answer: None,
            });
        } else {
            self.answered(xid);
        }
    }

    fn frame(&mut self, from: usize, frame: Vec<u8>, around: &mut Around<'_>) {
        let first = around.track.first(from);
        if around.track.pass(from, &frame) {
            self.look(around);
            if self.ended {
                return;
            }
        }
        match (from, first) {
            (0, _) => self.request(frame, first, 0, around),
            (_, false) if int(&frame, 4) == Some(EVENT_XID) => self.event(frame, 0, around),
            _ => self.reply(frame, first, around),
        }
        self.settle(around.now);
    }
}
