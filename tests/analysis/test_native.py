"""What the native engine concludes by itself equals what is concluded in Python from tables: the
ways of writes, and what the checks say, of captures whole, hurt and damaged.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

import zktrace
from tests.conftest import needs_native
from tests.properties.test_ways import damaged
from tests.support import mangle
from tests.support.cases import PCAPS, records
from tests.support.pcapio import Record, pcap_bytes
from tests.support.zab import healthy
from zktrace.analysis.native import WRITE_COLUMNS, NativeWrites, array_run, drive, write_opcodes
from zktrace.analysis.trace import Batches, gather
from zktrace.analysis.verify import CHECKS, Checking, Outcome
from zktrace.analysis.verify.checks import check_tables
from zktrace.engine.base import EngineOptions, create
from zktrace.engine.driver import Run

pytestmark = needs_native

CAPTURES = sorted(path.name for path in PCAPS.glob("*.pcap*"))
ENSEMBLES = ("08_sync_diff", "12_leader_kill", "13_session_expiry_move", "15_container_ttl_reap")
SEEDS = 6
KEY = b"0123456789abcdef"


def told(report: Any) -> dict[str, Any]:
    return {
        "summary": report.summary(),
        "writes": list(report),
        "slowest": [report.write(number) for number in report.slowest(7)],
        "count": len(report),
    }


def writes(data: bytes, voters: int | None) -> NativeWrites:
    ops = write_opcodes()
    run = array_run(
        [io.BytesIO(data)],
        EngineOptions(),
        WRITE_COLUMNS,
        ability="analysis",
        ops=ops,
        engine="native",
    )
    assert run is not None
    return NativeWrites(drive(run), voters=voters)


def checked(data: bytes, voters: int | None, hash_key: bytes | None) -> list[Outcome]:
    checking = Checking([io.BytesIO(data)], EngineOptions(), engine="native")
    checking.decode()
    return list(checking.verified(voters=voters, hash_key=hash_key).outcomes)


def by_tables(data: bytes, voters: int | None, hash_key: bytes | None) -> list[Outcome]:
    """The same bytes by the reference, which the same decoder gives its tables."""
    run = Run([io.BytesIO(data)], create(replace(EngineOptions(), txn_key=1), "native"))
    tables = gather(Batches(run)).tables
    return check_tables(tables, run.coverage(), CHECKS, voters, hash_key)


def equal(data: bytes, voters: int | None = None, hash_key: bytes | None = None) -> None:
    reference = zktrace.read(io.BytesIO(data), engine="native").writes(voters=voters)
    wanted, found = told(reference), told(writes(data, voters))
    assert found == wanted
    assert [list(one) for one in found["writes"]] == [list(one) for one in wanted["writes"]]
    shown, outcomes = by_tables(data, voters, hash_key), checked(data, voters, hash_key)
    assert outcomes == shown
    # they are shown in this order
    assert [list(one.looked) for one in outcomes] == [list(one.looked) for one in shown]


@pytest.mark.parametrize("name", CAPTURES)
def test_captures(name: str) -> None:
    equal((PCAPS / name).read_bytes())


@pytest.mark.parametrize("voters", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ENSEMBLES)
def test_told_voters(name: str, voters: int) -> None:
    equal((PCAPS / f"{name}.pcap").read_bytes(), voters, KEY)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_damaged(name: str) -> None:
    """Bytes changed, packets left out, repeated, moved in time."""
    for seed in range(SEEDS):
        equal(pcap_bytes(damaged(name, seed), nanoseconds=True))


WAYS: dict[str, Callable[[Sequence[Record], random.Random], list[Record]]] = {
    "whole": lambda r, _: list(r),
    "lost": lambda r, rng: mangle.drop(r, rng, 0.03),
    "disorder": lambda r, rng: mangle.shuffle(r, rng, share=0.3),
    "joined": lambda r, rng: mangle.late_join(r, rng.random()),
    "nonsense": lambda r, rng: mangle.damage_payloads(list(r), rng, 100),
}


@pytest.mark.parametrize("way", WAYS)
def test_made(way: str) -> None:
    """Ensembles of 3 and 5 with observers, through changes of their leader."""
    for seed in range(SEEDS):
        made = healthy(seed, size=3 + seed % 2 * 2, observers=seed % 3, terms=1 + seed % 3)
        rng = random.Random(f"{way} {seed}")
        equal(pcap_bytes(WAYS[way](made.script.records(), rng), nanoseconds=True))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["25_kazoo_ops", "57_v39_herd", "12_leader_kill"])
def test_hurt(name: str, way: str) -> None:
    equal(pcap_bytes(WAYS[way](records(name), random.Random(way)), nanoseconds=True))


def test_two_ensembles() -> None:
    """The same zxids, other transactions: kept apart by session and cxid."""
    made = [one for seed in (1, 1) for one in healthy(seed).script.records()]
    equal(pcap_bytes(sorted(made, key=lambda one: one.ts_ns), nanoseconds=True))
    both = [*records("12_leader_kill"), *records("08_sync_diff")]
    equal(pcap_bytes(sorted(both, key=lambda one: one.ts_ns), nanoseconds=True))
