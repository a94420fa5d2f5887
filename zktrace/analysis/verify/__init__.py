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

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

# Each registers its checks; the order is that in which they are shown.
from zktrace.analysis.verify import sessions  # noqa: F401  # isort: skip
from zktrace.analysis.verify import orders  # noqa: F401  # isort: skip
from zktrace.analysis.verify import quorums  # noqa: F401  # isort: skip
from zktrace.analysis.verify import epochs  # noqa: F401  # isort: skip
from zktrace.analysis.verify import alarms  # noqa: F401  # isort: skip
from zktrace.analysis.verify.evidence import Evidence
from zktrace.analysis.verify.model import ALARM, CHECKS, Check, Finding, Outcome, Packet

if TYPE_CHECKING:
    from zktrace.analysis.trace import PortSpec
    from zktrace.capture.source import Source

__all__ = ["CHECKS", "Check", "Finding", "Outcome", "Packet", "Verified", "verify", "verify_tables"]


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
    evidence = Evidence(tables, coverage, voters=voters, session=session)
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
    :func:`verify_tables`. The capture's tables are held in memory.
    """
    from zktrace.analysis.trace import read

    trace = read(
        source,
        client_ports=client_ports,
        quorum_ports=quorum_ports,
        election_ports=election_ports,
        engine=engine,
    )
    return verify_tables(trace.tables, trace.coverage, voters=voters, checks=checks)
