"""``zktrace top``: the picture in a terminal."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from zktrace.cli.failure import Failure


def top(
    url: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Where zktrace serve (or a proxy's --http) answers.",
        ),
    ] = "http://127.0.0.1:8080",
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
) -> None:
    """Show the picture in a terminal: who asks what, how slow it is, what fails.

    Enter goes into a row, Escape back, / filters, s sorts, w changes the window, 1 to 8 choose a
    view, q ends.
    """
    from zktrace.top.source import Source
    from zktrace.top.views import WINDOWS

    if window not in WINDOWS:
        raise Failure(f"--window: {window!r} is none of {', '.join(WINDOWS)}")
    if not url.startswith(("http://", "https://")):
        raise Failure(f"--url: {url!r} does not begin with http:// or https://")
    show(Source(url.rstrip("/"), token=token), filter, window)


def show(source: Any, filter: str | None, window: str) -> None:
    """Runs the screen until it is left; a source that cannot be asked at all is refused first."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failure("top needs a terminal (zktrace stats and zktrace live write to pipes)")
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
