"""What a run has counted: requests by operation, with latencies and error codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from zktrace.analysis.histogram import Histogram
from zktrace.engine.buckets import QUANTILES
from zktrace.export.summary import plural
from zktrace.export.text import duration
from zktrace.wire import opcodes
from zktrace.wire.errors import error_name

#: Latencies that are kept before they go into a histogram.
_KEPT: Final = 4096
#: As in the analyser: a ConnectRequest stands under the number of the txn it leads to.
_CONNECT: Final = "connect"


class _Op:
    def __init__(self) -> None:
        self.count = 0
        self.errors: Counter[int] = Counter()
        self._fresh: list[int] = []
        self._histogram = Histogram()

    def add(self, err: int, ns: int) -> None:
        self.count += 1
        if err:
            self.errors[err] += 1
        self._fresh.append(ns)
        if len(self._fresh) >= _KEPT:
            self.histogram()

    def histogram(self) -> Histogram:
        self._histogram.add(np.array(self._fresh, dtype=np.int64))
        self._fresh.clear()
        return self._histogram


class Tally:
    """Counts."""

    def __init__(self) -> None:
        self._ops: dict[int, _Op] = {}
        self.watch_events = 0
        self.lost = 0
        self.expired = 0
        self.unreachable = 0

    def add(self, number: int, err: int, ns: int) -> None:
        """A request was answered."""
        op = self._ops.get(number)
        if op is None:
            op = self._ops[number] = _Op()
        op.add(err, ns)

    @property
    def requests(self) -> int:
        return sum(op.count for op in self._ops.values())

    def by_op(self) -> Iterator[tuple[str, _Op]]:
        """Most frequent first."""
        for number, op in sorted(self._ops.items(), key=lambda item: (-item[1].count, item[0])):
            yield _name(number), op

    def total(self) -> Histogram:
        """Latencies of everything but requests for sessions."""
        total = Histogram()
        for number, op in self._ops.items():
            if number != opcodes.CREATE_SESSION:
                total.merge(op.histogram())
        return total


def _name(number: int) -> str:
    return _CONNECT if number == opcodes.CREATE_SESSION else opcodes.op_name(number)


def _latency(histogram: Histogram) -> dict[str, float]:
    """In us, with the names of ``zktrace stats --json``."""
    mean = histogram.sum / histogram.count if histogram.count else 0
    values = {"min": histogram.min, "mean": mean}
    values.update(zip((name for name, _ in QUANTILES), histogram.quantiles(), strict=True))
    values["max"] = histogram.max
    return {name: round(ns / 1000, 3) for name, ns in values.items()}


@dataclass(frozen=True, slots=True)
class Report:
    """Of one run. `interrupted`: it was ended before its time; what is known then is in it."""

    workloads: Sequence[str]
    servers: Sequence[str]
    clients: int
    seed: int
    seconds: float
    tally: Tally
    interrupted: bool

    def as_json(self) -> dict[str, Any]:
        """For programs. Latencies in us; `requests` are those that were answered."""
        tally, seconds = self.tally, max(self.seconds, 1e-9)
        requests = tally.requests
        return {
            "workloads": list(self.workloads),
            "servers": list(self.servers),
            "clients": self.clients,
            "seed": self.seed,
            "duration_s": round(self.seconds, 6),
            "interrupted": self.interrupted,
            "requests": requests,
            "per_s": round(requests / seconds, 3),
            "watch_events": tally.watch_events,
            "connections_lost": tally.lost,
            "sessions_expired": tally.expired,
            "servers_unreachable": tally.unreachable,
            "errors": dict(self._errors()),
            "latency_us": _latency(tally.total()),
            "by_op": [
                {
                    "op": name,
                    "requests": op.count,
                    "per_s": round(op.count / seconds, 3),
                    "errors": {error_name(err): n for err, n in op.errors.most_common()},
                    "latency_us": _latency(op.histogram()),
                }
                for name, op in tally.by_op()
            ],
        }

    def _errors(self) -> list[tuple[str, int]]:
        total: Counter[str] = Counter()
        for _, op in self.tally.by_op():
            for err, count in op.errors.items():
                total[error_name(err)] += count
        return total.most_common()

    def lines(self) -> Iterator[str]:
        """For people."""
        tally = self.tally
        requests, seconds = tally.requests, max(self.seconds, 1e-9)
        ended = " (interrupted)" if self.interrupted else ""
        yield (
            f"load      {', '.join(self.workloads)}; {plural(self.clients, 'client')}, seed "
            f"{self.seed}, {duration(self.seconds * 1e9)}{ended}"
        )
        yield f"servers   {', '.join(self.servers)}"
        yield (
            f"requests  {requests:,} ({requests / seconds:,.0f} per s), "
            f"{plural(tally.watch_events, 'watch event')}"
        )
        total = tally.total()
        names = [name for name, _ in QUANTILES]
        if total.count:
            middle = ", ".join(
                f"{name} {duration(ns)}" for name, ns in zip(names, total.quantiles(), strict=True)
            )
            yield f"latency   {middle}, max {duration(total.max)} (connects left out)"
        lost = list(self._losses())
        yield f"failures  {', '.join(lost) if lost else 'none'}"
        yield ""
        head = ["requests", "per s", "errors", *names, "max"]
        rows = [head]
        ops = [""]
        for name, op in tally.by_op():
            histogram = op.histogram()
            rows.append(
                [
                    f"{op.count:,}",
                    f"{op.count / seconds:,.1f}",
                    f"{op.errors.total():,}",
                    *map(duration, histogram.quantiles()),
                    duration(histogram.max),
                ]
            )
            ops.append(name)
        ops[0] = "op"
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row, op_name in zip(rows, ops, strict=True):
            cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            yield f"{'  '.join(cells)}  {op_name}"
        errors = self._errors()
        if errors:
            yield ""
            yield "Errors that servers answered with (workloads meet some on purpose)"
            width = max(len(f"{count:,}") for _, count in errors)
            for name, count in errors:
                yield f"{count:>{width},}  {name}"

    def _losses(self) -> Iterator[str]:
        tally = self.tally
        if tally.lost:
            yield f"{plural(tally.lost, 'connection')} lost"
        if tally.expired:
            yield f"{plural(tally.expired, 'session')} expired"
        if tally.unreachable:
            yield f"{plural(tally.unreachable, 'time')} no server could be reached"
