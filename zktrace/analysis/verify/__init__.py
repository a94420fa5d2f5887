"""``zktrace verify``: ZooKeeper's guarantees, held against what a capture shows.

>>> import zktrace
>>> found = zktrace.verify("incident.pcap")            # doctest: +SKIP
>>> found.ok, [f.text for f in found.findings]         # doctest: +SKIP

A guarantee is either held on all that was looked at, broken (then the packets that prove it are
told), or there was nothing to look at. What was not captured is never taken for a violation:
losses, connections joined in the middle, clocks apart lead to less being looked at, and that is
said. Alarms break no guarantee, and are told apart. :data:`CHECKS` has them all.

The native engine checks by itself, on its own columns; of another engine's tables the checks are
made here (:mod:`zktrace.analysis.verify.checks`), which is the reference. Results are the same.
This module imports none of those: whoever asks only the native engine starts quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import urandom
from typing import TYPE_CHECKING, Any

from zktrace.analysis.native import VERIFY_COLUMNS, array_run, check, drive
from zktrace.analysis.verify.guarantees import CHECKS
from zktrace.analysis.verify.model import ALARM, Check, Finding, Outcome, Packet
from zktrace.engine.base import create
from zktrace.engine.driver import Run

if TYPE_CHECKING:
    import pyarrow as pa

    from zktrace.analysis.trace import PortSpec
    from zktrace.capture.source import Source
    from zktrace.engine.base import EngineOptions

__all__ = [
    "CHECKS",
    "Check",
    "Checking",
    "Finding",
    "NotWhole",
    "Outcome",
    "Packet",
    "Verified",
    "verify",
]

#: What a coverage counts where a packet may not have been captured, or not when it passed.
_UNTIMELY = ("gaps", "kernel_drops", "late_segments", "out_of_order_segments", "truncated")


class NotWhole(ValueError):
    """A capture on which nothing can be checked; the text is one line that says why."""


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


def times_hold(coverage: Mapping[str, Any]) -> bool:
    """Nothing says that a packet was not captured, or not when it passed: the time of a later copy
    would be taken for it.
    """
    return not any(coverage.get(name) for name in _UNTIMELY)


class Checking:
    """Captures under check: decoded by :meth:`decode`, which :attr:`run` can end early, then held
    against what is guaranteed by :meth:`verified`, once. What is looked at is held in memory.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        options: EngineOptions,
        progress: Callable[[int, int | None], None] | None = None,
        engine: str | None = None,
    ) -> None:
        # A key that nobody keeps: txns can be compared by it, and nothing told of them.
        options = replace(options, txn_key=int.from_bytes(urandom(8)))
        run = array_run(
            sources, options, VERIFY_COLUMNS, ability="analysis", progress=progress, engine=engine
        )
        self._native = run is not None
        self.run = run or Run(sources, create(options, engine), progress=progress)
        self._tables: Mapping[str, pa.Table] = {}

    def decode(self) -> None:
        """To the end of the captures."""
        if self._native:
            drive(self.run)
        else:
            from zktrace.analysis.trace import Batches, gather

            self._tables = gather(Batches(self.run)).tables

    def verified(
        self,
        *,
        voters: int | None = None,
        checks: Iterable[str] | None = None,
        hash_key: bytes | None = None,
    ) -> Verified:
        """`voters`: how many servers vote, where no configuration was captured. `checks`: names of
        those to run, all by default; KeyError for one that there is not. `hash_key`: sessions are
        shown as their hashes under it (:mod:`zktrace.analysis.hashing`). NotWhole: a capture that
        says that it holds only what a filter let through.
        """
        names = list(CHECKS if checks is None else checks)
        coverage = self.run.coverage()
        if coverage["filtered"]:
            raise NotWhole(
                "recorded with a filter: what that left out would be taken for lost; guarantees "
                "are checked on whole recordings"
            )
        if not self._native:
            from zktrace.analysis.verify.checks import check_tables

            outcomes = check_tables(self._tables, coverage, names, voters, hash_key)
            return Verified(tuple(outcomes), coverage)
        timely = times_hold(coverage)
        told = check(self.run.engine, names, voters=voters, times_hold=timely, hash_key=hash_key)
        found = (_outcome(CHECKS[name], one) for name, one in zip(names, told, strict=True))
        return Verified(tuple(found), coverage)


def _outcome(of: Check, told: Any) -> Outcome:
    """What the native engine says came of a check."""
    looked, unseen, assumed, findings, violations = told
    kept = [
        Finding(of.name, text, tuple(Packet(*packet) for packet in packets))
        for text, packets in findings
    ]
    return Outcome(of, dict(looked), unseen, assumed, kept, violations)


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
    :meth:`Checking.verified`. What is looked at is held in memory.
    """
    from zktrace.analysis.trace import options_of, sources_of

    options = options_of(client_ports, quorum_ports, election_ports)
    checking = Checking(sources_of(source), options, engine=engine)
    checking.decode()
    return checking.verified(voters=voters, checks=checks)
