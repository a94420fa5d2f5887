"""What the screen shows, as data: views with their columns, and where a row leads.

A :class:`Place` is all that tells one picture from another (view, filter, part of the tree, order,
span of time), so that going into a row and back is a stack of them. Knows the shapes of the API's
answers (:mod:`zktrace.web.models`), not how they are fetched or drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from zktrace.export.text import clock, duration, printable, shorten, size

Object = dict[str, Any]

WINDOWS: Final = ("10s", "1m", "5m", "1h", "6h", "all")
#: Rows that are asked for; a terminal shows fewer.
LIMIT: Final = 200
#: Longer keys are cut in the middle.
_KEY_WIDTH: Final = 60


@dataclass(frozen=True, slots=True)
class Place:
    """One picture."""

    view: str
    window: str = "1m"
    sort: str | None = None
    filter: str | None = None
    under: str | None = None

    def narrowed(self, view: str, term: str) -> Place:
        """Another view of what matches `term`, too."""
        both = term if self.filter is None else f"({self.filter}) and {term}"
        return Place(view, self.window, None, both)


@dataclass(frozen=True, slots=True)
class Column:
    """`sort`: the API's name of the order by this column, None where there is none."""

    title: str
    cell: Callable[[Object, float], str]
    sort: str | None = None
    right: bool = True


@dataclass(frozen=True, slots=True)
class View:
    """`path`: of the API; `columns`: the first is the key; `leads`: where a row leads, None:
    nowhere.
    """

    name: str
    title: str
    path: str
    columns: tuple[Column, ...]
    leads: Callable[[Place, Object], Place | None]
    #: Whether the API takes a window (the latest events have none).
    windowed: bool = True

    def params(self, place: Place) -> dict[str, Any]:
        """What to ask for."""
        asked: dict[str, Any] = {"limit": LIMIT, "filter": place.filter}
        if self.windowed:
            asked["window"] = place.window
        if place.sort is not None:
            asked["sort"] = place.sort
        if self.path == "paths" and place.filter is None:
            asked["under"], asked["depth"] = place.under, 1
        return asked


def quoted(text: str) -> str:
    """A string of the filter language."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# -- cells


def count(number: float | None) -> str:
    """A whole number with its thousands apart."""
    return "-" if number is None else f"{number:,.0f}"


def rate(number: int, seconds: float) -> str:
    """Per second, three digits where it is small."""
    if seconds <= 0:
        return "-"
    each = number / seconds
    return f"{each:,.0f}" if each >= 100 else f"{each:.1f}" if each >= 10 else f"{each:.2f}"


def micro(value: float | None) -> str:
    """Microseconds as a duration with its unit."""
    return duration(None if value is None else value * 1000)


def _latency(key: str) -> Callable[[Object, float], str]:
    def cell(row: Object, seconds: float) -> str:
        latency = row["latency_us"]
        return micro(latency[key]) if latency else "-"

    return cell


def _in_flight(row: Object, seconds: float) -> str:
    """On average, and the most at once on one connection."""
    depth = row["in_flight"]
    return "-" if depth is None else f"{depth['mean']:.2f}, <={depth['most']:,}"


def _text(key: str, width: int = _KEY_WIDTH) -> Callable[[Object, float], str]:
    def cell(row: Object, seconds: float) -> str:
        value = row[key]
        return "-" if value is None else shorten(printable(str(value)), width)

    return cell


def _number(key: str) -> Callable[[Object, float], str]:
    return lambda row, seconds: count(row[key])


def _path(row: Object, seconds: float) -> str:
    if row["path"] is None:
        return "(others)" if row["below"] else "(no path)"
    path = shorten(printable(row["path"]), _KEY_WIDTH)
    if row["below"]:
        return f"{path.rstrip('/')}/..."
    return f"{path} +{row['children']:,}" if row["children"] else path


def _percent(row: Object, seconds: float) -> str:
    share = row["silence_percent"]
    return "-" if share is None else f"{share:.0f} %"


def _time(row: Object, seconds: float) -> str:
    return clock(row["ts_ns"])


_MEASURES: Final = (
    Column("req", _number("requests"), "requests"),
    Column("req/s", lambda row, seconds: rate(row["requests"], seconds)),
    Column("errors", lambda row, seconds: count(sum(row["errors"].values())), "errors"),
    Column("p50", _latency("p50"), "p50"),
    Column("p99", _latency("p99"), "p99"),
    Column("max", _latency("max"), "max"),
    Column("in flight", _in_flight, "in_flight"),
    Column("req size", lambda row, seconds: size(row["request_bytes"]), "request_bytes"),
    Column("reply size", lambda row, seconds: size(row["reply_bytes"]), "reply_bytes"),
    Column("events", _number("watch_events"), "watch_events"),
)


# -- where rows lead


def _into_op(place: Place, row: Object) -> Place | None:
    return None if row["op"] is None else place.narrowed("clients", f"op == {quoted(row['op'])}")


def _into_client(place: Place, row: Object) -> Place | None:
    return None if row["client"] is None else place.narrowed("paths", f"client == {row['client']}")


def _into_server(place: Place, row: Object) -> Place | None:
    return None if row["server"] is None else place.narrowed("ops", f"server == {row['server']}")


def _into_user(place: Place, row: Object) -> Place | None:
    if row["user"] is None:
        return None
    return place.narrowed("events", f"event == authenticated and detail == {quoted(row['user'])}")


def _into_path(place: Place, row: Object) -> Place | None:
    if row["path"] is None:
        return None
    if place.filter is None and row["children"]:
        return replace(place, under=row["path"])
    return place.narrowed("clients", f"path == {quoted(row['path'])}")


def _into_session(place: Place, row: Object) -> Place | None:
    if row["session"] is None:
        return None
    return place.narrowed("events", f"session == {row['session']}")


def _into_watch(place: Place, row: Object) -> Place | None:
    return place.narrowed("events", f"path == {quoted(row['path'])}")


def _nowhere(place: Place, row: Object) -> Place | None:
    return None


def _event_what(row: Object, seconds: float) -> str:
    return str(row.get("op") or row.get("event") or row.get("type") or row.get("reason") or "-")


def _event_latency(row: Object, seconds: float) -> str:
    return micro(row.get("latency_us"))


def _event_path(row: Object, seconds: float) -> str:
    return shorten(printable(row.get("path") or "-"), _KEY_WIDTH)


def _event_error(row: Object, seconds: float) -> str:
    name = row.get("error_name")
    return "" if name in (None, "OK") else str(name)


def _event_from(row: Object, seconds: float) -> str:
    return str(row.get("client") or row.get("flow") or "-")


VIEWS: Final = {
    view.name: view
    for view in (
        View(
            "ops",
            "Operations",
            "ops",
            (Column("op", _text("op"), "key", right=False), *_MEASURES),
            _into_op,
        ),
        View(
            "clients",
            "Clients",
            "clients",
            (Column("client", _text("client"), "key", right=False), *_MEASURES),
            _into_client,
        ),
        View(
            "paths",
            "Paths",
            "paths",
            (Column("path", _path, "key", right=False), *_MEASURES),
            _into_path,
        ),
        View(
            "servers",
            "Servers",
            "servers",
            (Column("server", _text("server"), "key", right=False), *_MEASURES),
            _into_server,
        ),
        View(
            "sessions",
            "Sessions",
            "sessions",
            (
                Column("session", _text("session"), right=False),
                Column("state", _text("state"), right=False),
                Column("client", _text("client"), right=False),
                Column("server", _text("server"), right=False),
                Column("req", _number("requests"), "requests"),
                Column("errors", _number("errors"), "errors"),
                Column("moves", _number("moves"), "moves"),
                Column("events", _number("watch_events")),
                Column("silence", lambda row, seconds: micro(row["silence_ms"] * 1000), "silence"),
                Column("of timeout", _percent, "silence_percent"),
            ),
            _into_session,
        ),
        View(
            "slow",
            "Slow",
            "slow",
            (
                Column("time", _time, "time", right=False),
                Column("latency", lambda row, seconds: micro(row["latency_us"]), "latency"),
                Column("op", _text("op"), right=False),
                Column("error", _event_error, right=False),
                Column("ahead", _number("outstanding"), "outstanding"),
                Column("client", _text("client"), right=False),
                Column("path", _text("path"), right=False),
            ),
            _into_session,
        ),
        View(
            "watches",
            "Watches",
            "watches",
            (
                Column("path", _text("path"), "key", right=False),
                Column("registered", _number("registered"), "registered"),
                Column("fired", _number("fired"), "fired"),
            ),
            _into_watch,
        ),
        View(
            "events",
            "Events",
            "events",
            (
                Column("time", _time, right=False),
                Column("kind", _text("kind"), right=False),
                Column("what", _event_what, right=False),
                Column("latency", _event_latency),
                Column("error", _event_error, right=False),
                Column("client", _event_from, right=False),
                Column("path", _event_path, right=False),
            ),
            _nowhere,
            windowed=False,
        ),
        View(
            "users",
            "Users",
            "users",
            (Column("user", _text("user"), "key", right=False), *_MEASURES),
            _into_user,
        ),
    )
}


def next_sort(view: View, current: str | None) -> str | None:
    """The order after this one: the API's own (None), then by each column that has one."""
    orders = [None, *(column.sort for column in view.columns if column.sort is not None)]
    return orders[(orders.index(current) + 1) % len(orders)] if current in orders else None


def cells(view: View, row: Object, seconds: float) -> list[str]:
    """A row's texts, one a column. `seconds`: the span that rates are over."""
    return [column.cell(row, seconds) for column in view.columns]


def seconds_of(answer: Object, summary: Object) -> float:
    """What a row's rates are over: the span of the answer, as far as something was captured in
    it; 0 where it is not known, as the latest events may begin anywhere within it.
    """
    window = answer.get("window")
    if window is None or not answer.get("complete", True) or window["from_ns"] is None:
        return 0.0
    first: int | None = summary["coverage"].get("first_ts_ns")
    last: int | None = summary["coverage"].get("last_ts_ns")
    if first is None or last is None or window["to_ns"] is None:
        return 0.0
    if window["name"] == "all":
        return max((last - first) / 1e9, 0.0)
    start, end = max(int(window["from_ns"]), first), min(int(window["to_ns"]), last)
    return max((end - start) / 1e9, 0.0)


def headline(summary: Object) -> list[str]:
    """What is above the table: the source, the rates, and what was not seen."""
    source, each = summary["source"], summary["per_second"]
    total = summary["total"]
    latency = (total or {}).get("latency_us")
    state = source["state"] if source["error"] is None else f"failed: {source['error']}"
    at = "" if summary["clock_ns"] is None else f"  {clock(summary['clock_ns'])[:8]} UTC"
    first = f"{printable(', '.join(source['names']))}  {state}{at}  ({source['engine']} engine)"
    sessions = summary["sessions"]
    second = (
        f"{each.get('requests', 0):,.1f} req/s  {each.get('errors', 0):,.1f} errors/s  "
        f"{each.get('watch_events', 0):,.1f} watch events/s  "
        f"p50 {micro(latency['p50']) if latency else '-'}  "
        f"p99 {micro(latency['p99']) if latency else '-'}  "
        f"{sessions['open']:,} sessions open, {sessions['expired']:,} expired"
    )
    missed = summary["not_seen"]
    third = f"not seen: {'; '.join(missed)}" if missed else "not seen: nothing known"
    return [first, second, third]
