"""The watches that should still be set, per session, and which sessions only ever add to them.

A key per watch (hash of session, path and what fires it) enters when a reply grants a one-shot
watch, and leaves when its event is sent or the session is closed; asking again for what is set
adds nothing. Every :data:`SAMPLE_S` of the capture's clock the number per session is noted.

*Fact*: how many watches of a session were granted and neither fired nor went with the session, as
far as was seen. *Guess*: that a session whose number grew in each of the last :data:`SAMPLES`
samples leaks them (:data:`LEAST` or more). It cannot know of watches that were set before the
capture began, or of ones that a client removed by ``removeWatches``; and one that connects to
another server sets again what its library remembers, which may be less.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: Watches that are remembered (some 16 bytes each); beyond, new ones are counted in `overflow`.
MAX_WATCHES: Final = 200_000
SAMPLE_S: Final = 60
SAMPLES: Final = 5
#: Fewer watches are no leak worth telling.
LEAST: Final = 100
#: A read so soon after an event is taken for its answer.
REREAD_NS: Final = 1_000_000_000
#: Events that wait for such a read.
MAX_WAITING: Final = 50_000
READS: Final = ("getData", "exists", "getChildren", "getChildren2")

_NO_NODE: Final = -101
_DATA: Final = 0x9E3779B97F4A7C15
_CHILD: Final = 0xC2B2AE3D27D4EB4F
_SPREAD: Final = np.uint64(0xFF51AFD7ED558CCD)
#: Which watches an event ends (``WatchManager.triggerWatch``; an absent znode's watch is one of
#: its data here, since one event cannot end both).
_ENDS: Final = {
    "NodeCreated": (_DATA,),
    "NodeDataChanged": (_DATA,),
    "NodeDeleted": (_DATA, _CHILD),
    "NodeChildrenChanged": (_CHILD,),
}


class Growing(NamedTuple):
    """A session whose watches only grow."""

    session: int
    before: int
    now: int
    seconds: int


def watch_keys(rows: pa.RecordBatch, salt: int) -> Any:
    """A key per row, of session and path."""
    encoded = rows.column("path")
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    mask = (1 << 64) - 1
    names = [hash(name) & mask for name in encoded.dictionary.to_pylist()]
    paths = np.array([*names, 0], dtype=np.uint64)[pc.fill_null(encoded.indices, -1).to_numpy()]
    sessions = pc.fill_null(rows.column("session"), 0).to_numpy().view(np.uint64)
    with np.errstate(over="ignore"):
        return (paths ^ np.uint64(salt)) * _SPREAD ^ (sessions + np.uint64(salt)) * _SPREAD >> 1


_MARK: Final = np.dtype([("key", "<u8"), ("seq", "<i8"), ("session", "<i8")])
_NOTHING: Final = np.zeros(0, dtype=_MARK)


def _marks(rows: pa.RecordBatch, salt: int) -> Any:
    marks = np.zeros(rows.num_rows, dtype=_MARK)
    if len(marks):
        marks["key"] = watch_keys(rows, salt)
        marks["seq"] = rows.column("seq").to_numpy()
        marks["session"] = rows.column("session").to_numpy()
    return marks


def _last(marks: Any) -> Any:
    """The last of each key, by key."""
    marks = marks[np.lexsort((marks["seq"], marks["key"]))]
    return marks[np.append(marks["key"][1:] != marks["key"][:-1], True)] if len(marks) else marks


class Rereads:
    """Reads of what an event told of, by the session that it was sent to, soon after it."""

    def __init__(self) -> None:
        self._waiting = np.zeros(0, dtype=_STEP)

    def add(
        self, exchanges: pa.RecordBatch | None, events: pa.RecordBatch | None, writes: list[int]
    ) -> list[tuple[int, int, int]]:
        """A batch, and of each of its events the number of its write (negative: none). Gives
        writes, and how many reads and bytes of replies they caused.
        """
        told = self._waiting
        if events is not None and events.num_rows:
            fresh = _steps(events, np.array(writes, dtype=np.int64), "bytes")
            told = np.concatenate([told, fresh[fresh["write"] >= 0]])[-MAX_WAITING:]
        self._waiting = told
        if exchanges is None or not exchanges.num_rows or not len(told):
            return []
        names = ["op", "path", "session", "ts_ns", "reply_bytes"]
        reads = exchanges.select(names)
        op = pc.is_in(reads.column("op").cast(pa.utf8()), pa.array(READS))
        op = pc.and_(op, pc.is_valid(reads.column("path")))
        reads = reads.filter(pc.and_(op, pc.is_valid(reads.column("session"))))
        read = _steps(reads, np.full(reads.num_rows, -1, dtype=np.int64), "reply_bytes")
        both = np.concatenate([told, read])
        both = both[np.lexsort((both["write"] < 0, both["ts_ns"], both["key"]))]
        # A read is the answer to the event just before it, of the same session and path.
        event, answer = both[:-1], both[1:]
        match = (event["write"] >= 0) & (answer["write"] < 0) & (event["key"] == answer["key"])
        match &= answer["ts_ns"] - event["ts_ns"] <= REREAD_NS
        event, answer = event[match], answer[match]
        now = int(pc.max(exchanges.column("ts_ns")).as_py())
        left = told[~np.isin(_pairs(told), _pairs(event))]
        # A row comes when its reply does, so some time later than its request.
        self._waiting = left[left["ts_ns"] >= now - 2 * REREAD_NS]
        numbers, of = np.unique(event["write"], return_inverse=True)
        count = np.bincount(of, minlength=len(numbers))
        size = np.zeros(len(numbers), dtype=np.int64)
        np.add.at(size, of, answer["size"])
        return list(zip(numbers.tolist(), count.tolist(), size.tolist(), strict=True))


_STEP: Final = np.dtype([("key", "<u8"), ("ts_ns", "<i8"), ("write", "<i8"), ("size", "<i8")])


def _steps(rows: pa.RecordBatch, writes: Any, size: str) -> Any:
    steps = np.zeros(rows.num_rows, dtype=_STEP)
    if len(steps):
        steps["key"] = watch_keys(rows, _DATA)
        steps["ts_ns"] = rows.column("ts_ns").to_numpy()
        steps["write"] = writes
        steps["size"] = pc.fill_null(rows.column(size), 0).to_numpy()
    return steps


def _pairs(steps: Any) -> Any:
    with np.errstate(over="ignore"):
        return steps["key"] ^ steps["ts_ns"].view(np.uint64) * _SPREAD


class Ledger:
    """The watches that are set."""

    def __init__(self, limit: int = MAX_WATCHES) -> None:
        self._limit = limit
        self._keys: Any = np.zeros(0, dtype=np.uint64)
        self._sessions: Any = np.zeros(0, dtype=np.int64)
        self._sample: int | None = None
        self._history: dict[int, list[int]] = {}
        self.overflow = 0

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, exchanges: pa.RecordBatch | None, events: pa.RecordBatch | None) -> None:
        """A batch. What counts is which came last to the client: the reply or the event."""
        granted, fired = _NOTHING, _NOTHING
        if exchanges is not None and exchanges.num_rows:
            granted = self._granted(exchanges)
        if events is not None and events.num_rows:
            fired = self._fired(events)
        if len(fired):
            gone = np.isin(self._keys, fired["key"])
            self._keep(~gone)
        if len(granted):
            at = np.searchsorted(fired["key"], granted["key"])
            at[at == len(fired)] = 0
            if len(fired):
                ended = (fired["key"][at] == granted["key"]) & (fired["seq"][at] > granted["seq"])
                granted = granted[~ended]
            self._insert(granted["key"], granted["session"])
        if exchanges is not None and exchanges.num_rows:
            self._closed(exchanges)
            self._sampled(int(pc.max(exchanges.column("ts_ns")).as_py()) // 1_000_000_000)

    @staticmethod
    def _granted(rows: pa.RecordBatch) -> Any:
        chosen = pc.fill_null(rows.column("watch"), False)
        if not pc.any(chosen).as_py():
            return _NOTHING
        rows = rows.select(["seq", "op", "path", "session", "error"])
        rows = rows.filter(pc.and_(chosen, pc.is_valid(rows.column("session"))))
        op, error = rows.column("op").cast(pa.utf8()), rows.column("error")
        exists = pc.and_(pc.equal(op, "exists"), pc.equal(error, _NO_NODE))
        fine = pc.or_(pc.equal(error, 0), exists)
        found = []
        for names, salt in (
            (["getData", "exists"], _DATA),
            (["getChildren", "getChildren2"], _CHILD),
        ):
            of = pc.fill_null(pc.and_(pc.is_in(op, pa.array(names)), fine), False)
            found.append(_marks(rows.filter(of), salt))
        return _last(np.concatenate(found))

    @staticmethod
    def _fired(rows: pa.RecordBatch) -> Any:
        rows = rows.select(["seq", "event", "path", "session"])
        rows = rows.filter(pc.is_valid(rows.column("session")))
        event = rows.column("event").cast(pa.utf8())
        found = [_NOTHING]
        for name, salts in _ENDS.items():
            some = rows.filter(pc.fill_null(pc.equal(event, name), False))
            found += [_marks(some, salt) for salt in salts]
        return _last(np.concatenate(found))

    def _insert(self, keys: Any, sessions: Any) -> None:
        fresh = ~np.isin(keys, self._keys)
        keys, sessions = keys[fresh], sessions[fresh]
        room = self._limit - len(self._keys)
        self.overflow += max(len(keys) - room, 0)
        self._keys = np.concatenate([self._keys, keys[:room]])
        self._sessions = np.concatenate([self._sessions, sessions[:room]])

    def _keep(self, mask: Any) -> None:
        self._keys, self._sessions = self._keys[mask], self._sessions[mask]

    def _closed(self, rows: pa.RecordBatch) -> None:
        op = rows.column("op").cast(pa.utf8())
        chosen = pc.and_(pc.equal(op, "closeSession"), pc.equal(rows.column("error"), 0))
        gone = rows.column("session").filter(pc.fill_null(chosen, False)).drop_null().to_numpy()
        if len(gone):
            self._keep(~np.isin(self._sessions, gone))

    def _sampled(self, second: int) -> None:
        sample = second // SAMPLE_S
        if self._sample is not None and sample <= self._sample:
            return
        self._sample = sample
        known, counts = np.unique(self._sessions, return_counts=True)
        before = self._history
        self._history = {
            session: [*before.get(session, ())[-SAMPLES:], count]
            for session, count in zip(known.tolist(), counts.tolist(), strict=True)
            if count >= LEAST // 4
        }

    def most(self, limit: int) -> list[tuple[int, int]]:
        """Sessions and how many watches they should have set, most first."""
        known, counts = np.unique(self._sessions, return_counts=True)
        order = np.lexsort((known, -counts))[:limit]
        return list(zip(known[order].tolist(), counts[order].tolist(), strict=True))

    def growing(self) -> list[Growing]:
        """Sessions whose watches grew in each of the last samples, most first."""
        found = []
        for session, counts in self._history.items():
            last = counts[-SAMPLES - 1 :]
            grew = all(a < b for a, b in pairwise(last))
            if len(last) > SAMPLES and grew and last[-1] >= LEAST:
                found.append(Growing(session, last[0], last[-1], SAMPLES * SAMPLE_S))
        return sorted(found, key=lambda one: (-one.now, one.session))
