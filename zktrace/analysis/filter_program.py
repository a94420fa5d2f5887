"""Filters for one frame at a time: an expression as a small program of tuples.

Whoever stands in the traffic (a proxy's rules and hooks) asks about single frames, most of them in
native code, where there are no tables. The language is that of :mod:`zktrace.analysis.filter`, and
so are its errors; of its fields those that a frame has (:data:`FIELDS`). A program is one of ::

    ("all", programs) ("any", programs) ("not", program)
    ("number", field, "in" | "not in" | "<" | ">", integers)
    ("path", negated, texts) ("path like", negated, pattern)
    ("address", "client" | "server", negated, (ip, prefix length, port or None) ...)
    ("address like", "client" | "server", negated, pattern)
    ("session", negated, (bits to shift away, what is left then) ...)
    ("watch", wanted)

with the numbers ``kind`` (0: a request or reply, 1: a watch event), ``opcode``, ``xid``, ``zxid``,
``error``, ``event``, ``size``, ``request_bytes``, ``reply_bytes``, ``latency`` (ns). As in tables,
a comparison with what a frame does not have is false. :func:`holds` is the reference of what a
program means; ``zktrace/_native/src/relay/rules.rs`` does the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from ipaddress import ip_address
from math import ceil, floor
from typing import Any, Final, TypeAlias

from zktrace.analysis.filter_fields import (
    Endpoint,
    ErrorName,
    Field,
    Flag,
    Number,
    Session,
    compile_test,
    fields,
    glob_regex,
)
from zktrace.analysis.filter_syntax import All, FilterError, Node, Not, Test, parse
from zktrace.analysis.names import vocabulary
from zktrace.wire.errors import ERRORS, EVENT_TYPES

Program: TypeAlias = tuple[Any, ...]

#: What is known of a frame when it is a request, a reply or a watch event; and of a connection.
REQUEST_FIELDS: Final = frozenset(
    (
        *("op", "opcode", "path", "client", "server", "session", "xid", "read", "write", "watch"),
        *("request_bytes", "size", "kind"),
    )
)
REPLY_FIELDS: Final = REQUEST_FIELDS | {"error", "error_name", "zxid", "latency", "reply_bytes"}
EVENT_FIELDS: Final = frozenset(
    ("path", "client", "server", "session", "event", "reply_bytes", "size", "kind")
)
CONNECTION_FIELDS: Final = frozenset(("client", "server", "session"))
FIELDS: Final = REPLY_FIELDS | EVENT_FIELDS
KIND_NUMBERS: Final[Mapping[str, int]] = {"exchange": 0, "watch_event": 1}

_INT64: Final = (-(2**63), 2**63 - 1)
_OPCODE: Final = re.compile(r"op-?\d+")


@cache
def _known() -> dict[str, Field]:
    return fields(vocabulary())


def compile_program(
    expression: str, known: frozenset[str] = FIELDS, where: str = "of a frame"
) -> Program:
    """The program of an expression.

    `known`: the fields that may be used; others are an error that says `where` they are missing.

    :raises FilterError: what is wrong, and where.
    """
    return _compile(parse(expression), expression, known, where)


def _compile(node: Node, expression: str, known: frozenset[str], where: str) -> Program:
    if isinstance(node, Test):
        # Says what is wrong with it, if something is.
        compile_test(node, _known(), expression)
        name = node.field.text
        if name not in known:
            usable = " ".join(sorted(known))
            message = f"{name!r} is not known {where}, only {usable}"
            raise FilterError(message, expression, node.field.position)
        try:
            values = [value.text for value in node.values]
            return _test(_known()[name], node.operator or "==", values or ["true"])
        except ValueError as error:
            raise FilterError(str(error), expression, node.values[0].position) from None
    if isinstance(node, Not):
        return ("not", _compile(node.part, expression, known, where))
    parts = tuple(_compile(part, expression, known, where) for part in node.parts)
    return ("all" if isinstance(node, All) else "any", parts)


def _test(field: Field, how: str, values: Sequence[str]) -> Program:
    negated = how in ("!=", "!~")
    like = how in ("=~", "!~")
    if isinstance(field, Endpoint):
        if like:
            return ("address like", field.name, negated, values[0])
        wanted = [field.wanted(value) for value in values]
        return (
            "address",
            field.name,
            negated,
            tuple((str(net.network_address), net.prefixlen, port) for net, port in wanted),
        )
    if isinstance(field, Session):
        return ("session", negated, tuple(field.wanted(value) for value in values))
    if isinstance(field, Flag):
        return _flag(field, (values[0] == "true") != negated)
    if isinstance(field, Number):
        return _number(field.name, how, [field.read(value) for value in values])
    if field.name == "path":
        if like:
            return ("path like", negated, values[0])
        return ("path", negated, tuple(values))
    names = _names(field)
    if like:
        match = re.compile(glob_regex(values[0]))
        chosen = [number for name, number in names.items() if match.search(name)]
    else:
        chosen = [names[value] if value in names else _bare(value) for value in values]
    number = {"op": "opcode", "error_name": "error"}.get(field.name, field.name)
    return ("number", number, "not in" if negated else "in", tuple(chosen))


def _names(field: Field) -> Mapping[str, int]:
    """The numbers that a field's names stand for."""
    if field.name == "op":
        return vocabulary().opcodes
    if isinstance(field, ErrorName):
        return {name: code for code, name in ERRORS.items()}
    if field.name == "event":
        return {name: code for code, name in EVENT_TYPES.items()}
    assert field.name == "kind", field.name
    return KIND_NUMBERS


def _bare(value: str) -> int:
    """The number in ``op77``, ``event-3`` or ``-99``."""
    found = re.search(r"-?\d+$", value)
    if found is None:
        raise ValueError(f"no frame is {value!r}")
    return int(found[0])


def _flag(field: Flag, wanted: bool) -> Program:
    if field.name == "watch":
        return ("watch", wanted)
    names = vocabulary()
    ops = names.reads if field.name == "read" else names.writes
    numbers = tuple(sorted(names.opcodes[name] for name in ops))
    return ("number", "opcode", "in" if wanted else "not in", numbers)


def _number(name: str, how: str, values: Sequence[Fraction]) -> Program:
    """Integers against numbers that may have a fraction or be out of their range: exactly."""
    low, high = _INT64
    if how in ("==", "!=", "in"):
        whole = tuple(
            int(value) for value in values if value.denominator == 1 and low <= value <= high
        )
        return ("number", name, "not in" if how == "!=" else "in", whole)
    limit = values[0]
    if how == "<":
        bound = ceil(limit)
    elif how == "<=":
        bound = floor(limit) + 1
    elif how == ">":
        bound = floor(limit)
    else:
        bound = ceil(limit) - 1
    below = how in ("<", "<=")
    if not low <= bound <= high:
        # All are on the same side: none is not among nothing, none is among nothing.
        return ("number", name, "not in" if below == (bound > high) else "in", ())
    return ("number", name, "<" if below else ">", (bound,))


def fields_of(program: Program) -> set[str]:
    """What a program asks about, as :func:`holds` names it."""
    match program[0]:
        case "all" | "any":
            return set().union(*map(fields_of, program[1]))
        case "not":
            return fields_of(program[1])
        case "number" | "address" | "address like":
            return {program[1]}
        case "path" | "path like":
            return {"path"}
        case name:
            return {name}


def holds(program: Program, facts: Mapping[str, Any], missing: bool | None = False) -> bool | None:
    """Whether a program is true of a frame: numbers by name, ``path`` a text, ``watch`` a bool,
    ``session`` an unsigned integer, ``client`` and ``server`` as (ip, port).

    `missing`: what a comparison is with what is not there; None: not known yet, and so may be the
    whole.
    """
    match program:
        case ("all", parts):
            answers = [holds(part, facts, missing) for part in parts]
            return False if False in answers else None if None in answers else True
        case ("any", parts):
            answers = [holds(part, facts, missing) for part in parts]
            return True if True in answers else None if None in answers else False
        case ("not", part):
            answer = holds(part, facts, missing)
            return None if answer is None else not answer
    value = facts.get(program[1] if program[0] in _NAMED else program[0].partition(" ")[0])
    if value is None:
        return missing
    return _compare(program, value)


def _compare(program: Program, value: Any) -> bool:
    match program:
        case ("number", _, how, numbers):
            if how in ("in", "not in"):
                return bool((value in numbers) == (how == "in"))
            return bool(value < numbers[0] if how == "<" else value > numbers[0])
        case ("path", negated, texts):
            return bool((value in texts) != negated)
        case ("path like", negated, pattern):
            return (_regex(pattern).search(value) is not None) != bool(negated)
        case ("address", _, negated, networks):
            return any(_within(value, *one) for one in networks) != bool(negated)
        case ("address like", _, negated, pattern):
            ip, port = value
            shown = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
            regex = _regex(pattern)
            return any(regex.search(text) for text in (shown, ip)) != bool(negated)
        case ("session", negated, wanted):
            return any(value >> shift == left for shift, left in wanted) != bool(negated)
        case ("watch", wanted):
            return bool(value == wanted)
    raise ValueError(f"not a program: {program!r}")


#: Programs whose field stands behind their name.
_NAMED: Final = frozenset(("number", "address", "address like"))


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(glob_regex(pattern))


def _within(value: tuple[str, int], network: str, prefix: int, port: int | None) -> bool:
    ip, own = ip_address(value[0]), ip_address(network)
    shift = ip.max_prefixlen - prefix
    return (
        ip.version == own.version
        and int(ip) >> shift == int(own) >> shift
        and port in (None, value[1])
    )
