"""Reads the annotations of a record class into a list of fields.

The single point that understands the notation of `jute`; codec, layout, schema and the tests'
strategies all go through `fields_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import Annotated, TypeAlias, get_args, get_origin, get_type_hints

from zktrace.wire.jute import Kind, TailMark


@dataclass(frozen=True, slots=True)
class VectorOf:
    """A count (int, -1 = null) and that many elements."""

    element: FieldType


@dataclass(frozen=True, slots=True)
class RecordOf:
    """A record in place: just its fields, in order."""

    record: type


FieldType: TypeAlias = Kind | VectorOf | RecordOf


@dataclass(frozen=True, slots=True)
class Field:
    """One field; `tail`: may be missing at the end of the bytes."""

    name: str
    type: FieldType
    tail: bool = False


def _type_of(hint: object) -> tuple[FieldType, bool]:
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        for mark in marks:
            if isinstance(mark, Kind):
                return mark, False
            if isinstance(mark, TailMark):
                return _type_of(_without_none(inner))[0], True
    if isinstance(hint, type) and hasattr(hint, "decode_from"):
        return RecordOf(hint), False
    inner = _without_none(hint)
    if get_origin(inner) is list:
        return VectorOf(_type_of(get_args(inner)[0])[0]), False
    raise TypeError(f"not a field type of the wire schema: {hint!r}")


def _without_none(hint: object) -> object:
    if get_origin(hint) is Annotated:
        return hint
    rest = [a for a in get_args(hint) if a is not NoneType]
    return rest[0] if len(rest) == 1 and NoneType in get_args(hint) else hint


_known: dict[type, tuple[Field, ...]] = {}


def fields_of(record: type) -> tuple[Field, ...]:
    """The fields of a record class, in wire order."""
    fields = _known.get(record)
    if fields is None:
        hints = get_type_hints(record, include_extras=True)
        names = getattr(record, "__dataclass_fields__", {})
        fields = _known[record] = tuple(Field(name, *_type_of(hints[name])) for name in names)
    return fields


def least_size(kind: FieldType) -> int:
    """The fewest bytes a value of this type takes: what bounds a vector's count."""
    match kind:
        case Kind():
            return kind.size
        case VectorOf():
            return 4
        case RecordOf():
            return sum(least_size(f.type) for f in fields_of(kind.record) if not f.tail)
