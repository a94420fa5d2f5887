//! Link layers: finds the IP packet in a captured frame. Knows nothing of TCP.
//!
//! Works on bytes that were captured and a count of those on the wire, `wire`, which is never below
//! the former: every function keeps that.

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86DD;

/// Two tags are usual (802.1ad), four have been seen in carrier networks; more is noise.
const MAX_VLAN_TAGS: u32 = 4;

/// Why a packet gives no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The headers do not fit in what was captured.
    TooShort,
    /// The headers contradict themselves.
    Malformed,
    /// It holds no TCP segment, or one in wrappings not read here.
    NotTcp,
    UnknownLinkType,
    /// A fragment of a datagram that is not whole yet.
    Fragment,
}

/// The network packet in a frame: IPV4 or IPV6.
pub type Network<'a> = (u16, &'a [u8], u32);

pub fn network_packet(linktype: u16, data: &[u8], wire: u32) -> Result<Network<'_>, Stop> {
    match linktype {
        1 => ethernet(data, wire),
        _ => other_link(linktype, data, wire),
    }
}

fn other_link(linktype: u16, data: &[u8], wire: u32) -> Result<Network<'_>, Stop> {
    match linktype {
        // LINKTYPE_LINUX_SLL
        113 => {
            let (head, rest) = data.split_first_chunk::<16>().ok_or(Stop::TooShort)?;
            ethertype(u16::from_be_bytes([head[14], head[15]]), rest, wire - 16)
        }
        // LINKTYPE_LINUX_SLL2
        276 => {
            let (head, rest) = data.split_first_chunk::<20>().ok_or(Stop::TooShort)?;
            ethertype(u16::from_be_bytes([head[0], head[1]]), rest, wire - 20)
        }
        // LINKTYPE_NULL, LINKTYPE_LOOP
        0 | 108 => {
            let (head, rest) = data.split_first_chunk::<4>().ok_or(Stop::TooShort)?;
            let mut family = u32::from_be_bytes(*head);
            if linktype == 0 && family > 0xFFFF {
                // Byte order of the capturing host. Families are small: this tells the two apart.
                family = u32::from_le_bytes(*head);
            }
            match family {
                2 => Ok((IPV4, rest, wire - 4)),
                // AF_INET6: Linux, then the BSDs and macOS.
                10 | 24 | 28 | 30 => Ok((IPV6, rest, wire - 4)),
                _ => Err(Stop::NotTcp),
            }
        }
        // Raw IP: DLT_RAW here and there, LINKTYPE_RAW
        12 | 14 | 101 => match data.first().ok_or(Stop::TooShort)? >> 4 {
            4 => Ok((IPV4, data, wire)),
            6 => Ok((IPV6, data, wire)),
            _ => Err(Stop::Malformed),
        },
        228 => Ok((IPV4, data, wire)),
        229 => Ok((IPV6, data, wire)),
        _ => Err(Stop::UnknownLinkType),
    }
}

#[inline]
pub fn ethernet(data: &[u8], wire: u32) -> Result<Network<'_>, Stop> {
    let (head, rest) = data.split_first_chunk::<14>().ok_or(Stop::TooShort)?;
    ethertype(u16::from_be_bytes([head[12], head[13]]), rest, wire - 14)
}

/// The network packet behind an ethertype and any VLAN tags that follow it.
#[inline]
fn ethertype(mut protocol: u16, mut data: &[u8], mut wire: u32) -> Result<Network<'_>, Stop> {
    let mut tags = 0;
    loop {
        match protocol {
            IPV4 | IPV6 => return Ok((protocol, data, wire)),
            0x8100 | 0x88A8 | 0x9100 if tags < MAX_VLAN_TAGS => {
                tags += 1;
                let (tag, rest) = data.split_first_chunk::<4>().ok_or(Stop::TooShort)?;
                protocol = u16::from_be_bytes([tag[2], tag[3]]);
                data = rest;
                wire -= 4;
            }
            _ => return Err(Stop::NotTcp),
        }
    }
}
