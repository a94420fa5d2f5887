"""Verdicts on what the live server said, replies and watch events, against what was recorded."""

from __future__ import annotations

from collections.abc import Iterable

from zktrace.wire.errors import EVENT_TYPES
from zktrace_proxy.compare.canonical import Finding, Judge, Verdict
from zktrace_proxy.compare.outcome import Divergence, Outcome
from zktrace_proxy.replay import steps
from zktrace_proxy.replay.connection import Connection, EventKey
from zktrace_proxy.replay.names import path_of, request_name, session_text
from zktrace_proxy.replay.plan import Plan
from zktrace_proxy.replay.steps import Step


class Results:
    """Of one run."""

    def __init__(self, plan: Plan, judge: Judge, outcome: Outcome) -> None:
        self.outcome = outcome
        self._plan = plan
        self._judge = judge

    def judge(self, step: Step, live: bytes | None) -> None:
        """A request was answered; None: it was not."""
        exchange = step.exchange
        if live is not None and step.kind == steps.REQUEST:
            self._judge.learn(exchange, live, step.makes)
        self._note(step, self._judge.reply(exchange, live))

    def unsent(self, step: Step, why: str | None) -> None:
        """It was answered when it was recorded, and could not be sent."""
        self._note(step, Finding(Verdict.different, "reply", "answered", f"not sent: {why}"))

    def _note(self, step: Step, finding: Finding) -> None:
        exchange = step.exchange
        name = request_name(exchange.opcode)
        self.outcome.exchange(name, finding)
        if finding.verdict is Verdict.different:
            self.outcome.diverged(
                Divergence(
                    session_text(step.session),
                    exchange.index,
                    name,
                    path_of(exchange),
                    exchange.sent_ns,
                    exchange.zxid,
                    finding,
                    step.number,
                )
            )

    def live_event(self, payload: bytes) -> EventKey | None:
        """A watch event of the live server, in the recording's names."""
        return self._judge.event_key(payload, live=True)

    def event_keys(self, step: Step) -> list[EventKey]:
        """Watch events that came before a step when it was recorded."""
        keys = []
        for payload in step.exchange.events:
            key = self._judge.event_key(payload, live=False)
            if key is not None:
                keys.append(key)
        return keys

    def events(self, connections: Iterable[Connection]) -> None:
        """Watch events that one side has and the other has not, of all connections; the others are
        equal.
        """
        missed = sum(self.events_of(connection) for connection in connections)
        self.outcome.events["equal"] += max(self._plan.watch_events - missed, 0)

    def events_of(self, connection: Connection) -> int:
        """The same of one connection; how many they are."""
        missed = 0
        for key, count in connection.balance.items():
            if count == 0 or (count > 0 and connection.open_end):
                continue
            missed += abs(count)
            self._event(connection, key, count)
        return missed

    def _event(self, connection: Connection, key: EventKey, count: int) -> None:
        late = connection.late[count > 0][key]
        if late:
            # Java's server ends watches with the connection, which is some time after the session
            chance = min(late, abs(count))
            self.outcome.events["allowed"] += chance
            self.outcome.allowed["watch events while their session was being closed"] += chance
            count += chance if count < 0 else -chance
            if count == 0:
                return
        if connection.joined and count < 0:
            # of a watch that was set before the recording began
            self.outcome.events["allowed"] += -count
            self.outcome.allowed["watch events of a connection that was joined"] += -count
            return
        self.outcome.events["different"] += abs(count)
        name = EVENT_TYPES.get(key[0], str(key[0]))
        text = ("not there", "sent") if count > 0 else ("sent", "not there")
        finding = Finding(Verdict.different, "watch event", *text)
        session, at = session_text(connection.session), self._plan.spool.count
        self.outcome.diverged(Divergence(session, -1, name, key[2], 0, 0, finding, at))
