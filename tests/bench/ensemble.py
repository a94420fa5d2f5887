"""Three of the reference server beside three of Java's: failover, throughput, memory.

    python -m tests.bench.ensemble [--rounds 20] [--runs 5] [--seconds 2] [--directory DIR]

Failover: SIGKILL to the leader, then one client tries both others in turn until its write is
answered; each ensemble in turn, medians of `rounds`. Throughput: `zkload.c` on a follower, all
servers and the generator on the same cores, each ensemble alone while it is measured (the other is
stopped with SIGSTOP). CPU time is that of all three servers for a request, the steadier number
where other programs run, too. Memory: VmRSS of all three, after the load.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.bench.server import DATA, WARM_UP_S, arguments, build, cpu_s
from tests.server.quorum.mixed import Mixed, make
from tests.server.rawclient import RawClient
from zktrace.wire.records import SetDataRequest

_TICK: Final = "2000"
_SET: Final = 5
#: Few, since making them counts as CPU time.
NODES: Final = 50
#: (connections, requests under way on each, percent of writes).
CELLS: Final = ((1, 1, 0), (16, 16, 0), (1, 1, 100), (16, 1, 100), (16, 16, 100), (16, 16, 10))
_JAVA: Final = ("-Xmx1g",)


def failover(servers: Mixed) -> float:
    """Seconds from the leader's death to the first write that is answered."""
    leader = servers.leader()
    others = [server for server in servers if server is not leader]
    began = time.monotonic()
    leader.kill()
    number = 0
    while not _write(others[number % 2].address):
        number += 1
        time.sleep(0.005)
    took = time.monotonic() - began
    leader.start()
    leader.wait()
    servers.all_serve()
    return took


def _write(address: tuple[str, int]) -> bool:
    try:
        client = RawClient(address)
    except OSError:
        return False
    try:
        if client.connect() is None:
            return False
        client.request(1, _SET, SetDataRequest("/", b"x", -1))
        frame = client.frame()
        return frame is not None and frame[12:16] == bytes(4)
    finally:
        client.close()


def throughput(
    program: Path, servers: Mixed, cell: tuple[int, int, int], seconds: float
) -> tuple[float, float]:
    """Requests per second, and CPU time of all three servers in us a request."""
    follower = next(server for server in servers if server.mode() == "follower")
    connections, under_way, writes = cell
    arguments = [follower.address[1], connections, under_way, writes, NODES, DATA, seconds]
    before = sum(cpu_s(server.pid) for server in servers)
    done = subprocess.run(
        [str(program), *map(str, arguments)], capture_output=True, text=True, check=True
    )
    rate, _, _, errors = map(int, done.stdout.split())
    assert errors == 0
    spent = sum(cpu_s(server.pid) for server in servers) - before
    return rate, spent / max(rate * (seconds + WARM_UP_S), 1) * 1e6


def memory(servers: Mixed) -> float:
    """MB, of all."""
    total = 0
    for server in servers:
        for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total / 1024


def _stopped(servers: Mixed, stopped: bool) -> None:
    for server in servers:
        os.kill(server.pid, signal.SIGSTOP if stopped else signal.SIGCONT)


def main() -> None:
    """Prints the tables."""
    parser = arguments(rounds=20)
    parser.description = __doc__
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as name:
        config = {"tickTime": _TICK, "preAllocSize": "65536"}
        both = {
            "Java": make(Path(name) / "java", "jjj", config),
            "ours": make(Path(name) / "ours", "ooo", config),
        }
        try:
            _measure(both, build(Path(name)), given.rounds, given.runs, given.seconds)
        finally:
            for servers in both.values():
                for server in servers:
                    if server.running:
                        os.kill(server.pid, signal.SIGCONT)
                servers.stop()


def _measure(both: dict[str, Mixed], program: Path, rounds: int, runs: int, seconds: float) -> None:
    print("| failover, s | median | least | most |\n|---|---|---|---|", flush=True)
    for title, servers in both.items():
        servers.start()
        servers.all_serve()
        took = [failover(servers) for _ in range(rounds)]
        print(
            f"| {title} | {statistics.median(took):.3f} | {min(took):.3f} | {max(took):.3f} |",
            flush=True,
        )
        _stopped(servers, True)
    print("\n| connections x under way, writes | Java/s | ours/s | CPU us Java | ours | ratio |")
    print("|---|---|---|---|---|---|")
    for cell in CELLS:
        got: dict[str, list[tuple[float, float]]] = {title: [] for title in both}
        for _ in range(runs):
            for title, servers in both.items():
                _stopped(servers, False)
                servers.all_serve()
                got[title].append(throughput(program, servers, cell, seconds))
                _stopped(servers, True)
        (java, java_us), (ours, ours_us) = (
            map(statistics.median, zip(*got[title], strict=True)) for title in ("Java", "ours")
        )
        connections, under_way, writes = cell
        print(
            f"| {connections} x {under_way}, {writes} % | {java:,.0f} | {ours:,.0f} | "
            f"{java_us:.0f} | {ours_us:.0f} | {java_us / ours_us:.2f}x |",
            flush=True,
        )
    print("\nmemory: " + ", ".join(f"{t} {memory(s):.0f} MB" for t, s in both.items()))


if __name__ == "__main__":
    main()
