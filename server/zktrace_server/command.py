"""``zktrace server``: subcommands of the entry-point group ``zktrace.commands``. Nothing heavy is
imported before one of them runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from zktrace.cli.failure import Failure
from zktrace.cli.options import JsonOption

app = typer.Typer(help="Reference server for the ZooKeeper protocols.", rich_markup_mode=None)

_PORT: Final = 2181
_DEFAULT_S: Final = 10.0


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


@app.command("load")
def load_command(
    connect: Annotated[
        str,
        typer.Option(metavar="HOST:PORT,...", help="Servers, any ZooKeeper's; clients spread."),
    ] = f"127.0.0.1:{_PORT}",
    workload: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            show_default="mix",
            help="What clients do (--list); several, by commas or repetition, share them.",
        ),
    ] = [],  # noqa: B006
    list_: Annotated[bool, typer.Option("--list", help="The workloads, and exit.")] = False,
    clients: Annotated[
        int, typer.Option(min=1, max=100_000, help="How many, each with a session of its own.")
    ] = 10,
    duration: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            show_default=f"{_DEFAULT_S:.0f}, or none with --ops",
            help="End after so long.",
        ),
    ] = None,
    ops: Annotated[
        int | None,
        typer.Option(
            min=1, show_default=False, help="End after so many requests, those for sessions too."
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="PER_SECOND",
            show_default=False,
            help="Requests per second of all clients; else each asks when it has its answer.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="The same seed, the same requests (see server/README.md).")
    ] = 0,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Timeout of the sessions.")
    ] = 10.0,
    root: Annotated[
        str, typer.Option(metavar="PATH", help="The znode below which all of it happens.")
    ] = "/zktrace-load",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the znodes at the end.")] = False,
    json: JsonOption = False,
) -> None:
    """Drive servers with a workload, and say what they answered and how fast.

    Ends with what is known on Ctrl-C.
    """
    if list_:
        _list()
        return
    from zktrace_server.load import WORKLOADS, Options

    names = [name for some in workload or ["mix"] for name in some.split(",") if name]
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        raise Failure(f"--workload {unknown[0]}: there is no such workload (see --list)")
    if not root.startswith("/") or root.endswith("/") or "//" in root:
        raise Failure(f"--root {root}: no path below the root")
    if clients < len(names):
        raise Failure(f"--clients {clients}: fewer than the {len(names)} workloads")
    options = Options(
        servers=_servers(connect),
        workloads=names,
        clients=clients,
        duration_s=_DEFAULT_S if duration is None and ops is None else duration,
        ops=ops,
        rate=rate,
        seed=seed,
        root=root,
        timeout_ms=int(timeout * 1000),
        keep=keep,
    )
    from zktrace_server.load.command import load

    load(options, json=json)


def _list() -> None:
    from zktrace_server.load import WORKLOADS

    width = max(map(len, WORKLOADS))
    for name, kind in WORKLOADS.items():
        print(f"{name:{width}}  {kind.summary}")


def _servers(text: str) -> list[tuple[str, int]]:
    """Of HOST, HOST:PORT or [IPv6]:PORT, separated by commas."""
    servers = []
    for part in text.split(","):
        host, colon, port = part.rpartition(":")
        if not colon or port.endswith("]"):
            host, port = part, str(_PORT)
        host = host.strip("[]")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
            raise Failure(f"--connect {text}: {part!r} is no HOST:PORT")
        servers.append((host, int(port)))
    return servers
