//! The client port's stream machine: frames of both directions in, event rows out. `zktrace/stream/client.py` is the
//! reference. Secrets (passwords, credentials, tokens, ACL ids, node data) are measured, never kept.

use std::collections::VecDeque;

use crate::events::{ConnInfo, Direction, EventSink};
use crate::framer::{Fed, Frame, Framer, LENGTH_MAX};
use crate::handshake::{is_response, parse_request, parse_response, KEEPER_REJECTED};
use crate::pairing::{Pairing, Pending, SubOps, AUTH_XID, PING_XID};
use crate::resync::{find_replies, find_requests, ReplyContext, Scan, REPLY_POINTS};
use crate::rows::{AskedConnect, Shared};
use crate::schema::{int, long, Fields};

const WATCH_EVENT_XID: i64 = -1;
const AUTH_OPCODE: i32 = 100;
const PING_OPCODE: i32 = 11;
const MULTI_OPCODE: i32 = 14;
const CHECK_OPCODE: i32 = 13;
const RUNTIME_INCONSISTENCY: i32 = -2;
/// jute.maxbuffer's default: a server with it closes the connection at a longer request.
const JUTE_MAX_BUFFER: usize = 0xfffff;
/// Lines of ClickHouse Keeper's tracing context.
const TAIL_LINES: u8 = 4;

/// What comes before the next frame in ClickHouse Keeper's tracing dialect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tail {
    None,
    /// The byte that says whether lines follow.
    Flag,
    Lines(u8),
}

/// One direction's framer, and its bytes while its framing is lost.
struct Way {
    framer: Framer,
    scan: Option<Box<Scan>>,
    tail: Tail,
    to_server: bool,
}

impl Way {
    fn new(to_server: bool, min_length: i32) -> Self {
        Way {
            framer: Framer::new(min_length),
            scan: None,
            tail: Tail::None,
            to_server,
        }
    }

    fn direction(&self) -> Direction {
        if self.to_server {
            Direction::ToServer
        } else {
            Direction::ToClient
        }
    }

    fn skip_tail(&mut self, data: &[u8], pos: usize) -> usize {
        let rest = data.get(pos..).unwrap_or_default();
        let Tail::Lines(lines) = self.tail else {
            self.tail = match rest.first() {
                Some(0) => Tail::None,
                _ => Tail::Lines(TAIL_LINES),
            };
            return pos + 1;
        };
        match rest.iter().position(|byte| *byte == b'\n') {
            None => data.len(),
            Some(at) => {
                self.tail = match lines {
                    1 => Tail::None,
                    more => Tail::Lines(more - 1),
                };
                pos + at + 1
            }
        }
    }
}

/// One client connection.
pub struct ClientMachine {
    conn: ConnInfo,
    requests: Way,
    replies: Way,
    state: State,
}

/// What the frames of both directions share.
struct State {
    pairing: Pairing,
    session: Option<i64>,
    connect: Option<Box<AskedConnect>>,
    await_connect: bool,
    await_connected: bool,
    /// Nothing was lost so far: a reply without a request is odd.
    clean: bool,
    wide_xids: bool,
    tracing: bool,
    /// What follows the handshake is compressed, and not decoded.
    compressed: bool,
    requests_in_sync: bool,
    last_zxid: Option<i64>,
    last_frame_ts: Option<i64>,
}

impl ClientMachine {
    /// `opened`: its first bytes are the ConnectRequest; else it was joined mid-stream.
    pub fn new(conn: ConnInfo, opened: bool, handshake_extra: usize) -> Self {
        let mut machine = ClientMachine {
            conn,
            requests: Way::new(true, 8),
            replies: Way::new(false, 16),
            state: State {
                pairing: Pairing::default(),
                session: None,
                connect: None,
                await_connect: opened,
                await_connected: opened,
                clean: opened,
                wide_xids: false,
                tracing: false,
                compressed: false,
                requests_in_sync: opened,
                last_zxid: None,
                last_frame_ts: None,
            },
        };
        machine.requests.framer.extra_once = handshake_extra;
        if !opened {
            machine.requests.scan = Some(Box::default());
            machine.replies.scan = Some(Box::default());
            machine.state.pairing.set_joined();
        }
        machine
    }

    /// Takes the next bytes of one direction.
    #[inline]
    pub fn data<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        to_server: bool,
        ts: i64,
        data: &[u8],
    ) {
        let way = if to_server {
            &mut self.requests
        } else {
            &mut self.replies
        };
        let mut pos = 0;
        if way.scan.is_none() {
            pos = self.state.frames(shared, &self.conn, way, ts, data);
        }
        if way.scan.is_some() || self.state.compressed {
            self.lost(shared, to_server, ts, data.get(pos..).unwrap_or_default());
        }
    }

    /// Bytes while framing is lost. A loop, not recursion: how often framing is lost and found is up to the sender.
    #[cold]
    fn lost<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        to_server: bool,
        ts: i64,
        data: &[u8],
    ) {
        let ClientMachine {
            conn,
            requests,
            replies,
            state,
        } = self;
        let way = if to_server { requests } else { replies };
        if state.dead(to_server) {
            shared.counters.skipped_bytes += data.len() as u64;
            return;
        }
        let Some(scan) = way.scan.as_mut() else {
            return;
        };
        scan.add(ts, data);
        let mut chunks: VecDeque<(i64, Vec<u8>)> = state.resync(shared, conn, way).into();
        while let Some((ts, data)) = chunks.pop_front() {
            let pos = if way.scan.is_none() {
                state.frames(shared, conn, way, ts, &data)
            } else {
                0
            };
            let rest = data.get(pos..).unwrap_or_default();
            if state.dead(to_server) {
                shared.counters.skipped_bytes += rest.len() as u64;
            } else if let Some(scan) = way.scan.as_mut() {
                scan.add(ts, rest);
                for chunk in state.resync(shared, conn, way).into_iter().rev() {
                    chunks.push_front(chunk);
                }
            }
        }
    }

    /// `missing` bytes of one direction were not captured.
    pub fn gap<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        to_server: bool,
        ts: i64,
        missing: u64,
    ) {
        let ClientMachine {
            conn,
            requests,
            replies,
            state,
        } = self;
        let way = if to_server { requests } else { replies };
        let bytes = i64::try_from(missing).unwrap_or(i64::MAX);
        let direction = Some(way.direction());
        shared.anomaly(
            conn,
            ts,
            "gap",
            direction,
            Some(bytes),
            "bytes not captured",
        );
        shared.counters.skipped_bytes += missing;
        state.clean = false;
        if state.dead(to_server) {
            return;
        }
        if let Some(scan) = way.scan.as_mut() {
            shared.counters.skipped_bytes += scan.clear();
            state.pairing.lost();
            return;
        }
        if way.tail != Tail::None {
            state.lose(shared, way);
            return;
        }
        let missing = usize::try_from(missing).unwrap_or(usize::MAX);
        let (joint, in_sync) = way.framer.gap(&mut shared.budget, missing);
        if let Some(joint) = joint {
            state.frame(shared, conn, way, &joint.frame());
        }
        if !in_sync {
            state.lose(shared, way);
        }
    }

    /// The connection is over, or the capture is: what has no reply will have none.
    pub fn end<S: EventSink>(&mut self, shared: &mut Shared<S>) {
        for way in [&mut self.requests, &mut self.replies] {
            if let Some(mut scan) = way.scan.take() {
                shared.counters.skipped_bytes += scan.clear();
            }
            way.framer.drop_partial(&mut shared.budget);
        }
        let state = &mut self.state;
        if let Some(asked) = state.connect.take() {
            shared.connect(&self.conn, state.session, Some(*asked), None);
        }
        while let Some(asked) = state.pairing.take_oldest() {
            shared.no_reply(&self.conn, state.session, asked);
        }
    }
}

impl State {
    #[inline]
    fn dead(&self, to_server: bool) -> bool {
        self.compressed && (to_server || !self.await_connected)
    }

    /// Frames up to where framing is lost, or all; the position reached.
    #[inline]
    fn frames<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        way: &mut Way,
        ts: i64,
        data: &[u8],
    ) -> usize {
        let mut pos = 0;
        while pos < data.len() && !self.dead(way.to_server) {
            if way.tail != Tail::None {
                pos = way.skip_tail(data, pos);
                continue;
            }
            let fed = way.framer.feed(&mut shared.budget, data, pos, ts);
            if let Some(length) = way.framer.new_length.take() {
                if length > JUTE_MAX_BUFFER && way.to_server {
                    shared.anomaly(
                        conn,
                        ts,
                        "oversized",
                        Some(Direction::ToServer),
                        Some(length as i64),
                        "longer than jute.maxbuffer's default: a server with it closes the connection",
                    );
                }
            }
            match fed {
                Fed::Frame(frame, next) => {
                    pos = next;
                    self.frame(shared, conn, way, &frame);
                }
                Fed::Joint(joint, next) => {
                    pos = next;
                    self.frame(shared, conn, way, &joint.frame());
                }
                Fed::More => return data.len(),
                Fed::Lost(length, next) => {
                    self.bad_length(shared, conn, way, ts, length);
                    return next;
                }
            }
        }
        pos
    }

    #[inline]
    fn frame<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        way: &mut Way,
        frame: &Frame<'_>,
    ) {
        let counters = &mut shared.counters;
        if frame.damaged {
            counters.damaged_frames += 1;
        } else if way.to_server {
            counters.frames_to_server += 1;
        } else {
            counters.frames_to_client += 1;
        }
        if way.to_server {
            if self.tracing {
                way.tail = Tail::Flag;
            }
            if self.await_connect {
                self.connect_request(shared, conn, way, frame);
            } else {
                self.request(shared, conn, frame);
            }
        } else if self.await_connected && self.is_connected(frame) {
            self.connect_response(shared, conn, frame);
        } else {
            self.reply(shared, conn, frame);
        }
        self.last_frame_ts = Some(match self.last_frame_ts {
            Some(last) => last.max(frame.last_ts),
            None => frame.last_ts,
        });
    }

    #[cold]
    fn bad_length<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        way: &mut Way,
        ts: i64,
        length: i32,
    ) {
        let reason = if length > LENGTH_MAX || length < 0 {
            "oversized"
        } else {
            "malformed"
        };
        let detail = format!("frame length {length}");
        shared.anomaly(conn, ts, reason, Some(way.direction()), Some(4), &detail);
        shared.counters.skipped_bytes += 4;
        self.lose(shared, way);
    }

    fn lose<S: EventSink>(&mut self, shared: &mut Shared<S>, way: &mut Way) {
        way.framer.drop_partial(&mut shared.budget);
        way.framer.extra_once = 0;
        way.tail = Tail::None;
        way.scan = Some(Box::default());
        shared.counters.desyncs += 1;
        self.clean = false;
        self.pairing.lost();
        // a handshake not seen by now will not be known for one
        if way.to_server {
            self.await_connect = false;
            self.requests_in_sync = false;
        } else {
            self.await_connected = false;
        }
    }

    /// The chunks from the frame boundary on; none while it is not found.
    fn resync<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        way: &mut Way,
    ) -> Vec<(i64, Vec<u8>)> {
        let Some(scan) = way.scan.as_mut() else {
            return Vec::new();
        };
        let found = if way.to_server {
            find_requests(scan, &shared.schema, self.pairing.last_xid)
        } else {
            let context = ReplyContext {
                pairing: &self.pairing,
                last_zxid: self.last_zxid,
                requests_in_sync: self.requests_in_sync,
                points: REPLY_POINTS,
            };
            find_replies(scan, &shared.schema, &context)
        };
        shared.counters.skipped_bytes += scan.take_dropped();
        let Some(at) = found else {
            return Vec::new();
        };
        shared.counters.skipped_bytes += at as u64;
        shared.counters.resyncs += 1;
        let skipped = scan.skipped + at as u64;
        if skipped > 0 {
            shared.anomaly(
                conn,
                scan.ts_at(at),
                "resync",
                Some(if way.to_server {
                    Direction::ToServer
                } else {
                    Direction::ToClient
                }),
                Some(i64::try_from(skipped).unwrap_or(i64::MAX)),
                "frame boundary found again",
            );
        }
        let chunks = scan.chunks_from(at);
        way.scan = None;
        if way.to_server {
            self.requests_in_sync = true;
            self.pairing.resumed();
        }
        chunks
    }

    fn connect_request<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        way: &mut Way,
        frame: &Frame<'_>,
    ) {
        self.await_connect = false;
        let connect = parse_request(frame.head);
        self.connect = Some(Box::new(AskedConnect {
            connect,
            ts: frame.last_ts,
            length: frame.length,
            damaged: frame.damaged,
        }));
        if connect.malformed && !frame.damaged {
            malformed(shared, conn, Direction::ToServer, frame, "ConnectRequest");
        }
        if connect.wide_xids {
            self.wide_xids = true;
            way.framer.min_length = 12;
        }
        self.tracing = connect.tracing;
        if connect.compressed {
            shared.anomaly(
                conn,
                frame.last_ts,
                "dialect",
                None,
                None,
                "ClickHouse Keeper's compressed dialect is not decoded",
            );
            self.compressed = true;
        }
    }

    fn is_connected(&mut self, frame: &Frame<'_>) -> bool {
        let asked = self.connect.as_ref();
        if is_response(frame, asked.and_then(|asked| asked.connect.version)) {
            return true;
        }
        // the answer was not captured, and this is a later frame
        self.await_connected = false;
        self.clean = false;
        self.pairing.lost();
        false
    }

    fn connect_response<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        frame: &Frame<'_>,
    ) {
        self.await_connected = false;
        let connected = parse_response(frame);
        if connected.malformed && !frame.damaged {
            malformed(shared, conn, Direction::ToClient, frame, "ConnectResponse");
        }
        if connected.version == Some(KEEPER_REJECTED) {
            shared.anomaly(
                conn,
                frame.first_ts,
                "dialect",
                Some(Direction::ToClient),
                None,
                "ClickHouse Keeper rejected the connection",
            );
        }
        if connected.session != 0 {
            self.session = Some(connected.session);
        }
        let asked = self.connect.take().map(|asked| *asked);
        shared.connect(conn, self.session, asked, Some((connected, *frame)));
    }

    #[inline]
    fn request<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        frame: &Frame<'_>,
    ) {
        let head = frame.head;
        let (xid, size) = if self.wide_xids {
            (long(head, 0), 12)
        } else {
            (int(head, 0).map(i64::from), 8)
        };
        let (Some(xid), Some(opcode)) = (xid, int(head, size - 4)) else {
            self.pairing.lost(); // damaged: whose it is was not captured
            return;
        };
        let index = shared.schema.index(opcode);
        let mut fields = Fields::default();
        let mut fits = true;
        if let Some(op) = shared.schema.op(index) {
            fits = shared
                .schema
                .scan_frame(&op.request, frame, size, &mut fields)
                .is_some();
        } else {
            shared.anomaly(
                conn,
                frame.last_ts,
                "unknown_opcode",
                Some(Direction::ToServer),
                Some(frame.length as i64),
                &format!("opcode {opcode}"),
            );
        }
        if !fits {
            fields.ops = None;
            if frame.whole() {
                malformed_op(shared, conn, Direction::ToServer, frame, index);
            }
        }
        if opcode == CHECK_OPCODE {
            shared.anomaly(
                conn,
                frame.last_ts,
                "bare_check",
                Some(Direction::ToServer),
                Some(frame.length as i64),
                "check outside a multi: it takes down followers of ZooKeeper 3.8",
            );
        }
        let pending = Pending {
            number: 0,
            xid,
            ts: frame.last_ts,
            length: frame.length as i64,
            opcode,
            op: index,
            damaged: frame.damaged,
            watch: fields.watch,
            path: fields.path.map(|path| shared.keep(path)),
            flags: fields.flags,
            mode: fields.mode,
            version: fields.version,
            data_length: fields.data_length,
            ttl: fields.ttl,
            watches: fields.watches.map(Box::new),
            ops: fields.ops.map(kept_ops),
        };
        let quiet = self.last_frame_ts.map_or(0, |last| frame.last_ts - last);
        if let Some(dropped) = self.pairing.sent(pending, quiet) {
            shared.no_reply(conn, self.session, dropped);
        }
    }

    #[inline]
    fn reply<S: EventSink>(&mut self, shared: &mut Shared<S>, conn: &ConnInfo, frame: &Frame<'_>) {
        let head = frame.head;
        let (xid, at) = if self.wide_xids {
            (long(head, 0), 8)
        } else {
            (int(head, 0).map(i64::from), 4)
        };
        let (Some(xid), Some(zxid), Some(error)) = (xid, long(head, at), int(head, at + 8)) else {
            self.pairing.lost(); // damaged: whose it is was not captured
            return;
        };
        let body = at + 12;
        if xid == WATCH_EVENT_XID {
            self.watch_event(shared, conn, frame, body, zxid);
            return;
        }
        if zxid > 0 {
            self.last_zxid = Some(zxid);
        }
        let Some(asked) = self.pairing.answered(xid, self.requests_in_sync) else {
            self.orphan(shared, conn, frame, (xid, zxid, error));
            return;
        };
        let mut reply = Fields::default();
        let mut shown = Some(error);
        if error == 0 {
            if let Some(op) = shared.schema.op(asked.op) {
                let fits = shared
                    .schema
                    .scan_frame(&op.reply, frame, body, &mut reply)
                    .is_some();
                if !fits {
                    reply.results = None;
                    if frame.whole() {
                        malformed_op(shared, conn, Direction::ToClient, frame, asked.op);
                    }
                }
                if asked.opcode == MULTI_OPCODE {
                    shown = multi_error(reply.results.as_deref());
                }
            }
        }
        shared.complete(conn, self.session, asked, &reply, shown, zxid, frame);
    }

    #[cold]
    fn orphan<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        frame: &Frame<'_>,
        header: (i64, i64, i32),
    ) {
        let xid = header.0;
        if self.clean {
            shared.anomaly(
                conn,
                frame.first_ts,
                "unmatched_reply",
                Some(Direction::ToClient),
                Some(frame.length as i64),
                &format!("xid {xid}"),
            );
        }
        let opcode = match xid {
            PING_XID => Some(PING_OPCODE),
            AUTH_XID => Some(AUTH_OPCODE),
            _ => None,
        };
        shared.no_request(conn, self.session, opcode, header, frame);
    }

    fn watch_event<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        frame: &Frame<'_>,
        pos: usize,
        zxid: i64,
    ) {
        let head = frame.head;
        let mut what = (None, None, None);
        if let (Some(kind), Some(state), Some(size)) =
            (int(head, pos), int(head, pos + 4), int(head, pos + 8))
        {
            what.0 = Some(kind);
            what.1 = Some(state);
            if size >= -1 {
                let start = pos + 12;
                what.2 = head.get(start..start + size.max(0) as usize);
            }
        }
        if what.2.is_none() && frame.whole() {
            malformed(shared, conn, Direction::ToClient, frame, "watch event");
        }
        shared.watch_event(conn, self.session, what, zxid, frame);
    }
}

fn kept_ops(ops: Vec<(i32, Option<&[u8]>)>) -> Box<SubOps> {
    let mut kept = Box::<SubOps>::default();
    for (kind, path) in ops {
        let place = path.map(|path| {
            let from = kept.bytes.len();
            kept.bytes.extend_from_slice(path);
            (from, kept.bytes.len())
        });
        kept.ops.push((kind, place));
    }
    kept
}

/// A multi's error: its first failing result that does not just say that another one failed.
fn multi_error(results: Option<&[(i32, i32)]>) -> Option<i32> {
    let mut rolled_back = 0;
    for (_, error) in results? {
        if *error != 0 {
            if *error != RUNTIME_INCONSISTENCY {
                return Some(*error);
            }
            rolled_back = *error;
        }
    }
    Some(rolled_back)
}

#[cold]
fn malformed_op<S: EventSink>(
    shared: &mut Shared<S>,
    conn: &ConnInfo,
    direction: Direction,
    frame: &Frame<'_>,
    op: u16,
) {
    let name = shared
        .schema
        .op(op)
        .map(|op| op.name.clone())
        .unwrap_or_default();
    malformed(shared, conn, direction, frame, &name);
}

fn malformed<S: EventSink>(
    shared: &mut Shared<S>,
    conn: &ConnInfo,
    direction: Direction,
    frame: &Frame<'_>,
    what: &str,
) {
    let detail = format!("{what}: the body does not fit its layout");
    shared.anomaly(
        conn,
        frame.last_ts,
        "malformed",
        Some(direction),
        Some(frame.length as i64),
        &detail,
    );
}
