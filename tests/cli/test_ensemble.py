"""``zktrace ensemble`` as users run it."""

from __future__ import annotations

import json

from tests.cli.test_command import output, refused, zktrace
from tests.support.cases import PCAPS

KILL = PCAPS / "12_leader_kill.pcap"


def test_report(engine: str) -> None:
    text = output("ensemble", KILL, engine=engine)
    assert "election of 252ms won by sid 3 with zxid 0x20000001a; 15 notifications" in text
    assert "epoch 3 at 127.0.0.3:28883, serving 674ms after the loss of the old one" in text
    assert "because 3 connections to leader 127.0.0.2:28882 ended at 14:02:49.257415" in text
    assert "0x0100002468170000 moved from 127.0.0.1:21811 to 127.0.0.3:21813" in text
    assert "DIFF 1 txns in 674ms" in text


def test_json(engine: str) -> None:
    found = json.loads(output("ensemble", "--json", KILL, engine=engine))
    assert list(found) == ["leaders", "learners", "elections", "sessions", "reaped", "coverage"]
    hashed = json.loads(
        output("ensemble", "--json", "--hash-sessions", "--hash-key", "k", KILL, engine=engine)
    )
    assert found["sessions"]["moves"][0]["session"] == "0x0100002468170000"
    assert hashed["sessions"]["moves"][0]["session"] != "0x0100002468170000"


def test_a_capture_without_servers() -> None:
    text = output("ensemble", PCAPS / "02_basic_ops.pcap")
    assert "No quorum or election port in this capture." in text
    assert "ensemble" in refused(zktrace("ensemble"))
