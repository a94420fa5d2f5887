"""Where the numbers come from: the JSON API, over HTTP or within this process."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

import httpx

Object = dict[str, Any]

#: An answer that takes longer is no answer; the screen says so and asks again.
TIMEOUT_S: Final = 10.0


class SourceError(Exception):
    """Asking failed; the text is one line that says why.

    `position`: where in the filter it goes wrong, None otherwise.
    """

    def __init__(self, text: str, position: int | None = None) -> None:
        super().__init__(text)
        self.position = position


class Source:
    """Asks one API. An async context manager.

    `url`: where ``zktrace serve`` or a proxy's ``--http`` answers; `token`: what it wants to know.
    `app`: an ASGI application of this process, asked without a connection.
    """

    def __init__(self, url: str, *, token: str | None = None, app: Any = None) -> None:
        self.name = url
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._client = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=TIMEOUT_S,
            transport=None if app is None else httpx.ASGITransport(app),
            # What is asked is this machine or one that the user named: no proxy of the environment.
            trust_env=False,
        )

    async def __aenter__(self) -> Source:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def get(self, path: str, params: Mapping[str, Any]) -> Object:
        """The answer of ``/api/<path>``; parameters that are None are left out.

        :raises SourceError: no connection, no answer in time, or a refusal.
        """
        given = {key: value for key, value in params.items() if value is not None}
        try:
            answer = await self._client.get(f"/api/{path}", params=given)
        except httpx.TimeoutException:
            raise SourceError(f"{self.name} did not answer within {TIMEOUT_S:.0f} s") from None
        except httpx.TransportError as error:
            raise SourceError(f"{self.name} does not answer: {error}") from None
        try:
            body = answer.json()
        except ValueError:
            raise SourceError(f"{self.name} is not zktrace: its answer is no JSON") from None
        if not isinstance(body, dict):
            raise SourceError(f"{self.name} is not zktrace: its answer is no object")
        if answer.status_code == httpx.codes.OK:
            return body
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise SourceError(f"{self.name} wants a token (--token, or ZKTRACE_TOKEN)")
        detail = str(body.get("detail") or body.get("title") or answer.status_code)
        position = body.get("position")
        raise SourceError(detail, position if isinstance(position, int) else None)
