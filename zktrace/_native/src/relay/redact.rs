//! Takes secrets out of a client connection's bytes, in place and without changing a length: passwords of sessions,
//! credentials of `auth`, tokens of SASL, the hashes in ACLs of the digest scheme, and, where that is wanted, node data become zeros.
//! The rest, and so all that a replay needs, stays as it was.
//!
//! Works on chunks cut anywhere and holds no frame: a frame is walked field by field as its bytes come (`Walk`).
//! What does not look like ZooKeeper's client protocol from its first byte on passes as it is.
//! Records: ConnectRequest, ConnectResponse, RequestHeader, ReplyHeader, MultiHeader, AuthPacket, GetSASLRequest, SetSASLResponse,
//! ACL, Id and those with one (zookeeper.jute); opcodes: ZooDefs.OpCode; the digest scheme's id is `user:hash`
//! (org.apache.zookeeper.server.auth.DigestAuthenticationProvider).

use std::collections::VecDeque;

use super::redact_bodies::{
    request_body, result_body, Fate, Step, AUTH, ERROR, GET_ACL, GET_DATA, MULTI, MULTI_READ, SASL,
};
use super::track::FRAME_MAX;

/// Requests without a reply whose replies hold secrets; beyond, bodies of replies become zeros.
const PENDING_MAX: usize = 65_536;

/// Requests without secrets, but for node data, whose replies have none either (ZooDefs.OpCode): getData, setData, exists, ping,
/// getChildren, getChildren2, delete, sync, check, setWatches, setWatches2, closeSession.
const PLAIN: [i32; 12] = [4, 5, 3, 11, 8, 12, 2, 9, 13, 101, 105, -11];

/// One direction: where it is in its frame.
#[derive(Debug)]
struct Way {
    /// Not ZooKeeper: let through.
    raw: bool,
    first: bool,
    /// Bytes of the frame that are still to come; None: its length is.
    left: Option<u64>,
    steps: Vec<Step>,
    /// The field under way.
    field: Option<(u64, Fate)>,
    /// Of node data and ids: bytes so far, whether the colon was seen.
    passed: u64,
    colon: bool,
    /// The scheme of the ACL: its first bytes, its length.
    scheme: ([u8; 8], usize),
    /// The numbers that a step waits for.
    word: [u8; 16],
    have: usize,
    /// A length that leads out of the frame leaves the rest of it in doubt: zeros, rather than a secret.
    doubt: bool,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            raw: false,
            first: true,
            left: None,
            steps: Vec::new(),
            field: None,
            passed: 0,
            colon: false,
            scheme: ([0; 8], 0),
            word: [0; 16],
            have: 0,
            doubt: false,
        }
    }
}

impl Way {
    fn int(&self, at: usize) -> i32 {
        i32::from_be_bytes([
            self.word[at],
            self.word[at + 1],
            self.word[at + 2],
            self.word[at + 3],
        ])
    }

    fn push(&mut self, steps: &[Step]) {
        self.steps.extend(steps.iter().rev());
    }

    /// Bytes of the frame behind what was taken for a number.
    fn behind(&self) -> u64 {
        self.left.unwrap_or(0)
    }

    /// A length that may lie.
    fn sized(&mut self, fate: Fate) {
        let length = self.int(0);
        let behind = self.behind();
        if length >= 0 && u64::from(length.unsigned_abs()) <= behind {
            self.begin(u64::from(length.unsigned_abs()), fate);
        } else if length == -1 && fate != Fate::Zero && !self.doubt {
            // null
            self.begin(0, fate);
        } else {
            self.steps.clear();
            let all = if fate == Fate::Keep && !self.doubt {
                Fate::Keep
            } else {
                Fate::Zero
            };
            self.begin(behind, all);
        }
    }

    fn begin(&mut self, length: u64, fate: Fate) {
        self.field = Some((length, fate));
        self.passed = 0;
        self.colon = false;
        if fate == Fate::Scheme {
            self.scheme = ([0; 8], length.min(9) as usize);
        }
    }

    /// Bytes of the field under way.
    fn field_bytes(&mut self, data: &mut [u8], fate: Fate, data_kept: Option<u64>) {
        match fate {
            Fate::Keep => {}
            Fate::Zero => data.fill(0),
            Fate::Data => {
                if let Some(kept) = data_kept {
                    let keep = kept.saturating_sub(self.passed).min(data.len() as u64);
                    data[keep as usize..].fill(0);
                }
            }
            Fate::Scheme => {
                for (place, byte) in (self.passed as usize..).zip(data.iter()).take(8) {
                    if let Some(own) = self.scheme.0.get_mut(place) {
                        *own = *byte;
                    }
                }
            }
            Fate::Id if self.scheme.1 == 6 && self.scheme.0.starts_with(b"digest") => {
                for byte in data.iter_mut() {
                    if self.colon {
                        *byte = 0;
                    }
                    self.colon |= *byte == b':';
                }
            }
            Fate::Id => {}
        }
        self.passed += data.len() as u64;
    }
}

/// One connection, both directions.
#[derive(Debug, Default)]
pub struct Redactor {
    ways: [Way; 2],
    /// Of node data, so many bytes are kept; None: all.
    data_kept: Option<u64>,
    /// Xid and opcode of requests whose replies are looked into.
    pending: VecDeque<(i32, i32)>,
    /// There were too many of them, or some that cannot be told from others.
    overflowed: bool,
    /// The highest xid so far: clients count upwards.
    highest: i32,
}

impl Redactor {
    /// `data_kept`: of node data, so many bytes are left as they are; None: all.
    #[must_use]
    pub fn new(data_kept: Option<u64>) -> Self {
        Self {
            data_kept,
            ..Self::default()
        }
    }

    /// The next bytes of a direction: 0 from the client, 1 from the server.
    pub fn pass(&mut self, direction: usize, data: &mut [u8]) {
        let mut rest = data;
        while !rest.is_empty() && !self.ways[direction].raw {
            let taken = match self.plain(direction, rest) {
                Some(taken) => taken,
                None => self.part(direction, rest),
            };
            rest = &mut rest[taken..];
        }
    }

    /// The length of the frame that these bytes begin with, if it is there whole and can have no secret: most have none, and
    /// need not be walked.
    #[inline]
    fn plain(&mut self, direction: usize, data: &[u8]) -> Option<usize> {
        let way = &self.ways[direction];
        if self.data_kept.is_some() || way.first || way.left.is_some() || way.have > 0 {
            return None;
        }
        let [a, b, c, d, x, i, e, f, op @ ..] = *data.first_chunk::<12>()?;
        let end = 4 + u32::from_be_bytes([a, b, c, d]) as usize;
        if end < 12 || data.len() < end {
            return None;
        }
        let xid = i32::from_be_bytes([x, i, e, f]);
        if direction == 0 {
            if !PLAIN.contains(&i32::from_be_bytes(op)) {
                return None;
            }
            self.highest = self.highest.max(xid);
        } else if self.overflowed || self.pending.iter().any(|(own, _)| *own == xid) {
            return None;
        }
        Some(end)
    }

    /// Some bytes: of a field, or towards a number.
    fn part(&mut self, direction: usize, data: &mut [u8]) -> usize {
        let kept = self.data_kept;
        let way = &mut self.ways[direction];
        let Some(left) = way.left else {
            let taken = gather(way, data, 4);
            if way.have == 4 {
                way.have = 0;
                let length = way.int(0) as u32;
                way.raw = length > FRAME_MAX;
                way.left = Some(u64::from(length));
                way.doubt = false;
                let step = match (direction, way.first) {
                    (0, true) => vec![Step::Bytes(24, Fate::Keep), Step::Sized(Fate::Zero)],
                    (_, true) => vec![Step::Bytes(16, Fate::Keep), Step::Sized(Fate::Zero)],
                    (0, false) => vec![Step::Request],
                    _ => vec![Step::Reply],
                };
                way.steps.clear();
                way.push(&step);
                self.advance(direction);
            }
            return taken;
        };
        if let Some((length, fate)) = way.field {
            let taken = length.min(left).min(data.len() as u64) as usize;
            way.field_bytes(&mut data[..taken], fate, kept);
            way.field = Some((length - taken as u64, fate));
            way.left = Some(left - taken as u64);
            self.advance(direction);
            return taken;
        }
        // A number: as many bytes as the step wants, or the frame has.
        let wanted = self
            .wants(direction)
            .min(left as usize + self.ways[direction].have);
        let way = &mut self.ways[direction];
        let taken = gather(way, data, wanted);
        way.left = Some(left - taken as u64);
        if way.have == wanted {
            self.number(direction);
            self.ways[direction].have = 0;
            self.advance(direction);
        }
        taken
    }

    /// Bytes of the number that the next step begins with.
    fn wants(&self, direction: usize) -> usize {
        match self.ways[direction].steps.last() {
            Some(Step::Request) => 8,
            Some(Step::Reply) => 16,
            Some(Step::MultiOps | Step::MultiResults) => 9,
            _ => 4,
        }
    }

    /// Goes on to where bytes are wanted, or to the next frame.
    fn advance(&mut self, direction: usize) {
        let way = &mut self.ways[direction];
        loop {
            if way.left == Some(0) {
                *way = Way {
                    first: false,
                    ..Way::default()
                };
                return;
            }
            match way.field {
                Some((0, _)) => way.field = None,
                Some(_) => return,
                None => {}
            }
            match way.steps.last().copied() {
                None => way.begin(way.behind(), Fate::Keep),
                Some(Step::Rest(fate)) => {
                    way.steps.pop();
                    way.begin(way.behind(), fate);
                }
                Some(Step::Bytes(length, fate)) => {
                    way.steps.pop();
                    way.begin(length, fate);
                }
                Some(Step::Acl(count)) => {
                    way.steps.pop();
                    if count > 0 {
                        way.push(&[
                            Step::Bytes(4, Fate::Keep),
                            Step::Sized(Fate::Scheme),
                            Step::Sized(Fate::Id),
                            Step::Acl(count - 1),
                        ]);
                    }
                }
                Some(Step::Text(count)) => {
                    way.steps.pop();
                    if count > 0 {
                        way.push(&[Step::Sized(Fate::Keep), Step::Text(count - 1)]);
                    }
                }
                Some(_) => return,
            }
        }
    }

    /// The number that a step waited for is there (or the frame was too short for it, and is at its end).
    fn number(&mut self, direction: usize) {
        let wanted = self.wants(direction);
        let Some(step) = self.ways[direction].steps.pop() else {
            return;
        };
        if self.ways[direction].have < wanted {
            return;
        }
        let way = &mut self.ways[direction];
        match step {
            Step::Sized(fate) => way.sized(fate),
            Step::Acls => {
                let count = way.int(0).max(0).unsigned_abs();
                way.push(&[Step::Acl(count)]);
            }
            Step::Texts => {
                let count = way.int(0).max(0).unsigned_abs();
                way.push(&[Step::Text(count)]);
            }
            Step::Request => self.request(),
            Step::Reply => self.reply(),
            Step::MultiOps => {
                if way.word[4] == 0 {
                    let body = request_body(way.int(0)).unwrap_or(vec![Step::Rest(Fate::Zero)]);
                    way.push(&[Step::MultiOps]);
                    way.push(&body);
                }
            }
            Step::MultiResults => {
                let (kind, error) = (way.int(0), way.int(5));
                if way.word[4] == 0 {
                    way.push(&[Step::MultiResults]);
                    if error == 0 || kind == ERROR {
                        way.push(&result_body(kind).unwrap_or(vec![Step::Rest(Fate::Zero)]));
                    }
                }
            }
            Step::Bytes(..) | Step::Acl(_) | Step::Text(_) | Step::Rest(_) => {}
        }
    }

    fn request(&mut self) {
        let way = &mut self.ways[0];
        let (xid, opcode) = (way.int(0), way.int(4));
        let highest = self.highest;
        self.highest = highest.max(xid);
        let steps = match opcode {
            AUTH => {
                // type, scheme, auth
                way.doubt = true;
                vec![
                    Step::Bytes(4, Fate::Keep),
                    Step::Sized(Fate::Keep),
                    Step::Sized(Fate::Zero),
                ]
            }
            SASL => vec![Step::Sized(Fate::Zero), Step::Rest(Fate::Zero)],
            MULTI | MULTI_READ => vec![Step::MultiOps],
            _ => request_body(opcode).unwrap_or_default(),
        };
        way.push(&steps);
        let data = self.data_kept.is_some() && matches!(opcode, GET_DATA | MULTI | MULTI_READ);
        if data || matches!(opcode, SASL | GET_ACL) {
            // Were the xid that of another request under way, that one's reply would be taken for this one's.
            self.overflowed |= xid <= highest;
            if self.pending.len() >= PENDING_MAX {
                self.overflowed = true;
            } else {
                self.pending.push_back((xid, opcode));
            }
        }
    }

    fn reply(&mut self) {
        let way = &mut self.ways[1];
        let (xid, error) = (way.int(0), way.int(12));
        let found = self.pending.iter().position(|(own, _)| *own == xid);
        let opcode = found
            .and_then(|found| self.pending.remove(found))
            .map(|(_, opcode)| opcode);
        let steps = match opcode {
            _ if error != 0 && opcode != Some(SASL) => vec![],
            Some(SASL) => vec![Step::Sized(Fate::Zero), Step::Rest(Fate::Zero)],
            Some(GET_ACL) => vec![Step::Acls],
            Some(GET_DATA) => vec![Step::Sized(Fate::Data)],
            Some(_) => vec![Step::MultiResults],
            // A watch event has no secret.
            None if self.overflowed && xid >= 0 => vec![Step::Rest(Fate::Zero)],
            None => vec![],
        };
        way.push(&steps);
    }
}

/// Takes bytes towards a number of so many; how many.
fn gather(way: &mut Way, data: &[u8], wanted: usize) -> usize {
    let taken = (wanted - way.have).min(data.len());
    way.word[way.have..way.have + taken].copy_from_slice(&data[..taken]);
    way.have += taken;
    taken
}

#[cfg(test)]
#[path = "redact_tests.rs"]
mod tests;
