//! Sessions as the wire shows them: connects, moves between servers, silences, how they ended.
//!
//! `zktrace/store/sessions.py` is the reference, row by row. Everything is bounded: sessions, the
//! events of each, and the events of all. Knows nothing of Python.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::ops::{Class, CLOSE_SESSION, CONNECT};
use super::Conn;
use crate::events::{
    Anomaly, ConnInfo, Connection, ConnectionEvent, Endpoint, Exchange, Quorum, State, WatchEvent,
};

/// Sessions kept; beyond, the tenth that is longest without a request is forgotten.
pub const MAX_SESSIONS: usize = 20_000;
/// Events of a session's timeline, and its requests without answer that are remembered.
const MAX_EVENTS: usize = 50;
const MAX_UNANSWERED: usize = 8;
/// Events of all timelines; beyond, each keeps its latest few.
const MAX_ALL_EVENTS: usize = 100_000;
const FEW_EVENTS: usize = 4;
/// Two thirds of the timeout: when a client stops to wait.
const NEAR_PERCENT: i64 = 66;
const SESSION_EXPIRED: i32 = -112;
/// No answer was seen.
const NO_ANSWER: i64 = -1;
const MILLIS: i64 = 1_000_000;
/// No session.
pub const NONE: u32 = u32::MAX;

pub const OPEN: u8 = 0;
pub const CLOSED: u8 = 1;
pub const EXPIRED: u8 = 2;
/// Nothing was seen of it for longer than its timeout.
pub const OVERDUE: u8 = 3;

/// An event of a timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    pub at: i64,
    pub what: &'static str,
    /// Client and server.
    pub ends: Option<(Endpoint, Endpoint)>,
    /// An error's code, or percent of the timeout.
    pub number: Option<i64>,
}

#[derive(Clone, Default)]
pub struct Session {
    pub id: i64,
    pub first_ns: i64,
    pub last_ns: i64,
    pub requests: i64,
    pub errors: i64,
    pub watch_events: i64,
    pub timeout_ms: i64,
    pub silence_ns: i64,
    pub silence_at: i64,
    pub silence_wait: i64,
    pub last_wait: i64,
    pub ended_ns: i64,
    pub proposed_ns: i64,
    pub connects: i64,
    pub moves: i64,
    pub near: i64,
    pub state: u8,
    pub client: Endpoint,
    pub server: Endpoint,
    pub notes: Vec<Note>,
    pub unanswered: Vec<i64>,
    pub losses: Vec<i64>,
}

impl Session {
    /// Its state by a clock, and the silence that goes on.
    pub fn state(&self, now_ns: i64) -> (u8, i64) {
        let idle = now_ns.saturating_sub(self.last_ns).max(0);
        let timeout = self.timeout_ms.saturating_mul(MILLIS);
        let state = match self.state {
            OPEN if self.proposed_ns > self.last_ns => EXPIRED,
            OPEN if timeout > 0 && idle > timeout => OVERDUE,
            known => known,
        };
        (state, if self.state == OPEN { idle } else { 0 })
    }

    /// What sessions are sorted by, most first.
    fn rank(&self, sort: &str, now_ns: i64) -> i64 {
        let silence = self.silence_ns.max(self.state(now_ns).1);
        match sort {
            "first_seen" => self.first_ns,
            "silence" => silence,
            // Floats that are not negative sort as their bits do.
            "silence_percent" if self.timeout_ms > 0 => {
                (silence as f64 / self.timeout_ms as f64).to_bits() as i64
            }
            "silence_percent" => 0,
            "near_misses" => self.near,
            "requests" => self.requests,
            "errors" => self.errors,
            "moves" => self.moves,
            "connects" => self.connects,
            "watch_events" => self.watch_events,
            _ => self.last_ns,
        }
    }
}

fn push_bounded(list: &mut Vec<i64>, value: i64) {
    if list.len() >= MAX_UNANSWERED {
        list.remove(0);
    }
    list.push(value);
}

/// Which sessions are asked for.
#[derive(Default)]
pub struct Chosen {
    pub since_ns: Option<i64>,
    pub ids: Option<Vec<i64>>,
    pub client: Option<String>,
}

pub struct Sessions {
    slots: HashMap<i64, u32>,
    table: Vec<Session>,
    limit: usize,
    notes: usize,
    pub forgotten: u64,
    /// How many are expired, by what was told.
    expired: usize,
    /// Grows when slots change their sessions.
    pub epoch: u32,
}

impl Sessions {
    pub fn new(limit: usize) -> Self {
        Sessions {
            slots: HashMap::new(),
            table: Vec::new(),
            limit,
            notes: 0,
            forgotten: 0,
            expired: 0,
            epoch: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn known(&mut self, id: i64) -> Option<&mut Session> {
        let slot = *self.slots.get(&id)?;
        self.table.get_mut(slot as usize)
    }

    fn slot(&mut self, id: i64, row: &Exchange<'_>) -> u32 {
        if let Some(&slot) = self.slots.get(&id) {
            return slot;
        }
        if self.table.len() >= self.limit {
            self.forget();
        }
        let slot = self.table.len() as u32;
        self.slots.insert(id, slot);
        self.table.push(Session {
            id,
            first_ns: row.ts_ns,
            last_ns: row.ts_ns,
            client: row.conn.client,
            server: row.conn.server,
            ..Session::default()
        });
        slot
    }

    fn forget(&mut self) {
        let keep = self.limit * 9 / 10;
        let mut order: Vec<(i64, usize)> =
            self.table.iter().map(|one| one.last_ns).zip(0..).collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        let mut kept = vec![false; self.table.len()];
        for (_, at) in order.iter().take(keep) {
            if let Some(kept) = kept.get_mut(*at) {
                *kept = true;
            }
        }
        self.forgotten += (self.table.len() - keep.min(self.table.len())) as u64;
        let mut kept = kept.into_iter();
        self.table.retain(|_| kept.next().unwrap_or(false));
        self.slots = (0u32..)
            .zip(&self.table)
            .map(|(i, one)| (one.id, i))
            .collect();
        self.notes = self.table.iter().map(|one| one.notes.len()).sum();
        self.expired = self.table.iter().filter(|one| one.state == EXPIRED).count();
        self.epoch = self.epoch.wrapping_add(1);
    }

    fn note(
        &mut self,
        slot: u32,
        at: i64,
        what: &'static str,
        conn: Option<&ConnInfo>,
        number: Option<i64>,
    ) {
        let Some(session) = self.table.get_mut(slot as usize) else {
            return;
        };
        if session.notes.len() >= MAX_EVENTS {
            session.notes.remove(0);
            self.notes -= 1;
        }
        let ends = conn.map(|conn| (conn.client, conn.server));
        session.notes.push(Note {
            at,
            what,
            ends,
            number,
        });
        self.notes += 1;
        if self.notes > MAX_ALL_EVENTS {
            for session in &mut self.table {
                let beyond = session.notes.len().saturating_sub(FEW_EVENTS);
                session.notes.drain(..beyond);
                session.notes.shrink_to_fit();
            }
            self.notes = self.table.iter().map(|one| one.notes.len()).sum();
        }
    }

    /// A request of a session, with or without reply.
    #[inline]
    pub fn exchange(&mut self, row: &Exchange<'_>, is: Class, id: i64, conn: &mut Conn) {
        if conn.epoch != self.epoch || conn.slot_session != id {
            conn.slot = self.slot(id, row);
            (conn.epoch, conn.slot_session) = (self.epoch, id);
        }
        let slot = conn.slot;
        let Some(session) = self.table.get_mut(slot as usize) else {
            return;
        };
        if let Some(timeout_ms) = row.connect.and_then(|connect| connect.timeout_ms) {
            if timeout_ms > 0 && row.error == Some(0) {
                session.timeout_ms = i64::from(timeout_ms);
            }
        }
        let mut near = None;
        if session.state == OPEN {
            let (before, waited) = (session.last_ns, session.last_wait);
            let gap = row.ts_ns.saturating_sub(before);
            if gap > session.silence_ns {
                session.silence_ns = gap;
                session.silence_at = before;
                session.silence_wait = waited;
            }
            let timeout = session.timeout_ms.saturating_mul(MILLIS);
            if timeout > 0 && gap.saturating_mul(100) >= timeout.saturating_mul(NEAR_PERCENT) {
                session.near += 1;
                let percent = gap as f64 * 100.0 / timeout as f64;
                near = Some((before, percent.round_ties_even() as i64));
            }
        }
        session.requests += 1;
        session.errors += i64::from(row.error.unwrap_or_default() != 0);
        session.first_ns = session.first_ns.min(row.ts_ns);
        if row.ts_ns >= session.last_ns {
            session.last_wait = row.latency_ns.unwrap_or(NO_ANSWER);
            session.last_ns = row.ts_ns;
        }
        if let Some((before, percent)) = near {
            self.note(slot, before, "silent", None, Some(percent));
        }
        // That a connection was closed before the answer to closeSession came is usual.
        if row.state == State::NoReply && !is.any(CLOSE_SESSION) {
            if let Some(session) = self.table.get_mut(slot as usize) {
                push_bounded(&mut session.unanswered, row.ts_ns);
            }
        }
        if is.any(CONNECT | CLOSE_SESSION) {
            self.changed(slot, row, is);
        } else if self.expired > 0 {
            self.revived(slot, row, is);
        }
    }

    /// A connect or a close.
    #[cold]
    fn changed(&mut self, slot: u32, row: &Exchange<'_>, is: Class) {
        let Some(session) = self.table.get_mut(slot as usize) else {
            return;
        };
        let (at, conn) = (row.ts_ns, Some(row.conn));
        let was_expired = session.state == EXPIRED;
        if is.any(CLOSE_SESSION) {
            if row.error == Some(0) {
                (session.state, session.ended_ns) = (CLOSED, at);
                self.expired -= usize::from(was_expired);
                self.note(slot, at, "closed", conn, None);
            } else if was_expired {
                self.revived(slot, row, is);
            }
            return;
        }
        match row.error {
            None => {}
            Some(0) => {
                let moved = session.connects > 0 && session.server != row.conn.server;
                session.connects += 1;
                session.moves += i64::from(moved);
                session.state = OPEN;
                (session.client, session.server) = (row.conn.client, row.conn.server);
                self.expired -= usize::from(was_expired);
                let what = if moved { "moved" } else { "connected" };
                self.note(slot, at, what, conn, None);
            }
            Some(SESSION_EXPIRED) => {
                (session.state, session.ended_ns) = (EXPIRED, at);
                self.expired += usize::from(!was_expired);
                self.note(slot, at, "expired", conn, None);
            }
            Some(error) => self.note(slot, at, "refused", conn, Some(i64::from(error))),
        }
    }

    /// A session that goes on was not expired: servers answer a wrong password alike.
    fn revived(&mut self, slot: u32, row: &Exchange<'_>, is: Class) {
        let Some(session) = self.table.get_mut(slot as usize) else {
            return;
        };
        let fine = row.state == State::Complete && row.error != Some(SESSION_EXPIRED);
        if session.state != EXPIRED || !fine || row.ts_ns <= session.ended_ns {
            return;
        }
        session.state = if is.any(CLOSE_SESSION) { CLOSED } else { OPEN };
        self.expired -= 1;
        self.note(slot, row.ts_ns, "went on", None, None);
    }

    pub fn watch_event(&mut self, _: &WatchEvent<'_>, id: i64) {
        if let Some(session) = self.known(id) {
            session.watch_events += 1;
        }
    }

    /// The end of a connection that a session used.
    pub fn connection(&mut self, row: &Connection<'_>, id: i64) {
        let what = match row.event {
            ConnectionEvent::Closed => "connection closed",
            ConnectionEvent::Reset => "connection reset",
            _ => return,
        };
        if let Some(&slot) = self.slots.get(&id) {
            self.note(slot, row.ts_ns, what, Some(row.conn), None);
        }
    }

    /// Bytes of its connection that were not captured.
    pub fn gap(&mut self, row: &Anomaly<'_>, id: i64) {
        if let Some(session) = self.known(id) {
            push_bounded(&mut session.losses, row.ts_ns);
        }
    }

    /// A leader proposed to close a session: its client asked for it, or it expired.
    pub fn proposed(&mut self, row: &Quorum<'_>, id: i64) {
        if let Some(session) = self.known(id) {
            if session.proposed_ns == 0 {
                session.proposed_ns = row.ts_ns;
            }
        }
    }

    // ---- the asking side

    pub fn get(&self, id: i64) -> Option<&Session> {
        self.table.get(*self.slots.get(&id)? as usize)
    }

    /// How many are in each state.
    pub fn states(&self, now_ns: i64) -> [u64; 4] {
        let mut counts = [0; 4];
        for session in &self.table {
            if let Some(count) = counts.get_mut(usize::from(session.state(now_ns).0)) {
                *count += 1;
            }
        }
        counts
    }

    /// The first `limit` of those chosen in an order (most first, then by id), and how many there are.
    pub fn select(
        &self,
        sort: &str,
        now_ns: i64,
        chosen: &Chosen,
        limit: usize,
    ) -> (Vec<Session>, usize) {
        let ids = chosen.ids.as_ref().map(|ids| {
            let ids = ids.iter().copied();
            ids.collect::<std::collections::HashSet<i64>>()
        });
        let found = self.table.iter().filter(|one| {
            chosen.since_ns.is_none_or(|since| one.last_ns >= since)
                && ids.as_ref().is_none_or(|ids| ids.contains(&one.id))
                && chosen
                    .client
                    .as_ref()
                    .is_none_or(|client| one.client.ip_text() == *client)
        });
        let mut ranked: Vec<((Reverse<i64>, u64), &Session)> = found
            .map(|one| ((Reverse(one.rank(sort, now_ns)), one.id as u64), one))
            .collect();
        let total = ranked.len();
        if limit < total {
            ranked.select_nth_unstable_by_key(limit, |one| one.0);
            ranked.truncate(limit);
        }
        ranked.sort_unstable_by_key(|one| one.0);
        (
            ranked.into_iter().map(|(_, one)| one.clone()).collect(),
            total,
        )
    }
}
