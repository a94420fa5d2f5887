"""Servers behind the proxy: how they are asked how they are, and who gets new connections then."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient

from tests.conftest import needs_native
from tests.proxy.conftest import Proxy
from tests.server.ourzk import ours
from tests.support.certificates import Certificates
from zktrace_proxy import upstreams as module
from zktrace_proxy.plane import Listener, PlaneError, Upstream
from zktrace_proxy.tls import ToServers, client_context
from zktrace_proxy.upstreams import FALL, Upstreams, check

WAIT_S = 60.0
Make = Callable[..., Proxy]
SERVING = b"Zookeeper version: 3.9.5\nMode: follower\nNode count: 5\n"


@contextmanager
def saying(answer: bytes | None) -> Iterator[Upstream]:
    """A server that says this to everybody; None: nothing, and keeps the connection."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    one, _ = listening.accept()
                except OSError:
                    return
                kept.append(one)
                if answer is not None:
                    one.recv(4)
                    one.sendall(answer)
                    one.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Upstream.of(f"127.0.0.1:{listening.getsockname()[1]}")
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(WAIT_S)
            for one in kept:
                one.close()


def nobody() -> Upstream:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return Upstream.of(f"127.0.0.1:{listening.getsockname()[1]}")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (SERVING, (True, "follower", None)),
        # NIOServerCnxn's and CommandExecutor's words.
        (b"srvr is not executed because it is not in the whitelist.\n", (True, None, None)),
        (
            b"This ZooKeeper instance is not currently serving requests\n",
            (False, None, "it is not serving requests"),
        ),
        (
            b"HTTP/1.0 400 Bad\r\n",
            (False, None, "it does not answer srvr as a ZooKeeper server does"),
        ),
        (b"", (False, None, "it does not answer srvr as a ZooKeeper server does")),
    ],
)
def test_what_a_server_says(answer: bytes, found: tuple[Any, ...]) -> None:
    with saying(answer) as server:
        assert check(server, WAIT_S) == found


def test_who_says_nothing_or_is_not_there() -> None:
    with saying(None) as server:
        assert check(server, 0.05) == (False, None, "no answer in 0.05 s")
    assert check(nobody(), WAIT_S) == (False, None, "Connection refused")


def test_a_server_with_tls(tmp_path: Path) -> None:
    made, others = Certificates(tmp_path / "a"), Certificates(tmp_path / "b")
    given = {
        "secureClientPort": "0",
        "secureClientPortAddress": "127.0.0.1",
        "ssl.keyStore.location": str(made.issue("server", "/CN=localhost")),
        "ssl.clientAuth": "none",
    }
    with ours(tmp_path / "server", given) as running:
        server = Upstream(f"127.0.0.1:{running.secure_port}", "localhost")
        right = client_context(ToServers(ca=str(made.authority)))
        assert check(server, WAIT_S, right) == (True, "standalone", None)
        wrong = client_context(ToServers(ca=str(others.authority)))
        well, _, why = check(server, WAIT_S, wrong)
        assert not well
        assert why is not None
        assert why.startswith("TLS: ")


class FakePlane:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.given: list[tuple[int, list[str]]] = []

    def addresses(self) -> list[str]:
        return ["127.0.0.1:1", "127.0.0.1:2"]

    def set_upstreams(self, listener: int, servers: Sequence[Upstream]) -> None:
        self.given.append((listener, [one.address for one in servers]))


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> tuple[Upstreams, FakePlane, dict[str, bool]]:
    """Two servers behind two listeners, of which those in the dictionary are not well."""
    plane, bad = FakePlane(), dict[str, bool]()

    def checked(server: Upstream, timeout_s: float, context: Any) -> tuple[bool, None, str | None]:
        return not bad.get(server.address), None, "ill" if bad.get(server.address) else None

    monkeypatch.setattr(module, "check", checked)
    servers = (Upstream.of("127.0.0.1:7"), Upstream.of("127.0.0.1:8"))
    listeners = [Listener("127.0.0.1:1", servers), Listener("127.0.0.1:2", servers[:1])]
    made = Upstreams(
        plane,
        ["127.0.0.1:1", "127.0.0.1:2=127.0.0.1:7"],
        "127.0.0.1:7,127.0.0.1:8",
        listeners,
        every_s=3600,
    )
    return made, plane, bad


Scene = tuple[Upstreams, FakePlane, dict[str, bool]]


def states(upstreams: Upstreams) -> list[tuple[int, str, bool | None]]:
    return [(one.listener, one.address[-1], one.up) for one in upstreams.health()]


def test_new_connections_go_to_those_that_are_well(scene: Scene) -> None:
    upstreams, plane, bad = scene
    assert states(upstreams) == [(0, "7", None), (0, "8", None), (1, "7", None)]
    upstreams.check()
    assert states(upstreams) == [(0, "7", True), (0, "8", True), (1, "7", True)]
    assert plane.given == []
    bad["127.0.0.1:7"] = True
    for _ in range(FALL - 1):
        upstreams.check()
        assert plane.given == [], "once is no proof"
    upstreams.check()
    assert states(upstreams) == [(0, "7", False), (0, "8", True), (1, "7", False)]
    # Behind the second listener there is nobody else: a check may be wrong.
    assert plane.given == [(0, ["127.0.0.1:8"])]
    bad["127.0.0.1:8"] = True
    for _ in range(FALL):
        upstreams.check()
    assert plane.given[1:] == [(0, ["127.0.0.1:7", "127.0.0.1:8"])]
    bad.clear()
    upstreams.check()
    assert [up for *_, up in states(upstreams)] == [True] * 3
    assert len(plane.given) == 2, "it is as it was"


def test_names_that_lead_elsewhere(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    upstreams, plane, bad = scene
    bad["127.0.0.1:8"] = True
    for _ in range(FALL):
        upstreams.check()
    assert plane.given == [(0, ["127.0.0.1:7"])]
    found = [
        Listener("127.0.0.1:1", (Upstream.of("127.0.0.1:8"), Upstream.of("127.0.0.1:9"))),
        Listener("127.0.0.1:2", (Upstream.of("127.0.0.1:7"),)),
    ]
    monkeypatch.setattr(module, "listeners", lambda *_, **__: found)
    upstreams.resolve()
    # What was found of 8 is still known; of 9 nothing is.
    assert plane.given[1:] == [(0, ["127.0.0.1:9"])]
    assert states(upstreams)[:2] == [(0, "8", False), (0, "9", None)]

    def fails(*_: Any, **__: Any) -> None:
        raise PlaneError("no resolver")

    monkeypatch.setattr(module, "listeners", fails)
    upstreams.resolve()
    assert len(plane.given) == 2


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
        body: str = answer.read().decode()
        return body


@needs_native
def test_a_server_that_dies_gets_nobody_and_its_state_is_shown(proxy: Make, tmp_path: Path) -> None:
    with ours(tmp_path / "one") as one, ours(tmp_path / "two") as two:
        running = proxy(
            *("--listen", "127.0.0.1:0", "--upstream", f"{one.hosts},{two.hosts}"),
            *("--health-check", "0.05", "--http", "127.0.0.1:0"),
        )
        address = running.address()
        page = running.until(r"(http://\S+/) ")[1]

        def wait_for(server: str, up: bool) -> None:
            until = time.monotonic() + WAIT_S
            while True:
                rows = json.loads(get(f"{page}api/upstreams"))["rows"]
                [row] = [row for row in rows if row["server"] == server]
                if row["up"] is up:
                    break
                assert time.monotonic() < until, rows
                time.sleep(0.02)
            assert row["listener"] == address
            assert row["mode"] == ("standalone" if up else None)
            assert row["why"] == (None if up else "Connection refused")
            line = f'zktrace_proxy_upstream_up{{listener="{address}",server="{server}"}}'
            while f"{line} {float(up)}" not in get(f"{page}metrics"):
                assert time.monotonic() < until
                time.sleep(0.1)

        wait_for(one.hosts, True)
        wait_for(two.hosts, True)
        clients = [KazooClient(address, timeout=30) for _ in range(2)]
        for client in clients:
            client.start(30)
        two.kill()
        wait_for(two.hosts, False)
        running.until(f"server {two.hosts} gets no new connections: Connection refused")
        # Whoever was with the one stays there, and all that come go there.
        failures = json.loads(get(f"{page}api/upstreams"))["rows"]
        assert [row["up"] for row in failures] == [True, False]
        for _ in range(3):
            host, port = address.split(":")
            with socket.create_connection((host, int(port)), WAIT_S) as plain:
                plain.sendall(b"ruok")
                assert plain.recv(4) == b"imok"
        assert "zktrace_proxy_unreachable_total 0.0" in get(f"{page}metrics")
        for client in clients:
            client.stop()
            client.close()
        assert running.end() == 0
