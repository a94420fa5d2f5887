"""A replay of what has just happened: steps as they come, whose connections end and are forgotten.

What differs from a replay of a recording: nodes that were there before are made when something
first shows them (where they are not there already: a shadow with a copy of the data is left as it
is); a session that can no longer be followed is closed, and what it was to send is not called
different; finished connections are let go, and what can no longer be asked for is forgotten.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from zktrace.wire.jute import WireError
from zktrace.wire.message import decode_body
from zktrace.wire.multi import MultiRequest
from zktrace.wire.opcodes import CLOSE_SESSION, op_name
from zktrace_proxy.compare.outcome import Divergence, Outcome
from zktrace_proxy.messages.exchanges import END_OP
from zktrace_proxy.messages.latest import Latest
from zktrace_proxy.messages.maps import Maps, Names, Offsets, Sessions, Zxids
from zktrace_proxy.replay import steps
from zktrace_proxy.replay.connection import Connection
from zktrace_proxy.replay.effects import DELETES
from zktrace_proxy.replay.plan import Plan
from zktrace_proxy.replay.prelude import Prelude, PreludeError
from zktrace_proxy.replay.run import Options, Replayer
from zktrace_proxy.replay.shadow import limits
from zktrace_proxy.replay.shadow.feed import Known, ShadowFeed
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
        maps = Maps(
            Names(options.prefix, limits.NAMES_MAX),
            Sessions(),
            Zxids(limits.ZXIDS_MAX),
            Offsets(Latest(limits.OFFSETS_MAX)),
        )
        super().__init__(plan, options, outcome=Telling(tell), maps=maps)
        self._shadowed = feed
        self._nodes: list[Node | Known] = []
        #: nodes from before that were made without their data, and not changed since
        self._unknown: Latest[str, None] = Latest(limits.UNKNOWN_MAX)
        self._left_out: set[int] = set()
        #: sessions that no connection is in; nodes whose names need not be known much longer
        self._gone: Latest[int, None] = Latest(2 * limits.ENDED_MAX)
        self._deleted: Latest[str, None] = Latest(limits.DELETED_MAX)
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
        if conn in self.plan.heard.conversations:
            self._left_out.add(conn)
        connection = self._connections.get(conn)
        if connection is None:
            return
        self._left_out.add(conn)
        connection.dead = connection.dead or why
        connection.ended = True
        connection.balance.clear()
        self._over.add(connection.session)
        connection.close_session()
        connection.pump()
        self.pump_others(connection)

    def unsent(self, connection: Connection, step: Step) -> None:
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
                if isinstance(item, (Node, Known)):
                    self._nodes.append(item)
                    continue
                if self._nodes:
                    await self._make()
                exchange, notes = item
                known = exchange.conn in self.plan.heard.conversations
                if exchange.conn in self._left_out or not known:
                    if exchange.opcode == END_OP:
                        self._shadowed.forget(exchange.conn)
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
        """Nodes of which something shows now that they were there before, and their data."""
        items, self._nodes = self._nodes, []
        # a write under way makes it, where its path had been forgotten
        new = {
            one.path: one
            for one in items
            if isinstance(one, Node) and not self._order.writes(one.path)
        }
        fill = []
        for one in items:
            if isinstance(one, Known) and one.path in new:
                new[one.path].data = one.data
            elif isinstance(one, Known) and one.path in self._unknown:
                fill.append((one.path, one.data))
                self._unknown.pop(one.path)
        while any(self._order.names(path) for path, _ in fill) and not self._stop:
            await asyncio.sleep(_LOOK_S)  # its version changes: those who read it come before
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
        for path, _ in fill:
            self.maps.offsets.forget(path)
        for path in made.paths:
            if path in new and new[path].data is None:
                self._unknown.put(path, None)

    def _add(self, step: Step) -> Connection:
        connection = super()._add(step)
        self._ended.pop(step.conn, None)
        if step.kind in steps.CONNECTS:
            self._gone.pop(step.session)
        if len(self._unknown):
            for key in step.writes:
                self._unknown.pop(key[1:])
        return connection

    def finish(self, connection: Connection, step: Step, live: bytes | None) -> None:
        super().finish(connection, step, live)
        if len(self.maps.names) and step.writes:
            self._removed(step)

    def _removed(self, step: Step) -> None:
        """Names of nodes that are no more are given up in time."""
        names = self.maps.names
        paths = [key[1:] for key in step.writes if key[0] == "n" and key[1:] in names]
        if not paths or step.makes:
            return
        for path in paths:
            if _removes(step, path):
                for old, _ in self._deleted.put(path, None):
                    names.forget(old)

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
            self._leave(connection)
        if self._left_out:
            # those of which nothing had come
            conversations = self.plan.heard.conversations
            self._left_out = {
                one for one in self._left_out if one in conversations or one in self._connections
            }

    def _leave(self, connection: Connection) -> None:
        session = connection.session
        if self._of_session.get(session) is connection:
            del self._of_session[session]
        if self._last_of_session.get(session) is connection:
            del self._last_of_session[session]
        if session in self._of_session or session in self._last_of_session:
            return
        for old, _ in self._gone.put(session, None):
            self.maps.sessions.forget(old)
            self._over.discard(old)

    def held(self) -> dict[str, int]:
        """How many entries are held, by what they are."""
        maps = self.maps
        return {
            "live_connections": len(self._connections),
            "live_sessions": len(maps.sessions),
            "sessions_over": len(self._over),
            "names": len(maps.names),
            "zxids": len(maps.zxids),
            "versions": len(maps.offsets.by_path),
            "nodes_without_data": len(self._unknown),
            "steps_under_way": self._order.under_way,
            "watch_events": sum(len(one.balance) for one in self._connections.values()),
        }

    def forgotten(self) -> dict[str, int]:
        """What was given up for room."""
        maps = self.maps
        return {
            "names": maps.names.forgotten,
            "zxids": maps.zxids.forgotten,
            "versions": maps.offsets.by_path.forgotten,
            "nodes_without_data": self._unknown.forgotten,
        }

    def connection_lost(self, connection: Connection, why: str, lost: int) -> None:
        super().connection_lost(connection, why, lost)
        if self.complete_until is None:
            self.complete_until = self.report.sent


def _removes(step: Step, path: str) -> bool:
    """Whether a step that writes a node deletes it."""
    exchange = step.exchange
    if exchange.opcode == CLOSE_SESSION:
        return True
    if op_name(exchange.opcode) in DELETES:
        return True
    try:
        body = decode_body(exchange.opcode, "request", exchange.request[8:])
    except WireError:
        return False
    return isinstance(body, MultiRequest) and any(
        op_name(op.type) in DELETES and getattr(op.body, "path", None) == path for op in body.ops
    )
