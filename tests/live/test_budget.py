"""Budgets: which connections are left out, when, and that it is said."""

from __future__ import annotations

import random
import signal
from ipaddress import ip_address

import pytest

from tests.live.machine import run
from tests.live.netns import Namespace
from tests.live.served import serving
from tests.live.test_capture import SAMPLES, coverage, injected, listening
from tests.live.test_filter import frame, passes
from tests.live.test_serve import PORTS
from tests.support.decoded import decode, from_json
from tests.support.net import ACK, Seg, ip, ip4, tcp
from zktrace.capture.bpf import compile_filter
from zktrace.engine.budget import MOST, Budget, Meter

MIB = 1 << 20


def _ends(v6: bool, count: int) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    chance = random.Random(3)
    bits = 128 if v6 else 32
    server = ("fd00::1" if v6 else "10.0.0.1", 2181)
    made = []
    for number in range(count):
        if number % 2:  # clients of one machine
            made.append((("fd00::2" if v6 else "10.0.0.2", 32_768 + number), server))
        else:
            address = str(ip_address(chance.getrandbits(bits) | 1 << (bits - 1)))
            made.append(((address, chance.randrange(1024, 65_536)), server))
    return made


@pytest.mark.parametrize("v6", [False, True])
def test_whole_connections_are_chosen(v6: bool) -> None:
    """Both directions alike, tagged or not; the right share; who passes the harder choice passes
    the easier one.
    """
    ends = _ends(v6, 4000)
    before = set(range(len(ends)))
    for level in (1, 2, 4, 6):
        program = compile_filter((), cooked=False, sample=level)
        cooked = compile_filter((), cooked=True, sample=level)
        chosen = set()
        for number, (client, server) in enumerate(ends):
            there = ip(Seg(0, client, server, 1, 1, ACK, b"x"))
            back = ip(Seg(0, server, client, 9, 9, ACK, b"yy"))
            found = {
                run(program, frame(packet, tags)) for packet in (there, back) for tags in (0, 2)
            }
            found |= {262_144 * passes(cooked, packet, cooked=True) for packet in (there, back)}
            assert len(found) == 1
            if found.pop():
                chosen.add(number)
        assert chosen <= before
        assert 0.7 < len(chosen) / (len(ends) / 2**level) < 1.4
        before = chosen


def test_what_has_no_ports_is_not_chosen_by_them() -> None:
    seg = Seg(0, ("10.0.0.1", 1), ("10.0.5.2", 2), 1, 1, ACK, b"x" * 64)
    later = ip4(seg.src[0], seg.dst[0], 6, tcp(seg)[24:], frag=3)
    assert run(compile_filter((), cooked=False, sample=MOST), frame(later)) > 0


def spend(budget: Budget, cpu: float, checks: int = 1, memory: int = 0) -> list[int]:
    """Levels, second by second, under a load that would cost `cpu` if all of it were taken."""
    levels = []
    for _ in range(checks):
        budget.check(cpu / 2**budget.level, memory, 1.0)
        levels.append(budget.level)
    return levels


def test_cpu_goes_back_into_its_budget_at_once() -> None:
    budget = Budget(max_cpu=10)
    assert spend(budget, 9.9, 20) == [0] * 20
    assert budget.coverage() == {}
    assert spend(budget, 75, 3) == [3, 3, 3]
    told = {"one_in": 8, "most": 8, "seconds": 2.0}
    assert budget.coverage() == {"sampling": told}


def test_it_takes_more_again_but_does_not_swing() -> None:
    budget = Budget(max_cpu=10)
    spend(budget, 75)
    # An eighth costs 4.9 of 10, a quarter would cost 9.8: too near.
    assert spend(budget, 39, 100) == [3] * 100
    # A quarter would cost 7.5.
    assert spend(budget, 30, 5) == [3, 3, 3, 3, 2]
    assert spend(budget, 30, 100) == [2] * 100
    assert spend(budget, 3, 10)[-1] == 0
    assert budget.coverage()["sampling"]["one_in"] == 1
    assert budget.coverage()["sampling"]["most"] == 8
    # One busy second begins the wait anew.
    spend(budget, 30)
    assert budget.level == 2
    assert spend(budget, 3, 4) == [2] * 4
    spend(budget, 30)
    assert spend(budget, 3, 5) == [2, 2, 2, 2, 1]


def test_there_is_an_end_to_it() -> None:
    budget = Budget(max_cpu=0.1)
    budget.check(1e9, 0, 1.0)
    budget.check(1e9, 0, 1.0)
    assert budget.level == MOST


def test_memory_that_grows_beyond_its_budget() -> None:
    budget = Budget(max_memory=100 * MIB)
    assert spend(budget, 0, memory=99 * MIB) == [0]
    assert spend(budget, 0, memory=101 * MIB) == [1]
    # It does not grow any more: nothing would be won by less.
    assert spend(budget, 0, 20, memory=101 * MIB) == [1] * 20
    assert spend(budget, 0, memory=103 * MIB) == [2]
    assert spend(budget, 0, 20, memory=85 * MIB) == [2] * 20
    assert spend(budget, 0, 10, memory=70 * MIB)[-1] == 0
    assert spend(budget, 0, memory=101 * MIB) == [1]


def test_the_meter_knows_this_process() -> None:
    _, memory, seconds = Meter().read()
    assert 5 * MIB < memory < 100_000 * MIB
    assert seconds > 0


def test_it_is_said_everywhere(alone: Namespace, engine: str) -> None:
    """A budget of memory that no process keeps to: connections are left out, whole ones."""
    with serving(alone, "-i", "lo", *PORTS, "--max-memory", "1M", engine=engine) as served:
        first = "budget: only 1 of 2 connections is listened to"
        # On a busy machine the page may be there later than the first of these lines.
        if not any(first in line for line in served.notices):
            served.process.said(first)
        found = served.json("api/coverage")
        assert found["coverage"]["sampling"]["one_in"] >= 2
        assert any("now 1 of" in words for words in found["not_seen"])
        assert "zktrace_sampling_ratio 0." in served.get("metrics").decode()
        served.process.ended(signal.SIGINT)


def test_what_is_left_out_is_not_seen(alone: Namespace, engine: str) -> None:
    herd = SAMPLES["57_v39_herd"].files[0]
    with listening(alone, "--max-memory", "1M", engine=engine) as process:
        process.said("budget: only 1 of 2 connections is listened to")
        sent = injected(alone, "lo", file=herd)
        out, _ = process.ended(signal.SIGINT)
    seen = coverage(out)
    assert 0 < seen["packets"] < sent
    assert seen["sampling"]["one_in"] >= 2
    everyone = {row["flow"] for row in decode(herd).exchanges}
    flows = {row["flow"] for row in from_json(out.splitlines()).exchanges}
    assert flows < everyone


def test_a_budget_that_is_kept_leaves_nothing_out(alone: Namespace, engine: str) -> None:
    generous = ("--max-memory", "100G", "--max-cpu", "6400")
    with serving(alone, "-i", "lo", *PORTS, *generous, engine=engine) as served:
        injected(alone, "lo")
        found = served.packets(119)
        assert "sampling" not in found["coverage"]
        assert "zktrace_sampling_ratio 1.0" in served.get("metrics").decode()
        served.process.ended(signal.SIGINT)
