"""Lines at the terminal: what a real client did, as ``zktrace decode`` shows it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.test_command import SECRET, Make, work
from tests.support.javazk import JavaServer
from zktrace.cli.main import run as command


def decoded(*arguments: str) -> list[str]:
    """What ``zktrace decode`` prints."""
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)) as out:
        assert command(["decode", *arguments]) == 0
    assert isinstance(out.buffer, io.BytesIO)
    return out.buffer.getvalue().decode().splitlines()


def objects(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("form", ["-v", "--json"])
def test_lines_are_those_of_decode(
    proxy: Make, java_zookeeper: JavaServer, tmp_path: Path, form: str
) -> None:
    file, printed = tmp_path / "all.pcapng", tmp_path / "lines"
    where = ["--filter", 'op == "create" or event == NodeDataChanged']
    with printed.open("wb") as out:
        one = proxy(
            "--listen", "127.0.0.1:0", "--upstream", java_zookeeper.hosts, form, *where,
            "--record", str(file), "--record-secrets", out=out,
        )  # fmt: skip
        work(one.address())
        assert one.end() == 0, one.said
    lines = printed.read_text().splitlines()
    as_json = ["--json"] if form == "--json" else []
    want = decoded(str(file), *where, *as_json)
    assert len(lines) > 42
    if form == "--json":
        *events, coverage = objects(lines)
        *expected, _ = objects(want)
        assert events == expected
        assert coverage["kind"] == "coverage"
        assert coverage["tap_lost_packets"] == 0
        assert {event["kind"] for event in events} == {"exchange", "watch_event"}
    else:
        shown = [line for line in lines if "create" in line or "NodeDataChanged" in line]
        assert shown == [line for line in want if "create" in line or "NodeDataChanged" in line]
        assert lines[len(shown) :], "the coverage comes last"
    assert SECRET not in printed.read_text()


def test_lines_that_nobody_reads_any_more_stop_nothing(
    proxy: Make, java_zookeeper: JavaServer
) -> None:
    reader = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(len(sys.stdin.readline()))"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert reader.stdin is not None
    one = proxy(
        "--listen", "127.0.0.1:0", "--upstream", java_zookeeper.hosts, "-v", out=reader.stdin
    )
    reader.stdin.close()
    address = one.address()
    assert work(address) == ["CHANGED"]
    one.until("nobody reads standard output")
    assert reader.stdout is not None
    with reader.stdout:
        assert int(reader.stdout.read()) > 10
    assert reader.wait(60) == 0
    assert work(address) == ["CHANGED"]
    assert one.end() == 0, one.said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--filter", "write"], "give one of them"),
        (["-v", "--filter", "op = 1"], "--filter"),
    ],
)
def test_what_is_wrong_with_lines_is_one_line(
    proxy: Make, arguments: list[str], words: str
) -> None:
    said = proxy("--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", *arguments)
    process = said.process
    assert process.stderr is not None
    with process.stderr:
        text = process.stderr.read()
    assert process.wait(60) == 2
    assert words in text
