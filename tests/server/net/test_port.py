"""The client port of a server that runs: what it takes, what it refuses, how it starts and ends."""

from __future__ import annotations

import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.operations import OPEN
from tests.server.ourzk import NotStarted, OurServer, ours
from tests.server.rawclient import RawClient
from tests.support.javazk import ask
from zktrace.wire.message import decode_reply, encode_request
from zktrace.wire.records import (
    ConnectRequest,
    CreateRequest,
    Empty,
    PathWatchRequest,
    ReplyHeader,
    StatResponse,
)

EXISTS, GET_DATA = 3, 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurServer]:
    with ours(tmp_path_factory.mktemp("port")) as server:
        yield server


@pytest.fixture
def client(server: OurServer) -> Iterator[RawClient]:
    """A session, which must not suffer from what a test does."""
    client = RawClient(server.address)
    assert client.connect() is not None
    yield client
    client.request(9, EXISTS, PathWatchRequest("/", False))
    assert decode_reply(EXISTS, client.replies(1)[0])[0].err == 0
    client.close()


def refused(server: OurServer, data: bytes, *, session: bool) -> None:
    """The server closes the connection without an answer."""
    client = RawClient(server.address)
    if session:
        assert client.connect() is not None
    client.send_bytes(data)
    assert client.frame() is None
    client.close()


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("length", [-1, -(1 << 31), 0x100000, (1 << 31) - 1, 0x7A7A7A7A])
@pytest.mark.usefixtures("client")
def test_lengths_that_are_refused(server: OurServer, length: int, session: bool) -> None:
    refused(server, struct.pack(">i", length) + bytes(100), session=session)


@pytest.mark.parametrize("size", [0, 1, 7])
@pytest.mark.usefixtures("client")
def test_frames_without_a_header(server: OurServer, size: int) -> None:
    refused(server, struct.pack(">i", size) + bytes(size), session=True)
    refused(server, struct.pack(">i", size) + bytes(size), session=False)


def test_bytes_one_by_one(server: OurServer, client: RawClient) -> None:
    slow = RawClient(server.address)
    request = ConnectRequest(0, 0, 10_000, 0, bytes(16), None).encode()
    for byte in struct.pack(">i", len(request)) + request:
        slow.send_bytes(bytes([byte]))
    response = slow.frame()
    assert response is not None
    assert len(response) == 36  # without readOnly, as the request
    payload = encode_request(1, EXISTS, PathWatchRequest("/", False))
    for byte in struct.pack(">i", len(payload)) + payload:
        slow.send_bytes(bytes([byte]))
    header, body = decode_reply(EXISTS, slow.replies(1)[0])
    assert header.err == 0
    assert isinstance(body, StatResponse)
    slow.close()


def test_a_large_frame_in_pieces(server: OurServer, client: RawClient) -> None:
    data = bytes(range(256)) * 3900
    payload = encode_request(1, 1, CreateRequest("/large", data, OPEN, 0))
    framed = struct.pack(">i", len(payload)) + payload
    for at in range(0, len(framed), 9999):
        client.send_bytes(framed[at : at + 9999])
    assert decode_reply(1, client.replies(1)[0])[0].err == 0
    client.request(2, GET_DATA, PathWatchRequest("/large", False))
    assert data in client.replies(1)[0]


def test_requests_right_behind_the_connect_request(server: OurServer) -> None:
    client = RawClient(server.address)
    client.send(
        ConnectRequest(0, 0, 10_000, 0, bytes(16), False).encode(),
        encode_request(1, EXISTS, PathWatchRequest("/", False)),
    )
    assert client.frame() is not None
    assert decode_reply(EXISTS, client.replies(1)[0])[0].err == 0
    client.close()


def test_a_session_moves_to_the_connection_that_asks(server: OurServer) -> None:
    first, second = RawClient(server.address), RawClient(server.address)
    first.connect()
    response = second.connect(session_id=first.session_id, password=first.password)
    assert response is not None
    assert response.session_id == first.session_id
    assert first.frame() is None
    second.request(1, EXISTS, PathWatchRequest("/", False))
    assert second.replies(1)
    first.close()
    second.close()


def test_a_wrong_password(server: OurServer) -> None:
    first, second = RawClient(server.address), RawClient(server.address)
    first.connect()
    response = second.connect(session_id=first.session_id, password=b"wrong")
    assert response is not None
    assert (response.session_id, response.timeout_ms, response.password) == (0, 0, bytes(16))
    assert second.frame() is None
    first.close()
    second.close()


def test_a_client_that_is_ahead_is_sent_away(server: OurServer) -> None:
    client = RawClient(server.address)
    assert client.connect(last_zxid=1 << 40) is None
    client.close()


def test_what_is_unknown_is_answered_and_closed(server: OurServer) -> None:
    for number in (13, 20, -10, 10, 77):
        client = RawClient(server.address)
        client.connect()
        client.send(struct.pack(">ii", 5, number) + bytes(8))
        payload = client.frame()
        assert payload is not None
        header = ReplyHeader.decode(payload)
        assert (header.xid, header.zxid, header.err) == (5, -1, -6)
        assert client.frame() is None
        client.close()


def test_four_letter_words(server: OurServer, client: RawClient) -> None:
    assert ask(server.address, "ruok") == "imok"
    assert "Mode: standalone" in (ask(server.address, "srvr") or "")
    words = "conf cons dirs dump envi hash isro mntr stat wchs wchc wchp gtmk"
    for word in words.split():
        assert ask(server.address, word), word
    assert f"0x{client.session_id:x}" in (ask(server.address, "cons") or "")
    assert ask(server.address, "nope") == ""
    with socket.create_connection(server.address) as one:
        for letter in b"ruok":
            one.sendall(bytes([letter]))
        assert one.recv(10) == b"imok"


def test_words_that_are_not_allowed(tmp_path: Path) -> None:
    with ours(tmp_path, {"4lw.commands.whitelist": "isro, ruok"}) as server:
        assert ask(server.address, "ruok") == "imok"
        answer = ask(server.address, "srvr")
        assert answer == "srvr is not executed because it is not in the whitelist.\n"


def test_a_limit_of_connections(tmp_path: Path) -> None:
    with ours(tmp_path, {"maxClientCnxns": "2"}) as server:
        clients = [RawClient(server.address) for _ in range(2)]
        assert all(c.connect() for c in clients)
        third = RawClient(server.address)
        third.send_bytes(b"\0")
        assert third.frame() is None
        clients[0].close()
        # Its place is free when the server has seen it go.
        while (again := RawClient(server.address)).connect() is None:
            again.close()
        for one in (third, again, clients[1]):
            one.close()


def test_who_does_not_read_does_not_stop_others(server: OurServer, client: RawClient) -> None:
    client.request(1, 1, CreateRequest("/wide", bytes(100_000), OPEN, 0))
    client.replies(1)
    deaf = RawClient(server.address)
    deaf.connect()
    count = 3000  # 300 MB of answers: more than the sockets and the server hold
    ask_for_it = encode_request(2, GET_DATA, PathWatchRequest("/wide", False))
    deaf.send(*[ask_for_it] * count)
    for _ in range(50):
        client.request(3, 11, Empty())
        assert client.replies(1)
    assert sum(len(p) > 100_000 for p in deaf.replies(count)) == count
    deaf.close()


def test_data_outlive_the_process(tmp_path: Path) -> None:
    server = OurServer(tmp_path)
    server.start()
    client = RawClient(server.address)
    client.connect(timeout_ms=30_000)
    client.request(1, 1, CreateRequest("/kept", b"x", OPEN, 1))
    client.replies(1)
    server.kill()
    server.start()
    again = RawClient(server.address)
    response = again.connect(session_id=client.session_id, password=client.password)
    assert response is not None
    assert response.session_id == client.session_id
    again.request(2, GET_DATA, PathWatchRequest("/kept", False))
    assert decode_reply(GET_DATA, again.replies(1)[0])[0].err == 0
    client.close()
    again.close()
    server.stop()


def test_a_session_that_is_silent_ends(tmp_path: Path) -> None:
    """Its ephemeral goes, and whoever watches that is told; its connection is closed."""
    with ours(tmp_path, {"tickTime": "50", "maxSessionTimeout": "60000"}) as server:
        silent, watcher = RawClient(server.address), RawClient(server.address)
        response = silent.connect(timeout_ms=1)
        assert response is not None
        assert response.timeout_ms == 100
        watcher.connect(timeout_ms=60_000)
        silent.request(1, 1, CreateRequest("/e", b"", OPEN, 1))
        silent.replies(1)
        gone = False
        while not gone:
            watcher.request(1, EXISTS, PathWatchRequest("/e", False))
            gone = decode_reply(EXISTS, watcher.replies(1)[0])[0].err == -101
        assert silent.frame() is None
        again = RawClient(server.address)
        refused = again.connect(session_id=silent.session_id, password=silent.password)
        assert refused is not None
        assert refused.session_id == 0
        for one in (silent, watcher, again):
            one.close()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits another process: Linux only")
def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    """It stops and says why; nothing that was not written is acknowledged, nothing else is lost."""
    server = OurServer(tmp_path, {"preAllocSize": "1"})
    server.start()
    client = RawClient(server.address)
    client.connect(timeout_ms=30_000)
    client.request(1, 1, CreateRequest("/kept", b"x", OPEN, 0))
    assert client.replies(1)
    size = max(p.stat().st_size for p in (server.data / "version-2").glob("log.*"))
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, size))
    client.request(2, 1, CreateRequest("/lost", bytes(size), OPEN, 0))
    assert client.frame() is None
    assert server.wait() == 1
    assert "cannot be written: File too large" in server.log.read_text()
    client.close()
    server.start()
    again = RawClient(server.address)
    again.connect()
    for path, err in (("/kept", 0), ("/lost", -101)):
        again.request(3, EXISTS, PathWatchRequest(path, False))
        assert decode_reply(EXISTS, again.replies(1)[0])[0].err == err
    again.close()
    server.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_and_ends_when_told(tmp_path: Path, number: int) -> None:
    server = OurServer(
        tmp_path, {"initLimit": "5", "client.portUnification": "true", "no.such.key": "1"}
    )
    line = server.start()
    assert f"listening on 127.0.0.1:{server.address[1]}" in line
    assert str(tmp_path / "data" / "version-2") in line
    with socket.create_connection(server.address):
        process = server._process
        assert process is not None
        process.send_signal(number)
        assert server.wait() == 0
    log = server.log.read_text()
    assert "client.portUnification is not supported yet" in log
    assert "unknown key no.such.key" in log
    assert "initLimit" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"clientPort": "x"}, "clientPort=x is no number"),
        ({"dataDir": ""}, "dataDir is not set"),
        ({"tickTime": "0"}, "tickTime=0"),
        ({"minSessionTimeout": "9", "maxSessionTimeout": "8"}, "must not be larger"),
        ({"server.1": "a:1:2", "server.2": "b:1:2"}, "initLimit is not set"),
        ({"dataDir": "/proc/nowhere"}, "cannot use /proc/nowhere"),
    ],
)
def test_a_configuration_that_cannot_be_used(
    tmp_path: Path, config: dict[str, str], reason: str
) -> None:
    server = OurServer(tmp_path, config)
    with pytest.raises(NotStarted) as said:
        server.start()
    lines = str(said.value).strip().splitlines()
    assert lines[-1].startswith("zktrace server: ")
    assert reason in lines[-1]
    assert "Traceback" not in str(said.value)


def test_a_port_and_a_directory_in_use(tmp_path: Path) -> None:
    with ours(tmp_path / "one") as server:
        port = str(server.address[1])
        for config, reason in (
            ({"clientPort": port}, "cannot listen on"),
            ({"dataDir": str(server.data)}, "in use by another server"),
        ):
            with pytest.raises(NotStarted, match=reason):
                OurServer(tmp_path / "two", config).start()


def test_as_a_subcommand(tmp_path: Path) -> None:
    """The function that the entry point names, as the command line calls it."""
    missing = tmp_path / "none.cfg"
    code = "from zktrace_server.command import app; app(prog_name='zktrace server')"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(missing)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
        env={"PYTHONPATH": ".:server"},
    )
    assert done.returncode == 2
    assert done.stderr == f"zktrace server: cannot read {missing}: No such file or directory\n"
