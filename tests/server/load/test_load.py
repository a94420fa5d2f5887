"""``zktrace server load`` as a library: what it asks for, what it counts, what it survives."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.ourzk import OurServer, ours
from tests.server.rawclient import RawClient
from tests.support.javazk import JavaServer
from zktrace.wire.message import Body, decode_reply
from zktrace.wire.opcodes import BY_NAME, op_name
from zktrace.wire.records import GetChildrenResponse, PathWatchRequest
from zktrace_server.load import WORKLOADS, Options, Report, Unreachable, run

#: What each workload is there for.
TYPICAL = {
    "mix": {"getData", "setData"},
    "discovery": {"create2", "getChildren2", "exists", "getData"},
    "locks": {"create", "getChildren", "exists", "delete", "setData"},
    "election": {"create", "getChildren", "sync", "setData", "delete"},
    "queue": {"create", "getChildren", "getData", "delete"},
    "config": {"setData", "getData"},
    "kafka": {"setData", "getData", "create", "getChildren2"},
    "clickhouse": {"multi", "getData", "getChildren2", "create", "exists"},
    "large": {"getData", "setData", "getChildren2"},
    "storm": {"createSession", "closeSession", "exists", "create"},
}
Calls = list[tuple[int, int, Body | None]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurServer]:
    with ours(tmp_path_factory.mktemp("load")) as server:
        yield server


def options(server: OurServer | JavaServer, *workloads: str, **given: object) -> Options:
    values: dict[str, object] = {"clients": 4, "ops": 300, "timeout_ms": 30_000, **given}
    return Options([server.address], workloads, **values)  # type: ignore[arg-type]


def traced(given: Options) -> tuple[Report, Calls]:
    calls: Calls = []
    report = asyncio.run(run(given, trace=lambda *call: calls.append(call)))
    return report, calls


def children(server: OurServer) -> set[str]:
    client = RawClient(server.address)
    client.connect()
    number = BY_NAME["getChildren"].number
    client.request(1, number, PathWatchRequest("/", False))
    _, body = decode_reply(number, client.replies(1)[0])
    assert isinstance(body, GetChildrenResponse)
    client.close()
    return {name or "" for name in body.children or ()}


def test_every_workload_has_a_test() -> None:
    assert set(TYPICAL) == set(WORKLOADS)


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_workloads(server: OurServer, name: str) -> None:
    report, calls = traced(options(server, name, seed=3))
    assert report.tally.requests == len(calls) == 300
    assert {op_name(number) for _, number, _ in calls} >= TYPICAL[name]
    assert {client for client, _, _ in calls} == {0, 1, 2, 3}
    assert (report.tally.lost, report.tally.expired, report.tally.unreachable) == (0, 0, 0)
    assert not report.interrupted
    assert children(server) == {"zookeeper"}, "it leaves nothing behind"


def test_the_report_counts_what_was_asked(server: OurServer) -> None:
    report, calls = traced(options(server, "kafka", seed=1))
    told = report.as_json()
    asked = Counter(op_name(number) for _, number, _ in calls)
    asked["connect"] = asked.pop("createSession")
    assert {row["op"]: row["requests"] for row in told["by_op"]} == asked
    assert told["requests"] == 300
    for row in told["by_op"]:
        latency = row["latency_us"]
        assert 0 < latency["min"] <= latency["p50"] <= latency["p99"] <= latency["max"]
    by_op = Counter(e for row in told["by_op"] for e, n in row["errors"].items() for _ in range(n))
    assert by_op == told["errors"]
    assert sum(row["per_s"] for row in told["by_op"]) == pytest.approx(told["per_s"], abs=0.1)
    text = "\n".join(report.lines())
    assert "300 (" in text
    assert all(op in text for op in asked)


@pytest.mark.parametrize("name", ["mix", "kafka", "clickhouse", "discovery", "locks", "queue"])
def test_one_client_asks_the_same_for_the_same_seed(server: OurServer, name: str) -> None:
    first, again, other = (
        traced(options(server, name, clients=1, ops=200, seed=seed))[1] for seed in (7, 7, 8)
    )
    assert _without_zxids(first) == _without_zxids(again)
    assert _without_zxids(first) != _without_zxids(other)


def _without_zxids(calls: Calls) -> list[str]:
    return [f"{op_name(number)} {body}" for _, number, body in calls]


def test_clients_ask_the_same_in_a_row_however_many_there_are(server: OurServer) -> None:
    """Of what does not depend on others."""

    def of_each(clients: int) -> dict[int, list[str]]:
        rows: dict[int, list[str]] = {}
        for client, number, body in traced(options(server, "mix", clients=clients, seed=5))[1]:
            rows.setdefault(client, []).append(f"{op_name(number)} {body}")
        return rows

    few, many = of_each(2), of_each(6)
    for client, row in few.items():
        common = min(len(row), len(many[client]))
        assert common > 5
        assert row[:common] == many[client][:common]


def test_a_rate_and_a_duration(server: OurServer) -> None:
    """It may be slower, on a busy machine, and never faster."""
    report, calls = traced(options(server, "mix", ops=None, duration_s=1.0, rate=50.0))
    assert report.seconds >= 1.0
    assert 4 <= len(calls) <= 50 * report.seconds + 4


def test_stopped_from_outside(server: OurServer) -> None:
    async def stopped() -> Report:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3, stop.set)
        return await run(options(server, "locks", "config", ops=None), stop=stop)

    report = asyncio.run(stopped())
    assert report.interrupted
    assert report.tally.requests > 0
    assert children(server) == {"zookeeper"}


def test_a_server_that_dies_and_comes_back(tmp_path: Path) -> None:
    """Sessions are taken up again, and the count says what was lost."""
    with ours(tmp_path, {"clientPort": "0"}) as server:
        port = server.address[1]
        crashed = threading.Event()

        def trace(client: int, number: int, body: Body | None) -> None:
            calls.append(number)
            if len(calls) == 200:
                # Nothing else happens in this process before it is gone.
                server.kill()
                threading.Thread(target=again).start()

        def again() -> None:
            server.set(clientPort=str(port))
            server.start()
            crashed.set()

        calls: list[int] = []
        given = options(server, "mix", "locks", "config", clients=6, ops=600, rate=400.0)
        report = asyncio.run(run(given, trace=trace))
        assert crashed.wait(60)
        assert report.tally.lost == 6
        assert report.tally.unreachable > 0
        assert report.tally.expired == 0
        # What had no answer is admitted, and not counted.
        assert 500 < report.tally.requests <= 600
        assert "6 connections lost" in "\n".join(report.lines())


def test_nobody_there() -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1: Connection refused"):
        asyncio.run(run(Options([("127.0.0.1", 1)], ("mix",), ops=10)))


def test_java_is_driven_as_well(java_zookeeper: JavaServer) -> None:
    names = list(WORKLOADS)
    report, calls = traced(options(java_zookeeper, *names, clients=20, ops=2000))
    assert report.tally.requests == 2000
    assert report.tally.lost == 0
    seen = {op_name(number) for _, number, _ in calls}
    assert seen >= {"multi", "create", "create2", "getChildren2", "closeSession", "sync"}
