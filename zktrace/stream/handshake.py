"""ConnectRequest and ConnectResponse: the first frames of a client connection.

They have no header, and their form depends on their length (protocol reference, 2.1 and 2.2): the
readOnly byte came with ZooKeeper 3.4, a read-only server may answer with a bare ReplyHeader, and
ClickHouse Keeper's protocol versions add a byte. Passwords are skipped, never kept. Pure functions
of the frame's bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from zktrace.stream.probe import PASSWORD_MAX, keeper_flags

#: What a connect row is shown as: createSession's number.
CONNECT_OPCODE = -10
SESSION_EXPIRED = -112

#: ClickHouse Keeper's protocol versions (see zktrace.wire.keeper).
KEEPER_COMPRESSED, KEEPER_TRACING, KEEPER_REJECTED = 10, 12, 42

#: Bytes of a session's password.
PASSWORD = 16
#: The least that a handshake takes in the stream of either direction: without a password.
CONNECT_BYTES, CONNECTED_BYTES = 32, 24

_CONNECT = struct.Struct(">qiqi")  # last zxid, timeout, session, password length
_CONNECTED = struct.Struct(">iiqi")  # version, timeout, session, password length
_REPLY = struct.Struct(">iqi")


@dataclass(slots=True)
class Connect:
    """What a ConnectRequest says; None is what was not captured."""

    version: int | None = None
    last_zxid: int | None = None
    timeout: int | None = None
    session: int = 0
    read_only: bool | None = None
    malformed: bool = False
    #: 64-bit xids follow (ClickHouse Keeper)
    wide_xids: bool = False
    #: what follows is compressed (ClickHouse Keeper)
    compressed: bool = False
    #: each request is followed by a tracing context that its length does not count (ClickHouse
    #: Keeper)
    tracing: bool = False


@dataclass(slots=True)
class Connected:
    """What a ConnectResponse says; None is what was not captured, or is not in it."""

    version: int | None = None
    timeout: int | None = None
    #: 0 where no session was granted
    session: int = 0
    read_only: bool | None = None
    error: int | None = None
    zxid: int | None = None
    malformed: bool = False


def parse_connect(head: bytes) -> Connect:
    """A ConnectRequest, as much as there is of it."""
    connect = Connect()
    if len(head) < 4:
        connect.malformed = True
        return connect
    connect.version = int.from_bytes(head[:4], "big", signed=True)
    flags = keeper_flags(connect.version)
    body = head[4 + flags :]
    given = head[4 : 4 + flags]
    connect.tracing = flags == 2
    connect.wide_xids = flags == 1 or given[:1] not in (b"", b"\0")
    connect.compressed = connect.version == KEEPER_COMPRESSED or given[flags - 1 :] not in (
        b"",
        b"\0",
    )
    if len(body) < 24:
        connect.malformed = True
        return connect
    connect.last_zxid, connect.timeout, connect.session, size = _CONNECT.unpack_from(body)
    rest = 24 + max(size, 0)
    if size < -1 or rest > len(body):
        connect.malformed = True
    elif rest < len(body):
        connect.read_only = body[rest] != 0
    return connect


def is_connect_again(head: bytes, length: int) -> bool:
    """Whether this is a ConnectRequest, which no connection has but as its first frame: a password
    of 16 bytes, a timeout, no version. A request whose xid is 0 has another form.
    """
    if not 44 <= length <= 45 or len(head) < 28 or head[:4] != bytes(4):
        return False
    last_zxid, timeout, _session, size = _CONNECT.unpack_from(head, 4)
    return bool(last_zxid >= 0 and timeout > 0 and size == PASSWORD)


def is_connected_again(head: bytes, length: int) -> bool:
    """Whether this is a ConnectResponse that grants a session, by its form: a reply of this length
    has no error, where the second half of the session is.
    """
    if not 36 <= length <= 37 or len(head) < 20 or head[:4] != bytes(4):
        return False
    _version, timeout, session, size = _CONNECTED.unpack_from(head)
    return bool(timeout > 0 and session & 0xFFFFFFFF and size == PASSWORD)


def is_connected(head: bytes, length: int, version: int | None) -> bool:
    """Whether a server's first frame can be the answer to a ConnectRequest of this version.

    It is not where the capture missed the answer and begins with a later reply. What was not
    captured of a damaged frame cannot be held against it.
    """
    if length == 16:
        # a bare ReplyHeader refuses with an error; pings and errors of requests have other xids
        return len(head) < 16 or (head[:4] == bytes(4) and head[12:] != bytes(4))
    if len(head) < 20:
        return length >= 20
    answered, timeout, _, size = _CONNECTED.unpack_from(head)
    if answered not in (0, version, KEEPER_REJECTED) or timeout < 0:
        return False
    rest = 20 + max(size, 0)
    return bool(-1 <= size <= PASSWORD_MAX and rest <= length <= rest + 1)


def parse_connected(head: bytes, length: int) -> Connected:
    """A ConnectResponse of `length` bytes, as much as there is of it."""
    connected = Connected()
    if length == 16 and len(head) == 16:
        # a read-only server without local sessions answers with a bare ReplyHeader (NotReadOnly)
        _, connected.zxid, connected.error = _REPLY.unpack(head)
        return connected
    if len(head) < 20:
        connected.malformed = True
        return connected
    connected.version, connected.timeout, connected.session, size = _CONNECTED.unpack_from(head)
    rest = 20 + max(size, 0)
    if size < -1 or rest > len(head):
        connected.malformed = True
    elif rest < len(head):
        connected.read_only = head[rest] != 0
    connected.error = SESSION_EXPIRED if connected.session == 0 else 0
    return connected
