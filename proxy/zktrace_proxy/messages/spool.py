"""Exchanges on disk, in an order: what lies between reading a capture and using it.

A file without a name (it is gone when the process is, however that ends), so that memory stays
flat. It holds what the capture holds, node data included. Python's own marshal format: quick, and
read by nobody else.
"""

from __future__ import annotations

import marshal
import tempfile
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from zktrace_proxy.messages.exchanges import Exchange

_FIELDS: Final = tuple(Exchange.__slots__)
#: Plain values that belong to an exchange: what the one who wrote it wants back.
Notes: TypeAlias = tuple[Any, ...]


class Spool:
    """Append all, then iterate as often as wanted.

    :raises OSError: no room.
    """

    def __init__(self) -> None:
        self._file: Any = tempfile.TemporaryFile(prefix="zktrace-", buffering=1 << 18)  # noqa: SIM115
        self.count = 0

    def append(self, exchange: Exchange, notes: Notes = ()) -> None:
        e = exchange
        marshal.dump(
            (
                (e.conn, e.index, e.opcode, e.xid, e.request, e.sent_ns, e.reply, e.first_ns,
                 e.answered_ns, e.think_ns, e.answered_before, e.events, e.whole, e.reply_whole,
                 e.closed, e.row),
                notes,
            ),
            self._file,
        )  # fmt: skip
        self.count += 1

    def __iter__(self) -> Iterator[tuple[Exchange, Notes]]:
        file = self._file
        file.seek(0)
        load = marshal.load
        for _ in range(self.count):
            fields, notes = load(file)
            yield Exchange(*fields), notes

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self._file.seek(0, 2))

    def close(self) -> None:
        self._file.close()
