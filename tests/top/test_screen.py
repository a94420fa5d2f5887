"""The screen, driven by keys, over a real capture."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from zktrace.top.screen import Top
from zktrace.top.source import Object, Source
from zktrace.top.views import Place


class Screen:
    """What a person sees of it."""

    def __init__(self, app: Top, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    def text(self, selector: str) -> str:
        return str(self.app.query_one(selector, Static).render())

    def first_row(self) -> list[str]:
        table = self.app.query_one(DataTable)
        return [str(cell) for cell in table.get_row_at(0)] if table.row_count else []

    async def keys(self, *keys: str) -> None:
        """Presses them, and waits until the question that follows is answered."""
        await self.pilot.press(*keys)
        await self.settled()

    async def settled(self) -> None:
        await self.pilot.pause()
        await self.app.workers.wait_for_complete()
        await self.pilot.pause()


def drive(api: Any, steps: Callable[[Screen], Awaitable[None]], place: Place | None = None) -> None:
    async def run() -> None:
        async with Source("http://localhost", app=api) as source:
            app = Top(source, place or Place("ops", "all"))
            async with app.run_test(size=(140, 40)) as pilot:
                screen = Screen(app, pilot)
                await screen.settled()
                await steps(screen)

    asyncio.run(run())


def test_a_person_goes_from_the_op_to_its_events_and_back(api: Any) -> None:
    async def steps(screen: Screen) -> None:
        assert "280.2 req/s" in screen.text("#headline")
        assert screen.first_row()[:2] == ["getData", "520"]
        await screen.keys("enter")
        assert screen.first_row()[:2] == ["127.0.0.1", "520"]
        assert 'filter op == "getData"' in screen.text("#where")
        await screen.keys("enter")
        assert screen.first_row()[0] == "/h/n"
        await screen.keys("escape", "escape")
        assert screen.first_row()[:2] == ["getData", "520"]
        assert screen.app.place == Place("ops", "all")

    drive(api, steps)


def test_views_orders_and_windows_by_key(api: Any) -> None:
    async def steps(screen: Screen) -> None:
        await screen.keys("3")
        assert screen.text("#where").startswith("Paths")
        await screen.keys("s")
        assert screen.app.place.sort == "key"
        assert screen.first_row()[0] == "(no path)" or screen.first_row()[0].startswith("/")
        await screen.keys("w")
        assert screen.app.place.window == "10s"
        await screen.keys("5")
        assert screen.first_row()[0].startswith("0x")
        await screen.keys("enter")
        assert screen.app.place.view == "events"
        assert "session == 0x" in screen.text("#where")

    drive(api, steps)


def test_a_filter_is_typed_refused_with_its_place_and_taken_back(api: Any) -> None:
    async def steps(screen: Screen) -> None:
        await screen.keys("slash")
        screen.app.query_one(Input).value = "op == and"
        await screen.keys("enter")
        told = screen.text("#told").splitlines()
        assert told[1].index("^") == told[0].index("and")
        assert screen.first_row()[0] == "getData", "what was shown stays"
        await screen.keys("slash")
        screen.app.query_one(Input).value = 'op == "delete"'
        await screen.keys("enter")
        assert screen.text("#told") == ""
        assert screen.first_row()[0] == "delete"
        await screen.keys("escape", "escape")
        assert screen.app.place.filter is None

    drive(api, steps)


def test_paths_are_a_tree(api: Any) -> None:
    async def steps(screen: Screen) -> None:
        assert screen.first_row()[0] == "/h +3"
        await screen.keys("enter")
        assert "under /h" in screen.text("#where")
        assert screen.first_row()[0] == "/h/n"

    drive(api, steps, Place("paths", "all"))


def test_no_answer_is_told_and_what_was_shown_stays(api: Any) -> None:
    async def steps(screen: Screen) -> None:
        class Gone(Source):
            async def get(self, path: str, params: Any) -> Object:
                from zktrace.top.source import SourceError

                raise SourceError("nobody is there")

        screen.app._source = Gone("http://localhost", app=api)
        await screen.keys("w")
        assert screen.text("#told") == "nobody is there"
        assert screen.first_row()[:2] == ["getData", "520"]

    drive(api, steps)


def test_paused_asks_no_more(api: Any) -> None:
    async def steps(screen: Screen) -> None:
        await screen.keys("p")
        assert "PAUSED" in screen.text("#where")
        asked: list[str] = []

        class Noting(Source):
            async def get(self, path: str, params: Any) -> Object:
                asked.append(path)
                return await super().get(path, params)

        screen.app._source = Noting("http://localhost", app=api)
        screen.app._tick()
        await screen.settled()
        assert asked == []
        await screen.keys("p")
        assert asked

    drive(api, steps)
