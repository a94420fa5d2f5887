"""What may be said of a capture with losses: nothing that the whole capture does not bear out.

The rule of the interfaces: across a gap less is known, but what is shown is right. So every row
must have its original, used once; recall is only counted.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.support.decoded import Decoded, Row
from tests.support.truth import Truth


@dataclass(slots=True)
class Verdict:
    """Lies, and how much of the truth was told."""

    lies: list[str] = field(default_factory=list)
    known: int = 0
    paired: int = 0
    timed: int = 0
    seen: int = 0

    def add(self, other: Verdict) -> None:
        self.lies += other.lies
        self.known += other.known
        self.paired += other.paired
        self.timed += other.timed
        self.seen += other.seen

    def shares(self) -> str:
        """Recall in words."""
        known = max(1, self.known)
        return (
            f"{self.known} exchanges: {self.seen / known:.1%} seen in part or whole, "
            f"{self.paired / known:.1%} paired, {self.timed / known:.1%} with their latency"
        )


def _columns(row: Row, names: tuple[str, ...]) -> str:
    return ", ".join(f"{n}={row.get(n)!r}" for n in names)


_SHOWN = ("flow", "op", "opcode", "xid", "state", "ts_ns", "latency_ns", "error", "zxid", "path")
_EVENT = ("flow", "event", "path", "zxid", "ts_ns")
_MUST_AGREE = ("op", "path", "error", "zxid", "request_bytes", "reply_bytes", "created_path")


def _agrees(row: Row, original: Row) -> bool:
    """Whether what a row tells is what the original tells."""
    for name in _MUST_AGREE:
        if row.get(name) is None or name not in original or row[name] == original[name]:
            continue
        if name == "error" and row["state"] == "no_request" and original["op"] == "multi":
            continue  # the header says 0; that the body should be read takes the request
        return False
    return True


def judge(truth: Truth, decoded: Decoded) -> Verdict:
    """Rows of a decode with losses against the truth of the whole capture."""
    out = Verdict()
    originals: dict[tuple[Any, Any], list[Row]] = defaultdict(list)
    for row in truth.exchanges:
        originals[row["flow"], row["xid"]].append(row)
        out.known += row["state"] == "complete"
    used_requests: set[int] = set()
    used_replies: set[int] = set()
    # Those that claim the most choose first among equal ones (pings).
    for row in sorted(decoded.exchanges, key=lambda row: row["latency_ns"] is None):
        asked, answered = row["state"] != "no_request", row["state"] != "no_reply"
        found = None
        for one in originals[row["flow"], row["xid"]]:
            if asked and (row["opcode"] != one["opcode"] or id(one) in used_requests):
                continue
            if answered and (id(one) in used_replies or one["state"] == "no_reply"):
                continue
            if row["latency_ns"] is not None and row["latency_ns"] != one.get("latency_ns"):
                continue
            if not asked and row["op"] not in (None, one["op"]):
                continue
            if row["latency_ns"] is not None and row["ts_ns"] != one["ts_ns"]:
                continue
            if _agrees(row, one):
                found = one
                # Of several that agree, the one of the same time.
                if row["ts_ns"] == one.get("ts_ns"):
                    break
        if found is None:
            out.lies.append(f"without original: {_columns(row, _SHOWN)}")
            continue
        if asked:
            used_requests.add(id(found))
        if answered:
            used_replies.add(id(found))
        out.paired += row["state"] == "complete"
        out.timed += row["latency_ns"] is not None
    touched = used_requests | used_replies
    out.seen = sum(row["state"] == "complete" and id(row) in touched for row in truth.exchanges)
    left = list(truth.watch_events)
    for row in decoded.watch_events:
        known = {k: row[k] for k in _EVENT if row[k] is not None}
        alike = [e for e in left if all(e[k] == v for k, v in known.items() if k != "ts_ns")]
        # The time of a retransmission, where the first copy was lost by the capture, is later.
        alike = [e for e in alike if e["ts_ns"] <= row["ts_ns"]]
        like = max(alike, key=lambda e: int(e["ts_ns"]), default=None)
        if like is None:
            out.lies.append(f"watch event without original: {_columns(row, _EVENT)}")
        else:
            left.remove(like)
    return out
