"""``zktrace stats``: counts, bytes, errors and latency percentiles of a capture."""

from __future__ import annotations

import sys
from signal import SIGTERM
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zktrace.cli.failure import Failure
from zktrace.cli.filtering import compiled
from zktrace.cli.groups import grouped
from zktrace.cli.options import (
    Duration,
    FilterOption,
    Hashing,
    Interfaces,
    JsonOption,
    Listen,
    NoColor,
    OptionalSources,
    Ports,
)
from zktrace.cli.terminal import interruptible, look, need_stdout, prepare_stdout, progress
from zktrace.engine.base import GROUPINGS, abilities, create

if TYPE_CHECKING:
    from zktrace.analysis.filter import Filter
    from zktrace.analysis.stats_result import StatsData
    from zktrace.engine.driver import Steps


@grouped
def stats(
    sources: OptionalSources = None,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="GROUPINGS",
            help=f"What to group by: {', '.join(GROUPINGS)}, or several, separated by commas.",
        ),
    ] = "op",
    depth: Annotated[
        int | None,
        typer.Option(
            "--depth",
            metavar="N",
            min=1,
            max=1000,
            show_default=False,
            help="Components of a path that make a group.",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            metavar="N",
            min=0,
            show_default=False,
            help="Groups to show; the rest is summed up.",
        ),
    ] = None,
    filter: FilterOption = None,
    json: JsonOption = False,
    ports: Ports = Ports(),
    hashing: Hashing = Hashing(),
    no_color: NoColor = False,
    interface: Interfaces = [],  # noqa: B006
    duration: Duration = None,
    listen: Listen = Listen(),
) -> None:
    """Show counts, bytes, errors, latencies.

    What was captured, totals, a ranked table per grouping, what was not seen. Of captures, or with
    -i of what is on the wire now, until Ctrl-C or for --duration.
    """
    if bool(sources) == bool(interface):
        raise Failure("give captures, or with -i what to listen on")

    need_stdout()
    groupings = _groupings(by)
    key = hashing.key()
    # An engine that aggregates itself needs no tables, and pyarrow is not even loaded.
    native = filter is None and "aggregates" in abilities()
    options = ports.engine(
        tables=not native,
        aggregate_by=groupings if native else None,
        path_depth=depth,
    )

    def collected(run: Steps) -> StatsData:
        return _native(run, top) if native else _from_rows(run, compiled(filter), groupings, depth)

    if interface:
        from zktrace.cli.listening import Listening

        listening = Listening(
            interface,
            options,
            listen,
        )
        run: Steps = listening.run(create(options), duration_s=duration)
        with interruptible(run, SIGTERM):
            data = collected(run)
    else:
        from zktrace.engine.driver import Run

        with progress() as report:
            run = Run(sources or [], create(options), progress=report)
            with interruptible(run):
                data = collected(run)
    from zktrace.analysis.stats_result import stats_result
    from zktrace.export.coverage import coverage_object

    result = stats_result(data, coverage_object(run.coverage()), top=top)
    if key is not None:
        _hash_sessions(result, key)
    if json:
        from json import dumps

        sys.stdout.write(dumps(result, indent=2) + "\n")
    else:
        from zktrace.export.summary import joined, stats_lines

        prepare_stdout()
        sys.stdout.write(joined(stats_lines(result, look(no_color))))


def _groupings(text: str) -> tuple[str, ...]:
    """The value of --by, in the order given, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in GROUPINGS:
            raise Failure(f"--by: no grouping {name!r}; there are {', '.join(GROUPINGS)}")
    return names or ("op",)


def _native(run: Steps, top: int | None) -> StatsData:
    for _ in run:
        pass
    data: StatsData = run.engine.aggregates(top)
    return data


def _from_rows(
    run: Steps, where: Filter | None, by: tuple[str, ...], depth: int | None
) -> StatsData:
    from zktrace.analysis.stats import StatsCollector
    from zktrace.analysis.trace import Batches

    collector = StatsCollector(by, depth)
    for batches in Batches(run):
        if where is not None:
            collector.told(batches)
            batches = {
                kind: batch
                for kind, batch in where.batches(batches).items()
                if kind != "connections"
            }
        collector.add(batches)
    return collector.data()


def _hash_sessions(result: dict[str, Any], key: bytes) -> None:
    """Replaces the ids of the grouping by session."""
    from zktrace.analysis.hashing import SessionHasher

    hasher = SessionHasher(key)
    for row in result.get("by_session", ()):
        if row["session"] is not None:
            row["session"] = f"0x{hasher.session(int(row['session'], 16)):016x}"
