"""Finding a frame boundary again: after a loss, or in a connection that was joined mid-stream.

Every offset of the bytes in hand is a candidate for a frame's length field. A candidate is followed
from frame to frame up to the end of what is in hand: each complete frame must fit its layout to the
byte, and what is visible of the last one must be plausible. What fits earns points by how unlikely
it is in other bytes; the first candidate with enough of them is the boundary, twice as many where
it is not where the bytes in hand begin: data of a node can look like a frame. One that breaks is
rejected for good, one that lacks bytes is looked at again later. Losing a few frames is better than
inventing one: whatever does not prove itself is skipped and counted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from zktrace.stream.budget import MARK_COST
from zktrace.stream.framer import HEAD_MAX
from zktrace.stream.handshake import is_connect_again, is_connected_again
from zktrace.stream.pairing import AUTH_XID, PING_XID, SET_WATCHES_XID, SPECIAL_XIDS, Pairing
from zktrace.stream.schema import Fields, Scanner, Schema, plausible_path

#: Bytes of one direction held while its framing is lost; of more, the older half is skipped.
SCAN_MAX = 256 * 1024
#: Points a chain of requests needs: one frame with a path that fits to the byte has them.
REQUEST_POINTS = 4
#: Points a chain of replies needs; their layouts say less.
REPLY_POINTS = 6
#: Candidates that may wait for more bytes at a time: it bounds the work that hostile bytes can
#: cause. Real streams have one or two.
WAITING_MAX = 16
#: Enough to stop following a chain.
CERTAIN = 64
#: How far an xid may be from the last one seen: more requests than this are not lost in one piece.
XID_REACH = 1 << 20
#: How far behind the last zxid seen a reply may be (replies of reads carry the last one applied),
#: and how far ahead.
ZXID_BEHIND = 1 << 16
ZXID_AHEAD = 1 << 24
EPOCHS_AHEAD = 1000
#: An epoch beyond this has never been reached by an ensemble; it bounds the first zxid seen.
EPOCH_MAX = 1 << 24

#: Lengths of the handshakes that are known by their forms, and the bytes that show it.
HANDSHAKES = frozenset((36, 37, 44, 45))
HANDSHAKE_HEAD = 28

PING_OPCODE, AUTH_OPCODE, SASL_OPCODE = 11, 100, 102
SET_WATCHES_OPCODES = (101, 105)

_REQUEST = struct.Struct(">iii")  # length, xid, opcode
_REPLY = struct.Struct(">iiqi")  # length, xid, zxid, err
_EVENT = struct.Struct(">iii")
_INT = struct.Struct(">i")

#: What a chain comes to; a positive number says how many bytes must be in hand before it is worth
#: following again.
REJECT, ACCEPT = -1, -2


class Scan:
    """Bytes of one direction whose framing is not known, with their capture times."""

    __slots__ = ("_dropped", "_marks", "buf", "seen", "skipped", "waiting")

    def __init__(self) -> None:
        self.buf = bytearray()
        self._marks: list[tuple[int, int]] = []  # (offset of a chunk, its capture time)
        #: candidates before this offset have been rejected, but for those that lack bytes
        self.seen = 0
        self.waiting: list[tuple[int, int]] = []  # and the bytes that must be in hand
        #: bytes skipped since the loss that are no longer in hand
        self.skipped = 0
        self._dropped = 0

    @property
    def cost(self) -> int:
        """What is in hand."""
        return len(self.buf) + MARK_COST * len(self._marks)

    def add(self, ts: int, data: bytes) -> None:
        """Take the next bytes."""
        if not data:
            return
        self._marks.append((len(self.buf), ts))
        self.buf += data
        if len(self.buf) > SCAN_MAX:
            self._drop(len(self.buf) - SCAN_MAX // 2)

    def _drop(self, count: int) -> None:
        del self.buf[:count]
        marks = [(offset - count, ts) for offset, ts in self._marks]
        first = max((i for i, (offset, _) in enumerate(marks) if offset <= 0), default=0)
        self._marks = [(max(offset, 0), ts) for offset, ts in marks[first:]]
        self.seen = max(0, self.seen - count)
        self.waiting = [(at - count, end - count) for at, end in self.waiting if at >= count]
        self.skipped += count
        self._dropped += count

    def take_dropped(self) -> int:
        """Bytes dropped for room since the last call."""
        dropped, self._dropped = self._dropped, 0
        return dropped

    def clear(self) -> int:
        """Forget the bytes in hand: what comes next does not follow them. Returns how many they
        were.
        """
        count = len(self.buf) + self.take_dropped()
        self.skipped += len(self.buf)
        self.buf.clear()
        self._marks.clear()
        self.seen = 0
        self.waiting = []
        return count

    def ts_at(self, at: int) -> int:
        """When the byte at this offset was captured."""
        found = 0
        for offset, ts in self._marks:
            if offset > at:
                break
            found = ts
        return found

    def chunks_from(self, at: int) -> Iterator[tuple[int, bytes]]:
        """The bytes from an offset on, chunk by chunk with their times."""
        ends = [offset for offset, _ in self._marks[1:]] + [len(self.buf)]
        for (offset, ts), end in zip(self._marks, ends, strict=True):
            if end > at:
                yield ts, bytes(self.buf[max(offset, at) : end])


def find_requests(scan: Scan, schema: Schema, scanner: Scanner, last_xid: int | None) -> int:
    """Offset of a request's length field, or -1 where none has proven itself yet."""
    view = bytes(scan.buf)

    def chain(at: int) -> int:
        return _request_chain(view, at, schema, scanner, last_xid)

    return search(scan, view, 12, chain)


def find_replies(
    scan: Scan,
    schema: Schema,
    scanner: Scanner,
    pairing: Pairing,
    last_zxid: int | None,
    requests_in_sync: bool,
    points: int = REPLY_POINTS,
) -> int:
    """Offset of a reply's length field, or -1 where none has proven itself yet (with `points`
    points).
    """
    view = bytes(scan.buf)

    def chain(at: int) -> int:
        return _reply_chain(view, at, schema, scanner, pairing, last_zxid, requests_in_sync, points)

    return search(scan, view, 20, chain)


def search(scan: Scan, view: bytes, header: int, chain: Callable[[int], int]) -> int:
    """Offset of the first candidate of at least `header` bytes whose chain is accepted, or -1.

    A candidate's first byte is 0. `chain` gives REJECT or ACCEPT for an offset, or how many bytes
    must be in hand before it is worth following again.
    """
    still: list[tuple[int, int]] = []
    for at, enough in scan.waiting:
        verdict = chain(at) if len(view) >= enough else enough
        if verdict == ACCEPT:
            return at
        if verdict > 0:
            still.append((at, verdict))
    at = view.find(b"\0", scan.seen)  # no length that is kept whole has another first byte
    while 0 <= at <= len(view) - header:
        verdict = chain(at)
        if verdict == ACCEPT:
            return at
        if verdict > 0 and len(still) < WAITING_MAX:
            still.append((at, verdict))
        at = view.find(b"\0", at + 1)
    scan.waiting = still
    scan.seen = max(scan.seen, len(view) - header + 1)
    return -1


def _request_chain(
    view: bytes, at: int, schema: Schema, scanner: Scanner, last_xid: int | None
) -> int:
    if (found := _handshake(view, at, is_connect_again)) != REJECT:
        return found
    points = 0
    pos = at
    wanted = REQUEST_POINTS if at == 0 else 2 * REQUEST_POINTS
    while True:
        left = len(view) - pos
        if left >= 4 and not 8 <= _INT.unpack_from(view, pos)[0] <= HEAD_MAX:
            return REJECT
        if left < 12 or points >= CERTAIN:
            return ACCEPT if points >= wanted else pos + 12
        length, xid, opcode = _REQUEST.unpack_from(view, pos)
        op = schema.ops.get(opcode)
        if op is None or op.access == "-":
            return REJECT
        if (xid == PING_XID) != (opcode == PING_OPCODE) or (
            xid == AUTH_XID and opcode != AUTH_OPCODE
        ):
            return REJECT
        if xid == SET_WATCHES_XID and opcode not in SET_WATCHES_OPCODES:
            return REJECT
        near = False
        if xid not in SPECIAL_XIDS:
            if xid < 0 and last_xid is None:
                return REJECT
            if last_xid is not None:
                if (xid - last_xid) & 0xFFFFFFFF > XID_REACH:
                    return REJECT
                near = True
            last_xid = xid
        if length > left - 4:
            return ACCEPT if points >= wanted else pos + 4 + length
        stop = pos + 4 + length
        fields = Fields()
        if scanner.scan(op.request, view[:stop], pos + 12, fields, strict=True) != stop:
            return REJECT
        if fields.path or fields.ops is not None or fields.watches is not None or xid < 0:
            points += 8 if near else 4
        else:
            points += 4 if near else 2
        pos = stop


def _reply_chain(
    view: bytes,
    at: int,
    schema: Schema,
    scanner: Scanner,
    pairing: Pairing,
    last_zxid: int | None,
    requests_in_sync: bool,
    wanted: int,
) -> int:
    if (found := _handshake(view, at, is_connected_again)) != REJECT:
        return found
    points = 0
    pos = at
    if at:
        wanted *= 2
    while True:
        left = len(view) - pos
        if left >= 4 and not 16 <= _INT.unpack_from(view, pos)[0] <= HEAD_MAX:
            return REJECT
        if left < 20 or points >= CERTAIN:
            return ACCEPT if points >= wanted else pos + 20
        length, xid, zxid, error = _REPLY.unpack_from(view, pos)
        if error != 0 and (error not in schema.errors or (length != 16)):
            return REJECT
        request = pairing.peek(xid)
        opcode = request.opcode if request is not None else 0
        if zxid == -1:
            if xid != -1 and error == 0:
                return REJECT
        elif zxid == 0:
            if xid not in (AUTH_XID, -1) and opcode != SASL_OPCODE and last_zxid is not None:
                return REJECT
        elif not _near_zxid(zxid, last_zxid):
            return REJECT
        near = last_zxid is not None and zxid > 0
        if xid != -1 and zxid > 0:
            last_zxid = zxid
        if xid < 0 and xid != -1 and xid not in SPECIAL_XIDS and request is None:
            return REJECT
        if (
            request is None
            and xid not in SPECIAL_XIDS
            and xid != -1
            and pairing.last_xid is not None
            and abs(xid - pairing.last_xid) > XID_REACH
        ):
            return REJECT
        if xid == PING_XID and length != 16:
            return REJECT
        if length > left - 4:
            return ACCEPT if points >= wanted else pos + 4 + length
        stop = pos + 4 + length
        if xid == -1:
            if not _is_event(view, pos + 20, stop, schema):
                return REJECT
            points += 12 if last_zxid is not None else 6
        elif request is not None:
            if error == 0 and request.op is not None:
                body = view[:stop]
                if scanner.scan(request.op.reply, body, pos + 20, Fields(), strict=True) != stop:
                    if requests_in_sync:
                        return REJECT
                    points += 1
                else:
                    points += 12 if near else 6 if length > 16 else 3
            else:
                points += 12 if near else 3
        else:
            points += 3 if near else 1
        pos = stop


def _handshake(view: bytes, at: int, form: Callable[[bytes, int], bool]) -> int:
    """Whether another connection begins here, on the same addresses and ports."""
    length = _INT.unpack_from(view, at)[0]
    if length not in HANDSHAKES or view[at + 4 : at + 8] != bytes(4):
        return REJECT
    head = view[at + 4 : at + 4 + length]
    if form(head, length):
        return ACCEPT
    return at + 4 + HANDSHAKE_HEAD if len(head) < HANDSHAKE_HEAD else REJECT


def _near_zxid(zxid: int, last: int | None) -> bool:
    if zxid < 0:
        return False
    epoch = zxid >> 32
    if last is None:
        return epoch < EPOCH_MAX
    ahead = epoch - (last >> 32)
    if ahead == 0:
        return -ZXID_BEHIND <= zxid - last <= ZXID_AHEAD
    return 0 < ahead <= EPOCHS_AHEAD and (zxid & 0xFFFFFFFF) <= ZXID_AHEAD


def _is_event(view: bytes, pos: int, stop: int, schema: Schema) -> bool:
    if stop - pos < 12:
        return False
    kind, state, size = _EVENT.unpack_from(view, pos)
    if kind not in schema.events or state not in schema.states or pos + 12 + max(size, 0) != stop:
        return False
    return plausible_path(view[pos + 12 : stop]) or (kind == -1 and size <= 0)
