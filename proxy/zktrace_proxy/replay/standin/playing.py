"""Live sessions that play recorded ones: which line a request is, and what it is answered.

A request is recognised by its session, op and path, in the order of the recording. Where the nodes
that it is about have had the recorded writes before it, and no others, its recorded result is the
answer; elsewhere (other data were written, sessions came in another order) the tree's is. Requests
that are not recognised are for the tree, or refused, or somebody else's. No input or output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from zktrace.wire.errors import error_name
from zktrace.wire.opcodes import AUTH, BY_NUMBER, CLOSE_SESSION, op_name
from zktrace.wire.records import ReplyHeader
from zktrace_proxy.compare.canonical import created_names
from zktrace_proxy.messages.exchanges import Exchange
from zktrace_proxy.messages.maps import Names
from zktrace_proxy.replay import steps
from zktrace_proxy.replay.effects import Effects, effects, parent
from zktrace_proxy.replay.plan import Plan
from zktrace_proxy.replay.standin.answers import Answers, data_of, data_paths, time_of
from zktrace_proxy.replay.standin.model import Connection, Model
from zktrace_proxy.replay.standin.script import (
    ELSEWHERE,
    SEQUENTIAL,
    Key,
    Line,
    Part,
    Script,
    asked_name,
    body_of,
    key_of,
)
from zktrace_proxy.replay.watching import event_of

#: Unrecognised requests that a report has, with the nearest recorded one.
KEPT: Final = 100
_SYSTEM_ERROR: Final = -1
_NO_WRITE: Final = -1
#: Of a state that the tree has and single nodes do not tell; and what ends a session.
_OF_THE_TREE: Final = (101, 103, 104, 105, CLOSE_SESSION)
#: Opcodes from here on are ClickHouse Keeper's.
_KEEPERS: Final = 500
#: How far it is looked for what a session saw after a watch event.
_AHEAD: Final = 64
_NS_PER_MS: Final = 1_000_000


class Otherwise(Enum):
    """What becomes of requests that the recording does not have."""

    model = "model"
    refuse = "refuse"
    forward = "forward"


@dataclass(slots=True)
class Tally:
    """What was asked for, and who answered. `strange`: what was not recognised, with what comes
    nearest in the recording.
    """

    clients: int = 0
    requests: int = 0
    recorded: int = 0
    by_tree: int = 0
    unmatched: Counter[str] = field(default_factory=Counter)
    strange: list[tuple[str, str]] = field(default_factory=list)
    other_data: int = 0
    dropped: int = 0
    #: recorded success that the tree could not repeat, by error
    failed: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True, eq=False)
class Player:
    """A live session; `part` is None until its first request tells whose it is, and where all have
    been taken.
    """

    connection: Connection
    part: Part | None = None
    chosen: bool = False
    #: lines of the part before this place are over
    position: int = 0
    #: it is to be cut off when what is to be sent is sent
    cut: bool = False

    @property
    def session_id(self) -> int:
        return self.connection.session_id


class Stage:
    """All sessions on one tree. `faithful`: lost connections of the recording are lost again."""

    def __init__(
        self,
        plan: Plan,
        script: Script,
        model: Model,
        otherwise: Otherwise = Otherwise.model,
        *,
        faithful: bool = True,
    ) -> None:
        self.script = script
        self.model = model
        self.tally = Tally()
        self.otherwise = otherwise
        self._faithful = faithful
        self._names = Names()
        self._free = list(script.parts)
        self._players: dict[int, Player] = {}
        #: recorded session: live one
        self._live: dict[int, int] = {}
        self._answers = Answers(self._names, self._live)
        self._written: dict[str, int] = {}
        self._own: dict[int, Player] = {}
        self._next_other = 0
        model.begin(plan.start.nodes.values(), plan.first_zxid)
        self._go_on()

    # ---- sessions

    def connecting(self, session_id: int) -> None:
        """A client comes back with this session: has it expired in the recording?"""
        player = self._players.get(session_id)
        if player is None or player.part is None:
            return
        for line in player.part.lines[player.position :]:
            if line.kind == steps.REQUEST:
                return
            if line.kind in (steps.CONNECT_REFUSED, steps.EXPIRE):
                self.model.end_session(session_id)
                self._move(player, line)
                return
            if line.kind == steps.CONNECT_AGAIN:
                self._move(player, line)
                return

    def connected(self, connection: Connection) -> Player:
        """A session was granted, or taken up again."""
        player = self._players.get(connection.session_id)
        if player is None:
            self.tally.clients += 1
            player = self._players[connection.session_id] = Player(connection)
        player.connection, player.cut = connection, False
        return player

    def _choose(self, player: Player, key: Key) -> None:
        """The first recorded session that begins with this request, else the first one."""
        player.chosen = True
        if not self._free:
            return
        part = next((one for one in self._free if _begins(one) == key), self._free[0])
        self._free.remove(part)
        player.part = part
        self._live[part.sid] = player.session_id

    # ---- requests

    def request(self, player: Player, payload: bytes) -> bool:
        """Answers a request, into the connection's `out`: events that it sets off come behind.
        False: somebody else is to be asked for it.
        """
        opcode = int.from_bytes(payload[4:8], "big", signed=True)
        if opcode == AUTH:
            # credentials may have been taken out of the recording: whoever has one is believed
            self.model.say(player.connection, self.model.ask(player.connection, payload))
            return True
        body = body_of(opcode, payload)
        key = key_of(opcode, body, self._names.to_recorded)
        if not player.chosen:
            self._choose(player, key)
        self.tally.requests += 1
        line = self._find(player, key, body)
        if line is None:
            return self._unmatched(player, payload, key)
        self._others(line.number)
        self._passed(player, line)
        self.model.say(player.connection, self._play(player, line, payload, body))
        self._move(player, line)
        return True

    def _find(self, player: Player, key: Key, body: Any) -> Line | None:
        """The first line from here on; one that was passed over, if there is none."""
        if player.part is None:
            return None
        left = player.part.by_key.get(key)
        if not left:
            return None
        fitting = left
        if getattr(body, "flags", 0) in SEQUENTIAL:
            name = asked_name(body)
            fitting = [
                one
                for one in left
                if asked_name(body_of(one.exchange.opcode, one.exchange.request)) == name
            ] or left
        line = next((one for one in fitting if one.place >= player.position), fitting[0])
        left.remove(line)
        line.asked = True
        return line

    def _play(self, player: Player, line: Line, payload: bytes, body: Any) -> bytes | None:
        """Answers a recorded request, and makes its write."""
        exchange, connection = line.exchange, player.connection
        model, tally = self.model, self.tally
        if exchange.reply is None and exchange.closed and self._faithful:
            # its client never heard of it: the connection was lost first
            self._write(line, model.ask(connection, payload), payload)
            player.cut = True
            return None
        holds = exchange.reply is not None and exchange.reply_whole and self._holds(line)
        if not holds or exchange.opcode in _OF_THE_TREE:
            tally.recorded += holds
            tally.by_tree += not holds
            if holds and _is_write(exchange):
                model.advance(exchange.zxid - 1)
            gone = model.ephemerals(connection.session_id)
            answer = model.ask(connection, payload)
            self._write(line, answer, payload)
            if exchange.opcode == CLOSE_SESSION:
                self._vanished(gone, line.writes)
            return answer
        tally.recorded += 1
        found = effects(exchange)
        at_ms = exchange.answered_ns // _NS_PER_MS
        known = exchange.opcode in BY_NUMBER and exchange.opcode < _KEEPERS
        if known and _is_write(exchange):
            return self._play_write(connection, line, payload, body, found)
        model.observe(found, self._names.to_live, self._answers.owner, at_ms)
        model.advance(exchange.zxid)
        if known:
            if model.ask(connection, payload) is None:
                return None
        else:
            model.alive(connection)
            model.follow(found, self._names.to_live, at_ms)
            self._write(line, exchange.reply, payload)
        return self._answers.reply(exchange, payload, self.model.tree.last_zxid)[0]

    def _play_write(
        self, connection: Connection, line: Line, payload: bytes, body: Any, found: Effects
    ) -> bytes | None:
        exchange, model = line.exchange, self.model
        reply, failed = self._answers.reply(exchange, payload, self.model.tree.last_zxid)
        at_ms = exchange.answered_ns // _NS_PER_MS
        if failed:
            model.alive(connection)
            model.observe(found, self._names.to_live, self._answers.owner, at_ms)
            model.advance(exchange.zxid)
            return reply
        model.advance(exchange.zxid - 1)
        model.foresee(found, self._names.to_live, at_ms)
        wall_ms, now_ms = model.server.wall_ms, model.server.now_ms
        model.server.set_time(time_of(found.reply) or at_ms, now_ms)
        answer = model.ask(connection, payload)
        model.server.set_time(wall_ms, now_ms)
        if answer is not None and answer[12:16] != bytes(4):
            self.tally.failed[error_name(_error(answer))] += 1
        for mine, other in created_names(exchange, answer):
            # names that the client chose otherwise, or that got other numbers
            self._names.learn(mine, other)
        self._write(line, answer, payload)
        if data_of(body) != data_of(found.request):
            self.tally.other_data += 1
            for path in data_paths(body, self._names.to_recorded):
                self._written["n" + path] = ELSEWHERE
        return answer

    def _write(self, line: Line, answer: bytes | None, payload: bytes) -> None:
        """Remembers who wrote: the recording's write, if it came out as one."""
        if line.exchange.opcode == CLOSE_SESSION or _succeeded(answer) == _succeeded(
            line.exchange.reply
        ):
            for key in line.writes:
                self._written[key] = line.number
        else:
            self._elsewhere(payload, answer)

    def _elsewhere(self, payload: bytes, answer: bytes | None) -> None:
        """A write that the recording does not have."""
        opcode = int.from_bytes(payload[4:8], "big", signed=True)
        xid = int.from_bytes(payload[:4], "big", signed=True)
        found = effects(Exchange(0, 0, opcode, xid, payload, 0, answer))
        back = self._names.to_recorded
        for key in found.writes:
            self._written[key[0] + back(key[1:])] = ELSEWHERE

    def _vanished(self, paths: list[str], recorded: Collection[str] = ()) -> None:
        """Ephemeral nodes went with their session; of those in `recorded` it is known already."""
        for path in paths:
            back = self._names.to_recorded(path)
            for key in ("n" + back, "c" + back, "c" + parent(back)):
                if key not in recorded:
                    self._written[key] = ELSEWHERE

    def tick(self) -> None:
        """Time has passed: sessions may have expired."""
        self._vanished(self.model.tick())

    def _holds(self, line: Line) -> bool:
        """Whether the tree has had the writes that the recording had here, and no others."""
        written = self._written
        return all(written.get(key, _NO_WRITE) == number for key, number in line.before)

    # ---- what the recording does not have

    def _unmatched(self, player: Player, payload: bytes, key: Key) -> bool:
        model, connection = self.model, player.connection
        name = f"{op_name(key[0])} {key[1]}".rstrip()
        self.tally.unmatched[name] += 1
        if len(self.tally.strange) < KEPT:
            self.tally.strange.append((name, _nearest(player.part, key)))
        if self.otherwise is Otherwise.model or key[0] == CLOSE_SESSION:
            answer = model.ask(connection, payload)
            self._elsewhere(payload, answer)
            model.say(connection, answer)
            return True
        model.alive(connection)
        if self.otherwise is Otherwise.forward:
            return False
        xid = int.from_bytes(payload[:4], "big", signed=True)
        header = ReplyHeader(xid, model.tree.last_zxid, _SYSTEM_ERROR)
        model.say(connection, header.encode())
        return True

    # ---- where the recording is

    def _passed(self, player: Player, line: Line) -> None:
        """What happened at requests that the client leaves out."""
        assert player.part is not None
        for one in player.part.lines[player.position + 1 : line.place + 1]:
            self._happened(player, one)

    def _move(self, player: Player, line: Line) -> None:
        """The session has come to this line; what lies between it and the next request happens."""
        part = player.part
        assert part is not None
        if line.place < player.position:
            return
        player.position = line.place + 1
        while player.position < len(part.lines):
            following = part.lines[player.position]
            self._happened(player, following)
            if following.kind == steps.END:
                self._ended(player, following)
            if following.kind not in (steps.SKIP, steps.CONNECT_NEW, steps.AUTH_STEP):
                break
            player.position += 1
        self._go_on()

    def _ended(self, player: Player, end: Line) -> None:
        """Its connection was lost in the recording, if the session came again."""
        assert player.part is not None
        later = player.part.lines[end.place + 1 : end.place + 4]
        came_again = any(one.kind in (steps.CONNECT_AGAIN, steps.CONNECT_REFUSED) for one in later)
        if self._faithful and end.exchange.closed and came_again:
            self.tally.dropped += 1
            player.cut = True

    def _happened(self, player: Player, line: Line) -> None:
        """Watch events that nothing in the recording explains."""
        for payload in line.unexplained:
            event = event_of(payload)
            if event is None or event.path is None:
                continue
            path = self._names.to_live(event.path)
            if not self.model.is_watched(player.connection, event.type, path):
                continue
            self._look_ahead(player, line, event.path)
            if self.model.is_watched(player.connection, event.type, path):
                self.model.happen(event.type, path, line.exchange.sent_ns // _NS_PER_MS)

    def _look_ahead(self, player: Player, line: Line, path: str) -> None:
        """What the session saw there next."""
        assert player.part is not None
        for later in player.part.lines[line.place : line.place + _AHEAD]:
            if later.key[1] == path and later.exchange.error is not None and not later.writes:
                if self._holds(later):
                    at_ms = later.exchange.answered_ns // _NS_PER_MS
                    found = effects(later.exchange)
                    self.model.observe(found, self._names.to_live, self._answers.owner, at_ms)
                return

    def _go_on(self) -> None:
        """The other clients do what they did before the next thing that is to be asked for."""
        coming = [
            player.part.lines[player.position].number
            for player in self._players.values()
            if player.part is not None
            and player.position < len(player.part.lines)
            and self.model.lives(player.session_id)
        ]
        if not coming and self._free:
            coming = [self._free[0].first]
        self._others(min(coming, default=1 << 62))

    def _others(self, number: int) -> None:
        others = self.script.others
        while self._next_other < len(others) and others[self._next_other][1].number < number:
            part, line = others[self._next_other]
            self._next_other += 1
            player = self._own.get(part.sid)
            if player is None:
                player = self._own[part.sid] = Player(self.model.play(), part, chosen=True)
                self._live[part.sid] = player.session_id
            connection = player.connection
            if line.kind == steps.EXPIRE:
                self.model.end_session(connection.session_id)
                for key in line.writes:
                    self._written[key] = line.number
            elif line.kind == steps.REQUEST and (line.writes or _is_write(line.exchange)):
                exchange = line.exchange
                counted = (self.tally.recorded, self.tally.by_tree)
                body = body_of(exchange.opcode, exchange.request)
                self._play(player, line, exchange.request, body)
                self.tally.recorded, self.tally.by_tree = counted
            connection.out.clear()

    # ---- the end

    def never_asked(self) -> list[tuple[Part, Line]]:
        """Recorded requests that nobody asked for, in order."""
        left = [
            (part, line) for part in self.script.parts for line in part.requests() if not line.asked
        ]
        return sorted(left, key=lambda one: one[1].number)


def _begins(part: Part) -> Key | None:
    return next((one.key for one in part.lines if one.kind == steps.REQUEST), None)


def _is_write(exchange: Exchange) -> bool:
    op = BY_NUMBER.get(exchange.opcode)
    return op is not None and op.effect == "w"


def _error(reply: bytes) -> int:
    return int.from_bytes(reply[12:16], "big", signed=True)


def _succeeded(reply: bytes | None) -> bool:
    """Whether a write was made, as far as its reply tells (without one: as if it was)."""
    if reply is None:
        return True
    return reply[12:16] == bytes(4)


def _nearest(part: Part | None, key: Key) -> str:
    """The recorded request that comes nearest, and in what it differs."""
    if part is None:
        return "all recorded sessions are taken"
    same_op = [one for one in part.by_key if one[0] == key[0]]
    if key in part.counts:
        count = part.counts[key]
        return f"recorded {count} times, and asked for as often" if count > 1 else "recorded once"
    other = next((one for one in part.by_key if one[1] == key[1]), None)
    if other is not None:
        return f"recorded on this path: {op_name(other[0])}"
    if same_op:
        nearest = max(same_op, key=lambda one: _common(one[1], key[1]))
        return f"nearest: {op_name(nearest[0])} {nearest[1]}"
    return f"no {op_name(key[0])} was recorded in this session"


def _common(one: str, two: str) -> int:
    length = 0
    for a, b in zip(one, two, strict=False):
        if a != b:
            break
        length += 1
    return length
