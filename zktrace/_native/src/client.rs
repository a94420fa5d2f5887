//! The client port's stream machine: frames of both directions in, event rows out. `zktrace/stream/client.py` is the
//! reference. Secrets (passwords, credentials, tokens, ACL ids, node data) are measured, never kept.

use crate::budget::Budget;
use crate::events::{ConnInfo, Direction, EventSink};
use crate::framer::{Fed, Frame, Framer, LENGTH_MAX};
use crate::handshake::{is_request_again, is_response_again, CONNECTED_BYTES, CONNECT_BYTES};
use crate::machine::{self, Way as _};
use crate::pairing::{Pairing, Requests};
use crate::resync::{find_replies, find_requests, ReplyContext, Scan, REPLY_POINTS};
use crate::rows::{AskedConnect, Shared};

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
pub(crate) struct Way {
    pub framer: Framer,
    scan: Option<Box<Scan>>,
    charged: usize,
    tail: Tail,
    pub to_server: bool,
    /// The bytes at hand may have been sent before they were captured.
    late: bool,
}

impl Way {
    fn new(to_server: bool, min_length: i32) -> Self {
        Way {
            framer: Framer::new(min_length),
            scan: None,
            charged: 0,
            tail: Tail::None,
            to_server,
            late: false,
        }
    }

    pub fn direction(&self) -> Direction {
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
pub(crate) struct State {
    pub pairing: Pairing,
    pub session: Option<i64>,
    /// Who the connection has authenticated as.
    pub identities: Vec<String>,
    pub connect: Option<Box<AskedConnect>>,
    pub await_connect: bool,
    pub await_connected: bool,
    /// The ConnectRequest is that of another connection on the same ports.
    pub asked_again: bool,
    /// Nothing was lost so far: a reply without a request is odd.
    pub clean: bool,
    pub wide_xids: bool,
    pub tracing: bool,
    /// What follows the handshake is compressed, and not decoded.
    pub compressed: bool,
    pub requests_in_sync: bool,
    pub last_zxid: Option<i64>,
    pub last_frame_ts: i64,
    /// The last frame of either direction answered a ping.
    pub ping_answered: bool,
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
                identities: Vec::new(),
                connect: None,
                await_connect: opened,
                await_connected: opened,
                asked_again: false,
                clean: opened,
                wide_xids: false,
                tracing: false,
                compressed: false,
                requests_in_sync: opened,
                last_zxid: None,
                last_frame_ts: 0,
                ping_answered: false,
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
        let (mut half, conn) = self.half(to_server);
        let mut pos = 0;
        if half.way.scan.is_none() {
            pos = half.decode(shared, conn, ts, data);
        }
        if half.way.scan.is_some() || half.state.compressed {
            let behind = data.get(pos..).unwrap_or_default();
            machine::lost(&mut half, shared, conn, ts, behind);
            // of bytes among which a frame boundary is looked for, some are as good as all
            half.way.late &= half.way.scan.is_some();
        }
    }

    /// The same of bytes of which an earlier copy may have passed, so that no latency is known that begins or ends with
    /// them.
    #[cold]
    pub fn late_data<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        to_server: bool,
        ts: i64,
        data: &[u8],
    ) {
        self.half(to_server).0.way.late = true;
        self.data(shared, to_server, ts, data);
        let way = self.half(to_server).0.way;
        way.late &= way.scan.is_some();
    }

    #[inline]
    fn half(&mut self, to_server: bool) -> (Half<'_>, &ConnInfo) {
        let way = if to_server {
            &mut self.requests
        } else {
            &mut self.replies
        };
        let state = &mut self.state;
        (Half { way, state }, &self.conn)
    }

    /// `missing` bytes of one direction were not captured.
    pub fn gap<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        to_server: bool,
        ts: i64,
        missing: u64,
    ) {
        self.state.clean = false;
        let handshake = if to_server {
            CONNECT_BYTES
        } else {
            CONNECTED_BYTES
        };
        if missing >= handshake {
            self.state.pairing.gone(to_server);
        }
        let (mut half, conn) = self.half(to_server);
        machine::gap(&mut half, shared, conn, ts, missing);
    }

    /// The connection is over, or the capture is: what has no reply will have none.
    pub fn end<S: EventSink>(&mut self, shared: &mut Shared<S>) {
        for to_server in [true, false] {
            let (mut half, conn) = self.half(to_server);
            machine::end(&mut half, shared, conn);
            half.way.framer.drop_partial(&mut shared.budget);
        }
        self.state.end_of_requests(shared, &self.conn);
    }

    /// What the connection holds.
    pub fn cost(&self, requests: &Requests) -> usize {
        let ways = [&self.requests, &self.replies];
        let held: usize = ways.iter().map(|way| way.charged + way.framer.cost()).sum();
        held + self.state.pairing.cost(requests)
    }

    /// All connections together hold too much, and this one most: it holds nothing then, and requests that wait for their
    /// replies are given up.
    pub fn give_up<S: EventSink>(&mut self, shared: &mut Shared<S>, ts: i64) {
        for to_server in [true, false] {
            let (mut half, conn) = self.half(to_server);
            machine::give_up(&mut half, shared, conn, ts);
        }
        let count = self.state.unanswered(shared, &self.conn);
        if count > 0 {
            self.state.clean = false;
            shared.counters.given_up_requests += count;
            let detail =
                format!("replies to {count} requests are not waited for: too much is held (limit)");
            let direction = Some(Direction::ToServer);
            shared.anomaly(&self.conn, ts, "given_up", direction, None, &detail);
        }
    }
}

impl State {
    /// What was asked has no reply.
    pub fn end_of_requests<S: EventSink>(&mut self, shared: &mut Shared<S>, conn: &ConnInfo) {
        if let Some(asked) = self.connect.take() {
            shared.connect(conn, self.session, Some(*asked), None);
        }
        self.unanswered(shared, conn);
    }

    /// No reply is waited for any more; the number of requests without one.
    fn unanswered<S: EventSink>(&mut self, shared: &mut Shared<S>, conn: &ConnInfo) -> u64 {
        let given_up = self.pairing.give_up(&mut shared.requests);
        let count = given_up.len() as u64;
        for asked in given_up {
            shared.budget.release(asked.cost());
            shared.no_reply(conn, self.session, asked);
        }
        count
    }

    #[inline]
    fn dead(&self, to_server: bool) -> bool {
        self.compressed && (to_server || !self.await_connected)
    }

    /// Frames up to where framing is lost, or all; the position reached.
    #[inline]
    fn frames<const TO_SERVER: bool, S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        way: &mut Way,
        ts: i64,
        data: &[u8],
    ) -> usize {
        let mut pos = 0;
        while pos < data.len() && !self.dead(TO_SERVER) {
            if TO_SERVER && way.tail != Tail::None {
                pos = way.skip_tail(data, pos);
                continue;
            }
            // the common case: the whole frame is here
            if let Some(body) = way.framer.whole(data.get(pos..).unwrap_or_default()) {
                pos += 4 + body.len();
                if TO_SERVER && body.len() > JUTE_MAX_BUFFER {
                    oversized(shared, conn, ts, body.len());
                }
                let frame = Frame::of(body, ts, way.late);
                self.frame::<TO_SERVER, S>(shared, conn, way, &frame);
                continue;
            }
            match self.part_of_frame::<TO_SERVER, S>(shared, conn, way, ts, data, pos) {
                Some(next) => pos = next,
                None => return data.len(),
            }
            if way.scan.is_some() {
                return pos;
            }
        }
        pos
    }

    /// Bytes of a frame that is not in one chunk, and lengths that are none; the position after them, None where all
    /// were taken.
    #[inline(never)]
    fn part_of_frame<const TO_SERVER: bool, S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        way: &mut Way,
        ts: i64,
        data: &[u8],
        pos: usize,
    ) -> Option<usize> {
        let fed = way.framer.feed(&mut shared.budget, data, pos, ts, way.late);
        if let Some(length) = way.framer.new_length.take() {
            if length > JUTE_MAX_BUFFER && TO_SERVER {
                oversized(shared, conn, ts, length);
            }
        }
        match fed {
            Fed::Joint(joint, next) => {
                self.frame::<TO_SERVER, S>(shared, conn, way, &joint.frame());
                Some(next)
            }
            Fed::More => None,
            Fed::Lost(length, next) => {
                self.bad_length(shared, conn, way, ts, length);
                Some(next)
            }
        }
    }

    #[inline(always)]
    fn frame<const TO_SERVER: bool, S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        way: &mut Way,
        frame: &Frame<'_>,
    ) {
        let counters = &mut shared.counters;
        if frame.damaged {
            counters.damaged_frames += 1;
        } else if TO_SERVER {
            counters.frames_to_server += 1;
        } else {
            counters.frames_to_client += 1;
        }
        if TO_SERVER {
            if self.tracing {
                way.tail = Tail::Flag;
            }
            if self.await_connect {
                self.connect_request(shared, conn, way, frame);
            } else if !self.clean && !frame.damaged && is_request_again(frame.head, frame.length) {
                self.reopened(shared, conn, way, frame);
            } else {
                self.request(shared, conn, frame);
                self.ping_answered = false;
            }
        } else if self.await_connected && self.first_reply(shared, conn, frame) {
        } else if !self.clean && !frame.damaged && is_response_again(frame.head, frame.length) {
            self.reopened(shared, conn, way, frame);
        } else {
            self.reply(shared, conn, frame);
        }
        self.last_frame_ts = self.last_frame_ts.max(frame.last_ts);
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
        let reason = if !(0..=LENGTH_MAX).contains(&length) {
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
        self.pairing.lost(way.to_server, !way.to_server);
        // a handshake not seen by now will not be known for one
        if way.to_server {
            self.await_connect = false;
            self.requests_in_sync = false;
        } else {
            self.await_connected = false;
        }
    }
}

/// One direction, with what both share.
struct Half<'a> {
    way: &'a mut Way,
    state: &'a mut State,
}

impl<S: EventSink> machine::Way<S> for Half<'_> {
    fn found(&self) -> &'static str {
        "frame boundary found again"
    }

    fn direction(&self) -> Direction {
        self.way.direction()
    }

    #[inline]
    fn scan(&mut self) -> &mut Option<Box<Scan>> {
        &mut self.way.scan
    }

    #[inline]
    fn decode(&mut self, shared: &mut Shared<S>, conn: &ConnInfo, ts: i64, data: &[u8]) -> usize {
        let Half { way, state } = self;
        if way.to_server {
            state.frames::<true, S>(shared, conn, way, ts, data)
        } else {
            state.frames::<false, S>(shared, conn, way, ts, data)
        }
    }

    fn find(&mut self, shared: &Shared<S>) -> Option<usize> {
        let state = &self.state;
        let scan = self.way.scan.as_mut()?;
        if self.way.to_server {
            return find_requests(scan, &shared.schema, state.pairing.last_xid);
        }
        let context = ReplyContext {
            pairing: &state.pairing,
            requests: &shared.requests,
            last_zxid: state.last_zxid,
            requests_in_sync: state.requests_in_sync,
            points: REPLY_POINTS,
        };
        find_replies(scan, &shared.schema, &context)
    }

    fn resume(&mut self, _shared: &mut Shared<S>) {
        if self.way.to_server {
            self.state.requests_in_sync = true;
            self.state.pairing.resumed();
        }
    }

    fn missing(&mut self, shared: &mut Shared<S>, conn: &ConnInfo, missing: u64) {
        let Half { way, state } = self;
        if way.tail != Tail::None {
            state.lose(shared, way);
            return;
        }
        let missing = usize::try_from(missing).unwrap_or(usize::MAX);
        let (joint, in_sync) = way.framer.gap(&mut shared.budget, missing);
        if let Some(joint) = joint {
            if way.to_server {
                state.frame::<true, S>(shared, conn, way, &joint.frame());
            } else {
                state.frame::<false, S>(shared, conn, way, &joint.frame());
            }
        }
        if !in_sync {
            state.lose(shared, way);
        }
    }

    fn missing_in_scan(&mut self) {
        let to_server = self.way.to_server;
        self.state.pairing.lost(to_server, !to_server);
    }

    fn charged(&mut self) -> &mut usize {
        &mut self.way.charged
    }

    fn cut(&mut self, budget: &mut Budget) -> bool {
        self.way.framer.cut(budget)
    }

    #[inline]
    fn is_ignored(&self) -> bool {
        self.state.dead(self.way.to_server)
    }
}

#[cold]
fn oversized<S: EventSink>(shared: &mut Shared<S>, conn: &ConnInfo, ts: i64, length: usize) {
    shared.anomaly(
        conn,
        ts,
        "oversized",
        Some(Direction::ToServer),
        Some(length as i64),
        "longer than jute.maxbuffer's default: a server with it closes the connection",
    );
}
