//! From a captured packet to its TCP segment, through link layer, IP, fragments and tunnels (VXLAN,
//! Geneve, GRE, ERSPAN, IP in IP). The rules are those of `zktrace/capture/{decap,tunnel}.py`.
//! Knows nothing of connections and files.

use crate::container::Packet;
use crate::counters::CaptureCounters;
use crate::fragments::Reassembler;
use crate::ip::{self, Ip, Payload, Segment};
use crate::link::{self, Stop, IPV4, IPV6};

/// Ethernet, IPv4 and TCP headers without options.
const PLAIN_HEADERS: usize = 14 + 20 + 20;
const TCP: u8 = 6;
const UDP: u8 = 17;
const GRE: u8 = 47;
const IP_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;

/// Overlay in overlay in a mirror session is three.
const MAX_TUNNELS: u32 = 4;

/// IANA's port; Linux used 8472 before there was one, and still does by default.
const VXLAN_PORTS: [u16; 2] = [4789, 8472];
const GENEVE_PORT: u16 = 6081;
const TRANSPARENT_ETHERNET: u16 = 0x6558;
const ERSPAN_II: u16 = 0x88BE;
const ERSPAN_III: u16 = 0x22EB;
const GRE_CHECKSUM: u16 = 0x8000;
const GRE_ROUTING: u16 = 0x4000;
const GRE_KEY: u16 = 0x2000;
const GRE_SEQUENCE: u16 = 0x1000;
const GRE_VERSION: u16 = 0x0007;

/// Takes the segments of plain packets: a trait, since what is behind it is to be compiled into the caller.
pub trait SegmentSink {
    fn segment(&mut self, segment: &Segment<'_>);
}

/// Packets in, TCP segments out. Holds nothing but fragments.
#[derive(Debug, Default)]
pub struct Decapsulator {
    pub counters: CaptureCounters,
    reassembler: Reassembler,
}

impl Decapsulator {
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `out` with the TCP segment of a packet, if it holds one or completes one.
    pub fn packet(&mut self, packet: Packet<'_>, out: &mut impl FnMut(Segment<'_>)) {
        let Packet {
            ts_ns,
            linktype,
            data,
            wire_len,
        } = packet;
        let cut = self.note(&packet);
        let outcome = link::network_packet(linktype, data, wire_len)
            .and_then(|(protocol, data, wire)| self.network(ts_ns, protocol, data, wire, 0, out));
        if let Err(stop) = outcome {
            self.count(stop, cut, linktype);
        }
    }

    /// Calls `out` with the segment of a packet that is as nearly all are: Ethernet, IPv4 without options and not in
    /// fragments, TCP, captured to its end. False: nothing was done, take `packet`, which comes to the same for those.
    #[inline(always)]
    pub fn plain(&mut self, packet: &Packet<'_>, out: &mut impl SegmentSink) -> bool {
        let data = packet.data;
        let Some(h) = data.first_chunk::<PLAIN_HEADERS>() else {
            return false;
        };
        let total = usize::from(u16::from_be_bytes([h[16], h[17]]));
        let header = usize::from(h[46] >> 4) * 4;
        let is_plain = packet.linktype == 1
            && [h[12], h[13], h[14], h[23]] == [0x08, 0x00, 0x45, TCP]
            && [h[20] & 0x3F, h[21]] == [0, 0]
            && header >= 20;
        if !is_plain {
            return false;
        }
        let Some(payload) = data.get(34 + header..14 + total) else {
            return false;
        };
        self.note(packet);
        self.counters.tcp_segments += 1;
        out.segment(&Segment {
            ts_ns: packet.ts_ns,
            src: Ip::from_v4(u32::from_be_bytes([h[26], h[27], h[28], h[29]])),
            dst: Ip::from_v4(u32::from_be_bytes([h[30], h[31], h[32], h[33]])),
            sport: u16::from_be_bytes([h[34], h[35]]),
            dport: u16::from_be_bytes([h[36], h[37]]),
            seq: u32::from_be_bytes([h[38], h[39], h[40], h[41]]),
            ack: u32::from_be_bytes([h[42], h[43], h[44], h[45]]),
            flags: h[47] & 0x1F,
            payload,
            wire_len: payload.len() as u32,
            ident: u16::from_be_bytes([h[18], h[19]]),
        });
        true
    }

    /// Counts a packet; whether bytes of it were cut off.
    #[inline(always)]
    fn note(&mut self, packet: &Packet<'_>) -> bool {
        let ts_ns = packet.ts_ns;
        let counters = &mut self.counters;
        counters.packets += 1;
        counters.bytes += u64::from(packet.wire_len);
        if counters.first_ts_ns.is_none_or(|first| ts_ns < first) {
            counters.first_ts_ns = Some(ts_ns);
        }
        if counters.last_ts_ns.is_none_or(|last| ts_ns > last) {
            counters.last_ts_ns = Some(ts_ns);
        }
        let cut = packet.wire_len as usize > packet.data.len();
        counters.truncated += u64::from(cut);
        cut
    }

    /// End of the capture.
    pub fn finish(&mut self) {
        self.reassembler.finish(&mut self.counters);
    }

    #[cold]
    fn count(&mut self, stop: Stop, cut: bool, linktype: u16) {
        let counters = &mut self.counters;
        match stop {
            Stop::TooShort if cut => {}
            Stop::TooShort | Stop::Malformed => counters.malformed_packets += 1,
            Stop::NotTcp => counters.other_packets += 1,
            Stop::Fragment => {}
            Stop::UnknownLinkType => {
                counters.undecoded_packets += 1;
                *counters.undecoded_linktypes.entry(linktype).or_default() += 1;
            }
        }
    }

    #[inline]
    fn network(
        &mut self,
        ts_ns: i64,
        protocol: u16,
        data: &[u8],
        wire: u32,
        tunnels: u32,
        out: &mut impl FnMut(Segment<'_>),
    ) -> Result<(), Stop> {
        let payload = if protocol == IPV4 {
            ip::ipv4(data, wire)?
        } else {
            ip::ipv6(data, wire)?
        };
        if payload.protocol == TCP && payload.fragment.is_none() {
            return self.segment(ts_ns, &payload, out);
        }
        self.wrapped(ts_ns, &payload, tunnels, out)
    }

    /// Fragments and tunnels.
    #[inline(never)]
    fn wrapped(
        &mut self,
        ts_ns: i64,
        payload: &Payload<'_>,
        tunnels: u32,
        out: &mut impl FnMut(Segment<'_>),
    ) -> Result<(), Stop> {
        let Some(fragment) = &payload.fragment else {
            return self.tunnel(ts_ns, payload, tunnels, out);
        };
        let whole = self
            .reassembler
            .add(ts_ns, payload, fragment, &mut self.counters)
            .ok_or(Stop::Fragment)?;
        let mut payload = Payload {
            data: &whole,
            wire: whole.len() as u32,
            fragment: None,
            ..*payload
        };
        if payload.src.v6 {
            payload = ip::extension_headers(payload, false)?;
        }
        if payload.protocol == TCP {
            return self.segment(ts_ns, &payload, out);
        }
        self.tunnel(ts_ns, &payload, tunnels, out)
    }

    fn tunnel(
        &mut self,
        ts_ns: i64,
        payload: &Payload<'_>,
        tunnels: u32,
        out: &mut impl FnMut(Segment<'_>),
    ) -> Result<(), Stop> {
        let Payload { data, wire, .. } = *payload;
        let (ethertype, offset) = match payload.protocol {
            UDP => {
                let (head, rest) = data.split_first_chunk::<8>().ok_or(Stop::TooShort)?;
                let (ethertype, offset) = udp_tunnel(u16::from_be_bytes([head[2], head[3]]), rest)?;
                (ethertype, offset + 8)
            }
            GRE => gre(data)?,
            IP_IN_IP => (IPV4, 0),
            IPV6_IN_IP => (IPV6, 0),
            _ => return Err(Stop::NotTcp),
        };
        if tunnels == MAX_TUNNELS {
            return Err(Stop::NotTcp);
        }
        let data = data.get(offset..).ok_or(Stop::TooShort)?;
        let wire = wire - offset as u32;
        let (ethertype, data, wire) = match ethertype {
            TRANSPARENT_ETHERNET => link::ethernet(data, wire)?,
            _ => (ethertype, data, wire),
        };
        self.network(ts_ns, ethertype, data, wire, tunnels + 1, out)
    }

    #[inline]
    fn segment(
        &mut self,
        ts_ns: i64,
        payload: &Payload<'_>,
        out: &mut impl FnMut(Segment<'_>),
    ) -> Result<(), Stop> {
        let data = payload.data;
        let h = data.first_chunk::<20>().ok_or(Stop::TooShort)?;
        let header = usize::from(h[12] >> 4) * 4;
        if header < 20 || header > payload.wire as usize {
            return Err(Stop::Malformed);
        }
        self.counters.tcp_segments += 1;
        out(Segment {
            ts_ns,
            src: payload.src,
            dst: payload.dst,
            sport: u16::from_be_bytes([h[0], h[1]]),
            dport: u16::from_be_bytes([h[2], h[3]]),
            seq: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
            ack: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
            flags: h[13] & 0x1F,
            // Options may be cut off by the snap length: then so is the payload.
            payload: data.get(header..).unwrap_or(&[]),
            wire_len: payload.wire - header as u32,
            ident: payload.ident,
        });
        Ok(())
    }
}

/// Ethertype and start of what the payload of a UDP datagram wraps (RFC 7348, RFC 8926).
fn udp_tunnel(dport: u16, data: &[u8]) -> Result<(u16, usize), Stop> {
    let h = data.first_chunk::<8>().ok_or(Stop::NotTcp)?;
    if VXLAN_PORTS.contains(&dport) {
        // Without the I flag it only looks like VXLAN by its port.
        let valid = h[0] & 0x08 != 0;
        return valid
            .then_some((TRANSPARENT_ETHERNET, 8))
            .ok_or(Stop::NotTcp);
    }
    if dport != GENEVE_PORT || h[0] >> 6 != 0 {
        return Err(Stop::NotTcp);
    }
    let protocol = u16::from_be_bytes([h[2], h[3]]);
    let offset = 8 + usize::from(h[0] & 0x3F) * 4;
    if !matches!(protocol, TRANSPARENT_ETHERNET | IPV4 | IPV6) || data.len() < offset {
        return Err(Stop::NotTcp);
    }
    Ok((protocol, offset))
}

/// Ethertype and start of what a GRE packet wraps (RFC 2784, 2890, draft-foschiano-erspan).
fn gre(data: &[u8]) -> Result<(u16, usize), Stop> {
    let h = data.first_chunk::<4>().ok_or(Stop::TooShort)?;
    let flags = u16::from_be_bytes([h[0], h[1]]);
    let mut protocol = u16::from_be_bytes([h[2], h[3]]);
    if flags & (GRE_VERSION | GRE_ROUTING) != 0 {
        return Err(Stop::NotTcp);
    }
    let mut offset = 4;
    for flag in [GRE_CHECKSUM, GRE_KEY, GRE_SEQUENCE] {
        if flags & flag != 0 {
            offset += 4;
        }
    }
    match protocol {
        ERSPAN_II => {
            // Type I has neither a sequence number nor a header of its own.
            offset += if flags & GRE_SEQUENCE != 0 { 8 } else { 0 };
            protocol = TRANSPARENT_ETHERNET;
        }
        ERSPAN_III => {
            let last = *data.get(offset + 11).ok_or(Stop::TooShort)?;
            // The O flag announces a platform specific sub-header.
            offset += if last & 1 != 0 { 20 } else { 12 };
            protocol = TRANSPARENT_ETHERNET;
        }
        TRANSPARENT_ETHERNET | IPV4 | IPV6 => {}
        _ => return Err(Stop::NotTcp),
    }
    if data.len() < offset {
        return Err(Stop::TooShort);
    }
    Ok((protocol, offset))
}
