"""Watches as the wire shows them: registered, fired, and how many events one write fired.

Fed row by row; ``zktrace/_native/src/kept/watches.rs`` is the same for the native engine. A watch
is registered when the reply to a request that asked for it says so: getData, exists and
getChildren with the watch flag, addWatch, setWatches after a reconnect (which sets again what was
registered before, so it is counted apart). From ZooKeeper 3.9 on the header of an event carries
the zxid of the write that fired it (ZOOKEEPER-4655), so the fan-out of a write is exact; before,
events of one path and kind within one second are taken together, and called so. A read of the
event's path by its session within a second after it is counted as caused by the write.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from zktrace.store.ledger import CHILD, DATA, Ledger
from zktrace.store.short import short

#: Paths with counts, and their bytes; writes with fan-out. Beyond, the half with the smallest
#: counts goes.
MAX_PATHS: Final = 20_000
MAX_PATH_BYTES: Final = 4 << 20
MAX_WRITES: Final = 5_000
#: Sessions of a write that are told apart, and writes whose sessions are: the latest.
MAX_SESSIONS: Final = 10_000
OPEN_WRITES: Final = 64
#: A write that fires events to so many sessions sends a herd.
HERD_SESSIONS: Final = 20
#: A read so soon after an event is taken for its answer; events that wait for one.
REREAD_NS: Final = 1_000_000_000
MAX_WAITING: Final = 50_000
#: Writes that were answered before their events were seen, by zxid modulo this.
ANSWERED: Final = 4096
READS: Final = ("getData", "exists", "getChildren", "getChildren2")
_NO_NODE: Final = -101
_SECOND: Final = 1_000_000_000

#: What the watch flag of an op registers.
_FLAGGED: Final = {
    "getData": "data",
    "exists": "exist",
    "getChildren": "child",
    "getChildren2": "child",
}
#: Modes of addWatch (``ZooDefs.AddWatchModes``).
_MODES: Final = {0: "persistent", 1: "persistent_recursive"}
KINDS: Final = ("data", "exist", "child", "persistent", "persistent_recursive")
_LEDGER: Final = {"data": DATA, "exist": DATA, "child": CHILD}
#: Which watches an event ends (``WatchManager.triggerWatch``; an absent znode's watch is one of
#: its data here, since one event cannot end both).
_ENDS: Final = {
    "NodeCreated": (DATA,),
    "NodeDataChanged": (DATA,),
    "NodeDeleted": (DATA, CHILD),
    "NodeChildrenChanged": (CHILD,),
}


class _Write:
    """A write and the events that it fired."""

    def __init__(self, number: int, zxid: int | None, ts_ns: int, path: str) -> None:
        self.number = number
        self.zxid = zxid
        self.first_ns = self.last_ns = ts_ns
        self.path = short(path)
        self.kinds: dict[str, int] = {}
        self.events = self.bytes = self.sessions = self.rereads = self.reread_bytes = 0
        self.known: set[int] | None = set()
        """Sessions, as long as they are told apart."""
        self.op: str | None = None
        self.client: str | None = None

    def shown(self) -> dict[str, Any]:
        return {
            "zxid": self.zxid,
            "exact": self.zxid is not None,
            "first_ns": self.first_ns,
            "last_ns": self.last_ns,
            "path": self.path,
            "kinds": dict(self.kinds),
            "events": self.events,
            "bytes": self.bytes,
            "sessions": self.sessions,
            "op": self.op,
            "client": self.client,
            "rereads": self.rereads,
            "reread_bytes": self.reread_bytes,
        }


class Watches:
    """The counts. `changing`: names of ops that change the tree."""

    def __init__(self, changing: frozenset[str]) -> None:
        self.registered = dict.fromkeys(KINDS, 0)
        self.restored = dict.fromkeys(KINDS, 0)
        """By setWatches."""
        self.fired: dict[str, int] = {}
        self.ledger = Ledger()
        self.forgotten_paths = 0
        self.forgotten_writes = 0
        self._changing = changing
        self._paths: dict[str, list[int]] = {}
        """Registered and fired."""
        self._path_bytes = 0
        self._writes: dict[Any, _Write] = {}
        self._open: deque[Any] = deque()
        self._keys: dict[int, Any] = {}
        self._number = 0
        self._answered: dict[int, tuple[int, str, str, str | None]] = {}
        self._waiting: dict[tuple[int, str], tuple[int, int]] = {}
        self._queue: deque[tuple[int, tuple[int, str]]] = deque()

    # -- the feeding side

    def exchange(self, row: Any, session: int | None, watches: Mapping[str, Any] | None) -> None:
        op = row.op
        if op is None:
            return
        self.ledger.tick(row.ts_ns)
        if row.watch or op == "addWatch":
            self._registers(row, session)
        if watches is not None and row.error == 0:
            for kind in KINDS:
                self.restored[kind] += max(watches.get(kind) or 0, 0)
        if row.error == 0 and row.state != "no_reply":
            if op == "closeSession" and session is not None:
                self.ledger.closed(session)
            if row.zxid is not None and op in self._changing:
                self._answers(row)
        if self._waiting:
            self._reads(row, session)

    def _registers(self, row: Any, session: int | None) -> None:
        if row.error != 0 and not (row.error == _NO_NODE and row.op == "exists"):
            return
        kind: str | None
        if row.op == "addWatch":
            kind = _MODES.get(row.mode)
        elif (kind := _FLAGGED.get(row.op)) is None:
            return
        if kind is not None:
            self.registered[kind] += 1
        if row.path is None:
            return
        self._path(row.path, 0)
        if session is not None and kind in _LEDGER:
            self.ledger.granted(session, row.path, _LEDGER[kind])

    def _path(self, path: str, which: int) -> None:
        path = short(path)
        counts = self._paths.get(path)
        if counts is None:
            size = len(path.encode("utf-8", "surrogatepass"))
            if len(self._paths) >= MAX_PATHS or self._path_bytes + size > MAX_PATH_BYTES:
                ranked = sorted((sum(counts), name) for name, counts in self._paths.items())
                half = len(ranked) // 2
                for _, name in ranked[:half]:
                    del self._paths[name]
                self.forgotten_paths += half
                self._path_bytes = sum(len(name.encode()) for name in self._paths)
            self._path_bytes += size
            counts = self._paths[path] = [0, 0]
        counts[which] += 1

    def _answers(self, row: Any) -> None:
        """A write was answered: perhaps the one that fired events."""
        write = self._writes.get((row.zxid,))
        if write is not None and write.op is None:
            write.op, write.client = row.op, row.client
            if row.path is not None:
                write.path = short(row.path)
        answer = (row.zxid, row.op, row.client, short(row.path))
        self._answered[(row.zxid & (1 << 64) - 1) % ANSWERED] = answer

    def _reads(self, row: Any, session: int | None) -> None:
        """A request that may read what an event told of."""
        queue = self._queue
        # A row comes when its reply does, so some time later than its request.
        while queue and (queue[0][0] < row.ts_ns - 2 * REREAD_NS or len(queue) > MAX_WAITING):
            self._drop()
        if row.path is None or session is None or row.op not in READS:
            return
        key = (session, row.path)
        if key not in self._waiting:
            return
        ts_ns, number = self._waiting[key]
        if not 0 <= row.ts_ns - ts_ns <= REREAD_NS:
            return
        del self._waiting[key]
        write = self._writes.get(self._keys.get(number))
        if write is not None:
            write.rereads += 1
            write.reread_bytes += row.reply_bytes or 0

    def _drop(self) -> None:
        ts_ns, key = self._queue.popleft()
        if key in self._waiting and self._waiting[key][0] == ts_ns:
            del self._waiting[key]

    def watch_event(self, row: Any, session: int | None) -> None:
        event = row.event or "?"
        self.fired[event] = self.fired.get(event, 0) + 1
        if row.path is None:
            return  # of the session itself, no write's
        self._path(row.path, 1)
        if session is not None:
            for what in _ENDS.get(event, ()):
                self.ledger.fired(session, row.path, what)
        number = self._fires(row, event, session)
        if session is not None:
            key = (session, row.path)
            self._waiting[key] = row.ts_ns, number
            self._queue.append((row.ts_ns, key))
            if len(self._queue) > MAX_WAITING:
                self._drop()

    def _fires(self, row: Any, event: str, session: int | None) -> int:
        # One write can fire NodeDeleted here and NodeChildrenChanged of the parent there.
        key: Any = (short(row.path), event, row.ts_ns // _SECOND)
        if row.zxid is not None:
            key = (row.zxid,)
        write = self._writes.get(key) or self._begin(key, row)
        write.events += 1
        write.bytes += row.bytes or 0
        write.first_ns = min(write.first_ns, row.ts_ns)
        write.last_ns = max(write.last_ns, row.ts_ns)
        write.kinds[event] = write.kinds.get(event, 0) + 1
        if write.known is not None and len(write.known) < MAX_SESSIONS:
            write.known.add(session or 0)
            write.sessions = len(write.known)
        return write.number

    def _begin(self, key: Any, row: Any) -> _Write:
        if len(self._writes) >= MAX_WRITES:
            ranked = sorted((write.events, write.number) for write in self._writes.values())
            half = len(ranked) // 2
            for _, number in ranked[:half]:
                del self._writes[self._keys.pop(number)]
            self.forgotten_writes += half
        self._number += 1
        write = self._writes[key] = _Write(self._number, row.zxid, row.ts_ns, row.path)
        if row.zxid is not None:
            known = self._answered.get((row.zxid & (1 << 64) - 1) % ANSWERED)
            if known is not None and known[0] == row.zxid:
                _, write.op, write.client, path = known
                write.path = write.path if path is None else path
        self._keys[self._number] = key
        self._open.append(key)
        if len(self._open) > OPEN_WRITES:
            closed = self._writes.get(self._open.popleft())
            if closed is not None:
                closed.known = None
        return write

    # -- the asking side

    def paths(self, sort: str, limit: int | None) -> tuple[list[tuple[str, int, int]], int]:
        """The first paths with how often a watch was registered and fired, by either or by name;
        and how many there are.
        """
        rows = [(path, registered, fired) for path, (registered, fired) in self._paths.items()]
        first = {"fired": 2, "registered": 1}.get(sort)
        if first is None:
            rows.sort(key=lambda row: row[0].encode("utf-8", "surrogatepass"))
        else:
            rows.sort(
                key=lambda row: (-row[first], -row[2], -row[1], row[0].encode())  # type: ignore[operator]
            )
        return rows[:limit], len(rows)

    def writes(self, since_ns: int | None, limit: int | None) -> list[dict[str, Any]]:
        """Writes with an event since a time, most events first."""
        found = [
            write
            for write in self._writes.values()
            if since_ns is None or write.last_ns >= since_ns
        ]
        found.sort(key=lambda write: (-write.events, write.first_ns, write.number))
        return [write.shown() for write in found[:limit]]
