"""Which protocol do these first bytes belong to?

No protocol of ZooKeeper has a magic number at its start, so the role of a connection comes from
what its first bytes can be (protocol reference, sections 2, 7, 9, 10, 11), ports being hints only.
Pure functions; no state, no ports.
"""

from __future__ import annotations

import struct
from enum import Enum

from zktrace.stream.schema import Schema

_LONG = struct.Struct(">q")

#: jute.maxbuffer does not matter here: passwords are 16 bytes, and a few for other people's servers
PASSWORD_MAX = 64
#: QuorumPacket types that open a learner's connection, and the sizes of LearnerInfo
#: (Learner.registerWithLeader)
FOLLOWERINFO, OBSERVERINFO = 11, 16
LEARNER_INFO_SIZES = (-1, 0, 8, 12, 20)
#: QuorumAuth.QUORUM_AUTH_MAGIC_NUMBER as it is on the wire
QUORUM_SASL = bytes.fromhex("5f2435013501edcc")
#: QuorumCnxManager.PROTOCOL_VERSION_V1 and _V2; a sid instead of them is the protocol before 3.5
ELECTION_VERSIONS = (-65536, -65535)
OLD_SID_MAX = 255
#: Sizes of notifications: 28 and 40 bytes, or 44 and more (FastLeaderElection)
NOTIFICATION_MAX = 524_288


class Verdict(Enum):
    """What first bytes can be."""

    MORE = "more"
    CONNECT = "connect"
    WORD = "word"
    QUORUM = "quorum"
    ELECTION = "election"
    TLS = "tls"
    UNKNOWN = "unknown"


def probe(data: bytes, schema: Schema) -> Verdict:
    """Judge the first bytes that the opener of a connection sent; MORE where they do not suffice
    yet.
    """
    more = False
    for verdict, test in (
        (Verdict.WORD, _word),
        (Verdict.CONNECT, _connect),
        (Verdict.TLS, _tls),
        (Verdict.QUORUM, _quorum),
        (Verdict.ELECTION, _election),
    ):
        answer = test(data, schema)
        if answer:
            return verdict
        more = more or answer is None
    return Verdict.MORE if more else Verdict.UNKNOWN


def keeper_flags(version: int) -> int:
    """Bytes that ClickHouse Keeper's dialects put after a ConnectRequest's version.

    Version 11 has one (compress), 12 and up two (64-bit xids, compress); 42 is the rejection. See
    zktrace.wire.keeper.
    """
    if version == 11:
        return 1
    return 2 if 12 <= version < 42 else 0


def handshake_extra(data: bytes) -> int:
    """Bytes that a ConnectRequest has beyond its length field: Keeper's length does not count its
    flags.
    """
    flags = keeper_flags(_int(data, 4))
    body = 28 + max(_int(data, 28 + flags), 0)
    return flags if body <= _int(data, 0) <= body + 1 else 0


def is_whole_connect(data: bytes) -> bool:
    """Whether a ConnectRequest, and nothing else that clients or servers send, begins here.

    For connections whose beginning was not seen: stricter than what a server takes, and only once
    all of it is there.
    """
    if len(data) < 32:
        return False
    length, version, flags = _int(data, 0), _int(data, 4), keeper_flags(_int(data, 4))
    if (version != 0 and version != 10 and not flags) or len(data) < 32 + flags:
        return False
    timeout, size = _int(data, 16 + flags), _int(data, 28 + flags)
    end = 32 + flags + max(size, 0)
    if size not in (-1, 0, 16) or timeout <= 0 or data[8 + flags] > 0x7F:
        return False
    if version != 0 and (
        size != 16 or handshake_extra(data) != flags or max(data[8 : 8 + flags], default=0) > 1
    ):
        # an xid of a request looks like a version: of the dialects only what they really send
        return False
    with_flag = length - (0 if handshake_extra(data) else flags) == 29 + max(size, 0)
    return len(data) > end and data[end] <= 1 if with_flag else len(data) >= end


def is_cut_connect(data: bytes) -> bool:
    """Whether a ConnectRequest can begin here of which the snap length cut the rest."""
    if len(data) < 20:
        return False
    fits = 28 <= _int(data, 0) <= 29 + PASSWORD_MAX and _int(data, 4) == 0
    return fits and data[8] <= 0x7F and _int(data, 16) > 0


def is_notification(data: bytes, pos: int) -> bool | None:
    """Whether a length and a notification may begin at `pos`; None where that takes more bytes."""
    if len(data) < pos + 8:
        return None
    length, state = struct.unpack_from(">ii", data, pos)
    fits: bool = length in (28, 40) or 44 <= length <= NOTIFICATION_MAX
    return fits and 0 <= state <= 3


def _int(data: bytes, pos: int) -> int:
    return int.from_bytes(data[pos : pos + 4], "big", signed=True)


def _word(data: bytes, schema: Schema) -> bool | None:
    if len(data) >= 4:
        return bytes(data[:4]) in schema.words
    return None if any(word.startswith(data) for word in schema.words) else False


def _connect(data: bytes, _schema: Schema) -> bool | None:
    if len(data) < 4:
        return None if data == bytes(len(data)) else False
    length = _int(data, 0)
    if not 28 <= length <= 30 + PASSWORD_MAX:
        return False
    if len(data) < 8:
        return None
    extra = keeper_flags(_int(data, 4))
    if len(data) < 32 + extra:
        return None
    size = _int(data, 28 + extra)
    if not -1 <= size <= PASSWORD_MAX:
        return False
    body = 28 + max(size, 0)
    return body <= length <= body + 1 + extra


def _tls(data: bytes, _schema: Schema) -> bool | None:
    # RFC 8446, 5.1 and 4: a record of type handshake holding a ClientHello
    start = b"\x16\x03"
    if len(data) < 6:
        return None if start.startswith(data[:2]) else False
    return data.startswith(start) and data[2] <= 4 and data[5] == 1


def _quorum(data: bytes, _schema: Schema) -> bool | None:
    if QUORUM_SASL.startswith(data[:8]):
        return True if len(data) >= 8 else None
    if len(data) < 4:
        return None if data == bytes(len(data)) else False
    if _int(data, 0) not in (FOLLOWERINFO, OBSERVERINFO):
        return False
    if len(data) < 16:
        return None
    return _int(data, 12) in LEARNER_INFO_SIZES


def _election(data: bytes, _schema: Schema) -> bool | None:
    if len(data) < 8:
        return None if data[:1] in (b"\xff", b"\0", b"") else False
    first = _LONG.unpack_from(data)[0]
    if first in ELECTION_VERSIONS:
        return True
    if not 0 <= first <= OLD_SID_MAX:
        return False
    return is_notification(data, 8)
