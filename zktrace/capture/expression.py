"""Capture filters as tcpdump's users type them (pcap-filter(7)), the part that says something of
TCP between hosts: ``host``, ``net``, ``port``, ``portrange``, ``ip``, ``ip6``, ``tcp``, with
``src`` and ``dst`` before, ``not``, ``and``, ``or`` and parentheses around.

As there, ``and`` and ``or`` bind alike, from left to right, ``not`` binds closest, and an address
or number alone stands for the same as the one before it (``port 2181 or 2182``). Hosts are
addresses: nothing asks a name server. VLAN tags need no word, what is behind them is looked at.

:mod:`zktrace.capture.bpf` makes a program of what comes out. Knows nothing of packets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, NoReturn, TypeAlias


class Side(Enum):
    """Of which end of a packet something is said."""

    source = "src"
    destination = "dst"
    either = "src or dst"
    both = "src and dst"


@dataclass(frozen=True, slots=True)
class InNet:
    """An address is in a network."""

    network: IPv4Network | IPv6Network
    side: Side = Side.either
    negated: bool = False


@dataclass(frozen=True, slots=True)
class InPorts:
    """A port is in a range, both ends included."""

    low: int
    high: int
    side: Side = Side.either
    negated: bool = False


@dataclass(frozen=True, slots=True)
class IsVersion:
    """The version of IP; 0: any, which all that is captured is."""

    version: int
    negated: bool = False


@dataclass(frozen=True, slots=True)
class All:
    """Each of them."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Any:
    """One of them."""

    parts: tuple[Expression, ...]


Leaf: TypeAlias = InNet | InPorts | IsVersion
Expression: TypeAlias = Leaf | All | Any


class ExpressionError(ValueError):
    """What is wrong, and where."""

    def __init__(self, message: str, text: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.text = text
        self.position = position


def negated(expression: Expression) -> Expression:
    """The opposite. Negation is in the leaves, so that what cannot be known of a packet (the ports
    of a fragment) can let it pass either way.
    """
    if isinstance(expression, All):
        return Any(tuple(map(negated, expression.parts)))
    if isinstance(expression, Any):
        return All(tuple(map(negated, expression.parts)))
    return replace(expression, negated=not expression.negated)


def parse(text: str) -> Expression:
    """The expression of a text. :class:`ExpressionError` when it is wrong."""
    return _Parser(text).whole()


#: Deeper nesting is no filter that anybody writes.
_DEEPEST: Final = 50
_TOKEN: Final = re.compile(r"\s*(&&|\|\||[()!]|[^\s()!&|]+|[&|])")
_TYPES: Final = ("host", "net", "port", "portrange")
_PROTOCOLS: Final = {"tcp": 0, "ip": 4, "ip6": 6}
_AND: Final = ("and", "&&")
_OR: Final = ("or", "||")
_NOT: Final = ("not", "!")
_OTHERS: Final = {
    **dict.fromkeys(("udp", "icmp", "icmp6", "arp", "sctp"), "only TCP is captured"),
    **dict.fromkeys(("vlan", "mpls"), "VLAN tags are looked behind, they need no word here"),
    **dict.fromkeys(("ether", "greater", "less", "proto", "gateway"), "not known here"),
}


class _Parser:
    """One text, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [(m[1], m.start(1)) for m in _TOKEN.finditer(text)]
        self._at = 0
        self._depth = 0
        #: What an address or number alone stands for.
        self._last: tuple[str | None, Side] = (None, Side.either)

    def whole(self) -> Expression:
        if not self._tokens:
            self._fail("the filter is empty")
        found = self._alternation()
        if self._at < len(self._tokens):
            self._fail("'and' or 'or' is missing" if self._word() != ")" else "no ( before this )")
        return found

    def _fail(self, message: str, back: int = 0) -> NoReturn:
        at = self._at - back
        place = self._tokens[at][1] if at < len(self._tokens) else len(self._text)
        raise ExpressionError(message, self._text, place)

    def _word(self) -> str:
        """The token here; empty behind the last one."""
        return self._tokens[self._at][0].lower() if self._at < len(self._tokens) else ""

    def _alternation(self) -> Expression:
        found = self._negation()
        while True:
            word = self._word()
            if word in _AND:
                self._at += 1
                found = All((found, self._negation()))
            elif word in _OR:
                self._at += 1
                found = Any((found, self._negation()))
            else:
                return found

    def _negation(self) -> Expression:
        if self._word() not in _NOT:
            return self._primary()
        self._at += 1
        return negated(self._deeper(self._negation))

    def _deeper(self, part: Callable[[], Expression]) -> Expression:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._fail("nested too deeply")
        found = part()
        self._depth -= 1
        return found

    def _primary(self) -> Expression:
        word = self._word()
        if word == "(":
            self._at += 1
            found = self._deeper(self._alternation)
            if self._word() != ")":
                self._fail("a ) is missing")
            self._at += 1
            return found
        if word in _OTHERS:
            self._fail(_OTHERS[word])
        protocol = _PROTOCOLS.get(word)
        if protocol is None:
            return self._said()
        self._at += 1
        version = IsVersion(protocol)
        word = self._word()
        if word in ("", ")", *_AND, *_OR):
            return version
        return All((version, self._said()))

    def _said(self) -> Expression:
        """Side, type, value."""
        side = self._side()
        kind = self._word() if self._word() in _TYPES else None
        if kind is not None:
            self._at += 1
        word = self._word()
        if not word or word in ("(", ")", *_AND, *_OR, *_NOT):
            self._fail("an address or a port is missing" if kind or side else "a filter is missing")
        if kind is None:
            last, last_side = self._last
            if not word[:1].isdigit() and ":" not in word:
                self._fail(f"{word!r} is not known here")
            if side is None and last is not None:
                kind, side = last, last_side
            else:
                kind = "net" if "/" in word else "host"
        side = side or Side.either
        self._last = kind, side
        found = self._ports(kind, side) if kind.startswith("port") else self._net(kind, side)
        self._at += 1
        return found

    def _side(self) -> Side | None:
        word = self._word()
        if word not in ("src", "dst"):
            return None
        self._at += 1
        more = [token.lower() for token, _ in self._tokens[self._at : self._at + 2]]
        if len(more) == 2 and more[1] in ("src", "dst") and more[0] in (*_AND, *_OR):
            # `src and dst port 1`, but not `src 10.0.0.1 and dst 10.0.0.2`.
            if more[1] == word:
                self._fail(f"{word!r} twice", back=-1)
            self._at += 2
            return Side.both if more[0] in _AND else Side.either
        return Side(word)

    def _ports(self, kind: str, side: Side) -> InPorts:
        word = self._word()
        low, dash, high = word.partition("-")
        if bool(dash) != (kind == "portrange"):
            self._fail("a range is N-M" if kind == "portrange" else f"{word!r} is no port")
        numbers = []
        for part in (low, high or low):
            if not (part.isascii() and part.isdigit() and int(part) <= 0xFFFF):
                self._fail(f"{part!r} is no port from 0 to 65535")
            numbers.append(int(part))
        return InPorts(min(numbers), max(numbers), side)

    def _net(self, kind: str, side: Side) -> InNet:
        word = self._word()
        try:
            network = ip_network(word, strict=False)
        except ValueError:
            self._fail(f"{word!r} is no address" + (" and no network" if kind == "net" else ""))
        if kind == "host" and network.prefixlen != network.max_prefixlen:
            self._fail(f"{word!r} is a network, not a host")
        return InNet(network, side)
