//! The table of exchanges. What few rows have (multis, setWatches, connects) goes to its columns directly. Where the table
//! is kept whole, rows are kept as they are in `exchange_log`, and become columns at the end.

use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::ArrayRef;
use arrow_schema::ArrowError;

use crate::block_columns::{Bits, Blanks, Columns, Out};
use crate::columns::{Column, Dictionary};
use crate::events::{Connect, Exchange};
use crate::exchange_log::{ExchangeLog, ExchangeReader, Keys};
use crate::nested::{StatColumns, SubColumns, WatchesColumns};
use crate::table_schema::{schema, Kind};
use crate::tables::{Ends, Names};

/// Opcodes whose keys are remembered begin here.
const FIRST_OP: i32 = -16;

/// Columns of 64 bits.
const SEQ: usize = 0;
const TS_NS: usize = 1;
const CONN: usize = 2;
const XID: usize = 3;
const SESSION: usize = 4;
const ZXID: usize = 5;
const LATENCY_NS: usize = 6;
const REQUEST_BYTES: usize = 7;
const REPLY_BYTES: usize = 8;
const TTL: usize = 9;
const LONGS: usize = 10;

/// Columns of 32 bits.
const CLIENT: usize = 0;
const SERVER: usize = 1;
const OP: usize = 2;
const OPCODE: usize = 3;
const STATE: usize = 4;
const PATH: usize = 5;
const ERROR: usize = 6;
const FLAGS: usize = 7;
const MODE: usize = 8;
const VERSION: usize = 9;
const DATA_LENGTH: usize = 10;
const CHILDREN: usize = 11;
const CREATED_PATH: usize = 12;
const INTS: usize = 13;

/// Bits: `watch` is known, and set; there is a Stat.
const WATCH: usize = 0;
const WATCHES: usize = 1;
const STAT: usize = 2;

pub struct Exchanges {
    rows: usize,
    ends: Ends,
    ops: Names,
    paths: Dictionary,
    states: Names,
    created_paths: Dictionary,
    out: Out,
    columns: Columns<LONGS, INTS>,
    /// The Stats of the rows not yet in columns.
    stats: Vec<[u8; 68]>,
    watch: Bits,
    stat: StatColumns,
    sub: SubColumns,
    watches: WatchesColumns,
    connect: ConnectColumns,
    log: Option<Box<ExchangeLog>>,
    reader: Option<Box<ExchangeReader>>,
}

impl Default for Exchanges {
    fn default() -> Self {
        Exchanges {
            rows: 0,
            ends: Ends::default(),
            ops: Names::new(FIRST_OP),
            paths: Dictionary::default(),
            states: Names::new(0),
            created_paths: Dictionary::default(),
            out: Out::default(),
            columns: Columns::default(),
            stats: Vec::new(),
            watch: Bits::default(),
            stat: StatColumns::default(),
            sub: SubColumns::default(),
            watches: WatchesColumns::default(),
            connect: ConnectColumns::default(),
            log: None,
            reader: None,
        }
    }
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

impl Exchanges {
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
                keys.state = self.states.key(row.state as i32, row.state.as_str());
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
            self.ops.take()?,
            self.paths.take()?,
            self.states.take()?,
            self.created_paths.take()?,
        ])
    }

    /// Bytes of the texts that can grow.
    #[inline]
    pub fn text(&self) -> usize {
        let kept = self.log.as_ref().map_or(0, |log| log.text());
        self.paths.byte_len() + self.created_paths.byte_len() + self.sub.byte_len() + kept
    }

    pub fn push(&mut self, row: &Exchange<'_>) {
        let created = row.created_path;
        let mut keys = Keys {
            op: row.op.map(|(code, name)| self.ops.key(code, name)),
            // No key only when one batch holds 2 GiB of text; batches are cut long before.
            path: row.path.and_then(|path| self.paths.text_key(path)),
            created_path: created.and_then(|path| self.created_paths.text_key(path)),
            ..Keys::default()
        };
        if let Some(log) = &mut self.log {
            let ends = &mut self.ends;
            log.add(row, &keys, |conn| ends.keys(conn));
            return;
        }
        (keys.client, keys.server) = self.ends.keys(row.conn);
        keys.state = self.states.key(row.state as i32, row.state.as_str());
        self.put(row, &keys);
    }

    #[inline]
    fn put(&mut self, row: &Exchange<'_>, keys: &Keys) {
        let mut put = self.columns.row();
        put.long(SEQ, Some(row.seq));
        put.long(TS_NS, Some(row.ts_ns));
        put.long(CONN, Some(row.conn.id));
        put.long(XID, row.xid);
        put.long(SESSION, row.session);
        put.long(ZXID, row.zxid);
        put.long(LATENCY_NS, row.latency_ns);
        put.long(REQUEST_BYTES, row.request_bytes);
        put.long(REPLY_BYTES, row.reply_bytes);
        put.long(TTL, row.ttl);
        put.int(CLIENT, Some(keys.client));
        put.int(SERVER, Some(keys.server));
        put.int(OP, keys.op);
        put.int(OPCODE, row.op.map(|op| op.0));
        put.int(STATE, Some(keys.state));
        put.int(PATH, keys.path);
        put.int(ERROR, row.error);
        put.int(FLAGS, row.flags);
        put.int(MODE, row.mode);
        put.int(VERSION, row.version);
        put.int(DATA_LENGTH, row.data_length);
        put.int(CHILDREN, row.children);
        put.int(CREATED_PATH, keys.created_path);
        put.mark(WATCH, row.watch.is_some());
        put.mark(WATCHES, row.watch == Some(true));
        put.mark(STAT, row.stat.is_some());
        let full = put.done();
        self.stats.push(row.stat.map_or([0; 68], |stat| *stat.0));
        if row.sub.is_some() || row.watches.is_some() || row.connect.is_some() {
            self.push_rare(row);
        }
        self.rows += 1;
        if full {
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

    #[inline(never)]
    fn flush(&mut self) {
        let (marks, all) = self.columns.flush(&mut self.out);
        self.watch.push(marks[WATCH], marks[WATCHES]);
        self.stat
            .extend(marks[STAT], all, &self.stats, &mut self.out);
        self.stats.clear();
    }

    pub fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        if !self.columns.is_flushed() {
            self.flush();
        }
        let n = std::mem::take(&mut self.rows);
        let (columns, out) = (&mut self.columns, &mut self.out);
        out.expect(n);
        let ends = self.ends.finish(columns, [CLIENT, SERVER], n, out)?;
        let [client, server] = ends;
        Ok(vec![
            columns.finish_long(SEQ, n, out),
            columns.finish_long(TS_NS, n, out),
            columns.finish_long(CONN, n, out),
            client,
            server,
            self.ops.finish(columns, OP, n, out)?,
            columns.finish_int(OPCODE, n, out),
            columns.finish_long(XID, n, out),
            columns.finish_long(SESSION, n, out),
            columns.finish_keys(PATH, &mut self.paths, n, out)?.0,
            self.watch.finish(n, out),
            columns.finish_int(ERROR, n, out),
            columns.finish_long(ZXID, n, out),
            columns.finish_long(LATENCY_NS, n, out),
            columns.finish_long(REQUEST_BYTES, n, out),
            columns.finish_long(REPLY_BYTES, n, out),
            self.states.finish(columns, STATE, n, out)?,
            columns.finish_int(FLAGS, n, out),
            columns.finish_int(MODE, n, out),
            columns.finish_int(VERSION, n, out),
            columns.finish_int(DATA_LENGTH, n, out),
            columns.finish_int(CHILDREN, n, out),
            columns.finish_long(TTL, n, out),
            columns
                .finish_keys(CREATED_PATH, &mut self.created_paths, n, out)?
                .0,
            self.stat.finish(n, out)?,
            self.sub.finish(n, out)?,
            self.watches.finish(n, out)?,
        ]
        .into_iter()
        .chain(self.connect.finish(n, &mut out.blanks))
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
