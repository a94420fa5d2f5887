"""From a captured packet to its TCP segment, through link layer, IP, fragments and tunnels.

Every packet is counted once, as CaptureCounters says. "Too short" headers are malformed, unless
the snap length cut the packet: then they are only `truncated`. Must not know: connections, files.
"""

from __future__ import annotations

import dpkt

from zktrace.capture import ip, link, tunnel
from zktrace.capture.counters import CaptureCounters
from zktrace.capture.link import Malformed, NotTcp, TooShort, UnknownLinkType
from zktrace.capture.segment import Packet, Segment

TCP, UDP, GRE, IP_IN_IP, IPV6_IN_IP = 6, 17, 47, 4, 41
# Overlay in overlay in a mirror session is three.
MAX_TUNNELS = 4


class Decapsulator:
    """Packets in, TCP segments out. Holds nothing but fragments."""

    def __init__(self, counters: CaptureCounters) -> None:
        self._counters = counters
        self._reassembler = ip.Reassembler(counters)

    def packet(self, packet: Packet) -> Segment | None:
        """The TCP segment of a packet, if it holds one or completes one."""
        ts_ns, linktype, data, wire_len = packet
        counters = self._counters
        counters.packets += 1
        counters.bytes += wire_len
        if counters.first_ts_ns is None or ts_ns < counters.first_ts_ns:
            counters.first_ts_ns = ts_ns
        if counters.last_ts_ns is None or ts_ns > counters.last_ts_ns:
            counters.last_ts_ns = ts_ns
        cut = wire_len > len(data)
        if cut:
            counters.truncated += 1
        try:
            segment = self._network(ts_ns, *link.network_packet(linktype, data, wire_len), 0)
        except TooShort:
            if not cut:
                counters.malformed_packets += 1
        except Malformed:
            counters.malformed_packets += 1
        except NotTcp:
            counters.other_packets += 1
        except UnknownLinkType:
            counters.undecoded_packets += 1
            seen = counters.undecoded_linktypes
            seen[linktype] = seen.get(linktype, 0) + 1
        else:
            if segment is not None:
                counters.tcp_segments += 1
            return segment
        return None

    def finish(self) -> None:
        """End of the capture."""
        self._reassembler.finish()

    def _network(
        self, ts_ns: int, protocol: int, data: bytes, wire: int, tunnels: int
    ) -> Segment | None:
        """An IP packet; None when it is a fragment of a datagram that is not whole yet."""
        if protocol == link.IPV4:
            payload = ip.ipv4(data, wire)
        else:
            payload = ip.ipv6(data, wire)
        if payload.fragment is not None:
            whole = self._reassembler.add(ts_ns, payload, payload.fragment)
            if whole is None:
                return None
            payload = payload._replace(data=whole, wire=len(whole), fragment=None)
            if protocol == link.IPV6:
                payload = ip.extension_headers(payload, fragments=False)
        return self._transport(ts_ns, payload, tunnels)

    def _transport(self, ts_ns: int, payload: ip.Payload, tunnels: int) -> Segment | None:
        protocol, data, wire = payload.protocol, payload.data, payload.wire
        if protocol == TCP:
            return _segment(ts_ns, payload)
        if protocol == UDP:
            try:
                datagram = dpkt.udp.UDP(data)
            except dpkt.NeedData:
                raise TooShort from None
            inner = tunnel.udp_tunnel(datagram.dport, datagram.data)
            data = datagram.data
            wire -= 8
        elif protocol == GRE:
            inner = tunnel.gre(data)
        elif protocol == IP_IN_IP:
            inner = tunnel.Inner(link.IPV4, 0)
        elif protocol == IPV6_IN_IP:
            inner = tunnel.Inner(link.IPV6, 0)
        else:
            raise NotTcp
        if tunnels == MAX_TUNNELS:
            raise NotTcp
        data = data[inner.offset :]
        wire -= inner.offset
        ethertype = inner.protocol
        if ethertype == tunnel.TRANSPARENT_ETHERNET:
            ethertype, data, wire = link.ethernet(data, wire)
        return self._network(ts_ns, ethertype, data, wire, tunnels + 1)


def _segment(ts_ns: int, payload: ip.Payload) -> Segment:
    try:
        tcp = dpkt.tcp.TCP(payload.data)
    except dpkt.NeedData:
        raise TooShort from None
    except dpkt.UnpackError:
        raise Malformed from None
    header = tcp.off * 4
    if header > payload.wire:
        raise Malformed
    return Segment(
        ts_ns,
        payload.src,
        payload.dst,
        tcp.sport,
        tcp.dport,
        tcp.seq,
        tcp.ack,
        tcp.flags & 0x1F,
        tcp.data,
        payload.wire - header,
        payload.ident,
    )
