"""Who may ask: the token, the Host header, and headers that tell browsers what the page may do.

Plain ASGI around the application. Whoever can open the port can read the traffic's metadata, so
the default is loopback, and another address needs a token: in ``Authorization: Bearer``, or once as
``?token=``, which becomes a cookie and leaves the address. A page of another site cannot ask in the
name of a browser here: a name that was made to point to this machine (DNS rebinding) is refused by
the Host header, which must be an address, ``localhost``, or a name that was allowed; answers are
not shared across origins; and a request that changes something must be JSON and, where a browser
says where it comes from, come from here.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from secrets import token_bytes
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, urlencode

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_COOKIE: Final = "zktrace"
#: Nothing longer is looked at.
_MAX_QUERY: Final = 8192
_MAX_BODY: Final = 8192

HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        b"object-src 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str | None:
    """The name in a Host header, without the port; None when it is none."""
    if header.startswith("["):
        name, bracket, rest = header[1:].partition("]")
        if not bracket or (rest and not _is_port(rest)):
            return None
        return name.lower()
    name, colon, port = header.partition(":")
    if colon and not _is_port(":" + port):
        return None
    return name.lower().rstrip(".") or None


def _is_port(text: str) -> bool:
    return text[1:].isascii() and text[1:].isdigit() and text[0] == ":"


class Guard:
    """Wraps the application."""

    def __init__(self, app: App, *, token: str | None, hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._token = None if token is None else token.encode()
        # The cookie is not the token, and is good for this run only.
        self._cookie = hmac.new(token_bytes(32), self._token or b"", sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                return
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, value)

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(pair for pair in HEADERS if pair[0] not in names),
                ]
                if b"cache-control" not in names:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        host = host_name(headers.get(b"host", b"").decode("latin-1"))
        if host is None or not self._known(host):
            detail = "the Host header names a host that is not served here (see --allow-host)"
            await _refuse(guarded, 421, "Misdirected Request", detail)
        elif len(scope.get("query_string", b"")) > _MAX_QUERY:
            await _refuse(guarded, 414, "URI Too Long", f"more than {_MAX_QUERY} bytes of query")
        elif (wrong := _foreign(scope["method"], headers)) is not None:
            await _refuse(guarded, *wrong)
        elif self._token is None or scope["path"] == "/healthz":
            await self._app(scope, receive, guarded)
        else:
            await self._authorised(scope, receive, guarded, headers)

    def _known(self, host: str) -> bool:
        if host in self._hosts:
            return True
        try:
            ip_address(host)
        except ValueError:
            return False
        return True

    async def _authorised(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes]
    ) -> None:
        bearer = headers.get(b"authorization", b"")
        given = bearer[7:].strip() if bearer[:7].lower() == b"bearer " else b""
        if self._right(given) or self._has_cookie(headers.get(b"cookie", b"")):
            await self._app(scope, receive, send)
            return
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        token = next((value for name, value in query if name == "token"), "")
        if token and self._right(token.encode()):
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            where = scope["path"].encode().replace(b"//", b"/") + (
                b"?" + rest.encode() if rest else b""
            )
            cookie = f"{_COOKIE}={self._cookie}; Path=/; HttpOnly; SameSite=Strict"
            await send(
                {
                    "type": "http.response.start",
                    "status": 303,
                    "headers": [
                        (b"location", _location(where)),
                        (b"set-cookie", cookie.encode()),
                        (b"content-length", b"0"),
                    ],
                }
            )
            await send({"type": "http.response.body", "body": b""})
            return
        detail = "give the token: Authorization: Bearer TOKEN, or once ?token=TOKEN in a browser"
        await _refuse(send, 401, "Unauthorized", detail, (b"www-authenticate", b"Bearer"))

    def _right(self, given: bytes) -> bool:
        return bool(given) and self._token is not None and hmac.compare_digest(given, self._token)

    def _has_cookie(self, header: bytes) -> bool:
        try:
            morsel = SimpleCookie(header.decode("latin-1")).get(_COOKIE)
        except CookieError:
            return False
        value = morsel.value if morsel is not None else ""
        return hmac.compare_digest(value.encode(), self._cookie.encode())


def _foreign(method: str, headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
    """What is wrong with a request that changes something; None: nothing.

    A form of another site can send neither JSON nor hide its origin; a script there would have to
    be allowed to, which nothing here does.
    """
    if method in ("GET", "HEAD", "OPTIONS"):
        return None
    site = headers.get(b"sec-fetch-site", b"none")
    origin = headers.get(b"origin")
    host = headers.get(b"host", b"")
    own = origin is None or origin.partition(b"://")[2] == host
    if site not in (b"same-origin", b"none") or not own:
        return 403, "Forbidden", "the request comes from another site"
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        return 415, "Unsupported Media Type", "the body must be application/json"
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or int(length) > _MAX_BODY:
        return 413, "Content Too Large", f"the body must be told to have at most {_MAX_BODY} bytes"
    return None


def _location(where: bytes) -> bytes:
    """A path of this site, whatever was asked for."""
    from urllib.parse import quote

    path, mark, query = where.partition(b"?")
    return b"/" + quote(path.lstrip(b"/\\")).encode() + mark + query


async def _refuse(
    send: Send, status: int, title: str, detail: str, *headers: tuple[bytes, bytes]
) -> None:
    body = json.dumps(
        {"type": "about:blank", "title": title, "status": status, "detail": detail}
    ).encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/problem+json"),
                (b"content-length", str(len(body)).encode()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
