"""Values for any record class, made from its annotations."""

from __future__ import annotations

from typing import Any, Final, Literal

from hypothesis import strategies as st

from zktrace.wire.fields import Field, FieldType, RecordOf, VectorOf, fields_of
from zktrace.wire.jute import BOOL, BUFFER, BYTE, INT, LONG, REST, USTRING

# Lone surrogates have no UTF-8 form.
_SURROGATES: Final[tuple[Literal["Cs"]]] = ("Cs",)
TEXT = st.text(st.characters(exclude_categories=_SURROGATES), max_size=20)

_PRIMITIVES: dict[str, st.SearchStrategy[Any]] = {
    BYTE.name: st.integers(-(2**7), 2**7 - 1),
    BOOL.name: st.booleans(),
    INT.name: st.integers(-(2**31), 2**31 - 1),
    LONG.name: st.integers(-(2**63), 2**63 - 1),
    USTRING.name: st.none() | TEXT,
    BUFFER.name: st.none() | st.binary(max_size=20),
    REST.name: st.binary(max_size=20),
}


def of_type(kind: FieldType) -> st.SearchStrategy[Any]:
    match kind:
        case VectorOf():
            return st.none() | st.lists(of_type(kind.element), max_size=4)
        case RecordOf():
            return of_record(kind.record)
        case _:
            return _PRIMITIVES[kind.name]


def of_record(cls: type) -> st.SearchStrategy[Any]:
    """Records of a class; fields that may be missing are missing from some place on."""
    fields = fields_of(cls)
    tails = sum(f.tail for f in fields)

    def build(present: int) -> st.SearchStrategy[Any]:
        return st.builds(
            cls, *(_field(f, i < len(fields) - tails + present) for i, f in enumerate(fields))
        )

    return st.integers(0, tails).flatmap(build)


def _field(field: Field, present: bool) -> st.SearchStrategy[Any]:
    if not present:
        return st.none()
    value = of_type(field.type)
    # None in a tail means "missing", so a null buffer cannot be told there.
    return value.filter(lambda v: v is not None) if field.tail else value
