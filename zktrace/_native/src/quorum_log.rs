//! Packets between servers that are kept whole, as records of `packed`.
//!
//! First word of marks: what the row has (`HAS_...`). Second word: which of the values follow, whether they are wide, five
//! bits of the key of its type and six of that of its txn. Values in the order of `values`; ids and digests are two of them each.
//! Then, of those that have it: the operations of a multi; bytes and nodes of a snapshot; the key of a configuration.

use std::collections::HashMap;

use crate::events::{ConnInfo, Quorum};
use crate::exchange_log::{put_subs, take_subs};
use crate::intern::Interner;
use crate::packed::{halves, Conns, Log, Reader, Record};

const VALUES: usize = 20;
/// Bits of the keys of type and txn in the second word; the rest is values.
const KIND_SHIFT: u32 = VALUES as u32 + 1;
const KIND_BITS: u32 = 5;
const TXN_SHIFT: u32 = KIND_SHIFT + KIND_BITS;
const TXN_BITS: u32 = 32 - TXN_SHIFT;

const HAS_ZXID: u32 = 1;
const HAS_BYTES: u32 = 1 << 1;
const HAS_SESSION: u32 = 1 << 2;
const HAS_CXID: u32 = 1 << 3;
const HAS_TXN: u32 = 1 << 4;
const HAS_PATH: u32 = 1 << 5;
const HAS_ERROR: u32 = 1 << 6;
const HAS_SID: u32 = 1 << 7;
const HAS_EPOCH: u32 = 1 << 8;
const HAS_TIMEOUT: u32 = 1 << 9;
const HAS_VALID: u32 = 1 << 10;
const VALID: u32 = 1 << 11;
const HAS_SESSIONS: u32 = 1 << 12;
const HAS_DIGEST: u32 = 1 << 13;
const HAS_TXN_HASH: u32 = 1 << 14;
const TO_LEADER: u32 = 1 << 15;
const LATE: u32 = 1 << 16;
const HAS_SUB: u32 = 1 << 17;
const HAS_SNAPSHOT: u32 = 1 << 18;
const HAS_CONFIG: u32 = 1 << 19;

/// Keys of a packet's texts.
#[derive(Clone, Copy, Default)]
pub struct Keys {
    pub client: i32,
    pub server: i32,
    pub kind: i32,
    pub direction: i32,
    pub txn: Option<i32>,
    pub path: Option<i32>,
    pub config: Option<i32>,
}

/// What the next row is expected to be like.
#[derive(Default)]
struct Expected {
    seq: i64,
    ts_ns: i64,
    zxid: i64,
    conns: Conns<()>,
}

/// Packets in the order in which they came.
#[derive(Default)]
pub struct QuorumLog {
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

#[inline(always)]
fn some(value: bool, bit: u32) -> u32 {
    if value {
        bit
    } else {
        0
    }
}

#[inline(always)]
fn long(value: Option<i32>) -> i64 {
    i64::from(value.unwrap_or_default())
}

/// A long as two values of 32 bits.
#[inline(always)]
fn split(value: Option<i64>) -> [i64; 2] {
    let value = value.unwrap_or_default();
    [i64::from(value as i32), i64::from((value >> 32) as i32)]
}

#[inline(always)]
fn joined(low: i64, high: i64) -> i64 {
    (low as u32 as i64) | high << 32
}

impl QuorumLog {
    /// Bytes of texts.
    #[inline]
    pub fn text(&self) -> usize {
        self.texts.byte_len()
    }

    /// Adds a row. `ends` gives the keys of client and server, which are asked for when a connection is met; those in `keys`
    /// are not looked at, nor is that of the direction.
    #[inline]
    pub fn add(
        &mut self,
        row: &Quorum<'_>,
        keys: &Keys,
        ends: impl FnOnce(&ConnInfo) -> (i32, i32),
    ) {
        let id = row.conn.id;
        let expected = &mut self.expected;
        if expected.conns.of(id).1 {
            let known = self.ends.entry(id);
            known.or_insert_with(|| ends(row.conn));
            expected.conns.set(id, ());
        }
        let txn = keys.txn.unwrap_or_default();
        let [session, session_high] = split(row.session);
        let [digest, digest_high] = split(row.digest);
        let [hash, hash_high] = split(row.txn_hash);
        let values: [i64; VALUES] = [
            row.seq.wrapping_sub(expected.seq),
            row.ts_ns.wrapping_sub(expected.ts_ns),
            id,
            i64::from(keys.kind >> KIND_BITS),
            i64::from(txn >> TXN_BITS),
            row.zxid.map_or(0, |zxid| zxid.wrapping_sub(expected.zxid)),
            row.bytes.unwrap_or_default(),
            session,
            session_high,
            row.cxid.unwrap_or_default(),
            long(keys.path),
            long(row.error),
            row.sid.unwrap_or_default(),
            row.epoch.unwrap_or_default(),
            digest,
            digest_high,
            hash,
            hash_high,
            long(row.timeout_ms),
            long(row.sessions),
        ];
        let record = &mut self.record;
        record.begin();
        let kind = keys.kind as u32 & ((1 << KIND_BITS) - 1);
        let second = record.put(&values) | kind << KIND_SHIFT | (txn as u32) << TXN_SHIFT;
        let mut first = some(row.zxid.is_some(), HAS_ZXID)
            | some(row.bytes.is_some(), HAS_BYTES)
            | some(row.session.is_some(), HAS_SESSION)
            | some(row.cxid.is_some(), HAS_CXID)
            | some(keys.txn.is_some(), HAS_TXN)
            | some(keys.path.is_some(), HAS_PATH)
            | some(row.error.is_some(), HAS_ERROR)
            | some(row.sid.is_some(), HAS_SID)
            | some(row.epoch.is_some(), HAS_EPOCH)
            | some(row.timeout_ms.is_some(), HAS_TIMEOUT)
            | some(row.valid.is_some(), HAS_VALID)
            | some(row.valid == Some(true), VALID)
            | some(row.sessions.is_some(), HAS_SESSIONS)
            | some(row.digest.is_some(), HAS_DIGEST)
            | some(row.txn_hash.is_some(), HAS_TXN_HASH)
            | some(row.to_leader, TO_LEADER)
            | some(row.late, LATE);
        expected.seq = row.seq.wrapping_add(1);
        expected.ts_ns = row.ts_ns;
        expected.zxid = row.zxid.unwrap_or(expected.zxid);
        self.rows += 1;
        if row.sub.is_some() || row.snapshot.is_some() || keys.config.is_some() {
            first |= put_rare(&mut self.rest, &mut self.texts, row, keys);
            record.marks(first, second);
            self.log.add(record, &self.rest);
        } else {
            record.marks(first, second);
            self.log.add(record, &[]);
        }
    }

    /// For reading all rows, once.
    pub fn read(self) -> QuorumReader {
        QuorumReader {
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
fn put_rare(rest: &mut Vec<u32>, texts: &mut Interner, row: &Quorum<'_>, keys: &Keys) -> u32 {
    rest.clear();
    let mut marks = 0;
    if let Some(sub) = row.sub {
        marks |= HAS_SUB;
        put_subs(rest, texts, sub);
    }
    if let Some((bytes, nodes)) = row.snapshot {
        marks |= HAS_SNAPSHOT;
        rest.extend(halves(bytes));
        rest.extend(halves(nodes));
    }
    if let Some(config) = keys.config {
        marks |= HAS_CONFIG;
        rest.push(config as u32);
    }
    marks
}

/// Reads a log; its pages are let go of on the way.
pub struct QuorumReader {
    pub left: usize,
    log: Log,
    page: Reader,
    expected: Expected,
    ends: HashMap<i64, (i32, i32)>,
    texts: Interner,
}

impl QuorumReader {
    /// Gives the next row to `take`: all of it but its texts, of which there are keys (but that of the direction).
    #[inline]
    pub fn next(&mut self, take: impl FnOnce(&Quorum<'_>, Keys)) {
        self.left = self.left.saturating_sub(1);
        if self.page.is_empty() {
            self.page = Reader::new(self.log.take_page().unwrap_or_default());
        }
        let (page, expected) = (&mut self.page, &mut self.expected);
        let (first, second) = (page.word(), page.word());
        let has = |bit: u32| first & bit != 0;
        let [seq, ts_ns, id, kind, txn, zxid, bytes, session, session_high, cxid, path, error, sid, epoch, digest, digest_high, hash, hash_high, timeout_ms, sessions] =
            page.values::<VALUES>(second);
        let int = |value: i64, bit: u32| has(bit).then_some(value as i32);
        let wide = |value: i64, bit: u32| has(bit).then_some(value);
        let (client, server) = self.ends.get(&id).copied().unwrap_or_default();
        let kind_low = second >> KIND_SHIFT & ((1 << KIND_BITS) - 1);
        let txn = (txn as i32) << TXN_BITS | (second >> TXN_SHIFT) as i32;
        let mut keys = Keys {
            client,
            server,
            kind: (kind as i32) << KIND_BITS | kind_low as i32,
            direction: 0,
            txn: has(HAS_TXN).then_some(txn),
            path: int(path, HAS_PATH),
            config: None,
        };
        let conn = ConnInfo {
            id,
            ..ConnInfo::default()
        };
        let sub = has(HAS_SUB).then(|| take_subs(page, &self.texts));
        let snapshot = has(HAS_SNAPSHOT).then(|| (page.long(), page.long()));
        keys.config = has(HAS_CONFIG).then(|| page.word() as i32);
        let row = Quorum {
            seq: expected.seq.wrapping_add(seq),
            ts_ns: expected.ts_ns.wrapping_add(ts_ns),
            conn: &conn,
            kind: 0,
            name: "",
            to_leader: has(TO_LEADER),
            zxid: wide(expected.zxid.wrapping_add(zxid), HAS_ZXID),
            bytes: wide(bytes, HAS_BYTES),
            session: wide(joined(session, session_high), HAS_SESSION),
            cxid: wide(cxid, HAS_CXID),
            txn: None,
            path: None,
            error: int(error, HAS_ERROR),
            sid: wide(sid, HAS_SID),
            epoch: wide(epoch, HAS_EPOCH),
            timeout_ms: int(timeout_ms, HAS_TIMEOUT),
            valid: has(HAS_VALID).then_some(has(VALID)),
            sessions: int(sessions, HAS_SESSIONS),
            digest: wide(joined(digest, digest_high), HAS_DIGEST),
            sub: sub.as_deref(),
            snapshot,
            config: None,
            late: has(LATE),
            txn_hash: wide(joined(hash, hash_high), HAS_TXN_HASH),
        };
        expected.seq = row.seq.wrapping_add(1);
        expected.ts_ns = row.ts_ns;
        expected.zxid = row.zxid.unwrap_or(expected.zxid);
        take(&row, keys);
    }
}
