"""``zktrace replay --speed max`` beside ``zktrace server load`` on the same server.

    python -m tests.bench.replay FILE [--order conflict] [--rounds 3] [--server ours|java]

FILE is a capture; its client traffic is replayed on a fresh server as fast as it goes, and a load
(mix) with as many connections runs on another one, in turns. Requests/s depend on what
else the machine does; so CPU time a request of both drivers and of the server stands beside them:
on a machine with a core for each, the slower of both sides is the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.proxy.replay.support import planned
from tests.proxy.shadow_campaign import server as fresh
from zktrace_proxy.replay.order import Mode
from zktrace_proxy.replay.plan import Plan
from zktrace_proxy.replay.run import Options, Replayer
from zktrace_server.load import Options as Load
from zktrace_server.load import run as load

_REQUESTS = 40_000


class Cell(NamedTuple):
    """Requests/s, CPU time in us a request of the driver and of the server, differences."""

    rate: float
    own_us: float
    server_us: float
    differences: int


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def replayed(plan: Plan, order: Mode, kind: str, directory: Path) -> Cell:
    """One replay."""
    with fresh(kind, directory) as server:
        server_s, own_s = _cpu_s(server.pid), time.process_time()
        options = Options(server.address, order=order, speed=None)
        report = asyncio.run(Replayer(plan, options).run())
        own_us = (time.process_time() - own_s) / report.sent * 1e6
        server_us = (_cpu_s(server.pid) - server_s) / report.sent * 1e6
    return Cell(report.sent / report.seconds, own_us, server_us, report.outcome.differences)


def driven(connections: int, kind: str, directory: Path) -> Cell:
    """One load."""
    with fresh(kind, directory) as server:
        server_s, own_s = _cpu_s(server.pid), time.process_time()
        given = Load([server.address], ["mix"], clients=connections, ops=_REQUESTS, keep=True)
        report = asyncio.run(load(given))
        # its tree of 1,000 znodes was made before, and costs CPU time, too
        requests = report.tally.requests + 1_000
        own_us = (time.process_time() - own_s) / requests * 1e6
        server_us = (_cpu_s(server.pid) - server_s) / requests * 1e6
    return Cell(report.tally.requests / report.seconds, own_us, server_us, 0)


def median(cells: list[Cell]) -> Cell:
    return Cell(*(statistics.median(column) for column in zip(*cells, strict=True)))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--order", type=Mode, default=Mode.conflict)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", choices=("ours", "java"), default="ours")
    given = parser.parse_args()
    plan = planned(given.file)
    both: tuple[list[Cell], list[Cell]] = ([], [])
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        for number in range(given.rounds):
            both[0].append(replayed(plan, given.order, given.server, Path(name) / f"a{number}"))
            both[1].append(driven(plan.connections, given.server, Path(name) / f"b{number}"))
    plan.close()
    print("| | requests/s | own CPU us | server CPU us | differences |")
    print("|---|---:|---:|---:|---:|")
    replay, driver = (median(cells) for cells in both)
    for title, cell in (("replay", replay), ("load", driver)):
        print(
            f"| {title} | {cell.rate:,.0f} | {cell.own_us:.0f} | {cell.server_us:.0f} | "
            f"{cell.differences:,.0f} |"
        )
    ratios = sorted(one.rate / two.rate for one, two in zip(*both, strict=True))
    print(f"| ratio | {replay.rate / driver.rate:.2f} | {replay.own_us / driver.own_us:.2f} | "
          f"{replay.server_us / driver.server_us:.2f} | |")  # fmt: skip
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"\nratio of each round: {', '.join(f'{one:.2f}' for one in ratios)}; {memory} MiB at most"
    )


if __name__ == "__main__":
    main()
