"""``zktrace verify``: ZooKeeper's guarantees, held against what a capture shows.

>>> import zktrace
>>> found = zktrace.verify("incident.pcap")            # doctest: +SKIP
>>> found.ok, [f.text for f in found.findings]         # doctest: +SKIP

A guarantee is either held on all that was looked at, broken (then the packets that prove it are
told), or there was nothing to look at. What was not captured is never taken for a violation:
losses, connections joined in the middle, clocks apart lead to less being looked at, and that is
said. Alarms break no guarantee, and are told apart. Checks are in modules by what they look at;
:data:`~zktrace.analysis.verify.model.CHECKS` has them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import urandom
from typing import TYPE_CHECKING, Any

from zktrace.analysis.arrays import array_run, taken
from zktrace.engine.base import create
from zktrace.engine.driver import Run

# Each registers its checks; the order is that in which they are shown.
from zktrace.analysis.verify import sessions  # noqa: F401  # isort: skip
from zktrace.analysis.verify import orders  # noqa: F401  # isort: skip
from zktrace.analysis.verify import quorums  # noqa: F401  # isort: skip
from zktrace.analysis.verify import epochs  # noqa: F401  # isort: skip
from zktrace.analysis.verify import alarms  # noqa: F401  # isort: skip
from zktrace.analysis.verify.columns import Columns, names, of_arrays, of_tables
from zktrace.analysis.verify.evidence import Evidence
from zktrace.analysis.verify.model import ALARM, CHECKS, Check, Finding, Outcome, Packet

if TYPE_CHECKING:
    import pyarrow as pa

    from zktrace.analysis.trace import PortSpec
    from zktrace.capture.source import Source
    from zktrace.engine.base import EngineOptions

__all__ = [
    "CHECKS",
    "Check",
    "Finding",
    "Outcome",
    "Packet",
    "Verified",
    "decoding",
    "verify",
    "verify_columns",
    "verify_tables",
]


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of all checks of one capture."""

    outcomes: tuple[Outcome, ...]
    coverage: Mapping[str, Any]

    @property
    def checks(self) -> list[Outcome]:
        """Of guarantees."""
        return [one for one in self.outcomes if one.check.group != ALARM]

    @property
    def findings(self) -> list[Finding]:
        """Violations that were kept, the first ones of each check."""
        return [finding for one in self.checks for finding in one.findings]

    @property
    def alarms(self) -> list[Finding]:
        """What is cause for alarm."""
        return [
            finding for one in self.outcomes if one.check.group == ALARM for finding in one.findings
        ]

    @property
    def ok(self) -> bool:
        """No guarantee was seen broken."""
        return not any(one.violations for one in self.checks)


def verify_tables(
    tables: Mapping[str, pa.Table],
    coverage: Mapping[str, Any],
    *,
    voters: int | None = None,
    checks: Iterable[str] | None = None,
    session: Callable[[int], int] | None = None,
) -> Verified:
    """Runs the checks over decoded tables.

    `voters`: how many servers vote, where no configuration was captured. `checks`: names of those
    to run, all by default; KeyError for one that there is not. `session`: what is shown in place
    of a session's id.
    """
    columns = of_tables(tables)
    return verify_columns(columns, coverage, voters=voters, checks=checks, session=session)


def decoding(
    sources: Sequence[Source],
    options: EngineOptions,
    progress: Callable[[int, int | None], None] | None = None,
    engine: str | None = None,
) -> tuple[Run, Callable[[], dict[str, Columns]]]:
    """A run over captures, and what drives it to its end and gives the columns that checks want:
    in the least memory that the engine can do with.
    """
    options = replace(options, txn_key=int.from_bytes(urandom(8)))
    run = array_run(sources, options, names(), progress=progress, engine=engine)
    if run is not None:
        by_arrays = run
        return run, lambda: of_arrays(taken(by_arrays))
    from zktrace.analysis.trace import Batches, gather

    by_tables = Run(sources, create(options, engine), progress=progress)
    return by_tables, lambda: of_tables(gather(Batches(by_tables)).tables)


def verify_columns(
    columns: Mapping[str, Columns],
    coverage: Mapping[str, Any],
    *,
    voters: int | None = None,
    checks: Iterable[str] | None = None,
    session: Callable[[int], int] | None = None,
) -> Verified:
    """Runs the checks over columns; parameters as those of :func:`verify_tables`."""
    evidence = Evidence(columns, coverage, voters=voters, session=session)
    outcomes = []
    for name in CHECKS if checks is None else checks:
        outcome = Outcome(CHECKS[name])
        outcome.check.run(evidence, outcome)
        outcomes.append(outcome)
    return Verified(tuple(outcomes), coverage)


def verify(
    source: Source | Iterable[Source],
    *,
    voters: int | None = None,
    checks: Iterable[str] | None = None,
    client_ports: Iterable[PortSpec] = (),
    quorum_ports: Iterable[PortSpec] = (),
    election_ports: Iterable[PortSpec] = (),
    engine: str | None = None,
) -> Verified:
    """Decodes captures and holds ZooKeeper's guarantees against them.

    `source`, ports and `engine` as for :func:`zktrace.read`, `voters` and `checks` as for
    :func:`verify_tables`. The columns that are looked at are held in memory.
    """
    from zktrace.analysis.trace import options_of, sources_of

    options = options_of(client_ports, quorum_ports, election_ports)
    run, columns = decoding(sources_of(source), options, engine=engine)
    return verify_columns(columns(), run.coverage(), voters=voters, checks=checks)
