"""Captures with losses: what is shown is right, and most is still shown. `make campaign` tries many
more seeds.
"""

from __future__ import annotations

import random

import pytest

from tests.properties.campaign import CAPTURES, SHARES, habit_trial, trial
from tests.support import habits, loss, mangle
from tests.support.cases import everything, records
from tests.support.decoded import decode_records

_SEEDS = 10


@pytest.mark.parametrize("name", CAPTURES)
def test_nothing_wrong_is_shown(name: str, engine: str) -> None:
    seeds = 2 if name == "57_v39_herd" else _SEEDS
    total = loss.Verdict()
    for seed in range(seeds):
        total.add(trial(name, seed, engine))
    print(total.shares())
    assert not total.lies, "\n".join(total.lies[:10])


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("name", ["02_basic_ops", "04_watches", "22_pipelined"])
def test_heavy_loss(name: str, share: float, engine: str) -> None:
    total = loss.Verdict()
    for seed in range(_SEEDS):
        total.add(trial(name, seed, engine, share))
    print(total.shares())
    assert not total.lies, "\n".join(total.lies[:10])


def test_recall(engine: str) -> None:
    """A lost packet of a hundred costs about the exchanges it carried, not the connection."""
    total = loss.Verdict()
    for seed in range(_SEEDS):
        for name in ("02_basic_ops", "50_v39_basic_ops", "04_watches"):
            total.add(trial(name, seed, engine))
    print(total.shares())
    assert total.paired > 0.9 * total.known


@pytest.mark.parametrize("length", [54, 66, 80, 100, 160])
@pytest.mark.parametrize("name", ["02_basic_ops", "04_watches", "22_pipelined", "52_v39_watches"])
def test_snap_length(name: str, length: int, engine: str) -> None:
    made = mangle.snap(records(name), length)
    verdict = loss.judge(everything()[name].truth(), decode_records(made, engine=engine))
    assert not verdict.lies, "\n".join(verdict.lies[:10])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize(
    "name", ["02_basic_ops", "04_watches", "21_fragmented", "22_pipelined", "57_v39_herd"]
)
def test_joined_late(name: str, share: float, engine: str) -> None:
    """The capture begins in the middle: no session, no handshake, perhaps half a frame."""
    made = mangle.late_join(records(name), share)
    verdict = loss.judge(everything()[name].truth(), decode_records(made, engine=engine))
    print(verdict.shares())
    assert not verdict.lies, "\n".join(verdict.lies[:10])


@pytest.mark.parametrize("name", ["02_basic_ops", "04_watches", "13_session_expiry_move"])
def test_joined_anywhere(name: str, engine: str) -> None:
    """Wherever a capture begins, what is whole in it is paired: no long blindness at the start."""
    truth = everything()[name].truth()
    whole = records(name)
    found = []
    for begin in range(5, len(whole) - 5, 7):
        made = whole[begin:]
        known = [row for row in truth.exchanges if row["state"] == "complete"]
        # Repeated xids pair again only behind an ordinary exchange.
        known = [row for row in known if row["ts_ns"] >= made[0].ts_ns and (row["xid"] or 0) >= 0]
        verdict = loss.judge(truth, decode_records(made, engine=engine))
        found += [f"from packet {begin}: {lie}" for lie in verdict.lies]
        # One exchange per connection may be needed to find out what it is.
        missing = len(known) - verdict.paired
        if missing > len({row["flow"] for row in known}):
            found.append(f"from packet {begin}: {verdict.paired} of {len(known)} are paired")
    assert not found, "\n".join(found[:20])


@pytest.mark.parametrize("name", ["02_basic_ops", "04_watches", "22_pipelined", "12_leader_kill"])
def test_loss_among_duplicates_and_disorder(name: str, engine: str) -> None:
    lies = []
    for seed in range(_SEEDS):
        rng = random.Random(seed)
        # a second copy whose first was lost would have the time of another place: nobody can tell
        made = mangle.duplicate(mangle.drop(records(name), rng, 0.03), rng)
        made = mangle.shuffle(made, rng)
        verdict = loss.judge(everything()[name].truth(), decode_records(made, engine=engine))
        lies += [f"seed {seed}: {lie}" for lie in verdict.lies]
    assert not lies, "\n".join(lies[:10])


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("habit", habits.SAFE)
def test_xids_and_ports_used_again(habit: str, share: float, engine: str) -> None:
    """Ports come back with sequence numbers near the old ones, handshakes are lost; some clients
    give all requests one xid.
    """
    total = loss.Verdict()
    for seed in range(_SEEDS):
        total.add(habit_trial(seed, engine, habit, share))
    print(total.shares())
    assert not total.lies, "\n".join(total.lies[:10])
    if share == 0:
        assert total.timed == total.known
