"""Messages with pseudonyms for what they name. Sizes stay; secrets become zeros.

Driven by the record classes: every field whose name says that it holds a path, data, an id or a
secret is replaced, wherever it stands; a body that fits no layout keeps its header only. Pure.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, Final

from zktrace.wire.jute import WireError
from zktrace.wire.message import decode_body
from zktrace.wire.multi import MultiRequest, MultiResponse
from zktrace.wire.opcodes import AUTH
from zktrace.wire.records import ACL, ClientInfo, ConnectRequest, ConnectResponse, WatcherEvent
from zktrace_proxy.scrub.pseudonyms import Pseudonyms

_SASL: Final = 102
_PATHS: Final = frozenset({"path", "created_path", "synced_path", "prefix_path"})
_PATH_LISTS: Final = frozenset(
    {
        *("data_watches", "exist_watches", "child_watches"),
        *("persistent_watches", "persistent_recursive_watches", "children"),
    }
)
_DATA: Final = frozenset({"data", "datas"})
_SECRETS: Final = frozenset({"auth", "token", "password"})
_TEXTS: Final = frozenset({"joining_servers", "leaving_servers", "new_members"})


class Bodies:
    """`unknown` counts bodies of no known layout, of which only the header is left."""

    def __init__(self, pseudonyms: Pseudonyms) -> None:
        self._names = pseudonyms
        self.unknown = 0

    def connect_request(self, payload: bytes) -> bytes:
        """A ConnectRequest."""
        return self._handshake(ConnectRequest, payload)

    def connect_response(self, payload: bytes) -> bytes:
        """The server's first frame."""
        if len(payload) == 16:
            return payload  # a bare ReplyHeader: read-only
        return self._handshake(ConnectResponse, payload)

    def _handshake(self, kind: Any, payload: bytes) -> bytes:
        try:
            body = kind.decode(payload)
        except WireError:
            self.unknown += 1
            return payload[:4] + bytes(len(payload) - 4)
        body.session_id = self._names.session(body.session_id)
        if body.password is not None:
            body.password = bytes(len(body.password))
        return bytes(body.encode())

    def request(self, opcode: int, payload: bytes) -> bytes:
        """Any other request."""
        return payload[:8] + self._body(opcode, "request", payload[8:])

    def reply(self, opcode: int | None, payload: bytes) -> bytes:
        """A reply; opcode None: its request was not seen."""
        if len(payload) <= 16:
            return payload
        if opcode is None:
            self.unknown += 1
            return payload[:16] + bytes(len(payload) - 16)
        return payload[:16] + self._body(opcode, "reply", payload[16:])

    def event(self, payload: bytes) -> bytes:
        """A watch event."""
        try:
            body = WatcherEvent.decode(payload[16:])
        except WireError:
            self.unknown += 1
            return payload[:16] + bytes(len(payload) - 16)
        self._replace(body)
        return payload[:16] + body.encode()

    def _body(self, opcode: int, which: str, data: bytes) -> bytes:
        if opcode in (AUTH, _SASL) and which == "reply":
            return bytes(len(data))
        try:
            body = decode_body(opcode, which, data)
            self._replace(body)
            made = body.encode()
        except WireError:
            made = b""
        if len(made) != len(data):
            # no layout fits, or it was not written as it would be now
            self.unknown += 1
            return bytes(len(data))
        return made

    def _replace(self, body: Any) -> None:
        if isinstance(body, MultiRequest):
            for op in body.ops:
                self._replace(op.body)
        elif isinstance(body, MultiResponse):
            for result in body.results:
                if result.body is not None:
                    self._replace(result.body)
        elif isinstance(body, ACL):
            body.id.id = body.id.id and self._names.identity(body.id.scheme or "", body.id.id)
        elif isinstance(body, ClientInfo):
            body.user = body.user and self._names.identity(body.auth_scheme or "", body.user)
        else:
            for one in fields(body):
                self._field(body, one.name, getattr(body, one.name))

    def _field(self, body: Any, name: str, value: Any) -> None:
        names = self._names
        if value is None:
            return
        made: Any = value
        if name in _PATHS:
            made = names.path(value)
        elif name in _PATH_LISTS:
            made = [one and names.path(one) for one in value]
        elif name in _DATA:
            many = isinstance(value, list)
            made = [one and names.data(one) for one in value] if many else names.data(value)
        elif name in _SECRETS:
            made = bytes(len(value))
        elif name == "ephemeral_owner":
            made = names.owner(value)
        elif name in _TEXTS:
            made = names.component(value)
        elif isinstance(value, bytes):
            made = bytes(len(value))  # what nobody knows
        elif isinstance(value, list):
            for one in value:
                if is_dataclass(one):
                    self._replace(one)
        elif is_dataclass(value):
            self._replace(value)
        if made is not value:
            setattr(body, name, made)
