"""Many operations under a shadow: what differs, and what the shadow costs those it shadows.

    python -m tests.proxy.shadow_campaign --operations 1000000 [--first java] [--second java]
        [--second-classpath JARS] [--rate 500] [--minutes 20]

A load runs on the first server through a proxy without and with a shadow, in turns; a difference,
a session left out, or a request that was not sent is a failure. What clients waited stands side by
side: with `--rate` (requests/s of all of them) that is the delay; as fast as answers come it is
what is left of the machine. `--second-classpath`: jars of another release for the second one.
`--pause`: seconds between rounds for the shadow to catch up.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from tests.proxy.replay.support import Address
from tests.server.ourzk import OurServer, ours
from tests.support.javazk import CLASSPATH, JavaServer, standalone
from zktrace.analysis.histogram import Histogram
from zktrace_proxy.plane import Config, Listener, Upstream, create
from zktrace_proxy.replay.shadow.shadow import Shadow
from zktrace_server.load import WORKLOADS
from zktrace_server.load import Options as Load
from zktrace_server.load import run as load

#: Without `large`: its tree is made anew for each round.
NAMES = tuple(name for name in WORKLOADS if name != "large")
ROUND = 5_000


#: Rounds without a shadow, in turn with the first ones with it.
ALONE = 5


@contextmanager
def server(kind: str, directory: Path, jars: str = "") -> Iterator[JavaServer | OurServer]:
    """A fresh one."""
    if kind == "java":
        path = [Path(jar) for jar in jars.split(os.pathsep)] if jars else CLASSPATH
        with standalone(directory, classpath=path) as java:
            yield java
    else:
        with ours(directory) as own:
            yield own


class Round(NamedTuple):
    """Requests, per second, and what their clients waited (ns)."""

    requests: int
    rate: float
    waited: Histogram


def driven(address: Address, seed: int, rate: float | None) -> Round:
    """One round; in a process of its own."""
    given: dict[str, Any] = {"clients": 18, "ops": ROUND, "timeout_ms": 30_000, "seed": seed}
    report = asyncio.run(load(Load([address], NAMES, rate=rate, **given)))
    tally = report.tally
    return Round(tally.requests, tally.requests / report.seconds, tally.total())


def told_of(title: str, rounds: list[Round]) -> str:
    """A line of the table."""
    waited = Histogram()
    for one in rounds:
        waited.merge(one.waited)
    rate = statistics.median(one.rate for one in rounds)
    at = [ns / 1000 for ns in waited.quantiles()[:3]]
    return f"| {title} | {len(rounds)} | {rate:,.0f} | {' | '.join(f'{us:,.0f}' for us in at)} |"


def _before(server: Address) -> Listener:
    return Listener("127.0.0.1:0", (Upstream.of(f"{server[0]}:{server[1]}"),))


def main() -> None:
    """Prints what was compared; exit status 1 where something differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--first", choices=("ours", "java"), default="ours")
    parser.add_argument("--second", choices=("ours", "java"), default="ours")
    parser.add_argument("--second-classpath", default="")
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--minutes", type=float, default=1e9)
    given = parser.parse_args()
    rounds: tuple[list[Round], list[Round]] = ([], [])
    until = time.monotonic() + given.minutes * 60
    with (
        tempfile.TemporaryDirectory() as name,
        server(given.first, Path(name) / "a") as first,
        server(given.second, Path(name) / "b", given.second_classpath) as second,
        server(given.first, Path(name) / "c") as alone,
        ProcessPoolExecutor(1, get_context("spawn")) as apart,
    ):
        plain, plane = (
            create(Config((_before(one.address),), taps=0, observers=count))
            for one, count in ((alone, 0), (first, 1))
        )
        shadow = Shadow(plane, 0, second.address)
        shadow.start()
        done = number = 0
        while done < given.operations and time.monotonic() < until:
            for index, one in enumerate((plain, plane)):
                if index == 0 and number >= ALONE:
                    continue  # enough to compare with
                host, _, port = one.addresses()[0].rpartition(":")
                where = (host, int(port))
                got = apart.submit(driven, where, number, given.rate).result()
                rounds[index].append(got)
                done += got.requests * index
            number += 1
            if number % 10 == 0:
                said = "\n  ".join(shadow.lines())
                held = ", ".join(f"{n:,} {one}" for one, n in shadow.status()["held"].items())
                print(f"{done:,} requests: {said}\n  held: {held}", file=sys.stderr, flush=True)
            time.sleep(given.pause)
        plain.stop()
        plane.stop()
        shadow.join(600)
    told = shadow.status()
    print("\n".join(shadow.lines()))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{done:,} requests under the shadow; proxy and shadow: {memory} MiB at most\n")
    print("| clients | rounds | requests/s | p50 us | p90 us | p99 us |")
    print("|---|---:|---:|---:|---:|---:|")
    print(told_of("without a shadow", rounds[0]))
    print(told_of("with it, the same rounds", rounds[1][: len(rounds[0])]))
    print(told_of("with it, all rounds", rounds[1]))
    if any(told[one] for one in ("left_out", "error", "requests_not_sent", "unseen_writes")):
        raise SystemExit(1)
    if told["comparison"]["differences"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
