"""A Java ensemble under load, listened to: the numbers of the page are those of the clients."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from statistics import median
from typing import Any

import pytest

from tests.live.load import Client, load
from tests.live.netns import Namespace, namespaces
from tests.live.served import serving
from tests.support.javazk import Servers, ensemble
from zktrace.wire.errors import error_name

#: Calls of each client.
ROUNDS = 250


@pytest.fixture(scope="module")
def where(live: None) -> Iterator[Namespace]:
    with namespaces(1) as made:
        yield made[0]


@pytest.fixture(scope="module")
def servers(where: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    ports = [port for n in range(3) for port in (21811 + n, 28881 + n, 38881 + n)]
    directory = tmp_path_factory.mktemp("java")
    with ensemble(directory, inside=where.inside, ports=ports) as made:
        yield made


def options(servers: Servers) -> list[str]:
    return [part for server in servers for part in ("--client-port", str(server.address[1]))]


def sums(clients: list[Client]) -> dict[str, tuple[int, dict[str, int]]]:
    """Requests and errors per op, as the clients counted."""
    count: Counter[str] = Counter()
    errors: dict[str, Counter[str]] = {}
    for client in clients:
        for call in client.calls:
            count[call.op] += 1
            if call.error:
                errors.setdefault(call.op, Counter())[error_name(call.error)] += 1
    return {op: (number, dict(errors.get(op, {}))) for op, number in count.items()}


def judge_latencies(client: Client, rows: list[dict[str, Any]]) -> list[float]:
    """Each exchange lies within the call that made it; by how much less it took, in us."""
    calls = [call for call in client.calls if call.op not in ("connect", "closeSession")]
    assert [(row["op"], row["error"]) for row in rows] == [(c.op, c.error) for c in calls]
    overhead = []
    for call, row in zip(calls, rows, strict=True):
        assert call.began_ns <= row["ts_ns"]
        assert row["ts_ns"] + row["latency_us"] * 1000 <= call.ended_ns
        overhead.append((call.ended_ns - call.began_ns) / 1000 - row["latency_us"])
    return overhead


def test_numbers_are_those_of_the_clients(
    where: Namespace, servers: Servers, engine: str, record_property: Any
) -> None:
    with serving(where, "-i", "lo", *options(servers), engine=engine) as served:
        hosts = [server.hosts for server in servers]
        clients = where.run(lambda: load(hosts, ROUNDS))
        wanted = sums(clients)
        total = sum(number for number, _ in wanted.values())

        def seen(ops: Any) -> bool:
            replies = [row["replies"] for row in ops["rows"] if row["op"] != "ping"]
            return bool(sum(replies) >= total)

        rows = {row["op"]: row for row in served.until("api/ops", seen)["rows"]}
        rows.pop("ping", None)
        assert {op: (row["requests"], row["errors"]) for op, row in rows.items()} == wanted
        assert all(row["replies"] == row["requests"] for row in rows.values())
        overheads = []
        for client in clients:
            session = f"0x{client.session & (1 << 64) - 1:016x}"
            events = served.json(f"api/events?limit=1000&filter=session%20==%20{session}")
            made = [
                row
                for row in reversed(events["rows"])
                if row["kind"] == "exchange"
                and row["op"] not in ("connect", "closeSession", "ping")
            ]
            overheads += judge_latencies(client, made)
        found = served.json("api/coverage")
        assert found["coverage"]["kernel_drops"] == 0
        assert found["coverage"]["gaps"] == 0
        assert found["coverage"]["exchanges"]["no_reply"] == 0
        assert found["coverage"]["exchanges"]["no_request"] == 0
        record_property("overhead_us_p50", round(median(overheads), 1))
        served.process.ended(signal.SIGINT)
