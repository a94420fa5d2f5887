"""The txn log (FileTxnLog): one file after the other, each named by its first zxid.

A file is grown ahead of what is written, so that a sync has no new length to record. The rest of it
is zeros, which read as the end.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter_ns
from typing import Final
from zlib import adler32

from zktrace.wire.files import END_OF_ENTRY, LOG_DBID, LOG_MAGIC, VERSION, FileHeader
from zktrace_server.storage.directory import LOG, StorageError, sync_directory

#: zookeeper.preAllocSize, in bytes.
PREALLOCATE: Final = 64 << 20
# FilePadding grows a file when less than this is left of it.
_NEAR: Final = 4096

_ENTRY: Final = struct.Struct(">qi").pack
_END: Final = bytes((END_OF_ENTRY,))
_ZXID: Final = struct.Struct(">q")
#: A TxnHeader begins with session id and cxid; then comes the zxid.
_ZXID_AT: Final = 12


class TxnLog:
    """Writes the log. A file is begun with the first txn after the start or after `roll`: what is
    there is never written to.
    """

    def __init__(
        self, directory: Path, *, preallocate: int = PREALLOCATE, force_sync: bool = True
    ) -> None:
        self._directory = directory
        self._preallocate = preallocate
        self._force_sync = force_sync
        #: What the latest sync took.
        self.sync_ns = 0
        self._file = -1
        self._position = 0
        self._size = 0

    @property
    def position(self) -> int:
        """Bytes in the present file."""
        return self._position

    def append(self, txns: Iterable[bytes]) -> None:
        """Writes encoded txns and makes them durable. StorageError: nothing more can be written,
        and what of these txns is on disk is not known.
        """
        parts: list[bytes] = []
        for txn in txns:
            parts += (_ENTRY(adler32(txn), len(txn)), txn, _END)
        if not parts:
            return
        try:
            if self._file < 0:
                self._begin(_ZXID.unpack_from(parts[1], _ZXID_AT)[0])
            data = b"".join(parts)
            self._pad(len(data))
            self._write(data)
            if self._force_sync:
                begun = perf_counter_ns()
                os.fdatasync(self._file)
                self.sync_ns = perf_counter_ns() - begun
        except OSError as error:
            raise StorageError(
                f"the txn log in {self._directory} cannot be written: {error.strerror}"
            ) from error

    def roll(self) -> None:
        """The next txn begins a new file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    close = roll

    def _begin(self, zxid: int) -> None:
        path = self._directory / f"{LOG}.{zxid:x}"
        # A file of that name holds no txn that counts: else this zxid would be used.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._position = self._size = 0
        self._write(FileHeader(LOG_MAGIC, VERSION, LOG_DBID).encode())
        sync_directory(self._directory)

    def _pad(self, more: int) -> None:
        if self._preallocate > 0 and self._position + more + _NEAR >= self._size:
            steps = (self._position + more + _NEAR) // self._preallocate + 1
            self._size = steps * self._preallocate
            os.ftruncate(self._file, self._size)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.write(self._file, view)
            self._position += written
            view = view[written:]
