"""What is not broken is not called broken: captures of healthy ensembles, whole and hurt in every
way that a capture point has of hurting them.

Losses, copies, disorder, late starts, cut packets, clocks apart and two ensembles in one capture
may lead to less being seen, never to a violation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

import zktrace
from tests.conftest import NATIVE_MISSING
from tests.support import mangle, zk
from tests.support.cases import REAL, everything, records
from tests.support.pcapio import Record
from tests.support.zab import Zab, healthy
from tests.verify.plant import Client, apart, broken, of_capture, texts, verified
from zktrace.analysis.verify import CHECKS

#: Of these it is known what is wrong with them.
_ILL = {"18_bare_check_poison": {"bare-check"}}

_ENSEMBLES = (
    *("01_election_start", "08_sync_diff", "09_sync_snap", "12_leader_kill"),
    *("13_session_expiry_move", "15_container_ttl_reap", "42_quorum_sasl", "54_v39_sync_snap"),
)
_MANGLED = sorted({*REAL, *_ENSEMBLES, "57_v39_herd"})

#: Seeds per capture and way. The Python engine takes some of them; both give the same tables.
_SEEDS = 3
_FAST = "python" if NATIVE_MISSING else "native"


@pytest.mark.parametrize("name", sorted(everything()))
def test_as_captured(name: str, engine: str) -> None:
    found = zktrace.verify(everything()[name].files, engine=engine)
    assert broken(found) == _ILL.get(name, set()), texts(found)
    assert found.ok


def test_scripts_are_as_healthy(engine: str) -> None:
    # quorum packets behind SASL are no messages of the script
    for name in (
        *(set(_ENSEMBLES) - {"42_quorum_sasl"}),
        "02_basic_ops",
        "52_v39_watches",
        "57_v39_herd",
    ):
        found = verified(of_capture(name), engine)
        assert not broken(found), texts(found)


_WAYS: dict[str, Callable[[Sequence[Record], random.Random], list[Record]]] = {
    "1_percent_lost": lambda r, rng: mangle.drop(r, rng, 0.01),
    "10_percent_lost": lambda r, rng: mangle.drop(r, rng, 0.1),
    "40_percent_lost": lambda r, rng: mangle.drop(r, rng, 0.4),
    "copies": lambda r, rng: mangle.duplicate(r, rng),
    "disorder": lambda r, rng: mangle.shuffle(r, rng, share=0.5),
    "disorder_in_time": lambda r, rng: mangle.shuffle(r, rng, times_travel=False),
    "lost_and_disorder": lambda r, rng: mangle.shuffle(mangle.drop(r, rng, 0.05), rng),
    "joined": lambda r, rng: mangle.late_join(r, rng.random()),
    "cut_off": lambda r, rng: list(r[: int(len(r) * rng.random())]),
    "snapped": lambda r, rng: mangle.snap(r, rng.choice((66, 80, 100, 120, 200))),
    "clocks_apart": lambda r, rng: apart(list(r), rng.choice((-1, 1)) * _skew(rng), rng),
    "clocks_apart_and_lost": lambda r, rng: apart(mangle.drop(r, rng, 0.02), _skew(rng), rng),
}


def _skew(rng: random.Random) -> int:
    return rng.choice((20_000, 1_000_000, 50_000_000, 3_000_000_000))


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("name", _MANGLED)
def test_hurt(name: str, way: str) -> None:
    for seed in range(_SEEDS):
        rng = random.Random(f"{name} {way} {seed}")
        found = verified(_WAYS[way](records(name), rng), _FAST)
        assert not broken(found), f"seed {seed}: {texts(found)}"


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("size", [3, 5])
def test_made_and_hurt(size: int, way: str, engine: str) -> None:
    for seed in range(_SEEDS):
        made = healthy(seed, size=size, observers=seed % 3, terms=1 + seed % 3).script.records()
        found = verified(_WAYS[way](made, random.Random(f"{way} {seed}")), engine)
        assert not broken(found), f"seed {seed}: {texts(found)}"


def test_two_ensembles(engine: str) -> None:
    """The same epochs and zxids, other transactions."""
    one, two = healthy(1), Zab(observers=1, seed=2, network="10.2.0", start_ns=one_s_later())
    two.lead(2, [1, 3], [4])
    two.write(9)
    two.lead(3, [1, 2], [4])
    two.write(9)
    made = sorted([*one.script.records(), *two.script.records()], key=lambda r: r.ts_ns)
    found = verified(made, engine)
    assert not broken(found), texts(found)


def one_s_later() -> int:
    return 1_700_000_000_300_000_000


@pytest.mark.parametrize("loopback", [False, True])
def test_two_ensembles_that_name_their_servers_alike(engine: str, loopback: bool) -> None:
    """As in two namespaces of Kubernetes: the same names, other addresses."""
    made = []
    for number in (1, 2):
        zab = Zab(seed=number, network=f"10.{number}.0", names="zk-{}", observers=1)
        if loopback:
            zab.network, zab.names, zab.port = f"127.0.{number}", "localhost", 2888 + number
        zab.lead(number, [sid for sid in (1, 2, 3) if sid != number], [4])
        zab.write(9)
        made += zab.script.records()
    found = verified(sorted(made, key=lambda r: r.ts_ns), engine)
    assert not broken(found), texts(found)


def test_a_follower_that_comes_again(engine: str) -> None:
    zab = Zab(observers=1)
    zab.lead(1, [2, 3], [4])
    zab.write(5)
    zab.learning = [one for one in zab.learning if one.sid != 3]
    zab.write(5)
    zab.join(3, False)
    zab.write(5)
    found = verified(zab.script, engine)
    assert not broken(found), texts(found)


def test_a_server_with_an_empty_disk(engine: str) -> None:
    """It was put in another one's place: it knows no epoch, and breaks no promise of its own."""
    zab = Zab(size=5)
    zab.lead(1, [2, 3, 4, 5])
    zab.write(5)
    zab.lead(2, [1, 3, 4, 5])
    zab.write(5)
    zab.learning = [one for one in zab.learning if one.sid != 4]
    zab.accepted[4] = zab.logged[4] = 0
    zab.join(4, False)
    zab.write(5)
    found = verified(zab.script, engine)
    assert not broken(found), texts(found)


@pytest.mark.parametrize("name", _MANGLED)
def test_nonsense_is_no_error(name: str) -> None:
    """Bytes that say anything may break any guarantee; checks must bear them."""
    for seed in range(_SEEDS):
        rng = random.Random(f"{name} nonsense {seed}")
        made = mangle.damage_payloads(records(name), rng, 10 ** (1 + seed))
        assert len(verified(made, _FAST).outcomes) == len(CHECKS)


def test_other_watches_are_left_alone(engine: str) -> None:
    client = Client()
    client.get(1, "/a", 0x100, 0x50, watch=True)
    client.ask(2, 106, zk.ustring("/a") + zk.i32(0))
    client.answer(2, 0x100, zk.i32(0))
    client.get(3, "/a", 0x101, 0x101)
    found = verified(client.script, engine)
    assert not broken(found), texts(found)
    outcome = next(one for one in found.outcomes if one.check.name == "session-events")
    assert any("addWatch" in text for text in outcome.unseen)


def test_what_was_not_seen_is_said(engine: str) -> None:
    lost = mangle.drop(records("12_leader_kill"), random.Random(5), 0.1)
    found = verified(lost, engine)
    said = " ".join(text for one in found.outcomes for text in one.unseen)
    assert "losses" in said
    assert "no configuration was seen" in said or "the beginning of" in said


def test_engines_agree() -> None:
    if NATIVE_MISSING:
        pytest.skip("one engine only")
    for name in (*_ENSEMBLES, *REAL):
        made = mangle.drop(records(name), random.Random(name), 0.05)
        one, other = (verified(made, engine) for engine in ("python", "native"))
        assert one.outcomes == other.outcomes
