"""A request as it goes through the server, and how its body is read.

Java reads a record from the front of the body and leaves what may follow; a body that is too short
or malformed is a MarshallingError.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from zktrace.wire.codec import Record
from zktrace.wire.jute import WireError
from zktrace.wire.multi import MultiOp
from zktrace.wire.records import (
    CreateRequest,
    CreateTTLRequest,
    Id,
    MultiHeader,
    PathVersionRequest,
    PathWatchRequest,
    SetDataRequest,
)
from zktrace_server.core.errors import MARSHALLING_ERROR, KeeperError

R = TypeVar("R", bound=Record)

CREATE: Final = 1
DELETE: Final = 2
EXISTS: Final = 3
GET_DATA: Final = 4
SET_DATA: Final = 5
GET_ACL: Final = 6
SET_ACL: Final = 7
GET_CHILDREN: Final = 8
SYNC: Final = 9
PING: Final = 11
GET_CHILDREN2: Final = 12
CHECK: Final = 13
MULTI: Final = 14
CREATE2: Final = 15
RECONFIG: Final = 16
CHECK_WATCHES: Final = 17
REMOVE_WATCHES: Final = 18
CREATE_CONTAINER: Final = 19
DELETE_CONTAINER: Final = 20
CREATE_TTL: Final = 21
MULTI_READ: Final = 22
AUTH: Final = 100
SET_WATCHES: Final = 101
SASL: Final = 102
GET_EPHEMERALS: Final = 103
GET_ALL_CHILDREN_NUMBER: Final = 104
SET_WATCHES2: Final = 105
ADD_WATCH: Final = 106
WHO_AM_I: Final = 107
CREATE_SESSION: Final = -10
CLOSE_SESSION: Final = -11

#: Become txns.
WRITES: Final = frozenset(
    (
        CREATE,
        CREATE2,
        CREATE_CONTAINER,
        CREATE_TTL,
        DELETE,
        DELETE_CONTAINER,
        SET_DATA,
        SET_ACL,
        RECONFIG,
        MULTI,
        CREATE_SESSION,
        CLOSE_SESSION,
    )
)

#: Reads that are the same for all who may read, as long as the node does not change.
KEPT: Final = frozenset((EXISTS, GET_DATA, GET_CHILDREN, GET_CHILDREN2))

# CreateMode.
SEQUENTIAL_FLAGS: Final = frozenset((2, 3, 6))
EPHEMERAL_FLAGS: Final = frozenset((1, 3))
CONTAINER_FLAG: Final = 4
TTL_FLAGS: Final = frozenset((5, 6))
FLAGS: Final = frozenset(range(7))

_WRITE_OPS: Final[dict[int, type[Record]]] = {
    CREATE: CreateRequest,
    CREATE2: CreateRequest,
    CREATE_CONTAINER: CreateRequest,
    CREATE_TTL: CreateTTLRequest,
    DELETE: PathVersionRequest,
    SET_DATA: SetDataRequest,
    CHECK: PathVersionRequest,
}
_READ_OPS: Final[dict[int, type[Record]]] = {
    GET_DATA: PathWatchRequest,
    GET_CHILDREN: PathWatchRequest,
}


@dataclass(frozen=True, slots=True)
class Request:
    """`kind` is the opcode, `body` what follows the header; `ids` are the client's."""

    session_id: int
    xid: int
    kind: int
    body: bytes
    ids: Iterable[Id]

    def read(self, record: type[R]) -> R:
        """The body as this record."""
        try:
            return record.decode_from(self.body, 0, len(self.body))[0]
        except WireError:
            raise KeeperError(MARSHALLING_ERROR) from None


def read_multi(body: bytes) -> list[MultiOp]:
    """Operations of a multi or multiRead (MultiOperationRecord): all writes or all reads."""
    try:
        return _multi(body)
    except WireError:
        raise KeeperError(MARSHALLING_ERROR) from None


def _multi(body: bytes) -> list[MultiOp]:
    ops: list[MultiOp] = []
    records: dict[int, type[Record]] | None = None
    pos, end = 0, len(body)
    while True:
        header, pos = MultiHeader.decode_from(body, pos, end)
        if header.done:
            return ops
        if records is None:
            records = _READ_OPS if header.type in _READ_OPS else _WRITE_OPS
        record = records.get(header.type)
        if record is None:
            raise WireError("an operation that a multi cannot have", pos)
        op, pos = record.decode_from(body, pos, end)
        ops.append(MultiOp(_multi_type(header.type, op), op))


def _multi_type(number: int, op: Record) -> int:
    """What Java makes of a create by its flags (Op.create, CreateOptions)."""
    if isinstance(op, CreateRequest):
        if op.flags not in FLAGS or op.flags in TTL_FLAGS or op.acl is None:
            raise WireError("a create whose flags do not fit")
        return CREATE_CONTAINER if op.flags == CONTAINER_FLAG else number
    if isinstance(op, CreateTTLRequest) and op.flags not in TTL_FLAGS:
        return CREATE_CONTAINER if op.flags == CONTAINER_FLAG else CREATE
    return number


def is_read_multi(ops: list[MultiOp]) -> bool:
    """Whether it has reads (an empty one has neither)."""
    return bool(ops) and ops[0].type in _READ_OPS
