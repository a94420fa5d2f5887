//! The table of exchanges.
//!
//! Rows come one by one, columns are made by the block: 64 rows are put down as they are, then every column takes its
//! values of all of them at once, and its word of which rows have one. That costs a fraction of appending to some
//! thirty columns for every row. What few rows have (multis, setWatches, connects) goes to its columns directly.

use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::ArrayRef;
use arrow_schema::ArrowError;

use crate::block_columns::{transpose, Bits, Blanks, BlockColumn, BLOCK};
use crate::columns::{Column, Dictionary};
use crate::events::{Connect, Exchange};
use crate::nested::{StatColumns, SubColumns, WatchesColumns};
use crate::table_schema::{schema, Kind};
use crate::tables::Ends;

/// Opcodes from here on, for the length of the table, find their key without hashing.
const FIRST_DIRECT: i32 = -16;
const DIRECT: usize = 160;

/// Columns that may be null, as bits of `Row::known`.
const OP: usize = 0;
const XID: usize = 1;
const SESSION: usize = 2;
const PATH: usize = 3;
const WATCH: usize = 4;
/// The value of `watch`, a bit itself.
const WATCHES: usize = 5;
const ERROR: usize = 6;
const ZXID: usize = 7;
const LATENCY_NS: usize = 8;
const REQUEST_BYTES: usize = 9;
const REPLY_BYTES: usize = 10;
const FLAGS: usize = 11;
const MODE: usize = 12;
const VERSION: usize = 13;
const DATA_LENGTH: usize = 14;
const CHILDREN: usize = 15;
const TTL: usize = 16;
const CREATED_PATH: usize = 17;
const STAT: usize = 18;

/// A row as it is put down. What is not known is zero.
#[derive(Clone, Copy)]
struct Row {
    known: u64,
    seq: i64,
    ts_ns: i64,
    conn: i64,
    xid: i64,
    session: i64,
    zxid: i64,
    latency_ns: i64,
    request_bytes: i64,
    reply_bytes: i64,
    ttl: i64,
    client: i32,
    server: i32,
    op: i32,
    opcode: i32,
    path: i32,
    error: i32,
    state: i32,
    flags: i32,
    mode: i32,
    version: i32,
    data_length: i32,
    children: i32,
    created_path: i32,
    stat: [u8; 68],
}

#[derive(Default)]
pub struct Exchanges {
    /// All rows, those in `block` included.
    rows: usize,
    block: Vec<Row>,
    ends: Ends,
    ops: Dictionary,
    paths: Dictionary,
    states: Dictionary,
    created_paths: Dictionary,
    /// Key + 1 of the op column by opcode, empty or 0 if not known yet.
    op_keys: Vec<i32>,
    /// Keys + 1 of the states (the three never outgrow their dictionary).
    state_keys: [i32; 3],
    blanks: Blanks,

    seq: BlockColumn<i64>,
    ts_ns: BlockColumn<i64>,
    conn: BlockColumn<i64>,
    client: BlockColumn<i32>,
    server: BlockColumn<i32>,
    op: BlockColumn<i32>,
    opcode: BlockColumn<i32>,
    xid: BlockColumn<i64>,
    session: BlockColumn<i64>,
    path: BlockColumn<i32>,
    watch: Bits,
    error: BlockColumn<i32>,
    zxid: BlockColumn<i64>,
    latency_ns: BlockColumn<i64>,
    request_bytes: BlockColumn<i64>,
    reply_bytes: BlockColumn<i64>,
    state: BlockColumn<i32>,
    flags: BlockColumn<i32>,
    mode: BlockColumn<i32>,
    version: BlockColumn<i32>,
    data_length: BlockColumn<i32>,
    children: BlockColumn<i32>,
    ttl: BlockColumn<i64>,
    created_path: BlockColumn<i32>,
    stat: StatColumns,
    sub: SubColumns,
    watches: WatchesColumns,
    connect: ConnectColumns,
}

/// What only connect rows have.
#[derive(Default)]
struct ConnectColumns {
    any: bool,
    requested_timeout_ms: Column<i32>,
    timeout_ms: Column<i32>,
    last_zxid_seen: Column<i64>,
    read_only: Column<bool>,
    protocol_version: Column<i32>,
}

/// A value, or zero, and the bit that says which.
#[inline(always)]
fn put<T: Copy + Default>(known: &mut u64, bit: usize, value: Option<T>) -> T {
    *known |= u64::from(value.is_some()) << bit;
    value.unwrap_or_default()
}

impl Exchanges {
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of the texts that can grow.
    #[inline]
    pub fn text(&self) -> usize {
        self.paths.byte_len() + self.created_paths.byte_len() + self.sub.byte_len()
    }

    #[inline]
    fn op_key(&mut self, code: i32, name: &str) -> i32 {
        let direct = usize::try_from(code.wrapping_sub(FIRST_DIRECT)).unwrap_or(usize::MAX);
        if let Some(known) = self.op_keys.get(direct).filter(|known| **known != 0) {
            return *known - 1;
        }
        let key = self.ops.key(name.as_bytes());
        if self.op_keys.is_empty() {
            self.op_keys = vec![0; DIRECT];
        }
        if let Some(known) = self.op_keys.get_mut(direct) {
            *known = key + 1;
        }
        key
    }

    #[inline]
    fn state_key(&mut self, row: &Exchange<'_>) -> i32 {
        let Some(known) = self.state_keys.get_mut(row.state as usize) else {
            return 0;
        };
        if *known == 0 {
            *known = self.states.key(row.state.as_str().as_bytes()) + 1;
        }
        *known - 1
    }

    pub fn push(&mut self, row: &Exchange<'_>) {
        let mut known = 0;
        let (client, server) = self.ends.keys(row.conn);
        let op = row.op.map(|(code, name)| (self.op_key(code, name), code));
        let (op, opcode) = put(&mut known, OP, op);
        // No key only when one batch holds 2 GiB of text; batches are cut long before.
        let path = row.path.and_then(|path| self.paths.text_key(path));
        let created_path = row
            .created_path
            .and_then(|path| self.created_paths.text_key(path));
        known |= u64::from(row.watch == Some(true)) << WATCHES;
        known |= u64::from(row.watch.is_some()) << WATCH;
        known |= u64::from(row.stat.is_some()) << STAT;
        let state = self.state_key(row);
        let row_put = Row {
            seq: row.seq,
            ts_ns: row.ts_ns,
            conn: row.conn.id,
            client,
            server,
            op,
            opcode,
            state,
            xid: put(&mut known, XID, row.xid),
            session: put(&mut known, SESSION, row.session),
            zxid: put(&mut known, ZXID, row.zxid),
            latency_ns: put(&mut known, LATENCY_NS, row.latency_ns),
            request_bytes: put(&mut known, REQUEST_BYTES, row.request_bytes),
            reply_bytes: put(&mut known, REPLY_BYTES, row.reply_bytes),
            ttl: put(&mut known, TTL, row.ttl),
            path: put(&mut known, PATH, path),
            error: put(&mut known, ERROR, row.error),
            flags: put(&mut known, FLAGS, row.flags),
            mode: put(&mut known, MODE, row.mode),
            version: put(&mut known, VERSION, row.version),
            data_length: put(&mut known, DATA_LENGTH, row.data_length),
            children: put(&mut known, CHILDREN, row.children),
            created_path: put(&mut known, CREATED_PATH, created_path),
            stat: row.stat.map_or([0; 68], |stat| *stat.0),
            known,
        };
        self.block.push(row_put);
        if row.sub.is_some() || row.watches.is_some() || row.connect.is_some() {
            self.push_rare(row);
        }
        self.rows += 1;
        if self.block.len() >= BLOCK {
            self.flush();
        }
    }

    #[cold]
    fn push_rare(&mut self, row: &Exchange<'_>) {
        if let Some(sub) = row.sub {
            self.sub.push(self.rows, sub);
        }
        if let Some(watches) = row.watches {
            self.watches.push(self.rows, watches);
        }
        if let Some(connect) = row.connect {
            self.connect.push(self.rows, connect);
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
            seq all, ts_ns all, conn all, client all, server all, state all,
            op words[OP], opcode words[OP], xid words[XID], session words[SESSION],
            path words[PATH], error words[ERROR], zxid words[ZXID],
            latency_ns words[LATENCY_NS], request_bytes words[REQUEST_BYTES],
            reply_bytes words[REPLY_BYTES], flags words[FLAGS], mode words[MODE],
            version words[VERSION], data_length words[DATA_LENGTH],
            children words[CHILDREN], ttl words[TTL], created_path words[CREATED_PATH],
        );
        self.watch.push(words[WATCH], words[WATCHES]);
        self.stat
            .extend(words[STAT], all, || block.iter().map(|row| &row.stat));
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
        let (op, op_renewed) = self.op.finish_keys(&mut self.ops, n)?;
        if op_renewed {
            self.op_keys.clear();
        }
        let connect = &mut self.connect;
        Ok(vec![
            self.seq.finish::<Int64Type>(n, blanks),
            self.ts_ns.finish::<Int64Type>(n, blanks),
            self.conn.finish::<Int64Type>(n, blanks),
            client,
            server,
            op,
            self.opcode.finish::<Int32Type>(n, blanks),
            self.xid.finish::<Int64Type>(n, blanks),
            self.session.finish::<Int64Type>(n, blanks),
            self.path.finish_keys(&mut self.paths, n)?.0,
            self.watch.finish(n),
            self.error.finish::<Int32Type>(n, blanks),
            self.zxid.finish::<Int64Type>(n, blanks),
            self.latency_ns.finish::<Int64Type>(n, blanks),
            self.request_bytes.finish::<Int64Type>(n, blanks),
            self.reply_bytes.finish::<Int64Type>(n, blanks),
            self.state.finish_keys(&mut self.states, n)?.0,
            self.flags.finish::<Int32Type>(n, blanks),
            self.mode.finish::<Int32Type>(n, blanks),
            self.version.finish::<Int32Type>(n, blanks),
            self.data_length.finish::<Int32Type>(n, blanks),
            self.children.finish::<Int32Type>(n, blanks),
            self.ttl.finish::<Int64Type>(n, blanks),
            self.created_path.finish_keys(&mut self.created_paths, n)?.0,
            self.stat.finish(n, blanks)?,
            self.sub.finish(n, blanks)?,
            self.watches.finish(n, blanks)?,
        ]
        .into_iter()
        .chain(connect.finish(n, blanks))
        .collect())
    }
}

impl ConnectColumns {
    fn push(&mut self, row: usize, connect: &Connect) {
        self.any = true;
        self.requested_timeout_ms
            .push_some(row, connect.requested_timeout_ms);
        self.timeout_ms.push_some(row, connect.timeout_ms);
        self.last_zxid_seen.push_some(row, connect.last_zxid_seen);
        self.read_only.push_some(row, connect.read_only);
        self.protocol_version
            .push_some(row, connect.protocol_version);
    }

    fn finish(&mut self, rows: usize, blanks: &mut Blanks) -> Vec<ArrayRef> {
        if !std::mem::take(&mut self.any) {
            let schema = schema(Kind::Exchanges);
            let fields = schema.fields().iter();
            let last = fields.skip(schema.fields().len() - 5);
            return last
                .map(|field| blanks.of(field.data_type(), rows))
                .collect();
        }
        vec![
            self.requested_timeout_ms.finish::<Int32Type>(rows),
            self.timeout_ms.finish::<Int32Type>(rows),
            self.last_zxid_seen.finish::<Int64Type>(rows),
            self.read_only.finish_bool(rows),
            self.protocol_version.finish::<Int32Type>(rows),
        ]
    }
}
