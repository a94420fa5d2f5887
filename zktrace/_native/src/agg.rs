//! Event rows to counts and latency histograms, without keeping a row.
//!
//! `zktrace/analysis/stats.py` computes the same numbers from tables; both follow the rules written
//! there. Counts by op are always kept (the total is their sum); the other groupings are kept as
//! asked. Memory is bounded: a grouping holds at most `key_limit` keys, what comes later goes to
//! its overflow row, and the rows that went there are counted. A row holds at most `ERROR_LIMIT`
//! distinct error codes. Knows nothing of Python.

use std::collections::HashMap;

use crate::agg_rows::{Delta, Waiting, WAITING};
use crate::events::{
    ConnInfo, Connection, ConnectionEvent, Counted, EventSink, Exchange, Looks, WatchEvent,
};
use crate::histogram::Scale;
use crate::intern::Interner;

pub use crate::agg_rows::Row;

/// Default bound of keys per grouping: some 100 MB if every key has a busy histogram, far less in
/// practice.
pub const KEY_LIMIT: usize = 200_000;
/// A path may be as long as a frame, so keys are bounded in bytes as well.
const KEY_BYTES_LIMIT: usize = 64 << 20;
/// ZooDefs.OpCode.ping, and the number that stands for a ConnectRequest (createSession).
pub(crate) const PING: i32 = 11;
pub(crate) const CONNECT: i32 = -10;

/// Opcodes from here on, for the length of the table, find their row without hashing.
const FIRST_DIRECT: i32 = -16;
const DIRECT: usize = 160;

/// Connections whose users are known: as many as are followed at once (MAX_CONNECTIONS), and those that were given up.
const USERS_LIMIT: usize = 1 << 16;

/// Connections whose rows are remembered (direct mapped by number).
const CONN_CACHE: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    Op,
    Client,
    Path,
    Session,
    Server,
    /// Who the connection has authenticated as.
    User,
    /// Made of paths, by `windows` only.
    Fingerprint,
}

impl By {
    pub const ALL: [By; 6] = [
        By::Op,
        By::Client,
        By::Path,
        By::Session,
        By::Server,
        By::User,
    ];

    /// What windows count.
    pub const WINDOWS: [By; 6] = [
        By::Op,
        By::Client,
        By::Path,
        By::Fingerprint,
        By::Server,
        By::User,
    ];

    pub fn name(self) -> &'static str {
        match self {
            By::Op => "op",
            By::Client => "client",
            By::Path => "path",
            By::Session => "session",
            By::Server => "server",
            By::User => "user",
            By::Fingerprint => "fingerprint",
        }
    }

    pub fn parse(name: &str) -> Option<By> {
        By::ALL.into_iter().find(|by| by.name() == name)
    }
}

/// Rows of one grouping. Slot 0 is the null key, slot 1 the overflow, slot 2 + i key i.
struct Group {
    keys: Interner,
    rows: Vec<Row>,
    limit: usize,
    overflow_rows: u64,
}

const NULL_SLOT: u32 = 0;
const OVERFLOW_SLOT: u32 = 1;

impl Group {
    fn new(limit: usize) -> Self {
        Group {
            keys: Interner::new(),
            rows: vec![Row::default(), Row::default()],
            limit,
            overflow_rows: 0,
        }
    }

    /// Slot of a key, a new one while there is room. `text`: the key is text, invalid UTF-8 is
    /// replaced.
    #[inline]
    fn slot(&mut self, key: &[u8], text: bool) -> u32 {
        let room = self.keys.len() < self.limit && self.keys.byte_len() < KEY_BYTES_LIMIT;
        let index = if room {
            if text {
                self.keys.intern_text(key)
            } else {
                self.keys.intern(key)
            }
        } else if text {
            self.keys.lookup_text(key)
        } else {
            self.keys.lookup(key)
        };
        let Some(index) = index else {
            return OVERFLOW_SLOT;
        };
        if self.keys.len() + 2 > self.rows.len() {
            self.rows.push(Row::default());
        }
        index + 2
    }

    #[inline]
    fn row(&mut self, slot: u32) -> Option<&mut Row> {
        self.overflow_rows += u64::from(slot == OVERFLOW_SLOT);
        self.rows.get_mut(slot as usize)
    }
}

/// Rows of a connection: filled when first needed.
#[derive(Clone, Copy)]
struct ConnSlots {
    conn: i64,
    client: u32,
    server: u32,
    user: u32,
    session: Option<(i64, u32)>,
}

/// Slots of a row's keys that belong to its connection.
struct Slots {
    client: u32,
    server: u32,
    session: u32,
    user: u32,
}

/// A grouping as shown: rows by requests (most first), then key; null keys after others.
pub struct Shown<'a> {
    pub rows: Vec<(Option<String>, &'a Row)>,
    /// Sum of the rows beyond the asked number and of the overflow.
    pub rest: Option<Row>,
    /// Rows beyond the asked number.
    pub folded: usize,
    pub overflow_rows: u64,
    pub scale: &'a Scale,
}

pub struct Aggregator {
    scale: Scale,
    depth: Option<usize>,
    watch_events: u64,
    op: Group,
    op_names: Vec<String>,
    op_slots: [u32; DIRECT],
    client: Option<Group>,
    path: Option<Group>,
    session: Option<Group>,
    server: Option<Group>,
    user: Option<Group>,
    /// Users of connections that told of one.
    users: HashMap<i64, Box<str>>,
    /// Rows of no known user are counted, too.
    pub nobody: bool,
    conns: Vec<ConnSlots>,
    waiting: Waiting,
}

impl Aggregator {
    /// Path keys are cut to `depth` components. `by` need not hold `Op`, which is always there.
    pub fn new(scale: Scale, by: &[By], depth: Option<usize>, key_limit: usize) -> Self {
        let group = |wanted: By| by.contains(&wanted).then(|| Group::new(key_limit));
        let empty = ConnSlots {
            conn: -1,
            client: NULL_SLOT,
            server: NULL_SLOT,
            user: NULL_SLOT,
            session: None,
        };
        let (client, server, session) = (group(By::Client), group(By::Server), group(By::Session));
        let user = group(By::User);
        let per_conn = [&client, &server, &session, &user];
        let per_conn = per_conn.into_iter().any(Option::is_some);
        Aggregator {
            scale,
            depth,
            watch_events: 0,
            op: Group::new(key_limit),
            op_names: Vec::new(),
            op_slots: [0; DIRECT],
            client,
            path: group(By::Path),
            session,
            server,
            user,
            users: HashMap::new(),
            nobody: true,
            conns: vec![empty; if per_conn { CONN_CACHE } else { 0 }],
            waiting: Waiting::default(),
        }
    }

    #[inline]
    fn op_slot(&mut self, op: Option<(i32, &str)>) -> u32 {
        let Some((code, name)) = op else {
            return NULL_SLOT;
        };
        let direct = usize::try_from(code.wrapping_sub(FIRST_DIRECT)).unwrap_or(usize::MAX);
        if let Some(&known) = self.op_slots.get(direct) {
            // 0, the null row, stands for "not looked up yet".
            if known != NULL_SLOT {
                return known;
            }
        }
        let slot = self.op.slot(&code.to_le_bytes(), false);
        if slot != OVERFLOW_SLOT {
            if self.op_names.len() < self.op.keys.len() {
                self.op_names.push(name.to_owned());
            }
            if let Some(known) = self.op_slots.get_mut(direct) {
                *known = slot;
            }
        }
        slot
    }

    /// Slots of the groupings that are kept.
    #[inline]
    fn conn_slots(&mut self, conn: &ConnInfo, session: Option<i64>) -> Slots {
        let at = conn.id as usize & (CONN_CACHE - 1);
        let mut slots = match self.conns.get(at) {
            Some(cached) if cached.conn == conn.id => *cached,
            _ => {
                let client = self.client.as_mut().map_or(NULL_SLOT, |group| {
                    group.slot(conn.client.ip_text().as_bytes(), false)
                });
                let server = self.server.as_mut().map_or(NULL_SLOT, |group| {
                    group.slot(conn.server.to_string().as_bytes(), false)
                });
                let user = self.user_slot(conn.id);
                ConnSlots {
                    conn: conn.id,
                    client,
                    server,
                    user,
                    session: None,
                }
            }
        };
        let session = match (&mut self.session, session) {
            (Some(group), Some(id)) => match slots.session {
                Some((known, slot)) if known == id => slot,
                _ => {
                    // Big-endian, so that keys sort as the shown hex digits do.
                    let slot = group.slot(&id.to_be_bytes(), false);
                    slots.session = Some((id, slot));
                    slot
                }
            },
            _ => NULL_SLOT,
        };
        if let Some(cached) = self.conns.get_mut(at) {
            *cached = slots;
        }
        Slots {
            client: slots.client,
            server: slots.server,
            session,
            user: slots.user,
        }
    }

    fn user_slot(&mut self, conn: i64) -> u32 {
        match (&mut self.user, self.users.get(&conn)) {
            (Some(group), Some(user)) => group.slot(user.as_bytes(), true),
            _ => NULL_SLOT,
        }
    }

    /// Everything. Latency without pings and connects.
    pub fn total(&self) -> Row {
        let mut total = Row::default();
        total.watch_events = self.watch_events;
        let aside: Vec<u32> = [PING, CONNECT]
            .into_iter()
            .filter_map(|code| self.op.keys.lookup(&code.to_le_bytes()))
            .map(|index| index + 2)
            .collect();
        for (slot, row) in (0..).zip(&self.op.rows) {
            if aside.contains(&slot) {
                total.merge_counts(row);
            } else {
                total.merge(row);
            }
        }
        total
    }

    pub fn scale(&self) -> &Scale {
        &self.scale
    }

    /// Keys of the grouping that has most.
    pub fn most_keys(&mut self) -> usize {
        self.count_waiting();
        let groups = [
            &self.client,
            &self.path,
            &self.session,
            &self.server,
            &self.user,
        ];
        let groups = groups.into_iter().flatten().chain([&self.op]);
        groups.map(|group| group.keys.len()).max().unwrap_or(0)
    }

    /// Takes all rows out, in no order, and begins anew.
    pub fn take(&mut self) -> Vec<(By, Vec<KeyRow>)> {
        self.count_waiting();
        self.watch_events = 0;
        self.op_slots = [NULL_SLOT; DIRECT];
        for cached in &mut self.conns {
            cached.conn = -1;
        }
        let op_names = std::mem::take(&mut self.op_names);
        let kept = [
            (By::Op, Some(&mut self.op)),
            (By::Client, self.client.as_mut()),
            (By::Path, self.path.as_mut()),
            (By::Session, self.session.as_mut()),
            (By::Server, self.server.as_mut()),
            (By::User, self.user.as_mut()),
        ];
        let mut taken = Vec::new();
        for (by, group) in kept {
            let Some(group) = group else {
                continue;
            };
            let fresh = Group::new(group.limit);
            let mut old = std::mem::replace(group, fresh);
            let rows = std::mem::take(&mut old.rows);
            let some = (0u32..).zip(rows).filter(|(_, row)| !row.is_empty());
            let rows = some.map(|(slot, row)| KeyRow {
                key: key_text(by, &old, &op_names, slot),
                rest: slot == OVERFLOW_SLOT,
                row,
            });
            taken.push((by, rows.collect()));
        }
        taken
    }

    /// Rows of a grouping, at most `top`; None if the grouping is not kept.
    pub fn shown(&mut self, by: By, top: Option<usize>) -> Option<Shown<'_>> {
        self.count_waiting();
        let group = match by {
            By::Op => &self.op,
            By::Client => self.client.as_ref()?,
            By::Path => self.path.as_ref()?,
            By::Session => self.session.as_ref()?,
            By::Server => self.server.as_ref()?,
            By::User => self.user.as_ref()?,
            By::Fingerprint => return None,
        };
        let mut rest: Option<Row> = None;
        let mut order: Vec<(u64, u32)> = Vec::new();
        for (slot, row) in (0u32..).zip(&group.rows) {
            if row.is_empty() {
                continue;
            }
            if slot == OVERFLOW_SLOT {
                rest.get_or_insert_default().merge(row);
            } else {
                order.push((row.requests, slot));
            }
        }
        // Keys as bytes sort as the text that is shown of them does; only of those that are shown text is made.
        let key = |slot: u32| match (by, slot) {
            (_, NULL_SLOT) => None,
            (By::Op, slot) => Some(self.op_name(slot).unwrap_or_default().as_bytes()),
            (_, slot) => Some(group.keys.get(slot.wrapping_sub(2))),
        };
        let compare = |a: &(u64, u32), b: &(u64, u32)| {
            let order = b.0.cmp(&a.0);
            let order = order.then_with(|| (a.1 == NULL_SLOT).cmp(&(b.1 == NULL_SLOT)));
            order.then_with(|| key(a.1).cmp(&key(b.1)))
        };
        let top = top.unwrap_or(order.len()).min(order.len());
        if top < order.len() {
            order.select_nth_unstable_by(top, compare);
        }
        let folded = order.split_off(top);
        for row in folded
            .iter()
            .filter_map(|one| group.rows.get(one.1 as usize))
        {
            rest.get_or_insert_default().merge(row);
        }
        order.sort_unstable_by(compare);
        let rows = order.iter().filter_map(|&(_, slot)| {
            let key = key_text(by, group, &self.op_names, slot);
            Some((key, group.rows.get(slot as usize)?))
        });
        Some(Shown {
            rows: rows.collect(),
            rest,
            folded: folded.len(),
            overflow_rows: group.overflow_rows,
            scale: &self.scale,
        })
    }

    fn op_name(&self, slot: u32) -> Option<&str> {
        let index = slot.checked_sub(2)?;
        self.op_names.get(index as usize).map(String::as_str)
    }
}

/// The key of a slot as it is shown; None for the null row and the overflow.
fn key_text(by: By, group: &Group, op_names: &[String], slot: u32) -> Option<String> {
    let index = slot.checked_sub(2)?;
    let bytes = group.keys.get(index);
    match by {
        By::Op => op_names.get(index as usize).cloned(),
        By::Session => {
            let id = u64::from_be_bytes(bytes.try_into().ok()?);
            Some(format!("{id:#018x}"))
        }
        By::Client | By::Path | By::Server | By::User | By::Fingerprint => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
    }
}

/// A row that was taken out; `rest`: it stands for keys that were not kept apart.
pub struct KeyRow {
    pub key: Option<String>,
    pub rest: bool,
    pub row: Row,
}

/// The first `depth` components: everything before slash number depth + 1.
pub fn cut_path(path: &[u8], depth: Option<usize>) -> &[u8] {
    let Some(depth) = depth else {
        return path;
    };
    let slash = path.iter().enumerate().filter(|(_, &byte)| byte == b'/');
    match slash.map(|(i, _)| i).nth(depth) {
        Some(end) => path.get(..end).unwrap_or(path),
        None => path,
    }
}

#[inline]
fn count(group: &mut Option<Group>, slot: u32, delta: &Delta) {
    if let Some(row) = group.as_mut().and_then(|group| group.row(slot)) {
        row.add(delta);
    }
}

impl EventSink for Aggregator {
    fn looks(&self) -> Looks {
        Looks {
            quorum: false,
            rows: false,
            paths: self.path.is_some(),
        }
    }

    #[inline]
    fn exchange(&mut self, row: &Exchange<'_>) {
        self.count(&Counted::of(row));
    }

    #[inline]
    fn count(&mut self, row: &Counted<'_>) {
        let latency = row.latency_ns.map(|ns| (ns, self.scale.bucket(ns)));
        let slot = self.op_slot(row.op);
        let delta = Delta::of(row, latency);
        if let Some(op) = self.op.row(slot) {
            op.add(&delta);
        }
        if !self.conns.is_empty() || self.path.is_some() {
            self.count_groups(row, delta);
        }
    }

    fn watch_event(&mut self, row: &WatchEvent<'_>) {
        self.watch_events += 1;
        let delta = Delta {
            watch_event: true,
            ..Delta::default()
        };
        self.count_keys(row.conn, row.session, row.path, &delta);
    }

    fn connection(&mut self, row: &Connection<'_>) {
        if self.user.is_none() {
            return;
        }
        match (row.event, row.detail) {
            (ConnectionEvent::Authenticated, Some(user)) => {
                if self.users.len() >= USERS_LIMIT {
                    // Of connections whose end was not captured: what goes on is not known then.
                    self.users.clear();
                }
                self.users.insert(row.conn.id, user.into());
            }
            (ConnectionEvent::Closed | ConnectionEvent::Reset, _) => {
                self.users.remove(&row.conn.id);
            }
            _ => return,
        }
        let at = row.conn.id as usize & (CONN_CACHE - 1);
        if let Some(cached) = self.conns.get_mut(at) {
            cached.conn = -1;
        }
    }
}

impl Aggregator {
    /// Counts an exchange in the groupings beside that by op.
    #[inline(never)]
    fn count_groups(&mut self, row: &Counted<'_>, mut delta: Delta) {
        if matches!(row.op, Some((PING | CONNECT, _))) {
            delta.latency = None;
        }
        self.count_keys(row.conn, row.session, row.path, &delta);
    }

    #[inline(always)]
    fn count_keys(
        &mut self,
        conn: &ConnInfo,
        session: Option<i64>,
        path: Option<&[u8]>,
        delta: &Delta,
    ) {
        if !self.conns.is_empty() {
            let slots = self.conn_slots(conn, session);
            count(&mut self.client, slots.client, delta);
            count(&mut self.server, slots.server, delta);
            count(&mut self.session, slots.session, delta);
            if self.nobody || slots.user != NULL_SLOT {
                count(&mut self.user, slots.user, delta);
            }
        }
        let Some(group) = &mut self.path else {
            return;
        };
        match path {
            None => count(&mut self.path, NULL_SLOT, delta),
            Some(path) => {
                let path = cut_path(path, self.depth);
                if self.waiting.push(group.keys.hash(path), path, delta) {
                    self.count_waiting();
                }
            }
        }
    }

    /// Counts the events that wait, by path. Their lookups go side by side: with many paths each fetches what is in no
    /// near cache, and one after the other they would take longer than to decode the events.
    fn count_waiting(&mut self) {
        let Some(group) = &mut self.path else {
            return;
        };
        let mut found = [None; WAITING];
        for (found, event) in found.iter_mut().zip(&self.waiting.events) {
            *found = group.keys.guess(event.hash);
        }
        let mut from = 0;
        for (found, event) in found.iter_mut().zip(&self.waiting.events) {
            let path = self.waiting.paths.get(from..event.end).unwrap_or_default();
            *found = found.filter(|index| group.keys.get(*index) == path);
            from = event.end;
        }
        // rows, too, come from far away: asked for together they come together
        let rows = found.iter().flatten();
        let near = rows.filter_map(|index| group.rows.get(*index as usize + 2));
        std::hint::black_box(near.fold(0, |sum, row| sum ^ row.touch()));
        from = 0;
        for (found, event) in found.iter().zip(&self.waiting.events) {
            let slot = match found {
                Some(index) => index + 2,
                None => {
                    let path = self.waiting.paths.get(from..event.end);
                    group.slot(path.unwrap_or_default(), true)
                }
            };
            from = event.end;
            if let Some(row) = group.row(slot) {
                row.add(&event.delta);
            }
        }
        self.waiting.events.clear();
        self.waiting.paths.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Endpoint, State};
    use crate::histogram::tests::scale;

    #[test]
    fn keys_beyond_the_limit_overflow() {
        let mut sink = Aggregator::new(scale(), &[By::Path], Some(1), 2);
        let conn = ConnInfo {
            id: 0,
            client: Endpoint::v4([1, 2, 3, 4], 5),
            server: Endpoint::v4([1, 2, 3, 5], 2181),
        };
        for path in ["/a/x", "/b", "/c", "/a/y", "/d"] {
            let mut row = Exchange::new(0, 0, &conn, State::Complete);
            row.path = Some(path.as_bytes());
            sink.exchange(&row);
        }
        let shown = sink.shown(By::Path, None).unwrap();
        let keys: Vec<_> = shown.rows.iter().map(|row| row.0.as_deref()).collect();
        assert_eq!(keys, [Some("/a"), Some("/b")]);
        assert_eq!(shown.overflow_rows, 2);
        assert_eq!(shown.rest.unwrap().requests, 2);
        assert_eq!(sink.total().requests, 5);
    }

    #[test]
    fn cut() {
        assert_eq!(cut_path(b"/a/b/c", Some(2)), b"/a/b");
        assert_eq!(cut_path(b"/a", Some(2)), b"/a");
        assert_eq!(cut_path(b"/", Some(1)), b"/");
        assert_eq!(cut_path(b"/a/b", None), b"/a/b");
    }
}
