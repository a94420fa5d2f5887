"""Keeping the packets of a live capture: in one file, or in a ring of files with the latest.

A ring is a directory of pcapng files ``zktrace-ring-TIME-N.pcapng``, the oldest of which are
removed once all of their packets are older than what is to be kept, or all files are larger than
they may be. :meth:`Ring.slice` copies packets of a time, and of two ends, to a file of their own,
which is not removed. Only files of these names are ever touched; those that an earlier run left are
of the ring.

Writing never delays capturing: it is done by a thread of its own, behind a queue of bounded size.
What does not fit into it, or on the disk, is counted, and capturing goes on. Knows nothing of what
the packets say.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from zktrace.capture.errors import CaptureError
from zktrace.capture.live import Plan, file_header
from zktrace.capture.write import PcapngWriter

#: Bytes that wait to be written, at most: a second of 300,000 packets of 200 bytes.
_QUEUE_BYTES: Final = 64 << 20
#: A ring is so many files, about; one of them more or less than what was asked for is kept.
_FILES: Final = 10
_LARGEST_FILE: Final = 128 << 20
_LONGEST_FILE_S: Final = 300
#: A disk that refused is asked again after so long.
_AGAIN_S: Final = 1.0
#: Bytes of a slice; it says when there would have been more.
_SLICE_BYTES: Final = 256 << 20
#: It is known for so many bytes of a file, about, of what time they are.
_CHUNK_BYTES: Final = 1 << 20
#: A packet is not longer (a jumbo of what offloading makes, and what stands around it).
_LARGEST_BLOCK: Final = 1 << 20
#: How long a slice waits for what was captured to be written.
_FLUSH_S: Final = 5.0
_SECOND: Final = 1_000_000_000
_RING: Final = re.compile(r"zktrace-ring-(\d{8}T\d{6}\.\d{9}Z)-\d+\.pcapng")
_SLICE: Final = "zktrace-slice-"
#: What stands in an enhanced packet block before the packet, and behind it.
_EPB: Final = struct.Struct("=7I")
_EPB_TYPE: Final = 6


class Keeper(Protocol):
    """Where packets are kept."""

    def begin(self) -> None:
        """Called once, before all others."""

    def add(self, data: bytes, packets: int) -> None:
        """Records of the form of the plan, and how many. Never fails, never waits for a disk for
        long.
        """

    def drops(self, drops: int) -> None:
        """Packets that the kernel lost so far."""

    def close(self) -> None:
        """After all others."""

    def coverage(self) -> dict[str, int]:
        """What could not be kept, for the coverage."""


class File:
    """One file, to the end of the disk; the packets that no longer fit are counted."""

    def __init__(self, file: BinaryIO, plan: Plan, notice: Callable[[str], None]) -> None:
        self._file = file
        self._header = file_header(plan)
        self._notice = notice
        self._full = False
        self.unwritten = 0

    def begin(self) -> None:
        self.add(self._header, 0)

    def add(self, data: bytes, packets: int) -> None:
        if self._full:
            self.unwritten += packets
            return
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) or 0 :]
        except OSError as error:
            self._full = True
            self.unwritten += packets
            self._notice(f"packets are no longer written: {error.strerror or error}")

    def drops(self, drops: int) -> None:
        pass  # this form of file has no place for it

    def close(self) -> None:
        pass  # who opened it closes it

    def coverage(self) -> dict[str, int]:
        return {"unwritten_packets": self.unwritten} if self.unwritten else {}


@dataclass(slots=True)
class _Kept:
    """A file of the ring."""

    path: Path
    first_ns: int
    last_ns: int
    size: int
    dropped: int = 0
    """What the kernel had lost when it was begun."""
    chunks: list[_Chunk] = field(default_factory=list)
    """What is where, in order; nothing is known of files of an earlier run."""


@dataclass(slots=True)
class _Chunk:
    """Some of a file, from a block's beginning to the next chunk."""

    at: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A file that was saved."""

    file: str
    packets: int
    bytes: int
    complete: bool
    """The ring holds all of that time, and all of it fitted."""


class NothingKept(Exception):
    """There are no packets of that time and those ends."""


class NoRoom(Exception):
    """Slices take as much as they may; in words."""


class Ring:
    """See the module."""

    def __init__(
        self,
        directory: str,
        plan: Plan,
        *,
        keep_s: int,
        max_bytes: int,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.directory = Path(directory)
        self.keep_s = keep_s
        self.max_bytes = max_bytes
        self.unwritten = 0
        self._header = file_header(plan)
        self._linktype = plan.linktype
        self._notice = notice
        self._file_s = min(max(keep_s // _FILES, 1), _LONGEST_FILE_S)
        self._file_bytes = min(max(max_bytes // _FILES, 1), _LARGEST_FILE)
        self._kept: deque[_Kept] = deque()
        self._file: BinaryIO | None = None
        self._number = 0
        self._dropped = 0
        self._again = 0.0
        self._failed = False
        self._queue: deque[tuple[bytes, int]] = deque()
        self._queued = 0
        self._wake = threading.Condition()
        self._idle = True
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="zktrace-ring", daemon=True)

    # -- the capturing side

    def prepare(self) -> None:
        """Makes the directory; CaptureError where that, or writing to it, is not possible."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / f".zktrace-{os.getpid()}"
            probe.touch()
            probe.unlink()
            self._adopt()
        except OSError as error:
            raise CaptureError(str(self.directory), error.strerror or str(error)) from None

    def begin(self) -> None:
        self._thread.start()

    def add(self, data: bytes, packets: int) -> None:
        with self._wake:
            if self._queued + len(data) > _QUEUE_BYTES:
                self.unwritten += packets
                return
            self._queue.append((data, packets))
            self._queued += len(data)
            self._idle = False
            self._wake.notify_all()

    def drops(self, drops: int) -> None:
        self._dropped = drops

    def close(self) -> None:
        with self._wake:
            self._ending = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(_FLUSH_S)

    def coverage(self) -> dict[str, int]:
        return {"unwritten_packets": self.unwritten} if self.unwritten else {}

    def state(self) -> dict[str, Any]:
        """What is kept now."""
        with self._wake:
            kept = list(self._kept)
        return {
            "directory": str(self.directory),
            "from_ns": kept[0].first_ns if kept else None,
            "to_ns": kept[-1].last_ns if kept else None,
            "files": len(kept),
            "bytes": sum(one.size for one in kept),
            "unwritten_packets": self.unwritten,
        }

    # -- the writing thread

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._ending:
                    self._idle = True
                    self._wake.notify_all()
                    self._wake.wait()
                if not self._queue:
                    break
                data, packets = self._queue.popleft()
                self._queued -= len(data)
            self._write(data, packets)
        self._finish()
        with self._wake:
            self._idle = True
            self._wake.notify_all()

    def _write(self, data: bytes, packets: int) -> None:
        if time.monotonic() < self._again:
            self.unwritten += packets
            return
        first, last = _ends(data)
        current = self._kept[-1] if self._kept else None
        try:
            if (
                self._file is None
                or current is None
                or current.size + len(data) > self._file_bytes
                or first - current.first_ns >= self._file_s * _SECOND
            ):
                current = self._next(first)
            self._prune(last)
            assert self._file is not None
            _all_of(self._file, data)
            self._note(current, first, last)
            current.size += len(data)
            current.last_ns = max(current.last_ns, last)
        except OSError as error:
            self.unwritten += packets
            self._again = time.monotonic() + _AGAIN_S
            self._mend()
            if not self._failed:
                self._failed = True
                self._notice(f"packets are not written: {error.strerror or error}")
        else:
            if self._failed:
                self._failed = False
                self._notice("packets are written again")

    def _note(self, current: _Kept, first: int, last: int) -> None:
        """Of what is written at the end of a file."""
        with self._wake:
            chunks = current.chunks
            if not chunks or current.size - chunks[-1].at >= _CHUNK_BYTES:
                chunks.append(_Chunk(current.size, first, last))
            chunks[-1].first_ns = min(chunks[-1].first_ns, first)
            chunks[-1].last_ns = max(chunks[-1].last_ns, last)

    def _next(self, first_ns: int) -> _Kept:
        """Begins a file."""
        self._finish()
        self._number += 1
        path = self.directory / f"zktrace-ring-{_stamp(first_ns)}-{self._number}.pcapng"
        file: BinaryIO = open(path, "xb", buffering=0, opener=_private)  # noqa: SIM115
        made = _Kept(path, first_ns, first_ns, len(self._header), self._dropped)
        try:
            _all_of(file, self._header)
        except OSError:
            file.close()
            path.unlink(missing_ok=True)
            raise
        self._file = file
        with self._wake:
            self._kept.append(made)
        return made

    def _finish(self) -> None:
        """Ends the file that is written: with what was lost meanwhile, so that it tells by itself
        whether it is complete.
        """
        file, self._file = self._file, None
        if file is None:
            return
        out = BytesIO()
        current = self._kept[-1]
        _Statistics(out).statistics(osdrop=self._dropped - current.dropped)
        try:
            with file:
                _all_of(file, out.getvalue())
            current.size += len(out.getvalue())
        except OSError:
            pass  # what it says is in the coverage, too

    def _mend(self) -> None:
        """After a failure the file ends behind its last whole packet."""
        if self._file is not None and self._kept:
            try:
                os.ftruncate(self._file.fileno(), self._kept[-1].size)
                self._file.seek(self._kept[-1].size)
            except OSError:
                self._file.close()
                self._file = None

    def _prune(self, now_ns: int) -> None:
        """Removes what is old, and what is too much."""
        oldest = now_ns - self.keep_s * _SECOND
        total = sum(one.size for one in self._kept)
        while len(self._kept) > 1 and (
            self._kept[0].last_ns < oldest or total + self._file_bytes > self.max_bytes
        ):
            with self._wake:
                gone = self._kept.popleft()
            total -= gone.size
            gone.path.unlink(missing_ok=True)

    def _adopt(self) -> None:
        """Files that an earlier run left."""
        found = []
        for path in self.directory.iterdir():
            name = _RING.fullmatch(path.name)
            if name is not None and path.is_file():
                status = path.stat()
                when = datetime.strptime(name[1][:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
                first = int(when.timestamp()) * _SECOND + int(name[1][16:25])
                found.append(_Kept(path, first, status.st_mtime_ns, status.st_size))
        self._kept.extend(sorted(found, key=lambda one: one.first_ns))

    # -- slices

    def slice(
        self,
        start_ns: int,
        end_ns: int,
        wanted: Callable[[int, int, bytes, int], bool] = lambda ts_ns, linktype, data, wire: True,
        *,
        most_bytes: int = _SLICE_BYTES,
        most_packets: int | None = None,
    ) -> Slice:
        """Saves packets of [start, end) that are `wanted` (time, link type, data, length on the
        wire), as a file in the directory; no more of them than take `most_bytes`, and of the first
        `most_packets` of that time. NothingKept, NoRoom, or OSError: a full disk.
        """
        self._flush()
        with self._wake:
            files = [
                (one.path, _parts(one, start_ns, end_ns))
                for one in self._kept
                if one.last_ns >= start_ns and one.first_ns < end_ns
            ]
            complete = bool(self._kept) and self._kept[0].first_ns <= start_ns
        room = self.max_bytes - sum(path.stat().st_size for path in self._slices())
        out = bytearray(self._header)
        packets = looked = 0
        for path, parts in files:
            try:
                file = path.open("rb")
            except FileNotFoundError:  # it was the oldest
                complete = False
                continue
            with file:
                for ts_ns, wire, packet, block in _packets(file, parts):
                    if not start_ns <= ts_ns < end_ns:
                        continue
                    looked += 1
                    full = len(out) + len(block) > most_bytes
                    if full or (most_packets is not None and looked > most_packets):
                        complete = False
                        break
                    if wanted(ts_ns, self._linktype, packet, wire):
                        out += block
                        packets += 1
        if not packets:
            raise NothingKept
        if len(out) > room:
            raise NoRoom(f"slices take {self.max_bytes - room} of {self.max_bytes} bytes")
        return Slice(self._save(start_ns, bytes(out)), packets, len(out), complete)

    def _flush(self) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._idle, _FLUSH_S)

    def _slices(self) -> Iterator[Path]:
        return self.directory.glob(f"{_SLICE}*.pcapng")

    def _save(self, start_ns: int, data: bytes) -> str:
        for number in range(1, 1_000_000):
            path = self.directory / f"{_SLICE}{_stamp(start_ns)}-{number}.pcapng"
            try:
                with open(path, "xb", buffering=0, opener=_private) as file:
                    _all_of(file, data)
            except FileExistsError:
                continue
            except OSError:
                path.unlink(missing_ok=True)
                raise
            return path.name
        raise NoRoom("there are a million slices of that time")


class _Statistics(PcapngWriter):
    """A block for a file that has begun."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(BytesIO())
        self._order = "="
        self._file = file


def _stamp(ts_ns: int) -> str:
    """UTC, to the nanosecond, as part of a file's name."""
    seconds, ns = divmod(max(ts_ns, 0), _SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%S}.{ns:09}Z"


def _private(path: str, flags: int) -> int:
    """Packets hold what clients send, credentials too: they are for who listens alone."""
    return os.open(path, flags, 0o600)


def _all_of(file: BinaryIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) or 0 :]


def _ends(data: bytes) -> tuple[int, int]:
    """Times of the first and the last packet of blocks."""
    times = []
    (last,) = struct.unpack_from("=I", data, len(data) - 4)
    for at in (0, len(data) - last):
        _, _, _, high, low, _, _ = _EPB.unpack_from(data, at)
        times.append(high << 32 | low)
    return times[0], times[1]


def _parts(one: _Kept, start_ns: int, end_ns: int) -> list[tuple[int, int | None]]:
    """Where in a file packets of a time may be: from, to (None: its end)."""
    if not one.chunks:
        return [(0, None)]
    parts: list[tuple[int, int | None]] = []
    ends = [*(chunk.at for chunk in one.chunks[1:]), None]
    for chunk, end in zip(one.chunks, ends, strict=True):
        if chunk.last_ns + _SECOND < start_ns or chunk.first_ns - _SECOND >= end_ns:
            continue
        if parts and parts[-1][1] == chunk.at:
            parts[-1] = parts[-1][0], end
        else:
            parts.append((chunk.at, end))
    return parts


def _packets(
    file: BinaryIO, parts: list[tuple[int, int | None]]
) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Time, length on the wire, packet and block of each packet in parts of a file of ours. It may
    end in the middle, being written.
    """
    for start, end in parts:
        file.seek(start)
        data, left = b"", _LARGEST_FILE * 2 if end is None else end - start
        while more := file.read(min(_CHUNK_BYTES, left)):
            left -= len(more)
            data += more
            at = 0
            while at + 12 <= len(data):
                kind, length = struct.unpack_from("=II", data, at)
                if not 12 <= length <= _LARGEST_BLOCK or length % 4:
                    return
                if at + length > len(data):
                    break
                if kind == _EPB_TYPE and length >= _EPB.size + 4:
                    _, _, _, high, low, captured, wire = _EPB.unpack_from(data, at)
                    packet = data[at + _EPB.size : at + _EPB.size + captured]
                    yield high << 32 | low, wire, packet, data[at : at + length]
                at += length
            data = data[at:]
