"""Every query of the Grafana dashboard is answered by a real Prometheus that scrapes a server.

Debian's package of Prometheus; without it the test is skipped, and with
ZKTRACE_REQUIRE_PROMETHEUS=1 (CI) it fails.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser.conftest import start, stop
from tests.web.conftest import PCAPS

DASHBOARD = Path(__file__).resolve().parents[2] / "docs/grafana.json"
_PANELS = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
QUERIES = [target["expr"] for panel in _PANELS for target in panel["targets"]]
#: How long Prometheus may take to scrape twice on a loaded machine.
_PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    executable = shutil.which("prometheus")
    if executable is None:
        if os.environ.get("ZKTRACE_REQUIRE_PROMETHEUS", "") not in ("", "0"):
            pytest.fail("ZKTRACE_REQUIRE_PROMETHEUS is set, but there is no prometheus")
        pytest.skip("no prometheus (make system-deps installs it)")
    where = tmp_path_factory.mktemp("prometheus")
    serving, address = start("-r", str(PCAPS / "57_v39_herd.pcap"))
    # Nothing else takes it before Prometheus does, or Prometheus says so and ends.
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {
                "job_name": "zktrace",
                "static_configs": [{"targets": [address.removeprefix("http://")]}],
            }
        ],
    }
    # JSON is YAML.
    (where / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    with (where / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                executable,
                f"--config.file={where / 'prometheus.yml'}",
                f"--storage.tsdb.path={where / 'data'}",
                f"--web.listen-address={listen}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        with httpx.Client(base_url=f"http://{listen}", timeout=30) as client:
            until = time.monotonic() + _PATIENCE_S
            while not _ready(client):
                ended = process.poll() is not None or time.monotonic() > until
                assert not ended, (where / "log").read_text(encoding="utf-8", errors="replace")
                time.sleep(0.2)
            yield client
    finally:
        process.terminate()
        process.wait(30)
        stop(serving)


def _ready(client: httpx.Client) -> bool:
    """Whether it scraped at least twice, which rates need."""
    try:
        found = _ask(client, "count_over_time(zktrace_up[5m]) >= 3")
    except (httpx.TransportError, httpx.HTTPStatusError):
        return False
    return bool(found)


def _ask(client: httpx.Client, query: str) -> list[Any]:
    response = client.get("/api/v1/query", params={"query": query})
    if response.status_code == 400:
        pytest.fail(f"{query}: {response.text}")
    response.raise_for_status()
    found: list[Any] = response.json()["data"]["result"]
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_has_an_answer(query: str, prometheus: httpx.Client) -> None:
    found = _ask(prometheus, query.replace("$__rate_interval", "1m"))
    assert found, "no series"
    for series in found:
        assert series["value"][1] is not None


def test_counts_are_those_that_were_served(prometheus: httpx.Client) -> None:
    (requests,) = _ask(prometheus, "sum(zktrace_requests_total)")
    assert requests["value"][1] == "1032"


def test_panels_are_apart_and_named() -> None:
    titles = [panel["title"] for panel in _PANELS]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in _PANELS]
    assert len(set(titles)) == len(set(places)) == len(_PANELS)
