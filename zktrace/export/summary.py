"""The report of ``zktrace stats`` and the words for what was seen and what was not.

Plain text, aligned, the same in a file as on a terminal but for colours and widths. Takes the
object that ``zktrace stats --json`` prints and the coverage; computes nothing but rates and
percentages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from zktrace.export.text import Look, clock, duration, printable, shorten, size, visible

_Numbers = Mapping[str, Any]


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """A number and what it counts; without `many`, more of it end in s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _stamp(ns: int) -> str:
    return clock(ns, "date")[:-3]


def coverage_lines(coverage: _Numbers, look: Look = Look()) -> list[str]:  # noqa: B008
    """What was captured, what was decoded of it, what is missing, in words."""
    rows = [
        ("captured", _captured(coverage)),
        ("decoded", _decoded(coverage)),
    ]
    missing = list(_not_seen(coverage))
    if missing:
        rows.append(("not seen", "; ".join(missing)))
    unknown = "the capture does not say whether the kernel dropped packets"
    if coverage.get("kernel_drops") is None:
        rows.append(("", unknown) if missing else ("not seen", f"nothing known; {unknown}"))
    elif not missing:
        rows.append(("not seen", "nothing: no gaps, no packets dropped or cut"))
    out = []
    for label, words in rows:
        style = "warn" if label == "not seen" and missing else "dim"
        out.append(f"{look.paint(label.ljust(9), style)} {words}")
    return out


def _captured(coverage: _Numbers) -> str:
    words = f"{plural(coverage.get('packets') or 0, 'packet')}, {size(coverage.get('bytes') or 0)}"
    first, last = coverage.get("first_ts_ns"), coverage.get("last_ts_ns")
    if first is not None and last is not None:
        words += f", from {_stamp(first)} UTC, {duration(last - first)} long"
    if coverage.get("interrupted"):
        words += " (interrupted: the rest was not read)"
    elif coverage.get("limited"):
        words += " (limit reached: the rest was not read)"
    return words


def _decoded(coverage: _Numbers) -> str:
    flows: _Numbers = coverage.get("flows") or {}
    frames: _Numbers = coverage.get("frames") or {}
    states: _Numbers = coverage.get("exchanges") or {}
    parts = []
    total = sum(flows.values())
    roles = ", ".join(f"{n:,} {role}" for role, n in flows.items() if n)
    parts.append(plural(total, "connection") + (f" ({roles})" if roles else ""))
    to_server, to_client = (_count(frames.get(key, 0)) for key in ("to_server", "to_client"))
    parts.append(f"{to_server} frames to servers, {to_client} to clients")
    exchanges = f"{plural(states.get('complete', 0), 'exchange')} complete"
    for state, word in (("no_reply", "without reply"), ("no_request", "without request")):
        if states.get(state):
            exchanges += f", {states[state]:,} {word}"
    parts.append(exchanges)
    if coverage.get("watch_events"):
        parts.append(plural(coverage["watch_events"], "watch event"))
    if coverage.get("quorum_packets"):
        parts.append(plural(coverage["quorum_packets"], "quorum packet"))
    if coverage.get("election_messages"):
        parts.append(plural(coverage["election_messages"], "election message"))
    return "; ".join(parts)


#: Counters of what is missing, and the words for one and for many of them.
_MISSING: Final = (
    ("kernel_drops", "packet dropped by the kernel", "packets dropped by the kernel"),
    ("unwritten_packets", "packet not written to disk", "packets not written to disk"),
    (
        "filtered",
        "recording that holds only what a filter let through",
        "recordings that hold only what a filter let through",
    ),
    ("tap_lost_packets", "packet left out by the tap", "packets left out by the tap"),
    ("missed_files", "file gone before it was read", "files gone before they were read"),
    (
        "unread_bytes",
        "byte added to a file after the next had begun",
        "bytes added to files after the next had begun",
    ),
    ("interface_downs", "time an interface was down", "times an interface was down"),
    ("truncated", "packet or record cut short", "packets or records cut short"),
    ("malformed_packets", "malformed packet", "malformed packets"),
    ("undecoded_packets", "packet of an unknown link type", "packets of unknown link types"),
    ("fragments_dropped", "IP fragment never made whole", "IP fragments never made whole"),
    ("joined_connections", "connection joined in the middle", "connections joined in the middle"),
    ("stray_segments", "segment of no known connection", "segments of no known connection"),
    (
        "late_segments",
        "segment perhaps sent before (no latency)",
        "segments perhaps sent before (no latencies)",
    ),
    ("evicted_connections", "connection forgotten (limit)", "connections forgotten (limit)"),
    ("buffer_limit_hits", "reordering given up (limit)", "reorderings given up (limit)"),
    (
        "memory_limit_hits",
        "connection's state given up (limit)",
        "connections' state given up (limit)",
    ),
    ("given_up_requests", "reply not waited for (limit)", "replies not waited for (limit)"),
)


#: Share of segments seen again from which on it is told: a lossy network, or a capture that took
#: each packet at two places.
_MANY_AGAIN: Final = 0.2
_AGAIN: Final = (
    ("retransmitted_segments", "retransmissions"),
    ("duplicate_packets", "packets captured twice"),
)


def not_seen(coverage: _Numbers) -> list[str]:
    """What is missing, a phrase each; nothing where everything was seen, as far as known."""
    return list(_not_seen(coverage))


def _not_seen(coverage: _Numbers) -> Iterator[str]:
    if coverage.get("damaged_places"):
        yield (
            f"the file is damaged in {plural(coverage['damaged_places'], 'place')}"
            f" ({size(coverage.get('damaged_bytes') or 0)} skipped)"
        )
    gaps = coverage.get("gaps") or 0
    if gaps:
        lost = coverage.get("gap_bytes")
        yield plural(gaps, "gap") + (f" ({size(lost)} never captured)" if lost else "")
    sampling: _Numbers | None = coverage.get("sampling")
    if sampling:
        words = f"only some connections were listened to for {sampling['seconds']:,.0f} s (budget)"
        if sampling["one_in"] > 1:
            words += f", now 1 of {sampling['one_in']:,}"
        yield words
    if coverage.get("skipped_bytes"):
        yield f"{size(coverage['skipped_bytes'])} could not be decoded"
    for key, one, many in _MISSING:
        number = coverage.get(key)
        if number:
            yield plural(number, one, many)
    segments = coverage.get("tcp_segments") or 0
    for key, what in _AGAIN:
        again = coverage.get(key) or 0
        if again > _MANY_AGAIN * segments > 0:
            yield f"{100 * again / segments:.0f}% of TCP segments were {what}"
    flows: _Numbers = coverage.get("flows") or {}
    opaque = [
        (role, flows[role])
        for role, key in (("quorum", "quorum_packets"), ("election", "election_messages"))
        if flows.get(role) and coverage.get(key) is None
    ]
    for role, number in opaque:
        yield f"{plural(number, f'{role} connection')} seen but not decoded"
    if flows.get("unknown"):
        yield f"{plural(flows['unknown'], 'connection')} of another or an unknown protocol"
    if flows.get("tls"):
        yield f"{plural(flows['tls'], 'connection')} encrypted (TLS)"


# -- stats
# --------------------------------------------------------------------------------------------


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], look: Look, left: frozenset[int]
) -> Iterator[str]:
    """Columns padded to their widest cell; numbers to the right."""
    widths = [max(visible(cell) for cell in column) for column in zip(heads, *rows, strict=True)]
    for i, row in enumerate([heads, *rows]):
        cells = []
        for j, cell in enumerate(row):
            gap = " " * (widths[j] - visible(cell))
            cells.append(cell + gap if j in left else gap + cell)
        line = "  ".join(cells).rstrip()
        yield look.paint(line, "bold") if i == 0 else line


def _us(latency: _Numbers | None, key: str) -> str:
    value = latency.get(key) if latency else None
    return "-" if value is None else duration(value * 1000)


_LATENCIES: Final = ("min", "mean", "p50", "p90", "p99", "p999", "max")

_HEADS: Final = (
    "requests",
    "share",
    "per s",
    "errors",
    "p50",
    "p90",
    "p99",
    "max",
    "sent",
    "received",
)


def _cells(row: _Numbers, total: int, seconds: float, look: Look) -> list[str]:
    requests, errors = row["requests"], sum(row["errors"].values())
    latency = row.get("latency_us")
    return [
        _count(requests),
        f"{100 * requests / total:.1f}%" if total else "-",
        f"{requests / seconds:,.1f}" if seconds > 0 else "-",
        look.paint(_count(errors), "error") if errors else "0",
        _us(latency, "p50"),
        _us(latency, "p90"),
        _us(latency, "p99"),
        _us(latency, "max"),
        size(row["request_bytes"]),
        size(row["reply_bytes"]),
    ]


def _key(row: _Numbers, by: str, look: Look) -> str:
    if row.get("rest"):
        if row.get("overflow"):
            return "(the rest: more than could be kept apart)"
        return f"(the rest: {plural(row['groups'], 'group')})"
    key = row[by]
    if key is None:
        # Many operations have no path; everything has an op, a session and so on, known or not.
        return "(none)" if by == "path" else "(unknown)"
    text = printable(str(key)) or '""'
    # Half of the terminal for the name; a file gets it whole.
    return text if look.width is None else shorten(text, max(look.width // 2, 30))


def _grouping(
    by: str, rows: Sequence[_Numbers], total: int, seconds: float, look: Look
) -> Iterator[str]:
    watches = by != "op" and any(row["watch_events"] for row in rows)
    heads = ["", *_HEADS, *(["watch events"] if watches else []), by]
    body = [
        [
            "" if row.get("rest") else str(rank),
            *_cells(row, total, seconds, look),
            *([_count(row["watch_events"])] if watches else []),
            _key(row, by, look),
        ]
        for rank, row in enumerate(rows, 1)
    ]
    yield look.paint(f"By {by}", "bold")
    if rows:
        yield from table(heads, body, look, frozenset({len(heads) - 1}))
    else:
        yield "nothing"


def _overall(stats: _Numbers, look: Look) -> Iterator[str]:
    total, seconds = stats["total"], stats["duration_s"] or 0.0
    requests, errors = total["requests"], sum(total["errors"].values())
    rate = f" ({requests / seconds:,.1f} per s)" if seconds > 0 else ""
    share = ""
    if errors and total["replies"]:
        share = f" ({100 * errors / total['replies']:.1f}% of replies)"
    yield (
        f"{look.paint('requests ', 'bold')} {requests:,}{rate}, {total['replies']:,} replies,"
        f" {plural(errors, 'error')}{share}, {plural(total['watch_events'], 'watch event')}"
    )
    yield (
        f"{look.paint('bytes    ', 'bold')} {size(total['request_bytes'])} sent by clients,"
        f" {size(total['reply_bytes'])} received"
    )
    latency = total.get("latency_us")
    if latency and latency.get("p50") is not None:
        spread = ", ".join(f"{key} {_us(latency, key)}" for key in _LATENCIES)
        yield f"{look.paint('latency  ', 'bold')} {spread} (pings and connects left out)"


def _errors(errors: Mapping[str, int], look: Look) -> Iterator[str]:
    if errors:
        yield ""
        yield look.paint("Errors", "bold")
        ranked = sorted(errors.items(), key=lambda item: (-item[1], item[0]))
        rows = [[_count(number), printable(name)] for name, number in ranked]
        yield from table(["count", "error"], rows, look, frozenset({1}))


def stats_lines(stats: _Numbers, look: Look = Look()) -> Iterator[str]:  # noqa: B008
    """The report: what was captured, totals, a ranked table per grouping, errors, what is
    missing.
    """
    total, seconds = stats["total"], stats["duration_s"] or 0.0
    coverage = coverage_lines(stats["coverage"], look)
    yield coverage[0]
    yield from _overall(stats, look)
    for key, rows in stats.items():
        if key.startswith("by_"):
            yield ""
            yield from _grouping(key[3:], rows, total["requests"], seconds, look)
    yield from _errors(total["errors"], look)
    yield ""
    yield from coverage[1:]


def joined(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
