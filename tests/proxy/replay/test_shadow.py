"""Live traffic on two servers: equal where they are, told where they are not, never in the way."""

from __future__ import annotations

import asyncio
import json
import re
import struct
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kazoo.client import KazooClient

from tests.proxy.conftest import Proxy
from tests.proxy.replay.support import Address, Faulty
from tests.server.ourzk import ours
from zktrace.wire.message import frame
from zktrace.wire.records import ConnectRequest, ConnectResponse
from zktrace_proxy.fallback.tap import Flow, Queue, Tap
from zktrace_proxy.messages.exchanges import Exchange
from zktrace_proxy.messages.reader import Heard
from zktrace_proxy.plane import Config, Listener, Upstream, create
from zktrace_proxy.replay import steps
from zktrace_proxy.replay.prepare import Planner
from zktrace_proxy.replay.run import Options
from zktrace_proxy.replay.shadow import feed, run
from zktrace_proxy.replay.shadow.shadow import Shadow
from zktrace_server.load import WORKLOADS
from zktrace_server.load import Options as Load
from zktrace_server.load import run as load

#: `large` takes seconds to make its tree
NAMES = tuple(name for name in WORKLOADS if name != "large")
END_S = 120


@contextmanager
def shadowed(first: Address, second: Address, **options: Any) -> Iterator[tuple[Address, Shadow]]:
    """A proxy with a shadow: where clients connect. At the end all is compared."""
    listener = Listener("127.0.0.1:0", (Upstream.of(f"{first[0]}:{first[1]}"),))
    plane = create(Config((listener,), taps=0, observers=1))
    shadow = Shadow(plane, 0, second, **options)
    shadow.start()
    try:
        host, _, port = plane.addresses()[0].rpartition(":")
        yield (host, int(port)), shadow
    finally:
        plane.stop()
        assert shadow.join(END_S)


def clients(address: Address, names: tuple[str, ...] = NAMES, **given: Any) -> Any:
    values: dict[str, Any] = {"clients": 18, "ops": 900, "timeout_ms": 30_000, **given}
    return asyncio.run(load(Load([address], names, **values)))


def test_all_workloads_are_equal_on_both(tmp_path: Path) -> None:
    with (
        ours(tmp_path / "a") as first,
        ours(tmp_path / "b") as second,
        shadowed(first.address, second.address) as (address, shadow),
    ):
        report = clients(address)
        # zxids of sessions are not those of unseen writers, while it goes on either
        until(lambda: shadow.status()["requests"] >= report.tally.requests)
        until(lambda: shadow.status()["unseen_writes"] == 0)
    told = shadow.status()
    assert told["comparison"]["divergences"] == []
    counts = told["comparison"]["exchanges"]
    assert counts["equal"] + counts["mapped"] >= report.tally.requests
    assert counts["different"] == told["comparison"]["watch_events"]["different"] == 0
    assert told["comparison"]["watch_events"]["equal"] > 20
    assert told["sessions_left_out"] == told["requests_not_sent"] == told["unseen_writes"] == 0
    assert told["complete_until"] is None
    assert told["error"] is None
    assert told["state"] == "ended"


def kazoo(address: Address) -> Any:
    made = KazooClient(f"{address[0]}:{address[1]}", timeout=30)
    made.start(60)
    return made


def end(*them: Any) -> None:
    for one in them:
        one.stop()
        one.close()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + END_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_was_there_before_is_made_or_left_as_it_is(tmp_path: Path) -> None:
    with ours(tmp_path / "a") as first, ours(tmp_path / "b") as second:
        before, beside = kazoo(first.address), kazoo(second.address)
        for path in ("/app", "/app/one", "/app/two"):
            before.create(path, b"data of " + path.encode())
        beside.create("/app", b"data of /app")
        with shadowed(first.address, second.address) as (address, shadow):
            one = kazoo(address)
            assert one.exists("/app/one")
            assert one.get("/app/one")[0] == b"data of /app/one"
            assert sorted(one.get_children("/app")) == ["one", "two"]
            one.get("/app/two")
            one.set("/app", b"other", version=0)
            made = one.create("/app/n-", sequence=True)
            one.delete(made)
            end(one)
        assert beside.get("/app/one")[0] == b"data of /app/one"
        assert beside.get("/app")[0] == b"other"
        end(before, beside)
    told = shadow.status()
    assert told["comparison"]["divergences"] == []
    assert (told["nodes_made"], told["nodes_there"]) == (2, 1)


def test_a_difference_is_told_when_it_is_seen(tmp_path: Path) -> None:
    def bug(payload: bytes, number: int) -> bytes:
        return payload.replace(b"right", b"wrong")

    told: list[dict[str, Any]] = []
    with (
        ours(tmp_path / "a") as first,
        ours(tmp_path / "b") as second,
        Faulty(second.address, bug) as faulty,
        shadowed(first.address, faulty.address) as (address, shadow),
    ):
        shadow.tell = told.extend
        one = kazoo(address)
        one.create("/node", b"right")
        one.get("/node")
        until(lambda: bool(told))
        end(one)
    (found,) = told
    assert (found["kind"], found["op"], found["path"], found["what"]) == (
        "difference", "getData", "/node", "data",
    )  # fmt: skip
    assert b"right" not in json.dumps(told).encode()
    assert shadow.status()["comparison"]["exchanges"]["different"] == 1
    assert any(line.startswith("shadow DIFFERS: getData /node") for line in shadow.lines())


def test_a_lost_watch_event_of_the_second_one(tmp_path: Path) -> None:
    with (
        ours(tmp_path / "a") as first,
        ours(tmp_path / "b") as second,
        Faulty(second.address, lambda p, _: None if p[:4] == b"\xff" * 4 else p) as faulty,
        shadowed(first.address, faulty.address) as (address, shadow),
    ):
        one = kazoo(address)
        heard = one.handler.event_object()
        one.create("/node", b"")
        one.get("/node", watch=lambda event: heard.set())
        one.set("/node", b"x")
        assert heard.wait(60)
        one.get("/node")
        end(one)
    told = shadow.status()
    assert told["comparison"]["watch_events"]["different"] == 1
    assert told["watch_events_missing"] == 1


def test_a_second_one_that_hangs_delays_nobody_and_is_told(tmp_path: Path) -> None:
    with (
        ours(tmp_path / "a") as first,
        ours(tmp_path / "b") as second,
        Faulty(second.address, lambda payload, number: None) as silent,
        shadowed(first.address, silent.address, reply_timeout_s=0.5) as (address, shadow),
    ):
        report = clients(address, ("mix",), clients=4, ops=3000)
        assert report.tally.requests >= 3000
    told = shadow.status()
    assert told["comparison"]["exchanges"]["equal"] == 0
    assert told["complete_until"] is not None
    assert any("no reply within" in note for note in told["notes"])
    assert told["requests_not_sent"] > 1000


class Played:
    """A plane that is over: blocks of a tap, and when each is asked for (ns)."""

    def __init__(self, blocks: list[tuple[int, bytes]]) -> None:
        self.blocks = blocks
        self.now_ns = 0

    def next(self, timeout_s: float, tap: int = 0) -> bytes | None:
        self.now_ns, block = self.blocks.pop(0)
        return block

    def ended(self, tap: int = 0) -> bool:
        return not self.blocks


def test_idle_clients_are_not_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of nothing but pings, then a request: nobody is left out for that."""
    queue = Queue(1 << 20, lossless=True)
    tap = Tap([queue])
    begin = 10**18
    flow = Flow(tap, ("10.0.0.1", 4000), ("10.0.0.2", 2181), begin)
    flow.data(0, frame(ConnectRequest(0, 0, 30_000, 0, bytes(16), False).encode()), begin)
    flow.data(1, frame(ConnectResponse(0, 30_000, 7, bytes(16), False).encode()), begin + 1)
    blocks = [(begin + 2, queue.next(0) or b"")]
    for second in range(1, 61):
        at = begin + second * 10**9
        flow.data(0, frame(struct.pack(">ii", -2, 11)), at)
        flow.data(1, frame(struct.pack(">iqi", -2, 1, 0)), at + 1)
        blocks.append((at + 2, queue.next(0) or b""))
    plane: Any = Played(blocks)
    clock = SimpleNamespace(time_ns=lambda: plane.now_ns, monotonic=lambda: plane.now_ns / 1e9)
    monkeypatch.setattr(feed, "time", clock)
    out: list[str] = []
    shadowed = feed.ShadowFeed(plane, 0, lambda conn, why: out.append(why))
    shadowed.start()
    until(lambda: shadowed.take()[1])
    assert shadowed.failure is None
    assert out == []
    assert shadowed.lag_s < 1


def test_sessions_are_left_out_when_it_is_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(feed, "LAG_S", 0.0)
    with (
        ours(tmp_path / "a") as first,
        ours(tmp_path / "b") as second,
        shadowed(first.address, second.address) as (address, shadow),
    ):
        report = clients(address, ("mix",), clients=4, ops=3000)
        assert report.tally.requests >= 3000
        assert shadow.status()["sessions_left_out"] > 0
    told = shadow.status()
    assert told["error"] is None
    assert list(told["left_out"]) == ["the shadow was 0 s behind"]
    assert told["complete_until"] is not None
    assert any("left out: the shadow was" in line for line in shadow.lines())


def test_what_comes_of_a_session_that_was_left_out_and_forgotten() -> None:
    """It was on its way when the session was left out: nobody asks for it any more."""
    late = Exchange(5, 3, 4, 7, struct.pack(">iii", 7, 4, 0), 10**18)
    ready: list[Any] = [
        ([(late, (steps.REQUEST, 9, False, (), (), False, (), ()))], False),
        ([], True),
    ]
    shadowed: Any = SimpleNamespace(take=lambda: ready.pop(0))
    planner = Planner(Heard())
    replayer = run.ShadowReplayer(
        planner.plan, Options(("127.0.0.1", 1)), shadowed, lambda found: None
    )
    asyncio.run(replayer._feed())
    assert ready == []
    planner.plan.close()


def test_one_that_is_not_there_and_comes(tmp_path: Path) -> None:
    with ours(tmp_path / "a") as first, ours(tmp_path / "b") as second:
        second.stop()
        port = second.address[1]
        with shadowed(first.address, second.address) as (address, shadow):
            early = kazoo(address)
            early.create("/early", b"")
            until(lambda: shadow.state == "waiting")
            second.set(clientPort=str(port))
            second.start()
            until(lambda: shadow.state == "following")
            late = kazoo(address)
            late.create("/late", b"")
            late.get("/late")
            end(early, late)
    told = shadow.status()
    assert sum(told["left_out"].values()) == 1
    assert told["comparison"]["exchanges"]["different"] == 0
    assert told["comparison"]["by_op"]["create"] == {"equal": 1}


def test_the_command_its_api_and_its_metrics(proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    with ours(tmp_path / "a") as first, ours(tmp_path / "b") as second:
        running = proxy(
            *("--listen", "127.0.0.1:0", "--upstream", first.hosts),
            *("--shadow", second.hosts, "--http", "127.0.0.1:0"),
        )
        host, port = running.address().rsplit(":", 1)
        page = running.until(r"(http://\S+/)")[1]
        beside = kazoo(second.address)
        beside.create("/node", b"")
        beside.set("/node", b"not so")
        one = kazoo((host, int(port)))
        one.create("/node", b"so")
        one.get("/node")

        def asked(path: str) -> str:
            with urllib.request.urlopen(page + path, timeout=60) as answer:
                text: str = answer.read().decode()
            return text

        until(lambda: json.loads(asked("api/shadow"))["comparison"]["differences"] >= 2)
        until(lambda: '"difference"' in asked("api/events"))
        different = r'^zktrace_shadow_exchanges_total\{verdict="different"\} [2-9]'
        assert re.search(different, asked("metrics"), re.MULTILINE)
        end(one, beside)
        assert running.end() == 0
    assert "shadow DIFFERS: create /node" in "".join(running.said)
