"""Captures of several places: clocks found from the traffic, networks measured exactly."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_command import objects, output, refused, zktrace
from tests.support.pcapio import write_pcap
from tests.support.simulated import MS, US, Simulation

ClockAt = Callable[[int], int]


def wire(src: str, dst: str) -> int:
    """Every way takes another time, there another than back."""
    chance = random.Random(f"{src}{dst}")
    return chance.randrange(100 * US, 900 * US)


def off(ns: int) -> ClockAt:
    return lambda true: true + ns


def captured(
    tmp_path: Path, sim: Simulation, clocks: dict[str, int], ports: dict[str, list[int]]
) -> list[str]:
    """Arguments for the captures of some hosts."""
    arguments = []
    for host, offset in clocks.items():
        wanted = ports.get(host, [2181, 2888])
        path = write_pcap(tmp_path / f"{host}.pcap", sim.records(host, off(offset), wanted))
        arguments += ["--point", f"{host}={path}"]
    return arguments


def traced(arguments: list[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    *writes, summary, coverage = objects(output("trace", "--json", *arguments))
    assert set(coverage["points"]) == {one["point"] for one in summary["points"]}
    return writes, summary


OFFSETS = {"10.0.0.1": 7_000 * MS, "10.0.0.2": -3_000 * MS, "10.0.0.3": 123_456_789}


def check_clocks(summary: dict[str, Any], clocks: dict[str, int], within_us: float) -> None:
    """The true offsets are within the bounds that are told, and these are near."""
    names = list(clocks)
    for point, name in zip(summary["points"], names, strict=True):
        true = (clocks[name] - clocks[names[0]]) / 1000
        assert point["point"] == name
        assert point["consistent"]
        assert point["low_us"] <= true <= point["high_us"]
        assert abs(point["offset_us"] - true) <= within_us


def test_on_every_host(tmp_path: Path) -> None:
    """On the hosts of all servers and clients: every part of every way is known."""
    sim = Simulation(wire=wire, disk={2: 3 * MS, 3: 9 * MS})
    sim.run(30)
    hosts = {**OFFSETS, "10.0.9.1": 1, "10.0.9.2": -(10**12), "10.0.9.3": 77 * MS}
    writes, summary = traced(captured(tmp_path, sim, hosts, {}))
    check_clocks(summary, hosts, 1000)
    told = {(one["session"], one["cxid"]): one for one in writes}
    assert len(told) == len(writes) == 30
    for one in sim.writes:
        write = told[f"0x{one.session:016x}", one.cxid]
        assert write["complete"], write
        # What the client itself waited, by its own clock.
        assert round(write["latency_us"] * 1000) == one.answered - one.sent
        assert sum(round(s["us"] * 1000) for s in write["stages"]) == one.answered - one.sent
        stages = {stage["stage"]: stage for stage in write["stages"]}
        # What one host does is by one clock.
        if one.server != sim.leader:
            assert round(stages["server"]["us"] * 1000) == one.forwarded - one.at_server
            assert round(stages["reply"]["us"] * 1000) == one.replied - one.told
            assert round(stages["leader"]["us"] * 1000) == one.proposed - one.at_leader
        ways = sum(
            round(stages[name]["us"] * 1000)
            for name in ("request_network", "reply_network")
            if name in stages
        )
        client, server = one.client, sim.ip(one.server)
        assert ways == sim.delay(client, server) + sim.delay(server, client)
        for ack in write["acks"]:
            there = sim.delay(sim.ip(1), sim.ip(ack["sid"]))
            back = sim.delay(sim.ip(ack["sid"]), sim.ip(1))
            assert ack["network_exact"]
            assert round(ack["network_us"] * 1000) == there + back
    by_sid = {row["sid"]: row for row in summary["learners"]}
    assert by_sid[2]["disk_us"]["p50"] == pytest.approx(3_000, rel=0.02)
    assert by_sid[3]["disk_us"]["p50"] == pytest.approx(9_000, rel=0.02)
    parts = {part["part"] for part in summary["parts"]}
    assert {"client_network", "forward_network", "commit_network", "network"} <= parts
    assert "unseen" not in parts


def test_without_a_common_packet(tmp_path: Path) -> None:
    """Only the client port beside a follower, only the quorum port beside the leader: no packet is
    in both, causes bound the clocks.
    """
    sim = Simulation(wire=wire)
    sim.run(30, servers=[2])
    clocks = {"10.0.0.2": -3_000 * MS, "10.0.0.1": 7_000 * MS}
    ports = {"10.0.0.2": [2181], "10.0.0.1": [2888]}
    writes, summary = traced(captured(tmp_path, sim, clocks, ports))
    check_clocks(summary, clocks, 5_000)
    assert len(writes) == 30
    for write in writes:
        assert write["complete"], write
        assert [stage["stage"] for stage in write["stages"]] == [
            *("server", "leader", "quorum", "commit", "reply")
        ]
    latencies = sorted(one.replied - one.at_server for one in sim.writes)
    assert sorted(round(write["latency_us"] * 1000) for write in writes) == latencies


def test_nothing_in_common(tmp_path: Path) -> None:
    """Two ensembles: nothing bounds their clocks, and that is told."""
    first, second = Simulation(), Simulation(leader=2)
    first.run(6)
    second.run(6, servers=[2])
    for conn in second.conns:
        conn.ends = tuple((f"1{host}", port) for host, port in conn.ends)  # type: ignore[assignment]
    arguments = []
    for name, sim, ports in (("a", first, [2181]), ("b", second, [2888])):
        path = write_pcap(tmp_path / f"{name}.pcap", sim.records(ports=ports))
        arguments += ["--point", f"{name}={path}"]
    _, summary = traced(arguments)
    other = summary["points"][1]
    assert (other["low_us"], other["high_us"], other["offset_us"]) == (None, None, 0)
    text = output("trace", *arguments)
    assert "the traffic says nothing of it" in text


def test_drifting_clocks(tmp_path: Path) -> None:
    """A clock that gains a thousandth: within a minute that is more than the network takes."""
    sim = Simulation(wire=wire)
    sim.run(200, gap=300 * MS, servers=[2])
    arguments = []
    clocks: dict[str, ClockAt] = {
        "10.0.0.1": off(0),
        "10.0.0.2": lambda ns: ns + ns // 1000 % 10**9,
    }
    for host, clock in clocks.items():
        path = write_pcap(tmp_path / f"{host}.pcap", sim.records(host, clock))
        arguments += ["--point", f"{host}={path}"]
    writes, summary = traced(arguments)
    assert not summary["points"][1]["consistent"]
    for write in writes:
        total = sum(round(stage["us"] * 1000) for stage in write["stages"])
        assert total == round(write["total_us"] * 1000)
    assert "drifted" in output("trace", *arguments)


def test_one_place_in_rotated_files(tmp_path: Path) -> None:
    sim = Simulation(wire=wire)
    sim.run(20)
    records = sim.records("10.0.0.1")
    cut = len(records) // 2
    paths = [
        write_pcap(tmp_path / f"{name}.pcap", some)
        for name, some in (("a", records[:cut]), ("b", records[cut:]))
    ]
    rotated = [part for path in paths for part in ("--point", f"leader={path}")]
    ways = captured(tmp_path, sim, {"10.0.0.2": 5 * MS}, {})
    whole = write_pcap(tmp_path / "whole.pcap", records)
    first = traced([*rotated, *ways])
    second = traced(["--point", f"leader={whole}", *ways])
    assert first == second


def test_filter_over_places(tmp_path: Path) -> None:
    sim = Simulation(wire=wire)
    sim.run(12)
    arguments = captured(tmp_path, sim, OFFSETS, {})
    writes, summary = traced([*arguments, "--filter", 'path == "/w/3"'])
    assert [write["path"] for write in writes] == ["/w/3"]
    assert summary["writes"] == 1


def test_report(tmp_path: Path) -> None:
    sim = Simulation(wire=wire)
    sim.run(12)
    text = output("trace", *captured(tmp_path, sim, OFFSETS, {}))
    assert "clock     10.0.0.2 is 10.00s behind 10.0.0.1, give or take " in text


def test_wrong_calls(tmp_path: Path) -> None:
    assert "NAME=FILE" in refused(zktrace("trace", "--point", "x.pcap"))
    assert "--point" in refused(zktrace("trace"))
    assert "--point" in refused(zktrace("trace", "a.pcap", "--point", "b=c.pcap"))
