"""The ring of files with the latest packets, and slices of it."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.decoded import decode
from zktrace.capture.counters import CaptureCounters
from zktrace.capture.errors import CaptureError
from zktrace.capture.interfaces import Interface
from zktrace.capture.keep import NoRoom, NothingKept, Ring
from zktrace.capture.live import Plan, record_bytes
from zktrace.capture.merge import read_packets

PLAN = Plan((Interface("lo", 1, 772),), record="pcapng")
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
MIB = 1 << 20


def packet(ts_ns: int, size: int = 60) -> bytes:
    return record_bytes("pcapng", ts_ns, ts_ns.to_bytes(8, "big") + bytes(size - 8), size)


@contextmanager
def keeping(
    directory: Path, *, keep_s: int = 100, max_bytes: int = 10 * MIB
) -> Iterator[tuple[Ring, list[str]]]:
    told: list[str] = []
    ring = Ring(str(directory), PLAN, keep_s=keep_s, max_bytes=max_bytes, notice=told.append)
    ring.prepare()
    ring.begin()
    try:
        yield ring, told
    finally:
        ring.close()


def times(*paths: Path) -> list[int]:
    """Of all packets, by our own reader."""
    found: list[int] = []
    for path in paths:
        found += [packet.ts_ns for packet in read_packets([str(path)], CaptureCounters())]
    return found


def files(directory: Path) -> list[Path]:
    return sorted(
        directory.glob("zktrace-ring-*.pcapng"), key=lambda path: int(path.stem.split("-")[-1])
    )


def test_everything_is_kept_in_files_that_can_be_read(tmp_path: Path) -> None:
    with keeping(tmp_path, keep_s=1000) as (ring, told):
        for n in range(300):
            ring.add(packet(START + n * SECOND) + packet(START + n * SECOND + 1), 2)
    wanted = [START + n * SECOND + i for n in range(300) for i in (0, 1)]
    assert times(*files(tmp_path)) == wanted
    assert len(files(tmp_path)) == 3
    assert not told
    assert ring.coverage() == {}
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*.pcapng"))


def test_the_oldest_go_when_they_are_old(tmp_path: Path) -> None:
    with keeping(tmp_path, keep_s=100) as (ring, _):
        for n in range(1000):
            ring.add(packet(START + n * SECOND), 1)
    found = times(*files(tmp_path))
    assert found[-1] == START + 999 * SECOND
    assert START + 888 * SECOND <= found[0] <= START + 899 * SECOND
    assert found == list(range(found[0], found[-1] + 1, SECOND))


def test_the_oldest_go_when_they_are_large(tmp_path: Path) -> None:
    with keeping(tmp_path, keep_s=100_000, max_bytes=MIB) as (ring, _):
        for n in range(4000):
            ring.add(packet(START + n * SECOND, 1000), 1)
        ring.slice(START + 3999 * SECOND, START + 4000 * SECOND)
        sizes = [path.stat().st_size for path in files(tmp_path)]
        assert sum(sizes) <= MIB
        assert sum(sizes) > MIB * 3 // 4
        assert ring.state()["bytes"] == sum(sizes)


def test_files_of_an_earlier_run_are_of_the_ring(tmp_path: Path) -> None:
    other = tmp_path / "zktrace-ring-notes.txt"
    other.write_text("mine")
    with keeping(tmp_path) as (ring, _):
        ring.add(packet(START), 1)
    (old,) = files(tmp_path)[:1]
    os.utime(old, ns=(START, START))
    with keeping(tmp_path) as (ring, _):
        assert ring.state()["from_ns"] == START
        ring.add(packet(START + 50 * SECOND), 1)
        assert ring.slice(START, START + 51 * SECOND).packets == 2
        ring.add(packet(START + 200 * SECOND), 1)
        with pytest.raises(NothingKept):
            ring.slice(START, START + 1)
        assert not old.exists()
    assert other.read_text() == "mine"


def test_a_slice_is_what_was_asked_for(tmp_path: Path) -> None:
    with keeping(tmp_path, keep_s=1000) as (ring, _):
        for n in range(500):
            ring.add(packet(START + n * SECOND), 1)
        saved = ring.slice(START + 90 * SECOND, START + 310 * SECOND)
        assert saved.complete
        assert saved.packets == 220
        path = tmp_path / saved.file
        assert path.stat().st_size == saved.bytes
        assert times(path) == [START + n * SECOND for n in range(90, 310)]
        even = ring.slice(
            START, START + 10 * SECOND, lambda ts, link, data, wire: not ts // SECOND % 2
        )
        assert times(tmp_path / even.file) == [START + n * SECOND for n in range(0, 10, 2)]
        assert even.file != ring.slice(START, START + 10 * SECOND).file
        early = ring.slice(START - SECOND, START + SECOND)
        assert (early.packets, early.complete) == (1, False)
        with pytest.raises(NothingKept):
            ring.slice(START - 2 * SECOND, START)


def test_slices_have_a_limit_of_their_own(tmp_path: Path) -> None:
    with keeping(tmp_path, max_bytes=100_000) as (ring, _):
        for n in range(30):
            ring.add(packet(START + n, 1000), 1)
        for _ in range(2):
            ring.slice(START, START + 30)
        ring.slice(START, START + 30)
        with pytest.raises(NoRoom):
            ring.slice(START, START + 30)
        assert len(list(tmp_path.glob("zktrace-slice-*"))) == 3


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file can be larger: as a full disk, but it can be had without rights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_counted_and_is_tried_again(tmp_path: Path) -> None:
    """Nothing is half there, and all that is there can be read."""
    with keeping(tmp_path, keep_s=100_000) as (ring, told):
        ring.add(packet(START), 1)
        ring.slice(START, START + 1)  # it is written
        with at_most(1500):
            for n in range(1, 6):
                ring.add(packet(START + n, 1000), 1)
            ring._flush()
        assert ring.unwritten == 4
        assert ring.coverage() == {"unwritten_packets": 4}
        assert len(told) == 1
        assert "packets are not written: " in told[0]
        ring._again = 0.0  # the second has passed
        ring.add(packet(START + 9), 1)
        ring._flush()
        assert told[1:] == ["packets are written again"]
    assert times(*files(tmp_path)) == [START, START + 1, START + 9]


def test_what_the_disk_is_too_slow_for_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zktrace.capture.keep._QUEUE_BYTES", 1000)
    go = threading.Event()
    with keeping(tmp_path) as (ring, _):
        write = ring._write
        monkeypatch.setattr(ring, "_write", lambda *args: (go.wait(), write(*args)))
        for n in range(50):
            ring.add(packet(START + n), 1)
        assert 50 > ring.unwritten > 30
        go.set()
    assert len(times(*files(tmp_path))) == 50 - ring.unwritten


def test_a_file_tells_what_the_kernel_lost(tmp_path: Path) -> None:
    with keeping(tmp_path, keep_s=100) as (ring, _):
        ring.add(packet(START), 1)
        ring._flush()
        ring.drops(7)
        ring.add(packet(START + 50 * SECOND), 1)
        ring._flush()
        ring.drops(10)
    assert [decode(path).coverage["kernel_drops"] for path in files(tmp_path)] == [7, 3]


def test_a_place_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CaptureError, match="file"):
        Ring(str(tmp_path / "file"), PLAN, keep_s=1, max_bytes=1).prepare()
