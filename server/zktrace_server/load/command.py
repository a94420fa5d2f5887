"""``zktrace server load``: a run under the eyes of somebody, who may end it with Ctrl-C."""

from __future__ import annotations

import asyncio
import json as jsonlib
import signal
import sys

from zktrace.cli.failure import Failure
from zktrace.cli.terminal import prepare_stdout
from zktrace.export.summary import plural
from zktrace_server.load.client import Unreachable
from zktrace_server.load.run import Options, run
from zktrace_server.load.tally import Report


def load(options: Options, *, json: bool) -> None:
    """Runs, then prints. Failure where no server can be reached."""
    prepare_stdout()
    try:
        report = asyncio.run(_run(options))
    except Unreachable as error:
        raise Failure(f"no server can be reached: {error}") from None
    if json:
        print(jsonlib.dumps(report.as_json()))
    else:
        print("\n".join(report.lines()))


async def _run(options: Options) -> Report:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        stop.set()
        # Whoever asks again does not want to wait.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    if sys.stderr is not None and sys.stderr.isatty():
        until = f"{options.duration_s:g} s" if options.duration_s else "Ctrl-C"
        if options.ops is not None:
            until = plural(options.ops, "request")
        print(
            f"zktrace server load: {', '.join(options.workloads)}, "
            f"{plural(options.clients, 'client')}, until {until}",
            file=sys.stderr,
        )
    return await run(options, stop=stop)
