//! Finding a frame boundary again after bytes were lost, or in a connection that was joined mid-stream.
//! `zktrace/stream/resync.py` is the reference and says what earns points and why.

use crate::budget::{append, MARK_COST};
use crate::framer::HEAD_MAX;
use crate::handshake::{is_request_again, is_response_again};
use crate::pairing::{Pairing, Requests, AUTH_XID, PING_XID, SET_WATCHES_XID};
use crate::scan::Fields;
use crate::schema::{int, long, plausible_path, Schema};

/// Bytes of one direction held while its framing is lost; of more, the older half is skipped.
const SCAN_MAX: usize = 256 * 1024;
const REQUEST_POINTS: u32 = 4;
pub const REPLY_POINTS: u32 = 6;
/// Candidates that may wait for more bytes at a time: it bounds the work that hostile bytes can cause.
const WAITING_MAX: usize = 16;
pub const CERTAIN: u32 = 64;
const XID_REACH: u32 = 1 << 20;
const ZXID_BEHIND: i64 = 1 << 16;
const ZXID_AHEAD: i64 = 1 << 24;
const EPOCHS_AHEAD: i64 = 1000;
pub const EPOCH_MAX: i64 = 1 << 24;

const PING_OPCODE: i32 = 11;
const AUTH_OPCODE: i32 = 100;
const SASL_OPCODE: i32 = 102;
const SET_WATCHES_OPCODES: [i32; 2] = [101, 105];
const EVENT_XID: i32 = -1;

/// What following a chain of messages came to.
pub enum Verdict {
    Reject,
    /// So many bytes must be in hand before it is worth following again.
    Wait(usize),
    Accept,
}

fn verdict(points: u32, wanted: u32, enough: usize) -> Verdict {
    if points >= wanted {
        Verdict::Accept
    } else {
        Verdict::Wait(enough)
    }
}

/// Bytes of one direction whose framing is not known, with their capture times.
#[derive(Default)]
pub struct Scan {
    buf: Vec<u8>,
    /// (offset of a chunk, its capture time)
    marks: Vec<(usize, i64)>,
    /// Candidates before this offset have been rejected, but for those that lack bytes.
    seen: usize,
    /// Those, and the bytes that must be in hand.
    waiting: Vec<(usize, usize)>,
    /// Bytes skipped since the loss that are no longer in hand.
    pub skipped: u64,
    dropped: u64,
}

impl Scan {
    pub fn add(&mut self, ts: i64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.marks.push((self.buf.len(), ts));
        append(&mut self.buf, data);
        if self.buf.len() > SCAN_MAX {
            self.drop_front(self.buf.len() - SCAN_MAX / 2);
        }
    }

    fn drop_front(&mut self, count: usize) {
        self.buf.drain(..count);
        self.buf.shrink_to_fit();
        let first = self
            .marks
            .iter()
            .rposition(|(offset, _)| *offset <= count)
            .unwrap_or(0);
        self.marks.drain(..first);
        for mark in &mut self.marks {
            mark.0 = mark.0.saturating_sub(count);
        }
        self.seen = self.seen.saturating_sub(count);
        self.waiting.retain_mut(|(at, enough)| {
            let keep = *at >= count;
            *at = at.saturating_sub(count);
            *enough = enough.saturating_sub(count);
            keep
        });
        self.skipped += count as u64;
        self.dropped += count as u64;
    }

    /// What is in hand.
    pub fn cost(&self) -> usize {
        self.buf.len() + MARK_COST * self.marks.len()
    }

    /// Bytes dropped for room since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Forgets the bytes in hand: what comes next does not follow them. Gives how many they were.
    pub fn clear(&mut self) -> u64 {
        let held = self.buf.len() as u64;
        self.skipped += held;
        self.buf = Vec::new();
        self.marks = Vec::new();
        self.seen = 0;
        self.waiting = Vec::new();
        held + self.take_dropped()
    }

    /// When the byte at this offset was captured.
    pub fn ts_at(&self, at: usize) -> i64 {
        let found = self.marks.iter().rfind(|(offset, _)| *offset <= at);
        found.map_or(0, |(_, ts)| *ts)
    }

    /// The bytes from an offset on, chunk by chunk with their times.
    pub fn chunks_from(&self, at: usize) -> Vec<(i64, Vec<u8>)> {
        let ends = self
            .marks
            .iter()
            .skip(1)
            .map(|(offset, _)| *offset)
            .chain([self.buf.len()]);
        self.marks
            .iter()
            .zip(ends)
            .filter(|(_, end)| *end > at)
            .filter_map(|((offset, ts), end)| {
                Some((*ts, self.buf.get((*offset).max(at)..end)?.to_vec()))
            })
            .collect()
    }

    /// The bytes in hand.
    pub fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// Offset of the first candidate of at least `header` bytes whose chain is accepted. A candidate's first byte is 0.
    pub fn search(
        &mut self,
        header: usize,
        mut chain: impl FnMut(&[u8], usize) -> Verdict,
    ) -> Option<usize> {
        let view = self.buf.as_slice();
        let mut still = Vec::new();
        for (at, enough) in &self.waiting {
            if view.len() < *enough {
                still.push((*at, *enough));
                continue;
            }
            match chain(view, *at) {
                Verdict::Accept => return Some(*at),
                Verdict::Wait(enough) => still.push((*at, enough)),
                Verdict::Reject => {}
            }
        }
        if view.len() >= header {
            let last = view.len() - header;
            for at in self.seen..=last {
                // no length that is kept whole has another first byte
                if view.get(at) != Some(&0) {
                    continue;
                }
                match chain(view, at) {
                    Verdict::Accept => return Some(at),
                    Verdict::Wait(enough) if still.len() < WAITING_MAX => still.push((at, enough)),
                    _ => {}
                }
            }
            self.seen = self.seen.max(last + 1);
        }
        self.waiting = still;
        None
    }
}

/// Lengths of the handshakes that are known by their forms, and the bytes that show it.
const HANDSHAKES: [usize; 4] = [36, 37, 44, 45];
const HANDSHAKE_HEAD: usize = 28;

/// Offset of a request's length field, or None where none has proven itself yet.
pub fn find_requests(scan: &mut Scan, schema: &Schema, last_xid: Option<i64>) -> Option<usize> {
    scan.search(12, |view, at| request_chain(view, at, schema, last_xid))
}

/// What is known of a connection's replies where its framing was lost.
pub struct ReplyContext<'a> {
    pub pairing: &'a Pairing,
    pub requests: &'a Requests,
    pub last_zxid: Option<i64>,
    pub requests_in_sync: bool,
    pub points: u32,
}

/// Offset of a reply's length field, or None where none has proven itself yet.
pub fn find_replies(scan: &mut Scan, schema: &Schema, context: &ReplyContext<'_>) -> Option<usize> {
    scan.search(20, |view, at| reply_chain(view, at, schema, context))
}

fn plausible_length(view: &[u8], pos: usize, least: i32) -> bool {
    match int(view, pos) {
        Some(length) => length >= least && length <= HEAD_MAX as i32,
        None => true,
    }
}

/// Whether another connection begins here, on the same addresses and ports. None: it does not.
#[inline]
fn handshake(view: &[u8], at: usize, form: fn(&[u8], usize) -> bool) -> Option<Verdict> {
    let length = usize::try_from(int(view, at)?).ok()?;
    if !HANDSHAKES.contains(&length) || int(view, at + 4) != Some(0) {
        return None;
    }
    let head = view.get(at + 4..)?;
    let head = head.get(..length).unwrap_or(head);
    if form(head, length) {
        return Some(Verdict::Accept);
    }
    (head.len() < HANDSHAKE_HEAD).then_some(Verdict::Wait(at + 4 + HANDSHAKE_HEAD))
}

fn request_chain(view: &[u8], at: usize, schema: &Schema, mut last_xid: Option<i64>) -> Verdict {
    if let Some(found) = handshake(view, at, is_request_again) {
        return found;
    }
    // data of a node can look like a frame: twice as much where it is not where the bytes in hand begin
    let wanted = if at == 0 { 1 } else { 2 } * REQUEST_POINTS;
    let mut points = 0;
    let mut pos = at;
    loop {
        let left = view.len() - pos;
        if !plausible_length(view, pos, 8) {
            return Verdict::Reject;
        }
        if left < 12 || points >= CERTAIN {
            return verdict(points, wanted, pos + 12);
        }
        let (Some(length), Some(xid), Some(opcode)) =
            (int(view, pos), int(view, pos + 4), int(view, pos + 8))
        else {
            return Verdict::Reject;
        };
        let xid = i64::from(xid);
        let Some(op) = schema.op(schema.index(opcode)).filter(|op| op.client) else {
            return Verdict::Reject;
        };
        if (xid == PING_XID) != (opcode == PING_OPCODE)
            || (xid == AUTH_XID && opcode != AUTH_OPCODE)
            || (xid == SET_WATCHES_XID && !SET_WATCHES_OPCODES.contains(&opcode))
        {
            return Verdict::Reject;
        }
        let mut near = false;
        if !matches!(xid, PING_XID | AUTH_XID | SET_WATCHES_XID) {
            match last_xid {
                None if xid < 0 => return Verdict::Reject,
                None => {}
                Some(last) => {
                    if xid.wrapping_sub(last) as u32 > XID_REACH {
                        return Verdict::Reject;
                    }
                    near = true;
                }
            }
            last_xid = Some(xid);
        }
        let length = length as usize;
        if length > left - 4 {
            return verdict(points, wanted, pos + 4 + length);
        }
        let stop = pos + 4 + length;
        let mut fields = Fields::default();
        let body = view.get(..stop).unwrap_or_default();
        if schema.scan(&op.request, body, pos + 12, &mut fields, true) != Some(stop) {
            return Verdict::Reject;
        }
        let telling = fields.path.is_some_and(|path| !path.is_empty())
            || fields
                .rare()
                .is_some_and(|rare| rare.ops.is_some() || rare.watches.is_some())
            || xid < 0;
        points += if telling { 4 } else { 2 } * if near { 2 } else { 1 };
        pos = stop;
    }
}

fn reply_chain(view: &[u8], at: usize, schema: &Schema, context: &ReplyContext<'_>) -> Verdict {
    if let Some(found) = handshake(view, at, is_response_again) {
        return found;
    }
    let wanted = if at == 0 { 1 } else { 2 } * context.points;
    let mut points = 0;
    let mut pos = at;
    let mut last_zxid = context.last_zxid;
    loop {
        let left = view.len() - pos;
        if !plausible_length(view, pos, 16) {
            return Verdict::Reject;
        }
        if left < 20 || points >= CERTAIN {
            return verdict(points, wanted, pos + 20);
        }
        let (Some(length), Some(xid), Some(zxid), Some(error)) = (
            int(view, pos),
            int(view, pos + 4),
            long(view, pos + 8),
            int(view, pos + 16),
        ) else {
            return Verdict::Reject;
        };
        if error != 0 && (length != 16 || !schema.knows_error(error)) {
            return Verdict::Reject;
        }
        let wide = i64::from(xid);
        let is_event = xid == EVENT_XID;
        let is_special = matches!(wide, PING_XID | AUTH_XID | SET_WATCHES_XID);
        let request = context.pairing.peek(context.requests, wide);
        let opcode = request.map_or(0, |request| request.opcode);
        if zxid == -1 {
            if !is_event && error == 0 {
                return Verdict::Reject;
            }
        } else if zxid == 0 {
            if wide != AUTH_XID && !is_event && opcode != SASL_OPCODE && last_zxid.is_some() {
                return Verdict::Reject;
            }
        } else if !near_zxid(zxid, last_zxid) {
            return Verdict::Reject;
        }
        let near = last_zxid.is_some() && zxid > 0;
        if !is_event && zxid > 0 {
            last_zxid = Some(zxid);
        }
        if request.is_none() && !is_event && !is_special {
            if xid < 0 {
                return Verdict::Reject;
            }
            if let Some(last) = context.pairing.last_xid {
                if wide.wrapping_sub(last).unsigned_abs() > u64::from(XID_REACH) {
                    return Verdict::Reject;
                }
            }
        }
        if wide == PING_XID && length != 16 {
            return Verdict::Reject;
        }
        let length = length as usize;
        if length > left - 4 {
            return verdict(points, wanted, pos + 4 + length);
        }
        let stop = pos + 4 + length;
        let body = view.get(..stop).unwrap_or_default();
        points += if is_event {
            if !event_fits(body, pos + 20, schema) {
                return Verdict::Reject;
            }
            if last_zxid.is_some() {
                12
            } else {
                6
            }
        } else if let Some(request) = request {
            match schema.op(request.op) {
                Some(op) if error == 0 => {
                    let mut fields = Fields::default();
                    if schema.scan(&op.reply, body, pos + 20, &mut fields, true) == Some(stop) {
                        match (near, length > 16) {
                            (true, _) => 12,
                            (false, true) => 6,
                            (false, false) => 3,
                        }
                    } else if context.requests_in_sync {
                        return Verdict::Reject;
                    } else {
                        1
                    }
                }
                _ if near => 12,
                _ => 3,
            }
        } else if near {
            3
        } else {
            1
        };
        pos = stop;
    }
}

fn near_zxid(zxid: i64, last: Option<i64>) -> bool {
    if zxid < 0 {
        return false;
    }
    let epoch = zxid >> 32;
    let Some(last) = last else {
        return epoch < EPOCH_MAX;
    };
    let ahead = epoch - (last >> 32);
    if ahead == 0 {
        return (-ZXID_BEHIND..=ZXID_AHEAD).contains(&(zxid - last));
    }
    0 < ahead && ahead <= EPOCHS_AHEAD && (zxid & 0xffff_ffff) <= ZXID_AHEAD
}

fn event_fits(body: &[u8], pos: usize, schema: &Schema) -> bool {
    let (Some(kind), Some(state), Some(size)) =
        (int(body, pos), int(body, pos + 4), int(body, pos + 8))
    else {
        return false;
    };
    let Some(path) = body.get(pos + 12..) else {
        return false;
    };
    if schema.event(kind).is_none()
        || schema.state(state).is_none()
        || path.len() as u64 != u64::try_from(size.max(0)).unwrap_or(0)
    {
        return false;
    }
    plausible_path(path) || (kind == -1 && size <= 0)
}
