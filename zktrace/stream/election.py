"""The election port's stream machine: the opener's initial message, then votes both ways.

QuorumCnxManager makes the connection and frames messages, FastLeaderElection fills them (protocol
reference, section 10). Who opens a connection says its sid; who accepts it never does. Between the
two may stand quorum SASL packets (QuorumAuth), whose tokens are skipped. A message's text of the
configuration is measured, not kept. Sans-IO; never raises.
"""

from __future__ import annotations

import struct

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
from zktrace.stream.machine import GIVEN_UP_MESSAGE, Context, StreamMachine, Way
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


class Direction(Way):
    """One direction: "read a few bytes, or skip some" from the initial message on."""

    __slots__ = ("buf", "damaged", "name", "need", "stage", "taken", "ts")

    def __init__(self, name: str, anomaly: str, stage: int) -> None:
        super().__init__(anomaly)
        self.name = name
        self.stage = stage
        #: bytes that the stage reads, or that are left to skip
        self.need = 8 if stage == _SID else 4
        self.buf = b""
        #: bytes of the message at hand, lost ones too
        self.taken = 0
        self.ts = 0
        self.damaged = False

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
        super().lose()
        self.next_message(_LENGTH)

    @property
    def held(self) -> int:
        return super().held + (len(self.buf) if self.stage == _ADDRESS else 0)


class ElectionMachine(StreamMachine[Direction]):
    """One connection between two servers that vote. `opened`: seen from its first bytes."""

    _what = "message"

    def __init__(self, context: Context, who: tuple[int, str, str], opened: bool) -> None:
        self._from_opener = Direction(FROM_OPENER, TO_SERVER, _SID)
        to_opener = Direction(TO_OPENER, TO_CLIENT, _FIRST)
        super().__init__(context, who, self._from_opener, to_opener)
        self._votes = context.schema.votes
        self._sid: int | None = None
        #: from the opener: protocol version; of the message at hand
        self._version = 0
        if not opened:
            self._from_opener.lose()
            to_opener.lose()

    # ---- bytes in

    def _decode(self, way: Direction, ts: int, data: bytes) -> int:
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

    def _skipped(self, way: Direction) -> None:
        # a token, or a notification's text, is over
        if way.stage == _TOKEN:
            way.next_message(_FIRST)
        else:
            self._notification(way)

    def _read(self, way: Direction) -> None:
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

    def _initial(self, way: Direction, sid: int, address: bytes | None) -> None:
        self._sid = sid
        version = None if address is None else self._version
        nothing = (None, None, None, None, None)
        self._row(way, INITIAL, (sid, text(address), *nothing, version, way.taken))
        way.next_message(_FIRST)

    def _notification(self, way: Direction) -> None:
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
            self._malformed(way, length, "the notification does not fit its layout")
        sid = self._sid if way is self._from_opener else None
        vote = (_voted(leader), _voted(zxid), election_epoch, _voted(peer_epoch))
        name = self._votes.get(state, f"state{state}")
        self._row(way, NOTIFICATION, (sid, None, name, *vote, version, length))
        way.next_message(_LENGTH)

    def _row(self, way: Direction, kind: str, columns: tuple[object, ...]) -> None:
        self._counters.election_messages += 1
        if way.damaged:
            self._counters.damaged_frames += 1
        self._sink.election((way.ts, *self._who, kind, way.name, *columns))

    def _malformed(self, way: Direction, size: int, detail: str) -> None:
        self._anomaly(way.ts, "malformed", way.anomaly, size, detail)

    # ---- what does not fit, what is missing

    def _bad(self, way: Direction, detail: str) -> None:
        self._malformed(way, way.taken, detail)
        self._counters.skipped_bytes += way.taken
        self._lost(way)

    def _missing(self, way: Direction, missing: int) -> None:
        if way.stage in _SKIPPED and missing <= way.need:
            way.need -= missing
            way.taken += missing
            way.damaged = True
            if not way.need:
                self._skipped(way)
        else:
            if way.stage == _TEXT:
                way.damaged = True
                self._notification(way)
            self._lost(way)

    def _find(self, way: Direction, scan: Scan) -> int:
        return find_notifications(scan)

    def _fits(self, way: Direction, scan: Scan) -> bool:
        return all_notifications(scan)

    def give_up(self, ts: int) -> None:
        """An unfinished initial message is given up with what follows it."""
        way = self._from_opener
        if way.stage == _ADDRESS and way.buf:
            self._counters.skipped_bytes += way.taken
            self._anomaly(ts, "given_up", way.anomaly, way.taken, GIVEN_UP_MESSAGE)
            self._lost(way)
        super().give_up(ts)


def _voted(value: int | None) -> int | None:
    return None if value == NO_VOTE else value
