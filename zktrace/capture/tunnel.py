"""Tunnels: what a UDP datagram or a GRE packet wraps. One level at a time; decap.py nests them.

VXLAN (RFC 7348), Geneve (RFC 8926), GRE (RFC 2784, 2890), ERSPAN (draft-foschiano-erspan). What
only looks like a tunnel by its port, and is not by its header, is not TCP. Must not know: TCP.
"""

from __future__ import annotations

from typing import NamedTuple

from zktrace.capture.link import IPV4, IPV6, NotTcp, TooShort

# 4789 is IANA's; Linux used 8472 before there was one, and still does by default.
VXLAN_PORTS = (4789, 8472)
GENEVE_PORT = 6081

TRANSPARENT_ETHERNET = 0x6558
_ERSPAN_II = 0x88BE
_ERSPAN_III = 0x22EB

_GRE_CHECKSUM, _GRE_ROUTING, _GRE_KEY, _GRE_SEQUENCE = 0x8000, 0x4000, 0x2000, 0x1000
_GRE_VERSION = 0x0007


class Inner(NamedTuple):
    """A wrapped packet: its ethertype (TRANSPARENT_ETHERNET, IPV4 or IPV6) and where it begins."""

    protocol: int
    offset: int


def udp_tunnel(dport: int, data: bytes) -> Inner:
    """What the payload of a UDP datagram wraps."""
    if dport in VXLAN_PORTS:
        if len(data) < 8 or not data[0] & 0x08:
            raise NotTcp
        return Inner(TRANSPARENT_ETHERNET, 8)
    if dport != GENEVE_PORT or len(data) < 8 or data[0] >> 6:
        raise NotTcp
    protocol = data[2] << 8 | data[3]
    offset = 8 + (data[0] & 0x3F) * 4
    if protocol not in (TRANSPARENT_ETHERNET, IPV4, IPV6) or len(data) < offset:
        raise NotTcp
    return Inner(protocol, offset)


def gre(data: bytes) -> Inner:
    """What a GRE packet wraps. Source routing and version 1 (PPTP) are not read."""
    if len(data) < 4:
        raise TooShort
    flags = data[0] << 8 | data[1]
    protocol = data[2] << 8 | data[3]
    if flags & (_GRE_VERSION | _GRE_ROUTING):
        raise NotTcp
    offset = 4
    for flag in (_GRE_CHECKSUM, _GRE_KEY, _GRE_SEQUENCE):
        if flags & flag:
            offset += 4
    if protocol == _ERSPAN_II:
        # Type I has neither a sequence number nor a header of its own.
        offset += 8 if flags & _GRE_SEQUENCE else 0
        protocol = TRANSPARENT_ETHERNET
    elif protocol == _ERSPAN_III:
        if len(data) < offset + 12:
            raise TooShort
        # The O flag announces a platform specific sub-header.
        offset += 20 if data[offset + 11] & 1 else 12
        protocol = TRANSPARENT_ETHERNET
    elif protocol not in (TRANSPARENT_ETHERNET, IPV4, IPV6):
        raise NotTcp
    if len(data) < offset:
        raise TooShort
    return Inner(protocol, offset)
