"""``zktrace trace`` as users run it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.test_command import objects, output, refused, zktrace
from tests.support.cases import PCAPS
from zktrace.cli.main import run

KILL = PCAPS / "12_leader_kill.pcap"
REAP = PCAPS / "15_container_ttl_reap.pcap"
BASIC = PCAPS / "02_basic_ops.pcap"


def test_report(engine: str) -> None:
    text = output("trace", KILL, engine=engine)
    lines = text.splitlines()
    assert lines[0].startswith("captured  ")
    assert "writes    29, 24 answered, 24 followed all the way" in lines
    quorum = [line for line in lines if line.startswith("quorum ")]
    assert quorum[:2] == [
        "quorum    epoch 2, leader 127.0.0.2:28882: 2 votes, the leader's and those of 1 of "
        "2 followers",
        "quorum    epoch 3, leader 127.0.0.3:28883: 2 votes, the leader's and those of 1 of "
        "2 followers (by its configuration)",
    ]
    for stage in ("server", "leader", "quorum", "commit", "reply"):
        assert re.search(rf"^{stage} +\w+ > \w+ +\d+ ", text, re.MULTILINE), stage
    assert [line[:2] for line in lines if line.startswith("#")] == ["#1", "#2", "#3"]
    # Bars begin in one column and are as wide as each other.
    bars = [line for line in lines if line.startswith("  ") and "█" in line]
    assert bars
    assert len({re.search(r"(?<=.{59})\S", line) is not None for line in bars}) == 1


def test_top(engine: str) -> None:
    text = output("trace", "-n", "0", KILL, engine=engine)
    assert "#1" not in text
    assert "Stages" in text


def test_json(engine: str) -> None:
    *writes, summary, coverage = objects(output("trace", "--json", KILL, engine=engine))
    assert [one["kind"] for one in writes] == ["write"] * 29
    assert [one["ts_ns"] for one in writes] == sorted(one["ts_ns"] for one in writes)
    assert summary["kind"] == "summary"
    assert summary["writes"] == 29
    assert coverage["kind"] == "coverage"
    assert coverage["quorum_packets"] > 100
    *top, _, _ = objects(output("trace", "--json", "--top", "2", KILL, engine=engine))
    slow = sorted(writes, key=lambda one: -one["total_us"])[:2]
    assert top == slow


def test_filter(engine: str) -> None:
    *writes, summary, _ = objects(
        output("trace", "--json", "--filter", 'op == "connect"', KILL, engine=engine)
    )
    assert {one["op"] for one in writes} == {"connect"}
    assert summary["writes"] == len(writes) >= 1
    none = output("trace", "--filter", 'path == "/nowhere"', KILL, engine=engine)
    assert "writes    0, 0 answered" in none


def test_hashed_sessions(engine: str) -> None:
    hashed = ("--json", "--hash-sessions", "--hash-key", "k", REAP)
    *writes, _, _ = objects(output("trace", *hashed, engine=engine))
    *plain, _, _ = objects(output("trace", "--json", REAP, engine=engine))
    real = {one["session"] for one in plain if int(one["session"], 16)}
    shown = {one["session"] for one in writes if int(one["session"], 16)}
    assert len(real) == len(shown)
    assert not real & shown
    decoded = objects(output("decode", *hashed, engine=engine))
    assert shown <= {one.get("session") for one in decoded}


def test_a_capture_of_one_port(engine: str) -> None:
    text = output("trace", BASIC, engine=engine)
    assert "missing   " in text
    assert "  not seen: forward, proposal, quorum, commit" in text


def test_without_block_characters() -> None:
    text = output("trace", KILL, PYTHONIOENCODING="ascii")
    assert text.isascii()
    assert "####" in text


def test_unusable(tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(b"neither this nor that")
    assert "noise" in refused(zktrace("trace", noise))
    assert "--filter" in refused(zktrace("trace", "--filter", "op ==", KILL))


@pytest.mark.parametrize("path", sorted(PCAPS.glob("*.pcap*")), ids=lambda path: path.name)
def test_every_capture(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a capture holds, there is a report, and JSON that adds up."""
    status = run(["trace", str(path)])
    shown = capsys.readouterr()
    if status:
        assert path.name.startswith("file_")
        return
    assert "writes    " in shown.out
    assert run(["trace", "--json", str(path)]) == 0
    *writes, _, _ = objects(capsys.readouterr().out)
    for one in writes:
        spent = sum(round(stage["us"] * 1000) for stage in one["stages"])
        assert spent == round(one["total_us"] * 1000)
