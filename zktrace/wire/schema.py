"""The whole schema as plain data, for `zktrace schema`, docs and other languages."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from zktrace.wire import election, files, keeper, opcodes, quorum, records, snapshot, txn
from zktrace.wire.codec import Record
from zktrace.wire.errors import ERRORS, EVENT_TYPES, KEEPER_STATES
from zktrace.wire.fields import FieldType, RecordOf, VectorOf, fields_of
from zktrace.wire.fourletter import WORDS
from zktrace.wire.jute import Kind

_MODULES: tuple[ModuleType, ...] = (records, keeper, quorum, txn, snapshot, election, files)

_EFFECTS = {"r": "read", "w": "write", "l": "local", "-": "none"}


def all_records() -> list[type[Record]]:
    """Every record class, in order of declaration."""
    found = []
    for module in _MODULES:
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and issubclass(value, Record):
                found.append(value)
    return found


def type_text(kind: FieldType) -> str:
    """A field's type as zookeeper.jute would write it."""
    match kind:
        case Kind():
            return kind.name
        case VectorOf():
            return f"vector<{type_text(kind.element)}>"
        case RecordOf():
            return kind.record.__name__


def fields_data(record: type) -> list[dict[str, Any]]:
    """Name, type, and whether it may be missing at the end, of each field."""
    return [
        {"name": f.name, "type": type_text(f.type), "optional": f.tail} for f in fields_of(record)
    ]


def _body(body: opcodes.Body) -> dict[str, Any]:
    if isinstance(body, str):
        return {"record": body, "fields": []}
    return {"record": body.__name__, "fields": fields_data(body)}


def describe() -> dict[str, Any]:
    """The schema: opcodes, records, errors, events, states, four-letter words, packet types."""
    return {
        "opcodes": [
            {
                "number": op.number,
                "name": op.name,
                "effect": _EFFECTS[op.effect],
                "since": op.since,
                "request": _body(op.request),
                "reply": _body(op.reply),
                "txn": [cls.__name__ for cls in txn.BODIES.get(op.number, ())],
            }
            for op in opcodes.OPS
        ],
        "records": {
            cls.__name__: {
                "module": cls.__module__.rpartition(".")[2],
                "doc": _doc(cls),
                "fields": fields_data(cls),
            }
            for cls in all_records()
        },
        "errors": {str(code): name for code, name in ERRORS.items()},
        "events": {str(number): name for number, name in EVENT_TYPES.items()},
        "keeper_states": {str(number): name for number, name in KEEPER_STATES.items()},
        "four_letter_words": {word.hex(): name for word, name in WORDS.items()},
        "quorum_packets": {str(n): name for n, name in quorum.PACKET_TYPES.items()},
        "election_states": {str(n): name for n, name in election.STATES.items()},
    }


def _doc(cls: type) -> str:
    # A dataclass without a docstring gets its signature as one: worth nothing here.
    doc = cls.__doc__ or ""
    return "" if doc.startswith(f"{cls.__name__}(") else " ".join(doc.split())
