//! Rows as bytes: how the ring of the latest events holds them.
//!
//! A row is its length, its kind, the fields that every row of the kind has, a mask of those that it
//! may have, and of these the ones it has, in the order of the bits. It is read by this process only,
//! so numbers are as the machine has them. A connection's ends are said once per segment
//! (`recent.rs`), and a row has the place where. Knows nothing of why rows are kept.

use crate::events::{
    Anomaly, ConnInfo, Connect, Connection, ConnectionEvent, Direction, Election, EventSink,
    Exchange, FourLetter, Quorum, RawStat, Role, State, SubOp, WatchEvent, Watches,
};

/// What a row is of: bits of a set.
pub const EXCHANGES: u8 = 1;
pub const WATCH_EVENTS: u8 = 2;
pub const CONNECTIONS: u8 = 4;
pub const FOUR_LETTER: u8 = 8;
pub const ANOMALIES: u8 = 16;
pub const QUORUM: u8 = 32;
pub const ELECTIONS: u8 = 64;

const STATES: [State; 3] = [State::Complete, State::NoReply, State::NoRequest];
const ROLES: [Role; 5] = [
    Role::Client,
    Role::Quorum,
    Role::Election,
    Role::Tls,
    Role::Unknown,
];

/// Appends a row; its length is filled in at the end.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    mask_at: usize,
    mask: u32,
    bit: u32,
}

impl<'a> Writer<'a> {
    /// Begins a row: what every row of any kind has.
    fn new(out: &'a mut Vec<u8>, kind: u8, seq: i64, ts_ns: i64, conn: u32) -> Self {
        let start = out.len();
        let mut head = [0; 29];
        head[4] = kind;
        head[5..13].copy_from_slice(&seq.to_ne_bytes());
        head[13..21].copy_from_slice(&ts_ns.to_ne_bytes());
        head[21..25].copy_from_slice(&conn.to_ne_bytes());
        out.extend_from_slice(&head);
        Writer {
            out,
            start,
            mask_at: start + 25,
            mask: 0,
            bit: 1,
        }
    }

    #[inline]
    fn byte(&mut self, value: u8) {
        self.out.push(value);
    }

    #[inline]
    fn text(&mut self, text: &[u8]) {
        self.out
            .extend_from_slice(&(text.len() as u32).to_ne_bytes());
        self.out.extend_from_slice(text);
    }

    /// Whether the next field that a row may have is there.
    #[inline]
    fn has(&mut self, there: bool) -> bool {
        if there {
            self.mask |= self.bit;
        }
        self.bit = self.bit.wrapping_shl(1);
        there
    }

    #[inline]
    fn long(&mut self, value: Option<i64>) {
        if self.has(value.is_some()) {
            self.out
                .extend_from_slice(&value.unwrap_or_default().to_ne_bytes());
        }
    }

    #[inline]
    fn int(&mut self, value: Option<i32>) {
        if self.has(value.is_some()) {
            self.out
                .extend_from_slice(&value.unwrap_or_default().to_ne_bytes());
        }
    }

    #[inline]
    fn flag(&mut self, value: Option<bool>) {
        if self.has(value.is_some()) {
            self.out.push(u8::from(value.unwrap_or_default()));
        }
    }

    #[inline]
    fn some_text(&mut self, text: Option<&[u8]>) {
        if self.has(text.is_some()) {
            self.text(text.unwrap_or_default());
        }
    }

    fn subs(&mut self, subs: Option<&[SubOp<'_>]>) {
        if self.has(subs.is_some()) {
            let subs = subs.unwrap_or_default();
            self.out
                .extend_from_slice(&(subs.len() as u32).to_ne_bytes());
            for sub in subs {
                let mask = u8::from(sub.op.is_some())
                    | u8::from(sub.path.is_some()) << 1
                    | u8::from(sub.error.is_some()) << 2;
                self.out.push(mask);
                self.text(sub.op.unwrap_or_default().as_bytes());
                self.text(sub.path.unwrap_or_default());
                self.out
                    .extend_from_slice(&sub.error.unwrap_or_default().to_ne_bytes());
            }
        }
    }

    fn end(self) {
        let length = (self.out.len() - self.start) as u32;
        let mask = self.mask;
        if let Some(place) = self.out.get_mut(self.mask_at..self.mask_at + 4) {
            place.copy_from_slice(&mask.to_ne_bytes());
        }
        if let Some(place) = self.out.get_mut(self.start..self.start + 4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }
}

/// What nearly every exchange has is written in one piece, there or not: the head, then the fields up to the
/// bytes of the reply as [`Reader::exchange`] takes them, then the texts of op and path.
const FIXED: usize = 29 + 64;

pub fn exchange(out: &mut Vec<u8>, row: &Exchange<'_>, conn: u32) {
    let start = out.len();
    let (code, name) = row.op.unwrap_or_default();
    let path = row.path.unwrap_or_default();
    let mut fixed = [0_u8; FIXED];
    fixed[4] = EXCHANGES;
    fixed[5..13].copy_from_slice(&row.seq.to_ne_bytes());
    fixed[13..21].copy_from_slice(&row.ts_ns.to_ne_bytes());
    fixed[21..25].copy_from_slice(&conn.to_ne_bytes());
    fixed[29] = row.state as u8;
    fixed[30] = u8::from(row.watch.unwrap_or_default());
    fixed[31..33].copy_from_slice(&(name.len() as u16).to_ne_bytes());
    fixed[33..37].copy_from_slice(&(path.len() as u32).to_ne_bytes());
    fixed[37..41].copy_from_slice(&code.to_ne_bytes());
    fixed[41..45].copy_from_slice(&row.error.unwrap_or_default().to_ne_bytes());
    fixed[45..53].copy_from_slice(&row.xid.unwrap_or_default().to_ne_bytes());
    fixed[53..61].copy_from_slice(&row.session.unwrap_or_default().to_ne_bytes());
    fixed[61..69].copy_from_slice(&row.zxid.unwrap_or_default().to_ne_bytes());
    fixed[69..77].copy_from_slice(&row.latency_ns.unwrap_or_default().to_ne_bytes());
    fixed[77..85].copy_from_slice(&row.request_bytes.unwrap_or_default().to_ne_bytes());
    fixed[85..93].copy_from_slice(&row.reply_bytes.unwrap_or_default().to_ne_bytes());
    let there = [
        row.op.is_some(),
        row.xid.is_some(),
        row.session.is_some(),
        row.path.is_some(),
        row.watch.is_some(),
        row.error.is_some(),
        row.zxid.is_some(),
        row.latency_ns.is_some(),
        row.request_bytes.is_some(),
        row.reply_bytes.is_some(),
    ];
    let mask = (0..).zip(there).map(|(bit, there)| u32::from(there) << bit);
    let mut to = Writer {
        start,
        mask_at: start + 25,
        mask: mask.sum(),
        bit: 1 << there.len(),
        out,
    };
    to.out.extend_from_slice(&fixed);
    to.out.extend_from_slice(name.as_bytes());
    to.out.extend_from_slice(path);
    to.int(row.flags);
    to.int(row.mode);
    to.int(row.version);
    to.int(row.data_length);
    to.int(row.children);
    to.long(row.ttl);
    to.some_text(row.created_path);
    if to.has(row.stat.is_some()) {
        if let Some(stat) = row.stat {
            to.out.extend_from_slice(stat.0);
        }
    }
    to.subs(row.sub);
    if to.has(row.watches.is_some()) {
        let watches = row.watches.copied().unwrap_or_default();
        for count in [
            watches.data,
            watches.exist,
            watches.child,
            watches.persistent,
            watches.persistent_recursive,
        ] {
            to.int(count);
        }
    } else {
        to.bit = to.bit.wrapping_shl(5);
    }
    if let Some(connect) = row.connect {
        to.int(connect.requested_timeout_ms);
        to.int(connect.timeout_ms);
        to.long(connect.last_zxid_seen);
        to.flag(connect.read_only);
        to.int(connect.protocol_version);
    }
    to.end();
}

pub fn watch_event(out: &mut Vec<u8>, row: &WatchEvent<'_>, conn: u32) {
    let mut to = Writer::new(out, WATCH_EVENTS, row.seq, row.ts_ns, conn);
    to.long(row.session);
    to.some_text(row.event.map(str::as_bytes));
    to.some_text(row.keeper_state.map(str::as_bytes));
    to.some_text(row.path);
    to.long(row.zxid);
    to.long(Some(row.bytes));
    to.end();
}

pub fn connection(out: &mut Vec<u8>, row: &Connection<'_>, conn: u32) {
    let mut to = Writer::new(out, CONNECTIONS, row.seq, row.ts_ns, conn);
    to.byte(row.role as u8);
    to.byte(row.event as u8);
    to.some_text(row.detail.map(str::as_bytes));
    to.end();
}

pub fn four_letter(out: &mut Vec<u8>, row: &FourLetter<'_>, conn: u32) {
    let mut to = Writer::new(out, FOUR_LETTER, row.seq, row.ts_ns, conn);
    to.text(row.word.as_bytes());
    to.long(row.reply_bytes);
    to.end();
}

pub fn anomaly(out: &mut Vec<u8>, row: &Anomaly<'_>, conn: u32) {
    let mut to = Writer::new(out, ANOMALIES, row.seq, row.ts_ns, conn);
    to.text(row.reason.as_bytes());
    to.flag(row.direction.map(|to| to == Direction::ToClient));
    to.long(row.bytes);
    to.some_text(row.detail.map(str::as_bytes));
    to.end();
}

pub fn quorum(out: &mut Vec<u8>, row: &Quorum<'_>, conn: u32) {
    let mut to = Writer::new(out, QUORUM, row.seq, row.ts_ns, conn);
    to.byte(u8::from(row.to_leader));
    to.text(row.name.as_bytes());
    to.int(Some(row.kind));
    to.long(row.zxid);
    to.long(row.bytes);
    to.long(row.session);
    to.long(row.cxid);
    if to.has(row.txn.is_some()) {
        let (code, name) = row.txn.unwrap_or_default();
        to.out.extend_from_slice(&code.to_ne_bytes());
        to.text(name.as_bytes());
    }
    to.some_text(row.path);
    to.int(row.error);
    to.long(row.sid);
    to.long(row.epoch);
    to.int(row.timeout_ms);
    to.flag(row.valid);
    to.int(row.sessions);
    to.long(row.digest);
    to.subs(row.sub);
    to.long(row.snapshot.map(|(bytes, _)| bytes));
    to.long(row.snapshot.map(|(_, nodes)| nodes));
    to.some_text(row.config);
    to.flag(row.late.then_some(true));
    to.end();
}

pub fn election(out: &mut Vec<u8>, row: &Election<'_>, conn: u32) {
    let mut to = Writer::new(out, ELECTIONS, row.seq, row.ts_ns, conn);
    to.byte(u8::from(row.initial) | u8::from(row.from_opener) << 1);
    to.long(row.sid);
    to.some_text(row.address);
    to.some_text(row.state.map(str::as_bytes));
    to.long(row.leader);
    to.long(row.zxid);
    to.long(row.election_epoch);
    to.long(row.peer_epoch);
    to.int(row.version);
    to.long(Some(row.bytes));
    to.end();
}

/// Reads what [`Writer`] wrote; what is not there reads as zeros.
pub struct Reader<'a> {
    rest: &'a [u8],
    pub kind: u8,
    pub seq: i64,
    pub ts_ns: i64,
    conn: u32,
    mask: u32,
}

impl<'a> Reader<'a> {
    /// The first row of `bytes`, and what is behind it.
    pub fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = u32::from_ne_bytes(*bytes.first_chunk::<4>()?) as usize;
        let (row, behind) = bytes.split_at_checked(length)?;
        let mut reader = Reader {
            rest: row.get(4..)?,
            kind: 0,
            seq: 0,
            ts_ns: 0,
            conn: 0,
            mask: 0,
        };
        let [kind] = reader.take::<1>();
        reader.kind = kind;
        reader.seq = reader.plain_long();
        reader.ts_ns = reader.plain_long();
        reader.conn = u32::from_ne_bytes(reader.take());
        reader.mask = u32::from_ne_bytes(reader.take());
        Some((reader, behind))
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.rest.split_first_chunk::<N>() {
            Some((value, rest)) => {
                self.rest = rest;
                *value
            }
            None => [0; N],
        }
    }

    #[inline]
    fn plain_long(&mut self) -> i64 {
        i64::from_ne_bytes(self.take())
    }

    #[inline]
    fn plain_int(&mut self) -> i32 {
        i32::from_ne_bytes(self.take())
    }

    fn text(&mut self) -> &'a [u8] {
        let length = u32::from_ne_bytes(self.take()) as usize;
        self.bytes(length)
    }

    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (text, rest) = self.rest.split_at_checked(length).unwrap_or_default();
        self.rest = rest;
        text
    }

    fn name(&mut self) -> &'a str {
        std::str::from_utf8(self.text()).unwrap_or_default()
    }

    #[inline]
    fn has(&mut self) -> bool {
        let there = self.mask & 1 != 0;
        self.mask >>= 1;
        there
    }

    #[inline]
    fn long(&mut self) -> Option<i64> {
        self.has().then(|| self.plain_long())
    }

    #[inline]
    fn int(&mut self) -> Option<i32> {
        self.has().then(|| i32::from_ne_bytes(self.take()))
    }

    #[inline]
    fn flag(&mut self) -> Option<bool> {
        self.has().then(|| self.take::<1>() != [0])
    }

    fn some_text(&mut self) -> Option<&'a [u8]> {
        self.has().then(|| self.text())
    }

    fn some_name(&mut self) -> Option<&'a str> {
        self.has().then(|| self.name())
    }

    fn named(&mut self) -> Option<(i32, &'a str)> {
        self.has().then(|| {
            let code = i32::from_ne_bytes(self.take());
            (code, self.name())
        })
    }

    fn subs(&mut self) -> Option<Vec<SubOp<'a>>> {
        if !self.has() {
            return None;
        }
        let count = u32::from_ne_bytes(self.take());
        let mut subs = Vec::new();
        for _ in 0..count {
            let [mask] = self.take::<1>();
            let (op, path) = (self.name(), self.text());
            let error = i32::from_ne_bytes(self.take());
            subs.push(SubOp {
                op: (mask & 1 != 0).then_some(op),
                path: (mask & 2 != 0).then_some(path),
                error: (mask & 4 != 0).then_some(error),
            });
        }
        Some(subs)
    }

    /// Hands the row to a sink.
    pub fn replay(mut self, conns: &[ConnInfo], sink: &mut dyn EventSink) {
        let Some(conn) = conns.get(self.conn as usize) else {
            return;
        };
        match self.kind {
            EXCHANGES => self.exchange(conn, sink),
            WATCH_EVENTS => sink.watch_event(&WatchEvent {
                seq: self.seq,
                ts_ns: self.ts_ns,
                conn,
                session: self.long(),
                event: self.some_name(),
                keeper_state: self.some_name(),
                path: self.some_text(),
                zxid: self.long(),
                bytes: self.long().unwrap_or_default(),
            }),
            CONNECTIONS => {
                let [role, event] = self.take::<2>();
                sink.connection(&Connection {
                    seq: self.seq,
                    ts_ns: self.ts_ns,
                    conn,
                    role: ROLES
                        .get(usize::from(role))
                        .copied()
                        .unwrap_or(Role::Unknown),
                    event: ConnectionEvent::ALL
                        .get(usize::from(event))
                        .copied()
                        .unwrap_or(ConnectionEvent::Opened),
                    detail: self.some_name(),
                });
            }
            FOUR_LETTER => sink.four_letter(&FourLetter {
                seq: self.seq,
                ts_ns: self.ts_ns,
                conn,
                word: self.name(),
                reply_bytes: self.long(),
            }),
            ANOMALIES => sink.anomaly(&Anomaly {
                seq: self.seq,
                ts_ns: self.ts_ns,
                conn,
                reason: self.name(),
                direction: self.flag().map(|to_client| {
                    if to_client {
                        Direction::ToClient
                    } else {
                        Direction::ToServer
                    }
                }),
                bytes: self.long(),
                detail: self.some_name(),
            }),
            QUORUM => self.quorum(conn, sink),
            ELECTIONS => {
                let [flags] = self.take::<1>();
                sink.election(&Election {
                    seq: self.seq,
                    ts_ns: self.ts_ns,
                    conn,
                    initial: flags & 1 != 0,
                    from_opener: flags & 2 != 0,
                    sid: self.long(),
                    address: self.some_text(),
                    state: self.some_name(),
                    leader: self.long(),
                    zxid: self.long(),
                    election_epoch: self.long(),
                    peer_epoch: self.long(),
                    version: self.int(),
                    bytes: self.long().unwrap_or_default(),
                });
            }
            _ => {}
        }
    }

    fn exchange(&mut self, conn: &ConnInfo, sink: &mut dyn EventSink) {
        let [state, watch] = self.take::<2>();
        let name_length = u16::from_ne_bytes(self.take());
        let path_length = u32::from_ne_bytes(self.take());
        let (code, error) = (self.plain_int(), self.plain_int());
        let [xid, session, zxid, latency, sent, got] = [(); 6].map(|()| self.plain_long());
        let name = self.bytes(usize::from(name_length));
        let name = std::str::from_utf8(name).unwrap_or_default();
        let path = self.bytes(path_length as usize);
        let state = STATES.get(usize::from(state)).copied().unwrap_or_default();
        let mut row = Exchange::new(self.seq, self.ts_ns, conn, state);
        row.op = self.has().then_some((code, name));
        row.xid = self.has().then_some(xid);
        row.session = self.has().then_some(session);
        row.path = self.has().then_some(path);
        row.watch = self.has().then_some(watch != 0);
        row.error = self.has().then_some(error);
        row.zxid = self.has().then_some(zxid);
        row.latency_ns = self.has().then_some(latency);
        row.request_bytes = self.has().then_some(sent);
        row.reply_bytes = self.has().then_some(got);
        row.flags = self.int();
        row.mode = self.int();
        row.version = self.int();
        row.data_length = self.int();
        row.children = self.int();
        row.ttl = self.long();
        row.created_path = self.some_text();
        let stat: Option<[u8; 68]> = self.has().then(|| self.take());
        row.stat = stat.as_ref().map(RawStat);
        let subs = self.subs();
        row.sub = subs.as_deref();
        let there = self.has();
        let watches = Watches {
            data: self.int(),
            exist: self.int(),
            child: self.int(),
            persistent: self.int(),
            persistent_recursive: self.int(),
        };
        row.watches = there.then_some(&watches);
        let connect = Connect {
            requested_timeout_ms: self.int(),
            timeout_ms: self.int(),
            last_zxid_seen: self.long(),
            read_only: self.flag(),
            protocol_version: self.int(),
        };
        row.connect = (connect != Connect::default()).then_some(&connect);
        sink.exchange(&row);
    }

    fn quorum(&mut self, conn: &ConnInfo, sink: &mut dyn EventSink) {
        let [to_leader] = self.take::<1>();
        let name = self.name();
        let kind = self.int().unwrap_or_default();
        let (zxid, bytes) = (self.long(), self.long());
        let (session, cxid) = (self.long(), self.long());
        let (txn, path, error) = (self.named(), self.some_text(), self.int());
        let (sid, epoch) = (self.long(), self.long());
        let (timeout_ms, valid, sessions) = (self.int(), self.flag(), self.int());
        let (digest, subs) = (self.long(), self.subs());
        let snapshot = (self.long(), self.long());
        sink.quorum(&Quorum {
            seq: self.seq,
            ts_ns: self.ts_ns,
            conn,
            kind,
            name,
            to_leader: to_leader != 0,
            zxid,
            bytes,
            session,
            cxid,
            txn,
            path,
            error,
            sid,
            epoch,
            timeout_ms,
            valid,
            sessions,
            digest,
            sub: subs.as_deref(),
            snapshot: snapshot.0.zip(snapshot.1),
            config: self.some_text(),
            late: self.flag() == Some(true),
            // hashes are of a run that compares txns
            txn_hash: None,
        });
    }
}
