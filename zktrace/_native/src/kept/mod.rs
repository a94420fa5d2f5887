//! What is kept of single events of traffic under way: sessions, watches, the slowest, the latest.
//!
//! Windows (`windows.rs`) count; this remembers. Everything is bounded, and whoever asks copies what is
//! shown. `zktrace/store/kept.py` is the same for the Python engine, and one test-suite runs over both.
//! Knows nothing of Python.

pub mod ledger;
pub mod ops;
pub mod recent;
mod recent_code;
pub mod sessions;
pub mod shape;
pub mod slow;
pub mod watches;

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

use crate::events::{
    Anomaly, Connection, Election, EventSink, Exchange, FourLetter, Quorum, State, WatchEvent,
};
use crate::intern::{hash_bytes, lossy};
use crate::siphash::hash_session;
use ops::{Class, Ops};
use recent::Recent;
use sessions::Sessions;
use shape::Shape;
use slow::Slow;
use watches::Watches;

/// Bytes of a path that are kept; what is behind is replaced by an ellipsis.
pub const LONGEST_PATH: usize = 1024;
/// Connections that are remembered; beyond, those that were first seen earliest are forgotten, half of
/// them.
const MAX_CONNECTIONS: usize = 65_536;
/// Connections that are found without a search (direct mapped by number).
const CACHE: usize = 1024;
/// The leader's packet, and the transaction in it.
const PROPOSAL: &str = "PROPOSAL";
const CLOSE_SESSION: &str = "closeSession";

/// Hashes what is a hash already.
#[derive(Default)]
pub struct Same(u64);

impl Hasher for Same {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A table whose keys are seeded hashes.
pub type ByHash<V> = HashMap<u64, V, BuildHasherDefault<Same>>;

/// A path as it is kept.
pub fn short(path: &[u8]) -> String {
    let mut text = lossy(path).into_owned();
    if text.len() > LONGEST_PATH {
        let end = (0..=LONGEST_PATH)
            .rev()
            .find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    text
}

/// What is known of a connection.
#[derive(Clone, Copy, Default)]
pub struct Conn {
    id: i64,
    /// The first session that used it; 0: none yet.
    session: i64,
    /// Where the session of its last request is, if `epoch` is that of the sessions.
    slot: u32,
    epoch: u32,
    slot_session: i64,
    /// Number of its last exchange, + 1.
    last: u64,
}

struct Conns {
    places: HashMap<i64, u32>,
    table: Vec<Conn>,
    cache: Box<[(i64, u32); CACHE]>,
}

impl Conns {
    fn new() -> Self {
        Conns {
            places: HashMap::new(),
            table: Vec::new(),
            cache: Box::new([(-1, 0); CACHE]),
        }
    }

    #[inline]
    fn place(&mut self, id: i64) -> usize {
        match self.cache.get(id as usize & (CACHE - 1)) {
            Some(known) if known.0 == id => known.1 as usize,
            _ => self.search(id),
        }
    }

    #[inline(never)]
    fn search(&mut self, id: i64) -> usize {
        let place = match self.places.get(&id) {
            Some(&place) => place,
            None => {
                if self.table.len() >= MAX_CONNECTIONS {
                    self.forget();
                }
                let place = self.table.len() as u32;
                self.table.push(Conn {
                    id,
                    epoch: u32::MAX,
                    ..Conn::default()
                });
                self.places.insert(id, place);
                place
            }
        };
        if let Some(known) = self.cache.get_mut(id as usize & (CACHE - 1)) {
            *known = (id, place);
        }
        place as usize
    }

    fn forget(&mut self) {
        self.table.drain(..MAX_CONNECTIONS / 2);
        self.places = (0u32..)
            .zip(&self.table)
            .map(|(i, conn)| (conn.id, i))
            .collect();
        self.cache.fill((-1, 0));
    }

    /// The session that uses a connection.
    fn session(&self, id: i64) -> Option<i64> {
        let conn = self.table.get(*self.places.get(&id)? as usize)?;
        (conn.session != 0).then_some(conn.session)
    }
}

pub struct Kept {
    hash_key: Option<[u8; 16]>,
    conns: Conns,
    /// Of the hash of a path, which is taken once for all who want it.
    seed: u64,
    pub ops: Ops,
    pub sessions: Sessions,
    pub slow: Slow,
    pub watches: Watches,
    pub shape: Shape,
    pub recent: Recent,
    /// Events so far.
    pub rows: u64,
}

impl Kept {
    /// `changing`: opcodes of writes. `hash_key`: session ids are replaced by their hashes under it, but in
    /// the latest events.
    pub fn new(
        changing: Vec<i32>,
        max_sessions: usize,
        recent_rows: usize,
        hash_key: Option<[u8; 16]>,
    ) -> Self {
        Kept {
            hash_key,
            conns: Conns::new(),
            seed: std::collections::hash_map::RandomState::new().hash_one(0u64),
            ops: Ops::new(changing),
            sessions: Sessions::new(max_sessions),
            slow: Slow::default(),
            watches: Watches::default(),
            shape: Shape::default(),
            recent: Recent::new(recent_rows),
            rows: 0,
        }
    }

    #[inline]
    fn shown(&self, session: Option<i64>) -> Option<i64> {
        match &self.hash_key {
            None => session,
            Some(key) => session.map(|session| hash_session(key, session)),
        }
    }
}

impl EventSink for Kept {
    #[inline]
    fn exchange(&mut self, row: &Exchange<'_>) {
        self.rows += 1;
        let session = self.shown(row.session);
        let is = row.op.map_or(Class::default(), |op| self.ops.learn(op));
        let hash = row.path.map_or(0, |path| hash_bytes(self.seed, path));
        let place = self.conns.place(row.conn.id);
        if let Some(conn) = self.conns.table.get_mut(place) {
            self.slow.exchange(row, is, session, &mut conn.last);
            if let Some(id) = session.filter(|&id| id != 0) {
                if row.state != State::NoRequest {
                    if conn.session == 0 {
                        conn.session = id;
                    }
                    self.sessions.exchange(row, is, id, conn);
                }
            }
        }
        self.watches.exchange(row, is, hash, session);
        let seed = self.seed;
        self.shape
            .exchange(row, hash, |path| hash_bytes(seed, path));
        self.recent.exchange(row);
    }

    fn watch_event(&mut self, row: &WatchEvent<'_>) {
        self.rows += 1;
        let session = self.shown(row.session);
        if let Some(id) = session {
            self.sessions.watch_event(row, id);
        }
        let hash = row.path.map_or(0, |path| hash_bytes(self.seed, path));
        self.watches.watch_event(row, hash, session);
        self.recent.watch_event(row);
    }

    fn connection(&mut self, row: &Connection<'_>) {
        self.rows += 1;
        if let Some(id) = self.conns.session(row.conn.id) {
            self.sessions.connection(row, id);
        }
        self.recent.connection(row);
    }

    fn four_letter(&mut self, row: &FourLetter<'_>) {
        self.rows += 1;
        self.recent.four_letter(row);
    }

    fn anomaly(&mut self, row: &Anomaly<'_>) {
        self.rows += 1;
        if row.reason == "gap" {
            if let Some(id) = self.conns.session(row.conn.id) {
                self.sessions.gap(row, id);
            }
        }
        self.recent.anomaly(row);
    }

    fn quorum(&mut self, row: &Quorum<'_>) {
        self.rows += 1;
        let closes = row.txn.is_some_and(|(_, name)| name == CLOSE_SESSION);
        if closes && row.name == PROPOSAL {
            if let Some(id) = self.shown(row.session) {
                self.sessions.proposed(row, id);
            }
        }
        self.recent.quorum(row);
    }

    fn election(&mut self, row: &Election<'_>) {
        self.rows += 1;
        self.recent.election(row);
    }
}
