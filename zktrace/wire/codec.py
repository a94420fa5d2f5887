"""Compiles record classes into straight-line readers and writers.

The first use of a class writes a Python function for it from its annotations, with runs of
fixed-size fields read by one `struct` call, and keeps it on the class. What the functions promise
on any bytes: `WireError` and nothing else; no allocation larger than the bytes at hand (a vector's
count is checked against the bytes left, divided by the least size of an element).

Text is UTF-8; a wrong sequence reads as U+FFFD, as in Java's `new String(bytes, UTF_8)`, and a lone
surrogate is written as "?", as String.getBytes does.

This module must not know any particular record.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

from zktrace.wire.fields import Field, FieldType, RecordOf, VectorOf, fields_of, least_size
from zktrace.wire.jute import BUFFER, REST, USTRING, Kind, WireError

R = TypeVar("R", bound="Record")


class Record:
    """Base of all record classes. `decode` wants all bytes used up, `decode_from` does not."""

    __slots__ = ()
    _compiled: ClassVar[bool] = False

    def encode(self) -> bytes:
        """The bytes of this record. WireError if a value does not fit its type."""
        out = bytearray()
        try:
            self.encode_into(out)
        except WireError:
            raise
        except (struct.error, TypeError, AttributeError, OverflowError) as e:
            raise WireError(f"value does not fit: {e}", len(out), type(self).__name__) from None
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Self:
        """The record that is exactly these bytes."""
        raw = data if isinstance(data, bytes) else bytes(data)
        value, pos = cls.decode_from(raw, 0, len(raw))
        if pos != len(raw):
            raise WireError(f"{len(raw) - pos} bytes left over", pos, cls.__name__)
        return value

    def encode_into(self, out: bytearray) -> None:
        """Appends the bytes of this record (may raise struct.error; `encode` turns it into
        WireError).
        """
        _compile(type(self))
        self.encode_into(out)

    @classmethod
    def decode_from(cls, buf: bytes, pos: int, end: int) -> tuple[Self, int]:
        """Reads one record from buf[pos:end]; gives it and the place behind it."""
        if cls._compiled:  # pragma: no cover - the compiled method hides this one
            raise AssertionError
        _compile(cls)
        return cls.decode_from(buf, pos, end)


@dataclass_transform()
def record(cls: type[R]) -> type[R]:
    """Class decorator: a dataclass with slots whose annotations are the wire layout."""
    return dataclass(slots=True)(cls)


def cut(buf_end: int, pos: int, record_name: str, fields: tuple[tuple[str, int], ...]) -> WireError:
    """The error for a run of fixed-size fields that does not fit: names the first one cut off."""
    for name, size in fields:
        if pos + size > buf_end:
            return WireError(
                f"needs {size} bytes, {max(buf_end - pos, 0)} left", pos, f"{record_name}.{name}"
            )
        pos += size
    raise AssertionError("nothing is cut")


def bad_length(n: int, left: int, pos: int, name: str) -> WireError:
    """The error for a length or count that is negative (but not -1) or beyond the bytes at hand."""
    if n < 0:
        return WireError(f"length {n} is negative", pos, name)
    return WireError(f"length {n} is beyond the {left} bytes left", pos, name)


class _Writer:
    """Collects source lines and the constants they use."""

    def __init__(self, record_name: str) -> None:
        self.record = record_name
        self.rest_is_empty = False
        self.lines: list[str] = []
        self.names: dict[str, Any] = {
            "WireError": WireError,
            "cut": cut,
            "bad_length": bad_length,
            "LEN": struct.Struct(">i").pack,
            "NULL": b"\xff\xff\xff\xff",
        }
        self.count = 0

    def name(self, value: Any) -> str:
        self.count += 1
        self.names[f"k{self.count}"] = value
        return f"k{self.count}"

    def local(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def put(self, depth: int, line: str) -> None:
        self.lines.append("    " * depth + line)


def _flat(name: str, kind: FieldType) -> list[tuple[str, FieldType]]:
    """Leaves of a record, in order, with dotted names."""
    if isinstance(kind, RecordOf):
        inner = fields_of(kind.record)
        if not any(f.tail for f in inner):
            return [leaf for f in inner for leaf in _flat(f"{name}.{f.name}", f.type)]
    return [(name, kind)]


# --- reading ------------------------------------------------------------------------------------


def _read_leaves(w: _Writer, depth: int, leaves: list[tuple[str, FieldType]]) -> dict[str, str]:
    """Source that reads leaves in order; gives the local that holds each."""
    got: dict[str, str] = {}
    run: list[tuple[str, Kind | None, str]] = []  # a None kind: the length int of what follows

    def flush() -> None:
        if not run:
            return
        fmt = ">" + "".join(k.format if k else "i" for _, k, _ in run)
        unpack = w.name(struct.Struct(fmt).unpack_from)
        sizes = w.name(tuple((n, k.size if k else 4) for n, k, _ in run))
        size = struct.calcsize(fmt)
        w.put(depth, f"if end - pos < {size}:")
        w.put(depth + 1, f"raise cut(end, pos, {w.record!r}, {sizes})")
        w.put(depth, f"{', '.join(v for _, _, v in run)}, = {unpack}(buf, pos)")
        w.put(depth, f"pos += {size}")
        run.clear()

    for name, kind in leaves:
        value = got[name] = w.local()
        if isinstance(kind, Kind) and kind.format:
            run.append((name, kind, value))
            continue
        if kind is REST:
            flush()
            if w.rest_is_empty:
                w.put(depth, f"{value} = b''")
                continue
            w.put(depth, f"{value} = buf[pos:end]")
            w.put(depth, "pos = end")
            continue
        if isinstance(kind, RecordOf):
            flush()
            w.put(depth, f"{value}, pos = {w.name(kind.record)}.decode_from(buf, pos, end)")
            continue
        n = w.local()
        run.append((name, None, n))
        flush()
        full = f"{w.record}.{name}"
        if isinstance(kind, VectorOf):
            _read_vector(w, depth, kind, n, value, full)
        else:
            _read_bytes(w, depth, kind, n, value, full)
    flush()
    return got


def _read_bytes(w: _Writer, depth: int, kind: FieldType, n: str, value: str, full: str) -> None:
    text = kind is USTRING
    w.put(depth, f"if {n} >= 0:")
    w.put(depth + 1, f"if {n} > end - pos:")
    w.put(depth + 2, f"raise bad_length({n}, end - pos, pos - 4, {full!r})")
    tail = ".decode('utf-8', 'replace')" if text else ""
    w.put(depth + 1, f"{value} = buf[pos:pos + {n}]{tail}")
    w.put(depth + 1, f"pos += {n}")
    w.put(depth, f"elif {n} == -1:")
    w.put(depth + 1, f"{value} = None")
    w.put(depth, "else:")
    w.put(depth + 1, f"raise bad_length({n}, end - pos, pos - 4, {full!r})")


def _read_vector(w: _Writer, depth: int, kind: VectorOf, n: str, value: str, full: str) -> None:
    least = least_size(kind.element)
    if least == 0:
        raise TypeError(f"{full}: elements without size cannot bound the count")
    add = w.local()
    w.put(depth, f"if {n} >= 0:")
    w.put(depth + 1, f"if {n} * {least} > end - pos:")
    w.put(depth + 2, f"raise bad_length({n}, end - pos, pos - 4, {full!r})")
    w.put(depth + 1, f"{value} = []")
    w.put(depth + 1, f"{add} = {value}.append")
    w.put(depth + 1, f"for _ in range({n}):")
    name = full.split(".", 1)[1] + "[]"
    element = _read_value(w, depth + 2, name, kind.element)
    w.put(depth + 2, f"{add}({element})")
    w.put(depth, f"elif {n} == -1:")
    w.put(depth + 1, f"{value} = None")
    w.put(depth, "else:")
    w.put(depth + 1, f"raise bad_length({n}, end - pos, pos - 4, {full!r})")


def _read_value(w: _Writer, depth: int, name: str, kind: FieldType) -> str:
    got = _read_leaves(w, depth, _flat(name, kind))
    return _build(w, name, kind, got)


def _build(w: _Writer, name: str, kind: FieldType, got: dict[str, str]) -> str:
    """The expression for a value whose leaves were read."""
    if name in got:
        return got[name]
    assert isinstance(kind, RecordOf)
    args = (_build(w, f"{name}.{f.name}", f.type, got) for f in fields_of(kind.record))
    return f"{w.name(kind.record)}({', '.join(args)})"


def _reader(
    cls: type[Record], *, nested: bool = False
) -> Callable[[bytes, int, int], tuple[Any, int]]:
    w = _Writer(cls.__name__)
    w.rest_is_empty = nested
    w.put(0, "def read(buf, pos, end):")
    fields = fields_of(cls)
    _check(cls, fields)
    plain = [f for f in fields if not f.tail]
    got = _read_leaves(w, 1, [leaf for f in plain for leaf in _flat(f.name, f.type)])
    args = [_build(w, f.name, f.type, got) for f in plain]
    for f in fields[len(plain) :]:
        value = w.local()
        w.put(1, f"{value} = None")
        w.put(1, "if pos < end:")
        w.put(2, f"{value} = {_read_value(w, 2, f.name, f.type)}")
        args.append(value)
    w.put(1, f"return {w.name(cls)}({', '.join(args)}), pos")
    return _finish(w, "read", cls)


def _check(cls: type[Record], fields: tuple[Field, ...]) -> None:
    """Fields that eat what is left, or may be missing, make sense at the end only."""
    open_ended = [f.tail or f.type is REST for f in fields]
    if open_ended != sorted(open_ended) or sum(f.type is REST for f in fields) > 1:
        raise TypeError(f"{cls.__name__}: an open-ended field before others")


# --- writing ------------------------------------------------------------------------------------


def _write_leaves(w: _Writer, depth: int, leaves: list[tuple[str, FieldType]]) -> None:
    """Source that appends leaves, given as (expression, type), to `out`."""
    run: list[tuple[str, Kind]] = []

    def flush() -> None:
        if run:
            pack = w.name(struct.Struct(">" + "".join(k.format for _, k in run)).pack)
            w.put(depth, f"out += {pack}({', '.join(e for e, _ in run)})")
            run.clear()

    for expression, kind in leaves:
        if isinstance(kind, Kind) and kind.format:
            run.append((expression, kind))
            continue
        flush()
        if kind is REST:
            w.put(depth, f"out += {expression}")
        elif isinstance(kind, RecordOf):
            w.put(depth, f"{expression}.encode_into(out)")
        else:
            value = w.local()
            w.put(depth, f"{value} = {expression}")
            w.put(depth, f"if {value} is None:")
            w.put(depth + 1, "out += NULL")
            w.put(depth, "else:")
            if kind is USTRING:
                w.put(depth + 1, f"{value} = {value}.encode('utf-8', 'replace')")
            w.put(depth + 1, f"out += LEN(len({value}))")
            if isinstance(kind, VectorOf):
                item = w.local()
                w.put(depth + 1, f"for {item} in {value}:")
                before = len(w.lines)
                _write_leaves(w, depth + 2, _flat(item, kind.element))
                assert len(w.lines) > before
            else:
                assert kind in (USTRING, BUFFER)
                w.put(depth + 1, f"out += {value}")
    flush()


def _encoder(cls: type[Record]) -> Callable[[Any, bytearray], None]:
    w = _Writer(cls.__name__)
    w.put(0, "def write(self, out):")
    fields = fields_of(cls)
    plain = [f for f in fields if not f.tail]
    _write_leaves(w, 1, [leaf for f in plain for leaf in _flat(f"self.{f.name}", f.type)])
    for f in fields[len(plain) :]:
        w.put(1, f"if self.{f.name} is None: return")
        _write_leaves(w, 1, _flat(f"self.{f.name}", f.type))
    w.put(1, "return")
    return _finish(w, "write", cls)


def _finish(w: _Writer, name: str, cls: type[Record]) -> Callable[..., Any]:
    code = compile("\n".join(w.lines), f"<zktrace.wire {name} {cls.__name__}>", "exec")
    exec(code, w.names)
    function: Callable[..., Any] = w.names[name]
    return function


_nested: dict[type[Record], Callable[[bytes, int, int], tuple[Any, int]]] = {}


def decode_nested(cls: type[R], buf: bytes, pos: int, end: int) -> tuple[R, int]:
    """As decode_from, where `end` is not the end of this record: a Rest field takes nothing."""
    read = _nested.get(cls)
    if read is None:
        read = _nested[cls] = _reader(cls, nested=True)
    value, pos = read(buf, pos, end)
    return value, pos


def _compile(cls: type[Record]) -> None:
    if cls._compiled:
        return
    reader, writer = _reader(cls), _encoder(cls)
    # setattr: these replace methods of the base class by compiled ones of the same meaning.
    setattr(cls, "decode_from", staticmethod(reader))  # noqa: B010
    setattr(cls, "encode_into", writer)  # noqa: B010
    cls._compiled = True
