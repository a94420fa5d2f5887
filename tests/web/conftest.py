"""Pictures of captures, and clients of applications over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from zktrace.store.feed import Feed
from zktrace.store.picture import Picture
from zktrace.web.app import create_app, guarded

PCAPS = Path(__file__).resolve().parents[2] / "pcaps"


def picture_of(*names: str, **options: Any) -> Picture:
    """Everything of some captures."""
    picture = Picture(**options)
    feed = Feed(picture, [str(PCAPS / name) for name in names])
    feed.start()
    assert feed.join(60)
    assert picture.state == "done", picture.error
    return picture


class Client:
    """Asks an application without a socket."""

    def __init__(self, application: Any) -> None:
        self._transport = httpx.ASGITransport(app=application)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self._ask("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self._ask("POST", path, **more)

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        import anyio

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=self._transport, base_url="http://127.0.0.1:8080"
            ) as client:
                return await client.request(method, path, **more)

        return anyio.run(ask)

    def json(self, path: str, **params: Any) -> Any:
        response = self.get(path, params=params)
        assert response.status_code == 200, response.text
        return response.json()


Serve = Callable[..., Client]


@pytest.fixture(scope="module")
def herd() -> Picture:
    """45 clients that watch a znode which is changed ten times."""
    return picture_of("57_v39_herd.pcap")


def client_of(picture: Picture, **options: Any) -> Client:
    top = options.pop("metrics_top", 0)
    return Client(guarded(create_app(picture, metrics_top=top), **options))


@pytest.fixture
def client(herd: Picture) -> Client:
    return client_of(herd)
