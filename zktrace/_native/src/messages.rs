//! What a frame of the client port says: handshake, request, reply, watch event. `zktrace/stream/client.py` is the
//! reference. Knows nothing of how frames are found.

use crate::client::{State, Way};
use crate::events::{ConnInfo, Direction, EventSink};
use crate::framer::Frame;
use crate::handshake::{is_response, parse_request, parse_response, KEEPER_REJECTED};
use crate::identity::{self, AUTH_OPCODE};
use crate::pairing::{Pairing, Pending, PendingRare, SubOps, AUTH_XID, PING_XID};
use crate::rows::{Answer, AskedConnect, Shared};
use crate::scan::{first_path, Fields, Rare};
use crate::schema::{int, long, Brief};

const WATCH_EVENT_XID: i64 = -1;
const PING_OPCODE: i32 = 11;
const MULTI_OPCODE: i32 = 14;
const CHECK_OPCODE: i32 = 13;
const RUNTIME_INCONSISTENCY: i32 = -2;

impl State {
    pub fn connect_request<S: EventSink>(
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
            uncertain: frame.damaged | frame.late,
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

    /// Takes the server's first frame, unless it is a reply: then the handshake was not captured.
    pub fn first_reply<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        frame: &Frame<'_>,
    ) -> bool {
        let asked = self.connect.as_ref();
        if is_response(frame, asked.and_then(|asked| asked.connect.version)) {
            self.connect_response(shared, conn, frame);
            return true;
        }
        self.await_connected = false;
        self.clean = false;
        self.pairing.lost(false, true);
        let (xid, size) = if self.wide_xids {
            (long(frame.head, 0), 20)
        } else {
            (int(frame.head, 0).map(i64::from), 16)
        };
        if frame.head.len() >= size
            && xid.is_some_and(|xid| xid < 0 || self.pairing.peek(&shared.requests, xid).is_some())
        {
            return false;
        }
        // neither an answer nor a reply: no field of it is what it would be shown as
        malformed(shared, conn, Direction::ToClient, frame, "ConnectResponse");
        true
    }

    /// Behind a loss: another connection began, on the same addresses and ports. What was known is of the one before:
    /// nothing that it asked will be answered.
    #[cold]
    pub fn reopened<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        way: &mut Way,
        frame: &Frame<'_>,
    ) {
        if !way.to_server && self.asked_again {
            self.connect_response(shared, conn, frame);
            return;
        }
        if self.last_frame_ts != 0 {
            let detail = "another connection on these ports: the beginning was not captured";
            let direction = Some(way.direction());
            shared.anomaly(conn, frame.last_ts, "reused", direction, None, detail);
        }
        self.end_of_requests(shared, conn);
        self.session = None;
        self.identities = Vec::new();
        self.last_zxid = None;
        self.pairing = Pairing::default();
        self.pairing.set_joined();
        if way.to_server {
            self.await_connected = true;
            self.asked_again = true;
            self.wide_xids = false;
            way.framer.min_length = 8;
            self.connect_request(shared, conn, way, frame);
        } else {
            self.connect_response(shared, conn, frame);
        }
    }

    fn connect_response<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        frame: &Frame<'_>,
    ) {
        self.await_connected = false;
        self.asked_again = false;
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
    pub fn request<S: EventSink>(
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
            self.pairing.lost(true, false); // damaged: whose it is was not captured
            return;
        };
        let index = shared.schema.index(opcode);
        let mut fields = Fields::default();
        let mut fits = true;
        if let Some(op) = shared.schema.op(index) {
            fits = match op.brief {
                Brief::Path if !shared.looks.rows => {
                    fields.path = first_path(head, size);
                    true
                }
                Brief::Nothing if !shared.looks.rows => true,
                _ => shared
                    .schema
                    .scan_frame(&op.request, frame, size, &mut fields)
                    .is_some(),
            };
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
            if let Some(rare) = fields.rare_mut() {
                rare.ops = None;
            }
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
        let mut rare = fields.rare().map(kept);
        if identity::is_told_by(opcode) && frame.whole() && !frame.damaged {
            let claim = identity::claimed(opcode, head.get(size..).unwrap_or_default());
            if claim.is_some() {
                rare.get_or_insert_default().claim = claim;
            }
        }
        let pending = Pending {
            number: 0,
            xid,
            ts: frame.last_ts,
            length: u32::try_from(frame.length).unwrap_or(u32::MAX),
            opcode,
            op: index,
            uncertain: frame.damaged | frame.late,
            values: fields.values,
            path: fields
                .path
                .filter(|_| shared.looks.paths)
                .map(|path| shared.keep(path)),
            path_length: fields.path.map_or(0, |path| path.len() as u32),
            rare,
        };
        let quiet = if self.ping_answered {
            frame.last_ts - self.last_frame_ts
        } else {
            0
        };
        shared.budget.take(pending.cost());
        self.pairing.sent(&mut shared.requests, pending, quiet);
    }

    #[inline]
    pub fn reply<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        frame: &Frame<'_>,
    ) {
        let head = frame.head;
        let (xid, at) = if self.wide_xids {
            (long(head, 0), 8)
        } else {
            (int(head, 0).map(i64::from), 4)
        };
        let (Some(xid), Some(zxid), Some(error)) = (xid, long(head, at), int(head, at + 8)) else {
            self.pairing.lost(false, true); // damaged: whose it is was not captured
            return;
        };
        let body = at + 12;
        if xid == WATCH_EVENT_XID && self.pairing.peek(&shared.requests, xid).is_none() {
            self.watch_event(shared, conn, frame, body, zxid);
            return;
        }
        self.ping_answered = xid == PING_XID;
        if zxid > 0 {
            self.last_zxid = Some(zxid);
        }
        let in_sync = self.requests_in_sync;
        let Some(asked) = self.pairing.answered(&mut shared.requests, xid, in_sync) else {
            self.orphan(shared, conn, frame, (xid, zxid, error));
            return;
        };
        shared.budget.release(asked.cost());
        let mut shown = Some(error);
        let told = identity::is_told_by(asked.opcode);
        if !shared.looks.rows && asked.opcode != MULTI_OPCODE && !told {
            shared.complete_counted(conn, self.session, asked, (shown, frame));
            return;
        }
        let mut reply = Fields::default();
        if error == 0 {
            if let Some(op) = shared.schema.op(asked.op) {
                let fits = shared
                    .schema
                    .scan_frame(&op.reply, frame, body, &mut reply)
                    .is_some();
                // a name that does not begin with the path is none: the reply answers something else
                reply.created_path = reply.created_path.filter(|created| {
                    fits && created.starts_with(match asked.path.as_deref() {
                        None | Some(b"") => b"/",
                        Some(path) => path,
                    })
                });
                if !fits {
                    if let Some(rare) = reply.rare_mut() {
                        rare.results = None;
                    }
                    if frame.whole() {
                        malformed_op(shared, conn, Direction::ToClient, frame, asked.op);
                    }
                }
                if asked.opcode == MULTI_OPCODE {
                    shown = multi_error(reply.results());
                }
            }
        }
        let more = if told && error == 0 && frame.whole() && !frame.damaged {
            let claim = asked.rare.as_ref().and_then(|rare| rare.claim.as_deref());
            identity::granted(asked.opcode, claim, head.get(body..).unwrap_or_default())
        } else {
            Vec::new()
        };
        let answer = Answer {
            fields: &reply,
            error: shown,
            zxid,
            frame,
        };
        shared.complete(conn, self.session, asked, &answer);
        if !more.is_empty() && identity::join(&mut self.identities, more) {
            let user = identity::shown(&self.identities);
            shared.authenticated(conn, frame.last_ts, &user);
        }
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
        self.pairing.orphaned(xid, frame.first_ts);
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
        self.ping_answered = false;
        let head = frame.head;
        let mut what = (None, None, None);
        if let (Some(kind), Some(state), Some(size)) =
            (int(head, pos), int(head, pos + 4), int(head, pos + 8))
        {
            // of what is not an event nothing is to be shown
            let schema = &shared.schema;
            if size >= -1 && schema.event(kind).is_some() && schema.state(state).is_some() {
                what.0 = Some(kind);
                what.1 = Some(state);
                let start = pos + 12;
                let stop = start + size.max(0) as usize;
                if stop == frame.length {
                    what.2 = head.get(start..stop);
                }
            }
        }
        if what.2.is_none() && frame.whole() {
            malformed(shared, conn, Direction::ToClient, frame, "watch event");
        }
        shared.watch_event(conn, self.session, what, zxid, frame);
    }
}

#[cold]
fn kept(rare: &Rare<'_>) -> Box<PendingRare> {
    Box::new(PendingRare {
        watches: rare.watches,
        ops: rare.ops.as_deref().map(kept_ops),
        claim: None,
    })
}

fn kept_ops(ops: &[(i32, Option<&[u8]>)]) -> SubOps {
    let bytes = ops.iter().filter_map(|op| op.1).map(<[u8]>::len).sum();
    let mut kept = SubOps {
        ops: Vec::with_capacity(ops.len()),
        bytes: Vec::with_capacity(bytes),
    };
    for (kind, path) in ops {
        let place = path.map(|path| {
            let from = kept.bytes.len();
            kept.bytes.extend_from_slice(path);
            (from, kept.bytes.len())
        });
        kept.ops.push((*kind, place));
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
