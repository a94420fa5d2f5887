"""Many operations under a shadow: what differs, and what the shadow costs those it shadows.

    python -m tests.proxy.shadow_campaign --operations 1000000 [--first java] [--second java]

A load runs on the first server through a proxy without and with a shadow, in turns; a difference,
or a session left out, is a failure. Rates depend on what else the machine does: the ratio counts.
`--pause`: seconds between rounds for the shadow to catch up.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.proxy.replay.support import Address
from tests.server.ourzk import ours
from tests.support.javazk import standalone
from zktrace_proxy.plane import Config, Listener, Upstream, create
from zktrace_proxy.replay.shadow.shadow import Shadow
from zktrace_server.load import WORKLOADS
from zktrace_server.load import Options as Load
from zktrace_server.load import run as load

#: Without `large`: its tree is made anew for each round.
NAMES = tuple(name for name in WORKLOADS if name != "large")
ROUND = 5_000


@contextmanager
def server(kind: str, directory: Path) -> Iterator[Address]:
    """A fresh one."""
    if kind == "java":
        with standalone(directory) as java:
            yield java.address
    else:
        with ours(directory) as own:
            yield own.address


def rate(address: Address, seed: int) -> tuple[float, int]:
    """Requests/s of one round, and how many; in a process of its own."""
    given: dict[str, Any] = {"clients": 18, "ops": ROUND, "timeout_ms": 30_000, "seed": seed}
    report = asyncio.run(load(Load([address], NAMES, **given)))
    return report.tally.requests / report.seconds, report.tally.requests


def _before(server: Address) -> Listener:
    return Listener("127.0.0.1:0", (Upstream.of(f"{server[0]}:{server[1]}"),))


def main() -> None:
    """Prints what was compared; exit status 1 where something differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--first", choices=("ours", "java"), default="ours")
    parser.add_argument("--second", choices=("ours", "java"), default="ours")
    parser.add_argument("--pause", type=float, default=0.0)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        server(given.first, Path(name) / "a") as first,
        server(given.second, Path(name) / "b") as second,
        server(given.first, Path(name) / "c") as alone,
        ProcessPoolExecutor(1, get_context("spawn")) as apart,
    ):
        plain, plane = (
            create(Config((_before(one),), taps=0, observers=count))
            for one, count in ((alone, 0), (first, 1))
        )
        shadow = Shadow(plane, 0, second)
        shadow.start()
        rates: tuple[list[float], list[float]] = ([], [])
        done = number = 0
        while done < given.operations:
            for index, one in enumerate((plain, plane)):
                if index == 0 and number >= 5:
                    continue  # enough to compare with
                host, _, port = one.addresses()[0].rpartition(":")
                got, count = apart.submit(rate, (host, int(port)), number).result()
                rates[index].append(got)
                done += count * index
            number += 1
            time.sleep(given.pause)
        plain.stop()
        plane.stop()
        shadow.join(600)
    told = shadow.status()
    compared = rates[1][: len(rates[0])]
    print("\n".join(shadow.lines()))
    print(f"rate with the shadow / without: {sum(compared) / sum(rates[0]):.2f}")
    if told["comparison"]["differences"] or told["left_out"] or told["error"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
