"""``zktrace top``: the picture in a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from zktrace.cli.failure import Failure
from zktrace.cli.groups import grouped
from zktrace.cli.options import (
    Interfaces,
    Listen,
    Ports,
    say,
)

if TYPE_CHECKING:
    from zktrace.cli.listening import Listening
    from zktrace.engine.base import EngineOptions

#: What showing needs, to be loaded while another user's files may be read.
_LATER: Final = (
    "anyio._backends._asyncio",
    "zktrace.store.listen",
    "zktrace.top.screen",
    "zktrace.web.app",
)
#: How long listening may take to stop.
_END_S: Final = 2.0
_URL: Final = "http://127.0.0.1:8080"


@grouped
def top(
    interface: Interfaces = [],  # noqa: B006
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default=_URL,
            help="Where zktrace serve (or a proxy's --http) answers, if not an interface.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            envvar="ZKTRACE_TOKEN",
            show_default=False,
            help="What it wants to know. Better given by ZKTRACE_TOKEN, as others can read command "
            "lines.",
        ),
    ] = None,
    filter: Annotated[
        str | None,
        typer.Option(metavar="EXPR", show_default=False, help="Only events that match."),
    ] = None,
    window: Annotated[
        str, typer.Option(metavar="SPAN", help="How far back to look: 10s, 1m, 5m, 1h, 6h, all.")
    ] = "1m",
    ports: Ports = Ports(),
    listen: Listen = Listen(),
) -> None:
    """Show the picture in a terminal.

    Who asks what, how slow it is, what fails: of what is on the wire (-i), or what a zktrace
    serve shows (--url).

    Enter goes into a row, Escape back, / filters, s sorts, w changes the window, 1 to 8 choose a
    view, q ends.
    """
    from zktrace.top.source import Source
    from zktrace.top.views import WINDOWS

    if window not in WINDOWS:
        raise Failure(f"--window: {window!r} is none of {', '.join(WINDOWS)}")
    if interface:
        if url is not None:
            raise Failure("give an interface to listen on (-i) or a --url, not both")
        _need_terminal()
        options = ports.engine()
        from zktrace.cli.listening import Listening

        listening = Listening(
            interface,
            options,
            listen,
        )
        _listen(listening, options, filter, window)
        return
    url = url or _URL
    if not url.startswith(("http://", "https://")):
        raise Failure(f"--url: {url!r} does not begin with http:// or https://")
    show(Source(url.rstrip("/"), token=token), filter, window)


def _listen(listening: Listening, options: EngineOptions, filter: str | None, window: str) -> None:
    """The screen over a picture in this process, which no port shows to anybody else."""
    from zktrace.top.source import Source

    capture = listening.open(*_LATER)
    notices: list[str] = []  # for afterwards: the screen is not to be written over
    picture, feed = listening.picture(capture, options, None, notice=notices.append)
    from zktrace.web.app import create_app

    try:
        feed.start()
        show(Source("http://localhost", app=create_app(picture)), filter, window)
    finally:
        feed.stop()
        feed.join(_END_S)
        for notice in notices:
            say(notice)
    from zktrace.export.summary import coverage_lines, joined
    from zktrace.export.text import Look

    sys.stdout.write(joined(coverage_lines(picture.coverage(), Look())))


def _need_terminal() -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failure("top needs a terminal (zktrace stats and zktrace live write to pipes)")


def show(source: Any, filter: str | None, window: str) -> None:
    """Runs the screen until it is left; a source that cannot be asked at all is refused first."""
    _need_terminal()
    import asyncio

    from zktrace.top.screen import Top
    from zktrace.top.source import SourceError
    from zktrace.top.views import Place

    async def run() -> None:
        async with source:
            await source.get("summary", {"window": "10s"})
            await source.get("events", {"limit": 1, "filter": filter})
            await Top(source, Place("ops", window, None, filter)).run_async()

    try:
        asyncio.run(run())
    except SourceError as error:
        raise Failure(str(error)) from None
