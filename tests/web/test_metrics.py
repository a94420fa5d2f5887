"""What Prometheus is told, read back by its own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.web.conftest import Client, client_of
from zktrace.store.picture import Picture


def _samples(client: Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(response.text):
        assert family.documentation, family.name
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def test_counts_are_those_of_the_api(client: Client) -> None:
    samples = _samples(client)
    for row in client.json("/api/ops")["rows"]:
        label = (("op", row["op"]),)
        assert samples["zktrace_requests_total", label] == row["requests"]
        assert samples["zktrace_reply_bytes_total", label] == row["reply_bytes"]
        count = samples["zktrace_latency_seconds_count", label]
        assert count == row["replies"]
        mean = samples["zktrace_latency_seconds_sum", label] / count
        assert abs(mean * 1e6 - row["latency_us"]["mean"]) < 0.01
        for error, n in row["errors"].items():
            key = (("error", error), ("op", row["op"]))
            assert samples["zktrace_errors_total", key] == n
    assert samples["zktrace_capture_packets_total", ()] == 3991
    assert samples["zktrace_exchanges_total", (("state", "complete"),)] == 1032
    assert samples["zktrace_watch_events_total", (("event", "NodeDeleted"),)] == 40


def test_in_flight_is_that_of_the_last_minute(client: Client) -> None:
    samples = _samples(client)
    rows = client.json("/api/servers", window="1m")["rows"]
    assert rows
    for row in rows:
        key = "zktrace_server_requests_in_flight_most", (("server", row["server"]),)
        assert samples[key] == row["in_flight"]["most"]


def test_buckets_are_cumulative_and_near(client: Client) -> None:
    samples = _samples(client)
    buckets = sorted(
        (float(dict(labels)["le"]), value)
        for (name, labels), value in samples.items()
        if name == "zktrace_latency_seconds_bucket" and dict(labels)["op"] == "getData"
    )
    values = [value for _, value in buckets]
    assert values == sorted(values)
    assert buckets[-1][0] == float("inf")
    assert buckets[-1][1] == 520.0
    # The median lies in the bucket that holds it.
    median = client.json("/api/ops")["rows"][0]["latency_us"]["p50"] / 1e6
    below = max(value for bound, value in buckets if bound <= median)
    above = min(value for bound, value in buckets if bound >= median)
    assert below <= 260 <= above


def test_labels_are_bounded(herd: Picture) -> None:
    plain = {name for name, _ in _samples(client_of(herd))}
    assert not any(name.startswith(("zktrace_client_", "zktrace_path_")) for name in plain)
    named = _samples(client_of(herd, metrics_top=2))
    paths = {
        dict(labels)["path"] for name, labels in named if name == "zktrace_path_requests_total"
    }
    assert len(paths) == 2
    assert "/h/n" in paths
