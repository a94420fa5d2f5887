//! Capture file containers (pcap, pcapng): bytes in, packets out. Knows nothing of what is in a
//! packet.
//!
//! This module has what both formats share: telling them apart, records out of blocks of any size,
//! and the way past damage (the rules are those of `zktrace/capture/records.py`). A packet that
//! lies within one block is handed out as a slice of it; only what straddles blocks is copied.

use crate::counters::CaptureCounters;
use crate::pcap::Pcap;
use crate::pcapng::Pcapng;

pub const EMPTY: &str = "is empty";
pub const NOT_A_CAPTURE: &str = "is not a pcap or pcapng capture";

/// A captured frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub ts_ns: i64,
    pub linktype: u16,
    pub data: &'a [u8],
    /// Length on the wire, never below that of `data`.
    pub wire_len: u32,
}

/// Takes packets; a closure will do.
pub trait PacketSink {
    fn packet(&mut self, packet: Packet<'_>);

    /// The same, called where packets come one behind the other without anything odd: worth to be compiled into the
    /// caller.
    #[inline(always)]
    fn one_of_many(&mut self, packet: Packet<'_>) {
        self.packet(packet);
    }
}

impl<F: FnMut(Packet<'_>)> PacketSink for F {
    #[inline]
    fn packet(&mut self, packet: Packet<'_>) {
        self(packet);
    }
}

/// The source is no capture at all; the text says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotACapture(pub &'static str);

/// What a format says of a place in the buffer.
pub(crate) enum Verdict {
    /// A record of this length.
    Take(usize),
    /// No record begins here.
    Bad,
    /// Cannot be told before this many bytes, counted from the place, are there.
    Need(usize),
}

pub(crate) trait Records {
    /// Takes the record at the start of `rest`.
    fn record(
        &mut self,
        rest: &[u8],
        eof: bool,
        counters: &mut CaptureCounters,
        f: &mut impl PacketSink,
    ) -> Verdict;

    /// Takes records from the start of `rest` as long as nothing about them is odd; returns how many bytes they
    /// were. What it leaves is `record`'s to judge.
    fn burst(&mut self, _rest: &[u8], _f: &mut impl PacketSink) -> usize {
        0
    }

    /// Whether, behind damage, a good record begins at the start of `rest`. Never `Need` at `eof`.
    fn candidate(&self, rest: &[u8], eof: bool) -> Verdict;
}

#[derive(Debug)]
enum Format {
    Unknown,
    Pcap(Pcap),
    Pcapng(Box<Pcapng>),
}

/// Where the parser stands between two calls.
#[derive(Debug, Default)]
struct Progress {
    /// Bytes skipped so far when looking for the end of a damaged place.
    skipped: Option<u64>,
    /// How many bytes the next step needs.
    need: usize,
}

/// Push parser of one capture: `feed` blocks of any size, then `finish`.
#[derive(Debug)]
pub struct Container {
    pub counters: CaptureCounters,
    format: Format,
    progress: Progress,
    /// Bytes of earlier blocks that are not used up; those before `carry_pos` are.
    carry: Vec<u8>,
    carry_pos: usize,
}

impl Default for Container {
    fn default() -> Self {
        Self::new()
    }
}

/// A carry buffer beyond this is given back when it has been used up.
const KEEP_CARRY: usize = 1 << 20;

impl Container {
    pub fn new() -> Self {
        Container {
            counters: CaptureCounters::default(),
            format: Format::Unknown,
            progress: Progress::default(),
            carry: Vec::new(),
            carry_pos: 0,
        }
    }

    pub fn feed(&mut self, mut data: &[u8], f: &mut impl PacketSink) -> Result<(), NotACapture> {
        while !self.carry.is_empty() {
            if data.is_empty() {
                return Ok(());
            }
            let held = self.carry.len() - self.carry_pos;
            // In damage every byte may be the first of a record, so copying piecemeal is no gain.
            let take = if self.progress.skipped.is_some() {
                data.len()
            } else {
                self.progress.need.saturating_sub(held).min(data.len())
            };
            let (now, later) = data.split_at(take);
            self.carry.extend_from_slice(now);
            data = later;
            if self.carry.len() - self.carry_pos < self.progress.need {
                return Ok(());
            }
            let carry = std::mem::take(&mut self.carry);
            let outcome = self.run(carry.get(self.carry_pos..).unwrap_or(&[]), false, f);
            self.carry = carry;
            self.carry_pos += outcome?;
            self.compact();
        }
        let used = self.run(data, false, f)?;
        self.carry
            .extend_from_slice(data.get(used..).unwrap_or(&[]));
        Ok(())
    }

    /// End of the file.
    pub fn finish(&mut self, f: &mut impl PacketSink) -> Result<(), NotACapture> {
        let carry = std::mem::take(&mut self.carry);
        let rest = carry.get(self.carry_pos..).unwrap_or(&[]);
        self.carry_pos = 0;
        if matches!(self.format, Format::Unknown) {
            return match rest.len() {
                0 => Err(NotACapture(EMPTY)),
                1..=3 => Err(NotACapture(NOT_A_CAPTURE)),
                _ => {
                    self.counters.truncated += 1;
                    Ok(())
                }
            };
        }
        self.run(rest, true, f)?;
        if let Some(skipped) = self.progress.skipped.take() {
            self.counters.damage(skipped);
        }
        Ok(())
    }

    fn compact(&mut self) {
        if self.carry_pos >= self.carry.len() {
            self.carry_pos = 0;
            if self.carry.capacity() > KEEP_CARRY {
                self.carry = Vec::new();
            } else {
                self.carry.clear();
            }
        } else if self.carry_pos > self.carry.len() / 2 {
            self.carry.drain(..self.carry_pos);
            self.carry_pos = 0;
        }
    }

    /// Takes all records that are complete in `buf`; returns how many bytes they were.
    fn run(
        &mut self,
        buf: &[u8],
        eof: bool,
        f: &mut impl PacketSink,
    ) -> Result<usize, NotACapture> {
        if matches!(self.format, Format::Unknown) {
            match sniff(buf)? {
                Ok(format) => self.format = format,
                Err(need) => {
                    self.progress.need = need;
                    return Ok(0);
                }
            }
        }
        let Container {
            format,
            progress,
            counters,
            ..
        } = self;
        Ok(match format {
            Format::Unknown => 0,
            Format::Pcap(pcap) => run_records(pcap, progress, counters, buf, eof, f),
            Format::Pcapng(pcapng) => run_records(pcapng.as_mut(), progress, counters, buf, eof, f),
        })
    }
}

/// The format by the first bytes, or how many are needed to tell.
fn sniff(buf: &[u8]) -> Result<Result<Format, usize>, NotACapture> {
    let Some(magic) = buf.first_chunk::<4>() else {
        return Ok(Err(4));
    };
    if let Some(pcap) = Pcap::new(u32::from_be_bytes(*magic)) {
        return Ok(Ok(Format::Pcap(pcap)));
    }
    if *magic != crate::pcapng::SECTION_MAGIC {
        return Err(NotACapture(NOT_A_CAPTURE));
    }
    if buf.len() < 12 {
        return Ok(Err(12));
    }
    match Pcapng::new(buf) {
        Some(pcapng) => Ok(Ok(Format::Pcapng(Box::new(pcapng)))),
        None => Err(NotACapture(NOT_A_CAPTURE)),
    }
}

fn run_records<R: Records>(
    records: &mut R,
    progress: &mut Progress,
    counters: &mut CaptureCounters,
    buf: &[u8],
    eof: bool,
    f: &mut impl PacketSink,
) -> usize {
    let mut rest = buf;
    loop {
        if progress.skipped.is_none() {
            rest = rest.get(records.burst(rest, f)..).unwrap_or(&[]);
        }
        if rest.is_empty() {
            break;
        }
        if let Some(skipped) = &mut progress.skipped {
            match records.candidate(rest, eof) {
                Verdict::Need(need) => {
                    progress.need = need;
                    break;
                }
                Verdict::Bad => {
                    *skipped += 1;
                    rest = rest.get(1..).unwrap_or(&[]);
                    continue;
                }
                Verdict::Take(_) => {
                    counters.damage(*skipped);
                    progress.skipped = None;
                }
            }
        }
        match records.record(rest, eof, counters, f) {
            Verdict::Take(length) => rest = rest.get(length..).unwrap_or(&[]),
            Verdict::Bad => {
                progress.skipped = Some(1);
                rest = rest.get(1..).unwrap_or(&[]);
            }
            Verdict::Need(need) if !eof => {
                progress.need = need;
                break;
            }
            Verdict::Need(_) => match next_candidate(records, rest) {
                Some(distance) => {
                    counters.damage(distance as u64);
                    rest = rest.get(distance..).unwrap_or(&[]);
                }
                None => {
                    counters.truncated += 1;
                    rest = &[];
                }
            },
        }
    }
    buf.len() - rest.len()
}

/// The file ends within the record at the start of `rest`: does a good one begin later?
#[cold]
fn next_candidate<R: Records>(records: &R, rest: &[u8]) -> Option<usize> {
    (1..rest.len()).find(|&distance| {
        let from = rest.get(distance..).unwrap_or(&[]);
        matches!(records.candidate(from, true), Verdict::Take(_))
    })
}
