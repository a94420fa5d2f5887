"""The rules of a running plane: given, listed, taken back, by whoever asks (tests, HTTP, options).

Safe to use from several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from zktrace_proxy.rules import Rule, parse

#: Rules at once: each is asked about each frame.
MAX_RULES: Final = 256


class Rules(Protocol):
    """What of a plane has to do with rules (:class:`zktrace_proxy.plane.Plane`)."""

    def add_rule(self, form: tuple[Any, ...]) -> None:
        """Puts a rule (:meth:`zktrace_proxy.rules.Rule.form`) in force, at once."""

    def remove_rule(self, number: int) -> bool:
        """Takes a rule back; whether there was one."""

    def rules(self) -> list[tuple[int, int, int, bool]]:
        """Of each rule: number, how often it matched, how often it did something, whether it is
        over.
        """


@dataclass(frozen=True, slots=True)
class Fault:
    """A rule in force."""

    id: int
    rule: Rule
    matched: int
    """How many connections, requests, replies or watch events it was true of."""
    fired: int
    """To how many of them something was done."""
    over: bool
    """It will do nothing more (``times``, ``for``)."""


class TooMany(ValueError):
    """There are :data:`MAX_RULES` already."""


class Faults:
    """The rules of one plane; numbers begin at 1 and are not used again."""

    def __init__(self, plane: Rules, given: Sequence[Rule] = ()) -> None:
        """`given`: the rules that the plane was made with."""
        self._plane = plane
        self._rules = dict(enumerate(given, 1))
        self._last = len(given)
        self._lock = threading.Lock()

    def add(self, text: str) -> int:
        """Puts a rule in force; its number.

        :raises RuleError: it cannot be understood.
        :raises TooMany: there are too many.
        """
        return self.add_rule(parse(text))

    def add_rule(self, rule: Rule) -> int:
        """As :meth:`add`, of a rule that was parsed."""
        with self._lock:
            if len(self._rules) >= MAX_RULES:
                raise TooMany(f"there are {MAX_RULES} rules already")
            self._last += 1
            self._rules[self._last] = rule
            self._plane.add_rule(rule.form(self._last))
            return self._last

    def remove(self, number: int) -> bool:
        """Takes a rule back; whether there was one."""
        with self._lock:
            found = self._rules.pop(number, None) is not None
            return self._plane.remove_rule(number) and found

    def clear(self) -> int:
        """Takes all back; how many."""
        return sum(self.remove(number) for number in list(self._rules))

    def list(self) -> list[Fault]:
        """All, with what they did so far, in the order in which they were given."""
        with self._lock:
            return [
                Fault(number, self._rules[number], matched, fired, over)
                for number, matched, fired, over in self._plane.rules()
                if number in self._rules
            ]
