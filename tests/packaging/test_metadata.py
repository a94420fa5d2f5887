"""What the build says of itself is the same wherever it is said."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import zktrace

ROOT = Path(__file__).resolve().parents[2]


def test_crate_and_package_have_one_version() -> None:
    crate = tomllib.loads((ROOT / "zktrace/_native/Cargo.toml").read_text("utf-8"))
    assert crate["package"]["version"] == zktrace.__version__


def test_changelog_knows_this_version_or_is_unreleased() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## [{zktrace.__version__}]" in changelog or "## [Unreleased]" in changelog


@pytest.mark.parametrize("name", ["run.txt", "test.txt"])
def test_locks_pin_hashes_and_name_no_host(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text("utf-8")
    assert "://" not in text
    for entry in re.split(r"\n(?=\S)", text):
        if re.match(r"[A-Za-z0-9]", entry):
            assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_locks_agree_with_each_other_and_cover_the_dependencies() -> None:
    def pins(name: str) -> set[str]:
        text = (ROOT / "requirements" / name).read_text("utf-8")
        return set(re.findall(r"^([A-Za-z0-9._-]+==[^ \\]+)", text, re.MULTILINE))

    assert pins("run.txt") <= pins("test.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    locked = {pin.split("==")[0] for pin in pins("run.txt")}
    assert {re.split(r"[<>=~! ]", need)[0] for need in project["dependencies"]} <= locked
