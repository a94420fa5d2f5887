"""Where the page is offered, for each command that offers it: options, the socket, serving."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from zktrace.cli.failure import Failure
from zktrace.cli.groups import Group

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI

    from zktrace.engine.base import Port
    from zktrace.store.picture import Picture

Token = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        envvar="ZKTRACE_TOKEN",
        show_default=False,
        help="Who asks has to know it; needed when listening beyond this machine. Better "
        "given by ZKTRACE_TOKEN, as others can read command lines.",
    ),
]
AllowHost = Annotated[
    list[str],
    typer.Option(
        metavar="NAME",
        show_default=False,
        help="A name by which browsers may call this host, besides its addresses.",
    ),
]
MetricsTop = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, max=1000, help="Busiest clients and paths that /metrics names."
    ),
]


class SiteOptions(Group):
    """Of the page, besides where it is."""

    token: Token = None
    allow_host: AllowHost = []  # noqa: RUF012
    metrics_top: MetricsTop = 0


class Site:
    """A page to be. Refuses what would show the traffic to others."""

    def __init__(self, http: str, asked: SiteOptions) -> None:
        """`http`: ADDR:PORT. :class:`Failure` says what is wrong with it or the token."""
        token = asked.token
        self._http = http
        self._address, self._port = _address(http)
        from zktrace.web.security import is_loopback

        if token is not None and len(token) < 8:
            raise Failure("--token: 8 characters at least")
        if not is_loopback(self._address) and token is None:
            raise Failure(
                f"--http {http}: listening beyond this machine needs a token "
                "(--token, or ZKTRACE_TOKEN in the environment)"
            )
        self._token = token
        self._hosts = [*asked.allow_host, self._address]
        self._metrics_top = asked.metrics_top
        self._bound: socket.socket | None = None

    def bind(self) -> closing[socket.socket]:
        """Takes the address: before rights are given up, which a low port needs."""
        from zktrace.cli.heap import keep_tight
        from zktrace.web.server import listen

        keep_tight()  # what has a page runs for long
        try:
            self._bound = listen(self._address, self._port)
        except OSError as error:
            raise Failure(f"--http {self._http}: {error.strerror or error}") from None
        return closing(self._bound)

    @property
    def own(self) -> Port:
        """Its end, which a capture is not to listen to."""
        from ipaddress import ip_address

        assert self._bound is not None, "bind comes first"
        where = self._bound.getsockname()
        host = ip_address(where[0])
        return None if host.is_unspecified else host.packed, where[1]

    def serve(
        self,
        picture: Picture,
        more: Callable[[FastAPI], None] | None = None,
    ) -> None:
        """Answers until it is told to stop by a signal, of which KeyboardInterrupt is raised.
        `more` adds routes.
        """
        from zktrace.web.app import create_app, guarded
        from zktrace.web.server import make_server

        assert self._bound is not None, "bind comes first"
        app = create_app(picture, metrics_top=self._metrics_top)
        if more is not None:
            more(app)
        where = self._bound.getsockname()
        shown = f"[{where[0]}]" if ":" in where[0] else where[0]
        print(f"zktrace: http://{shown}:{where[1]}/ (Ctrl-C ends it)", file=sys.stderr, flush=True)
        guard = guarded(app, token=self._token, hosts=self._hosts)
        make_server(app, guard).run(sockets=[self._bound])


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
