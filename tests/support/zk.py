"""ZooKeeper messages as bytes, written from the wire reference with ``struct`` alone.

For crafting captures. Deliberately not made of ``zktrace.wire``: a mistake there must not hide
here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

Acl = tuple[int, str, str]
OPEN: Final[Sequence[Acl]] = ((31, "world", "anyone"),)

CREATE, DELETE, EXISTS, GET_DATA, SET_DATA, GET_ACL, SET_ACL = 1, 2, 3, 4, 5, 6, 7
GET_CHILDREN, SYNC, PING, GET_CHILDREN2, CHECK, MULTI, CREATE2 = 8, 9, 11, 12, 13, 14, 15
AUTH, SET_WATCHES, SASL, SET_WATCHES2, CLOSE = 100, 101, 102, 105, -11
XID_EVENT, XID_PING, XID_AUTH, XID_SET_WATCHES = -1, -2, -4, -8


def i32(value: int) -> bytes:
    return struct.pack(">i", value)


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def i64(value: int) -> bytes:
    """A long, given signed or as its bit pattern."""
    return struct.pack(">Q", value & 0xFFFFFFFFFFFFFFFF)


def boolean(value: bool) -> bytes:
    return b"\1" if value else b"\0"


def buffer(value: bytes | None) -> bytes:
    return i32(-1) if value is None else i32(len(value)) + value


def ustring(value: str | bytes | None) -> bytes:
    return buffer(value.encode() if isinstance(value, str) else value)


def vector(items: Sequence[bytes] | None) -> bytes:
    return i32(-1) if items is None else i32(len(items)) + b"".join(items)


def strings(values: Sequence[str]) -> bytes:
    return vector([ustring(v) for v in values])


def acls(values: Sequence[Acl] = OPEN) -> bytes:
    return vector([i32(perms) + ustring(scheme) + ustring(who) for perms, scheme, who in values])


def frame(payload: bytes) -> bytes:
    return i32(len(payload)) + payload


def connect_request(
    *,
    timeout_ms: int = 10000,
    session: int = 0,
    password: bytes | None = bytes(16),
    last_zxid: int = 0,
    version: int = 0,
    read_only: bool | None = False,
) -> bytes:
    """The payload; ``read_only=None`` leaves the byte out, as clients before 3.4 do."""
    tail = b"" if read_only is None else boolean(read_only)
    head = i32(version) + i64(last_zxid) + i32(timeout_ms) + i64(session)
    return head + buffer(password) + tail


def connect_response(
    *,
    timeout_ms: int = 10000,
    session: int,
    password: bytes = bytes(16),
    version: int = 0,
    read_only: bool | None = False,
) -> bytes:
    tail = b"" if read_only is None else boolean(read_only)
    return i32(version) + i32(timeout_ms) + i64(session) + buffer(password) + tail


def request(xid: int, opcode: int, body: bytes = b"") -> bytes:
    return i32(xid) + i32(opcode) + body


def reply(xid: int, zxid: int, error: int = 0, body: bytes = b"") -> bytes:
    return i32(xid) + i64(zxid) + i32(error) + body


def watch_event(kind: int, path: str, *, state: int = 3, zxid: int = -1) -> bytes:
    return reply(XID_EVENT, zxid, 0, i32(kind) + i32(state) + ustring(path))


#: Field names of a Stat in wire order with their formats.
STAT_FIELDS: Final = (
    ("czxid", "q"),
    ("mzxid", "q"),
    ("ctime", "q"),
    ("mtime", "q"),
    ("version", "i"),
    ("cversion", "i"),
    ("aversion", "i"),
    ("ephemeral_owner", "q"),
    ("data_length", "i"),
    ("num_children", "i"),
    ("pzxid", "q"),
)


def stat(**fields: int) -> bytes:
    """68 bytes; what is not given is 0."""
    return b"".join(struct.pack(">" + kind, fields.get(name, 0)) for name, kind in STAT_FIELDS)


def path_watch(path: str | bytes, watch: bool = False) -> bytes:
    return ustring(path) + boolean(watch)


def create(
    path: str | bytes, data: bytes = b"", flags: int = 0, acl: Sequence[Acl] = OPEN
) -> bytes:
    return ustring(path) + buffer(data) + acls(acl) + i32(flags)


def set_data(path: str, data: bytes, version: int = -1) -> bytes:
    return ustring(path) + buffer(data) + i32(version)


def multi_header(kind: int, done: bool = False, error: int = -1) -> bytes:
    return i32(kind) + boolean(done) + i32(error)


MULTI_END: Final = multi_header(-1, True)

#: Names of the opcodes a client may send, from the wire reference (3) and, from 500 on, ClickHouse
#: Keeper's sources.
OP_NAMES: Final = {
    1: "create",
    2: "delete",
    3: "exists",
    4: "getData",
    5: "setData",
    6: "getACL",
    7: "setACL",
    8: "getChildren",
    9: "sync",
    11: "ping",
    12: "getChildren2",
    13: "check",
    14: "multi",
    15: "create2",
    16: "reconfig",
    17: "checkWatches",
    18: "removeWatches",
    19: "createContainer",
    20: "deleteContainer",
    21: "createTTL",
    22: "multiRead",
    100: "auth",
    101: "setWatches",
    102: "sasl",
    103: "getEphemerals",
    104: "getAllChildrenNumber",
    105: "setWatches2",
    106: "addWatch",
    107: "whoAmI",
    500: "filteredList",
    501: "checkNotExists",
    502: "createIfNotExists",
    503: "removeRecursive",
    504: "checkStat",
    505: "tryRemove",
    506: "filteredListWithStatsAndData",
    507: "listRecursive",
    -10: "connect",
    -11: "closeSession",
}

#: Requests whose body begins with the path.
BEGIN_WITH_PATH: Final = frozenset(
    [*range(1, 10), 12, 13, 15, *range(17, 22), 103, 104, 106, *range(500, 508)]
)

EVENT_NAMES: Final = {
    -1: "None",
    1: "NodeCreated",
    2: "NodeDeleted",
    3: "NodeDataChanged",
    4: "NodeChildrenChanged",
    5: "DataWatchRemoved",
    6: "ChildWatchRemoved",
    7: "PersistentWatchRemoved",
}

STATE_NAMES: Final = {
    -112: "Expired",
    -1: "Unknown",
    0: "Disconnected",
    1: "NoSyncConnected",
    3: "SyncConnected",
    4: "AuthFailed",
    5: "ConnectedReadOnly",
    6: "SaslAuthenticated",
    7: "Closed",
}


def op_name(opcode: int) -> str:
    return OP_NAMES.get(opcode, f"op{opcode}")
