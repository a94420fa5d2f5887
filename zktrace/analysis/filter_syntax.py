"""The grammar of the filter language: text to a tree. Knows neither fields nor tables.

::

    expression = and-expression { ("or" | "||") and-expression }
    and-expression = not-expression { ("and" | "&&") not-expression }
    not-expression = ("not" | "!") not-expression | "(" expression ")" | test
    test = NAME                                     a field that is true or false
         | NAME ("==" | "!=" | "<" | "<=" | ">" | ">=" | "=~" | "!~") VALUE
         | NAME ["not"] "in" "(" VALUE { "," VALUE } ")"

A value is quoted (``"`` or ``'``; a backslash quotes a quote or a backslash) or a bare word:
anything up to white space or one of ``()=!<>~&|,"'``, so ``/a/b``, ``10.0.0.0/8`` and ``10ms`` need
no quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, NoReturn, TypeAlias

#: Parentheses and nots within each other: far more than anyone writes, far less than Python's
#: stack.
MAX_NESTING: Final = 100

_TOKENS: Final = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<operator>==|!=|<=|>=|=~|!~|&&|\|\||[<>!(),])
  | (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
  | (?P<word>[^\s()=!<>~&|,"']+)
    """,
    re.VERBOSE | re.DOTALL,
)
#: Bytes of a command line that are no UTF-8 come as these; nothing on the wire can equal them.
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_COMPARISONS: Final = frozenset({"==", "!=", "<", "<=", ">", ">=", "=~", "!~"})
_SYNONYMS: Final = {"&&": "and", "||": "or", "!": "not"}
_KEYWORDS: Final = frozenset({"and", "or", "not", "in"})


class FilterError(ValueError):
    """An expression that cannot be understood. ``str()`` marks the place with a caret."""

    def __init__(self, message: str, expression: str, position: int) -> None:
        # White space of all kinds as one blank each, so that the caret stands right.
        shown = re.sub(r"\s", " ", expression)
        super().__init__(f"{message}\n  {shown}\n  {' ' * position}^")
        self.message = message
        self.expression = expression
        self.position = position
        """Index of the character where it goes wrong."""


@dataclass(frozen=True, slots=True)
class Token:
    """A word, a quoted text (without its quotes), an operator (keywords too), or the end."""

    kind: str
    text: str
    position: int


@dataclass(frozen=True, slots=True)
class Test:
    """A field by itself (``operator`` None), compared (one value), or looked for (``in``)."""

    field: Token
    operator: str | None = None
    values: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Not:
    part: Node


@dataclass(frozen=True, slots=True)
class All:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Any:
    parts: tuple[Node, ...]


Node: TypeAlias = Test | Not | All | Any


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """``, did you mean 'x'?`` or nothing."""
    names = {name.lower(): name for name in known}
    near = get_close_matches(wrong.lower(), names, n=1, cutoff=0.6)
    return f", did you mean {names[near[0]]!r}?" if near else ""


def tokenize(expression: str) -> list[Token]:
    """The tokens, with one of kind ``end`` behind."""
    stray = _SURROGATES.search(expression)
    if stray is not None:
        raise FilterError("the expression is not UTF-8", expression, stray.start())
    tokens = []
    at = 0
    while at < len(expression):
        match = _TOKENS.match(expression, at)
        if match is None:
            raise _lexical_error(expression, at)
        text, kind = match.group(), str(match.lastgroup)
        if kind == "quoted":
            tokens.append(Token(kind, re.sub(r"\\([\"'\\])", r"\1", text[1:-1]), at))
        elif kind == "word" and text.lower() in _KEYWORDS:
            tokens.append(Token("operator", text.lower(), at))
        elif kind != "space":
            tokens.append(Token(kind, _SYNONYMS.get(text, text), at))
        at = match.end()
    tokens.append(Token("end", "", len(expression)))
    return tokens


def _lexical_error(expression: str, at: int) -> FilterError:
    wrong = expression[at]
    if wrong in "\"'":
        return FilterError("a quote is not closed", expression, at)
    meant = {"=": "==", "&": "&&", "|": "||", "~": "=~"}[wrong]
    return FilterError(f"{wrong!r} is not an operator, did you mean {meant!r}?", expression, at)


class _Parser:
    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens = tokenize(expression)
        self._at = 0
        self._depth = 0

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
        token = self._next
        if token.kind != "end":
            self._at += 1
        return token

    def _is(self, *operators: str) -> bool:
        return self._next.kind == "operator" and self._next.text in operators

    def _fail(self, message: str, token: Token) -> NoReturn:
        raise FilterError(message, self._expression, token.position)

    def _got(self) -> str:
        return "the end" if self._next.kind == "end" else repr(self._next.text)

    def whole(self) -> Node:
        if self._next.kind == "end":
            self._fail("the expression is empty", self._next)
        node = self._any()
        if self._next.kind != "end":
            self._fail(f"expected 'and', 'or' or the end, got {self._got()}", self._next)
        return node

    def _any(self) -> Node:
        parts = [self._all()]
        while self._is("or"):
            self._take()
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Any(tuple(parts))

    def _all(self) -> Node:
        parts = [self._not()]
        while self._is("and"):
            self._take()
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _not(self) -> Node:
        if not self._is("not", "("):
            return self._test()
        token = self._take()
        self._depth += 1
        if self._depth > MAX_NESTING:
            self._fail(f"nested more than {MAX_NESTING} deep", token)
        node: Node
        if token.text == "not":
            node = Not(self._not())
        else:
            node = self._any()
            if not self._is(")"):
                self._fail(f"expected ')', got {self._got()}", self._next)
            self._take()
        self._depth -= 1
        return node

    def _test(self) -> Node:
        field = self._next
        if field.kind != "word":
            self._fail(f"expected a field, got {self._got()}", field)
        self._take()
        if self._next.kind == "operator" and self._next.text in _COMPARISONS:
            operator = self._take().text
            return Test(field, operator, (self._value(),))
        negated = self._is("not") and self._tokens[self._at + 1] == Token(
            "operator", "in", self._tokens[self._at + 1].position
        )
        if negated:
            self._take()
        if self._is("in"):
            self._take()
            test = Test(field, "in", self._values())
            return Not(test) if negated else test
        return Test(field)

    def _value(self) -> Token:
        token = self._next
        if token.kind not in ("word", "quoted"):
            self._fail(f"expected a value, got {self._got()}", token)
        return self._take()

    def _values(self) -> tuple[Token, ...]:
        if not self._is("("):
            self._fail(f"expected '(' and a list of values, got {self._got()}", self._next)
        self._take()
        values = [self._value()]
        while self._is(","):
            self._take()
            values.append(self._value())
        if not self._is(")"):
            self._fail(f"expected ',' or ')', got {self._got()}", self._next)
        self._take()
        return tuple(values)


def parse(expression: str) -> Node:
    """The tree of an expression; :class:`FilterError` tells what is wrong and where."""
    return _Parser(expression).whole()
