"""What the JSON API answers, as types: the OpenAPI document is made of them, and tests hold answers
to them. (Answers are not validated when they are sent; they are made of the same numbers each
time.)
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field


class WindowName(StrEnum):
    """A span of the capture's clock, up to now."""

    s10 = "10s"
    m1 = "1m"
    m5 = "5m"
    h1 = "1h"
    h6 = "6h"
    d1 = "1d"
    d7 = "7d"
    all = "all"


class Format(StrEnum):
    json = "json"
    csv = "csv"


class RowSort(StrEnum):
    """Most first; key: alphabetical."""

    requests = "requests"
    replies = "replies"
    errors = "errors"
    request_bytes = "request_bytes"
    reply_bytes = "reply_bytes"
    bytes = "bytes"
    watch_events = "watch_events"
    min = "min"
    mean = "mean"
    p50 = "p50"
    p90 = "p90"
    p99 = "p99"
    p999 = "p999"
    max = "max"
    total_time = "total_time"
    in_flight = "in_flight"
    key = "key"


class SessionSort(StrEnum):
    last_seen = "last_seen"
    first_seen = "first_seen"
    requests = "requests"
    errors = "errors"
    connects = "connects"
    moves = "moves"
    silence = "silence"
    silence_percent = "silence_percent"
    near_misses = "near_misses"


class SlowSort(StrEnum):
    latency = "latency"
    time = "time"
    outstanding = "outstanding"


class WatchSort(StrEnum):
    fired = "fired"
    registered = "registered"
    key = "key"


class ZnodeSort(StrEnum):
    data = "data"
    children = "children"
    message = "message"


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    expression: str | None = None
    position: int | None = Field(None, description="Where in the expression it goes wrong")


class Window(Model):
    name: str
    from_ns: int | None
    to_ns: int | None = Field(description="End, not included; None before anything was seen")
    seconds: int


class Latency(Model):
    """Microseconds."""

    min: float
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


class InFlight(Model):
    """Requests without pings and connects, of which beginning and end were seen."""

    mean: float = Field(description="In flight on average, on all connections together")
    most: int = Field(
        description="In flight at once on one connection when one of the row's was sent, at most"
    )


class Row(Model):
    requests: int
    replies: int
    errors: dict[str, int] = Field(description="By name of the error")
    request_bytes: int
    reply_bytes: int
    watch_events: int
    latency_us: Latency | None
    in_flight: InFlight | None = Field(description="Null: not known, as of rows with basis events")


class KeyRow(Row):
    short: int = Field(
        description="So many requests may be missing, at most, because the key was not among the "
        "busiest all the time"
    )


class OpRow(KeyRow):
    op: str | None


class ClientRow(KeyRow):
    client: str | None


class ServerRow(KeyRow):
    server: str | None


class UserRow(KeyRow):
    user: str | None = Field(
        description="`scheme:name` as connections authenticated; None: not seen to"
    )


class PathRow(KeyRow):
    path: str | None = Field(description="None: operations without a path")
    below: bool = Field(description="Stands for znodes at or below the path, not kept apart")
    children: int = Field(description="Known paths deeper than the row's, summed in it")


class FingerprintRow(KeyRow):
    fingerprint: str | None = Field(
        description="The shape of paths: sequence numbers, UUIDs, hex, addresses and other numbers "
        "are names in angle brackets. None: operations without a path"
    )


RowType = TypeVar("RowType", bound=Row)


class Rows(Model, Generic[RowType]):
    window: Window
    basis: str = Field(
        description="totals: everything since the beginning; windows: sums per second, ten seconds "
        "or minute, of the busiest keys; events: the latest events that match the filter"
    )
    events: int | None = Field(description="With basis events: how many were looked at")
    complete: bool = Field(description="False where the events kept do not reach back far enough")
    groups: int = Field(description="Rows before the limit")
    short: int = Field(description="By how many requests a row may be short, at most")
    rows: list[RowType]
    rest: Row | None = Field(description="The sum of what is not in the rows")


class Client(Model):
    client: str
    window: Window
    total: Row | None
    events: int
    complete: bool
    ops: list[OpRow]
    paths: list[PathRow]
    servers: list[ServerRow]
    sessions: list[SessionRow]
    slow: list[SlowRow]


class SessionEvent(BaseModel):
    ts_ns: int
    event: str


class SessionRow(Model):
    session: str
    state: str = Field(
        description="open, closed, expired; overdue: for longer than its timeout nothing was seen "
        "of it, so servers will have expired it"
    )
    client: str | None
    server: str | None
    timeout_ms: int | None
    first_seen_ns: int
    last_seen_ns: int
    idle_ms: float = Field(description="Since the last request, by the capture's clock")
    connects: int
    moves: int
    requests: int
    errors: int
    watch_events: int
    silence_ms: float = Field(description="The longest time between two requests")
    silence_at_ns: int | None
    silence_percent: float | None = Field(description="The same as a share of the timeout")
    near_misses: int = Field(description="Silences of two thirds of the timeout or more")
    silent: str | None = Field(
        description="Who was silent then: client, server, network, unknown; an inference from one "
        "place, by `rule` of /api/sessions. Null: nobody for too long"
    )
    silent_why: str | None


class SessionList(Model):
    window: Window
    groups: int
    forgotten: int
    expired: int
    states: dict[str, int]
    rule: str = Field(description="How `silent` is judged, and what it cannot know")
    rows: list[SessionRow]


class SessionDetail(Model):
    session: SessionRow
    timeline: list[dict[str, Any]]
    total: Row | None = Field(description="Of the latest events")
    events: int
    complete: bool
    ops: list[OpRow]
    paths: list[PathRow]
    slow: list[SlowRow]


class Beside(Model):
    """An exchange as company of a slow one."""

    seq: int
    ts_ns: int
    op: str | None
    path: str | None
    latency_us: float | None
    request_bytes: int | None
    reply_bytes: int | None


class SlowRow(Model):
    seq: int
    ts_ns: int
    op: str | None
    path: str | None
    client: str | None
    server: str | None
    session: str | None
    xid: int | None
    zxid: str | None
    error: int | None
    error_name: str | None
    latency_us: float
    request_bytes: int | None
    reply_bytes: int | None
    outstanding: int = Field(description="Requests of the connection unanswered when it was sent")
    beside: list[Beside] = Field(
        description="Of those the five that took longest: replies come in order, so that is what "
        "it waited for"
    )
    largest_before: Beside | None = Field(
        description="The exchange with the largest message on the connection in the second before"
    )
    largest_before_bytes: int = Field(
        description="Largest message on the connection in the second before"
    )


class SlowList(Model):
    window: Window
    groups: int
    rows: list[SlowRow]


class ZnodeRow(Model):
    """The largest that was seen of a path; None: it is not among the largest by that."""

    path: str
    data_bytes: int | None
    data_at_ns: int | None
    children: int | None
    children_at_ns: int | None
    message_bytes: int | None = Field(description="Of a request or reply about this path")
    message_at_ns: int | None
    message_op: str | None
    percent: float = Field(
        description="The larger of data and message, of jute.maxbuffer as it is by default"
    )


class ZnodeList(Model):
    groups: int
    jute_maxbuffer: int = Field(
        description="What clients and servers take that were told nothing else (bytes)"
    )
    rows: list[ZnodeRow]


class WatchPath(Model):
    path: str
    registered: int | None = Field(description="None in windows other than all")
    fired: int


class FanOut(Model):
    """One write and the events it fired."""

    zxid: str | None
    exact: bool = Field(description="By zxid (ZooKeeper >= 3.9), not by path and second")
    path: str | None
    op: str | None
    client: str | None
    kinds: dict[str, int]
    events: int
    sessions: int
    herd: bool = Field(description="It fired events to 20 sessions or more")
    rereads: int = Field(
        description="Reads of the event's path by those it was sent to, within a second after it"
    )
    reread_bytes: int = Field(description="Bytes of the replies to them")
    bytes: int
    first_ns: int
    spread_ms: float


class SessionWatches(Model):
    session: str
    watches: int


class GrowingWatches(Model):
    session: str
    before: int
    now: int
    seconds: int


class Outstanding(Model):
    """Fact: watches granted that neither fired nor went with their session, as far as was seen."""

    watches: int
    not_kept: int = Field(description="Beyond the limit of what is kept")
    sessions: list[SessionWatches]
    growing: list[GrowingWatches] = Field(
        description="A guess: sessions that may leak watches, since theirs grew in each of the "
        "last five minutes"
    )


class WatchList(Model):
    window: Window
    registered: dict[str, int]
    restored: dict[str, int]
    fired: dict[str, int]
    groups: int
    rows: list[WatchPath]
    writes: list[FanOut]
    outstanding: Outstanding
    forgotten_paths: int
    forgotten_writes: int


class TimelinePoint(Model):
    t: int = Field(description="Seconds since 1970, beginning of the step")
    requests: int
    replies: int
    errors: int
    request_bytes: int
    reply_bytes: int
    watch_events: int
    p50_us: float | None
    p99_us: float | None
    ops: dict[str, tuple[int, float | None, float | None]] = Field(
        description="Requests, p50 and p99 (us)"
    )
    bands: list[int] = Field(description="Exchanges per band of latency")


class Timeline(Model):
    window: Window
    step_s: int
    bounds_us: list[float] = Field(
        description="Lower bounds of the bands, and the upper of the last"
    )
    points: list[TimelinePoint]


class Kept(Model):
    directory: str
    from_ns: int | None
    to_ns: int | None
    files: int
    bytes: int
    unwritten_packets: int


class SliceWanted(Model):
    """A time, both ends in nanoseconds since 1970, the last not included; and whose packets."""

    from_ns: int = Field(ge=0, le=(1 << 63) - 1)
    to_ns: int = Field(ge=0, le=(1 << 63) - 1)
    client: str | None = Field(None, max_length=64, description="Address, or address:port")
    server: str | None = Field(None, max_length=64, description="Address, or address:port")


class SliceSaved(Model):
    file: str = Field(description="In the directory of --write")
    packets: int
    bytes: int
    complete: bool = Field(description="All of that time was kept, and all of it fitted")


class FindingRow(Model):
    kind: str = Field(description="herd, near_miss, expired, slow")
    ts_ns: int
    from_ns: int = Field(description="Begin of the time in which the packets are that prove it")
    to_ns: int
    client: str | None = Field(description="Null: several")
    server: str | None
    session: str | None
    path: str | None
    text: str
    proof: SliceSaved | None = Field(
        description="With --write: the packets that prove it, saved by itself"
    )
    why_not: str | None = Field(description="Why there are none")


class FindingList(Model):
    groups: int
    kept: bool = Field(description="With --write packets of new findings are saved")
    left_out: int = Field(
        description="Findings whose packets were not saved, as there were too many in a minute"
    )
    rows: list[FindingRow] = Field(description="Of the last hour, and with a proof; latest first")


class Source(Model):
    kind: str
    names: list[str]
    state: str = Field(description="starting, reading, done, failed")
    error: str | None
    speed: float | None
    listening: str | None = Field(description="Of interfaces: where, and to what")
    interfaces: dict[str, str] | None = Field(description="Name to up, down or gone")
    kept: Kept | None = Field(description="With --write: the packets that can be had as a slice")
    engine: str
    version: str


class Hottest(Model):
    key: str
    value: float
    requests: int


class Summary(Model):
    source: Source
    window: Window
    clock_ns: int | None
    total: Row | None
    per_second: dict[str, float]
    hottest_path: Hottest | None
    busiest_client: Hottest | None
    slowest_client: Hottest | None
    slowest_op: Hottest | None
    sessions: dict[str, int]
    streams: int
    dropped: int
    coverage: dict[str, Any]
    not_seen: list[str]


class Coverage(Model):
    source: Source
    coverage: dict[str, Any]
    words: list[str]
    not_seen: list[str]


class Ensemble(Model):
    available: bool
    reason: str | None
    events: int = Field(description="How many of the latest events it is made of")
    complete: bool = Field(description="False where those are not all that were seen")
    report: dict[str, Any] | None = Field(
        description="leaders, learners, elections, sessions, reaped: as `zktrace ensemble --json`"
    )
    writes: dict[str, Any] | None = Field(
        description="Where writes spent their time: `summary`, `slowest`; as `zktrace trace --json`"
    )


class EventList(Model):
    groups: int
    complete: bool
    last: int
    rows: list[dict[str, Any]]


class Health(Model):
    status: str
    state: str


Client.model_rebuild()
SessionDetail.model_rebuild()
