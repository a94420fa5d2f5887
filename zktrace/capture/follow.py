"""Capture files that are still written: one that grows, and series of which one follows another.

A *series* is what one writer leaves, one file after the other: tcpdump's ``-C``, ``-G`` and ``-W``
(new names, or the same names again), rings of pcapng files, recordings that are rotated, a file
that is cut to nothing or replaced under its name. :class:`Follower` gives its files in the order of
their first packets, each as an object to read from that waits at the end of what is written, until
the file after it has its first packet: a writer ends one file before it begins the next.

What tells one file from another is not its name, but where it lies and how it begins: names are
used again, files are renamed, and inodes are used again. A file that has the first packet of one
that was read is a copy of it (compressed after rotation) and passed over.

A file that begins before the one that is read was put there by somebody, or the clock was set back:
it is taken only when it grows while the other one does not.

What cannot be read any more is told: files that went away before their turn, and bytes added to a
file after the next one had begun. Must not know: what is in packets.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Final, cast

from zktrace.capture.container import NOT_A_CAPTURE, Container
from zktrace.capture.counters import CaptureCounters
from zktrace.capture.errors import CaptureError
from zktrace.capture.source import is_compressed, open_blocks

#: How often a file is looked at for more.
_LOOK_S: Final = 0.1
#: How often it is looked for further files, at most; and which share of the time that may take.
_SCAN_S: Final = 0.5
_SCAN_SHARE: Final = 0.05
#: How much of a file's beginning tells it from others: headers, and the first packet's.
_HEAD: Final = 4096
#: Where the first packet is looked for. One whose beginning is damaged for longer goes by the time
#: at which it was written.
_FIRST: Final = 512 << 10
#: Times of first packets that are remembered, to know copies by.
_REMEMBERED: Final = 100_000
#: A file that begins too early is taken when it has grown so often, and the one that is read has
#: not for so long.
_GROWN: Final = 3
_QUIET_S: Final = 3.0
#: What is put beside a ring, and is no part of it.
_ASIDE: Final = (".", "zktrace-slice-")


@dataclass(slots=True)
class _Seen:
    """A file at the last look."""

    path: str
    size: int
    mtime_ns: int
    head: bytes
    first_ns: int | None
    """None: it has no packet yet."""
    read: bool = False
    """It was read, or is, or need not be."""
    told: bool = False
    grown: int = 0
    """At how many looks it had grown."""


class Follower:
    """The files of a series. One thread reads; :meth:`stop` is for any."""

    def __init__(
        self, sources: Sequence[str], notice: Callable[[str], None] = lambda text: None
    ) -> None:
        """`sources`: files (with those that tcpdump and ``proxy run --rotate`` make of that name),
        directories, patterns (of a shell, or of strftime as for ``tcpdump -G``); all are one
        series. `notice` is told what is not as it should be.
        """
        self.missed_files = 0
        """Went away before they were read."""
        self.unread_bytes = 0
        """Were added to files after the next one had begun."""
        self.idle: Callable[[], None] = lambda: None
        """Called while more is waited for, by the thread that reads."""
        self._sources = list(sources)
        self._notice = notice
        self.stopped = False
        self._files: dict[tuple[int, int], _Seen] = {}
        self._begun_ns: int | None = None
        self._firsts: dict[int, None] = {}
        self._current: Followed | None = None
        self._scanned = -1e9
        self._pause = 0.0
        self._waiting = False

    def stop(self) -> None:
        """Reading ends soon, as if no more was written."""
        # No lock: a signal's handler calls it, too.
        self.stopped = True

    def coverage(self) -> dict[str, int]:
        """What could not be read, as members of the coverage."""
        counts = {"missed_files": self.missed_files, "unread_bytes": self.unread_bytes}
        return {name: count for name, count in counts.items() if count}

    def next(self) -> Followed | None:
        """The file after the one that was read to its end, waiting for it; None once stopped.

        :raises CaptureError: there is one, named by itself, and it is no capture; or it may not be
            read.
        """
        if self._current is not None:
            self._current.close()
            self._current = None
        while not self.stopped:
            self._scan()
            for seen in self._pending():
                opened = self._open(seen)
                if opened is not None:
                    self._current = opened
                    return opened
            if not self._waiting and not any(one.read for one in self._files.values()):
                self._waiting = True
                self._notice(f"waiting for {' '.join(self._sources)}")
            self.pause()
        return None

    def pause(self) -> None:
        self.idle()
        time.sleep(_LOOK_S)

    def superseded(self) -> bool:
        """Whether the next file has begun."""
        if time.monotonic() - self._scanned >= self._pause:
            self._scan()
        return bool(self._pending())

    # -- looking

    def _pending(self) -> list[_Seen]:
        """Files that are to be read, in their order."""
        found = []
        for one in self._files.values():
            if one.read or one.first_ns is None:
                continue
            if self._begun_ns is not None and one.first_ns < self._begun_ns:
                quiet = self._current is None or self._current.quiet_s() > _QUIET_S
                if not (quiet and one.grown >= _GROWN):
                    if not one.told:
                        one.told = True
                        self._notice(
                            f"{one.path} begins before what was read: passed over, unless it grows"
                        )
                    continue
            found.append(one)
        return sorted(found, key=lambda one: cast(int, one.first_ns))

    def _scan(self) -> None:
        started = time.monotonic()
        there: dict[tuple[int, int], _Seen] = {}
        for source in self._sources:
            for path, alone in members(source):
                try:
                    status = os.stat(path)
                except OSError:
                    continue
                key = status.st_dev, status.st_ino
                if stat.S_ISREG(status.st_mode) and key not in there:
                    there[key] = self._look(path, alone, status, self._files.get(key))
                elif alone and not stat.S_ISREG(status.st_mode) and not os.path.isdir(path):
                    raise CaptureError(path, "is no file that can be followed")
        for key, gone in self._files.items():
            if key not in there and not gone.read and gone.first_ns is not None:
                self._miss(gone)
        self._files = there
        self._scanned = time.monotonic()
        self._pause = max(_SCAN_S, (self._scanned - started) / _SCAN_SHARE)

    def _look(self, path: str, alone: bool, status: os.stat_result, seen: _Seen | None) -> _Seen:
        if seen is not None and (seen.size, seen.mtime_ns) == (status.st_size, status.st_mtime_ns):
            seen.path = path
            return seen
        try:
            with open(path, "rb", buffering=0) as file:
                head = file.read(_HEAD)
        except FileNotFoundError:
            head = b""
        except OSError as error:
            if alone:
                raise CaptureError(path, error.strerror or str(error)) from error
            head = b""
        same = seen is not None and head.startswith(seen.head)
        if seen is not None and not same:
            if not seen.read and seen.first_ns is not None:
                self._miss(seen)
            seen = None
        now = _Seen(path, status.st_size, status.st_mtime_ns, head, None)
        if seen is not None:
            now.first_ns, now.read, now.told = seen.first_ns, seen.read, seen.told
            now.grown = seen.grown + (status.st_size > seen.size)
            current = self._current is not None and self._current.is_at(status)
            if now.read and not current and status.st_size > seen.size:
                self._late(now, status.st_size - seen.size)
        if now.first_ns is None and len(head) >= 4 and not now.read:
            self._judge(now, alone)
        return now

    def _judge(self, now: _Seen, alone: bool) -> None:
        """When it began; or that it is none of the series."""
        try:
            now.first_ns = _first_ns(now.path, now.mtime_ns)
        except CaptureError as error:
            if alone and not self._firsts:
                raise
            now.read = True
            if not now.told:
                now.told = True
                self._notice(f"{error}: passed over")
            return
        if now.first_ns in self._firsts:
            now.read = True  # a copy

    def _miss(self, seen: _Seen) -> None:
        self.missed_files += 1
        self._notice(f"{seen.path} went away before it was read")

    def _late(self, seen: _Seen, more: int) -> None:
        self.unread_bytes += more
        if not seen.told:
            seen.told = True
            self._notice(
                f"{seen.path} grew after the next file had begun, and is not read any further: "
                "what two programs write is not one series"
            )

    def _open(self, seen: _Seen) -> Followed | None:
        """None: it is not there any more, or another one is."""
        try:
            file = open(seen.path, "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            return None  # the next look tells
        except OSError as error:
            raise CaptureError(seen.path, error.strerror or str(error)) from error
        head = os.pread(file.fileno(), _HEAD, 0)
        if not head.startswith(seen.head):
            file.close()
            return None
        seen.read = True
        if seen.first_ns is not None:
            self._begun_ns = seen.first_ns
            self._firsts[seen.first_ns] = None
            if len(self._firsts) > _REMEMBERED:
                del self._firsts[next(iter(self._firsts))]
        return Followed(self, cast(BinaryIO, file), seen.path, head)

    def left(self, status: os.stat_result) -> None:
        """The current file was read so far, and is not read further."""
        seen = self._files.get((status.st_dev, status.st_ino))
        if seen is not None:
            seen.size, seen.mtime_ns = status.st_size, status.st_mtime_ns


class Followed:
    """A file of a series, to be read from: :func:`zktrace.capture.source.open_blocks` takes it."""

    def __init__(self, follower: Follower, file: BinaryIO, name: str, head: bytes) -> None:
        self.name = name
        self._follower = follower
        self._file = file
        self._head = head
        self._at = 0
        self._grew = time.monotonic()
        status = os.fstat(file.fileno())
        self._key = status.st_dev, status.st_ino

    def is_at(self, status: os.stat_result) -> bool:
        return self._key == (status.st_dev, status.st_ino)

    def read(self, size: int = -1) -> bytes:
        """Bytes, waiting for some; none when no more will come."""
        follower = self._follower
        while not follower.stopped:
            if data := self._more(size):
                return data
            if self._rewritten():
                return b""
            if follower.superseded():
                # Written before the next file was, but perhaps after we looked.
                data = self._more(size)
                if not data:
                    follower.left(os.fstat(self._file.fileno()))
                return data
            follower.pause()
        return b""

    def quiet_s(self) -> float:
        """For how long nothing was added."""
        return time.monotonic() - self._grew

    def position(self) -> int:
        """Bytes read."""
        return self._at

    def close(self) -> None:
        self._file.close()

    def _more(self, size: int) -> bytes:
        if self._rewritten():
            return b""
        data = self._file.read(size)
        if data:
            self._at += len(data)
            self._grew = time.monotonic()
        return data

    def _rewritten(self) -> bool:
        """Whether what was read is not in it any more."""
        head = os.pread(self._file.fileno(), _HEAD, 0)
        if not head.startswith(self._head):
            return True
        self._head = head
        return os.fstat(self._file.fileno()).st_size < self._at


def members(source: str) -> Iterator[tuple[str, bool]]:
    """Files that are there of a source, and whether it named them alone."""
    if os.path.isdir(source):
        for name in sorted(os.listdir(source)):
            if not name.startswith(_ASIDE):
                yield os.path.join(source, name), False
        return
    if not os.path.exists(source):
        pattern = re.sub(r"%[0-9A-Za-z]", "*", source)
        if glob.has_magic(pattern):
            for path in sorted(glob.glob(pattern)):
                yield path, False
            return
    folder, name = os.path.split(source)
    # tcpdump -C and -W put a number behind the name, proxy run --rotate before the ending.
    stem, ending = os.path.splitext(name)
    numbered = re.compile(
        rf"{re.escape(name)}\d+|{re.escape(stem)}-\d{{5,}}{re.escape(ending)}", re.ASCII
    )
    try:
        names = sorted(os.listdir(folder or "."))
    except OSError:
        names = [name]
    for other in names:
        if other == name:
            yield source, True
        elif numbered.fullmatch(other):
            yield os.path.join(folder, other), False


def _first_ns(path: str, otherwise: int) -> int | None:
    """Time of the first packet, None where there is none yet; `otherwise` where damage hides it.

    :raises CaptureError: it is no capture.
    """
    counters = CaptureCounters()
    container = Container(counters, path)
    with open(path, "rb", buffering=0) as file:
        start = file.read(_FIRST)
    # What is not whole yet is no damage.
    if is_compressed(start):
        blocks = list(open_blocks(cast(BinaryIO, BytesIO(start)), counters))
        if not blocks and len(start) == _FIRST:
            raise CaptureError(path, NOT_A_CAPTURE)
    else:
        blocks = [start]
    for block in blocks:
        for packet in container.feed(block):
            return packet.ts_ns
    return otherwise if len(start) == _FIRST else None
