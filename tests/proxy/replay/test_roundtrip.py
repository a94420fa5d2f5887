"""Record, replay on a fresh server: the same results, all of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import BadVersionError

from tests.proxy.replay.support import (
    FULL,
    Faulty,
    differences,
    planned,
    record,
    recorder,
    replayed,
    replayed_and_recorded,
)
from tests.server.ourzk import OurServer, ours
from tests.support.javazk import standalone
from zktrace_server.load import WORKLOADS

#: `large` takes seconds to make its tree
ALL = tuple(name for name in WORKLOADS if FULL or name != "large")
CLIENTS, OPS = (20, 1200) if FULL else (18, 540)


@pytest.fixture(scope="module")
def of_ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All workloads at once, on the reference server."""
    directory = tmp_path_factory.mktemp("ours")
    with ours(directory / "server") as server:
        record(server.address, directory / "a.pcapng", ALL, clients=CLIENTS, ops=OPS)
    return directory / "a.pcapng"


@pytest.fixture(scope="module")
def of_java(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on Java's ZooKeeper."""
    directory = tmp_path_factory.mktemp("java")
    with standalone(directory / "server") as server:
        record(server.address, directory / "a.pcapng", ALL, clients=CLIENTS, ops=OPS)
    return directory / "a.pcapng"


def again(file: Path, target: tuple[str, int], second: Path, **options: Any) -> None:
    """Record -> replay -> record -> compare: nothing differs, as it is replayed and afterwards."""
    report, comparison = replayed_and_recorded(file, target, second, **options)
    assert differences(report) == []
    counts = report.outcome.counts
    assert counts["equal"] + counts["mapped"] > OPS
    assert counts["allowed"] == 0
    found = comparison.as_dict()
    assert found["divergences"] == []
    assert comparison.differences == 0
    assert comparison.outcome.counts == counts
    assert comparison.outcome.events["equal"] == report.outcome.events["equal"] > 10


@pytest.mark.parametrize("order", ["strict", "conflict"])
def test_the_reference_server_gives_its_results_again(
    order: str, of_ours: Path, tmp_path: Path
) -> None:
    with ours(tmp_path / "b") as server:
        again(of_ours, server.address, tmp_path / "b.pcapng", order=order)


def test_java_gives_its_results_again(of_java: Path, tmp_path: Path) -> None:
    with standalone(tmp_path / "b") as server:
        again(of_java, server.address, tmp_path / "b.pcapng")


def test_the_reference_server_gives_javas_results(of_java: Path, tmp_path: Path) -> None:
    with ours(tmp_path / "b") as server:
        again(of_java, server.address, tmp_path / "b.pcapng")


def test_java_gives_the_reference_servers_results(of_ours: Path, tmp_path: Path) -> None:
    with standalone(tmp_path / "b") as server:
        again(of_ours, server.address, tmp_path / "b.pcapng")


def test_below_a_prefix_beside_other_nodes(of_ours: Path, tmp_path: Path) -> None:
    with ours(tmp_path) as server:
        first = replayed(of_ours, server.address, prefix="/replay1")
        second = replayed(of_ours, server.address, prefix="/replay2/b")
    assert differences(first) == differences(second) == []


def test_at_the_recorded_speed_it_takes_the_recorded_time(of_ours: Path, tmp_path: Path) -> None:
    plan = planned(of_ours)
    seconds = (plan.last_ns - plan.first_ns) / 1e9
    with ours(tmp_path) as server:
        report = replayed(plan, server.address, speed=1.0)
    assert differences(report) == []
    assert report.seconds > 0.9 * seconds
    assert report.lag.as_dict() is not None


def _version(payload: bytes) -> bytes:
    """A Stat at the end of a reply, with a version too many."""
    at = len(payload) - 68 + 32
    return payload[: at + 3] + bytes([payload[at + 3] ^ 1]) + payload[at + 4 :]


@pytest.mark.parametrize(
    ("name", "bug", "what"),
    [
        (
            "setData counts a version too many",
            lambda payload, number: _version(payload) if len(payload) == 84 else payload,
            {"version"},
        ),
        (
            "getData has other data",
            lambda payload, number: (
                payload[:20] + b"?" + payload[21:] if len(payload) == 16 + 4 + 100 + 68 else payload
            ),
            {"data"},
        ),
        (
            "the third reply is an error",
            lambda payload, number: (
                payload[:12] + b"\xff\xff\xff\x9c" if number == 3 and len(payload) > 16 else payload
            ),
            {"error"},
        ),
    ],
)
def test_a_bug_of_the_target_is_found_where_it_is(
    name: str, bug: Callable[[bytes, int], bytes | None], what: set[str], tmp_path: Path
) -> None:
    with ours(tmp_path / "a") as server:
        record(server.address, tmp_path / "a.pcapng", ["mix"], clients=2, ops=60)
    with ours(tmp_path / "b") as server, Faulty(server.address, bug) as faulty:
        report = replayed(tmp_path / "a.pcapng", faulty.address, order="strict")
    assert report.outcome.differences, name
    first = report.outcome.first[0]
    assert first.finding.what in what
    assert not first.consequence
    # the first place at which the bug can show is where it is found
    expected = _first_affected(tmp_path / "a.pcapng", what)
    assert (first.op, first.path) == expected


def _first_affected(file: Path, what: set[str]) -> tuple[str, str | None]:
    plan = planned(file)
    try:
        seen: dict[int, int] = {}
        for exchange, _ in plan.spool:
            reply = exchange.reply
            if reply is None or exchange.index == 0:
                continue
            seen[exchange.conn] = seen.get(exchange.conn, 0) + 1
            size = len(reply)
            if (
                ("version" in what and size == 84)
                or ("data" in what and size == 188)
                or ("error" in what and seen[exchange.conn] == 3 and size > 16)
            ):
                from zktrace.wire.message import decode_request
                from zktrace.wire.opcodes import op_name

                _, body = decode_request(exchange.request)
                return op_name(exchange.opcode), getattr(body, "path", None)
    finally:
        plan.close()
    raise AssertionError("nothing is affected")


def test_a_lost_watch_event_is_a_difference_and_no_hang(tmp_path: Path) -> None:
    with ours(tmp_path / "a") as server:
        record(server.address, tmp_path / "a.pcapng", ["config"], clients=3, ops=80)
    lost: list[bytes] = []

    def lose(payload: bytes, number: int) -> bytes | None:
        if payload[:4] == b"\xff\xff\xff\xff" and len(lost) < 1:
            lost.append(payload)
            return None
        return payload

    with ours(tmp_path / "b") as server, Faulty(server.address, lose) as faulty:
        report = replayed(tmp_path / "a.pcapng", faulty.address, wait_s=0.5)
    assert report.outcome.events["different"] == 1
    assert report.stalled == 1
    assert report.stalls[0].path in lost[0].decode("latin-1")


def test_sequence_numbers_of_another_start_are_mapped(tmp_path: Path) -> None:
    with ours(tmp_path / "a") as server:
        _numbers(server, 0)
        with recorder(server.address, tmp_path / "a.pcapng") as (host, port):
            _queue(f"{host}:{port}")
    with ours(tmp_path / "b") as server:
        _numbers(server, 7)
        report = replayed(tmp_path / "a.pcapng", server.address)
    assert differences(report) == []
    assert len(report.maps.names) == 12
    assert report.start.there == 1  # /q, which the recording shows to have been there
    assert report.outcome.counts["mapped"] > 15


@pytest.mark.parametrize("rule", [True, False])
def test_names_in_data_are_mapped_by_rule(rule: bool, tmp_path: Path) -> None:
    names_in = re.compile("/leader|/next").fullmatch if rule else None
    with ours(tmp_path / "a") as server:
        _numbers(server, 0)
        with recorder(server.address, tmp_path / "a.pcapng") as (host, port):
            _leads(f"{host}:{port}")
    plan = planned(tmp_path / "a.pcapng", names_in=names_in)
    with ours(tmp_path / "b") as server:
        _numbers(server, 7)
        report = replayed(plan, server.address, names_in=names_in)
        client = _client(server.hosts)
        found = [client.get(path)[0] for path in ("/leader", "/next", "/other")]
        client.stop()
        client.close()
    assert differences(report) == []
    live = [b"7 n-0000000008", b"/q/n-0000000007 /q/n-0000000008"]
    recorded = [b"7 n-0000000001", b"/q/n-0000000000 /q/n-0000000001"]
    assert found == [*(live if rule else recorded), b"n-0000000001"]


def _leads(hosts: str) -> None:
    """Names of nodes as data, of others who read them; `/other` is none of those."""
    one, two = _client(hosts), _client(hosts)
    for path in ("/leader", "/other"):
        one.create(path, b"")
    names = [one.create("/q/n-", b"", sequence=True) for _ in range(2)]
    name = names[1].rpartition("/")[2]
    # at once, so that the replay must not be ahead of itself either
    waiting = [
        one.set_async("/leader", f"7 {name}".encode()),
        one.set_async("/other", name.encode()),
        one.create_async("/next", " ".join(names).encode()),
    ]
    for each in waiting:
        each.get(60)
    for path in ("/leader", "/next", "/other"):
        two.get(path)
    for client in (one, two):
        client.stop()
        client.close()


def _client(hosts: str) -> Any:
    client = KazooClient(hosts, timeout=30)
    client.start(60)
    return client


def _numbers(server: OurServer, used: int) -> None:
    """A parent of which so many sequence numbers are used up."""
    client = _client(server.hosts)
    client.create("/q", b"parent")
    for _ in range(used):
        client.delete(client.create("/q/n-", sequence=True))
    client.stop()
    client.close()


def _queue(hosts: str) -> None:
    """Names that one session makes and another one uses, in all kinds of requests."""
    one, two = _client(hosts), _client(hosts)
    fired = two.handler.event_object()
    names = [one.create("/q/n-", b"%d" % n, sequence=True, makepath=False) for n in range(10)]
    below = one.create(f"{names[0]}/s-", b"", sequence=True)
    two.get_children("/q", watch=lambda event: fired.set())
    transaction = one.transaction()
    transaction.create("/q/m-", b"multi", sequence=True)
    transaction.set_data(names[1], b"x")
    transaction.check(names[2], version=0)
    (made, *_) = transaction.commit()
    assert fired.wait(60)
    assert made.startswith("/q/m-")
    two.set(names[3], b"y", version=0)
    two.set(names[3], b"z", version=1)
    with pytest.raises(BadVersionError):
        two.set(names[3], b"z", version=1)
    assert two.exists(below)
    fired.clear()
    two.get(names[4], watch=lambda event: fired.set())
    one.delete(names[4])
    assert fired.wait(60)
    two.get_children("/q")
    two.get(made)
    for client in (one, two):
        client.stop()
        client.close()
