"""What the API answers, made of the picture: plain dicts, the shapes of ``zktrace.web.models``.

Knows nothing of HTTP. A filter is asked of single events, so lists with one are made of the latest
events that were kept, and say so (``basis``); Arrow is loaded when that is asked for first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from zktrace.analysis.fingerprint import fingerprint
from zktrace.analysis.stats_result import OTHER_ERROR, StatsRow, merge_rows
from zktrace.engine.buckets import BOUNDS
from zktrace.export.form import form_text
from zktrace.store.part import REQUESTS, Key, Part, merge, order, shown, us
from zktrace.store.picture import Picture, Span
from zktrace.store.recent import HasLines, Latest
from zktrace.store.windows import BAND
from zktrace.wire.errors import error_name

if TYPE_CHECKING:
    import pyarrow as pa

    from zktrace.analysis.filter import Filter

_SECOND: Final = 1_000_000_000
#: Kinds of events that are counted.
_COUNTED: Final = ("exchanges", "watch_events")
_MASK: Final = (1 << 64) - 1

Object = dict[str, Any]


def window(span: Span) -> Object:
    known = span.end > span.start
    return {
        "name": span.name,
        "from_ns": span.start * _SECOND if known else None,
        "to_ns": span.end * _SECOND if known else None,
        "seconds": span.end - span.start,
    }


def seconds_of(picture: Picture, span: Span) -> float:
    """How long it was, as far as anything was seen; more than 0."""
    with picture.asking():
        start = max(span.start, picture.windows.first or 0)
    if span.whole:
        coverage = picture.coverage()
        if coverage.get("first_ts_ns") is not None:
            length: float = (coverage["last_ts_ns"] - coverage["first_ts_ns"]) / 1e9
            if length > 0:
                return length
    return max(span.end - start, 1)


def _rest(part: Part, seconds: float) -> Object | None:
    if not part.keys:
        return None
    return shown(merge([part], lambda key: (None, True)), seconds)[0]


# -- rows of a grouping


def _shorts(by: str, part: Part, missed: Mapping[Key, int] | None) -> list[int]:
    """Per row how many requests of it may be missing, at most, because it was not among the
    busiest all the time: as told, or what the rests have that may be of it.
    """
    if missed is not None:
        return [missed.get(key, 0) for key in part.keys]
    requests = part.numbers[:, REQUESTS].tolist()
    rests = [(key, n) for (key, rest), n in zip(part.keys, requests, strict=True) if rest and n]

    def short(key: Key) -> int:
        path, rest = key
        if rest or path is None:
            return 0
        return sum(n for base, n in rests if base is None or (by == "path" and _inside(path, base)))

    return [short(key) for key in part.keys] if rests else [0] * len(part.keys)


def rows(
    picture: Picture, by: str, span_name: str, limit: int, sort: str, where: Filter | None
) -> Object:
    """The rows of a grouping other than path."""
    span = picture.span(span_name)
    if where is not None:
        found = Matching(picture, span, where)
        if by == "fingerprint":
            return found.list(by, _shapes(found.stats(("path",))["path"]), limit, sort)
        return found.list(by, found.stats((by,))[by], limit, sort)
    part, missed = picture.rows(by, span)
    shorts = _shorts(by, part, missed)
    ranked = order(part, sort)
    apart = np.array([not part.keys[i][1] for i in ranked.tolist()], dtype=bool)
    ranked, rest = ranked[apart], ranked[~apart]
    chosen = part.take(ranked[:limit])
    beyond = np.concatenate([ranked[limit:], rest])
    seconds = seconds_of(picture, span)
    listed = zip(ranked.tolist(), chosen.keys, shown(chosen, seconds), strict=False)
    named = [{by: key, "short": shorts[i], **row} for i, (key, _), row in listed]
    return {
        "window": window(span),
        "basis": "totals" if span.whole else "windows",
        "events": None,
        "complete": True,
        "groups": len(ranked),
        "short": max((row["short"] for row in named), default=0),
        "rows": named,
        "rest": _rest(part.take(beyond), seconds),
    }


def _shapes(paths: Iterable[StatsRow]) -> list[StatsRow]:
    """Rows of paths by their fingerprint."""
    summed: dict[str | None, list[StatsRow]] = {}
    for row in paths:
        summed.setdefault(None if row.key is None else fingerprint(row.key), []).append(row)
    return [merge_rows(some)._replace(key=key, rest=False) for key, some in summed.items()]


def _cut(path: str, depth: int | None) -> str:
    return path if depth is None else "/".join(path.split("/", depth + 1)[: depth + 1])


def _inside(path: str, under: str) -> bool:
    return under in ("", "/") or path == under or path.startswith(under.rstrip("/") + "/")


def path_renamer(under: str | None, depth: int | None) -> Callable[[Key], Key | None]:
    """Keys of paths at or below `under`, cut to `depth` components more than it has."""
    base = (under or "").rstrip("/").count("/")
    cut = None if depth is None else base + depth

    def rename(key: Key) -> Key | None:
        path, rest = key
        if path is None:
            return key if under is None else None
        if under is not None and not _inside(path, under):
            return None
        short = _cut(path, cut)
        # A rest deeper than the cut is of the row it is cut to.
        return short, rest and short == path and path.count("/") < (cut or 1 << 30)

    return rename


def paths(
    picture: Picture,
    span_name: str,
    limit: int,
    sort: str,
    where: Filter | None,
    under: str | None,
    depth: int | None,
) -> Object:
    """The rows by path, cut to a depth below a prefix: a level of the tree, or all of it."""
    span = picture.span(span_name)
    rename = path_renamer(under, depth)
    children: dict[str, int] = {}

    def counting(key: Key) -> Key | None:
        name = rename(key)
        if name is not None and name[0] is not None and name[0] != key[0]:
            children[name[0]] = children.get(name[0], 0) + 1
        return name

    if where is not None:
        found = Matching(picture, span, where)
        summed: dict[str | None, list[StatsRow]] = {}
        for row in found.stats(("path",))["path"]:
            name = counting((row.key, False))
            if name is not None:
                summed.setdefault(name[0], []).append(row)
        merged = [merge_rows(some)._replace(key=key, rest=False) for key, some in summed.items()]
        answer = found.list("path", merged, limit, sort)
        answer["rows"] = [
            {**row, "below": False, "children": children.get(row["path"], 0)}
            for row in answer["rows"]
        ]
        return answer
    plain = under is None and depth is None
    part, missed = picture.rows("path", span, None if plain else counting)
    shorts = _shorts("path", part, missed)
    ranked = order(part, sort)
    chosen = part.take(ranked[:limit])
    seconds = seconds_of(picture, span)
    listed = zip(ranked.tolist(), chosen.keys, shown(chosen, seconds), strict=False)
    named = [
        {
            "path": key,
            "below": rest,
            "children": children.get(key or "", 0),
            "short": shorts[i],
            **row,
        }
        for i, (key, rest), row in listed
    ]
    return {
        "window": window(span),
        "basis": "totals" if span.whole else "windows",
        "events": None,
        "complete": True,
        "groups": len(ranked),
        "short": max((row["short"] for row in named), default=0),
        "rows": named,
        "rest": _rest(part.take(ranked[limit:]), seconds),
    }


# -- the latest events


def stats_row(row: StatsRow) -> Object:
    """A row of the analysis layer as those of parts are shown."""
    latency = None
    if row.latency is not None:
        one = row.latency
        latency = {
            "min": us(one.min),
            "mean": round(one.sum / (one.samples * 1000), 3),
            "p50": us(one.p50),
            "p90": us(one.p90),
            "p99": us(one.p99),
            "p999": us(one.p999),
            "max": us(one.max),
        }
    errors = sorted(row.errors.items(), key=lambda item: (-item[1], -item[0]))
    return {
        "requests": row.requests,
        "replies": row.replies,
        "errors": {"other" if code == OTHER_ERROR else error_name(code): n for code, n in errors},
        "request_bytes": row.request_bytes,
        "reply_bytes": row.reply_bytes,
        "watch_events": row.watch_events,
        "latency_us": latency,
        "in_flight": None,
    }


def _stats_sort(sort: str) -> Callable[[StatsRow], Any]:
    def value(row: StatsRow) -> float:
        if sort == "errors":
            return sum(row.errors.values())
        if sort == "bytes":
            return row.request_bytes + row.reply_bytes
        if sort in ("min", "mean", "p50", "p90", "p99", "p999", "max", "total_time"):
            if row.latency is None:
                return -1
            if sort == "mean":
                return row.latency.sum / row.latency.samples
            return float(getattr(row.latency, "sum" if sort == "total_time" else sort))
        return 0 if sort in ("key", "in_flight") else float(getattr(row, sort))

    return lambda row: (
        -value(row),
        0 if sort == "key" else -row.requests,
        row.key is None,
        row.key or "",
    )


class Matching:
    """The latest events in a span that a filter selects."""

    def __init__(self, picture: Picture, span: Span, where: Filter | None) -> None:
        latest = picture.latest()
        self.span = span
        low, high = (None, None) if span.whole else (span.start * _SECOND, span.end * _SECOND)
        batches = latest.batches(*_COUNTED, from_ns=low, to_ns=high)
        self._latest = latest
        self.events = sum(batch.num_rows for batch in batches.values())
        if where is not None:
            batches = where.batches(batches)
        self.batches = {kind: batch for kind, batch in batches.items() if batch.num_rows}
        #: Whether the events kept are all there were in the span.
        self.complete = latest.complete
        if not self.complete and low is not None:
            oldest = latest.view.earliest(_COUNTED)
            self.complete = oldest is not None and oldest < low

    def stats(self, by: Sequence[str]) -> dict[str, list[StatsRow]]:
        from zktrace.analysis.stats import StatsCollector

        collector = StatsCollector(by)
        if "user" in by:
            collector.told(self._latest.batches("connections"))
        if self.batches:
            collector.add(self.batches)
        return collector.data()["by"]

    def total(self) -> StatsRow | None:
        collected = self.stats(("server",))["server"]
        return merge_rows(collected) if collected else None

    def in_flight(self) -> Object | None:
        """As of rows of windows, in the time from the first of the events to the last."""
        from zktrace.analysis.depth import in_flight

        batch = self.batches.get("exchanges")
        found = None if batch is None else in_flight(batch)
        return None if found is None else {"mean": round(found.mean, 4), "most": found.most}

    def list(self, by: str, found: Iterable[StatsRow], limit: int, sort: str) -> Object:
        ranked = sorted(found, key=_stats_sort(sort))
        beyond = ranked[limit:]
        return {
            "window": window(self.span),
            "basis": "events",
            "events": self.events,
            "complete": self.complete,
            "groups": len(ranked),
            "short": 0,
            "rows": [{by: row.key, "short": 0, **stats_row(row)} for row in ranked[:limit]],
            "rest": stats_row(merge_rows(beyond)) if beyond else None,
        }

    def sessions(self) -> set[int]:
        import pyarrow.compute as pc

        found: set[int] = set()
        for batch in self.batches.values():
            found.update(pc.unique(batch.column("session")).to_pylist())
        found.discard(None)
        return found


# -- over time

_STEPS: Final = (1, 10, 60, 600, 3600)
#: Points of a timeline, at most.
MAX_POINTS: Final = 600


def timeline(picture: Picture, span_name: str, step: int | None) -> Object:
    span = picture.span(span_name)
    start = max(span.start, picture.windows.first or 0) if span.whole else span.start
    if step is None:
        length = max(span.end - start, 1)
        step = next((s for s in _STEPS if length // s <= MAX_POINTS), _STEPS[-1])
    low = max(start, span.end - MAX_POINTS * step)
    points = picture.points(Span(span.name, low, span.end, False), step)
    used = [band for one in points for band in one.bands]
    first, last = (min(used), max(used) + 1) if used else (0, 0)
    return {
        "window": window(span),
        "step_s": step,
        "bounds_us": [us(BOUNDS[band * BAND]) for band in range(first, last + 1)] if used else [],
        "points": [
            {
                "t": one.second,
                "requests": one.requests,
                "replies": one.replies,
                "errors": one.errors,
                "request_bytes": one.request_bytes,
                "reply_bytes": one.reply_bytes,
                "watch_events": one.watch_events,
                "p50_us": None if one.p50 is None else us(one.p50),
                "p99_us": None if one.p99 is None else us(one.p99),
                "ops": {
                    op: (n, *(None if q is None else us(q) for q in values))
                    for op, (n, *values) in one.ops.items()
                },
                "bands": [one.bands.get(band, 0) for band in range(first, last)],
            }
            for one in points
        ],
    }


# -- events


def events(picture: Picture, limit: int, where: Filter | None) -> Object:
    """The latest events that match, latest first, as the objects of ``decode --json``."""
    from json import loads

    latest = picture.latest()
    found, total = latest_lines(picture, latest, -1, limit, where)
    rows = [loads(line) for line in reversed(found)]
    notes, _ = picture.notes.after(0, where)
    if notes:
        rows = sorted([*rows, *notes[-limit:]], key=lambda row: row["ts_ns"], reverse=True)
    return {
        "groups": total + len(notes),
        "complete": latest.complete,
        "last": latest.last,
        "rows": rows[:limit],
    }


def latest_lines(
    picture: Picture, latest: Latest, after: int, most: int, where: Filter | None
) -> tuple[list[str], int]:
    """The last `most` of the events with a number greater than `after` that match, oldest first, as
    lines of ``decode --json``; and how many there are.
    """
    if where is None and isinstance(latest.view, HasLines):
        text, total = latest.view.lines(form_text(), picture.hash_key, after, most)
        return text.decode().split("\n")[:-1], total
    from zktrace.export.jsonl import lines

    batches = latest.batches(after=after)
    if where is not None:
        batches = where.batches(batches)
    total = sum(batch.num_rows for batch in batches.values())
    return (lines(tail(batches, most))[-most:] if total else []), total


def tail(batches: Mapping[str, pa.RecordBatch], most: int) -> dict[str, pa.RecordBatch]:
    """At least the last `most` events of batches, few more."""
    numbers = np.concatenate([batch.column("seq").to_numpy() for batch in batches.values()])
    if len(numbers) <= most:
        return dict(batches)
    floor = np.partition(numbers, len(numbers) - most)[len(numbers) - most]
    result = {}
    for kind, batch in batches.items():
        start = int(batch.column("seq").to_numpy().searchsorted(floor))
        if start < batch.num_rows:
            result[kind] = batch.slice(start)
    return result
