//! The role of a connection that was joined mid-stream, or whose first bytes were not captured.
//! `zktrace/stream/joined.py` is the reference.

use crate::connection::Item;
use crate::events::Role;
use crate::pairing::Pairing;
use crate::probe::{is_notification, is_whole_connect, probe, Verdict, QUORUM_SASL};
use crate::resync::{find_replies, find_requests, ReplyContext, Scan, REPLY_POINTS};
use crate::schema::{int, long, Schema};

const FROM_LEADER: [i32; 12] = [2, 4, 7, 8, 9, 10, 12, 13, 14, 15, 17, 19];
const FROM_LEARNER: [i32; 5] = [1, 3, 11, 16, 18];
const QUORUM_DATA_MAX: i32 = 2 * 1024 * 1024;
const LEARNER_PROTOCOL: i32 = 0x10000;

/// What is known of one end as a listener: its role by the user or by other connections, and by its port.
#[derive(Clone, Copy)]
pub struct End {
    pub known: Option<Role>,
    pub hint: Option<Role>,
}

/// A role, which side is the server, and the verdict where the first bytes were those of a new connection.
pub struct Found {
    pub role: Role,
    pub server_side: usize,
    pub verdict: Option<Verdict>,
}

/// Bytes of one side without a gap in them.
struct Run<'a> {
    first: bool,
    parts: Vec<&'a [u8]>,
}

impl Run<'_> {
    fn scan(&self) -> Scan {
        let mut scan = Scan::default();
        for part in &self.parts {
            scan.add(0, part);
        }
        scan
    }
}

/// The role of a connection, or None where nothing proves one yet. `opener_known`: side 0 is the client. `whole`: whether
/// `pieces` begin with the first bytes seen of each side.
pub fn judge(
    schema: &Schema,
    pieces: &[Item],
    ends: [End; 2],
    opener_known: bool,
    whole: [bool; 2],
) -> Option<Found> {
    let all = [runs(pieces, 0), runs(pieces, 1)];
    let openers: &[usize] = if opener_known { &[0] } else { &[0, 1] };
    let of = |side: usize| all.get(side).map(Vec::as_slice).unwrap_or_default();
    let end = |side: usize| ends.get(side).copied();
    for side in openers {
        let first = of(*side).first().filter(|run| run.first);
        if let (Some(run), Some(true)) = (first, whole.get(*side)) {
            if let Some(verdict) = opening(schema, &run.parts.concat()) {
                return Some(Found {
                    role: role_of(verdict),
                    server_side: 1 - side,
                    verdict: Some(verdict),
                });
            }
        }
    }
    if all
        .iter()
        .flatten()
        .any(|run| run.parts.first().is_some_and(|part| is_tls(part)))
    {
        let hinted = ends.iter().position(|end| end.hint.is_some());
        return Some(found(Role::Tls, hinted.unwrap_or(1)));
    }
    for server in [1, 0] {
        let other = 1 - server;
        if let (Some(at), Some(peer)) = (end(server), end(other)) {
            if let (Some(known), None, true) = (at.known, peer.known, openers.contains(&other)) {
                return Some(found(known, server));
            }
        }
    }
    for side in openers {
        if of(*side)
            .iter()
            .any(|run| find_requests(&mut run.scan(), schema, None).is_some())
        {
            return Some(found(Role::Client, 1 - side));
        }
    }
    for side in openers {
        let server = 1 - side;
        let hinted = end(server).is_some_and(|end| end.hint == Some(Role::Client));
        let context = ReplyContext {
            pairing: &Pairing::default(),
            last_zxid: None,
            requests_in_sync: false,
            points: if hinted {
                REPLY_POINTS
            } else {
                2 * REPLY_POINTS
            },
        };
        if of(server)
            .iter()
            .any(|run| find_replies(&mut run.scan(), schema, &context).is_some())
        {
            return Some(found(Role::Client, server));
        }
    }
    for side in [0, 1] {
        for part in of(side).iter().flat_map(|run| &run.parts) {
            let found = quorum(part, side, ends).or_else(|| election(part, ends));
            if let Some(found) = found.filter(|found| openers.contains(&(1 - found.server_side))) {
                return Some(found);
            }
        }
    }
    None
}

fn found(role: Role, server_side: usize) -> Found {
    Found {
        role,
        server_side,
        verdict: None,
    }
}

/// The role that first bytes prove.
pub fn role_of(verdict: Verdict) -> Role {
    match verdict {
        Verdict::Word | Verdict::Connect => Role::Client,
        Verdict::Quorum => Role::Quorum,
        Verdict::Election => Role::Election,
        Verdict::Tls => Role::Tls,
        Verdict::More | Verdict::Unknown => Role::Unknown,
    }
}

fn opening(schema: &Schema, first: &[u8]) -> Option<Verdict> {
    let verdict = probe(first, schema);
    let proven = match verdict {
        Verdict::Tls => true,
        Verdict::Connect => is_whole_connect(first),
        Verdict::Word => only_line_end(first.get(4..).unwrap_or_default()),
        Verdict::Election => first.starts_with(&[0xff, 0xff]),
        Verdict::Quorum => {
            first.starts_with(&QUORUM_SASL) || int(first, 24) == Some(LEARNER_PROTOCOL)
        }
        Verdict::More | Verdict::Unknown => false,
    };
    proven.then_some(verdict)
}

/// Whether nothing but line ends are left.
pub fn only_line_end(rest: &[u8]) -> bool {
    rest.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

fn runs(pieces: &[Item], side: u8) -> Vec<Run<'_>> {
    let mut runs = Vec::new();
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut first = true;
    for piece in pieces.iter().filter(|piece| piece.side == side) {
        if piece.missing > 0 {
            if !parts.is_empty() {
                runs.push(Run { first, parts });
            }
            parts = Vec::new();
            first = false;
        } else if !piece.data.is_empty() {
            parts.push(&piece.data);
        }
    }
    if !parts.is_empty() {
        runs.push(Run { first, parts });
    }
    runs
}

fn is_tls(data: &[u8]) -> bool {
    // RFC 8446, 5.1: type, legacy version, length of at most 2^14 + 256
    let Some([kind, major, minor, high, low]) = data.first_chunk::<5>() else {
        return false;
    };
    (0x14..=0x17).contains(kind)
        && *major == 3
        && *minor <= 4
        && (1..=16_640).contains(&u16::from_be_bytes([*high, *low]))
}

fn quorum(data: &[u8], side: usize, ends: [End; 2]) -> Option<Found> {
    let mut pos = 0;
    let mut packets = 0;
    let mut server = None;
    while data.len() - pos >= 20 {
        let (kind, zxid, size) = (int(data, pos)?, long(data, pos + 4)?, int(data, pos + 12)?);
        if !(1..20).contains(&kind) || zxid < -1 || !(-1..=QUORUM_DATA_MAX).contains(&size) {
            return None;
        }
        if FROM_LEADER.contains(&kind) {
            server = Some(side);
        } else if FROM_LEARNER.contains(&kind) {
            server = Some(1 - side);
        }
        pos += 16 + size.max(0) as usize;
        if data.len() < pos + 4 {
            break;
        }
        let ids = int(data, pos)?;
        if ids > 0 && kind == 1 {
            break; // a REQUEST with the client's ids
        }
        if ids != -1 && ids != 0 {
            return None;
        }
        pos += 4;
        packets += 1;
    }
    let exact = pos == data.len();
    let hinted: Vec<usize> = hinted(ends, Role::Quorum);
    if let (None, [only]) = (server, hinted.as_slice()) {
        server = Some(*only);
    }
    let server = server?;
    if packets >= 2 || (packets == 1 && exact && hinted.contains(&server)) {
        return Some(found(Role::Quorum, server));
    }
    None
}

fn election(data: &[u8], ends: [End; 2]) -> Option<Found> {
    let mut pos = 0;
    let mut strong = false;
    while pos < data.len() {
        if is_notification(data, pos) != Some(true) {
            return None;
        }
        let length = int(data, pos)?;
        let stop = pos + 4 + usize::try_from(length).ok()?;
        if stop > data.len() {
            return None;
        }
        if length >= 44 {
            if int(data, pos + 40)? != 2 || int(data, pos + 44)? != length - 44 {
                return None;
            }
            strong = true;
        }
        pos = stop;
    }
    let hinted = hinted(ends, Role::Election);
    if !strong && hinted.is_empty() {
        return None;
    }
    Some(found(Role::Election, hinted.first().copied().unwrap_or(1)))
}

fn hinted(ends: [End; 2], role: Role) -> Vec<usize> {
    (0..2)
        .zip(ends)
        .filter(|(_, end)| end.hint == Some(role))
        .map(|(side, _)| side)
        .collect()
}
