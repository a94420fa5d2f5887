"""The state file: windows that survive a restart.

Written beside itself and renamed over the last one, so that a crash leaves the old or the new one;
bounded, as windows are (:data:`zktrace.store.windows.BUDGET_BYTES`). A file that is damaged, or of
another version, is set aside under another name and told, never trusted in part: what it holds is
checked before any of it is used.

The file: the line :data:`MAGIC`; a line of JSON (``saved_at`` in seconds, ``tiers``, ``groupings``,
``first``, ``slots``, ``windows``: per window tier, second and lengths of its parts); the parts, as
:mod:`zktrace.store.packed` makes them; and a CRC-32 of all before it, 4 bytes, little-endian.

What it does not hold: totals since the beginning (`all`), sessions, watches, the slow log and the
latest events, which begin anew.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from zktrace.engine.base import WINDOW_GROUPINGS
from zktrace.store.picture import Picture
from zktrace.store.windows import BUDGET_BYTES, TIERS, Saved, Window

MAGIC: Final = b"zktrace-state 1\n"
#: Seconds between two writings.
EVERY_S: Final = 60.0
#: A file is not larger: windows, and what says where they are.
MOST_BYTES: Final = BUDGET_BYTES + (8 << 20)
_CRC: Final = struct.Struct("<I")


class BadState(ValueError):
    """No state file, or a damaged one; says why."""


def encode(saved: Saved, now_s: float) -> bytes:
    """A file's bytes."""
    windows = [
        (tier, window.second, [len(part) for part in window.parts])
        for tier, window in saved.windows
    ]
    head = {
        "saved_at": int(now_s),
        "tiers": [list(tier) for tier in TIERS],
        "groupings": list(WINDOW_GROUPINGS),
        "first": saved.first,
        "slots": saved.slots,
        "windows": windows,
    }
    parts = [part for _, window in saved.windows for part in window.parts]
    body = MAGIC + json.dumps(head, separators=(",", ":")).encode() + b"\n" + b"".join(parts)
    return body + _CRC.pack(zlib.crc32(body))


def decode(data: bytes) -> Saved:
    """What a file says; :class:`BadState` where anything is wrong with it."""
    if not data.startswith(MAGIC):
        raise BadState("it is no state file of this version")
    if len(data) < len(MAGIC) + _CRC.size:
        raise BadState("it is cut short")
    body = memoryview(data)[: -_CRC.size]
    if _CRC.unpack(data[-_CRC.size :])[0] != zlib.crc32(body):
        raise BadState("it is damaged (its checksum does not fit)")
    line, _, rest = data[len(MAGIC) : -_CRC.size].partition(b"\n")
    try:
        head = json.loads(line)
        if head["tiers"] != [list(tier) for tier in TIERS]:
            raise BadState("its windows are not those of this version")
        # A grouping that is newer than the file is empty in it.
        known = len(head["groupings"])
        if not known or head["groupings"] != list(WINDOW_GROUPINGS[:known]):
            raise BadState("its groupings are not those of this version")
        return _saved(head, rest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, BadState):
            raise
        raise BadState(f"it is damaged ({type(error).__name__}: {error})") from None


def _saved(head: dict[str, Any], rest: bytes) -> Saved:
    windows: list[tuple[int, Window]] = []
    at = 0
    for tier, second, lengths in head["windows"]:
        if not 0 <= tier < len(TIERS) or len(lengths) != len(head["groupings"]):
            raise BadState("it is damaged (a window of no tier)")
        parts = []
        for length in lengths:
            if not 0 <= length <= len(rest) - at:
                raise BadState("it is damaged (a part that is not there)")
            parts.append(rest[at : at + length])
            at += length
        parts += [b""] * (len(WINDOW_GROUPINGS) - len(parts))
        windows.append((tier, Window.of(int(second), parts)))
    for tier in range(len(TIERS)):
        # The checksum says that they are what was written; these, that it was parts.
        some = [window for at_tier, window in windows if at_tier == tier]
        for window in some[:1] + some[-1:]:
            window.groups()
    first, slots = head["first"], head["slots"]
    if len(slots) != len(TIERS) or not all(one is None or isinstance(one, int) for one in slots):
        raise BadState("it is damaged (slots)")
    return Saved(None if first is None else int(first), list(slots), windows)


class StateFile:
    """Loads windows at the start, and writes them from then on, in a thread of its own."""

    def __init__(self, path: Path, picture: Picture, told: Callable[[str], None]) -> None:
        """`told` gets a line about what the user should know. OSError where the file can be
        neither read nor written.
        """
        self._path = path
        self._picture = picture
        self._told = told
        self._stop = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._work, name="zktrace-state", daemon=True)
        self.restored: int | None = None
        """Windows that were there."""
        self._load()
        self._write()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Writes once more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.save()

    def _load(self) -> None:
        try:
            with self._path.open("rb") as file:
                data = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return
        try:
            if len(data) > MOST_BYTES:
                raise BadState(f"it is larger than {MOST_BYTES >> 20} MiB")
            saved = decode(data)
        except BadState as error:
            aside = self._path.with_name(f"{self._path.name}.bad-{int(time.time())}")
            self._path.rename(aside)
            self._told(f"{self._path}: {error}; set aside as {aside.name}, windows begin anew")
            return
        self.restored = len(saved.windows)
        self._picture.restore(saved, int(time.time()))

    def _work(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.save()

    def save(self) -> None:
        """Writes what there is. A failure is told once, and the last file stays."""
        try:
            self._write()
            self._failed = False
        except OSError as error:
            if not self._failed:
                self._told(f"{self._path}: the state cannot be written: {error.strerror or error}")
            self._failed = True

    def _write(self) -> None:
        data = encode(self._picture.save(), time.time())
        scratch = self._path.with_name(f".{self._path.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        number = os.open(scratch, flags, 0o600)
        try:
            with open(number, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(self._path)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise
