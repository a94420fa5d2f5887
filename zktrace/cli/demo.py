"""``zktrace demo``: an ensemble, a workload, a capture and the page, on this machine alone.

What there is of rights decides how the traffic is seen, best first: on loopback, as ``serve -i``
does; through the proxy, which needs none; or, where that is not built, a capture of a real ensemble
that comes with the sources is replayed at its speed. All parts are processes of their own
(:mod:`zktrace.cli.crew`), called as anybody would call them; the report of ``--once`` is made of
the JSON API, as ``zktrace top`` is.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from zktrace.cli.failure import Failure
from zktrace.cli.options import say

if TYPE_CHECKING:
    from zktrace.cli.crew import Crew, Member

#: What is replayed where nothing can be captured: of a checkout, not of an installed package.
REPLAYED: Final = Path(__file__).parents[2] / "pcaps" / "57_v39_herd.pcap"

_PORT: Final = 8080
#: Ports that are tried for the page.
_PORTS: Final = 20
_LOAD: Final = ("mix,discovery,locks,config,kafka", "20", "400")
"""Workloads, clients, requests per second."""
_ENSEMBLE: Final = ("server", "ensemble", "--size", "3", "--tick", "500")
_FOREVER_S: Final = 10 * 365 * 86_400
#: How long the last of what clients did may take to be on the page; a busy machine.
_SHOWN_S: Final = 30.0
_ROWS: Final = 5
#: Views of the report, with the order of their rows.
_VIEWS: Final = (
    ("ops", None),
    ("paths", None),
    ("clients", "p99"),
    ("sessions", "requests"),
    ("watches", None),
    ("slow", None),
)


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Print a report after some seconds of traffic, and end.")
    ] = False,
    seconds: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.5, max=600, help="With --once: of how much traffic."),
    ] = 5.0,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="ADDR:PORT",
            show_default=f"127.0.0.1:{_PORT}, or the next free port",
            help="Where the page is.",
        ),
    ] = None,
    interface: Annotated[
        str, typer.Option("--interface", "-i", metavar="IFACE", help="Loopback's name.")
    ] = "lo" if sys.platform == "linux" else "lo0",
    round_trip: Annotated[
        bool,
        typer.Option(
            "--round-trip",
            help="Instead: a workload recorded, replayed on another ensemble, and compared.",
        ),
    ] = False,
) -> None:
    """Show all of it on this machine: servers, clients, page.

    Everything is on loopback and in a temporary directory, and gone at the end (Ctrl-C).
    """
    from zktrace.cli.crew import Crew
    from zktrace.cli.terminal import prepare_stdout

    if once:
        prepare_stdout()
    try:
        with (
            _terminated(),
            tempfile.TemporaryDirectory(prefix="zktrace-demo-") as directory,
            Crew() as crew,
        ):
            if round_trip:
                from zktrace.cli.round_trip import round_trip as made

                if made(crew, Path(directory), _ENSEMBLE):
                    raise typer.Exit(1)
                return
            http = http or f"127.0.0.1:{_free_port()}"
            _show(crew, Path(directory), once, seconds, interface, http)
    except KeyboardInterrupt:
        if once:
            raise  # there is no report
        say("all of it has ended")


@contextmanager
def _terminated() -> Iterator[None]:
    """To be told to end by a signal is as Ctrl-C: nothing may be left behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(
    crew: Crew, directory: Path, once: bool, seconds: float, interface: str, http: str
) -> None:
    from zktrace.cli.crew import Ended

    try:
        servers, url = _capture(crew, directory, interface, http)
    except Ended as ended:
        if "--http" in str(ended) or not REPLAYED.exists():
            raise Failure(str(ended)) from None
        say(f"nothing can be captured here ({ended}): {REPLAYED.name} is replayed")
        _replay(crew, once, http)
        return
    workloads, clients, rate = _LOAD
    load = crew.start(
        "the workload",
        *("server", "load", "--connect", servers, "--workload", workloads, "--clients", clients),
        *("--rate", rate, "--seed", "1", "--keep", "--json"),
        *("--duration", str(seconds if once else _FOREVER_S)),
    )
    say(f"{clients} clients at work: {workloads.replace(',', ', ')}, {rate} requests/s")
    if not once:
        _page(url)
        crew.watch(lambda: False)
    until = time.monotonic() + seconds + _SHOWN_S
    while load.running and time.monotonic() < until:
        load.wait(0.2)
    load.end()
    if load.status != 0:
        raise Failure(f"the workload ended: {load.lines[-1] if load.lines else load.status}")
    counted = json.loads(load.lines[-1])
    _report(url, counted)


def _capture(crew: Crew, directory: Path, interface: str, http: str) -> tuple[str, str]:
    """An ensemble, and what listens to it from its first election on: where clients connect, and
    the page.
    """
    from zktrace.cli.crew import Ended

    ensemble = directory / "ensemble"
    servers = _prepared(crew, ensemble)
    try:
        page = crew.start(
            "the capture", "serve", "-i", interface, *_ports(ensemble), "--http", http
        )
        try:
            url = _url(page)
        except Ended:
            crew.dismiss(page)
            raise
        say(f"listening on {interface} to clients, servers and elections of {servers}")
        _started(crew, ensemble)
        return servers, url
    except Ended as ended:
        say(f"no capture on loopback ({ended})")
    _started(crew, ensemble)
    proxy = crew.start(
        "the proxy",
        *("proxy", "run", "--listen", "127.0.0.1:0", "--upstream", servers, "--http", http),
    )
    try:
        listens = proxy.said(r"(\S+:\d+) -> ")[1]
        url = _url(proxy)
    except Ended:
        crew.dismiss(proxy)
        raise
    say(f"a proxy at {listens} stands before {servers}, which are not listened to")
    return listens, url


def _prepared(crew: Crew, directory: Path) -> str:
    """Where clients of the ensemble will connect."""
    from zktrace.cli.crew import Ended

    member = crew.start("the ensemble", *_ENSEMBLE, "--dir", str(directory), "--prepare")
    try:
        return member.said(r"^\S+:\d+(?:,\S+:\d+)*$")[0]
    except Ended as ended:
        raise Failure(f"there is no ensemble: {ended}") from None
    finally:
        crew.dismiss(member)


def _started(crew: Crew, directory: Path) -> None:
    """The ensemble serves. Failure if it does not."""
    from zktrace.cli.crew import Ended

    member = crew.start("the ensemble", *_ENSEMBLE, "--dir", str(directory))
    try:
        modes = member.said(r"zktrace server: (.*); Ctrl-C")[1]
    except Ended as ended:
        raise Failure(f"the ensemble ended: {ended}") from None
    say(f"three servers: {modes}")


def _ports(directory: Path) -> list[str]:
    """Options that name the ports of the servers, as their configurations have them."""
    options = []
    for config in sorted(directory.glob("*/zoo.cfg")):
        for line in config.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            if key == "clientPort":
                options += ["--client-port", f"127.0.0.1:{value}"]
            elif key == f"server.{config.parent.name}":
                host, quorum, election, *_ = value.split(":")
                options += ["--quorum-port", f"{host}:{quorum}"]
                options += ["--election-port", f"{host}:{election}"]
    return options


def _free_port() -> int:
    """The usual port of the page, or the next one that is free."""
    import socket

    for port in range(_PORT, _PORT + _PORTS):
        try:
            with socket.create_server(("127.0.0.1", port)):
                pass
        except OSError:
            continue
        if port != _PORT:
            say(f"port {_PORT} is taken: the page is at {port}")
        return port
    raise Failure(f"no port from {_PORT} to {_PORT + _PORTS - 1} is free for the page: give --http")


def _url(page: Member) -> str:
    return page.said(r"(https?://\S+?)/ ")[1]


def _page(url: str) -> None:
    print(f"\n  {url}/\n", file=sys.stderr, flush=True)
    say("the page is there; Ctrl-C ends all of it")


def _replay(crew: Crew, once: bool, http: str) -> None:
    from zktrace.cli.crew import Ended

    speed = "max" if once else "1"
    page = crew.start("the page", "serve", "-r", str(REPLAYED), "--speed", speed, "--http", http)
    try:
        url = _url(page)
    except Ended as ended:
        raise Failure(str(ended)) from None
    if once:
        _report(url, None)
        return
    _page(url)
    crew.watch(lambda: False)


# -- the report


def _report(url: str, clients: dict[str, Any] | None) -> None:
    """What the page shows, as text. `clients`: what those counted, who made the traffic."""
    import httpx

    from zktrace.export.summary import table
    from zktrace.export.text import Look
    from zktrace.top.views import VIEWS, Place, cells, headline, seconds_of

    with httpx.Client(base_url=f"{url}/api/", timeout=30, trust_env=False) as api:

        def ask(path: str, **params: Any) -> dict[str, Any]:
            answer = api.get(path, params=params)
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
            return found

        ops = _settled(ask, clients)
        summary = ask("summary", window="all")
        print()
        print("\n".join(headline(summary)))
        for name, order in _VIEWS:
            view = VIEWS[name]
            asked = view.params(Place(name, "all", order)) | {"limit": _ROWS}
            if name == "paths":
                asked["depth"] = 2
            answer = ask(view.path, **{key: it for key, it in asked.items() if it is not None})
            rows = [cells(view, row, seconds_of(answer, summary)) for row in answer["rows"]]
            if rows:
                left = frozenset(at for at, one in enumerate(view.columns) if not one.right)
                heads = [column.title for column in view.columns]
                print(f"\n{view.title}")
                print("\n".join(table(heads, rows, Look(), left)))
        if clients is not None:
            _compared(clients, ops)
        print()
        print("\n".join(ask("coverage")["words"]))


def _settled(ask: Callable[..., dict[str, Any]], clients: dict[str, Any] | None) -> dict[str, Any]:
    """Rows of operations, once all that clients did is in them; it comes within a second or so."""
    until = time.monotonic() + _SHOWN_S
    while True:
        rows = {row["op"]: row for row in ask("ops", window="all", limit=1000)["rows"]}
        if clients is None:
            if ask("summary", window="all")["source"]["state"] == "done":
                return rows
        elif all(
            one["op"] in rows and rows[one["op"]]["replies"] >= one["requests"]
            for one in clients["by_op"]
        ):
            return rows
        if time.monotonic() > until:
            return rows
        time.sleep(0.2)


def _compared(clients: dict[str, Any], ops: dict[str, Any]) -> None:
    """The same traffic as clients saw it, and as it was seen on the wire."""
    from zktrace.export.summary import table
    from zktrace.export.text import Look
    from zktrace.top.views import count, micro

    rows = []
    for one in clients["by_op"]:
        seen = ops.get(one["op"])
        errors = sum(seen["errors"].values()) if seen else 0
        latency = seen["latency_us"] if seen else None
        rows.append(
            [
                *(count(one["requests"]), count(seen["replies"] if seen else 0)),
                *(count(sum(one["errors"].values())), count(errors)),
                *(micro(one["latency_us"]["p50"]), micro(latency["p50"] if latency else None)),
                one["op"],
            ]
        )
    print("\nWhat the clients counted, once they were set up, and all that was seen")
    heads = ["answers", "seen", "errors", "seen", "p50", "seen", "op"]
    print("\n".join(table(heads, rows, Look(), frozenset({6}))))
