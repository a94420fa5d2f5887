"""Tunnels and fragments, crafted with scapy where it knows them."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from scapy.contrib.erspan import ERSPAN_I, ERSPAN_II, ERSPAN_III
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN

from tests.capture.build import T0, Reader, ether, expect, ip4, ip6, payloads, pcap, tcp, udp

INNER = Ether(src="00:00:00:00:00:01", dst="00:00:00:00:00:02") / Dot1Q(vlan=7)
INNER_IP = IP(src="192.168.0.1", dst="192.168.0.2") / TCP(sport=40000, dport=2181) / b"inner"
INNER_IP6 = IPv6(src="fd00::1", dst="fd00::2") / TCP(sport=40000, dport=2181) / b"inner"
INNER = INNER / INNER_IP
OUTER = Ether(src="00:00:00:00:00:03", dst="00:00:00:00:00:04") / IP(src="10.0.0.1", dst="10.0.0.2")
OUTER6 = Ether(src="00:00:00:00:00:03", dst="00:00:00:00:00:04") / IPv6(
    src="fd01::1", dst="fd01::2"
)


@pytest.mark.parametrize(
    "packet",
    [
        OUTER / UDP(dport=4789) / VXLAN(vni=5, flags=8) / INNER,
        OUTER / UDP(dport=8472) / VXLAN(vni=5, flags=8) / INNER,
        OUTER6 / UDP(dport=4789) / VXLAN(vni=5, flags=8) / INNER,
        OUTER / UDP(dport=6081) / GENEVE(vni=5) / INNER,
        OUTER / UDP(dport=6081) / GENEVE(vni=5, proto=0x0800) / INNER_IP,
        OUTER / UDP(dport=6081) / GENEVE(vni=5, proto=0x86DD) / INNER_IP6,
        OUTER / GRE() / INNER_IP,
        OUTER / GRE(proto=0x86DD) / INNER_IP6,
        OUTER / GRE(chksum_present=1, key_present=1, key=9, seqnum_present=1) / INNER_IP,
        OUTER / GRE(proto=0x6558) / INNER,
        OUTER / GRE(proto=0x88BE) / ERSPAN_I() / INNER,
        OUTER / GRE(proto=0x88BE, seqnum_present=1) / ERSPAN_II() / INNER,
        OUTER / GRE(proto=0x22EB, seqnum_present=1) / ERSPAN_III() / INNER,
        OUTER / INNER_IP,
        OUTER / INNER_IP6,
        OUTER6 / INNER_IP,
        OUTER6 / INNER_IP6,
        OUTER / GRE() / IP() / IP() / INNER_IP,
    ],
    ids=lambda packet: packet.summary()[:60],
)
def test_tunnel(read: Reader, packet: Any) -> None:
    segments, counters = read(pcap([bytes(packet)]))
    assert [s[3:5] + s[8:10] for s in segments] == [(40000, 2181, b"inner", 5)]
    assert segments[0][1] in (bytes([192, 168, 0, 1]), bytes([0xFD, *[0] * 14, 1]))
    expect(counters, packets=1)


def geneve_options(options: bytes) -> bytes:
    head = struct.pack(">BBHI", len(options) // 4, 0, 0x0800, 5 << 8)
    return head + options + ip4(tcp(b"inner"))


@pytest.mark.parametrize(
    "data",
    [
        ip4(udp(geneve_options(bytes(252)), 6081), 17),
        # ERSPAN III with the platform specific sub-header.
        ip4(
            b"\x10\0\x22\xeb" + bytes(4) + bytes(11) + b"\1" + bytes(8) + ether(ip4(tcp(b"inner"))),
            47,
        ),
    ],
)
def test_by_hand(read: Reader, data: bytes) -> None:
    segments, counters = read(pcap([ether(data)]))
    assert payloads(segments) == [b"inner"]
    expect(counters, packets=1)


@pytest.mark.parametrize(
    "data",
    [
        ip4(udp(bytes(8) + ether(ip4(tcp())), 4789), 17),  # no I flag
        ip4(udp(b"\x08" + bytes(6), 4789), 17),
        ip4(udp(b"\x40\0\x08\0" + bytes(4) + ip4(tcp()), 6081), 17),  # version 1
        ip4(udp(b"\0\0\x08\x06" + bytes(4) + ip4(tcp()), 6081), 17),
        ip4(udp(b"\x3f\0\x08\0" + bytes(4) + ip4(tcp()), 6081), 17),  # options beyond the end
        ip4(b"\0\x01\x88\x0b" + bytes(20), 47),  # PPTP
        ip4(b"\x40\0\x08\0" + bytes(20), 47),  # source routing
        ip4(b"\0\0\x12\x34" + bytes(20), 47),
    ],
)
def test_not_for_us(read: Reader, data: bytes) -> None:
    segments, counters = read(pcap([ether(data)]))
    assert segments == []
    expect(counters, packets=1, other_packets=1)


def test_nesting_ends(read: Reader) -> None:
    data = ip4(tcp(b"inner"))
    for _ in range(4):
        data = ip4(data, 4)
    segments, _ = read(pcap([ether(data)]))
    assert payloads(segments) == [b"inner"]
    segments, counters = read(pcap([ether(ip4(data, 4))]))
    assert segments == []
    expect(counters, packets=1, other_packets=1)


LONG = bytes(range(256)) * 12


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [0, 0, 1, 1, 2, 3]])
def test_fragments(read: Reader, order: list[int]) -> None:
    whole = IP(src="10.0.0.1", dst="10.0.0.2", id=77) / TCP(dport=2181) / LONG
    whole6 = IPv6(src="fd01::1", dst="fd01::2") / IPv6ExtHdrFragment(id=77) / TCP() / LONG
    cut: Any = fragment(whole, 800)  # type: ignore[no-untyped-call]
    cut6: Any = fragment6(whole6, 900)  # type: ignore[no-untyped-call]
    for ethertype, pieces in [(0x0800, cut), (0x86DD, cut6)]:
        pieces = [bytes(piece) for piece in pieces]
        assert len(pieces) == 4
        segments, counters = read(pcap([ether(pieces[n], ethertype) for n in order]))
        assert payloads(segments) == [LONG]
        assert segments[0][0] == T0 + (len(order) - 1) * 1_000_000
        expect(counters, packets=len(order), tcp_segments=1)


def piece(
    data: bytes, start: int, end: int, ident: int = 1, more: bool | None = None, protocol: int = 6
) -> bytes:
    flag = 0x2000 if (end < len(data) if more is None else more) else 0
    return ether(ip4(data[start:end], protocol, ident=ident, frag=start // 8 | flag))


def test_first_copy_wins(read: Reader) -> None:
    good = tcp(bytes(range(108)))
    evil = bytes(len(good))
    packets = [
        piece(good, 32, 64),
        piece(evil, 16, 80),
        piece(evil, 64, 96, more=False),  # says that the end is at 96
        piece(good, 0, 32),
        piece(good, 96, 128),
    ]
    segments, counters = read(pcap(packets))
    want = good[:16] + evil[16:32] + good[32:64] + evil[64:96]
    assert payloads(segments) == [want[20:]]
    # The last one begins a datagram of its own.
    expect(counters, packets=5, fragments_dropped=1)


def test_bad_fragments(read: Reader) -> None:
    data = bytes(70_000)
    packets = [
        ether(ip4(b"", frag=0x2000)),
        ether(ip4(bytes(9), frag=0x2000)),
        ether(ip4(bytes(20), frag=0x1FFF)),
        piece(data, 8, 16)[:-2] + bytes(2),
    ]
    _, counters = read(pcap(packets))
    expect(counters, packets=4, fragments_dropped=4)


def test_fragments_give_up_after_a_while(read: Reader) -> None:
    good = tcp(bytes(64))
    late = pcap([piece(good, 0, 32)]) + pcap([])[24:]
    for seconds, complete in [(30, True), (31, False)]:
        second = piece(good, 32, len(good))
        record = struct.pack("<4I", T0 // 10**9 + seconds, T0 % 10**9, len(second), len(second))
        segments, counters = read(late + record + second)
        assert len(segments) == complete
        expect(counters, packets=2, fragments_dropped=0 if complete else 2)


def test_fragment_limits(read: Reader) -> None:
    good = tcp(bytes(64))
    first = [piece(good, 0, 32, ident) for ident in range(300)]
    second = [piece(good, 32, len(good), ident) for ident in range(299, 43, -1)]
    segments, counters = read(pcap(first + second))
    assert len(segments) == 256
    expect(counters, packets=556, fragments_dropped=44)
    # Each holds 65,528 bytes of buffer for 8 bytes of data: 64 of them fit in 4 MiB.
    far = [ether(ip4(bytes(8), ident=ident, frag=0x2000 | 8190)) for ident in range(70)]
    _, counters = read(pcap(far))
    expect(counters, packets=70, fragments_dropped=70)


def test_fragments_of_a_tunnel(read: Reader) -> None:
    inner = udp(b"\x08" + bytes(7) + ether(ip4(tcp(b"inner" * 20))), 4789)
    packets = [piece(inner, 0, 80, protocol=17), piece(inner, 80, len(inner), protocol=17)]
    segments, counters = read(pcap(packets))
    assert payloads(segments) == [b"inner" * 20]
    expect(counters, packets=2)


def test_no_fragments_in_reassembled_fragments(read: Reader) -> None:
    again = bytes([6, 0, 0, 1, 0, 0, 0, 1]) + tcp(b"x" * 20)
    packets = [
        ether(ip6(bytes([44, 0, 0, 1, 0, 0, 0, 9]) + again[:24], 44), 0x86DD),
        ether(ip6(bytes([44, 0, 0, 24, 0, 0, 0, 9]) + again[24:], 44), 0x86DD),
    ]
    segments, counters = read(pcap(packets))
    assert segments == []
    expect(counters, packets=2, other_packets=1)
