"""Captures that are cut, overwritten, or have a hole: what is good is used, the rest is counted."""

from __future__ import annotations

import io
import random
import struct

import pytest

from tests.capture.build import T0, Reader, expect, frames, payload_of, payloads, pcap, pcapng
from zktrace.capture.write import PcapngWriter, PcapWriter

COUNT = 40
GOOD = pcap(frames(COUNT))
RECORD = 16 + len(frames(1)[0])
GOOD_NG = pcapng(frames(COUNT))
BLOCK_NG = (len(GOOD_NG) - len(pcapng([]))) // COUNT
FIRST_NG = len(pcapng([]))
BLOCKS = [1, 50, 1 << 20]


def numbers(segments: list[tuple[object, ...]]) -> list[int]:
    wanted = {payload_of(n): n for n in range(COUNT)}
    return [wanted[p] for p in payloads(segments) if p in wanted]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kept", [1, 15, 16, 40])
def test_pcap_cut(read: Reader, kept: int, block: int) -> None:
    segments, counters = read(GOOD[: 24 + 3 * RECORD + kept], block)
    assert numbers(segments) == [0, 1, 2]
    expect(counters, packets=3, truncated=1)


@pytest.mark.parametrize("kept", [1, 11, 12, 60])
def test_pcapng_cut(read: Reader, kept: int) -> None:
    segments, counters = read(GOOD_NG[: FIRST_NG + 3 * BLOCK_NG + kept])
    assert numbers(segments) == [0, 1, 2]
    expect(counters, packets=3, truncated=1)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("incl", [262_145, 0xFFFFFFFF, 0x7FFFFFFF])
def test_pcap_length_too_large(read: Reader, incl: int, block: int) -> None:
    data = bytearray(GOOD)
    struct.pack_into("<I", data, 24 + 5 * RECORD + 8, incl)
    segments, counters = read(bytes(data), block)
    assert numbers(segments) == [n for n in range(COUNT) if n != 5]
    expect(counters, packets=COUNT - 1, damaged_bytes=RECORD, damaged_places=1)


@pytest.mark.parametrize("block", BLOCKS)
def test_pcap_length_beyond_the_end(read: Reader, block: int) -> None:
    """A length that could be, in a file that is not that long: not a cut file."""
    data = bytearray(GOOD)
    struct.pack_into("<I", data, 24 + 5 * RECORD + 8, 200_000)
    segments, counters = read(bytes(data), block)
    assert numbers(segments) == [n for n in range(COUNT) if n != 5]
    expect(counters, packets=COUNT - 1, damaged_bytes=RECORD, damaged_places=1)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("filler", ["zeros", "ones", "noise"])
def test_pcap_overwritten(read: Reader, filler: str, block: int) -> None:
    start, size = 24 + 4 * RECORD, 5 * RECORD + 20
    noise = random.Random(1).randbytes(size)
    data = bytearray(GOOD)
    data[start : start + size] = {"zeros": bytes(size), "ones": b"\xff" * size, "noise": noise}[
        filler
    ]
    segments, counters = read(bytes(data), block)
    assert numbers(segments) == [n for n in range(COUNT) if not 4 <= n <= 9]
    expect(counters, packets=COUNT - 6, damaged_bytes=6 * RECORD, damaged_places=1)


@pytest.mark.parametrize("block", BLOCKS)
def test_pcap_with_a_hole(read: Reader, block: int) -> None:
    """Bytes are missing: the record before the hole swallows some, then reading goes on."""
    start = 24 + 4 * RECORD + 30
    segments, counters = read(GOOD[:start] + GOOD[start + 3 * RECORD + 7 :], block)
    assert numbers(segments)[:4] == [0, 1, 2, 3]
    assert numbers(segments)[-30:] == list(range(10, COUNT))
    assert counters["damaged_places"] == 1
    assert counters["truncated"] == 0


def test_pcap_trailing_zeros(read: Reader) -> None:
    """What a file system leaves behind a crash."""
    segments, counters = read(GOOD + bytes(4096))
    assert numbers(segments) == list(range(COUNT))
    expect(counters, packets=COUNT, damaged_bytes=4096, damaged_places=1)


def test_pcap_two_files_in_one(read: Reader) -> None:
    segments, counters = read(GOOD + GOOD)
    assert numbers(segments) == [*range(COUNT), *range(COUNT)]
    expect(counters, packets=2 * COUNT, damaged_bytes=24, damaged_places=1)


def test_pcap_files_of_different_days_in_one(read: Reader) -> None:
    file = io.BytesIO()
    writer = PcapWriter(file)
    for number in range(5):
        writer.packet(T0 + 10 * 86_400 * 10**9, frames(5)[number])
    for block in BLOCKS:
        segments, counters = read(GOOD + file.getvalue(), block)
        assert numbers(segments) == [*range(COUNT), *range(5)]
        expect(counters, packets=COUNT + 5, damaged_bytes=24, damaged_places=1)


def test_pcap_odd_but_good(read: Reader) -> None:
    """Jumps of the clock, empty packets and records longer than the packet was are believed."""
    file = io.BytesIO()
    writer = PcapWriter(file)
    for number, day in enumerate([0, 10, 2, 3000, 1]):
        writer.packet(T0 + day * 86_400 * 10**9, frames(5)[number], wire_len=1)
        writer.packet(T0 + day * 86_400 * 10**9, frames(1)[0][:10])
        writer.packet(T0 + day * 86_400 * 10**9, b"")
    segments, counters = read(file.getvalue())
    assert numbers(segments) == [0, 1, 2, 3, 4]
    expect(counters, packets=15, malformed_packets=10)


def test_pcapng_scans(read: Reader) -> None:
    for pos, value in [(4, 8), (4, 13), (4, 1 << 30), (4, BLOCK_NG + 4), (BLOCK_NG - 4, 99)]:
        data = bytearray(GOOD_NG)
        struct.pack_into("<I", data, FIRST_NG + 6 * BLOCK_NG + pos, value)
        for block in BLOCKS:
            segments, counters = read(bytes(data), block)
            assert numbers(segments) == [n for n in range(COUNT) if n != 6]
            expect(counters, packets=COUNT - 1, damaged_bytes=BLOCK_NG, damaged_places=1)


@pytest.mark.parametrize("block", BLOCKS)
def test_pcapng_with_a_hole(read: Reader, block: int) -> None:
    start = FIRST_NG + 4 * BLOCK_NG + 30
    segments, counters = read(GOOD_NG[:start] + GOOD_NG[start + 2 * BLOCK_NG + 7 :], block)
    assert numbers(segments) == [0, 1, 2, 3, *range(7, COUNT)]
    assert counters["damaged_places"] == 1


def test_pcapng_contradictions_cost_one_block(read: Reader) -> None:
    file = io.BytesIO()
    writer = PcapngWriter(file)
    writer.simple_packet(frames(1)[0])
    writer.interface()
    writer.packet(T0, frames(1)[0])
    writer.block(6, struct.pack("<5I", 1, 0, 0, 4, 4) + b"abcd")
    writer.block(6, struct.pack("<5I", 0, 0, 0, 5, 5) + b"abcd")
    writer.block(6, b"abcd")
    writer.block(1, b"abcd")
    writer.packet(T0, frames(2)[1])
    segments, counters = read(file.getvalue())
    assert numbers(segments) == [0, 1]
    spoiled = 16 + len(frames(1)[0]) + -len(frames(1)[0]) % 4 + 36 + 36 + 16 + 16
    expect(counters, packets=2, damaged_bytes=spoiled, damaged_places=5)


def test_a_large_damaged_length_does_not_hide_what_follows(read: Reader) -> None:
    data = bytearray(GOOD_NG)
    struct.pack_into("<I", data, FIRST_NG + 4, 16 << 20)
    segments, counters = read(bytes(data), 333)
    assert numbers(segments) == list(range(1, COUNT))
    expect(counters, packets=COUNT - 1, damaged_bytes=BLOCK_NG, damaged_places=1)
