"""A decode against a truth: every difference in one line of text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tests.support.decoded import Decoded, Row
from tests.support.truth import Truth

#: Columns that depend on how the bytes were cut into segments.
TIMES: Final = frozenset(["ts_ns", "latency_ns"])

_MOST: Final = 20


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else text[:157] + "..."


def differs(expected: object, got: object) -> bool:
    """Whether ``got`` lacks something of ``expected`` (dicts: the keys that are expected, at any
    depth).
    """
    if isinstance(expected, Mapping):
        if "min" in expected and not isinstance(got, Mapping):
            return not isinstance(got, (int, float)) or got < expected["min"]
        if not isinstance(got, Mapping):
            return True
        return any(differs(value, got.get(key)) for key, value in expected.items())
    if isinstance(expected, list):
        if not isinstance(got, list) or len(expected) != len(got):
            return True
        return any(differs(e, g) for e, g in zip(expected, got, strict=True))
    return expected != got


def _rows(
    what: str,
    expected: Sequence[Row],
    got: Sequence[Row],
    key: tuple[str, ...],
    skip: frozenset[str],
    *,
    whole: bool = True,
    unknown: frozenset[str] = frozenset(),
) -> Iterator[str]:
    """Rows of equal key, in order, column by column. Those of `unknown` may be null."""
    groups: dict[tuple[Any, ...], tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((expected, got)):
        for row in rows:
            groups[tuple(row.get(k) for k in key)][side].append(row)
    for name, (wanted, found) in groups.items():
        label = f"{what} {dict(zip(key, name, strict=True))}"
        if all("ts_ns" in row for row in wanted) and "ts_ns" not in skip:
            wanted = sorted(wanted, key=lambda row: int(row["ts_ns"]))
        found = sorted(found, key=lambda row: int(row.get("ts_ns", 0)))
        for row, other in zip(wanted, found, strict=False):
            for column, value in row.items():
                if column in unknown and other.get(column) is None:
                    continue
                if column not in skip and differs(value, other.get(column)):
                    got_this = _short(other.get(column))
                    yield f"{label}: {column}: expected {_short(value)}, got {got_this}"
        for row in wanted[len(found) :]:
            yield f"{label}: missing {_short(row)}"
        if whole:
            for row in found[len(wanted) :]:
                yield f"{label}: not in the truth: {_short(row)}"


def _choices(
    truth: Truth, rows: Sequence[Row], skip: frozenset[str]
) -> tuple[list[Row], list[str]]:
    """Rows without those that a truth leaves a choice about, and the choices that nothing met."""
    left = list(rows)
    unmet = []
    for alternatives in truth.any_of:
        wanted = [{k: v for k, v in row.items() if k not in skip} for row in alternatives if row]
        found = next((r for one in wanted for r in left if not differs(one, r)), None)
        if found is not None:
            left.remove(found)
        elif None not in alternatives:
            unmet.append(f"exchange: none of {_short(wanted)}")
    return left, unmet


def problems(truth: Truth, decoded: Decoded, *, times: bool | None = True) -> list[str]:
    """Every difference between a truth and a decode; ``times=False`` leaves out what cutting into
    segments changes, with ``None`` latencies may be unknown.
    """
    skip = TIMES if times is False else frozenset[str]()
    unknown = frozenset(["latency_ns"]) if times is None else frozenset[str]()
    exchanges, out = _choices(truth, decoded.exchanges, skip)
    out += _rows(
        "exchange",
        truth.exchanges,
        exchanges,
        ("flow", "opcode", "xid"),
        skip,
        whole=truth.whole,
        unknown=unknown,
    )
    out += _rows(
        "watch event",
        truth.watch_events,
        decoded.watch_events,
        ("flow", "event", "path", "zxid"),
        skip,
        whole=truth.whole,
    )
    if truth.four_letter is not None:
        out += _rows(
            "four-letter word", truth.four_letter, decoded.four_letter, ("flow", "word"), skip
        )
    if truth.connections is not None:
        out += _rows(
            "connection", truth.connections, decoded.connections, ("flow", "role", "event"), skip
        )
    if truth.anomalies is not None:
        found = decoded.reasons()
        out += [f"anomaly {r}: missing" for r in sorted(truth.anomalies - found)]
        extra = found - truth.anomalies - truth.anomalies_allowed
        if "*" in truth.anomalies_allowed:
            extra = set()
        out += [f"anomaly {r}: not expected" for r in sorted(extra)]
    frames = decoded.coverage.get("frames", {})
    for direction, count in zip(("to_server", "to_client"), truth.frames, strict=True):
        if count is not None and frames.get(direction) != count:
            out.append(f"frames {direction}: expected {count}, got {frames.get(direction)}")
    for name, value in truth.coverage.items():
        if differs(value, decoded.coverage.get(name)):
            shown = _short(decoded.coverage.get(name))
            out.append(f"coverage {name}: expected {_short(value)}, got {shown}")
    return out


def report(found: Sequence[str]) -> str:
    """The first of the problems, for an assertion's message."""
    more = [f"... and {len(found) - _MOST} more"] if len(found) > _MOST else []
    return "\n".join([f"{len(found)} differences", *found[:_MOST], *more])


def consistent(decoded: Decoded) -> list[str]:
    """What must hold in any decode: the sums of the coverage, the states, the order of ``seq``."""
    out = []
    states = decoded.coverage.get("exchanges", {})
    for state in ("complete", "no_reply", "no_request"):
        count = sum(row["state"] == state for row in decoded.exchanges)
        if states.get(state) != count:
            out.append(f"coverage exchanges {state}: {states.get(state)}, rows {count}")
    events = decoded.coverage.get("watch_events")
    if events != len(decoded.watch_events):
        out.append(f"coverage watch_events {events}, rows {len(decoded.watch_events)}")
    for row in decoded.exchanges:
        if row["state"] != "complete" and row["latency_ns"] is not None:
            out.append(f"latency without both halves: {_short(row)}")
        if row["state"] == "no_request" and row["request_bytes"] is not None:
            out.append(f"request bytes without a request: {_short(row)}")
        if row["state"] == "no_reply" and row["reply_bytes"] is not None:
            out.append(f"reply bytes without a reply: {_short(row)}")
    return out
