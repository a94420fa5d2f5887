"""Ten thousand clients at once through the proxy, each asking in turn: memory and time for each.

    python -m tests.bench.proxy_connections [--connections 10000]

Clients are sockets of this process; the server behind (what is sent comes back) and the proxy are
processes of their own. A process needs two open files for each connection of the proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[2]
_COMMAND: Final = "import sys; from zktrace_proxy.cli import main; sys.exit(main(sys.argv[1:]))"
_PING: Final = bytes((0, 0, 0, 8, 255, 255, 255, 254, 0, 0, 0, 11))
_ROUNDS: Final = 3


def _rss_kib(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4096):
        writer.write(data)
    writer.close()


async def _clients(port: int, pid: int, count: int) -> None:
    opened = []
    begin = time.monotonic()
    for number in range(count):
        # As many source addresses as it takes: a port has some 28,000 to itself.
        local = (f"127.0.0.{2 + number // 20_000}", 0)
        opened.append(await asyncio.open_connection("127.0.0.1", port, local_addr=local))
    print(f"{count:,} connections in {time.monotonic() - begin:.1f} s", flush=True)
    for number in range(_ROUNDS):
        begin = time.monotonic()
        for _, writer in opened:
            writer.write(_PING)
        for reader, _ in opened:
            assert await reader.readexactly(len(_PING)) == _PING
        took = time.monotonic() - begin
        print(f"round {number + 1}: all answered in {took:.2f} s; {_rss_kib(pid) / 1024:.0f} MiB")
    for _, writer in opened:
        writer.close()


async def _serve() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _started(*command: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(str(_ROOT / part) for part in ("", "server", "proxy"))
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def _measure(count: int) -> None:
    server = _started("-m", "tests.bench.proxy_connections", "--serve")
    assert server.stdout is not None
    behind = server.stdout.readline().strip()
    proxy = _started(
        "-c", _COMMAND, "run", "--listen", "127.0.0.1:0", "--upstream", f"127.0.0.1:{behind}"
    )
    assert proxy.stdout is not None
    try:
        line = proxy.stdout.readline()
        port = int(re.findall(r":(\d+) ->", line)[0])
        before = _rss_kib(proxy.pid)
        asyncio.run(_clients(port, proxy.pid, count))
        grown = _rss_kib(proxy.pid) - before
        print(f"{grown / count:.1f} KiB of the proxy's memory for each connection")
    finally:
        for one in (proxy, server):
            one.terminate()
            one.wait(60)
            if one.stdout is not None:
                one.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if given.serve:
        asyncio.run(_serve())
        return
    # The proxy has two for each, and some of its own.
    most = given.connections if hard == resource.RLIM_INFINITY else (hard - 100) // 2
    if most < given.connections:
        print(f"only {most:,} connections: a process may open {hard:,} files here (ulimit -Hn)")
    _measure(min(most, given.connections))


if __name__ == "__main__":
    main()
