"""What checks stand on: columns of the tables as arrays, and where an order can be trusted.

Messages of one direction of a connection are in the order in which they were sent: TCP's, told by
``seq``, whatever order or times the capture has. That holds between two losses: a *stretch* is
what lies between them. Where framing was lost and found again, what comes after is a stretch of
its own, so that no check compares across it. Times are compared between connections only where a
check says why it may. Must not know what is right or wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final

import numpy as np

from zktrace.analysis.columns import NONE, Bools, Ints
from zktrace.analysis.verify import times_hold
from zktrace.analysis.verify.arrays import grouped, hexadecimal
from zktrace.analysis.verify.columns import Columns
from zktrace.analysis.verify.ensemble import Ensembles
from zktrace.analysis.verify.model import Packet
from zktrace.wire.errors import error_name

#: Anomalies behind which nothing was lost: all others end a stretch.
_HARMLESS: Final = frozenset(("bare_check",))

#: ZooKeeper answers these at receipt, whatever else is outstanding (ZooKeeperServer.processPacket).
_ASIDE: Final = frozenset(("auth", "sasl", "connect"))


class Evidence:
    """Columns of one capture, as checks see them."""

    def __init__(
        self,
        columns: Mapping[str, Columns],
        coverage: Mapping[str, Any],
        *,
        voters: int | None = None,
        session: Callable[[int], int] | None = None,
    ) -> None:
        """`voters`: how many servers vote, where the capture does not say. `session`: what is
        shown in place of a session's id.
        """
        self.exchanges = columns["exchanges"]
        self.events = columns["watch_events"]
        self.quorum = columns["quorum"]
        self.connections = columns["connections"]
        self.anomalies = columns["anomalies"]
        self.coverage = coverage
        self.voters = voters
        self._session = session or (lambda real: real)

    # ---- stretches

    @cached_property
    def _breaks(self) -> tuple[Ints, Ints, Ints]:
        """Connection, row number and direction (0 to the server, 1 to the client, 2 both) of what
        ends a stretch.
        """
        rows = np.flatnonzero(~self.anomalies.among("reason", _HARMLESS))
        words = self.anomalies.words("direction")
        sides = np.array([*(int(word == "to_client") for word in words), 2], dtype=np.int64)
        direction = sides[self.anomalies.codes("direction")[rows]]
        return self.anomalies.ints("conn")[rows], self.anomalies.ints("seq")[rows], direction

    def _stretches(self, conn: Ints, seq: Ints, breaks: tuple[Ints, Ints]) -> tuple[Ints, Bools]:
        """The stretch of each row, and which rows are alone behind a loss.

        What comes first behind a loss may be the rest of what was hurt by it, and the next
        boundary may have been found without a word: that row is a stretch of its own.
        """
        at, number = breaks
        alone = np.zeros(len(conn), dtype=np.bool_)
        if not len(at):
            return conn, alone
        top = int(max(conn.max(initial=0), at.max())) + 1
        last = int(max(seq.max(initial=0), number.max())) + 1
        # beyond 2**63 only with more rows than fit in memory
        marks = np.sort(at * last + number)
        key = np.searchsorted(marks, conn * last + seq) * top + conn
        hurt = np.flatnonzero(np.isin(conn, at))
        order = hurt[np.lexsort((seq[hurt], key[hurt]))]
        first = np.append(True, key[order[1:]] != key[order[:-1]])[: len(order)]
        alone[order[first]] = True
        key[alone] = -1 - np.arange(np.count_nonzero(alone))
        # numbered densely, so that tables by stretch are small
        numbers: Ints = np.unique(key, return_inverse=True)[1]
        return numbers, alone

    @cached_property
    def _client_stretches(self) -> Ints:
        # a loss of either direction ends one, since either pairs
        x, e = self.exchanges, self.events
        conn = np.concatenate((x.ints("conn"), e.ints("conn")))
        seq = np.concatenate((x.ints("seq"), e.ints("seq")))
        at, number, _ = self._breaks
        return self._stretches(conn, seq, (at, number))[0]

    @property
    def stretch(self) -> Ints:
        """Of each exchange."""
        return self._client_stretches[: self.exchanges.rows]

    @property
    def event_stretch(self) -> Ints:
        """Of each watch event; the same numbers as :attr:`stretch`."""
        return self._client_stretches[self.exchanges.rows :]

    @cached_property
    def to_leader(self) -> Bools:
        """Which quorum packets a learner sent."""
        return self.quorum.among("direction", {"to_leader"})

    @cached_property
    def _packet_stretches(self) -> tuple[Ints, Bools]:
        conn, seq, side = self._breaks
        ways = [
            (conn[m] * 2 + way, seq[m]) for way in (0, 1) for m in [(side == way) | (side == 2)]
        ]
        at = np.concatenate([way[0] for way in ways])
        number = np.concatenate([way[1] for way in ways])
        mine = self.quorum.ints("conn") * 2 + ~self.to_leader
        return self._stretches(mine, self.quorum.ints("seq"), (at, number))

    @property
    def packet_stretch(self) -> Ints:
        """Of each quorum packet: of its direction of its connection."""
        return self._packet_stretches[0]

    @property
    def damaged(self) -> Bools:
        """Quorum packets that may be cut: the first of their direction behind a loss."""
        return self._packet_stretches[1]

    @cached_property
    def broken_conns(self) -> frozenset[int]:
        """Connections of which something was lost or did not decode."""
        return frozenset(np.unique(self._breaks[0]).tolist())

    @cached_property
    def times_hold(self) -> bool:
        """Whether times of packets are those at which they passed."""
        return times_hold(self.coverage)

    def conns_of(self, role: str, event: str) -> frozenset[int]:
        """Connections of a role that opened, were joined ..."""
        c = self.connections
        rows = c.among("role", {role}) & c.among("event", {event})
        return frozenset(c.ints("conn")[rows].tolist())

    @cached_property
    def answered(self) -> tuple[Ints, Bools]:
        """Exchanges that the request pipeline answered, ordered by stretch and within it as they
        were answered, and which of them are the first of theirs.
        """
        x = self.exchanges
        aside = x.among("op", _ASIDE)
        rows = np.flatnonzero(x.among("state", {"complete"}) & ~aside & (x.ints("zxid") > 0))
        order, first = grouped(self.stretch[rows])
        return rows[order], first

    # ---- learners

    @cached_property
    def ensembles(self) -> Ensembles:
        """Learners' connections, terms of leaders, ensembles."""
        return Ensembles(self)

    # ---- packets that prove

    def session_text(self, session: int) -> str:
        """A session's id, or what stands for it."""
        if session == NONE:
            return "?"
        return f"0x{self._session(session) & 0xFFFF_FFFF_FFFF_FFFF:016x}"

    def _packet(self, columns: Columns, row: int, what: str, after_ns: int = 0) -> Packet:
        flow = f"{columns.value('client', row)}>{columns.value('server', row)}"
        ts = int(columns.ints("ts_ns")[row]) + after_ns
        return Packet(ts, flow, int(columns.ints("seq")[row]), what)

    def reply(self, row: int, more: str = "") -> Packet:
        """The reply of an exchange; its time is that of its first byte where that is known."""
        x = self.exchanges
        op, path, error = (x.value(name, row) for name in ("op", "path", "error"))
        created = x.value("created_path", row)
        what = " ".join(str(part) for part in (op, created or path) if part is not None)
        what += f" xid {x.value('xid', row)}" if x.value("xid", row) is not None else ""
        if error:
            what += f" {error_name(error)}"
        zxid = int(x.ints("zxid")[row])
        if zxid != NONE:
            what += f" zxid {hexadecimal(zxid)}"
        latency = int(x.ints("latency_ns")[row])
        return self._packet(x, row, f"reply to {what}{more}", max(latency, 0))

    def request(self, row: int, more: str = "") -> Packet:
        """The request of an exchange."""
        x = self.exchanges
        parts = (x.value("op", row), x.value("path", row))
        what = " ".join(str(part) for part in parts if part is not None)
        xid = x.value("xid", row)
        what += f" xid {xid}" if xid is not None else ""
        return self._packet(x, row, f"{what}{more}")

    def event(self, row: int, more: str = "") -> Packet:
        """A watch event."""
        e = self.events
        what = f"event {e.value('event', row)} {e.value('path', row)}"
        zxid = int(e.ints("zxid")[row])
        if zxid != NONE:
            what += f" zxid {hexadecimal(zxid)}"
        return self._packet(e, row, what + more)

    def packet(self, row: int, more: str = "") -> Packet:
        """A quorum packet."""
        q = self.quorum
        what = str(q.value("type", row))
        zxid = int(q.ints("zxid")[row])
        if zxid != NONE:
            what += f" {hexadecimal(zxid)}"
        txn, path = q.value("txn_type", row), q.value("path", row)
        what += "".join(f" {part}" for part in (txn, path) if part is not None)
        return self._packet(q, row, what + more)

    def anomaly(self, row: int) -> Packet:
        """What the decoder found odd."""
        return self._packet(self.anomalies, row, str(self.anomalies.value("detail", row)))
