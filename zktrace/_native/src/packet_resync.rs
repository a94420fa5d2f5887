//! Finding a packet's boundary on the quorum port again: after a loss, or joined mid-stream.
//! `zktrace/stream/packetresync.py` is the reference and says what earns points and why.

use crate::framer::HEAD_MAX;
use crate::packet_reader::HEAD;
use crate::packets::{
    ACK, ACKEPOCH, COMMIT, COMMITANDACTIVATE, CREATE_SESSION, DIFF, FOLLOWERINFO, INFORM,
    INFORMANDACTIVATE, LEADERINFO, NEWLEADER, OBSERVERINFO, PING, PROPOSAL, REQUEST,
    REQUEST_HEADER, REVALIDATE, SNAP, SYNC, TRUNC, UPTODATE,
};
use crate::probe::LEARNER_INFO_SIZES;
use crate::resync::{Scan, Verdict, CERTAIN, EPOCH_MAX};
use crate::scan::Fields;
use crate::schema::{int, long, Schema};
use crate::txn;

/// Points a chain needs: a txn or a request that fits to the byte has them, or two other packets.
const POINTS: u32 = 4;
const IDS_MAX: i32 = 64;
const ID_MAX: i32 = 4_096;

/// Offset of a packet, or None where none has proven itself yet.
pub fn find_packets(scan: &mut Scan, schema: &Schema, to_leader: bool) -> Option<usize> {
    scan.search(HEAD, |view, at| {
        verdict_of(follow(schema, view, at, to_leader), at, POINTS)
    })
}

/// Whether these bytes are packets from the first to the last: at the end of a connection few are proof enough.
pub fn all_packets(view: &[u8], schema: &Schema, to_leader: bool) -> bool {
    let mut pos = 0;
    while pos < view.len() {
        match follow(schema, view, pos, to_leader) {
            Some(chain) if chain.points > 0 => pos = chain.stop,
            _ => return false,
        }
    }
    pos > 0
}

/// What a chain of packets or messages came to.
pub struct Chain {
    pub points: u32,
    /// The position behind its last whole one.
    pub stop: usize,
    /// How many bytes must be in hand to follow it further; None: it cannot be.
    pub enough: Option<usize>,
}

/// Data of a node can look like packets: twice as much proof where the bytes in hand do not begin.
pub fn verdict_of(chain: Option<Chain>, at: usize, points: u32) -> Verdict {
    let wanted = if at == 0 { points } else { 2 * points };
    match chain {
        Some(chain) if chain.points >= wanted => Verdict::Accept,
        Some(Chain {
            enough: Some(enough),
            ..
        }) => Verdict::Wait(enough),
        _ => Verdict::Reject,
    }
}

/// Follows a chain; None where it breaks.
fn follow(schema: &Schema, view: &[u8], mut pos: usize, to_leader: bool) -> Option<Chain> {
    let mut points = 0;
    let mut enough = None;
    while points < CERTAIN {
        let rest = view.get(pos..)?;
        let Some(kind) = int(rest, 0) else {
            enough = Some(pos + HEAD);
            break;
        };
        if !sends(to_leader, kind) {
            return None;
        }
        if rest.len() < HEAD {
            enough = Some(pos + HEAD);
            break;
        }
        let (earned, size) = packet(schema, rest, kind, to_leader)?;
        if earned == 0 {
            enough = Some(pos + size);
            break;
        }
        points += earned;
        pos += size;
        if kind == SNAP {
            break; // what is behind it is a snapshot
        }
    }
    Some(Chain {
        points,
        stop: pos,
        enough,
    })
}

fn sends(to_leader: bool, kind: i32) -> bool {
    match kind {
        PING | REVALIDATE => true,
        REQUEST | ACK | FOLLOWERINFO | OBSERVERINFO | ACKEPOCH => to_leader,
        PROPOSAL | COMMIT | SYNC | INFORM | COMMITANDACTIVATE | NEWLEADER | UPTODATE | DIFF
        | TRUNC | SNAP | LEADERINFO | INFORMANDACTIVATE => !to_leader,
        _ => false,
    }
}

/// Where the TxnHeader is in the data.
fn txn_at(kind: i32) -> Option<usize> {
    match kind {
        PROPOSAL | INFORM => Some(0),
        INFORMANDACTIVATE => Some(8),
        _ => None,
    }
}

/// Points and size of a packet; no points: it is not all here, and the size is what must be; None: it is none.
fn packet(schema: &Schema, view: &[u8], kind: i32, to_leader: bool) -> Option<(u32, usize)> {
    let (zxid, length) = (long(view, 4)?, int(view, 12)?);
    if !head_fits(kind, zxid, length, to_leader) {
        return None;
    }
    let mut stop = HEAD + length.max(0) as usize;
    let at = txn_at(kind);
    if let Some(at) = at {
        let inner = HEAD + at + txn::HEADER;
        if view.len() < inner {
            return Some((0, inner));
        }
        if long(view, HEAD + at + txn::INNER_ZXID) != Some(zxid) {
            return None;
        }
    }
    let Some(count) = int(view, stop) else {
        return Some((0, stop + 4));
    };
    let data = view.get(HEAD..stop)?;
    let earned = match at {
        Some(at) => {
            let (_, _, number) = txn::header(data, at)?;
            if !txn::scan(schema, number, data, at + txn::HEADER, data.len()).1 {
                return None;
            }
            4
        }
        None if kind == REQUEST => request(schema, data)?,
        None => 2,
    };
    if count != -1 && !(kind == REQUEST && (0..=IDS_MAX).contains(&count)) {
        return None;
    }
    stop += 4;
    for _ in 0..2 * count.max(0) {
        let Some(size) = int(view, stop) else {
            return Some((0, stop + 4));
        };
        if !(-1..=ID_MAX).contains(&size) {
            return None;
        }
        stop += 4 + size.max(0) as usize;
    }
    Some(if stop <= view.len() {
        (earned, stop)
    } else {
        (0, stop)
    })
}

fn head_fits(kind: i32, zxid: i64, length: i32, to_leader: bool) -> bool {
    if length < -1 || length > HEAD_MAX as i32 {
        return false;
    }
    let zxid_fits = match kind {
        REQUEST | REVALIDATE | UPTODATE => zxid == -1,
        _ => (0..EPOCH_MAX).contains(&(zxid >> 32)),
    };
    zxid_fits
        && match kind {
            ACK | COMMIT | SYNC | UPTODATE | DIFF | TRUNC | SNAP => length == -1,
            PING if to_leader => length >= 0 && length % 12 == 0,
            PING => length == -1,
            REVALIDATE => length == if to_leader { 12 } else { 9 },
            REQUEST => length >= REQUEST_HEADER as i32,
            NEWLEADER => zxid & 0xffff_ffff == 0 && length != 0,
            PROPOSAL | INFORM => length >= txn::HEADER as i32,
            INFORMANDACTIVATE => length >= 8 + txn::HEADER as i32,
            COMMITANDACTIVATE => length == 8,
            LEADERINFO | ACKEPOCH => length == 4,
            FOLLOWERINFO | OBSERVERINFO => LEARNER_INFO_SIZES.contains(&length),
            _ => false,
        }
}

fn request(schema: &Schema, data: &[u8]) -> Option<u32> {
    let number = int(data, REQUEST_HEADER - 4)?;
    if number == CREATE_SESSION {
        return (data.len() == REQUEST_HEADER + 4).then_some(2);
    }
    let op = schema.op(schema.index(number)).filter(|op| op.client)?;
    let mut fields = Fields::default();
    if schema.scan(&op.request, data, REQUEST_HEADER, &mut fields, true) != Some(data.len()) {
        return None;
    }
    let telling = fields.path.is_some_and(|path| !path.is_empty())
        || fields.rare().is_some_and(|rare| rare.ops.is_some());
    Some(if telling { 4 } else { 2 })
}
