"""What a check is, what it finds, and what it says about how much it could see.

A check holds one guarantee of ZooKeeper against what was captured. Here it is a function of a
:class:`~zktrace.analysis.verify.evidence.Evidence`.
A check must never take a loss for a violation: what it cannot be certain of it counts as not seen.
This module knows no table and no packet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from zktrace.analysis.verify.evidence import Evidence

SESSION: Final = "session"
ENSEMBLE: Final = "ensemble"
ALARM: Final = "alarm"

#: Findings that a check keeps, the first ones; the others are counted. A broken server breaks its
#: word many times, and memory is to stay bounded.
FINDINGS_KEPT: Final = 20


@dataclass(frozen=True, slots=True)
class Packet:
    """One message that proves a finding."""

    ts_ns: int
    flow: str
    """``client>server``: addresses and ports."""
    seq: int
    """Number of its row, counted over all tables (``seq``)."""
    what: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A guarantee broken once, or one cause for alarm, with the packets that prove it."""

    check: str
    text: str
    packets: tuple[Packet, ...]


@dataclass(slots=True)
class Outcome:
    """What came of one check."""

    check: Check
    looked: dict[str, int] = field(default_factory=dict)
    """How much was looked at, by what it is counted in."""
    unseen: list[str] = field(default_factory=list)
    """What could not be judged, and why."""
    assumed: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    violations: int = 0

    @property
    def state(self) -> str:
        """``broken``; ``held`` on all that was looked at; ``not_seen`` where there was nothing."""
        if self.violations:
            return "broken"
        return "held" if any(self.looked.values()) else "not_seen"

    def look(self, **counts: int) -> None:
        """Adds to what was looked at."""
        for name, count in counts.items():
            self.looked[name] = self.looked.get(name, 0) + int(count)

    def miss(self, text: str, count: int = 1) -> None:
        """Says what was not seen; with a count of 0 nothing."""
        if count and text not in self.unseen:
            self.unseen.append(text)

    def assume(self, text: str) -> None:
        """Says what was taken for true."""
        if text not in self.assumed:
            self.assumed.append(text)

    def find(self, text: str, packets: Iterable[Packet]) -> None:
        """Adds a violation."""
        self.violations += 1
        if len(self.findings) < FINDINGS_KEPT:
            self.findings.append(Finding(self.check.name, text, tuple(packets)))

    def find_more(self, count: int) -> None:
        """Adds violations that are counted only."""
        self.violations += max(count, 0)

    @property
    def room(self) -> int:
        """Findings that are still kept."""
        return FINDINGS_KEPT - len(self.findings)


@dataclass(frozen=True, slots=True)
class Check:
    """A guarantee. All are in :mod:`zktrace.analysis.verify.guarantees`."""

    name: str
    group: str
    """``session``, ``ensemble`` or ``alarm``."""
    guarantee: str
    """In words: the first paragraph says what holds, the others how it is looked for."""
    sources: tuple[str, ...]

    @property
    def title(self) -> str:
        """The guarantee in a line."""
        return " ".join(self.guarantee.split("\n\n")[0].split())


Run: TypeAlias = "Callable[[Evidence, Outcome], None]"

#: How each check is made here, by its name; :mod:`zktrace.analysis.verify.checks` has all in it.
RUNS: Final[dict[str, Run]] = {}


def check(name: str) -> Callable[[Run], Run]:
    """Registers a function as a check's."""

    def register(run: Run) -> Run:
        RUNS[name] = run
        return run

    return register
