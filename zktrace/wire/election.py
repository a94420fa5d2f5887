"""Leader election (QuorumCnxManager, FastLeaderElection): the opener's initial message, then frames
(int length) of notifications, both ways."""

from __future__ import annotations

from typing import Final

from zktrace.wire.codec import Record, record
from zktrace.wire.jute import Buffer, Int, Long, Tail, UString, WireError

PROTOCOL_V1: Final = -65536
PROTOCOL_V2: Final = -65535  # several addresses, "|" between them
MAX_ADDRESS: Final = 2048  # QuorumCnxManager.maxBuffer
MAX_NOTIFICATION: Final = 524288  # QuorumCnxManager.PACKETMAXSIZE

STATES: Final[dict[int, str]] = {0: "LOOKING", 1: "FOLLOWING", 2: "LEADING", 3: "OBSERVING"}

# An observer's vote: Long.MIN_VALUE as leader, zxid and peer epoch.
NO_VOTE: Final = -(1 << 63)

# Lengths of notifications before version 2: 3.4.0 and older, 3.4; then 44 and the config text.
_OLDEST: Final = 28
_OLD: Final = 40
_LEAST: Final = 44


@record
class InitialMessage(Record):
    """`sid` of the opener. 3.4 and older send the sid alone (see `decode_initial`)."""

    protocol_version: Long
    sid: Long
    address: UString


@record
class Notification(Record):
    """A vote. `state` of its sender; `election_epoch` is the round; zxid and epochs of the
    proposed.
    """

    state: Int
    leader: Long
    zxid: Long
    election_epoch: Long
    peer_epoch: Tail[Long] = None
    version: Tail[Int] = None
    config: Tail[Buffer] = None


def decode_initial(buf: bytes, pos: int, end: int) -> tuple[InitialMessage, int] | None:
    """The initial message and the place behind it; None: more bytes are needed.

    A message of 3.4 (a sid, nothing else) gives protocol_version 0 and no address.
    """
    if end - pos < 8:
        return None
    first = int.from_bytes(buf[pos : pos + 8], "big", signed=True)
    if first >= 0:
        return InitialMessage(0, first, None), pos + 8
    if first not in (PROTOCOL_V1, PROTOCOL_V2):
        raise WireError("unknown protocol version", pos, "InitialMessage.protocol_version")
    if end - pos < 20:
        return None
    length = int.from_bytes(buf[pos + 16 : pos + 20], "big", signed=True)
    if not 0 < length <= MAX_ADDRESS:
        raise WireError(f"length {length} of an address", pos + 16, "InitialMessage.address")
    if end - pos < 20 + length:
        return None
    return InitialMessage.decode_from(buf, pos, end)


def decode_notification(data: bytes) -> Notification:
    """A notification by its frame's length; the fields that the length leaves out are None."""
    size = len(data)
    if size not in (_OLDEST, _OLD) and size < _LEAST:
        raise WireError(f"length {size} of a notification", 0, "Notification")
    return Notification.decode(data)
