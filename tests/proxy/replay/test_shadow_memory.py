"""What a shadow remembers does not grow with its traffic; nothing differs for what it forgets."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.proxy.replay.support import Address
from tests.proxy.replay.test_shadow import end, kazoo, shadowed, until
from tests.server.ourzk import ours
from zktrace.flow import tcp
from zktrace_proxy.messages.latest import Latest
from zktrace_proxy.replay.effects import Effects
from zktrace_proxy.replay.shadow import limits, run
from zktrace_proxy.replay.start import Node, StartState
from zktrace_server.load import Session

SMALL: Final = {
    "ENDED_MAX": 8, "PATHS_MAX": 64, "UNKNOWN_MAX": 8, "ZXIDS_MAX": 64, "NAMES_MAX": 48,
    "DELETED_MAX": 8, "OFFSETS_MAX": 8, "LEFT_OUT_MAX": 8,
}  # fmt: skip
SESSIONS: Final = 16


class _Counting:
    """Of the sessions of a test."""

    def __init__(self) -> None:
        self.requests = 0

    async def admit(self) -> None:
        pass

    def answered(self, number: int, body: object, err: int, ns: int) -> None:
        self.requests += 1

    def lost(self) -> None:
        pass

    def event(self) -> None:
        pass


async def _visit(address: Address, counting: _Counting, number: int) -> None:
    """A session that makes nodes of both kinds, looks at them, and takes them with it."""
    session = Session([address], counting, timeout_ms=30_000)
    await session.open()
    own = (await session.create("/q/own-", b"", 3)).path
    made = (await session.create("/q/made-", b"x", 2)).path
    await session.watch_data(made)
    await session.watch_list(own)
    await session.set(made, b"y")
    await session.get(made)
    await session.get(f"/old/{number % 100}")
    await session.delete(made)
    if number % 2:
        await session.delete(own)
    await session.list("/q")
    await session.close()


async def _visits(address: Address, counting: _Counting, first: int) -> None:
    for at in range(first, first + SESSIONS, 4):
        await asyncio.gather(*(_visit(address, counting, one) for one in range(at, at + 4)))


def test_sizes_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(limits, name, value)
    monkeypatch.setattr(run, "_LATE_S", 0.0)
    monkeypatch.setattr(tcp, "CLOSING_NS", 50_000_000)
    counting = _Counting()
    held: list[dict[str, int]] = []
    with ours(tmp_path / "a") as first, ours(tmp_path / "b") as second:
        before, beside = kazoo(first.address), kazoo(second.address)
        for one in (before, beside):
            one.create("/q")
            one.create("/old")
        for number in range(100):
            before.create(f"/old/{number}", b"%d" % number)
        # from here on all names with numbers differ
        beside.delete(beside.create("/q/n-", sequence=True))
        with shadowed(first.address, second.address) as (address, shadow):
            for turn in range(4):
                asyncio.run(_visits(address, counting, turn * SESSIONS))
                # connects are not counted there
                sent = counting.requests - (turn + 1) * SESSIONS
                until(partial(lambda sent: bool(shadow.status()["requests"] >= sent), sent))
                # connections are let go when both sides have ended them
                until(lambda: shadow.status()["held"]["live_connections"] == 0)
                told = shadow.status()
                assert told["error"] is None
                held.append(told["held"])
        end(before, beside)
    told = shadow.status()
    assert told["comparison"]["divergences"] == []
    assert told["comparison"]["exchanges"]["mapped"] > 100
    assert told["sessions_left_out"] == told["requests_not_sent"] == told["unseen_writes"] == 0
    most = {
        "sessions": 8, "session_zxids": 8, "paths": 64, "start_nodes": 64, "names": 8, "zxids": 64,
        "versions": 8, "nodes_without_data": 8, "live_sessions": 16, "sessions_over": 16,
        "sessions_left_out": 0, "connections": 0, "conversations": 0, "live_connections": 0,
        "ephemerals": 0, "exchanges": 0, "waiting": 0, "steps_under_way": 0, "watch_events": 0,
    }  # fmt: skip
    for one in held:
        assert one.keys() == most.keys()
        assert {what: count for what, count in one.items() if count > most[what]} == {}
    assert held[-1]["names"] > 0
    forgotten = told["forgotten"]
    assert forgotten["zxids"] > 0
    assert forgotten["paths"] > 0
    assert forgotten["names"] == 0  # nodes that are no more do not count
    assert any("the oldest were forgotten, for room: " in line for line in shadow.lines())


def test_connections_that_were_left_out_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_LATE_S", 0.0)
    monkeypatch.setattr(tcp, "CLOSING_NS", 50_000_000)
    with ours(tmp_path / "a") as first, ours(tmp_path / "b") as second:
        before = kazoo(first.address)
        before.create("/q")
        for number in range(20):
            before.create(f"/old/{number}", b"", makepath=True)
        with shadowed(first.address, second.address) as (address, shadow):
            asyncio.run(_visits(address, _Counting(), 0))
            shadow._feed.closed = "the test says so"
            asyncio.run(_visits(address, _Counting(), 0))

            def nothing_held() -> bool:
                held = shadow.status()["held"]
                names = ("conversations", "connections", "live_connections", "sessions_left_out")
                return not any(held[name] for name in names) and not shadow._replayer._left_out

            until(nothing_held)
        end(before)
    told = shadow.status()
    assert told["left_out"] == {"the test says so": SESSIONS}
    assert told["comparison"]["exchanges"]["different"] == 0


def test_the_latest_are_remembered() -> None:
    latest: Latest[int, str] = Latest(16)
    gone = [one for number in range(100) for one in latest.put(number, str(number))]
    latest.put(90, "again")
    assert len(latest) <= 16
    assert [key for key, _ in gone] == list(range(100 - len(latest)))
    assert latest.forgotten == len(gone)
    assert list(latest)[-2:] == [99, 90]
    assert (latest.get(90), latest.get(3)) == ("again", None)
    assert latest.pop(90) == "again"
    assert 90 not in latest
    whole: Latest[int, int] = Latest(None)
    assert [one for number in range(1000) for one in whole.put(number, 0)] == []
    assert len(whole) == 1000


def test_nodes_from_before_are_told_while_they_pass() -> None:
    start = StartState(64, passing=True)
    told: list[Any] = []
    start.tell = lambda node: told.append(node.path)
    start.tell_data = lambda node: told.append((node.path, node.data))

    def seen(path: str, data: bytes | None) -> None:
        found = Effects()
        found.seen.append((path, None, data, None))
        start.observe(found, error=0)

    seen("/a/b", None)
    seen("/a/b", b"data")
    assert told == ["/a", "/a/b", ("/a/b", b"data")]
    assert list(start.nodes) == ["/a"]
    changed = Effects(writes={"n/a"})
    start.observe(changed, error=0)
    seen("/a", b"of later")
    assert told[3:] == []
    assert start.nodes == {}
    seen("/with", b"at once")
    assert (told.pop(), start.nodes) == ("/with", {})
    for number in range(1000):
        seen(f"/n{number}", None)
        seen("/kept", b"")
    assert start.known <= 64
    assert len(start.nodes) <= 64
    assert told.count("/kept") == 1
    assert start.left_out == 1000 + 4 - start.known
    seen("/a/b", b"again")
    assert told[-2:] == ["/a", "/a/b"]
    assert isinstance(start.nodes["/a"], Node)
