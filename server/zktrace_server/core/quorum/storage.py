"""What the core asks of a disk besides the log: epochs, and what is needed to bring two histories
together. Each call returns when it is durable, or raises and ends the server.

The log itself is not written by this: its entries are handed out (`Replica.take_log`), and whoever
drives the core says when they are durable.
"""

from __future__ import annotations

from typing import Protocol

from zktrace_server.core.tree import DataTree

#: A txn as it is logged: its zxid and its bytes.
Entry = tuple[int, bytes]


class CannotTruncate(Exception):
    """The history on disk has no state at that zxid; nothing was changed."""


class Storage(Protocol):
    """Everything handed out before one of these calls is on disk before it. That is not told any
    more where the history is cut or replaced.
    """

    def accepted_epoch(self) -> int: ...

    def current_epoch(self) -> int: ...

    def save_accepted_epoch(self, epoch: int) -> None: ...

    def save_current_epoch(self, epoch: int) -> None: ...

    def read_log(self, zxid: int, limit: int) -> list[Entry]:
        """Entries from the one with exactly this zxid on; none if it is not in the log, or if they
        are more than `limit` bytes.
        """
        ...

    def append(self, payloads: list[bytes]) -> None:
        """More of the log, at once."""
        ...

    def snapshot_size(self) -> int:
        """Bytes of the newest snapshot; 0 if there is none."""
        ...

    def truncate(self, zxid: int, tree: DataTree) -> dict[int, int]:
        """Forgets all txns behind `zxid`, and makes the tree what it was then; gives the sessions'
        timeouts. CannotTruncate where that state cannot be reached.
        """
        ...

    def replace(self, tree: DataTree, timeouts: dict[int, int]) -> None:
        """All of the history becomes a snapshot of this tree."""
        ...
