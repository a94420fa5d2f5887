"""Recordings of loads, replays of them, and a target with a bug of one's choice."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.proxy.conftest import ROOT
from zktrace_proxy.compare.pairwise import Comparison, compare
from zktrace_proxy.compare.recording import Recording
from zktrace_proxy.messages.reader import Reader
from zktrace_proxy.plane import Config, Listener, Record, create
from zktrace_proxy.replay.order import Mode
from zktrace_proxy.replay.plan import Plan
from zktrace_proxy.replay.prepare import prepare
from zktrace_proxy.replay.report import Report
from zktrace_proxy.replay.run import Options, Replayer
from zktrace_server.load import Options as Load
from zktrace_server.load import run as load

Address = tuple[str, int]

#: `make replay-campaign`: whole sizes, rather than what fits among the tests.
FULL: Final = bool(os.environ.get("ZKTRACE_FULL"))

_CODE = (
    "import importlib, sys, typer; from zktrace.cli.main import run; name = sys.argv[1]; "
    "module = importlib.import_module(f'zktrace_proxy.{name}.cli'); "
    "app = typer.Typer(add_completion=False); app.command()(getattr(module, name)); "
    "sys.exit(run(sys.argv[2:], app, f'zktrace {name}'))"
)


def started(name: str, *arguments: str) -> subprocess.Popen[str]:
    """``zktrace NAME`` under way: replay, compare, scrub. As it is here, whatever is installed."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "server"), str(ROOT / "proxy")])
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, name, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def command(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``zktrace NAME``, until it ends."""
    process = started(name, *arguments)
    try:
        out, said = process.communicate(timeout=300)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, said)


@contextmanager
def recorder(server: Address, file: Path) -> Iterator[Address]:
    """A proxy in front of a server that records; where clients connect."""
    listener = Listener.to("127.0.0.1:0", f"{server[0]}:{server[1]}")
    plane = create(Config((listener,), record=Record(str(file)), taps=0))
    try:
        host, _, port = plane.addresses()[0].rpartition(":")
        yield host, int(port)
    finally:
        plane.stop()
        _, _, problem = plane.recorded()
        assert problem is None, problem


def record(server: Address, file: Path, workloads: Sequence[str], **given: Any) -> None:
    """What a load said to a server."""
    values: dict[str, Any] = {"clients": 10, "ops": 1000, "timeout_ms": 30_000, **given}
    with recorder(server, file) as address:
        asyncio.run(load(Load([address], workloads, **values)))


def planned(file: Path, **options: Any) -> Plan:
    reader = Reader([str(file)], where=options.pop("where", None))
    return prepare(reader, reader.heard, **options)


def replayed(file: Path | Plan, target: Address, **options: Any) -> Report:
    """A replay as fast as it goes, unless told otherwise."""
    given: dict[str, Any] = {"speed": None, "reply_timeout_s": 60.0, "wait_s": 20.0, **options}
    given["order"] = Mode(given.get("order", "conflict"))
    plan = file if isinstance(file, Plan) else planned(file)
    try:
        return asyncio.run(Replayer(plan, Options(target, **given)).run())
    finally:
        plan.close()


def compared(first: Path, second: Path, prefix: str = "") -> Comparison:
    """Two recordings."""
    one, two = Recording(Reader([str(first)])), Recording(Reader([str(second)]), prefix)
    try:
        return compare(one, two, prefix)
    finally:
        one.close()
        two.close()


def replayed_and_recorded(
    file: Path, target: Address, again: Path, **options: Any
) -> tuple[Report, Comparison]:
    """A replay by way of a recorder, and what both recordings have in common."""
    with recorder(target, again) as address:
        report = replayed(file, address, **options)
    return report, compared(file, again, options.get("prefix", ""))


def differences(report: Report) -> list[Any]:
    """Empty where all came out again."""
    found = [one.as_dict() for one in report.outcome.first]
    if report.incomplete or report.stalled:
        found.append(report.as_dict())
    return found


#: A frame of the server, and how many came before it on the connection; what to send instead.
Bug = Callable[[bytes, int], bytes | None]


class Faulty:
    """A relay in front of a server that has a bug."""

    def __init__(self, server: Address, bug: Bug) -> None:
        self._server = server
        self._bug = bug
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.address: Address = ("127.0.0.1", 0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Faulty:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._client, "127.0.0.1", 0))
        self.address = server.sockets[0].getsockname()
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        # each closes its sockets, and those are let go a turn of the loop later
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(*self._server)
        task = asyncio.ensure_future(self._answers(from_server, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while data := await reader.read(65_536):
                to_server.write(data)
                await to_server.drain()
        except OSError:
            pass  # the client has gone
        finally:
            to_server.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        try:
            while True:
                length = await reader.readexactly(4)
                payload: bytes | None = await reader.readexactly(int.from_bytes(length, "big"))
                if number and payload is not None:
                    payload = self._bug(payload, number)
                number += 1
                if payload is not None:
                    writer.write(len(payload).to_bytes(4, "big") + payload)
        except (asyncio.IncompleteReadError, OSError):
            pass  # the server has gone
        finally:
            writer.close()
