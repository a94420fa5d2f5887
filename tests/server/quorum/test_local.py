"""Ensembles of processes: the commands that run and hurt them, and what clients see meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.chaos import campaign
from zktrace_server.chaos import act
from zktrace_server.local import Local, LocalError


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
