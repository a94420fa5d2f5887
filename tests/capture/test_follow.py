"""Files that are still written: whatever is done to them, the same rows as of the whole capture."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.decoded import Decoded, Row, decode, take
from tests.support.pcapio import (
    Interface,
    Record,
    pcap_bytes,
    pcapng_header,
    pcapng_packet,
    read_pcap,
)
from zktrace.capture import follow
from zktrace.capture.errors import CaptureError
from zktrace.capture.follow import Follower
from zktrace.engine.base import EngineOptions, create
from zktrace.engine.driver import Run

PCAPS = Path(__file__).parents[2] / "pcaps"
SAMPLE = PCAPS / "22_pipelined.pcap"
RECORDS = read_pcap(SAMPLE).records
LINKTYPE = read_pcap(SAMPLE).linktype
_PATIENCE_S = 60.0
_HEADER = 24


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked more often, so that tests take less time."""
    monkeypatch.setattr(follow, "_LOOK_S", 0.01)
    monkeypatch.setattr(follow, "_SCAN_S", 0.02)
    monkeypatch.setattr(follow, "_QUIET_S", 0.5)


class Following:
    """A series that is read by a thread of its own."""

    def __init__(self, *sources: Path, engine: str) -> None:
        self.notices: list[str] = []
        self.follower = Follower([str(source) for source in sources], self.notices.append)
        self._engine = create(EngineOptions(), engine)
        self.run = Run(self.follower, self._engine, batch_rows=1)
        self.failure: BaseException | None = None
        self._out = Decoded()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            for _ in self.run:
                take(self._out, self._engine)
        except BaseException as error:
            self.failure = error

    def packets(self, count: int) -> None:
        """Waits until so many were read."""
        self.until(lambda: self.run.coverage()["packets"] >= count)

    def until(self, good: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE_S
        while not good():
            assert time.monotonic() < end, (self.run.coverage(), self.notices)
            assert self.failure is None, self.failure
            time.sleep(0.02)

    def end(self) -> Decoded:
        self.run.stop()
        self._thread.join(_PATIENCE_S)
        assert not self._thread.is_alive()
        assert self.failure is None, self.failure
        self._out.coverage = self.run.coverage()
        return self._out


@contextmanager
def following(*sources: Path, engine: str) -> Iterator[Following]:
    one = Following(*sources, engine=engine)
    try:
        yield one
    finally:
        one.run.stop()


def pcap(records: list[Record]) -> bytes:
    return pcap_bytes(records, LINKTYPE)


def pcapng(records: list[Record]) -> bytes:
    one = Interface(linktype=LINKTYPE)
    return pcapng_header([one]) + b"".join(pcapng_packet(0, one, record) for record in records)


def parts(count: int) -> list[list[Record]]:
    """The sample, cut into so many pieces of about the same size."""
    size = -(-len(RECORDS) // count)
    return [RECORDS[at : at + size] for at in range(0, len(RECORDS), size)]


def rows(decoded: Decoded) -> list[Row]:
    return [*decoded.exchanges, *decoded.connections, *decoded.anomalies]


def whole(one: Following, engine: str) -> Decoded:
    """All of the sample was read, once, and nothing else."""
    one.packets(len(RECORDS))
    found = one.end()
    expected = decode(SAMPLE, engine=engine)
    assert found.coverage["packets"] == len(RECORDS)
    assert rows(found) == rows(expected)
    assert len(found.exchanges) > 150
    for name in ("gaps", "truncated", "damaged_bytes", "damaged_places"):
        assert found.coverage[name] == 0, name
    return found


@pytest.mark.parametrize("form", ["pcap", "pcapng", "gz"])
def test_a_file_that_grows_by_odd_pieces(tmp_path: Path, engine: str, form: str) -> None:
    """Cut anywhere: in headers, in packets, in what is compressed."""
    path = tmp_path / "a.pcap"
    data = (pcapng if form == "pcapng" else pcap)(RECORDS)
    if form == "gz":
        data = gzip.compress(data, mtime=0)
    with following(path, engine=engine) as one:
        one.until(lambda: bool(one.notices))
        assert one.notices == [f"waiting for {path}"]
        step = len(data) // 12 + 1
        with open(path, "wb", buffering=0) as file:
            for at in range(0, len(data), step):
                file.write(data[at : at + step])
                time.sleep(0.02)
            whole(one, engine)
    assert len(one.notices) == 1


def test_events_come_as_they_are_written(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "a.pcap"
    half = len(RECORDS) // 2
    path.write_bytes(pcap(RECORDS[:half]))
    with following(path, engine=engine) as one:
        one.packets(half)
        early = one.run.coverage()["exchanges"]["complete"]
        assert early > 50
        assert one.run.coverage()["packets"] == half
        with open(path, "ab") as file:
            file.write(pcap(RECORDS[half:])[_HEADER:])
        whole(one, engine)


def _names_of_c(tmp_path: Path) -> list[Path]:
    return [tmp_path / ("a.pcap" + (str(n) if n else "")) for n in range(5)]


def _names_of_g(tmp_path: Path) -> list[Path]:
    return [tmp_path / f"a-12{n:02}.pcap" for n in range(5)]


def _names_of_proxy(tmp_path: Path) -> list[Path]:
    return [tmp_path / f"a-{n:05}.pcap" for n in range(1, 6)]


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (_names_of_c, "a.pcap"),
        (_names_of_proxy, "a.pcap"),
        (_names_of_g, "a-%H%M.pcap"),
        (_names_of_g, "a-*.pcap"),
        (_names_of_g, ""),
    ],
    ids=["tcpdump -C", "proxy --rotate", "tcpdump -G", "pattern", "directory"],
)
@pytest.mark.parametrize("early", [0, 3])
def test_rotation_to_new_names(
    tmp_path: Path, engine: str, names: Callable[[Path], list[Path]], source: str, early: int
) -> None:
    """Of which some are there already; connections go on from file to file."""
    pieces = list(zip(names(tmp_path), parts(5), strict=True))
    (tmp_path / ".hidden").write_bytes(b"no capture")
    (tmp_path / "zktrace-slice-1.pcapng").write_bytes(pcapng(RECORDS))
    for path, piece in pieces[:early]:
        path.write_bytes(pcap(piece))
    with following(tmp_path / source, engine=engine) as one:
        read = sum(len(piece) for _, piece in pieces[:early])
        one.packets(read)
        for path, piece in pieces[early:]:
            with open(path, "wb", buffering=0) as file:
                file.write(pcap(piece)[: _HEADER + 7])
                time.sleep(0.05)
                file.write(pcap(piece)[_HEADER + 7 :])
            read += len(piece)
            one.packets(read)
        whole(one, engine)
    assert [text for text in one.notices if "waiting" not in text] == []


@pytest.mark.parametrize("how", ["cut", "replaced", "renamed"])
def test_the_same_name_again(tmp_path: Path, engine: str, how: str) -> None:
    """Cut to nothing and written anew, by tcpdump -W 1; replaced; renamed, as logrotate does."""
    path = tmp_path / "a.pcap"
    read = 0
    with following(path, engine=engine) as one:
        for number, piece in enumerate(parts(4)):
            if how == "renamed" and number:
                path.rename(tmp_path / f"a.pcap.old.{number}")
            new = path if how != "replaced" else tmp_path / ".new"
            with open(new, "wb", buffering=0) as file:
                file.write(pcap(piece))
            if how == "replaced":
                new.replace(path)
            read += len(piece)
            one.packets(read)
        whole(one, engine)


def test_the_same_names_in_turn(tmp_path: Path, engine: str) -> None:
    """tcpdump -W 3: a.pcap0, a.pcap1, a.pcap2, and a.pcap0 again."""
    read = 0
    with following(tmp_path / "a.pcap", engine=engine) as one:
        for number, piece in enumerate(parts(8)):
            with open(tmp_path / f"a.pcap{number % 3}", "wb", buffering=0) as file:
                file.write(pcap(piece))
            read += len(piece)
            one.packets(read)
        whole(one, engine)


def test_what_was_compressed_after_rotation_is_not_read_again(tmp_path: Path, engine: str) -> None:
    read = 0
    with following(tmp_path, engine=engine) as one:
        for number, piece in enumerate(parts(4)):
            path = tmp_path / f"a{number}.pcap"
            path.write_bytes(pcap(piece))
            read += len(piece)
            one.packets(read)
            (tmp_path / f"a{number}.pcap.gz").write_bytes(gzip.compress(path.read_bytes()))
            if number:
                path.unlink()
        whole(one, engine)


def test_a_ring_of_ours(tmp_path: Path, engine: str) -> None:
    read = 0
    with following(tmp_path, engine=engine) as one:
        for number, piece in enumerate(parts(6)):
            path = tmp_path / f"zktrace-ring-20231114T22132{number}.000000000Z-{number}.pcapng"
            path.write_bytes(pcapng(piece))
            read += len(piece)
            one.packets(read)
        whole(one, engine)


def test_files_that_went_away_are_counted(tmp_path: Path, engine: str) -> None:
    pieces = parts(4)
    with following(tmp_path, engine=engine) as one:
        (tmp_path / "a0").write_bytes(pcap(pieces[0]))
        one.packets(len(pieces[0]))
        one.follower._scan = lambda: None  # type: ignore[method-assign]
        time.sleep(0.2)  # a look that was under way has ended
        lost = tmp_path / "a1"
        lost.write_bytes(pcap(pieces[1]))
        del one.follower._scan
        # It is known, and gone before the thread looks again.
        look, follower = threading.Event(), one.follower
        pending = follower._pending

        def after() -> list[object]:
            found = pending()
            if not look.is_set() and any(seen.path == str(lost) for seen in found):
                lost.unlink()
                look.set()
            return list(found)

        follower._pending = after  # type: ignore[assignment, method-assign]
        assert look.wait(_PATIENCE_S)
        (tmp_path / "a2").write_bytes(pcap(pieces[2]))
        one.packets(len(pieces[0]) + len(pieces[2]))
        found = one.end()
    assert found.coverage["missed_files"] == 1
    assert any(str(lost) in text for text in one.notices)
    assert found.coverage["gaps"] > 0


def test_two_writers_are_told(tmp_path: Path, engine: str) -> None:
    pieces = parts(4)
    first, second = tmp_path / "a", tmp_path / "b"
    with following(tmp_path, engine=engine) as one:
        first.write_bytes(pcap(pieces[0]))
        one.packets(len(pieces[0]))
        second.write_bytes(pcap(pieces[2]))
        one.packets(len(pieces[0]) + len(pieces[2]))
        more = pcap(pieces[1])[_HEADER:]
        with open(first, "ab") as file:
            file.write(more)
        one.until(lambda: one.run.coverage().get("unread_bytes") == len(more))
        found = one.end()
    assert found.coverage["packets"] == len(pieces[0]) + len(pieces[2])
    assert sum("grew after the next file" in text for text in one.notices) == 1


def test_an_older_file_does_not_end_the_one_that_is_read(tmp_path: Path, engine: str) -> None:
    """Somebody copied it there."""
    halves = parts(2)
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap(halves[0]))
    old = [record.at(record.ts_ns - 3600 * 10**9) for record in RECORDS]
    with following(tmp_path, engine=engine) as one:
        one.packets(len(halves[0]))
        (tmp_path / "old.pcap").write_bytes(pcap(old))
        one.until(lambda: any("begins before" in text for text in one.notices))
        with open(path, "ab") as file:
            file.write(pcap(halves[1])[_HEADER:])
        whole(one, engine)


def test_a_clock_set_back_does_not_end_it(tmp_path: Path, engine: str) -> None:
    """The next file begins earlier, but grows while the one before it does not."""
    halves = parts(2)
    hour = 3600 * 10**9
    later = [record.at(record.ts_ns + hour) for record in halves[0]]
    with following(tmp_path, engine=engine) as one:
        (tmp_path / "a").write_bytes(pcap(later))
        one.packets(len(later))
        data = pcap(halves[1])
        with open(tmp_path / "b", "wb", buffering=0) as file:
            file.write(data[: _HEADER + 16 + len(halves[1][0].data)])
            at = file.tell()
            while one.run.coverage()["packets"] == len(later):
                assert at < len(data), "it was not taken"
                file.write(data[at : at + 64])
                at += 64
                time.sleep(0.05)
            file.write(data[at:])
        one.packets(len(RECORDS))
        assert one.end().coverage["packets"] == len(RECORDS)


def test_damage_and_rubbish_are_passed(tmp_path: Path, engine: str) -> None:
    pieces = parts(3)
    with following(tmp_path, engine=engine) as one:
        (tmp_path / "a0").write_bytes(pcap(pieces[0]))
        one.packets(len(pieces[0]))
        (tmp_path / "a1").write_bytes(b"these are no packets at all")
        (tmp_path / "a1.gz").write_bytes(b"\x1f\x8b" + bytes(30))
        (tmp_path / "a2").write_bytes(pcap(pieces[1])[:-9])  # its writer was killed
        one.packets(len(pieces[0]) + len(pieces[1]) - 1)
        (tmp_path / "a3").write_bytes(pcap(pieces[2]))
        one.packets(len(RECORDS) - 1)
        found = one.end()
    assert found.coverage["packets"] == len(RECORDS) - 1
    assert found.coverage["truncated"] == 1
    assert sum("a1:" in text and "passed over" in text for text in one.notices) == 1


def test_a_file_alone_that_is_no_capture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(b"these are no packets at all")
    with pytest.raises(CaptureError, match="not a pcap"):
        Follower([str(path)]).next()


def test_many_files_leave_nothing_behind(tmp_path: Path, engine: str) -> None:
    """Of files that were read and are gone, the engine and the follower know nothing more."""
    with following(tmp_path, engine=engine) as one:
        for number in range(12):
            moved = [record.at(record.ts_ns + number * 10**9) for record in RECORDS[:3]]
            path = tmp_path / f"a{number:03}"
            path.write_bytes(pcap(moved))
            one.packets(3 * (number + 1))
            path.unlink()
        one.until(lambda: len(one.follower._files) == 0)
        assert one.end().coverage["packets"] == 36


def test_the_command_follows_and_ends_by_a_signal(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "a.pcap"
    env = {**os.environ, "ZKTRACE_ENGINE": engine, "PYTHONPATH": str(PCAPS.parent)}
    command = [sys.executable, "-m", "zktrace", "decode", "--json", "--follow", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert b"waiting for" in process.stderr.readline()
        path.write_bytes(pcap(RECORDS))
        lines = [process.stdout.readline() for _ in range(100)]
        assert all(line.startswith(b'{"kind"') for line in lines)
        process.terminate()
        rest, told = process.communicate(timeout=_PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0, told
    last = rest.splitlines()[-1]
    assert last.startswith(b'{"kind":"coverage"')
    assert f'"packets":{len(RECORDS)},'.encode() in last
    assert b'"interrupted"' not in last
