"""What holds for every capture: round trips, any block size, both engines alike, no exception."""

from __future__ import annotations

import io
import ipaddress
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.capture.build import (
    HAVE_NATIVE,
    Reader,
    ether,
    frames,
    ip4,
    ip6,
    native,
    pcap,
    pcapng,
    read_native,
    read_python,
    tcp,
    udp,
)
from zktrace.capture.container import Container
from zktrace.capture.counters import CaptureCounters
from zktrace.capture.segment import endpoint_text, ip_text
from zktrace.capture.write import PcapngWriter, PcapWriter

needs_native = pytest.mark.skipif(not HAVE_NATIVE, reason="native engine not built")

ORDERS: Any = st.sampled_from(["little", "big"])
TIMES = st.integers(0, 2**32 * 10**9 - 1)
PACKETS = st.lists(st.tuples(TIMES, st.binary(min_size=1, max_size=80)), max_size=8)

SAMPLES = [
    pcap(frames(6)),
    pcap(frames(6), byte_order="big", nanoseconds=False),
    pcapng(frames(6)),
    pcapng([f[14:] for f in frames(6)], linktype=101, resolution=20, binary=True, offset_s=-5),
    pcap(
        [
            ether(ip4(udp(b"\x08" + bytes(7) + ether(ip6(tcp(b"in"), 6), 0x86DD), 4789), 17)),
            ether(ip4(b"\x30\0\x22\xeb" + bytes(8) + bytes(12) + frames(1)[0], 47)),
            ether(ip4(tcp(bytes(40))[:32], frag=0x2000)),
            ether(ip4(tcp(bytes(40))[32:], frag=4)),
            ether(ip6(bytes([44, 0]) + bytes(6) + bytes([6, 0, 0, 1]) + tcp(bytes(8)), 0), 0x86DD),
            ether(ip6(bytes([6, 0, 0, 4]) + bytes(4) + tcp(bytes(8)), 44), 0x86DD),
            ether(b"\0\1\x08\0" + ip4(tcp(b"tagged")), 0x8100),
            *frames(2),
        ]
    ),
]


def packets_of(data: bytes, block: int) -> list[tuple[Any, ...]]:
    container = Container(CaptureCounters())
    packets: list[tuple[Any, ...]] = []
    for pos in range(0, len(data), block):
        packets += container.feed(data[pos : pos + block])
    return packets + container.finish()


@given(PACKETS, ORDERS, st.booleans(), st.integers(1, 400))
def test_pcap_round_trip(packets: Any, order: Any, nanoseconds: bool, block: int) -> None:
    file = io.BytesIO()
    writer = PcapWriter(file, 101, byte_order=order, nanoseconds=nanoseconds)
    for ts_ns, data in packets:
        writer.packet(ts_ns, data, len(data) + 3)
    unit = 1 if nanoseconds else 1000
    expected = [(ts // unit * unit, 101, data, len(data) + 3) for ts, data in packets]
    assert packets_of(file.getvalue(), block) == expected


@given(PACKETS, ORDERS, st.lists(st.integers(0, 8), min_size=1), st.integers(1, 400))
def test_pcapng_round_trip(packets: Any, order: Any, scales: list[int], block: int) -> None:
    file = io.BytesIO()
    writer = PcapngWriter(file)
    writer.section(byte_order=order)
    expected = []
    for number, scale in enumerate(scales):
        writer.interface(number, resolution=scale + 1, offset_s=-scale)
    for number, (ts_ns, data) in enumerate(packets):
        interface = number % len(scales)
        writer.packet(ts_ns, data, interface=interface)
        unit = 10 ** (8 - scales[interface])
        expected.append((ts_ns // unit * unit, interface, data, len(data)))
    assert packets_of(file.getvalue(), block) == expected


def mutate(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Replaces some bytes by others; places and lengths are taken modulo what there is."""
    for place, length, insert in changes:
        place %= len(data) + 1
        data = data[:place] + insert + data[place + length :]
    return data


# Whole words as a damaged length field would have them, besides anything.
WORDS = st.sampled_from([0, 1, 4, 12, 16, 32, 60, 64, 100, 1 << 16, 1 << 24, 1 << 25, 2**32 - 1])
INSERTS = st.binary(max_size=30) | WORDS.map(lambda n: struct.pack("<I", n)) | st.just(bytes(60))
CHANGES = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 40), INSERTS), max_size=4)


@given(st.sampled_from(SAMPLES), CHANGES, st.integers(1, 500))
def test_mutated_captures(sample: bytes, changes: Any, block: int) -> None:
    data = sample[:24] + mutate(sample[24:], changes)
    outcome = read_python(data)
    assert read_python(data, block) == outcome
    segments, counters = outcome
    assert counters["tcp_segments"] == len(segments)
    assert all(len(segment[8]) <= segment[9] for segment in segments)
    if HAVE_NATIVE:
        assert read_native(data) == outcome
        assert read_native(data, block) == outcome


def stretched(sample: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Frames mutated inside of a good container."""
    container = Container(CaptureCounters())
    packets = container.feed(sample) + container.finish()
    return pcap([mutate(packet.data, changes) for packet in packets], packets[0].linktype)


@needs_native
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 4), st.binary(max_size=4)), max_size=4),
)
def test_mutated_packets(sample: bytes, changes: Any) -> None:
    data = stretched(sample, changes)
    assert read_native(data) == read_python(data)


@needs_native
@given(
    st.sampled_from([0, 1, 12, 101, 108, 113, 228, 229, 276, 999]),
    st.lists(st.binary(max_size=120), max_size=5),
)
def test_noise_as_packets(linktype: int, packets: list[bytes]) -> None:
    data = pcap(packets, linktype)
    assert read_native(data) == read_python(data)


PIECES = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 12), st.integers(0, 12), st.booleans(), st.booleans()
    ),
    max_size=30,
)


@needs_native
@given(PIECES)
def test_fragments_in_any_order(pieces: Any) -> None:
    """Overlapping, repeated, contradicting: what each byte becomes is the same."""
    packets = []
    for number, (ident, start, units, more, v6) in enumerate(pieces):
        body = (tcp(bytes([number]) * 80)[start * 8 :])[: units * 8]
        if v6:
            head = struct.pack(">BBHI", 6, 0, start << 3 | more, ident)
            packets.append(ether(ip6(head + body, 44), 0x86DD))
        else:
            packets.append(ether(ip4(body, ident=ident, frag=start | more << 13)))
    data = pcap(packets)
    assert read_native(data) == read_python(data)


@given(st.binary(max_size=200))
def test_noise_as_a_file(data: bytes) -> None:
    for reader in (read_python, read_native) if HAVE_NATIVE else (read_python,):
        with pytest.raises(ValueError, match="is "):
            reader(b"\0" + data)


def test_long_damage_is_cheap(read: Reader) -> None:
    """Every byte may begin a record, and none does: no more than one look at each."""
    noise = struct.pack("<4I", 1_700_000_000, 0, 250_000, 250_000) * 20_000
    good = pcap(frames(3))
    _, counters = read(good + b"\xff" * 16 + noise + good[24:], 1000)
    assert counters["packets"] >= 3


ADDRESSES = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
SPARSE = st.lists(st.sampled_from([0, 0, 0, 0xFFFF, 1, 0x0A0B]), min_size=8, max_size=8)


@given(ADDRESSES | SPARSE.map(lambda words: struct.pack(">8H", *words)))
def test_addresses_as_text(ip: bytes) -> None:
    text = ip_text(ip)
    assert ipaddress.ip_address(text).packed == ip
    assert text == text.lower()
    if HAVE_NATIVE:
        assert native._debug_ip_text(ip) == text


def test_text_of_addresses() -> None:
    assert endpoint_text(bytes([127, 0, 0, 1]), 2181) == "127.0.0.1:2181"
    assert endpoint_text(bytes(15) + b"\1", 2181) == "[::1]:2181"
    mapped = bytes(10) + b"\xff\xff" + bytes([1, 2, 3, 4])
    assert endpoint_text(mapped, 1) == "[::ffff:1.2.3.4]:1"
    assert ip_text(bytes(12) + bytes([1, 2, 3, 4])) == "::102:304"
