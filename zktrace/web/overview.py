"""The first answer: what is watched, how busy it is, what stands out; and what was not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from zktrace import __version__
from zktrace.export.coverage import coverage_object
from zktrace.export.summary import coverage_lines, not_seen
from zktrace.store.part import REQUESTS, SAMPLES, Part, order, quantiles_of, shown, us
from zktrace.store.picture import Picture
from zktrace.store.windows import total
from zktrace.web.stream import Streams
from zktrace.web.views import Object, seconds_of, window

if TYPE_CHECKING:
    import pyarrow as pa

_SECOND: Final = 1_000_000_000


def source(picture: Picture) -> Object:
    return {
        "kind": picture.kind,
        "names": list(picture.sources),
        "state": picture.state,
        "error": picture.error,
        "speed": picture.speed,
        "listening": None if picture.listening is None else picture.listening.what,
        "interfaces": None if picture.listening is None else dict(picture.listening.interfaces),
        "kept": None if picture.ring is None else picture.ring.state(),
        "engine": picture.engine.name,
        "version": __version__,
    }


def _first(part: Part, sort: str) -> int | None:
    """The row that comes first, of those with a name."""
    for i in order(part, sort).tolist():
        key, rest = part.keys[i]
        if key is not None and not rest:
            return int(i)
    return None


def _hottest(part: Part, sort: str) -> Object | None:
    i = _first(part, sort)
    if i is None:
        return None
    requests = int(part.numbers[i, REQUESTS])
    value = float(requests) if sort == "requests" else us(int(quantiles_of(part)[2][i]))
    return {"key": part.keys[i][0], "value": value, "requests": requests}


def _worth(part: Part) -> Part:
    """Rows with enough samples to be called slow: a hundredth of the busiest, and any latency."""
    if not len(part.keys):
        return part
    samples = part.numbers[:, SAMPLES]
    return part.take(np.flatnonzero(samples * 100 >= max(int(samples.max()), 1)))


def summary(picture: Picture, span_name: str, streams: Streams) -> Object:
    known = source(picture)  # first: what is told as done must have all in it
    span = picture.span(span_name)
    coverage = picture.coverage()
    parts = {by: picture.rows(by, span)[0] for by in ("op", "client", "path", "server")}
    seconds = seconds_of(picture, span)
    whole = shown(total(parts["server"]), seconds)
    with picture.asking():
        clock = picture.clock()
    states = picture.session_states()
    rates: dict[str, float] = {}
    if whole:
        row: dict[str, Any] = whole[0]
        for name in ("requests", "replies", "request_bytes", "reply_bytes", "watch_events"):
            rates[name] = round(row[name] / seconds, 3)
        rates["errors"] = round(sum(row["errors"].values()) / seconds, 3)
    work = parts["op"]
    named = [i for i, (key, _) in enumerate(work.keys) if key not in ("ping", "connect")]
    work = work.take(np.array(named, dtype=np.int64))
    return {
        "source": known,
        "window": window(span),
        "clock_ns": None if clock is None else clock * _SECOND,
        "total": whole[0] if whole else None,
        "per_second": rates,
        "hottest_path": _hottest(parts["path"], "requests"),
        "busiest_client": _hottest(parts["client"], "requests"),
        "slowest_client": _hottest(_worth(parts["client"]), "p99"),
        "slowest_op": _hottest(_worth(work), "p99"),
        "sessions": states,
        "streams": streams.open,
        "dropped": streams.dropped,
        "coverage": coverage_object(coverage),
        "not_seen": not_seen(coverage),
    }


def coverage(picture: Picture) -> Object:
    where = source(picture)  # first, as above
    known = picture.coverage()
    return {
        "source": where,
        "coverage": coverage_object(known),
        "words": coverage_lines(known),
        "not_seen": not_seen(known),
    }


def ensemble(picture: Picture) -> Object:
    """The ensemble as ``zktrace ensemble`` shows it, of the latest events that are kept."""
    known = picture.coverage()
    if not known.get("quorum_packets") and not known.get("election_messages"):
        reason = "no quorum or election traffic was seen: the capture holds client traffic only"
        nothing: Object = {"report": None, "writes": None}
        return {"available": False, "reason": reason, "events": 0, "complete": True, **nothing}
    from zktrace.analysis.ensemble import EnsembleCollector

    latest = picture.latest()
    collector = EnsembleCollector()
    batches = latest.batches()
    collector.add(batches)
    return {
        "available": True,
        "reason": None,
        "events": len(latest),
        "complete": latest.complete,
        "report": collector.result(),
        "writes": _writes(batches),
    }


#: Writes whose ways are told one by one.
_SLOWEST: Final = 10


def _writes(batches: dict[str, pa.RecordBatch]) -> Object | None:
    """Where the time of the latest writes went, as ``zktrace trace`` tells it; None: no write was
    seen on its way.
    """
    from zktrace.analysis.join import join
    from zktrace.analysis.timeline import timeline
    from zktrace.analysis.writereport import WriteReport

    joined = join(batches)
    report = WriteReport(timeline(joined), joined.addresses, joined.ops)
    if not len(report):
        return None
    return {
        "summary": report.summary(),
        "slowest": [report.write(number) for number in report.slowest(_SLOWEST)],
    }
