"""Sessions that one server has for itself, and those that become the ensemble's: the same walk at
each server of an ensemble of ours and Java's. (By hand it was taken at those of one kind, too.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.server.core.harness import OPEN
from tests.server.quorum.mixed import Mixed, mixed
from tests.server.rawclient import RawClient
from tests.support.javazk import JavaServer
from zktrace.wire.codec import Record
from zktrace.wire.records import (
    CreateRequest,
    Empty,
    MultiHeader,
    PathRequest,
    PathWatchRequest,
)

_REPLY: Final = struct.Struct(">iqi")
_CREATE, _EXISTS, _SYNC, _MULTI, _CLOSE = 1, 3, 9, 14, -11
_EPHEMERAL: Final = 1
_NO_NODE, _ON_LOCAL = -101, -120


class _Client(RawClient):
    """Asks one thing after the other."""

    _xid = 0

    def ask(self, kind: int, body: Record) -> int | None:
        """The error of the answer; None where the connection is closed instead."""
        self._xid += 1
        self.request(self._xid, kind, body)
        frame = self.frame()
        return None if frame is None else _REPLY.unpack_from(frame)[2]

    def create(self, path: str, flags: int = 0) -> int | None:
        return self.ask(_CREATE, CreateRequest(path, b"x", OPEN, flags))


@contextmanager
def _at(server: JavaServer, timeout_ms: int = 30000) -> Iterator[_Client]:
    client = _Client(server.address)
    try:
        welcome = client.connect(timeout_ms=timeout_ms)
        assert welcome is not None
        assert welcome.timeout_ms > 0
        yield client
    finally:
        client.close()


def _moves(client: RawClient, server: JavaServer) -> bool:
    """Whether its session is known at another server."""
    other = _Client(server.address)
    try:
        welcome = other.connect(session_id=client.session_id, password=client.password)
        return welcome is not None and welcome.timeout_ms > 0
    finally:
        other.close()


def _sees(server: JavaServer, path: str) -> int | None:
    with _at(server) as client:
        assert client.ask(_SYNC, PathRequest("/")) == 0
        return client.ask(_EXISTS, PathWatchRequest(path, False))


def _others(servers: Mixed, server: JavaServer) -> list[JavaServer]:
    return [other for other in servers if other is not server]


@pytest.mark.parametrize("kinds", ["ojo"])
def test_of_one_server(tmp_path: Path, kinds: str) -> None:
    """It reads and writes, is known nowhere else, and has no ephemeral nodes."""
    with mixed(tmp_path, kinds, localSessionsEnabled="true") as servers:
        for number, server in enumerate(servers):
            with _at(server) as client:
                assert client.create(f"/n{number}") == 0
                assert client.create(f"/e{number}", _EPHEMERAL) == _ON_LOCAL
                assert client.ask(_EXISTS, PathWatchRequest(f"/e{number}", False)) == _NO_NODE
                for other in _others(servers, server):
                    assert _sees(other, f"/n{number}") == 0
                assert client.ask(_CLOSE, Empty()) == 0
                assert client.frame() is None
            with _at(server) as client:
                assert not _moves(client, _others(servers, server)[0])
            # It ends when nobody is heard of.
            with _at(server, timeout_ms=1) as client:
                assert client.frame() is None


@pytest.mark.parametrize("kinds", ["joj"])
def test_that_becomes_the_ensembles(tmp_path: Path, kinds: str) -> None:
    """Before its first ephemeral node, with its id; then it moves, and the nodes go with it."""
    with mixed(
        tmp_path, kinds, localSessionsEnabled="true", localSessionsUpgradingEnabled="true"
    ) as servers:
        for number, server in enumerate(servers):
            other = _others(servers, server)[0]
            with _at(server) as client:
                assert client.create(f"/e{number}", _EPHEMERAL) == 0
                assert client.create(f"/f{number}", _EPHEMERAL) == 0
                assert _sees(other, f"/e{number}") == 0
                assert _moves(client, other)
            with _at(server) as client:
                parts = b"".join(
                    MultiHeader(_CREATE, False, -1).encode()
                    + CreateRequest(path, b"", OPEN, flags).encode()
                    for path, flags in ((f"/p{number}", 0), (f"/m{number}", _EPHEMERAL))
                )
                client.send(
                    struct.pack(">ii", 7, _MULTI) + parts + MultiHeader(-1, True, -1).encode()
                )
                frame = client.frame()
                assert frame is not None
                assert _REPLY.unpack_from(frame)[2] == 0
                assert _sees(other, f"/m{number}") == 0
                assert client.ask(_CLOSE, Empty()) == 0
            assert _sees(other, f"/m{number}") == _NO_NODE
            assert _sees(other, f"/p{number}") == 0
