"""The quorum port's packets, out of bytes and into bytes (QuorumPacket; protocol: Leader,
LearnerHandler). The hot ones are packed without a record. Knows no connection and no order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from zktrace.stream.snapshots import SnapshotReader
from zktrace.wire.jute import WireError
from zktrace.wire.quorum import PACKET_TYPES, QuorumPacket
from zktrace.wire.records import Id

REQUEST: Final = 1
PROPOSAL: Final = 2
ACK: Final = 3
COMMIT: Final = 4
PING: Final = 5
REVALIDATE: Final = 6
SYNC: Final = 7
INFORM: Final = 8
COMMIT_AND_ACTIVATE: Final = 9
NEWLEADER: Final = 10
FOLLOWERINFO: Final = 11
UPTODATE: Final = 12
DIFF: Final = 13
TRUNC: Final = 14
SNAP: Final = 15
OBSERVERINFO: Final = 16
LEADERINFO: Final = 17
ACKEPOCH: Final = 18
INFORM_AND_ACTIVATE: Final = 19

#: Longest data of a packet: no ensemble is run with a larger jute.maxbuffer.
MAX_DATA: Final = 64 << 20
#: Most identities of a client, and the longest of them, in a forwarded request.
MAX_IDS: Final = 1 << 16

_HEAD: Final = struct.Struct(">iqi")
_BARE: Final = struct.Struct(">iqii")
_ASKED: Final = struct.Struct(">iqiq")
_INT: Final = struct.Struct(">i")
_NO_IDS: Final = b"\xff\xff\xff\xff"

#: Those with data of which most come, with or without identities.
_HOT: Final = frozenset((REQUEST, PROPOSAL, INFORM))
_COUNTER: Final = 0xFFFFFFFF

#: Identities as they were written and read before: so many, and of those read so many bytes each.
_REMEMBERED: Final = 1024
_SHORT: Final = 256
_WRITTEN: Final[dict[tuple[tuple[str | None, str | None], ...], bytes]] = {}
_READ: Final[dict[bytes, tuple[Id, ...]]] = {}


class Packet(NamedTuple):
    """One packet. Behind SNAP, `data` is the whole snapshot stream."""

    type: int
    zxid: int
    data: bytes | None
    ids: tuple[Id, ...] | None = None

    @property
    def name(self) -> str:
        return PACKET_TYPES.get(self.type, str(self.type))


#: What a NamedTuple's own `__new__` does, without the call.
_made: Final = tuple.__new__


def bare(kind: int, zxid: int) -> bytes:
    """A packet with nothing but its zxid."""
    return _BARE.pack(kind, zxid, -1, -1)


def with_data(kind: int, zxid: int, data: bytes) -> bytes:
    """A packet with data and no identities."""
    return b"".join((_HEAD.pack(kind, zxid, len(data)), data, _NO_IDS))


def request(session_id: int, asked: bytes, ids: Iterable[Id]) -> bytes:
    """A forwarded request. `asked` is what a ForwardedRequest has behind the session's id: xid,
    opcode and body, as the client sent them.
    """
    return b"".join((_ASKED.pack(REQUEST, -1, 8 + len(asked), session_id), asked, written(ids)))


def written(ids: Iterable[Id]) -> bytes:
    """Identities as they stand behind a packet's data. Most clients are somebody who has been there
    before.
    """
    key = tuple([(who.scheme, who.id) for who in ids])
    known = _WRITTEN.get(key)
    if known is None:
        if len(_WRITTEN) >= _REMEMBERED:
            _WRITTEN.clear()
        if not key:
            return _NO_IDS
        # A packet without data, whose head is left out.
        known = _WRITTEN[key] = QuorumPacket(0, 0, None, list(ids)).encode()[_HEAD.size :]
    return known


class PacketReader:
    """Cuts a direction of a quorum connection into packets. WireError where it is none: nothing
    behind it can be read any more. Of ACKs of one txn after the other that came together the last
    is given: it says what the others say.
    """

    def __init__(self) -> None:
        #: The identities of the latest request, as they were written and as they were read.
        self._written = _NO_IDS
        self._ids: tuple[Id, ...] | None = None
        self._rest = bytearray()
        self._need = 0
        self._snapshot: SnapshotReader | None = None
        self._snap_zxid = 0
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Packets that are whole now."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return
            data = bytes(self._rest)
            self._rest.clear()
        pos, end = 0, len(data)
        while pos < end:
            if self._snapshot is not None:
                reader = self._snapshot
                after = reader.feed(data, pos)
                if reader.broken:
                    raise WireError("this is no snapshot", pos, "SNAP")
                self._pieces.append(data[pos:after])
                pos = after
                if not reader.done:
                    return
                self._snapshot = None
                whole, self._pieces = b"".join(self._pieces), []
                yield Packet(SNAP, self._snap_zxid, whole)
                continue
            if end - pos >= _BARE.size:
                kind, zxid, size, ids = _BARE.unpack_from(data, pos)
                if size == ids == -1 and kind in PACKET_TYPES and kind != SNAP:
                    # An ACK, a COMMIT, a PING: most packets.
                    pos += _BARE.size
                    if kind == ACK:
                        pos, zxid = _last_of_run(data, pos, end, zxid)
                    yield _made(Packet, (kind, zxid, None, None))
                    continue
                at = pos + 16 + size
                if kind in _HOT and 0 <= size <= MAX_DATA and at + 4 <= end:
                    if data.startswith(_NO_IDS, at):
                        start, pos = pos + 16, at + 4
                        yield _made(Packet, (kind, zxid, data[start:at], None))
                        continue
                    if data.startswith(self._written, at):
                        start, pos = pos + 16, at + len(self._written)
                        yield _made(Packet, (kind, zxid, data[start:at], self._ids))
                        continue
            whole_at = self._end(data, pos, end)
            if whole_at is None:
                self._rest += data[pos:]
                return
            packet = _packet(data, pos, whole_at)
            if packet.ids:
                self._written = data[pos + 16 + len(packet.data or b"") : whole_at]
                self._ids = packet.ids
            pos = whole_at
            if packet.type == SNAP:
                self._snapshot = SnapshotReader()
                self._snap_zxid = packet.zxid
                continue
            yield packet

    def _end(self, data: bytes, pos: int, end: int) -> int | None:
        """The place behind the packet at `pos`; None, and what is needed, if it is not whole."""
        if end - pos < 16:
            self._need = 20
            return None
        kind, _, size = _HEAD.unpack_from(data, pos)
        if kind not in PACKET_TYPES:
            raise WireError(f"unknown packet type {kind}", pos, "QuorumPacket.type")
        if not -1 <= size <= MAX_DATA:
            raise WireError(f"length {size} of a packet's data", pos, "QuorumPacket.data")
        at: int = pos + 16 + max(size, 0)
        if end - at < 4:
            self._need = at + 4 - pos
            return None
        count: int = _INT.unpack_from(data, at)[0]
        at += 4
        if not -1 <= count <= MAX_IDS:
            raise WireError(f"{count} identities", pos, "QuorumPacket.authinfo")
        for _ in range(2 * max(count, 0)):
            if end - at < 4:
                self._need = at + 4 - pos
                return None
            length: int = _INT.unpack_from(data, at)[0]
            if not -1 <= length <= MAX_DATA:
                raise WireError(f"length {length} of an identity", pos, "QuorumPacket.authinfo")
            at += 4 + max(length, 0)
            if at > end:
                self._need = at - pos
                return None
        return at


def _last_of_run(data: bytes, pos: int, end: int, zxid: int) -> tuple[int, int]:
    """The place behind ACKs that go on from one of `zxid`, and the last one's zxid. Counter 0 is an
    ACK of something else than a txn.
    """
    if not zxid & _COUNTER:
        return pos, zxid
    while end - pos >= _BARE.size:
        kind, following, size, ids = _BARE.unpack_from(data, pos)
        if kind != ACK or following != zxid + 1 or size != -1 or ids != -1:
            break
        if not following & _COUNTER:
            break
        zxid = following
        pos += _BARE.size
    return pos, zxid


def _packet(data: bytes, pos: int, end: int) -> Packet:
    kind, zxid, size = _HEAD.unpack_from(data, pos)
    at = pos + 16
    if end - at == max(size, 0) + 4:
        # No identities: -1, or none of them.
        return Packet(kind, zxid, data[at : at + size] if size >= 0 else None)
    at += max(size, 0)
    written = data[at:end]
    read = _READ.get(written)
    if read is None:
        record = QuorumPacket.decode_from(data, pos, end)[0]
        read = tuple(record.authinfo or ())
        if len(written) <= _SHORT:
            if len(_READ) >= _REMEMBERED:
                _READ.clear()
            _READ[written] = read
    return Packet(kind, zxid, data[pos + 16 : at] if size >= 0 else None, read)
