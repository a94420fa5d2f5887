"""The core says what it said when the transcripts were looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.quorum.transcripts import files, rewritten


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert rewritten(text) == text


def test_the_readme_shows_one() -> None:
    shown = Path("server/README.md").read_text(encoding="utf-8").split("```")
    diff = next(path for path in files() if path.stem == "diff").read_text(encoding="utf-8")
    assert any("FOLLOWERINFO" in block and block.strip("\n") in diff for block in shown)
