"""``zktrace serve`` as it is called: what it refuses, what it offers, how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.web.conftest import PCAPS

ROOT = Path(__file__).resolve().parents[2]
_PATH = os.pathsep.join([str(ROOT), str(ROOT / "server"), str(ROOT / "proxy")])
_CAPTURE = str(PCAPS / "02_basic_ops.pcap")


def _start(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "zktrace", "serve", *arguments],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": _PATH, **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "-r"),
        (("-r", "/nowhere.pcap"), "/nowhere.pcap"),
        (("-r", str(ROOT / "README.md")), "README.md"),
        (("-r", _CAPTURE, "--speed", "fast"), "--speed"),
        (("-r", _CAPTURE, "--http", "8080"), "--http"),
        (("-r", _CAPTURE, "--http", "0.0.0.0:0"), "token"),
        (("-r", _CAPTURE, "--token", "short"), "--token"),
    ],
)
def test_what_cannot_be_served_is_refused(arguments: tuple[str, ...], words: str) -> None:
    process = _start(*arguments, ZKTRACE_TOKEN="")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    lines = [line for line in told.decode().splitlines() if "http://" not in line]
    assert len(lines) == 1
    assert words in lines[0]


@pytest.mark.parametrize("how", ["file", "pipe"])
def test_it_serves_until_it_is_told_to_stop(how: str) -> None:
    source = _CAPTURE if how == "file" else "-"
    process = _start("-r", source, "--http", "127.0.0.1:0")
    assert process.stdin is not None
    assert process.stderr is not None
    if how == "pipe":
        process.stdin.write(Path(_CAPTURE).read_bytes())
        process.stdin.flush()
    found = re.search(rb"http://[^ ]+?/", process.stderr.readline())
    assert found
    address = found.group().decode()
    # A pipe that stays open: what came so far is shown.
    state = "done" if how == "file" else "reading"
    until = time.monotonic() + 30
    while time.monotonic() < until:
        answer = httpx.get(f"{address}api/summary", trust_env=False).json()
        total = answer["total"] or {"requests": 0}
        if (answer["source"]["state"], total["requests"]) == (state, 51):
            break
        time.sleep(0.2)
    else:
        pytest.fail(f"{answer['source']} {total}")
    with httpx.stream("GET", f"{address}api/stream?after=-1", trust_env=False) as stream:
        lines = stream.iter_lines()
        assert any(line.startswith("data: ") for line in lines)
        process.send_signal(signal.SIGINT)
        list(lines)
    assert process.wait(30) == 0
    process.stdin.close()
    assert process.stderr.read() == b""
    process.stderr.close()
