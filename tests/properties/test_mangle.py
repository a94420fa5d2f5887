"""The manglings themselves: the oracle finds the same in what they make."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.support import mangle, oracle
from tests.support.cases import PCAPS, REAL, records
from tests.support.pcapio import Record, pcap_bytes


def _found(reading: oracle.Reading, times: bool) -> list[tuple[object, ...]]:
    rows = []
    for pair in reading.pairs:
        when = (pair.ts_ns, pair.latency_ns) if times else ()
        rows.append((pair.flow, str(pair.opcode), str(pair.xid), pair.state, pair.zxid, *when))
    return sorted(rows, key=repr)


@pytest.mark.parametrize("mangling", mangle.HARMLESS)
@pytest.mark.parametrize("name", REAL)
def test_harmless_ones_keep_every_byte(name: str, mangling: str) -> None:
    function, kept = mangle.HARMLESS[mangling]
    times = kept is not False
    listeners = oracle.client_listeners(PCAPS / "ports.json")
    whole = oracle.read(records(name), listeners)
    for seed in range(2):
        made = function(records(name), random.Random(seed))
        assert _found(oracle.read(made, listeners), times) == _found(whole, times), seed


@pytest.mark.parametrize("name", ["02_basic_ops", "22_pipelined"])
def test_a_seed_gives_the_same_again(name: str) -> None:
    makers: list[Callable[[random.Random], list[Record]]] = [
        lambda rng: mangle.drop(records(name), rng, 0.2),
        lambda rng: mangle.duplicate(records(name), rng),
        lambda rng: mangle.shuffle(records(name), rng),
        lambda rng: mangle.damage_payloads(records(name), rng),
    ]
    for make in makers:
        assert make(random.Random(5)) == make(random.Random(5))
        assert make(random.Random(5)) != make(random.Random(6))
    data = pcap_bytes(records(name))
    assert mangle.damage(data, random.Random(5)) == mangle.damage(data, random.Random(5))
