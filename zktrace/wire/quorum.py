"""Records between learners and the leader (zookeeper.jute: org.apache.zookeeper.server.quorum;
Leader, LearnerHandler, QuorumAuth). A quorum stream has no frame lengths: records follow each other
directly, and a raw snapshot stream (`snapshot`) stands behind a SNAP packet.
"""

from __future__ import annotations

from typing import Final

from zktrace.wire.codec import Record, record
from zktrace.wire.jute import Bool, Buffer, Int, Long, Rest, Tail, Vector, WireError
from zktrace.wire.records import Id

PACKET_TYPES: Final[dict[int, str]] = {
    1: "REQUEST",
    2: "PROPOSAL",
    3: "ACK",
    4: "COMMIT",
    5: "PING",
    6: "REVALIDATE",
    7: "SYNC",
    8: "INFORM",
    9: "COMMITANDACTIVATE",
    10: "NEWLEADER",
    11: "FOLLOWERINFO",
    12: "UPTODATE",
    13: "DIFF",
    14: "TRUNC",
    15: "SNAP",
    16: "OBSERVERINFO",
    17: "LEADERINFO",
    18: "ACKEPOCH",
    19: "INFORMANDACTIVATE",
}

# LearnerInfo.protocolVersion of learners that know LEADERINFO and ACKEPOCH.
PROTOCOL_VERSION: Final = 0x10000

# QuorumAuth.QUORUM_AUTH_MAGIC_NUMBER, as the wire has it.
AUTH_MAGIC: Final = 0x5F2435013501EDCC
AUTH_STATUS: Final[dict[int, str]] = {0: "IN_PROGRESS", 1: "SUCCESS", -1: "ERROR"}


@record
class QuorumPacket(Record):
    """Everything but snapshots and SASL. `authinfo` may hold password hashes."""

    type: Int
    zxid: Long
    data: Buffer
    authinfo: Vector[Id]


@record
class QuorumAuthPacket(Record):
    """SASL, before the first QuorumPacket, or behind the election's initial message."""

    magic: Long
    status: Int
    token: Buffer


@record
class LearnerInfo(Record):
    """Data of FOLLOWERINFO and OBSERVERINFO; older learners send 8 or 12 bytes of it."""

    server_id: Long
    protocol_version: Tail[Int] = None
    config_version: Tail[Long] = None


@record
class ForwardedRequest(Record):
    """Data of REQUEST: a client's request on its way to the leader. For sync (9) the body is the
    path.
    """

    session_id: Long
    cxid: Int
    type: Int
    body: Rest


@record
class SessionTimeout(Record):
    """A session and its timeout: element of PING's data, of snapshots; data of REVALIDATE."""

    session_id: Long
    timeout_ms: Int


@record
class RevalidateResponse(Record):
    """The leader's answer in a REVALIDATE packet."""

    session_id: Long
    valid: Bool


@record
class LeaderInfo(Record):
    """Data of LEADERINFO."""

    protocol_version: Int


@record
class EpochInfo(Record):
    """Data of ACKEPOCH: the learner's current epoch, -1 if it had accepted this one before."""

    current_epoch: Int


@record
class Activate(Record):
    """Data of COMMITANDACTIVATE: who should lead; of INFORMANDACTIVATE with the txn behind it."""

    designated_leader: Long
    txn: Rest


def decode_sessions(data: bytes) -> list[SessionTimeout]:
    """Data of a learner's PING: sessions up to the end, without a count."""
    sessions, pos = [], 0
    while pos < len(data):
        session, pos = SessionTimeout.decode_from(data, pos, len(data))
        sessions.append(session)
    return sessions


def packet_name(number: int) -> str:
    """Upstream's name of a packet type."""
    name = PACKET_TYPES.get(number)
    if name is None:
        raise WireError(f"unknown packet type {number}", 0, "QuorumPacket.type")
    return name
