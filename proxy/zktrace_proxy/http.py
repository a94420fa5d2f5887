"""``/api/faults``: rules of a running proxy, listed, given and taken back over HTTP; and
``/api/upstreams``: the servers behind it.

:mod:`zktrace.web.security` stands before it, as before the rest of the API: the token, the Host
header, and no request that changes something from another site's page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from zktrace.web.answers import Problem, json_bytes
from zktrace_proxy.faults import Fault, Faults, TooMany
from zktrace_proxy.rules import MAX_RULE, RuleError
from zktrace_proxy.upstreams import Upstreams

if TYPE_CHECKING:
    from zktrace_proxy.replay.shadow.shadow import Shadow


class RuleGiven(BaseModel):
    """What is posted."""

    model_config = ConfigDict(extra="forbid")

    rule: str = Field(
        min_length=1,
        max_length=MAX_RULE,
        description="ACTION [VALUE] [KEY=VALUE ...] [when FILTER], such as `drop-reply nth=1 when "
        'op == "create"`',
    )


class FaultRow(BaseModel):
    id: int
    rule: str
    action: str
    matched: int = Field(description="Connections or frames that it was true of")
    fired: int = Field(description="To how many of them something was done")
    over: bool = Field(description="It will do nothing more")


class FaultList(BaseModel):
    rows: list[FaultRow]


class Removed(BaseModel):
    removed: int


class UpstreamRow(BaseModel):
    listener: str
    server: str
    name: str = Field(description="The host that was given, which its certificate is to be for")
    up: bool | None = Field(description="None: it was not checked (--health-check)")
    mode: str | None = Field(description="leader, follower, standalone ..., as srvr says it")
    why: str | None = Field(description="Why the latest check failed")
    failures: int = Field(description="Checks that failed in a row")
    since: float | None = Field(description="When `up` last changed; seconds since 1970")


class UpstreamList(BaseModel):
    rows: list[UpstreamRow]


def _row(fault: Fault) -> dict[str, Any]:
    return {
        "id": fault.id,
        "rule": fault.rule.text,
        "action": fault.rule.name,
        "matched": fault.matched,
        "fired": fault.fired,
        "over": fault.over,
    }


def _json(body: Any, status: int = 200) -> Response:
    return Response(json_bytes(body), status, media_type="application/json")


def add(app: FastAPI, faults: Faults, upstreams: Upstreams, shadow: Shadow | None = None) -> None:
    """The routes."""
    if shadow is not None:
        from zktrace_proxy.replay.shadow import http

        http.add(app, shadow)

    @app.get(
        "/api/upstreams",
        response_model=UpstreamList,
        summary="Servers behind each listener, and how they are",
        tags=["upstreams"],
    )
    def servers() -> Response:
        listening = upstreams.listening()
        rows = [
            {
                "listener": listening[one.listener],
                "server": one.address,
                "name": one.name,
                "up": one.up,
                "mode": one.mode,
                "why": one.why,
                "failures": one.failures,
                "since": one.since_s,
            }
            for one in upstreams.health()
        ]
        return _json({"rows": rows})

    @app.get("/api/faults", response_model=FaultList, summary="Rules in force", tags=["faults"])
    def listed() -> Response:
        return _json({"rows": [_row(one) for one in faults.list()]})

    @app.post(
        "/api/faults",
        response_model=FaultRow,
        status_code=201,
        summary="Put a rule in force, for open connections, too",
        tags=["faults"],
    )
    def given(wanted: RuleGiven) -> Response:
        try:
            number = faults.add(wanted.rule)
        except RuleError as error:
            raise Problem(400, "Wrong rule", str(error)) from None
        except TooMany as error:
            raise Problem(409, "Too many rules", str(error)) from None
        row = next((_row(one) for one in faults.list() if one.id == number), None)
        if row is None:
            raise Problem(409, "Gone", f"rule {number} was taken back meanwhile")
        return _json(row, 201)

    @app.delete(
        "/api/faults/{number}",
        response_model=Removed,
        summary="Take a rule back",
        tags=["faults"],
    )
    def removed(number: int) -> Response:
        if not faults.remove(number):
            raise Problem(404, "Not known", f"there is no rule {number}")
        return _json({"removed": 1})

    @app.delete(
        "/api/faults", response_model=Removed, summary="Take all rules back", tags=["faults"]
    )
    def cleared() -> Response:
        return _json({"removed": faults.clear()})
