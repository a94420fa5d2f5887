//! Event rows to plain arrays, one per column that was asked for: what analyses of a whole capture stand on.
//!
//! The columns are those of `tables` by name; only those asked for are kept, in as few bytes as their values take
//! (`numbers`), and nothing is kept twice. Texts are numbers of a dictionary, all paths of one. Knows nothing of Python.

use crate::events::{
    Anomaly, ConnInfo, Connection, Direction, EventSink, Exchange, Quorum, WatchEvent,
};
use crate::intern::Interner;
use crate::numbers::{Numbers, Plain};

pub use crate::numbers::NONE;

/// Small numbers whose keys are remembered: -16 and so many more.
const FIRST: i32 = -16;
const DIRECT: usize = 160;

/// Names that are functions of small numbers.
pub struct Names {
    pub texts: Interner,
    keys: [i32; DIRECT],
}

impl Default for Names {
    fn default() -> Self {
        Names {
            texts: Interner::new(),
            keys: [-1; DIRECT],
        }
    }
}

impl Names {
    #[inline]
    fn key(&mut self, number: i32, name: &str) -> i64 {
        let place = usize::try_from(number.wrapping_sub(FIRST)).unwrap_or(usize::MAX);
        match self.keys.get_mut(place) {
            Some(known) => {
                if *known < 0 {
                    *known = self
                        .texts
                        .intern(name.as_bytes())
                        .map_or(-1, |key| key as i32);
                }
                i64::from(*known)
            }
            None => self.text(name),
        }
    }

    fn text(&mut self, name: &str) -> i64 {
        self.texts
            .intern_text(name.as_bytes())
            .map_or(-1, i64::from)
    }
}

/// The columns of one kind of event. Rows of a kind of which no column was asked for are not counted.
pub struct Table {
    pub kind: &'static str,
    names: &'static [&'static str],
    columns: Vec<Option<Numbers>>,
    rows: usize,
    wanted: bool,
    /// Stands for columns that were not asked for.
    nothing: Numbers,
}

impl Table {
    fn new(kind: &'static str, names: &'static [&'static str]) -> Self {
        Table {
            kind,
            names,
            columns: names.iter().map(|_| None).collect(),
            rows: 0,
            wanted: false,
            nothing: Numbers::default(),
        }
    }

    fn want(&mut self, name: &str) -> bool {
        let at = self.names.iter().position(|known| *known == name);
        match at.and_then(|at| self.columns.get_mut(at)) {
            Some(column) => {
                *column = Some(Numbers::default());
                self.wanted = true;
                true
            }
            None => false,
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A column that stays here; one that was not asked for has no values.
    pub fn column(&self, name: &str) -> &Numbers {
        let at = self.names.iter().position(|known| *known == name);
        let column = at.and_then(|at| self.columns.get(at)?.as_ref());
        column.unwrap_or(&self.nothing)
    }

    #[inline]
    fn wants(&self, column: usize) -> bool {
        matches!(self.columns.get(column), Some(Some(_)))
    }

    #[inline]
    fn put(&mut self, column: usize, value: Option<i64>) {
        if let (Some(Some(numbers)), Some(value)) = (self.columns.get_mut(column), value) {
            numbers.put(self.rows, value);
        }
    }

    /// The columns, by name; they are given away.
    fn take(&mut self) -> Vec<(&'static str, Plain)> {
        let rows = std::mem::take(&mut self.rows);
        let columns = self.names.iter().zip(&mut self.columns);
        let given = columns.filter_map(|(name, column)| {
            column
                .as_mut()
                .map(|numbers| (*name, std::mem::take(numbers).plain(rows)))
        });
        given.collect()
    }
}

mod exchange {
    pub const NAMES: [&str; 18] = [
        "seq",
        "ts_ns",
        "conn",
        "xid",
        "session",
        "zxid",
        "latency_ns",
        "error",
        "op",
        "state",
        "path",
        "created_path",
        "watch",
        "stat.czxid",
        "stat.mzxid",
        "stat.aversion",
        "last_zxid_seen",
        "protocol_version",
    ];
}

mod quorum {
    pub const NAMES: [&str; 18] = [
        "seq",
        "ts_ns",
        "conn",
        "zxid",
        "bytes",
        "session",
        "cxid",
        "type",
        "direction",
        "txn_type",
        "path",
        "error",
        "sid",
        "epoch",
        "digest",
        "config",
        "late",
        "txn_hash",
    ];
}

const EVENT_NAMES: [&str; 6] = ["seq", "ts_ns", "conn", "zxid", "event", "path"];
const CONNECTION_NAMES: [&str; 5] = ["seq", "ts_ns", "conn", "role", "event"];
const ANOMALY_NAMES: [&str; 6] = ["seq", "ts_ns", "conn", "reason", "direction", "detail"];

/// A column of texts: kind, column, dictionary.
pub type Texts<'a> = (&'static str, &'static str, &'a Interner);

/// A kind of event with its columns by name.
pub type Given = (&'static str, Vec<(&'static str, Plain)>);

/// Collects rows; the arrays are taken at the end.
pub struct ArraySink {
    exchanges: Table,
    quorum: Table,
    events: Table,
    connections: Table,
    anomalies: Table,
    /// Exchanges of these ops only; None: of all.
    ops: Option<Vec<i32>>,
    /// Of every connection by number: keys of client and server; -1 of those without a row.
    ends: [Vec<i32>; 2],
    addresses: Interner,
    paths: Interner,
    ops_names: Names,
    states: Names,
    packets: Names,
    directions: Names,
    txns: Names,
    event_names: Names,
    roles: Names,
    ways: Names,
    reasons: Names,
    details: Names,
    configs: Interner,
}

impl ArraySink {
    /// `columns`: "kind.column" each. Gives the one that there is not.
    pub fn new(columns: &[String], ops: Option<Vec<i32>>) -> Result<Self, String> {
        let mut sink = ArraySink {
            exchanges: Table::new("exchanges", &exchange::NAMES),
            quorum: Table::new("quorum", &quorum::NAMES),
            events: Table::new("watch_events", &EVENT_NAMES),
            connections: Table::new("connections", &CONNECTION_NAMES),
            anomalies: Table::new("anomalies", &ANOMALY_NAMES),
            ops,
            ends: Default::default(),
            addresses: Interner::new(),
            paths: Interner::new(),
            ops_names: Names::default(),
            states: Names::default(),
            packets: Names::default(),
            directions: Names::default(),
            txns: Names::default(),
            event_names: Names::default(),
            roles: Names::default(),
            ways: Names::default(),
            reasons: Names::default(),
            details: Names::default(),
            configs: Interner::new(),
        };
        for name in columns {
            let (kind, column) = name.split_once('.').unwrap_or((name, ""));
            let table = sink.tables().into_iter().find(|table| table.kind == kind);
            if !table.is_some_and(|table| table.want(column)) {
                return Err(format!("no column {name:?}"));
            }
        }
        Ok(sink)
    }

    /// All columns that there are, as `new` takes them.
    pub fn names() -> Vec<String> {
        let kinds: [(&str, &[&str]); 5] = [
            ("exchanges", &exchange::NAMES),
            ("quorum", &quorum::NAMES),
            ("watch_events", &EVENT_NAMES),
            ("connections", &CONNECTION_NAMES),
            ("anomalies", &ANOMALY_NAMES),
        ];
        let all = kinds.into_iter();
        all.flat_map(|(kind, names)| names.iter().map(move |name| format!("{kind}.{name}")))
            .collect()
    }

    pub fn exchanges(&self) -> &Table {
        &self.exchanges
    }

    pub fn quorum(&self) -> &Table {
        &self.quorum
    }

    pub fn watch_events(&self) -> &Table {
        &self.events
    }

    pub fn connections(&self) -> &Table {
        &self.connections
    }

    pub fn anomalies(&self) -> &Table {
        &self.anomalies
    }

    /// Keys of the addresses of clients and servers, by number of the connection.
    pub fn ends(&self) -> &[Vec<i32>; 2] {
        &self.ends
    }

    /// The dictionary of a column of texts.
    pub fn dictionary(&self, kind: &str, column: &str) -> Option<&Interner> {
        let mut known = self.texts().into_iter();
        let found = known.find(|(its_kind, name, _)| (*its_kind, *name) == (kind, column));
        found.map(|(_, _, texts)| texts)
    }

    fn tables(&mut self) -> [&mut Table; 5] {
        [
            &mut self.exchanges,
            &mut self.quorum,
            &mut self.events,
            &mut self.connections,
            &mut self.anomalies,
        ]
    }

    pub fn reads_quorum(&self) -> bool {
        self.quorum.wanted || self.anomalies.wanted
    }

    /// The columns of all kinds that any was asked for.
    pub fn take(&mut self) -> Vec<Given> {
        let tables = self.tables().into_iter().filter(|table| table.wanted);
        tables.map(|table| (table.kind, table.take())).collect()
    }

    /// Keys of the addresses of clients and servers, by number of the connection.
    pub fn take_ends(&mut self) -> [Vec<i32>; 2] {
        std::mem::take(&mut self.ends)
    }

    pub fn addresses(&self) -> &Interner {
        &self.addresses
    }

    /// Dictionaries of the columns of texts. Those of paths are one.
    pub fn texts(&self) -> [Texts<'_>; 16] {
        [
            ("exchanges", "op", &self.ops_names.texts),
            ("exchanges", "state", &self.states.texts),
            ("exchanges", "path", &self.paths),
            ("exchanges", "created_path", &self.paths),
            ("quorum", "type", &self.packets.texts),
            ("quorum", "direction", &self.directions.texts),
            ("quorum", "txn_type", &self.txns.texts),
            ("quorum", "path", &self.paths),
            ("quorum", "config", &self.configs),
            ("watch_events", "event", &self.event_names.texts),
            ("watch_events", "path", &self.paths),
            ("connections", "role", &self.roles.texts),
            ("connections", "event", &self.ways.texts),
            ("anomalies", "reason", &self.reasons.texts),
            ("anomalies", "direction", &self.directions.texts),
            ("anomalies", "detail", &self.details.texts),
        ]
    }

    /// Remembers a connection's addresses. Connections are numbered one after another.
    #[inline]
    fn meet(&mut self, conn: &ConnInfo) {
        let at = usize::try_from(conn.id).unwrap_or_default();
        let known = self.ends[0].get(at).is_some_and(|key| *key >= 0);
        if !known {
            self.meet_first(at, conn);
        }
    }

    #[cold]
    fn meet_first(&mut self, at: usize, conn: &ConnInfo) {
        for (keys, end) in self.ends.iter_mut().zip([conn.client, conn.server]) {
            if keys.len() <= at {
                keys.resize(at + 1, -1);
            }
            let key = self.addresses.intern(end.to_string().as_bytes());
            if let (Some(place), Some(key)) = (keys.get_mut(at), key) {
                *place = key as i32;
            }
        }
    }

    #[inline]
    fn wants_op(&self, op: Option<(i32, &str)>) -> bool {
        match &self.ops {
            None => true,
            Some(ops) => op.is_some_and(|(code, _)| ops.contains(&code)),
        }
    }
}

#[inline]
fn key(texts: &mut Interner, raw: Option<&[u8]>) -> Option<i64> {
    raw.and_then(|raw| texts.intern_text(raw)).map(i64::from)
}

impl EventSink for ArraySink {
    fn exchange(&mut self, row: &Exchange<'_>) {
        if !self.exchanges.wanted || !self.wants_op(row.op) {
            return;
        }
        self.meet(row.conn);
        let table = &mut self.exchanges;
        let op = row.op.map(|(code, name)| self.ops_names.key(code, name));
        let state = self.states.key(row.state as i32, row.state.as_str());
        table.put(0, Some(row.seq));
        table.put(1, Some(row.ts_ns));
        table.put(2, Some(row.conn.id));
        table.put(3, row.xid);
        table.put(4, row.session);
        table.put(5, row.zxid);
        table.put(6, row.latency_ns);
        table.put(7, row.error.map(i64::from));
        table.put(8, op);
        table.put(9, Some(state));
        if table.wants(10) {
            table.put(10, key(&mut self.paths, row.path));
        }
        if table.wants(11) {
            table.put(11, key(&mut self.paths, row.created_path));
        }
        table.put(12, row.watch.map(i64::from));
        if let (Some(stat), true) = (row.stat, table.wants(13) || table.wants(14)) {
            let stat = stat.decode();
            table.put(13, Some(stat.czxid));
            table.put(14, Some(stat.mzxid));
            table.put(15, Some(i64::from(stat.aversion)));
        }
        if let Some(connect) = row.connect {
            table.put(16, connect.last_zxid_seen);
            table.put(17, connect.protocol_version.map(i64::from));
        }
        table.rows += 1;
    }

    fn watch_event(&mut self, row: &WatchEvent<'_>) {
        if !self.events.wanted {
            return;
        }
        self.meet(row.conn);
        let table = &mut self.events;
        table.put(0, Some(row.seq));
        table.put(1, Some(row.ts_ns));
        table.put(2, Some(row.conn.id));
        table.put(3, row.zxid);
        table.put(4, row.event.map(|name| self.event_names.text(name)));
        table.put(5, key(&mut self.paths, row.path));
        table.rows += 1;
    }

    fn connection(&mut self, row: &Connection<'_>) {
        if !self.connections.wanted {
            return;
        }
        self.meet(row.conn);
        let table = &mut self.connections;
        let role = self.roles.key(row.role as i32, row.role.as_str());
        let event = self.ways.key(row.event as i32, row.event.as_str());
        table.put(0, Some(row.seq));
        table.put(1, Some(row.ts_ns));
        table.put(2, Some(row.conn.id));
        table.put(3, Some(role));
        table.put(4, Some(event));
        table.rows += 1;
    }

    fn anomaly(&mut self, row: &Anomaly<'_>) {
        if !self.anomalies.wanted {
            return;
        }
        self.meet(row.conn);
        let table = &mut self.anomalies;
        table.put(0, Some(row.seq));
        table.put(1, Some(row.ts_ns));
        table.put(2, Some(row.conn.id));
        table.put(3, Some(self.reasons.text(row.reason)));
        let direction = row.direction.map(Direction::as_str);
        table.put(4, direction.map(|name| self.directions.text(name)));
        if table.wants(5) {
            table.put(5, row.detail.map(|detail| self.details.text(detail)));
        }
        table.rows += 1;
    }

    fn quorum(&mut self, row: &Quorum<'_>) {
        if !self.quorum.wanted {
            return;
        }
        self.meet(row.conn);
        let table = &mut self.quorum;
        let way = self
            .directions
            .key(i32::from(row.to_leader), row.direction());
        table.put(0, Some(row.seq));
        table.put(1, Some(row.ts_ns));
        table.put(2, Some(row.conn.id));
        table.put(3, row.zxid);
        table.put(4, row.bytes);
        table.put(5, row.session);
        table.put(6, row.cxid);
        table.put(7, Some(self.packets.key(row.kind, row.name)));
        table.put(8, Some(way));
        table.put(9, row.txn.map(|(code, name)| self.txns.key(code, name)));
        if table.wants(10) {
            table.put(10, key(&mut self.paths, row.path));
        }
        table.put(11, row.error.map(i64::from));
        table.put(12, row.sid);
        table.put(13, row.epoch);
        table.put(14, row.digest);
        if row.config.is_some() && table.wants(15) {
            table.put(15, key(&mut self.configs, row.config));
        }
        table.put(16, row.late.then_some(1));
        table.put(17, row.txn_hash);
        table.rows += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_there_is_not() {
        for name in ["quorum", "quorum.", "quorum.secret", "x.seq"] {
            assert!(ArraySink::new(&[name.to_owned()], None).is_err(), "{name}");
        }
    }
}
