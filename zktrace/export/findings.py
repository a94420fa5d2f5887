"""What ``zktrace verify`` found, as JSON lines and for people.

Knows outcomes, not how they came about. What comes off the wire (paths, details) is shown so that
it cannot drive the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from json import dumps
from typing import TYPE_CHECKING, Any

from zktrace.export.text import Look, clock, printable

if TYPE_CHECKING:
    from zktrace.analysis.verify.model import Check, Finding, Outcome

_GROUPS = {
    "session": "Guarantees to sessions",
    "ensemble": "Guarantees of the ensemble",
    "alarm": "Alarms",
}
_STATES = {"held": "held", "broken": "BROKEN", "not_seen": "not seen"}
_STYLES = {"held": "good", "broken": "error", "not_seen": "dim"}


def finding_object(finding: Finding, kind: str) -> dict[str, Any]:
    """A violation or an alarm; `kind` is ``finding`` or ``alarm``."""
    return {
        "kind": kind,
        "check": finding.check,
        "text": finding.text,
        "packets": [
            {"ts_ns": packet.ts_ns, "flow": packet.flow, "seq": packet.seq, "what": packet.what}
            for packet in finding.packets
        ],
    }


def check_object(outcome: Outcome) -> dict[str, Any]:
    """A check, how much it saw and how often its guarantee was broken."""
    return {
        "kind": "check",
        "check": outcome.check.name,
        "group": outcome.check.group,
        "state": outcome.state,
        "guarantee": outcome.check.title,
        "violations": outcome.violations,
        "looked_at": outcome.looked,
        "not_seen": outcome.unseen,
        "assumed": outcome.assumed,
    }


def json_lines(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Findings and alarms, an object a line, each check's before the check itself."""
    for outcome in outcomes:
        kind = "alarm" if outcome.check.group == "alarm" else "finding"
        for finding in outcome.findings:
            yield dumps(finding_object(finding, kind), separators=(",", ":"))
        yield dumps(check_object(outcome), separators=(",", ":"))


def text_lines(outcomes: Iterable[Outcome], look: Look = Look()) -> Iterator[str]:  # noqa: B008
    """A line per check, what was found below it, and what was not seen of it; what none of a group
    saw is said once.
    """
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.check.group, []).append(outcome)
    for number, (group, members) in enumerate(groups.items()):
        if number:
            yield ""
        yield look.paint(_GROUPS[group], "bold")
        common = _common(members)
        for outcome in members:
            yield from _check_lines(outcome, look, common)
        yield from (look.paint(f"  not seen by any: {text}", "dim") for text in common)


def _common(outcomes: list[Outcome]) -> list[str]:
    """What all checks say that they did not see."""
    if len(outcomes) < 2:
        return []
    first, *others = outcomes
    return [text for text in first.unseen if all(text in one.unseen for one in others)]


def _counted(count: int, name: str) -> str:
    name = name.replace("_", " ")
    if count == 1:
        name = f"{name[:-3]}y" if name.endswith("ies") else name.removesuffix("s")
    return f"{count:,} {name}"


def _check_lines(outcome: Outcome, look: Look, said: list[str]) -> Iterator[str]:
    state = outcome.state
    word, style = _STATES[state], _STYLES[state]
    if outcome.check.group == "alarm":
        word = {"held": "quiet", "broken": "ALARM"}.get(state, word)
    parts = [_counted(count, name) for name, count in outcome.looked.items() if count]
    counts = ", ".join(parts)
    if outcome.violations:
        counts = f"{outcome.violations:,} found" + (f" in {counts}" if counts else "")
    yield f"{look.paint(f'{word:8}', style)}  {outcome.check.name:16}  {counts}".rstrip()
    for finding in outcome.findings:
        yield f"    {look.paint(printable(finding.text), 'error')}"
        for packet in finding.packets:
            where = f"{clock(packet.ts_ns)}  {packet.flow}  #{packet.seq}"
            yield f"      {where}  {printable(packet.what)}"
    rest = outcome.violations - len(outcome.findings)
    if rest > 0:
        yield f"    and {rest:,} more"
    for text in outcome.unseen:
        if text not in said:
            yield look.paint(f"    not seen: {text}", "dim")
    yield from (look.paint(f"    assumed: {text}", "dim") for text in outcome.assumed)


def explain_lines(checks: Iterable[Check], look: Look = Look()) -> Iterator[str]:  # noqa: B008
    """What each check holds to be true, and who says so."""
    group = None
    for one in checks:
        if one.group != group:
            if group is not None:
                yield ""
            group = one.group
            yield look.paint(_GROUPS[group], "bold")
        yield look.paint(one.name, "op")
        for paragraph in one.guarantee.split("\n\n"):
            yield f"  {' '.join(paragraph.split())}"
        yield from (f"  - {source}" for source in one.sources)
