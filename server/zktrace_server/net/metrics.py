"""What Java's server calls its metrics, as far as this server measures them: the same names, kinds
and units (ServerMetrics, ZooKeeperServer.registerMetrics).

One list, three forms: `mntr` and the admin server's `monitor` as Java's DefaultMetricsProvider
shows them, Prometheus as its PrometheusMetricsProvider does. A name that is not here is not
measured; none is here with a made-up value.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from zktrace_server.net.http import HttpRequest, HttpResponse, not_found
from zktrace_server.net.service import Service
from zktrace_server.net.stats import Summary

if TYPE_CHECKING:
    from prometheus_client.core import Metric

#: Quantiles of a summary: Java's simple ones have the median only.
_SIMPLE: Final = (0.5,)
_ADVANCED: Final = (0.5, 0.9, 0.99)

Number = int | float


def gauges(service: Service) -> dict[str, Number]:
    """What goes up and down."""
    server, stats = service.server, service.stats
    tree = server.tree
    least, mean, most = stats.latencies()
    return {
        "avg_latency": round(mean, 4),
        "max_latency": most,
        "min_latency": least,
        "packets_received": stats.received,
        "packets_sent": stats.sent,
        "num_alive_connections": len(service.connections()),
        "outstanding_requests": len(server.log),
        "znode_count": tree.count(),
        "watch_count": len(tree.data_watches) + len(tree.child_watches),
        "ephemerals_count": sum(map(len, tree.ephemerals.values())),
        "approximate_data_size": tree.data_bytes,
        "open_file_descriptor_count": open_files(),
        "max_file_descriptor_count": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "global_sessions": len(server.sessions),
        "local_sessions": 0,
        "uptime": int((time.monotonic() - service.started) * 1000),
        "outstanding_tls_handshake": stats.handshakes,
        "auth_failed_count": server.auth_failures + stats.failed_handshakes,
        "connection_drop_probability": service.throttle.drop,
    }


def counters(service: Service) -> dict[str, int]:
    """What only goes up."""
    stats = service.stats
    return {
        "bytes_received_count": stats.bytes_received,
        "response_bytes": stats.response_bytes,
        "commit_count": stats.committed,
        "connection_request_count": stats.sessions_asked,
        "connection_rejected": stats.rejected,
        "connection_drop_count": stats.dropped,
        "sessionless_connections_expired": stats.sessionless_expired,
        "stale_sessions_expired": service.server.expired,
        "snap_count": stats.snapshots,
        "unsuccessful_handshake": stats.failed_handshakes,
    }


def summaries(service: Service) -> dict[str, tuple[Summary, tuple[float, ...]]]:
    """Observations, in ms but for sizes, and which quantiles Java shows of them."""
    stats = service.stats
    return {
        "fsynctime": (stats.fsync, _SIMPLE),
        "snapshottime": (stats.snapshot, _SIMPLE),
        "dbinittime": (stats.load, _SIMPLE),
        "sync_processor_batch_size": (stats.batch, _SIMPLE),
        "connection_token_deficit": (stats.token_deficit, _SIMPLE),
        "readlatency": (stats.reads, _ADVANCED),
        "updatelatency": (stats.updates, _ADVANCED),
    }


def flat(service: Service) -> dict[str, Number]:
    """Name to value, as mntr and monitor show them."""
    values: dict[str, Number] = {**gauges(service), **counters(service)}
    for name, (summary, quantiles) in summaries(service).items():
        values[f"avg_{name}"] = round(summary.mean, 4)
        values[f"min_{name}"] = summary.min
        values[f"max_{name}"] = summary.max
        values[f"cnt_{name}"] = summary.count
        values[f"sum_{name}"] = summary.sum
        if quantiles is _ADVANCED and summary.count:
            p50, p95, p99, p999 = summary.quantiles(0.5, 0.95, 0.99, 0.999)
            values |= {f"p50_{name}": p50, f"p95_{name}": p95}
            values |= {f"p99_{name}": p99, f"p999_{name}": p999}
    return values


def prometheus(service: Service) -> bytes:
    """The text format, with what Prometheus' own library tells of the process."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Collector(service))
    return generate_latest(registry)


def answer(service: Service, request: HttpRequest) -> HttpResponse:
    """What a scraper gets."""
    if request.path not in ("/metrics", "/"):
        return not_found()
    return HttpResponse(prometheus(service), "text/plain; version=0.0.4; charset=utf-8")


class _Collector:
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, Metric

        for name, value in gauges(self._service).items():
            yield GaugeMetricFamily(name, name, value)
        for name, count in counters(self._service).items():
            # Java's counters do not end in _total, which CounterMetricFamily would see to.
            counter = Metric(name, name, "unknown")
            counter.add_sample(name, {}, count)
            yield counter
        for name, (summary, quantiles) in summaries(self._service).items():
            metric = Metric(name, name, "summary")
            for quantile, value in zip(quantiles, summary.quantiles(*quantiles), strict=True):
                metric.add_sample(name, {"quantile": str(quantile)}, value)
            metric.add_sample(f"{name}_count", {}, summary.count)
            metric.add_sample(f"{name}_sum", {}, summary.sum)
            yield metric


def open_files() -> int:
    """How many this process has; -1 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return -1
