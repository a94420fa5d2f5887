"""``zktrace agent``: a sensor of a fleet."""

from __future__ import annotations

import secrets
import socket
from signal import SIGTERM
from typing import TYPE_CHECKING, Annotated, Final

import typer

from zktrace.cli.bus import Bus
from zktrace.cli.failure import Failure
from zktrace.cli.groups import grouped
from zktrace.cli.options import (
    Duration,
    Follow,
    Hashing,
    Interfaces,
    Listen,
    Ports,
    Reads,
    follower,
    say,
    size,
)

if TYPE_CHECKING:
    from zktrace.capture.follow import Follower
    from zktrace.engine.driver import Steps
    from zktrace.engine.live import LiveRun
    from zktrace.fleet.agent import Counting
    from zktrace.fleet.way import Way

#: How long what waits may take to be sent at the end.
_LAST_S: Final = 5.0
_LATER: Final = (
    "zktrace.engine.driver",
    "zktrace.fleet.agent",
    "zktrace.export.summary",
    "pyarrow.compute",
)


@grouped
def agent(
    interface: Interfaces = [],  # noqa: B006
    read: Reads = [],  # noqa: B006
    follow: Follow = False,
    bus: Bus = Bus(),
    ensemble: Annotated[
        str, typer.Option(metavar="NAME", help="What the servers here are part of.")
    ] = "default",
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default="this host's", help="What this agent is called."),
    ] = None,
    spool: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Where messages wait until they are there; and what this agent is."
        ),
    ] = "zktrace-spool",
    spool_size: Annotated[
        str, typer.Option(metavar="SIZE", help="What they may take; beyond, the oldest are lost.")
    ] = "1G",
    events: Annotated[
        bool,
        typer.Option(
            "--events/--no-events",
            help="Send each event, not only what is counted; sessions, watches, the slow log and "
            "filters are made of them.",
        ),
    ] = True,
    ports: Ports = Ports(),
    hashing: Hashing = Hashing(),
    duration: Duration = None,
    listen: Listen = Listen(),
) -> None:
    """Publish what is seen here, for zktrace serve --nats or --kafka.

    Of what is on the wire (-i), or of captures (-r). Ctrl-C ends it; what was not published by
    then is when it begins again with the same --spool.
    """
    from zktrace.fleet.message import NAME

    if bool(read) == bool(interface):
        raise Failure("give what to listen on with -i, or captures to read with -r; not both")
    way = bus.way()
    if way is None:
        raise Failure(
            "give where NATS or Kafka is, with --nats or --kafka, or ZKTRACE_NATS or ZKTRACE_KAFKA "
            "in the environment"
        )
    name = name or socket.gethostname().replace(":", "_")
    for option, text in (("--ensemble", ensemble), ("--name", name)):
        if not NAME.fullmatch(text):
            raise Failure(f"{option}: {text!r} is not made of letters, digits, _, - and .")
    if follow and not read:
        raise Failure("--follow is about files: it goes with -r")
    most = size("--spool-size", spool_size)
    key = hashing.key()
    options = ports.engine()

    def counting() -> Counting:
        from zktrace.fleet.agent import Counting

        return Counting(options)

    run: Steps
    if interface:
        from zktrace.cli.listening import Listening

        listening = Listening(
            interface,
            options,
            listen,
        )
        capture = listening.open(*_LATER)
        counted = counting()
        live = listening.run(counted.engine, capture, duration_s=duration)
        waiter: LiveRun | Follower | None = live
        run = live
    else:
        from zktrace.engine.driver import Run

        counted = counting()
        waiter = follower(read) if follow else None
        run = Run(waiter or read, counted.engine)
    _work(run, waiter, counted, spool, most, way, ensemble, name, key, events)


def _work(
    run: Steps,
    waiter: LiveRun | Follower | None,
    counted: Counting,
    directory: str,
    most: int,
    way: Way,
    ensemble: str,
    name: str,
    key: bytes | None,
    events: bool,
) -> None:
    from zktrace.cli.terminal import interruptible
    from zktrace.export.summary import plural
    from zktrace.fleet.agent import Agent
    from zktrace.fleet.message import Sender
    from zktrace.fleet.spool import Spool

    spool = Spool(directory, most)
    sender = Sender(spool.agent, name, ensemble, secrets.token_hex(16))
    publisher = way.publisher(spool, ensemble, say)
    job = Agent(counted, run, spool, sender, hash_key=key, events=events)
    if waiter is not None:
        waiter.idle = job.idle
    publisher.start()
    say(f"{name} of {ensemble} publishes to {way.shown}")
    try:
        with interruptible(run, SIGTERM):
            job.work()
    finally:
        publisher.flush(_LAST_S)
        waiting, lost = spool.waiting, spool.lost
        spool.close()
        say(
            f"{plural(job.messages, 'message')} made"
            + (f", {waiting:,} wait in {directory}" if waiting else ", none waits")
            + (f", {lost:,} lost (--spool-size)" if lost else "")
        )
