"""What a plan says before a replay, and what a replay says after it: data, JSON, text.

Says what was not done and what is not known as plainly as what was. No input or output.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from zktrace.export.summary import plural
from zktrace.export.text import duration
from zktrace_proxy.compare.latency import Latencies, Side
from zktrace_proxy.compare.outcome import Outcome
from zktrace_proxy.compare.text import latency_lines, outcome_lines
from zktrace_proxy.messages.maps import Maps
from zktrace_proxy.replay.plan import Plan
from zktrace_proxy.replay.prelude import Made

if TYPE_CHECKING:
    from zktrace_proxy.replay.run import Options

#: Stalls that are kept, with where they were.
STALLS: Final = 100
#: Lines of a text report per list.
_LINES: Final = 10


@dataclass(slots=True)
class Stall:
    """A watch event that was waited for in vain."""

    session: str
    index: int
    op: str
    path: str
    at_s: float


class Lag:
    """By how much requests were sent later than the recording would have them."""

    def __init__(self) -> None:
        self._side = Side()

    def note(self, seconds: float) -> None:
        self._side.note(max(int(seconds * 1e9), 0))

    def as_dict(self) -> dict[str, float] | None:
        """Quantiles in ms; None where nothing was measured."""
        self._side.flush()
        histogram = self._side.histogram
        if not histogram.count:
            return None
        p50, p90, p99, _ = (value / 1e6 for value in histogram.quantiles())
        return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "max_ms": histogram.max / 1e6}


@dataclass(slots=True)
class Report:
    """Of a replay."""

    plan: Plan
    options: Options
    outcome: Outcome
    maps: Maps
    start: Made = field(default_factory=Made)
    seconds: float = 0.0
    sent: int = 0
    unsent: int = 0
    dropped: int = 0
    stray: int = 0
    live_events: int = 0
    lost_requests: int = 0
    interrupted: bool = False
    stalls: list[Stall] = field(default_factory=list)
    stalled: int = 0
    lost_connections: Counter[str] = field(default_factory=Counter)
    failed_connects: Counter[str] = field(default_factory=Counter)
    notes: dict[str, None] = field(default_factory=dict)
    lag: Lag = field(default_factory=Lag)
    _latencies: Latencies = field(default_factory=Latencies)

    def note(self, text: str) -> None:
        """Something to be told, once."""
        self.notes[text] = None

    def stall(self, stall: Stall) -> None:
        self.stalled += 1
        if len(self.stalls) < STALLS:
            self.stalls.append(stall)

    def latency(self, op: str, recorded_ns: int | None, live_ns: int) -> None:
        self._latencies.note(op, recorded_ns, live_ns)

    @property
    def incomplete(self) -> bool:
        """Not all could be sent: the target was not up to it, or somebody ended it."""
        return bool(
            self.unsent or self.lost_connections or self.failed_connects or self.interrupted
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "plan": plan_dict(self.plan),
            "start_state": {
                "made": self.start.made,
                "there_already": self.start.there,
                "data_unknown": self.start.unknown_data,
                "ephemeral_made_persistent": self.start.ephemeral,
                "failed": dict(self.start.failed),
            },
            "seconds": self.seconds,
            "requests_sent": self.sent,
            "requests_per_s": self.sent / self.seconds if self.seconds else None,
            "requests_not_sent": self.unsent,
            "requests_dropped": self.dropped,
            "requests_lost": self.lost_requests,
            "unknown_replies": self.stray,
            "watch_events": self.live_events,
            "complete": not self.incomplete,
            "interrupted": self.interrupted,
            "connections_lost": dict(self.lost_connections),
            "connects_failed": dict(self.failed_connects),
            "stalls": self.stalled,
            "first_stalls": [
                {"session": s.session, "request": s.index, "op": s.op, "path": s.path,
                 "at_s": round(s.at_s, 3)}
                for s in self.stalls
            ],
            "names_mapped": len(self.maps.names),
            "notes": list(self.notes),
            "lag": self.lag.as_dict(),
            "comparison": self.outcome.as_dict(),
            "latency": self._latencies.rows(),
        }  # fmt: skip

    def text(self, *, compare: bool) -> list[str]:
        """For people."""
        rate = self.sent / self.seconds if self.seconds else 0.0
        lines = [
            f"replayed  {plural(self.sent, 'request')} on "
            f"{plural(self.plan.connections, 'connection')} in {duration(self.seconds * 1e9)} "
            f"({rate:,.0f} per s), {plural(self.live_events, 'watch event')}"
        ]
        lag = self.lag.as_dict()
        if lag is not None:
            lines.append(
                f"lag       p50 {lag['p50_ms']:.1f} ms, p99 {lag['p99_ms']:.1f} ms, "
                f"max {lag['max_ms']:.1f} ms behind the recording"
            )
        lines += self._problems()
        if compare:
            lines += outcome_lines(self.outcome)
            lines += latency_lines(self._latencies.rows())
        return lines

    def _problems(self) -> list[str]:
        lines = [f"note      {text}" for text in self.notes]
        start = self.start
        if start.made or start.there:
            lines.append(
                f"start     {plural(start.made, 'node')} made that the recording shows to have "
                f"been there, {start.there:,} were there already"
            )
        if start.unknown_data:
            lines.append(f"          data of {start.unknown_data:,} of them is not known: zeros")
        if start.ephemeral:
            lines.append(
                f"          {start.ephemeral:,} of them were ephemeral, of sessions that began "
                "before the recording: made as persistent ones"
            )
        for name, count in start.failed.items():
            lines.append(f"          {plural(count, 'node')} could not be made: {name}")
        if self.unsent:
            lines.append(f"NOT SENT  {plural(self.unsent, 'request')}: connections were gone")
        for why, count in self.failed_connects.most_common(_LINES):
            lines.append(f"FAILED    {plural(count, 'connect')}: {why}")
        for why, count in self.lost_connections.most_common(_LINES):
            lines.append(f"LOST      {plural(count, 'connection')}: {why}")
        if self.lost_requests:
            lines.append(f"          {plural(self.lost_requests, 'request')} under way on them")
        if self.dropped:
            lines.append(f"dropped   {plural(self.dropped, 'request')} without a recorded reply")
        if self.stray:
            lines.append(f"note      {plural(self.stray, 'reply', 'replies')} to no request")
        if self.stalled:
            lines.append(f"STALLED   {plural(self.stalled, 'watch event')} did not come in time:")
            for stall in self.stalls[:_LINES]:
                lines.append(
                    f"          at {stall.at_s:.3f} s session {stall.session} waited for "
                    f"{stall.path} before its {stall.op} (request {stall.index})"
                )
        if self.interrupted:
            lines.append("note      interrupted: the rest was not replayed")
        return lines


def plan_dict(plan: Plan) -> dict[str, Any]:
    """A plan as JSON."""
    heard = plan.heard
    return {
        "connections": plan.connections,
        "filtered": heard.filtered,
        "connections_joined": heard.joined,
        "sessions": len(plan.sessions),
        "sessions_expired": plan.expired,
        "requests": sum(plan.ops.values()) - plan.ops["connect"],
        "ops": dict(plan.ops.most_common()),
        "watch_events": plan.watch_events,
        "writes": plan.writes,
        "first_zxid": f"0x{plan.first_zxid:x}",
        "last_zxid": f"0x{plan.last_zxid:x}",
        "unseen_writes": plan.unseen_writes,
        "zxids_used_twice": plan.twice,
        "disordered": plan.disordered,
        "sequential_names": plan.sequential,
        "requests_without_reply": plan.no_reply,
        "replies_without_request": heard.orphans,
        "gaps": heard.gaps,
        "not_replayed": dict(plan.skipped),
        "credentials_needed": dict(plan.auths_redacted),
        "auth": dict(plan.auths),
        "four_letter_words": heard.four_letter,
        "flows": heard.flows,
        "start_nodes": len(plan.start.nodes),
        "base_zxid": None if plan.base_zxid is None else f"0x{plan.base_zxid:x}",
        "writes_since_base": plan.since_base,
        "not_in_base": plan.not_in_base,
        "duration_s": (plan.last_ns - plan.first_ns) / 1e9,
    }


def plan_lines(plan: Plan, options: Options | None = None) -> list[str]:
    """A plan for people: what will be done, then what cannot."""
    heard = plan.heard
    requests = sum(plan.ops.values()) - plan.ops["connect"]
    top = ", ".join(f"{count:,} {op}" for op, count in plan.ops.most_common(8))
    lines = [
        f"plan      {plural(requests, 'request')} of {plural(len(plan.sessions), 'session')} on "
        f"{plural(plan.connections, 'connection')}, {plural(plan.watch_events, 'watch event')}, "
        f"{duration(plan.last_ns - plan.first_ns)} long",
        f"          {top}",
    ]
    if plan.writes:
        lines.append(
            f"order     {plural(plan.writes, 'write')} with zxids from 0x{plan.first_zxid:x} to "
            f"0x{plan.last_zxid:x}"
        )
    if plan.start.nodes:
        lines.append(
            f"start     {plural(len(plan.start.nodes), 'node')} were there before; they are made "
            "first"
        )
    if options is not None:
        seconds = (plan.last_ns - plan.first_ns) / 1e9
        if options.speed is None:
            lines.append("time      as fast as the target answers")
        else:
            lines.append(f"time      about {duration(seconds / options.speed * 1e9)}")
    return lines + problem_lines(plan, heard_flows=heard.flows, options=options)


def problem_lines(
    plan: Plan, *, heard_flows: dict[str, int], options: Options | None = None
) -> list[str]:
    """Why a replay of this cannot be exact."""
    heard = plan.heard
    lines = []
    if plan.unseen_writes:
        lines.append(
            f"UNSEEN    {plural(plan.unseen_writes, 'write')} of clients that are not in the "
            "capture (zxids are missing): results that they changed will differ"
        )
    if plan.since_base:
        lines.append(
            f"UNSEEN    {plural(plan.since_base, 'write')} between the snapshot (zxid "
            f"0x{plan.base_zxid:x}) and the first recorded one"
        )
    if plan.base_zxid and plan.first_zxid and plan.base_zxid >= plan.first_zxid:
        lines.append(
            f"UNSEEN    the snapshot (zxid 0x{plan.base_zxid:x}) was made during the recording: it "
            "holds writes that come again"
        )
    if plan.not_in_base:
        lines.append(
            f"note      {plural(plan.not_in_base, 'node')} that the recording shows are not in the "
            "snapshot: made as well"
        )
    if plan.twice:
        lines.append(
            f"UNSEEN    {plural(plan.twice, 'zxid')} belong to two writes each: several ensembles, "
            "or traffic captured twice (--server chooses one)"
        )
    if heard.filtered:
        lines.append(
            "UNSEEN    what the recording's filter left out: what follows from it may differ"
        )
    if heard.joined:
        lines.append(
            f"UNSEEN    {plural(heard.joined, 'connection')} began before the capture: their "
            "sessions begin anew, without their ephemeral nodes and watches"
        )
    if heard.gaps:
        lines.append(f"UNSEEN    {plural(heard.gaps, 'gap')}: bytes that were not captured")
    if heard.orphans:
        lines.append(f"UNSEEN    requests of {plural(heard.orphans, 'reply', 'replies')}")
    if plan.disordered:
        lines.append(f"UNSEEN    the order of {plural(plan.disordered, 'request')} is not certain")
    for reason, count in plan.skipped.most_common():
        lines.append(f"not sent  {plural(count, 'request')} {reason}")
    for role in ("tls", "unknown"):
        if heard_flows.get(role):
            what = "of TLS" if role == "tls" else "of an unknown protocol"
            lines.append(f"not sent  {plural(heard_flows[role], 'connection')} {what}")
    if heard.four_letter:
        words = plural(heard.four_letter, "four-letter word")
        lines.append(f"not sent  {words}")
    for scheme, count in plan.auths_redacted.items():
        given = options is not None and scheme in options.credentials
        if not given:
            lines.append(
                f"AUTH      {plural(count, 'auth packet')} of scheme {scheme} without a "
                f"credential: give --auth {scheme}:..., or what its ACLs guard will fail"
            )
    if plan.no_reply:
        lines.append(
            f"UNSEEN    {plural(plan.no_reply, 'request')} without a reply: whether and when they "
            "took effect is not known"
        )
    if plan.start.left_out:
        lines.append("note      not all paths were looked at for the start state: too many")
    return lines
