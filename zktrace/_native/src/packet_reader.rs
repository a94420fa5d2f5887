//! QuorumPackets out of one direction's bytes, in whatever pieces these come. `zktrace/stream/packetreader.py` is the
//! reference. A packet that lies in one chunk is handed out in place, without a copy.

use crate::budget::{Budget, Kept};
use crate::framer::{HEAD_MAX, LENGTH_MAX};
use crate::probe::QUORUM_SASL;
use crate::schema::{int, long, Schema};

/// Ids of one client; more are no count.
const IDS_MAX: i32 = 65_536;
/// Type, zxid, length of the data; of a QuorumAuthPacket magic, status and length of the token.
pub const HEAD: usize = 16;
const SIZE_AT: usize = 12;

/// A packet: what was kept of its data, how long that truly is (-1: null), the whole's size (None: not known), when its
/// last byte was captured, whether bytes inside it were not, whether an earlier copy of some may have passed before.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub kind: i32,
    pub zxid: i64,
    pub data: &'a [u8],
    pub length: i32,
    pub size: Option<u64>,
    pub ts: i64,
    pub damaged: bool,
    pub late: bool,
}

impl Packet<'_> {
    /// All of its data is here.
    pub fn whole(&self) -> bool {
        self.length.max(0) as usize == self.data.len()
    }
}

/// A packet that did not lie in one chunk.
pub struct Joint {
    data: Vec<u8>,
    packet: Packet<'static>,
}

impl Joint {
    pub fn packet(&self) -> Packet<'_> {
        Packet {
            data: &self.data,
            ..self.packet
        }
    }
}

/// What [`PacketReader::feed`] came to, with the position up to which bytes were taken.
pub enum Fed<'a> {
    Packet(Packet<'a>, usize),
    Joint(Joint, usize),
    /// All bytes were taken.
    More,
    /// These bytes are no packet.
    Lost(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Token,
    Data,
    Count,
    Size,
    Id,
}

/// What a step or skipped bytes lead to.
enum Next {
    Go,
    Packet(Joint),
    Lost,
}

/// Packets of one direction.
pub struct PacketReader {
    /// QuorumAuthPackets may come: nothing else was read yet.
    auth: bool,
    /// Bytes of the packet at hand, lost ones too.
    pub taken: u64,
    stage: Stage,
    buf: [u8; HEAD],
    held: usize,
    kept: Kept,
    frozen: bool,
    damaged: bool,
    late: bool,
    last_ts: i64,
    kind: i32,
    zxid: i64,
    length: i32,
    left: u64,
    strings: u32,
}

impl PacketReader {
    pub fn new() -> Self {
        PacketReader {
            auth: true,
            taken: 0,
            stage: Stage::Head,
            buf: [0; HEAD],
            held: 0,
            kept: Kept::default(),
            frozen: false,
            damaged: false,
            late: false,
            last_ts: 0,
            kind: 0,
            zxid: 0,
            length: -1,
            left: 0,
            strings: 0,
        }
    }

    /// Begins at a boundary, or forgets what is at hand.
    pub fn restart(&mut self, budget: &mut Budget) {
        self.drop_partial(budget);
        self.auth = false;
    }

    fn drop_partial(&mut self, budget: &mut Budget) {
        self.kept.drop(budget);
        self.stage = Stage::Head;
        self.held = 0;
        self.frozen = false;
        self.damaged = false;
        self.late = false;
        self.taken = 0;
    }

    /// What the packet at hand holds, or will.
    pub fn cost(&self) -> usize {
        self.kept.charged
    }

    /// Gives up the data of the packet at hand but for its head; whether there were more.
    pub fn cut(&mut self, budget: &mut Budget) -> bool {
        self.kept.cut(budget)
    }

    /// Takes bytes from `data[pos..]` up to the end of one packet. `late`: their time, `ts`, is not certain.
    #[inline]
    pub fn feed<'a>(
        &mut self,
        schema: &Schema,
        budget: &mut Budget,
        data: &'a [u8],
        pos: usize,
        (ts, late): (i64, bool),
    ) -> Fed<'a> {
        if self.stage == Stage::Head && self.held == 0 {
            // the common case: all of it is here
            if let Some((packet, next)) = in_place(schema, data, pos, (ts, late)) {
                self.auth = false;
                return Fed::Packet(packet, next);
            }
        }
        self.feed_partial(schema, budget, data, pos, (ts, late))
    }

    /// Passes packets that lie at `data[pos..]`, one behind the other, up to one of type `stop` or one that is anything
    /// but plain: how many there are, and the position behind them. For who wants their number alone.
    #[inline]
    pub fn pass(
        &mut self,
        schema: &Schema,
        data: &[u8],
        mut pos: usize,
        stop: i32,
    ) -> (u64, usize) {
        let mut count = 0;
        if self.stage != Stage::Head || self.held != 0 {
            return (count, pos);
        }
        let mut rest = data.get(pos..).unwrap_or_default();
        while let Some((head, behind)) = rest.split_first_chunk::<HEAD>() {
            let (Some(kind), Some(length)) = (int(head, 0), int(head, SIZE_AT)) else {
                break;
            };
            if kind == stop || !(-1..=LENGTH_MAX).contains(&length) || !schema.knows_packet(kind) {
                break;
            }
            let length = length.max(0) as usize;
            let Some((ids, next)) = behind
                .get(length..)
                .and_then(<[u8]>::split_first_chunk::<4>)
            else {
                break;
            };
            if !matches!(i32::from_be_bytes(*ids), -1 | 0) {
                break;
            }
            rest = next;
            pos += HEAD + length + 4;
            count += 1;
        }
        self.auth &= count == 0;
        (count, pos)
    }

    #[inline(never)]
    fn feed_partial<'a>(
        &mut self,
        schema: &Schema,
        budget: &mut Budget,
        data: &'a [u8],
        mut pos: usize,
        (ts, late): (i64, bool),
    ) -> Fed<'a> {
        while pos < data.len() {
            self.late = late || self.taken > 0 && self.late;
            self.last_ts = if self.taken > 0 {
                self.last_ts.max(ts)
            } else {
                ts
            };
            let left = data.len() - pos;
            let next = if matches!(self.stage, Stage::Token | Stage::Data | Stage::Id) {
                let take = usize::try_from(self.left).map_or(left, |wanted| wanted.min(left));
                if self.stage == Stage::Data && !self.frozen {
                    self.kept.add(data.get(pos..pos + take).unwrap_or_default());
                }
                pos += take;
                self.taken += take as u64;
                self.took(budget, take as u64)
            } else {
                let need = if self.stage == Stage::Head { HEAD } else { 4 };
                let want = need.saturating_sub(self.held).min(left);
                if let (Some(to), Some(from)) = (
                    self.buf.get_mut(self.held..self.held + want),
                    data.get(pos..pos + want),
                ) {
                    to.copy_from_slice(from);
                }
                self.held += want;
                pos += want;
                self.taken += want as u64;
                if self.held < need {
                    break;
                }
                self.held = 0;
                self.step(schema, budget)
            };
            match next {
                Next::Go => {}
                Next::Packet(joint) => return Fed::Joint(joint, pos),
                Next::Lost => return Fed::Lost(pos),
            }
        }
        Fed::More
    }

    /// `missing` bytes were not captured: the packet that is over by it, its end reached or not known, if its head was
    /// seen; and whether the next boundary is still known.
    pub fn gap(&mut self, budget: &mut Budget, missing: u64) -> (Option<Joint>, bool) {
        self.damaged = true;
        self.frozen = true;
        let skipping = matches!(self.stage, Stage::Token | Stage::Data | Stage::Id);
        if skipping && missing <= self.left {
            self.taken += missing;
            return match self.took(budget, missing) {
                Next::Packet(joint) => (Some(joint), true),
                Next::Go | Next::Lost => (None, true),
            };
        }
        let known = !matches!(self.stage, Stage::Head | Stage::Token);
        let joint = known.then(|| self.joint(None));
        self.restart(budget);
        (joint, false)
    }

    /// So many bytes of what has a size are over.
    fn took(&mut self, budget: &mut Budget, count: u64) -> Next {
        self.left -= count;
        if self.left > 0 {
            return Next::Go;
        }
        match self.stage {
            Stage::Token => self.drop_partial(budget),
            Stage::Data => self.stage = Stage::Count,
            _ => return self.next_string(budget),
        }
        Next::Go
    }

    fn step(&mut self, schema: &Schema, budget: &mut Budget) -> Next {
        let Some(size) = int(&self.buf, 0) else {
            return Next::Lost;
        };
        match self.stage {
            Stage::Head => self.head(schema, budget),
            Stage::Count if (-1..=IDS_MAX).contains(&size) => {
                self.strings = 2 * size.max(0) as u32;
                self.next_string(budget)
            }
            Stage::Size if (-1..=LENGTH_MAX).contains(&size) => {
                self.left = size.max(0) as u64;
                self.stage = Stage::Id;
                if self.left > 0 {
                    Next::Go
                } else {
                    self.next_string(budget)
                }
            }
            _ => Next::Lost,
        }
    }

    fn head(&mut self, schema: &Schema, budget: &mut Budget) -> Next {
        let head = self.buf;
        let (Some(kind), Some(zxid), Some(length)) =
            (int(&head, 0), long(&head, 4), int(&head, SIZE_AT))
        else {
            return Next::Lost;
        };
        if !(-1..=LENGTH_MAX).contains(&length) {
            return Next::Lost;
        }
        if self.auth && head.starts_with(&QUORUM_SASL) {
            if length > 0 {
                self.left = length as u64;
                self.stage = Stage::Token;
            } else {
                self.drop_partial(budget);
            }
            return Next::Go;
        }
        if schema.packet(kind).is_none() {
            return Next::Lost;
        }
        self.auth = false;
        (self.kind, self.zxid, self.length) = (kind, zxid, length);
        self.left = length.max(0) as u64;
        let most = (length.max(0) as usize).min(HEAD_MAX);
        self.kept.begin(budget, most);
        self.stage = if self.left > 0 {
            Stage::Data
        } else {
            Stage::Count
        };
        Next::Go
    }

    /// Scheme and id of each of a client's ids: skipped, they may hold password hashes.
    fn next_string(&mut self, budget: &mut Budget) -> Next {
        if self.strings > 0 {
            self.strings -= 1;
            self.stage = Stage::Size;
            return Next::Go;
        }
        let joint = self.joint(Some(self.taken));
        self.drop_partial(budget);
        Next::Packet(joint)
    }

    fn joint(&mut self, size: Option<u64>) -> Joint {
        Joint {
            data: std::mem::take(&mut self.kept.buf),
            packet: Packet {
                kind: self.kind,
                zxid: self.zxid,
                data: &[],
                length: self.length,
                size,
                ts: self.last_ts,
                damaged: self.damaged,
                late: self.late,
            },
        }
    }
}

impl Default for PacketReader {
    fn default() -> Self {
        Self::new()
    }
}

/// A packet that lies in a chunk, and the position after it.
#[inline]
fn in_place<'a>(
    schema: &Schema,
    data: &'a [u8],
    pos: usize,
    (ts, late): (i64, bool),
) -> Option<(Packet<'a>, usize)> {
    let rest = data.get(pos..)?;
    let head = rest.first_chunk::<HEAD>()?;
    let (kind, length) = (int(head, 0)?, int(head, SIZE_AT)?);
    if !(-1..=LENGTH_MAX).contains(&length) || schema.packet(kind).is_none() {
        return None;
    }
    let stop = HEAD + length.max(0) as usize;
    let body = rest.get(HEAD..stop)?;
    let size = match int(rest, stop)? {
        -1 | 0 => stop + 4,
        ids => behind_ids(rest, stop + 4, ids)?,
    };
    let packet = Packet {
        kind,
        zxid: long(head, 4)?,
        data: body.get(..HEAD_MAX).unwrap_or(body),
        length,
        size: Some(size as u64),
        ts,
        damaged: false,
        late,
    };
    Some((packet, pos + size))
}

/// The position after so many ids, scheme and id each, if they lie there.
fn behind_ids(rest: &[u8], mut pos: usize, ids: i32) -> Option<usize> {
    if !(1..=IDS_MAX).contains(&ids) {
        return None;
    }
    for _ in 0..2 * ids {
        let size = int(rest, pos)?;
        if !(-1..=LENGTH_MAX).contains(&size) {
            return None;
        }
        pos += 4 + size.max(0) as usize;
    }
    (pos <= rest.len()).then_some(pos)
}
