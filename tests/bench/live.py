"""Listening beside tcpdump: CPU and losses at a given rate of packets; prints a table.

    python -m tests.bench.live                      100,000 packets/s
    python -m tests.bench.live --rate 50000 --rate 200000 --seconds 10 --rounds 5

A sender puts the frames of a synthetic capture (`synth.py`) on the loopback interface of a network
namespace made for this, so many each millisecond, by sendmmsg. Beside it listens, one after the
other, nobody, `tcpdump -i lo -w /dev/null`, and zktrace doing its work. CPU seconds are those of
the listener while packets come (its start is not in them, by /proc/PID/schedstat), and those of
the sender, which pays for what the kernel does for a listener. Needs root.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import synth
from tests.live.netns import Namespace, environment, missing, namespaces

ROW = "| {:<46} | {:>9} | {:>8} | {:>6} | {:>9} | {:>9} | {:>8} |"
LIMIT: Final = 2.0
#: Frames of one system call.
_MOST = 256


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """`struct mmsghdr` of 64-bit Linux."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iov_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


def send(path: Path, rate: int, seconds: float) -> None:
    """The sender's process: waits for a line, sends, prints what it did as JSON."""
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=2)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    count = int(rate * seconds)
    vectors = (_Iovec * count)()
    headers = (_Header * count)()
    at = 24
    record = struct.Struct("<8xI4x")
    for index in range(count):
        (length,) = record.unpack_from(memory, at)
        vectors[index].base, vectors[index].length = start + at + 16, length
        headers[index].iov = ctypes.addressof(vectors) + index * ctypes.sizeof(_Iovec)
        headers[index].iov_count = 1
        at += 16 + length
    libc = ctypes.CDLL(None, use_errno=True)
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    one.bind(("lo", 0))
    print("ready", flush=True)
    sys.stdin.readline()
    base, size, number = ctypes.addressof(headers), ctypes.sizeof(_Header), one.fileno()
    began, cpu = time.monotonic(), time.process_time()
    sent = 0
    late = 0.0
    while sent < count:
        due = min(count, int((time.monotonic() - began) * rate))
        while sent < due:
            done = libc.sendmmsg(
                number, ctypes.c_void_p(base + sent * size), min(due - sent, _MOST), 0
            )
            if done < 0:
                raise OSError(ctypes.get_errno(), "sendmmsg")
            sent += done
        late = max(late, time.monotonic() - began - sent / rate)
        time.sleep(0.001)
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    print(json.dumps({"sent": sent, "seconds": took, "cpu": cpu, "late": late}), flush=True)


@dataclass(frozen=True)
class Job:
    name: str
    command: tuple[str, ...] | None
    ratio: bool = True


@dataclass
class Cost:
    cpu_s: float
    sender_s: float
    seen: int
    drops: int
    seconds: float
    late_s: float
    peak_mb: float


def cpu_of(pid: int) -> float:
    """CPU seconds of all threads of a process."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def peak_of(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def once(where: Namespace, job: Job, path: Path, rate: int, seconds: float) -> Cost:
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
    listener = None
    try:
        sender.stdout.readline()
        if job.command is not None:
            listener = subprocess.Popen(
                where.inside(*job.command),
                stdout=subprocess.PIPE if "stats" in job.command else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment(),
                text=True,
            )
            assert listener.stderr is not None
            while "listening on" not in (line := listener.stderr.readline()):
                if not line:
                    raise SystemExit(f"{job.name} did not start")
            time.sleep(0.5)
        before = cpu_of(listener.pid) if listener is not None else 0.0
        sender.stdin.write("go\n")
        sender.stdin.flush()
        told = json.loads(sender.stdout.readline())
        cost = Cost(0.0, told["cpu"], told["sent"], 0, told["seconds"], told["late"], 0.0)
        if listener is not None:
            time.sleep(0.3)  # what was captured last
            cost.cpu_s = cpu_of(listener.pid) - before
            cost.peak_mb = peak_of(listener.pid)
            listener.send_signal(signal.SIGINT)
            out, err = listener.communicate(timeout=60)
            cost.seen, cost.drops = result(job, out, err, told["sent"])
        return cost
    finally:
        for process in (sender, listener):
            if process is not None and process.poll() is None:
                process.kill()
            if process is not None:
                process.communicate()


def result(job: Job, out: str, err: str, sent: int) -> tuple[int, int]:
    """Packets seen and lost, as the listener itself tells."""
    if "tcpdump" in (job.command or ())[0]:
        found = re.search(r"(\d+) packets? captured.*?(\d+) packets? dropped", err, re.DOTALL)
        if found is None:
            raise SystemExit(f"tcpdump said: {err}")
        return int(found[1]), int(found[2])
    if not out:
        return sent, 0  # its lines went to /dev/null
    coverage = json.loads(out)["coverage"]
    if (
        coverage["packets"] + coverage["kernel_drops"] != sent
        or not coverage["frames"]["to_client"]
    ):
        raise SystemExit(f"{job.name}: {sent} packets were sent, but: {coverage}")
    return coverage["packets"], coverage["kernel_drops"]


def median(costs: list[Cost]) -> Cost:
    names = ("cpu_s", "sender_s", "seen", "drops", "seconds", "late_s", "peak_mb")
    return Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in names))


def table(where: Namespace, path: Path, rate: int, seconds: float, rounds: int) -> bool:
    python = (sys.executable, "-m", "zktrace")
    jobs = [
        Job("nobody", None),
        Job("tcpdump -i lo -w /dev/null", ("tcpdump", "-i", "lo", "-w", "/dev/null")),
        Job(
            "zktrace stats -i lo --all-ports",
            (*python, "stats", "-i", "lo", "--all-ports", "--json"),
        ),
        Job("zktrace stats -i lo (ports in the kernel)", (*python, "stats", "-i", "lo", "--json")),
        Job(
            "zktrace stats --by op,client,path,session,...",
            (*python, "stats", "-i", "lo", "--json", "--by", "op,client,path,session,server"),
        ),
        Job(
            "zktrace live -i lo --json > /dev/null",
            (*python, "live", "-i", "lo", "--json"),
            ratio=False,
        ),
    ]
    runs: dict[str, list[Cost]] = {job.name: [] for job in jobs}
    for _ in range(rounds):
        for job in jobs:
            runs[job.name].append(once(where, job, path, rate, seconds))
    costs = {name: median(some) for name, some in runs.items()}
    base = costs[jobs[1].name].cpu_s
    print(f"\n{rate:,} packets/s for {seconds:g} s, median of {rounds}\n")
    print(ROW.format("", "CPU %", "ratio", "limit", "lost", "sender %", "peak MB"))
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    good = True
    for job in jobs:
        cost = costs[job.name]
        ratio = cost.cpu_s / base
        listens = job.command is not None
        zktrace = listens and "zktrace" in job.name
        limit = LIMIT if zktrace and job.ratio else None
        good = good and (limit is None or (ratio <= limit and cost.drops == 0))
        print(
            ROW.format(
                f"`{job.name}`" if listens else job.name,
                f"{cost.cpu_s / cost.seconds * 100:.1f}" if listens else "",
                f"{ratio:.2f}" if listens else "",
                f"{limit:.1f}" if limit else "",
                f"{cost.drops:,}" if listens else "",
                f"{cost.sender_s / cost.seconds * 100:.0f}",
                f"{cost.peak_mb:.0f}" if listens else "",
            )
        )
    slowest = max(cost.late_s for cost in costs.values())
    rates = min(cost.seen and rate * seconds / cost.seconds for cost in costs.values())
    print(f"\nsent at {rates:,.0f} packets/s or more; at worst {slowest * 1000:.0f} ms behind")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=int, action="append")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--paths", type=int, default=200)
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--send", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    rates = given.rate or [100_000]
    if given.send is not None:
        send(given.send, rates[0], given.seconds)
        return
    reason = missing()
    if reason is not None:
        raise SystemExit(f"cannot listen: {reason}")
    with tempfile.TemporaryDirectory() as scratch, namespaces(1) as (where,):
        path = Path(scratch) / "synth.pcap"
        # Packets are above 130 bytes on average with what a pcap file adds to them.
        size = int(max(rates) * given.seconds * 260)
        synth.write(path, size, given.paths, given.connections)
        good = [table(where, path, rate, given.seconds, given.rounds) for rate in rates]
    if not all(good):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
