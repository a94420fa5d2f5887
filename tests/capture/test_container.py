"""pcap and pcapng as they should be, and what is neither."""

from __future__ import annotations

import io
import struct

import pytest

from tests.capture.build import T0, Reader, expect, frames, payload_of, payloads, pcap, pcapng
from zktrace.capture.write import PcapngWriter

BLOCKS = [1, 3, 16, 57, 4096, 1 << 20]
ORDERS = ["little", "big"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("nanoseconds", [True, False])
@pytest.mark.parametrize("block", BLOCKS)
def test_pcap(read: Reader, order: str, nanoseconds: bool, block: int) -> None:
    data = pcap(frames(5), byte_order=order, nanoseconds=nanoseconds)
    segments, counters = read(data, block)
    unit = 1 if nanoseconds else 1000
    assert [s[0] for s in segments] == [(T0 + n * 10**6) // unit * unit for n in range(5)]
    assert payloads(segments) == [payload_of(n) for n in range(5)]
    expect(
        counters,
        packets=5,
        bytes=5 * len(frames(1)[0]),
        tcp_segments=5,
        first_ts_ns=segments[0][0],
        last_ts_ns=segments[-1][0],
    )


@pytest.mark.parametrize("order", [">", "<"])
def test_pcap_of_kuznetzov(read: Reader, order: str) -> None:
    data = struct.pack(order + "IHHiIII", 0xA1B2CD34, 2, 4, 0, 0, 65535, 1)
    for number, frame in enumerate(frames(3)):
        record = (1_700_000_000, number, len(frame), len(frame), 3, 8, 0)
        data += struct.pack(order + "5IHBx", *record) + frame
    segments, counters = read(data)
    assert payloads(segments) == [payload_of(n) for n in range(3)]
    expect(counters, packets=3)


def test_link_type_has_fcs_flags(read: Reader) -> None:
    segments, _ = read(pcap(frames(1), linktype=0x14000001))
    assert len(segments) == 1


def test_header_alone(read: Reader) -> None:
    segments, counters = read(pcap([]))
    assert segments == []
    expect(counters, packets=0, first_ts_ns=None, last_ts_ns=None)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\xd4", "is not a pcap or pcapng capture"),
        (b"GET / HTTP/1.1\r\n", "is not a pcap or pcapng capture"),
        (b"\x0a\x0d\x0d\x0a" + bytes(30), "is not a pcap or pcapng capture"),
    ],
)
@pytest.mark.parametrize("block", [1, 100])
def test_no_capture(read: Reader, data: bytes, reason: str, block: int) -> None:
    with pytest.raises(ValueError, match=reason):
        read(data, block)


@pytest.mark.parametrize("data", [pcap([])[:20], pcapng([])[:10], pcapng([])[:20]])
def test_cut_in_the_first_header(read: Reader, data: bytes) -> None:
    segments, counters = read(data)
    assert segments == []
    expect(counters, truncated=1)


@pytest.mark.parametrize("block", BLOCKS)
def test_pcapng(read: Reader, block: int) -> None:
    segments, counters = read(pcapng(frames(5)), block)
    assert [s[0] for s in segments] == [T0 + n * 10**6 for n in range(5)]
    assert payloads(segments) == [payload_of(n) for n in range(5)]
    expect(counters, packets=5, tcp_segments=5)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("resolution", "binary"),
    [(0, False), (3, False), (6, False), (9, False), (10, False), (20, True), (33, True)],
)
@pytest.mark.parametrize("offset_s", [0, 1_600_000_000, -5_000])
def test_pcapng_resolutions(
    read: Reader, order: str, resolution: int, binary: bool, offset_s: int
) -> None:
    file = io.BytesIO()
    writer = PcapngWriter(file)
    writer.section(byte_order=order)  # type: ignore[arg-type]
    writer.interface(resolution=resolution, binary=binary, offset_s=offset_s)
    writer.packet(T0, frames(1)[0])
    units = (2 if binary else 10) ** resolution
    # Rounded down twice: to what the file can say, and to nanoseconds.
    clock = (T0 - offset_s * 10**9) * units // 10**9
    segments, _ = read(file.getvalue())
    assert segments[0][0] == clock * 10**9 // units + offset_s * 10**9


@pytest.mark.parametrize(
    ("tsresol", "offset_s", "units", "ts_ns"),
    [
        (0, 0, 2**64 - 1, 2**63 - 1),
        (0, -(2**63), 0, -(2**63)),
        (127, 0, 2**64 - 1, 0),
        (0x80 | 127, 0, 2**64 - 1, 0),
        (28, 0, 2**64 - 1, 1),
        (29, 0, 2**64 - 1, 0),
        (0x80 | 64, 7, 2**64 - 1, 7_999_999_999),
    ],
)
def test_pcapng_times_out_of_range(
    read: Reader, tsresol: int, offset_s: int, units: int, ts_ns: int
) -> None:
    file = io.BytesIO()
    writer = PcapngWriter(file)
    options = struct.pack("<HHB3xHHqI", 9, 1, tsresol, 14, 8, offset_s, 0)
    writer.block(1, struct.pack("<HHI", 1, 0, 0) + options)
    frame = frames(1)[0]
    fixed = struct.pack("<5I", 0, units >> 32, units & 0xFFFFFFFF, len(frame), len(frame))
    writer.block(6, fixed + frame)
    segments, _ = read(file.getvalue())
    assert segments[0][0] == ts_ns


def test_pcapng_sections_and_interfaces(read: Reader) -> None:
    first, second, third = frames(3)
    file = io.BytesIO()
    writer = PcapngWriter(file)
    writer.interface(101, name="tun0")
    writer.interface(1, resolution=6)
    writer.packet(T0, first[14:], interface=0)
    writer.block(0x1234, b"nobody knows")
    writer.packet(T0, second, interface=1)
    writer.section(byte_order="big")
    writer.interface(1)
    writer.packet(T0, third)
    segments, counters = read(file.getvalue())
    assert payloads(segments) == [payload_of(n) for n in range(3)]
    assert [s[0] for s in segments] == [T0, T0 // 1000 * 1000, T0]
    expect(counters, packets=3)


def test_pcapng_simple_and_obsolete_packets(read: Reader) -> None:
    first, second, third = frames(3)
    file = io.BytesIO()
    writer = PcapngWriter(file)
    writer.interface(1, snaplen=60)
    writer.simple_packet(first)
    obsolete = (0, 3, T0 >> 32, T0 & 0xFFFFFFFF, len(second), len(second))
    writer.block(2, struct.pack("<HHIIII", *obsolete) + second)
    writer.simple_packet(third, wire_len=len(third))
    segments, counters = read(file.getvalue())
    # No time before the first packet that has one; simple packets obey the snap length.
    assert [s[0] for s in segments] == [0, T0, T0]
    assert payloads(segments) == [payload_of(0)[:6], payload_of(1), payload_of(2)[:6]]
    assert [s[9] for s in segments] == [24, 24, 24]
    expect(counters, packets=3, truncated=2)


def test_pcapng_drops(read: Reader) -> None:
    file = io.BytesIO()
    writer = PcapngWriter(file)
    writer.interface()
    writer.interface()
    writer.statistics(0, ifdrop=3, osdrop=4)
    writer.statistics(1, osdrop=5)
    writer.statistics(0, ifdrop=10, osdrop=4)
    writer.section()
    writer.interface()
    writer.statistics(0)
    writer.statistics(0, ifdrop=100)
    _, counters = read(file.getvalue())
    expect(counters, kernel_drops=119)


def test_pcapng_no_drops_are_known(read: Reader) -> None:
    file = io.BytesIO()
    writer = PcapngWriter(file)
    writer.interface()
    writer.statistics(0, ifdrop=0)
    _, counters = read(file.getvalue())
    expect(counters, kernel_drops=0)
