"""Several sources in time order, without having all of them open."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.capture.build import HAVE_NATIVE, T0, ether, frames, ip4, native, pcap, tcp
from zktrace.capture.counters import CaptureCounters
from zktrace.capture.errors import CaptureError
from zktrace.capture.merge import first_ts, read_packets
from zktrace.capture.reader import read_segments
from zktrace.capture.write import PcapWriter


def capture(times: list[int], source: int) -> bytes:
    file = io.BytesIO()
    writer = PcapWriter(file)
    for number, time in enumerate(times):
        writer.packet(T0 + time, ether(ip4(tcp(bytes([source]) * (number + 1)))))
    return file.getvalue()


def expected(sources: list[list[int]]) -> list[tuple[int, int]]:
    """The rule, word for word: smallest head first, ties by order of the arguments."""
    queues = [list(times) for times in sources]
    order: list[tuple[int, int]] = []
    while any(queues):
        _, index = min((queue[0], index) for index, queue in enumerate(queues) if queue)
        order.append((queues[index].pop(0) + T0, index))
    return order


def order_of(segments: list[Any]) -> list[tuple[int, int]]:
    return [(segment[0], segment[8][0]) for segment in segments]


SOURCES = st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=5)


@given(SOURCES, st.integers(1, 300), st.booleans())
def test_merge(tmp_path: Path, sources: list[list[int]], block: int, lazy: bool) -> None:
    paths = []
    for index, times in enumerate(sources):
        path = tmp_path / f"{index}.pcap"
        path.write_bytes(capture(times, index))
        paths.append(path)
    counters = CaptureCounters()
    opened: list[Any] = list(paths) if lazy else [io.BytesIO(p.read_bytes()) for p in paths]
    segments = list(read_segments(opened, counters, block))
    assert order_of(segments) == expected(sources)
    assert counters.packets == sum(map(len, sources))
    if HAVE_NATIVE:
        first = [first_ts(path) if lazy else None for path in paths]
        files = [path.read_bytes() for path in paths]
        merged = native._debug_merged_segments(files, first, block)
        assert merged == [tuple(segment) for segment in segments]


def test_files_wait_for_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotated files, given out of order: at most two are open at a time."""
    paths = []
    for index in range(20):
        path = tmp_path / f"{index:02}.pcap"
        path.write_bytes(capture([index * 10, index * 10 + 5], index))
        paths.append(path)
    open_now, most = set(), 0
    real = io.open

    class Watched(io.FileIO):
        def __enter__(self) -> Watched:
            open_now.add(self.name)
            return self

        def __exit__(self, *_: object) -> None:
            open_now.discard(self.name)
            self.close()

    def watched(path: Any, mode: str = "r", **options: Any) -> Any:
        return Watched(path, "r") if mode == "rb" else real(path, mode, **options)

    monkeypatch.setattr("builtins.open", watched)
    times = []
    for packet in read_packets(paths[::-1], CaptureCounters()):
        times.append(packet.ts_ns)
        most = max(most, len(open_now))
    assert times == sorted(times)
    assert len(times) == 40
    assert most <= 2
    assert not open_now


def test_a_source_without_packets(tmp_path: Path) -> None:
    (tmp_path / "empty.pcap").write_bytes(pcap([]))
    (tmp_path / "full.pcap").write_bytes(pcap(frames(3)))
    counters = CaptureCounters()
    paths = [tmp_path / "empty.pcap", tmp_path / "full.pcap"]
    assert len(list(read_segments(paths, counters))) == 3


def test_no_sources() -> None:
    assert list(read_packets([], CaptureCounters())) == []


def test_errors_come_before_any_packet(tmp_path: Path) -> None:
    (tmp_path / "a.pcap").write_bytes(pcap(frames(3)))
    (tmp_path / "b.pcap").write_bytes(b"no capture at all")
    with pytest.raises(CaptureError, match=r"b\.pcap: is not a pcap"):
        next(read_packets([tmp_path / "a.pcap", tmp_path / "b.pcap"], CaptureCounters()))
