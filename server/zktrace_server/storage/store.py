"""A server's data: what was there at the start, what is made durable, what is thrown away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zktrace.wire import zxid as zxids
from zktrace.wire.txn import CreateSessionTxn, Transaction
from zktrace_server.core.apply import CLOSE_SESSION, apply
from zktrace_server.core.node import DIGEST_VERSION
from zktrace_server.core.tree import DataTree
from zktrace_server.storage.directory import LOG, SNAPSHOT, Directories, StorageError, files
from zktrace_server.storage.readlog import txns_after
from zktrace_server.storage.snapshots import SnapshotWriter, load_newest

#: Fewer snapshots than this are never kept (DatadirCleanupManager).
LEAST_RETAINED: Final = 3


@dataclass(frozen=True, slots=True)
class Loaded:
    """`snapshot_zxid` None: the data directory was empty."""

    timeouts: dict[int, int]
    snapshot_zxid: int | None
    replayed: int


def load(
    directories: Directories,
    tree: DataTree,
    warn: Callable[[str], None],
    *,
    trust_empty_snapshot: bool = False,
    seen: Callable[[Transaction], None] | None = None,
) -> Loaded:
    """Restores the tree from the newest whole snapshot and the txns behind it (FileTxnSnapLog);
    `seen` is told of each of these.

    StorageError where data would be lost, or cannot be read.
    """
    newest = load_newest(directories.snapshots, tree, warn)
    if newest is None:
        timeouts: dict[int, int] = {}
        zxid = fuzzy_until = 0
        if files(directories.logs, LOG) and not trust_empty_snapshot:
            raise StorageError(
                f"{directories.logs} has txn logs, but {directories.snapshots} no snapshot to "
                "begin with; if there never was one, set snapshot.trust.empty=true"
            )
    else:
        zxid, timeouts, file = newest
        fuzzy_until = file.digest.zxid if file.digest is not None else zxid
    replayed = replay(directories, tree, timeouts, zxid, warn, fuzzy_until, seen)
    return Loaded(timeouts, None if newest is None else zxid, replayed)


def replay(
    directories: Directories,
    tree: DataTree,
    timeouts: dict[int, int],
    zxid: int,
    warn: Callable[[str], None],
    fuzzy_until: int = 0,
    seen: Callable[[Transaction], None] | None = None,
) -> int:
    """Applies the txns behind `zxid`; how many. A snapshot may have a part of those up to
    `fuzzy_until`, so that digests do not fit.
    """
    replayed = 0
    differ = False
    for txn in txns_after(directories.logs, zxid, warn):
        apply(tree, txn)
        _note_session(timeouts, txn)
        replayed += 1
        if seen is not None:
            seen(txn)
        if not differ and txn.header.zxid >= fuzzy_until and _digest_differs(tree, txn):
            differ = True
            warn(
                f"the tree's digest after txn {zxids.text(txn.header.zxid)} is not that in the "
                "log: this server's data differ from those of the server that wrote it"
            )
    return replayed


def _note_session(timeouts: dict[int, int], txn: Transaction) -> None:
    if isinstance(txn.body, CreateSessionTxn):
        timeouts[txn.header.session_id] = txn.body.timeout_ms
    elif txn.header.type == CLOSE_SESSION:
        timeouts.pop(txn.header.session_id, None)


def _digest_differs(tree: DataTree, txn: Transaction) -> bool:
    digest = txn.digest
    return (
        digest is not None
        and digest.version == DIGEST_VERSION
        and digest.tree_digest != tree.tree_digest
    )


def save(directories: Directories, tree: DataTree, timeouts: dict[int, int]) -> Path:
    """A snapshot of the tree as it is now, written at once."""
    writer = SnapshotWriter(directories.snapshots, tree, timeouts)
    try:
        while writer.step():
            pass
        writer.finish()
    except StorageError:
        writer.abandon()
        raise
    return writer.path


def purge(directories: Directories, retain: int) -> list[Path]:
    """Deletes all but the newest snapshots, and the logs that only older ones would need; gives
    what was deleted (PurgeTxnLog).
    """
    snapshots = files(directories.snapshots, SNAPSHOT)
    keep = snapshots[-max(retain, LEAST_RETAINED) :]
    if not keep:
        return []
    oldest = keep[0][0]
    logs = files(directories.logs, LOG)
    # The log that was written to when the oldest snapshot was begun is needed as well.
    first = max((zxid for zxid, _ in logs if zxid <= oldest), default=0)
    gone = [path for zxid, path in snapshots if zxid < oldest]
    gone += [path for zxid, path in logs if zxid < first]
    for path in gone:
        path.unlink(missing_ok=True)
    return gone
