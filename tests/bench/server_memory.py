"""What 100,000 znodes cost: resident memory of the reference server beside Java's ZooKeeper.

    python -m tests.bench.server_memory [--nodes 100000] [--data 100] [--heap 1g]

Both get the same znodes from the same client, are then started again, and are measured in both
states: after the writes, and as loaded from disk. Resident size is VmRSS of the process; what it
was before the znodes came is there, too, since an empty Java is not small.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.server.ourzk import OurServer, ours
from tests.support.javazk import JavaServer, standalone
from zktrace.wire.message import Body
from zktrace_server.load import Session

#: Requests under way at once.
_PIPELINE: Final = 500
#: Children of one node, as in a tree that somebody uses.
_CHILDREN: Final = 1000


class _Nobody:
    async def admit(self) -> None:
        pass

    def answered(self, number: int, body: Body | None, err: int, ns: int) -> None:
        assert err == 0

    def lost(self) -> None:
        raise AssertionError("the connection was lost")

    def event(self) -> None:
        pass


def resident_kib(pid: int) -> int:
    """VmRSS."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"no VmRSS of {pid}")


async def fill(address: tuple[str, int], nodes: int, data: int) -> None:
    """Makes znodes with data of this many bytes each, no two alike."""
    session = Session([address], _Nobody(), timeout_ms=30_000)
    await session.open()
    for directory in range(-(-nodes // _CHILDREN)):
        await session.create(f"/d{directory:04d}")
    for at in range(0, nodes, _PIPELINE):
        await asyncio.gather(
            *(
                session.create(f"/d{n // _CHILDREN:04d}/n{n:07d}", b"%0*d" % (data, n))
                for n in range(at, min(at + _PIPELINE, nodes))
            )
        )
    await session.close()


def measure(
    server: OurServer | JavaServer, restart: Callable[[], object], nodes: int, data: int
) -> tuple[int, int, int]:
    """Resident KiB: empty, after the writes, loaded from disk."""
    empty = resident_kib(server.pid)
    asyncio.run(fill(server.address, nodes, data))
    written = resident_kib(server.pid)
    restart()
    return empty, written, resident_kib(server.pid)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--data", type=int, default=100)
    parser.add_argument("--heap", default="1g", help="Java's -Xmx")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        standalone(Path(name) / "java", java=(f"-Xmx{given.heap}",)) as java,
        ours(Path(name) / "ours") as our,
    ):

        def again() -> None:
            java.stop()
            java.start()
            java.wait()

        def ours_again() -> None:
            our.stop()
            our.start()

        rows = {
            f"Java, -Xmx{given.heap}": measure(java, again, given.nodes, given.data),
            "this server": measure(our, ours_again, given.nodes, given.data),
        }
    print(f"| MiB with {given.nodes:,} znodes of {given.data} bytes | empty | written | loaded |")
    print("|---|---:|---:|---:|")
    for title, sizes in rows.items():
        print(f"| {title} | {' | '.join(f'{kib / 1024:.0f}' for kib in sizes)} |")


if __name__ == "__main__":
    main()
