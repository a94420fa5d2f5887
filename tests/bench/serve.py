"""``zktrace serve -i lo`` under load, beside tcpdump: CPU, losses, answers; prints tables.

    python -m tests.bench.serve [--rate 100000] [--seconds 5] [--rounds 5]

The sender is that of :mod:`tests.bench.live`. A viewer asks what the page asks each second
(coverage, summary, timeline, a list) and follows the stream of events. Needs root.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from tests.bench import synth
from tests.bench.live import cpu_of, peak_of
from tests.live.netns import Namespace, environment, missing, namespaces

PORT: Final = 18_099
ASKED: Final = (
    "/api/coverage",
    "/api/summary?window=10s",
    "/api/timeline?window=5m",
    "/api/ops?window=10s",
    "/api/clients?window=1m",
    "/api/paths?window=1m",
    "/api/sessions",
    "/api/slow?window=10s",
    "/api/watches",
    "/api/events?limit=100",
    "/metrics",
)
#: What one view of the page asks each second.
PAGE: Final = ASKED[:4]


def _get(connection: HTTPConnection, path: str) -> float:
    """Seconds until the whole answer was there."""
    began = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, (path, answer.status)
    return time.perf_counter() - began


@dataclass
class Viewers:
    """Threads of this process whose sockets are in the namespace."""

    where: Namespace
    count: int
    stop: threading.Event = field(default_factory=threading.Event)
    took: list[float] = field(default_factory=list)
    thread: threading.Thread | None = None

    def _view(self) -> None:
        stream = socket.create_connection(("127.0.0.1", PORT))
        stream.sendall(b"GET /api/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        stream.settimeout(0.001)
        pages = HTTPConnection("127.0.0.1", PORT, timeout=60)
        while not self.stop.is_set():
            began = time.monotonic()
            for path in PAGE:
                self.took.append(_get(pages, path))
            try:
                while stream.recv(1 << 16):
                    pass
            except TimeoutError:
                pass
            self.stop.wait(max(0.0, 1 - (time.monotonic() - began)))
        pages.close()
        stream.close()

    def _all(self) -> None:
        threads = [threading.Thread(target=self._view) for _ in range(self.count)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()

    def __enter__(self) -> Viewers:
        self.thread = threading.Thread(target=self.where.run, args=(self._all,))
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        assert self.thread is not None
        self.thread.join()


@contextmanager
def listener(where: Namespace, *command: str, ready: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        where.inside(*command), stderr=subprocess.PIPE, env=environment(), text=True
    )
    try:
        assert process.stderr is not None
        while ready not in (line := process.stderr.readline()):
            if not line:
                raise SystemExit(f"{command} did not start")
        time.sleep(1)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def serving(where: Namespace) -> Any:
    command = (sys.executable, "-m", "zktrace", "serve", "-i", "lo")
    return listener(where, *command, "--http", f"127.0.0.1:{PORT}", ready="http://")


@dataclass
class Load:
    """What came of a time under load."""

    cpu: float
    """Percent of a core."""
    peak_mb: float
    lost: int = 0
    took: list[float] = field(default_factory=list)


def loaded(
    where: Namespace, process: subprocess.Popen[str], path: Path, rate: int, seconds: float
) -> Load:
    """CPU of a listener while packets come."""
    this = [sys.executable, "-m", "tests.bench.live", "--send", str(path)]
    sender = subprocess.Popen(
        where.inside(*this, "--rate", str(rate), "--seconds", str(seconds)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    assert sender.stdin is not None
    assert sender.stdout is not None
    sender.stdout.readline()
    before, began = cpu_of(process.pid), time.monotonic()
    sender.stdin.write("go\n")
    sender.stdin.flush()
    sender.stdout.readline()
    time.sleep(0.3)  # what was captured last
    cpu = (cpu_of(process.pid) - before) / (time.monotonic() - began) * 100
    sender.communicate()
    return Load(cpu, peak_of(process.pid))


def coverage(where: Namespace) -> dict[str, Any]:
    answer = json.loads(where.get(f"http://127.0.0.1:{PORT}/api/coverage"))
    found: dict[str, Any] = answer["coverage"]
    return found


def asked(where: Namespace, stop: threading.Event) -> list[float]:
    """How long answers took, one after the other until it is enough."""

    def work() -> list[float]:
        connection = HTTPConnection("127.0.0.1", PORT, timeout=60)
        took: list[float] = []
        while not stop.is_set():
            for path in ASKED:
                took.append(_get(connection, path))
            time.sleep(0.05)
        connection.close()
        return took

    return where.run(work)


def once(where: Namespace, path: Path, rate: int, seconds: float) -> dict[str, float]:
    """All numbers of one round."""
    found: dict[str, float] = {}
    with listener(where, "tcpdump", "-i", "lo", "-w", "/dev/null", ready="listening on") as process:
        found["tcpdump"] = loaded(where, process, path, rate, seconds).cpu
    with serving(where) as process:
        alone = loaded(where, process, path, rate, seconds)
        found["serve"], found["peak_mb"] = alone.cpu, alone.peak_mb
        found["lost"] = coverage(where)["kernel_drops"]
        stop = threading.Event()
        took: list[float] = []
        asker = threading.Thread(target=lambda: took.extend(asked(where, stop)))
        asker.start()
        loaded(where, process, path, rate, seconds)
        stop.set()
        asker.join()
        found["api_p99_ms"] = statistics.quantiles(took, n=100)[98] * 1000
        found["lost_asked"] = coverage(where)["kernel_drops"] - found["lost"]
    with serving(where) as process:
        slow = rate // 100
        loaded(where, process, path, slow, seconds)  # the first seconds cost more
        quiet = loaded(where, process, path, slow, seconds)
        with Viewers(where, 3):
            time.sleep(1)
            three = loaded(where, process, path, slow, seconds)
        found["three_ms"] = (three.cpu - quiet.cpu) * 10
        with Viewers(where, 200) as viewers:
            time.sleep(1)
            before = coverage(where)["kernel_drops"]
            loaded(where, process, path, rate, seconds)
            found["lost_200"] = coverage(where)["kernel_drops"] - before
        found["answers_200"] = len(viewers.took) / seconds
    return found


def highest(where: Namespace, path: Path, seconds: float, rates: list[int]) -> int:
    """The first rate at which packets are lost; 0: none of them."""
    for rate in rates:
        with serving(where) as process:
            loaded(where, process, path, rate, seconds)
            if coverage(where)["kernel_drops"]:
                return rate
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    reason = missing()
    if reason is not None:
        raise SystemExit(f"cannot listen: {reason}")
    rates = [given.rate * n for n in (2, 3, 4, 5)]
    with tempfile.TemporaryDirectory() as scratch, namespaces(1) as (where,):
        path = Path(scratch) / "synth.pcap"
        synth.write(path, int(given.rate * given.seconds * 260), 200, 20)
        runs = [once(where, path, given.rate, given.seconds) for _ in range(given.rounds)]
        first = highest(where, path, given.seconds * given.rate / rates[-1], rates)
    mid = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    rows = (
        ("CPU of `tcpdump -i lo -w /dev/null`", f"{mid['tcpdump']:.1f} %", ""),
        ("CPU of `zktrace serve -i lo`", f"{mid['serve']:.1f} %", ""),
        ("ratio", f"{mid['serve'] / mid['tcpdump']:.1f}", "2.0"),
        ("packets lost", f"{mid['lost']:,.0f}", "0"),
        ("lost while all of the API is asked", f"{mid['lost_asked']:,.0f}", "0"),
        ("p99 of an answer meanwhile", f"{mid['api_p99_ms']:.0f} ms", "50 ms"),
        ("CPU of three viewers, per second", f"{mid['three_ms']:.0f} ms", "15 ms"),
        ("lost with 200 viewers", f"{mid['lost_200']:,.0f}", "0"),
        ("answers per second to 200 viewers", f"{mid['answers_200']:,.0f}", ""),
        ("peak memory", f"{mid['peak_mb']:.0f} MB", "150 MB"),
        (
            f"first rate of {', '.join(f'{rate:,}' for rate in rates)} that loses packets in a "
            f"burst of {given.seconds * given.rate:,.0f}",
            f"{first:,}" if first else "none",
            "",
        ),
    )
    print(f"\n{given.rate:,} packets/s for {given.seconds:g} s, median of {given.rounds}\n")
    print("| | | limit |\n| --- | ---: | ---: |")
    for row in rows:
        print("| {} | {} | {} |".format(*row))


if __name__ == "__main__":
    main()
