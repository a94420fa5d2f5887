//! The tables `quorum` and `elections`. Where it is kept whole, the rows of `quorum` are kept as they are in `quorum_log`, and
//! become columns at the end.

use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::ArrayRef;
use arrow_schema::ArrowError;

use crate::block_columns::{Bits, Columns, Out};
use crate::columns::{Column, DictColumn, Dictionary};
use crate::events::{Election, Quorum};
use crate::nested::SubColumns;
use crate::quorum_log::{Keys, QuorumLog, QuorumReader};
use crate::tables::{Common, Ends, Names};

/// Types of txns whose keys are remembered begin here.
const FIRST_TXN: i32 = -16;

/// Columns of 64 bits.
const SEQ: usize = 0;
const TS_NS: usize = 1;
const CONN: usize = 2;
const ZXID: usize = 3;
const BYTES: usize = 4;
const SESSION: usize = 5;
const CXID: usize = 6;
const SID: usize = 7;
const EPOCH: usize = 8;
const DIGEST: usize = 9;
const TXN_HASH: usize = 10;
const LONGS: usize = 11;

/// Columns of 32 bits.
const CLIENT: usize = 0;
const SERVER: usize = 1;
const KIND: usize = 2;
const DIRECTION: usize = 3;
const TXN_TYPE: usize = 4;
const PATH: usize = 5;
const ERROR: usize = 6;
const TIMEOUT_MS: usize = 7;
const SESSIONS: usize = 8;
const INTS: usize = 9;

/// Bits: `valid` is known, and set; late.
const VALID: usize = 0;
const IS_VALID: usize = 1;
const LATE: usize = 2;

pub struct QuorumTable {
    rows: usize,
    ends: Ends,
    kinds: Names,
    directions: Names,
    txn_types: Names,
    paths: Dictionary,
    out: Out,
    columns: Columns<LONGS, INTS>,
    valid: Bits,
    late: Bits,
    sub: SubColumns,
    snapshot_bytes: Column<i64>,
    snapshot_nodes: Column<i64>,
    config: DictColumn,
    log: Option<Box<QuorumLog>>,
    reader: Option<Box<QuorumReader>>,
}

impl Default for QuorumTable {
    fn default() -> Self {
        QuorumTable {
            rows: 0,
            ends: Ends::default(),
            kinds: Names::new(0),
            directions: Names::new(0),
            txn_types: Names::new(FIRST_TXN),
            paths: Dictionary::default(),
            out: Out::default(),
            columns: Columns::default(),
            valid: Bits::default(),
            late: Bits::default(),
            sub: SubColumns::default(),
            snapshot_bytes: Column::default(),
            snapshot_nodes: Column::default(),
            config: DictColumn::default(),
            log: None,
            reader: None,
        }
    }
}

impl QuorumTable {
    /// Rows in columns.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// From now on rows are kept whole, until `read`.
    pub fn keep_whole(&mut self) {
        self.out.whole = true;
        self.log = Some(Box::default());
    }

    /// Rows kept whole.
    pub fn kept(&self) -> usize {
        self.log.as_ref().map_or(0, |log| log.rows)
    }

    /// Begins to make columns of what was kept; further rows are kept behind it.
    pub fn read(&mut self) {
        if let Some(log) = &mut self.log {
            self.reader = Some(Box::new(std::mem::take(log.as_mut()).read()));
        }
    }

    /// Makes columns of the next rows, so many or as many as have so much text. False if none is left.
    pub fn read_batch(&mut self, rows: usize, text: usize) -> bool {
        let Some(mut reader) = self.reader.take() else {
            return false;
        };
        if reader.left == 0 {
            return false;
        }
        self.out.expected = rows.min(reader.left);
        while reader.left > 0 && self.rows < rows && self.sub.byte_len() < text {
            reader.next(|row, mut keys| {
                let to_leader = i32::from(row.to_leader);
                keys.direction = self.directions.key(to_leader, row.direction());
                self.put(row, &keys);
            });
        }
        self.reader = Some(reader);
        true
    }

    /// The texts of a table that is kept whole, in the order of the columns; they start anew.
    pub fn take_dictionaries(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        let [client, server] = self.ends.take()?;
        Ok(vec![
            client,
            server,
            self.kinds.take()?,
            self.directions.take()?,
            self.txn_types.take()?,
            self.paths.take()?,
            self.config.take()?,
        ])
    }

    /// Bytes of the texts that can grow.
    pub fn text(&self) -> usize {
        let kept = self.log.as_ref().map_or(0, |log| log.text());
        self.paths.byte_len() + self.sub.byte_len() + self.config.byte_len() + kept
    }

    pub fn push(&mut self, row: &Quorum<'_>) {
        let mut keys = Keys {
            kind: self.kinds.key(row.kind, row.name),
            txn: row.txn.map(|(code, name)| self.txn_types.key(code, name)),
            // No key only when one batch holds 2 GiB of text; batches are cut long before.
            path: row.path.and_then(|path| self.paths.text_key(path)),
            config: row.config.and_then(|config| self.config.key(config)),
            ..Keys::default()
        };
        if let Some(log) = &mut self.log {
            let ends = &mut self.ends;
            log.add(row, &keys, |conn| ends.keys(conn));
            return;
        }
        (keys.client, keys.server) = self.ends.keys(row.conn);
        let to_leader = i32::from(row.to_leader);
        keys.direction = self.directions.key(to_leader, row.direction());
        self.put(row, &keys);
    }

    #[inline]
    fn put(&mut self, row: &Quorum<'_>, keys: &Keys) {
        let mut put = self.columns.row();
        put.long(SEQ, Some(row.seq));
        put.long(TS_NS, Some(row.ts_ns));
        put.long(CONN, Some(row.conn.id));
        put.long(ZXID, row.zxid);
        put.long(BYTES, row.bytes);
        put.long(SESSION, row.session);
        put.long(CXID, row.cxid);
        put.long(SID, row.sid);
        put.long(EPOCH, row.epoch);
        put.long(DIGEST, row.digest);
        put.long(TXN_HASH, row.txn_hash);
        put.int(CLIENT, Some(keys.client));
        put.int(SERVER, Some(keys.server));
        put.int(KIND, Some(keys.kind));
        put.int(DIRECTION, Some(keys.direction));
        put.int(TXN_TYPE, keys.txn);
        put.int(PATH, keys.path);
        put.int(ERROR, row.error);
        put.int(TIMEOUT_MS, row.timeout_ms);
        put.int(SESSIONS, row.sessions);
        put.mark(VALID, row.valid.is_some());
        put.mark(IS_VALID, row.valid == Some(true));
        put.mark(LATE, row.late);
        let full = put.done();
        if let Some(sub) = row.sub {
            self.sub.push(self.rows, sub);
        }
        if let Some((bytes, nodes)) = row.snapshot {
            self.snapshot_bytes.push(self.rows, bytes);
            self.snapshot_nodes.push(self.rows, nodes);
        }
        self.config.push_key(self.rows, keys.config);
        self.rows += 1;
        if full {
            self.flush();
        }
    }

    #[inline(never)]
    fn flush(&mut self) {
        let (marks, _) = self.columns.flush(&mut self.out);
        self.valid.push(marks[VALID], marks[IS_VALID]);
        self.late.push(marks[LATE], marks[LATE]);
    }

    pub fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        if !self.columns.is_flushed() {
            self.flush();
        }
        let n = std::mem::take(&mut self.rows);
        let (columns, out) = (&mut self.columns, &mut self.out);
        out.expect(n);
        let [client, server] = self.ends.finish(columns, [CLIENT, SERVER], n, out)?;
        Ok(vec![
            columns.finish_long(SEQ, n, out),
            columns.finish_long(TS_NS, n, out),
            columns.finish_long(CONN, n, out),
            client,
            server,
            self.kinds.finish(columns, KIND, n, out)?,
            self.directions.finish(columns, DIRECTION, n, out)?,
            columns.finish_long(ZXID, n, out),
            columns.finish_long(BYTES, n, out),
            columns.finish_long(SESSION, n, out),
            columns.finish_long(CXID, n, out),
            self.txn_types.finish(columns, TXN_TYPE, n, out)?,
            columns.finish_keys(PATH, &mut self.paths, n, out)?.0,
            columns.finish_int(ERROR, n, out),
            columns.finish_long(SID, n, out),
            columns.finish_long(EPOCH, n, out),
            columns.finish_int(TIMEOUT_MS, n, out),
            self.valid.finish(n, out),
            columns.finish_int(SESSIONS, n, out),
            columns.finish_long(DIGEST, n, out),
            self.sub.finish(n, out)?,
            self.snapshot_bytes
                .finish_sparse::<Int64Type>(n, &mut out.blanks),
            self.snapshot_nodes
                .finish_sparse::<Int64Type>(n, &mut out.blanks),
            if out.whole {
                self.config.finish_indices(n, &mut out.blanks)
            } else {
                self.config.finish_sparse(n, &mut out.blanks)?
            },
            self.late.finish(n, out),
            columns.finish_long(TXN_HASH, n, out),
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
