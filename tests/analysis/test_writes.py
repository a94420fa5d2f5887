"""The ways of writes: complete where all was captured, stages that add up, the right culprit."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import zktrace
from tests.cli.test_command import output
from tests.conftest import needs_native
from tests.support.cases import PCAPS, VARIABLE
from zktrace.analysis.blame import parts
from zktrace.analysis.columns import NONE
from zktrace.analysis.join import Joiner
from zktrace.analysis.timeline import timeline
from zktrace.analysis.writepath import COMMITTED, MOMENTS, PROPOSED, QUORUM, REPLY, REQUEST
from zktrace.analysis.writereport import WriteReport

#: Captures in which all ports of an ensemble were captured, and how many writes were answered.
ALL_PORTS = {
    "08_sync_diff": 14,
    "12_leader_kill": 24,
    "13_session_expiry_move": 9,
    "15_container_ttl_reap": 7,
}
MEDIUM = Path(os.environ.get(VARIABLE) or ".") / "medium.pcap.zst"

CONSECUTIVE = {
    ("request", "forward"): "server",
    ("forward", "proposal"): "leader",
    ("request", "proposal"): "leader",
    ("proposal", "quorum"): "quorum",
    ("quorum", "commit"): "commit",
    ("commit", "reply"): "reply",
}


def ns(us: float) -> int:
    return round(us * 1000)


def check_write(write: dict[str, Any]) -> None:
    """What holds of every write's object."""
    total = ns(write["total_us"])
    at = 0
    for stage in write["stages"]:
        assert ns(stage["start_us"]) == at
        assert stage["us"] >= 0
        at += ns(stage["us"])
    assert at == total == sum(map(ns, write["parts"].values()))
    if write["complete"]:
        assert not write["missing"]
        for stage in write["stages"]:
            if stage["from"] != stage["to"]:
                assert CONSECUTIVE[stage["from"], stage["to"]] == stage["stage"]
    else:
        assert write["missing"]
    for ack in write["acks"]:
        if ack["latency_us"] is not None:
            assert ns(ack["latency_us"]) == ns(ack["ack_us"]) - ns(ack["proposal_us"])
        if ack["made_quorum"]:
            assert ack["before_commit"] in (True, None)
            moment = {stage["to"]: ns(stage["start_us"] + stage["us"]) for stage in write["stages"]}
            assert moment["quorum"] == ns(ack["ack_us"])
    if write["critical"]:
        assert ns(write["critical"]["us"]) == max(map(ns, write["parts"].values()))


@pytest.mark.parametrize("name", ALL_PORTS)
def test_every_write_is_followed_all_the_way(name: str, engine: str) -> None:
    trace = zktrace.read(PCAPS / f"{name}.pcap", engine=engine)
    exchanges = {
        (row["ts_ns"], row["session"], row["xid"] or 0): row for row in trace.exchanges.to_pylist()
    }
    report = trace.writes()
    answered = 0
    for write in report:
        check_write(write)
        if write["latency_us"] is None:
            continue
        answered += 1
        assert write["complete"], write
        session = int(write["session"], 16)
        exchange = exchanges[write["ts_ns"], session, write["cxid"]]
        assert ns(write["latency_us"]) == exchange["latency_ns"]
        assert (write["op"], write["path"]) == (exchange["op"], exchange["path"])
        assert write["error"] == exchange["error"]
    assert answered == ALL_PORTS[name]
    summary = report.summary()
    assert summary["answered"] == answered
    assert summary["complete"] >= answered
    assert sum(part["share"] for part in summary["parts"]) == pytest.approx(1, abs=1e-3)
    assert sum(stage["share"] for stage in summary["stages"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
@needs_native
@pytest.mark.skipif(not MEDIUM.exists(), reason=f"{VARIABLE} names no directory with it")
def test_every_write_of_the_large_capture() -> None:
    joiner = Joiner()
    for batches in zktrace.iter_batches(str(MEDIUM), engine="native"):
        joiner.add(batches)
    joined = joiner.join()
    report = WriteReport(timeline(joined), joined.addresses, joined.ops)
    summary = report.summary()
    assert summary["writes"] == 69_855
    assert summary["answered"] == summary["complete"] == 69_828
    answered = report.paths.moments.sent[:, REPLY] != NONE
    latency = joined.writes.latency[report.paths.write]
    moments = report.paths.moments.sent
    assert (moments[answered, REPLY] - moments[answered, REQUEST] == latency[answered]).all()
    spent = parts(report.timeline, report.paths)
    assert (spent >= 0).all()
    assert (spent.sum(axis=1)[answered] == latency[answered]).all()
    (quorum,) = summary["quorums"]
    assert (quorum["needed"], quorum["how"], quorum["followers"]) == (2, "config", 2)
    for number in report.slowest(200):
        check_write(report.write(number))


@pytest.mark.slow
@needs_native
@pytest.mark.skipif(not MEDIUM.exists(), reason=f"{VARIABLE} names no directory with it")
def test_every_write_of_the_large_capture_by_the_command() -> None:
    """What the command tells of it, write by write."""
    lines = output("trace", "--json", MEDIUM, engine="native").splitlines()
    answered = 0
    for write in map(json.loads, lines[:-2]):
        check_write(write)
        if write["latency_us"] is not None:
            answered += 1
            assert write["complete"], write
            assert sum(ns(stage["us"]) for stage in write["stages"]) == ns(write["latency_us"])
    assert (len(lines) - 2, answered) == (69_855, 69_828)


def test_what_the_leader_did_by_itself(engine: str) -> None:
    origins: Counter[tuple[str | None, str]] = Counter()
    for name in ("13_session_expiry_move", "15_container_ttl_reap"):
        for write in zktrace.read(PCAPS / f"{name}.pcap", engine=engine).writes():
            origins[write["origin"], write["op"]] += 1
            if write["origin"] == "leader":
                assert write["latency_us"] is None
                assert write["complete"]
    assert origins["leader", "closeSession"] == 1
    assert origins["leader", "deleteContainer"] == 3
    assert not [op for origin, op in origins if origin not in ("leader", "client")]


@needs_native
def test_both_engines_tell_the_same() -> None:
    for name in ALL_PORTS:
        told = []
        for engine in ("python", "native"):
            trace = zktrace.read(PCAPS / f"{name}.pcap", engine=engine)
            report = trace.writes()
            told.append((list(report), report.summary()))
        assert told[0] == told[1]


def test_nothing_at_all(engine: str) -> None:
    report = zktrace.read(PCAPS / "file_empty.pcap", engine=engine).writes()
    assert list(report) == []
    assert report.slowest(3) == []
    summary = report.summary()
    assert summary["writes"] == summary["complete"] == 0
    assert summary["stages"] == summary["parts"] == summary["quorums"] == []


@pytest.mark.parametrize("kind", ["exchanges", "quorum"])
@pytest.mark.parametrize("name", ALL_PORTS)
def test_one_side_only(name: str, kind: str, engine: str) -> None:
    """Only the client port, or only the quorum port."""
    trace = zktrace.read(PCAPS / f"{name}.pcap", engine=engine)
    tables = trace.tables
    other = "quorum" if kind == "exchanges" else "exchanges"
    tables[other] = tables[other].slice(0, 0)
    report = zktrace.Trace(tables, trace.coverage).writes()
    assert len(report)
    for write in report:
        check_write(write)
        if kind == "exchanges":
            assert not write["complete"]
            assert {"proposal", "quorum", "commit"} <= set(write["missing"])
            assert write["quorum"] is None
        elif write["origin"] != "leader":
            assert write["client"] is None
            assert {"request", "reply"} <= set(write["missing"])
            assert write["latency_us"] is None
            assert write["total_us"] > 0


def test_one_follower_only(engine: str) -> None:
    """A capture beside one follower: what the leader does with others is not in it."""
    trace = zktrace.read(PCAPS / "12_leader_kill.pcap", engine=engine)
    tables = trace.tables
    quorum = tables["quorum"].to_pylist()
    one = [row for row in quorum if row["conn"] == 3]
    tables["quorum"] = tables["quorum"].from_pylist(one, schema=tables["quorum"].schema)
    report = zktrace.Trace(tables, trace.coverage).writes()
    (seen,) = (q for q in report.summary()["quorums"] if q["epoch"] == 2)
    for write in report:
        check_write(write)
    # Commits came before its ACK: others must have acknowledged, who were not captured.
    assert seen["least_acks"] == 0
    assert seen["needed"] is None
    for write in report:
        if write["quorum"] and write["epoch"] == 2:
            assert write["quorum"]["made_by"] is None


def test_voters_by_configuration(engine: str) -> None:
    """Three servers vote, of which the second epoch saw handshakes; the first is bounded."""
    trace = zktrace.read(PCAPS / "12_leader_kill.pcap", engine=engine)
    told = [(q["epoch"], q["needed"], q["how"]) for q in trace.writes().summary()["quorums"]]
    assert told == [(2, 2, "seen"), (3, 2, "config")]


def test_voters_as_told(engine: str) -> None:
    trace = zktrace.read(PCAPS / "12_leader_kill.pcap", engine=engine)
    report = trace.writes(voters=5)
    for quorum in report.summary()["quorums"]:
        assert (quorum["needed"], quorum["how"]) == (3, "given")
    for write in report:
        check_write(write)
        acks = [a for a in write["acks"] if a["latency_us"] is not None and not a["syncing"]]
        made = [a for a in write["acks"] if a["made_quorum"]]
        if made:
            # Two ACKs and the leader's vote: the later one.
            assert made[0]["ack_us"] == max(a["ack_us"] for a in acks)


def test_moments_in_order(engine: str) -> None:
    for name in ALL_PORTS:
        paths = zktrace.read(PCAPS / f"{name}.pcap", engine=engine).writes().paths
        for row in paths.moments.sent.tolist():
            known = [moment for moment in row if moment != NONE]
            assert known == sorted(known)
        assert (paths.reordered == 0).all()
        assert len(MOMENTS) == paths.moments.sent.shape[1]
        # A quorum without a proposal, a commit without a quorum are not told of.
        sent = paths.moments.sent
        for before, after in ((PROPOSED, QUORUM), (PROPOSED, COMMITTED)):
            assert not ((sent[:, before] == NONE) & (sent[:, after] != NONE)).any()
