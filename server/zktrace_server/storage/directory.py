"""Names in a data directory (FileTxnSnapLog, persistence.Util), and who may use it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

LOG: Final = "log"
SNAPSHOT: Final = "snapshot"
#: A snapshot that is being written. No prefix of Java's, so that nobody takes it for one.
UNFINISHED: Final = "unfinished-snapshot"
#: What Java appends to the directories that are configured.
VERSION: Final = "version-2"

#: Endings of snapshots that Java can compress.
COMPRESSED: Final = (".gz", ".snappy")


class StorageError(Exception):
    """Data cannot be read or written, or not all of it; the text says where and what to do."""


def zxid_of(name: str, prefix: str) -> int | None:
    """The zxid in a file's name; None if it is no name of that kind."""
    for ending in COMPRESSED:
        if prefix == SNAPSHOT:
            name = name.removesuffix(ending)
    head, _, number = name.partition(".")
    if head != prefix:
        return None
    try:
        return int(number, 16)
    except ValueError:
        return None


def files(directory: Path, prefix: str) -> list[tuple[int, Path]]:
    """(zxid, path) of the logs or snapshots in a directory, oldest first."""
    found = [(zxid_of(path.name, prefix), path) for path in directory.iterdir()]
    return sorted((zxid, path) for zxid, path in found if zxid is not None)


def sync_directory(directory: Path) -> None:
    """Makes names that were added or removed durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, text: str) -> None:
    """Writes a small file: it is there as it was, or as it is to be and durable. StorageError if it
    cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


class Directories:
    """Where snapshots and logs are; held for this process alone until `release`.

    `data` and `logs` are as in zoo.cfg (dataDir, dataLogDir).
    """

    def __init__(self, data: Path, logs: Path) -> None:
        self.snapshots = data / VERSION
        self.logs = logs / VERSION
        self._locks: list[int] = []
        for directory in dict.fromkeys((self.snapshots, self.logs)):
            try:
                directory.mkdir(parents=True, exist_ok=True)
                self._hold(directory)
            except OSError as error:
                self.release()
                raise StorageError(f"cannot use {directory}: {error.strerror}") from None
        if self.snapshots != self.logs:
            self._check_apart()

    def _hold(self, directory: Path) -> None:
        handle = os.open(directory, os.O_RDONLY)
        self._locks.append(handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise StorageError(f"{directory} is in use by another server") from None
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")

    def _check_apart(self) -> None:
        """Java refuses directories that were once configured the other way round."""
        for directory, prefix, name in (
            (self.logs, SNAPSHOT, "dataLogDir"),
            (self.snapshots, LOG, "dataDir"),
        ):
            if files(directory, prefix):
                self.release()
                raise StorageError(
                    f"{directory} has files that begin with {prefix}.: is {name} what it was?"
                )

    def release(self) -> None:
        """Others may use the directories."""
        for handle in self._locks:
            os.close(handle)
        self._locks.clear()
