"""The bounded form of ``python -m tests.bench.day``: nothing is miscounted, memory has an end."""

from __future__ import annotations

import sys

import pytest

from tests.bench.day import LIMIT_MB, Scene, day, scan, wide
from tests.conftest import needs_native
from zktrace.cli.heap import keep_tight


@needs_native
@pytest.mark.parametrize(
    "scene",
    [scan(10_000), wide(500, 5_000), day(1, 2)],
    ids=["scan", "wide", "day"],
)
def test_a_scene(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZKTRACE_ENGINE", "native")
    # What was written and what is told are compared on the way.
    measured = dict(scene)
    assert measured
    assert max(measured.values()) < LIMIT_MB


@pytest.mark.skipif(sys.platform != "linux", reason="the knobs of glibc")
def test_the_heap_has_its_limits_fixed() -> None:
    assert keep_tight()
