"""QuorumPackets out of one direction's bytes, in whatever pieces these come.

There are no frame lengths: type, zxid, a buffer, a vector of ids, and the next packet begins
(zookeeper.jute, QuorumPacket; protocol reference, section 7). Before the first one may stand
QuorumAuthPackets (QuorumAuth), whose head has the same size and a magic number where the type is;
their tokens are skipped as they come. So are the ids of a packet. Its data is kept until it is
complete, but for what is too large. A loss in the middle of something whose size is known keeps
the boundary. What a packet means is not the business of this module; it never raises.
"""

from __future__ import annotations

import struct

from zktrace.stream.budget import Budget, Kept
from zktrace.stream.framer import HEAD_MAX, LENGTH_MAX
from zktrace.stream.packets import Packet
from zktrace.stream.probe import QUORUM_SASL

#: Ids of one client; more are no count.
IDS_MAX = 65_536

HEAD = struct.Struct(">iqi")  # type, zxid, length of the data
_SIZE_AT = 12  # of a QuorumAuthPacket's token: behind magic and status
_INT = struct.Struct(">i")

_HEAD, _TOKEN, _DATA, _COUNT, _SIZE, _ID = range(6)


class PacketReader:
    """Packets of one direction. `lost`: where the next one begins is not known."""

    __slots__ = (
        *("_buf", "_damaged", "_frozen", "_kept", "_kinds", "_last_ts", "_late", "_left"),
        *("_length", "_kind", "_stage", "_strings", "_zxid"),
        *("auth", "lost", "taken"),
    )

    def __init__(self, budget: Budget, kinds: dict[int, str]) -> None:
        self._kept = Kept(budget)
        self._kinds = kinds
        #: QuorumAuthPackets may come: nothing else was read yet
        self.auth = True
        self.lost = False
        #: bytes of the packet at hand, lost ones too
        self.taken = 0
        self._stage = _HEAD
        self._buf = b""
        self._frozen = False
        self._damaged = False
        self._last_ts = 0
        self._late = False
        self._kind = 0
        self._zxid = 0
        self._length = -1
        self._left = 0
        self._strings = 0

    def restart(self) -> None:
        """Begin at a boundary."""
        self._drop()
        self.auth = False
        self.lost = False

    def stop(self) -> None:
        """Where the next packet begins is not known."""
        self._drop()
        self.auth = False
        self.lost = True

    def _drop(self) -> None:
        self._kept.drop()
        self._stage = _HEAD
        self._buf = b""
        self._frozen = False
        self._damaged = False
        self._late = False
        self.taken = 0

    @property
    def cost(self) -> int:
        """What the packet at hand holds, or will."""
        return self._kept.charged

    def cut(self) -> bool:
        """Give up the data of the packet at hand but for its head; whether there were more."""
        return self._kept.cut()

    def feed(self, data: bytes, pos: int, ts: int, late: bool = False) -> tuple[Packet | None, int]:
        """Take bytes from data[pos:] up to the end of one packet. `late`: `ts` is not certain.

        Returns it (None where it is not complete yet, or where `lost` is now set) and the position
        up to which bytes were taken.
        """
        end = len(data)
        if self._stage == _HEAD and not self._buf and end - pos >= HEAD.size + 4:
            # the common case: all of it is here, and no ids
            kind, zxid, length = HEAD.unpack_from(data, pos)
            stop = pos + HEAD.size + max(length, 0)
            if kind in self._kinds and -1 <= length <= LENGTH_MAX and stop + 4 <= end:
                count = _INT.unpack_from(data, stop)[0]
                if -1 <= count <= 0:
                    self.auth = False
                    start = pos + HEAD.size
                    kept = data[start : min(stop, start + HEAD_MAX)]
                    size = stop + 4 - pos
                    return Packet(kind, zxid, kept, length, size, ts, False, late), stop + 4
        while pos < end:
            self._last_ts = max(self._last_ts, ts) if self.taken else ts
            self._late = late or (self._late and self.taken > 0)
            if self._stage in (_TOKEN, _DATA, _ID):
                take = min(self._left, end - pos)
                if self._stage == _DATA and not self._frozen:
                    self._kept.add(data, pos, take)
                pos += take
                self.taken += take
                packet = self._took(take)
            else:
                want = (HEAD.size if self._stage == _HEAD else 4) - len(self._buf)
                part = data[pos : pos + want]
                self._buf += part
                pos += len(part)
                self.taken += len(part)
                if len(part) < want:
                    break
                value, self._buf = self._buf, b""
                packet = self._step(value)
            if packet is not None or self.lost:
                return packet, pos
        return None, pos

    def gap(self, missing: int) -> Packet | None:
        """`missing` bytes were not captured.

        Returns the packet that is over by it, its end reached or not known, if its head was seen.
        Sets `lost` where the next boundary is not known.
        """
        stage = self._stage
        self._damaged = True
        self._frozen = True
        if stage in (_TOKEN, _DATA, _ID) and missing <= self._left:
            self.taken += missing
            return self._took(missing)
        packet = self._packet(None) if stage > _TOKEN else None
        self.stop()
        return packet

    def _took(self, count: int) -> Packet | None:
        # so many bytes of what has a size are over
        self._left -= count
        if self._left:
            return None
        if self._stage == _TOKEN:
            self._drop()
        elif self._stage == _DATA:
            self._stage = _COUNT
        else:
            return self._next_string()
        return None

    def _step(self, value: bytes) -> Packet | None:
        if self._stage == _HEAD:
            self._head(value)
            return None
        size: int = _INT.unpack(value)[0]
        if self._stage == _COUNT:
            self._strings = 2 * max(size, 0)
            if -1 <= size <= IDS_MAX:
                return self._next_string()
        elif -1 <= size <= LENGTH_MAX:
            self._left = max(size, 0)
            self._stage = _ID
            return None if self._left else self._next_string()
        self.lost = True
        return None

    def _head(self, value: bytes) -> None:
        if self.auth and value.startswith(QUORUM_SASL):
            size: int = _INT.unpack_from(value, _SIZE_AT)[0]
            if not -1 <= size <= LENGTH_MAX:
                self.lost = True
            elif size > 0:
                self._left = size
                self._stage = _TOKEN
            else:
                self._drop()
            return
        kind, zxid, length = HEAD.unpack(value)
        if kind not in self._kinds or not -1 <= length <= LENGTH_MAX:
            self.lost = True
            return
        self.auth = False
        self._kind, self._zxid, self._length = kind, zxid, length
        self._left = max(length, 0)
        self._kept.begin(min(self._left, HEAD_MAX))
        self._stage = _DATA if self._left else _COUNT

    def _next_string(self) -> Packet | None:
        # scheme and id of each of a client's ids: skipped, they may hold password hashes
        if self._strings:
            self._strings -= 1
            self._stage = _SIZE
            return None
        packet = self._packet(self.taken)
        self._drop()
        return packet

    def _packet(self, size: int | None) -> Packet:
        return Packet(
            *(self._kind, self._zxid, bytes(self._kept.buf), self._length, size),
            *(self._last_ts, self._damaged, self._late),
        )
