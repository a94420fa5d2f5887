//! Of what is recorded, only what a filter lets through: requests with their replies, and watch events.
//!
//! Takes the recorder's packets, and puts the messages of each connection together. What passes is written as packets of a
//! connection that had nothing else to say: numbers without holes, so that it is decoded like any other (that it is filtered
//! is told by the file's head). Messages of a connection keep their order: what comes behind a request about which only its
//! reply can tell waits for that. Always kept, so that what is left can be understood and replayed: where connections begin and end,
//! ConnectRequest and ConnectResponse, `auth`, SASL, closeSession, and what rules did. Other protocols are left out.
//!
//! Bounded: beyond `HELD_MAX` bytes over all connections nothing waits any more; what is not known then is kept.
//! A message that is larger than `FRAME_SEEN` is kept as it comes, with its reply.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use super::facts::{int, long, text, Facts, Ops, Request, EVENT, REPLY_BODY};
use super::program::{Test, Tri};
use super::recording::{packets, Packet};
use super::tap::{put, TapFlow, ACK, FIN, RST, SYN};
use super::track::{hello, EVENT_XID, FRAME_MAX};

/// Bytes that wait to be decided about.
const HELD_MAX: usize = 32 << 20;
/// Longest message that is put together.
const FRAME_SEEN: usize = 4 << 20;
/// Of a message, as much as tells its xid and what becomes of it.
const HEAD: usize = REPLY_BODY;
/// Opcodes of what is always kept: auth, SASL, closeSession (ZooDefs.OpCode).
const ALWAYS: [i32; 3] = [100, 102, -11];

/// What waits for its turn: a message, or an end.
struct Held {
    direction: usize,
    flags: u8,
    bytes: Vec<u8>,
    /// As it came: when, and how much.
    pieces: Vec<(u64, usize)>,
    note: Vec<u8>,
    keep: Option<bool>,
}

struct Asked {
    xid: i32,
    /// None: too large to be looked at, or not to be understood.
    request: Option<Request>,
    since: u64,
    /// Which of all that was held.
    number: u64,
    /// What was decided when it was asked.
    keep: Option<bool>,
}

/// One direction.
struct Way {
    frame: Vec<u8>,
    pieces: Vec<(u64, usize)>,
    first: bool,
    /// Bytes still to come of a message that is kept as it comes.
    passing: usize,
}

struct Talk {
    flow: TapFlow,
    ways: [Way; 2],
    /// No client of ZooKeeper.
    raw: bool,
    session: Option<u64>,
    asked: VecDeque<Asked>,
    held: VecDeque<Held>,
    /// The number of the first of them.
    base: u64,
    bytes: usize,
    ended: [bool; 2],
    /// The numbers of the next bytes to come.
    came: [u32; 2],
}

/// See the module.
pub struct Sieve {
    test: Test,
    ops: Ops,
    talks: HashMap<[SocketAddr; 2], Talk>,
    held: usize,
}

impl Sieve {
    #[must_use]
    pub fn new(test: Test, ops: Ops) -> Self {
        Self {
            test,
            ops,
            talks: HashMap::new(),
            held: 0,
        }
    }

    /// Whole blocks of the tap; what may be written of them, and of earlier ones, is put into `out`.
    pub fn pass(&mut self, block: &[u8], out: &mut Vec<u8>) {
        for packet in packets(block) {
            self.packet(&packet, out);
        }
    }

    /// The end: what waits for a reply will have none.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        for (_, mut talk) in self.talks.drain() {
            talk.end(&self.test);
            talk.write(out);
        }
        self.held = 0;
    }

    fn packet(&mut self, packet: &Packet<'_>, out: &mut Vec<u8>) {
        let there = [packet.src, packet.dst];
        if packet.flags & (SYN | ACK) == SYN {
            let talk = Talk::new(TapFlow::new(packet.src, packet.dst));
            if let Some(mut old) = self.talks.insert(there, talk) {
                self.held -= old.bytes;
                old.end(&self.test);
                old.write(out);
            }
        }
        let known = if self.talks.contains_key(&there) {
            there
        } else {
            [packet.dst, packet.src]
        };
        let direction = usize::from(known != there);
        let Some(talk) = self.talks.get_mut(&known) else {
            return;
        };
        let before = talk.bytes;
        if packet.flags & SYN != 0 {
            talk.flow.begin(direction, packet.seq);
            talk.came[direction] = packet.seq.wrapping_add(1);
        }
        if packet.data.is_empty() {
            talk.mark(direction, packet);
        } else if !talk.expected(direction, packet) {
            // Something was left out by a tap that loses: where the next message begins is not known.
            talk.raw = true;
        } else if !talk.raw {
            let full = self.held > HELD_MAX;
            talk.data(direction, packet, &self.test, &self.ops, full);
        }
        talk.ended[direction] |= packet.flags & FIN != 0;
        let over = packet.flags & RST != 0 || talk.ended == [true, true];
        if over {
            talk.end(&self.test);
        }
        talk.write(out);
        self.held = self.held + talk.bytes - before;
        if over {
            self.held -= talk.bytes;
            self.talks.remove(&known);
        }
    }
}

impl Talk {
    fn new(flow: TapFlow) -> Self {
        let way = || Way {
            frame: Vec::new(),
            pieces: Vec::new(),
            first: true,
            passing: 0,
        };
        Self {
            flow,
            ways: [way(), way()],
            raw: false,
            session: None,
            asked: VecDeque::new(),
            held: VecDeque::new(),
            base: 0,
            bytes: 0,
            ended: [false, false],
            came: [0, 0],
        }
    }

    fn expected(&mut self, direction: usize, packet: &Packet<'_>) -> bool {
        let came = &mut self.came[direction];
        let expected = packet.seq == *came;
        *came = packet.seq.wrapping_add(packet.data.len() as u32);
        expected
    }

    fn hold(&mut self, held: Held) -> u64 {
        self.bytes += held.bytes.len();
        self.held.push_back(held);
        self.base + self.held.len() as u64 - 1
    }

    /// A packet without bytes.
    fn mark(&mut self, direction: usize, packet: &Packet<'_>) {
        self.hold(Held {
            direction,
            flags: packet.flags,
            bytes: Vec::new(),
            pieces: vec![(packet.ts_ns, 0)],
            note: packet.note.to_vec(),
            keep: Some(true),
        });
    }

    fn data(&mut self, direction: usize, packet: &Packet<'_>, test: &Test, ops: &Ops, full: bool) {
        let mut data = packet.data;
        while !data.is_empty() && !self.raw {
            let way = &mut self.ways[direction];
            let have = way.frame.len();
            let wanted = match way.frame.first_chunk::<4>() {
                _ if way.passing > 0 => way.passing,
                None => 4 - have,
                Some(length) => 4 + u32::from_be_bytes(*length) as usize - have,
            };
            let taken = wanted.min(data.len());
            way.frame.extend_from_slice(&data[..taken]);
            way.pieces.push((packet.ts_ns, taken));
            data = &data[taken..];
            self.bytes += taken;
            if way.passing > 0 {
                way.passing -= taken;
                self.passed(direction, Some(true));
                continue;
            }
            let Some(length) = way.frame.first_chunk::<4>() else {
                continue;
            };
            let length = u32::from_be_bytes(*length);
            if length > FRAME_MAX {
                self.raw = true;
                return;
            }
            let (end, have) = (4 + length as usize, way.frame.len());
            if have == end {
                self.message(direction, test, ops);
            } else if (end > FRAME_SEEN || full) && have >= HEAD {
                way.passing = end - have;
                self.large(direction);
            }
        }
        if full {
            // What is not known is kept, and its reply.
            for held in &mut self.held {
                held.keep.get_or_insert(true);
            }
        }
    }

    /// What was gathered of a direction is held; gives its number.
    fn passed(&mut self, direction: usize, keep: Option<bool>) -> u64 {
        let way = &mut self.ways[direction];
        let bytes = std::mem::take(&mut way.frame);
        let pieces = std::mem::take(&mut way.pieces);
        self.bytes -= bytes.len();
        self.hold(Held {
            direction,
            flags: TapFlow::DATA,
            bytes,
            pieces,
            note: Vec::new(),
            keep,
        })
    }

    fn message(&mut self, direction: usize, test: &Test, ops: &Ops) {
        let way = &mut self.ways[direction];
        let first = std::mem::take(&mut way.first);
        let since = way.pieces.last().map_or(0, |piece| piece.0);
        let begun = way.pieces.first().map_or(0, |piece| piece.0);
        if first {
            if direction == 1 {
                self.session = hello(&way.frame);
            }
            self.passed(direction, Some(true));
        } else if direction == 0 {
            let request = Request::read(&way.frame, ops);
            let keep = match &request {
                Some(request) if !ALWAYS.contains(&request.opcode) => {
                    match test.holds(&self.facts(Some(request)), Tri::Maybe) {
                        Tri::Yes => Some(true),
                        Tri::No => Some(false),
                        Tri::Maybe => None,
                    }
                }
                _ => Some(true),
            };
            let xid = request.as_ref().map_or(0, |request| request.xid);
            let number = self.passed(0, keep);
            self.asked.push_back(Asked {
                xid,
                request,
                since,
                number,
                keep,
            });
        } else {
            let frame = std::mem::take(&mut way.frame);
            let keep = self.answer(&frame, begun, test);
            self.ways[1].frame = frame;
            self.passed(1, Some(keep));
        }
    }

    fn facts<'a>(&self, request: Option<&'a Request>) -> Facts<'a> {
        let [client, server] = self.flow.ends();
        let facts = Facts::of(client, server, self.session);
        match request {
            Some(request) => facts.asked(request),
            None => facts,
        }
    }

    /// Whether a reply or a watch event is kept; a reply decides about its request.
    fn answer(&mut self, frame: &[u8], begun: u64, test: &Test) -> bool {
        let xid = int(frame, 4).unwrap_or(0);
        if xid == EVENT_XID {
            let path = text(frame, REPLY_BODY + 8).map(|(path, _)| path);
            let mut facts = self.facts(None);
            facts.kind = EVENT;
            facts.path = path.as_deref();
            facts.event = int(frame, REPLY_BODY).map(i64::from);
            facts.reply_bytes = Some(frame.len() as i64 - 4);
            return test.holds(&facts, Tri::No) == Tri::Yes;
        }
        let asked = self.take(xid);
        if let Some(keep) = asked.as_ref().and_then(|asked| self.kept(asked)) {
            return keep;
        }
        let request = asked.as_ref().and_then(|asked| asked.request.as_ref());
        let mut facts = self.facts(request);
        facts.zxid = long(frame, 8);
        facts.error = int(frame, 16).map(i64::from);
        facts.reply_bytes = Some(frame.len() as i64 - 4);
        facts.latency_ns = asked
            .as_ref()
            .map(|asked| begun.saturating_sub(asked.since) as i64);
        let keep = test.holds(&facts, Tri::No) == Tri::Yes;
        if let Some(asked) = &asked {
            self.decide(asked.number, keep);
        }
        keep
    }

    /// The head of a message that is too large to be put together.
    fn large(&mut self, direction: usize) {
        let way = &mut self.ways[direction];
        let first = std::mem::take(&mut way.first);
        let xid = int(&way.frame, 4).unwrap_or(0);
        let number = self.passed(direction, Some(true));
        if first {
            return;
        }
        if direction == 0 {
            self.asked.push_back(Asked {
                xid,
                request: None,
                since: 0,
                number,
                keep: Some(true),
            });
        } else if let Some(asked) = self.take(xid) {
            self.decide(asked.number, true);
        }
    }

    fn take(&mut self, xid: i32) -> Option<Asked> {
        let place = self.asked.iter().position(|asked| asked.xid == xid)?;
        self.asked.remove(place)
    }

    /// What was decided about a request.
    fn kept(&self, asked: &Asked) -> Option<bool> {
        let held = || match asked.number.checked_sub(self.base) {
            Some(place) => self.held.get(place as usize)?.keep,
            // It could not wait.
            None => Some(true),
        };
        asked.keep.or_else(held)
    }

    fn decide(&mut self, number: u64, keep: bool) {
        let place = number.checked_sub(self.base);
        if let Some(held) = place.and_then(|place| self.held.get_mut(place as usize)) {
            held.keep = Some(keep);
        }
    }

    /// No reply comes any more.
    fn end(&mut self, test: &Test) {
        for asked in std::mem::take(&mut self.asked) {
            if self.kept(&asked).is_none() {
                let facts = self.facts(asked.request.as_ref());
                let keep = test.holds(&facts, Tri::No) == Tri::Yes;
                self.decide(asked.number, keep);
            }
        }
    }

    /// Writes what is decided, up to what is not.
    fn write(&mut self, out: &mut Vec<u8>) {
        while let Some(keep) = self.held.front().and_then(|held| held.keep) {
            let Some(held) = self.held.pop_front() else {
                return;
            };
            self.base += 1;
            self.bytes -= held.bytes.len();
            if !keep {
                continue;
            }
            let mut rest = &held.bytes[..];
            for (ts_ns, size) in &held.pieces {
                let (part, behind) = rest.split_at(*size);
                rest = behind;
                put(
                    out,
                    &self.flow,
                    held.direction,
                    held.flags,
                    part,
                    *ts_ns,
                    &held.note,
                );
                self.flow.said(held.direction, held.flags, part.len());
            }
        }
    }
}
