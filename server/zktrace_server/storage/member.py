"""What a server of an ensemble keeps besides its log and snapshots: the two epochs, in Java's files
(QuorumPeer: acceptedEpoch, currentEpoch); and how the history is cut or replaced
(FileTxnSnapLog.truncateLog).

Implements `core.quorum.storage.Storage`. Each call is durable when it returns.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from zktrace.wire.files import FileHeader, LogEntryHeader
from zktrace_server.core.quorum.storage import CannotTruncate, Entry
from zktrace_server.core.tree import DataTree
from zktrace_server.storage import store
from zktrace_server.storage.directory import (
    SNAPSHOT,
    Directories,
    StorageError,
    files,
    replace_file,
    sync_directory,
)
from zktrace_server.storage.readlog import content, logs_behind, payloads_from, txns_after
from zktrace_server.storage.snapshots import load_newest
from zktrace_server.storage.txnlog import TxnLog

ACCEPTED: Final = "acceptedEpoch"
CURRENT: Final = "currentEpoch"


class MemberStorage:
    """`on_replace` is called before snapshots are replaced: none may be under way then. `since`:
    the zxid from which on nothing is missing in the log, as that of the snapshot at the start.
    """

    def __init__(
        self,
        directories: Directories,
        log: TxnLog,
        warn: Callable[[str], None],
        last_zxid: int,
        since: int = 0,
    ) -> None:
        self._since = since
        self.on_replace: Callable[[], None] = lambda: None
        self._directories = directories
        self._log = log
        self._warn = warn
        # Java takes the last txn's epoch where the files are missing.
        epoch = last_zxid >> 32
        self._accepted = self._read(ACCEPTED, epoch)
        self._current = self._read(CURRENT, epoch)
        if self._current < epoch:
            raise StorageError(
                f"{directories.snapshots / CURRENT}: epoch {self._current} is before that of the "
                f"last txn, {epoch}"
            )
        if self._accepted < self._current:
            raise StorageError(
                f"{directories.snapshots / ACCEPTED}: epoch {self._accepted} is before the current "
                f"one, {self._current}"
            )

    # --- epochs -------------------------------------------------------------------------------

    def _read(self, name: str, default: int) -> int:
        path = self._directories.snapshots / name
        try:
            return int(path.read_text(encoding="ascii").strip())
        except FileNotFoundError:
            self._write(name, default)
            return default
        except (OSError, ValueError) as error:
            raise StorageError(f"{path} cannot be read: {error}") from None

    def _write(self, name: str, epoch: int) -> None:
        replace_file(self._directories.snapshots / name, f"{epoch}")

    def accepted_epoch(self) -> int:
        return self._accepted

    def current_epoch(self) -> int:
        return self._current

    def save_accepted_epoch(self, epoch: int) -> None:
        self._write(ACCEPTED, epoch)
        self._accepted = epoch

    def save_current_epoch(self, epoch: int) -> None:
        self._write(CURRENT, epoch)
        self._current = epoch

    # --- the history --------------------------------------------------------------------------

    def append(self, payloads: list[bytes]) -> None:
        self._log.append(payloads)

    def read_log(self, zxid: int, limit: int) -> list[Entry]:
        """Of what a leader's snapshot stood for the log has nothing: who lacks that as well would
        not be told of it.
        """
        if zxid < self._since:
            return []
        found: list[Entry] = []
        size = 0
        for at, payload in payloads_from(self._directories.logs, zxid):
            if not found and at != zxid:
                return []
            size += len(payload)
            if size > limit:
                return []
            if not found or at == found[-1][0] + 1 or at >> 32 > found[-1][0] >> 32:
                found.append((at, payload))
            elif at > found[-1][0]:
                return []
        return found

    def snapshot_size(self) -> int:
        found = files(self._directories.snapshots, SNAPSHOT)
        return found[-1][1].stat().st_size if found else 0

    def truncate(self, zxid: int, tree: DataTree) -> dict[int, int]:
        directories = self._directories
        usable = [at for at, _ in files(directories.snapshots, SNAPSHOT) if at <= zxid]
        if not usable:
            raise CannotTruncate(f"no snapshot at {zxid:#x} or before")
        last = usable[-1]
        for txn in txns_after(directories.logs, last, self._warn, upto=zxid):
            last = txn.header.zxid
        if last != zxid:
            raise CannotTruncate(f"no txn {zxid:#x}, the last one before is {last:#x}")
        self.on_replace()
        self._log.roll()
        for at, path in reversed(files(directories.snapshots, SNAPSHOT)):
            if at > zxid:
                path.unlink()
        sync_directory(directories.snapshots)
        self._cut_logs(zxid, usable[-1])
        newest = load_newest(directories.snapshots, tree, self._warn)
        assert newest is not None
        timeouts = newest[1]
        store.replay(directories, tree, timeouts, newest[0], self._warn)
        return timeouts

    def replace(self, tree: DataTree, timeouts: dict[int, int]) -> None:
        self.on_replace()
        self._log.roll()
        directories = self._directories
        written = store.save(directories, tree, timeouts)
        # What comes behind it is of a history that is ours no more; and from those before it no
        # log leads here, though the next one would seem to: its first txn may begin an epoch.
        self._since = tree.last_zxid
        for _, path in reversed(files(directories.snapshots, SNAPSHOT)):
            if path != written:
                path.unlink()
        sync_directory(directories.snapshots)
        self._cut_logs(tree.last_zxid, tree.last_zxid)

    def _cut_logs(self, zxid: int, since: int) -> None:
        """Leaves nothing behind `zxid` in the logs that are read for a snapshot of `since`. The
        older ones are never read behind it, and there may be many: the leader waits.
        """
        logs = self._directories.logs
        for at, path in reversed(logs_behind(logs, since)):
            if at > zxid:
                path.unlink()
            else:
                _cut(path, zxid)
        sync_directory(logs)


def _cut(path: Path, zxid: int) -> None:
    """Leaves no entry behind `zxid` in a log. What is behind them is zeros or nothing."""
    data = content(path)
    header = len(FileHeader(0, 0, 0).encode())
    pos = header
    while len(data) - pos >= 12:
        entry, start = LogEntryHeader.decode_from(data, pos, len(data))
        if entry.length <= 0:
            break
        end = start + entry.length
        if end >= len(data) or int.from_bytes(data[start + 12 : start + 20], "big") > zxid:
            break
        pos = end + 1
    if not data[pos:].strip(b"\0"):
        return
    with path.open("r+b") as file:
        file.truncate(pos)
        os.fsync(file.fileno())
