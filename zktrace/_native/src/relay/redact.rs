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

use super::track::FRAME_MAX;

/// Requests without a reply whose replies hold secrets; beyond, bodies of replies become zeros.
const PENDING_MAX: usize = 65_536;

const ERROR: i32 = -1;
const CREATE: [i32; 3] = [1, 15, 19];
const CREATE_TTL: i32 = 21;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;
const GET_ACL: i32 = 6;
const SET_ACL: i32 = 7;
const MULTI: i32 = 14;
const MULTI_READ: i32 = 22;
const AUTH: i32 = 100;
const SASL: i32 = 102;
const STAT: u64 = 68;

/// What is done to the bytes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    Zero,
    /// Node data: kept, or so many bytes of it.
    Data,
    /// Kept, and noted as an ACL's scheme.
    Scheme,
    /// Zeros behind the first colon, if the scheme is digest.
    Id,
}

/// What comes next in a frame; steps are a stack.
#[derive(Clone, Copy, Debug)]
enum Step {
    Bytes(u64, Fate),
    /// An int, then so many bytes.
    Sized(Fate),
    /// An int, then so many ACLs; so many ACLs.
    Acls,
    Acl(u32),
    /// An int, then so many texts; so many texts.
    Texts,
    Text(u32),
    /// A RequestHeader, a ReplyHeader, then what they tell.
    Request,
    Reply,
    /// A MultiHeader, its body and what follows it.
    MultiOps,
    MultiResults,
    Rest(Fate),
}

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
    /// There were too many of them.
    overflowed: bool,
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
            let taken = self.part(direction, rest);
            rest = &mut rest[taken..];
        }
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
        if matches!(opcode, SASL | GET_ACL | GET_DATA | MULTI | MULTI_READ) {
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

/// The body of a request whose layout matters; None: not known. In a multi all of it has to be known.
fn request_body(opcode: i32) -> Option<Vec<Step>> {
    let keep = Step::Sized(Fate::Keep);
    Some(match opcode {
        _ if CREATE.contains(&opcode) => vec![
            keep,
            Step::Sized(Fate::Data),
            Step::Acls,
            Step::Bytes(4, Fate::Keep),
        ],
        CREATE_TTL => vec![
            keep,
            Step::Sized(Fate::Data),
            Step::Acls,
            Step::Bytes(12, Fate::Keep),
        ],
        SET_DATA => vec![keep, Step::Sized(Fate::Data), Step::Bytes(4, Fate::Keep)],
        SET_ACL => vec![keep, Step::Acls, Step::Bytes(4, Fate::Keep)],
        // delete, check: path, version.
        2 | 13 => vec![keep, Step::Bytes(4, Fate::Keep)],
        // exists, getData, getChildren: path, watch.
        3 | GET_DATA | 8 => vec![keep, Step::Bytes(1, Fate::Keep)],
        _ => return None,
    })
}

/// The body of a result in a multi's reply.
fn result_body(kind: i32) -> Option<Vec<Step>> {
    let stat = Step::Bytes(STAT, Fate::Keep);
    Some(match kind {
        ERROR => vec![Step::Bytes(4, Fate::Keep)],
        1 => vec![Step::Sized(Fate::Keep)],
        15 | 19 | CREATE_TTL => vec![Step::Sized(Fate::Keep), stat],
        SET_DATA => vec![stat],
        2 | 13 => vec![],
        GET_DATA => vec![Step::Sized(Fate::Data), stat],
        8 => vec![Step::Texts],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes()[..], body].concat()
    }

    fn text(value: &[u8]) -> Vec<u8> {
        frame(value)
    }

    fn connect_request() -> Vec<u8> {
        frame(&[&[0; 24][..], &text(&[7; 16]), &[1]].concat())
    }

    fn connect_response() -> Vec<u8> {
        frame(&[&[9; 16][..], &text(&[7; 16]), &[1]].concat())
    }

    fn header(xid: i32, opcode: i32) -> Vec<u8> {
        [xid.to_be_bytes(), opcode.to_be_bytes()].concat()
    }

    /// Each direction's frames, and the same with the secrets as zeros.
    fn conversation() -> [(Vec<u8>, Vec<u8>); 2] {
        let auth = |secret: &[u8]| {
            frame(
                &[
                    &header(-4, AUTH)[..],
                    &[0; 4],
                    &text(b"digest"),
                    &text(secret),
                ]
                .concat(),
            )
        };
        let sasl = |secret: &[u8]| frame(&[&header(5, SASL)[..], &text(secret)].concat());
        let get = frame(
            &[
                &header(6, 4)[..],
                &text(b"/a/long/path/that/is/no/secret/at/all"),
                &[0],
            ]
            .concat(),
        );
        let zero = |mut request: Vec<u8>, from: usize| {
            request[from..from + 16].fill(0);
            request
        };
        let ask = [
            connect_request(),
            auth(b"user:secret"),
            frame(&header(-2, 11)),
            sasl(b"token"),
            get.clone(),
        ];
        let ask_clean = [
            zero(connect_request(), 32),
            auth(&[0; 11]),
            frame(&header(-2, 11)),
            sasl(&[0; 5]),
            get,
        ];
        let reply =
            |xid: i32, body: &[u8]| frame(&[&xid.to_be_bytes()[..], &[3; 12], body].concat());
        let told = [
            connect_response(),
            reply(-4, &[]),
            reply(5, &text(b"challenge")),
            reply(6, &[8; 99]),
        ];
        let told_clean = [
            zero(connect_response(), 24),
            reply(-4, &[]),
            reply(5, &text(&[0; 9])),
            reply(6, &[8; 99]),
        ];
        [
            (ask.concat(), ask_clean.concat()),
            (told.concat(), told_clean.concat()),
        ]
    }

    #[test]
    fn secrets_become_zeros_however_the_bytes_are_cut() {
        for size in [1, 2, 3, 5, 7, 11, 36, 40, 1000] {
            let mut redactor = Redactor::default();
            for (direction, (bytes, clean)) in conversation().into_iter().enumerate() {
                let mut got = bytes.clone();
                for chunk in got.chunks_mut(size) {
                    redactor.pass(direction, chunk);
                }
                assert_eq!(got, clean, "direction {direction}, chunks of {size}");
                assert_ne!(got, bytes);
            }
        }
    }

    #[test]
    fn lengths_that_lie_stay_within_their_frame() {
        let mut redactor = Redactor::default();
        let lying = frame(&[&[1; 24][..], &[0xFF; 4], &[7; 4]].concat());
        let mut bytes = [lying, frame(&header(6, 4))].concat();
        redactor.pass(0, &mut bytes);
        assert_eq!(bytes[32..36], [0; 4]);
        assert_eq!(bytes[36..], frame(&header(6, 4)));
        let bad = frame(&[&header(-4, AUTH)[..], &[0; 4], &[0xFF; 4], b"secret"].concat());
        let mut bytes = bad.clone();
        redactor.pass(0, &mut bytes);
        assert_eq!(bytes[20..], [0; 6]);
        let mut short = frame(&[]);
        Redactor::default().pass(0, &mut short);
        assert_eq!(short, frame(&[]));
    }

    #[test]
    fn other_protocols_pass() {
        for bytes in [
            &b"ruok"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01",
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let mut got = bytes.to_vec();
            Redactor::default().pass(0, &mut got);
            assert_eq!(got, bytes);
        }
    }

    /// A create with an ACL of the digest scheme and one of another, and data.
    fn create(xid: i32, data: &[u8], digest: &[u8]) -> Vec<u8> {
        frame(&[&header(xid, 1)[..], &create_body(data, digest)].concat())
    }

    fn create_body(data: &[u8], digest: &[u8]) -> Vec<u8> {
        [&text(b"/a")[..], &text(data), &acls(digest), &[0; 4]].concat()
    }

    fn acls(digest: &[u8]) -> Vec<u8> {
        [
            &2_i32.to_be_bytes()[..],
            &[0, 0, 0, 31],
            &text(b"digest"),
            &text(&[b"bob:", digest].concat()),
            &[0, 0, 0, 1],
            &text(b"ip"),
            &text(b"fd00::1"),
        ]
        .concat()
    }

    fn multi(xid: i32, data: &[u8], digest: &[u8]) -> Vec<u8> {
        let begin = |kind: i32| [&kind.to_be_bytes()[..], &[0], &[0xFF; 4]].concat();
        let check = [&text(b"/a")[..], &[0; 4]].concat();
        frame(
            &[
                &header(xid, MULTI)[..],
                &begin(13),
                &check,
                &begin(1),
                &create_body(data, digest),
                &[0xFF, 0xFF, 0xFF, 0xFF, 1, 0xFF, 0xFF, 0xFF, 0xFF],
            ]
            .concat(),
        )
    }

    #[test]
    fn hashes_of_acls_and_node_data_go_where_they_are() {
        let (hash, data) = (&b"zUY/Y+L9g1Yb="[..], &b"secret data"[..]);
        let no_hash = vec![0; hash.len()];
        let few = [&data[..3], &vec![0; data.len() - 3]].concat();
        let told = |hash: &[u8], data: &[u8]| {
            let reply =
                |xid: i32, body: &[u8]| frame(&[&xid.to_be_bytes()[..], &[0; 12], body].concat());
            [
                connect_response(),
                reply(9, &[&acls(hash)[..], &[1; 68]].concat()),
                reply(10, &[&text(data)[..], &[1; 68]].concat()),
                reply(11, b"no secret at all"),
            ]
            .concat()
        };
        let asked = |hash: &[u8], data: &[u8]| {
            let get = |xid: i32, opcode: i32| {
                frame(&[&header(xid, opcode)[..], &text(b"/a"), &[0]].concat())
            };
            [
                connect_request(),
                create(1, data, hash),
                multi(2, data, hash),
                frame(&[&header(3, SET_DATA)[..], &text(b"/a"), &text(data), &[0; 4]].concat()),
                frame(&[&header(4, SET_ACL)[..], &text(b"/a"), &acls(hash), &[0; 4]].concat()),
                get(9, GET_ACL),
                get(10, GET_DATA),
                get(11, 3),
            ]
            .concat()
        };
        for (kept, hidden) in [(None, data), (Some(3), &few[..])] {
            for size in [1, 2, 3, 5, 7, 11, 40, 10_000] {
                let mut redactor = Redactor::new(kept);
                for (direction, bytes, clean) in [
                    (0, asked(hash, data), asked(&no_hash, hidden)),
                    (1, told(hash, data), told(&no_hash, hidden)),
                ] {
                    let mut got = bytes.clone();
                    for chunk in got.chunks_mut(size) {
                        redactor.pass(direction, chunk);
                    }
                    // Passwords are another test's.
                    let from = if direction == 0 { 48 } else { 40 };
                    assert_eq!(
                        got[from..],
                        clean[from..],
                        "direction {direction}, chunks of {size}"
                    );
                    assert_ne!(got, bytes);
                }
            }
        }
    }

    #[test]
    fn frames_of_noise_keep_their_length_and_what_follows_them() {
        let mut state = 7_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for _ in 0..2000 {
            let opcode = [1, 4, 5, 6, 7, 14, 15, 21, 22, 100, 102][next() as usize % 11];
            let noise: Vec<u8> = (0..next() % 80)
                .map(|_| [0, 0, 0, 1, 2, 9, 255][next() as usize % 7])
                .collect();
            let body = [&header(5, opcode)[..], &noise].concat();
            let size = next() as usize % 20 + 1;
            let mut redactor = Redactor::new(Some(0));
            let ask = frame(&[&header(6, 3)[..], &text(b"/kept"), &[0]].concat());
            let mut bytes = [connect_request(), frame(&body), ask.clone()].concat();
            let length = bytes.len();
            for chunk in bytes.chunks_mut(size) {
                redactor.pass(0, chunk);
            }
            assert_eq!(bytes.len(), length);
            assert_eq!(bytes[length - ask.len()..], ask);
        }
    }
}
