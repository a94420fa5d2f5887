"""``/metrics``: the totals as Prometheus metrics, made when they are asked for.

Nothing is observed per event: the log2 histograms are folded into classic buckets at scrape time (a
log2 bucket counts in the first classic bucket whose bound is not below its middle). Labels are
bounded: ops, errors and servers are few; clients, paths and users only with `top`, the busiest
of them, so those series may come and go. Names are in the README.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, Final

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import generate_latest

from zktrace import __version__
from zktrace.analysis.stats_result import OTHER_ERROR
from zktrace.engine.buckets import BOUNDS
from zktrace.store.part import (
    IN_FLIGHT,
    RECEIVED,
    REPLIES,
    REQUESTS,
    SAMPLES,
    SENT,
    SUM,
    WATCH_EVENTS,
    Part,
)
from zktrace.store.picture import Picture
from zktrace.wire.errors import error_name

#: Upper bounds of the classic buckets, in seconds.
BUCKETS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
_BOUNDS_NS: Final = np.array([int(bound * 1e9) for bound in BUCKETS])
_MIDDLES: Final = np.array([(a + b) // 2 for a, b in pairwise(BOUNDS)])
_FOLD: Final = np.searchsorted(_BOUNDS_NS, _MIDDLES, side="left")

_COVERAGE: Final = (
    ("packets", "Packets captured."),
    ("bytes", "Bytes captured."),
    ("gaps", "Places where bytes of a connection were never captured."),
    ("gap_bytes", "Bytes of connections never captured."),
    ("skipped_bytes", "Bytes that could not be decoded."),
    ("retransmitted_segments", "TCP segments that were sent again and brought nothing new."),
    ("duplicate_packets", "Packets with data that were captured more than once."),
    ("keepalives", "Keep-alive probes."),
    (
        "late_segments",
        "Segments perhaps sent before they were captured: no latency from them.",
    ),
    ("malformed_packets", "Packets that could not be parsed."),
    ("truncated", "Packets or records cut short."),
    ("kernel_drops", "Packets dropped by the kernel."),
    ("unwritten_packets", "Packets that --write could not keep."),
    ("missed_files", "Files of --follow that were gone before they were read."),
    ("unread_bytes", "Bytes added to files of --follow after the next had begun."),
    ("interface_downs", "Times that an interface went down or away."),
    ("evicted_connections", "Connections forgotten because there were too many."),
    ("memory_limit_hits", "Connections that gave up what they held, since all held too much."),
    ("given_up_requests", "Requests whose reply was not waited for, since all held too much."),
)


def _names(part: Part) -> Iterator[tuple[int, str, list[int]]]:
    """Row, label and numbers of each row; one label for what is not known or not kept apart."""
    for i, ((key, rest), numbers) in enumerate(zip(part.keys, part.numbers.tolist(), strict=True)):
        yield i, "other" if rest else "unknown" if key is None else key, numbers


def histogram(part: Part, row: int) -> list[tuple[str, float]]:
    """Cumulative classic buckets of a row."""
    inside = part.rows == row
    counts = np.zeros(len(BUCKETS) + 1, dtype=np.int64)
    np.add.at(counts, _FOLD[part.buckets[inside]], part.counts[inside].astype(np.int64))
    bounds = [*map(str, BUCKETS), "+Inf"]
    return list(zip(bounds, map(float, np.cumsum(counts).tolist()), strict=True))


class PictureCollector:
    """Collected anew at every scrape."""

    def __init__(self, picture: Picture, top: int = 0) -> None:
        self._picture = picture
        self._top = top

    def describe(self) -> Iterable[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        picture = self._picture
        span = picture.span("all")
        coverage = picture.coverage()
        ops, _ = picture.rows("op", span)
        servers, _ = picture.rows("server", span)
        info = InfoMetricFamily("zktrace", "What is running.")
        info.add_metric([], {"version": __version__, "engine": picture.engine.name})
        yield info
        yield GaugeMetricFamily(
            "zktrace_up", "1 while the source is read.", value=float(picture.state == "reading")
        )
        if picture.listening is not None:
            up = GaugeMetricFamily(
                "zktrace_interface_up", "1 while the interface is up.", labels=["interface"]
            )
            for name, state in picture.listening.interfaces.items():
                up.add_metric([name], float(state == "up"))
            yield up
        if picture.listening is not None and (budget := picture.listening.budget) is not None:
            yield GaugeMetricFamily(
                "zktrace_sampling_ratio",
                "Share of connections that is listened to; counts are not scaled by it.",
                value=2.0**-budget.level,
            )
            yield CounterMetricFamily(
                "zktrace_sampling_seconds",
                "Seconds for which only some connections were listened to.",
                value=budget.seconds,
            )
        yield from self._ops(ops)
        yield from self._rows("server", servers)
        yield self._in_flight()
        if self._top:
            for by in ("client", "path", "user"):
                part, _ = picture.rows(by, span)
                named = [i for i, key in enumerate(part.keys) if key[0] is not None and not key[1]]
                yield from self._rows(by, part.take(np.array(named[: self._top], dtype=np.int64)))
        states = picture.session_states()
        with picture.asking():
            watches = picture.kept.watch_counts()
            shape = picture.kept.shape(1)
        fired, registered = watches["fired"], watches["registered"]
        yield GaugeMetricFamily(
            "zktrace_sessions_open", "Sessions seen and not seen to end.", value=states["open"]
        )
        yield CounterMetricFamily(
            "zktrace_sessions_expired",
            "Sessions that a server called expired.",
            value=states["expired"],
        )
        for name, words, rows in (
            ("largest_data_bytes", "Most data of a znode that was seen.", shape["data"]),
            ("most_children", "Most children of a znode that were seen.", shape["children"]),
            ("largest_message_bytes", "Longest message that was seen.", shape["messages"]),
        ):
            yield GaugeMetricFamily(f"zktrace_{name}", words, value=rows[0][1] if rows else 0)
        for name, help_text, values, label in (
            ("watches_registered", "Watches registered.", registered, "kind"),
            ("watch_events", "Watch events sent to clients.", fired, "event"),
        ):
            family = CounterMetricFamily(f"zktrace_{name}", help_text, labels=[label])
            for key, value in sorted(values.items()):
                family.add_metric([key], value)
            yield family
        yield from self._seen(coverage)
        for one in picture.measures():
            kind = CounterMetricFamily if one.grows else GaugeMetricFamily
            own = kind(f"zktrace_{one.name}", one.words, labels=one.labels)
            for values, value in one.rows:
                own.add_metric(values, value)
            yield own

    def _ops(self, part: Part) -> Iterator[Any]:
        requests = CounterMetricFamily("zktrace_requests", "Requests seen.", labels=["op"])
        replies = CounterMetricFamily("zktrace_replies", "Replies seen.", labels=["op"])
        sent = CounterMetricFamily("zktrace_request_bytes", "Bytes of requests.", labels=["op"])
        got = CounterMetricFamily("zktrace_reply_bytes", "Bytes of replies.", labels=["op"])
        latency = HistogramMetricFamily(
            "zktrace_latency_seconds", "From request to reply.", labels=["op"]
        )
        errors = CounterMetricFamily(
            "zktrace_errors", "Replies with an error.", labels=["op", "error"]
        )
        labels = {}
        for i, name, numbers in _names(part):
            labels[i] = name
            requests.add_metric([name], numbers[REQUESTS])
            replies.add_metric([name], numbers[REPLIES])
            sent.add_metric([name], numbers[SENT])
            got.add_metric([name], numbers[RECEIVED])
            if numbers[SAMPLES]:
                latency.add_metric([name], histogram(part, i), numbers[SUM] / 1e9)
        for row, code, count in part.errors.tolist():
            error = "other" if code == OTHER_ERROR else error_name(code)
            errors.add_metric([labels[row], error], count)
        yield from (requests, replies, sent, got, errors, latency)

    @staticmethod
    def _rows(by: str, part: Part) -> Iterator[Any]:
        named = {
            "requests": (REQUESTS, "Requests seen"),
            "reply_bytes": (RECEIVED, "Bytes of replies"),
            "watch_events": (WATCH_EVENTS, "Watch events"),
        }
        for name, (column, words) in named.items():
            family = CounterMetricFamily(f"zktrace_{by}_{name}", f"{words}, by {by}.", labels=[by])
            for _, label, numbers in _names(part):
                family.add_metric([label], numbers[column])
            yield family
        family = CounterMetricFamily(f"zktrace_{by}_errors", f"Errors, by {by}.", labels=[by])
        total = np.zeros(len(part.keys), dtype=np.int64)
        np.add.at(total, part.errors[:, 0], part.errors[:, 2])
        for i, label, _ in _names(part):
            family.add_metric([label], int(total[i]))
        yield family
        time = CounterMetricFamily(
            f"zktrace_{by}_latency_seconds", f"Sum of latencies, by {by}.", labels=[by]
        )
        for _, label, numbers in _names(part):
            time.add_metric([label], numbers[SUM] / 1e9)
        yield time

    def _in_flight(self) -> Any:
        part, _ = self._picture.rows("server", self._picture.span("1m"))
        family = GaugeMetricFamily(
            "zktrace_server_requests_in_flight_most",
            "Requests in flight at once on one connection, at most, in the last minute.",
            labels=["server"],
        )
        for _, label, numbers in _names(part):
            family.add_metric([label], numbers[IN_FLIGHT])
        return family

    @staticmethod
    def _seen(coverage: dict[str, Any]) -> Iterator[Any]:
        for key, words in _COVERAGE:
            if coverage.get(key) is not None:
                yield CounterMetricFamily(f"zktrace_capture_{key}", words, value=coverage[key])
        flows = CounterMetricFamily(
            "zktrace_capture_connections", "Connections by role.", labels=["role"]
        )
        for role, count in (coverage.get("flows") or {}).items():
            flows.add_metric([role], count)
        yield flows
        states = CounterMetricFamily(
            "zktrace_exchanges",
            "Requests with and without reply, and replies without request.",
            labels=["state"],
        )
        for state, count in (coverage.get("exchanges") or {}).items():
            states.add_metric([state], count)
        yield states


def render(picture: Picture, top: int = 0) -> bytes:
    """The text that a scrape gets."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PictureCollector(picture, top))
    text: bytes = generate_latest(registry)
    return text
