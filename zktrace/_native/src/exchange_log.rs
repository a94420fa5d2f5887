//! Exchanges that are kept whole, as records of `packed`.
//!
//! First word of marks: what the row has (`HAS_...`), two bits of its state. Second word: which of the values follow, whether
//! they are wide, eleven bits of the key of its op. Values in the order of `values`. Then, of those that have it: the words of
//! its Stat that are not those of the path's last one; the operations of a multi; the counts of a setWatches; what a
//! connect has.

use std::collections::HashMap;

use crate::events::{ConnInfo, Connect, Exchange, RawStat, State, SubOp, Watches};
use crate::intern::Interner;
use crate::packed::{halves, Conns, Log, Reader, Record};

const VALUES: usize = 20;
/// Bits of the key of the op in the second word; the rest is a value.
const OP_SHIFT: u32 = VALUES as u32 + 1;
const OP_BITS: u32 = 32 - OP_SHIFT;

const HAS_OP: u32 = 1;
const HAS_XID: u32 = 1 << 1;
const HAS_SESSION: u32 = 1 << 2;
const HAS_PATH: u32 = 1 << 3;
const HAS_WATCH: u32 = 1 << 4;
const WATCH: u32 = 1 << 5;
const HAS_ERROR: u32 = 1 << 6;
const HAS_ZXID: u32 = 1 << 7;
const HAS_LATENCY: u32 = 1 << 8;
const HAS_REQUEST_BYTES: u32 = 1 << 9;
const HAS_REPLY_BYTES: u32 = 1 << 10;
const HAS_FLAGS: u32 = 1 << 11;
const HAS_MODE: u32 = 1 << 12;
const HAS_VERSION: u32 = 1 << 13;
const HAS_DATA_LENGTH: u32 = 1 << 14;
const HAS_CHILDREN: u32 = 1 << 15;
const HAS_TTL: u32 = 1 << 16;
const HAS_CREATED_PATH: u32 = 1 << 17;
const HAS_STAT: u32 = 1 << 18;
/// The Stat is not that which the path had last.
const OTHER_STAT: u32 = 1 << 19;
const HAS_SUB: u32 = 1 << 20;
const HAS_WATCHES: u32 = 1 << 21;
const HAS_CONNECT: u32 = 1 << 22;
const STATE_SHIFT: u32 = 23;

/// Paths whose last Stat is known, direct mapped by key.
const STATS: usize = 1 << 12;

/// Opcodes by the key of the op, direct mapped.
const OPCODES: usize = 256;

/// Keys of an exchange's texts.
#[derive(Clone, Copy, Default)]
pub struct Keys {
    pub client: i32,
    pub server: i32,
    pub op: Option<i32>,
    pub state: i32,
    pub path: Option<i32>,
    pub created_path: Option<i32>,
}

#[derive(Clone, Copy, Default)]
struct Last {
    xid: i64,
    session: i64,
}

/// What the next row is expected to be like.
struct Expected {
    seq: i64,
    ts_ns: i64,
    zxid: i64,
    conns: Conns<Last>,
    opcodes: [i32; OPCODES],
    /// Empty before the first Stat.
    stats: Vec<[u32; 17]>,
}

impl Default for Expected {
    fn default() -> Self {
        Expected {
            seq: 0,
            ts_ns: 0,
            zxid: 0,
            conns: Conns::default(),
            opcodes: [0; OPCODES],
            stats: Vec::new(),
        }
    }
}

impl Expected {
    #[inline(always)]
    fn opcode(&mut self, key: Option<i32>) -> &mut i32 {
        &mut self.opcodes[key.unwrap_or_default() as usize % OPCODES]
    }

    #[inline(always)]
    fn stat(&mut self, path: Option<i32>) -> Option<&mut [u32; 17]> {
        if self.stats.is_empty() {
            self.stats = vec![[0; 17]; STATS];
        }
        self.stats
            .get_mut(path.unwrap_or_default() as usize % STATS)
    }
}

/// A Stat's bytes as words.
#[inline(always)]
fn words(stat: &[u8; 68]) -> [u32; 17] {
    let mut words = [0; 17];
    for (word, bytes) in words.iter_mut().zip(stat.chunks_exact(4)) {
        *word = bytes.first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
    }
    words
}

#[inline(always)]
fn bytes(words: &[u32; 17]) -> [u8; 68] {
    let mut stat = [0; 68];
    for (bytes, word) in stat.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    stat
}

#[inline(always)]
fn long(value: Option<i32>) -> i64 {
    i64::from(value.unwrap_or_default())
}

#[inline(always)]
fn some(value: bool, bit: u32) -> u32 {
    if value {
        bit
    } else {
        0
    }
}

/// Exchanges in the order in which they came.
#[derive(Default)]
pub struct ExchangeLog {
    pub rows: usize,
    log: Log,
    expected: Expected,
    /// Keys of client and server by connection.
    ends: HashMap<i64, (i32, i32)>,
    /// Names and paths of the operations of multis.
    texts: Interner,
    record: Record,
    rest: Vec<u32>,
}

impl ExchangeLog {
    /// Bytes of texts.
    #[inline]
    pub fn text(&self) -> usize {
        self.texts.byte_len()
    }

    /// Adds a row. `ends` gives the keys of client and server, which are asked for when a connection is met; those in `keys`
    /// are not looked at, nor is that of the state.
    #[inline]
    pub fn add(
        &mut self,
        row: &Exchange<'_>,
        keys: &Keys,
        ends: impl FnOnce(&ConnInfo) -> (i32, i32),
    ) {
        let id = row.conn.id;
        let expected = &mut self.expected;
        let (mut last, new) = expected.conns.of(id);
        if new {
            let known = self.ends.entry(id);
            known.or_insert_with(|| ends(row.conn));
        }
        let op = keys.op.unwrap_or_default();
        let opcode = row.op.map_or(0, |op| op.0);
        let values: [i64; VALUES] = [
            row.seq.wrapping_sub(expected.seq),
            row.ts_ns.wrapping_sub(expected.ts_ns),
            id,
            i64::from(op >> OP_BITS),
            i64::from(opcode.wrapping_sub(*expected.opcode(keys.op))),
            row.xid.map_or(0, |xid| xid.wrapping_sub(last.xid)),
            row.session.map_or(0, |one| one.wrapping_sub(last.session)),
            long(keys.path),
            long(row.error),
            row.zxid.map_or(0, |zxid| zxid.wrapping_sub(expected.zxid)),
            row.latency_ns.unwrap_or_default(),
            row.request_bytes.unwrap_or_default(),
            row.reply_bytes.unwrap_or_default(),
            long(row.flags),
            long(row.mode),
            long(row.version),
            long(row.data_length),
            long(row.children),
            row.ttl.unwrap_or_default(),
            long(keys.created_path),
        ];
        let record = &mut self.record;
        record.begin();
        let second = record.put(&values) | (op as u32) << OP_SHIFT;
        let mut first = some(row.op.is_some(), HAS_OP)
            | some(row.xid.is_some(), HAS_XID)
            | some(row.session.is_some(), HAS_SESSION)
            | some(keys.path.is_some(), HAS_PATH)
            | some(row.watch.is_some(), HAS_WATCH)
            | some(row.watch == Some(true), WATCH)
            | some(row.error.is_some(), HAS_ERROR)
            | some(row.zxid.is_some(), HAS_ZXID)
            | some(row.latency_ns.is_some(), HAS_LATENCY)
            | some(row.request_bytes.is_some(), HAS_REQUEST_BYTES)
            | some(row.reply_bytes.is_some(), HAS_REPLY_BYTES)
            | some(row.flags.is_some(), HAS_FLAGS)
            | some(row.mode.is_some(), HAS_MODE)
            | some(row.version.is_some(), HAS_VERSION)
            | some(row.data_length.is_some(), HAS_DATA_LENGTH)
            | some(row.children.is_some(), HAS_CHILDREN)
            | some(row.ttl.is_some(), HAS_TTL)
            | some(keys.created_path.is_some(), HAS_CREATED_PATH)
            | (row.state as u32) << STATE_SHIFT;
        expected.seq = row.seq.wrapping_add(1);
        expected.ts_ns = row.ts_ns;
        *expected.opcode(keys.op) = opcode;
        if let Some(zxid) = row.zxid {
            expected.zxid = zxid;
        }
        last.xid = row.xid.map_or(last.xid, |xid| xid.wrapping_add(1));
        last.session = row.session.unwrap_or(last.session);
        expected.conns.set(id, last);
        if let (Some(stat), Some(place)) = (row.stat, expected.stat(keys.path)) {
            first |= HAS_STAT;
            let words = words(stat.0);
            if words != *place {
                first |= OTHER_STAT;
                record.put_changes(&words, place);
                *place = words;
            }
        }
        self.rows += 1;
        if row.sub.is_some() || row.watches.is_some() || row.connect.is_some() {
            first |= put_rare(&mut self.rest, &mut self.texts, row);
            record.marks(first, second);
            self.log.add(record, &self.rest);
        } else {
            record.marks(first, second);
            self.log.add(record, &[]);
        }
    }

    /// For reading all rows, once.
    pub fn read(self) -> ExchangeReader {
        ExchangeReader {
            left: self.rows,
            log: self.log,
            page: Reader::default(),
            expected: Expected::default(),
            ends: self.ends,
            texts: self.texts,
        }
    }
}

/// What few rows have, behind the record.
#[cold]
fn put_rare(rest: &mut Vec<u32>, texts: &mut Interner, row: &Exchange<'_>) -> u32 {
    rest.clear();
    let mut marks = 0;
    if let Some(sub) = row.sub {
        marks |= HAS_SUB;
        put_subs(rest, texts, sub);
    }
    if let Some(watches) = row.watches {
        marks |= HAS_WATCHES;
        let counts = counts(watches);
        for count in counts {
            put_int(rest, count);
        }
    }
    if let Some(connect) = row.connect {
        marks |= HAS_CONNECT;
        put_int(rest, connect.requested_timeout_ms);
        put_int(rest, connect.timeout_ms);
        put_int(rest, connect.read_only.map(i32::from));
        put_int(rest, connect.protocol_version);
        rest.push(u32::from(connect.last_zxid_seen.is_some()));
        let zxid = connect.last_zxid_seen.unwrap_or_default();
        rest.extend(halves(zxid));
    }
    marks
}

fn counts(watches: &Watches) -> [Option<i32>; 5] {
    [
        watches.data,
        watches.exist,
        watches.child,
        watches.persistent,
        watches.persistent_recursive,
    ]
}

fn put_int(words: &mut Vec<u32>, value: Option<i32>) {
    words.push(u32::from(value.is_some()));
    words.push(value.unwrap_or_default() as u32);
}

fn take_int(page: &mut Reader) -> Option<i32> {
    let some = page.word() != 0;
    let value = page.word() as i32;
    some.then_some(value)
}

/// The operations of a multi: their number, then of each the keys + 1 of name and path, and its error.
pub fn put_subs(words: &mut Vec<u32>, texts: &mut Interner, ops: &[SubOp<'_>]) {
    words.push(ops.len() as u32);
    let mut key = |text: Option<&[u8]>| {
        let key = text.and_then(|text| texts.intern_text(text));
        key.map_or(0, |key| key.wrapping_add(1))
    };
    for op in ops {
        words.push(key(op.op.map(str::as_bytes)));
        words.push(key(op.path));
        put_int(words, op.error);
    }
}

pub fn take_subs<'a>(page: &mut Reader, texts: &'a Interner) -> Vec<SubOp<'a>> {
    let ops = page.word();
    let text = |key: u32| key.checked_sub(1).map(|key| texts.get(key));
    let mut subs = Vec::new();
    for _ in 0..ops {
        let (op, path) = (page.word(), page.word());
        subs.push(SubOp {
            op: text(op).and_then(|name| std::str::from_utf8(name).ok()),
            path: text(path),
            error: take_int(page),
        });
    }
    subs
}

/// Reads a log; its pages are let go of on the way.
pub struct ExchangeReader {
    pub left: usize,
    log: Log,
    page: Reader,
    expected: Expected,
    ends: HashMap<i64, (i32, i32)>,
    texts: Interner,
}

impl ExchangeReader {
    /// Gives the next row to `take`: all of it but its texts, of which there are keys (but that of the state).
    #[inline]
    pub fn next(&mut self, take: impl FnOnce(&Exchange<'_>, Keys)) {
        self.left = self.left.saturating_sub(1);
        if self.page.is_empty() {
            self.page = Reader::new(self.log.take_page().unwrap_or_default());
        }
        let (page, expected) = (&mut self.page, &mut self.expected);
        let (first, second) = (page.word(), page.word());
        let has = |bit: u32| first & bit != 0;
        let [seq, ts_ns, id, op, opcode, xid, session, path, error, zxid, latency, request_bytes, reply_bytes, flags, mode, version, data_length, children, ttl, created_path] =
            page.values::<VALUES>(second);
        let int = |value: i64, bit: u32| has(bit).then_some(value as i32);
        let wide = |value: i64, bit: u32| has(bit).then_some(value);
        let (mut last, _) = expected.conns.of(id);
        let (client, server) = self.ends.get(&id).copied().unwrap_or_default();
        let key = (op as i32) << OP_BITS | (second >> OP_SHIFT) as i32;
        let keys = Keys {
            client,
            server,
            op: has(HAS_OP).then_some(key),
            state: 0,
            path: int(path, HAS_PATH),
            created_path: int(created_path, HAS_CREATED_PATH),
        };
        let conn = ConnInfo {
            id,
            ..ConnInfo::default()
        };
        let seq = expected.seq.wrapping_add(seq);
        let ts_ns = expected.ts_ns.wrapping_add(ts_ns);
        let state = match first >> STATE_SHIFT & 3 {
            0 => State::Complete,
            1 => State::NoReply,
            _ => State::NoRequest,
        };
        let mut row = Exchange::new(seq, ts_ns, &conn, state);
        let opcode = expected.opcode(keys.op).wrapping_add(opcode as i32);
        row.op = has(HAS_OP).then_some((opcode, ""));
        row.xid = wide(last.xid.wrapping_add(xid), HAS_XID);
        row.session = wide(last.session.wrapping_add(session), HAS_SESSION);
        row.watch = has(HAS_WATCH).then_some(has(WATCH));
        row.error = int(error, HAS_ERROR);
        row.zxid = wide(expected.zxid.wrapping_add(zxid), HAS_ZXID);
        row.latency_ns = wide(latency, HAS_LATENCY);
        row.request_bytes = wide(request_bytes, HAS_REQUEST_BYTES);
        row.reply_bytes = wide(reply_bytes, HAS_REPLY_BYTES);
        row.flags = int(flags, HAS_FLAGS);
        row.mode = int(mode, HAS_MODE);
        row.version = int(version, HAS_VERSION);
        row.data_length = int(data_length, HAS_DATA_LENGTH);
        row.children = int(children, HAS_CHILDREN);
        row.ttl = wide(ttl, HAS_TTL);
        expected.seq = seq.wrapping_add(1);
        expected.ts_ns = ts_ns;
        *expected.opcode(keys.op) = opcode;
        expected.zxid = row.zxid.unwrap_or(expected.zxid);
        last.xid = row.xid.map_or(last.xid, |xid| xid.wrapping_add(1));
        last.session = row.session.unwrap_or(last.session);
        expected.conns.set(id, last);
        let mut stat = [0; 68];
        if has(HAS_STAT) {
            if let Some(place) = expected.stat(keys.path) {
                if has(OTHER_STAT) {
                    page.changes(place);
                }
                stat = bytes(place);
            }
            row.stat = Some(RawStat(&stat));
        }
        let sub = has(HAS_SUB).then(|| take_subs(page, &self.texts));
        row.sub = sub.as_deref();
        let watches = has(HAS_WATCHES).then(|| take_watches(page));
        row.watches = watches.as_ref();
        let connect = has(HAS_CONNECT).then(|| take_connect(page));
        row.connect = connect.as_ref();
        take(&row, keys);
    }
}

fn take_watches(page: &mut Reader) -> Watches {
    Watches {
        data: take_int(page),
        exist: take_int(page),
        child: take_int(page),
        persistent: take_int(page),
        persistent_recursive: take_int(page),
    }
}

fn take_connect(page: &mut Reader) -> Connect {
    let requested_timeout_ms = take_int(page);
    let timeout_ms = take_int(page);
    let read_only = take_int(page).map(|flag| flag != 0);
    let protocol_version = take_int(page);
    let seen = page.word() != 0;
    let zxid = page.long();
    Connect {
        requested_timeout_ms,
        timeout_ms,
        last_zxid_seen: seen.then_some(zxid),
        read_only,
        protocol_version,
    }
}
