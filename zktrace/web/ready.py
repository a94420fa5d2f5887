"""Answers at once what was answered lately: without routing, checking parameters, or a thread.

Viewers ask the same again and again, each second at most something new is made
(:mod:`zktrace.web.answers`), and finding a route costs more than anything else of such an answer.
So it is remembered which answer a path with its query led to; as long as that is good, it is sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, MutableMapping
from typing import Any, Final, NamedTuple

from zktrace.web.answers import Answers, looked_up
from zktrace.web.security import App, Receive, Scope, Send

#: Questions that are remembered, and bytes of one.
_KEPT: Final = 1024
_LONGEST: Final = 512


class _Known(NamedTuple):
    answers: Answers
    key: Hashable
    headers: list[tuple[bytes, bytes]]
    """Those of the response, but its length."""


class Ready:
    """Wraps the application, within what guards it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._known: OrderedDict[tuple[str, bytes], _Known] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        asked = scope["path"], scope.get("query_string", b"")
        known = self._known.get(asked)
        body = None if known is None else known.answers.good(known.key)
        if known is None or body is None:
            await self._ask(asked, scope, receive, send)
            return
        length = (b"content-length", str(len(body)).encode())
        headers = [*known.headers, length]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _ask(
        self, asked: tuple[str, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        headers: list[tuple[bytes, bytes]] | None = None

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal headers
            if message["type"] == "http.response.start" and message["status"] == 200:
                headers = [one for one in message["headers"] if one[0] != b"content-length"]
            await send(message)

        found: list[tuple[Answers, Hashable]] = []
        token = looked_up.set(found)
        try:
            await self._app(scope, receive, watched)
        finally:
            looked_up.reset(token)
        if headers is not None and len(found) == 1 and len(asked[0]) + len(asked[1]) < _LONGEST:
            self._known[asked] = _Known(*found[0], headers)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
