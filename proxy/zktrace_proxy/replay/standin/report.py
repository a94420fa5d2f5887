"""What a stand-in says at its end: what was asked for, who answered, what nobody asked for."""

from __future__ import annotations

from typing import Any, Final

from zktrace.export.summary import plural
from zktrace_proxy.replay.names import session_text
from zktrace_proxy.replay.standin.playing import Otherwise, Stage

_LINES: Final = 10
_UNASKED: Final = 1000
_WHO: Final = {
    Otherwise.model: "answered by the tree",
    Otherwise.refuse: "refused",
    Otherwise.forward: "forwarded",
}


def as_dict(stage: Stage) -> dict[str, Any]:
    """For programs. `never_asked` is in the order of the recording, and has 1,000 at most."""
    tally = stage.tally
    left = stage.never_asked()
    return {
        "sessions": tally.clients,
        "sessions_recorded": len(stage.script.parts),
        "requests": tally.requests,
        "as_recorded": tally.recorded,
        "by_tree": tally.by_tree,
        "unmatched": sum(tally.unmatched.values()),
        "unmatched_requests": [
            {"request": name, "count": tally.unmatched[name], "nearest": nearest}
            for name, nearest in dict(tally.strange).items()
        ],
        "other_data": tally.other_data,
        "connections_dropped": tally.dropped,
        "failed": dict(tally.failed),
        "never_asked_count": len(left),
        "never_asked": [
            {
                "session": session_text(part.sid),
                "client": part.client,
                "request": line.exchange.index,
                "what": line.name,
                "ts_ns": line.exchange.sent_ns,
            }
            for part, line in left[:_UNASKED]
        ],
    }


def text(stage: Stage, *, require_all: bool = False) -> list[str]:
    """For people."""
    tally = stage.tally
    lines = [
        f"answered  {plural(tally.requests, 'request')} of {plural(tally.clients, 'session')} "
        f"({len(stage.script.parts):,} recorded): {tally.recorded:,} as recorded, "
        f"{tally.by_tree:,} by the tree, {sum(tally.unmatched.values()):,} that the recording "
        "does not have"
    ]
    if tally.by_tree:
        lines.append("          by the tree: requests whose nodes were not as they were recorded")
    if tally.other_data:
        lines.append(f"note      {plural(tally.other_data, 'write')} had other data than recorded")
    if tally.dropped:
        lines.append(f"note      {plural(tally.dropped, 'connection')} dropped, as recorded")
    for name, count in tally.failed.items():
        lines.append(f"FAILED    {plural(count, 'write')} that succeeded when recorded: {name}")
    shown = dict(tally.strange)
    for name, count in tally.unmatched.most_common(_LINES):
        who = _WHO[stage.otherwise]
        nearest = shown.get(name)
        lines.append(f"UNMATCHED {count:,} x {name}, {who}" + (f"; {nearest}" if nearest else ""))
    left = stage.never_asked()
    if left:
        mark = "UNASKED  " if require_all else "note     "
        lines.append(f"{mark} {plural(len(left), 'recorded request')} never asked for")
        for part, line in left[:_LINES]:
            lines.append(
                f"          {line.name} (session {session_text(part.sid)} of {part.client}, "
                f"request {line.exchange.index})"
            )
    return lines
