"""Two recordings, connection by connection.

Two passes: the first learns what the second recording named differently (sessions, zxids, names),
the second judges every reply and counts watch events. Bounded by the maps' limits, beyond which
zxids are not called equal, but allowed to differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final

from zktrace.wire.errors import EVENT_TYPES
from zktrace.wire.jute import WireError
from zktrace.wire.message import decode_body
from zktrace.wire.opcodes import CLOSE_SESSION, op_name
from zktrace_proxy.compare.canonical import CREATES, Finding, Judge, Verdict
from zktrace_proxy.compare.latency import Latencies
from zktrace_proxy.compare.match import Pairs, match
from zktrace_proxy.compare.outcome import Divergence, Outcome
from zktrace_proxy.compare.recording import Recording, Talk
from zktrace_proxy.messages.exchanges import CONNECT_OP, END_OP, Exchange
from zktrace_proxy.messages.maps import MASK, Maps, Names, Session

#: What a replay does not send: auth without a credential, SASL, reconfig, check outside a multi.
_LEFT_OUT: Final = (100, 102, 16, 13)
_MULTI: Final = 14

EventKey = tuple[int, int, str]


@dataclass(slots=True)
class Comparison:
    """Of two recordings."""

    first: Recording
    second: Recording
    pairs: Pairs
    outcome: Outcome = field(default_factory=Outcome)
    latencies: Latencies = field(default_factory=Latencies)

    @property
    def differences(self) -> int:
        """Exchanges, watch events and connections that differ."""
        return self.outcome.differences + len(self.pairs.only_first) + len(self.pairs.only_second)

    def as_dict(self) -> dict[str, Any]:
        found = self.outcome.as_dict()
        return {
            "connections": {
                "matched": len(self.pairs.pairs),
                "only_first": [talk.client for talk in self.pairs.only_first],
                "only_second": [talk.client for talk in self.pairs.only_second],
            },
            **found,
            "differences": self.differences,
            "latency": self.latencies.rows(),
            "coverage": {
                name: {
                    "filtered": heard.filtered,
                    "joined": heard.joined,
                    "gaps": heard.gaps,
                    "replies_without_request": heard.orphans,
                    "flows": heard.flows,
                }
                for name, heard in (("first", self.first.heard), ("second", self.second.heard))
            },
        }


def compare(
    first: Recording,
    second: Recording,
    prefix: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """All of both; `prefix` is below what the second one was replayed."""
    comparison = Comparison(first, second, match(first.talks, second.talks))
    maps = Maps(Names(prefix))
    judge = Judge(maps)
    pairs = comparison.pairs.pairs
    for one, two in pairs:
        if one.session and two.session and one.kind != "refused":
            maps.sessions.learn(one.session, Session(two.session, b"", 0))
    nested = _learn(first, second, pairs, judge)
    if nested:
        # names below a name that was not known yet
        _learn(first, second, pairs, judge)
    for number, (one, two) in enumerate(pairs):
        _Connection(comparison, judge, one, two).compare()
        if progress is not None:
            progress(number + 1, len(pairs))
    comparison.outcome.settle()
    return comparison


def _learn(
    first: Recording, second: Recording, pairs: list[tuple[Talk, Talk]], judge: Judge
) -> bool:
    named = False
    for one, two in pairs:
        for ours, theirs in _aligned(first.exchanges(one), second.exchanges(two)):
            if ours is None or theirs is None or theirs.reply is None or ours.opcode == END_OP:
                continue
            makes = _makes(ours)
            named |= bool(makes)
            if ours.opcode != CONNECT_OP:
                judge.learn(ours, theirs.reply, makes)
    return named


def _makes(exchange: Exchange) -> tuple[str, ...]:
    """Whether names were given in it (which, the judge finds out)."""
    if exchange.error != 0 or exchange.opcode not in CREATES | {_MULTI}:
        return ()
    if exchange.opcode == _MULTI:
        return ("*",)
    try:
        body: Any = decode_body(exchange.opcode, "request", exchange.request[8:])
    except WireError:
        return ()
    return ("*",) if body.flags & 0x7F in (2, 3, 6) else ()


def _aligned(
    ours: Iterator[Exchange], theirs: Iterator[Exchange]
) -> Iterator[tuple[Exchange | None, Exchange | None]]:
    """Request by request; what a replay leaves out has None beside it. Ends with the requests of
    the longer one alone.
    """
    other = next(theirs, None)
    for one in ours:
        same = other is not None and one.opcode == other.opcode
        if other is not None and not same and one.opcode in _LEFT_OUT:
            yield one, None
            continue
        if other is not None and not same and one.opcode == END_OP and _is_close(other):
            # whoever replayed it ended a session that had ended by itself
            yield None, other
            other = next(theirs, None)
        yield one, other
        other = next(theirs, None)
    for _, left in zip_longest((), [other] if other is not None else []):
        yield None, left
    for left in theirs:
        yield None, left


def _is_close(exchange: Exchange) -> bool:
    return exchange.opcode == CLOSE_SESSION


class _Connection:
    """One pair of connections."""

    def __init__(self, comparison: Comparison, judge: Judge, one: Talk, two: Talk) -> None:
        self._comparison = comparison
        self._outcome = comparison.outcome
        self._judge = judge
        self._one, self._two = one, two
        self._balance: Counter[EventKey] = Counter()
        self._late: tuple[Counter[EventKey], Counter[EventKey]] = (Counter(), Counter())
        self._open_end = [False, False]
        self._last_ns = one.first_ns
        self._count = 0

    def compare(self) -> None:
        comparison = self._comparison
        closing = [False, False]
        ours = comparison.first.exchanges(self._one)
        theirs = comparison.second.exchanges(self._two)
        lost = False
        for one, two in _aligned(ours, theirs):
            self._events(one, two, closing)
            if lost:
                continue
            if one is not None and two is not None:
                lost = not self._exchange(one, two)
            elif one is not None and one.opcode in _LEFT_OUT:
                self._outcome.exchange(
                    op_name(one.opcode), Finding(Verdict.allowed, "requests that are not replayed")
                )
            elif one is not None and one.opcode != END_OP:
                self._differs(one, Finding(Verdict.different, "request", "sent", "not there"))
            elif two is not None and two.opcode not in (END_OP, CLOSE_SESSION):
                self._differs(two, Finding(Verdict.different, "request", "not there", "sent"))
        self._watch_events()

    def _exchange(self, one: Exchange, two: Exchange) -> bool:
        """Judges a pair; False where they are not the same request, so that nothing that follows
        can be compared.
        """
        self._last_ns = one.sent_ns
        self._count = one.index
        if one.opcode != two.opcode:
            if one.opcode == END_OP or two.opcode == END_OP:
                cut = one if two.opcode == END_OP else two
                texts = ("sent", "not there") if cut is one else ("not there", "sent")
                self._differs(cut, Finding(Verdict.different, "request", *texts))
                return False
            finding = Finding(
                Verdict.different, "request", op_name(one.opcode), op_name(two.opcode)
            )
            self._differs(one, finding)
            return False
        if one.opcode == END_OP:
            return True
        finding = self._judge.reply(one, two.reply)
        name = "connect" if one.opcode == CONNECT_OP else op_name(one.opcode)
        self._outcome.exchange(name, finding)
        if one.opcode != CONNECT_OP:
            self._comparison.latencies.note(name, one.latency_ns, two.latency_ns)
        if finding.verdict is Verdict.different:
            self._diverged(one, name, finding)
        return True

    def _differs(self, exchange: Exchange, finding: Finding) -> None:
        name = op_name(exchange.opcode)
        self._outcome.exchange(name, finding)
        self._diverged(exchange, name, finding)

    def _diverged(self, exchange: Exchange, name: str, finding: Finding) -> None:
        self._outcome.diverged(
            Divergence(
                _session(self._one),
                exchange.index,
                name,
                _path(exchange),
                exchange.sent_ns,
                exchange.zxid,
                finding,
                self._last_ns,
            )
        )

    def _events(self, one: Exchange | None, two: Exchange | None, closing: list[bool]) -> None:
        for side, exchange in enumerate((one, two)):
            if exchange is None:
                continue
            for payload in exchange.events:
                key = self._judge.event_key(payload, live=side == 1)
                if key is None:
                    continue
                self._balance[key] += 1 if side else -1
                # a replay keeps connections of dropped sessions until they are to expire
                dropped = side == 1 and exchange.opcode == END_OP and not self._open_end[0]
                if closing[side] or dropped:
                    self._late[side][key] += 1
                if side == 0:
                    self._outcome.events["equal"] += 1
            if exchange.opcode == CLOSE_SESSION:
                closing[side] = True
            if exchange.opcode == END_OP:
                self._open_end[side] = not exchange.closed

    def _watch_events(self) -> None:
        heard = self._comparison.first.heard.conversations[self._one.conn]
        for key, count in self._balance.items():
            if count == 0:
                continue
            number = abs(count)
            if count < 0:
                self._outcome.events["equal"] -= number
            reason = None
            if self._late[count > 0][key] >= number:
                reason = "watch events while their session was being closed"
            elif self._open_end[count < 0]:
                reason = "watch events at the end of a recording"
            elif not heard.opened:
                reason = "watch events of a connection that was joined"
            if reason is not None:
                self._outcome.events["allowed"] += number
                self._outcome.allowed[reason] += number
                continue
            self._outcome.events["different"] += number
            texts = ("not there", "sent") if count > 0 else ("sent", "not there")
            self._outcome.diverged(
                Divergence(
                    _session(self._one),
                    -1,
                    EVENT_TYPES.get(key[0], str(key[0])),
                    key[2],
                    self._last_ns,
                    0,
                    Finding(Verdict.different, "watch event", *texts),
                    self._last_ns,
                )
            )


def _session(talk: Talk) -> str:
    return f"0x{talk.session & MASK:016x}" if talk.session else f"of {talk.client}"


def _path(exchange: Exchange) -> str | None:
    try:
        body = decode_body(exchange.opcode, "request", exchange.request[8:])
    except WireError:
        return None
    ops = getattr(body, "ops", None)
    path = getattr(ops[0].body if ops else body, "path", None)
    return path if isinstance(path, str) else None
