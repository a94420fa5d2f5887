"""``zktrace verify``: ZooKeeper's guarantees, held against captures; exit status 1 where one is
broken.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from zktrace.cli.failure import Failure
from zktrace.cli.groups import grouped
from zktrace.cli.options import (
    Hashing,
    JsonOption,
    NoColor,
    OptionalSources,
    Ports,
)
from zktrace.cli.terminal import interruptible, look, need_stdout, prepare_stdout, progress

EXIT_FOUND = 1


@grouped
def verify(
    sources: OptionalSources = None,
    check: Annotated[
        list[str],
        typer.Option(
            "--check", metavar="NAME", help="Only this check (see --explain); may be repeated."
        ),
    ] = [],  # noqa: B006
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say what each check holds to be true, and who says so."),
    ] = False,
    voters: Annotated[
        int | None,
        typer.Option(
            "--voters",
            metavar="N",
            min=1,
            max=255,
            show_default=False,
            help="How many servers vote. Else as the configuration in a NEWLEADER says.",
        ),
    ] = None,
    fail_on_alarm: Annotated[
        bool, typer.Option("--fail-on-alarm", help="Exit status 1 for an alarm, too.")
    ] = False,
    json: JsonOption = False,
    ports: Ports = Ports(),
    hashing: Hashing = Hashing(),
    no_color: NoColor = False,
) -> None:
    """Check ZooKeeper's guarantees on what was captured.

    To sessions on the client port (order, own writes, watch events), and of the ensemble on the
    quorum port (order, quorums, leaders, epochs, agreement). Each violation with the packets that
    prove it; each check says how much it saw. What was lost is never taken for a violation.
    """
    need_stdout()
    key = hashing.key()
    if not explain and not sources:
        raise Failure("give captures")
    options = ports.engine()
    from zktrace.analysis.verify import CHECKS

    unknown = [name for name in check if name not in CHECKS]
    if unknown:
        raise Failure(f"--check: no check {unknown[0]!r}; there are {', '.join(CHECKS)}")
    names = check or list(CHECKS)
    if explain:
        from zktrace.export.findings import explain_lines
        from zktrace.export.summary import joined

        prepare_stdout()
        lines = explain_lines((CHECKS[name] for name in names), look(no_color))
        sys.stdout.write(joined(lines))
        return
    from zktrace.analysis.verify import Checking, NotWhole

    with progress() as report:
        checking = Checking(sources or [], options, report)
        with interruptible(checking.run):
            checking.decode()
    try:
        found = checking.verified(voters=voters, checks=names, hash_key=key)
    except NotWhole as error:
        raise Failure(str(error)) from None
    coverage = dict(found.coverage)
    if json:
        from zktrace.export.coverage import coverage_line
        from zktrace.export.findings import json_lines

        for line in json_lines(found.outcomes):
            sys.stdout.write(f"{line}\n")
        sys.stdout.write(f"{coverage_line(coverage)}\n")
    else:
        from zktrace.export.findings import text_lines
        from zktrace.export.summary import coverage_lines, joined

        prepare_stdout()
        style = look(no_color)
        sys.stdout.write(joined(text_lines(found.outcomes, style)))
        sys.stdout.write(joined(("", *coverage_lines(coverage, style))))
    if not found.ok or (fail_on_alarm and found.alarms):
        raise typer.Exit(EXIT_FOUND)
