"""``zktrace serve``: the picture as a page, a JSON API and Prometheus metrics."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from zktrace.cli.failure import Failure
from zktrace.cli.options import (
    ClientPort,
    ElectionPort,
    HashKey,
    HashSessions,
    MaxConnections,
    QuorumPort,
    engine_options,
    hashing_key,
)
from zktrace.engine.base import MAX_CONNECTIONS

if TYPE_CHECKING:
    from zktrace.store.feed import Feed

#: How long a source may take to turn out unusable before the page is offered.
_TRY_S = 0.5
#: How long reading may take to stop.
_END_S = 2.0


def serve(
    read: Annotated[
        list[str],
        typer.Option(
            "--read",
            "-r",
            metavar="SOURCE",
            show_default=False,
            help="Capture to read: pcap or pcapng, plain, .gz or .zst; - is standard input; may be "
            "repeated, several files are one capture in time order.",
        ),
    ] = [],  # noqa: B006
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
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            envvar="ZKTRACE_TOKEN",
            show_default=False,
            help="Who asks has to know it; needed when listening beyond this machine. Better "
            "given by ZKTRACE_TOKEN, as others can read command lines.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="A name by which browsers may call this host, besides its addresses.",
        ),
    ] = [],  # noqa: B006
    metrics_top: Annotated[
        int,
        typer.Option(min=0, max=1000, help="Busiest clients and paths that /metrics names."),
    ] = 0,
    client_port: ClientPort = [],  # noqa: B006
    quorum_port: QuorumPort = [],  # noqa: B006
    election_port: ElectionPort = [],  # noqa: B006
    hash_sessions: HashSessions = False,
    hash_key: HashKey = None,
    max_connections: MaxConnections = MAX_CONNECTIONS,
) -> None:
    """Serve a page, a JSON API and metrics.

    Ctrl-C ends it.
    """
    if not read:
        raise Failure("nothing to read: give a capture with -r (see zktrace serve --help)")
    pace = _speed(speed)
    host, port = _address(http)
    from zktrace.web.security import is_loopback

    if token is not None and len(token) < 8:
        raise Failure("--token: 8 characters at least")
    if not is_loopback(host) and token is None:
        raise Failure(
            f"--http {http}: listening beyond this machine needs a token "
            "(--token, or ZKTRACE_TOKEN in the environment)"
        )
    from zktrace.store.feed import Feed
    from zktrace.store.picture import Picture
    from zktrace.web.app import create_app, guarded
    from zktrace.web.server import listen, make_server

    options = engine_options(
        client_port, quorum_port, election_port, max_connections=max_connections
    )
    picture = Picture(options, hash_key=hashing_key(hash_sessions, hash_key))
    feed = Feed(picture, read, speed=pace)
    try:
        bound = listen(host, port)
    except OSError as error:
        raise Failure(f"--http {http}: {error.strerror or error}") from None
    try:
        feed.start()
        _usable(feed)
        app = create_app(picture, metrics_top=metrics_top)
        server = make_server(app, guarded(app, token=token, hosts=[*allow_host, host]))
        where = bound.getsockname()
        shown = f"[{where[0]}]" if ":" in where[0] else where[0]
        print(f"zktrace: http://{shown}:{where[1]}/ (Ctrl-C ends it)", file=sys.stderr, flush=True)
        server.run(sockets=[bound])
    except KeyboardInterrupt:
        pass  # uvicorn raises it again once it has ended
    finally:
        feed.stop()
        bound.close()
    if feed.useless and feed.failure is not None:
        raise feed.failure
    if not feed.join(_END_S):
        # It waits for standard input, which nothing ends; Python cannot end with such a thread.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(0)


def _usable(feed: Feed) -> None:
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


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        raise Failure(f"--http: {text!r} is not ADDR:PORT")
    from ipaddress import ip_address

    if host == "localhost":
        host = "127.0.0.1"
    try:
        ip_address(host)
    except ValueError:
        raise Failure(f"--http: {host!r} is no IP address") from None
    return host, int(port)
