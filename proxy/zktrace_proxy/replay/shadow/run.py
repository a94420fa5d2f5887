"""A replay of what has just happened: steps as they come, whose connections end and are forgotten.

What differs from a replay of a recording: nodes that were there before are made when something
first shows them (where they are not there already: a shadow with a copy of the data is left as it
is); a session that can no longer be followed is closed, and what it was to send is not called
different; finished connections are let go.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from zktrace_proxy.compare.outcome import Divergence, Outcome
from zktrace_proxy.replay import steps
from zktrace_proxy.replay.prelude import Prelude, PreludeError
from zktrace_proxy.replay.prepare import Plan
from zktrace_proxy.replay.run import Options, Replayer
from zktrace_proxy.replay.shadow.feed import ShadowFeed
from zktrace_proxy.replay.start import Node
from zktrace_proxy.replay.steps import Step

#: Between two looks for what has come.
_LOOK_S: Final = 0.02
#: Watch events of the shadow may come so long after the end of a connection.
_LATE_S: Final = 1.0


class Telling(Outcome):
    """An outcome that tells of differences as they are found."""

    def __init__(self, tell: Callable[[Divergence], None]) -> None:
        super().__init__()
        self._tell = tell

    def diverged(self, divergence: Divergence) -> None:
        super().diverged(divergence)
        self._tell(divergence)


class ShadowReplayer(Replayer):
    """One run, until the feed ends. `tell` is told of each difference."""

    def __init__(
        self, plan: Plan, options: Options, feed: ShadowFeed, tell: Callable[[Divergence], None]
    ) -> None:
        super().__init__(plan, options, outcome=Telling(tell))
        self._shadowed = feed
        self._nodes: list[Node] = []
        #: start nodes that were looked at, and those of them that were made without their data
        self._seen: set[str] = set()
        self._unknown: set[str] = set()
        self._left_out: set[int] = set()
        #: requests that were not sent, since their session was left out or lost
        self.not_sent: Counter[str] = Counter()
        #: requests compared when the first session was left out; None: none was
        self.complete_until: int | None = None
        self._missed = 0
        self._ended: dict[int, float] = {}
        self._number = 0

    def leave_out(self, conn: int, why: str) -> None:
        """A connection is not followed any more: its session ends here."""
        if self.complete_until is None:
            self.complete_until = self.report.sent
        self._left_out.add(conn)
        connection = self._connections.get(conn)
        if connection is None:
            return
        connection.dead = connection.dead or why
        connection.ended = True
        connection.balance.clear()
        self._over.add(connection.session)
        connection.close_session()
        connection.pump()
        self.pump_others(connection)

    def unsent(self, connection: Any, step: Step) -> None:
        """Of a session that was left out, or that the shadow lost: not compared."""
        over = self.is_over(connection.session) and connection.conn not in self._left_out
        if step.kind == steps.EXPIRE or (over and step.exchange.reply is None):
            # the first one answered nothing either, or it was the session's end that is there now
            self.finish_quietly(step)
            return
        self.not_sent[connection.dead or "its session was left out"] += 1
        if self.complete_until is None:
            self.complete_until = self.report.sent
        self.finish_quietly(step)

    def equal_events(self) -> int:
        """Watch events that came on both sides, as far as is known."""
        pending = sum(
            abs(count) for one in self._connections.values() for count in one.balance.values()
        )
        return max(self.plan.watch_events - self._missed - pending, 0)

    async def _feed(self) -> None:
        while not self._stop:
            items, ended = self._shadowed.take()
            for item in items:
                if isinstance(item, Node):
                    self._nodes.append(item)
                    continue
                if self._nodes:
                    await self._make()
                exchange, notes = item
                known = exchange.conn in self.plan.heard.conversations
                if exchange.conn in self._left_out or not known:
                    continue  # left out, or left out and forgotten by now
                self._number += 1
                self._add(Step(self._number, exchange, notes))
                if self._number & 63 == 0:
                    await asyncio.sleep(0)
                await self._room_for_more()
            self._let_go()
            if ended and not items:
                return
            if not items:
                await asyncio.sleep(_LOOK_S)

    async def _make(self) -> None:
        """Nodes of which something shows now that they were there before."""
        nodes, self._nodes = self._nodes, []
        new = {node.path: node for node in nodes if node.path not in self._seen}
        self._seen.update(new)
        # nodes that were made here when their data was not known
        fill = [
            (node.path, node.data)
            for node in nodes
            if node.path in self._unknown and node.data is not None
        ]
        self._unknown.difference_update(path for path, _ in fill)
        options = self.options
        prelude = Prelude(options.address, options.prefix, options.reply_timeout_s)
        try:
            made = await prelude.make(new.values(), fill)
        except PreludeError as error:
            self.report.note(f"nodes from before could not be made: {error}")
            return
        start = self.report.start
        start.made += made.made
        start.there += made.there
        start.failed += made.failed
        self._unknown.update(path for path in made.paths if path in new and new[path].data is None)

    def _add(self, step: Step) -> Any:
        connection = super()._add(step)
        self._ended.pop(step.conn, None)
        return connection

    def _let_go(self) -> None:
        """Forgets connections that are over on both sides."""
        now = self.time()
        for conn, connection in list(self._connections.items()):
            over = connection.finished or conn in self._left_out
            if not over or connection.queue or connection.inflight or connection.connecting:
                continue
            if connection.wire is not None:
                if self.is_over(connection.session):
                    connection.wire.close()
                continue
            if now - self._ended.setdefault(conn, now) < _LATE_S:
                continue
            if conn not in self._left_out:
                self._missed += self.results.events_of(connection)
            del self._ended[conn], self._connections[conn]
            self._left_out.discard(conn)
            self._shadowed.forget(conn)
            if self._of_session.get(connection.session) is connection:
                del self._of_session[connection.session]
            if self._last_of_session.get(connection.session) is connection:
                del self._last_of_session[connection.session]

    def connection_lost(self, connection: Any, why: str, lost: int) -> None:
        super().connection_lost(connection, why, lost)
        if self.complete_until is None:
            self.complete_until = self.report.sent
