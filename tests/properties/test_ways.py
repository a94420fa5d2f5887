"""The ways of writes and the ensemble's picture on captures that were cut, repeated, reordered or
damaged.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import zktrace
from tests.support.cases import records
from tests.support.mangle import HARMLESS
from tests.support.pcapio import Record, pcap_bytes, write_pcap
from zktrace.export.spans import otlp_lines, trace_events
from zktrace.export.text import Look
from zktrace.export.waterfall import Waterfall

NAMES = ("08_sync_diff", "12_leader_kill", "13_session_expiry_move", "15_container_ttl_reap")
SEEDS = 15


def told(trace: zktrace.Trace) -> dict[str, Any]:
    report = trace.writes()
    return {
        "writes": list(report),
        "summary": report.summary(),
        "slowest": [report.write(number) for number in report.slowest(5)],
        "ensemble": trace.ensemble(),
    }


@pytest.mark.parametrize("mangling", [name for name, (_, times) in HARMLESS.items() if times])
@pytest.mark.parametrize("name", NAMES)
def test_same_however_captured(name: str, mangling: str, tmp_path: Path, engine: str) -> None:
    """Segments cut or repeated: every byte keeps its time, so every stage does."""
    mangle, _ = HARMLESS[mangling]
    made = write_pcap(tmp_path / "mangled.pcap", mangle(records(name), random.Random(1)))
    plain = write_pcap(tmp_path / "plain.pcap", records(name))
    first, second = (told(zktrace.read(path, engine=engine)) for path in (made, plain))
    assert ordered(first) == ordered(second)


def ordered(found: dict[str, Any]) -> dict[str, Any]:
    """Learners by address: connections are numbered as they come."""
    for rows in (
        found["summary"]["learners"],
        found["ensemble"]["learners"],
        *(write["acks"] for write in [*found["writes"], *found["slowest"]]),
    ):
        rows.sort(key=lambda row: str(row["learner"]))
    return found


def damaged(name: str, seed: int) -> list[Record]:
    """Bytes changed, packets left out, repeated, moved in time."""
    chance = random.Random(f"{name}{seed}")
    made = []
    for record in records(name):
        data = bytearray(record.data)
        what = chance.random()
        if what < 0.03:
            continue
        if what < 0.12 and len(data) > 60:
            for _ in range(chance.randrange(1, 6)):
                data[chance.randrange(54, len(data))] = chance.choice((0, 1, 2, 127, 255))
        ts = record.ts_ns + (chance.randrange(-(10**9), 10**9) if what > 0.97 else 0)
        made.append(Record(ts, bytes(data)))
        if what > 0.95:
            made.append(made[-1])
    return made


@pytest.mark.parametrize("name", NAMES)
def test_damaged_captures(name: str, tmp_path: Path, engine: str) -> None:
    """Nothing raises, stages add up, no time is negative, both ends of a bar are within it."""
    for seed in range(SEEDS):
        path = tmp_path / "damaged.pcap"
        path.write_bytes(pcap_bytes(damaged(name, seed), nanoseconds=True))
        trace = zktrace.read(path, engine=engine)
        found = told(trace)
        for write in found["writes"]:
            spent = [round(stage["us"] * 1000) for stage in write["stages"]]
            assert all(ns >= 0 for ns in spent)
            assert sum(spent) == round(write["total_us"] * 1000)
            assert sum(round(us * 1000) for us in write["parts"].values()) == sum(spent)
            if write["latency_us"] is not None:
                assert write["latency_us"] == write["total_us"]
            assert write["complete"] is (not write["missing"])
        list(otlp_lines(found["writes"], "1"))
        list(trace_events(found["writes"]))
        painter = Waterfall(Look(width=60))
        list(painter.lines(found["summary"], found["slowest"], trace.coverage))
