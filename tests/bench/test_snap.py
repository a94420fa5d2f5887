"""The bounded form of ``python -m tests.bench.snap``: a snapshot costs no memory."""

from __future__ import annotations

import pytest

from tests.bench.snap import LIMIT_MB, counted, measure
from tests.conftest import needs_native

_SIZE = 24 << 20


@needs_native
@pytest.mark.parametrize("command", [("decode", "--json"), ("stats",), ("trace",), ("verify",)])
def test_a_snapshot_is_not_kept(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZKTRACE_ENGINE", "native")
    peak, output, nodes = measure([*command, "-"], _SIZE)
    assert peak < LIMIT_MB * 1024
    assert nodes > 500
    if command[0] == "decode":
        assert counted(output) == nodes
