//! The classic pcap container. Knows nothing of link types. What counts as damage is written down
//! in `zktrace/capture/pcap.py`.

use crate::container::{Packet, PacketSink, Records, Verdict};
use crate::counters::CaptureCounters;

const FILE_HEADER: usize = 24;
/// The greatest snap length that libpcap itself writes (MAXIMUM_SNAPLEN); a file may declare more.
const MAX_PACKET: u32 = 262_144;
/// A declared snap length beyond this is taken for damage of the header: it would let one wrong
/// length swallow everything behind it.
const MAX_SNAPLEN: u32 = 16 << 20;
/// No link carries frames that large.
const MAX_WIRE_LEN: u32 = 64 << 20;
const MAX_TIME_STEP_S: u32 = 86_400;

#[derive(Debug)]
pub(crate) struct Pcap {
    big_endian: bool,
    /// Parts of a second that the fraction counts.
    unit: u32,
    ns_per_unit: i64,
    header_len: usize,
    started: bool,
    linktype: u16,
    max_packet: u32,
    last_s: Option<u32>,
}

struct Header {
    seconds: u32,
    fraction: u32,
    incl: u32,
    orig: u32,
}

impl Pcap {
    /// `magic` as a big-endian number; `None` when it is not one of pcap's.
    pub fn new(magic: u32) -> Option<Self> {
        let (big_endian, unit, header_len) = match magic {
            0xA1B2_C3D4 => (true, 1_000_000, 16),
            0xD4C3_B2A1 => (false, 1_000_000, 16),
            0xA1B2_3C4D => (true, 1_000_000_000, 16),
            0x4D3C_B2A1 => (false, 1_000_000_000, 16),
            0xA1B2_CD34 => (true, 1_000_000, 24),
            0x34CD_B2A1 => (false, 1_000_000, 24),
            _ => return None,
        };
        Some(Pcap {
            big_endian,
            unit,
            ns_per_unit: if unit == 1_000_000 { 1000 } else { 1 },
            header_len,
            started: false,
            linktype: 0,
            max_packet: MAX_PACKET,
            last_s: None,
        })
    }

    #[inline]
    fn u32(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    }

    #[inline]
    fn header(&self, rest: &[u8]) -> Option<Header> {
        let h = rest.first_chunk::<16>()?;
        Some(Header {
            seconds: self.u32([h[0], h[1], h[2], h[3]]),
            fraction: self.u32([h[4], h[5], h[6], h[7]]),
            incl: self.u32([h[8], h[9], h[10], h[11]]),
            orig: self.u32([h[12], h[13], h[14], h[15]]),
        })
    }

    #[inline]
    fn odd(&self, header: &Header, last_s: Option<u32>) -> bool {
        header.incl == 0
            || header.incl > self.max_packet
            || header.fraction >= self.unit
            || header.orig > MAX_WIRE_LEN
            || !near(header.seconds, last_s)
    }

    fn burst_of<const BIG: bool>(&mut self, buf: &[u8], f: &mut impl PacketSink) -> usize {
        let number = if BIG {
            u32::from_be_bytes
        } else {
            u32::from_le_bytes
        };
        let (unit, ns_per_unit, linktype) = (self.unit, self.ns_per_unit, self.linktype);
        let max_packet = self.max_packet;
        // The first record has nothing that its time could be compared to.
        let Some(mut last_s) = self.last_s else {
            return 0;
        };
        let mut rest = buf;
        while let Some((h, behind)) = rest.split_first_chunk::<16>() {
            let seconds = number([h[0], h[1], h[2], h[3]]);
            let fraction = number([h[4], h[5], h[6], h[7]]);
            let incl = number([h[8], h[9], h[10], h[11]]);
            let orig = number([h[12], h[13], h[14], h[15]]);
            if incl.wrapping_sub(1) >= max_packet
                || fraction >= unit
                || orig > MAX_WIRE_LEN
                || seconds.abs_diff(last_s) > MAX_TIME_STEP_S
            {
                break;
            }
            let Some((data, next)) = behind.split_at_checked(incl as usize) else {
                break;
            };
            last_s = seconds;
            rest = next;
            f.one_of_many(Packet {
                ts_ns: i64::from(seconds) * 1_000_000_000 + i64::from(fraction) * ns_per_unit,
                linktype,
                data,
                wire_len: orig.max(incl),
            });
        }
        self.last_s = Some(last_s);
        buf.len() - rest.len()
    }

    /// An odd record is believed when what lies behind it may be a record: `None` when it is.
    #[cold]
    fn disbelieve(&self, header: &Header, rest: &[u8], end: usize, eof: bool) -> Option<Verdict> {
        if header.seconds == 0 && header.fraction == 0 && header.incl == 0 && header.orig == 0 {
            return Some(Verdict::Bad);
        }
        match rest.get(end..).and_then(|next| self.header(next)) {
            None if eof => None,
            None => Some(Verdict::Need(end + 16)),
            Some(next)
                if next.incl > 0 && next.incl <= self.max_packet && next.orig <= MAX_WIRE_LEN =>
            {
                None
            }
            Some(_) => Some(Verdict::Bad),
        }
    }

    #[cold]
    fn start(&mut self, rest: &[u8]) -> Verdict {
        let Some(h) = rest.first_chunk::<FILE_HEADER>() else {
            return Verdict::Need(FILE_HEADER);
        };
        let snaplen = self.u32([h[16], h[17], h[18], h[19]]);
        self.max_packet = snaplen.clamp(MAX_PACKET, MAX_SNAPLEN);
        // The upper half holds the length of the frame check sequence, if any.
        self.linktype = (self.u32([h[20], h[21], h[22], h[23]]) & 0xFFFF) as u16;
        self.started = true;
        Verdict::Take(FILE_HEADER)
    }
}

impl Records for Pcap {
    #[inline]
    fn record(
        &mut self,
        rest: &[u8],
        eof: bool,
        _counters: &mut CaptureCounters,
        f: &mut impl PacketSink,
    ) -> Verdict {
        if !self.started {
            return self.start(rest);
        }
        if rest.len() < self.header_len {
            return Verdict::Need(self.header_len);
        }
        let Some(header) = self.header(rest) else {
            return Verdict::Need(self.header_len);
        };
        if header.incl > self.max_packet {
            return Verdict::Bad;
        }
        let end = self.header_len + header.incl as usize;
        if self.odd(&header, self.last_s) {
            if let Some(verdict) = self.disbelieve(&header, rest, end, eof) {
                return verdict;
            }
        }
        let Some(data) = rest.get(self.header_len..end) else {
            return Verdict::Need(end);
        };
        self.last_s = Some(header.seconds);
        f.packet(Packet {
            ts_ns: i64::from(header.seconds) * 1_000_000_000
                + i64::from(header.fraction) * self.ns_per_unit,
            linktype: self.linktype,
            data,
            wire_len: header.orig.max(header.incl),
        });
        Verdict::Take(end)
    }

    #[inline]
    fn burst(&mut self, rest: &[u8], f: &mut impl PacketSink) -> usize {
        match (self.header_len, self.big_endian) {
            (16, false) => self.burst_of::<false>(rest, f),
            (16, true) => self.burst_of::<true>(rest, f),
            _ => 0,
        }
    }

    fn candidate(&self, rest: &[u8], eof: bool) -> Verdict {
        if !self.started {
            return Verdict::Bad;
        }
        if rest.len() < self.header_len {
            return if eof {
                Verdict::Bad
            } else {
                Verdict::Need(self.header_len)
            };
        }
        let Some(mut header) = self.header(rest) else {
            return Verdict::Bad;
        };
        if header.incl > header.orig || self.odd(&header, None) {
            return Verdict::Bad;
        }
        let links = if near(header.seconds, self.last_s) {
            1
        } else {
            2
        };
        let mut end = 0;
        for link in 1..=links {
            end += self.header_len + header.incl as usize;
            let Some(next) = rest.get(end..).and_then(|next| self.header(next)) else {
                return match eof {
                    false => Verdict::Need(end + 16),
                    true if end == rest.len() && link == links => Verdict::Take(end),
                    true => Verdict::Bad,
                };
            };
            if next.incl > next.orig || self.odd(&next, Some(header.seconds)) {
                return Verdict::Bad;
            }
            header = next;
        }
        Verdict::Take(end)
    }
}

#[inline]
fn near(seconds: u32, last_s: Option<u32>) -> bool {
    last_s.is_none_or(|last| seconds.abs_diff(last) <= MAX_TIME_STEP_S)
}
