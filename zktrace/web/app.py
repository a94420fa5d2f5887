"""The application: routes, their parameters, what goes wrong with them.

Answers are made by :mod:`zktrace.web.views` and :mod:`zktrace.web.overview` in worker threads. The
page and the API's documentation are files of this package; nothing is loaded from another host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from zktrace import __version__
from zktrace.analysis.filter_syntax import FilterError
from zktrace.store.picture import Picture
from zktrace.web import details, findings, metrics, models, overview, slices, views
from zktrace.web.answers import Answers, Problem, csv_bytes, json_bytes
from zktrace.web.models import (
    Format,
    RowSort,
    SessionSort,
    SlowSort,
    WatchSort,
    WindowName,
    ZnodeSort,
)
from zktrace.web.ready import Ready
from zktrace.web.security import App, Guard
from zktrace.web.stream import MAX_STREAMS, Streams

if TYPE_CHECKING:
    from zktrace.analysis.filter import Filter

MAX_LIMIT: Final = 1000
_MAX_FILTER: Final = 2000
_JSON: Final = "application/json"

Window = Annotated[WindowName, Query(description="How far back to look")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows, at most")]
Where = Annotated[
    str | None,
    Query(
        max_length=_MAX_FILTER,
        description='Only events that match, such as `path =~ "/locks/**" and latency > 10ms`; '
        "rows are then made of the latest events (see basis)",
    ),
]
As = Annotated[Format, Query(alias="format", description="json or csv (the rows)")]

_PROBLEM: Final[dict[int | str, dict[str, Any]]] = {
    code: {
        "description": words,
        "content": {"application/problem+json": {"schema": models.Problem.model_json_schema()}},
    }
    for code, words in (
        (400, "The filter is wrong (position says where), or the body is no JSON"),
        (401, "No token"),
        (403, "It comes from another site"),
        (404, "Not known"),
        (413, "Too long"),
        (415, "Not JSON"),
        (421, "The Host header names another host"),
        (422, "A parameter is wrong"),
        (507, "No room"),
        (503, "Too many streams, or the source failed"),
    )
}


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: _PROBLEM[code] for code in (401, 421, *codes)}


_LIST: Final = _problems(400, 422)
_LIST[200] = {"content": {"text/csv": {"schema": {"type": "string"}}}}


def filter_of(expression: str | None) -> Filter | None:
    """The filter of a parameter; :class:`Problem` says where it is wrong."""
    if expression is None or not expression.strip():
        return None
    from zktrace.analysis.filter import compile_filter

    try:
        return compile_filter(expression)
    except FilterError as error:
        raise Problem(
            400,
            "Wrong filter",
            error.message,
            expression=error.expression,
            position=error.position,
        ) from None
    except RecursionError:
        raise Problem(400, "Wrong filter", "nested too deeply") from None


def _problem(problem: Problem) -> Response:
    return Response(json_bytes(problem.body), problem.status, media_type="application/problem+json")


class _Api:
    """The routes, with what they need."""

    def __init__(self, picture: Picture, top: int) -> None:
        self.picture = picture
        self.answers = Answers(picture)
        self.streams = Streams()
        self.top = top

    def json(self, key: Any, make: Callable[[], Any]) -> Response:
        body = self.answers.get(key, lambda: json_bytes(make()))
        return Response(body, media_type=_JSON)

    def listed(
        self, key: tuple[Any, ...], form: Format, make: Callable[[], dict[str, Any]]
    ) -> Response:
        """A list as JSON, or its rows as CSV."""
        if form is Format.json:
            return self.json(key, make)
        body = self.answers.get((*key, "csv"), lambda: csv_bytes(make()["rows"]))
        name = f"zktrace-{key[0]}.csv"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(body, media_type="text/csv; charset=utf-8", headers=headers)


def create_app(picture: Picture, *, metrics_top: int = 0) -> FastAPI:
    """The application over a picture. `metrics_top`: how many clients and paths /metrics names."""
    api = _Api(picture, metrics_top)
    app = FastAPI(
        title="zktrace",
        version=__version__,
        description="What was seen of ZooKeeper's traffic. Times are nanoseconds since 1970 "
        "(`ts_ns`), latencies microseconds, bytes those of frames without their length.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.streams = api.streams
    app.state.proofs = None
    _handlers(app)
    _groupings(app, api)
    _details(app, api)
    _whole(app, api)
    slices.add(app, picture, _problems(400, 403, 404, 413, 415, 422, 507))
    _pages(app)
    return app


def guarded(app: FastAPI, *, token: str | None = None, hosts: Iterable[str] = ()) -> App:
    """The application as it may be served."""
    return Guard(Ready(app), token=token, hosts=hosts)


def _handlers(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return _problem(error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        words = [
            f"{'.'.join(str(part) for part in one['loc'][1:])}: {one['msg']}"
            for one in error.errors()
        ]
        return _problem(Problem(422, "Wrong parameter", "; ".join(words)))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        answer = _problem(Problem(error.status_code, str(error.detail), str(error.detail)))
        for name, value in (error.headers or {}).items():
            answer.headers[name] = value
        return answer


def _groupings(app: FastAPI, api: _Api) -> None:
    picture = api.picture

    def grouping(by: str, model: Any, words: str) -> None:
        def route(
            window: Window = WindowName.all,
            limit: Limit = 100,
            sort: RowSort = RowSort.requests,
            filter: Where = None,
            form: As = Format.json,
        ) -> Response:
            where = filter_of(filter)
            return api.listed(
                (by, window, limit, sort, filter),
                form,
                lambda: views.rows(picture, by, window, limit, sort, where),
            )

        route.__name__ = f"{by}s"
        app.get(
            f"/api/{by}s",
            response_model=model,
            responses=_LIST,
            summary=words,
            tags=["groupings"],
        )(route)

    grouping("op", models.Rows[models.OpRow], "By operation")
    grouping("client", models.Rows[models.ClientRow], "By client address")
    grouping("server", models.Rows[models.ServerRow], "By server")
    grouping("user", models.Rows[models.UserRow], "By who has authenticated")
    grouping(
        "fingerprint",
        models.Rows[models.FingerprintRow],
        "By the shape of paths: the znodes of a recipe as one row",
    )

    @app.get(
        "/api/paths",
        response_model=models.Rows[models.PathRow],
        responses=_LIST,
        summary="By znode: flat, or a level of the tree",
        tags=["groupings"],
    )
    def paths(
        window: Window = WindowName.all,
        limit: Limit = 100,
        sort: RowSort = RowSort.requests,
        filter: Where = None,
        under: Annotated[
            str | None, Query(max_length=4096, description="Only at and below this path")
        ] = None,
        depth: Annotated[
            int | None,
            Query(ge=1, le=1000, description="Components below `under` that rows are cut to"),
        ] = None,
        form: As = Format.json,
    ) -> Response:
        where = filter_of(filter)
        return api.listed(
            ("paths", window, limit, sort, filter, under, depth),
            form,
            lambda: views.paths(picture, window, limit, sort, where, under, depth),
        )


def _details(app: FastAPI, api: _Api) -> None:
    picture = api.picture

    @app.get(
        "/api/clients/{ip}",
        response_model=models.Client,
        responses=_problems(404, 422),
        summary="One client",
        tags=["details"],
    )
    def client(ip: str, window: Window = WindowName.all, limit: Limit = 50) -> Response:
        from ipaddress import ip_address

        try:
            ip_address(ip)
        except ValueError:
            raise Problem(404, "Not known", f"{ip!r} is no IP address") from None

        def make() -> Any:
            found = details.client(picture, ip, window, limit)
            if found is None:
                raise Problem(404, "Not known", f"nothing was seen of {ip}")
            return found

        return api.json(("client", ip, window, limit), make)

    @app.get(
        "/api/sessions",
        response_model=models.SessionList,
        responses=_LIST,
        summary="Sessions: moves, silences, ends",
        tags=["details"],
    )
    def sessions(
        window: Window = WindowName.all,
        limit: Limit = 100,
        sort: SessionSort = SessionSort.last_seen,
        filter: Where = None,
        form: As = Format.json,
    ) -> Response:
        where = filter_of(filter)
        return api.listed(
            ("sessions", window, limit, sort, filter),
            form,
            lambda: details.sessions(picture, window, limit, sort, where),
        )

    @app.get(
        "/api/sessions/{id}",
        response_model=models.SessionDetail,
        responses=_problems(404, 422),
        summary="One session",
        tags=["details"],
    )
    def session(id: str, limit: Limit = 50) -> Response:
        digits = id.lower().removeprefix("0x")
        if not 1 <= len(digits) <= 16 or digits.strip("0123456789abcdef"):
            raise Problem(404, "Not known", "a session is 0x and up to 16 hex digits")
        number = int(digits, 16)

        def make() -> Any:
            found = details.session(picture, number, limit)
            if found is None:
                raise Problem(404, "Not known", f"no session 0x{number:016x} was seen")
            return found

        return api.json(("session", number, limit), make)

    @app.get(
        "/api/slow",
        response_model=models.SlowList,
        responses=_LIST,
        summary="The slowest exchanges",
        tags=["details"],
    )
    def slow(
        window: Window = WindowName.all,
        limit: Limit = 100,
        sort: SlowSort = SlowSort.latency,
        filter: Where = None,
        form: As = Format.json,
    ) -> Response:
        where = filter_of(filter)
        return api.listed(
            ("slow", window, limit, sort, filter),
            form,
            lambda: details.slow(picture, window, limit, sort, where),
        )

    @app.get(
        "/api/findings",
        response_model=models.FindingList,
        responses=_LIST,
        summary="What stands out: herds, sessions near or past their end, outliers of the slow log",
        tags=["details"],
    )
    def found(limit: Limit = 100, form: As = Format.json) -> Response:
        return api.listed(
            ("findings", limit),
            form,
            lambda: findings.listed(picture, app.state.proofs, limit),
        )

    @app.get(
        "/api/znodes",
        response_model=models.ZnodeList,
        responses=_LIST,
        summary="The largest znodes, the largest parents, the largest messages, ever seen",
        tags=["details"],
    )
    def znodes(
        limit: Limit = 100,
        sort: ZnodeSort = ZnodeSort.data,
        filter: Where = None,
        form: As = Format.json,
    ) -> Response:
        where = filter_of(filter)
        return api.listed(
            ("znodes", limit, sort, filter),
            form,
            lambda: details.znodes(picture, limit, sort, where),
        )

    @app.get(
        "/api/watches",
        response_model=models.WatchList,
        responses=_LIST,
        summary="Watches registered and fired, and the fan-out of writes",
        tags=["details"],
    )
    def watches(
        window: Window = WindowName.all,
        limit: Limit = 100,
        sort: WatchSort = WatchSort.fired,
        filter: Where = None,
        form: As = Format.json,
    ) -> Response:
        where = filter_of(filter)
        return api.listed(
            ("watches", window, limit, sort, filter),
            form,
            lambda: details.watches(picture, window, limit, sort, where),
        )

    @app.get(
        "/api/events",
        response_model=models.EventList,
        responses=_LIST,
        summary="The latest events, latest first",
        tags=["events"],
    )
    def events(limit: Limit = 100, filter: Where = None, form: As = Format.json) -> Response:
        where = filter_of(filter)
        return api.listed(
            ("events", limit, filter), form, lambda: views.events(picture, limit, where)
        )

    @app.get(
        "/api/stream",
        responses={
            **_problems(400, 422, 503),
            200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        },
        response_class=StreamingResponse,
        summary="Events as they come (server-sent events)",
        tags=["events"],
    )
    async def stream(
        request: Request,
        filter: Where = None,
        after: Annotated[
            int | None, Query(ge=-1, le=1 << 62, description="Begin after this event")
        ] = None,
    ) -> Response:
        where = filter_of(filter)
        if api.streams.open >= MAX_STREAMS:
            raise Problem(503, "Too many streams", f"{MAX_STREAMS} viewers follow already")
        known = request.headers.get("last-event-id", "")
        if after is None and known.isascii() and known.isdigit():
            after = int(known[:18])
        return StreamingResponse(
            api.streams.events(picture, after, where, request.is_disconnected),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )


def _whole(app: FastAPI, api: _Api) -> None:
    picture = api.picture

    @app.get(
        "/api/summary",
        response_model=models.Summary,
        responses=_problems(422),
        summary="What stands out",
        tags=["whole"],
    )
    def summary(window: Window = WindowName.all) -> Response:
        return api.json(("summary", window), lambda: overview.summary(picture, window, api.streams))

    @app.get(
        "/api/timeline",
        response_model=models.Timeline,
        responses=_problems(422),
        summary="Rates, latencies and their distribution over time",
        tags=["whole"],
    )
    def timeline(
        window: Window = WindowName.all,
        step: Annotated[
            int | None, Query(ge=1, le=86_400, description="Seconds; default: as it fits")
        ] = None,
    ) -> Response:
        if step is not None and step not in (1, 10) and step % 60:
            raise Problem(422, "Wrong parameter", "step: 1, 10 or a multiple of 60 seconds")
        return api.json(("timeline", window, step), lambda: views.timeline(picture, window, step))

    @app.get(
        "/api/coverage",
        response_model=models.Coverage,
        responses=_problems(),
        summary="What was seen, and what was not",
        tags=["whole"],
    )
    def coverage() -> Response:
        return api.json(("coverage",), lambda: overview.coverage(picture))

    @app.get(
        "/api/ensemble",
        response_model=models.Ensemble,
        responses=_problems(),
        summary="The ensemble, where quorum traffic is seen",
        tags=["whole"],
    )
    def ensemble() -> Response:
        return api.json(("ensemble",), lambda: overview.ensemble(picture))

    @app.get(
        "/metrics",
        responses={
            **_problems(),
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        },
        response_class=Response,
        summary="Prometheus",
        tags=["operation"],
    )
    def prometheus() -> Response:
        body = api.answers.get(("metrics",), lambda: metrics.render(picture, api.top))
        return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get(
        "/healthz",
        response_model=models.Health,
        responses={421: _PROBLEM[421], 503: {"model": models.Health}},
        summary="Whether it works; needs no token",
        tags=["operation"],
    )
    async def healthz() -> Response:
        failed = picture.state == "failed"
        body = {"status": "failed" if failed else "ok", "state": picture.state}
        return Response(json_bytes(body), 503 if failed else 200, media_type=_JSON)


def _pages(app: FastAPI) -> None:
    static = files("zktrace.web") / "static"

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(str(static / "index.html"))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(str(static / "docs.html"))

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return RedirectResponse("/static/icon.svg")

    app.mount("/static", StaticFiles(directory=str(static)), name="static")
