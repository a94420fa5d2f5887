"""The application over a fleet: that of all agents, with that of each ensemble below
``/ensembles/NAME/``, and what is known of the agents at ``/api/fleet``.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import Field
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from zktrace.fleet.feed import FleetFeed
from zktrace.web.answers import json_bytes
from zktrace.web.app import create_app
from zktrace.web.models import Model


class Agent(Model):
    agent: str
    name: str
    ensemble: str
    messages: int
    missing_messages: int = Field(description="Numbers that never came")
    requests: int
    silent_s: float = Field(description="Since its latest message was made")
    coverage: dict[str, Any]


class Fleet(Model):
    bus: str = Field(description="What messages come by: NATS or Kafka")
    nats: str | None = Field(description="Where it is; null: it is another bus")
    kafka: str | None = Field(description="Where it is; null: it is another bus")
    problem: str | None = Field(description="Why it does not answer just now")
    behind: int | None = Field(description="Messages that were not read yet")
    ensembles: list[str]
    agents: list[Agent]


class _Ensembles:
    """One application per ensemble, made when it is first asked for."""

    def __init__(self, feed: FleetFeed, metrics_top: int) -> None:
        self._feed = feed
        self._top = metrics_top
        self._apps: dict[str, FastAPI] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "")
        name, slash, _ = scope["path"].removeprefix(root).lstrip("/").partition("/")
        picture = self._feed.ensemble(name)
        if picture is None:
            body = json_bytes(
                {
                    "type": "about:blank",
                    "title": "No such ensemble",
                    "status": 404,
                    "detail": "no agent of that ensemble was heard of",
                }
            )
            answer = Response(body, 404, media_type="application/problem+json")
            await answer(scope, receive, send)
            return
        if not slash:
            await RedirectResponse(f"{root}/{name}/")(scope, receive, send)
            return
        app = self._apps.get(name)
        if app is None:
            app = self._apps[name] = create_app(picture, metrics_top=self._top)
        below = {**scope, "root_path": f"{root}/{name}"}
        await app(below, receive, send)


def add(app: FastAPI, feed: FleetFeed, metrics_top: int) -> None:
    """Adds that to the application of all agents."""

    @app.get("/api/fleet", response_model=Fleet, summary="Agents", tags=["whole"])
    def fleet() -> Response:
        return Response(json_bytes(feed.state()), media_type="application/json")

    app.mount("/ensembles", _Ensembles(feed, metrics_top))
