"""``zktrace server``: subcommands of the entry-point group ``zktrace.commands``. Nothing heavy is
imported before one of them runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Reference server for the ZooKeeper protocols.", rich_markup_mode=None)


@app.callback()
def _root() -> None:
    """Reference server for the ZooKeeper protocols."""


@app.command("run")
def run_command(
    config: Annotated[Path, typer.Argument(metavar="ZOO.CFG", help="Configuration file.")],
) -> None:
    """Serve clients as a ZooKeeper that stands alone."""
    from zktrace_server.run import run

    raise typer.Exit(run(config))
