"""Link layers and IP headers down to the segment."""

from __future__ import annotations

import struct

import pytest

from tests.capture.build import DST, DST6, SRC, SRC6, T0, Reader, ether, expect, ip4, ip6, pcap, tcp

INNER = ip4(tcp(b"hello"))
INNER6 = ip6(tcp(b"hello"))
WHOLE = (T0, SRC, DST, 40000, 2181, 1000, 2000, 0x18, b"hello", 5, 7)
WHOLE6 = (T0, SRC6, DST6, *WHOLE[3:-1], 0)


def tag(payload: bytes, ethertype: int) -> bytes:
    return struct.pack(">HH", 5, ethertype) + payload


@pytest.mark.parametrize(
    ("linktype", "data"),
    [
        (1, ether(INNER)),
        (1, ether(tag(INNER, 0x0800), 0x8100)),
        (1, ether(tag(tag(INNER, 0x0800), 0x8100), 0x88A8)),
        (1, ether(tag(tag(tag(tag(INNER, 0x0800), 0x8100), 0x9100), 0x8100), 0x88A8)),
        (113, bytes(14) + b"\x08\x00" + INNER),
        (113, bytes(14) + b"\x81\x00" + tag(INNER, 0x0800)),
        (276, b"\x08\x00" + bytes(18) + INNER),
        (0, b"\x02\0\0\0" + INNER),
        (0, b"\0\0\0\x02" + INNER),
        (108, b"\0\0\0\x02" + INNER),
        (12, INNER),
        (14, INNER),
        (101, INNER),
        (228, INNER),
    ],
)
@pytest.mark.parametrize("padding", [0, 6])
def test_ipv4(read: Reader, linktype: int, data: bytes, padding: int) -> None:
    segments, counters = read(pcap([data + bytes(padding)], linktype))
    assert segments == [WHOLE]
    expect(counters, packets=1, tcp_segments=1)


@pytest.mark.parametrize(
    ("linktype", "data"),
    [
        (1, ether(INNER6, 0x86DD)),
        (1, ether(tag(INNER6, 0x86DD), 0x8100)),
        (113, bytes(14) + b"\x86\xdd" + INNER6),
        (276, b"\x86\xdd" + bytes(18) + INNER6),
        (0, b"\x1e\0\0\0" + INNER6),
        (0, b"\0\0\0\x0a" + INNER6),
        (108, b"\0\0\0\x18" + INNER6),
        (101, INNER6),
        (229, INNER6),
    ],
)
@pytest.mark.parametrize("padding", [0, 6])
def test_ipv6(read: Reader, linktype: int, data: bytes, padding: int) -> None:
    segments, counters = read(pcap([data + bytes(padding)], linktype))
    assert segments == [WHOLE6]
    expect(counters, packets=1, tcp_segments=1)


def test_every_flag_and_field(read: Reader) -> None:
    packet = tcp(
        b"x", sport=65535, dport=1, seq=2**32 - 1, ack=2**31, flags=0xFF, options=bytes(40)
    )
    segments, _ = read(pcap([ether(ip4(packet, options=bytes(40)))]))
    assert segments == [(T0, SRC, DST, 65535, 1, 2**32 - 1, 2**31, 0x1F, b"x", 1, 7)]


@pytest.mark.parametrize(
    ("linktype", "data"),
    [
        (1, ether(bytes(28), 0x0806)),  # ARP
        (1, ether(bytes(40), 40)),  # 802.3
        (1, ether(ip4(bytes(8), 1))),  # ICMP
        (1, ether(ip4(bytes(20), 17))),  # UDP
        (1, ether(tag(tag(tag(tag(tag(INNER, 0x800), 0x8100), 0x8100), 0x8100), 0x8100), 0x8100)),
        (0, b"\x07\0\0\0" + INNER),
        (108, b"\x02\0\0\0" + INNER),
        (1, ether(ip6(bytes(8), 59), 0x86DD)),
        (1, ether(ip6(bytes(8), 50), 0x86DD)),
        (1, ether(ip6(bytes([0, 0, 0, 0, 0, 0, 0, 0]) * 17, 0), 0x86DD)),
    ],
)
def test_not_tcp(read: Reader, linktype: int, data: bytes) -> None:
    segments, counters = read(pcap([data], linktype))
    assert segments == []
    expect(counters, packets=1, other_packets=1)


def test_unknown_link_types(read: Reader) -> None:
    _, counters = read(pcap([INNER, INNER], 147))
    expect(counters, packets=2, undecoded_packets=2)
    assert counters["undecoded_linktypes"] == {147: 2}


@pytest.mark.parametrize(
    ("linktype", "data"),
    [
        (1, bytes(13)),
        (1, ether(b"\0\0", 0x8100)),
        (1, ether(INNER[:19])),
        (1, ether(b"\x55" + INNER[1:])),
        (1, ether(b"\x44" + INNER[1:])),
        (1, ether(ip4(tcp(), total=19))),
        (1, ether(ip4(tcp()[:19]))),
        (1, ether(ip4(tcp()[:12] + b"\x40" + tcp()[13:]))),
        (1, ether(ip4(tcp()[:12] + b"\x60" + tcp()[13:]))),
        (1, ether(ip4(bytes(7), 17))),
        (1, ether(ip4(bytes(3), 47))),
        (1, ether(INNER6[:39], 0x86DD)),
        (1, ether(INNER, 0x86DD)),
        (1, ether(ip6(bytes(7), 60), 0x86DD)),
        (1, ether(ip6(bytes([6, 1]) + bytes(7), 60), 0x86DD)),
        (101, b"\x05" + bytes(50)),
        (101, b""),
        (113, bytes(15)),
        (276, bytes(19)),
        (0, bytes(3)),
        (228, INNER6),
        (229, INNER),
    ],
)
def test_malformed(read: Reader, linktype: int, data: bytes) -> None:
    segments, counters = read(pcap([data], linktype))
    assert segments == []
    expect(counters, packets=1, malformed_packets=1)


def test_no_total_length(read: Reader) -> None:
    """Segmentation offload: the length does not fit the field."""
    big = b"b" * 70_000
    segments, counters = read(pcap([ether(ip4(tcp(big), total=0))]))
    assert segments[0][8] == big
    segments, _ = read(pcap([ether(ip6(tcp(big), length=0), 0x86DD)]))
    assert segments[0][8] == big
    expect(counters, packets=1)


@pytest.mark.parametrize("cut", range(1, 60))
def test_snap_length(read: Reader, cut: int) -> None:
    whole = ether(ip4(tcp(b"hello", options=bytes(12))))
    kept = len(whole) - cut
    record = struct.pack("<IIII", 1_700_000_000, 0, kept, len(whole))
    segments, counters = read(pcap([]) + record + whole[:kept])
    if kept >= 54:  # all fields that are needed are there, if not the options
        assert [(s[8], s[9]) for s in segments] == [(b"hello"[: max(0, kept - 66)], 5)]
    else:
        assert segments == []
    expect(counters, packets=1, truncated=1, bytes=len(whole))


def test_extension_headers(read: Reader) -> None:
    chain = tcp(b"hello")
    chain = bytes([6, 0]) + bytes(6) + chain  # destination options
    chain = bytes([60, 4]) + bytes(22) + chain  # authentication: (4 + 2) * 4
    chain = bytes([51, 2]) + bytes(22) + chain  # routing
    chain = bytes([43, 0]) + bytes(6) + chain  # atomic fragment
    chain = bytes([44, 1]) + bytes(14) + chain  # hop by hop
    segments, counters = read(pcap([ether(ip6(chain, 0), 0x86DD)]))
    assert segments == [WHOLE6]
    expect(counters, packets=1)
