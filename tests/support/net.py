"""Packets: TCP segments to IP to link layers, by ``struct``; and back, for captures of plain
Ethernet.

Knows nothing of ZooKeeper. Tunnels are built with scapy in ``pcaps/make.py``; this is the part that
the mangling of whole captures needs to be quick.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, replace
from typing import Final

from tests.support.pcapio import Record

FIN: Final = 1
SYN: Final = 2
RST: Final = 4
PSH: Final = 8
ACK: Final = 16

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Seg:
    """One TCP segment. ``cut`` is how many bytes of the payload the capture lacks (snap length)."""

    ts_ns: int
    src: Address
    dst: Address
    seq: int
    ack: int
    flags: int
    payload: bytes = b""
    cut: int = 0
    options: bytes = b""
    ident: int = 0

    @property
    def span(self) -> int:
        """Sequence numbers it takes."""
        both = (self.flags & SYN != 0) + (self.flags & FIN != 0)
        return len(self.payload) + self.cut + both

    def but(self, **changes: object) -> Seg:
        return replace(self, **changes)  # type: ignore[arg-type]


def show(address: Address) -> str:
    """``ip:port`` as the interfaces print it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def tcp(seg: Seg) -> bytes:
    """The TCP header and payload with a right checksum."""
    options = seg.options + b"\1" * (-len(seg.options) % 4)
    head = struct.pack(
        ">HHIIBBHHH",
        seg.src[1],
        seg.dst[1],
        seg.seq & 0xFFFFFFFF,
        seg.ack & 0xFFFFFFFF,
        (20 + len(options)) // 4 << 4,
        seg.flags,
        65535,
        0,
        0,
    )
    body = head + options + seg.payload
    src, dst = (ipaddress.ip_address(a[0]).packed for a in (seg.src, seg.dst))
    if len(src) == 4:
        pseudo = src + dst + struct.pack(">BBH", 0, 6, len(body) & 0xFFFF)
    else:
        pseudo = src + dst + struct.pack(">II", len(body), 6)
    return body[:16] + struct.pack(">H", checksum(pseudo + body)) + body[18:]


def ip4(src: str, dst: str, proto: int, body: bytes, *, ident: int = 0, frag: int = 0) -> bytes:
    """An IPv4 packet; ``frag`` is the flags-and-offset word. A body over 65,515 bytes gets total
    length 0 (TSO).
    """
    total = 20 + len(body)
    head = struct.pack(
        ">BBHHHBBH4s4s",
        0x45,
        0,
        total if total <= 65535 else 0,
        ident & 0xFFFF,
        frag,
        64,
        proto,
        0,
        ipaddress.IPv4Address(src).packed,
        ipaddress.IPv4Address(dst).packed,
    )
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + body


def ip6(src: str, dst: str, next_header: int, body: bytes) -> bytes:
    length = len(body) if len(body) <= 65535 else 0
    head = struct.pack(">IHBB", 6 << 28, length, next_header, 64)
    return head + ipaddress.IPv6Address(src).packed + ipaddress.IPv6Address(dst).packed + body


def ip(seg: Seg) -> bytes:
    """The IP packet of a segment, version by its addresses."""
    if ":" in seg.src[0]:
        return ip6(seg.src[0], seg.dst[0], 6, tcp(seg))
    return ip4(seg.src[0], seg.dst[0], 6, tcp(seg), ident=seg.ident, frag=0x4000)


def ethernet(packet: bytes) -> bytes:
    kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    return bytes.fromhex("020000000001020000000002") + struct.pack(">H", kind) + packet


def record(seg: Seg) -> Record:
    """A plain Ethernet record of a segment."""
    data = ethernet(ip(seg))
    return Record(seg.ts_ns, data[: len(data) - seg.cut] if seg.cut else data, len(data))


def ethernet_payload(data: bytes) -> bytes | None:
    """The IP packet of a plain Ethernet frame, None for anything else."""
    if len(data) < 34 or data[12:14] not in (b"\x08\x00", b"\x86\xdd"):
        return None
    return data[14:]


def segment(rec: Record) -> Seg | None:
    """The TCP segment of a plain Ethernet record (IPv4 without fragments, IPv6 without extension
    headers).
    """
    packet = ethernet_payload(rec.data)
    if packet is None:
        return None
    if packet[0] >> 4 == 4:
        head = (packet[0] & 15) * 4
        total = struct.unpack_from(">H", packet, 2)[0] or rec.length - 14
        if packet[9] != 6 or struct.unpack_from(">H", packet, 6)[0] & 0x3FFF:
            return None
        src, dst = (str(ipaddress.IPv4Address(packet[i : i + 4])) for i in (12, 16))
        ident = struct.unpack_from(">H", packet, 4)[0]
    elif packet[6] == 6:
        head, total, ident = 40, 40 + struct.unpack_from(">H", packet, 4)[0], 0
        src, dst = (str(ipaddress.IPv6Address(packet[i : i + 16])) for i in (8, 24))
    else:
        return None
    body = packet[head:total]
    if len(body) < 20:
        return None
    sport, dport, seq, ack, offset, flags = struct.unpack_from(">HHIIBB", body)
    data = offset >> 4 << 2
    payload = body[data:]
    return Seg(
        rec.ts_ns,
        (src, sport),
        (dst, dport),
        seq,
        ack,
        flags & 31,
        payload,
        cut=total - head - data - len(payload),
        options=body[20:data],
        ident=ident,
    )
