//! What checks stand on: columns of the tables, and where an order can be trusted. `evidence.py` is the reference.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::ensemble::Ensembles;
use super::orders::Carried;
use super::Packet;
use crate::analysis::columns::{hexadecimal, session_text, Exchanges, Packets, Texts, View, NONE};
use crate::analysis::sorted::grouped;
use crate::numbers::Numbers;
use crate::siphash::hash_session;

/// What is known of a capture beside its columns.
#[derive(Default)]
pub struct Given {
    /// How many servers vote, where the capture does not say.
    pub voters: Option<i64>,
    /// Nothing says that a packet was not captured, or not when it passed.
    pub times_hold: bool,
    /// Key of what is shown in place of a session's id.
    pub hash_key: Option<[u8; 16]>,
    /// Names of error codes.
    pub errors: HashMap<i64, String>,
}

pub struct WatchEvents<'a> {
    pub rows: usize,
    pub seq: &'a Numbers,
    ts: &'a Numbers,
    pub conn: &'a Numbers,
    pub zxid: &'a Numbers,
    pub event: Texts<'a>,
    pub path: Texts<'a>,
}

pub struct Connections<'a> {
    pub rows: usize,
    pub ts: &'a Numbers,
    pub conn: &'a Numbers,
    pub role: Texts<'a>,
    pub event: Texts<'a>,
}

pub struct Anomalies<'a> {
    pub rows: usize,
    seq: &'a Numbers,
    ts: &'a Numbers,
    conn: &'a Numbers,
    pub reason: Texts<'a>,
    direction: Texts<'a>,
    detail: Texts<'a>,
}

/// Columns of one capture, as checks see them.
pub struct Evidence<'a> {
    pub view: View<'a>,
    pub events: WatchEvents<'a>,
    pub connections: Connections<'a>,
    pub anomalies: Anomalies<'a>,
    pub given: &'a Given,
    /// Connections of which something was lost or did not decode.
    pub broken: HashSet<i64>,
    breaks: Vec<Break>,
    client_stretches: OnceCell<Vec<i32>>,
    packet_stretches: OnceCell<(Vec<i32>, Vec<bool>)>,
    answered: OnceCell<(Vec<u32>, Vec<bool>)>,
    ensembles: OnceCell<Ensembles<'a>>,
    pub(super) margins: OnceCell<Vec<Option<i64>>>,
    pub(super) carried: OnceCell<Vec<Carried>>,
}

/// What ends a stretch: on a connection, at a row, of the way to the server (0), to the client (1) or both (2).
struct Break {
    conn: i64,
    seq: i64,
    way: u8,
}

impl<'a> Evidence<'a> {
    pub fn new(view: View<'a>, given: &'a Given) -> Self {
        let e = view.sink.watch_events();
        let events = WatchEvents {
            rows: e.rows(),
            seq: e.column("seq"),
            ts: e.column("ts_ns"),
            conn: e.column("conn"),
            zxid: e.column("zxid"),
            event: view.texts(e, "event"),
            path: view.texts(e, "path"),
        };
        let c = view.sink.connections();
        let connections = Connections {
            rows: c.rows(),
            ts: c.column("ts_ns"),
            conn: c.column("conn"),
            role: view.texts(c, "role"),
            event: view.texts(c, "event"),
        };
        let a = view.sink.anomalies();
        let anomalies = Anomalies {
            rows: a.rows(),
            seq: a.column("seq"),
            ts: a.column("ts_ns"),
            conn: a.column("conn"),
            reason: view.texts(a, "reason"),
            direction: view.texts(a, "direction"),
            detail: view.texts(a, "detail"),
        };
        // Behind this nothing was lost; all others end a stretch.
        let harmless = anomalies.reason.find("bare_check");
        let down = anomalies.direction.find("to_client");
        let rows = (0..anomalies.rows).filter(|&row| anomalies.reason.code(row) != harmless);
        let breaks: Vec<Break> = rows
            .map(|row| {
                let code = anomalies.direction.code(row);
                Break {
                    conn: anomalies.conn.get(row),
                    seq: anomalies.seq.get(row),
                    way: if code < 0 { 2 } else { u8::from(code == down) },
                }
            })
            .collect();
        Evidence {
            view,
            events,
            connections,
            anomalies,
            given,
            broken: breaks.iter().map(|one| one.conn).collect(),
            breaks,
            client_stretches: OnceCell::new(),
            packet_stretches: OnceCell::new(),
            answered: OnceCell::new(),
            ensembles: OnceCell::new(),
            margins: OnceCell::new(),
            carried: OnceCell::new(),
        }
    }

    pub fn exchanges(&self) -> &Exchanges<'a> {
        &self.view.exchanges
    }

    pub fn packets(&self) -> &Packets<'a> {
        &self.view.packets
    }

    // ---- stretches

    fn client_stretches(&self) -> &[i32] {
        self.client_stretches.get_or_init(|| {
            // a loss of either direction ends one, since either pairs
            let (x, e) = (self.exchanges(), &self.events);
            let conns = (0..x.rows).map(|row| x.conn.get(row));
            let conns = conns.chain((0..e.rows).map(|row| e.conn.get(row)));
            let seq = |at: usize| match at.checked_sub(x.rows) {
                None => x.seq.get(at),
                Some(at) => e.seq.get(at),
            };
            let marks = self.breaks.iter().map(|one| (one.conn, one.seq)).collect();
            stretches(conns.map(small).collect(), seq, marks).0
        })
    }

    /// The stretch of each exchange.
    pub fn stretch(&self) -> &[i32] {
        &self.client_stretches()[..self.exchanges().rows]
    }

    /// The stretch of each watch event; the same numbers.
    pub fn event_stretch(&self) -> &[i32] {
        &self.client_stretches()[self.exchanges().rows..]
    }

    fn packet_stretches(&self) -> &(Vec<i32>, Vec<bool>) {
        self.packet_stretches.get_or_init(|| {
            let q = self.packets();
            let keys = (0..q.rows).map(|row| q.conn.get(row) * 2 + i64::from(!q.to_leader(row)));
            let mut marks = Vec::new();
            for way in [0, 1] {
                let mine = self
                    .breaks
                    .iter()
                    .filter(|one| one.way == way || one.way == 2);
                marks.extend(mine.map(|one| (one.conn * 2 + i64::from(way), one.seq)));
            }
            stretches(keys.map(small).collect(), |row| q.seq.get(row), marks)
        })
    }

    /// The stretch of each quorum packet: of its direction of its connection.
    pub fn packet_stretch(&self) -> &[i32] {
        &self.packet_stretches().0
    }

    /// Quorum packets that may be cut: the first of their direction behind a loss.
    pub fn damaged(&self) -> &[bool] {
        &self.packet_stretches().1
    }

    /// Connections of a role that opened, were joined ...
    pub fn conns_of(&self, role: &str, event: &str) -> HashSet<i64> {
        let c = &self.connections;
        let (role, event) = (c.role.find(role), c.event.find(event));
        let rows =
            (0..c.rows).filter(|&row| c.role.code(row) == role && c.event.code(row) == event);
        rows.map(|row| c.conn.get(row)).collect()
    }

    /// Exchanges that the request pipeline answered, ordered by stretch and within it as they were answered, and which of
    /// them are the first of theirs.
    pub fn answered(&self) -> (&[u32], &[bool]) {
        let (rows, first) = self.answered.get_or_init(|| {
            let x = self.exchanges();
            let aside = x.op.among(&["auth", "sasl", "connect"]);
            let complete = x.state.find("complete");
            let fits = |row: &usize| {
                x.state.code(*row) == complete
                    && x.zxid.get(*row) > 0
                    && !aside.has(x.op.code(*row))
            };
            let rows: Vec<u32> = (0..x.rows).filter(fits).map(|row| row as u32).collect();
            let stretch = self.stretch();
            let keys: Vec<i64> = rows
                .iter()
                .map(|&row| i64::from(stretch[row as usize]))
                .collect();
            let (order, first) = grouped(&keys);
            (
                order.into_iter().map(|at| rows[at as usize]).collect(),
                first,
            )
        });
        (rows, first)
    }

    pub fn ensembles(&self) -> &Ensembles<'a> {
        self.ensembles.get_or_init(|| Ensembles::new(self))
    }

    // ---- packets that prove

    /// A session's id, or what stands for it.
    pub fn session_text(&self, session: i64) -> String {
        match (session, &self.given.hash_key) {
            (NONE, _) => "?".to_owned(),
            (0, _) | (_, None) => session_text(session),
            (_, Some(key)) => session_text(hash_session(key, session)),
        }
    }

    pub fn client_name(&self, conn: i64) -> &'a str {
        self.view.address(self.view.client(conn)).unwrap_or("None")
    }

    pub fn server_name(&self, conn: i64) -> &'a str {
        self.view.address(self.view.server(conn)).unwrap_or("None")
    }

    fn proof(&self, conn: i64, ts_ns: i64, seq: i64, what: String) -> Packet {
        Packet {
            ts_ns,
            flow: format!("{}>{}", self.client_name(conn), self.server_name(conn)),
            seq,
            what,
        }
    }

    /// The reply of an exchange; its time is that of its first byte where that is known.
    pub fn reply(&self, row: usize, more: &str) -> Packet {
        let x = self.exchanges();
        let path = x.created_path.text(row).or_else(|| x.path.text(row));
        let mut what = joined([x.op.text(row), path]);
        if x.xid.get(row) != NONE {
            what += &format!(" xid {}", x.xid.get(row));
        }
        let error = x.error.get(row);
        if error != NONE && error != 0 {
            what += " ";
            match self.given.errors.get(&error) {
                Some(name) => what += name,
                None => what += &error.to_string(),
            }
        }
        if x.zxid.get(row) != NONE {
            what += &format!(" zxid {}", hexadecimal(x.zxid.get(row)));
        }
        let ts = x.ts.get(row).wrapping_add(x.latency.get(row).max(0));
        let what = format!("reply to {what}{more}");
        self.proof(x.conn.get(row), ts, x.seq.get(row), what)
    }

    /// The request of an exchange.
    pub fn request(&self, row: usize, more: &str) -> Packet {
        let x = self.exchanges();
        let mut what = joined([x.op.text(row), x.path.text(row)]);
        if x.xid.get(row) != NONE {
            what += &format!(" xid {}", x.xid.get(row));
        }
        what += more;
        self.proof(x.conn.get(row), x.ts.get(row), x.seq.get(row), what)
    }

    /// A watch event.
    pub fn event(&self, row: usize) -> Packet {
        let e = &self.events;
        let name = |text: Option<&str>| text.unwrap_or("None").to_owned();
        let mut what = format!(
            "event {} {}",
            name(e.event.text(row)),
            name(e.path.text(row))
        );
        if e.zxid.get(row) != NONE {
            what += &format!(" zxid {}", hexadecimal(e.zxid.get(row)));
        }
        self.proof(e.conn.get(row), e.ts.get(row), e.seq.get(row), what)
    }

    /// A quorum packet.
    pub fn packet(&self, row: usize, more: &str) -> Packet {
        let q = self.packets();
        let mut what = q.name.text(row).unwrap_or("None").to_owned();
        if q.zxid.get(row) != NONE {
            what += &format!(" {}", hexadecimal(q.zxid.get(row)));
        }
        for part in [q.txn.text(row), q.path.text(row)].into_iter().flatten() {
            what += " ";
            what += part;
        }
        what += more;
        self.proof(q.conn.get(row), q.ts.get(row), q.seq.get(row), what)
    }

    pub fn all_packets(&self, rows: &[usize]) -> Vec<Packet> {
        rows.iter().map(|&row| self.packet(row, "")).collect()
    }

    /// What the decoder found odd.
    pub fn anomaly(&self, row: usize) -> Packet {
        let a = &self.anomalies;
        let what = a.detail.text(row).unwrap_or("None").to_owned();
        self.proof(a.conn.get(row), a.ts.get(row), a.seq.get(row), what)
    }
}

fn joined(parts: [Option<&str>; 2]) -> String {
    let known: Vec<&str> = parts.into_iter().flatten().collect();
    known.join(" ")
}

/// A number of connections, or of their directions: so many no capture has that they would not fit.
fn small(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The stretch of each row, and which rows are alone behind a loss: what comes first behind one may be the rest of what
/// was hurt by it, and the next boundary may have been found without a word.
fn stretches(
    conn: Vec<i32>,
    seq: impl Fn(usize) -> i64,
    mut marks: Vec<(i64, i64)>,
) -> (Vec<i32>, Vec<bool>) {
    let mut alone = vec![false; conn.len()];
    if marks.is_empty() {
        return (conn, alone);
    }
    marks.sort_unstable();
    let hurt: HashSet<i64> = marks.iter().map(|one| one.0).collect();
    // how many breaks lie before a row, over all connections: with the connection it names a stretch
    let mut keys: Vec<(i64, i64)> = Vec::with_capacity(conn.len());
    let mut firsts: BTreeMap<(i64, i64), (i64, usize)> = BTreeMap::new();
    for (at, conn) in conn.iter().copied().map(i64::from).enumerate() {
        let before = marks.partition_point(|mark| *mark < (conn, seq(at))) as i64;
        keys.push((before, conn));
        if hurt.contains(&conn) {
            let first = firsts.entry((before, conn)).or_insert((seq(at), at));
            *first = (*first).min((seq(at), at));
        }
    }
    for (_, at) in firsts.values() {
        alone[*at] = true;
    }
    // below all others, the last one lowest
    let lonely = alone.iter().enumerate().filter(|(_, alone)| **alone);
    let lonely: Vec<usize> = lonely.map(|(at, _)| at).collect();
    for (number, at) in lonely.into_iter().enumerate() {
        keys[at] = (-1, -1 - number as i64);
    }
    let mut distinct = keys.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let place = |key: &(i64, i64)| distinct.partition_point(|known| known < key) as i32;
    (keys.iter().map(place).collect(), alone)
}
