"""``zktrace serve``: the picture as a page, a JSON API and Prometheus metrics."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from zktrace.cli.bus import Bus
from zktrace.cli.failure import Failure
from zktrace.cli.groups import grouped
from zktrace.cli.options import (
    Follow,
    Hashing,
    Interfaces,
    Kept,
    Listen,
    Ports,
    Reads,
    follower,
    say,
)
from zktrace.cli.site import Site, SiteOptions

if TYPE_CHECKING:
    from fastapi import FastAPI

    from zktrace.capture.keep import Ring
    from zktrace.engine.base import EngineOptions
    from zktrace.fleet.way import Way
    from zktrace.store.feed import Feed
    from zktrace.store.listen import LiveFeed
    from zktrace.store.picture import Picture
    from zktrace.store.state import StateFile
    from zktrace.web.findings import Proofs

#: How long a source may take to turn out unusable before the page is offered.
_TRY_S = 0.5
#: How long reading may take to stop.
_END_S = 2.0


#: What serving needs, to be loaded while another user's files may be read.
_LATER: Final = (
    "zktrace.store.feed",
    "zktrace.store.listen",
    "zktrace.store.state",
    "zktrace.web.app",
    "zktrace.web.server",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
    "uvicorn.lifespan.off",
    "anyio._backends._asyncio",
)


@grouped
def serve(
    interface: Interfaces = [],  # noqa: B006
    read: Reads = [],  # noqa: B006
    follow: Follow = False,
    speed: Annotated[
        str,
        typer.Option(
            metavar="N|max",
            help="How fast the capture's clock runs: 1 is as it was, max as fast as it goes.",
        ),
    ] = "max",
    http: Annotated[
        str, typer.Option(metavar="ADDR:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:8080",
    page: SiteOptions = SiteOptions(),
    ports: Ports = Ports(),
    hashing: Hashing = Hashing(),
    listen: Listen = Listen(),
    write: Annotated[
        str | None,
        typer.Option(
            "--write",
            "-w",
            metavar="DIR",
            show_default=False,
            help="With -i: keep the latest packets, as a ring of pcapng files there; those that "
            "prove a finding are saved, and POST /api/slice saves others.",
        ),
    ] = None,
    kept: Kept = Kept(),
    state: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="With -i: windows of time are kept there each minute and at the end, and are "
            "there again after a restart.",
        ),
    ] = None,
    bus: Bus = Bus(),
) -> None:
    """Serve a page, a JSON API and metrics.

    Of what is on the wire (-i), of a capture (-r), or of what agents publish (--nats,
    --kafka). Ctrl-C ends it.
    """
    if not read and not interface and (way := bus.way()) is not None:
        _fleet(Site(http, page), way, page.metrics_top)
        return
    if bool(read) == bool(interface):
        from zktrace.cli.listening import there

        raise Failure(
            f"give what to listen on with -i ({there()}), a capture to read with -r, --nats or "
            "--kafka" + (", not both" if read else "")
        )
    if write is not None and not interface:
        raise Failure("--write keeps what is on the wire: it goes with -i")
    if follow and not read:
        raise Failure("--follow is about files: it goes with -r")
    if state is not None and not interface:
        raise Failure("--state keeps what was on the wire: it goes with -i")
    pace = _speed(speed)
    if follow and pace is not None:
        raise Failure("--follow goes as fast as files are written, not at a --speed")
    site = Site(http, page)
    options = ports.engine()
    key = hashing.key()
    feed: Feed | LiveFeed
    with site.bind():
        if interface:
            from zktrace.cli.listening import Listening

            listening = Listening(
                interface,
                options,
                listen,
                not_from=site.own,
                record=None if write is None else "pcapng",
            )
            capture = listening.open(*_LATER)
            ring = None if write is None else listening.ring(write, kept)
            picture, feed = listening.picture(capture, options, key, keeper=ring)
        else:
            picture, feed = _files(read, follow, pace, options, key)
        keeping = None if state is None else _kept(state, picture)
        proofs = None if picture.ring is None else _proofs(picture, picture.ring)
        try:
            feed.start()
            if keeping is not None:
                keeping.start()
            _usable(feed)
            if proofs is not None:
                proofs.start()
            site.serve(picture, lambda app: setattr(app.state, "proofs", proofs))
        except KeyboardInterrupt:
            pass  # uvicorn raises it again once it has ended
        finally:
            if proofs is not None:
                proofs.stop()
            feed.stop()
            if keeping is not None:
                feed.join(_END_S)
                keeping.stop()
    _ended(feed)


def _proofs(picture: Picture, ring: Ring) -> Proofs:
    from zktrace.web.findings import Proofs

    return Proofs(picture, ring, say)


def _kept(name: str, picture: Picture) -> StateFile:
    from pathlib import Path

    from zktrace.store.state import StateFile

    try:
        return StateFile(Path(name), picture, say)
    except OSError as error:
        raise Failure(f"--state: {name}: {error.strerror or error}") from error


def _fleet(site: Site, way: Way, metrics_top: int) -> None:
    """Of a whole fleet."""
    from zktrace.fleet.feed import FleetFeed

    def more(app: FastAPI) -> None:
        from zktrace.web.fleet import add

        add(app, feed, metrics_top)

    with site.bind():
        feed = FleetFeed(way, say)
        feed.start()
        try:
            site.serve(feed.picture, more)
        except KeyboardInterrupt:
            pass  # uvicorn raises it again once it has ended
        finally:
            feed.join(_END_S)


def _files(
    sources: list[str],
    follow: bool,
    speed: float | None,
    options: EngineOptions,
    key: bytes | None,
) -> tuple[Picture, Feed]:
    from zktrace.store.feed import Feed
    from zktrace.store.picture import Picture

    picture = Picture(options, hash_key=key)
    return picture, Feed(
        picture, sources, speed=speed, follower=follower(sources) if follow else None
    )


def _ended(feed: Feed | LiveFeed) -> None:
    if feed.useless and feed.failure is not None:
        raise feed.failure
    if not feed.join(_END_S):
        # It waits for standard input, which nothing ends; Python cannot end with such a thread.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(0)


def _usable(feed: Feed | LiveFeed) -> None:
    """Gives a source that is none the time to say so."""
    until = time.monotonic() + _TRY_S
    while time.monotonic() < until and not feed.join(0.02):
        if feed.begun:
            return
    if feed.useless and feed.failure is not None:
        raise feed.failure


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.001 <= speed <= 1e6:
        raise Failure(f"--speed: {text!r} is neither max nor a number from 0.001 to 1000000")
    return speed
