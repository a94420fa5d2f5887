"""Messages that wait to be sent, as files: what an agent's host loses is a second at most.

A directory holds ``agent`` (32 hex digits that stay the same) and a file per message, its number in
20 digits. A file is written whole under another name, synced and renamed. When all files are larger
than they may be the oldest are given up and counted. One process at a time: a lock says so.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final

from zktrace.capture.errors import CaptureError

_MESSAGE: Final = re.compile(r"\d{20}", re.ASCII)
_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Spool:
    """See the module. Messages are added by one thread and taken by another."""

    def __init__(self, directory: str, max_bytes: int) -> None:
        """:class:`CaptureError`: it cannot be used, or is in use."""
        self._path = Path(directory)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self.lost = 0
        """Messages given up, this run."""
        try:
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._held = os.open(self._path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._held)
                raise CaptureError(directory, "is in use by another agent") from None
            self.agent = self._id()
            self._sizes = self._found()
            self._last = max([self._sent(), *self._sizes])
        except OSError as error:
            raise CaptureError(directory, error.strerror or str(error)) from error

    def _id(self) -> str:
        file = self._path / "agent"
        if file.exists():
            known = file.read_text().strip()
            if _ID.fullmatch(known):
                return known
        made = secrets.token_hex(16)
        self._write(file, made.encode())
        return made

    def _found(self) -> OrderedDict[int, int]:
        found = {}
        for path in self._path.iterdir():
            if _MESSAGE.fullmatch(path.name):
                found[int(path.name)] = path.stat().st_size
            elif path.suffix == ".part":
                path.unlink()
        return OrderedDict(sorted(found.items()))

    def _sent(self) -> int:
        """The last number that was done with: numbers are never given again."""
        file = self._path / "sent"
        text = file.read_text().strip() if file.exists() else "0"
        return int(text) if text.isascii() and text.isdigit() else 0

    def _write(self, path: Path, data: bytes) -> None:
        part = path.with_name(path.name + ".part")
        with open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)

    def _file(self, number: int) -> Path:
        return self._path / f"{number:020}"

    @property
    def next(self) -> int:
        """The number of the next message."""
        return self._last + 1

    def add(self, data: bytes) -> None:
        """The message with that number. A full disk, or too much that waits, costs the oldest."""
        with self._lock:
            self._last += 1
            number = self._last
            while self._sizes and sum(self._sizes.values()) + len(data) > self._max_bytes:
                self._give_up()
            while True:
                try:
                    self._write(self._file(number), data)
                    break
                except OSError:
                    if not self._sizes:
                        self.lost += 1
                        return
                    self._give_up()
            self._sizes[number] = len(data)

    def _give_up(self) -> None:
        oldest, _ = self._sizes.popitem(last=False)
        self._file(oldest).unlink(missing_ok=True)
        self.lost += 1

    def first(self) -> tuple[int, bytes] | None:
        """The oldest message that waits."""
        while True:
            with self._lock:
                if not self._sizes:
                    return None
                number = next(iter(self._sizes))
            try:
                return number, self._file(number).read_bytes()
            except FileNotFoundError:
                with self._lock:
                    self._sizes.pop(number, None)

    def done(self, number: int) -> None:
        """It is where it was to go."""
        with self._lock:
            self._sizes.pop(number, None)
            try:
                self._write(self._path / "sent", str(number).encode())
            except OSError:
                # Its file stays: it is sent again after a restart, and then known by its number,
                # which must not be given again.
                return
            self._file(number).unlink(missing_ok=True)

    @property
    def waiting(self) -> int:
        """Messages that wait."""
        with self._lock:
            return len(self._sizes)

    def close(self) -> None:
        os.close(self._held)
