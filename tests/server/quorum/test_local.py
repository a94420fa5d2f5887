"""Ensembles of processes: the commands that run and hurt them, and what clients see meanwhile."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from kazoo.client import KazooClient

from tests.server.chaos import campaign
from tests.server.rawclient import RawClient
from zktrace_server.chaos import act
from zktrace_server.local import Local, LocalError
from zktrace_server.net.wire import Faults

_PATIENCE_S: Final = 120.0


def test_killed_and_stopped_under_load(tmp_path: Path) -> None:
    """`python -m tests.server.chaos --rounds 100` does more of it."""
    outcome = campaign(tmp_path / "ensemble", 4, seed=7)
    assert outcome.wrong == []
    assert outcome.ops > 50
    assert len(outcome.again_ms) == 4


def test_commands(tmp_path: Path) -> None:
    directory = tmp_path / "local"
    command = [sys.executable, "-m", "zktrace", "server"]
    where = ["--dir", str(directory)]
    with subprocess.Popen(
        [*command, "ensemble", *where, "--size", "3", "--observers", "1", "--tick", "500"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        modes = process.stdout.readline()
        connect = process.stdout.readline().strip()
        local = Local(directory)
        try:
            assert modes.count("follower") == 2
            assert "4 observer" in modes
            assert connect == local.connect
            assert len(list(act(local, "status", []))) == 4
            for sid in local.sids():
                log = (directory / str(sid) / "log").read_text()
                found = re.search(r"admin on (127\.0\.0\.1:\d+)", log)
                assert found, log
                with urllib.request.urlopen(f"http://{found[1]}/commands/ruok") as answer:
                    assert answer.status == 200

            leader = int(next(act(local, "kill", ["leader"])).split()[0])
            assert local.mode(leader) == "down"
            with pytest.raises(LocalError, match="does not run"):
                list(act(local, "pause", [str(leader)]))
            assert list(act(local, "restart", [str(leader)])) == [f"{leader} restart"]
            local.wait()
            done = subprocess.run(
                [*command, "chaos", "status", *where], capture_output=True, text=True
            )
            assert done.returncode == 0
            assert done.stdout.count("leader") == 1
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        assert process.returncode == 0
        assert [local.mode(sid) for sid in local.sids()] == ["down"] * 4


@pytest.mark.parametrize(
    ("action", "names", "reason"),
    [
        ("frob", ["1"], "unknown action frob"),
        ("kill", [], "which server"),
        ("kill", ["9"], "no server 9"),
        ("kill", ["leader"], "no leader"),
        ("resume", ["1"], "does not run"),
    ],
)
def test_what_cannot_be_done(tmp_path: Path, action: str, names: list[str], reason: str) -> None:
    local = Local(tmp_path)
    with pytest.raises(LocalError, match="no ensemble"):
        list(act(local, "kill", ["1"]))
    local.make(3, 0, 500)
    with pytest.raises(LocalError, match="has an ensemble already"):
        local.make(3, 0, 500)
    with pytest.raises(LocalError, match=reason):
        list(act(local, action, names))


def test_a_partition_and_its_end(tmp_path: Path) -> None:
    """The leader alone on one side: the others elect one, it serves nobody, and comes back."""
    local = Local(tmp_path / "parted")
    local.make(3, 0, 200)
    try:
        for sid in local.sids():
            local.start(sid)
        local.wait()
        leader = next(sid for sid in local.sids() if local.mode(sid) == "leader")
        others = [sid for sid in local.sids() if sid != leader]
        told = list(act(local, "partition", ["leader"]))
        assert told == [f"{leader} | {others[0]} {others[1]}"]
        until(lambda: any(local.mode(sid) == "leader" for sid in others))
        until(lambda: local.mode(leader) == "not serving")
        status = list(act(local, "status", [str(leader)]))
        assert status[0].endswith(f"cut off from {others[0]} {others[1]}")
        client = KazooClient(",".join(f"127.0.0.1:{local.port(sid)}" for sid in others))
        client.start(60)
        client.create("/while-parted", b"")
        client.stop()
        client.close()

        assert len(list(act(local, "heal", []))) == 3
        local.wait()
        assert local.mode(leader) == "follower"
        client = KazooClient(f"127.0.0.1:{local.port(leader)}")
        client.start(60)
        client.sync("/while-parted")
        assert client.exists("/while-parted") is not None
        list(act(local, "slow", [str(leader)], 300))
        until(lambda: _write_s(client) > 0.3)
        list(act(local, "heal", [str(leader)]))
        until(lambda: _write_s(client) < 0.3)
        client.stop()
        client.close()
    finally:
        local.stop()


def _write_s(client: KazooClient) -> float:
    began = time.monotonic()
    client.set("/while-parted", b"")
    return time.monotonic() - began


def until(good: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not good():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_faults_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "faults"
    assert Faults.read(path) == Faults()
    Faults(frozenset({3, 1}), 7).write(path)
    assert Faults.read(path) == Faults(frozenset({1, 3}), 7)
    for text, wrong in (
        ("[]", "no JSON object"),
        ('{"cut": 1}', "no list of servers"),
        ('{"cut": ["1"]}', "no list of servers"),
        ('{"delay_ms": -1}', "no number of milliseconds"),
        ("{", "Expecting"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=wrong):
            Faults.read(path)
    Faults().write(path)
    assert not path.exists()


def test_clients_of_a_server_that_looks(tmp_path: Path) -> None:
    """They are closed, without a line for each."""
    local = Local(tmp_path / "local")
    local.make(2, 0, 500)
    log = tmp_path / "local" / "1" / "log"
    try:
        local.start(1)
        deadline = time.monotonic() + 60
        while local.mode(1) != "not serving":
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        for _ in range(20):
            client = RawClient(("127.0.0.1", local.port(1)))
            assert client.connect() is None
            client.close()
        assert "serves nobody" not in log.read_text()
        local.start(2)
        local.wait()
    finally:
        local.stop()
    assert "; closed 20 connections of clients before" in log.read_text()
