"""Memory of the proxy over many requests: it is not to grow.

    python -m tests.bench.proxy_memory [--millions 10] [--record]

`zkload.c` asks through it and `zkanswer.c` answers, on 64 connections with 16 requests under way,
made anew every few seconds; what goes through is decoded and shown (``--http``), and with
``--record`` recorded to rotated files of which three are kept. Prints the resident memory after
each million requests, and fails where the last is more than ALLOWED above what the first was.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.bench.proxy import COMMAND, compiled, running_program
from tests.bench.server import load
from tests.support.javazk import free_ports

#: Bytes; what what a copy of a stream of 40 MB may take, too.
ALLOWED: Final = 8 << 20
_CELL: Final = (64, 16)
_SECONDS: Final = 5


def resident(pid: int) -> int:
    """Bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--millions", type=int, default=10)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        zkload, zkanswer = (compiled(one, directory) for one in ("zkload", "zkanswer"))
        behind, port = free_ports(2)
        stack.enter_context(running_program(str(zkanswer), str(behind), ready="ready"))
        options = ["--record", str(directory / "all.pcapng"), "--rotate", "64M", "--keep", "3"]
        pid = stack.enter_context(
            running_program(
                *(sys.executable, "-c", COMMAND, "run"),
                *("--listen", f"127.0.0.1:{port}", "--upstream", f"127.0.0.1:{behind}"),
                *("--http", "127.0.0.1:0"),
                *(options if given.record else ()),
                ready="http://",
            )
        )
        print("| requests | resident MB | seconds |\n|---|---|---|", flush=True)
        begin = time.monotonic()
        done, told = 0, 0
        first: int | None = None
        while told < given.millions:
            one = load(zkload, port, pid, _CELL, 10, _SECONDS)
            done += int(one.rate * (_SECONDS + 1))
            if done // 1_000_000 > told:
                told = done // 1_000_000
                now = resident(pid)
                first = now if first is None else first
                took = time.monotonic() - begin
                print(f"| {done:,} | {now / 1e6:.1f} | {took:.0f} |", flush=True)
        assert first is not None
        grown = resident(pid) - first
        print(f"{grown / 1e6:+.1f} MB since the first line, {os.cpu_count()} cores")
        return int(grown > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
