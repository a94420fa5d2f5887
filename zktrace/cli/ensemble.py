"""``zktrace ensemble``: who led, who followed and how far behind, elections, sessions."""

from __future__ import annotations

import sys

from zktrace.cli.groups import grouped
from zktrace.cli.options import (
    Hashing,
    JsonOption,
    NoColor,
    Ports,
    Sources,
    Voters,
)
from zktrace.cli.terminal import interruptible, look, need_stdout, prepare_stdout, progress
from zktrace.cli.trace import session_shown
from zktrace.engine.base import create


@grouped
def ensemble(
    sources: Sources,
    json: JsonOption = False,
    voters: Voters = None,
    ports: Ports = Ports(),
    hashing: Hashing = Hashing(),
    no_color: NoColor = False,
) -> None:
    """Show leaders, learners, elections.

    Leaders and their epochs, followers and observers with what they lag behind and how they were
    brought up to date, elections with their causes, sessions that moved or expired, nodes that the
    leader reaped.
    """
    from zktrace.analysis.ensemble import EnsembleCollector
    from zktrace.analysis.trace import iter_rows
    from zktrace.engine.driver import Run

    need_stdout()
    key = hashing.key()
    options = ports.engine()
    collector = EnsembleCollector()
    with progress() as report:
        run = Run(sources, create(options), progress=report)
        with interruptible(run):
            for batches in iter_rows(run):
                collector.add(batches)
    picture = collector.result(voters=voters, session=session_shown(key))
    if json:
        from json import dumps

        from zktrace.export.coverage import coverage_object

        picture["coverage"] = coverage_object(run.coverage())
        sys.stdout.write(dumps(picture, indent=2).replace("\x7f", "\\u007f") + "\n")
    else:
        from zktrace.export.ensemble import ensemble_lines
        from zktrace.export.summary import joined

        prepare_stdout()
        sys.stdout.write(joined(ensemble_lines(picture, run.coverage(), look(no_color))))
