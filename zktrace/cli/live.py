"""``zktrace live``: as decode, of what is on the wire now."""

from __future__ import annotations

import os
from signal import SIGTERM
from typing import TYPE_CHECKING, Annotated

import typer

from zktrace.cli.decode import EventOutput, json_form
from zktrace.cli.failure import Failure
from zktrace.cli.filtering import compiled
from zktrace.cli.listening import Listening, budget
from zktrace.cli.options import (
    BUFFER_MIB,
    KEEP,
    KEEP_SIZE,
    AllPorts,
    Buffer,
    CaptureFilterOption,
    ClientPort,
    Duration,
    ElectionPort,
    FilterOption,
    HashKey,
    HashSessions,
    Hosts,
    Interfaces,
    JsonOption,
    Keep,
    KeepSize,
    MaxConnections,
    MaxCpu,
    MaxMemory,
    NoColor,
    Promisc,
    QuorumPort,
    Snaplen,
    Times,
    Tunnels,
    UserOption,
    engine_options,
    hashing_key,
)
from zktrace.cli.terminal import interruptible, need_stdout
from zktrace.engine.base import MAX_CONNECTIONS, abilities, create

if TYPE_CHECKING:
    from io import FileIO

    from zktrace.capture.keep import Keeper


def live(
    interface: Interfaces = [],  # noqa: B006
    filter: FilterOption = None,
    json: JsonOption = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            metavar="N",
            min=0,
            show_default=False,
            help="Stop after so many events.",
        ),
    ] = None,
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
    keep: Keep = KEEP,
    keep_size: KeepSize = KEEP_SIZE,
    max_cpu: MaxCpu = None,
    max_memory: MaxMemory = None,
    client_port: ClientPort = [],  # noqa: B006
    quorum_port: QuorumPort = [],  # noqa: B006
    election_port: ElectionPort = [],  # noqa: B006
    all_ports: AllPorts = False,
    host: Hosts = [],  # noqa: B006
    capture_filter: CaptureFilterOption = None,
    tunnels: Tunnels = False,
    snaplen: Snaplen = None,
    promisc: Promisc = False,
    buffer: Buffer = BUFFER_MIB,
    user: UserOption = None,
    times: Annotated[
        Times, typer.Option("--time", "-t", help="How times are shown (not with --json).")
    ] = Times.utc,
    hash_sessions: HashSessions = False,
    hash_key: HashKey = None,
    max_connections: MaxConnections = MAX_CONNECTIONS,
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
    key = hashing_key(hash_sessions, hash_key)
    native = json and "json" in abilities()
    options = engine_options(
        client_port,
        quorum_port,
        election_port,
        max_connections=max_connections,
        tables=not native or filter is not None,
        json_form=json_form() if native else None,
        hash_key=key if native else None,
    )
    ring = write is not None and (write.endswith("/") or os.path.isdir(write))
    listening = Listening(
        interface,
        (*options.client_ports, *options.quorum_ports, *options.election_ports),
        hosts=host,
        capture_filter=capture_filter,
        all_ports=all_ports,
        tunnels=tunnels,
        snaplen=snaplen,
        promiscuous=promisc,
        buffer_mib=buffer,
        user=user,
        record=None if write is None else "pcapng" if ring else "pcap",
    )
    # Unbuffered: a full disk is told when it is met, not once more at the end.
    file: FileIO | None = None
    if write is not None and not ring:
        file = open(write, "wb", buffering=0)  # noqa: SIM115
    try:
        capture = listening.open()
        keeper: Keeper | None = None
        if file is not None:
            keeper = listening.file(file)
        elif write is not None:
            keeper = listening.ring(write, keep, keep_size)
        run = listening.run(
            create(options),
            capture,
            packets=count,
            duration_s=duration,
            keeper=keeper,
            budget=budget(max_cpu, max_memory),
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
