"""The election port's stream machine: the opener's initial message, then votes both ways.

QuorumCnxManager makes the connection and frames messages, FastLeaderElection fills them (protocol
reference, section 10). Who opens a connection says its sid; who accepts it never does. Between the
two may stand quorum SASL packets (QuorumAuth), whose tokens are skipped. A message's text of the
configuration is measured, not kept. Sans-IO; never raises.
"""

from __future__ import annotations

import struct
from collections import deque

from zktrace.stream.client import Context
from zktrace.stream.electionresync import (
    FIELDS,
    OLD,
    OLDEST,
    all_notifications,
    find_notifications,
    is_length,
    length_at,
)
from zktrace.stream.events import TO_CLIENT, TO_SERVER
from zktrace.stream.framer import LENGTH_MAX
from zktrace.stream.probe import ELECTION_VERSIONS, QUORUM_SASL
from zktrace.stream.resync import Scan
from zktrace.stream.rows import text

FROM_OPENER, TO_OPENER = "from_opener", "to_opener"
INITIAL, NOTIFICATION = "initial", "notification"

#: QuorumCnxManager.maxBuffer: of the addresses in an initial message
ADDRESS_MAX = 2_048
#: An observer's vote for leader, zxid and peer epoch (Long.MIN_VALUE)
NO_VOTE = -(1 << 63)

_INT = struct.Struct(">i")
_LONG = struct.Struct(">q")
_VOTE = struct.Struct(">iqqq")  # state, leader, zxid, round
_LATER = struct.Struct(">qi")  # peer epoch, version
_AUTH_HEAD = 16  # magic, status, length of the token

_SID, _ADDRESS_SIZE, _ADDRESS, _FIRST, _AUTH, _TOKEN, _LENGTH, _FIELDS, _TEXT = range(9)
#: Stages that skip bytes of a known number
_SKIPPED = (_TOKEN, _TEXT)


class Way:
    """One direction: "read a few bytes, or skip some" from the initial message on."""

    __slots__ = ("anomaly", "buf", "damaged", "name", "need", "scan", "stage", "taken", "ts")

    def __init__(self, name: str, anomaly: str, stage: int) -> None:
        self.name = name
        self.anomaly = anomaly
        self.stage = stage
        #: bytes that the stage reads, or that are left to skip
        self.need = 8 if stage == _SID else 4
        self.buf = b""
        #: bytes of the message at hand, lost ones too
        self.taken = 0
        self.ts = 0
        self.damaged = False
        self.scan: Scan | None = None

    def to(self, stage: int, need: int, *, keep: bool = False) -> None:
        """Go on with another stage; the bytes read so far are kept where it needs them."""
        self.stage = stage
        self.need = need
        if not keep:
            self.buf = b""

    def next_message(self, stage: int) -> None:
        """A message begins here."""
        self.to(stage, 4)
        self.taken = 0
        self.damaged = False

    def lose(self) -> None:
        """Where the next message begins is not known."""
        self.next_message(_LENGTH)
        self.scan = Scan()


class ElectionMachine:
    """One connection between two servers that vote. `opened`: seen from its first bytes."""

    def __init__(self, context: Context, who: tuple[int, str, str], opened: bool) -> None:
        self._sink = context.sink
        self._votes = context.schema.votes
        self._counters = context.counters
        self._who = who
        self._sid: int | None = None
        #: from the opener: protocol version; of the message at hand
        self._version = 0
        self._from_opener = Way(FROM_OPENER, TO_SERVER, _SID)
        self._to_opener = Way(TO_OPENER, TO_CLIENT, _FIRST)
        if not opened:
            self._from_opener.lose()
            self._to_opener.lose()

    # ---- bytes in

    def to_server(self, ts: int, data: bytes) -> None:
        """Take the opener's next bytes."""
        self._feed(self._from_opener, ts, data)

    def to_client(self, ts: int, data: bytes) -> None:
        """Take the acceptor's next bytes."""
        self._feed(self._to_opener, ts, data)

    def _feed(self, way: Way, ts: int, data: bytes) -> None:
        chunks = deque(((ts, data),))
        while chunks:
            ts, data = chunks.popleft()
            pos = self._messages(way, ts, data) if way.scan is None else 0
            if way.scan is not None:
                way.scan.add(ts, data[pos:])
                chunks.extendleft(reversed(self._resync(way)))

    def _messages(self, way: Way, ts: int, data: bytes) -> int:
        # messages up to where the boundary is lost, or all
        pos, end = 0, len(data)
        while pos < end and way.scan is None:
            way.ts = max(way.ts, ts) if way.taken else ts
            if way.stage in _SKIPPED:
                take = min(way.need, end - pos)
                way.need -= take
            else:
                take = min(way.need - len(way.buf), end - pos)
                way.buf += data[pos : pos + take]
            way.taken += take
            pos += take
            if way.stage in _SKIPPED:
                if not way.need:
                    self._skipped(way)
            elif len(way.buf) == way.need:
                self._read(way)
        return pos

    def _skipped(self, way: Way) -> None:
        # a token, or a notification's text, is over
        if way.stage == _TOKEN:
            way.next_message(_FIRST)
        else:
            self._notification(way)

    def _read(self, way: Way) -> None:
        stage, buf = way.stage, way.buf
        if stage == _SID:
            self._version = _LONG.unpack(buf)[0]
            if self._version >= 0:
                self._initial(way, self._version, None)
            elif self._version in ELECTION_VERSIONS:
                way.to(_ADDRESS_SIZE, 20, keep=True)
            else:
                self._bad(way, "an unknown protocol version")
        elif stage == _ADDRESS_SIZE:
            size: int = _INT.unpack_from(buf, 16)[0]
            if 0 < size <= ADDRESS_MAX:
                way.to(_ADDRESS, 20 + size, keep=True)
            else:
                self._bad(way, "an address of no length that may be")
        elif stage == _ADDRESS:
            self._initial(way, _LONG.unpack_from(buf, 8)[0], buf[20:])
        elif stage == _FIRST and buf == QUORUM_SASL[:4]:
            way.to(_AUTH, _AUTH_HEAD, keep=True)
        elif stage == _AUTH:
            size = _INT.unpack_from(buf, 12)[0]
            if not buf.startswith(QUORUM_SASL) or not -1 <= size <= LENGTH_MAX:
                self._bad(way, "no QuorumAuthPacket")
            elif size > 0:
                way.to(_TOKEN, size)
            else:
                way.next_message(_FIRST)
        elif stage == _FIELDS:
            length = length_at(buf, 0)
            if length > FIELDS:
                way.to(_TEXT, length - FIELDS, keep=True)
            else:
                self._notification(way)
        else:
            length = length_at(buf, 0)
            if is_length(length):
                way.to(_FIELDS, 4 + min(length, FIELDS), keep=True)
            else:
                self._bad(way, f"length {length} of a notification")

    # ---- rows

    def _initial(self, way: Way, sid: int, address: bytes | None) -> None:
        self._sid = sid
        version = None if address is None else self._version
        nothing = (None, None, None, None, None)
        self._row(way, INITIAL, (sid, text(address), *nothing, version, way.taken))
        way.next_message(_FIRST)

    def _notification(self, way: Way) -> None:
        buf = way.buf
        length = length_at(buf, 0)
        state, leader, zxid, election_epoch = _VOTE.unpack_from(buf, 4)
        peer_epoch = version = None
        fits = state in self._votes
        if length > OLDEST:
            peer_epoch, version = _LATER.unpack_from(buf, 4 + OLDEST)
        if length >= FIELDS:
            fits = fits and _INT.unpack_from(buf, 4 + OLD)[0] == length - FIELDS
        if not fits:
            self._anomaly(way, length, "the notification does not fit its layout")
        sid = self._sid if way is self._from_opener else None
        vote = (_voted(leader), _voted(zxid), election_epoch, _voted(peer_epoch))
        name = self._votes.get(state, f"state{state}")
        self._row(way, NOTIFICATION, (sid, None, name, *vote, version, length))
        way.next_message(_LENGTH)

    def _row(self, way: Way, kind: str, columns: tuple[object, ...]) -> None:
        self._counters.election_messages += 1
        if way.damaged:
            self._counters.damaged_frames += 1
        self._sink.election((way.ts, *self._who, kind, way.name, *columns))

    def _anomaly(self, way: Way, size: int, detail: str) -> None:
        self._sink.anomaly((way.ts, *self._who, "malformed", way.anomaly, size, detail))

    # ---- what does not fit, what is missing

    def _bad(self, way: Way, detail: str) -> None:
        self._anomaly(way, way.taken, detail)
        self._counters.skipped_bytes += way.taken
        self._lose(way)

    def _lose(self, way: Way) -> None:
        way.lose()
        self._counters.desyncs += 1

    def gap(self, to_server: bool, ts: int, missing: int) -> None:
        """`missing` bytes of one direction were not captured."""
        way = self._from_opener if to_server else self._to_opener
        self._sink.anomaly((ts, *self._who, "gap", way.anomaly, missing, "bytes not captured"))
        self._counters.skipped_bytes += missing
        if way.scan is not None:
            self._counters.skipped_bytes += way.scan.clear()
        elif way.stage in _SKIPPED and missing <= way.need:
            way.need -= missing
            way.taken += missing
            way.damaged = True
            if not way.need:
                self._skipped(way)
        else:
            if way.stage == _TEXT:
                way.damaged = True
                self._notification(way)
            self._lose(way)

    def _resync(self, way: Way) -> list[tuple[int, bytes]]:
        # the chunks from the boundary on; none while it is not found
        scan = way.scan
        assert scan is not None
        at = find_notifications(scan)
        self._counters.skipped_bytes += scan.take_dropped()
        return [] if at < 0 else self._found(way, scan, at)

    def _found(self, way: Way, scan: Scan, at: int) -> list[tuple[int, bytes]]:
        self._counters.skipped_bytes += at
        self._counters.resyncs += 1
        skipped = scan.skipped + at
        if skipped:
            detail = "message boundary found again"
            where = way.anomaly
            self._sink.anomaly((scan.ts_at(at), *self._who, "resync", where, skipped, detail))
        way.scan = None
        return list(scan.chunks_from(at))

    def end(self, ts: int) -> None:
        """The connection is over, or the capture is."""
        for way in (self._from_opener, self._to_opener):
            scan = way.scan
            if scan is None:
                continue
            if all_notifications(scan):
                for chunk in self._found(way, scan, 0):
                    self._messages(way, *chunk)
            else:
                self._counters.skipped_bytes += scan.clear()


def _voted(value: int | None) -> int | None:
    return None if value == NO_VOTE else value
