"""``zktrace verify`` as users run it: output, JSON, exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_command import output, refused, zktrace
from tests.support.cases import PCAPS
from tests.support.pcapio import write_pcap
from tests.support.zab import healthy
from tests.verify.plant import rewritten, without

KILL = PCAPS / "12_leader_kill.pcap"
POISON = PCAPS / "18_bare_check_poison.pcap"


@pytest.fixture
def ill(tmp_path: Path) -> Path:
    """A COMMIT without a quorum, and a session that one learner was told wrongly."""
    script = healthy(size=5).script
    gone = script.pick(role="quorum", kind="ACK", side=0, zxid=1 << 32 | 5)[:3]
    one = script.pick(role="quorum", kind="PROPOSAL", zxid=1 << 32 | 9)[1]
    script = without(script.replaced(one, rewritten(one, 16, ">q", 0x7777)), *gone)
    return write_pcap(tmp_path / "ill.pcap", script.records())


def test_healthy(engine: str) -> None:
    text = output("verify", KILL, engine=engine)
    assert "held      session-zxid      25 replies, 2 connections, 1 session\n" in text
    assert "held      committed-kept    3 learners, 3 compared\n" in text
    assert "not seen by any: the beginning of 3 learners' connections" in text
    assert "BROKEN" not in text
    assert "ALARM" not in text
    assert "\x1b" not in text
    assert text.splitlines()[-4].startswith("captured  1,433 packets")


def test_broken(ill: Path, engine: str) -> None:
    done = zktrace("verify", ill, engine=engine)
    assert done.returncode == 1
    lines = done.stdout.decode().splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("BROKEN    commit-quorum"))
    assert "1 found in 24 commits, 2 terms" in lines[at]
    assert "10.1.0.1:2888 committed 0x100000005 with ACKs of at most 1 of 5 voters" in lines[at + 1]
    assert "  10.1.0.2:40001>10.1.0.1:2888  #" in lines[at + 2]
    assert lines[at + 2].endswith("COMMIT 0x100000005")
    assert any(line.startswith("BROKEN    same-txn") for line in lines)


def test_json(ill: Path, engine: str) -> None:
    done = zktrace("verify", "--json", ill, engine=engine)
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert rows[-1]["kind"] == "coverage"
    findings = [row for row in rows if row["kind"] == "finding"]
    assert {row["check"] for row in findings} == {"commit-quorum", "same-txn"}
    for row in findings:
        for packet in row["packets"]:
            assert set(packet) == {"ts_ns", "flow", "seq", "what"}
    checks = {row["check"]: row for row in rows if row["kind"] == "check"}
    assert checks["commit-quorum"]["state"] == "broken"
    assert checks["commit-quorum"]["violations"] == 1
    assert checks["commit-quorum"]["looked_at"] == {"commits": 24, "terms": 2}
    assert checks["session-zxid"]["state"] == "not_seen"
    assert checks["leader-order"]["state"] == "held"
    assert set(checks["digest"]) == {
        *("kind", "check", "group", "state", "guarantee", "violations"),
        *("looked_at", "not_seen", "assumed"),
    }


def test_sessions_can_be_hashed(ill: Path, engine: str) -> None:
    plain = zktrace("verify", "--check", "same-txn", ill, engine=engine).stdout
    hashed = zktrace("verify", "--check", "same-txn", "--hash-sessions", ill, engine=engine).stdout
    assert b"0x0000000000007777" in plain
    assert b"0x0000000000007777" not in hashed
    assert b"BROKEN    same-txn" in hashed


def test_alarms_do_not_fail_unless_told_to(engine: str) -> None:
    done = zktrace("verify", POISON, engine=engine)
    assert done.returncode == 0
    assert b"ALARM     bare-check        4 found" in done.stdout
    assert zktrace("verify", "--fail-on-alarm", POISON, engine=engine).returncode == 1


def test_some_checks_only(engine: str) -> None:
    text = output("verify", "--check", "digest", "--check", "sync-order", KILL, engine=engine)
    assert [line.split()[1] for line in text.splitlines() if line.startswith("held")] == [
        "digest",
        "sync-order",
    ]


def test_explain() -> None:
    text = output("verify", "--explain")
    assert "commit-quorum\n  A transaction is committed only when a quorum" in text
    assert "  - Leader.processAck, Leader.tryToCommit: hasAllQuorums\n" in text
    one = output("verify", "--explain", "--check", "digest")
    assert "commit-quorum" not in one


def test_unusable() -> None:
    assert "give captures" in refused(zktrace("verify"))
    line = refused(zktrace("verify", "--check", "nothing", KILL))
    assert "no check 'nothing'; there are session-zxid" in line
    assert "nonexistent.pcap" in refused(zktrace("verify", "nonexistent.pcap"))


def test_several_files(engine: str) -> None:
    files = sorted(PCAPS.glob("rotated.*.pcap"))
    assert "held      session-zxid" in output("verify", *files, engine=engine)
