"""The same TCP segments in other link layers, tunnels and files: each capture here must decode like
its original.

Outer headers are made with scapy, so that they are somebody else's idea of the formats.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import zstandard
from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether, Loopback
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from tests.support import net
from tests.support.pcapio import (
    ETHERNET,
    LOOP,
    NULL,
    RAW_IP,
    SLL,
    SLL2,
    Interface,
    Record,
    pcap_bytes,
    pcapng_header,
    pcapng_other,
    pcapng_packet,
)

#: IPv6 addresses that stand for those of the originals.
ADDRESSES = {f"127.0.0.{n}": f"[fd00::7f00:{n}]" for n in range(1, 5)}

# scapy types its constructors so that keyword dictionaries do not fit.
_cut: Any = fragment
_MACS: Any = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
_OUTER: Any = {"src": "192.0.2.1", "dst": "192.0.2.2", "id": 7}


@dataclass(frozen=True, slots=True)
class Wrap:
    """A capture made of another one: file names with their bytes, and what differs in its truth."""

    what: str
    files: dict[str, bytes]
    meta: dict[str, Any]


def _packets(records: Iterable[Record]) -> list[tuple[Record, bytes]]:
    """Records with their IP packets (which end where the IP header says)."""
    out = []
    for record in records:
        seg = net.segment(record)
        assert seg is not None
        out.append((record, net.ip(seg)))
    return out


def _six(records: Iterable[Record]) -> list[tuple[Record, bytes]]:
    """The same segments between IPv6 addresses."""
    out = []
    for record in records:
        seg = net.segment(record)
        assert seg is not None
        (src, sport), (dst, dport) = seg.src, seg.dst
        moved = seg.but(
            src=(ADDRESSES[src].strip("[]"), sport), dst=(ADDRESSES[dst].strip("[]"), dport)
        )
        out.append((record, net.ip(moved)))
    return out


def _each(packets: Iterable[tuple[Record, bytes]], wrap: Callable[[bytes], bytes]) -> list[Record]:
    return [Record(record.ts_ns, wrap(packet)) for record, packet in packets]


def _ether(*layers: Any) -> bytes:
    packet: Any = Ether(**_MACS)
    for layer in layers:
        packet = packet / layer
    return bytes(packet)


def _inner(packet: bytes) -> bytes:
    """An inner Ethernet frame."""
    return (
        bytes(Ether(src="02:00:00:00:00:03", dst="02:00:00:00:00:04"))[:12]
        + struct.pack(">H", 0x0800)
        + packet
    )


def _udp(port: int, *layers: Any) -> bytes:
    return _ether(IP(**_OUTER), UDP(sport=50000, dport=port, chksum=0), *layers)


def _gre(**fields: Any) -> Callable[[bytes], bytes]:
    return lambda packet: _ether(IP(**_OUTER, proto=47), GRE(**fields), Raw(packet))


def _gre_ether(packet: bytes) -> bytes:
    return _ether(IP(**_OUTER, proto=47), GRE(proto=0x6558), Raw(_inner(packet)))


def _erspan1(packet: bytes) -> bytes:
    """Type I: no sequence number in the GRE header and no ERSPAN header."""
    return _ether(IP(**_OUTER, proto=47), Raw(struct.pack(">HH", 0, 0x88BE) + _inner(packet)))


def _erspan2(packet: bytes) -> bytes:
    gre = struct.pack(">HHI", 0x1000, 0x88BE, 1)
    header = bytes(ERSPAN_II(session_id=5))[:8]
    return _ether(IP(**_OUTER, proto=47), Raw(gre + header + _inner(packet)))


def _erspan3(packet: bytes) -> bytes:
    gre = struct.pack(">HHI", 0x1000, 0x22EB, 1)
    header = bytes(ERSPAN_III(session_id=5))[:12]
    return _ether(IP(**_OUTER, proto=47), Raw(gre + header + _inner(packet)))


def _fragments4(packets: Sequence[tuple[Record, bytes]]) -> list[Record]:
    """Longer datagrams in three fragments or so, every other one with them backwards."""
    out = []
    for number, (record, packet) in enumerate(packets):
        pieces = [packet]
        if len(packet) > 100:
            whole: Any = IP(packet)
            whole.flags = 0
            size = max(24, (len(packet) - 20) // 3 // 8 * 8)
            pieces = [bytes(piece) for piece in _cut(whole, fragsize=size)]
        if number % 2:
            pieces.reverse()
        out += [Record(record.ts_ns, net.ethernet(piece)) for piece in pieces]
    return out


def _fragments6(packets: Sequence[tuple[Record, bytes]]) -> list[Record]:
    """As for IPv4, with fragment headers by hand (scapy's are random)."""
    out = []
    for number, (record, packet) in enumerate(packets):
        pieces = [packet]
        if len(packet) > 120:
            head, body = packet[:40], packet[40:]
            size = max(24, len(body) // 3 // 8 * 8)
            cuts = [(at, body[at : at + size]) for at in range(0, len(body), size)]
            pieces = []
            for at, part in cuts:
                more = at + len(part) < len(body)
                extension = struct.pack(">BBHI", 6, 0, at | more, number + 1)
                whole = extension + part
                pieces.append(head[:4] + struct.pack(">HB", len(whole), 44) + head[7:] + whole)
        if number % 2:
            pieces.reverse()
        out += [Record(record.ts_ns, net.ethernet(piece)) for piece in pieces]
    return out


def _options6(packet: bytes) -> bytes:
    """Hop-by-hop and destination options before TCP."""
    body = packet[40:]
    hop = bytes([60, 0, 1, 4, 0, 0, 0, 0])
    dest = bytes([6, 0, 1, 4, 0, 0, 0, 0])
    whole = hop + dest + body
    return net.ethernet(packet[:4] + struct.pack(">HB", len(whole), 0) + packet[7:40] + whole)


def _two_interfaces(records: Sequence[Record]) -> bytes:
    """Packets in turn on interfaces of 10^-6 s, of 2^-30 s, and of 10^-9 s with an offset."""
    interfaces = [
        Interface(tsresol=None),
        Interface(tsresol=0x80 | 30),
        Interface(tsresol=9, tsoffset=1_000_000_000),
    ]
    out = [pcapng_header(interfaces)]
    out.append(pcapng_other(4, struct.pack("<HH", 0, 0)))  # name resolution: to be skipped
    for number, record in enumerate(records):
        which = number % 3
        out.append(pcapng_packet(which, interfaces[which], record))
    out.append(pcapng_other(0x0BAD, b"custom block, not to be known"))
    return b"".join(out)


def _two_sections(records: Sequence[Record]) -> bytes:
    """Two sections of different byte order and resolution."""
    half = len(records) // 2
    little, big = Interface(tsresol=6), Interface(tsresol=9)
    out = [pcapng_header([little])]
    out += [pcapng_packet(0, little, r) for r in records[:half]]
    out.append(pcapng_header([big], order=">"))
    out += [pcapng_packet(0, big, r, order=">") for r in records[half:]]
    return b"".join(out)


def wraps(base: str, records: Sequence[Record]) -> dict[str, Wrap]:
    """Every capture that is made of ``base``, by name."""
    four, six = _packets(records), _six(records)
    option = GeneveOptions(classid=0x0102, type=0x80, length=1, data=b"\1\2\3\4")
    out: dict[str, Wrap] = {}

    def add(name: str, what: str, data: bytes, suffix: str = ".pcap", **meta: Any) -> None:
        out[name] = Wrap(what, {name + suffix: data}, meta)

    def link(
        name: str, what: str, made: list[Record], linktype: int = ETHERNET, **meta: Any
    ) -> None:
        add(name, what, pcap_bytes(made, linktype), **meta)

    def tunnel(name: str, what: str, wrap: Callable[[bytes], bytes]) -> None:
        link(name, what, _each(four, wrap))

    link("ipv6", "over IPv6", _each(six, net.ethernet), addresses=ADDRESSES)
    link(
        "ipv6_options",
        "over IPv6 with hop-by-hop and destination options",
        _each(six, _options6),
        addresses=ADDRESSES,
    )
    tunnel("vlan", "in 802.1Q", lambda p: _ether(Dot1Q(vlan=5, type=0x0800), Raw(p)))
    tunnel(
        "qinq",
        "in 802.1ad and 802.1Q",
        lambda p: _ether(Dot1AD(vlan=6, type=0x8100), Dot1Q(vlan=5, type=0x0800), Raw(p)),
    )
    tunnel("vxlan", "in VXLAN", lambda p: _udp(4789, VXLAN(vni=9, flags=8), Raw(_inner(p))))
    tunnel(
        "geneve",
        "in Geneve with an option",
        lambda p: _udp(6081, GENEVE(vni=9, proto=0x6558, options=[option]), Raw(_inner(p))),
    )
    tunnel("gre", "in GRE", _gre(proto=0x0800))
    tunnel(
        "gre_fields",
        "in GRE with checksum, key and sequence number",
        _gre(
            proto=0x0800,
            chksum_present=1,
            chksum=0,
            key_present=1,
            key=3,
            seqnum_present=1,
            sequence_number=4,
        ),
    )
    tunnel("gre_ethernet", "as Ethernet in GRE", _gre_ether)
    tunnel("erspan1", "mirrored with ERSPAN type I", _erspan1)
    tunnel("erspan2", "mirrored with ERSPAN type II", _erspan2)
    tunnel("erspan3", "mirrored with ERSPAN type III", _erspan3)
    tunnel("ipip", "in IP in IP", lambda p: _ether(IP(**_OUTER, proto=4), Raw(p)))
    tunnel(
        "vxlan_vlan",
        "in 802.1Q in VXLAN over IPv6",
        lambda p: bytes(
            Ether(**_MACS)
            / IPv6(src="fd00::1", dst="fd00::2")
            / UDP(sport=1, dport=4789)
            / VXLAN(vni=9, flags=8)
            / Ether(**_MACS)
            / Dot1Q(vlan=5, type=0x0800)
            / Raw(p)
        ),
    )
    link("ip4_fragments", "in IPv4 fragments", _fragments4(four))
    link("ip6_fragments", "in IPv6 fragments", _fragments6(six), addresses=ADDRESSES)
    link("loopback", "of a BSD loopback", _each(four, lambda p: bytes(Loopback(type=2)) + p), NULL)
    link(
        "loopback_big",
        "of a BSD loopback of the other byte order",
        _each(four, lambda p: b"\0\0\0\2" + p),
        NULL,
    )
    link("loop_openbsd", "of an OpenBSD loopback", _each(four, lambda p: b"\0\0\0\2" + p), LOOP)
    link("raw_ip", "without a link layer", _each(four, bytes), RAW_IP)
    link(
        "sll",
        "of Linux' cooked mode",
        _each(four, lambda p: bytes(CookedLinux(proto=0x0800, lladdrtype=772)) + p),
        SLL,
    )
    link(
        "sll2",
        "of Linux' cooked mode, version 2",
        _each(four, lambda p: bytes(CookedLinuxV2(proto=0x0800, lladdrtype=772)) + p),
        SLL2,
    )
    twice = [
        Record(record.ts_ns, bytes(CookedLinux(pkttype=kind, proto=0x0800)) + packet)
        for record, packet in four
        for kind in (4, 0)
    ]
    link(
        "any_duplicates",
        "captured with -i any: each packet twice, out and in",
        twice,
        SLL,
        expect_also={"coverage": {"duplicate_packets": {"min": 100}, "gaps": 0}},
    )
    add("big_endian", "in a big-endian file", pcap_bytes(records, order=">"))
    add("nanoseconds", "in a file of nanoseconds", pcap_bytes(records, nanoseconds=True))
    add(
        "fcs",
        "in a file with flags above the link type",
        pcap_bytes(records, ETHERNET | 0x5400_0000),
    )
    add(
        "interfaces",
        "on three interfaces of different resolution",
        _two_interfaces(records),
        ".pcapng",
    )
    add("sections", "in two sections of different byte order", _two_sections(records), ".pcapng")
    packed = gzip.compress(pcap_bytes(records), mtime=0)
    add("gzipped", "compressed with gzip", packed, ".pcap.gz")
    # Two frames, as `cat a.zst b.zst` makes them.
    whole = pcap_bytes(records)
    pack = zstandard.ZstdCompressor().compress
    add(
        "zstandard",
        "compressed with zstd in two frames",
        pack(whole[:5000]) + pack(whole[5000:]),
        ".pcap.zst",
    )
    third = len(records) // 3
    parts = [records[:third], records[third : 2 * third], records[2 * third :]]
    files = {f"rotated.{i}.pcap": pcap_bytes(part) for i, part in enumerate(parts)}
    out["rotated"] = Wrap(
        "in three files, named in another order", files, {"files": sorted(files, reverse=True)}
    )
    return out
