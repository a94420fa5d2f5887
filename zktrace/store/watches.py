"""Watches as the wire shows them: registered, fired, and how many events one write fired.

A watch is registered when the reply to a request that asked for it says so: getData, exists and
getChildren with the watch flag, addWatch, setWatches after a reconnect (which sets again what was
registered before, so it is counted apart). From ZooKeeper 3.9 on the header of an event carries
the zxid of the write that fired it (ZOOKEEPER-4655), so the fan-out of a write is exact; before,
events of one path and kind within one second are taken together, and called so. A read of the
event's path by its session within a second after it is counted as caused by the write.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zktrace.analysis.names import vocabulary
from zktrace.store.ledger import Ledger, Rereads

#: Paths with counts, and writes with fan-out; beyond, the half with the smallest counts goes.
MAX_PATHS: Final = 20_000
MAX_WRITES: Final = 5_000
#: A write that fires events to so many sessions sends a herd.
HERD_SESSIONS: Final = 20
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


class Watches:
    """The counts."""

    def __init__(self) -> None:
        self.registered = dict.fromkeys(KINDS, 0)
        self.restored = dict.fromkeys(KINDS, 0)
        """By setWatches."""
        self.fired: dict[str, int] = {}
        self.paths: dict[str, list[int]] = {}
        """Registered and fired."""
        self.writes: dict[Any, dict[str, Any]] = {}
        self.ledger = Ledger()
        self._rereads = Rereads()
        self._numbers: dict[int, Any] = {}
        """Writes by number, while their events may be answered."""
        self._number = 0
        self.forgotten_paths = 0
        self.forgotten_writes = 0

    def add(self, batches: dict[str, pa.RecordBatch]) -> None:
        exchanges = batches.get("exchanges")
        events = batches.get("watch_events")
        if exchanges is not None:
            self._registered(exchanges)
            self._restored(exchanges)
        told = self._fired(events) if events is not None and events.num_rows else []
        self.ledger.add(exchanges, events)
        if exchanges is not None:
            self._causes(exchanges)
        self._reread(exchanges, events, told)
        if len(self.paths) > MAX_PATHS:
            self.forgotten_paths += _halve(self.paths, sum)
        if len(self.writes) > MAX_WRITES:
            self.forgotten_writes += _halve(self.writes, lambda write: write["events"])

    def _registered(self, rows: pa.RecordBatch) -> None:
        ops = rows.column("op").cast(pa.utf8())
        error = rows.column("error")
        fine = pc.equal(error, 0)
        absent = pc.and_(pc.equal(error, _NO_NODE), pc.equal(ops, "exists"))
        flagged = pc.and_(pc.fill_null(rows.column("watch"), False), pc.or_(fine, absent))
        flagged = pc.and_(flagged, pc.is_in(ops, pa.array(list(_FLAGGED))))
        added = pc.and_(pc.equal(ops, "addWatch"), fine)
        chosen = pc.fill_null(pc.or_(flagged, added), False)
        if not pc.any(chosen).as_py():
            return
        rows = rows.select(["op", "path", "mode"]).filter(chosen)
        for row, count in _counted(rows):
            kind = _FLAGGED.get(row["op"] or "") or _MODES.get(row["mode"])
            if kind is not None:
                self.registered[kind] += count
            if row["path"] is not None:
                self.paths.setdefault(row["path"], [0, 0])[0] += count

    def _restored(self, rows: pa.RecordBatch) -> None:
        watches = rows.column("watches")
        chosen = pc.and_(watches.is_valid(), pc.equal(rows.column("error"), 0))
        chosen = pc.fill_null(chosen, False)
        if pc.any(chosen).as_py():
            for value in watches.filter(chosen).to_pylist():
                for kind, count in value.items():
                    self.restored[kind] += count or 0

    def _fired(self, rows: pa.RecordBatch) -> list[int]:
        """Counts events; gives the number of the write of each."""
        told: list[int] = []
        for row, count in _counted(rows.select(["event", "path"])):
            name = row["event"] or "?"
            self.fired[name] = self.fired.get(name, 0) + count
            if row["path"] is not None:
                self.paths.setdefault(row["path"], [0, 0])[1] += count
        columns = [
            rows.column(name).to_pylist()
            for name in ("zxid", "event", "path", "ts_ns", "session", "bytes")
        ]
        for zxid, event, path, ts_ns, session, size in zip(*columns, strict=True):
            if path is None:
                told.append(-1)
                continue  # of the session itself, no write's
            # One write can fire NodeDeleted here and NodeChildrenChanged of the parent there.
            key = (zxid,) if zxid is not None else (path, event, ts_ns // _SECOND)
            write = self.writes.get(key)
            if write is None:
                write = self.writes[key] = {
                    "zxid": zxid,
                    "exact": zxid is not None,
                    "first_ns": ts_ns,
                    "last_ns": ts_ns,
                    "path": path,
                    "kinds": {},
                    "events": 0,
                    "bytes": 0,
                    "sessions": set(),
                    "op": None,
                    "client": None,
                    "rereads": 0,
                    "reread_bytes": 0,
                }
                self._number += 1
                write["number"] = self._number
                self._numbers[self._number] = key
            told.append(write["number"])
            write["events"] += 1
            write["bytes"] += size or 0
            write["first_ns"] = min(write["first_ns"], ts_ns)
            write["last_ns"] = max(write["last_ns"], ts_ns)
            write["kinds"][event] = write["kinds"].get(event, 0) + 1
            if len(write["sessions"]) < 10_000:
                write["sessions"].add(session)
        if len(self._numbers) > MAX_WRITES:
            for number in list(self._numbers)[: len(self._numbers) - MAX_WRITES]:
                del self._numbers[number]
        return told

    def _reread(
        self, exchanges: pa.RecordBatch | None, events: pa.RecordBatch | None, told: list[int]
    ) -> None:
        for number, reads, size in self._rereads.add(exchanges, events, told):
            write = self.writes.get(self._numbers.get(number))
            if write is not None:
                write["rereads"] += reads
                write["reread_bytes"] += size

    def _causes(self, rows: pa.RecordBatch) -> None:
        """Which request a zxid was."""
        open_zxids = [
            key[0] for key, write in self.writes.items() if len(key) == 1 and not write["op"]
        ]
        if not open_zxids:
            return
        writes = pa.array(sorted(vocabulary().writes))
        chosen = pc.and_(
            pc.is_in(rows.column("zxid"), pa.array(open_zxids, pa.int64())),
            pc.is_in(rows.column("op").cast(pa.utf8()), writes),
        )
        chosen = pc.fill_null(pc.and_(chosen, pc.equal(rows.column("error"), 0)), False)
        names = ["zxid", "op", "client", "path"]
        for row in rows.select(names).filter(chosen).to_pylist():
            write = self.writes[(row["zxid"],)]
            write["op"], write["client"] = row["op"], row["client"]
            if row["path"] is not None:
                write["path"] = row["path"]


def _counted(rows: pa.RecordBatch) -> Iterator[tuple[dict[str, Any], int]]:
    """Distinct rows and how often there are."""
    names = rows.schema.names
    table = pa.Table.from_batches([rows])
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(pa.utf8()))
    one = pa.array(np.ones(len(table), dtype=np.int64))
    counted = table.append_column("n", one).group_by(names, use_threads=False)
    for row in counted.aggregate([("n", "sum")]).to_pylist():
        yield row, row["n_sum"]


def _halve(kept: dict[Any, Any], size: Any) -> int:
    """Forgets the smaller half; gives how many."""
    ranked = sorted(kept, key=lambda key: size(kept[key]))
    gone = ranked[: len(ranked) // 2]
    for key in gone:
        del kept[key]
    return len(gone)
