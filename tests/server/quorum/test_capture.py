"""What this server says on the wire, by zktrace's own eyes: captured by tcpdump through a leader's
death, its traffic breaks no guarantee, and every answered write can be followed all the way.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.live.netns import need_live
from tests.server.quorum.mixed import PATIENCE_S, Writer
from zktrace_server.local import Local

_ZKTRACE = [sys.executable, "-m", "zktrace"]


def _ports(local: Local) -> dict[str, list[int]]:
    text = (local.directory / "1" / "zoo.cfg").read_text()
    pairs = re.findall(r"^server\.\d+=[\d.]+:(\d+):(\d+)", text, re.MULTILINE)
    return {
        "client": [local.port(sid) for sid in local.sids()],
        "quorum": [int(quorum) for quorum, _ in pairs],
        "election": [int(election) for _, election in pairs],
    }


def _until(what: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while what not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def test_captured(tmp_path: Path) -> None:
    need_live()
    if shutil.which("tcpdump") is None:
        pytest.skip("there is no tcpdump")
    local = Local(tmp_path / "ensemble")
    local.make(3, 1, 500)
    ports = _ports(local)
    every = [port for some in ports.values() for port in some]
    capture, said = tmp_path / "all.pcap", tmp_path / "tcpdump"
    command = [
        "tcpdump",
        "-i",
        "lo",
        "-s",
        "0",
        "-U",
        "-B",
        "32768",
        "-Z",
        "root",
        "-w",
        str(capture),
    ]
    with said.open("wb") as log:
        tcpdump = subprocess.Popen(
            [*command, " or ".join(f"port {port}" for port in every)], stderr=log
        )
    try:
        _until("listening on", said)
        for sid in local.sids():
            local.start(sid)
        local.wait()
        writer = Writer(local.connect)
        writer.start()
        while len(writer.known) < 30 and not writer.wrong:
            time.sleep(0.02)
        leader = next(sid for sid in local.sids() if local.mode(sid) == "leader")
        local.signal(leader, signal.SIGKILL)
        local.stop([leader])
        local.start(leader)
        local.wait()
        before = len(writer.known)
        while len(writer.known) < before + 30 and not writer.wrong:
            time.sleep(0.02)
        writer.end()
        time.sleep(0.5)
    finally:
        local.stop()
        tcpdump.send_signal(signal.SIGINT)
        tcpdump.wait(60)
    options = [f"--{kind}-port={port}" for kind, some in ports.items() for port in some]
    verified = subprocess.run(
        [*_ZKTRACE, "verify", str(capture), *options], capture_output=True, text=True
    )
    assert verified.returncode == 0, verified.stdout
    for check in ("commit-quorum", "one-leader", "same-txn", "digest", "session-reads"):
        assert re.search(rf"^held +{check} ", verified.stdout, re.MULTILINE), verified.stdout
    traced = subprocess.run(
        [*_ZKTRACE, "ensemble", str(capture), "--json", *options], capture_output=True, text=True
    )
    assert traced.returncode == 0, traced.stderr
    epochs = [leader["epoch"] for leader in json.loads(traced.stdout)["leaders"]]
    assert epochs == [1, 2]
