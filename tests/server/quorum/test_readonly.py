"""A server that is cut off from the others serves reads, where it may: ours beside Java's, the same
walk at both. `readonlymode.enabled` is a system property in Java.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from kazoo.client import KazooClient, KeeperState
from kazoo.exceptions import NotReadOnlyCallError

from tests.server.core.harness import OPEN
from tests.server.quorum.mixed import PATIENCE_S, Mixed, mixed
from tests.server.rawclient import RawClient
from tests.support.javazk import JavaServer
from zktrace.wire.records import (
    CreateRequest,
    Empty,
    PathRequest,
    PathVersionRequest,
    PathWatchRequest,
    SetACLRequest,
    SetDataRequest,
)

_READ_ONLY: Final = {"readonlymode.enabled": "true"}
_REPLY: Final = struct.Struct(">iqi")
#: What each request is answered with, by opcode.
_ASKED: Final = {
    "getData": (4, PathWatchRequest("/a", False), 0),
    "getChildren": (8, PathWatchRequest("/", False), 0),
    "exists": (3, PathWatchRequest("/none", True), -101),
    "create": (1, CreateRequest("/b", b"", OPEN, 0), -119),
    "setData": (5, SetDataRequest("/a", b"x", -1), -119),
    "delete": (2, PathVersionRequest("/a", -1), -119),
    "setACL": (7, SetACLRequest("/a", OPEN, -1), -119),
    "sync": (9, PathRequest("/a"), -119),
    "ping": (11, Empty(), 0),
}
#: A request of its own in 3.8 alone.
_CHECK: Final = (13, PathVersionRequest("/a", -1))


def _cut_off(servers: Mixed) -> JavaServer:
    """The first one, when it serves reads alone."""
    for server in servers[1:]:
        server.stop()
    servers.until(lambda: servers[0].ask("isro") == "ro")
    return servers[0]


def _has(server: JavaServer, path: str) -> bool:
    client = RawClient(server.address)
    try:
        if client.connect() is None:
            return False
        client.request(1, 3, PathWatchRequest(path, False))
        frame = client.frame()
        return frame is not None and _REPLY.unpack_from(frame)[2] == 0
    finally:
        client.close()


@pytest.fixture
def opened() -> Iterator[Callable[[JavaServer], RawClient]]:
    """Connections, closed at the end."""
    clients: list[RawClient] = []

    def connect(server: JavaServer) -> RawClient:
        clients.append(RawClient(server.address))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def _checks(server: JavaServer, client: RawClient) -> bool:
    """Whether a bare check is answered as its release does: 3.9 says Unimplemented and closes."""
    client.request(99, *_CHECK)
    frame = client.frame()
    assert frame is not None
    old = "version: 3.8" in (server.ask("srvr") or "")
    if _REPLY.unpack_from(frame)[2] != (-119 if old else -6):
        return False
    return old or client.frame() is None


def _answers(client: RawClient) -> dict[str, int | None]:
    got: dict[str, int | None] = {}
    for number, (name, (kind, body, _)) in enumerate(_ASKED.items(), 1):
        client.request(-2 if name == "ping" else number, kind, body)
        frame = client.frame()
        got[name] = None if frame is None else _REPLY.unpack_from(frame)[2]
    return got


@pytest.mark.parametrize("kinds", ["ooo", "jjj"])
def test_reads_without_a_leader(
    tmp_path: Path, kinds: str, opened: Callable[[JavaServer], RawClient]
) -> None:
    local = {"localSessionsEnabled": "true"} if kinds == "jjj" else {}
    with mixed(tmp_path, kinds, _READ_ONLY, **local) as servers:
        first = opened(servers[0])
        assert first.connect(read_only=True) is not None
        first.request(1, 1, CreateRequest("/a", b"kept", OPEN, 0))
        made = first.frame()
        assert made is not None
        zxid = _REPLY.unpack_from(made)[1]
        alone = _cut_off(servers)
        assert alone.mode() == "read-only"
        # Who wants to write is not served, nor who has never heard of such servers.
        assert opened(alone).connect(read_only=False) is None
        assert opened(alone).connect(read_only=None) is None
        # Nor whose session is the ensemble's (or, with local sessions, another time's).
        before = opened(alone).connect(
            session_id=first.session_id, password=first.password, read_only=True
        )
        assert before is None or before.timeout_ms == 0
        # Nor who has seen more.
        assert opened(alone).connect(read_only=True, last_zxid=zxid + 9) is None
        client = opened(alone)
        welcome = client.connect(read_only=True)
        assert welcome is not None
        assert welcome.read_only is True
        assert welcome.session_id != 0
        assert _answers(client) == {name: err for name, (_, _, err) in _ASKED.items()}
        checks = opened(alone)
        assert checks.connect(read_only=True) is not None
        assert _checks(alone, checks)
        # It goes on with its session on another connection.
        again = opened(alone)
        resumed = again.connect(
            session_id=client.session_id, password=client.password, read_only=True
        )
        assert resumed is not None
        assert (resumed.session_id, resumed.read_only) == (client.session_id, True)
        again.request(1, -11, Empty())
        ended = again.frame()
        assert ended is not None
        assert _REPLY.unpack_from(ended)[2] == 0
        assert again.frame() is None
        # When there is a leader again its clients have to look anew.
        waits = opened(alone)
        assert waits.connect(read_only=True) is not None
        servers[1].start()
        assert waits.frame() is None
        servers.until(lambda: alone.ask("isro") == "rw")
        back = opened(alone)
        welcome = back.connect(read_only=True)
        assert welcome is not None
        assert welcome.read_only is False
        back.request(1, 5, SetDataRequest("/a", b"new", -1))
        written = back.frame()
        assert written is not None
        assert _REPLY.unpack_from(written)[2] == 0


def test_a_client_that_can_live_with_it(tmp_path: Path) -> None:
    """kazoo's, at one of ours and then at the ensemble, which Java leads with it."""
    with mixed(tmp_path, "ojo", _READ_ONLY) as servers:
        before = KazooClient(servers.hosts, timeout=8)
        before.start(PATIENCE_S)
        before.create("/a", b"kept")
        before.sync("/a")
        servers.until(lambda: _has(servers[0], "/a"))
        before.stop()
        before.close()
        _cut_off(servers)
        client = KazooClient(servers.hosts, timeout=8, read_only=True)
        client.start(PATIENCE_S)
        assert client.client_state == KeeperState.CONNECTED_RO
        assert client.get("/a")[0] == b"kept"
        with pytest.raises(NotReadOnlyCallError):
            client.set("/a", b"lost")
        servers[1].start()
        servers.until(lambda: client.client_state == KeeperState.CONNECTED)
        client.set("/a", b"new")
        assert client.get("/a")[0] == b"new"
        client.stop()
        client.close()
