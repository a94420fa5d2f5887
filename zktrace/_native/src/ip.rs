//! IPv4 and IPv6: headers, fragments, TCP segments out. Knows nothing of connections.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

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
/// where the snap length cut it.
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
}
