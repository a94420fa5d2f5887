"""Jute primitives: the field types of ZooKeeper's records, and the one error of this package.

Big-endian, two's complement, no tags, no padding (org.apache.jute.BinaryInputArchive /
BinaryOutputArchive). A record class says which primitive a field is by annotating it with one of
the aliases below; `codec` compiles readers and writers from these annotations and `layout` derives
the text form for the engines, so a record is written down in one place only.

This module must not know any record, opcode or file format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Optional, TypeAlias, TypeVar

T = TypeVar("T")


class WireError(ValueError):
    """Bytes that are not what the schema says (or a value the schema cannot express).

    `offset` counts from the start of the decoded bytes, `field` is "Record.field" or "".
    The text never shows content of the bytes: they may be secrets.
    """

    def __init__(self, reason: str, offset: int = 0, field: str = "") -> None:
        where = f"{field}: " if field else ""
        super().__init__(f"{where}{reason} (offset {offset})")
        self.reason = reason
        self.offset = offset
        self.field = field


@dataclass(frozen=True, slots=True)
class Kind:
    """A primitive: name in the schema text, struct format ("" if variable), least size."""

    name: str
    format: str
    size: int


BYTE = Kind("byte", "b", 1)
# Anything but zero reads as true (DataInput.readBoolean); struct's "?" does the same.
BOOL = Kind("bool", "?", 1)
INT = Kind("int", "i", 4)
LONG = Kind("long", "q", 8)
USTRING = Kind("ustring", "", 4)
BUFFER = Kind("buffer", "", 4)
# Not Jute: every byte that is left. For tails whose layout differs between implementations.
REST = Kind("rest", "", 0)

# The length or count that stands for null in strings, buffers and vectors.
NULL_LENGTH = -1


@dataclass(frozen=True, slots=True)
class TailMark:
    """Marks a field that old or new peers leave out: absent (None) when no byte is left."""


Byte: TypeAlias = Annotated[int, BYTE]
Bool: TypeAlias = Annotated[bool, BOOL]
Int: TypeAlias = Annotated[int, INT]
Long: TypeAlias = Annotated[int, LONG]
UString: TypeAlias = Annotated[Optional[str], USTRING]  # noqa: UP045 (evaluated when run)
Buffer: TypeAlias = Annotated[Optional[bytes], BUFFER]  # noqa: UP045
Rest: TypeAlias = Annotated[bytes, REST]
Vector: TypeAlias = Optional[list[T]]  # noqa: UP045
Tail: TypeAlias = Annotated[Optional[T], TailMark()]  # noqa: UP045
