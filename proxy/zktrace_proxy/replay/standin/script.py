"""A recording as a part to be played: per session what is asked for, and of what state it tells.

Each line knows which writes of the recording preceded it on the nodes that it is about. Where the
same writes, and no others, were made to the stand-in's tree, the line tells of the tree as it is;
elsewhere it does not. All lines are held in memory. No input or output beyond the plan's file.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from zktrace.wire.codec import Record
from zktrace.wire.jute import WireError
from zktrace.wire.message import decode_body
from zktrace.wire.multi import MultiRequest
from zktrace.wire.opcodes import op_name
from zktrace_proxy.messages.exchanges import Exchange
from zktrace_proxy.replay import steps
from zktrace_proxy.replay.effects import SUFFIX, parent, paths_of
from zktrace_proxy.replay.plan import Plan
from zktrace_proxy.replay.watching import event_of

#: What a request is recognised by: opcode, and path or paths.
Key: TypeAlias = tuple[int, str]

#: CreateMode: the server puts a number behind the name.
SEQUENTIAL: Final = (2, 3, 6)
_CHILDREN: Final = 4
#: Number of a write that the recording does not have.
ELSEWHERE: Final = -2
_NEVER: Final = -1
#: Behind a parent's path: any name that gets a number.
_ANY_NAME: Final = "/*"


@dataclass(slots=True, eq=False)
class Line:
    """A recorded exchange. `number` is its place in the order of all."""

    number: int
    exchange: Exchange
    kind: int
    key: Key
    #: of each node, or list of children, that it reads or writes: number of the write before it
    before: tuple[tuple[str, int], ...]
    writes: tuple[str, ...]
    #: watch events before it that no recorded write explains
    unexplained: tuple[bytes, ...] = ()
    #: place in its session
    place: int = 0
    asked: bool = False

    @property
    def name(self) -> str:
        """As reports name it."""
        return f"{op_name(self.exchange.opcode)} {self.key[1]}".rstrip()


@dataclass(slots=True, eq=False)
class Part:
    """A recorded session. `client`: address of its first connection."""

    sid: int
    client: str
    lines: list[Line] = field(default_factory=list)
    #: requests that were not asked for yet
    by_key: dict[Key, list[Line]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[Key] = field(default_factory=Counter)
    #: number of its first line
    first: int = 0

    def settle(self) -> None:
        """All lines are known: one connection behind the other, as the client had it. In the order
        of all, what got no reply stands behind the next connect.
        """
        ranks: dict[int, int] = {}
        for line in self.lines:
            ranks.setdefault(line.exchange.conn, len(ranks))

        def place(line: Line) -> tuple[int, float]:
            # the end of a session by time has no place of its own on the connection
            index = line.exchange.index
            return ranks[line.exchange.conn], index if index >= 0 else math.inf

        self.lines.sort(key=place)
        for number, line in enumerate(self.lines):
            line.place = number
            if line.kind == steps.REQUEST:
                self.by_key[line.key].append(line)
                self.counts[line.key] += 1

    def requests(self) -> list[Line]:
        """Those that a client asks for: no connects, no ends, no credentials."""
        return [one for one in self.lines if one.kind == steps.REQUEST]


@dataclass(slots=True)
class Script:
    """`parts` are sessions of clients that are to come, in order; `others` the lines of sessions
    that the stand-in plays itself, in order.
    """

    parts: list[Part]
    others: list[tuple[Part, Line]]


def key_of(opcode: int, body: Any, to_recorded: Callable[[str], str] = str) -> Key:
    """What a request is recognised by; `to_recorded` translates live paths."""
    if isinstance(body, MultiRequest):
        return opcode, " ".join(
            f"{op_name(op.type)}:{key_of(op.type, op.body, to_recorded)[1]}" for op in body.ops
        )
    path = getattr(body, "path", None)
    if not isinstance(path, str):
        return opcode, str(getattr(body, "scheme", None) or "")
    if getattr(body, "flags", 0) in SEQUENTIAL:
        return opcode, to_recorded(parent(path)).rstrip("/") + _ANY_NAME
    return opcode, to_recorded(path)


def body_of(opcode: int, payload: bytes) -> Record | MultiRequest | Any:
    """A request's body; None where no layout fits."""
    try:
        return decode_body(opcode, "request", payload[8:])
    except WireError:
        return None


def asked_name(body: Any) -> str:
    """The last part of the name that a create asks for, without the number that it will get."""
    path = getattr(body, "path", None) or ""
    return str(path).rpartition("/")[2]


def script(plan: Plan, clients: Collection[str] = ()) -> Script:
    """What a plan's recording asks for. `clients`: ``IP`` or ``IP:PORT`` of those that are to come
    (none: all that the recording has); the others' requests are the stand-in's to make.
    """
    reader = _Reader(plan)
    for number, (exchange, notes) in enumerate(plan.spool):
        reader.take(number, exchange, notes)
    parts: list[Part] = []
    others: list[tuple[Part, Line]] = []
    for part in reader.parts.values():
        part.settle()
        if not clients or _is_of(part.client, clients):
            parts.append(part)
        else:
            others += ((part, line) for line in part.lines)
    parts.sort(key=lambda one: one.first)
    others.sort(key=lambda one: one[1].number)
    return Script(parts, others)


def _is_of(client: str, clients: Collection[str]) -> bool:
    return client in clients or client.rpartition(":")[0].strip("[]") in clients


class _Reader:
    def __init__(self, plan: Plan) -> None:
        self._conversations = plan.heard.conversations
        self.parts: dict[int, Part] = {}
        #: the last write to each node and list of children, and the last time that a session
        #: looked there
        self._written: dict[str, int] = {}
        self._looked: dict[tuple[int, str], int] = {}

    def take(self, number: int, exchange: Exchange, notes: tuple[Any, ...]) -> None:
        kind, sid, _, reads, writes, *_ = notes
        part = self.parts.get(sid)
        if part is None:
            client = self._conversations[exchange.conn].client
            part = self.parts[sid] = Part(sid, client, first=number)
        written = self._written
        before = tuple((key, written.get(key, _NEVER)) for key in (*reads, *writes))
        asked = kind == steps.REQUEST
        body = body_of(exchange.opcode, exchange.request) if asked else None
        line = Line(
            number, exchange, kind, key_of(exchange.opcode, body), before, writes,
            tuple(one for one in exchange.events if not self._explained(sid, one)),
        )  # fmt: skip
        for key in writes:
            written[key] = number
        for key, _ in before:
            self._looked[sid, key] = number
        for path in paths_of(body) if body is not None else ():
            self._looked[sid, "n" + path] = self._looked[sid, "c" + path] = number
        part.lines.append(line)

    def _explained(self, sid: int, payload: bytes) -> bool:
        """Whether a recorded write since the session last looked there set a watch off."""
        event = event_of(payload)
        if event is None or event.path is None:
            return True
        kinds = "c" if event.type == _CHILDREN else "nc"
        looked = max(self._looked.get((sid, kind + event.path), _NEVER) for kind in kinds)
        return any(
            (at := self._written.get(kind + event.path, _NEVER)) > _NEVER and at >= looked
            for kind in kinds
        )


def number_of(path: str) -> int | None:
    """The number that a server put behind a name."""
    digits = path[-SUFFIX:]
    return int(digits) if len(digits) == SUFFIX and digits.isdecimal() else None
