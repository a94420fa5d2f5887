//! Event rows to Arrow columns.
//!
//! The schemas are those of `zktrace/analysis/tables.py`, field by field. A batch is cut when it
//! has the rows asked for or holds too much text; dictionaries live on from batch to batch while
//! they pay. Knows nothing of Python.

use std::collections::VecDeque;

use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, SchemaRef};

use crate::block_columns::{Columns, Out};
use crate::columns::{Column, DictColumn, Dictionary, TextColumn};
use crate::events::WatchEvent;
use crate::events::{
    Anomaly, ConnInfo, Connection, Election, EventSink, Exchange, FourLetter, Quorum,
};
use crate::exchange_table::Exchanges;
use crate::quorum_table::{ElectionTable, QuorumTable};
use crate::table_schema::{keys_schema, schema, KINDS};

pub use crate::table_schema::Kind;

/// Text of a batch (paths may be as long as a frame), far below the 2 GiB that 32-bit offsets
/// reach.
const BATCH_TEXT: usize = 64 << 20;
/// Connections whose address keys are remembered (direct mapped by number).
const CONN_CACHE: usize = 1024;
/// Keys of the addresses of connections.
pub struct Ends {
    pub client: Dictionary,
    pub server: Dictionary,
    /// (connection, client key, server key)
    known: Vec<(i64, i32, i32)>,
}

impl Default for Ends {
    fn default() -> Self {
        Ends {
            client: Dictionary::default(),
            server: Dictionary::default(),
            known: vec![(-1, 0, 0); CONN_CACHE],
        }
    }
}

impl Ends {
    /// Keys of client and server.
    #[inline]
    pub fn keys(&mut self, conn: &ConnInfo) -> (i32, i32) {
        let at = conn.id as usize & (CONN_CACHE - 1);
        match self.known.get(at) {
            Some(&(known, client, server)) if known == conn.id => (client, server),
            _ => self.look_up(at, conn),
        }
    }

    #[inline(never)]
    fn look_up(&mut self, at: usize, conn: &ConnInfo) -> (i32, i32) {
        let client = self.client.key(conn.client.to_string().as_bytes());
        let server = self.server.key(conn.server.to_string().as_bytes());
        if let Some(place) = self.known.get_mut(at) {
            *place = (conn.id, client, server);
        }
        (client, server)
    }

    /// The columns of client and server.
    pub fn finish<const LONGS: usize, const INTS: usize>(
        &mut self,
        columns: &mut Columns<LONGS, INTS>,
        [client, server]: [usize; 2],
        rows: usize,
        out: &mut Out,
    ) -> Result<[ArrayRef; 2], ArrowError> {
        let (client, client_renewed) = columns.finish_keys(client, &mut self.client, rows, out)?;
        let (server, server_renewed) = columns.finish_keys(server, &mut self.server, rows, out)?;
        if client_renewed || server_renewed {
            self.forget();
        }
        Ok([client, server])
    }

    /// The texts of client and server; they start anew.
    pub fn take(&mut self) -> Result<[ArrayRef; 2], ArrowError> {
        self.forget();
        Ok([self.client.take()?, self.server.take()?])
    }

    /// A dictionary started anew.
    pub fn forget(&mut self) {
        self.known.fill((-1, 0, 0));
    }
}

/// Numbers whose keys are remembered.
const DIRECT: usize = 160;

/// Names that are functions of small numbers.
pub struct Names {
    dictionary: Dictionary,
    first: i32,
    /// Keys + 1 by number from `first` on, 0 if not known yet.
    keys: [i32; DIRECT],
}

impl Names {
    pub fn new(first: i32) -> Self {
        Names {
            dictionary: Dictionary::default(),
            first,
            keys: [0; DIRECT],
        }
    }

    #[inline]
    pub fn key(&mut self, number: i32, name: &str) -> i32 {
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

    /// The texts; they start anew.
    pub fn take(&mut self) -> Result<ArrayRef, ArrowError> {
        self.keys = [0; DIRECT];
        self.dictionary.take()
    }

    pub fn finish<const LONGS: usize, const INTS: usize>(
        &mut self,
        columns: &mut Columns<LONGS, INTS>,
        column: usize,
        rows: usize,
        out: &mut Out,
    ) -> Result<ArrayRef, ArrowError> {
        let (array, renewed) = columns.finish_keys(column, &mut self.dictionary, rows, out)?;
        if renewed {
            self.keys = [0; DIRECT];
        }
        Ok(array)
    }
}

/// The five columns that the small tables begin with, and their row count.
#[derive(Default)]
pub struct Common {
    pub rows: usize,
    seq: Column<i64>,
    ts_ns: Column<i64>,
    conn: Column<i64>,
    client: Column<i32>,
    server: Column<i32>,
    ends: Ends,
}

impl Common {
    /// Begins a row and returns its number.
    #[inline]
    pub fn push(&mut self, seq: i64, ts_ns: i64, conn: &ConnInfo) -> usize {
        let row = self.rows;
        self.rows += 1;
        self.seq.push(row, seq);
        self.ts_ns.push(row, ts_ns);
        self.conn.push(row, conn.id);
        let (client, server) = self.ends.keys(conn);
        self.client.push(row, client);
        self.server.push(row, server);
        row
    }

    pub fn finish(&mut self) -> Result<(usize, Vec<ArrayRef>), ArrowError> {
        let rows = std::mem::take(&mut self.rows);
        let ends = &mut self.ends;
        let (client, client_renewed) = self.client.finish_keys(&mut ends.client, rows)?;
        let (server, server_renewed) = self.server.finish_keys(&mut ends.server, rows)?;
        if client_renewed || server_renewed {
            ends.forget();
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
            common: Common::default(),
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
        let (first, second, third) = (first?, second?, third?);
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
            Kind::Exchanges | Kind::Quorum | Kind::Elections => {}
        }
        Ok(columns)
    }
}

/// Rows of a batch of a table that is kept whole.
const WHOLE_ROWS: usize = 1 << 16;
/// Text of dictionaries of a table that is kept whole: far below the 2 GiB that 32-bit offsets reach.
const STRETCH_TEXT: usize = 1 << 30;

/// Batches of a table that is kept whole. Those of exchanges and quorum packets have, in place of texts, keys into
/// dictionaries, which come with them once: in the order of the columns.
#[derive(Default)]
pub struct Stretch {
    pub batches: Vec<RecordBatch>,
    pub dictionaries: Option<Vec<ArrayRef>>,
}

/// What is kept of every table, in the order of `KINDS`: stretches that are done.
#[derive(Default)]
struct Whole([Vec<Stretch>; KINDS.len()]);

/// One record batch per kind that has rows, of the same stretch of the capture.
pub type Step = Vec<(Kind, RecordBatch)>;

/// Collects rows and gives them out in steps.
///
/// A step is cut by [`TableSink::take`], or earlier when a kind has `batch_rows` rows or the text
/// grows too large; so several may wait. Kinds are cut together: every row of a step was emitted
/// before any of the next.
pub struct TableSink {
    batch_rows: usize,
    whole: Option<Whole>,
    exchanges: Exchanges,
    small: [Small; 4],
    quorum: QuorumTable,
    elections: ElectionTable,
    schemas: [SchemaRef; 7],
    ready: VecDeque<Step>,
    ready_rows: usize,
    error: Option<ArrowError>,
}

const WATCH_EVENTS: usize = 0;
const CONNECTIONS: usize = 1;
const FOUR_LETTER: usize = 2;
const ANOMALIES: usize = 3;

impl TableSink {
    pub fn new(batch_rows: usize) -> Self {
        TableSink {
            batch_rows: batch_rows.max(1),
            whole: None,
            exchanges: Exchanges::default(),
            small: [(); 4].map(|()| Small::new()),
            quorum: QuorumTable::default(),
            elections: ElectionTable::default(),
            schemas: KINDS.map(schema),
            ready: VecDeque::new(),
            ready_rows: 0,
            error: None,
        }
    }

    /// All rows are kept until [`TableSink::take_whole`]: those of the large tables as records, which become columns when
    /// the table is taken, with one dictionary for all of its batches.
    pub fn whole() -> Self {
        let mut sink = TableSink::new(WHOLE_ROWS);
        sink.whole = Some(Whole::default());
        sink.exchanges.keep_whole();
        sink.quorum.keep_whole();
        for (kind, schema) in KINDS.into_iter().zip(&mut sink.schemas) {
            if matches!(kind, Kind::Exchanges | Kind::Quorum) {
                *schema = keys_schema(kind);
            }
        }
        sink
    }

    /// What was kept of a table, usually one stretch. It is given away.
    pub fn take_whole(&mut self, kind: Kind) -> Result<Vec<Stretch>, ArrowError> {
        self.end_stretch(kind)?;
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let whole = self.whole.as_mut();
        let stretches = whole.and_then(|whole| whole.0.get_mut(kind as usize));
        Ok(stretches.map_or(Vec::new(), std::mem::take))
    }

    /// Rows kept of a table.
    pub fn whole_rows(&self, kind: Kind) -> usize {
        let stretches = self.whole.as_ref().and_then(|w| w.0.get(kind as usize));
        let batches = stretches.into_iter().flatten().flat_map(|one| &one.batches);
        let done: usize = batches.map(RecordBatch::num_rows).sum();
        let more = match kind {
            Kind::Exchanges => self.exchanges.kept(),
            Kind::Quorum => self.quorum.kept(),
            Kind::Elections => self.elections.rows(),
            _ => (kind as usize)
                .checked_sub(1)
                .and_then(|at| self.small.get(at))
                .map_or(0, |table| table.common.rows),
        };
        done + more
    }

    /// Rows not taken yet, of tables that are not kept whole.
    pub fn rows(&self) -> usize {
        if self.whole.is_some() {
            return 0;
        }
        let small = self.small.iter().map(|table| table.common.rows);
        let servers = self.quorum.rows() + self.elections.rows();
        self.ready_rows + self.exchanges.rows() + small.sum::<usize>() + servers
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
        match self.batches(None) {
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

    /// A table has rows or text enough for a batch.
    #[cold]
    fn full(&mut self, kind: Kind) {
        if self.whole.is_none() {
            self.cut();
        } else if let Err(error) = self.end_stretch(kind) {
            self.error = Some(error);
        }
    }

    /// Rows and text at which a batch of exchanges or quorum packets is cut. Of a table that is kept whole no row is in a
    /// batch.
    #[inline]
    fn limits(&self) -> (usize, usize) {
        match &self.whole {
            None => (self.batch_rows, BATCH_TEXT),
            Some(_) => (self.batch_rows, STRETCH_TEXT),
        }
    }

    /// Makes what is kept of a table batches; dictionaries start anew.
    fn end_stretch(&mut self, kind: Kind) -> Result<(), ArrowError> {
        let mut step = Step::new();
        let dictionaries = match kind {
            Kind::Exchanges => {
                self.exchanges.read();
                while self.exchanges.read_batch(WHOLE_ROWS, BATCH_TEXT) {
                    step.append(&mut self.batches(Some(kind))?);
                }
                Some(self.exchanges.take_dictionaries()?)
            }
            Kind::Quorum => {
                self.quorum.read();
                while self.quorum.read_batch(WHOLE_ROWS, BATCH_TEXT) {
                    step.append(&mut self.batches(Some(kind))?);
                }
                Some(self.quorum.take_dictionaries()?)
            }
            _ => {
                step = self.batches(Some(kind))?;
                None
            }
        };
        let whole = self.whole.as_mut();
        if let Some(stretches) = whole.and_then(|whole| whole.0.get_mut(kind as usize)) {
            if !step.is_empty() {
                stretches.push(Stretch {
                    batches: step.into_iter().map(|(_, batch)| batch).collect(),
                    dictionaries,
                });
            }
        }
        Ok(())
    }

    /// Batches of the tables that have rows, or of one of them.
    fn batches(&mut self, only: Option<Kind>) -> Result<Step, ArrowError> {
        let wanted = |kind: Kind| only.is_none_or(|only| only == kind);
        let mut step = Step::new();
        let [kind, small_kinds @ .., quorum_kind, elections_kind] = KINDS;
        let [schema, small_schemas @ .., quorum_schema, elections_schema] = &self.schemas;
        if self.exchanges.rows() > 0 && wanted(kind) {
            let columns = self.exchanges.finish()?;
            step.push((kind, RecordBatch::try_new(schema.clone(), columns)?));
        }
        let small = self.small.iter_mut().zip(small_kinds).zip(small_schemas);
        for ((table, kind), schema) in small {
            if table.common.rows > 0 && wanted(kind) {
                let columns = table.finish(kind)?;
                step.push((kind, RecordBatch::try_new(schema.clone(), columns)?));
            }
        }
        if self.quorum.rows() > 0 && wanted(quorum_kind) {
            let columns = self.quorum.finish()?;
            let batch = RecordBatch::try_new(quorum_schema.clone(), columns)?;
            step.push((quorum_kind, batch));
        }
        if self.elections.rows() > 0 && wanted(elections_kind) {
            let columns = self.elections.finish()?;
            let batch = RecordBatch::try_new(elections_schema.clone(), columns)?;
            step.push((elections_kind, batch));
        }
        Ok(step)
    }

    /// After a row in a small table.
    #[inline]
    fn check(&mut self, which: usize) {
        if let Some(table) = self.small.get(which) {
            if table.common.rows >= self.batch_rows || table.text() > BATCH_TEXT {
                self.full(KINDS[which + 1]);
            }
        }
    }
}

impl EventSink for TableSink {
    fn exchange(&mut self, row: &Exchange<'_>) {
        self.exchanges.push(row);
        let (rows, text) = self.limits();
        if self.exchanges.rows() >= rows || self.exchanges.text() > text {
            self.full(Kind::Exchanges);
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

    fn quorum(&mut self, row: &Quorum<'_>) {
        self.quorum.push(row);
        let (rows, text) = self.limits();
        if self.quorum.rows() >= rows || self.quorum.text() > text {
            self.full(Kind::Quorum);
        }
    }

    fn election(&mut self, row: &Election<'_>) {
        self.elections.push(row);
        if self.elections.rows() >= self.batch_rows || self.elections.text() > BATCH_TEXT {
            self.full(Kind::Elections);
        }
    }
}
