//! What is in a block of a TPACKET_V3 ring: frames, each behind a header of the kernel's
//! (`struct tpacket3_hdr`, then `struct sockaddr_ll`, in linux/if_packet.h). Plain bytes in, packets
//! out; every length is checked, though it is the kernel that wrote them.

use super::Form;
use crate::container::Packet;
use crate::link::{IPV4, IPV6};

const ETHERNET: u16 = 1;
/// LINKTYPE_RAW: an IP packet and nothing before it.
const RAW_IP: u16 = 101;

/// A VLAN tag was taken off the frame and lies in the header; so does its ethertype.
const VLAN_VALID: u32 = 1 << 4;
const VLAN_TPID_VALID: u32 = 1 << 6;
const TAG_8021Q: u16 = 0x8100;
const VLAN_TAGS: [u16; 3] = [TAG_8021Q, 0x88A8, 0x9100];
/// Destination and source address, before which no tag stands.
const ADDRESSES: usize = 12;
/// Those that the filter passes (`zktrace/capture/bpf.py`).
const MOST_TAGS: usize = 2;
const SLL2_HEADER: usize = 20;

/// A block of pcapng, and what it holds besides the packet.
const ENHANCED_PACKET: u32 = 6;
const EPB_FRAME: usize = 32;

/// Offsets within a block's descriptor.
const BLOCK_PACKETS: usize = 12;
const BLOCK_FIRST: usize = 16;
/// Offset of `struct sockaddr_ll` within a frame's header.
const ADDRESS: usize = 48;
const HEADER: usize = ADDRESS + 20;

/// Where a reader stands in a block.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    offset: usize,
    left: u32,
}

impl Cursor {
    /// Before the first frame of a block.
    pub fn first(block: &[u8]) -> Cursor {
        Cursor {
            offset: u32_at(block, BLOCK_FIRST) as usize,
            left: u32_at(block, BLOCK_PACKETS),
        }
    }

    /// The frame here; None behind the last one.
    #[inline]
    pub fn frame<'a>(&self, block: &'a [u8]) -> Option<Frame<'a>> {
        if self.left == 0 {
            return None;
        }
        let frame = block.get(self.offset..)?;
        let header = frame.first_chunk::<HEADER>()?;
        let seconds = i64::from(u32_at(header, 4));
        let data_at = usize::from(u16_at(header, 24));
        let length = u32_at(header, 12) as usize;
        Some(Frame {
            header,
            ts_ns: seconds * 1_000_000_000 + i64::from(u32_at(header, 8)),
            data: frame.get(data_at..data_at.checked_add(length)?)?,
            wire_len: u32_at(header, 16),
        })
    }

    /// To the next frame.
    #[inline]
    pub fn step(&mut self, frame: &Frame<'_>) {
        let next = u32_at(frame.header, 0) as usize;
        self.left = if next == 0 { 0 } else { self.left - 1 };
        self.offset = self.offset.saturating_add(next);
    }
}

/// A captured frame as the kernel tells it.
#[derive(Debug)]
pub struct Frame<'a> {
    header: &'a [u8; HEADER],
    pub ts_ns: i64,
    data: &'a [u8],
    wire_len: u32,
}

impl<'a> Frame<'a> {
    /// For the decoder. Without a tag that the kernel took off: it says nothing of the flow.
    #[inline]
    pub fn packet(&self, cooked: bool) -> Packet<'a> {
        let mut packet = Packet {
            ts_ns: self.ts_ns,
            linktype: ETHERNET,
            data: self.data,
            wire_len: self.wire_len.max(self.data.len() as u32),
        };
        if cooked {
            let tags = self.tags();
            packet.linktype = RAW_IP;
            packet.data = self.data.get(tags..).unwrap_or(&[]);
            packet.wire_len = packet.wire_len.saturating_sub(tags as u32);
            packet.wire_len = packet.wire_len.max(packet.data.len() as u32);
        }
        packet
    }

    /// Bytes of VLAN tags before the IP packet of a cooked frame.
    ///
    /// A frame of a tag in a tag begins behind the ethertype of the outer one, and the kernel tells the
    /// tag's ethertype (before 6.11) or that of the IP packet; one that leaves with a tag in it begins
    /// with the IP packet, and the kernel tells the tag's ethertype (before 6.11). So only a look at the
    /// bytes tells.
    fn tags(&self) -> usize {
        let mut at = 0;
        while at < MOST_TAGS * 4 {
            let inner = be16_at(self.data, at + 2);
            if !(self.is_ip(inner, at + 4) || VLAN_TAGS.contains(&inner) && !self.begins_ip(at)) {
                break;
            }
            at += 4;
        }
        at
    }

    /// Could an IP packet of this ethertype begin here?
    fn is_ip(&self, ethertype: u16, at: usize) -> bool {
        let Some(header) = self.data.get(at..) else {
            return false;
        };
        let wire = (self.wire_len as usize).saturating_sub(at);
        match (ethertype, header.first()) {
            (IPV4, Some(0x45..=0x4F)) => (20..=wire).contains(&be16_at(header, 2).into()),
            (IPV6, Some(0x60..=0x6F)) => usize::from(be16_at(header, 4)) + 40 <= wire,
            _ => false,
        }
    }

    fn begins_ip(&self, at: usize) -> bool {
        self.is_ip(IPV4, at) || self.is_ip(IPV6, at)
    }

    /// Ethertype and content of a VLAN tag that the kernel took off the frame.
    fn tag(&self) -> Option<[u8; 4]> {
        let status = u32_at(self.header, 20);
        if status & VLAN_VALID == 0 {
            return None;
        }
        let ethertype = match u16_at(self.header, 36) {
            ethertype if status & VLAN_TPID_VALID != 0 && ethertype != 0 => ethertype,
            _ => TAG_8021Q,
        };
        let [a, b] = ethertype.to_be_bytes();
        let [c, d] = (u32_at(self.header, 32) as u16).to_be_bytes();
        Some([a, b, c, d])
    }

    /// Appends a record of a file. Of link type Ethernet with the tag put back that the kernel took
    /// off; or, cooked, LINUX_SLL2 without any.
    pub fn record(&self, cooked: bool, form: Form, out: &mut Vec<u8>) {
        let packet = self.packet(cooked);
        let tag = if cooked { None } else { self.tag() };
        let added = tag.map_or(0, |_| 4) + if cooked { SLL2_HEADER } else { 0 };
        let length = packet.data.len() + added;
        let padding = length.wrapping_neg() % 4;
        let block = (length + padding + EPB_FRAME) as u32;
        match form {
            Form::Pcap => {
                append(out, (self.ts_ns / 1_000_000_000) as u32);
                append(out, (self.ts_ns % 1_000_000_000) as u32);
            }
            Form::Pcapng => {
                append(out, ENHANCED_PACKET);
                append(out, block);
                append(out, 0);
                append(out, (self.ts_ns >> 32) as u32);
                append(out, self.ts_ns as u32);
            }
        }
        append(out, length as u32);
        append(out, packet.wire_len.saturating_add(added as u32));
        let mut data = packet.data;
        if cooked {
            self.sll2(data.first().copied().unwrap_or(0) >> 4, out);
        } else if let (Some(tag), Some((addresses, rest))) = (tag, data.split_at_checked(ADDRESSES))
        {
            out.extend_from_slice(addresses);
            out.extend_from_slice(&tag);
            data = rest;
        }
        out.extend_from_slice(data);
        if form == Form::Pcapng {
            out.resize(out.len() + padding, 0);
            append(out, block);
        }
    }

    /// The header of LINKTYPE_LINUX_SLL2.
    fn sll2(&self, version: u8, out: &mut Vec<u8>) {
        let header = self.header;
        let protocol = if version == 6 { IPV6 } else { IPV4 };
        out.extend_from_slice(&protocol.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        let index = u32_at(header, ADDRESS + 4);
        out.extend_from_slice(&index.to_be_bytes());
        out.extend_from_slice(&u16_at(header, ADDRESS + 8).to_be_bytes());
        out.extend_from_slice(header.get(ADDRESS + 10..).unwrap_or(&[0; 10]));
    }
}

#[inline]
fn append(out: &mut Vec<u8>, field: u32) {
    out.extend_from_slice(&field.to_ne_bytes());
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    field.map_or(0, |field| u32::from_ne_bytes(*field))
}

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>());
    field.map_or(0, |field| u16::from_ne_bytes(*field))
}

#[inline]
fn be16_at(bytes: &[u8], at: usize) -> u16 {
    u16_at(bytes, at).to_be()
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
