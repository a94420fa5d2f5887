"""The load generator asks what the server understands, and counts what it is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench.server import build, load
from tests.server.ourzk import ours


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads CPU times from /proc")
def test_a_mixed_load(tmp_path: Path) -> None:
    program = build(tmp_path)
    with ours(tmp_path / "ours") as server:
        result = load(program, server.address[1], server.pid, (3, 4), 50, 0.2)
    assert result.rate > 0
    assert 0 < result.p50_us <= result.p99_us
    assert os.access(program, os.X_OK)
