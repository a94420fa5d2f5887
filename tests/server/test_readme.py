"""server/README.md: what it shows of captures is what is printed, and what it names is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

import pytest

from zktrace.cli.main import run

_ROOT: Final = Path(__file__).resolve().parents[2]
_README: Final = (_ROOT / "server" / "README.md").read_text(encoding="utf-8")
_SHOWN: Final = re.findall(r"```\n\$ zktrace (decode [^\n]*)\n(.*?)```", _README, re.DOTALL)


def _words(line: str) -> str:
    return " ".join(line.split())


@pytest.mark.parametrize(("command", "lines"), _SHOWN)
def test_what_is_shown_of_captures_is_so(
    command: str, lines: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(_ROOT)
    assert run(shlex.split(command)) == 0
    printed = [_words(line) for line in capsys.readouterr().out.splitlines()]
    at = 0
    for line in lines.splitlines():
        wanted = _words(line)
        found = [n for n, text in enumerate(printed) if n >= at and text.endswith(wanted)]
        assert found, f"{wanted!r} is not printed, or not in this order"
        at = found[0] + 1


def test_there_are_excerpts() -> None:
    assert len(_SHOWN) >= 6


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`([\w/]+\.(?:py|c|pcap|pcapng))`", _README)))
)
def test_files_that_are_named_are_there(name: str) -> None:
    places = (_ROOT, _ROOT / "server" / "zktrace_server")
    # Beside one that was named with its folder, the name alone is enough.
    alone = "/" not in name and next(places[1].rglob(name), None) is not None
    assert alone or any((place / name).exists() for place in places)
