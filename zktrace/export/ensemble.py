"""The report of ``zktrace ensemble`` for people.

Takes the object that ``zktrace ensemble --json`` prints (:mod:`zktrace.analysis.ensemble`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from zktrace.export.summary import coverage_lines, table
from zktrace.export.text import Look, clock, duration, printable, size

_Object = Mapping[str, Any]

#: Sessions and znodes listed; the JSON has more.
_LISTED: Final = 10


def ensemble_lines(picture: _Object, coverage: _Object, look: Look) -> Iterator[str]:
    """The whole report."""
    seen = coverage_lines(coverage, look)
    yield seen[0]
    for title, lines in (
        ("Leaders", _leaders(picture["leaders"], look)),
        ("Learners", _learners(picture["learners"], look)),
        ("Elections", _elections(picture["elections"])),
        ("Sessions", _sessions(picture["sessions"])),
        ("Reaped by the leader", _reaped(picture["reaped"])),
    ):
        made = list(lines)
        if made:
            yield ""
            yield look.paint(title, "bold")
            yield from made
    if not picture["leaders"] and not picture["learners"] and not picture["elections"]:
        yield ""
        yield "No quorum or election port in this capture."
    yield ""
    yield from seen[1:]


def _dash(value: object) -> str:
    return "-" if value is None else printable(str(value))


def _leaders(leaders: Sequence[_Object], look: Look) -> Iterator[str]:
    if not leaders:
        return
    heads = ["epoch", "leader", "sid", "txns", "proposed", "committed", "quorum", "first txn"]
    rows = [
        [
            str(one["epoch"]),
            printable(one["leader"]),
            _dash(one["sid"]),
            f"{one['txns']:,}",
            _dash(one["proposed_zxid"]),
            _dash(one["committed_zxid"]),
            _dash(one["quorum"]) + ("?" if one["quorum_how"] == "assumed" else ""),
            "-" if one["first_ns"] is None else clock(one["first_ns"]),
        ]
        for one in leaders
    ]
    yield from table(heads, rows, look, frozenset({1}))


def _learners(learners: Sequence[_Object], look: Look) -> Iterator[str]:
    if not learners:
        return
    heads = ["sid", "learner", "role", "leader", "sync", "behind", "most", "last zxid"]
    heads += ["ack p50", "p99", "ping p50", "forwarded", "connection"]
    rows = []
    for one in learners:
        lag = one["lag"]
        rows.append(
            [
                _dash(one["sid"]),
                printable(one["learner"]),
                _dash(one["role"]),
                printable(one["leader"]),
                _sync(one["sync"]),
                "-" if lag is None else f"{lag['end_zxids']:,}",
                "-" if lag is None else f"{lag['max_zxids']:,}",
                "-" if lag is None else _dash(lag["last_zxid"]),
                _time(one["ack_us"], "p50"),
                _time(one["ack_us"], "p99"),
                _time(one["ping_us"], "p50"),
                f"{one['requests']:,}",
                _state(one),
            ]
        )
    yield from table(heads, rows, look, frozenset({1, 2, 3, 4, 12}))


def _sync(sync: _Object | None) -> str:
    if sync is None:
        return "-"
    words = str(sync["type"])
    if sync["snapshot_bytes"] is not None:
        words += f" {size(sync['snapshot_bytes'])}, {sync['snapshot_nodes']:,} nodes"
    if sync["txns"]:
        words += f" {sync['txns']:,} txns"
    if sync["duration_us"] is not None:
        words += f" in {duration(sync['duration_us'] * 1000)}"
    return words


def _state(one: _Object) -> str:
    begin = "" if one["opened"] else "joined, "
    if one["ended"] is None:
        return f"{begin}open to the end"
    return f"{begin}{one['ended']} {clock(one['ended_ns'])}"


def _time(spread: _Object | None, key: str) -> str:
    return "-" if spread is None else duration(spread[key] * 1000)


def _elections(elections: Sequence[_Object]) -> Iterator[str]:
    for one in elections:
        when = clock(one["start_ns"])
        if one["kind"] == "join":
            lookers = ", ".join(_voter(vote) for vote in one["votes"]) or "a server"
            found = "" if one["winner"] is None else f" and found sid {one['winner']}"
            took = f" in {duration(one['duration_us'] * 1000)}" if one["duration_us"] else ""
            yield f"{when}  {lookers} looked for the leader{found}{took}"
            continue
        words = ["election"]
        if one["duration_us"] is not None:
            words.append(f"of {duration(one['duration_us'] * 1000)}")
        if one["rounds"] and one["rounds"] > 1:
            words.append(f"in {one['rounds']} rounds")
        if one["winner"] is not None:
            words.append(f"won by sid {one['winner']}")
            if one["zxid"] is not None:
                words.append(f"with zxid {one['zxid']}")
        elif one["leader"] is None:
            words.append("without a winner that was seen")
        yield f"{when}  {' '.join(words)}; {one['notifications']:,} notifications"
        if one["epoch"] is not None:
            at = f" at {printable(one['leader'])}" if one["leader"] else ""
            yield f"{'':17}epoch {one['epoch']}{at}{_serving(one)}"
        if one["cause"]:
            yield f"{'':17}{_cause(one['cause'])}"


def _voter(vote: _Object) -> str:
    if vote["sid"] is not None:
        return f"sid {vote['sid']}"
    return printable(str(vote["address"]))


def _serving(one: _Object) -> str:
    if one["serving_ns"] is None:
        return ""
    cause = one["cause"]
    since = cause["ts_ns"] if cause and cause["ts_ns"] is not None else one["start_ns"]
    what = "the loss of the old one" if cause and cause["ts_ns"] is not None else "the start"
    return f", serving {duration(one['serving_ns'] - since)} after {what}"


def _cause(cause: _Object) -> str:
    if cause["what"] == "connection_lost":
        number = cause["connections"]
        lost = "connection" if number == 1 else "connections"
        at = clock(cause["ts_ns"])
        return f"because {number} {lost} to leader {printable(cause['leader'])} ended at {at}"
    return "no leader was seen before"


def _sessions(sessions: _Object) -> Iterator[str]:
    if not any(sessions[key] for key in ("created", "closed", "expired", "moved")):
        return
    yield (
        f"{sessions['created']:,} created, {sessions['closed']:,} closed by clients,"
        f" {sessions['expired']:,} expired, {sessions['moved']:,} moved"
    )
    for one in sessions["moves"][:_LISTED]:
        yield (
            f"{clock(one['ts_ns'])}  {one['session']} moved from {printable(one['from'])}"
            f" to {printable(one['to'])}"
        )
    for one in sessions["expiries"][:_LISTED]:
        yield f"{clock(one['ts_ns'])}  {one['session']} expired  zxid {one['zxid']}"
    more = sessions["moved"] + sessions["expired"]
    more -= min(sessions["moved"], _LISTED) + min(sessions["expired"], _LISTED)
    if more:
        yield f"and {more:,} more"


def _reaped(reaped: _Object) -> Iterator[str]:
    for one in reaped["nodes"][:_LISTED]:
        kind = {"container": "container", "ttl": "TTL node"}.get(one["kind"], "container or TTL")
        path = printable(one["path"] or "")
        yield f"{clock(one['ts_ns'])}  {path}  {kind}  zxid {one['zxid']}"
    if reaped["count"] > _LISTED:
        yield f"and {reaped['count'] - _LISTED:,} more"
