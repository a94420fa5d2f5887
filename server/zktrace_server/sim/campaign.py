"""Runs seeds: ``python -m zktrace_server.sim.campaign --seeds 1-20000``; ``--trace`` with one seed
shows what happened in it. Prints each seed that fails; the same seed fails in the same way again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator

from zktrace_server.sim.bugs import BUGS, planted
from zktrace_server.sim.cluster import Cluster, Report


def run_seed(
    seed: int,
    bug: str | None = None,
    trace: list[str] | None = None,
    *,
    changing: bool | None = None,
) -> Report:
    """One seed, by servers with this bug or with none. `changing` as in `Cluster`."""
    if bug is None:
        return Cluster(seed, trace, changing=changing).run()
    with planted(bug):
        return Cluster(seed, trace, changing=changing).run()


def run_seeds(seeds: Iterable[int], processes: int) -> Iterator[Report]:
    """Reports as they come."""
    if processes == 1:
        yield from map(run_seed, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(run_seed, seeds, chunksize=20)


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 1 if a seed fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=_range, default=_range("1-1000"), metavar="FIRST-LAST")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--bug", choices=sorted(BUGS), help="with this bug planted")
    parser.add_argument("--trace", action="store_true", help="show what happens in the first seed")
    given = parser.parse_args(arguments)
    if given.trace:
        lines: list[str] = []
        report = run_seed(given.seeds[0], given.bug, lines)
        print("\n".join(lines))
        print(*report.wrong, sep="\n")
        return 1 if report.wrong else 0
    began = time.perf_counter()
    failed = stranded = seeds = events = committed = acknowledged = configurations = 0
    simulated = 0.0
    reports = (
        (run_seed(seed, given.bug) for seed in given.seeds)
        if given.bug
        else run_seeds(given.seeds, given.processes)
    )
    for report in reports:
        seeds += 1
        events += report.events
        committed += report.committed
        acknowledged += report.acknowledged
        configurations += report.configurations
        simulated += report.seconds
        if report.stranded:
            stranded += 1
            print(f"seed {report.seed}: a reconfiguration left nobody who can lead", flush=True)
        if report.wrong:
            failed += 1
            print(f"seed {report.seed}: {report.wrong[0]}", flush=True)
            if given.bug:
                break
    took = time.perf_counter() - began
    print(
        f"{seeds} seeds, {failed} failed, {stranded} where a reconfiguration left nobody who can "
        f"lead; {events} events, {committed} txns committed, "
        f"{configurations} configurations, "
        f"{acknowledged} writes acknowledged, {simulated:.0f} s simulated in {took:.1f} s: "
        f"{seeds / took:.1f} seeds/s, {events / took:.0f} events/s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
