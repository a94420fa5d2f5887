"""CPU of following writes and checking guarantees, against that of `zktrace stats`.

    python -m tests.bench.ways                    the shared capture of a Java ensemble
    python -m tests.bench.ways --file big.pcap    another one

Whole processes, start-up included (it is the same for all of them, and shown); commands alternate,
medians of the rounds, as `tests.bench.run` does it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.bench.run import Job, empty_capture, main_file, measure

#: What trace and verify may cost together, in CPU of stats.
LIMIT = 3.0
ROW = "| {:<28} | {:>8} | {:>8} | {:>8} | {:>8} |"


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
    print(ROW.format("", "CPU s", "start-up", "of stats", "peak MB"))
    print("| --- | ---: | ---: | ---: | ---: |")
    base = costs["stats"].cpu_s
    for name, cost in costs.items():
        ratio = f"{cost.cpu_s / base:.2f}"
        print(
            ROW.format(
                f"`zktrace {name} FILE`",
                f"{cost.cpu_s:.3f}",
                f"{start[name].cpu_s:.3f}",
                ratio,
                f"{cost.peak_mb:.0f}",
            )
        )
    both = sum(costs[name].cpu_s for name in ("trace", "verify") if name in costs) / base
    names = " and ".join(name for name in ("trace", "verify") if name in costs)
    print(f"\n{names}: {both:.2f} times the CPU of stats; the limit for both is {LIMIT}.")
    return 0 if both <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
