"""``zktrace ensemble``: who led, who followed and how far behind, elections, sessions."""

from __future__ import annotations

import sys

from zktrace.cli.options import (
    ClientPort,
    ElectionPort,
    HashKey,
    HashSessions,
    JsonOption,
    MaxConnections,
    NoColor,
    QuorumPort,
    Sources,
    Voters,
    engine_options,
    hashing_key,
)
from zktrace.cli.terminal import interruptible, look, need_stdout, prepare_stdout, progress
from zktrace.cli.trace import session_shown
from zktrace.engine.base import MAX_CONNECTIONS, create


def ensemble(
    sources: Sources,
    json: JsonOption = False,
    voters: Voters = None,
    client_port: ClientPort = [],  # noqa: B006
    quorum_port: QuorumPort = [],  # noqa: B006
    election_port: ElectionPort = [],  # noqa: B006
    hash_sessions: HashSessions = False,
    hash_key: HashKey = None,
    max_connections: MaxConnections = MAX_CONNECTIONS,
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
    key = hashing_key(hash_sessions, hash_key)
    options = engine_options(
        client_port, quorum_port, election_port, max_connections=max_connections
    )
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
