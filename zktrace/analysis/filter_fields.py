"""The fields of the filter language: how a comparison is read, and how it is evaluated on columns.

A comparison becomes a function from (kind of event, record batch) to a mask. Text columns are
dictionary-encoded, so a text is looked at once per distinct value and not once per row; numbers are
compared by numpy. Where a row has no value (null, or its kind has no such field) every comparison
is false, ``!=`` and ``!~`` too; ``not (...)`` around it is true.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from zktrace.analysis.filter_syntax import FilterError, Test, Token, suggestion
from zktrace.analysis.names import Vocabulary
from zktrace.wire.errors import error_name

Mask: TypeAlias = npt.NDArray[np.bool_]
#: Table name and rows to the rows for which a comparison holds.
Predicate: TypeAlias = Callable[[str, pa.RecordBatch], Mask]
_Texts: TypeAlias = Callable[[pa.Array], pa.Array]

#: A pattern becomes a regular expression of a few times its length; RE2 refuses very long ones.
MAX_PATTERN: Final = 1000
#: Addresses whose answer is remembered.
_CACHE: Final = 100_000

#: JSON's ``kind`` by table.
KINDS: Final[Mapping[str, str]] = {
    "exchanges": "exchange",
    "watch_events": "watch_event",
    "connections": "connection",
    "four_letter": "four_letter",
    "anomalies": "anomaly",
    "quorum": "quorum",
    "elections": "election",
}


class Wrong(Exception):
    """A value that does not fit; becomes a FilterError at the value's place."""


def _none(rows: pa.RecordBatch) -> Mask:
    return np.zeros(rows.num_rows, dtype=np.bool_)


def _bools(array: pa.Array) -> Mask:
    """Nulls are false."""
    mask: Mask = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
    return mask


def _column(rows: pa.RecordBatch, name: str) -> pa.Array | None:
    index = rows.schema.get_field_index(name)
    return None if index < 0 else rows.column(index)


def glob_regex(pattern: str) -> str:
    """``*`` is anything but a slash, ``**`` anything, ``?`` one character but a slash, ``\\``
    quotes.
    """
    parts = []
    for token in re.findall(r"\*\*|\\.|.", pattern, re.DOTALL):
        if token == "**":
            parts.append(".*")
        elif token == "*":
            parts.append("[^/]*")
        elif token == "?":
            parts.append("[^/]")
        else:
            literal = token[1:] if len(token) == 2 else token
            parts.append("\\" + literal if literal in r"\.+*?()|[]{}^$" else literal)
    return "^(?s:" + "".join(parts) + ")$"


def _matcher(pattern: str) -> _Texts:
    if len(pattern) > MAX_PATTERN:
        raise Wrong(f"a pattern has at most {MAX_PATTERN} characters")
    regex = glob_regex(pattern)

    def match(texts: pa.Array) -> pa.Array:
        return pc.match_substring_regex(texts, regex)

    try:
        match(pa.array([""]))
    except pa.ArrowInvalid as error:
        raise Wrong("the pattern is too complex") from error
    return match


def _member(values: Sequence[str]) -> _Texts:
    wanted = pa.array(values, pa.utf8())
    return lambda texts: pc.is_in(texts, wanted)


def _inverted(test: _Texts) -> _Texts:
    return lambda texts: pc.invert(test(texts))


def _over_texts(column: pa.Array, test: _Texts) -> Mask:
    """A test of texts over a column, once per distinct value where the column is encoded."""
    if not pa.types.is_dictionary(column.type):
        return _bools(pc.and_(pc.is_valid(column), test(column)))
    # One answer more than there are texts: that for null.
    answers = np.append(_bools(test(column.dictionary)), False)
    answer: Mask = answers[pc.fill_null(column.indices, -1).to_numpy()]
    return answer


@dataclass(frozen=True)
class Field:
    """What a name in an expression means."""

    name: str
    operators: ClassVar[tuple[str, ...]] = ("==", "!=", "in", "=~", "!~")
    example: ClassVar[str] = ""

    def compile(self, how: str, values: Sequence[str]) -> Predicate:
        """The predicate of a comparison; `how` is one of `operators`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Text(Field):
    """A text column; with `known`, other values than these cannot occur."""

    known: tuple[str, ...] = ()
    #: What may occur as well.
    also: re.Pattern[str] | None = None

    def check(self, value: str) -> str:
        also = self.also is not None and self.also.fullmatch(value) is not None
        if self.known and value not in self.known and not also:
            raise Wrong(f"unknown {self.name} {value!r}{suggestion(value, self.known)}")
        return value

    def texts(self, how: str, values: Sequence[str]) -> _Texts:
        if how in ("=~", "!~"):
            test = _matcher(values[0])
        else:
            test = _member([self.check(value) for value in values])
        return _inverted(test) if how in ("!=", "!~") else test

    def compile(self, how: str, values: Sequence[str]) -> Predicate:
        test = self.texts(how, values)

        def predicate(_kind: str, rows: pa.RecordBatch) -> Mask:
            column = _column(rows, self.name)
            return _none(rows) if column is None else _over_texts(column, test)

        return predicate


class ErrorName(Text):
    """The name of the error column's code."""

    def compile(self, how: str, values: Sequence[str]) -> Predicate:
        test = self.texts(how, values)

        def predicate(_kind: str, rows: pa.RecordBatch) -> Mask:
            column = _column(rows, "error")
            if column is None:
                return _none(rows)
            codes = pc.dictionary_encode(column)
            names = pa.array(map(error_name, codes.dictionary.to_pylist()), pa.utf8())
            return _over_texts(pa.DictionaryArray.from_arrays(codes.indices, names), test)

        return predicate


class EventKind(Text):
    """The kind of event itself."""

    def compile(self, how: str, values: Sequence[str]) -> Predicate:
        test = self.texts(how, values)
        holds = {kind: test(pa.array([name]))[0].as_py() for kind, name in KINDS.items()}
        return lambda kind, rows: np.full(rows.num_rows, holds.get(kind, False), dtype=np.bool_)


_ENDPOINT: Final = re.compile(r"\[([^\]]*)\]:([0-9]{1,5})|([^:]*):([0-9]{1,5})")


def _split_endpoint(text: str) -> tuple[str, int] | None:
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        return None
    v6, v6_port, v4, v4_port = match.groups()
    return (v6, int(v6_port)) if v6 is not None else (v4, int(v4_port))


_Address: TypeAlias = IPv4Address | IPv6Address
_Network: TypeAlias = IPv4Network | IPv6Network


class Endpoint(Text):
    """``ip:port`` columns: compared with an address, an address and port, or a network."""

    example: ClassVar[str] = "10.0.0.1, 10.0.0.1:2181, [::1]:2181 or 10.0.0.0/8"

    def wanted(self, value: str) -> tuple[_Network, int | None]:
        """The network that a value names, and the port; None: any."""
        endpoint = _split_endpoint(value)
        try:
            if endpoint is not None:
                return ip_network(str(ip_address(endpoint[0]))), endpoint[1]
            return ip_network(value.strip("[]"), strict=False), None
        except ValueError:
            raise Wrong(f"{value!r} is no address or network, such as {self.example}") from None

    def texts(self, how: str, values: Sequence[str]) -> _Texts:
        answers: dict[str, bool] = {}
        if how in ("=~", "!~"):
            match = _matcher(values[0])

            def test(text: str, endpoint: tuple[str, int]) -> bool:
                return any(match(pa.array([text, endpoint[0]])).to_pylist())

        else:
            wanted = [self.wanted(value) for value in values]

            def test(text: str, endpoint: tuple[str, int]) -> bool:
                address, port = ip_address(endpoint[0]), endpoint[1]
                return any(
                    address in network and port == (port if only is None else only)
                    for network, only in wanted
                )

        def answer(text: str) -> bool:
            if text not in answers:
                if len(answers) > _CACHE:
                    answers.clear()
                endpoint = _split_endpoint(text)
                answers[text] = endpoint is not None and test(text, endpoint)
            return answers[text]

        def over(texts: pa.Array) -> pa.Array:
            return pa.array(map(answer, texts.to_pylist()), pa.bool_())

        return _inverted(over) if how in ("!=", "!~") else over


_Numbers: TypeAlias = Callable[[str, pa.RecordBatch], pa.Array | None]


def _of_column(name: str) -> _Numbers:
    return lambda _kind, rows: _column(rows, name)


def _size(_kind: str, rows: pa.RecordBatch) -> pa.Array | None:
    """Bytes of both frames as far as known; of other kinds those there are."""
    columns = [_column(rows, name) for name in ("request_bytes", "reply_bytes", "bytes")]
    known = [column for column in columns if column is not None]
    if not known:
        return None
    if len(known) == 1:
        return known[0]
    either = pc.or_(*map(pc.is_valid, known))
    total = pc.add(*(pc.fill_null(column, 0) for column in known))
    return pc.if_else(either, total, pa.scalar(None, pa.int64()))


_INT64: Final = (-(2**63), 2**63 - 1)
_ORDER: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _compare(numbers: npt.NDArray[np.int64], how: str, value: Fraction) -> Mask:
    """Integers against a number that may have a fraction or be out of their range: exactly."""
    low, high = _INT64
    whole = value.numerator // value.denominator
    if value.denominator != 1:
        # Between whole and whole + 1.
        if how in ("==", "!="):
            return np.full(len(numbers), how == "!=")
        how = "<=" if how in ("<", "<=") else ">"
    if not low <= whole <= high:
        # All are on the same side; any number of that side will do.
        return np.full(len(numbers), _ORDER[how](0, whole))
    mask: Mask = _ORDER[how](numbers, whole)
    return mask


@dataclass(frozen=True)
class Number(Field):
    """An integer column, or what is computed from some; `read` makes a number of a value."""

    column: _Numbers
    read: Callable[[str], Fraction]
    operators: ClassVar[tuple[str, ...]] = ("==", "!=", "<", "<=", ">", ">=", "in")

    def compile(self, how: str, values: Sequence[str]) -> Predicate:
        numbers = [self.read(value) for value in values]

        def predicate(kind: str, rows: pa.RecordBatch) -> Mask:
            column = self.column(kind, rows)
            if column is None:
                return _none(rows)
            held = pc.fill_null(column, 0).to_numpy().astype(np.int64, copy=False)
            step = "==" if how == "in" else how
            mask = np.zeros(len(held), dtype=np.bool_)
            for number in numbers:
                mask |= _compare(held, step, number)
            valid: Mask = pc.is_valid(column).to_numpy(zero_copy_only=False)
            return mask & valid

        return predicate


# Python refuses to read numbers of thousands of digits; columns have 19.
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,40}|0[xX][0-9a-fA-F]{1,40}")


def read_integer(text: str) -> Fraction:
    if not _INTEGER.fullmatch(text):
        raise Wrong(f"{text!r} is not a whole number")
    return Fraction(int(text, 16) if text[:2] in ("0x", "0X") else int(text))


def read_zxid(text: str) -> Fraction:
    """As integers; hex digits are the bit pattern."""
    value = int(read_integer(text))
    return Fraction(value - 2**64 if 2**63 <= value < 2**64 else value)


def _units(units: Mapping[str, int], what: str, *, needed: bool) -> Callable[[str], Fraction]:
    pattern = re.compile(r"([0-9]{1,40}(?:\.[0-9]{1,40})?)([a-zA-Zµ]*)")

    def read(text: str) -> Fraction:
        match = pattern.fullmatch(text)
        if match is None:
            raise Wrong(f"{text!r} is no {what}")
        number, unit = Fraction(match[1]), match[2]
        if unit in units:
            return number * units[unit]
        if unit:
            raise Wrong(f"unknown unit {unit!r}, known are {', '.join(filter(None, units))}")
        if needed and number:
            raise Wrong(f"a {what} needs a unit ({', '.join(units)}), such as {text}ms")
        return number

    return read


read_duration: Final = _units(
    {"ns": 1, "us": 1000, "µs": 1000, "ms": 1_000_000, "s": 1_000_000_000}, "duration", needed=True
)
read_size: Final = _units(
    {"k": 1 << 10, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "B": 1}, "size", needed=False
)


class Session(Field):
    """Session ids: 64 bits, or their first hex digits followed by ``...`` or ``*``."""

    operators: ClassVar[tuple[str, ...]] = ("==", "!=", "in")

    @staticmethod
    def wanted(text: str) -> tuple[int, int]:
        """Bits to shift away, and what is left then."""
        match = re.fullmatch(r"0[xX]([0-9a-fA-F]{1,16})(?:\.\.\.|…|\*)", text)
        if match is not None:
            return 4 * (16 - len(match[1])), int(match[1], 16)
        try:
            value = int(read_integer(text))
        except Wrong:
            raise Wrong(
                f"{text!r} is no session id, such as 0x1000a2b3c4d50001 or 0x1000..."
            ) from None
        if not -(2**63) <= value < 2**64:
            raise Wrong("a session id has 64 bits")
        return 0, value % 2**64

    def compile(self, how: str, values: Sequence[str]) -> Predicate:
        wanted = [self.wanted(value) for value in values]

        def predicate(_kind: str, rows: pa.RecordBatch) -> Mask:
            column = _column(rows, "session")
            if column is None:
                return _none(rows)
            ids = pc.fill_null(column, 0).to_numpy().view(np.uint64)
            mask = np.zeros(len(ids), dtype=np.bool_)
            for shift, value in wanted:
                mask |= (ids >> np.uint64(shift)) == np.uint64(value)
            valid: Mask = pc.is_valid(column).to_numpy(zero_copy_only=False)
            return valid & (~mask if how == "!=" else mask)

        return predicate


@dataclass(frozen=True)
class Flag(Field):
    """True or false; may stand by itself."""

    #: For each row true, false or null.
    value: _Numbers
    operators: ClassVar[tuple[str, ...]] = ("==", "!=")

    def compile(self, how: str, values: Sequence[str]) -> Predicate:
        if values[0] not in ("true", "false"):
            raise Wrong(f"{self.name} is true or false, not {values[0]!r}")
        wanted = (values[0] == "true") == (how == "==")

        def predicate(kind: str, rows: pa.RecordBatch) -> Mask:
            column = self.value(kind, rows)
            if column is None:
                return _none(rows)
            return _bools(column if wanted else pc.invert(column))

        return predicate


def _op_in(names: frozenset[str]) -> _Numbers:
    """Whether the op is one of some; null where it is not known."""
    wanted = pa.array(sorted(names), pa.utf8())

    def among(_kind: str, rows: pa.RecordBatch) -> pa.Array | None:
        column = _column(rows, "op")
        if column is None:
            return None
        return pc.is_in(column.dictionary, wanted).take(column.indices)

    return among


#: Of anomalies, of quorum packets, of election messages.
_DIRECTIONS: Final = (
    *("to_server", "to_client"),
    *("to_leader", "to_learner"),
    *("from_opener", "to_opener"),
)

#: Columns that are compared as whole numbers under their own names.
_PLAIN: Final = (
    "conn",
    "opcode",
    "xid",
    "flags",
    "mode",
    "version",
    "data_length",
    "children",
    "ttl",
    "requested_timeout_ms",
    "timeout_ms",
    "cxid",
    "sid",
    "leader",
    "epoch",
    "election_epoch",
    "peer_epoch",
    "sessions",
    "snapshot_nodes",
)


def fields(names: Vocabulary) -> dict[str, Field]:
    """All fields by name."""

    def read_error(text: str) -> Fraction:
        if text in names.errors:
            return Fraction(names.errors[text])
        if _INTEGER.fullmatch(text):
            return read_integer(text)
        raise Wrong(f"unknown error {text!r}{suggestion(text, names.errors)}")

    connection_events = ("opened", "joined", "closed", "reset", "authenticated")
    all_fields: list[Field] = [
        Text("op", tuple(names.opcodes), re.compile(r"op-?\d+")),
        Text("path"),
        Text("created_path"),
        Endpoint("client"),
        Endpoint("server"),
        Session("session"),
        Number("error", _of_column("error"), read_error),
        ErrorName("error_name", tuple(names.errors), re.compile(r"-?\d+")),
        Number("zxid", _of_column("zxid"), read_zxid),
        Number("latency", _of_column("latency_ns"), read_duration),
        Number("size", _size, read_size),
        Number("request_bytes", _of_column("request_bytes"), read_size),
        Number("reply_bytes", _of_column("reply_bytes"), read_size),
        Text(
            "state", ("complete", "no_reply", "no_request", *names.votes), re.compile(r"state-?\d+")
        ),
        Text("type", (*names.packets, "initial", "notification")),
        Text("txn_type", tuple(names.opcodes), re.compile(r"op-?\d+")),
        Text("address"),
        Flag("valid", _of_column("valid")),
        Number("snapshot_bytes", _of_column("snapshot_bytes"), read_size),
        Flag("watch", _of_column("watch")),
        Flag("read", _op_in(names.reads)),
        Flag("write", _op_in(names.writes)),
        EventKind("kind", tuple(KINDS.values())),
        Text("event", (*names.events, *connection_events), re.compile(r"event-?\d+|-?\d+")),
        Text("keeper_state", names.states, re.compile(r"state-?\d+|-?\d+")),
        Text("role", ("client", "quorum", "election", "tls", "unknown")),
        Text("direction", _DIRECTIONS),
        Text("reason"),
        Text("detail"),
        Text("word", names.words),
    ]
    all_fields += [Number(name, _of_column(name), read_integer) for name in _PLAIN]
    return {field.name: field for field in all_fields}


def compile_test(test: Test, known: Mapping[str, Field], expression: str) -> Predicate:
    """The predicate of a comparison."""

    def fail(message: str, token: Token) -> FilterError:
        return FilterError(message, expression, token.position)

    field = known.get(test.field.text)
    if field is None:
        near = suggestion(test.field.text, known)
        raise fail(f"unknown field {test.field.text!r}{near}", test.field)
    if test.operator is None:
        if isinstance(field, Flag):
            return field.compile("==", ["true"])
        raise fail(f"{field.name!r} must be compared, as in {field.name} == ...", test.field)
    if test.operator not in field.operators:
        usable = " ".join(field.operators)
        message = f"{field.name!r} cannot be compared by {test.operator}, only {usable}"
        raise fail(message, test.field)
    for value in test.values:
        try:
            # One by one, for the place of what is wrong.
            field.compile(test.operator, [value.text])
        except Wrong as wrong:
            raise fail(str(wrong), value) from None
    return field.compile(test.operator, [value.text for value in test.values])
