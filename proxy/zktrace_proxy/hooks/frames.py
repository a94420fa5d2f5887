"""What interceptors are given, and what they may return: frames as objects.

A hook returns None (the frame goes on as it is), :data:`DROP`, :data:`CLOSE`, or what a method of
the frame gives: ``forward()`` after its ``body`` was changed, ``error(name)``, ``answer(body)``.
Bodies are the records of :mod:`zktrace.wire.records`; reading one that cannot be decoded raises
:class:`zktrace.wire.jute.WireError`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final

from zktrace.wire.errors import ERRORS, EVENT_TYPES
from zktrace.wire.message import Body, decode_body, encode_reply, encode_request, frame
from zktrace.wire.multi import MultiRequest, MultiResponse
from zktrace.wire.opcodes import WATCH_XID, op_name
from zktrace.wire.records import WatcherEvent
from zktrace_proxy.plane import Plane, Question, Verdict

_CODES: Final = {name: code for code, name in ERRORS.items()}
_EVENTS: Final = {name: code for code, name in EVENT_TYPES.items()}
_REPLY: Final = struct.Struct(">iqi")
_CONNECTED: Final = 3


@dataclass(frozen=True, slots=True)
class Change:
    """What a hook wants; made by methods of frames, and :data:`DROP` and :data:`CLOSE`."""

    what: Verdict
    frame: bytes | None = None


#: The frame goes no further. (A client that waits for a reply waits on.)
DROP: Final = Change("drop")
#: The connection is reset.
CLOSE: Final = Change("close")


def _code(error: str | int) -> int:
    if isinstance(error, int):
        return error
    if error not in _CODES:
        raise ValueError(f"unknown error {error!r}")
    return _CODES[error]


class _Frame:
    """What all frames have."""

    def __init__(self, question: Question, plane: Plane) -> None:
        self._question = question
        self._plane = plane
        self.client = question.client
        """``ip:port``."""
        self.server = question.server
        self.session = question.session
        """The session's id; None before there is one."""
        self.connection = question.connection
        """A number of its own for each connection through this proxy."""
        self.path = question.path
        """Of a request whose body begins with one, and of its reply; of a watch event."""

    @property
    def payload(self) -> bytes:
        """The frame without its length."""
        return self._question.frame[4:]

    def send_event(self, event: str, path: str) -> bool:
        """Sends the client a watch event that no server sent (``NodeDataChanged`` ...); whether
        the connection is still there.
        """
        if event not in _EVENTS:
            raise ValueError(f"unknown watch event {event!r}")
        body = WatcherEvent(_EVENTS[event], _CONNECTED, path)
        return self._plane.inject(self.connection, frame(encode_reply(WATCH_XID, -1, 0, body)))


class Request(_Frame):
    """A request on its way to the server."""

    def __init__(self, question: Question, plane: Plane) -> None:
        super().__init__(question, plane)
        self.xid = question.xid
        self.opcode: int = -1 if question.opcode is None else question.opcode
        self.op = op_name(self.opcode)

    @cached_property
    def body(self) -> Body:
        """What is asked, as a record; may be changed, and sent on by :meth:`forward`."""
        return decode_body(self.opcode, "request", self.payload[8:])

    def forward(self) -> Change:
        """The request with its body as it is now."""
        return Change("replace", frame(encode_request(self.xid, self.opcode, self.body)))

    def error(self, error: str | int) -> Change:
        """An error (name or code) for an answer; the server is not asked."""
        return Change("answer", frame(encode_reply(self.xid, 0, _code(error))))

    def answer(self, body: Body, zxid: int = 0) -> Change:
        """A reply; the server is not asked. `body`: the reply's record of this op."""
        return Change("answer", frame(encode_reply(self.xid, zxid, 0, body)))


class Reply(_Frame):
    """A reply on its way to the client. `op` and `path` are of its request; op is None where the
    request was sent before the hook was there.
    """

    def __init__(self, question: Question, plane: Plane) -> None:
        super().__init__(question, plane)
        self.opcode = question.opcode
        self.op = None if self.opcode is None else op_name(self.opcode)
        self.xid, self.zxid, self.err = _REPLY.unpack_from(self.payload)

    @cached_property
    def body(self) -> Body | None:
        """What is answered, as a record; None where it is an error."""
        if self.err or self.opcode is None:
            return None
        return decode_body(self.opcode, "reply", self.payload[_REPLY.size :])

    def forward(self) -> Change:
        """The reply with its body as it is now."""
        return Change("replace", frame(encode_reply(self.xid, self.zxid, self.err, self.body)))

    def error(self, error: str | int) -> Change:
        """The reply becomes an error; what was asked has been done nevertheless."""
        return Change("replace", frame(encode_reply(self.xid, self.zxid, _code(error))))


class WatchEvent(_Frame):
    """A watch event on its way to the client."""

    @cached_property
    def body(self) -> WatcherEvent:
        """The event; may be changed, and sent on by :meth:`forward`."""
        return WatcherEvent.decode(self.payload[_REPLY.size :])

    @property
    def event(self) -> str:
        """``NodeCreated`` ..."""
        return EVENT_TYPES.get(self.body.type, str(self.body.type))

    def forward(self) -> Change:
        """The event with its body as it is now."""
        return Change("replace", frame(encode_reply(WATCH_XID, -1, 0, self.body)))


FRAMES: Final[dict[str, type[Request] | type[Reply] | type[WatchEvent]]] = {
    "request": Request,
    "reply": Reply,
    "event": WatchEvent,
}

#: Fields of records that are paths, or lists of them.
_PATHS: Final = frozenset(("path", "prefix_path", "created_path", "synced_path"))
_LISTS: Final = frozenset(
    (
        *("data_watches", "exist_watches", "child_watches"),
        *("persistent_watches", "persistent_recursive_watches"),
    )
)


def map_paths(body: Any, change: Callable[[str], str]) -> None:
    """Changes all paths of a body in place; of a multi, those of its parts.

    Names of children are no paths.
    """
    if isinstance(body, MultiRequest):
        for op in body.ops:
            map_paths(op.body, change)
    elif isinstance(body, MultiResponse):
        for result in body.results:
            map_paths(result.body, change)
    elif body is not None:
        for one in fields(body):
            value = getattr(body, one.name)
            if one.name in _PATHS and value is not None:
                setattr(body, one.name, change(value))
            elif one.name in _LISTS and value is not None:
                setattr(body, one.name, [change(path) for path in value])
