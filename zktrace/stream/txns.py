"""Transactions: what the data of a PROPOSAL or INFORM says, without keeping what it holds.

TxnHeader, a body by type, perhaps a TxnDigest (SerializeUtils.deserializeTxn; protocol reference,
section 8). The layouts come from the wire schema as text. Nothing says whether the digest is there
or which of several layouts a body has: the first one that leaves nothing or a digest is right. Must
not know packets or connections; never raises.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from zktrace.stream.schema import (
    BOOL,
    BUFFER,
    ERROR_TYPE,
    INT,
    LONG,
    MULTITXN,
    USTRING,
    VEC,
    Layout,
    Schema,
)

#: session, cxid, zxid, time by the leader's clock, type
HEADER = struct.Struct(">qiqqi")
DIGEST_SIZE = 12
#: KeeperException.Code.RUNTIMEINCONSISTENCY: the part failed because another one did
RUNTIME_INCONSISTENCY = -2

_INT = struct.Struct(">i")
_LONG = struct.Struct(">q")
_DIGEST = struct.Struct(">iq")  # version, digest of the whole tree
_FIXED = {INT: 4, LONG: 8, BOOL: 1}


@dataclass(slots=True)
class Body:
    """What a body holds that events show."""

    path: bytes | None = None
    error: int | None = None
    timeout_ms: int | None = None
    #: multi: (type, path, error) of each part
    parts: list[tuple[int, bytes | None, int | None]] | None = None
    digest: int | None = None


def scan_txn(schema: Schema, kind: int, data: bytes, pos: int, length: int) -> tuple[Body, bool]:
    """The body of a txn of a type at data[pos:], and whether it fits.

    `length`: where the data would end if all of it had been kept. What was not kept cannot be
    wrong.
    """
    first: Body | None = None
    for layout in schema.txns.get(kind, ()):
        body = Body()
        end = _walk(schema, layout, data, pos, len(data), body)
        if length > len(data):
            return body, True
        if end >= 0:
            if length == end:
                return body, True
            if length - end == DIGEST_SIZE:
                body.digest = _DIGEST.unpack_from(data, end)[1]
                return body, True
        first = first or body
    return first or Body(), False


def multi_error(body: Body) -> int | None:
    """A failed multi's error: that of the first part that does not just say that another one
    failed.
    """
    found: int | None = None
    for _kind, _path, error in body.parts or ():
        if error is None:
            continue
        if error not in (0, RUNTIME_INCONSISTENCY):
            return error
        found = found or error
    return found


def _walk(schema: Schema, layout: Layout, data: bytes, pos: int, end: int, out: Body) -> int:
    # the position after the last field, -1 where one does not fit in data[:end]
    for kind, role, inner in layout:
        fixed = _FIXED.get(kind)
        if fixed is not None:
            if pos + fixed > end:
                return -1
            if role == "error":
                out.error = _INT.unpack_from(data, pos)[0]
            elif role == "timeout_ms":
                out.timeout_ms = _INT.unpack_from(data, pos)[0]
            pos += fixed
            continue
        if pos + 4 > end:
            return -1
        size: int = _INT.unpack_from(data, pos)[0]
        pos += 4
        if size < -1:
            return -1
        size = max(size, 0)
        if kind in (USTRING, BUFFER):
            if size > end - pos:
                return -1
            if role:
                out.path = data[pos : pos + size]
            pos += size
        elif kind == VEC:
            # every element has a length or more: a count cannot ask for more work than its bytes
            if size > (end - pos) // 4:
                return -1
            for _ in range(size):
                pos = _walk(schema, inner, data, pos, end, out)
                if pos < 0:
                    return -1
        else:
            assert kind == MULTITXN
            pos = _parts(schema, size, data, pos, end, out)
            if pos < 0:
                return -1
    return pos


def _parts(schema: Schema, count: int, data: bytes, pos: int, end: int, out: Body) -> int:
    out.parts = []
    if count > (end - pos) // 8:
        return -1
    for _ in range(count):
        if pos + 8 > end:
            return -1
        kind, size = struct.unpack_from(">ii", data, pos)
        pos += 8
        if size < -1:
            return -1
        stop = pos + max(size, 0)
        body = _part(schema, kind, data, pos, min(stop, end))
        if body is None and (stop <= end or kind not in schema.txns):
            return -1
        path, error = (None, None) if body is None else (body.path, body.error)
        out.parts.append((kind, path, error if kind == ERROR_TYPE else None))
        if stop > end:
            return -1
        pos = stop
    return pos


def _part(schema: Schema, kind: int, data: bytes, pos: int, end: int) -> Body | None:
    # a part that fits to the byte; a multi in a multi is not ZooKeeper's
    for layout in schema.txns.get(kind, ()):
        if layout and layout[0].kind == MULTITXN:
            return None
        body = Body()
        if _walk(schema, layout, data, pos, end, body) == end:
            return body
    return None
