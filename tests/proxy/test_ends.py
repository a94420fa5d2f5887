"""How the proxy meets servers that are away, and how it goes itself."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.handlers.threading import KazooTimeoutError

import zktrace_proxy
from tests.proxy.conftest import Proxy
from tests.server.ourzk import OurServer, ours
from tests.support.javazk import free_ports

WAIT_S = 60.0


def until(what: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_a_client_waits_for_a_server_that_comes(tmp_path: Path) -> None:
    [port] = free_ports(1)
    with zktrace_proxy.between(f"127.0.0.1:{port}", when_down="accept") as p:
        client = KazooClient(p.hosts, timeout=30)
        starting = client.start_async()
        until(lambda: p.counters()["upstream_failures"] > 1)
        server = OurServer(tmp_path, {"clientPort": str(port)})
        server.start()
        try:
            assert starting.wait(WAIT_S)
            assert p.counters()["unreachable"] == 0
        finally:
            client.stop()
            client.close()
            server.stop()


def test_a_listener_is_closed_until_a_server_accepts(tmp_path: Path) -> None:
    [port] = free_ports(1)
    with zktrace_proxy.between(f"127.0.0.1:{port}", when_down="close-listener") as p:
        host, own = p.hosts.split(":")

        def refused() -> bool:
            try:
                socket.create_connection((host, int(own)), 5).close()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:
                pass
            return False

        until(refused)
        server = OurServer(tmp_path, {"clientPort": str(port)})
        server.start()
        try:
            client = KazooClient(p.hosts, timeout=30)
            client.start(WAIT_S)
            assert client.exists("/zookeeper")
            client.stop()
            client.close()
        finally:
            server.stop()


def test_draining_ends_connections_between_requests(tmp_path: Path) -> None:
    with ours(tmp_path) as server, zktrace_proxy.between(server.hosts) as p:
        clients = [KazooClient(p.hosts, timeout=30) for _ in range(8)]
        for client in clients:
            client.start(WAIT_S)
        answers = [client.create_async(f"/d{n}", b"x" * 1000) for n, client in enumerate(clients)]
        began = time.monotonic()
        left = p.plane.drain(2.0)
        took = time.monotonic() - began
        assert left == 0
        assert took < 30
        assert p.counters()["drained"] == 8
        assert [answer.get(timeout=WAIT_S) for answer in answers] == [f"/d{n}" for n in range(8)]
        with pytest.raises(KazooTimeoutError):
            KazooClient(p.hosts).start(0.5)
        for client in clients:
            client.stop()
            client.close()


def test_what_is_under_way_when_the_time_is_over_is_cut_and_told(
    tmp_path: Path, proxy: Callable[..., Proxy]
) -> None:
    with ours(tmp_path) as server:
        one = proxy(
            "--listen", "127.0.0.1:0", "--upstream", server.hosts, "--drain", "0.5",
            "--fault", "delay 60s at=reply when op == exists",
        )  # fmt: skip
        client = KazooClient(one.address(), timeout=30)
        client.start(WAIT_S)
        client.get("/zookeeper")
        client.exists_async("/zookeeper")
        status = one.end(signal.SIGTERM)
        client.stop()
        client.close()
    assert status == 0, one.said
    assert any("1 connection cut" in line for line in one.said), one.said
