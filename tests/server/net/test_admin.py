"""The admin server and the metrics: answers have the fields that Java 3.9.5 has, with the same
types (seen from its own admin server), and say what is so.
"""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from kazoo.client import KazooClient
from prometheus_client.parser import text_string_to_metric_families

from tests.server.ourzk import NotStarted, OurServer, ours

#: What Java's Prometheus provider shows: name and kind, but for the virtual machine's.
METRICS: Final = dict(
    line.split() for line in Path(__file__).with_name("java_metrics.txt").read_text().splitlines()
)
#: Command: fields in their order. Seen of Java 3.9.5, standalone, with one session.
FIELDS: Final = {
    "configuration": (
        "client_port data_dir data_log_dir tick_time max_client_cnxns min_session_timeout "
        "max_session_timeout server_id client_port_listen_backlog"
    ),
    "connection_stat_reset": "",
    "connections": "connections secure_connections",
    "dirs": "datadir_size logdir_size",
    "dump": "expiry_time_to_session_ids session_id_to_ephemeral_paths",
    "get_trace_mask": "tracemask",
    "hash": "digests",
    "initial_configuration": "initial_configuration",
    "is_read_only": "read_only",
    "last_snapshot": "zxid timestamp",
    "observer_connection_stat_reset": "",
    "observers": "synced_observers observers",
    "ruok": "",
    "server_stats": "version read_only server_stats client_response node_count",
    "stats": (
        "version read_only server_stats client_response node_count connections secure_connections"
    ),
    "stat_reset": "",
    "voting_view": "current_config",
    "watches": "session_id_to_watched_paths",
    "watches_by_path": "path_to_session_ids",
    "watch_summary": "num_connections num_paths num_total_watches",
    "zabstate": "voting zabstate",
}
CONNECTION: Final = (
    "remote_socket_address interest_ops outstanding_requests packets_received packets_sent "
    "session_id last_operation established session_timeout last_cxid last_zxid "
    "last_response_time last_latency min_latency avg_latency max_latency"
)
STATS: Final = (
    "packets_sent packets_received fsync_threshold_exceed_count client_response_stats uptime "
    "data_dir_size log_dir_size provider_null last_processed_zxid outstanding_requests "
    "server_state avg_latency max_latency min_latency num_alive_client_connections "
    "auth_failed_count non_mtlsremote_conn_count non_mtlslocal_conn_count"
)
PROMETHEUS: Final = "org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurServer]:
    given = {
        "admin.enableServer": "true",
        "admin.serverPort": "0",
        "admin.serverAddress": "127.0.0.1",
        "metricsProvider.className": PROMETHEUS,
        "metricsProvider.httpPort": "0",
        "metricsProvider.httpHost": "127.0.0.1",
        "DigestAuthenticationProvider.superDigest": "super:never-shown",
    }
    with ours(tmp_path_factory.mktemp("admin"), given) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: OurServer) -> Iterator[KazooClient]:
    client = KazooClient(server.hosts, timeout=30)
    client.start(30)
    client.create("/a", b"12345", ephemeral=True)
    client.get("/a", watch=lambda event: None)
    yield client
    client.stop()
    client.close()


def port(server: OurServer, what: str) -> int:
    found = re.search(rf"{what} on \S*?:(\d+)", server.line)
    assert found is not None
    return int(found[1])


def ask(server: OurServer, command: str) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port(server, 'admin')}/commands/{command}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        told = json.loads(answer.read())
    assert isinstance(told, dict)
    return told


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("command", list(FIELDS))
def test_fields_are_javas(server: OurServer, command: str) -> None:
    assert list(ask(server, command)) == [*FIELDS[command].split(), "command", "error"]


def test_what_they_say(server: OurServer, client: KazooClient) -> None:
    session, _ = client.client_id
    client.get_children("/")
    stats = ask(server, "server_stats")
    assert list(stats["server_stats"]) == STATS.split()
    assert stats["server_stats"]["last_processed_zxid"] == client.last_zxid
    assert stats["node_count"] == 6
    assert ask(server, "srvr")["command"] == "server_stats"
    (one,) = ask(server, "connections")["connections"]
    assert list(one) == CONNECTION.split()
    assert one["session_id"] == session
    assert one["packets_received"] >= 1
    assert one["last_operation"] in ("GETC", "PING")
    assert one["session_timeout"] == 30_000
    assert ask(server, "dump")["session_id_to_ephemeral_paths"] == {str(session): ["/a"]}
    assert list(ask(server, "dump")["expiry_time_to_session_ids"].values()) == [[session]]
    assert ask(server, "watches")["session_id_to_watched_paths"] == {str(session): ["/a"]}
    assert ask(server, "wchp")["path_to_session_ids"] == {"/a": [session]}
    assert ask(server, "configuration")["client_port"] == 0
    assert ask(server, "leader") == {"error": "server is not initialized", "command": "leader"}
    assert ask(server, "no") == {"command": "no", "error": "Unknown command: no"}
    assert ask(server, "last_snapshot")["zxid"] == "0"
    shown = str(ask(server, "initial_configuration")) + str(ask(server, "system_properties"))
    assert "superDigest" in shown
    assert "never-shown" not in shown


def scrape(server: OurServer) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port(server, 'metrics')}/metrics"
    with urllib.request.urlopen(url, timeout=60) as answer:
        text = answer.read().decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


@pytest.mark.usefixtures("client")
def test_metrics_are_javas(server: OurServer) -> None:
    found = scrape(server)
    for name, family in found.items():
        # The parser takes _total off.
        java = METRICS.get(name) or METRICS.get(f"{name}_total")
        assert java is not None, name
        assert family.type in (java, "unknown"), name
    assert len(found) > 35


def values(server: OurServer) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in scrape(server).values()
        for sample in family.samples
        if not sample.labels
    }


def test_metrics_count(server: OurServer, client: KazooClient) -> None:
    before = values(server)
    for number in range(20):
        client.set("/a", b"%d" % number)
    for _ in range(30):
        client.exists("/a")
    after = values(server)

    def more(name: str) -> float:
        return after[name] - before[name]

    assert more("commit_count") == 20
    assert more("fsynctime_count") == 20
    assert more("updatelatency_count") == 20
    assert more("readlatency_count") >= 30
    assert more("packets_received") >= 50
    # The event of the watch, too; pings at most add.
    assert more("packets_sent") == more("packets_received") + 1
    assert more("bytes_received_count") > 20 * 30
    assert after["znode_count"] == 6
    assert after["num_alive_connections"] == 1
    assert after["global_sessions"] == 1
    assert after["ephemerals_count"] == 1
    monitor = ask(server, "monitor")
    assert monitor["cnt_fsynctime"] == after["fsynctime_count"]
    assert monitor["server_state"] == "standalone"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /commands/ruok HTTP/1.1\r\n\r\n", 405),
        (b"GET /elsewhere HTTP/1.1\r\n\r\n", 404),
        (b"GET /commands/ruok\r\n\r\n", 400),
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"HEAD /commands/ruok HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /commands HTTP/1.0\r\n\r\n", 200),
        (b"GET /commands/%2e%2e%2f?a=%zz&b HTTP/1.1\r\n\r\n", 200),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\n", None),
    ],
)
def test_requests_of_all_kinds(server: OurServer, sent: bytes, status: int | None) -> None:
    with socket.create_connection(("127.0.0.1", port(server, "admin")), timeout=60) as one:
        one.sendall(sent)
        one.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := one.recv(65_536):
                answer += piece
        except ConnectionResetError:
            pass
    if status is None:
        assert answer == b""
    else:
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        if sent.startswith(b"HEAD"):
            assert answer.endswith(b"\r\n\r\n")
    assert "Traceback" not in server.log.read_text()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        given = {
            "admin.enableServer": "true",
            "admin.serverPort": str(number),
            "admin.serverAddress": "127.0.0.1",
        }
        server = OurServer(tmp_path / "asked", given)
        with pytest.raises(NotStarted, match=r"\(admin\.serverPort\): Address already in use"):
            server.start()


def test_connections_are_throttled(tmp_path: Path) -> None:
    """Two tokens, and no more for an hour."""
    given = {"connection_throttle_tokens": "2", "connection_throttle_fill_time": "3600000"}
    with ours(tmp_path, given) as server:
        clients = [KazooClient(server.hosts, timeout=30) for _ in range(2)]
        for client in clients:
            client.start(30)
        with socket.create_connection(server.address, timeout=60) as third:
            request = bytes(4) + bytes(8) + (30_000).to_bytes(4, "big") + bytes(8)
            request += (16).to_bytes(4, "big") + bytes(16) + b"\0"
            third.sendall(len(request).to_bytes(4, "big") + request)
            assert third.recv(100) == b""
        server.wait_for_log("the throttle of connections has no token left")
        assert clients[0].exists("/") is not None
        for client in clients:
            client.stop()
            client.close()


def test_nothing_there(server: OurServer) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port(server, 'admin')}/", timeout=60)
