//! The role of a connection that was joined mid-stream, or whose first bytes were not captured.
//! `zktrace/stream/joined.py` is the reference.

use crate::connection::Item;
use crate::election_resync::find_notifications;
use crate::events::Role;
use crate::packet_resync::find_packets;
use crate::pairing::{Pairing, Requests};
use crate::probe::{is_whole_connect, probe, Verdict, QUORUM_SASL};
use crate::resync::{find_replies, find_requests, ReplyContext, Scan, REPLY_POINTS};
use crate::schema::{int, Schema};

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
            requests: &Requests::default(),
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
    for side in openers {
        let server = 1 - side;
        let found_in = |runs: &[Run<'_>], to_leader| {
            let mut runs = runs.iter();
            runs.any(|run| find_packets(&mut run.scan(), schema, to_leader).is_some())
        };
        if found_in(of(*side), true) || found_in(of(server), false) {
            return Some(found(Role::Quorum, server));
        }
    }
    let mut every = all.iter().flatten();
    if every.any(|run| find_notifications(&mut run.scan()).is_some()) {
        let hinted = [1, 0].into_iter().find(|server| {
            openers.contains(&(1 - server))
                && end(*server).is_some_and(|end| end.hint == Some(Role::Election))
        });
        return Some(found(Role::Election, hinted.unwrap_or(1)));
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
