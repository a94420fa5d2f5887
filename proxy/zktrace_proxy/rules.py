"""Rules as users write them: ``ACTION [VALUE] [KEY=VALUE ...] [when FILTER]``.

    latency 100ms jitter=20ms direction=to-client
    drop-reply nth=3 when op == "create" and path =~ "/locks/**"
    error ConnectionLoss probability=0.1 seed=7 when read

``docs/faults.md`` tells what each action does. The filter is that of all of zktrace
(:mod:`zktrace.analysis.filter_program`), with the fields that are known where the action is asked:
of whole connections, of requests, of replies or of watch events. Knows no plane: a rule is handed
to one as plain values (:meth:`Rule.form`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction
from typing import Any, Final

from zktrace.analysis.filter_fields import Wrong, read_duration, read_size
from zktrace.analysis.filter_program import (
    CONNECTION_FIELDS,
    EVENT_FIELDS,
    REPLY_FIELDS,
    REQUEST_FIELDS,
    Program,
    compile_program,
)
from zktrace.analysis.filter_syntax import FilterError
from zktrace.wire.errors import ERRORS

#: Longer ones nobody writes.
MAX_RULE: Final = 4000
_DAY_S: Final = 86_400.0
_SEED_BITS: Final = 64


class RuleError(ValueError):
    """A rule that cannot be understood; ``str()`` says why, for a filter with the place marked."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that was understood; times in seconds."""

    text: str
    name: str
    """The action as users call it."""
    at: str
    """``connection``, ``request``, ``reply`` or ``event``: when it is asked."""
    action: str
    """What a plane calls it."""
    values: Mapping[str, Any] = field(default_factory=dict)
    when: Program | None = None
    nth: int | None = None
    after: int = 0
    times: int | None = None
    lasting_s: float | None = None
    probability: float = 1.0
    seed: int = 0

    def form(self, number: int) -> tuple[Any, ...]:
        """As a plane takes it, under a number."""
        limits = (
            *(self.nth, self.after, self.times),
            *(self.lasting_s, self.probability, self.seed),
        )
        return number, self.name, self.when, self.at, self.action, dict(self.values), limits


def _time(text: str) -> float:
    seconds = float(read_duration(text) / 1_000_000_000)
    if seconds > _DAY_S:
        raise Wrong("a day at most")
    return seconds


def _size(text: str) -> int:
    size = int(read_size(text))
    if not 1 <= size <= 1 << 40:
        raise Wrong(f"{text!r} is no size: one byte at least")
    return size


def _rate(text: str) -> float:
    return float(_size(text.removesuffix("/s")))


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise Wrong(f"{text!r} is no number")
    return int(text)


def _from_one(text: str) -> int:
    if (count := _count(text)) < 1:
        raise Wrong("the first is 1")
    return count


def _seed(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) >> _SEED_BITS:
        raise Wrong(f"{text!r} is no seed: a number of 64 bits")
    return int(text)


def _probability(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,18})?)(%?)", text)
    number = Fraction(match[1]) / (100 if match[2] else 1) if match else Fraction(2)
    if number > 1:
        raise Wrong(f"{text!r} is no probability, such as 0.1 or 10%")
    return float(number)


_CODES: Final = {name: code for code, name in ERRORS.items()}


def _code(text: str) -> int:
    if text in _CODES:
        return _CODES[text]
    if re.fullmatch(r"-[0-9]{1,9}", text):
        return int(text)
    near = get_close_matches(text, _CODES, n=1)
    raise Wrong(f"unknown error {text!r}" + (f", did you mean {near[0]!r}?" if near else ""))


def _ways(text: str) -> tuple[bool, bool]:
    ways = {"both": (True, True), "to-server": (True, False), "to-client": (False, True)}
    if text not in ways:
        raise Wrong(f"a direction is {', '.join(ways)}, not {text!r}")
    return ways[text]


def _then(text: str) -> bool:
    if text not in ("reset", "hang"):
        raise Wrong(f"then is reset or hang, not {text!r}")
    return text == "reset"


Reader = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class _Action:
    """What an action takes. `value`: what stands behind its name; its default, if it has one."""

    at: tuple[str, ...]
    action: str
    value: tuple[str, Reader] | None = None
    default: tuple[Any] | None = None
    options: Mapping[str, tuple[str, Reader, Any]] = field(default_factory=dict)
    """By what users write: what a plane calls it, how it is read, what it is otherwise."""
    fixed: Mapping[str, Any] = field(default_factory=dict)


_WAYS: Final = {"direction": ("ways", _ways, (True, True))}
_JITTER: Final = {"jitter": ("jitter", _time, 0.0)}
_THEN: Final = {"then": ("reset", _then, True)}
_CONNECTION: Final = ("connection",)

ACTIONS: Final[Mapping[str, _Action]] = {
    "latency": _Action(_CONNECTION, "latency", ("delay", _time), options={**_JITTER, **_WAYS}),
    "bandwidth": _Action(_CONNECTION, "bandwidth", ("rate", _rate), options=_WAYS),
    "slicer": _Action(
        _CONNECTION,
        "slicer",
        ("size", _size),
        options={"pause": ("pause", _time, 0.0), **_WAYS},
    ),
    "timeout": _Action(_CONNECTION, "timeout", ("delay", _time), (None,), options=_WAYS),
    "reset": _Action(_CONNECTION, "reset", ("delay", _time), (0.0,)),
    "slow-close": _Action(_CONNECTION, "slow-close", ("delay", _time), options=_WAYS),
    "limit-data": _Action(_CONNECTION, "limit-data", ("size", _size), options=_WAYS),
    "down": _Action(_CONNECTION, "down"),
    "delay": _Action(("request", "reply"), "delay", ("delay", _time), options=_JITTER),
    "error": _Action(("request", "reply"), "error", ("code", _code)),
    "close": _Action(("request", "reply"), "close"),
    "drop-request": _Action(("request",), "drop", options=_THEN),
    "drop-reply": _Action(("reply",), "drop", options=_THEN),
    "drop-event": _Action(("event",), "drop", fixed={"reset": False}),
    "duplicate-event": _Action(("event",), "duplicate"),
    "delay-event": _Action(("event",), "late", ("delay", _time)),
    "expire": _Action(("request",), "expire"),
    "move": _Action(("request",), "move"),
    "stale": _Action(("reply",), "stale"),
}

#: What every rule may have: the name of the attribute, how it is read.
_LIMITS: Final[Mapping[str, tuple[str, Reader]]] = {
    "nth": ("nth", _from_one),
    "after": ("after", _count),
    "times": ("times", _from_one),
    "for": ("lasting_s", _time),
    "probability": ("probability", _probability),
    "toxicity": ("probability", _probability),
    "seed": ("seed", _seed),
}

_KNOWN: Final = {
    "connection": (CONNECTION_FIELDS, "of a whole connection"),
    "request": (REQUEST_FIELDS, "when a request passes (see at=reply)"),
    "reply": (REPLY_FIELDS, "of a reply"),
    "event": (EVENT_FIELDS, "of a watch event"),
}


def _meant(wrong: str, known: Mapping[str, Any]) -> str:
    near = get_close_matches(wrong, known, n=1)
    return f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


def parse(text: str) -> Rule:
    """The rule that a text is.

    :raises RuleError: what is wrong with it.
    """
    if len(text) > MAX_RULE:
        raise RuleError(f"a rule has at most {MAX_RULE} characters")
    head, when, expression = text.partition(" when ")
    words = head.split()
    if not words:
        raise RuleError(f"an action is missing; there are {', '.join(ACTIONS)}")
    if words[-1] == "when":
        raise RuleError("a filter is missing behind 'when'")
    name, *rest = words
    action = ACTIONS.get(name)
    if action is None:
        raise RuleError(f"unknown action {name!r}{_meant(name, ACTIONS)}")
    given = _given(name, rest)
    values = dict(action.fixed)
    at = action.at[0]
    limits: dict[str, Any] = {}
    if action.value is not None:
        called, read = action.value
        if "" in given:
            values[called] = _read(name, read, given.pop(""))
        elif action.default is not None:
            values[called] = action.default[0]
        else:
            raise RuleError(f"{name}: what it is to be is missing, as in '{name} {_example(read)}'")
    if "" in given:
        raise RuleError(f"{name} takes no value such as {given['']!r}")
    if "at" in given and len(action.at) > 1:
        at = given.pop("at")
        if at not in action.at:
            raise RuleError(f"{name}: at is {' or '.join(action.at)}, not {at!r}")
    for option, (called, read, otherwise) in action.options.items():
        wanted = given.pop(option, None)
        values[called] = otherwise if wanted is None else _read(option, read, wanted)
    for option, wanted in given.items():
        if option not in _LIMITS:
            known = {**action.options, **_LIMITS, **({"at": 1} if len(action.at) > 1 else {})}
            raise RuleError(f"{name}: unknown option {option!r}{_meant(option, known)}")
        called, read = _LIMITS[option]
        limits[called] = _read(option, read, wanted)
    program = _filter(expression, at) if when else None
    return Rule(" ".join(text.split()), name, at, action.action, values, program, **limits)


def _given(name: str, words: list[str]) -> dict[str, str]:
    """Values by what users call them; the one without a name is that of ``""``."""
    given: dict[str, str] = {}
    for word in words:
        option, equals, value = word.partition("=")
        key, value = (option, value) if equals else ("", word)
        if key in given:
            raise RuleError(f"{name}: {'more than one value' if not key else key + ' twice'}")
        given[key] = value
    return given


def _read(what: str, read: Reader, text: str) -> Any:
    try:
        return read(text)
    except Wrong as wrong:
        raise RuleError(f"{what}: {wrong}") from None


def _example(read: Reader) -> str:
    examples: dict[Reader, str] = {
        _time: "100ms",
        _size: "100",
        _rate: "64k",
        _code: "NoNode",
    }
    return examples[read]


def _filter(expression: str, at: str) -> Program:
    known, where = _KNOWN[at]
    try:
        return compile_program(expression.strip(), known, where)
    except FilterError as error:
        raise RuleError(str(error)) from None
