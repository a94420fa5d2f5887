"""Many sessions with locks, elections and queues, think times off by a fifth: no dead-lock, and
every result again.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.proxy.replay.support import FULL, differences, planned, record, replayed
from tests.server.ourzk import ours
from zktrace_proxy.messages.spool import Spool
from zktrace_proxy.replay.plan import Plan

SESSIONS, OPS = (100, 2000) if FULL else (40, 400)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("jitter")
    with ours(directory / "server") as server:
        record(
            server.address,
            directory / "a.pcapng",
            ["locks", "election", "queue"],
            clients=SESSIONS,
            ops=OPS,
            timeout_ms=60_000,
        )
    return directory / "a.pcapng"


def jittered(plan: Plan, seed: int) -> Plan:
    """Each think time times 0.8 to 1.2."""
    chance = Random(seed)
    spool = Spool()
    for exchange, notes in plan.spool:
        exchange.think_ns = int(exchange.think_ns * chance.uniform(0.8, 1.2))
        spool.append(exchange, notes)
    plan.spool.close()
    plan.spool = spool
    return plan


@pytest.mark.parametrize("order", ["strict", "conflict"])
def test_many_sessions_with_jitter(order: str, recording: Path, tmp_path: Path) -> None:
    plan = jittered(planned(recording), seed=len(order))
    assert len(plan.sessions) >= SESSIONS
    with ours(tmp_path) as server:
        report = replayed(plan, server.address, order=order, speed=4.0, session_timeout_ms=60_000)
    assert [one for one in differences(report) if one["what"] != "session timeout"] == []
    assert report.stalled == 0
    assert report.outcome.events["different"] == 0
