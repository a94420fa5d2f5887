"""``zktrace trace``: where the time of writes went, on their way through the ensemble."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zktrace.cli.filtering import compiled
from zktrace.cli.options import (
    ClientPort,
    ElectionPort,
    FilterOption,
    HashKey,
    HashSessions,
    JsonOption,
    MaxConnections,
    NoColor,
    QuorumPort,
    Sources,
    engine_options,
    hashing_key,
)
from zktrace.cli.terminal import interruptible, look, need_stdout, prepare_stdout, progress
from zktrace.engine.base import MAX_CONNECTIONS, create

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zktrace.analysis.writereport import WriteReport

#: Waterfalls that are drawn unless told otherwise.
TOP = 3


def trace(
    sources: Sources,
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            "-n",
            min=0,
            show_default=False,
            help=f"Slowest writes to show: {TOP}, with --json all of them by time.",
        ),
    ] = None,
    filter: FilterOption = None,
    json: JsonOption = False,
    otlp: Annotated[
        str | None,
        typer.Option(
            "--otlp",
            metavar="FILE",
            show_default=False,
            help="Also write the writes as OpenTelemetry spans (OTLP/JSON, a request a line).",
        ),
    ] = None,
    perfetto: Annotated[
        str | None,
        typer.Option(
            "--perfetto",
            metavar="FILE",
            show_default=False,
            help="Also write them as trace events, for ui.perfetto.dev or chrome://tracing.",
        ),
    ] = None,
    voters: Annotated[
        int | None,
        typer.Option(
            "--voters",
            min=1,
            max=255,
            show_default=False,
            help="How many servers vote. Else as many as were seen, at least.",
        ),
    ] = None,
    client_port: ClientPort = [],  # noqa: B006
    quorum_port: QuorumPort = [],  # noqa: B006
    election_port: ElectionPort = [],  # noqa: B006
    hash_sessions: HashSessions = False,
    hash_key: HashKey = None,
    max_connections: MaxConnections = MAX_CONNECTIONS,
    no_color: NoColor = False,
) -> None:
    """Follow writes through the ensemble.

    From the client to its server, the leader, the followers, and back: percentiles per stage, what
    the time went to and at whom, ACKs per follower, and the slowest writes drawn. Stages add up to
    what the client waited. Tells what of each write was not captured.
    """
    from zktrace.engine.driver import Run

    need_stdout()
    key = hashing_key(hash_sessions, hash_key)
    options = engine_options(
        client_port, quorum_port, election_port, max_connections=max_connections
    )
    with progress() as report:
        run = Run(sources, create(options), progress=report)
        with interruptible(run):
            written = _joined(run, compiled(filter), voters, key)
    coverage = run.coverage()
    # All of them by time; with --top the slowest.
    _export(written, top, otlp, perfetto)
    if json:
        _write_json(written, coverage, top)
    else:
        from zktrace.export.summary import joined
        from zktrace.export.waterfall import Waterfall

        prepare_stdout()
        shown = (written.write(i) for i in written.slowest(TOP if top is None else top))
        paint = Waterfall(look(no_color), blocks=_blocks())
        sys.stdout.write(joined(paint.lines(written.summary(), shown, coverage)))


def _joined(run: Any, where: Any, voters: int | None, key: bytes | None) -> WriteReport:
    import numpy as np

    from zktrace.analysis.join import Joiner
    from zktrace.analysis.timeline import timeline
    from zktrace.analysis.trace import iter_rows
    from zktrace.analysis.writereport import WriteReport, choose

    joiner = Joiner()
    wanted = []
    for batches in iter_rows(run):
        joiner.add(batches)
        if where is not None and "exchanges" in batches:
            chosen = where.batches({"exchanges": batches["exchanges"]})
            if "exchanges" in chosen:
                wanted.append(chosen["exchanges"].column("seq").to_numpy())
    join = joiner.join()
    line = timeline(join)
    chosen_rows = None
    if where is not None:
        chosen_rows = choose(np.concatenate(wanted) if wanted else np.empty(0, np.int64), line)
    return WriteReport(
        line,
        join.addresses,
        join.ops,
        voters=voters,
        chosen=chosen_rows,
        session=session_shown(key),
    )


def session_shown(key: bytes | None) -> Callable[[int], int] | None:
    """What stands for a session's id; None: the id."""
    if key is None:
        return None
    from zktrace.analysis.hashing import SessionHasher

    hasher = SessionHasher(key)
    return lambda real: hasher.session(real) or 0


def _write_json(written: WriteReport, coverage: dict[str, Any], top: int | None) -> None:
    from json import dumps

    from zktrace.export.coverage import coverage_line

    for one in _objects(written, top):
        sys.stdout.write(_line(one, dumps))
    sys.stdout.write(_line(written.summary(), dumps))
    sys.stdout.write(coverage_line(coverage) + "\n")


def _objects(written: WriteReport, top: int | None) -> Iterable[dict[str, Any]]:
    return written if top is None else map(written.write, written.slowest(top))


def _export(written: WriteReport, top: int | None, otlp: str | None, perfetto: str | None) -> None:
    from zktrace import __version__
    from zktrace.export.spans import otlp_lines, trace_events

    def by_time() -> Iterable[dict[str, Any]]:
        if top is None:
            return written
        return sorted(_objects(written, top), key=lambda one: int(one["ts_ns"]))

    if otlp is not None:
        with open(otlp, "w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in otlp_lines(by_time(), __version__))
    if perfetto is not None:
        with open(perfetto, "w", encoding="utf-8") as file:
            file.writelines(trace_events(by_time()))


def _line(one: dict[str, Any], dumps: Any) -> str:
    # DEL is the one character that terminals act on and JSON may hold.
    text: str = dumps(one, separators=(",", ":"))
    return text.replace("\x7f", "\\u007f") + "\n"


def _blocks() -> bool:
    """Whether standard output can show block characters."""
    try:
        "█▏".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
