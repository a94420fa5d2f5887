//! IPv4 and IPv6: headers, fragments, TCP segments out. Knows nothing of connections.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::link::Stop;

/// TCP flag bits of [`Segment::flags`].
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

/// An IP address of either family, as two words: equality and hashing touch no more than that. An
/// IPv4 address sits in the low 32 bits of `lo`; `v6` keeps it apart from `::a.b.c.d`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Ip {
    pub v6: bool,
    pub hi: u64,
    pub lo: u64,
}

impl Ip {
    #[inline]
    pub fn from_v4(address: u32) -> Self {
        Ip {
            v6: false,
            hi: 0,
            lo: u64::from(address),
        }
    }

    #[inline]
    pub fn from_v6(hi: u64, lo: u64) -> Self {
        Ip { v6: true, hi, lo }
    }
}

/// Text as users know it: dotted, or RFC 5952 (IPv4-mapped ones as `::ffff:1.2.3.4`).
impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.v6 {
            let bits = (u128::from(self.hi) << 64) | u128::from(self.lo);
            Ipv6Addr::from(bits).fmt(f)
        } else {
            Ipv4Addr::from(self.lo as u32).fmt(f)
        }
    }
}

/// A TCP segment. `payload` is what was captured of it; `wire_len`, by the IP header, is greater
/// where the snap length cut it. `ident` is the identification of IPv4 (0 of IPv6).
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub ts_ns: i64,
    pub src: Ip,
    pub dst: Ip,
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub payload: &'a [u8],
    pub wire_len: u32,
    pub ident: u16,
}

/// What fragments of one datagram share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentKey {
    pub src: Ip,
    pub dst: Ip,
    pub protocol: u8,
    pub ident: u32,
}

/// One fragment: its place in the datagram, and whether more follow.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    pub key: FragmentKey,
    pub offset: usize,
    pub more: bool,
}

/// What an IP header wraps: whole, or a piece of a datagram. `wire` is never below `data.len()`.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    pub protocol: u8,
    pub src: Ip,
    pub dst: Ip,
    pub data: &'a [u8],
    pub wire: u32,
    pub fragment: Option<Fragment>,
    pub ident: u16,
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// A real chain has two or three; the bound keeps hostile packets cheap.
const MAX_EXTENSION_HEADERS: u32 = 16;

/// The payload of an IPv4 packet. A total length of 0 means segmentation offload: all of it.
#[inline]
pub fn ipv4(data: &[u8], wire: u32) -> Result<Payload<'_>, Stop> {
    let h = data.first_chunk::<20>().ok_or(Stop::TooShort)?;
    let header = usize::from(h[0] & 0x0F) * 4;
    if h[0] >> 4 != 4 || header < 20 {
        return Err(Stop::Malformed);
    }
    let total = usize::from(u16::from_be_bytes([h[2], h[3]]));
    let (end, wire) = if total == 0 {
        (data.len(), wire)
    } else if total < header {
        return Err(Stop::Malformed);
    } else {
        (total.min(data.len()), total as u32)
    };
    let payload = data.get(header..end).ok_or(Stop::TooShort)?;
    let src = Ip::from_v4(u32::from_be_bytes([h[12], h[13], h[14], h[15]]));
    let dst = Ip::from_v4(u32::from_be_bytes([h[16], h[17], h[18], h[19]]));
    let flags_offset = u16::from_be_bytes([h[6], h[7]]);
    let ident = u16::from_be_bytes([h[4], h[5]]);
    let fragment = (flags_offset & 0x3FFF != 0).then(|| Fragment {
        key: FragmentKey {
            src,
            dst,
            protocol: h[9],
            ident: u32::from(ident),
        },
        offset: usize::from(flags_offset & 0x1FFF) * 8,
        more: flags_offset & 0x2000 != 0,
    });
    Ok(Payload {
        protocol: h[9],
        src,
        dst,
        data: payload,
        wire: wire - header as u32,
        fragment,
        ident,
    })
}

/// The payload of an IPv6 packet, behind its extension headers.
#[inline]
pub fn ipv6(data: &[u8], wire: u32) -> Result<Payload<'_>, Stop> {
    let (h, rest) = data.split_first_chunk::<40>().ok_or(Stop::TooShort)?;
    if h[0] >> 4 != 6 {
        return Err(Stop::Malformed);
    }
    let length = u16::from_be_bytes([h[4], h[5]]);
    let (data, wire) = match length {
        0 => (rest, wire - 40),
        _ => (
            rest.get(..usize::from(length)).unwrap_or(rest),
            u32::from(length),
        ),
    };
    let payload = Payload {
        protocol: h[6],
        src: v6_address(h, 8),
        dst: v6_address(h, 24),
        data,
        wire,
        fragment: None,
        ident: 0,
    };
    match payload.protocol {
        6 | 17 => Ok(payload),
        _ => extension_headers(payload, true),
    }
}

#[inline]
fn v6_address(header: &[u8; 40], pos: usize) -> Ip {
    let word = |pos: usize| {
        let bytes = header.get(pos..).and_then(<[u8]>::first_chunk::<8>);
        u64::from_be_bytes(*bytes.unwrap_or(&[0; 8]))
    };
    Ip::from_v6(word(pos), word(pos + 8))
}

/// Skips IPv6 extension headers. A reassembled datagram may not hold a fragment again.
pub fn extension_headers(mut payload: Payload<'_>, fragments: bool) -> Result<Payload<'_>, Stop> {
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !matches!(
            payload.protocol,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
        ) {
            return Ok(payload);
        }
        let h = payload.data.first_chunk::<8>().ok_or(Stop::TooShort)?;
        let length = match payload.protocol {
            AUTHENTICATION => (usize::from(h[1]) + 2) * 4,
            FRAGMENT if !fragments => return Err(Stop::NotTcp),
            FRAGMENT => {
                let offset = u16::from_be_bytes([h[2], h[3]]);
                payload.fragment = (offset & 0xFFF9 != 0).then(|| Fragment {
                    key: FragmentKey {
                        src: payload.src,
                        dst: payload.dst,
                        protocol: h[0],
                        ident: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
                    },
                    offset: usize::from(offset & 0xFFF8),
                    more: offset & 1 != 0,
                });
                8
            }
            _ => (usize::from(h[1]) + 1) * 8,
        };
        if length > payload.wire as usize {
            return Err(Stop::Malformed);
        }
        payload.protocol = h[0];
        payload.data = payload.data.get(length..).ok_or(Stop::TooShort)?;
        payload.wire -= length as u32;
        if payload.fragment.is_some() {
            return Ok(payload);
        }
    }
    Err(Stop::NotTcp)
}
