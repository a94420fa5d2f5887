"""``zktrace demo``: whatever may be captured, there is a page or a report, and nothing is left."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs_native

ROOT = Path(__file__).parents[2]
_PATH = os.pathsep.join(map(str, [ROOT, ROOT / "server", ROOT / "proxy"]))
_PATIENCE_S = 120.0
#: A free one: several tests run at once.
PORT = ("--http", "127.0.0.1:0")


def start(tmp_path: Path, *arguments: str, script: str | None = None) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": _PATH, "TMPDIR": str(tmp_path)}
    how = ["-m", "zktrace"] if script is None else ["-c", script]
    return subprocess.Popen(
        [sys.executable, *how, "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        text=True,
    )


def children(tmp_path: Path) -> list[str]:
    """Command lines of processes that were started with this temporary directory."""
    found = []
    mark = f"TMPDIR={tmp_path}\0".encode()
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and mark in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is somebody else's
    return found


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert list(tmp_path.iterdir()) == []
    until = time.monotonic() + 10
    while left := children(tmp_path):
        assert time.monotonic() < until, left
        time.sleep(0.1)


def page(process: subprocess.Popen[str]) -> str:
    """The address, once it is told."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        found = re.search(r"^  (http://\S+)/$", line)
        if found:
            return found[1]
    raise AssertionError("".join(lines))


def answer(url: str) -> Any:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as body:
        return json.loads(body.read())


def requests(url: str) -> int:
    total = answer(f"{url}/api/summary?window=all")["total"]
    return 0 if total is None else int(total["requests"])


def answered(report: str) -> dict[str, tuple[int, int]]:
    """Per op: what clients counted, and what was seen."""
    rows = report.split("What the clients counted")[1].split("\n\n")[0].splitlines()[2:]
    cells = [row.replace(",", "").split() for row in rows]
    return {row[-1]: (int(row[0]), int(row[1])) for row in cells}


@pytest.mark.usefixtures("nothing_left")
def test_a_report_of_what_can_be_captured(tmp_path: Path) -> None:
    """Live as root, else through the proxy, else of a file: never without a report."""
    process = start(tmp_path, *PORT, "--once", "--seconds", "2")
    out, told = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, told
    assert re.search(r"^captured +\d", out, re.M)
    assert "Operations" in out
    assert "Paths" in out
    if "What the clients counted" in out:
        counted = answered(out)
        assert counted["getData"][0] > 50
        assert counted["getData"][0] == counted["getData"][1]
        assert all(seen >= mine for mine, seen in counted.values())


@needs_native
@pytest.mark.usefixtures("nothing_left")
def test_without_rights_it_goes_through_the_proxy(tmp_path: Path) -> None:
    """An interface that is not there is as good as one that may not be listened to."""
    process = start(tmp_path, *PORT, "--once", "--seconds", "2", "-i", "nowhere0")
    out, told = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, told
    assert "a proxy at" in told
    counted = answered(out)
    assert counted["getData"][0] == counted["getData"][1] > 50


@needs_native
@pytest.mark.usefixtures("nothing_left")
def test_what_clients_did_on_one_ensemble_is_done_again_on_another(tmp_path: Path) -> None:
    process = start(tmp_path, "--round-trip")
    out, told = process.communicate(timeout=5 * _PATIENCE_S)
    assert process.returncode == 0, out + told
    assert out.count("$ zktrace ") == 3
    replayed = re.search(r"^replayed +([\d,]+) requests", out, re.M)
    assert replayed is not None
    assert int(replayed[1].replace(",", "")) > 3000
    compared = re.findall(r"^compared +([\d,]+) exchanges: .* (\d+) different$", out, re.M)
    assert len(compared) == 2
    assert [different for _, different in compared] == ["0", "0"]
    assert compared[0] == compared[1]


@pytest.mark.usefixtures("nothing_left")
def test_where_nothing_can_be_captured_a_capture_is_replayed(tmp_path: Path) -> None:
    script = (
        "from zktrace.cli import crew, demo, main\n"
        "def refused(*arguments): raise crew.Ended('no rights')\n"
        "demo._capture = refused\n"
        "main.main()\n"
    )
    process = start(tmp_path, *PORT, "--once", script=script)
    out, told = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, told
    assert "is replayed" in told
    assert re.search(r"^getData +520 ", out, re.M)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_there_until_ctrl_c(tmp_path: Path, number: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = start(tmp_path, "--http", f"127.0.0.1:{port}")
    try:
        url = page(process)
        assert url == f"http://127.0.0.1:{port}"
        until = time.monotonic() + _PATIENCE_S
        while requests(url) < 100:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert len(children(tmp_path)) >= 2
    finally:
        process.send_signal(number)
        _, told = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, told
    assert "Traceback" not in told


@pytest.mark.usefixtures("nothing_left")
def test_one_that_is_killed_takes_the_others_with_it(tmp_path: Path) -> None:
    process = start(tmp_path, *PORT)
    try:
        page(process)
    finally:
        process.kill()
        process.communicate()
    for left in tmp_path.iterdir():  # this cannot be cleared away by one that was killed
        subprocess.run(["rm", "-r", str(left)], check=True)


def test_a_port_that_is_taken_is_refused_in_a_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start(tmp_path, "--once", "--http", where)
        _, told = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 2
    assert told.splitlines()[-1].startswith("zktrace: ")
    assert where in told
    assert children(tmp_path) == []
