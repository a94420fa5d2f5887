"""What a watched server loses: Java's ZooKeeper with and without a sniffer beside it.

    python -m tests.bench.beside [--rounds 5] [--seconds 2] [--directory DIR]

The load generator (`zkload.c`) on one core, the server on another, the sniffer wherever the system
puts it: of two cores it takes from one of them. In turn nobody listens, `tcpdump -w /dev/null`
does, and `zktrace serve` with all it shows; `rounds` times, medians are printed. What the kernel
does for a listener is paid by who sends, so it is in these numbers, too. Needs root, Java, cc.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from tests.bench.server import Result, arguments, build, load, median, pin
from tests.live.netns import environment
from tests.support.javazk import standalone

#: (connections, requests under way on each), share of writes in percent.
LOADS: Final = (
    ("getData 16 x 1", (16, 1), 0),
    ("getData 64 x 16", (64, 16), 0),
    ("setData 16 x 1", (16, 1), 100),
    ("90/10 64 x 16", (64, 16), 10),
)
LISTENERS: Final = ("nobody", "tcpdump -w /dev/null", "zktrace serve")
_JAVA: Final = ("-Xmx1g",)


@contextmanager
def listening(name: str, port: int) -> Iterator[dict[str, int]]:
    """Somebody who listens; at the end, what the kernel dropped for them (``lost``)."""
    told: dict[str, int] = {}
    if name == "nobody":
        yield told
        return
    if name.startswith("tcpdump"):
        command = ["tcpdump", "-i", "lo", "-w", "/dev/null", f"tcp port {port}"]
        ready = re.compile(r"listening on")
    else:
        serve = ("serve", "-i", "lo", "--client-port", str(port), "--http", "127.0.0.1:0")
        command = [sys.executable, "-m", "zktrace", *serve]
        ready = re.compile(r"(http://[^ ]+)/")
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment()
    ) as process:
        assert process.stderr is not None
        lines: list[str] = []
        found = None
        while found is None:
            line = process.stderr.readline()
            assert line, "".join(lines)
            lines.append(line)
            found = ready.search(line)
        try:
            yield told
        finally:
            if name == "zktrace serve":
                seen = httpx.get(f"{found[1]}/api/coverage").json()["coverage"]
                told["lost"] = seen["kernel_drops"]
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
            if dropped := re.search(r"(\d+) packets dropped by kernel", rest):
                told["lost"] = int(dropped[1])


def main() -> None:
    """Prints the table."""
    given = arguments().parse_args()
    if os.geteuid() != 0:
        raise SystemExit("listening needs root")
    with (
        tempfile.TemporaryDirectory(dir=given.directory) as name,
        standalone(Path(name) / "java", java=_JAVA) as java,
    ):
        program, port = build(Path(name)), java.address[1]
        pin(java.pid)
        print("| load | beside it | requests/s | of nobody's | p99 us | CPU us a request | lost |")
        print("|---|---|---:|---:|---:|---:|---:|")
        for title, cell, writes in LOADS:
            found: dict[str, list[Result]] = {who: [] for who in LISTENERS}
            lost = dict.fromkeys(LISTENERS, 0)
            load(program, port, java.pid, cell, writes, given.seconds)  # Java compiles meanwhile
            for _ in range(given.rounds):
                for who in LISTENERS:
                    with listening(who, port) as told:
                        one = load(program, port, java.pid, cell, writes, given.seconds)
                    found[who].append(one)
                    lost[who] += told.get("lost", 0)
            alone = median(found["nobody"])
            for who in LISTENERS:
                one = median(found[who])
                print(
                    f"| {title} | {who} | {one.rate:,.0f} | {one.rate / alone.rate:.2f} | "
                    f"{one.p99_us:,} | {one.cpu_us:.1f} | {lost[who]:,} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
