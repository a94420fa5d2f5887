"""The synthetic capture is sound: what is measured on it is decoding, not trouble."""

from __future__ import annotations

from pathlib import Path

import pytest

import zktrace
from tests.bench import synth


def test_decodes_without_loss(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZKTRACE_ENGINE", engine)
    path = tmp_path / "synth.pcap"
    wrote = synth.write(path, 1_000_000, paths=500, connections=20)
    trace = zktrace.read(str(path))
    assert trace.exchanges.num_rows == wrote["requests"] + wrote["connects"]
    assert trace.watch_events.num_rows == wrote["watch_events"]
    assert trace.anomalies.num_rows == 0
    states = set(trace.exchanges.column("state").to_pylist())
    assert states == {"complete"}
    assert len(set(trace.exchanges.column("path").to_pylist()) - {None}) > 450


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        synth.write(tmp_path / name, 50_000, paths=50, connections=5, seed=7)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
