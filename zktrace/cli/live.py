"""``zktrace live``: as decode, of what is on the wire now."""

from __future__ import annotations

import os
from signal import SIGTERM
from typing import TYPE_CHECKING, Annotated

import typer

from zktrace.cli.decode import EventOutput, json_form
from zktrace.cli.failure import Failure
from zktrace.cli.filtering import compiled
from zktrace.cli.groups import grouped
from zktrace.cli.listening import Listening
from zktrace.cli.options import (
    Duration,
    FilterOption,
    Hashing,
    Interfaces,
    JsonOption,
    Kept,
    Limit,
    Listen,
    NoColor,
    Ports,
    Time,
    Times,
)
from zktrace.cli.terminal import interruptible, need_stdout
from zktrace.engine.base import abilities, create

if TYPE_CHECKING:
    from io import FileIO

    from zktrace.capture.keep import Keeper


@grouped
def live(
    interface: Interfaces = [],  # noqa: B006
    filter: FilterOption = None,
    json: JsonOption = False,
    limit: Limit = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-c",
            metavar="N",
            min=1,
            show_default=False,
            help="Stop after so many packets.",
        ),
    ] = None,
    duration: Duration = None,
    write: Annotated[
        str | None,
        typer.Option(
            "--write",
            "-w",
            metavar="FILE|DIR",
            show_default=False,
            help="Also keep the packets, as a pcap file; or the latest ones, as a ring of files in "
            "a directory (one that is there, or with a / at the end).",
        ),
    ] = None,
    kept: Kept = Kept(),
    ports: Ports = Ports(),
    listen: Listen = Listen(),
    times: Time = Times.utc,
    hashing: Hashing = Hashing(),
    no_color: NoColor = False,
) -> None:
    """Print one line per event as it happens.

    Until Ctrl-C; the last line says what was seen and what was not. Connections that were open
    before are joined where they are.
    """
    if not interface:
        from zktrace.cli.listening import there

        raise Failure(f"give an interface to listen on with -i: {there()}")
    need_stdout()
    key = hashing.key()
    native = json and "json" in abilities()
    options = ports.engine(
        tables=not native or filter is not None,
        json_form=json_form() if native else None,
        hash_key=key if native else None,
    )
    ring = write is not None and (write.endswith("/") or os.path.isdir(write))
    listening = Listening(
        interface,
        options,
        listen,
        record=None if write is None else "pcapng" if ring else "pcap",
    )
    # Unbuffered: a full disk is told when it is met, not once more at the end.
    file: FileIO | None = None
    if write is not None and not ring:
        file = open(write, "wb", buffering=0)  # noqa: SIM115
    try:
        # It loads libraries, so before rights are given up: they may be out of reach then.
        engine = create(options)
        capture = listening.open()
        keeper: Keeper | None = None
        if file is not None:
            keeper = listening.file(file)
        elif write is not None:
            keeper = listening.ring(write, kept)
        run = listening.run(
            engine,
            capture,
            packets=count,
            duration_s=duration,
            keeper=keeper,
        )
        compiled(filter)  # a wrong one is told now; it loads libraries, so not before
        job = EventOutput(limit, prompt=True, at_once=True)
        with interruptible(run, SIGTERM):
            if native:
                job.write_native(run, filter)
            elif json:
                job.write_json(run, filter, key)
            else:
                job.write_text(run, filter, key, times, no_color)
    finally:
        if file is not None:
            file.close()
