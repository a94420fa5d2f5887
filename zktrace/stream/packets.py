"""What a QuorumPacket says: rows of the table `quorum`.

Leader, Learner, LearnerHandler, Follower and Observer say what a type's data is (protocol
reference, section 7). Data is measured and looked at here, and not kept: of a txn or a request a
row has the path, never node data or ACLs; of a client's ids and of a snapshot it has sizes. The
ensemble's configuration, which a NEWLEADER carries, is kept as text: it says who votes. Must not
know where packets come from.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from zktrace.stream.events import TO_CLIENT, TO_SERVER
from zktrace.stream.machine import Context
from zktrace.stream.rows import text
from zktrace.stream.schema import Fields
from zktrace.stream.snapshots import SnapshotReader
from zktrace.stream.txnhash import txn_hash
from zktrace.stream.txns import DIGEST_SIZE, HEADER, Body, multi_error, scan_txn

TO_LEADER, TO_LEARNER = "to_leader", "to_learner"

#: Leader.java
REQUEST, PROPOSAL, ACK, COMMIT, PING, REVALIDATE, SYNC, INFORM, COMMITANDACTIVATE = range(1, 10)
NEWLEADER, FOLLOWERINFO, UPTODATE, DIFF, TRUNC, SNAP, OBSERVERINFO = range(10, 17)
LEADERINFO, ACKEPOCH, INFORMANDACTIVATE = range(17, 20)

#: Types that only a leader sends, and those that only a learner sends
FROM_LEADER = frozenset((2, 4, 7, 8, 9, 10, 12, 13, 14, 15, 17, 19))
FROM_LEARNER = frozenset((1, 3, 11, 16, 18))

CREATE_SESSION = -10

#: A learner's request before its body: session, cxid, type
REQUEST_HEADER = struct.Struct(">qii")
#: Longest configuration that is kept; one of 100 servers has some 5,000 bytes.
CONFIG_MAX = 16_384

_INT = struct.Struct(">i")
_LONG = struct.Struct(">q")
_SESSION = struct.Struct(">qi")  # session, timeout; element of PING's data


class Packet(NamedTuple):
    """A packet: what was kept of its data, how long that truly is (-1: null), the whole's size
    (None: not known), when its last byte was captured, whether bytes inside it were not, whether an
    earlier copy of some may have passed before.
    """

    kind: int
    zxid: int
    data: bytes
    length: int
    size: int | None
    ts: int
    damaged: bool
    late: bool = False

    @property
    def whole(self) -> bool:
        """All of its data is here."""
        return max(self.length, 0) == len(self.data)


class Columns:
    """The columns of a row that only some packets have."""

    __slots__ = (
        *("config", "cxid", "digest", "epoch", "error", "path", "session", "sessions", "sid"),
        *("sub", "timeout_ms", "txn", "txn_hash", "valid"),
    )

    def __init__(self) -> None:
        self.session: int | None = None
        self.cxid: int | None = None
        self.txn: int | None = None
        self.path: bytes | None = None
        self.error: int | None = None
        self.sid: int | None = None
        self.epoch: int | None = None
        self.timeout_ms: int | None = None
        self.valid: bool | None = None
        self.sessions: int | None = None
        self.digest: int | None = None
        self.sub: list[tuple[int, bytes | None, int | None]] | None = None
        self.config: bytes | None = None
        self.txn_hash: int | None = None


class PacketRows:
    """Makes the rows of one connection's packets."""

    def __init__(self, context: Context, who: tuple[int, str, str]) -> None:
        self._sink = context.sink
        self._schema = context.schema
        self._scanner = context.scanner
        self._counters = context.counters
        self._txn_key = context.txn_key
        self._who = who

    def packet(self, direction: str, packet: Packet, snapshot: SnapshotReader | None) -> None:
        """The row of a packet; of a SNAP, with the snapshot behind it as far as it was read."""
        self._counters.quorum_packets += 1
        if packet.damaged or (snapshot is not None and snapshot.damaged):
            self._counters.damaged_frames += 1
        columns = Columns()
        wrong = self._read(packet, direction, columns)
        name = self._schema.packets[packet.kind]
        if wrong is not None:
            reason, detail = wrong
            where = TO_SERVER if direction == TO_LEADER else TO_CLIENT
            self.anomaly(packet.ts, reason, where, packet.size, f"{name}: {detail}")
        c = columns
        known = snapshot is not None and snapshot.done
        self._sink.quorum(
            (
                *(packet.ts, *self._who, name, direction),
                *(None if packet.zxid == -1 else packet.zxid, packet.size, c.session, c.cxid),
                None if c.txn is None else self._schema.op_name(c.txn),
                *(text(c.path), c.error, c.sid, c.epoch, c.timeout_ms, c.valid, c.sessions),
                *(c.digest, self._sub(c.sub)),
                *((snapshot.bytes, snapshot.nodes) if snapshot and known else (None, None)),
                *(text(c.config), True if packet.late else None, c.txn_hash),
            )
        )

    def anomaly(
        self, ts: int, reason: str, direction: str | None, size: int | None, detail: str
    ) -> None:
        """Something that should not be."""
        self._sink.anomaly((ts, *self._who, reason, direction, size, detail))

    def _sub(
        self, parts: list[tuple[int, bytes | None, int | None]] | None
    ) -> list[dict[str, Any]] | None:
        if parts is None:
            return None
        return [
            {"op": self._schema.op_name(kind), "path": text(path), "error": error}
            for kind, path, error in parts
        ]

    def _read(self, packet: Packet, direction: str, out: Columns) -> tuple[str, str] | None:
        # fills in what the data says; what is wrong with it, as an anomaly's reason and detail
        kind, data, length = packet.kind, packet.data, packet.length
        fits = True
        if kind in (PROPOSAL, INFORM):
            return self._txn(packet, 0, out)
        if kind == REQUEST:
            return self._request(packet, out)
        if kind == PING:
            if direction == TO_LEADER and length >= 0:
                out.sessions, rest = divmod(length, _SESSION.size)
                fits = not rest
        elif kind == REVALIDATE:
            if len(data) >= 8:
                out.session = _LONG.unpack_from(data)[0]
            if length == 9 and len(data) == 9:
                out.valid = data[8] != 0
            elif length >= 12 and len(data) >= 12:
                out.timeout_ms = _INT.unpack_from(data, 8)[0]
            fits = length in (9, 12)
        elif kind in (COMMITANDACTIVATE, INFORMANDACTIVATE):
            if len(data) >= 8:
                out.sid = _LONG.unpack_from(data)[0]
            if kind == INFORMANDACTIVATE:
                return self._txn(packet, 8, out)
            fits = length == 8
        elif kind in (FOLLOWERINFO, OBSERVERINFO):
            out.epoch = packet.zxid >> 32
            if len(data) >= 8:
                out.sid = _LONG.unpack_from(data)[0]
            fits = length in (-1, 0, 8, 12) or length >= 20
        elif kind == LEADERINFO:
            out.epoch = packet.zxid >> 32
            fits = length == 4
        elif kind == NEWLEADER:
            out.epoch = packet.zxid >> 32
            if 0 < length <= CONFIG_MAX and packet.whole:
                out.config = data
        elif kind == ACKEPOCH:
            if len(data) >= 4:
                out.epoch = _INT.unpack_from(data)[0]
            fits = length == 4
        return None if fits or not packet.whole else _MISFIT

    def _txn(self, packet: Packet, pos: int, out: Columns) -> tuple[str, str] | None:
        data = packet.data
        if len(data) < pos + HEADER.size:
            return _MISFIT if packet.whole else None
        session, cxid, _zxid, _time, kind = HEADER.unpack_from(data, pos)
        out.session, out.cxid, out.txn = session, cxid, kind
        if kind not in self._schema.txns:
            return "unknown_opcode", f"txn type {kind}"
        body, fits = scan_txn(self._schema, kind, data, pos + HEADER.size, packet.length)
        _show(body, out)
        if self._txn_key is not None and packet.whole:
            end = len(data) - (DIGEST_SIZE if body.digest is not None else 0)
            out.txn_hash = txn_hash(self._txn_key, data[pos:end])
        return None if fits else _MISFIT

    def _request(self, packet: Packet, out: Columns) -> tuple[str, str] | None:
        data = packet.data
        start = REQUEST_HEADER.size
        if len(data) < start:
            return _MISFIT if packet.whole else None
        out.session, out.cxid, kind = REQUEST_HEADER.unpack_from(data)
        out.txn = kind
        op = self._schema.ops.get(kind)
        if op is None:
            return "unknown_opcode", f"opcode {kind}"
        if kind == CREATE_SESSION:
            # the same record as in the txn that comes of it
            body, fits = scan_txn(self._schema, kind, data, start, packet.length)
            _show(body, out)
            return None if fits else _MISFIT
        fields = Fields()
        end = self._scanner.scan(op.request, data, start, fields, total=packet.length)
        out.path = fields.path
        if end < 0:
            return _MISFIT if packet.whole else None
        if fields.ops is not None:
            out.sub = [(number, path, None) for number, path in fields.ops]
        return None


def _show(body: Body, out: Columns) -> None:
    out.path = body.path
    out.timeout_ms = body.timeout_ms
    out.digest = body.digest
    out.sub = body.parts
    out.error = body.error if body.parts is None else multi_error(body)


_MISFIT = ("malformed", "the data does not fit its layout")
