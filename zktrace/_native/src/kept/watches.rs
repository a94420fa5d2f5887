//! Watches as the wire shows them: registered, fired, how many events one write fired, and what those
//! who got them read again.
//!
//! `zktrace/store/watches.py` is the reference, row by row. Knows nothing of Python.

use std::collections::{HashMap, HashSet, VecDeque};

use super::ledger::{Ledger, CHILD, DATA, MAX_WATCHES};
use super::ops::{Class, ADD_WATCH, CLOSE_SESSION, READS, WRITES};
use super::{short, ByHash, LONGEST_PATH};
use crate::events::{Endpoint, Exchange, State, WatchEvent};
use crate::intern::lossy;

/// Paths with counts, and their bytes; writes with fan-out. Beyond, the half with the smallest counts
/// goes.
const MAX_PATHS: usize = 20_000;
const MAX_PATH_BYTES: usize = 4 << 20;
const MAX_WRITES: usize = 5_000;
/// Sessions of a write that are told apart, and writes whose sessions are: the latest.
const MAX_SESSIONS: usize = 10_000;
const OPEN_WRITES: usize = 64;
/// A read so soon after an event is taken for its answer; events that wait for one.
const REREAD_NS: i64 = 1_000_000_000;
const MAX_WAITING: usize = 50_000;
/// Writes that were answered before their events were seen, by zxid modulo this.
const ANSWERED: usize = 4096;
const SECOND: i64 = 1_000_000_000;
const NO_NODE: i32 = -101;

/// Kinds of watches, in the order of counts.
pub const KINDS: [&str; 5] = [
    "data",
    "exist",
    "child",
    "persistent",
    "persistent_recursive",
];

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum WriteKey {
    Zxid(i64),
    /// Path, event, second.
    Guess(String, String, i64),
}

/// A write and the events that it fired.
#[derive(Clone)]
pub struct Write {
    number: u64,
    pub zxid: Option<i64>,
    pub first_ns: i64,
    pub last_ns: i64,
    pub path: String,
    pub kinds: Vec<(String, u64)>,
    pub events: u64,
    pub bytes: i64,
    known: HashSet<i64>,
    /// As long as they are told apart.
    open: bool,
    pub sessions: u64,
    pub op: Option<String>,
    pub client: Option<Endpoint>,
    pub rereads: u64,
    pub reread_bytes: i64,
}

/// A write that was answered; its memory is used again.
#[derive(Clone, Default)]
struct Answered {
    zxid: i64,
    op: String,
    client: Endpoint,
    has_path: bool,
    /// The beginning of it, as much as is shown.
    path: Vec<u8>,
}

/// Bytes of such a path.
const PATH_MEMORY: usize = LONGEST_PATH + 4;

/// The key of a session and the hash of a path.
fn both(session: i64, hash: u64) -> u64 {
    hash ^ (session as u64).wrapping_mul(DATA)
}

pub struct Watches {
    pub registered: [u64; 5],
    /// By setWatches.
    pub restored: [u64; 5],
    pub fired: Vec<(String, u64)>,
    /// Registered and fired.
    paths: HashMap<String, [u64; 2]>,
    path_bytes: usize,
    writes: HashMap<WriteKey, Write>,
    /// The latest writes, whose sessions are told apart.
    open: VecDeque<WriteKey>,
    /// Writes by zxid of which the request was not seen yet.
    unknown: usize,
    number: u64,
    keys: HashMap<u64, WriteKey>,
    answered: Vec<Answered>,
    pub ledger: Ledger,
    waiting: ByHash<(i64, u64)>,
    queue: VecDeque<(i64, u64)>,
    pub forgotten_paths: u64,
    pub forgotten_writes: u64,
}

impl Default for Watches {
    fn default() -> Self {
        Watches {
            registered: [0; 5],
            restored: [0; 5],
            fired: Vec::new(),
            paths: HashMap::new(),
            path_bytes: 0,
            writes: HashMap::new(),
            open: VecDeque::new(),
            unknown: 0,
            number: 0,
            keys: HashMap::new(),
            answered: Vec::new(),
            ledger: Ledger::new(MAX_WATCHES),
            waiting: ByHash::default(),
            queue: VecDeque::new(),
            forgotten_paths: 0,
            forgotten_writes: 0,
        }
    }
}

impl Watches {
    #[inline]
    pub fn exchange(&mut self, row: &Exchange<'_>, is: Class, hash: u64, session: Option<i64>) {
        let Some((_, op)) = row.op else { return };
        self.ledger.tick(row.ts_ns);
        if row.watch == Some(true) || is.any(ADD_WATCH) {
            self.registers(row, op, session);
        }
        if let Some(watches) = row.watches.filter(|_| row.error == Some(0)) {
            let counts = [
                watches.data,
                watches.exist,
                watches.child,
                watches.persistent,
                watches.persistent_recursive,
            ];
            for (sum, count) in self.restored.iter_mut().zip(counts) {
                *sum += u64::try_from(count.unwrap_or_default()).unwrap_or_default();
            }
        }
        if row.error == Some(0) && row.state != State::NoReply {
            if is.any(CLOSE_SESSION) {
                if let Some(session) = session {
                    self.ledger.closed(session);
                }
            }
            if let Some(zxid) = row.zxid.filter(|_| is.any(WRITES)) {
                self.answers(row, op, zxid);
            }
        }
        if !self.waiting.is_empty() {
            self.reads(row, is, hash, session);
        }
    }

    /// A request that asked for a watch.
    #[inline(never)]
    fn registers(&mut self, row: &Exchange<'_>, op: &str, session: Option<i64>) {
        let fine = row.error == Some(0);
        let absent = row.error == Some(NO_NODE) && op == "exists";
        let kind = match op {
            "getData" if fine => 0,
            "exists" if fine || absent => 1,
            "getChildren" | "getChildren2" if fine => 2,
            "addWatch" if fine => match row.mode {
                Some(0) => 3,
                Some(1) => 4,
                _ => KINDS.len(),
            },
            _ => return,
        };
        if let Some(count) = self.registered.get_mut(kind) {
            *count += 1;
        }
        let Some(path) = row.path else { return };
        self.path(path, 0);
        if let Some(session) = session {
            match kind {
                0 | 1 => self.ledger.granted(session, path, DATA),
                2 => self.ledger.granted(session, path, CHILD),
                _ => {}
            }
        }
    }

    /// Counts for a path: registered (0) or fired (1).
    fn path(&mut self, path: &[u8], which: usize) {
        let path = short(path);
        if let Some(counts) = self.paths.get_mut(&path) {
            counts[which] += 1;
            return;
        }
        if self.paths.len() >= MAX_PATHS || self.path_bytes + path.len() > MAX_PATH_BYTES {
            self.halve_paths();
        }
        self.path_bytes += path.len();
        self.paths.entry(path).or_default()[which] += 1;
    }

    fn halve_paths(&mut self) {
        let paths = self.paths.drain();
        let paths = paths.map(|(path, counts)| (counts[0] + counts[1], path, counts));
        let mut ranked: Vec<(u64, String, [u64; 2])> = paths.collect();
        // Which of equals go does not depend on the order of a table.
        ranked.sort_unstable();
        let half = ranked.len() / 2;
        self.forgotten_paths += half as u64;
        let kept = ranked.into_iter().skip(half);
        self.paths = kept.map(|(_, path, counts)| (path, counts)).collect();
        self.path_bytes = self.paths.keys().map(String::len).sum();
    }

    /// A write was answered: perhaps the one that fired events.
    fn answers(&mut self, row: &Exchange<'_>, op: &str, zxid: i64) {
        if self.unknown > 0 {
            if let Some(write) = self.writes.get_mut(&WriteKey::Zxid(zxid)) {
                if write.op.is_none() {
                    write.op = Some(op.to_owned());
                    write.client = Some(row.conn.client);
                    if let Some(path) = row.path {
                        write.path = short(path);
                    }
                    self.unknown -= 1;
                }
            }
        }
        let at = zxid as usize % ANSWERED;
        if self.answered.is_empty() {
            self.answered = vec![Answered::default(); ANSWERED];
        }
        if let Some(known) = self.answered.get_mut(at) {
            known.zxid = zxid;
            op.clone_into(&mut known.op);
            known.client = row.conn.client;
            known.has_path = row.path.is_some();
            known.path.clear();
            let path = row.path.unwrap_or_default();
            known
                .path
                .extend_from_slice(path.get(..PATH_MEMORY).unwrap_or(path));
        }
    }

    /// A request that may read what an event told of.
    #[inline]
    fn reads(&mut self, row: &Exchange<'_>, is: Class, hash: u64, session: Option<i64>) {
        // A row comes when its reply does, so some time later than its request.
        while let Some(&(ts_ns, key)) = self.queue.front() {
            if ts_ns >= row.ts_ns.saturating_sub(2 * REREAD_NS) && self.queue.len() <= MAX_WAITING {
                break;
            }
            self.queue.pop_front();
            if self.waiting.get(&key).is_some_and(|known| known.0 == ts_ns) {
                self.waiting.remove(&key);
            }
        }
        let (Some(_), Some(session)) = (row.path, session.filter(|_| is.any(READS))) else {
            return;
        };
        let key = both(session, hash);
        let Some(&(ts_ns, number)) = self.waiting.get(&key) else {
            return;
        };
        if !(0..=REREAD_NS).contains(&row.ts_ns.saturating_sub(ts_ns)) {
            return;
        }
        self.waiting.remove(&key);
        let write = self.keys.get(&number);
        if let Some(write) = write.and_then(|key| self.writes.get_mut(key)) {
            write.rereads += 1;
            write.reread_bytes =
                (write.reread_bytes).saturating_add(row.reply_bytes.unwrap_or_default());
        }
    }

    pub fn watch_event(&mut self, row: &WatchEvent<'_>, hash: u64, session: Option<i64>) {
        let event = row.event.unwrap_or("?");
        count(&mut self.fired, event);
        let Some(path) = row.path else { return };
        self.path(path, 1);
        if let Some(session) = session {
            // Which watches an event ends (WatchManager.triggerWatch); an absent znode's watch is one of
            // its data here, since one event cannot end both.
            if matches!(event, "NodeCreated" | "NodeDataChanged" | "NodeDeleted") {
                self.ledger.fired(session, path, DATA);
            }
            if matches!(event, "NodeDeleted" | "NodeChildrenChanged") {
                self.ledger.fired(session, path, CHILD);
            }
        }
        let number = self.fires(row, event, path, session);
        if let Some(session) = session {
            let key = both(session, hash);
            self.waiting.insert(key, (row.ts_ns, number));
            self.queue.push_back((row.ts_ns, key));
            if self.queue.len() > MAX_WAITING {
                if let Some((ts_ns, key)) = self.queue.pop_front() {
                    if self.waiting.get(&key).is_some_and(|known| known.0 == ts_ns) {
                        self.waiting.remove(&key);
                    }
                }
            }
        }
    }

    /// Counts an event for its write, and gives the write's number.
    fn fires(
        &mut self,
        row: &WatchEvent<'_>,
        event: &str,
        path: &[u8],
        session: Option<i64>,
    ) -> u64 {
        // One write can fire NodeDeleted here and NodeChildrenChanged of the parent there.
        let key = match row.zxid {
            Some(zxid) => WriteKey::Zxid(zxid),
            None => WriteKey::Guess(short(path), event.to_owned(), row.ts_ns.div_euclid(SECOND)),
        };
        if !self.writes.contains_key(&key) {
            self.begin(&key, row, path);
        }
        let Some(write) = self.writes.get_mut(&key) else {
            return 0;
        };
        write.events += 1;
        write.bytes = write.bytes.saturating_add(row.bytes);
        write.first_ns = write.first_ns.min(row.ts_ns);
        write.last_ns = write.last_ns.max(row.ts_ns);
        count(&mut write.kinds, event);
        if write.open && write.known.len() < MAX_SESSIONS {
            write.known.insert(session.unwrap_or_default());
            write.sessions = write.known.len() as u64;
        }
        write.number
    }

    fn begin(&mut self, key: &WriteKey, row: &WatchEvent<'_>, path: &[u8]) {
        if self.writes.len() >= MAX_WRITES {
            self.halve();
        }
        self.number += 1;
        let mut write = Write {
            number: self.number,
            zxid: row.zxid,
            first_ns: row.ts_ns,
            last_ns: row.ts_ns,
            path: short(path),
            kinds: Vec::new(),
            events: 0,
            bytes: 0,
            known: HashSet::new(),
            open: true,
            sessions: 0,
            op: None,
            client: None,
            rereads: 0,
            reread_bytes: 0,
        };
        if let Some(zxid) = row.zxid {
            let known = self.answered.get(zxid as usize % ANSWERED);
            match known.filter(|known| known.zxid == zxid && !known.op.is_empty()) {
                Some(known) => {
                    write.op = Some(known.op.clone());
                    write.client = Some(known.client);
                    if known.has_path {
                        write.path = short(&known.path);
                    }
                }
                None => self.unknown += 1,
            }
        }
        self.keys.insert(self.number, key.clone());
        self.open.push_back(key.clone());
        self.writes.insert(key.clone(), write);
        if self.open.len() > OPEN_WRITES {
            let closed = self.open.pop_front();
            if let Some(write) = closed.and_then(|key| self.writes.get_mut(&key)) {
                write.open = false;
                write.known = HashSet::new();
            }
        }
    }

    fn halve(&mut self) {
        let writes = self.writes.iter();
        let mut ranked: Vec<(u64, u64)> = writes.map(|(_, one)| (one.events, one.number)).collect();
        ranked.sort_unstable();
        let half = ranked.len() / 2;
        for (_, number) in ranked.into_iter().take(half) {
            let key = self.keys.remove(&number);
            if let Some(gone) = key.and_then(|key| self.writes.remove(&key)) {
                self.unknown -= usize::from(gone.zxid.is_some() && gone.op.is_none());
            }
        }
        self.forgotten_writes += half as u64;
    }

    // ---- the asking side

    /// Paths with how often a watch was registered and fired, the first `limit` by either or by name; and how
    /// many there are.
    pub fn paths(&self, sort: &str, limit: usize) -> (Vec<(String, [u64; 2])>, usize) {
        let paths = self.paths.iter().map(|(path, &[registered, fired])| {
            let first = match sort {
                "fired" => fired,
                "registered" => registered,
                _ => 0,
            };
            ((!first, !fired, !registered), path, [registered, fired])
        });
        let mut ranked: Vec<_> = paths.collect();
        let total = ranked.len();
        if sort == "key" {
            ranked.sort_unstable_by_key(|one| one.1);
        } else {
            if limit < total {
                ranked.select_nth_unstable_by_key(limit, |one| (one.0, one.1));
                ranked.truncate(limit);
            }
            ranked.sort_unstable_by_key(|one| (one.0, one.1));
        }
        ranked.truncate(limit);
        let named = ranked.into_iter();
        let named = named.map(|(_, path, counts)| (path.clone(), counts));
        (named.collect(), total)
    }

    /// Writes with an event since a time, most events first.
    pub fn writes(&self, since_ns: i64, limit: usize) -> Vec<Write> {
        let writes = self.writes.values().filter(|one| one.last_ns >= since_ns);
        let mut found: Vec<&Write> = writes.collect();
        found.sort_unstable_by_key(|one| (!one.events, one.first_ns, one.number));
        found.truncate(limit);
        let copied = found.into_iter().map(|one| Write {
            known: HashSet::new(),
            ..one.clone()
        });
        copied.collect()
    }
}

fn count(counts: &mut Vec<(String, u64)>, name: &str) {
    match counts.iter_mut().find(|known| known.0 == name) {
        Some(known) => known.1 += 1,
        None => counts.push((lossy(name.as_bytes()).into_owned(), 1)),
    }
}
