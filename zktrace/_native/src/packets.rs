//! What a QuorumPacket says: rows of the table `quorum`. `zktrace/stream/packets.py` is the reference. Of a txn or a
//! request a row has the path, never node data, ACLs or ids; of a NEWLEADER the configuration.

use crate::events::{ConnInfo, Direction, EventSink, Quorum, SubOp};
use crate::framer::Frame;
use crate::intern::hash_bytes;
use crate::packet_reader::Packet;
use crate::rows::Shared;
use crate::scan::Fields;
use crate::schema::{int, long, unknown_op, Schema};
use crate::snapshot::SnapshotReader;
use crate::txn::{self, Body, Part};

/// Leader.java
pub const REQUEST: i32 = 1;
pub const PROPOSAL: i32 = 2;
pub const ACK: i32 = 3;
pub const COMMIT: i32 = 4;
pub const PING: i32 = 5;
pub const REVALIDATE: i32 = 6;
pub const SYNC: i32 = 7;
pub const INFORM: i32 = 8;
pub const COMMITANDACTIVATE: i32 = 9;
pub const NEWLEADER: i32 = 10;
pub const FOLLOWERINFO: i32 = 11;
pub const UPTODATE: i32 = 12;
pub const DIFF: i32 = 13;
pub const TRUNC: i32 = 14;
pub const SNAP: i32 = 15;
pub const OBSERVERINFO: i32 = 16;
pub const LEADERINFO: i32 = 17;
pub const ACKEPOCH: i32 = 18;
pub const INFORMANDACTIVATE: i32 = 19;

pub const CREATE_SESSION: i32 = -10;
/// A learner's request before its body: session, cxid, type.
pub const REQUEST_HEADER: usize = 16;
/// Longest configuration that is kept.
const CONFIG_MAX: i32 = 16_384;
/// Session, timeout: element of PING's data.
const SESSION: i32 = 12;

/// The columns of a row that only some packets have.
#[derive(Default)]
struct Columns<'a> {
    session: Option<i64>,
    cxid: Option<i64>,
    txn: Option<i32>,
    path: Option<&'a [u8]>,
    error: Option<i32>,
    sid: Option<i64>,
    epoch: Option<i64>,
    timeout_ms: Option<i32>,
    valid: Option<bool>,
    sessions: Option<i32>,
    digest: Option<i64>,
    sub: Option<Vec<Part<'a>>>,
    config: Option<&'a [u8]>,
    txn_hash: Option<i64>,
}

/// What is wrong with a packet's data.
enum Wrong {
    Nothing,
    Misfit,
    UnknownTxn(i32),
    UnknownOp(i32),
}

/// The direction in the words of anomalies.
pub fn direction(to_leader: bool) -> Direction {
    if to_leader {
        Direction::ToServer
    } else {
        Direction::ToClient
    }
}

/// Gives the row of a packet; of a SNAP, with the snapshot behind it as far as it was read.
#[inline]
pub fn row<S: EventSink>(
    shared: &mut Shared<S>,
    conn: &ConnInfo,
    to_leader: bool,
    packet: &Packet<'_>,
    snapshot: Option<&SnapshotReader>,
) {
    shared.counters.quorum_packets += 1;
    if packet.damaged || snapshot.is_some_and(|snapshot| snapshot.damaged) {
        shared.counters.damaged_frames += 1;
    }
    if shared.looks.quorum {
        make_row(shared, conn, to_leader, packet, snapshot);
    }
}

#[inline(never)]
fn make_row<S: EventSink>(
    shared: &mut Shared<S>,
    conn: &ConnInfo,
    to_leader: bool,
    packet: &Packet<'_>,
    snapshot: Option<&SnapshotReader>,
) {
    let mut columns = Columns::default();
    let key = shared.sink.txn_key();
    let wrong = read(&shared.schema, key, packet, to_leader, &mut columns);
    if !matches!(wrong, Wrong::Nothing) {
        complain(shared, conn, to_leader, packet, &wrong);
    }
    let seq = shared.next_seq();
    let schema = &shared.schema;
    let unknown;
    let txn = match columns.txn {
        None => None,
        Some(kind) => match schema.op(schema.index(kind)) {
            Some(op) => Some((kind, op.name.as_ref())),
            None => {
                unknown = unknown_op(kind);
                Some((kind, unknown.as_str()))
            }
        },
    };
    let sub: Option<Vec<SubOp<'_>>> = columns.sub.map(|parts| {
        let parts = parts.iter().map(|part| SubOp {
            op: schema
                .op(schema.index(part.kind))
                .map(|op| op.name.as_ref()),
            path: part.path,
            error: part.error,
        });
        parts.collect()
    });
    shared.sink.quorum(&Quorum {
        seq,
        ts_ns: packet.ts,
        conn,
        kind: packet.kind,
        name: schema.packet(packet.kind).unwrap_or_default(),
        to_leader,
        zxid: (packet.zxid != -1).then_some(packet.zxid),
        bytes: packet.size.map(|size| size as i64),
        session: columns.session,
        cxid: columns.cxid,
        txn,
        path: columns.path,
        error: columns.error,
        sid: columns.sid,
        epoch: columns.epoch,
        timeout_ms: columns.timeout_ms,
        valid: columns.valid,
        sessions: columns.sessions,
        digest: columns.digest,
        sub: sub.as_deref(),
        snapshot: snapshot
            .filter(|snapshot| snapshot.done())
            .map(|snapshot| (snapshot.bytes as i64, snapshot.nodes as i64)),
        config: columns.config,
        late: packet.late,
        txn_hash: columns.txn_hash,
    });
}

#[cold]
fn complain<S: EventSink>(
    shared: &mut Shared<S>,
    conn: &ConnInfo,
    to_leader: bool,
    packet: &Packet<'_>,
    wrong: &Wrong,
) {
    let (reason, what) = match wrong {
        Wrong::Nothing => return,
        Wrong::Misfit => ("malformed", "the data does not fit its layout".to_owned()),
        Wrong::UnknownTxn(kind) => ("unknown_opcode", format!("txn type {kind}")),
        Wrong::UnknownOp(kind) => ("unknown_opcode", format!("opcode {kind}")),
    };
    let name = shared.schema.packet(packet.kind).unwrap_or_default();
    let detail = format!("{name}: {what}");
    let bytes = packet.size.map(|size| size as i64);
    let direction = Some(direction(to_leader));
    shared.anomaly(conn, packet.ts, reason, direction, bytes, &detail);
}

fn misfit(packet: &Packet<'_>) -> Wrong {
    if packet.whole() {
        Wrong::Misfit
    } else {
        Wrong::Nothing
    }
}

/// Fills in what the data says.
#[inline]
fn read<'a>(
    schema: &Schema,
    key: Option<u64>,
    packet: &Packet<'a>,
    to_leader: bool,
    out: &mut Columns<'a>,
) -> Wrong {
    let (data, length) = (packet.data, packet.length);
    let mut fits = true;
    match packet.kind {
        PROPOSAL | INFORM => return read_txn(schema, key, packet, 0, out),
        REQUEST => return read_request(schema, packet, out),
        PING if to_leader && length >= 0 => {
            out.sessions = Some(length / SESSION);
            fits = length % SESSION == 0;
        }
        REVALIDATE => {
            out.session = long(data, 0);
            match (length, data) {
                (9, [.., valid]) if data.len() == 9 => out.valid = Some(*valid != 0),
                (12.., _) => out.timeout_ms = int(data, 8),
                _ => {}
            }
            fits = length == 9 || length == 12;
        }
        COMMITANDACTIVATE => {
            out.sid = long(data, 0);
            fits = length == 8;
        }
        INFORMANDACTIVATE => {
            out.sid = long(data, 0);
            return read_txn(schema, key, packet, 8, out);
        }
        FOLLOWERINFO | OBSERVERINFO => {
            out.epoch = Some(packet.zxid >> 32);
            out.sid = long(data, 0);
            fits = matches!(length, -1 | 0 | 8 | 12 | 20..);
        }
        LEADERINFO => {
            out.epoch = Some(packet.zxid >> 32);
            fits = length == 4;
        }
        NEWLEADER => {
            out.epoch = Some(packet.zxid >> 32);
            if (1..=CONFIG_MAX).contains(&length) && packet.whole() {
                out.config = Some(data);
            }
        }
        ACKEPOCH => {
            out.epoch = int(data, 0).map(i64::from);
            fits = length == 4;
        }
        _ => {}
    }
    if fits {
        Wrong::Nothing
    } else {
        misfit(packet)
    }
}

fn show<'a>(body: Body<'a>, out: &mut Columns<'a>) {
    out.path = body.path;
    out.timeout_ms = body.timeout_ms;
    out.digest = body.digest;
    out.error = match &body.parts {
        None => body.error,
        Some(_) => body.multi_error(),
    };
    out.sub = body.parts;
}

#[inline]
fn read_txn<'a>(
    schema: &Schema,
    key: Option<u64>,
    packet: &Packet<'a>,
    pos: usize,
    out: &mut Columns<'a>,
) -> Wrong {
    let Some((session, cxid, kind)) = txn::header(packet.data, pos) else {
        return misfit(packet);
    };
    out.session = Some(session);
    out.cxid = Some(i64::from(cxid));
    out.txn = Some(kind);
    if !schema.txns.knows(kind) {
        return Wrong::UnknownTxn(kind);
    }
    let length = packet.length.max(0) as usize;
    let (body, fits) = txn::scan(schema, kind, packet.data, pos + txn::HEADER, length);
    if let (Some(key), true) = (key, packet.whole()) {
        let digest = if body.digest.is_some() {
            txn::DIGEST
        } else {
            0
        };
        let end = packet.data.len().saturating_sub(digest);
        let bytes = packet.data.get(pos..end).unwrap_or_default();
        out.txn_hash = Some(hash_bytes(key, bytes) as i64);
    }
    show(body, out);
    if fits {
        Wrong::Nothing
    } else {
        Wrong::Misfit
    }
}

fn read_request<'a>(schema: &Schema, packet: &Packet<'a>, out: &mut Columns<'a>) -> Wrong {
    let data = packet.data;
    let (Some(session), Some(cxid), Some(kind)) = (long(data, 0), int(data, 8), int(data, 12))
    else {
        return misfit(packet);
    };
    out.session = Some(session);
    out.cxid = Some(i64::from(cxid));
    out.txn = Some(kind);
    let Some(op) = schema.op(schema.index(kind)) else {
        return Wrong::UnknownOp(kind);
    };
    let length = packet.length.max(0) as usize;
    if kind == CREATE_SESSION {
        // the same record as in the txn that comes of it
        let (body, fits) = txn::scan(schema, kind, data, REQUEST_HEADER, length);
        show(body, out);
        return if fits { Wrong::Nothing } else { Wrong::Misfit };
    }
    let mut fields = Fields::default();
    let frame = Frame {
        head: data,
        length,
        first_ts: packet.ts,
        last_ts: packet.ts,
        damaged: packet.damaged,
        first_late: false,
        late: false,
    };
    let end = schema.scan_frame(&op.request, &frame, REQUEST_HEADER, &mut fields);
    out.path = fields.path;
    if end.is_none() {
        return misfit(packet);
    }
    out.sub = fields.rare().and_then(|rare| {
        let parts = rare.ops.as_ref()?.iter().map(|(kind, path)| Part {
            kind: *kind,
            path: *path,
            error: None,
        });
        Some(parts.collect())
    });
    Wrong::Nothing
}
