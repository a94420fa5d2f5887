"""Addresses in ACLs of scheme ip: "address" or "address/bits" (IPAuthenticationProvider).

Not `ipaddress`: what counts as an address here is what Java's parser takes ("010.0.0.1" is one).
"""

from __future__ import annotations

import re
from typing import Final

_DECIMAL: Final = re.compile(r"[+-]?[0-9]+\Z")
_HEX: Final = re.compile(r"[+-]?[0-9a-fA-F]+\Z")


def _v4(text: str) -> bytes | None:
    parts = text.split(".")
    if len(parts) != 4 or not all(_DECIMAL.match(p) for p in parts):
        return None
    numbers = [int(p) for p in parts]
    return bytes(numbers) if all(0 <= n <= 255 for n in numbers) else None


def _v6(text: str) -> bytes | None:
    halves = text.split("::")
    if len(halves) > 2:
        return None
    front = halves[0].split(":") if halves[0] or len(halves) == 1 else []
    back = halves[1].split(":") if len(halves) == 2 and halves[1] else []
    count = len(front) + len(back)
    if count != 8 if len(halves) == 1 else count >= 8:
        return None
    words = front + ["0"] * (8 - count) + back
    if not all(len(w) <= 4 and _HEX.match(w) for w in words):
        return None
    return b"".join((int(w, 16) & 0xFFFF).to_bytes(2, "big") for w in words)


def _parse(text: str) -> bytes | None:
    if ":" in text:
        return _v6(text)
    return _v4(text) if "." in text else None


def _expression(text: str) -> tuple[bytes, int] | None:
    """Address and number of leading bits that count; None if it is no such thing."""
    head, slash, tail = text.partition("/")
    address = _parse(head)
    if address is None:
        return None
    bits = len(address) * 8
    if slash:
        if not _DECIMAL.match(tail) or not 0 <= int(tail) <= bits:
            return None
        bits = int(tail)
    return address, bits


def valid(expression: str) -> bool:
    """Whether an ACL may hold it."""
    return _expression(expression) is not None


def matches(client: str, expression: str) -> bool:
    """Whether a client's address is meant."""
    wanted, address = _expression(expression), _parse(client)
    if wanted is None or address is None or len(wanted[0]) != len(address):
        return False
    shift = len(address) * 8 - wanted[1]
    return int.from_bytes(wanted[0], "big") >> shift == int.from_bytes(address, "big") >> shift
