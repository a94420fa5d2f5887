"""What a comparison found: counts, the first divergence per session and per path, consequences.

Bounded: so many of the first divergences are kept, the rest are counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from zktrace_proxy.compare.canonical import Finding, Verdict

#: Divergences that are kept.
KEPT: Final = 200


@dataclass(slots=True)
class Divergence:
    """A difference: where in the recording, and what. `consequence`: an earlier one on the same
    session or path may be its cause.
    """

    session: str
    index: int
    op: str
    path: str | None
    sent_ns: int
    zxid: int
    finding: Finding
    #: place in the total order of the recording
    order: int = 0
    consequence: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {
            "session": self.session,
            "request": self.index,
            "op": self.op,
            "path": self.path,
            "ts_ns": self.sent_ns,
            "zxid": f"0x{self.zxid:x}" if self.zxid else None,
            "what": self.finding.what,
            "recorded": self.finding.recorded,
            "live": self.finding.live,
            "consequence": self.consequence,
        }


@dataclass(slots=True)
class Outcome:
    """Counts by class; `allowed` by reason; divergences, in order."""

    counts: Counter[str] = field(default_factory=Counter)
    allowed: Counter[str] = field(default_factory=Counter)
    by_op: dict[str, Counter[str]] = field(default_factory=dict)
    first: list[Divergence] = field(default_factory=list)
    more: int = 0
    events: Counter[str] = field(default_factory=Counter)
    _raw: list[Divergence] = field(default_factory=list)
    _counted: dict[tuple[str, Verdict], int] = field(default_factory=dict)

    @property
    def differences(self) -> int:
        return self.counts["different"] + self.events["different"]

    def exchange(self, op: str, finding: Finding) -> None:
        """Counts a request's verdict."""
        key = (op, finding.verdict)
        counted = self._counted
        counted[key] = counted.get(key, 0) + 1
        if finding.verdict is Verdict.allowed:
            self.allowed[finding.what] += 1

    def diverged(self, divergence: Divergence) -> None:
        """A difference; `order` says where in the recording."""
        self._raw.append(divergence)
        if len(self._raw) > 4 * KEPT:
            self._raw.sort(key=lambda one: one.order)
            self.more += len(self._raw) - 2 * KEPT
            del self._raw[2 * KEPT :]

    def so_far(self) -> Outcome:
        """The same, settled, while it goes on."""
        by_op = {op: Counter(counts) for op, counts in self.by_op.items()}
        now = Outcome(
            Counter(self.counts), Counter(self.allowed), by_op, [], self.more, Counter(self.events),
            list(self._raw), dict(self._counted),
        )  # fmt: skip
        now.settle()
        return now

    def settle(self) -> None:
        """All are known: the first ones first, and which may be consequences."""
        for (op, verdict), number in self._counted.items():
            self.counts[verdict.name] += number
            self.by_op.setdefault(op, Counter())[verdict.name] += number
        self._counted.clear()
        self._raw.sort(key=lambda one: one.order)
        sessions: set[str] = set()
        paths: set[str] = set()
        for one in self._raw:
            one.consequence = one.session in sessions or (
                one.path is not None and one.path in paths
            )
            sessions.add(one.session)
            if one.path is not None:
                paths.add(one.path)
        self.more += max(len(self._raw) - KEPT, 0)
        self.first = self._raw[:KEPT]

    def as_dict(self) -> dict[str, Any]:
        return {
            "exchanges": {v.name: self.counts[v.name] for v in Verdict},
            "watch_events": {v.name: self.events[v.name] for v in Verdict},
            "allowed": dict(self.allowed),
            "by_op": {op: dict(counts) for op, counts in sorted(self.by_op.items())},
            "differences": self.differences,
            "divergences": [one.as_dict() for one in self.first],
            "more_divergences": self.more,
        }
