"""``zktrace trace``: where the time of writes went, on their way through the ensemble."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zktrace.cli.failure import Failure
from zktrace.cli.filtering import compiled
from zktrace.cli.groups import grouped
from zktrace.cli.options import (
    FilterOption,
    Hashing,
    JsonOption,
    NoColor,
    OptionalSources,
    Ports,
    Voters,
)
from zktrace.cli.terminal import interruptible, look, need_stdout, prepare_stdout, progress
from zktrace.engine.base import create

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zktrace.analysis.columns import Bools, Ints
    from zktrace.analysis.filter import Filter
    from zktrace.analysis.join import Joiner
    from zktrace.analysis.native import NativeWrites
    from zktrace.analysis.timeline import Timeline
    from zktrace.analysis.writereport import WriteReport
    from zktrace.engine.base import EngineOptions
    from zktrace.engine.driver import Run

    Report = WriteReport | NativeWrites

#: Waterfalls that are drawn unless told otherwise.
TOP = 3


@grouped
def trace(
    sources: OptionalSources = None,
    point: Annotated[
        list[str],
        typer.Option(
            "--point",
            metavar="NAME=FILE",
            help="A capture made at one of several places; may be repeated. Files of the same NAME "
            "are one capture in time order. Clocks are set by the traffic itself.",
        ),
    ] = [],  # noqa: B006
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            "-n",
            metavar="N",
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
            metavar="FILE|URL",
            show_default=False,
            help="Also write the writes as OpenTelemetry spans (OTLP/JSON, a request a line), or "
            "send them to a collector: http://HOST:4318.",
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
    voters: Voters = None,
    ports: Ports = Ports(),
    hashing: Hashing = Hashing(),
    no_color: NoColor = False,
) -> None:
    """Follow writes through the ensemble.

    From the client to its server, the leader, the followers, and back: percentiles per stage, what
    the time went to and at whom, ACKs per follower, and the slowest writes drawn. Stages add up to
    what the client waited. Tells what of each write was not captured.
    """
    need_stdout()
    if bool(sources) == bool(point):
        raise Failure("give captures, or with --point NAME=FILE captures of several places")
    key = hashing.key()
    options = ports.engine()
    points, where, session = _points(sources, point), compiled(filter), session_shown(key)
    told = None
    if len(points) == 1 and where is None:
        (files,) = points.values()
        told = _natively(files, options, voters, session)
    if told is None:
        captures = Captures(options, where)
        for name, files in points.items():
            captures.read(name, files)
        told = captures.report(voters, session), captures.coverage()
    written, coverage = told
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


def _points(sources: list[str] | None, points: list[str]) -> dict[str, list[str]]:
    """Files by the name of the place."""
    if sources:
        return {"": sources}
    found: dict[str, list[str]] = {}
    for text in points:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise Failure(f"--point {text}: give NAME=FILE")
        found.setdefault(name, []).append(file)
    return found


def _natively(
    files: list[str],
    options: EngineOptions,
    voters: int | None,
    session: Callable[[int], int] | None,
) -> tuple[Report, dict[str, Any]] | None:
    """All writes of one place's capture, and what was seen, where the engine finds them itself."""
    from zktrace.analysis.native import (
        WRITE_COLUMNS,
        NativeWrites,
        array_run,
        drive,
        write_opcodes,
    )

    with progress() as report:
        ops = write_opcodes()
        run = array_run(files, options, WRITE_COLUMNS, ability="analysis", ops=ops, progress=report)
        if run is None:
            return None
        with interruptible(run):
            engine = drive(run)
    return NativeWrites(engine, voters=voters, session=session), run.coverage()


class Captures:
    """Captures of one or several places, joined."""

    def __init__(self, options: EngineOptions, where: Filter | None) -> None:
        from zktrace.analysis.columns import Words

        self._options, self._where = options, where
        self._ops, self._addresses = Words(), Words()
        self._timelines: list[Timeline] = []
        self._chosen: list[Bools] = []
        self._coverages: dict[str, dict[str, Any]] = {}

    def read(self, name: str, files: list[str]) -> None:
        """Decodes and joins the files of a place."""
        from zktrace.analysis.arrays import taken
        from zktrace.analysis.join import Joiner
        from zktrace.analysis.native import WRITE_COLUMNS, array_run, write_opcodes
        from zktrace.analysis.timeline import timeline

        joiner = Joiner(self._ops, self._addresses)
        with progress() as report:
            run = None
            if self._where is None:
                ops = write_opcodes()
                run = array_run(files, self._options, WRITE_COLUMNS, ops=ops, progress=report)
            if run is not None:
                with interruptible(run):
                    joiner.put(taken(run))
                chosen = None
            else:
                run, chosen = self._tables(joiner, files, report)
        line = timeline(joiner.join())
        self._timelines.append(line)
        if chosen is not None:
            import numpy as np

            self._chosen.append(np.isin(line.w_seq, chosen))
        self._coverages[name] = run.coverage()

    def _tables(
        self, joiner: Joiner, files: list[str], report: Callable[[int, int | None], None] | None
    ) -> tuple[Run, Ints | None]:
        """By tables: for a filter, or where the engine gives no arrays."""
        import numpy as np

        from zktrace.analysis.trace import iter_rows
        from zktrace.engine.driver import Run

        wanted = []
        run = Run(files, create(self._options), progress=report)
        with interruptible(run):
            for batches in iter_rows(run):
                joiner.add(batches)
                if self._where is not None and "exchanges" in batches:
                    rows = self._where.batches({"exchanges": batches["exchanges"]})
                    wanted += [one.column("seq").to_numpy() for one in rows.values()]
        if self._where is None:
            return run, None
        return run, np.concatenate(wanted) if wanted else np.empty(0, np.int64)

    def report(self, voters: int | None, session: Callable[[int], int] | None) -> WriteReport:
        """The paths of the writes that were chosen."""
        import numpy as np

        from zktrace.analysis.points import merge
        from zktrace.analysis.writereport import WriteReport

        line, chosen, clocks = self._timelines[0], None, None
        if len(self._timelines) > 1:
            merged = merge(self._timelines, list(self._coverages), self._addresses, self._ops)
            line, clocks = merged.timeline, merged.clocks
            if self._chosen:
                chosen = np.zeros(len(line.txn), dtype=np.bool_)
                for places, own in zip(merged.writes, self._chosen, strict=True):
                    chosen[places[own]] = True
        elif self._chosen:
            chosen = self._chosen[0]
        return WriteReport(
            line,
            self._addresses,
            self._ops,
            voters=voters,
            chosen=chosen,
            session=session,
            clocks=clocks or (),
        )

    def coverage(self) -> dict[str, Any]:
        """What was seen: of one place its coverage, of several their sums, with each one's own."""
        if len(self._coverages) == 1:
            return next(iter(self._coverages.values()))
        whole: dict[str, Any] = {}
        for one in self._coverages.values():
            _add(whole, one)
        return whole | {"points": self._coverages}


def _add(whole: dict[str, Any], one: dict[str, Any]) -> None:
    """Adds counts; of times the first and the last."""
    for name, value in one.items():
        before = whole.get(name)
        if isinstance(value, dict):
            _add(whole.setdefault(name, {}), value)
        elif value is None or before is None or isinstance(value, (bool, str)):
            whole[name] = before if value is None else value
        elif name == "first_ts_ns":
            whole[name] = min(before, value)
        elif name == "last_ts_ns":
            whole[name] = max(before, value)
        else:
            whole[name] = before + value


def session_shown(key: bytes | None) -> Callable[[int], int] | None:
    """What stands for a session's id; None: the id."""
    if key is None:
        return None
    from zktrace.analysis.hashing import SessionHasher

    hasher = SessionHasher(key)
    return lambda real: hasher.session(real) or 0


def _write_json(written: Report, coverage: dict[str, Any], top: int | None) -> None:
    from json import dumps

    from zktrace.export.coverage import coverage_line

    for one in _objects(written, top):
        sys.stdout.write(_line(one, dumps))
    sys.stdout.write(_line(written.summary(), dumps))
    sys.stdout.write(coverage_line(coverage) + "\n")


def _objects(written: Report, top: int | None) -> Iterable[dict[str, Any]]:
    return written if top is None else map(written.write, written.slowest(top))


def _export(written: Report, top: int | None, otlp: str | None, perfetto: str | None) -> None:
    if otlp is None and perfetto is None:
        return
    from zktrace import __version__
    from zktrace.export.spans import otlp_lines, trace_events

    def by_time() -> Iterable[dict[str, Any]]:
        if top is None:
            return written
        return sorted(_objects(written, top), key=lambda one: int(one["ts_ns"]))

    if otlp is not None and otlp.startswith(("http://", "https://")):
        _send(otlp_lines(by_time(), __version__), otlp)
    elif otlp is not None:
        with open(otlp, "w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in otlp_lines(by_time(), __version__))
    if perfetto is not None:
        with open(perfetto, "w", encoding="utf-8") as file:
            file.writelines(trace_events(by_time()))


def _send(lines: Iterable[str], url: str) -> None:
    from zktrace.export.otlphttp import ExportError, post, traces_url
    from zktrace.export.text import printable

    try:
        sent = post(lines, traces_url(url))
    except ExportError as error:
        raise Failure(printable(str(error))) from None
    if sent.rejected or sent.message:
        told = (
            f"{sent.rejected} spans were rejected: {printable(sent.message or 'no reason given')}"
        )
        sys.stderr.write(f"zktrace: {url}: {told}\n")


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
