"""What the capture layer hands on: packets, TCP segments, and addresses as text.

Knows nothing of files, link layers or connections; holds no logic beyond printing an address.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10

_V4_MAPPED = bytes(10) + b"\xff\xff"


class Packet(NamedTuple):
    """A captured frame: when, of which link type, what was kept of it, how long it was."""

    ts_ns: int
    linktype: int
    data: bytes
    wire_len: int


class Segment(NamedTuple):
    """A TCP segment. `payload` is what was captured, `wire_len` the length by the IP header,
    `ident` the identification of IPv4 (0 of IPv6)."""

    ts_ns: int
    src: bytes
    dst: bytes
    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    payload: bytes
    wire_len: int
    ident: int = 0


def ip_text(ip: bytes) -> str:
    """An address of 4 or 16 bytes as text, IPv6 by RFC 5952 (section 5 for the mapped ones)."""
    if len(ip) == 4:
        return f"{ip[0]}.{ip[1]}.{ip[2]}.{ip[3]}"
    if ip.startswith(_V4_MAPPED):
        # ipaddress prints these as ::ffff:102:304 before Python 3.13.
        return "::ffff:" + ip_text(ip[12:])
    return str(ipaddress.IPv6Address(ip))


def endpoint_text(ip: bytes, port: int) -> str:
    """`ip:port`, or `[ip]:port` for IPv6."""
    if len(ip) == 4:
        return f"{ip_text(ip)}:{port}"
    return f"[{ip_text(ip)}]:{port}"
