"""The native engine's own aggregates against statistics of its tables, on real captures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs_native
from zktrace.analysis.stats import GROUPINGS, StatsCollector
from zktrace.analysis.trace import to_batch
from zktrace.engine.base import EngineOptions, create

PCAPS = sorted((Path(__file__).parents[2] / "pcaps").rglob("*.pcap*"))
PLAIN = [path for path in PCAPS if path.suffix in (".pcap", ".pcapng")]


def run(path: Path, depth: int | None) -> tuple[StatsCollector, Mapping[str, Any]]:
    """Both in one run; rows are taken after every block, so that there are many batches."""
    engine = create(EngineOptions(aggregate_by=GROUPINGS, path_depth=depth), "native")
    collector = StatsCollector(GROUPINGS, depth)
    source = engine.add_source(path.name, 0)

    def take() -> None:
        collector.add({kind: to_batch(kind, rows) for kind, rows in engine.take().items()})

    data = path.read_bytes()
    for at in range(0, len(data), 10_000):
        engine.feed(source, data[at : at + 10_000])
        take()
    engine.end_source(source)
    engine.finish()
    take()
    return collector, engine.aggregates()


@needs_native
@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.name)
@pytest.mark.parametrize("depth", [None, 2])
def test_aggregates_are_those_of_the_tables(path: Path, depth: int | None) -> None:
    collector, aggregates = run(path, depth)
    data = collector.data()
    assert aggregates["total"] == data["total"]
    assert aggregates["by"] == data["by"]
    assert aggregates["overflow"] == {}


def coverage(data: bytes, options: EngineOptions, block: int) -> Mapping[str, Any]:
    engine = create(options, "native")
    source = engine.add_source("capture", 0)
    for at in range(0, len(data), block):
        engine.feed(source, data[at : at + block])
        engine.take()
    engine.end_source(source)
    engine.finish()
    return engine.coverage()


@needs_native
@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.name)
def test_what_is_wanted_changes_no_count(path: Path) -> None:
    """Without tables no row is made of packets between servers: they are counted all the same."""
    whole = path.read_bytes()
    damaged = bytearray(whole)
    for at in range(2000, len(damaged), 997):
        damaged[at] ^= 0x55
    for data in (whole, bytes(damaged)):
        for block in (1 << 18, 1000):
            tables = coverage(data, EngineOptions(), block)
            counts = coverage(data, EngineOptions(tables=False, aggregate_by=("op",)), block)
            assert counts == tables
