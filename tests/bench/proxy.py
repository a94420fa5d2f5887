"""The proxy beside HAProxy (mode tcp, one thread): requests/s, latency, CPU time a request.

    python -m tests.bench.proxy [--rounds 5] [--seconds 2] [--server java]

`zkload.c` asks and `zkanswer.c` answers, on one core; all threads of what is between them have the
other. With `--server java` Java's ZooKeeper answers, and everything has all cores: what who has a
real server behind it notices.
Everything gets the same load in turn, `rounds` times; medians are printed. The proxy relays alone,
then with its tap decoded and aggregated (as for --http), then recording, too. CPU time is user and
system of the whole process: of the proxy, decoding and recording included.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.bench.server import Result, load, median, pin
from tests.support.javazk import free_ports, standalone

ROOT: Final = Path(__file__).resolve().parents[2]
#: (connections, requests under way on each), as the limits are stated for; and one alone.
CELLS: Final = ((1, 1), (64, 1), (64, 16))
COMMAND: Final = "import sys; from zktrace_proxy.cli import main; sys.exit(main(sys.argv[1:]))"
_HAPROXY: Final = """\
global
  nbthread 1
  maxconn 4096
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen zookeeper
  bind 127.0.0.1:{listen}
  server one 127.0.0.1:{behind}
"""


def compiled(name: str, directory: Path) -> Path:
    program = directory / name
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
    return program


@contextlib.contextmanager
def running_program(*command: str, ready: str | None = None) -> Iterator[int]:
    """A program, by its number; ended with the block."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "server"), str(ROOT / "proxy")])
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    try:
        for line in process.stdout if ready is not None else ():
            if ready is not None and ready in line:
                break
        yield process.pid
    finally:
        process.terminate()
        process.stdout.close()
        process.wait(60)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--server", choices=("answer", "java"), default="answer")
    given = parser.parse_args()
    real = given.server == "java"
    haproxy = shutil.which("haproxy")
    if haproxy is None:
        sys.exit("haproxy is missing (Debian: haproxy; make system-deps)")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        zkload, zkanswer = (compiled(one, directory) for one in ("zkload", "zkanswer"))
        behind, *ports = free_ports(5)
        if real:
            java = stack.enter_context(standalone(directory / "java", java=("-Xmx1g",)))
            behind = java.address[1]
        else:
            answering = running_program(str(zkanswer), str(behind), ready="ready")
            core = {min(os.sched_getaffinity(0))}
            os.sched_setaffinity(stack.enter_context(answering), core)
        config = directory / "haproxy.cfg"
        config.write_text(_HAPROXY.format(listen=ports[0], behind=behind))
        proxy = [sys.executable, "-c", COMMAND, "run", "--upstream", f"127.0.0.1:{behind}"]
        page = ["--http", "127.0.0.1:0"]
        commands = {
            "HAProxy": ([haproxy, "-db", "-f", str(config)], None),
            "relay alone": (proxy, " -> "),
            "with decoding (--http)": ([*proxy, *page], "http://"),
            "and recording (--record)": (
                [*proxy, *page, "--record", str(directory / "all.pcapng")],
                "http://",
            ),
        }
        running = {}
        for (title, (command, ready)), port in zip(commands.items(), ports, strict=True):
            listen = [] if title == "HAProxy" else ["--listen", f"127.0.0.1:{port}"]
            pid = stack.enter_context(running_program(*command, *listen, ready=ready))
            if not real:
                pin(pid)
            running[title] = pid, port
        print(
            "| load | through | requests/s | ratio "
            "| p50 us | ratio | p99 us | ratio | CPU us | ratio |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        for cell in CELLS:
            results: dict[str, list[Result]] = {title: [] for title in running}
            for _ in range(given.rounds):
                for title, (pid, port) in running.items():
                    results[title].append(
                        load(zkload, port, pid, cell, 10, given.seconds, pinned=not real)
                    )
            base = median(results["HAProxy"])
            for title, several in results.items():
                one = median(several)
                print(
                    f"| {cell[0]} x {cell[1]} | {title} "
                    f"| {one.rate:,.0f} | {one.rate / base.rate:.2f} "
                    f"| {one.p50_us} | {one.p50_us / base.p50_us:.2f} "
                    f"| {one.p99_us} | {one.p99_us / base.p99_us:.2f} "
                    f"| {one.cpu_us:.1f} | {one.cpu_us / base.cpu_us:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
