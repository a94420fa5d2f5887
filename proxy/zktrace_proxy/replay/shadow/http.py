"""``/api/shadow``, and the shadow's metrics."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.responses import Response

from zktrace.store.measure import Measure
from zktrace.web.answers import json_bytes
from zktrace_proxy.replay.shadow.shadow import Shadow


def add(app: FastAPI, shadow: Shadow) -> None:
    """The route."""

    @app.get("/api/shadow", summary="Differences of the second ensemble", tags=["shadow"])
    def told() -> Response:
        return Response(json_bytes(shadow.status()), media_type="application/json")


def measures(shadow: Shadow) -> Iterator[Measure]:
    """For ``/metrics``."""
    told = shadow.status()
    found = told["comparison"]
    following = float(told["state"] == "following")
    yield Measure.of("shadow_up", "1 while the shadow is followed.", following, grows=False)
    yield Measure.of(
        "shadow_lag_seconds", "By how much the shadow is behind.", told["lag_s"], grows=False
    )
    for name, words in (
        ("exchanges", "Requests compared, by verdict."),
        ("watch_events", "Watch events compared, by verdict."),
    ):
        rows = tuple(((verdict,), float(count)) for verdict, count in found[name].items())
        yield Measure(f"shadow_{name}", words, True, ("verdict",), rows)
    yield Measure.of(
        "shadow_sessions_left_out",
        "Sessions that the shadow no longer follows.",
        told["sessions_left_out"],
        grows=True,
    )
    yield Measure.of(
        "shadow_requests_not_sent",
        "Requests of sessions that it lost or left out.",
        told["requests_not_sent"],
        grows=True,
    )
