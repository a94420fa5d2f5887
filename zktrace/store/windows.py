"""Windows of time in fixed memory: 1 s for 10 minutes, 10 s for 6 hours, 1 min for 7 days.

Each holds the rows of all groupings, of every grouping the busiest keys and the sum of the others,
packed (:mod:`zktrace.store.packed`). What has been in three windows is the same numbers thrice; a
span is put together from the longest windows that fit. Windows of a minute have histograms of 8
buckets per octave, not 32 (a latency is known to 4.4 %), of ten seconds 16. All of them have a
budget of bytes; where traffic is so varied that it does not do, the oldest windows of a minute keep
fewer keys, and when all do, the oldest go. All times are seconds of the capture's clock. Where that
is set back, windows of the same time hold what was seen both times, and windows of a time that has
not come again are the first to go.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from zktrace.engine.base import WINDOW_GROUPINGS
from zktrace.engine.buckets import PER_OCTAVE
from zktrace.store.packed import pack, unpack
from zktrace.store.part import COLUMNS, EMPTY, SAMPLES, Part, errors_of, merge, quantiles_of
from zktrace.store.part import RECEIVED as _RECEIVED
from zktrace.store.part import REPLIES as _REPLIES
from zktrace.store.part import REQUESTS as _REQUESTS
from zktrace.store.part import SENT as _SENT
from zktrace.store.part import WATCH_EVENTS as _WATCH_EVENTS

Groups = Mapping[str, Part]


class Tier(NamedTuple):
    """Windows of one length."""

    seconds: int
    kept: int
    keys: int
    """Keys kept per grouping."""
    per: int
    """Buckets of a histogram that are made one."""


TIERS: Final = (Tier(1, 600, 64, 1), Tier(10, 2160, 32, 2), Tier(60, 10_080, 16, 4))
#: Bytes of all windows: 600 and 2,160 of 200 busy paths and a hundred clients take 18 MB.
BUDGET_BYTES: Final = 28 << 20
#: Keys of the oldest windows of the last tier, when there is no room for more.
THIN_KEYS: Final = 4
#: Points of timelines that are remembered.
_POINTS: Final = 1300
#: Parts that stay unpacked: those of the latest ten seconds, some 50 kB each of busy traffic.
_UNPACKED: Final = 48
#: Keys per grouping that an engine is asked for.
WINDOW_KEYS: Final = TIERS[0].keys
#: Ops are few, and what they add up to is wanted whole.
_OP_KEYS: Final = 64

#: Rows of the heat map: half octaves of latency.
BAND: Final = PER_OCTAVE // 2


class Point(NamedTuple):
    """A window in a timeline."""

    second: int
    requests: int
    replies: int
    errors: int
    request_bytes: int
    reply_bytes: int
    watch_events: int
    p50: int | None
    p99: int | None
    ops: dict[str, tuple[int, int | None, int | None]]
    """Requests, p50 and p99 (ns) per op."""
    bands: dict[int, int]
    """Exchanges per half octave of latency."""


@lru_cache(maxsize=_UNPACKED)
def _unpacked(packed: bytes) -> Part:
    """Viewers ask for the latest windows again and again."""
    return unpack(packed)


class Window:
    """A window of one tier."""

    __slots__ = ("parts", "second", "size")

    def __init__(self, second: int, groups: Groups) -> None:
        self.second = second
        self.parts = tuple(pack(groups[by]) if by in groups else b"" for by in WINDOW_GROUPINGS)
        """Packed, by grouping."""
        self.size = sum(map(len, self.parts))

    @classmethod
    def of(cls, second: int, parts: Sequence[bytes]) -> Window:
        """Of packed parts."""
        window = cls(second, {})
        window.parts = tuple(parts)
        window.size = sum(map(len, parts))
        return window

    def part(self, by: str) -> Part:
        packed = self.parts[WINDOW_GROUPINGS.index(by)]
        return _unpacked(packed) if packed else EMPTY

    def groups(self) -> dict[str, Part]:
        return {by: self.part(by) for by in WINDOW_GROUPINGS}


class Saved(NamedTuple):
    """What is kept over a restart."""

    first: int | None
    slots: list[int | None]
    """Per tier the slot that was not summed up yet."""
    windows: list[tuple[int, Window]]
    """Tier and window."""


def total(server: Part) -> Part:
    """Everything: every row has exactly one server, and latencies without pings and connects."""
    return merge([server], lambda key: (None, False))


def point(second: int, ops: Part, server: Part) -> Point:
    """A point of a timeline. `server` has what `ops` has not: watch events, latencies of work
    only.
    """
    whole = total(server)
    numbers = whole.numbers.sum(axis=0).tolist() if len(whole.keys) else [0] * COLUMNS
    some = bool(numbers[SAMPLES])
    p50, _, p99, _ = (int(column[0]) if some else None for column in _quantiles(whole))
    of_ops = _quantiles(ops)
    bands: dict[int, int] = {}
    for bucket, count in zip(whole.buckets.tolist(), whole.counts.tolist(), strict=True):
        bands[bucket // BAND] = bands.get(bucket // BAND, 0) + count
    samples = ops.numbers[:, SAMPLES].tolist()
    return Point(
        second,
        numbers[_REQUESTS],
        numbers[_REPLIES],
        int(errors_of(whole).sum()),
        numbers[_SENT],
        numbers[_RECEIVED],
        numbers[_WATCH_EVENTS],
        p50,
        p99,
        {
            key or "?": (
                requests,
                int(of_ops[0][i]) if samples[i] else None,
                int(of_ops[2][i]) if samples[i] else None,
            )
            for i, ((key, _), requests) in enumerate(
                zip(ops.keys, ops.numbers[:, _REQUESTS].tolist(), strict=True)
            )
        },
        bands,
    )


def _quantiles(part: Part) -> list[Any]:
    return quantiles_of(part) if len(part.keys) else [np.zeros(1, dtype=np.int64)] * 4


def _coarse(groups: Groups, keys: int, per: int) -> dict[str, Part]:
    return {by: part.coarse(_OP_KEYS if by == "op" else keys, per) for by, part in groups.items()}


def sum_groups(windows: Sequence[Groups]) -> dict[str, Part]:
    return {by: merge([groups.get(by, EMPTY) for groups in windows]) for by in WINDOW_GROUPINGS}


class Windows:
    """The three tiers. Not for several threads at once."""

    def __init__(
        self,
        tiers: Sequence[Tier] = TIERS,
        budget: int = BUDGET_BYTES,
        *,
        one_clock: bool = True,
    ) -> None:
        """`one_clock`: a second that is far behind means that the clock was set back; else that it
        comes late.
        """
        self._one_clock = one_clock
        self._tiers = tiers
        self._windows: list[dict[int, Window]] = [{} for _ in tiers]
        self._slots: list[int | None] = [None] * len(tiers)
        """Per tier the slot that is not yet summed up (of the first tier: the latest second)."""
        self._points: OrderedDict[tuple[int, int], Point] = OrderedDict()
        self._budget = budget
        self._thin_to: int | None = None
        """Windows of the last tier before it have few keys."""
        self._floor: int | None = None
        """What is before it was forgotten."""
        self.size = 0
        """Bytes of all windows."""
        self.first: int | None = None
        """The first second ever seen."""

    @property
    def last(self) -> int | None:
        """The latest second."""
        return self._slots[0]

    def __len__(self) -> int:
        return sum(map(len, self._windows))

    def save(self) -> Saved:
        """All of it; windows never change."""
        windows = [(tier, one) for tier, some in enumerate(self._windows) for one in some.values()]
        return Saved(self.first, list(self._slots), windows)

    def restore(self, saved: Saved, now: int) -> None:
        """Windows of before, of a clock that says `now` (seconds); to be called before any is
        added. What is later than now was of another clock and is left out.
        """
        seconds = []
        for tier, window in saved.windows:
            if window.second + self._tiers[tier].seconds <= now + 1:
                self._windows[tier][window.second] = window
                self.size += window.size
                seconds.append(window.second)
        if not seconds:
            return
        known = saved.first is not None and saved.first <= max(seconds)
        self.first = saved.first if known else min(seconds)
        self._slots = [
            None if slot is None else min(slot, now - now % tier.seconds)
            for slot, tier in zip(saved.slots, self._tiers, strict=True)
        ]
        for of, windows in zip(self._tiers, self._windows, strict=True):
            while len(windows) > of.kept:
                self.size -= windows.pop(min(windows)).size
        while self.size > self._budget and self._thin():
            pass

    def add(self, second: int, groups: Groups) -> None:
        """A window of a second; more of the same second is added to it."""
        self.first = second if self.first is None else min(self.first, second)
        self._put(0, second, groups)
        latest = self._slots[0]
        self._slots[0] = second if latest is None else max(latest, second)
        if self._one_clock and latest is not None and second < latest - 60:
            self._slots[0] = second  # the clock was set
        for level in range(1, len(self._tiers)):
            length = self._tiers[level].seconds
            slot = second - second % length
            pending = self._slots[level]
            if pending is None:
                self._slots[level] = slot
            elif slot > pending or (self._one_clock and slot < pending - 60):
                self._close(level, pending)
                self._slots[level] = slot
            elif slot < pending:
                self._put(level, slot, groups)  # late: that slot was summed up already

    def _put(self, level: int, second: int, groups: Groups) -> None:
        tier, windows = self._tiers[level], self._windows[level]
        if second in windows:
            groups = sum_groups([windows[second].groups(), groups])
        self._set(level, second, _coarse(groups, tier.keys, tier.per))
        if len(windows) > tier.kept:
            # The farthest: the oldest one, or one from before the clock was set back.
            far = max((min(windows), max(windows)), key=lambda at: (abs(at - second), -at))
            self.size -= windows.pop(far).size
        while self.size > self._budget and self._thin():
            pass

    def _set(self, level: int, second: int, groups: Groups) -> None:
        windows = self._windows[level]
        before = windows.get(second)
        window = windows[second] = Window(second, groups)
        self.size += window.size - (before.size if before is not None else 0)
        self._points.pop((level, second), None)

    def _thin(self) -> bool:
        """Leaves the oldest window of the last tier that has more than a few keys with few, or
        forgets the oldest; whether there was one.
        """
        level = len(self._tiers) - 1
        windows = self._windows[level]
        full = [at for at in windows if self._thin_to is None or at >= self._thin_to]
        if not full:
            if not windows:
                return False
            gone = min(windows)
            self.size -= windows.pop(gone).size
            self._floor = gone + self._tiers[level].seconds
            return True
        oldest = min(full)
        self._thin_to = oldest + 1
        self._set(level, oldest, _coarse(windows[oldest].groups(), THIN_KEYS, 1))
        return True

    def _point(self, level: int, second: int) -> Point:
        known = self._points.get((level, second))
        if known is None:
            window = self._windows[level][second]
            known = point(second, window.part("op"), window.part("server"))
            self._points[level, second] = known
            if len(self._points) > _POINTS:
                self._points.popitem(last=False)
        else:
            self._points.move_to_end((level, second))
        return known

    def _close(self, level: int, slot: int) -> None:
        finer = self._windows[level - 1]
        step = self._tiers[level - 1].seconds
        inside = range(slot, slot + self._tiers[level].seconds, step)
        parts = [finer[at].groups() for at in inside if at in finer]
        if self._slots[level - 1] is not None and level > 1:
            # The finer tier's own pending slot lies in the finest windows only.
            pending = self._slots[level - 1]
            assert pending is not None
            if pending in inside and pending not in finer:
                self._close(level - 1, pending)
                if pending in finer:
                    parts.append(finer[pending].groups())
        if parts:
            self._put(level, slot, sum_groups(parts))

    def span(self, start: int, end: int) -> Iterator[Window]:
        """Windows that make up [start, end), the longest that fit, in order of time."""
        at = start
        while at < end:
            for level in reversed(range(len(self._tiers))):
                tier = self._tiers[level]
                pending = self._slots[level]
                whole = at % tier.seconds == 0 and at + tier.seconds <= end
                if level and not (whole and pending is not None and at < pending):
                    continue
                window = self._windows[level].get(at)
                # Nothing then, unless finer windows (of a clock that was set back) say more.
                if window is None and level and at + tier.seconds > self._oldest(level - 1):
                    continue
                if window is not None:
                    yield window
                at += tier.seconds
                break

    def _oldest(self, level: int) -> int:
        """From when on a tier can say everything."""
        last = self._slots[0]
        if last is None:
            return 0
        tier = self._tiers[level]
        return last - tier.seconds * tier.kept

    def clamp(self, start: int) -> int:
        """The first second that there can be anything of, not before `start`."""
        first = start if self.first is None else max(start, self.first)
        if self._floor is not None and (self._slots[0] or 0) >= self._floor:
            first = max(first, self._floor)
        return max(first, self._oldest(len(self._tiers) - 1))

    def points(self, start: int, end: int, step: int) -> list[Point]:
        """Points of `step` seconds (that of a tier, or a multiple of a minute) in [start, end);
        seconds without anything have none.
        """
        level = max(i for i, tier in enumerate(self._tiers) if tier.seconds <= step)
        begin = start - start % step
        single = self._tiers[level].seconds == step
        result = []
        for low, high in pairwise(range(begin, end + step, step)):
            window = self._windows[level].get(low) if single else None
            pending = self._slots[level]
            if window is not None and (level == 0 or (pending is not None and low != pending)):
                result.append(self._point(level, low))
                continue
            inside = list(self.span(max(low, self.clamp(low)), high))
            if inside:
                ops = merge([one.part("op") for one in inside])
                server = merge([one.part("server") for one in inside])
                result.append(point(low, ops, server))
        return result
