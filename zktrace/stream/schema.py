"""The wire schema as the engines use it, parsed from its text form.

The schema is declared in `zktrace.wire`; both engines take it as the text that
`zktrace.wire.layout.schema_text()` makes, so that neither holds an opcode of its own. This module
parses the text and interprets the layouts: `scan` walks the body of one message and notes the
fields that events show. It must not know connections, times or events.

A layout is a sequence of steps, one per field in wire order; a step is (kind, role, inner). `scan`
never raises: it returns the position after the last field, or -1 at the first field that does not
fit, keeping what it had read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

BOOL, BYTE, INT, LONG, USTRING, BUFFER, STAT, VEC = range(8)
REST, MULTI, MULTIRESULT, MULTITXN = range(8, 12)
_KINDS = {
    "bool": BOOL,
    "byte": BYTE,
    "int": INT,
    "long": LONG,
    "ustring": USTRING,
    "buffer": BUFFER,
    "stat": STAT,
    "vec": VEC,
    "rest": REST,
    "multi": MULTI,
    "multiresult": MULTIRESULT,
    "multitxn": MULTITXN,
}
_MIN_SIZE = {BOOL: 1, BYTE: 1, INT: 4, LONG: 8, USTRING: 4, BUFFER: 4, STAT: 68, VEC: 4}
ROLES = frozenset(
    (
        *("path", "watch", "flags", "mode", "version", "data_length", "stat", "children"),
        *("created_path", "ttl", "data", "exist", "child", "persistent", "persistent_recursive"),
        *("error", "timeout_ms"),
    )
)
_INT = struct.Struct(">i")
_LONG = struct.Struct(">q")
_STAT = struct.Struct(">qqqqiiiqiiq")
_HEADER = struct.Struct(">ibi")  # MultiHeader: type, done, err

#: type of a multi's end header and of its error results (ZooDefs.OpCode.error)
ERROR_TYPE = -1


class Step(NamedTuple):
    """One field of a layout: its kind, the event column it feeds ("" for none), the layout of a
    vector's elements.
    """

    kind: int
    role: str
    inner: tuple[Step, ...]


Layout = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Op:
    """One row of the opcode table."""

    number: int
    name: str
    access: str
    request: Layout
    reply: Layout


@dataclass(slots=True)
class Fields:
    """What a body holds that events show; None is "not there" or "not read"."""

    path: bytes | None = None
    watch: bool | None = None
    flags: int | None = None
    mode: int | None = None
    version: int | None = None
    data_length: int | None = None
    children: int | None = None
    ttl: int | None = None
    created_path: bytes | None = None
    stat: tuple[int, ...] | None = None
    watches: dict[str, int] | None = None
    #: multi: (type, path) of each sub-operation; None where there is no multi
    ops: list[tuple[int, bytes | None]] | None = None
    #: multi: (type, error) of each result
    results: list[tuple[int, int]] | None = None
    #: auth, sasl: who the request says to be (`zktrace.stream.identity`)
    claim: str | None = None


@dataclass(slots=True)
class Schema:
    """Opcode table, names of errors, events and states, four-letter words."""

    ops: dict[int, Op] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    events: dict[int, str] = field(default_factory=dict)
    states: dict[int, str] = field(default_factory=dict)
    words: dict[bytes, str] = field(default_factory=dict)
    #: layouts of a txn's body by type, likeliest first (`zktrace.stream.txns` walks them)
    txns: dict[int, list[Layout]] = field(default_factory=dict)
    packets: dict[int, str] = field(default_factory=dict)
    votes: dict[int, str] = field(default_factory=dict)

    def op_name(self, opcode: int) -> str:
        """The name of an opcode; `op<n>` for one that is not in the table."""
        op = self.ops.get(opcode)
        return op.name if op is not None else f"op{opcode}"


def parse_layout(text: str) -> Layout:
    """Parse the comma-separated steps of one layout.

    Raises ValueError where the text is not a layout; it comes from our own code, never from a
    capture.
    """
    if text == "-":
        return ()
    steps: list[Step] = []
    pos = 0
    while pos < len(text):
        end = pos
        depth = 0
        while end < len(text) and (depth or text[end] != ","):
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
        steps.append(_parse_step(text[pos:end]))
        pos = end + 1
    return tuple(steps)


def _parse_step(text: str) -> Step:
    inner: Layout = ()
    if text.startswith("vec("):
        close = text.rindex(")")
        inner = parse_layout(text[4:close])
        text = "vec" + text[close + 1 :]
    kind, _, role = text.partition(":")
    if kind not in _KINDS or (role and role not in ROLES):
        raise ValueError(f"unknown layout step {text!r}")
    return Step(_KINDS[kind], role, inner)


def parse_schema(text: str) -> Schema:
    """Parse what `zktrace.wire.layout.schema_text()` gives."""
    schema = Schema()
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        what, rest = line.split(" ", 1)
        if what == "op":
            number, name, access, request, reply = rest.split(" ")
            op = Op(int(number), name, access, parse_layout(request), parse_layout(reply))
            schema.ops[op.number] = op
            continue
        if what == "txn":
            number, _name, steps = rest.split(" ")
            schema.txns.setdefault(int(number), []).append(parse_layout(steps))
            continue
        key, name = rest.split(" ", 1)
        if what == "word":
            schema.words[bytes.fromhex(key)] = name
        elif what == "error":
            schema.errors[int(key)] = name
        elif what == "event":
            schema.events[int(key)] = name
        elif what == "state":
            schema.states[int(key)] = name
        elif what == "packet":
            schema.packets[int(key)] = name
        elif what == "vote":
            schema.votes[int(key)] = name
        else:
            raise ValueError(f"unknown schema line {line!r}")
    return schema


def _min_size(layout: Layout) -> int:
    # an element of no size would make its count a free multiplier of work; no record of the schema
    # is empty
    return max(1, sum(_MIN_SIZE.get(step.kind, 0) for step in layout))


class Scanner:
    """Walks message bodies by the layouts of one schema."""

    def __init__(self, schema: Schema) -> None:
        self._ops = schema.ops

    def scan(
        self,
        layout: Layout,
        buf: bytes,
        pos: int,
        out: Fields,
        strict: bool = False,
        nested: bool = False,
        total: int = 0,
    ) -> int:
        """Read the fields of `layout` from buf[pos:] into `out`.

        Returns the position after the last field, or -1 where a field does not fit (what was read
        before it stays in `out`). `strict` adds what every real client and server keeps to and
        random bytes do not: booleans of 0 or 1, paths that are UTF-8 and begin with a slash.
        `total`: how long `buf` would be if all of it had been kept; sizes and counts up to that are
        noted even where what they count was not.
        """
        end = len(buf)
        for kind, role, inner in layout:
            if kind == INT:
                if pos + 4 > end:
                    return -1
                if role:
                    setattr(out, role, _INT.unpack_from(buf, pos)[0])
                pos += 4
            elif kind in (USTRING, BUFFER):
                if pos + 4 > end:
                    return -1
                size: int = _INT.unpack_from(buf, pos)[0]
                pos += 4
                if size < -1 or pos + size > max(end, total):
                    return -1
                if kind == BUFFER and role and size >= 0:
                    setattr(out, role, size)
                stop = pos + max(size, 0)
                if stop > end:
                    return -1
                if kind == USTRING and role:
                    text = buf[pos:stop]
                    if strict and not plausible_path(text):
                        return -1
                    setattr(out, role, text)
                pos = stop
            elif kind in (BOOL, BYTE):
                if pos >= end or (strict and kind == BOOL and buf[pos] > 1):
                    return -1
                if role:
                    setattr(out, role, buf[pos] != 0)
                pos += 1
            elif kind == LONG:
                if pos + 8 > end:
                    return -1
                if role:
                    setattr(out, role, _LONG.unpack_from(buf, pos)[0])
                pos += 8
            elif kind == STAT:
                if pos + 68 > end:
                    return -1
                if role:
                    out.stat = _STAT.unpack_from(buf, pos)
                pos += 68
            elif kind == VEC:
                pos = self._vector(role, inner, buf, pos, out, strict, total)
            elif kind == REST:
                # in a multi nothing says where it would end: its form without a rest is taken
                pos = pos if nested else end
            elif kind == MULTI:
                pos = self._multi(buf, pos, out, strict)
            else:
                pos = self._results(buf, pos, out, strict)
            if pos < 0:
                return -1
        return pos

    def _vector(
        self,
        role: str,
        inner: Layout,
        buf: bytes,
        pos: int,
        out: Fields,
        strict: bool,
        total: int,
    ) -> int:
        end = len(buf)
        if pos + 4 > end:
            return -1
        count: int = _INT.unpack_from(buf, pos)[0]
        pos += 4
        if count < -1 or count > (max(end, total) - pos) // _min_size(inner):
            return -1
        if role == "children":
            if count >= 0:
                out.children = count
        elif role:
            if out.watches is None:
                out.watches = {}
            out.watches[role] = max(count, 0)
        if inner == _STRINGS:
            for _ in range(count):
                if pos + 4 > end:
                    return -1
                size: int = _INT.unpack_from(buf, pos)[0]
                pos += 4 + max(size, 0)
                if size < -1 or pos > end:
                    return -1
        else:
            unused = Fields()
            for _ in range(count):
                pos = self.scan(inner, buf, pos, unused, strict)
                if pos < 0:
                    return -1
        return pos

    def _multi(self, buf: bytes, pos: int, out: Fields, strict: bool) -> int:
        # MultiOperationRecord: headers and bodies, then a header with done set
        out.ops = []
        while True:
            if pos + 9 > len(buf):
                return -1
            kind, done, _err = _HEADER.unpack_from(buf, pos)
            pos += 9
            if done:
                return pos
            op = self._ops.get(kind)
            if op is None or kind == ERROR_TYPE or _nests(op.request):
                return -1
            sub = Fields()
            pos = self.scan(op.request, buf, pos, sub, strict, nested=True)
            out.ops.append((kind, sub.path))
            if pos < 0:
                return -1

    def _results(self, buf: bytes, pos: int, out: Fields, strict: bool) -> int:
        # MultiResponse: decode each result by its own type, which need not be the request's
        # (create2 -> create)
        out.results = []
        while True:
            if pos + 9 > len(buf):
                return -1
            kind, done, error = _HEADER.unpack_from(buf, pos)
            pos += 9
            if done:
                return pos
            if kind == ERROR_TYPE:
                if pos + 4 > len(buf):
                    return -1
                out.results.append((kind, _INT.unpack_from(buf, pos)[0]))
                pos += 4
                continue
            op = self._ops.get(kind)
            if op is None or _nests(op.reply):
                return -1
            if error == 0:
                pos = self.scan(op.reply, buf, pos, Fields(), strict, nested=True)
                if pos < 0:
                    return -1
            out.results.append((kind, error))


_STRINGS: Layout = (Step(USTRING, "", ()),)


def _nests(layout: Layout) -> bool:
    # a multi in a multi is not ZooKeeper's, and its depth would be the sender's to choose
    return bool(layout) and layout[0].kind in (MULTI, MULTIRESULT)


def plausible_path(text: bytes) -> bool:
    """Whether these bytes can be a znode's path as real clients send it: a slash first, UTF-8, no
    NUL.
    """
    if not text.startswith(b"/") or b"\0" in text:
        return False
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
