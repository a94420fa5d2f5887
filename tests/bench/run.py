"""Speed of zktrace beside tcpdump's on the same file and machine; prints README.md's table.

CPU seconds (user + system, from wait4) of whole processes: `tcpdump -r FILE -w /dev/null`, which
reads every packet and does nothing with it, against zktrace doing its work. Commands alternate,
so that a slow moment of the machine hits all; each number is the median of the rounds. Starting
Python up and importing is measured right before each run, on a capture without packets, and
taken off it, as it does not grow with the file; the table shows it.

    make bench                                    a large capture, and one of 20,000 paths
    python -m tests.bench.run --file big.pcap     another file

This process stays small on purpose: a child's peak memory, as the kernel tells it, is never less
than its parent's at the time of the fork.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench import synth

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "captures" / "medium.pcap.zst"
READ = "import sys, zktrace; trace = zktrace.read(sys.argv[1])"
#: The same, then every table made of the rows: all of their columns.
ARROW = READ + "; trace.tables"
ROW = "| {:<44} | {:>9} | {:>8} | {:>8} | {:>6} | {:>9} |"
MB = 10**6


@dataclass(frozen=True)
class Job:
    """A command line with FILE in it, and what its ratio to tcpdump must not exceed."""

    name: str
    command: tuple[str, ...]
    limit: float | None = None


@dataclass
class Cost:
    """Medians over the rounds."""

    cpu_s: float
    wall_s: float
    peak_mb: float


def once(command: list[str]) -> Cost:
    null = os.open(os.devnull, os.O_RDWR)
    # As users run it: modules are compiled once, not at every start. The first round, which does
    # not count, leaves them compiled.
    env = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    # posix_spawn through subprocess; wait4 gives this child's own usage, where getrusage would
    # add them all up.
    process = subprocess.Popen(command, env=env, stdin=null, stdout=null, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    os.close(null)
    if process.returncode != 0:
        sys.stderr.write(said.decode(errors="replace"))
        raise SystemExit(f"failed ({process.returncode}): {' '.join(command)}")
    scale = 1 if sys.platform == "darwin" else 1024
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * scale / MB)


def measure(jobs: list[Job], path: Path, rounds: int) -> dict[str, Cost]:
    """Run the jobs in turn, `rounds` times after one that is not counted."""
    runs: dict[str, list[Cost]] = {job.name: [] for job in jobs}
    for number in range(rounds + 1):
        for job in jobs:
            cost = once(filled(job, path))
            if number:
                runs[job.name].append(cost)
    return medians(runs)


def filled(job: Job, path: Path) -> list[str]:
    """The command for a capture."""
    return [str(path) if part == "FILE" else part for part in job.command]


def medians(runs: dict[str, list[Cost]]) -> dict[str, Cost]:
    return {
        name: Cost(
            statistics.median(cost.cpu_s for cost in costs),
            statistics.median(cost.wall_s for cost in costs),
            statistics.median(cost.peak_mb for cost in costs),
        )
        for name, costs in runs.items()
    }


def main_file(given: Path | None, scratch: Path) -> Path:
    """The capture given, or the shared one unpacked, or a synthetic one with few paths."""
    if given is not None:
        return given
    if SHARED.exists():
        unpacked = scratch / "medium.pcap"
        if not unpacked.exists():
            import zstandard  # only here: it is no part of the standard library

            partial = unpacked.with_suffix(".part")
            with SHARED.open("rb") as source, partial.open("wb") as target:
                zstandard.ZstdDecompressor().copy_stream(source, target)
            partial.rename(unpacked)
        return unpacked
    return synthetic(scratch, "few", paths=200, connections=20)


def synthetic(scratch: Path, name: str, paths: int, connections: int) -> Path:
    path = scratch / f"synth-{name}-1.pcap"  # the number changes when what synth.py writes does
    if not path.exists():
        partial = path.with_suffix(".part")
        synth.write(partial, 210 * MB, paths, connections)
        partial.rename(path)
    return path


def empty_capture(scratch: Path) -> Path:
    path = scratch / "empty.pcap"
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
    return path


def half_of(path: Path, scratch: Path) -> Path:
    """The first half of a capture; it ends inside a packet, as captures do."""
    half = scratch / "half.pcap"
    with path.open("rb") as source, half.open("wb") as target:
        left = path.stat().st_size // 2
        while left > 0:
            block = source.read(min(left, 1 << 20))
            target.write(block)
            left -= len(block)
    return half


def table(title: str, jobs: list[Job], path: Path, scratch: Path, rounds: int) -> bool:
    """Measure and print; True if every ratio is within its limit."""
    empty = empty_capture(scratch)
    starts: dict[str, list[float]] = {job.name: [] for job in jobs[1:]}
    works: dict[str, list[float]] = {job.name: [] for job in jobs[1:]}
    rest: list[dict[str, Cost]] = []
    for number in range(rounds + 1):
        round_costs: dict[str, Cost] = {}
        for job in jobs:
            idle = None if job is jobs[0] else once(filled(job, empty)).cpu_s
            round_costs[job.name] = once(filled(job, path))
            if number and idle is not None:
                starts[job.name].append(idle)
                works[job.name].append(round_costs[job.name].cpu_s - idle)
        if number:
            rest.append(round_costs)
    costs = medians({job.name: [one[job.name] for one in rest] for job in jobs})
    base = costs[jobs[0].name].cpu_s
    print(f"\n{title} ({path.stat().st_size / MB:.0f} MB, median of {rounds})\n")
    print(ROW.format("", "CPU s", "start-up", "ratio", "limit", "peak MB"))
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print(
        ROW.format(
            f"`{jobs[0].name}`", f"{base:.3f}", "", "1.00", "", f"{costs[jobs[0].name].peak_mb:.0f}"
        )
    )
    good = True
    for job in jobs[1:]:
        cost = costs[job.name]
        work = statistics.median(works[job.name])
        ratio = work / base
        good &= job.limit is None or ratio <= job.limit
        print(
            ROW.format(
                f"`{job.name}`",
                f"{work:.3f}",
                f"{statistics.median(starts[job.name]):.3f}",
                f"{ratio:.2f}",
                "" if job.limit is None else f"{job.limit:.1f}",
                f"{cost.peak_mb:.0f}",
            ),
            flush=True,
        )
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--file", type=Path, help="capture to measure on (uncompressed)")
    parser.add_argument("--rounds", type=int, default=5, help="odd, at least 5 for numbers to show")
    parser.add_argument("--no-synth", action="store_true", help="leave the 20,000 paths out")
    parser.add_argument("--no-json", action="store_true", help="leave `decode --json` out (slow)")
    parser.add_argument("--check", action="store_true", help="exit 1 if a ratio is over its limit")
    args = parser.parse_args()
    if shutil.which("tcpdump") is None:
        raise SystemExit("tcpdump is needed to compare with: make system-deps")
    zktrace = str(Path(sys.executable).parent / "zktrace")
    scratch = Path(tempfile.gettempdir()) / f"zktrace-bench-{os.getuid()}"
    scratch.mkdir(exist_ok=True)

    baseline = Job("tcpdump -r FILE -w /dev/null", ("tcpdump", "-r", "FILE", "-w", "/dev/null"))
    stats = (zktrace, "stats", "FILE")
    tables = (sys.executable, "-c", READ, "FILE")
    arrow = (sys.executable, "-c", ARROW, "FILE")
    jobs = [
        baseline,
        Job("zktrace stats FILE", stats, 0.8),
        Job("zktrace.read(FILE): all rows kept", tables, 1.0),
        Job("the same, all columns made Arrow", arrow),
    ]
    if not args.no_json:
        jobs.append(Job("zktrace decode --json FILE", (zktrace, "decode", "--json", "FILE")))
    path = main_file(args.file, scratch)
    good = table(f"Capture `{path.name}`", jobs, path, scratch, args.rounds)

    half = half_of(path, scratch)
    peaks = [once([zktrace, "stats", str(name)]).peak_mb for name in (half, path)]
    half.unlink()
    print(
        f"\nPeak memory of `zktrace stats`: {peaks[0]:.0f} MB on the first half of the file, ",
        end="",
    )
    print(f"{peaks[1]:.0f} MB on the whole.")
    helps = [once([zktrace, "--help"]).wall_s for _ in range(max(args.rounds, 5))]
    print(f"`zktrace --help` answers in {statistics.median(helps):.2f} s.")

    if not args.no_synth:
        path = synthetic(scratch, "many", paths=20_000, connections=400)
        jobs = [
            baseline,
            Job("zktrace stats FILE", stats, 1.5),
            Job(
                "zktrace stats --by path --top 20 FILE",
                (*stats, "--by", "path", "--top", "20"),
                1.5,
            ),
            Job("zktrace.read(FILE): all rows kept", tables, 1.5),
            Job("the same, all columns made Arrow", arrow),
        ]
        title = "Synthetic: 20,000 paths, 400 interleaved connections"
        good &= table(title, jobs, path, scratch, args.rounds)
    if args.check and not good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
