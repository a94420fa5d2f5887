//! The tables `quorum` and `elections`. Columns of packets are made by the block, as those of exchanges.

use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::ArrayRef;
use arrow_schema::ArrowError;

use crate::block_columns::{transpose, Bits, Blanks, BlockColumn, BLOCK};
use crate::columns::{Column, DictColumn, Dictionary};
use crate::events::{Election, Quorum};
use crate::nested::SubColumns;
use crate::tables::{Common, Ends};

/// Names that are functions of small numbers.
struct Names {
    dictionary: Dictionary,
    first: i32,
    /// Keys + 1 by number from `first` on, 0 if not known yet.
    keys: [i32; 64],
}

impl Names {
    fn new(first: i32) -> Self {
        Names {
            dictionary: Dictionary::default(),
            first,
            keys: [0; 64],
        }
    }

    #[inline]
    fn key(&mut self, number: i32, name: &str) -> i32 {
        let place = usize::try_from(number.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        match self.keys.get_mut(place) {
            Some(known) => {
                if *known == 0 {
                    *known = self.dictionary.key(name.as_bytes()) + 1;
                }
                *known - 1
            }
            None => self.dictionary.key(name.as_bytes()),
        }
    }

    fn finish(&mut self, keys: &mut BlockColumn<i32>, rows: usize) -> Result<ArrayRef, ArrowError> {
        let (column, renewed) = keys.finish_keys(&mut self.dictionary, rows)?;
        if renewed {
            self.keys = [0; 64];
        }
        Ok(column)
    }
}

/// Types of txns whose keys are remembered begin here.
const FIRST_TXN: i32 = -16;

/// Columns that may be null, as bits of `Row::known`.
const ZXID: usize = 0;
const BYTES: usize = 1;
const SESSION: usize = 2;
const CXID: usize = 3;
const TXN_TYPE: usize = 4;
const PATH: usize = 5;
const ERROR: usize = 6;
const SID: usize = 7;
const EPOCH: usize = 8;
const TIMEOUT_MS: usize = 9;
const VALID: usize = 10;
/// The value of `valid`, a bit itself.
const IS_VALID: usize = 11;
const SESSIONS: usize = 12;
const DIGEST: usize = 13;

/// A row as it is put down. What is not known is zero.
#[derive(Clone, Copy)]
struct Row {
    known: u64,
    seq: i64,
    ts_ns: i64,
    conn: i64,
    zxid: i64,
    bytes: i64,
    session: i64,
    cxid: i64,
    sid: i64,
    epoch: i64,
    digest: i64,
    client: i32,
    server: i32,
    kind: i32,
    direction: i32,
    txn_type: i32,
    path: i32,
    error: i32,
    timeout_ms: i32,
    sessions: i32,
}

pub struct QuorumTable {
    /// All rows, those in `block` included.
    rows: usize,
    block: Vec<Row>,
    ends: Ends,
    kinds: Names,
    directions: Names,
    txn_types: Names,
    paths: Dictionary,
    blanks: Blanks,

    seq: BlockColumn<i64>,
    ts_ns: BlockColumn<i64>,
    conn: BlockColumn<i64>,
    client: BlockColumn<i32>,
    server: BlockColumn<i32>,
    kind: BlockColumn<i32>,
    direction: BlockColumn<i32>,
    zxid: BlockColumn<i64>,
    bytes: BlockColumn<i64>,
    session: BlockColumn<i64>,
    cxid: BlockColumn<i64>,
    txn_type: BlockColumn<i32>,
    path: BlockColumn<i32>,
    error: BlockColumn<i32>,
    sid: BlockColumn<i64>,
    epoch: BlockColumn<i64>,
    timeout_ms: BlockColumn<i32>,
    valid: Bits,
    sessions: BlockColumn<i32>,
    digest: BlockColumn<i64>,
    sub: SubColumns,
    snapshot_bytes: Column<i64>,
    snapshot_nodes: Column<i64>,
    config: DictColumn,
}

impl Default for QuorumTable {
    fn default() -> Self {
        QuorumTable {
            rows: 0,
            block: Vec::new(),
            ends: Ends::default(),
            kinds: Names::new(0),
            directions: Names::new(0),
            txn_types: Names::new(FIRST_TXN),
            paths: Dictionary::default(),
            blanks: Blanks::default(),
            seq: BlockColumn::default(),
            ts_ns: BlockColumn::default(),
            conn: BlockColumn::default(),
            client: BlockColumn::default(),
            server: BlockColumn::default(),
            kind: BlockColumn::default(),
            direction: BlockColumn::default(),
            zxid: BlockColumn::default(),
            bytes: BlockColumn::default(),
            session: BlockColumn::default(),
            cxid: BlockColumn::default(),
            txn_type: BlockColumn::default(),
            path: BlockColumn::default(),
            error: BlockColumn::default(),
            sid: BlockColumn::default(),
            epoch: BlockColumn::default(),
            timeout_ms: BlockColumn::default(),
            valid: Bits::default(),
            sessions: BlockColumn::default(),
            digest: BlockColumn::default(),
            sub: SubColumns::default(),
            snapshot_bytes: Column::default(),
            snapshot_nodes: Column::default(),
            config: DictColumn::default(),
        }
    }
}

/// A value, or zero, and the bit that says which.
#[inline(always)]
fn put<T: Copy + Default>(known: &mut u64, bit: usize, value: Option<T>) -> T {
    *known |= u64::from(value.is_some()) << bit;
    value.unwrap_or_default()
}

impl QuorumTable {
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of the texts that can grow.
    pub fn text(&self) -> usize {
        self.paths.byte_len() + self.sub.byte_len() + self.config.byte_len()
    }

    pub fn push(&mut self, row: &Quorum<'_>) {
        let mut known = 0;
        let (client, server) = self.ends.keys(row.conn);
        let kind = self.kinds.key(row.kind, row.name);
        let direction = self
            .directions
            .key(i32::from(row.to_leader), row.direction());
        let txn_type = row.txn.map(|(code, name)| self.txn_types.key(code, name));
        // No key only when one batch holds 2 GiB of text; batches are cut long before.
        let path = row.path.and_then(|path| self.paths.text_key(path));
        known |= u64::from(row.valid.is_some()) << VALID;
        known |= u64::from(row.valid == Some(true)) << IS_VALID;
        let row_put = Row {
            seq: row.seq,
            ts_ns: row.ts_ns,
            conn: row.conn.id,
            client,
            server,
            kind,
            direction,
            zxid: put(&mut known, ZXID, row.zxid),
            bytes: put(&mut known, BYTES, row.bytes),
            session: put(&mut known, SESSION, row.session),
            cxid: put(&mut known, CXID, row.cxid),
            txn_type: put(&mut known, TXN_TYPE, txn_type),
            path: put(&mut known, PATH, path),
            error: put(&mut known, ERROR, row.error),
            sid: put(&mut known, SID, row.sid),
            epoch: put(&mut known, EPOCH, row.epoch),
            timeout_ms: put(&mut known, TIMEOUT_MS, row.timeout_ms),
            sessions: put(&mut known, SESSIONS, row.sessions),
            digest: put(&mut known, DIGEST, row.digest),
            known,
        };
        self.block.push(row_put);
        if let Some(sub) = row.sub {
            self.sub.push(self.rows, sub);
        }
        if let Some((bytes, nodes)) = row.snapshot {
            self.snapshot_bytes.push(self.rows, bytes);
            self.snapshot_nodes.push(self.rows, nodes);
        }
        self.config.push_some(self.rows, row.config);
        self.rows += 1;
        if self.block.len() >= BLOCK {
            self.flush();
        }
    }

    /// Moves the block to the columns.
    #[inline(never)]
    fn flush(&mut self) {
        let block = self.block.as_slice();
        let mut words = [0; BLOCK];
        for (word, row) in words.iter_mut().zip(block) {
            *word = row.known;
        }
        transpose(&mut words);
        let all = u64::MAX >> (BLOCK - block.len().clamp(1, BLOCK));
        macro_rules! take {
            ($($column:ident $word:expr),* $(,)?) => {
                $(self.$column.extend($word, all, block.iter().map(|row| row.$column));)*
            };
        }
        take!(
            seq all, ts_ns all, conn all, client all, server all, kind all, direction all,
            zxid words[ZXID], bytes words[BYTES], session words[SESSION], cxid words[CXID],
            txn_type words[TXN_TYPE], path words[PATH], error words[ERROR], sid words[SID],
            epoch words[EPOCH], timeout_ms words[TIMEOUT_MS], sessions words[SESSIONS],
            digest words[DIGEST],
        );
        self.valid.push(words[VALID], words[IS_VALID]);
        self.block.clear();
    }

    pub fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        if !self.block.is_empty() {
            self.flush();
        }
        let n = std::mem::take(&mut self.rows);
        let blanks = &mut self.blanks;
        let ends = &mut self.ends;
        let (client, client_renewed) = self.client.finish_keys(&mut ends.client, n)?;
        let (server, server_renewed) = self.server.finish_keys(&mut ends.server, n)?;
        if client_renewed || server_renewed {
            ends.forget();
        }
        Ok(vec![
            self.seq.finish::<Int64Type>(n, blanks),
            self.ts_ns.finish::<Int64Type>(n, blanks),
            self.conn.finish::<Int64Type>(n, blanks),
            client,
            server,
            self.kinds.finish(&mut self.kind, n)?,
            self.directions.finish(&mut self.direction, n)?,
            self.zxid.finish::<Int64Type>(n, blanks),
            self.bytes.finish::<Int64Type>(n, blanks),
            self.session.finish::<Int64Type>(n, blanks),
            self.cxid.finish::<Int64Type>(n, blanks),
            self.txn_types.finish(&mut self.txn_type, n)?,
            self.path.finish_keys(&mut self.paths, n)?.0,
            self.error.finish::<Int32Type>(n, blanks),
            self.sid.finish::<Int64Type>(n, blanks),
            self.epoch.finish::<Int64Type>(n, blanks),
            self.timeout_ms.finish::<Int32Type>(n, blanks),
            self.valid.finish(n),
            self.sessions.finish::<Int32Type>(n, blanks),
            self.digest.finish::<Int64Type>(n, blanks),
            self.sub.finish(n, blanks)?,
            self.snapshot_bytes.finish::<Int64Type>(n),
            self.snapshot_nodes.finish::<Int64Type>(n),
            self.config.finish(n)?,
        ])
    }
}

#[derive(Default)]
pub struct ElectionTable {
    common: Common,
    kind: DictColumn,
    direction: DictColumn,
    sid: Column<i64>,
    address: DictColumn,
    state: DictColumn,
    /// leader, zxid, election epoch, peer epoch
    vote: [Column<i64>; 4],
    version: Column<i32>,
    bytes: Column<i64>,
}

impl ElectionTable {
    pub fn rows(&self) -> usize {
        self.common.rows
    }

    pub fn text(&self) -> usize {
        self.address.byte_len() + self.state.byte_len()
    }

    pub fn push(&mut self, row: &Election<'_>) {
        let at = self.common.push(row.seq, row.ts_ns, row.conn);
        self.kind.push_some(at, Some(row.kind().as_bytes()));
        self.direction
            .push_some(at, Some(row.direction().as_bytes()));
        self.sid.push_some(at, row.sid);
        self.address.push_some(at, row.address);
        self.state.push_some(at, row.state.map(str::as_bytes));
        let vote = [row.leader, row.zxid, row.election_epoch, row.peer_epoch];
        for (column, value) in self.vote.iter_mut().zip(vote) {
            column.push_some(at, value);
        }
        self.version.push_some(at, row.version);
        self.bytes.push(at, row.bytes);
    }

    pub fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        let (n, mut columns) = self.common.finish()?;
        columns.extend([
            self.kind.finish(n)?,
            self.direction.finish(n)?,
            self.sid.finish::<Int64Type>(n),
            self.address.finish(n)?,
            self.state.finish(n)?,
        ]);
        let votes = self.vote.each_mut();
        columns.extend(votes.map(|column| column.finish::<Int64Type>(n)));
        columns.extend([
            self.version.finish::<Int32Type>(n),
            self.bytes.finish::<Int64Type>(n),
        ]);
        Ok(columns)
    }
}
