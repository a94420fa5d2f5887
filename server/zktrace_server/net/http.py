"""As much of HTTP/1.1 as an admin port wants: GET and HEAD, one request a connection, small limits
(RFC 9112). Both ports that speak it answer short texts out of memory to people and scrapers; a
framework would cost each start of the server more than it serves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

log: Final = logging.getLogger(__name__)

_LONGEST: Final = 16 << 10
_PATIENCE_S: Final = 30.0
#: Connections at a time; who comes then is closed.
_MOST: Final = 64


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """`path` and `query` without percent signs; header names in lower case."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    body: bytes
    kind: str = "application/json"
    status: int = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)


class HttpPort:
    """Answers by `answer`, which must not wait for anything."""

    def __init__(self, answer: Callable[[HttpRequest], HttpResponse]) -> None:
        self._answer = answer
        self._open = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What ``asyncio.start_server`` wants."""
        self._open += 1
        try:
            if self._open <= _MOST:
                async with asyncio.timeout(_PATIENCE_S):
                    writer.write(await self._exchange(reader))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked went away, was silent, or sent more than anybody wants to read
        finally:
            self._open -= 1
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        parts = lines[0].split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1.") or not parts[1].startswith("/"):
            return _encoded(_plain(HTTPStatus.BAD_REQUEST), body=True)
        method, target, _ = parts
        if method not in ("GET", "HEAD"):
            refused = _plain(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
            return _encoded(refused, body=True)
        try:
            url = urlsplit(target)
            query = dict(parse_qsl(url.query, keep_blank_values=True, max_num_fields=100))
        except ValueError:
            return _encoded(_plain(HTTPStatus.BAD_REQUEST), body=method != "HEAD")
        fields = (line.partition(":") for line in lines[1:] if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        try:
            response = self._answer(HttpRequest(unquote(url.path), query, headers))
        except Exception:
            # A defect of this server must not end it.
            log.exception("%s could not be answered", unquote(url.path)[:200])
            response = _plain(HTTPStatus.INTERNAL_SERVER_ERROR)
        return _encoded(response, body=method != "HEAD")


def _plain(status: HTTPStatus, headers: dict[str, str] | None = None) -> HttpResponse:
    return HttpResponse(
        f"{status.value} {status.phrase}\n".encode(), "text/plain", status, headers or {}
    )


def not_found() -> HttpResponse:
    """Nothing is there."""
    return _plain(HTTPStatus.NOT_FOUND)


def _encoded(response: HttpResponse, *, body: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        f"Content-Type: {response.kind}",
        f"Content-Length: {len(response.body)}",
        "Connection: close",
        # What is shown is for operators and programs, not for a browser to keep or to guess at.
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        *(f"{name}: {value}" for name, value in response.headers.items()),
    ]
    head = "\r\n".join(lines) + "\r\n\r\n"
    return head.encode("latin-1") + (response.body if body else b"")


async def listen(port: HttpPort, address: str, number: int) -> asyncio.Server:
    """Opens the port."""
    return await asyncio.start_server(port.handle, address or None, number, limit=_LONGEST)
