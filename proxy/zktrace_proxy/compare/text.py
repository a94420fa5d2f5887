"""A comparison for people: lines of text. No input or output."""

from __future__ import annotations

from typing import Any, Final

from zktrace.export.summary import plural
from zktrace.export.text import duration
from zktrace_proxy.compare.outcome import Outcome
from zktrace_proxy.messages.reader import Heard

#: Lines per list.
LINES: Final = 10


def outcome_lines(outcome: Outcome) -> list[str]:
    """Counts by class, then the first divergences."""
    counts = outcome.counts
    total = sum(counts.values())
    lines = [
        f"compared  {plural(total, 'exchange')}: {counts['equal']:,} equal, {counts['mapped']:,} "
        f"equal after mapping, {counts['allowed']:,} allowed to differ, "
        f"{counts['different']:,} different",
        f"          {plural(sum(outcome.events.values()), 'watch event')}: "
        f"{outcome.events['equal']:,} equal, {outcome.events['allowed']:,} allowed to differ, "
        f"{outcome.events['different']:,} different",
    ]
    for reason, count in outcome.allowed.most_common(LINES):
        lines.append(f"allowed   {count:,}: {reason}")
    first = [one for one in outcome.first if not one.consequence]
    for one in first[:LINES]:
        at = f" {one.path}" if one.path else ""
        number = f" (request {one.index})" if one.index >= 0 else ""
        lines.append(
            f"DIFFERS   session {one.session} {one.op}{at}{number}: {one.finding.what}: "
            f"{one.finding.recorded or '-'} -> {one.finding.live or '-'}"
        )
    later = outcome.differences - min(len(first), LINES)
    if later > 0:
        lines.append(f"          and {later:,} more, of which the first ones may be the cause")
    return lines


def latency_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Latencies side by side."""
    rows = [row for row in rows if row["verdict"] is not None]
    if not rows:
        return []
    lines = ["latency   op                recorded p50       p99      live p50       p99"]
    for row in rows:
        one, two = row["recorded"], row["live"]
        verdict = "" if row["verdict"] == "same" else f"  {row['verdict']}"
        lines.append(
            f"          {row['op']:<18}{duration(one['p50_us'] * 1e3):>12}"
            f"{duration(one['p99_us'] * 1e3):>10}{duration(two['p50_us'] * 1e3):>14}"
            f"{duration(two['p99_us'] * 1e3):>10}{verdict}"
        )
    return lines


def unseen_lines(name: str, heard: Heard) -> list[str]:
    """Why not all of a recording could be compared."""
    lines = []
    if heard.filtered:
        lines.append(f"UNSEEN    {name}: what its filter left out")
    if heard.joined:
        lines.append(f"UNSEEN    {name}: {plural(heard.joined, 'connection')} began before it")
    if heard.gaps:
        lines.append(f"UNSEEN    {name}: {plural(heard.gaps, 'gap')}: bytes that were not captured")
    if heard.orphans:
        count = plural(heard.orphans, "reply", "replies")
        lines.append(f"UNSEEN    {name}: requests of {count}")
    flows = heard.flows
    for role, what in (("tls", "of TLS"), ("unknown", "of an unknown protocol")):
        if flows.get(role):
            lines.append(f"UNSEEN    {name}: {plural(flows[role], 'connection')} {what}")
    return lines
