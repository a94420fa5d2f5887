//! The pcapng container (draft-ietf-opsawg-pcapng). Knows nothing of link types. What counts as
//! damage is written down in `zktrace/capture/pcapng.py`.

use crate::container::{Packet, PacketSink, Records, Verdict};
use crate::counters::CaptureCounters;

pub(crate) const SECTION_MAGIC: [u8; 4] = [0x0A, 0x0D, 0x0D, 0x0A];
const SECTION_HEADER: u32 = 0x0A0D_0D0A;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const NAME_RESOLUTION: u32 = 4;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const DECRYPTION_SECRETS: u32 = 10;
const CUSTOM: u32 = 0x0BAD;
const CUSTOM_NOT_COPIED: u32 = 0x4000_0BAD;

const MIN_BLOCK: u32 = 12;
const MIN_SECTION_HEADER: u32 = 28;
/// The largest block believed: twice the largest snap length believed in pcap files.
const MAX_BLOCK: u32 = 32 << 20;
/// A section with more interfaces than any capture tool opens is an attack on memory.
const MAX_INTERFACES: usize = 4096;
/// Counts of drops are clamped to this: Arrow and JSON readers take signed numbers.
const MAX_DROPS: u64 = i64::MAX as u64;

/// What the comment of a section begins with that holds only some messages.
pub(crate) const FILTERED: &[u8] = b"zktrace filter: ";

const COMMENT: u16 = 1;
const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;
const ISB_IFDROP: u16 = 5;
const ISB_OSDROP: u16 = 7;

/// Byte order of a section.
#[derive(Clone, Copy, Debug)]
struct Order {
    big_endian: bool,
}

impl Order {
    fn of_section(rest: &[u8]) -> Option<Self> {
        match rest.get(8..12)? {
            [0x1A, 0x2B, 0x3C, 0x4D] => Some(Order { big_endian: true }),
            [0x4D, 0x3C, 0x2B, 0x1A] => Some(Order { big_endian: false }),
            _ => None,
        }
    }

    #[inline]
    fn u16(self, bytes: &[u8], pos: usize) -> Option<u16> {
        let b = *bytes.get(pos..)?.first_chunk::<2>()?;
        Some(if self.big_endian {
            u16::from_be_bytes(b)
        } else {
            u16::from_le_bytes(b)
        })
    }

    #[inline]
    fn u32(self, bytes: &[u8], pos: usize) -> Option<u32> {
        let b = *bytes.get(pos..)?.first_chunk::<4>()?;
        Some(if self.big_endian {
            u32::from_be_bytes(b)
        } else {
            u32::from_le_bytes(b)
        })
    }

    fn u64(self, bytes: &[u8]) -> Option<u64> {
        let b: [u8; 8] = bytes.try_into().ok()?;
        Some(if self.big_endian {
            u64::from_be_bytes(b)
        } else {
            u64::from_le_bytes(b)
        })
    }
}

/// From time units to nanoseconds.
#[derive(Clone, Copy, Debug)]
enum Resolution {
    Multiply(u64),
    Divide(u64),
    /// Units of 2^-n seconds.
    Binary(u32),
    /// So fine that 64 bits of them are less than a nanosecond.
    Zero,
}

impl Resolution {
    fn from_option(value: u8) -> Self {
        let power = u32::from(value & 0x7F);
        if value & 0x80 != 0 {
            return Resolution::Binary(power);
        }
        match power.checked_sub(9) {
            None => Resolution::Multiply(10_u64.pow(9 - power)),
            Some(0) => Resolution::Multiply(1),
            Some(finer) => 10_u64
                .checked_pow(finer)
                .map_or(Resolution::Zero, Resolution::Divide),
        }
    }

    #[inline]
    fn nanoseconds(self, units: u64) -> u128 {
        match self {
            Resolution::Multiply(factor) => u128::from(units) * u128::from(factor),
            Resolution::Divide(divisor) => u128::from(units / divisor.max(1)),
            // 64 + 30 bits; the shift is below 128 by construction.
            Resolution::Binary(power) => (u128::from(units) * 1_000_000_000)
                .checked_shr(power)
                .unwrap_or(0),
            Resolution::Zero => 0,
        }
    }
}

#[derive(Debug)]
struct Interface {
    linktype: u16,
    snaplen: u32,
    resolution: Resolution,
    offset_ns: i128,
    drops: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Pcapng {
    order: Order,
    interfaces: Vec<Interface>,
    last_ts_ns: i64,
}

struct Frame {
    order: Order,
    kind: u32,
    /// `None`: cannot be the length of a block.
    length: Option<usize>,
}

impl Pcapng {
    /// `start` holds at least the byte-order magic of the first section; `None` when it is wrong.
    pub fn new(start: &[u8]) -> Option<Self> {
        Some(Pcapng {
            order: Order::of_section(start)?,
            interfaces: Vec::new(),
            last_ts_ns: 0,
        })
    }

    /// `None`: too few bytes to tell.
    #[inline]
    fn frame(&self, rest: &[u8]) -> Option<Frame> {
        if rest.len() < 12 {
            return None;
        }
        let mut order = self.order;
        let mut shortest = MIN_BLOCK;
        if rest.starts_with(&SECTION_MAGIC) {
            shortest = MIN_SECTION_HEADER;
            let Some(found) = Order::of_section(rest) else {
                return Some(Frame {
                    order,
                    kind: SECTION_HEADER,
                    length: None,
                });
            };
            order = found;
        }
        let kind = order.u32(rest, 0)?;
        let length = order.u32(rest, 4)?;
        let can_be = length >= shortest && length.is_multiple_of(4) && length <= MAX_BLOCK;
        Some(Frame {
            order,
            kind,
            length: can_be.then_some(length as usize),
        })
    }

    /// Uses the body of a block; false when it contradicts itself.
    #[inline]
    fn contents(
        &mut self,
        kind: u32,
        body: &[u8],
        counters: &mut CaptureCounters,
        f: &mut impl PacketSink,
    ) -> bool {
        match kind {
            ENHANCED_PACKET => self.packet(self.order.u32(body, 0), body, f),
            OBSOLETE_PACKET => self.packet(self.order.u16(body, 0).map(u32::from), body, f),
            SIMPLE_PACKET => self.simple_packet(body, f),
            INTERFACE_DESCRIPTION => self.describe(body),
            INTERFACE_STATISTICS => self.statistics(body, counters),
            _ => Some(()),
        }
        .is_some()
    }

    /// Enhanced and obsolete packet blocks differ in their first four bytes only.
    #[inline]
    fn packet(&mut self, number: Option<u32>, body: &[u8], f: &mut impl PacketSink) -> Option<()> {
        let (head, rest) = body.split_first_chunk::<20>()?;
        let high = u64::from(self.order.u32(head, 4)?);
        let low = u64::from(self.order.u32(head, 8)?);
        let captured = self.order.u32(head, 12)?;
        let wire_len = self.order.u32(head, 16)?;
        let interface = self.interfaces.get(number? as usize)?;
        let data = rest.get(..captured as usize)?;
        // At most 94 bits, so the cast keeps the value.
        let ts_ns = interface.resolution.nanoseconds(high << 32 | low) as i128;
        let ts_ns = (ts_ns + interface.offset_ns).clamp(i64::MIN.into(), i64::MAX.into());
        self.last_ts_ns = ts_ns as i64;
        f.packet(Packet {
            ts_ns: self.last_ts_ns,
            linktype: interface.linktype,
            data,
            wire_len: wire_len.max(captured),
        });
        Some(())
    }

    /// It has no time of its own: that of the packet before it is the best guess.
    fn simple_packet(&mut self, body: &[u8], f: &mut impl PacketSink) -> Option<()> {
        let interface = self.interfaces.first()?;
        let wire_len = self.order.u32(body, 0)?;
        let data = body.get(4..)?;
        let mut captured = data.len().min(wire_len as usize);
        if interface.snaplen > 0 {
            captured = captured.min(interface.snaplen as usize);
        }
        let data = data.get(..captured)?;
        f.packet(Packet {
            ts_ns: self.last_ts_ns,
            linktype: interface.linktype,
            data,
            wire_len,
        });
        Some(())
    }

    fn describe(&mut self, body: &[u8]) -> Option<()> {
        let mut interface = Interface {
            linktype: self.order.u16(body, 0)?,
            snaplen: self.order.u32(body, 4)?,
            resolution: Resolution::Multiply(1000),
            offset_ns: 0,
            drops: None,
        };
        if self.interfaces.len() >= MAX_INTERFACES {
            return None;
        }
        let order = self.order;
        options(order, body.get(8..)?, |code, value| match (code, value) {
            (IF_TSRESOL, &[resolution]) => {
                interface.resolution = Resolution::from_option(resolution);
            }
            (IF_TSOFFSET, value) => {
                if let Some(offset_s) = order.u64(value) {
                    interface.offset_ns = i128::from(offset_s as i64) * 1_000_000_000;
                }
            }
            _ => {}
        });
        self.interfaces.push(interface);
        Some(())
    }

    fn statistics(&mut self, body: &[u8], counters: &mut CaptureCounters) -> Option<()> {
        let order = self.order;
        let number = order.u32(body, 0)?;
        let interface = self.interfaces.get_mut(number as usize)?;
        let mut drops: Option<u64> = None;
        options(order, body.get(12..)?, |code, value| {
            if matches!(code, ISB_IFDROP | ISB_OSDROP) {
                if let Some(count) = order.u64(value) {
                    let sum = drops.unwrap_or(0).saturating_add(count.min(MAX_DROPS));
                    drops = Some(sum.min(MAX_DROPS));
                }
            }
        });
        if let Some(drops) = drops {
            // Counts run from the start of the capture: a later block replaces an earlier one.
            let others = counters
                .kernel_drops
                .unwrap_or(0)
                .saturating_sub(interface.drops.unwrap_or(0));
            counters.kernel_drops = Some(others.saturating_add(drops).min(MAX_DROPS));
            interface.drops = Some(drops);
        }
        Some(())
    }
}

/// Calls `f` with code and value of each option.
fn options(order: Order, mut rest: &[u8], mut f: impl FnMut(u16, &[u8])) {
    while let (Some(code), Some(length)) = (order.u16(rest, 0), order.u16(rest, 2)) {
        let length = usize::from(length);
        let Some(value) = rest.get(4..4 + length) else {
            return;
        };
        if code == 0 {
            return;
        }
        f(code, value);
        // Values are padded to four bytes; the last padding may be missing.
        rest = rest.get(4 + length.next_multiple_of(4)..).unwrap_or(&[]);
    }
}

/// Shortest block of a type whose contents are read: fixed fields and framing.
fn min_length(kind: u32) -> Option<usize> {
    match kind {
        INTERFACE_DESCRIPTION => Some(20),
        OBSOLETE_PACKET | ENHANCED_PACKET => Some(32),
        SIMPLE_PACKET => Some(16),
        INTERFACE_STATISTICS => Some(24),
        _ => None,
    }
}

fn is_known(kind: u32) -> bool {
    min_length(kind).is_some()
        || matches!(
            kind,
            SECTION_HEADER | NAME_RESOLUTION | DECRYPTION_SECRETS | CUSTOM | CUSTOM_NOT_COPIED
        )
}

impl Records for Pcapng {
    #[inline]
    fn record(
        &mut self,
        rest: &[u8],
        _eof: bool,
        counters: &mut CaptureCounters,
        f: &mut impl PacketSink,
    ) -> Verdict {
        let Some(frame) = self.frame(rest) else {
            return Verdict::Need(12);
        };
        let Some(length) = frame.length else {
            return Verdict::Bad;
        };
        let Some(block) = rest.get(..length) else {
            return Verdict::Need(length);
        };
        if frame.order.u32(block, length - 4) != Some(length as u32) {
            return Verdict::Bad;
        }
        if frame.kind == SECTION_HEADER {
            self.order = frame.order;
            self.interfaces.clear();
            let mut filtered = false;
            let told = block.get(24..length - 4).unwrap_or(&[]);
            options(self.order, told, |code, value| {
                filtered |= code == COMMENT && value.starts_with(FILTERED);
            });
            counters.filtered += u64::from(filtered);
        } else if let Some(min_length) = min_length(frame.kind) {
            let body = block.get(8..length - 4).unwrap_or(&[]);
            if length < min_length || !self.contents(frame.kind, body, counters, f) {
                counters.damage(length as u64);
            }
        }
        Verdict::Take(length)
    }

    fn candidate(&self, rest: &[u8], eof: bool) -> Verdict {
        let Some(frame) = self.frame(rest) else {
            return if eof { Verdict::Bad } else { Verdict::Need(12) };
        };
        let Some(length) = frame.length.filter(|_| is_known(frame.kind)) else {
            return Verdict::Bad;
        };
        match rest.get(..length) {
            None if eof => Verdict::Bad,
            None => Verdict::Need(length),
            Some(block) if frame.order.u32(block, length - 4) == Some(length as u32) => {
                Verdict::Take(length)
            }
            Some(_) => Verdict::Bad,
        }
    }
}
