"""What top shows, held to the API's own answers of a real capture."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from zktrace.top.source import Source, SourceError
from zktrace.top.views import VIEWS, WINDOWS, Place, cells, headline, next_sort, seconds_of
from zktrace.web.models import WindowName


def ask(app: Any, path: str, **params: Any) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with Source("http://localhost", app=app) as source:
            return await source.get(path, params)

    return asyncio.run(run())


@pytest.mark.parametrize("name", VIEWS)
def test_every_order_of_every_view_is_one_of_the_api(api: Any, of_users: Any, name: str) -> None:
    api = of_users if name == "users" else api
    view = VIEWS[name]
    place = Place(name, "all")
    seen = set()
    while place.sort not in seen:
        seen.add(place.sort)
        answer = ask(api, view.path, **view.params(place))
        assert answer["rows"]
        for row in answer["rows"]:
            assert len(cells(view, row, 1.0)) == len(view.columns)
        place = Place(name, "all", next_sort(view, place.sort))


@pytest.mark.parametrize("name", [name for name in VIEWS if name != "events"])
def test_every_row_leads_to_a_place_that_shows_something(
    api: Any, of_users: Any, name: str
) -> None:
    api = of_users if name == "users" else api
    view = VIEWS[name]
    place = Place(name, "all")
    went = 0
    for row in ask(api, view.path, **view.params(place))["rows"][:3]:
        there = view.leads(place, row)
        if there is None:
            continue
        went += 1
        onward = VIEWS[there.view]
        assert ask(api, onward.path, **onward.params(there))["rows"]
    assert went


def test_windows_are_the_apis() -> None:
    assert set(WINDOWS) <= {one.value for one in WindowName}


def test_headline_and_rates(api: Any) -> None:
    summary = ask(api, "summary", window="all")
    first, second, third = headline(summary)
    assert "57_v39_herd.pcap" in first
    assert "280.2 req/s" in second
    assert third == "not seen: nothing known"
    rows = ask(api, "ops", window="all")
    seconds = seconds_of(rows, summary)
    coverage = summary["coverage"]
    assert seconds == (coverage["last_ts_ns"] - coverage["first_ts_ns"]) / 1e9
    assert cells(VIEWS["ops"], rows["rows"][0], seconds)[:3] == ["getData", "520", "141"]
    assert seconds_of({**rows, "complete": False}, summary) == 0.0


def test_hostile_names_cannot_drive_the_terminal(api: Any) -> None:
    row = ask(api, "paths", window="all")["rows"][0]
    shown = cells(VIEWS["paths"], {**row, "path": "/\x1b[31m\n"}, 1.0)[0]
    assert shown.isprintable()
    there = VIEWS["paths"].leads(Place("paths"), {**row, "path": '/a"\\b', "children": 0})
    assert there is not None
    assert there.filter == 'path == "/a\\"\\\\b"'
    ask(api, "clients", filter=there.filter)


def test_a_wrong_filter_is_told_with_its_place(api: Any) -> None:
    with pytest.raises(SourceError) as told:
        ask(api, "ops", filter="op == and")
    assert told.value.position == len("op == ")


def test_what_is_not_zktrace_is_told_in_one_line() -> None:
    async def other(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>"})

    with pytest.raises(SourceError, match="is not zktrace"):
        ask(other, "summary")


def test_nobody_there(unused_port: int) -> None:
    async def run() -> None:
        async with Source(f"http://127.0.0.1:{unused_port}") as source:
            await source.get("summary", {})

    with pytest.raises(SourceError, match="does not answer"):
        asyncio.run(run())


def test_a_rest_of_paths_is_not_taken_for_operations_without_one() -> None:
    """Both have no path: what was not kept apart is another thing."""
    cell = VIEWS["paths"].columns[0].cell
    assert cell({"path": None, "below": True, "children": 0}, 1.0) == "(others)"
    assert cell({"path": None, "below": False, "children": 0}, 1.0) == "(no path)"
