"""Snapshot files (FileSnap, SnapStream): written bit by bit while the server serves, read as a
whole.

A file gets its name when it is complete and durable, so a half written one is never taken for a
snapshot.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import adler32

from zktrace.wire.files import SNAPSHOT_DBID, SNAPSHOT_MAGIC, VERSION, FileHeader, SnapshotFile
from zktrace.wire.jute import WireError
from zktrace.wire.snapshot import LastZxid, SnapshotSeal
from zktrace_server.core import snapshot
from zktrace_server.core.tree import DataTree
from zktrace_server.storage.directory import (
    SNAPSHOT,
    UNFINISHED,
    StorageError,
    files,
    sync_directory,
)


class SnapshotWriter:
    """A snapshot under way: `step` writes the next piece, until it says that it is done."""

    def __init__(self, directory: Path, tree: DataTree, timeouts: dict[int, int]) -> None:
        self._directory = directory
        self._tree = tree
        self.path = directory / f"{SNAPSHOT}.{tree.last_zxid:x}"
        self._unfinished = directory / f"{UNFINISHED}.{tree.last_zxid:x}"
        self._checksum = 1
        self._pieces: Iterator[bytes] = self._parts(timeouts)
        try:
            self._file = open(self._unfinished, "wb")  # noqa: SIM115 (closed when it is whole)
        except OSError as error:
            raise self._failed(error) from error

    def _parts(self, timeouts: dict[int, int]) -> Iterator[bytes]:
        yield FileHeader(SNAPSHOT_MAGIC, VERSION, SNAPSHOT_DBID).encode()
        yield from snapshot.pieces(self._tree, timeouts)
        yield self._seal()
        # Taken now: by this zxid all that the snapshot missed or saw too early has happened.
        digest = snapshot.digest(self._tree)
        yield digest.encode()
        yield self._seal()
        yield LastZxid(digest.zxid).encode()
        yield self._seal()

    def _seal(self) -> bytes:
        return SnapshotSeal(self._checksum, "/").encode()

    def step(self) -> bool:
        """Writes a piece; False when all is written (`finish` is to follow)."""
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._checksum = adler32(piece, self._checksum)
        try:
            self._file.write(piece)
        except OSError as error:
            raise self._failed(error) from error
        return True

    def finish(self) -> None:
        """Makes it durable and gives it its name. May be called in another thread: it takes as
        long as the disk does.
        """
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._unfinished, self.path)
            sync_directory(self._directory)
        except OSError as error:
            raise self._failed(error) from error

    def abandon(self) -> None:
        """Leaves nothing of it."""
        self._file.close()
        self._unfinished.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(f"snapshot {self.path} cannot be written: {error.strerror}")


def load_newest(
    directory: Path, tree: DataTree, warn: Callable[[str], None]
) -> tuple[int, dict[int, int], SnapshotFile] | None:
    """The newest snapshot that is whole, restored: its zxid, the sessions' timeouts, and what else
    it says. None if there is no snapshot at all; StorageError if none is whole.
    """
    found = files(directory, SNAPSHOT)
    for zxid, path in reversed(found):
        try:
            file = SnapshotFile.decode(_read(path))
            timeouts = snapshot.restore(tree, file.snapshot)
        except (WireError, OSError, EOFError) as error:
            warn(f"{path} cannot be used, trying the one before it: {error}")
            continue
        tree.last_zxid = zxid
        return zxid, timeouts, file
    if found:
        raise StorageError(f"none of the {len(found)} snapshots in {directory} can be read")
    return None


def _read(path: Path) -> bytes:
    if path.suffix == ".snappy":
        raise OSError("snapshots compressed with snappy are not supported")
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data
