"""What many agents sent, as one: for a picture it is an engine like any other, fed with messages.

Each message of an agent is taken once, by its number. Numbers that never came (a stream with
limits, a spool that was full) are counted. Sums of windows are exact; the totals keep so many keys,
the others are a rest, and what a key may be short by is told. Knows nothing of how messages travel.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import numpy as np
import pyarrow as pa

from zktrace.engine.base import WINDOW_GROUPINGS
from zktrace.fleet.message import Message, Sender
from zktrace.store.part import EMPTY, REQUESTS, Key, Part, merge

#: Parts that wait to be added to a total.
_WAITING: Final = 64
#: Connections of different agents have different numbers; an agent has fewer than so many.
_CONNECTIONS: Final = 1 << 40
MAX_AGENTS: Final = 10_000


@dataclass(slots=True)
class Source:
    """An agent, as its messages tell."""

    sender: Sender
    index: int
    number: int = 0
    """Of the last message that was taken."""
    missing: int = 0
    """Messages that never came."""
    lost: int = 0
    """Of these, those that its spool had no room for, all told of this run."""
    sent_ns: int = 0
    requests: int = 0
    coverage: dict[str, Any] = field(default_factory=dict)
    """Of its present run."""
    before: dict[str, Any] = field(default_factory=dict)
    """Of its earlier runs."""

    def whole(self) -> dict[str, Any]:
        return added(self.before, self.coverage)


def added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two coverages as one: sums, but for the first and the last time."""
    out = dict(one)
    for key, value in other.items():
        mine = out.get(key)
        if mine is None:
            out[key] = value
        elif value is None:
            continue
        elif isinstance(value, Mapping) and isinstance(mine, Mapping):
            out[key] = added(mine, value)
        elif key == "first_ts_ns":
            out[key] = min(mine, value)
        elif key == "last_ts_ns":
            out[key] = max(mine, value)
        elif isinstance(value, int) and isinstance(mine, int):
            out[key] = mine + value
    return out


class _Total:
    """A grouping's sums of all time, with so many keys at most."""

    def __init__(self, keys: int) -> None:
        self._keys = keys
        self._part = EMPTY
        self._waiting: list[Part] = []
        self._floor = 0
        self._missed: dict[Key, int] = {}

    def add(self, part: Part) -> None:
        self._waiting.append(part)
        if len(self._waiting) >= _WAITING:
            self.part()

    def part(self) -> Part:
        if self._waiting:
            before = set(self._part.keys)
            self._part = merge([self._part, *self._waiting])
            self._waiting.clear()
            if self._floor:
                for key in self._part.keys:
                    if key not in before and not key[1]:
                        self._missed[key] = self._floor
            if len(self._part.keys) > self._keys:
                keep = self._keys * 3 // 4
                cut = self._part.numbers[keep:, REQUESTS]
                bounds = [self._missed.pop(key, 0) for key in self._part.keys[keep:]]
                self._floor = max(self._floor, int((cut + np.array(bounds)).max()))
                self._part = merge([self._part.coarse(keep, 1)])
        return self._part

    def missed(self) -> bytes:
        column = [self._missed.get(key, 0) for key in self._part.keys]
        return np.array(column, dtype="<i8").tobytes()


class Merged:
    """See the module; the methods are those of :class:`zktrace.engine.base.LiveEngine` that a
    picture uses, and :meth:`take_message`.
    """

    name = "fleet"

    def __init__(self, total_keys: int) -> None:
        self.sources: dict[str, Source] = {}
        self.damaged = 0
        """Messages that were none."""
        self.refused = 0
        """Messages of agents beyond :data:`MAX_AGENTS`."""
        self._totals = {by: _Total(total_keys) for by in WINDOW_GROUPINGS}
        self._windows: list[tuple[int, dict[str, Any]]] = []
        self._rows: dict[str, list[tuple[Any, ...]]] = {}
        self._seq = 0

    # -- fed

    def take_message(self, message: Message) -> bool:
        """Whether it was a new one."""
        source = self.sources.get(message.sender.agent)
        if source is None:
            if len(self.sources) >= MAX_AGENTS:
                self.refused += 1
                return False
            source = Source(message.sender, len(self.sources))
            self.sources[message.sender.agent] = source
        if message.number <= source.number:
            return False
        source.missing += message.number - source.number - 1
        source.number = message.number
        if message.sender.run != source.sender.run:
            source.before = source.whole()
            source.coverage = {}
        source.sender = message.sender
        source.lost = message.lost
        source.sent_ns = max(source.sent_ns, message.sent_ns)
        source.coverage = message.coverage
        seconds: dict[int, dict[str, Any]] = {}
        for second, by, part in message.windows:
            self._totals[by].add(part)
            seconds.setdefault(second, {})[by] = _packed(part)
            if by == "op":
                source.requests += int(part.numbers[:, REQUESTS].sum())
        self._windows += seconds.items()
        self._events(source, message.events)
        return True

    def _events(self, source: Source, events: Iterable[tuple[str, pa.RecordBatch]]) -> None:
        found = []
        for kind, batch in events:
            names = batch.schema.names
            at = names.index("conn") if "conn" in names else None
            columns = [column.to_pylist() for column in batch.columns]
            if at is not None:
                columns[at] = [source.index * _CONNECTIONS + conn for conn in columns[at]]
            found.append((kind, list(zip(*columns, strict=True))))
        # In the order of the agent, with numbers of ours.
        rows = sorted(
            chain.from_iterable(((row[0], kind, row) for row in some) for kind, some in found),
            key=lambda one: one[0],
        )
        for _, kind, row in rows:
            self._rows.setdefault(kind, []).append((self._seq, *row[1:]))
            self._seq += 1

    # -- asked by a picture

    def take(self) -> Mapping[str, list[tuple[Any, ...]]]:
        rows, self._rows = self._rows, {}
        return rows

    def drain(self, all: bool = False) -> list[tuple[int, dict[str, Any]]]:
        windows, self._windows = self._windows, []
        return windows

    def totals(self, by: str) -> tuple[Any, bytes]:
        total = self._totals[by]
        part = total.part()
        return _packed(part), total.missed()

    def coverage(self) -> dict[str, Any]:
        sums: dict[str, Any] = {
            "packets": 0,
            "bytes": 0,
            "flows": {},
            "frames": {},
            "exchanges": {},
        }
        for source in self.sources.values():
            sums = added(sums, source.whole())
        missing = sum(source.missing for source in self.sources.values())
        more = {
            "missing_messages": missing,
            "damaged_messages": self.damaged,
            "refused_messages": self.refused,
        }
        return sums | {name: count for name, count in more.items() if count}

    def agents(self) -> list[dict[str, Any]]:
        """What is known of each."""
        now = time.time_ns()
        return [
            {
                "agent": source.sender.agent,
                "name": source.sender.name,
                "ensemble": source.sender.ensemble,
                "messages": source.number - source.missing,
                "missing_messages": source.missing,
                "requests": source.requests,
                "silent_s": round(max(now - source.sent_ns, 0) / 1e9, 3),
                "coverage": source.whole(),
            }
            for source in self.sources.values()
        ]


def _packed(part: Part) -> tuple[Any, ...]:
    """As an engine hands a part over: what :meth:`Part.of` takes."""
    return (
        [key for key, _ in part.keys],
        [rest for _, rest in part.keys],
        np.ascontiguousarray(part.numbers, dtype="<i8").tobytes(),
        np.asarray(part.rows, dtype="<u4").tobytes(),
        np.asarray(part.buckets, dtype="<u2").tobytes(),
        np.asarray(part.counts, dtype="<u8").tobytes(),
        np.ascontiguousarray(part.errors, dtype="<i8").tobytes(),
    )
