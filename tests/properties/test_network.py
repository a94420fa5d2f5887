"""Captures that lose packets of networks that do: no wrong latency, no wrong op.

The truth is what a capture without losses at the same place shows (`tests.support.chatter`).
`make campaign` tries many more seeds; a lie names the call of `campaign.network_trial` that shows
it again.
"""

from __future__ import annotations

import random

import pytest

from tests.properties.campaign import NETWORK_LOSSES, network_trial
from tests.support import chatter, loss
from tests.support.decoded import Decoded, decode_records
from tests.support.network import NUMBERINGS
from tests.support.pcapio import Record

_SEEDS = 2


def _tried(engine: str, share: float, numbering: str, seeds: int = _SEEDS) -> loss.Verdict:
    total = loss.Verdict()
    for seed in range(seeds):
        for network in NETWORK_LOSSES:
            total.add(network_trial(seed, engine, share, network, numbering))
    print(total.shares())
    return total


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.1])
def test_nothing_wrong_is_shown(share: float, engine: str) -> None:
    """Senders number their packets, as Linux does."""
    total = _tried(engine, share, "counted")
    assert not total.lies, "\n".join(total.lies[:10])


@pytest.mark.parametrize("numbering", NUMBERINGS)
def test_a_capture_without_losses_shows_nearly_all(numbering: str, engine: str) -> None:
    """Whatever the network lost before the capture point. Hosts that do not number a connection's
    packets are found out."""
    total = _tried(engine, 0.0, numbering)
    assert not total.lies, "\n".join(total.lies[:10])
    assert total.paired == total.known
    assert total.timed >= total.known * (0.75 if numbering == "shared" else 0.85)


def test_little_is_lost_of_a_sound_network(engine: str) -> None:
    total = loss.Verdict()
    for seed in range(2 * _SEEDS):
        total.add(network_trial(seed, engine, 0.01, 0.0, "counted"))
    print(total.shares())
    assert not total.lies, "\n".join(total.lies[:10])
    assert total.timed >= total.paired * 0.97


def test_an_answer_that_nothing_numbered_comes_before(engine: str) -> None:
    """Found by `make campaign`: the capture lost the first answer and what was numbered before its
    copy; that the request had been sent again tells that there may have been one."""
    found = network_trial(72, engine, 0.05, 0.01, "counted")
    assert not found.lies, "\n".join(found.lies)


def _rows(decoded: Decoded) -> list[list[dict[str, object]]]:
    return [decoded.exchanges, decoded.anomalies, decoded.connections]


@pytest.mark.parametrize("numbering", NUMBERINGS)
def test_both_engines_alike(numbering: str) -> None:
    for seed in range(4):
        rng = random.Random(seed)
        setting = chatter.Setting(0.05, numbering, v6=seed == 3)
        made: list[Record] = chatter.lose(chatter.make(seed, setting, 3, 40)[0], rng, 0.05)
        if seed % 2:
            made = [again for record in made for again in (record, record)[: rng.choice((1, 2))]]
        python, native = (decode_records(made, engine=name) for name in ("python", "native"))
        assert python.coverage == native.coverage
        assert _rows(python) == _rows(native)
