"""A few of the kills that ``python -m tests.server.crash`` makes many of."""

from __future__ import annotations

from pathlib import Path

from tests.server import crash


def test_what_was_acknowledged_is_there(tmp_path: Path) -> None:
    assert crash.rounds(4, 1, tmp_path) > 100
