"""A disk: what is on it survives a crash, what is under way may or may not, in part.

Holds the history as files would: snapshots as bytes, entries of the log, the two epochs. Knows no
time; `node` lets writes take some.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from zlib import adler32

from zktrace.wire.snapshot import SIGNATURE, PathName, Snapshot
from zktrace.wire.txn import CreateSessionTxn, Transaction
from zktrace_server.core import snapshot
from zktrace_server.core.apply import CLOSE_SESSION, apply
from zktrace_server.core.quorum.ensemble import Ensemble
from zktrace_server.core.quorum.storage import CannotTruncate, Entry
from zktrace_server.core.tree import DataTree

_ZXID_AT = 12


class Disk:
    """One server's. `under_way` are batches handed out and not yet durable."""

    def __init__(self) -> None:
        self.snapshots: list[tuple[int, bytes]] = []
        self.log: list[tuple[int, bytes, int]] = []
        self.under_way: list[list[bytes]] = []
        #: Counts cuts and replacements: what was under way before is told no more.
        self.generation = 0
        #: Told of each txn that is replayed: zxid, checksum, the tree's digest then.
        self.seen: Callable[[int, int, int], None] = lambda zxid, checksum, digest: None
        #: Configurations, where there are some later than the first one.
        self.committed: Ensemble | None = None
        self.seen_config: Ensemble | None = None
        self._accepted = 0
        self._current = 0

    # --- writing ------------------------------------------------------------------------------

    def write(self, payloads: list[bytes]) -> None:
        """Handed out; durable with `sync`."""
        self.under_way.append(payloads)

    def sync(self) -> int:
        """The oldest batch under way is durable: how many txns that are."""
        batch = self.under_way.pop(0)
        self.append(batch)
        return len(batch)

    def crash(self, chance: random.Random) -> None:
        """Of what is under way a part is there, the last of it perhaps torn: then it counts not."""
        for payload in [p for batch in self.under_way for p in batch]:
            if chance.random() < 0.5:
                break
            self.append([payload])
        self.under_way.clear()
        if self.log and chance.random() < 0.1:
            # Half an entry behind the last, as `storage.readlog` finds it.
            self.log.append((self.log[-1][0] + 1, b"torn", 0))
        self.generation += 1

    def save(self, tree: DataTree, timeouts: dict[int, int]) -> None:
        """A snapshot, and no more of the log than goes with the last two."""
        self.snapshots.append((tree.last_zxid, _encode(tree, timeouts)))
        del self.snapshots[:-2]
        least = self.snapshots[0][0]
        self.log = [entry for entry in self.log if entry[0] > least]

    # --- reading ------------------------------------------------------------------------------

    def load(self, tree: DataTree) -> tuple[dict[int, int], list[Entry]]:
        """The tree as it was durable: the sessions' timeouts, and the entries that were replayed.

        An entry that is torn ends the log, as when a server starts.
        """
        timeouts, entries = self._replay(tree, None)
        if self.log and adler32(self.log[-1][1]) != self.log[-1][2]:
            self.log.pop()
        return timeouts, entries

    def _replay(
        self, tree: DataTree, upto: int | None, *, tell: bool = True
    ) -> tuple[dict[int, int], list[Entry]]:
        timeouts: dict[int, int] = {}
        base = 0
        usable = [s for s in self.snapshots if upto is None or s[0] <= upto]
        if usable:
            base, data = usable[-1]
            timeouts = snapshot.restore(tree, Snapshot.decode_from(data, 0, len(data))[0])
        else:
            fresh = DataTree(tree.extended)
            timeouts = snapshot.restore(tree, _decoded(_encode(fresh, {})))
        tree.last_zxid = base
        entries = []
        for zxid, payload, checksum in self.log:
            if zxid <= base or (upto is not None and zxid > upto):
                continue
            if adler32(payload) != checksum:
                break
            txn = Transaction.decode(payload)
            apply(tree, txn)
            if isinstance(txn.body, CreateSessionTxn):
                timeouts[txn.header.session_id] = txn.body.timeout_ms
            elif txn.header.type == CLOSE_SESSION:
                timeouts.pop(txn.header.session_id, None)
            entries.append((zxid, payload))
            if tell:
                self.seen(zxid, checksum, tree.tree_digest)
        return timeouts, entries

    # --- Storage ------------------------------------------------------------------------------

    def accepted_epoch(self) -> int:
        return self._accepted

    def current_epoch(self) -> int:
        return self._current

    def save_accepted_epoch(self, epoch: int) -> None:
        assert epoch >= self._accepted, "an accepted epoch goes back"
        self._accepted = epoch

    def save_current_epoch(self, epoch: int) -> None:
        assert epoch >= self._current, "a current epoch goes back"
        self._current = epoch

    def save_seen(self, seen: Ensemble) -> None:
        self.seen_config = seen

    def save_committed(self, committed: Ensemble, *, settled: bool) -> None:
        assert self.committed is None or committed.version > self.committed.version
        self.committed = committed
        if settled:
            self.seen_config = None

    def read_log(self, zxid: int, limit: int) -> list[Entry]:
        found = [(z, payload) for z, payload, _ in self.log if z >= zxid]
        if not found or found[0][0] != zxid or sum(len(p) for _, p in found) > limit:
            return []
        return found

    def append(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            zxid = int.from_bytes(payload[_ZXID_AT : _ZXID_AT + 8], "big", signed=True)
            assert not self.log or zxid > self.log[-1][0], "the log goes back"
            self.log.append((zxid, payload, adler32(payload)))

    def snapshot_size(self) -> int:
        return len(self.snapshots[-1][1]) if self.snapshots else 0

    def truncate(self, zxid: int, tree: DataTree) -> dict[int, int]:
        self._flush()
        trial = DataTree(tree.extended)
        self._replay(trial, zxid, tell=False)
        if trial.last_zxid != zxid:
            raise CannotTruncate(f"no state at {zxid:#x}, the nearest is {trial.last_zxid:#x}")
        self.generation += 1
        self.log = [entry for entry in self.log if entry[0] <= zxid]
        self.snapshots = [s for s in self.snapshots if s[0] <= zxid]
        return self._replay(tree, zxid)[0]

    def replace(self, tree: DataTree, timeouts: dict[int, int]) -> None:
        self.under_way.clear()
        self.generation += 1
        # A log with a hole in it leads nowhere: neither a learner nor this server after a crash.
        self.snapshots = [(tree.last_zxid, _encode(tree, timeouts))]
        self.log = []

    def _flush(self) -> None:
        while self.under_way:
            self.sync()


def _encode(tree: DataTree, timeouts: dict[int, int]) -> bytes:
    return b"".join((*snapshot.pieces(tree, timeouts), PathName(SIGNATURE).encode()))


def _decoded(data: bytes) -> Snapshot:
    return Snapshot.decode_from(data, 0, len(data))[0]
