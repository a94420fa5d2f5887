"""This server's copy of the history: what is logged, what of it is durable, and what of it is
committed, which is what the tree shows.

A txn is appended when it is proposed, and applied when it is committed. Those in between are
`pending`. When the server stops to follow or to lead, they are applied as well
(ZKDatabase.fastForwardDataBase): by then it is for the next leader to say whether they count, and
the tree that shows too much is not served to anybody.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from zktrace.wire import zxid as zxids
from zktrace.wire.jute import WireError
from zktrace.wire.snapshot import SIGNATURE, PathName, Snapshot
from zktrace.wire.txn import CreateSessionTxn, Transaction
from zktrace_server.core import snapshot
from zktrace_server.core.apply import CLOSE_SESSION, Result, apply
from zktrace_server.core.node import DIGEST_VERSION, Node
from zktrace_server.core.quorum import quick
from zktrace_server.core.quorum.quick import SetData
from zktrace_server.core.quorum.storage import Entry, Storage
from zktrace_server.core.tree import DataTree

#: Committed txns that are kept for learners that were away for a short time
#: (zookeeper.commitLogCount).
COMMITTED_LOG: Final = 500


class OutOfOrder(Exception):
    """A leader said something that does not follow what it said before; the text says what."""


class Listener(Protocol):
    """Who is told of each txn that was applied: by one of these."""

    def committed(self, txn: Transaction, result: Result) -> None: ...
    def set_data_committed(self, txn: SetData, node: Node) -> None: ...


class Replica:
    """`timeouts` are those of all committed sessions, in ms by id. `listener` is there while
    somebody serves. `pending` are zxid, bytes and content of each.
    """

    def __init__(self, tree: DataTree, timeouts: dict[int, int], storage: Storage) -> None:
        self.tree = tree
        self.timeouts = timeouts
        self.storage = storage
        self.history: deque[Entry] = deque(maxlen=COMMITTED_LOG)
        self.pending: deque[tuple[int, bytes, Transaction | SetData]] = deque()
        self.mismatches = 0
        self.listener: Listener | None = None
        self._unsaved: list[Entry] = []
        self._in_flight: deque[int] = deque()

    @property
    def last_logged(self) -> int:
        """The zxid of the last txn in the log, durable or not."""
        return self.pending[-1][0] if self.pending else self.tree.last_zxid

    @property
    def unsaved(self) -> bool:
        """Whether there is something to be logged."""
        return bool(self._unsaved)

    @property
    def settled(self) -> bool:
        """Whether all that was appended is durable."""
        return not self._unsaved and not self._in_flight

    # --- the log ------------------------------------------------------------------------------

    def append(self, zxid: int, payload: bytes, txn: Transaction | SetData) -> None:
        """A proposed txn, to be logged."""
        pending = self.pending
        last = pending[-1][0] if pending else self.tree.last_zxid
        if zxid != last + 1 and not (
            zxids.epoch(zxid) > zxids.epoch(last) and zxids.counter(zxid) <= 1
        ):
            raise OutOfOrder(f"txn {zxid:#x} comes behind {last:#x}")
        pending.append((zxid, payload, txn))
        self._unsaved.append((zxid, payload))

    def take_log(self) -> list[bytes]:
        """What is to be written next, in order; `logged` is to be told when it is durable."""
        if not self._unsaved:
            return []
        taken, self._unsaved = self._unsaved, []
        self._in_flight.extend(zxid for zxid, _ in taken)
        return [payload for _, payload in taken]

    def logged(self, count: int) -> list[int]:
        """So many more of what was taken are durable: their zxids."""
        flight = self._in_flight
        return [flight.popleft() for _ in range(min(count, len(flight)))]

    # --- the tree -----------------------------------------------------------------------------

    def commit(self, zxid: int) -> None:
        """The next pending txn is committed; it must be this one."""
        pending = self.pending
        if not pending:
            raise OutOfOrder(f"commit of {zxid:#x}, which was not proposed")
        if pending[0][0] != zxid:
            raise OutOfOrder(f"commit of {zxid:#x}, next is {pending[0][0]:#x}")
        self._apply(*pending.popleft())

    def fast_forward(self) -> None:
        """Applies what is pending, for the next election."""
        while self.pending:
            self._apply(*self.pending.popleft())

    def _apply(self, zxid: int, payload: bytes, txn: Transaction | SetData) -> None:
        if isinstance(txn, SetData):
            node = quick.apply(self.tree, txn)
            if node is not None:
                if not quick.agrees(self.tree, txn):
                    self.mismatches += 1
                self.history.append((zxid, payload))
                if self.listener is not None:
                    self.listener.set_data_committed(txn, node)
                return
            txn = Transaction.decode(payload)
        result = apply(self.tree, txn)
        if isinstance(txn.body, CreateSessionTxn):
            self.timeouts[txn.header.session_id] = txn.body.timeout_ms
        elif txn.header.type == CLOSE_SESSION:
            self.timeouts.pop(txn.header.session_id, None)
        digest = txn.digest
        if (
            digest is not None
            and digest.version == DIGEST_VERSION
            and digest.tree_digest != self.tree.tree_digest
        ):
            self.mismatches += 1
        self.history.append((zxid, payload))
        if self.listener is not None:
            self.listener.committed(txn, result)

    def snapshot(self) -> bytes:
        """The tree as it goes behind a SNAP packet."""
        pieces = snapshot.pieces(self.tree, self.timeouts)
        return b"".join((*pieces, PathName(SIGNATURE).encode()))

    # --- another history ----------------------------------------------------------------------

    def truncate(self, zxid: int) -> None:
        """Forgets what is behind `zxid`. CannotTruncate: nothing was changed."""
        unsaved, self._unsaved = self._unsaved, []
        self.storage.append([payload for _, payload in unsaved])
        timeouts = self.storage.truncate(zxid, self.tree)
        self._forget()
        self.timeouts = timeouts
        while self.history and self.history[-1][0] > zxid:
            self.history.pop()

    def install(self, data: bytes, zxid: int) -> None:
        """All is as a leader's snapshot has it. WireError if it is none."""
        read, end = Snapshot.decode_from(data, 0, len(data))
        if end != len(data):
            raise WireError("bytes behind a snapshot", end, "Snapshot")
        timeouts = snapshot.restore(self.tree, read)
        self.tree.last_zxid = zxid
        self._forget()
        self.timeouts = timeouts
        self.history.clear()
        self.storage.replace(self.tree, timeouts)

    def _forget(self) -> None:
        self.pending.clear()
        self._unsaved.clear()
        self._in_flight.clear()
