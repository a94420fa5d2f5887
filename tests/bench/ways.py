"""CPU of following writes and checking guarantees, against that of `zktrace stats`.

Prints README.md's table.

    python -m tests.bench.ways                    the shared capture of a Java ensemble
    python -m tests.bench.ways --file big.pcap    another one

Whole processes, and again without their start-up (what the same command takes for an empty
capture); commands alternate, medians of the rounds, as `tests.bench.run` does it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.bench.run import Job, empty_capture, main_file, measure

#: What trace and verify may cost together, in CPU of stats, start-up included.
LIMIT = 3.0
BOTH = ("trace", "verify")
ROW = "| {:<30} | {:>8} | {:>8} | {:>8} | {:>14} | {:>8} |"
HEAD = ("", "CPU s", "start-up", "of stats", "but start-up", "peak MB")


def jobs() -> list[Job]:
    wanted = ("stats", "trace", "verify", "ensemble")
    return [Job(name, (sys.executable, "-m", "zktrace", name, "FILE")) for name in wanted]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--file", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        path = main_file(given.file, scratch)
        costs = measure(jobs(), path, given.rounds)
        start = measure(jobs(), empty_capture(scratch), given.rounds)
    work = {name: max(cost.cpu_s - start[name].cpu_s, 0.0) for name, cost in costs.items()}
    base, base_work = costs["stats"].cpu_s, work["stats"]
    print(ROW.format(*HEAD))
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, cost in costs.items():
        print(
            ROW.format(
                f"`zktrace {name} FILE`",
                f"{cost.cpu_s:.3f}",
                f"{start[name].cpu_s:.3f}",
                f"{cost.cpu_s / base:.2f}",
                f"{work[name] / base_work:.2f}",
                f"{cost.peak_mb:.0f}",
            )
        )
    both = sum(costs[name].cpu_s for name in BOTH) / base
    both_work = sum(work[name] for name in BOTH) / base_work
    print(
        f"\n`trace` and `verify` together: {both:.2f} times the CPU of `stats` "
        f"(limit {LIMIT:.0f}), {both_work:.2f} times without start-up."
    )
    return 0 if both <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
