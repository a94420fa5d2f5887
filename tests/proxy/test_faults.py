"""Every fault with a real client that sees the effect that ``docs/faults.md`` promises."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    NoNodeError,
    SessionExpiredError,
    UnimplementedError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.serialization import CheckVersion
from kazoo.retry import KazooRetry

import zktrace_proxy
from tests.server.ourzk import ours
from tests.support.javazk import Servers

LOST = (ConnectionLoss, ConnectionClosedError, SessionExpiredError)
WAIT_S = 20.0


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The reference server."""
    with ours(tmp_path_factory.mktemp("server")) as server:
        yield server.hosts


@contextmanager
def kazoo(hosts: str, timeout: float = 10.0, **options: Any) -> Iterator[KazooClient]:
    """A client that does not try again by itself."""
    client = KazooClient(hosts, timeout=timeout, **options)
    client.start(WAIT_S)
    try:
        yield client
    finally:
        client.stop()
        client.close()


@pytest.fixture
def direct(upstream: str) -> Iterator[KazooClient]:
    """A client past the proxy, and a node of its own: ``/f``."""
    with kazoo(upstream) as client:
        if client.exists("/f"):
            client.delete("/f", recursive=True)
        client.create("/f", b"0")
        yield client


def until(what: Callable[[], Any]) -> None:
    """Waits until it is true."""
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def retry(client: KazooClient, call: Callable[..., Any], *arguments: Any) -> Any:
    return KazooRetry(max_tries=-1, deadline=WAIT_S, max_delay=0.2)(call, *arguments)


def telling(lost: threading.Event) -> Callable[[Any], None]:
    """A listener that says when the connection is lost."""

    def listen(state: Any) -> None:
        if state != KazooState.CONNECTED:
            lost.set()

    return listen


def took(call: Callable[[], Any]) -> float:
    begin = time.monotonic()
    call()
    return time.monotonic() - begin


# -- of requests and replies


def test_the_reply_is_lost_but_the_write_is_there(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        p.faults.add('drop-reply times=1 when op == "create" and path =~ "/f/**"')
        with pytest.raises(LOST):
            client.create("/f/lost", b"x")
        assert direct.exists("/f/lost"), "the classic: did my create succeed?"
        retry(client, client.create, "/f/found", b"")
        one = p.wait_for("drop-reply")
        assert (one.path, one.opcode, one.session) == ("/f/lost", 1, client.client_id[0])
        [fault] = p.faults.list()
        assert (fault.matched, fault.fired, fault.over) == (1, 1, True)


def test_a_lost_request_never_reaches_the_server(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        p.faults.add("drop-request times=1 when write")
        with pytest.raises(LOST):
            client.create("/f/never", b"x")
        assert not direct.exists("/f/never")


def test_a_hanging_connection_is_found_by_the_client(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts, 2.0) as client:
        lost = threading.Event()
        client.add_listener(telling(lost))
        p.faults.add('drop-reply then=hang times=1 when op == "setData"')
        answer = client.set_async("/f", b"1")
        assert lost.wait(WAIT_S), "it ends the connection when pings are not answered"
        with pytest.raises(LOST):
            answer.get(timeout=WAIT_S)
        assert direct.get("/f")[0] == b"1"


def test_errors_are_answered_in_order_and_the_server_is_not_asked(
    upstream: str, direct: KazooClient
) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        p.faults.add('error NoNode when op == "getData" and path == "/f"')
        p.faults.add('delay 100ms when op == "exists"')
        # The answer that is made at once waits for the one that was asked for before.
        order: list[str] = []
        slow = client.exists_async("/f")
        slow.rawlink(lambda _: order.append("exists"))
        quick = client.get_async("/f")
        quick.rawlink(lambda _: order.append("getData"))
        assert slow.get(timeout=WAIT_S) is not None
        with pytest.raises(NoNodeError):
            quick.get(timeout=WAIT_S)
        until(lambda: len(order) == 2)
        assert order == ["exists", "getData"]
        assert client.get_children("/f") == []


def test_the_write_is_done_and_an_error_told(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        p.faults.add('error ConnectionLoss at=reply when op == "setData" and error == OK')
        with pytest.raises(ConnectionLoss):
            client.set("/f", b"done")
        assert direct.get("/f")[0] == b"done"
        assert client.client_state == "CONNECTED", "only this answer was wrong"


def test_nth_after_and_a_seed_choose(upstream: str, direct: KazooClient) -> None:
    def failures(rule: str) -> list[int]:
        failed = []
        with zktrace_proxy.between(upstream, faults=[rule]) as p, kazoo(p.hosts) as client:
            for number in range(1, 21):
                try:
                    client.exists("/f")
                except NoNodeError:
                    failed.append(number)
                except ConnectionLoss:
                    failed.append(number)
        return failed

    assert failures('error ConnectionLoss nth=3 when op == "exists"') == [3]
    assert failures('error ConnectionLoss after=18 when op == "exists"') == [19, 20]
    half = 'error ConnectionLoss probability=50% seed=4 when op == "exists"'
    some = failures(half)
    assert 3 < len(some) < 17
    assert failures(half) == some


def test_a_rule_is_over_after_its_time(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        p.faults.add('error ConnectionLoss for=2s when op == "exists"')
        begun = time.monotonic()
        with pytest.raises(ConnectionLoss):
            client.exists("/f")
        while time.monotonic() - begun < 60.0:
            try:
                assert client.exists("/f") is not None
                break
            except ConnectionLoss:
                time.sleep(0.05)
        else:
            pytest.fail("the rule is never over")
        assert time.monotonic() - begun >= 1.9


def test_the_poisonous_check_is_blocked(upstream: str, direct: KazooClient) -> None:
    """A check that stands by itself, which servers up to some releases choke on."""
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        p.faults.add('error Unimplemented when op == "check"')
        result = client.handler.async_result()
        client._call(CheckVersion("/f", -1), result)
        with pytest.raises(UnimplementedError):
            result.get(timeout=WAIT_S)
        transaction = client.transaction()
        transaction.check("/f", -1)
        transaction.set_data("/f", b"multi")
        assert transaction.commit()[0] is True, "within a multi it is harmless"


def test_requests_and_replies_wait(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        first = p.faults.add('delay 300ms when op == "exists"')
        p.faults.add('delay 300ms at=reply when op == "getData"')
        assert took(lambda: client.exists("/f")) >= 0.3
        assert took(lambda: client.get("/f")) >= 0.3
        assert p.faults.remove(first)
        assert not p.faults.remove(first)
        assert [fault.id for fault in p.faults.list()] == [2]
        assert client.exists("/f")
        assert sum(one.action == "delay" for one in p.decisions) == 2


def test_close_ends_the_connection(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        p.faults.add('close times=1 when op == "getChildren2" or op == "getChildren"')
        with pytest.raises(LOST):
            client.get_children("/f")
        assert retry(client, client.get_children, "/f") == []


# -- of watch events


def watched(client: KazooClient) -> list[str]:
    events: list[str] = []
    client.get("/f", watch=lambda event: events.append(event.type))
    return events


def test_a_watch_event_comes_twice(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p:
        p.faults.add('duplicate-event when path == "/f" and event == "NodeDataChanged"')
        with kazoo(p.hosts) as client:
            # kazoo forgets a watch with its first event: what comes is counted by the proxy.
            events = watched(client)
            before = p.counters()["bytes_to_client"]
            direct.set("/f", b"1")
            until(lambda: events)
            assert events == ["CHANGED"]
            event_bytes = 4 + 16 + 4 + 4 + 4 + len("/f")
            until(lambda: p.counters()["bytes_to_client"] - before >= 2 * event_bytes)
            assert p.wait_for("duplicate-event").path == "/f"


def test_a_watch_event_is_lost(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        p.faults.add("drop-event times=1")
        events = watched(client)
        direct.set("/f", b"1")
        p.wait_for("drop-event")
        assert client.get("/f")[0] == b"1", "what comes behind it is there"
        assert events == []


def test_a_watch_event_is_late_and_replies_overtake_it(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        p.faults.add("delay-event 1s")
        events = watched(client)
        direct.set("/f", b"new")
        p.wait_for("delay-event")
        assert client.get("/f")[0] == b"new"
        assert events == [], "ZooKeeper promises the event before the data: this breaks it"
        until(lambda: events)


# -- of sessions


def test_a_session_expires_at_once(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        states: list[Any] = []
        client.add_listener(lambda state: states.append(state))
        client.create("/f/e", ephemeral=True)
        session = client.client_id[0]
        p.faults.add(f"expire when session == {session}")
        until(lambda: KazooState.LOST in states)
        assert not direct.exists("/f/e"), "the server has closed the session"
        until(lambda: client.client_id and client.client_id[0] != session)
        assert retry(client, client.exists, "/f")
        assert [one.action for one in p.decisions] == ["expire", "expire"]


def test_a_session_expires_by_what_it_does(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        session = client.client_id[0]
        p.faults.add('expire times=1 when op == "setData"')
        assert client.exists("/f")
        with pytest.raises(LOST):
            client.set("/f", b"x")
        until(lambda: client.client_id and client.client_id[0] != session)
        assert direct.get("/f")[0] == b"0", "the request itself was not passed on"


def test_a_session_moves(java_ensemble: Servers) -> None:
    """The other server owns it then; the old one refuses, the client goes on where it is led."""
    with zktrace_proxy.between(java_ensemble.hosts) as p, kazoo(p.hosts, 20) as client:
        client.ensure_path("/moved")
        session = client.client_id
        p.faults.add("move times=1")
        until(lambda: any("taken the session over" in one.detail for one in p.decisions))
        with pytest.raises(LOST):
            client.set("/moved", b"x")
        assert retry(client, client.set, "/moved", b"y")
        assert client.client_id == session


def test_reads_are_stale_but_never_behind_what_was_seen(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        p.faults.add('stale when op == "getData"')
        assert client.get("/f")[0] == b"0"
        direct.set("/f", b"1")
        assert client.get("/f")[0] == b"0", "as from a server that lags behind"
        client.set("/f", b"2")
        assert client.get("/f")[0] == b"2", "a client sees its own writes"
        assert p.wait_for("stale").path == "/f"


# -- of bytes


def test_latency_both_ways_and_one_way(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        number = p.faults.add("latency 150ms")
        assert took(lambda: client.exists("/f")) >= 0.3
        p.faults.remove(number)
        number = p.faults.add("latency 200ms jitter=50ms direction=to-client")
        assert took(lambda: client.exists("/f")) >= 0.15
        p.faults.remove(number)
        assert client.exists("/f")
        [one] = [fault for fault in p.decisions if fault.rule == number]
        assert one.detail == "this connection has it"


def test_latency_for_some_connections_only(upstream: str, direct: KazooClient) -> None:
    def slow() -> list[bool]:
        rules = ["latency 300ms toxicity=50% seed=3"]
        with zktrace_proxy.between(upstream, faults=rules) as p:
            for _ in range(12):
                word(p.hosts)
            assert p.faults.list()[0].matched == 12
            return [one.ts_ns > 0 for one in p.decisions]

    count = len(slow())
    assert 1 <= count <= 11
    assert len(slow()) == count, "a seed chooses the same again"
    other = ["latency 200ms when client == 10.0.0.0/8"]
    with zktrace_proxy.between(upstream, faults=other) as p:
        assert word(p.hosts) < 60
        assert p.faults.list()[0].matched == 0


def word(hosts: str) -> float:
    """Asks a four-letter word; how long it took."""
    host, port = hosts.split(":")
    begin = time.monotonic()
    with socket.create_connection((host, int(port)), WAIT_S) as one:
        one.settimeout(WAIT_S)
        one.sendall(b"ruok")
        assert one.recv(100) == b"imok"
        assert one.recv(100) == b""
    return time.monotonic() - begin


def test_bandwidth_is_kept(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts, 30) as client:
        p.faults.add("bandwidth 100k direction=to-server")
        assert took(lambda: client.set("/f", b"x" * 100_000)) >= 0.9
        assert took(lambda: client.get("/f")) < 0.9, "the other way is free"


def test_small_writes_with_pauses_arrive_whole(upstream: str, direct: KazooClient) -> None:
    data = bytes(range(256)) * 4
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts, 30) as client:
        p.faults.add("slicer 50 pause=5ms")
        assert took(lambda: client.set("/f", data)) >= 0.1
        assert client.get("/f")[0] == data


def test_silence_is_a_partition_that_heals(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts, 30) as client:
        number = p.faults.add("timeout")
        answer = client.set_async("/f", b"late")
        with pytest.raises(KazooTimeoutError):
            answer.get(timeout=0.5)
        assert direct.get("/f")[0] == b"0"
        p.faults.remove(number)
        assert answer.get(timeout=WAIT_S).version == 1, "nothing was lost"


def test_silence_ends_in_a_reset(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts, 30) as client:
        p.faults.add("timeout 200ms times=1")
        with pytest.raises(LOST):
            client.set("/f", b"late")
        assert p.counters()["faulted"] == 1


def test_reset_and_down(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts, 30) as client:
        session = client.client_id
        lost = threading.Event()
        client.add_listener(telling(lost))
        number = p.faults.add("down")
        assert lost.wait(WAIT_S)
        with pytest.raises(KazooTimeoutError):
            KazooClient(p.hosts, timeout=2).start(1)
        p.faults.remove(number)
        assert retry(client, client.exists, "/f")
        assert client.client_id == session
        lost.clear()
        p.faults.add("reset 50ms times=1")
        assert lost.wait(WAIT_S)
        assert retry(client, client.exists, "/f")


def test_a_limit_of_data_ends_the_connection(upstream: str, direct: KazooClient) -> None:
    with zktrace_proxy.between(upstream) as p, kazoo(p.hosts) as client:
        p.faults.add("limit-data 10k times=1 direction=to-server")
        with pytest.raises(LOST):
            client.set("/f", b"x" * 20_000)
        assert direct.get("/f")[0] == b"0", "half a request"


def test_one_member_is_cut_off(tmp_path: Path) -> None:
    """A listener for each server: one is down, the other is not."""
    with (
        ours(tmp_path / "a") as a,
        ours(tmp_path / "b") as b,
        zktrace_proxy.between([a.hosts, b.hosts]) as p,
    ):
        p.faults.add(f"down when server == {a.hosts}")
        with pytest.raises(KazooTimeoutError):
            KazooClient(p.addresses[0], timeout=2).start(1)
        with kazoo(p.addresses[1]) as client:
            assert client.exists("/zookeeper")


def test_the_end_comes_late(upstream: str) -> None:
    with zktrace_proxy.between(upstream) as p:
        p.faults.add("slow-close 500ms")
        # The server answers and closes at once.
        assert word(p.hosts) >= 0.5


def test_rules_without_a_matching_connection_leave_it_alone(
    upstream: str, direct: KazooClient
) -> None:
    rules = [f"{action} when client == 10.9.8.7" for action in ("close", "error NoNode", "down")]
    with zktrace_proxy.between(upstream, faults=rules) as p, kazoo(p.hosts) as client:
        assert client.get("/f")[0] == b"0"
        assert p.decisions == []


def test_a_frame_above_the_limit_passes_and_the_next_are_looked_at(
    upstream: str, direct: KazooClient
) -> None:
    rule = 'error NoNode when op == "setData" or op == "exists"'
    with (
        zktrace_proxy.between(upstream, faults=[rule], max_frame=10_000) as p,
        kazoo(p.hosts) as client,
    ):
        data = bytes(range(256)) * 200
        assert client.set("/f", data).version == 1, "it is larger, and passes unseen"
        assert client.get("/f")[0] == data
        with pytest.raises(NoNodeError):
            client.set("/f", b"small")
        assert client.exists("/f") is None
        assert direct.get("/f")[0] == data
