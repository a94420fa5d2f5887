"""Transaction ids: epoch of the leader in the high 32 bits, counter in the low 32 (ZxidUtils).

As a number a zxid is what the wire has: a signed long.
"""

from __future__ import annotations

_LOW = 0xFFFFFFFF
_ALL = 0xFFFFFFFFFFFFFFFF


def epoch(zxid: int) -> int:
    """The epoch, 0 to 2**32 - 1."""
    return (zxid >> 32) & _LOW


def counter(zxid: int) -> int:
    """The counter within the epoch, 0 to 2**32 - 1."""
    return zxid & _LOW


def make(epoch: int, counter: int) -> int:
    """The zxid of an epoch and a counter, as a signed long."""
    value = ((epoch & _LOW) << 32) | (counter & _LOW)
    return value - (1 << 64) if value >> 63 else value


def text(zxid: int) -> str:
    """0x and hex digits without leading zeros, as ZooKeeper's logs have it."""
    return f"0x{zxid & _ALL:x}"


def session_text(session_id: int) -> str:
    """A session id: 0x and 16 hex digits."""
    return f"0x{session_id & _ALL:016x}"
