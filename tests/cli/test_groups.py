"""Groups of options: Typer sees the options, the command their group."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from zktrace.cli.groups import Group, grouped

Names = Annotated[list[str], typer.Option("--name", help="One of several.")]
Depth = Annotated[int, typer.Option("--depth", min=1)]


class Place(Group):
    name: Names = []  # noqa: RUF012


class Deep(Place):
    depth: Depth = 3


def called(*arguments: str) -> Any:
    found: list[Any] = []
    app = typer.Typer()

    @app.command()
    @grouped
    def command(source: str, place: Deep = Deep(), other: bool = False) -> None:  # noqa: B008
        """What it does."""
        found.append((source, place.name, place.depth, other))

    result = CliRunner().invoke(app, arguments)
    return found[0] if found else result.output


def test_options_reach_their_group() -> None:
    assert called("a") == ("a", [], 3, False)
    assert called("a", "--name", "x", "--name", "y", "--depth", "9", "--other") == (
        ("a", ["x", "y"], 9, True)
    )
    assert "Invalid value for '--depth'" in called("a", "--depth", "0")
    told = called("--help")
    assert "What it does." in told
    assert told.index("--name") < told.index("--depth") < told.index("--other")


def test_without_typer_defaults_stand() -> None:
    @grouped
    def command(place: Deep = Deep()) -> tuple[list[str], int]:  # noqa: B008
        return place.name, place.depth

    assert command() == ([], 3)
    assert command(depth=4) == ([], 4)


def test_a_name_stands_once() -> None:
    with pytest.raises(ValueError, match="depth twice"):

        @grouped
        def command(depth: int, place: Deep) -> None:
            pass
