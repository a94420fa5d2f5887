"""Ensembles with one known fault: the right place and part are named, with the right times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import zktrace
from tests.support.pcapio import Record, write_pcap
from tests.support.simulated import MS, US, Simulation, Written
from zktrace.analysis.trace import Trace


def read(path: Path, records: Sequence[Record], engine: str) -> Trace:
    return zktrace.read(write_pcap(path / "made.pcap", records), engine=engine)


def worst(summary: dict[str, Any]) -> tuple[str, str | None]:
    """The part that took most of all time, and where."""
    first = summary["parts"][0]
    return first["part"], first["where"]


def blamed(report: Any) -> set[tuple[str, str]]:
    return {(write["critical"]["part"], write["critical"]["where"]) for write in report}


def learner(summary: dict[str, Any], sid: int) -> str:
    (row,) = [row for row in summary["learners"] if row["sid"] == sid]
    return f"{row['learner']} (sid {sid})"


def half(sim: Simulation, a: int, b: int) -> int:
    """When a message between two hosts, sent at `a` and received at `b`, passes the middle."""
    return (a + b) // 2


def check_times(sim: Simulation, report: Any) -> None:
    """Every stage of every write is as long as it was."""
    told = {(write["session"], write["cxid"]): write for write in report}
    assert len(told) == len(sim.writes)
    for one in sim.writes:
        write = told[f"0x{one.session:016x}", one.cxid]
        assert write["complete"], write
        took = {stage["stage"]: round(stage["us"] * 1000) for stage in write["stages"]}
        request = half(sim, one.sent, one.at_server)
        forward = half(sim, one.forwarded, one.at_leader)
        proposal = min(half(sim, one.proposed, got) for got in one.proposals.values())
        reply = half(sim, one.replied, one.answered)
        if one.server == sim.leader:
            assert took["leader"] == proposal - request
            assert write["server_role"] == "leader"
        else:
            assert took["server"] == forward - request
            assert took["leader"] == proposal - forward
        assert round(write["latency_us"] * 1000) == reply - request
        assert sum(took.values()) == reply - request
        back = sorted(_ack(sim, one, sid) for sid in one.acks)
        assert took["quorum"] == back[sim.needed - 2] - proposal


def _ack(sim: Simulation, one: Written, sid: int) -> int:
    sent = one.acks[sid]
    return half(sim, sent, sent + sim.delay(sim.ip(sid), sim.ip(sim.leader)))


def test_healthy(tmp_path: Path, engine: str) -> None:
    sim = Simulation(voters=5, observers=1)
    sim.run(60, servers=[1, 2, 5, 6])
    report = read(tmp_path, sim.records(), engine).writes()
    check_times(sim, report)
    summary = report.summary()
    (quorum,) = summary["quorums"]
    assert (quorum["needed"], quorum["followers"]) == (3, 4)
    roles = {write["server"]: write["server_role"] for write in report}
    assert roles == {
        "10.0.0.1:2181": "leader",
        "10.0.0.2:2181": "follower",
        "10.0.0.5:2181": "follower",
        "10.0.0.6:2181": "observer",
    }


def test_slow_disk_of_the_only_follower(tmp_path: Path, engine: str) -> None:
    """Sid 3 is down: every quorum waits for sid 2."""
    sim = Simulation(voters=3, down=[3], disk={2: 40 * MS})
    sim.run(40, gap=60 * MS, servers=[1, 2])
    report = read(tmp_path, sim.records(), engine).writes()
    check_times(sim, report)
    summary = report.summary()
    assert blamed(report) == {("follower", learner(summary, 2))}
    assert worst(summary) == ("follower", learner(summary, 2))
    assert summary["parts"][0]["share"] > 0.9
    # Seen half-way, the way to the follower and back takes 100 us; the echo itself 10.
    (row,) = summary["learners"]
    assert row["network_us"]["p50"] == pytest.approx(110, rel=0.02)
    assert row["disk_us"]["p50"] == pytest.approx(40_000, rel=0.02)


def test_slow_disk_of_one_follower_of_many(tmp_path: Path, engine: str) -> None:
    """Four others make the quorum: sid 4 costs nobody time, and is seen all the same."""
    sim = Simulation(voters=5, disk={4: 300 * MS})
    sim.run(40, gap=5 * MS, servers=[1, 2, 4])
    trace = read(tmp_path, sim.records(), engine)
    report = trace.writes()
    check_times(sim, report)
    summary = report.summary()
    assert learner(summary, 4) not in {part["where"] for part in summary["parts"]}
    by_sid = {row["sid"]: row for row in summary["learners"]}
    assert by_sid[4]["made_quorum"] == 0
    assert by_sid[4]["disk_us"]["p50"] > 50 * by_sid[2]["disk_us"]["p50"]
    lag = {row["sid"]: row["lag"]["max_zxids"] for row in trace.ensemble()["learners"]}
    assert lag[4] == 40
    assert lag[2] == lag[3] == lag[5] == 1
    for write in report:
        late = [ack for ack in write["acks"] if ack["sid"] == 4]
        assert [ack["before_commit"] for ack in late] == [False]


def test_slow_disk_of_the_leader(tmp_path: Path, engine: str) -> None:
    sim = Simulation(voters=3, down=[3], disk={1: 50 * MS})
    sim.run(40, gap=70 * MS, servers=[1, 2])
    report = read(tmp_path, sim.records(), engine).writes()
    check_times(sim, report)
    summary = report.summary()
    assert {one.made_by for one in sim.writes} == {1}
    assert blamed(report) == {("leader_ack", "10.0.0.1:2888")}
    assert worst(summary) == ("leader_ack", "10.0.0.1:2888")
    # Followers are not blamed for it.
    (row,) = summary["learners"]
    assert row["disk_us"]["max"] < 2_000


def test_slow_network_to_the_only_follower(tmp_path: Path, engine: str) -> None:
    """PINGs take as long: it is the network, not the disk."""

    def wire(src: str, dst: str) -> int:
        return 30 * MS if {src, dst} == {"10.0.0.1", "10.0.0.2"} else 100 * US

    sim = Simulation(voters=3, down=[3], wire=wire)
    sim.run(40, gap=100 * MS, servers=[1])
    report = read(tmp_path, sim.records(), engine).writes()
    check_times(sim, report)
    summary = report.summary()
    assert blamed(report) == {("network", learner(summary, 2))}
    assert worst(summary) == ("network", learner(summary, 2))
    (row,) = summary["learners"]
    assert row["disk_us"]["p50"] == pytest.approx(1_000, rel=0.05)


def test_slow_server_of_the_client(tmp_path: Path, engine: str) -> None:
    """A follower that is slow to forward and to answer is named, not the leader."""
    sim = Simulation(voters=3, work={3: 25 * MS})
    sim.run(40, gap=30 * MS, servers=[3])
    report = read(tmp_path, sim.records(), engine).writes()
    check_times(sim, report)
    summary = report.summary()
    top = {(part["part"], part["where"]) for part in summary["parts"][:2]}
    assert top == {("server", "10.0.0.3:2181"), ("reply", "10.0.0.3:2181")}


def test_slow_leader(tmp_path: Path, engine: str) -> None:
    """Slow before it proposes."""
    sim = Simulation(voters=3, work={1: 25 * MS})
    sim.run(40, gap=30 * MS, servers=[2, 3])
    report = read(tmp_path, sim.records(), engine).writes()
    check_times(sim, report)
    assert blamed(report) == {("leader", "10.0.0.1:2888")}


def test_behind_another_txn(tmp_path: Path, engine: str) -> None:
    """Commits are in order: what waits for the one before is told apart from the leader's disk."""
    sim = Simulation(voters=3, down=[3], disk={1: 50 * MS})
    sim.run(2, gap=10 * MS, servers=[1, 1])
    first, second = sim.writes
    report = read(tmp_path, sim.records(), engine).writes()
    check_times(sim, report)
    _, last = list(report)
    # From the follower's ACK to the commit of the first, and from there on.
    way = 50 * US  # half of the network's way to the place of the capture
    ack = second.acks[2] + way
    assert round(last["parts"]["order"] * 1000) == first.committed + way - ack
    assert round(last["parts"]["leader_ack"] * 1000) == second.committed - first.committed


def test_only_the_clients(tmp_path: Path, engine: str) -> None:
    sim = Simulation()
    sim.run(12)
    report = read(tmp_path, sim.records(ports=[2181]), engine).writes()
    for write in report:
        assert write["missing"] == ["forward", "proposal", "quorum", "commit"]
        assert [stage["stage"] for stage in write["stages"]] == ["request..reply"]
        assert write["critical"]["part"] == "unseen"


def test_only_the_leaders_quorum_port(tmp_path: Path, engine: str) -> None:
    sim = Simulation()
    sim.run(12)
    report = read(tmp_path, sim.records("10.0.0.1", ports=[2888]), engine).writes()
    assert len(report) == 12
    forwarded = [write for write in report if write["origin"] == "learner"]
    assert len(forwarded) == 8
    for write in forwarded:
        assert write["missing"] == ["request", "reply"]
        assert [stage["stage"] for stage in write["stages"]] == ["leader", "quorum", "commit"]
    for write in report:
        assert write["quorum"]["made_by"] is not None


def test_only_beside_one_follower(tmp_path: Path, engine: str) -> None:
    """On the host of a follower: its clients, its own connection to the leader."""
    sim = Simulation(disk={1: 1 * MS, 2: 20 * MS, 3: 2 * MS})
    sim.run(12)
    report = read(tmp_path, sim.records("10.0.0.2"), engine).writes()
    for write in report:
        if write["client"] is None:
            continue
        assert write["server_role"] == "follower"
        assert {stage["to"] for stage in write["stages"]} >= {"forward", "proposal", "commit"}
    (quorum,) = report.summary()["quorums"]
    # Others' ACKs made the quorum before its own: nothing is said of who did.
    assert quorum["needed"] is None


def test_beside_one_fast_follower(tmp_path: Path, engine: str) -> None:
    """Its ACK is before every commit, so it may have been all that was needed: an assumption."""
    sim = Simulation(disk={1: 30 * MS, 2: 1 * MS, 3: 20 * MS})
    sim.run(12, servers=[2])
    trace = read(tmp_path, sim.records("10.0.0.2"), engine)
    (quorum,) = trace.writes().summary()["quorums"]
    assert (quorum["needed"], quorum["how"]) == (2, "assumed")
    (quorum,) = trace.writes(voters=5).summary()["quorums"]
    assert (quorum["needed"], quorum["how"]) == (3, "given")
