"""Both data planes against plain sockets: what goes in comes out, and how ends are passed on.

What is sent is cut at random, and read at random speeds; ``python -m tests.proxy.traffic`` does the
same for as many bytes as one has time for.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kazoo.client import KazooClient

from tests.conftest import needs_native
from tests.proxy.traffic import exchange, fed, taken, tapped
from tests.server.ourzk import ours
from zktrace.engine.base import ENGINE_VARIABLE
from zktrace_proxy.plane import Config, Listener, Plane, PlaneError, Record, Upstream, create
from zktrace_proxy.rules import parse

WAIT_S = 60.0
LINGER_0 = struct.pack("ii", 1, 0)


@pytest.fixture(params=["python", pytest.param("native", marks=needs_native)], autouse=True)
def plane_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    monkeypatch.setenv(ENGINE_VARIABLE, name)
    return name


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(WAIT_S)
        yield listening


def shown(one: socket.socket) -> str:
    host, port = one.getsockname()
    return f"{host}:{port}"


@contextmanager
def relaying(*upstreams: str, **config: Any) -> Iterator[Plane]:
    listener = Listener.to("127.0.0.1:0", *upstreams)
    plane = create(Config((listener,), **{"taps": 0, **config}))
    try:
        yield plane
    finally:
        plane.stop()


def connect(plane: Plane) -> socket.socket:
    host, port = plane.addresses()[0].split(":")
    one = socket.create_connection((host, int(port)), WAIT_S)
    one.settimeout(WAIT_S)
    return one


def accept(server: socket.socket) -> socket.socket:
    one, _ = server.accept()
    one.settimeout(WAIT_S)
    return one


def is_reset(plane: Plane) -> bool:
    """Whether a new connection is: at once, or when it is read from."""
    try:
        with connect(plane) as client:
            client.recv(1)
            return False
    except ConnectionResetError:
        return True


def until(what: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_the_plane_that_is_wanted(plane_kind: str) -> None:
    with relaying("127.0.0.1:1") as plane:
        assert (
            type(plane).__name__ == {"python": "AsyncioPlane", "native": "NativePlane"}[plane_kind]
        )


@pytest.mark.parametrize("seed", range(3))
def test_bytes_out_are_bytes_in(server: socket.socket, seed: int) -> None:
    with relaying(shown(server), taps=1) as plane:
        kept: list[bytes] = []

        reading = threading.Thread(target=lambda: kept.extend(taken(plane)))
        reading.start()
        sent = exchange(plane.addresses()[0], server, seed, 3_000_000, keep=True)
        plane.stop()
        reading.join(WAIT_S)
    assert tapped(b"".join(kept), server.getsockname()[1]) == sent
    counted = plane.counters()
    assert counted["bytes_to_server"] == len(sent[0])
    assert counted["bytes_to_client"] == len(sent[1])
    assert counted["resets"] == counted["tap_lost_packets"] == 0


def test_a_reset_is_passed_on_as_one(server: socket.socket) -> None:
    with relaying(shown(server)) as plane:
        with connect(plane) as client:
            behind = accept(server)
            behind.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
            behind.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        client = connect(plane)
        with accept(server) as behind:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
            client.close()
            with pytest.raises(ConnectionResetError):
                behind.recv(1)
        # One that comes while the plane still connects is a failure of that.
        counted = ("resets", "unreachable")
        until(lambda: sum(plane.counters()[name] for name in counted) == 2)


def test_nobody_behind_it_is_a_reset_and_the_next_server_is_tried(server: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        nowhere = shown(gone)
    with relaying(nowhere) as plane:
        assert is_reset(plane)
        assert plane.counters()["unreachable"] == 1
    with relaying(nowhere, shown(server)) as plane, connect(plane) as client:
        client.sendall(b"x")
        with accept(server) as behind:
            assert behind.recv(1) == b"x"
        assert plane.counters()["upstream_failures"] == 1


def test_new_connections_go_to_the_servers_in_turn(server: socket.socket) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        relaying(shown(server), shown(other)) as plane,
    ):
        other.settimeout(WAIT_S)
        for _ in range(2):
            for behind in (server, other):
                with connect(plane), accept(behind):
                    pass


def test_one_who_does_not_read_stops_the_other_and_is_reset(server: socket.socket) -> None:
    with relaying(shown(server), slow_reader_s=0.3) as plane, connect(plane) as client:
        with accept(server), pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.sendall(bytes(1 << 28))
        assert plane.counters()["bytes_to_server"] < 1 << 28, "not bounded"
        until(lambda: plane.counters()["slow_readers"] == 1)


@pytest.mark.parametrize("lossless", [True, False])
def test_a_tap_that_nobody_reads(server: socket.socket, lossless: bool) -> None:
    """Lossless: the traffic stops, until it is read. Lossy: it is left out, and counted."""
    data = bytes(range(256)) * 16384
    with (
        relaying(shown(server), taps=1, lossless=lossless, tap_limit=256 * 1024) as plane,
        connect(plane) as client,
        accept(server) as behind,
    ):
        writing = threading.Thread(target=client.sendall, args=(data,))
        writing.start()
        got = bytearray()
        behind.settimeout(1.0 if lossless else WAIT_S)
        try:
            while len(got) < len(data):
                got += behind.recv(1 << 16)
            assert not lossless, "it did not stop"
        except TimeoutError:
            assert lossless
        blocks: list[bytes] = []
        behind.settimeout(WAIT_S)

        reading = threading.Thread(target=lambda: blocks.extend(taken(plane)))
        reading.start()
        while len(got) < len(data):
            got += behind.recv(1 << 16)
        assert got == data
        writing.join(WAIT_S)
        plane.stop()
        reading.join(WAIT_S)
        kept = tapped(b"".join(blocks), server.getsockname()[1])[0]
        lost = plane.counters()["tap_lost_bytes"]
        assert (kept == data and lost == 0) if lossless else (len(kept) < len(data) and lost > 0)


def test_connections_beyond_the_limit_are_refused_and_stopping_ends_all(
    server: socket.socket,
) -> None:
    with relaying(shown(server), max_connections=1) as plane:
        first = connect(plane)
        first.sendall(b"x")
        with accept(server) as behind:
            assert behind.recv(1) == b"x"
            assert is_reset(plane)
            counted = plane.counters()
            assert (counted["refused"], counted["open"]) == (1, 1)
            plane.stop()
            with first, pytest.raises(ConnectionResetError):
                first.recv(1)
            assert plane.counters()["open"] == 0


def test_servers_may_change_for_new_connections(server: socket.socket) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        relaying(shown(server)) as plane,
    ):
        other.settimeout(WAIT_S)
        with connect(plane) as first, accept(server) as behind:
            plane.set_upstreams(0, [Upstream.of(shown(other))])
            with connect(plane), accept(other):
                first.sendall(b"stays")
                assert behind.recv(5) == b"stays"


def test_ipv6(server: socket.socket) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as six:
        six.settimeout(WAIT_S)
        port = six.getsockname()[1]
        plane = create(Config((Listener.to("[::1]:0", f"[::1]:{port}"),), taps=1))
        try:
            own = int(plane.addresses()[0].rpartition(":")[2])
            with socket.create_connection(("::1", own), WAIT_S) as client, accept(six) as behind:
                client.sendall(b"six")
                assert behind.recv(3) == b"six"
        finally:
            plane.stop()


def test_a_real_client_and_the_same_picture(
    server: socket.socket, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from zktrace.engine.base import EngineOptions
    from zktrace.engine.base import create as engine_of

    with ours(tmp_path_factory.mktemp("zk")) as zk, relaying(zk.hosts, taps=1) as plane:
        client = KazooClient(plane.addresses()[0], timeout=20)
        client.start(WAIT_S)
        client.create("/both", b"1")
        assert client.get("/both")[0] == b"1"
        client.stop()
        client.close()
        plane.stop()
        engine = engine_of(EngineOptions())
        fed(plane, engine)
        counted = engine.coverage()["exchanges"]
        assert counted["complete"] >= 4
        assert counted["no_reply"] == counted["no_request"] == 0


def test_connections_on_the_same_ports_are_told_apart(server: socket.socket, tmp_path: Any) -> None:
    """A client's port comes again within seconds, on loopback above all; what the tap shows of the
    second connection must not look like a copy of the first one (all of it was left out).
    """
    from zktrace_proxy.messages.exchanges import END_OP, Conversation, Conversations, Exchange

    shakes = struct.pack(">iiqiqi16s?", 45, 0, 0, 30_000, 0, 16, bytes(16), False)
    granted = struct.pack(">iiiqi16s?", 37, 0, 30_000, 7, 16, bytes(16), False)
    with relaying(shown(server), taps=1) as plane:
        host, listening = plane.addresses()[0].split(":")
        port = 0
        for _ in range(4):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.settimeout(WAIT_S)
                client.bind(("127.0.0.1", port))
                port = client.getsockname()[1]
                client.connect((host, int(listening)))
                with accept(server) as behind:
                    for one, two, said in ((client, behind, shakes), (behind, client, granted)):
                        one.sendall(said)
                        assert two.recv(100) == said
                    behind.close()
                    assert client.recv(1) == b""  # the proxy's side is the one that waits
        plane.stop()
        exchanges: list[Exchange] = []
        begun: list[Conversation] = []
        from zktrace.engine.base import EngineOptions
        from zktrace.engine.frames import FrameEngine

        engine = FrameEngine(EngineOptions(), Conversations(exchanges.append, begun.append))
        fed(plane, engine)
    assert [one.opened for one in begun] == [True] * 4
    assert len({one.client for one in begun}) == 1
    assert sum(one.opcode != END_OP and one.reply is not None for one in exchanges) == 4


def test_what_the_python_plane_cannot_do_is_told(plane_kind: str, tmp_path: Any) -> None:
    if plane_kind == "native":
        return
    with pytest.raises(PlaneError, match="a recording needs zktrace's native engine"):
        create(Config((Listener.to("127.0.0.1:0", "127.0.0.1:1"),), record=Record(str(tmp_path))))
    with pytest.raises(PlaneError, match="a fault needs zktrace's native engine"):
        create(Config((Listener.to("127.0.0.1:0", "127.0.0.1:1"),), rules=(parse("down"),)))
