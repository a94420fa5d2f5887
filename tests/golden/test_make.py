"""The crafted captures are those that `pcaps/make.py` makes."""

from __future__ import annotations

import pytest

from tests.support.cases import PCAPS
from tests.support.truth import samples


def test_made_by_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("scapy", reason="scapy makes the outer headers")
    from pcaps import make

    status = make.main(["--check"])
    assert status == 0, capsys.readouterr().out


def test_readme_lists_every_capture() -> None:
    listed = (PCAPS / "README.md").read_text()
    for sample in samples(PCAPS):
        assert sample.name in listed, sample.name


def test_small_enough_for_a_repository() -> None:
    assert sum(path.stat().st_size for path in PCAPS.iterdir() if path.is_file()) < 6_000_000
