"""Subcommands of other packages, found by entry points."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import pytest
import typer

from zktrace.cli.main import run


class Point:
    """As much of an entry point as is looked at."""

    def __init__(self, name: str, load: Callable[[], Any]) -> None:
        self.name = name
        self.load = load


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    def hello(name: str = "world", loud: bool = False) -> None:
        """Says hello."""
        print(f"hello {name}" + ("!" if loud else ""))

    group = typer.Typer(help="A group.")

    @group.command("go")
    def _go() -> None:
        """Goes."""
        print("gone")

    @group.command("stop")
    def _stop() -> None:
        """Stops."""

    def broken() -> Any:
        raise ImportError("no module named quux")

    points = [
        Point("hello", lambda: hello),
        Point("grouped", lambda: group),
        Point("broken", broken),
        Point("decode", broken),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)


@pytest.mark.usefixtures("plugins")
def test_help_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert "Says hello." in text
    assert "A group." in text
    assert "does not load" in text


@pytest.mark.usefixtures("plugins")
def test_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["hello", "--name", "you", "--loud"]) == 0
    assert capsys.readouterr().out == "hello you!\n"


@pytest.mark.usefixtures("plugins")
def test_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["grouped", "go"]) == 0
    assert capsys.readouterr().out == "gone\n"


@pytest.mark.usefixtures("plugins")
def test_a_broken_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["broken"]) == 2
    assert "broken does not load: ImportError: no module named quux" in capsys.readouterr().err


@pytest.mark.usefixtures("plugins")
def test_ours_are_not_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["decode", "--help"]) == 0
    assert "Print one line per event." in capsys.readouterr().out
