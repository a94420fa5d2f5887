"""Finding a notification's boundary on the election port: after a loss, or joined mid-stream.

As `resync` does for the client port. A notification says its length twice, but for old ones, which
have two sizes only (FastLeaderElection; protocol reference, section 10). Knows no connections.
"""

from __future__ import annotations

import struct

from zktrace.stream.probe import NOTIFICATION_MAX
from zktrace.stream.resync import ACCEPT, CERTAIN, REJECT, Scan, search

#: A notification's fields end here: before 3.4, with 3.4, since (behind it the text)
OLDEST, OLD, FIELDS = 28, 40, 44
#: Points a chain of notifications needs: one of version 2 that fits has them, or two older ones.
POINTS = 4
#: FastLeaderElection.Notification.CURRENTVERSION
VERSION = 2
STATES = range(4)

_INT = struct.Struct(">i")
_VERSION = struct.Struct(">ii")  # version, length of the text


def length_at(buf: bytes, pos: int) -> int:
    """The length field at a position."""
    length: int = _INT.unpack_from(buf, pos)[0]
    return length


def is_length(length: int) -> bool:
    """Whether a notification can be so long."""
    return length in (OLDEST, OLD) or FIELDS <= length <= NOTIFICATION_MAX


def find_notifications(scan: Scan) -> int:
    """Offset of a notification's length, or -1 where none has proven itself yet."""
    view = bytes(scan.buf)

    def chain(at: int) -> int:
        points, _, enough = _follow(view, at)
        if points >= (2 * POINTS if at else POINTS):
            return ACCEPT
        return REJECT if points < 0 else enough

    return search(scan, view, 8, chain)


def all_notifications(scan: Scan) -> bool:
    """Whether what is in hand is notifications from its first byte to its last."""
    view = bytes(scan.buf)
    pos = 0
    while pos < len(view):
        points, stop, _ = _follow(view, pos)
        if points <= 0:
            return False
        pos = stop
    return pos > 0


def _follow(view: bytes, pos: int) -> tuple[int, int, int]:
    # points, -1 where the chain breaks; the position behind the last whole notification; how many
    # bytes must be in hand to follow it further
    points = 0
    while points < CERTAIN:
        left = len(view) - pos
        if left < 4:
            return points, pos, pos + 4
        length = length_at(view, pos)
        if not is_length(length):
            return -1, pos, REJECT
        if left >= 8 and _INT.unpack_from(view, pos + 4)[0] not in STATES:
            return -1, pos, REJECT
        if length >= FIELDS:
            if left < 4 + FIELDS:
                return points, pos, pos + 4 + FIELDS
            version, size = _VERSION.unpack_from(view, pos + OLD)
            if version != VERSION or size != length - FIELDS:
                return -1, pos, REJECT
        if left < 4 + length:
            return points, pos, pos + 4 + length
        points += 4 if length >= FIELDS else 2
        pos += 4 + length
    return points, pos, REJECT
