"""The reference server beside Java's ZooKeeper: requests per second, latency, CPU time a request.

    python -m tests.bench.server [--rounds 5] [--seconds 2] [--directory DIR]

One load generator (`zkload.c`, compiled here) on one core, the server on another. Both servers get
the same load in turn, `rounds` times; medians are printed. DIR is where the data are: a tmpfs or
a disk. CPU time is user and system of the server's process, over warm-up and measurement: the
steadier number where other programs run, too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.server.ourzk import ours
from tests.support.javazk import standalone

#: (connections, requests under way on each).
CELLS: Final = ((1, 1), (16, 1), (64, 16), (500, 1))
#: Share of writes, in percent.
MIXES: Final = ((0, "getData"), (100, "setData"), (10, "90/10"))
NODES: Final = 1000
DATA: Final = 100
WARM_UP_S: Final = 1
_SOURCE: Final = Path(__file__).with_name("zkload.c")
#: A server's heap, and a compiler that optimises: not that of the tests.
_JAVA: Final = ("-Xmx1g",)


@dataclass(frozen=True, slots=True)
class Result:
    """Of one run: requests/s, latencies in us, CPU time in us a request."""

    rate: float
    p50_us: int
    p99_us: int
    cpu_us: float


def build(directory: Path) -> Path:
    """The load generator."""
    program = directory / "zkload"
    subprocess.run(["cc", "-O2", "-o", str(program), str(_SOURCE)], check=True)
    return program


def load(
    program: Path,
    port: int,
    pid: int,
    cell: tuple[int, int],
    writes: int,
    seconds: float,
    *,
    pinned: bool = True,
) -> Result:
    """One run, on the first core (`pinned`) or any. AssertionError if a request failed."""
    before = cpu_s(pid)
    cores = os.sched_getaffinity(0)
    own = {min(cores)} if pinned else cores
    arguments = [port, *cell, writes, NODES, DATA, seconds]
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, own),
    )
    assert done.returncode == 0, done.stderr
    rate, p50, p99, errors = map(int, done.stdout.split())
    assert errors == 0
    requests = rate * (seconds + WARM_UP_S)
    return Result(rate, p50, p99, (cpu_s(pid) - before) / max(requests, 1) * 1e6)


def cpu_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pin(pid: int) -> None:
    """All threads of a server to the last core."""
    core = {max(os.sched_getaffinity(0))}
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), core)


def median(results: Sequence[Result]) -> Result:
    return Result(
        statistics.median(r.rate for r in results),
        int(statistics.median(r.p50_us for r in results)),
        int(statistics.median(r.p99_us for r in results)),
        statistics.median(r.cpu_us for r in results),
    )


def arguments(rounds: int = 5) -> argparse.ArgumentParser:
    """Of the benches of servers: how often (`rounds`, if not told), how long, where data is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"))
    return parser


def main() -> None:
    """Prints the table."""
    given = arguments().parse_args()
    with (
        tempfile.TemporaryDirectory(dir=given.directory) as name,
        standalone(Path(name) / "java", java=_JAVA) as java,
        ours(Path(name) / "ours", {"preAllocSize": "65536"}) as our,
    ):
        program = build(Path(name))
        for pid in (java.pid, our.pid):
            pin(pid)
        print(
            "| load | Java/s | ours/s | ratio | p99 Java | p99 ours | CPU us Java | ours | ratio |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for writes, title in MIXES:
            for cell in CELLS:
                both = []
                for _ in range(given.rounds):
                    both.append(
                        [
                            load(program, s.address[1], s.pid, cell, writes, given.seconds)
                            for s in (java, our)
                        ]
                    )
                j, o = (median(column) for column in zip(*both, strict=True))
                print(
                    f"| {title} {cell[0]} x {cell[1]} | {j.rate:,.0f} | {o.rate:,.0f} | "
                    f"{o.rate / j.rate:.2f}x | {j.p99_us} | {o.p99_us} | "
                    f"{j.cpu_us:.1f} | {o.cpu_us:.1f} | {j.cpu_us / o.cpu_us:.2f}x |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
