"""Loss campaign: ``python -m tests.properties.campaign [--seeds N] [--share P] [--engine NAME]
[CAPTURE...]``.

Drops a share of the packets of real captures, seed by seed, and judges what is still shown: no
wrong latency, no wrong op, nothing invented. Then the same with conversations over networks that
lose packets too, so that there are retransmissions of every kind whose first copies the capture
may have lost. Then with clients that use xids and ports again. Prints recall per capture. Exit
status 1 when anything shown was wrong; each lie comes with the seed that shows it again.

Senders that do not number their packets leave no trace of some losses (`zktrace.flow.past`), and
clients that begin to use xids again within a loss none of that: for them the wrong ones are
printed, and do not count.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from tests.support import chatter, habits, loss, mangle
from tests.support.cases import REAL, everything, records
from tests.support.decoded import decode_records
from tests.support.network import NUMBERINGS

#: What losses are tried on: everything real, and many connections at once.
CAPTURES = (*REAL, "50_v39_basic_ops", "57_v39_herd")


def trial(name: str, seed: int, engine: str | None, share: float = 0.01) -> loss.Verdict:
    """One capture with losses; the lies say how to repeat them."""
    made = mangle.drop(records(name), random.Random(f"{name}/{seed}"), share)
    verdict = loss.judge(everything()[name].truth(), decode_records(made, engine=engine))
    verdict.lies = [f"{name} seed {seed} share {share}: {lie}" for lie in verdict.lies]
    return verdict


#: Packets that the network loses, and the capture.
NETWORK_LOSSES = (0.01, 0.05)
SHARES = (0.0, 0.01, 0.05, 0.1)


def network_trial(
    seed: int, engine: str | None, share: float, network: float, numbering: str
) -> loss.Verdict:
    """Conversations over a network, captured at either end and in the middle."""
    total = loss.Verdict()
    for near in (None, 0, 1):
        setting = chatter.Setting(network, numbering, near=near)
        made, truth = chatter.make(f"{seed}/{near}/{network}/{numbering}", setting, 3, 40)
        left = chatter.lose(made, random.Random(f"{seed}/{share}"), share)
        verdict = loss.judge(truth, decode_records(left, engine=engine))
        call = f"network_trial({seed}, ..., {share}, {network}, {numbering!r}) near {near}"
        verdict.lies = [f"{call}: {lie}" for lie in verdict.lies]
        total.add(verdict)
    return total


def networks(seeds: range, engine: str | None) -> int:
    """All kinds of losses; the number of lies about senders that number their packets."""
    lies = 0
    for numbering in NUMBERINGS:
        for share in SHARES:
            total = loss.Verdict()
            for seed in seeds:
                for network in NETWORK_LOSSES:
                    total.add(network_trial(seed, engine, share, network, numbering))
            print(f"{numbering}, {share:.0%} lost: {total.shares()}; {len(total.lies)} wrong")
            if numbering == "counted":
                lies += len(total.lies)
                for lie in total.lies[:10]:
                    print(f"    {lie}")
    return lies


def habit_trial(seed: int, engine: str | None, habit: str, share: float) -> loss.Verdict:
    """Connections of a client with this habit, one after another on the same ports."""
    made, truth = habits.make(f"{seed}/{habit}", habit)
    left = habits.lose(made, random.Random(f"{seed}/{share}"), share)
    verdict = loss.judge(truth, decode_records(left, engine=engine))
    call = f"habit_trial({seed}, ..., {habit!r}, {share})"
    verdict.lies = [f"{call}: {lie}" for lie in verdict.lies]
    return verdict


def odd_clients(seeds: range, engine: str | None) -> int:
    """All habits; the number of lies about those that nothing hides."""
    lies = 0
    for habit in habits.HABITS:
        for share in SHARES:
            total = loss.Verdict()
            for seed in seeds:
                total.add(habit_trial(seed, engine, habit, share))
            print(f"xids {habit}, {share:.0%} lost: {total.shares()}; {len(total.lies)} wrong")
            if habit in habits.SAFE:
                lies += len(total.lies)
                for lie in total.lies[:10]:
                    print(f"    {lie}")
    return lies


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captures", nargs="*", default=CAPTURES)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--engine", default=None)
    options = parser.parse_args(arguments)
    lies = 0
    total = loss.Verdict()
    for name in options.captures:
        verdict = loss.Verdict()
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            verdict.add(trial(name, seed, options.engine, options.share))
        print(f"{name}: {verdict.shares()}; {len(verdict.lies)} wrong")
        for lie in verdict.lies[:10]:
            print(f"    {lie}")
        lies += len(verdict.lies)
        total.add(verdict)
    print(f"all: {total.shares()}; {lies} wrong")
    if options.captures == CAPTURES:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        lies += networks(seeds, options.engine)
        lies += odd_clients(seeds, options.engine)
    return 1 if lies else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
