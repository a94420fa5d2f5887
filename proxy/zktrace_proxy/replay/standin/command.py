"""``zktrace replay --serve``: a stand-in until it is told to end."""

from __future__ import annotations

import asyncio
import json as codec
import signal
import sys
from typing import Final

from zktrace.cli.failure import Failure
from zktrace_proxy.addresses import host_and_port
from zktrace_proxy.replay.plan import Plan
from zktrace_proxy.replay.standin import report
from zktrace_proxy.replay.standin.playing import Otherwise
from zktrace_proxy.replay.standin.server import StandIn

_FORWARD: Final = "forward="


def otherwise(text: str) -> tuple[Otherwise, tuple[str, int] | None]:
    """What ``--unmatched`` says."""
    if text.startswith(_FORWARD):
        return Otherwise.forward, host_and_port("--unmatched", text[len(_FORWARD) :])
    if text not in ("model", "refuse"):
        raise Failure(f"--unmatched: {text!r} is none of model, refuse, forward=HOST:PORT")
    return Otherwise(text), None


def serve(
    plan: Plan,
    at: tuple[str, int],
    unmatched: tuple[Otherwise, tuple[str, int] | None],
    *,
    clients: list[str],
    require_all: bool,
    faithful: bool,
    json: bool,
) -> int:
    """Answers until Ctrl-C; the exit status."""
    kind, forward = unmatched
    server = StandIn(plan, clients=clients, otherwise=kind, forward=forward, faithful=faithful)
    if clients and not server.stage.script.parts:
        raise Failure(f"--client: the recording has no session of {', '.join(clients)}")
    asyncio.run(_until_told(server, at))
    stage = server.stage
    if json:
        print(codec.dumps(report.as_dict(stage)))
    else:
        print("\n".join(report.text(stage, require_all=require_all)))
    return int(require_all and bool(stage.never_asked()))


async def _until_told(server: StandIn, at: tuple[str, int]) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    try:
        await server.start(*at)
    except OSError as error:
        raise Failure(f"--serve {at[0]}:{at[1]}: {error.strerror or error}") from None
    sessions = len(server.stage.script.parts)
    host, port = server.address
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    print(
        f"zktrace: {where} answers for {sessions:,} recorded sessions; Ctrl-C ends it",
        file=sys.stderr,
        flush=True,
    )
    await told.wait()
    await server.stop()
