"""Java ZooKeeper as the other tests use it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kazoo.client import KazooClient

from tests.support.javazk import JavaServer, NotStarted, Servers, need_java, standalone


def _client(hosts: str) -> KazooClient:
    client = KazooClient(hosts, timeout=20)
    client.start(timeout=60)
    return client


def _close(client: KazooClient) -> None:
    client.stop()
    client.close()


def test_standalone(java_zookeeper: JavaServer) -> None:
    assert java_zookeeper.mode() == "standalone"
    client = _client(java_zookeeper.hosts)
    try:
        client.create("/standalone", b"data")
        assert client.get("/standalone")[0] == b"data"
    finally:
        _close(client)


def test_an_ensemble_elects_and_replicates(java_ensemble: Servers) -> None:
    assert sorted(str(server.mode()) for server in java_ensemble) == [
        "follower",
        "follower",
        "leader",
    ]
    writer, reader = _client(java_ensemble[0].hosts), _client(java_ensemble[2].hosts)
    try:
        writer.create("/replicated", b"everywhere")
        reader.sync("/")
        assert reader.get("/replicated")[0] == b"everywhere"
    finally:
        _close(writer)
        _close(reader)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    need_java()
    with (
        pytest.raises(NotStarted, match="tickTime"),
        standalone(tmp_path, tickTime="0"),
    ):
        pass


def test_data_outlives_the_process(tmp_path: Path) -> None:
    with standalone(tmp_path) as server:
        client = _client(server.hosts)
        try:
            client.create("/kept")
            server.kill()
            assert server.mode() is None
            server.start()
            assert server.wait() == "standalone"
            assert client.retry(client.exists, "/kept") is not None
        finally:
            _close(client)
