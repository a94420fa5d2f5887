"""Events for people: one line each, aligned, as ``zktrace decode`` prints them.

Columns of bounded width come first and grow when needed; the path is last, since it may be long.
What comes off the wire is shown so that it cannot drive the terminal: what is not printable is
escaped. Knows rows and coverage, not where they come from; the words of the coverage are in
:mod:`zktrace.export.summary`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Literal

from zktrace.wire.errors import error_name

if TYPE_CHECKING:
    import pyarrow as pa

TimeStyle = Literal["utc", "local", "date", "epoch", "relative"]

_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_NS: Final = 1_000_000_000

#: Latency from which on it is shown in another colour, as Envoy's slow counters have it.
_SLOW_NS: Final = 100_000_000

#: Operations of a multi that a line shows.
_SUB_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class Look:
    """How to write: with colours or without, and for a terminal how wide it is."""

    color: bool = False
    width: int | None = None

    def paint(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.color and text else text


_STYLES: Final = {
    "bold": "1",
    "dim": "2",
    "error": "31",
    "good": "32",
    "warn": "33",
    "event": "35",
    "op": "36",
}


def printable(text: str) -> str:
    """Text that a terminal shows and nothing else: control and other unprintable characters
    escaped.
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_escape(c) if not c.isprintable() or c == "\\" else c for c in text)


def _escape(character: str) -> str:
    if character == "\\":
        return "\\\\"
    return character.encode("unicode_escape").decode("ascii")


def shorten(text: str, width: int) -> str:
    """At most `width` characters, the middle left out: names of znodes tell most at both ends."""
    if len(text) <= width:
        return text
    keep = max(width - 3, 2)
    return f"{text[: keep // 2]}...{text[len(text) - (keep - keep // 2) :]}"


def duration(ns: float | None) -> str:
    """A time span with three digits and its unit; from a minute on in whole seconds or minutes."""
    if ns is None:
        return "-"
    if abs(ns) >= 59.95e9:
        seconds = round(abs(ns) / 1e9)
        sign, minutes = "-" if ns < 0 else "", seconds // 60
        if minutes < 60:
            return f"{sign}{minutes}m{seconds % 60:02d}s"
        return f"{sign}{minutes // 60}h{minutes % 60:02d}m"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(ns) >= size:
            value = ns / size
            digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
            return f"{value:.{digits}f}{unit}"
    return f"{ns:.0f}ns"


def size(count: float | None) -> str:
    """A number of bytes in decimal units."""
    if count is None:
        return "-"
    if abs(count) < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if abs(count) < 999.5 or unit == "TB":
            break
    return f"{count:.{0 if abs(count) >= 99.95 else 1}f} {unit}"


def clock(ns: int, style: TimeStyle = "utc", start_ns: int = 0) -> str:
    """A time of day with microseconds, or what `style` says instead."""
    if style == "relative":
        ns -= start_ns
        sign = "-" if ns < 0 else ""
        return f"{sign}{abs(ns) // _NS}.{abs(ns) % _NS // 1000:06d}"
    seconds, micros = ns // _NS, ns % _NS // 1000
    if style == "epoch":
        return f"{seconds}.{micros:06d}"
    if style == "utc":
        day = seconds % 86_400
        return f"{day // 3600:02d}:{day // 60 % 60:02d}:{day % 60:02d}.{micros:06d}"
    try:
        if style == "local":
            return f"{datetime.fromtimestamp(seconds):%H:%M:%S}.{micros:06d}"
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{micros:06d}"
    except (ValueError, OverflowError, OSError):
        return f"{seconds}.{micros:06d}"  # a time that no calendar has


_Row = Mapping[str, Any]


@dataclass(slots=True)
class _Cells:
    """What a line shows, column by column, and in which colours."""

    arrow: str
    what: str
    latency: str
    result: str
    rest: str
    what_style: str = "op"
    latency_style: str = ""
    result_style: str = ""


#: How wide columns may become.
_WIDEST: Final = {"where": 60, "what": 15, "latency": 6, "result": 14}


class EventLines:
    """Lines of text for batches of events; remembers how wide its columns have become."""

    def __init__(self, look: Look = Look(), times: TimeStyle = "utc") -> None:
        self._look = look
        self._times: TimeStyle = times
        self._start: int | None = None
        self._widths = {"where": 30, "what": 12, "latency": 6, "result": 10}

    def lines(self, batches: Mapping[str, pa.RecordBatch]) -> list[str]:
        """The rows of some batches (one per kind) in order, one line each, without line ends."""
        rows: list[tuple[int, str, _Row]] = []
        for kind, batch in batches.items():
            rows.extend((row["seq"], kind, row) for row in _row_dicts(batch))
        rows.sort(key=itemgetter(0))
        if self._start is None and rows:
            self._start = rows[0][2]["ts_ns"]
        return [self._line(_CELLS[kind](row), row) for _, kind, row in rows]

    def _pad(self, column: str, text: str, right: bool = False) -> str:
        width = self._widths[column]
        if len(text) > width:
            # One extraordinary value puts its own line out of step, not all that follow.
            width = self._widths[column] = min(len(text), max(width, _WIDEST[column]))
        return text.rjust(width) if right else text.ljust(width)

    def _line(self, cells: _Cells, row: _Row) -> str:
        look, paint = self._look, self._look.paint
        time = clock(row["ts_ns"], self._times, self._start or 0)
        where = self._pad("where", f"{row['client'] or '?'} {cells.arrow} {row['server'] or '?'}")
        what = self._pad("what", printable(cells.what))
        latency = self._pad("latency", cells.latency, right=True)
        result = self._pad("result", cells.result)
        rest = printable(cells.rest)
        if look.width is not None:
            used = len(time) + len(where) + len(what) + len(latency) + len(result) + 5
            rest = shorten(rest, max(look.width - used, 20))
        if look.color:
            time = paint(time, "dim")
            what = paint(what, cells.what_style)
            latency = paint(latency, cells.latency_style) if cells.latency_style else latency
            result = paint(result, cells.result_style) if cells.result_style else result
        return f"{time} {where} {what} {latency} {result} {rest}".rstrip()


def _row_dicts(batch: pa.RecordBatch) -> Iterator[_Row]:
    names = batch.schema.names
    columns = [column.to_pylist() for column in batch.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def session_text(session: int | None) -> str:
    return "?" if session is None else f"0x{session & _MASK:016x}"


_CREATE_MODES: Final = {
    1: "ephemeral",
    2: "sequential",
    3: "ephemeral sequential",
    4: "container",
    5: "ttl",
    6: "ttl sequential",
}


def _details(row: _Row) -> Iterator[str]:
    """What only some operations have, in words."""
    op = row["op"]
    if row["created_path"] is not None and row["created_path"] != row["path"]:
        yield f"-> {row['created_path']}"
    if row["watch"]:
        yield "watch"
    if row["flags"] and op and op.startswith("create"):
        mode = _CREATE_MODES.get(row["flags"], f"flags {row['flags']}")
        if row["ttl"] is not None:
            mode = mode.removeprefix("ttl").strip()  # it follows with its value
        if mode:
            yield mode
    for key, word in (("mode", "mode"), ("version", "version")):
        if row[key] is not None and row[key] != -1:
            yield f"{word} {row[key]}"
    if row["ttl"] is not None:
        yield f"ttl {row['ttl']} ms"
    if row["data_length"] is not None:
        yield size(row["data_length"])
    if row["children"] is not None:
        yield f"{row['children']} children"
    if row["watches"] is not None:
        counts = (f"{kind} {n}" for kind, n in row["watches"].items() if n)
        yield f"watches: {' '.join(counts) or 'none'}"
    if row["sub"] is not None:
        yield _sub_text(row["sub"])
    if op == "connect":
        yield from _connect_details(row)


def _sub_text(sub: list[dict[str, Any]]) -> str:
    parts = []
    for item in sub[:_SUB_SHOWN]:
        failed = f": {error_name(item['error'])}" if item["error"] else ""
        parts.append(f"{item['op'] or '?'} {item['path'] or ''}".rstrip() + failed)
    if len(sub) > _SUB_SHOWN:
        parts.append(f"{len(sub) - _SUB_SHOWN} more")
    return f"[{', '.join(parts)}]"


def _connect_details(row: _Row) -> Iterator[str]:
    yield f"session {session_text(row['session'])}"
    asked, granted = row["requested_timeout_ms"], row["timeout_ms"]
    if granted is not None:
        yield f"timeout {granted} ms" + (
            f" (asked {asked})" if asked not in {None, granted} else ""
        )
    elif asked is not None:
        yield f"timeout asked {asked} ms"
    if row["read_only"]:
        yield "read-only"
    if row["protocol_version"]:
        yield f"protocol {row['protocol_version']}"


def _exchange(row: _Row) -> _Cells:
    error, state, latency = row["error"], row["state"], row["latency_ns"]
    result = "?" if error is None else error_name(error)
    style = "error" if error else ""
    if state == "no_reply":
        result, style = "no reply", "warn"
    elif state == "no_request":
        result, style = f"{result} (reply only)", style or "warn"
    op = row["op"] or "?"
    return _Cells(
        arrow=">",
        what=op,
        what_style="dim" if op == "ping" else "op",
        latency=duration(latency),
        latency_style="warn" if latency is not None and latency >= _SLOW_NS else "",
        result=result,
        result_style=style,
        rest=_join([row["path"], *_details(row)]),
    )


def _watch_event(row: _Row) -> _Cells:
    state = row["keeper_state"]
    return _Cells(
        arrow="<",
        what=row["event"] or "?",
        what_style="event",
        latency="-",
        result="watch" if state in {"SyncConnected", None} else state,
        rest=_join(
            [row["path"], None if row["zxid"] is None else f"zxid 0x{row['zxid'] & _MASK:x}"]
        ),
    )


def _connection(row: _Row) -> _Cells:
    return _Cells(
        arrow="-",
        what="connection",
        what_style="dim",
        latency="-",
        result="-",  # the column of errors
        rest=_join([row["event"] or "?", row["role"], row["detail"]]),
    )


def _four_letter(row: _Row) -> _Cells:
    answer = row["reply_bytes"]
    return _Cells(
        arrow=">",
        what=row["word"] or "?",
        latency="-",
        result="four-letter word",
        rest="" if answer is None else size(answer),
    )


def _anomaly(row: _Row) -> _Cells:
    arrow = {"to_server": ">", "to_client": "<"}.get(row["direction"], "-")
    count = row["bytes"]
    return _Cells(
        arrow=arrow,
        what="anomaly",
        what_style="error",
        latency="-",
        result=row["reason"] or "?",
        result_style="error",
        rest=_join([row["detail"], None if count is None else size(count)]),
    )


def _quorum(row: _Row) -> _Cells:
    kind, zxid, error = row["type"] or "?", row["zxid"], row["error"]
    result = "" if zxid is None else f"0x{zxid & _MASK:x}"
    if error:
        result = error_name(error)
    return _Cells(
        arrow="<" if row["direction"] == "to_learner" else ">",
        what=kind,
        what_style="dim" if kind in _ROUTINE else "op",
        latency="-",
        result=result,
        result_style="error" if error else "",
        rest=_join(_quorum_details(row)),
    )


#: Packets that come all the time and say little.
_ROUTINE: Final = ("PING", "ACK", "COMMIT")


def _quorum_details(row: _Row) -> Iterator[str | None]:
    yield row["txn_type"]
    yield row["path"]
    if row["cxid"] is not None:
        yield f"{session_text(row['session'])}/{row['cxid']}"
    elif row["session"] is not None:
        yield f"session {session_text(row['session'])}"
    if row["sub"] is not None:
        yield _sub_text(row["sub"])
    if row["error"] and row["zxid"] is not None:
        yield f"zxid 0x{row['zxid'] & _MASK:x}"
    for key, word in (("sid", "sid"), ("epoch", "epoch"), ("sessions", "sessions")):
        if row[key] is not None:
            yield f"{word} {row[key]}"
    if row["timeout_ms"] is not None:
        yield f"timeout {row['timeout_ms']} ms"
    if row["valid"] is not None:
        yield "valid" if row["valid"] else "not valid"
    if row["snapshot_bytes"] is not None:
        yield f"snapshot {row['snapshot_bytes']} B, {row['snapshot_nodes']} nodes"


def _election(row: _Row) -> _Cells:
    state = row["state"]
    vote = [
        f"{word} {value}"
        for word, value in (
            ("leader", row["leader"]),
            ("zxid", None if row["zxid"] is None else f"0x{row['zxid'] & _MASK:x}"),
            ("round", row["election_epoch"]),
            ("epoch", row["peer_epoch"]),
        )
        if value is not None
    ]
    return _Cells(
        arrow="<" if row["direction"] == "to_opener" else ">",
        what=row["type"] or "?",
        latency="-",
        result=state or "election",
        rest=_join(
            [
                None if row["sid"] is None else f"sid {row['sid']}",
                row["address"],
                ", ".join(vote) if state else None,
            ]
        ),
    )


def _join(parts: Iterable[str | None]) -> str:
    return "  ".join(part for part in parts if part)


_CELLS: Final[Mapping[str, Callable[[_Row], _Cells]]] = {
    "exchanges": _exchange,
    "watch_events": _watch_event,
    "connections": _connection,
    "four_letter": _four_letter,
    "anomalies": _anomaly,
    "quorum": _quorum,
    "elections": _election,
}

_ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")


def visible(text: str) -> int:
    """Characters that a line shows."""
    return len(_ANSI.sub("", text))
