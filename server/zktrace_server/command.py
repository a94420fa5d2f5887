"""``zktrace server``: subcommands of the entry-point group ``zktrace.commands``. Nothing heavy is
imported before one of them runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from zktrace.cli.failure import Failure
from zktrace.cli.options import JsonOption

if TYPE_CHECKING:
    from ssl import SSLContext

app = typer.Typer(
    help="Reference server for the ZooKeeper protocols.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_PORT: Final = 2181
_DEFAULT_S: Final = 10.0


@app.callback()
def _root() -> None:
    """Reference server for the ZooKeeper protocols."""


@app.command("run")
def run_command(
    config: Annotated[Path, typer.Argument(metavar="ZOO.CFG", help="Configuration file.")],
    define: Annotated[
        list[str],
        typer.Option(
            "-D",
            metavar="KEY=VALUE",
            show_default=False,
            help="A property as Java's server takes it, such as "
            "java.security.auth.login.config=FILE; may be repeated.",
        ),
    ] = [],  # noqa: B006
) -> None:
    """Serve clients, alone or as a server of an ensemble."""
    from zktrace_server.run import run

    properties = {}
    for text in define:
        key, equals, value = text.partition("=")
        if not equals:
            raise Failure(f"-D {text}: no KEY=VALUE")
        properties[key] = value
    raise typer.Exit(run(config, properties))


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
        int,
        typer.Option(
            metavar="N", min=1, max=100_000, help="How many, each with a session of its own."
        ),
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
            metavar="N",
            min=1,
            show_default=False,
            help="End after so many requests, those for sessions too.",
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
        int,
        typer.Option(metavar="N", help="The same seed, the same requests (see server/README.md)."),
    ] = 0,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Timeout of the sessions.")
    ] = 10.0,
    root: Annotated[
        str, typer.Option(metavar="PATH", help="The znode below which all of it happens.")
    ] = "/zktrace-load",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the znodes at the end.")] = False,
    ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Connect by TLS; the servers' certificates are signed by one of these (PEM).",
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="With --ca: this client's certificate and key (PEM).",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Drive servers with a workload.

    Says what they answered and how fast; on Ctrl-C, what is known by then.
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
        tls=_tls(ca, cert),
    )
    from zktrace_server.load.command import load

    load(options, json=json)


def _list() -> None:
    from zktrace_server.load import WORKLOADS

    width = max(map(len, WORKLOADS))
    for name, kind in WORKLOADS.items():
        print(f"{name:{width}}  {kind.summary}")


def _tls(ca: Path | None, cert: Path | None) -> SSLContext | None:
    if ca is None:
        if cert is not None:
            raise Failure("--cert is of use with --ca only")
        return None
    import ssl

    try:
        context = ssl.create_default_context(cafile=str(ca))
    except OSError as error:
        raise Failure(f"--ca {ca}: {error.strerror}") from None
    if cert is not None:
        try:
            context.load_cert_chain(cert, password=lambda: "")
        except OSError as error:
            raise Failure(f"--cert {cert}: {error.strerror}") from None
    return context


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


@app.command("ensemble")
def ensemble_command(
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Data, logs and configurations.")
    ],
    size: Annotated[int, typer.Option(metavar="N", min=2, max=99, help="Servers that vote.")] = 3,
    observers: Annotated[
        int, typer.Option(metavar="N", min=0, max=99, help="Servers that do not.")
    ] = 0,
    tick: Annotated[int, typer.Option(metavar="MS", min=10, help="tickTime.")] = 2000,
    prepare: Annotated[
        bool,
        typer.Option("--prepare", help="Write the configurations only, and say where it will be."),
    ] = False,
) -> None:
    """Run an ensemble on this machine.

    A process per server, until Ctrl-C. The last line printed is the connect string. A DIR that
    has an ensemble is started as it is.
    """
    from zktrace_server.local import Local, LocalError, run

    local = Local(directory)
    try:
        if not local.sids():
            local.make(size, observers, tick)
        if prepare:
            typer.echo(local.connect)
            return
        run(local)
    except (LocalError, OSError) as error:
        typer.echo(f"zktrace server: {error}", err=True)
        raise typer.Exit(2) from None


@app.command("chaos")
def chaos_command(
    action: Annotated[
        str,
        typer.Argument(
            metavar="ACTION",
            help="status, kill, pause, resume, restart, stop, partition, slow or heal.",
        ),
    ],
    servers: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SERVER]...", help="Numbers, leader, or all."),
    ] = None,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="That of zktrace server ensemble.")
    ] = Path("."),
    delay: Annotated[
        int,
        typer.Option(metavar="MS", min=1, help="slow: how late what it sends to others comes."),
    ] = 200,
) -> None:
    """Hurt servers of a running ensemble, and let them live again.

    kill is SIGKILL, pause SIGSTOP, resume SIGCONT, stop SIGTERM; restart starts what was killed.
    partition cuts the named servers off from all others, in both directions; slow delays what they
    send to others; heal ends both, of those that are named or of all. Clients reach them as before.
    """
    from zktrace_server.chaos import act
    from zktrace_server.local import Local, LocalError

    try:
        for line in act(Local(directory), action, servers or [], delay):
            typer.echo(line)
    except LocalError as error:
        typer.echo(f"zktrace server: {error}", err=True)
        raise typer.Exit(2) from None
