"""The command with real clients in front of a real server."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NodeExistsError, NoNodeError
from kazoo.retry import KazooRetry

import zktrace
from tests.proxy.conftest import ROOT, Proxy
from tests.support.javazk import JavaServer, Servers

Make = Callable[..., Proxy]
SECRET = "geheimes-wort"


def work(hosts: str) -> list[str]:
    """What a client does: each op once or more, and some errors; the names of watch events."""
    events: list[str] = []
    client = KazooClient(hosts, timeout=20)
    client.start(60)
    try:
        client.add_auth("digest", f"bob:{SECRET}")
        root = f"/work-{os.getpid()}"
        client.ensure_path(root)
        for number in range(40):
            client.create(f"{root}/n", b"x" * number, sequence=True, ephemeral=number % 2 == 0)
        first = sorted(client.get_children(root))[0]
        fired = client.handler.event_object()

        def watch(event: Any) -> None:
            events.append(event.type)
            fired.set()

        client.get(f"{root}/{first}", watch=watch)
        client.set(f"{root}/{first}", b"changed")
        fired.wait(60)
        with pytest.raises(NoNodeError):
            client.get(f"{root}/none")
        with pytest.raises(NodeExistsError):
            client.create(root)
        transaction = client.transaction()
        transaction.create(f"{root}/t", b"1")
        transaction.set_data(f"{root}/t", b"2")
        transaction.commit()
        client.create(f"{root}/large", b"y" * 900_000)
        assert len(client.get(f"{root}/large")[0]) == 900_000
        client.delete(root, recursive=True)
    finally:
        client.stop()
        client.close()
    return events


def exchanges(trace: zktrace.Trace) -> list[tuple[Any, ...]]:
    """All that is not time, nor the addresses."""
    columns = ("op", "xid", "path", "error", "zxid", "request_bytes", "reply_bytes", "state")
    table = trace.exchanges.select(list(columns)).to_pylist()
    return sorted((tuple(row.values()) for row in table), key=repr)


def test_clients_notice_nothing_and_the_recording_holds_all_but_the_secrets(
    proxy: Make, java_zookeeper: JavaServer, tmp_path: Path
) -> None:
    file = tmp_path / "all.pcapng"
    one = proxy(
        "--listen", "127.0.0.1:0", "--upstream", java_zookeeper.hosts, "--record", str(file)
    )
    assert work(one.address()) == ["CHANGED"]
    assert one.end() == 0, one.said
    trace = zktrace.read(str(file))
    assert trace.coverage["exchanges"]["no_reply"] == trace.coverage["exchanges"]["no_request"] == 0
    assert trace.coverage["gaps"] == trace.coverage["skipped_bytes"] == 0
    assert trace.coverage["kernel_drops"] == 0, "its end says that nothing was left out"
    ops = trace.exchanges["op"].to_pylist()
    assert ops.count("create") >= 42
    assert {"connect", "auth", "multi", "getData", "setData", "closeSession"} <= set(ops)
    assert trace.watch_events["event"].to_pylist() == ["NodeDataChanged"]
    content = file.read_bytes()
    assert SECRET.encode() not in content
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("tcpdump") is None, reason="needs root and tcpdump"
)
def test_a_recording_decodes_as_what_tcpdump_saw(
    proxy: Make, java_zookeeper: JavaServer, tmp_path: Path
) -> None:
    recorded, seen = tmp_path / "recorded.pcapng", tmp_path / "seen.pcap"
    one = proxy(
        "--listen", "127.0.0.1:0", "--upstream", java_zookeeper.hosts, "--record", str(recorded)
    )
    address = one.address()
    port = address.rpartition(":")[2]
    capture = subprocess.Popen(
        ["tcpdump", "-i", "lo", "-B", "65536", "--immediate-mode", "-U", "-w", str(seen),
         f"tcp port {port}"],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert capture.stderr is not None
    assert "listening" in capture.stderr.readline()
    work(address)
    assert one.end() == 0
    until = time.monotonic() + 60
    while "closeSession" not in zktrace.read(str(seen)).exchanges["op"].to_pylist():
        assert time.monotonic() < until, "tcpdump writes what it saw in the end"
        time.sleep(0.05)
    capture.send_signal(signal.SIGINT)
    with capture.stderr:
        told = capture.stderr.read()
    capture.wait(60)
    assert "\n0 packets dropped by kernel" in told
    ours, theirs = zktrace.read(str(recorded)), zktrace.read(str(seen))
    assert theirs.coverage["exchanges"]["complete"] > 50
    assert exchanges(ours) == exchanges(theirs)
    assert ours.watch_events["path"].to_pylist() == theirs.watch_events["path"].to_pylist()


def test_the_page_shows_what_goes_through(proxy: Make, java_zookeeper: JavaServer) -> None:
    one = proxy(
        "--listen", "127.0.0.1:0", "--upstream", java_zookeeper.hosts, "--http", "127.0.0.1:0"
    )
    address = one.address()
    page = one.until(r"(http://\S+)")[1]
    work(address)
    with urllib.request.urlopen(f"{page}api/summary?window=all") as answer:
        summary = json.load(answer)
    assert summary["source"]["kind"] == "proxy"
    with urllib.request.urlopen(f"{page}api/ops?window=all") as answer:
        rows = {row["op"]: row for row in json.load(answer)["rows"]}
    assert rows["create"]["errors"] == {"NodeExists": 1}
    assert one.end() == 0, one.said
    assert SECRET not in "".join(one.said)


def test_clients_survive_the_loss_of_the_leader(
    proxy: Make, java_ensemble: Servers, tmp_path: Path
) -> None:
    """A listener per member; one that is gone resets whoever comes, and clients go to another."""
    pairs = [f"127.0.0.1:0={server.hosts}" for server in java_ensemble]
    arguments = [part for pair in pairs for part in ("--listen", pair)]
    one = proxy(*arguments, "--record", str(tmp_path / "ensemble.pcapng"))
    addresses = [one.address() for _ in java_ensemble]
    client = KazooClient(",".join(addresses), timeout=30)
    client.start(60)
    session = client.client_id
    client.create("/before", b"1")
    leader = java_ensemble.leader()
    leader.kill()
    try:
        retry = KazooRetry(max_tries=-1, deadline=100)
        retry(client.create, "/after", b"2")
        assert client.client_id == session
        assert retry(client.get, "/before")[0] == b"1"
    finally:
        client.stop()
        client.close()
        leader.start()
    assert one.end() == 0
    moved = zktrace.read(str(tmp_path / "ensemble.pcapng"))
    servers = {
        server
        for op, server in zip(
            moved.exchanges["op"].to_pylist(), moved.exchanges["server"].to_pylist(), strict=True
        )
        if op == "connect"
    }
    assert servers <= {server.hosts for server in java_ensemble}


def test_killed_it_leaves_what_can_be_read(
    proxy: Make, java_zookeeper: JavaServer, tmp_path: Path
) -> None:
    file = tmp_path / "killed.pcapng"
    one = proxy(
        "--listen", "127.0.0.1:0", "--upstream", java_zookeeper.hosts, "--record", str(file)
    )
    work(one.address())
    assert one.end(signal.SIGKILL) == -signal.SIGKILL
    with file.open("ab") as torn:
        torn.write(file.read_bytes()[60:100])
    trace = zktrace.read(str(file))
    assert trace.coverage["exchanges"]["complete"] > 50


def test_recordings_rotate_and_old_ones_go(
    proxy: Make, java_zookeeper: JavaServer, tmp_path: Path
) -> None:
    one = proxy(
        "--listen", "127.0.0.1:0", "--upstream", java_zookeeper.hosts,
        "--record", str(tmp_path / "r.pcapng"), "--rotate", "300k", "--keep", "3",
    )  # fmt: skip
    work(one.address())
    assert one.end() == 0, one.said
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 3
    latest = (tmp_path / files[-1]).read_bytes()
    again = proxy(
        "--listen", "127.0.0.1:0", "--upstream", java_zookeeper.hosts,
        "--record", str(tmp_path / "r.pcapng"), "--rotate", "300k",
    )  # fmt: skip
    again.address()
    assert again.end() == 0
    assert (tmp_path / files[-1]).read_bytes() == latest, "a restart goes on behind it"
    assert len(list(tmp_path.iterdir())) == 4
    assert all(re.fullmatch(r"r-\d{5}\.pcapng", name) for name in files)
    zktrace.read([str(tmp_path / name) for name in files])


def test_a_full_disk_is_told_and_the_traffic_waits(
    java_zookeeper: JavaServer, tmp_path: Path
) -> None:
    """The limit of a file's size stands for a full disk. Small packets go on into the queue."""
    limit = 64 * 1024
    script = (
        "import resource, sys; from zktrace_proxy.cli import main;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "sys.exit(main(sys.argv[1:]))"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] in (resource.RLIM_INFINITY, -1)
    file = tmp_path / "full.pcapng"
    path = os.pathsep.join([str(ROOT), str(ROOT / "proxy")])
    process = subprocess.Popen(
        [sys.executable, "-c", script, "run", "--listen", "127.0.0.1:0",
         "--upstream", java_zookeeper.hosts, "--record", str(file)],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert process.stderr is not None
    address = process.stderr.readline().split()[1]
    work(address)
    said = []
    for line in process.stderr:
        said.append(line)
        if "RECORDING FAILS" in line:
            break
    process.send_signal(signal.SIGTERM)
    said += process.stderr
    process.stderr.close()
    assert process.wait(60) == 2, said
    assert "the recording is not complete" in said[-1]
    assert file.stat().st_size <= limit
    trace = zktrace.read(str(file))
    assert trace.coverage["truncated"] == 0, "cut back to the last whole block"
    assert trace.coverage["exchanges"]["complete"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to listen on"),
        (["--listen", "127.0.0.1:0"], "nothing behind"),
        (["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "--rotate", "1h"], "--record"),
        (["--listen", "1.2.3.4:1", "--upstream", "127.0.0.1:1"], "1.2.3.4:1"),
        (
            ["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "--record", "/nowhere/x"],
            "/nowhere/x",
        ),
        (
            ["--listen", ":0", "--upstream", "127.0.0.1:1", "--record", "x", "--rotate", "big"],
            "neither a size",
        ),
        (["--listen", ":0", "--upstream", "127.0.0.1:1", "--http", "0.0.0.0:1"], "token"),
    ],
)
def test_what_is_wrong_is_one_line(proxy: Make, arguments: list[str], words: str) -> None:
    assert words in proxy(*arguments).refused()


def test_a_recording_is_never_overwritten(proxy: Make, tmp_path: Path) -> None:
    file = tmp_path / "there.pcapng"
    file.write_bytes(b"evidence")
    said = proxy(
        "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "--record", str(file)
    ).refused()
    assert "there.pcapng: File exists" in said
    assert file.read_bytes() == b"evidence"


def test_a_taken_port_is_told(proxy: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = proxy("--listen", f"127.0.0.1:{port}", "--upstream", "127.0.0.1:1").refused()
        assert f"127.0.0.1:{port}" in said
        assert "in use" in said
