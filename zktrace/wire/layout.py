"""The schema as text: what the engines (Python and native) walk client bodies with.

Derived from the opcode table and the record classes, never edited. A line is one of

    op <number> <name> <r|w|l|-> <request steps> <reply steps>
    error <code> <name>
    event <number> <name>
    state <number> <name>
    word <4 bytes as 8 hex digits> <name, may hold a space>
    txn <type> <name> <steps>
    packet <number> <name>
    vote <number> <name>

Steps are `kind[:role]` joined by commas, `-` for an empty body; kinds: byte bool int long ustring
buffer stat vec(<steps>) rest multi multiresult. A role names the event column that the value feeds;
a vector feeds its count, a buffer its length, a `stat` all of itself.

`rest` takes what is left of the frame; inside a multi it takes nothing, since there the end of the
frame is not the end of the operation. In a `multiresult`, a result has a body if its header's err
is 0 or its type is -1 (`error`); see `multi`.

A `txn` line is a body behind a TxnHeader (`txn`). A type with several lines has several layouts,
likeliest first: the one that leaves nothing or a digest of 12 bytes is right. `multitxn` is a
vector of parts, each an int (its type) and a buffer with the body that this type has. `packet`
names types of QuorumPackets, `vote` the states in notifications.
"""

from __future__ import annotations

from typing import Final

from zktrace.wire.codec import Record
from zktrace.wire.election import STATES
from zktrace.wire.errors import ERRORS, EVENT_TYPES, KEEPER_STATES
from zktrace.wire.fields import FieldType, RecordOf, VectorOf, fields_of
from zktrace.wire.fourletter import WORDS
from zktrace.wire.jute import Kind
from zktrace.wire.opcodes import BY_NUMBER, CLOSE_SESSION, OPS, Body
from zktrace.wire.quorum import PACKET_TYPES
from zktrace.wire.records import Stat
from zktrace.wire.txn import BODIES, MultiTxn

# Field name -> event column. "Record.field" wins over "field"; an empty column means none.
# Secrets (auth, tokens) and fields that no column shows are simply not here.
ROLES: Final[dict[str, str]] = {
    "path": "path",
    "prefix_path": "path",
    "watch": "watch",
    "flags": "flags",
    "mode": "mode",
    "type": "mode",
    "AuthPacket.type": "",
    "version": "version",
    "data": "data_length",
    "stat": "stat",
    "children": "children",
    "total_number": "children",
    "created_path": "created_path",
    "ttl": "ttl",
    "data_watches": "data",
    "exist_watches": "exist",
    "child_watches": "child",
    "persistent_watches": "persistent",
    "persistent_recursive_watches": "persistent_recursive",
}

# The same for the bodies of txns, of which no more is shown.
TXN_ROLES: Final[dict[str, str]] = {
    "path": "path",
    "ErrorTxn.err": "error",
    "CreateSessionTxn.timeout_ms": "timeout_ms",
}


def _step(kind: FieldType, role: str) -> str:
    suffix = f":{role}" if role else ""
    match kind:
        case Kind():
            return kind.name + suffix
        case VectorOf():
            return f"vec({_elements(kind.element)}){suffix}"
        case RecordOf(record) if record is Stat:
            return "stat" + suffix
        case RecordOf(record):
            return ",".join(_step(f.type, "") for f in fields_of(record))


def _elements(kind: FieldType) -> str:
    # What is inside a vector feeds no column: only the count is shown.
    return _step(kind, "")


def steps(body: Body) -> str:
    """The steps of a record class, `multi` or `multiresult`."""
    if isinstance(body, str):
        return body
    return _steps(body, ROLES)


def _steps(body: type[Record], roles: dict[str, str]) -> str:
    name = body.__name__
    parts = (
        _step(f.type, roles.get(f"{name}.{f.name}", roles.get(f.name, ""))) for f in fields_of(body)
    )
    return ",".join(parts) or "-"


def _txns() -> list[str]:
    lines = []
    for number, bodies in BODIES.items():
        layouts = ["multitxn" if body is MultiTxn else _steps(body, TXN_ROLES) for body in bodies]
        if number == CLOSE_SESSION:
            layouts.append("-")  # the whole body may be missing
        lines += [f"txn {number} {BY_NUMBER[number].name} {layout}" for layout in layouts]
    return lines


def schema_text() -> str:
    """The whole schema, one declaration a line, each line ended by a newline."""
    lines = [
        f"op {op.number} {op.name} {op.effect} {steps(op.request)} {steps(op.reply)}" for op in OPS
    ]
    lines += [f"error {code} {name}" for code, name in ERRORS.items()]
    lines += [f"event {number} {name}" for number, name in EVENT_TYPES.items()]
    lines += [f"state {number} {name}" for number, name in KEEPER_STATES.items()]
    lines += [f"word {word.hex()} {name}" for word, name in WORDS.items()]
    lines += _txns()
    lines += [f"packet {number} {name}" for number, name in PACKET_TYPES.items()]
    lines += [f"vote {number} {name}" for number, name in STATES.items()]
    return "\n".join(lines) + "\n"
