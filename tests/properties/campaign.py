"""Loss campaign: ``python -m tests.properties.campaign [--seeds N] [--share P] [--engine NAME]
[CAPTURE...]``.

Drops a share of the packets of real captures, seed by seed, and judges what is still shown: no
wrong latency, no wrong op, nothing invented. Prints recall per capture. Exit status 1 when anything
shown was wrong; each lie comes with the seed that shows it again.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from tests.support import loss, mangle
from tests.support.cases import REAL, everything, records
from tests.support.decoded import decode_records

#: What losses are tried on: everything real, and many connections at once.
CAPTURES = (*REAL, "50_v39_basic_ops", "57_v39_herd")


def trial(name: str, seed: int, engine: str | None, share: float = 0.01) -> loss.Verdict:
    """One capture with losses; the lies say how to repeat them."""
    made = mangle.drop(records(name), random.Random(f"{name}/{seed}"), share)
    verdict = loss.judge(everything()[name].truth(), decode_records(made, engine=engine))
    verdict.lies = [f"{name} seed {seed} share {share}: {lie}" for lie in verdict.lies]
    return verdict


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
    return 1 if lies else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
