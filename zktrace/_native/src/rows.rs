//! Rows of client connections: what a machine found, given to the sink. `zktrace/stream/rows.py` is the reference.

use crate::budget::Budget;
use crate::events::{
    Anomaly, ConnInfo, Connect, Connection, ConnectionEvent, Counted, Direction, Election,
    EventSink, Exchange, Looks, Role, State, SubOp, WatchEvent,
};
use crate::framer::Frame;
use crate::handshake::{ConnectRequest, ConnectResponse, CONNECT_OPCODE};
use crate::pairing::{Pending, Requests};
use crate::scan::Fields;
use crate::schema::{unknown_op, Schema};

/// What a capture's connections add to the coverage.
#[derive(Default, Clone, Debug)]
pub struct Counters {
    pub frames_to_server: u64,
    pub frames_to_client: u64,
    pub damaged_frames: u64,
    pub complete: u64,
    pub no_reply: u64,
    pub no_request: u64,
    pub watch_events: u64,
    pub quorum_packets: u64,
    pub election_messages: u64,
    pub skipped_bytes: u64,
    pub desyncs: u64,
    pub resyncs: u64,
    pub given_up_requests: u64,
}

/// Buffers of paths that are kept for the next request.
const POOL_MAX: usize = 1_024;
/// A larger buffer is given back to the allocator: most paths are shorter, and what is kept for a short one may be large.
const POOLED_BYTES_MAX: usize = 256;

/// What all machines of a capture share.
pub struct Shared<S> {
    pub schema: Schema,
    pub sink: S,
    /// What the sink looks at.
    pub looks: Looks,
    /// Number of the next row.
    pub seq: i64,
    pub counters: Counters,
    pub budget: Budget,
    /// Requests that wait for their replies.
    pub requests: Requests,
    pool: Vec<Vec<u8>>,
}

/// A ConnectRequest that waits for its answer.
#[derive(Clone, Copy)]
pub struct AskedConnect {
    pub connect: ConnectRequest,
    pub ts: i64,
    pub length: usize,
    pub uncertain: bool,
}

/// A reply to a request that is known.
pub struct Answer<'f, 'a> {
    pub fields: &'f Fields<'a>,
    pub error: Option<i32>,
    pub zxid: i64,
    pub frame: &'f Frame<'a>,
}

impl<S: EventSink> Shared<S> {
    pub fn new(schema: Schema, sink: S) -> Self {
        Shared {
            schema,
            looks: sink.looks(),
            sink,
            seq: 0,
            counters: Counters::default(),
            budget: Budget::default(),
            requests: Requests::default(),
            pool: Vec::new(),
        }
    }

    #[inline]
    pub fn next_seq(&mut self) -> i64 {
        let seq = self.seq;
        self.seq += 1;
        seq
    }

    /// A copy of a path in a reused buffer.
    #[inline]
    pub fn keep(&mut self, path: &[u8]) -> Vec<u8> {
        let mut kept = self.pool.pop().unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(path);
        kept
    }

    #[inline]
    fn give_back(&mut self, path: Option<Vec<u8>>) {
        if let Some(path) = path {
            if self.pool.len() < POOL_MAX && path.capacity() <= POOLED_BYTES_MAX {
                self.pool.push(path);
            }
        }
    }

    /// A request with its reply.
    #[inline]
    pub fn complete(
        &mut self,
        conn: &ConnInfo,
        session: Option<i64>,
        asked: Pending,
        answer: &Answer<'_, '_>,
    ) {
        if !self.looks.rows {
            self.complete_counted(conn, session, asked, (answer.error, answer.frame));
            return;
        }
        self.counters.complete += 1;
        self.requested(conn, session, &asked, Some(answer));
        self.give_back(asked.path);
    }

    /// A request whose reply was not seen.
    pub fn no_reply(&mut self, conn: &ConnInfo, session: Option<i64>, asked: Pending) {
        self.counters.no_reply += 1;
        if self.looks.rows {
            self.requested(conn, session, &asked, None);
        } else {
            self.counted(conn, session, &asked, None);
        }
        self.give_back(asked.path);
    }

    /// A request with its reply, of which nobody looks at more than is counted.
    #[inline(always)]
    pub fn complete_counted(
        &mut self,
        conn: &ConnInfo,
        session: Option<i64>,
        asked: Pending,
        (error, frame): (Option<i32>, &Frame<'_>),
    ) {
        self.counters.complete += 1;
        self.counted(conn, session, &asked, Some((error, frame)));
        self.give_back(asked.path);
    }

    #[inline(always)]
    fn counted(
        &mut self,
        conn: &ConnInfo,
        session: Option<i64>,
        asked: &Pending,
        answer: Option<(Option<i32>, &Frame<'_>)>,
    ) {
        self.seq += 1;
        let unknown;
        let name = match self.schema.op(asked.op) {
            Some(op) => op.name.as_ref(),
            None => {
                unknown = unknown_op(asked.opcode);
                &unknown
            }
        };
        self.sink.count(&Counted {
            conn,
            in_flight: 0,
            op: Some((asked.opcode, name)),
            session,
            path: asked.path.as_deref(),
            error: answer.and_then(|answer| answer.0),
            latency_ns: latency(asked, answer.map(|answer| answer.1)),
            request_bytes: Some(i64::from(asked.length)),
            reply_bytes: answer.map(|answer| answer.1.length as i64),
            state: match answer {
                Some(_) => State::Complete,
                None => State::NoReply,
            },
        });
    }

    /// The row is made in one piece: it is large, and there is one for every exchange.
    #[inline(always)]
    fn requested(
        &mut self,
        conn: &ConnInfo,
        session: Option<i64>,
        asked: &Pending,
        answer: Option<&Answer<'_, '_>>,
    ) {
        let seq = self.next_seq();
        let op = self.schema.op(asked.op);
        let fields = answer.map(|answer| answer.fields);
        let values = &asked.values;
        let row = Exchange {
            seq,
            ts_ns: asked.ts,
            conn,
            op: op.map(|op| (asked.opcode, op.name.as_ref())),
            xid: Some(asked.xid),
            session,
            path: asked.path.as_deref(),
            watch: values.watch,
            error: answer.and_then(|answer| answer.error),
            zxid: answer.map(|answer| answer.zxid),
            latency_ns: latency(asked, answer.map(|answer| answer.frame)),
            request_bytes: Some(i64::from(asked.length)),
            reply_bytes: answer.map(|answer| answer.frame.length as i64),
            state: match answer {
                Some(_) => State::Complete,
                None => State::NoReply,
            },
            flags: values.flags,
            mode: values.mode,
            version: values.version,
            data_length: values
                .data_length
                .or(fields.and_then(|fields| fields.values.data_length)),
            children: fields.and_then(|fields| fields.children),
            ttl: values.ttl,
            created_path: fields.and_then(|fields| fields.created_path),
            stat: fields.and_then(|fields| fields.stat),
            sub: None,
            watches: None,
            connect: None,
        };
        if op.is_none() || asked.rare.is_some() {
            let results = fields.and_then(Fields::results);
            requested_rarely(&self.schema, &mut self.sink, &row, asked, results);
        } else {
            self.sink.exchange(&row);
        }
    }

    /// A reply whose request was not seen, or is not certain.
    pub fn no_request(
        &mut self,
        conn: &ConnInfo,
        session: Option<i64>,
        opcode: Option<i32>,
        header: (i64, i64, i32),
        frame: &Frame<'_>,
    ) {
        self.counters.no_request += 1;
        let (xid, zxid, error) = header;
        let mut row = Exchange::new(self.next_seq(), frame.last_ts, conn, State::NoRequest);
        row.op = opcode.and_then(|opcode| {
            let op = self.schema.op(self.schema.index(opcode))?;
            Some((opcode, op.name.as_ref()))
        });
        row.xid = Some(xid);
        row.session = session;
        row.error = Some(error);
        row.zxid = Some(zxid);
        row.reply_bytes = Some(frame.length as i64);
        self.sink.exchange(&row);
    }

    /// A ConnectRequest and its answer, or one of them.
    pub fn connect(
        &mut self,
        conn: &ConnInfo,
        session: Option<i64>,
        asked: Option<AskedConnect>,
        answer: Option<(ConnectResponse, Frame<'_>)>,
    ) {
        let request = asked.map(|asked| asked.connect).unwrap_or_default();
        let reply = answer.map(|answer| answer.0).unwrap_or_default();
        let (state, ts, count) = match (&asked, &answer) {
            (Some(asked), Some(_)) => (State::Complete, asked.ts, &mut self.counters.complete),
            (Some(asked), None) => (State::NoReply, asked.ts, &mut self.counters.no_reply),
            (None, answer) => (
                State::NoRequest,
                answer.map_or(0, |answer| answer.1.last_ts),
                &mut self.counters.no_request,
            ),
        };
        *count += 1;
        let shown = Connect {
            requested_timeout_ms: request.timeout,
            timeout_ms: reply.timeout,
            last_zxid_seen: request.last_zxid,
            read_only: reply.read_only.or(request.read_only),
            protocol_version: request.version.or(reply.version),
        };
        let mut row = Exchange::new(self.next_seq(), ts, conn, state);
        row.op = Some((CONNECT_OPCODE, "connect"));
        // refused, or not answered: the session that was asked for
        row.session = session.or((request.session != 0).then_some(request.session));
        row.error = reply.error;
        row.zxid = reply.zxid;
        row.request_bytes = asked.map(|asked| asked.length as i64);
        if let Some((_, frame)) = answer {
            row.reply_bytes = Some(frame.length as i64);
            row.latency_ns = asked
                .filter(|asked| !(asked.uncertain | frame.first_late))
                .filter(|asked| frame.first_ts >= asked.ts)
                .map(|asked| frame.first_ts - asked.ts);
        }
        row.connect = Some(&shown);
        self.sink.exchange(&row);
    }

    /// A watch event.
    pub fn watch_event(
        &mut self,
        conn: &ConnInfo,
        session: Option<i64>,
        what: (Option<i32>, Option<i32>, Option<&[u8]>),
        zxid: i64,
        frame: &Frame<'_>,
    ) {
        self.counters.watch_events += 1;
        let (kind, state, path) = what;
        let seq = self.next_seq();
        self.sink.watch_event(&WatchEvent {
            seq,
            ts_ns: frame.last_ts,
            conn,
            session,
            event: kind.and_then(|kind| self.schema.event(kind)),
            keeper_state: state.and_then(|state| self.schema.state(state)),
            path,
            zxid: (zxid != -1).then_some(zxid),
            bytes: frame.length as i64,
        });
    }

    /// The server took a user for who it says to be.
    pub fn authenticated(&mut self, conn: &ConnInfo, ts_ns: i64, user: &str) {
        let seq = self.next_seq();
        self.sink.connection(&Connection {
            seq,
            ts_ns,
            conn,
            role: Role::Client,
            event: ConnectionEvent::Authenticated,
            detail: Some(user),
        });
    }

    /// A message of an election, whose number is given here.
    pub fn election(&mut self, damaged: bool, row: &Election<'_>) {
        self.counters.election_messages += 1;
        self.counters.damaged_frames += u64::from(damaged);
        let seq = self.next_seq();
        self.sink.election(&Election { seq, ..*row });
    }

    /// Something that should not be.
    pub fn anomaly(
        &mut self,
        conn: &ConnInfo,
        ts_ns: i64,
        reason: &str,
        direction: Option<Direction>,
        bytes: Option<i64>,
        detail: &str,
    ) {
        let seq = self.next_seq();
        self.sink.anomaly(&Anomaly {
            seq,
            ts_ns,
            conn,
            reason,
            direction,
            bytes,
            detail: Some(detail),
        });
    }
}

/// From the request's last byte to the reply's first, where both times are certain.
#[inline(always)]
fn latency(asked: &Pending, answer: Option<&Frame<'_>>) -> Option<i64> {
    answer
        .filter(|frame| !(asked.uncertain | frame.first_late))
        .map(|frame| frame.first_ts - asked.ts)
        .filter(|latency| *latency >= 0)
}

/// Of an unknown op, a setWatches, a multi.
#[cold]
fn requested_rarely<S: EventSink>(
    schema: &Schema,
    sink: &mut S,
    row: &Exchange<'_>,
    asked: &Pending,
    results: Option<&[(i32, i32)]>,
) {
    let unknown = unknown_op(asked.opcode);
    let rare = asked.rare.as_deref();
    let mut row = *row;
    row.op = row.op.or(Some((asked.opcode, &unknown)));
    row.watches = rare.and_then(|rare| rare.watches.as_ref());
    let Some(ops) = rare.and_then(|rare| rare.ops.as_ref()) else {
        sink.exchange(&row);
        return;
    };
    let sub: Vec<SubOp<'_>> = ops
        .ops
        .iter()
        .enumerate()
        .map(|(i, (kind, path))| SubOp {
            op: schema.op(schema.index(*kind)).map(|op| op.name.as_ref()),
            path: path.and_then(|(from, to)| ops.bytes.get(from..to)),
            error: results
                .and_then(|results| results.get(i))
                .map(|result| result.1),
        })
        .collect();
    row.sub = Some(&sub);
    sink.exchange(&row);
}
