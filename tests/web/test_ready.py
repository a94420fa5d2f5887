"""What was answered lately is answered at once: the same, no longer than it is good, to nobody who
may not ask.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.conftest import Client, picture_of
from tests.web.test_fuzz_fleet import _APP as FLEET
from zktrace.store.picture import Picture
from zktrace.web.app import create_app, guarded
from zktrace.web.security import Guard

ASKED = (
    "/api/coverage",
    "/api/summary?window=10s",
    "/api/ops?window=all&format=csv",
    "/api/ops?filter=read",
    "/api/sessions/0x0100007fb0e9000b",
    "/api/findings",
    "/metrics",
)


class Counted:
    """The application, and what it was asked."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        await self.app(scope, receive, send)


def ready(app: Any, **options: Any) -> tuple[Client, Counted]:
    """Guarded as it is served, with a count of what gets to the application."""
    guard = guarded(app, **options)
    assert isinstance(guard, Guard)
    counted = Counted(app)
    guard._app._app = counted  # type: ignore[attr-defined]
    return Client(guard), counted


@pytest.mark.parametrize("path", ASKED)
def test_the_answer_is_the_same(herd: Picture, path: str) -> None:
    client, counted = ready(create_app(herd))
    first, again = client.get(path), client.get(path)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.content == again.content
    assert dict(first.headers) == dict(again.headers)
    assert len(counted.asked) == 1


@pytest.mark.parametrize("path", ["/api/ops?limit=0", "/api/ops?filter=(", "/nothing", "/healthz"])
def test_others_are_asked_for_each_time(herd: Picture, path: str) -> None:
    client, counted = ready(create_app(herd))
    first, again = client.get(path), client.get(path)
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert len(counted.asked) == 2


def test_what_is_new_is_told() -> None:
    picture = picture_of("02_basic_ops.pcap")
    client, counted = ready(create_app(picture))
    assert client.json("/api/coverage")["source"]["state"] == "done"
    picture.ended("failed", "it is gone")
    assert client.json("/api/coverage")["source"]["error"] == "it is gone"
    assert len(counted.asked) == 2


def test_the_token_is_asked_for_each_time(herd: Picture) -> None:
    client, counted = ready(create_app(herd), token="not-a-secret-token")
    header = {"Authorization": "Bearer not-a-secret-token"}
    assert client.get("/api/ops", headers=header).status_code == 200
    assert client.get("/api/ops").status_code == 401
    assert client.get("/api/ops", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/api/ops", headers=header).status_code == 200
    assert len(counted.asked) == 1


def test_an_ensemble_s_answers_are_its_own() -> None:
    client, counted = ready(FLEET)
    for path in ("/api/summary", "/ensembles/prod/api/summary"):
        first, again = client.get(path), client.get(path)
        assert first.status_code == again.status_code == 200
    whole, one = (client.json(f"{at}/api/summary") for at in ("", "/ensembles/prod"))
    assert whole["source"]["names"] == ["127.0.0.1:4222"]
    assert one["source"]["names"] == ["prod"]
    assert counted.asked
