"""Server-sent events: what a viewer is sent, and what becomes of a slow one."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from tests.web.conftest import picture_of
from zktrace.analysis.filter import compile_filter
from zktrace.store.picture import Picture
from zktrace.web.stream import BURST, Streams


def _take(picture: Picture, after: int | None, where: Any, count: int) -> list[dict[str, Any]]:
    streams = Streams()

    async def never() -> bool:
        return False

    async def collect() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async for chunk in streams.events(picture, after, where, never):
            for line in chunk.decode().splitlines():
                if line.startswith("data: "):
                    found.append(json.loads(line[6:]))
            if len(found) >= count:
                break
        return found

    with_timeout = anyio.run(collect)
    return with_timeout


def test_the_newest_are_sent_and_the_others_counted(herd: Picture) -> None:
    (message,) = _take(herd, -1, None, 1)
    assert len(message["events"]) == BURST
    assert message["dropped"] == len(herd.latest()) - BURST
    assert message["state"] == "done"


def test_a_filter_selects(herd: Picture) -> None:
    (message,) = _take(herd, -1, compile_filter("op == setData"), 1)
    assert [one["op"] for one in message["events"]] == ["setData"] * 10
    assert message["dropped"] == 0


def test_what_was_seen_is_not_sent_again(herd: Picture) -> None:
    last = herd.latest().last
    (message,) = _take(herd, last - 3, None, 1)
    assert len(message["events"]) == 3
    (message,) = _take(herd, None, None, 1)
    assert message["events"] == []


def test_what_was_forgotten_is_counted() -> None:
    picture = picture_of("22_pipelined.pcap", recent_rows=100, engine="python")
    first, last = picture.latest().view.numbers() or (0, 0)
    assert first > 10
    made, dropped, seen = Streams().next(picture, 10, None)
    assert seen == last
    assert len(made) + dropped == last - 10
    assert len(made) == min(BURST, last - first + 1)


@pytest.mark.parametrize("after", [-1, 0, 1 << 62])
def test_any_number_will_do(herd: Picture, after: int) -> None:
    assert len(_take(herd, after, None, 1)) == 1
