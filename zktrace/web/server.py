"""Serves an application with uvicorn until it is told to stop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import uvicorn
from fastapi import FastAPI

from zktrace.web.security import App

#: Requests at once; beyond, 503. Streams count.
_CONCURRENCY: Final = 512


class Server(uvicorn.Server):
    """Ends streams when it ends, since they would not."""

    def __init__(self, config: uvicorn.Config, closing: Callable[[], None]) -> None:
        super().__init__(config)
        self._closing = closing

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._closing()
        await super().shutdown(sockets)


def make_server(application: FastAPI, guarded: App) -> Server:
    config = uvicorn.Config(
        guarded,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONCURRENCY,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
        lifespan="off",
        ws="none",
    )

    def closing() -> None:
        application.state.streams.closing = True

    return Server(config, closing)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; OSError says why not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named; with it, the body of
    # an answer waits some 40 ms for the client to acknowledge the head.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(256)
    except OSError:
        bound.close()
        raise
    return bound
