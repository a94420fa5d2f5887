"""The report of ``zktrace trace`` for people: where the time of writes went, and the slowest ones
drawn as waterfalls.

Takes the objects that ``zktrace trace --json`` prints (:mod:`zktrace.analysis.writereport`) and
computes nothing but widths. Every line fits the terminal's width where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from zktrace.export.summary import coverage_lines, table
from zktrace.export.text import Look, clock, duration, printable, shorten

_Object = Mapping[str, Any]

#: Cells of a waterfall; fewer where the terminal is narrow.
_BAR: Final = 48
_BAR_MIN: Final = 16
_LABEL: Final = 9

#: Places shown of what the time went to.
_PLACES: Final = 8

#: A cell by how many eighths of it are filled, and what stands in where that cannot be shown.
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"
_PLAIN: Final = " ||||####"

_PERCENTILES: Final = ("p50", "p90", "p99", "max")


class Waterfall:
    """Makes the lines. `blocks`: the output can show block characters."""

    def __init__(self, look: Look, *, blocks: bool = True) -> None:
        self._look = look
        self._blocks = _BLOCKS if blocks else _PLAIN
        width = look.width or 110
        self._bar = max(min(_BAR, width - 60), _BAR_MIN)
        self._width = look.width

    def lines(
        self, summary: _Object, slowest: Iterable[_Object], coverage: _Object
    ) -> Iterator[str]:
        """The whole report."""
        seen = coverage_lines(coverage, self._look)
        yield seen[0]
        yield from self._overall(summary)
        if summary["stages"]:
            yield ""
            yield from self._stages(summary)
        if summary["parts"]:
            yield ""
            yield from self._parts("What the time went to", summary["parts"])
        slow = summary["slow"]
        if slow and slow["parts"] and slow["writes"] < summary["writes"]:
            yield ""
            count = f"{slow['writes']:,} slowest, {duration(slow['from_us'] * 1000)} and longer"
            yield from self._parts(f"Of the {count}", slow["parts"])
        if any(row["proposals"] or row["commits"] for row in summary["learners"]):
            yield ""
            yield from self._learners(summary["learners"])
        for rank, write in enumerate(slowest, 1):
            yield ""
            yield from self.write(write, rank)
        yield ""
        yield from seen[1:]

    def _paint(self, text: str, style: str) -> str:
        return self._look.paint(text, style)

    # ---- all

    def _overall(self, summary: _Object) -> Iterator[str]:
        writes = summary["writes"]
        words = f"{writes:,}"
        origins = summary["by_origin"]
        if set(origins) - {"client"}:
            said = {
                "client": "by clients",
                "learner": "forwarded, their clients not captured",
                "leader": "by the leader itself",
                "unknown": "of unknown origin",
            }
            parts = ", ".join(f"{n:,} {said[name]}" for name, n in origins.items())
            words += f" ({parts})"
        words += f", {summary['answered']:,} answered, {summary['complete']:,} followed all the way"
        yield f"{self._paint('writes   ', 'bold')} {words}"
        latency = summary["latency_us"]
        if latency:
            spread = ", ".join(
                f"{key} {duration(latency[key] * 1000)}"
                for key in ("min", "mean", "p50", "p90", "p99", "p999", "max")
            )
            yield f"{self._paint('latency  ', 'bold')} {spread}"
        missing = {
            name: n for name, n in summary["not_seen"].items() if n and summary["complete"] < writes
        }
        if missing:
            parts = ", ".join(f"{name} of {n:,}" for name, n in missing.items())
            yield f"{self._paint('missing  ', 'warn')} {parts}"
        for row in summary["quorums"]:
            yield f"{self._paint('quorum   ', 'bold')} {_quorum(row)}"
        for row in summary["points"][1:]:
            yield f"{self._paint('clock    ', 'bold')} {_clock(row, summary['points'][0])}"

    def _stages(self, summary: _Object) -> Iterator[str]:
        yield self._paint("Stages", "bold")
        heads = ["stage", "from > to", "writes", *_PERCENTILES, "share"]
        rows = [
            [
                _stage_label(row),
                _WAYS[row["to"]] if row["from"] == row["to"] else f"{row['from']} > {row['to']}",
                f"{row['count']:,}",
                *(duration(row["us"][key] * 1000) for key in _PERCENTILES),
                f"{100 * row['share']:.1f}%",
            ]
            for row in summary["stages"]
        ]
        yield from table(heads, rows, self._look, frozenset({0, 1}))

    def _parts(self, title: str, parts: Sequence[_Object]) -> Iterator[str]:
        yield self._paint(title, "bold")
        rows = [
            [
                f"{100 * part['share']:.1f}%",
                part["stage"] or "",
                printable(part["where"] or ""),
                part["meaning"],
            ]
            for part in parts[:_PLACES]
        ]
        yield from table(["share", "stage", "at", ""], rows, self._look, frozenset({1, 2, 3}))
        left = sum(part["share"] for part in parts[_PLACES:])
        if left >= 0.0005:
            yield self._paint(f"and {100 * left:.1f}% at {len(parts) - _PLACES} more", "dim")

    def _learners(self, learners: Sequence[_Object]) -> Iterator[str]:
        yield self._paint("Learners", "bold")
        heads = ["sid", "learner", "role", "proposals", "acks", "made the quorum"]
        heads += ["ack p50", "p90", "p99", "max", "network p50", "disk p50", "disk p99"]
        rows = []
        for one in learners:
            ack, network, disk = one["ack_us"], one["network_us"], one["disk_us"]
            rows.append(
                [
                    "-" if one["sid"] is None else str(one["sid"]),
                    printable(one["learner"]),
                    one["role"] or "-",
                    f"{one['proposals']:,}",
                    f"{one['acks']:,}",
                    f"{one['made_quorum']:,}",
                    *(_time(ack, key) for key in _PERCENTILES),
                    _time(network, "p50"),
                    _time(disk, "p50"),
                    _time(disk, "p99"),
                ]
            )
        yield from table(heads, rows, self._look, frozenset({1, 2}))

    # ---- one

    def write(self, write: _Object, rank: int | None = None) -> Iterator[str]:
        """A write as a waterfall."""
        look = self._look
        number = f"#{rank} " if rank else ""
        name = printable(write["path"]) if write["path"] else ""
        if self._width:
            name = shorten(name, max(self._width - 40, 20))
        failed = write["error"] not in (0, None)
        outcome = look.paint(f" {write['error_name']}", "error") if failed else ""
        took = duration(write["total_us"] * 1000)
        unanswered = "" if write["latency_us"] is not None else " until the last that was seen"
        title = f"{number}{write['op']} {name}".rstrip()
        when = clock(write["ts_ns"])
        yield f"{look.paint(title, 'bold')}{outcome}  {took}{unanswered}  {look.paint(when, 'dim')}"
        yield look.paint("  " + _who(write), "dim")
        for stage in write["stages"]:
            label = stage["stage"] if ".." not in stage["stage"] else "?"
            yield self._line(
                "network" if stage["from"] == stage["to"] else label,
                self._span(stage["start_us"], stage["us"], write["total_us"]),
                stage["us"],
                _note(write, stage),
            )
            if stage["stage"] == "quorum":
                yield from self._acks(write)
        if write["missing"]:
            yield look.paint(f"  not seen: {', '.join(write['missing'])}", "warn")
        critical = write["critical"]
        if critical:
            at = f" ({printable(critical['where'])})" if critical["where"] else ""
            share = f"{100 * critical['share']:.0f}%"
            yield f"  {share} of it: {critical['meaning']}{at}"

    def _acks(self, write: _Object) -> Iterator[str]:
        for ack in write["acks"]:
            if ack["latency_us"] is None or ack["syncing"]:
                continue
            # The port tells learners of one address apart.
            port = ack["learner"].rpartition(":")[2]
            name = f"sid {ack['sid']}" if ack["sid"] is not None else f":{port}"
            note = {True: "before the commit", False: "after the commit"}.get(
                ack["before_commit"], ""
            )
            if ack["made_quorum"]:
                note = "made the quorum"
            if ack["network_us"] is not None:
                about = "" if ack["network_exact"] else "some "
                network = f"network {about}{duration(ack['network_us'] * 1000)}"
                note = f"{note}; {network}" if note else network
            bar = self._span(ack["proposal_us"], ack["latency_us"], write["total_us"])
            yield self._line(f" {shorten(name, _LABEL - 2)}", bar, ack["latency_us"], note, "dim")

    def _line(self, label: str, bar: str, us: float, note: str, style: str = "op") -> str:
        took = duration(us * 1000)
        line = f"  {label:<{_LABEL}}{self._look.paint(bar, style)} {took:>7}"
        return f"{line}  {self._look.paint(note, 'dim')}".rstrip() if note else line

    def _span(self, start: float, took: float, total: float) -> str:
        """A bar from one time to another; it begins with a cell and ends at an eighth of one."""
        cells = self._bar
        if total <= 0:
            return " " * cells
        first = min(int(start / total * cells), cells - 1)
        eighths = round((start + took) / total * cells * 8) - first * 8
        eighths = max(min(eighths, (cells - first) * 8), 1)
        bar = self._blocks[8] * (eighths // 8) + self._blocks[eighths % 8].strip()
        return (" " * first + bar).ljust(cells)


def _time(spread: _Object | None, key: str) -> str:
    return "-" if spread is None else duration(spread[key] * 1000)


#: Messages on their way from one capture point to another.
_WAYS: Final = {
    "request": "client to server",
    "forward": "server to leader",
    "proposal": "leader to followers",
    "quorum": "ACK to the leader",
    "commit": "leader to server",
    "reply": "server to client",
}


def _stage_label(row: _Object) -> str:
    if row["from"] == row["to"]:
        return "network"
    return str(row["stage"]) if ".." not in row["stage"] else ""


def _clock(row: _Object, first: _Object) -> str:
    offset = row["offset_us"] * 1000
    way = "ahead of" if offset >= 0 else "behind"
    name, other = printable(row["point"]), printable(first["point"])
    words = f"{name} is {duration(abs(offset))} {way} {other}"
    low, high = row["low_us"], row["high_us"]
    if low is None and high is None:
        return words + ": the traffic says nothing of it, the clocks are taken for right"
    if low is None or high is None:
        most, bound = ("at most", high) if low is None else ("at least", low)
        return words + f", or not: {most} {duration(bound * 1000)}, as far as the traffic says"
    if not row["consistent"]:
        return words + ", about: the clocks drifted apart by more than the network takes"
    return words + f", give or take {duration((high - low) * 500)}"


def _quorum(row: _Object) -> str:
    words = f"epoch {row['epoch']}, leader {printable(row['leader'])}: "
    followers = f"{row['followers']} follower{'s' if row['followers'] != 1 else ''}"
    if row["needed"] is None:
        if not row["followers"]:
            return words + "no follower's connection was captured"
        if row["how"] == "groups":
            return words + "groups or weights decide, so whose ACK made a quorum is not told"
        return words + (
            f"of {followers} seen, but commits came before their ACKs: not all were captured"
        )
    words += f"{row['needed']} votes, the leader's and those of {row['needed'] - 1} of {followers}"
    if row["how"] == "assumed":
        words += " (if these were all; else --voters N)"
    elif row["how"] == "config":
        words += " (by its configuration)"
    elif row["how"] == "given":
        words += " (as told)"
    return words


def _who(write: _Object) -> str:
    parts = []
    if write["client"]:
        role = write["server_role"]
        sid = "" if write["server_sid"] is None else f" {write['server_sid']}"
        place = f" ({role}{sid})" if role else ""
        parts.append(f"{write['client']} > {write['server']}{place}")
    elif write["origin"] == "leader":
        parts.append("by the leader itself")
    if write["session"] and int(write["session"], 16):
        parts.append(f"session {write['session']}")
    if write["cxid"] is not None:
        parts.append(f"cxid {write['cxid']}")
    if write["zxid"]:
        parts.append(f"zxid {write['zxid']}")
    return "  ".join(parts)


def _note(write: _Object, stage: _Object) -> str:
    """What a stage's line says behind the time."""
    name = stage["stage"]
    parts: _Object = write["parts"]
    if ".." in name:
        return f"{stage['from']} > {stage['to']}"
    if stage["from"] == stage["to"]:
        return _WAYS[stage["to"]]
    if name == "server":
        return f"{write['server'] or ''} to forward it".strip()
    if name == "leader":
        return f"{write['leader']} to propose it"
    if name == "quorum":
        made = write["quorum"]["made_by"]
        who = f"sid {made['sid']}" if made["sid"] is not None else made["learner"]
        return f"ACK of {who}"
    if name == "commit":
        waits = [
            (parts.get("order", 0), "behind other txns"),
            (parts.get("leader_ack", 0), "the leader's own disk or queue"),
        ]
        longest = max(waits)
        return longest[1] if longest[0] else ""
    return f"{write['server'] or ''} to apply and answer".strip()
