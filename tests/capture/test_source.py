"""Paths, standard input, streams; plain, gzip and zstd; whole and broken."""

from __future__ import annotations

import gzip
import io
import os
import random
import sys
from pathlib import Path

import pytest
import zstandard

from tests.capture.build import frames, pcap
from zktrace.capture.counters import CaptureCounters
from zktrace.capture.errors import CaptureError
from zktrace.capture.source import open_blocks

RAW = pcap(frames(50)) + random.Random(1).randbytes(300_000)
GZ = gzip.compress(RAW, mtime=0)
ZST = zstandard.compress(RAW)
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"


def read(data: bytes, block: int = 1 << 16) -> tuple[bytes, int, int]:
    counters = CaptureCounters()
    out = b"".join(open_blocks(io.BytesIO(data), counters, block))
    return out, counters.truncated, counters.damaged_places


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (RAW, RAW),
        (b"", b""),
        (b"\x1f", b"\x1f"),
        (GZ, RAW),
        (ZST, RAW),
        (GZ + GZ, RAW * 2),
        (ZST + ZST, RAW * 2),
        (GZ + bytes(1000), RAW),
        (SKIPPABLE + ZST, RAW),
        (gzip.compress(bytes(5 << 20)), bytes(5 << 20)),
        (zstandard.compress(bytes(5 << 20)), bytes(5 << 20)),
    ],
)
@pytest.mark.parametrize("block", [97, 1 << 18])
def test_whole(data: bytes, expected: bytes, block: int) -> None:
    assert read(data, block) == (expected, 0, 0)


@pytest.mark.parametrize("data", [GZ, ZST])
@pytest.mark.parametrize("block", [97, 1 << 18])
def test_cut(data: bytes, block: int) -> None:
    for cut in (1, 1000, 100_000):
        out, truncated, damaged = read(data[:-cut], block)
        assert RAW.startswith(out)
        assert len(out) > len(RAW) - cut - (1 << 17)
        assert (truncated, damaged) == (1, 0)


def test_corrupt() -> None:
    bad_block = GZ[:150_000] + b"\xff" * 400 + GZ[150_400:]
    out, truncated, damaged = read(bad_block)
    assert len(out) > 100_000
    assert truncated + damaged == 1
    out, truncated, damaged = read(GZ[:-8] + b"checksum")
    assert (out, truncated, damaged) == (RAW, 0, 1)
    out, truncated, damaged = read(GZ + b"rubbish")
    assert (out, truncated, damaged) == (RAW, 0, 1)
    checked = zstandard.ZstdCompressor(write_checksum=True).compress(RAW)
    out, truncated, damaged = read(checked[:-4] + b"abcd")
    assert RAW.startswith(out)
    assert (truncated, damaged) == (0, 1)


@pytest.mark.parametrize("name", ["capture.pcap", "capture.gz", "nothing"])
def test_magic_counts_not_the_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for data in (RAW, GZ, ZST):
        path.write_bytes(data)
        for source in (path, str(path)):
            assert b"".join(open_blocks(source, CaptureCounters())) == RAW


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, GZ[:10])
    os.write(writing, GZ[10:30_000])
    os.close(writing)
    with open(reading, "rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        counters = CaptureCounters()
        assert RAW.startswith(b"".join(open_blocks("-", counters)))
        assert counters.truncated == 1


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="missing: No such file or directory"):
        list(open_blocks(tmp_path / "missing", CaptureCounters()))
    with pytest.raises(CaptureError, match="Is a directory"):
        list(open_blocks(tmp_path, CaptureCounters()))


def test_zstd_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(CaptureError, match="install the Python package 'zstandard'"):
        read(ZST)
