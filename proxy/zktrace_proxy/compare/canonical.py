"""Two replies to the same request: equal, equal after mapping, allowed to differ, or different.

What a server chooses is compared through the maps: zxids, session ids, names of sequential nodes.
Versions of a node that was there before the recording began are compared by how they change. Times
are not compared; children are a set. What nothing is known of (a zxid from before the recording) is
not called equal, but allowed. Pure functions of bytes and maps.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, Final

from zktrace.wire.codec import Record
from zktrace.wire.errors import error_name
from zktrace.wire.jute import WireError
from zktrace.wire.message import decode_body
from zktrace.wire.multi import MultiRequest, MultiResponse
from zktrace.wire.records import ConnectResponse, Stat, WatcherEvent
from zktrace_proxy.messages.exchanges import CONNECT_OP, SASL_OP, Exchange
from zktrace_proxy.messages.maps import Maps


class Verdict(IntEnum):
    """The greater, the worse."""

    equal = 0
    mapped = 1
    allowed = 2
    different = 3


@dataclass(slots=True)
class Finding:
    """Verdict and, unless it is equal, why: `what` differs (a field's name), and both values."""

    verdict: Verdict
    what: str = ""
    recorded: str = ""
    live: str = ""


EQUAL: Final = Finding(Verdict.equal)
MAPPED: Final = Finding(Verdict.mapped, "zxids")
_STAT: Final = struct.Struct(">qqqqiiiqiiq")
_MASK: Final = (1 << 64) - 1
#: Text of a value in a report has at most so many characters.
_SHOWN: Final = 80


@dataclass(slots=True)
class _Look:
    """The worst so far of one comparison."""

    worst: Finding = field(default_factory=lambda: EQUAL)

    def note(self, verdict: Verdict, what: str, recorded: object, live: object) -> None:
        if verdict > self.worst.verdict:
            self.worst = Finding(verdict, what, _shown(recorded), _shown(live))


class Judge:
    """Compares with the maps as they are: both replies of a write must have been learned before
    those that show it are judged.
    """

    def __init__(self, maps: Maps, names_in: Callable[[str], object] | None = None) -> None:
        self._maps = maps
        #: whether data of a recorded path holds names of sequential nodes
        self._names_in = names_in

    # ---- learning

    def learn(self, exchange: Exchange, live: bytes, makes: tuple[str, ...]) -> None:
        """Both replies to a request, of which the maps are made; `makes`: recorded names of
        sequential nodes that it made.
        """
        maps = self._maps
        recorded = exchange.reply
        if recorded is None or len(live) < 16 or len(recorded) < 16:
            return
        opcode = exchange.opcode
        if opcode in WRITES and exchange.zxid:
            maps.zxids.learn(exchange.zxid, int.from_bytes(live[4:12], "big", signed=True))
        if makes:
            names = maps.names
            for mine, other in created_names(exchange, live):
                # anything else is another name, not another number
                if names.to_live(mine[:-10]) == other[:-10]:
                    names.learn(mine, other[len(names.prefix) :])
        if maps.offsets.by_path and opcode in CREATES and exchange.error == 0:
            body = decode_body(opcode, "request", exchange.request[8:])
            maps.offsets.forget(getattr(body, "path", None) or "")

    # ---- replies

    def reply(self, exchange: Exchange, live: bytes | None) -> Finding:
        """The verdict on a request's replies; None: the live server gave none."""
        recorded = exchange.reply
        if recorded is None:
            return Finding(Verdict.allowed, "no reply was recorded")
        if live is None:
            return Finding(Verdict.different, "reply", "answered", "no reply")
        if not exchange.reply_whole:
            return Finding(Verdict.allowed, "the recorded reply is not whole")
        if exchange.opcode == CONNECT_OP:
            return self._connect(recorded, live)
        if exchange.opcode == SASL_OP or len(recorded) < 16 or len(live) < 16:
            return Finding(Verdict.allowed, "not compared")
        if recorded[12:] == live[12:] and (len(recorded) == 16 or exchange.opcode in WITHOUT_STAT):
            return EQUAL
        if exchange.opcode in STAT_LAST and self._same_stat(recorded, live):
            return MAPPED
        error, live_error = recorded[12:16], live[12:16]
        if error != live_error:
            return Finding(Verdict.different, "error", _error(error), _error(live_error))
        return self._bodies(exchange, recorded, live)

    def _same_stat(self, recorded: bytes, live: bytes) -> bool:
        """The common case, quickly: the same but for zxids and times."""
        at = len(recorded) - _STAT.size
        if at < 16 or len(live) != len(recorded) or recorded[12:at] != live[12:at]:
            return False
        if self._maps.offsets.by_path:
            return False
        ours, theirs = _STAT.unpack_from(recorded, at), _STAT.unpack_from(live, at)
        zxid = self._maps.zxids.live
        return (
            ours[4:10] == theirs[4:10]
            and zxid(ours[0]) == theirs[0]
            and zxid(ours[1]) == theirs[1]
            and zxid(ours[10]) == theirs[10]
        )

    def _bodies(self, exchange: Exchange, recorded: bytes, live: bytes) -> Finding:
        opcode = exchange.opcode
        look = _Look()
        try:
            request = decode_body(opcode, "request", exchange.request[8:])
        except WireError:
            request = None
        try:
            ours = decode_body(opcode, "reply", recorded[16:])
        except WireError:
            # of no known layout: as bytes
            if recorded[16:] != live[16:]:
                look.note(Verdict.different, "body", recorded[16:], live[16:])
            return look.worst
        try:
            theirs = decode_body(opcode, "reply", live[16:])
        except WireError as error:
            return Finding(Verdict.different, "body", "", f"cannot be read: {error.reason}")
        if isinstance(ours, MultiResponse) and isinstance(theirs, MultiResponse):
            self._multi(look, request, ours, theirs)
        else:
            self._record(look, request, ours, theirs)
        return look.worst

    def _multi(self, look: _Look, request: Any, ours: MultiResponse, theirs: MultiResponse) -> None:
        if len(ours.results) != len(theirs.results):
            look.note(Verdict.different, "results", len(ours.results), len(theirs.results))
            return
        ops = request.ops if isinstance(request, MultiRequest) else []
        for number, (one, two) in enumerate(zip(ours.results, theirs.results, strict=True)):
            own_error, their_error = _result_error(one), _result_error(two)
            if own_error != their_error:
                what = f"error of part {number}"
                look.note(Verdict.different, what, error_name(own_error), error_name(their_error))
            elif one.body is not None and two.body is not None and one.err == 0:
                body = ops[number].body if number < len(ops) else None
                if type(one.body) is type(two.body):
                    self._record(look, body, one.body, two.body)
                else:
                    # create2 is answered as create by ZooKeeper 3.8, as create2 by 3.9
                    look.note(Verdict.allowed, f"form of part {number}", one.type, two.type)
                    self._name(look, body, one.body, two.body)

    def _name(self, look: _Look, request: Any, ours: Any, theirs: Any) -> None:
        mine, other = getattr(ours, "created_path", None), getattr(theirs, "created_path", None)
        if mine is not None and other is not None:
            self._field(look, "created_path", mine, other, request)

    def _record(self, look: _Look, request: Any, ours: Any, theirs: Any) -> None:
        for one in fields(ours):
            name = one.name
            self._field(look, name, getattr(ours, name), getattr(theirs, name), request)

    def _field(self, look: _Look, name: str, ours: Any, theirs: Any, request: Any) -> None:
        if isinstance(ours, Stat):
            path = getattr(request, "path", None) or ""
            self._stat(look, path, ours, theirs)
        elif name == "children":
            self._children(look, getattr(request, "path", None) or "", ours, theirs)
        elif name in ("created_path", "synced_path"):
            names = self._maps.names
            if ours != theirs:
                # the map knows it of this very reply, or by the names above it
                same = theirs is not None and names.to_recorded(theirs) == ours
                verdict = Verdict.mapped if same else Verdict.different
                look.note(verdict, name, ours, theirs)
        elif ours != theirs:
            same = name == "data" and self._same_data(ours, theirs, request)
            look.note(Verdict.mapped if same else Verdict.different, name, ours, theirs)

    def _same_data(self, ours: Any, theirs: Any, request: Any) -> bool:
        """But for the names in it, by rule."""
        if self._names_in is None or not ours or not theirs:
            return False
        named = self._names_in(getattr(request, "path", None) or "")
        return bool(named) and self._maps.names.data_to_recorded(theirs) == ours

    def _children(self, look: _Look, path: str, ours: Any, theirs: Any) -> None:
        if ours is None or theirs is None:
            if ours != theirs:
                look.note(Verdict.different, "children", ours, theirs)
            return
        mine, others = set(ours), set(theirs)
        if mine == others and len(ours) == len(theirs):
            return
        names = self._maps.names
        base = path.rstrip("/")
        live_base = names.to_live(path).rstrip("/")
        mapped = set()
        for name in others:
            whole = name if name.startswith("/") else f"{live_base}/{name}"
            back = names.to_recorded(whole)
            mapped.add(back if name.startswith("/") else back[len(base) + 1 :])
        if mapped == mine and len(ours) == len(theirs):
            look.note(Verdict.mapped, "children", "", "")
            return
        missing, more = sorted(mine - mapped), sorted(mapped - mine)
        text = f"without {', '.join(missing[:5])}" if missing else ""
        text += f"{' and ' if missing and more else ''}with {', '.join(more[:5])}" if more else ""
        look.note(Verdict.different, "children", f"{len(mine)}", f"{len(mapped)} ({text})")

    def _stat(self, look: _Look, path: str, ours: Stat, theirs: Stat) -> None:
        for name in ("czxid", "mzxid", "pzxid"):
            self._zxid(look, name, getattr(ours, name), getattr(theirs, name))
        for name in ("data_length", "num_children"):
            mine, other = getattr(ours, name), getattr(theirs, name)
            if mine != other:
                look.note(Verdict.different, name, mine, other)
        self._owner(look, ours.ephemeral_owner, theirs.ephemeral_owner)
        mine = (ours.version, ours.cversion, ours.aversion)
        other = (theirs.version, theirs.cversion, theirs.aversion)
        if mine == other and path not in self._maps.offsets.by_path:
            return
        known = self._maps.zxids.live(ours.czxid) is not None
        offset = self._maps.offsets.by_path.get(path)
        moved = tuple(b - a for a, b in zip(mine, other, strict=True))
        if offset is None and not known:
            # there before the recording: from here on they change alike
            self._maps.offsets.learn(path, mine, other)
            look.note(Verdict.allowed, "versions of a node from before the recording", mine, other)
        elif offset is not None and moved == offset and not known:
            look.note(Verdict.mapped, "versions", mine, other)
        else:
            for index, name in enumerate(("version", "cversion", "aversion")):
                if moved[index] != (offset or (0, 0, 0))[index]:
                    look.note(Verdict.different, name, mine[index], other[index])

    def _zxid(self, look: _Look, name: str, ours: int, theirs: int) -> None:
        zxids = self._maps.zxids
        expected = zxids.live(ours)
        if expected is not None:
            if expected != theirs:
                look.note(Verdict.different, name, hex(ours), self._live_zxid(theirs, expected))
            elif ours != theirs:
                look.note(Verdict.mapped, name, hex(ours), hex(theirs))
        elif (known := zxids.recorded(theirs)) is not None:
            look.note(Verdict.different, name, hex(ours), f"{hex(theirs)} (recorded: {hex(known)})")
        elif ours != theirs:
            look.note(Verdict.allowed, f"{name} of a write that was not recorded",
                      hex(ours), hex(theirs))  # fmt: skip

    def _live_zxid(self, zxid: int, expected: int) -> str:
        back = self._maps.zxids.recorded(zxid)
        meant = f"of the write recorded as {hex(back)}" if back is not None else "of no known write"
        return f"{hex(zxid)}, {meant}, instead of {hex(expected)}"

    def _owner(self, look: _Look, ours: int, theirs: int) -> None:
        mine, other = ours & _MASK, theirs & _MASK
        if mine == other:
            return
        live = self._maps.sessions.live(mine)
        if live is not None and live.sid & _MASK == other:
            look.note(Verdict.mapped, "ephemeral_owner", "", "")
        elif live is None and self._maps.sessions.recorded(other) is None and mine and other:
            look.note(Verdict.allowed, "owner that the recording does not know", "", "")
        else:
            look.note(Verdict.different, "ephemeral_owner", hex(mine), hex(other))

    def _connect(self, recorded: bytes, live: bytes) -> Finding:
        look = _Look()
        try:
            ours, theirs = ConnectResponse.decode(recorded), ConnectResponse.decode(live)
        except WireError:
            if recorded == live:
                return EQUAL
            return Finding(Verdict.different, "answer to the connect", "", "of another form")
        if bool(ours.session_id) != bool(theirs.session_id):
            granted = ("refused", "granted")
            return Finding(
                Verdict.different,
                "session",
                granted[bool(ours.session_id)],
                granted[bool(theirs.session_id)],
            )
        look.note(Verdict.mapped, "session", "", "")
        if ours.timeout_ms != theirs.timeout_ms:
            look.note(Verdict.allowed, "session timeout", ours.timeout_ms, theirs.timeout_ms)
        if bool(ours.read_only) != bool(theirs.read_only):
            look.note(Verdict.different, "read_only", ours.read_only, theirs.read_only)
        return look.worst

    # ---- watch events

    def event_key(self, payload: bytes, *, live: bool) -> tuple[int, int, str] | None:
        """Type, state and path of a watch event, in the recording's names."""
        try:
            event = WatcherEvent.decode(payload[16:])
        except WireError:
            return None
        path = event.path or ""
        return event.type, event.state, self._maps.names.to_recorded(path) if live else path


def created_names(exchange: Exchange, live: bytes | None) -> list[tuple[str, str]]:
    """Names with numbers that a create, or a multi, made: the recorded and the live one."""
    recorded = exchange.reply
    if recorded is None or live is None or recorded[12:16] != live[12:16]:
        return []
    try:
        ours = decode_body(exchange.opcode, "reply", recorded[16:])
        theirs = decode_body(exchange.opcode, "reply", live[16:])
    except WireError:
        return []  # failures, and what is told where the replies are judged
    if isinstance(ours, MultiResponse) and isinstance(theirs, MultiResponse):
        pairs: list[tuple[Any, Any]] = [
            (one.body, two.body) for one, two in zip(ours.results, theirs.results, strict=False)
        ]
    else:
        pairs = [(ours, theirs)]
    names = [
        (getattr(one, "created_path", None), getattr(two, "created_path", None))
        for one, two in pairs
    ]
    return [
        (mine, other) for mine, other in names
        if mine and other and (mine[-10:] + other[-10:]).isdigit()
    ]  # fmt: skip


#: Opcodes whose successful reply has its own zxid.
WRITES: Final = frozenset((1, 2, 5, 7, 13, 14, 15, 16, 19, 20, 21, -11, 501, 502, 503, 504, 505))
CREATES: Final = frozenset((1, 15, 19, 21, 502))
#: Replies whose bytes say all: no Stat, no list whose order is not defined.
WITHOUT_STAT: Final = frozenset((1, 2, 9, 13, 17, 18, 20, 101, 104, 105, 106, -11, 501, 505))
#: Replies that end with a Stat, and of which the rest is compared as it is.
STAT_LAST: Final = frozenset((3, 4, 5, 6, 7, 15, 19, 21))


def _result_error(result: Any) -> int:
    if result.body is not None and result.type == -1:
        return int(result.body.err)
    return int(result.err)


def _error(data: bytes) -> str:
    return error_name(int.from_bytes(data, "big", signed=True))


def _shown(value: object) -> str:
    if isinstance(value, (bytes, bytearray)):
        # node data and bodies are nobody's business but by their length
        return f"{len(value)} bytes"
    if isinstance(value, Record):
        return type(value).__name__
    if isinstance(value, list):
        return f"{len(value)} of {type(value[0]).__name__ if value else 'nothing'}"
    text = str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
