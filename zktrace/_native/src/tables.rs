//! Event rows to Arrow columns.
//!
//! The schemas are those of `zktrace/analysis/tables.py`, field by field. A batch is cut when it
//! has the rows asked for or holds too much text; dictionaries live on from batch to batch while
//! they pay. Knows nothing of Python.

use std::collections::VecDeque;

use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, SchemaRef};

use crate::columns::{Column, DictColumn, TextColumn};
use crate::events::WatchEvent;
use crate::events::{Anomaly, ConnInfo, Connection, EventSink, Exchange, FourLetter};
use crate::nested::{StatColumns, SubColumns, WatchesColumns};
use crate::table_schema::schema;

pub use crate::table_schema::Kind;

/// Text of a batch (paths may be as long as a frame), far below the 2 GiB that 32-bit offsets
/// reach.
const BATCH_TEXT: usize = 64 << 20;
/// Connections whose address keys are remembered (direct mapped by number).
const CONN_CACHE: usize = 1024;
/// Opcodes from here on, for the length of the table, find their key without hashing.
const FIRST_DIRECT: i32 = -16;
const DIRECT: usize = 160;

/// The five columns that every table begins with, and its row count.
struct Common {
    rows: usize,
    seq: Column<i64>,
    ts_ns: Column<i64>,
    conn: Column<i64>,
    client: DictColumn,
    server: DictColumn,
    /// (connection, client key, server key)
    keys: Vec<(i64, i32, i32)>,
}

impl Common {
    fn new() -> Self {
        Common {
            rows: 0,
            seq: Column::default(),
            ts_ns: Column::default(),
            conn: Column::default(),
            client: DictColumn::default(),
            server: DictColumn::default(),
            keys: vec![(-1, 0, 0); CONN_CACHE],
        }
    }

    /// Begins a row and returns its number.
    #[inline]
    fn push(&mut self, seq: i64, ts_ns: i64, conn: &ConnInfo) -> usize {
        let row = self.rows;
        self.rows += 1;
        self.seq.push(row, seq);
        self.ts_ns.push(row, ts_ns);
        self.conn.push(row, conn.id);
        let at = conn.id as usize & (CONN_CACHE - 1);
        let (client, server) = match self.keys.get(at) {
            Some(&(known, client, server)) if known == conn.id => (client, server),
            _ => {
                let client = self.client.key(conn.client.to_string().as_bytes());
                let server = self.server.key(conn.server.to_string().as_bytes());
                if let Some(place) = self.keys.get_mut(at) {
                    *place = (conn.id, client, server);
                }
                (client, server)
            }
        };
        self.client.push_key(row, client);
        self.server.push_key(row, server);
        row
    }

    fn finish(&mut self) -> Result<(usize, Vec<ArrayRef>), ArrowError> {
        let rows = std::mem::take(&mut self.rows);
        let (client, client_renewed) = self.client.finish(rows)?;
        let (server, server_renewed) = self.server.finish(rows)?;
        if client_renewed || server_renewed {
            self.keys.fill((-1, 0, 0));
        }
        let columns = vec![
            self.seq.finish::<Int64Type>(rows),
            self.ts_ns.finish::<Int64Type>(rows),
            self.conn.finish::<Int64Type>(rows),
            client,
            server,
        ];
        Ok((rows, columns))
    }
}

struct Exchanges {
    common: Common,
    op: DictColumn,
    /// Key + 1 of the op column by opcode, 0 if not known yet.
    op_keys: [i32; DIRECT],
    opcode: Column<i32>,
    xid: Column<i64>,
    session: Column<i64>,
    path: DictColumn,
    watch: Column<bool>,
    error: Column<i32>,
    zxid: Column<i64>,
    latency_ns: Column<i64>,
    request_bytes: Column<i64>,
    reply_bytes: Column<i64>,
    state: DictColumn,
    /// Keys of the states (the three never outgrow their dictionary).
    states: [i32; 3],
    flags: Column<i32>,
    mode: Column<i32>,
    version: Column<i32>,
    data_length: Column<i32>,
    children: Column<i32>,
    ttl: Column<i64>,
    created_path: DictColumn,
    stat: StatColumns,
    sub: SubColumns,
    watches: WatchesColumns,
    requested_timeout_ms: Column<i32>,
    timeout_ms: Column<i32>,
    last_zxid_seen: Column<i64>,
    read_only: Column<bool>,
    protocol_version: Column<i32>,
}

impl Exchanges {
    fn new() -> Self {
        Exchanges {
            common: Common::new(),
            op: DictColumn::default(),
            op_keys: [0; DIRECT],
            opcode: Column::default(),
            xid: Column::default(),
            session: Column::default(),
            path: DictColumn::default(),
            watch: Column::default(),
            error: Column::default(),
            zxid: Column::default(),
            latency_ns: Column::default(),
            request_bytes: Column::default(),
            reply_bytes: Column::default(),
            state: DictColumn::default(),
            states: [-1; 3],
            flags: Column::default(),
            mode: Column::default(),
            version: Column::default(),
            data_length: Column::default(),
            children: Column::default(),
            ttl: Column::default(),
            created_path: DictColumn::default(),
            stat: StatColumns::default(),
            sub: SubColumns::default(),
            watches: WatchesColumns::default(),
            requested_timeout_ms: Column::default(),
            timeout_ms: Column::default(),
            last_zxid_seen: Column::default(),
            read_only: Column::default(),
            protocol_version: Column::default(),
        }
    }

    #[inline]
    fn op_key(&mut self, code: i32, name: &str) -> i32 {
        let direct = usize::try_from(code.wrapping_sub(FIRST_DIRECT)).unwrap_or(usize::MAX);
        match self.op_keys.get_mut(direct) {
            Some(known) => {
                if *known == 0 {
                    *known = self.op.key(name.as_bytes()) + 1;
                }
                *known - 1
            }
            None => self.op.key(name.as_bytes()),
        }
    }

    fn push(&mut self, row: &Exchange<'_>) {
        let at = self.common.push(row.seq, row.ts_ns, row.conn);
        if let Some((code, name)) = row.op {
            let key = self.op_key(code, name);
            self.op.push_key(at, key);
            self.opcode.push(at, code);
        }
        self.xid.push_some(at, row.xid);
        self.session.push_some(at, row.session);
        self.path.push_some(at, row.path);
        self.watch.push_some(at, row.watch);
        self.error.push_some(at, row.error);
        self.zxid.push_some(at, row.zxid);
        self.latency_ns.push_some(at, row.latency_ns);
        self.request_bytes.push_some(at, row.request_bytes);
        self.reply_bytes.push_some(at, row.reply_bytes);
        if let Some(key) = self.states.get_mut(row.state as usize) {
            if *key < 0 {
                *key = self.state.key(row.state.as_str().as_bytes());
            }
            self.state.push_key(at, *key);
        }
        self.flags.push_some(at, row.flags);
        self.mode.push_some(at, row.mode);
        self.version.push_some(at, row.version);
        self.data_length.push_some(at, row.data_length);
        self.children.push_some(at, row.children);
        self.ttl.push_some(at, row.ttl);
        self.created_path.push_some(at, row.created_path);
        if let Some(stat) = row.stat {
            self.stat.push(at, &stat.decode());
        }
        if let Some(sub) = row.sub {
            self.sub.push(at, sub);
        }
        if let Some(watches) = row.watches {
            self.watches.push(at, watches);
        }
        if let Some(connect) = row.connect {
            self.requested_timeout_ms
                .push_some(at, connect.requested_timeout_ms);
            self.timeout_ms.push_some(at, connect.timeout_ms);
            self.last_zxid_seen.push_some(at, connect.last_zxid_seen);
            self.read_only.push_some(at, connect.read_only);
            self.protocol_version
                .push_some(at, connect.protocol_version);
        }
    }

    #[inline]
    fn text(&self) -> usize {
        self.path.byte_len() + self.created_path.byte_len() + self.sub.byte_len()
    }

    fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        let (n, mut columns) = self.common.finish()?;
        let (op, op_renewed) = self.op.finish(n)?;
        if op_renewed {
            self.op_keys = [0; DIRECT];
        }
        columns.extend([
            op,
            self.opcode.finish::<Int32Type>(n),
            self.xid.finish::<Int64Type>(n),
            self.session.finish::<Int64Type>(n),
            self.path.finish(n)?.0,
            self.watch.finish_bool(n),
            self.error.finish::<Int32Type>(n),
            self.zxid.finish::<Int64Type>(n),
            self.latency_ns.finish::<Int64Type>(n),
            self.request_bytes.finish::<Int64Type>(n),
            self.reply_bytes.finish::<Int64Type>(n),
            self.state.finish(n)?.0,
            self.flags.finish::<Int32Type>(n),
            self.mode.finish::<Int32Type>(n),
            self.version.finish::<Int32Type>(n),
            self.data_length.finish::<Int32Type>(n),
            self.children.finish::<Int32Type>(n),
            self.ttl.finish::<Int64Type>(n),
            self.created_path.finish(n)?.0,
            self.stat.finish(n)?,
            self.sub.finish(n)?,
            self.watches.finish(n)?,
            self.requested_timeout_ms.finish::<Int32Type>(n),
            self.timeout_ms.finish::<Int32Type>(n),
            self.last_zxid_seen.finish::<Int64Type>(n),
            self.read_only.finish_bool(n),
            self.protocol_version.finish::<Int32Type>(n),
        ]);
        Ok(columns)
    }
}

/// The four small tables. Columns of the kinds that a table does not have stay empty.
struct Small {
    common: Common,
    longs: [Column<i64>; 3],
    dicts: [DictColumn; 3],
    detail: TextColumn,
}

impl Small {
    fn new() -> Self {
        Small {
            common: Common::new(),
            longs: Default::default(),
            dicts: Default::default(),
            detail: TextColumn::default(),
        }
    }

    fn push(
        &mut self,
        (seq, ts_ns, conn): (i64, i64, &ConnInfo),
        dicts: [Option<&[u8]>; 3],
        longs: [Option<i64>; 3],
        detail: Option<&str>,
    ) {
        let at = self.common.push(seq, ts_ns, conn);
        for (column, value) in self.dicts.iter_mut().zip(dicts) {
            column.push_some(at, value);
        }
        for (column, value) in self.longs.iter_mut().zip(longs) {
            column.push_some(at, value);
        }
        if let Some(detail) = detail {
            self.detail.push_bytes(at, detail.as_bytes());
        }
    }

    fn text(&self) -> usize {
        let dicts: usize = self.dicts.iter().map(DictColumn::byte_len).sum();
        dicts + self.detail.byte_len()
    }

    fn finish(&mut self, kind: Kind) -> Result<Vec<ArrayRef>, ArrowError> {
        let (n, mut columns) = self.common.finish()?;
        let [first, second, third] = self.dicts.each_mut().map(|column| column.finish(n));
        let (first, second, third) = (first?.0, second?.0, third?.0);
        let [a, b, c] = self
            .longs
            .each_mut()
            .map(|column| column.finish::<Int64Type>(n));
        let detail = self.detail.finish(n)?;
        match kind {
            Kind::WatchEvents => columns.extend([a, first, second, third, b, c]),
            Kind::Connections => columns.extend([first, second, detail]),
            Kind::FourLetter => columns.extend([first, a]),
            Kind::Anomalies => columns.extend([first, second, a, detail]),
            Kind::Exchanges => {}
        }
        Ok(columns)
    }
}

/// One record batch per kind that has rows, of the same stretch of the capture.
pub type Step = Vec<(Kind, RecordBatch)>;

/// Collects rows and gives them out in steps.
///
/// A step is cut by [`TableSink::take`], or earlier when a kind has `batch_rows` rows or the text
/// grows too large; so several may wait. Kinds are cut together: every row of a step was emitted
/// before any of the next.
pub struct TableSink {
    batch_rows: usize,
    exchanges: Exchanges,
    small: [Small; 4],
    schemas: [SchemaRef; 5],
    ready: VecDeque<Step>,
    ready_rows: usize,
    error: Option<ArrowError>,
}

const KINDS: [Kind; 5] = [
    Kind::Exchanges,
    Kind::WatchEvents,
    Kind::Connections,
    Kind::FourLetter,
    Kind::Anomalies,
];
const WATCH_EVENTS: usize = 0;
const CONNECTIONS: usize = 1;
const FOUR_LETTER: usize = 2;
const ANOMALIES: usize = 3;

impl TableSink {
    pub fn new(batch_rows: usize) -> Self {
        TableSink {
            batch_rows: batch_rows.max(1),
            exchanges: Exchanges::new(),
            small: [(); 4].map(|()| Small::new()),
            schemas: KINDS.map(schema),
            ready: VecDeque::new(),
            ready_rows: 0,
            error: None,
        }
    }

    /// Rows not taken yet.
    pub fn rows(&self) -> usize {
        let small = self.small.iter().map(|table| table.common.rows);
        self.ready_rows + self.exchanges.common.rows + small.sum::<usize>()
    }

    /// Steps that were cut because rows or text were many enough; to be taken soon.
    pub fn ready_steps(&self) -> usize {
        self.ready.len()
    }

    /// The oldest step not taken yet, else the rows since; empty if there are none. Not after every
    /// block: a dictionary that is large beside its batch starts anew.
    pub fn take(&mut self) -> Result<Step, ArrowError> {
        if self.ready.is_empty() {
            self.cut();
        }
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let step = self.ready.pop_front().unwrap_or_default();
        let rows: usize = step.iter().map(|(_, batch)| batch.num_rows()).sum();
        self.ready_rows = self.ready_rows.saturating_sub(rows);
        Ok(step)
    }

    /// Makes the rows since the last cut a step, if there are any.
    #[cold]
    fn cut(&mut self) {
        match self.batches() {
            Ok(step) if step.is_empty() => {}
            Ok(step) => {
                self.ready_rows += step
                    .iter()
                    .map(|(_, batch)| batch.num_rows())
                    .sum::<usize>();
                self.ready.push_back(step);
            }
            Err(error) => self.error = Some(error),
        }
    }

    fn batches(&mut self) -> Result<Step, ArrowError> {
        let mut step = Step::new();
        let [kind, small_kinds @ ..] = KINDS;
        let [schema, small_schemas @ ..] = &self.schemas;
        if self.exchanges.common.rows > 0 {
            let columns = self.exchanges.finish()?;
            step.push((kind, RecordBatch::try_new(schema.clone(), columns)?));
        }
        let small = self.small.iter_mut().zip(small_kinds).zip(small_schemas);
        for ((table, kind), schema) in small {
            if table.common.rows > 0 {
                let columns = table.finish(kind)?;
                step.push((kind, RecordBatch::try_new(schema.clone(), columns)?));
            }
        }
        Ok(step)
    }

    /// After a row in a small table.
    #[inline]
    fn check(&mut self, which: usize) {
        if let Some(table) = self.small.get(which) {
            if table.common.rows >= self.batch_rows || table.text() > BATCH_TEXT {
                self.cut();
            }
        }
    }
}

impl EventSink for TableSink {
    fn exchange(&mut self, row: &Exchange<'_>) {
        self.exchanges.push(row);
        if self.exchanges.common.rows >= self.batch_rows || self.exchanges.text() > BATCH_TEXT {
            self.cut();
        }
    }

    fn watch_event(&mut self, row: &WatchEvent<'_>) {
        let texts = [
            row.event.map(str::as_bytes),
            row.keeper_state.map(str::as_bytes),
            row.path,
        ];
        let longs = [row.session, row.zxid, Some(row.bytes)];
        let key = (row.seq, row.ts_ns, row.conn);
        self.small[WATCH_EVENTS].push(key, texts, longs, None);
        self.check(WATCH_EVENTS);
    }

    fn connection(&mut self, row: &Connection<'_>) {
        let texts = [
            Some(row.role.as_str().as_bytes()),
            Some(row.event.as_str().as_bytes()),
            None,
        ];
        let key = (row.seq, row.ts_ns, row.conn);
        self.small[CONNECTIONS].push(key, texts, [None; 3], row.detail);
        self.check(CONNECTIONS);
    }

    fn four_letter(&mut self, row: &FourLetter<'_>) {
        let texts = [Some(row.word.as_bytes()), None, None];
        let longs = [row.reply_bytes, None, None];
        let key = (row.seq, row.ts_ns, row.conn);
        self.small[FOUR_LETTER].push(key, texts, longs, None);
        self.check(FOUR_LETTER);
    }

    fn anomaly(&mut self, row: &Anomaly<'_>) {
        let direction = row.direction.map(|direction| direction.as_str().as_bytes());
        let texts = [Some(row.reason.as_bytes()), direction, None];
        let longs = [row.bytes, None, None];
        let key = (row.seq, row.ts_ns, row.conn);
        self.small[ANOMALIES].push(key, texts, longs, row.detail);
        self.check(ANOMALIES);
    }
}
