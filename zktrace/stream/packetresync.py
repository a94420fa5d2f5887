"""Finding a packet's boundary on the quorum port again: after a loss, or joined mid-stream.

As `resync` does for frames: every offset is a candidate, and is followed from packet to packet up
to the end of what is in hand. Each type has its direction, its zxids and the sizes of its data
(protocol reference, section 7), and only a client's request has ids; a txn must repeat the packet's
zxid and fit its layout to the byte. Whatever does not prove itself is skipped and counted. Knows no
connections.
"""

from __future__ import annotations

import struct

from zktrace.stream import packets as p
from zktrace.stream.framer import HEAD_MAX
from zktrace.stream.packetreader import HEAD
from zktrace.stream.probe import LEARNER_INFO_SIZES
from zktrace.stream.resync import ACCEPT, CERTAIN, EPOCH_MAX, REJECT, Scan, search
from zktrace.stream.schema import Fields, Scanner, Schema
from zktrace.stream.txns import HEADER, scan_txn

#: Points a chain needs: a txn or a request that fits to the byte has them, or two other packets.
POINTS = 4
#: Ids of a client, and bytes of each, that a candidate may have.
IDS_MAX = 64
ID_MAX = 4_096

_INT = struct.Struct(">i")
_LONG = struct.Struct(">q")
_INNER_ZXID = 12  # in a TxnHeader

_TO_LEADER = p.FROM_LEARNER | {p.PING, p.REVALIDATE}
_TO_LEARNER = p.FROM_LEADER | {p.PING, p.REVALIDATE}
#: Types whose zxid is -1, and those without data
_NO_ZXID = frozenset((p.REQUEST, p.REVALIDATE, p.UPTODATE))
_NO_DATA = frozenset((p.ACK, p.COMMIT, p.SYNC, p.UPTODATE, p.DIFF, p.TRUNC, p.SNAP))
_SIZES = {
    p.COMMITANDACTIVATE: (8,),
    p.FOLLOWERINFO: LEARNER_INFO_SIZES,
    p.OBSERVERINFO: LEARNER_INFO_SIZES,
    p.LEADERINFO: (4,),
    p.ACKEPOCH: (4,),
}
_TXN_AT = {p.PROPOSAL: 0, p.INFORM: 0, p.INFORMANDACTIVATE: 8}


class PacketFinder:
    """Looks for the boundaries of one direction."""

    def __init__(self, schema: Schema, scanner: Scanner, to_leader: bool) -> None:
        self._schema = schema
        self._scanner = scanner
        self._to_leader = to_leader
        self._kinds = _TO_LEADER if to_leader else _TO_LEARNER

    def find(self, scan: Scan) -> int:
        """Offset of a packet, or -1 where none has proven itself yet."""
        view = bytes(scan.buf)

        def chain(at: int) -> int:
            points, _, enough = self._follow(view, at)
            # data of a node can look like packets: twice as much where the bytes do not begin
            if points >= (2 * POINTS if at else POINTS):
                return ACCEPT
            return REJECT if points < 0 else enough

        return search(scan, view, HEAD.size, chain)

    def fits(self, scan: Scan) -> bool:
        """Whether what is in hand is packets from its first byte to its last: at the end of a
        connection few are proof enough.
        """
        view = bytes(scan.buf)
        pos = 0
        while pos < len(view):
            points, stop, _ = self._follow(view, pos)
            if points <= 0:
                return False
            pos = stop
        return pos > 0

    def _follow(self, view: bytes, pos: int) -> tuple[int, int, int]:
        # points of a chain, -1 where it breaks; the position behind its last whole packet; how many
        # bytes must be in hand to follow it further (REJECT: it cannot be)
        points = 0
        while points < CERTAIN:
            left = len(view) - pos
            if left >= 4 and _INT.unpack_from(view, pos)[0] not in self._kinds:
                return -1, pos, REJECT
            if left < HEAD.size:
                return points, pos, pos + HEAD.size
            earned, stop = self._packet(view, pos)
            if earned < 0:
                return -1, pos, REJECT
            if earned == 0:
                return points, pos, stop
            points += earned
            kind = _INT.unpack_from(view, pos)[0]
            pos = stop
            if kind == p.SNAP:
                break  # what is behind it is a snapshot
        return points, pos, REJECT

    def _packet(self, view: bytes, pos: int) -> tuple[int, int]:
        # points of a packet and the position behind it; -1: it is none; 0: it is not all here, and
        # how many bytes must be
        kind, zxid, length = HEAD.unpack_from(view, pos)
        if not self._head_fits(kind, zxid, length):
            return -1, pos
        start = pos + HEAD.size
        stop = start + max(length, 0)
        earned = 2
        at = _TXN_AT.get(kind)
        if at is not None:
            if len(view) < start + at + HEADER.size:
                return 0, start + at + HEADER.size
            inner = _LONG.unpack_from(view, start + at + _INNER_ZXID)[0]
            if inner != zxid:
                return -1, pos
        if len(view) < stop + 4:
            return 0, stop + 4
        if at is not None:
            data = view[start:stop]
            body = at + HEADER.size
            kind_of_txn = _INT.unpack_from(data, body - 4)[0]
            if not scan_txn(self._schema, kind_of_txn, data, body, len(data))[1]:
                return -1, pos
            earned = 4
        elif kind == p.REQUEST:
            earned = self._request(view[start:stop])
            if earned < 0:
                return -1, pos
        count: int = _INT.unpack_from(view, stop)[0]
        if count != -1 and not (kind == p.REQUEST and 0 <= count <= IDS_MAX):
            return -1, pos
        stop += 4
        for _ in range(2 * count):
            if len(view) < stop + 4:
                return 0, stop + 4
            size: int = _INT.unpack_from(view, stop)[0]
            if not -1 <= size <= ID_MAX:
                return -1, pos
            stop += 4 + max(size, 0)
        return (earned if stop <= len(view) else 0), stop

    def _head_fits(self, kind: int, zxid: int, length: int) -> bool:
        if kind not in self._kinds or not -1 <= length <= HEAD_MAX:
            return False
        if kind in _NO_ZXID:
            if zxid != -1:
                return False
        elif not 0 <= zxid >> 32 < EPOCH_MAX:
            return False
        if kind in _NO_DATA:
            return length == -1
        if kind == p.PING:
            return length >= 0 and length % 12 == 0 if self._to_leader else length == -1
        if kind == p.REVALIDATE:
            return length == (12 if self._to_leader else 9)
        if kind == p.REQUEST:
            return length >= p.REQUEST_HEADER.size
        if kind == p.NEWLEADER:
            return zxid & 0xFFFFFFFF == 0 and length != 0
        if kind in _TXN_AT:
            return length >= _TXN_AT[kind] + HEADER.size
        return length in _SIZES[kind]

    def _request(self, data: bytes) -> int:
        start = p.REQUEST_HEADER.size
        number = _INT.unpack_from(data, start - 4)[0]
        if number == p.CREATE_SESSION:
            return 2 if len(data) == start + 4 else -1
        op = self._schema.ops.get(number)
        if op is None or op.access == "-":
            return -1
        fields = Fields()
        if self._scanner.scan(op.request, data, start, fields, strict=True) != len(data):
            return -1
        return 4 if fields.path or fields.ops is not None else 2
