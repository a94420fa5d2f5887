//! The client port's stream machine: frames of both directions in, event rows out. `zktrace/stream/client.py` is the
//! reference. Secrets (passwords, credentials, tokens, ACL ids, node data) are measured, never kept.

use std::collections::VecDeque;

use crate::events::{ConnInfo, Direction, EventSink};
use crate::framer::{Fed, Frame, Framer, LENGTH_MAX};
use crate::pairing::Pairing;
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
pub(crate) struct State {
    pub pairing: Pairing,
    pub session: Option<i64>,
    pub connect: Option<Box<AskedConnect>>,
    pub await_connect: bool,
    pub await_connected: bool,
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
                connect: None,
                await_connect: opened,
                await_connected: opened,
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
        let way = if to_server {
            &mut self.requests
        } else {
            &mut self.replies
        };
        let mut pos = 0;
        if way.scan.is_none() {
            pos = if to_server {
                self.state
                    .frames::<true, S>(shared, &self.conn, way, ts, data)
            } else {
                self.state
                    .frames::<false, S>(shared, &self.conn, way, ts, data)
            };
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
            let pos = match (way.scan.is_none(), to_server) {
                (true, true) => state.frames::<true, S>(shared, conn, way, ts, &data),
                (true, false) => state.frames::<false, S>(shared, conn, way, ts, &data),
                (false, _) => 0,
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
            if to_server {
                state.frame::<true, S>(shared, conn, way, &joint.frame());
            } else {
                state.frame::<false, S>(shared, conn, way, &joint.frame());
            }
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
                let frame = Frame::of(body, ts);
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
        let fed = way.framer.feed(&mut shared.budget, data, pos, ts);
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
            } else {
                self.request(shared, conn, frame);
                self.ping_answered = false;
            }
        } else if !(self.await_connected && self.first_reply(shared, conn, frame)) {
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
