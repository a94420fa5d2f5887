"""Exchanges on disk, in an order: what lies between reading a capture and using it.

A file without a name (it is gone when the process is, however that ends), so that memory stays
flat. It holds what the capture holds, node data included. Python's own marshal format: quick, and
read by nobody else.
"""

from __future__ import annotations

import marshal
import struct
import tempfile
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from zktrace_proxy.messages.exchanges import Exchange

#: Plain values that belong to an exchange: what the one who wrote it wants back.
Notes: TypeAlias = tuple[Any, ...]


#: Exchanges that are written at once, and bytes of them.
_BATCH: Final = 128
_BATCH_BYTES: Final = 1 << 20
_LENGTH: Final = struct.Struct("<I")


class Spool:
    """Append all, then iterate as often as wanted.

    :raises OSError: no room.
    """

    def __init__(self) -> None:
        self._file: Any = tempfile.TemporaryFile(prefix="zktrace-")  # noqa: SIM115
        self._batch: list[Any] = []
        self._batch_bytes = 0
        self.count = 0

    def append(self, exchange: Exchange, notes: Notes = ()) -> None:
        e = exchange
        self._batch.append(
            (
                (e.conn, e.index, e.opcode, e.xid, e.request, e.sent_ns, e.reply, e.first_ns,
                 e.answered_ns, e.think_ns, e.answered_before, e.events, e.whole, e.reply_whole,
                 e.closed, e.row),
                notes,
            )
        )  # fmt: skip
        self._batch_bytes += len(e.request) + len(e.reply or b"")
        self.count += 1
        if len(self._batch) >= _BATCH or self._batch_bytes >= _BATCH_BYTES:
            self._write()

    def _write(self) -> None:
        data = marshal.dumps(self._batch)
        self._file.seek(0, 2)
        self._file.write(_LENGTH.pack(len(data)) + data)
        self._batch.clear()
        self._batch_bytes = 0

    def __iter__(self) -> Iterator[tuple[Exchange, Notes]]:
        if self._batch:
            self._write()
        file = self._file
        at = 0
        while True:
            file.seek(at)
            head = file.read(_LENGTH.size)
            if not head:
                return
            size = _LENGTH.unpack(head)[0]
            at += _LENGTH.size + size
            for fields, notes in marshal.loads(file.read(size)):
                yield Exchange(*fields), notes

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self._file.seek(0, 2))

    def close(self) -> None:
        self._file.close()
