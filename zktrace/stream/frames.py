"""The client port's frames themselves, whole and paired, for those who need more than rows.

Rows leave out node data and secrets when they are made; whoever sends the requests again, compares
replies byte by byte or writes another capture needs what was said. This machine frames, resyncs
and pairs as :class:`zktrace.stream.client.ClientMachine` does, being one, and hands each message to
a sink. It decodes no body, so that it costs half as much; with `rows` it makes the rows, too, which
filters need. Sans-IO. What it hands on holds secrets: who takes it must see to them.
"""

from __future__ import annotations

from typing import Protocol

from zktrace.stream.client import WATCH_EVENT_XID, ClientMachine
from zktrace.stream.framer import Frame
from zktrace.stream.machine import Context
from zktrace.stream.pairing import PING_XID, Pending
from zktrace.stream.schema import Fields

#: `number` of the ConnectRequest, which has no xid.
CONNECT = -1


class FrameSink(Protocol):
    """Takes the messages of all connections, in the order in which they were decoded.

    `conn` numbers connections, `number` the requests of a connection (0, 1, ...; ConnectRequest:
    :data:`CONNECT`). Payloads are without their length field; `whole` is False where bytes of one
    were not captured, or not kept. Times are ns since 1970: of a message's last byte, and `first`
    of its first one.
    """

    def begun(self, conn: int, client: str, server: str, opened: bool) -> None:
        """A client connection; `opened`: it was seen to begin."""

    def request(self, conn: int, number: int, ts: int, payload: bytes, whole: bool) -> None:
        """The client sent it."""

    def reply(
        self, conn: int, number: int | None, first: int, ts: int, payload: bytes, whole: bool
    ) -> None:
        """The server answered; `number` is None where it is not known what."""

    def event(self, conn: int, ts: int, payload: bytes, whole: bool) -> None:
        """The server sent a watch event."""

    def lost(self, conn: int, ts: int, to_server: bool) -> None:
        """Bytes of a direction are missing: there may have been messages in them."""

    def ended(self, conn: int, ts: int, closed: bool) -> None:
        """Nothing more will come of this connection: it was closed, or the capture ended."""


class FrameMachine(ClientMachine):
    """A client connection whose frames go to a sink."""

    def __init__(
        self,
        context: Context,
        who: tuple[int, str, str],
        opened: bool,
        handshake_extra: int,
        frames: FrameSink,
        *,
        rows: bool = False,
    ) -> None:
        super().__init__(context, who, opened, handshake_extra)
        self._frames = frames
        self._conn = who[0]
        self._with_rows = rows
        frames.begun(*who, opened)

    def _connect_request(self, frame: Frame) -> None:
        super()._connect_request(frame)
        self._frames.request(self._conn, CONNECT, frame.last_ts, frame.head, _whole(frame))

    def _connect_response(self, frame: Frame) -> None:
        number = None if self._connect is None else CONNECT
        super()._connect_response(frame)
        self._frames.reply(
            self._conn, number, frame.first_ts, frame.last_ts, frame.head, _whole(frame)
        )

    def _request(self, frame: Frame) -> None:
        if self._with_rows:
            super()._request(frame)
        else:
            xid, opcode = self._requests.header.unpack_from(frame.head)
            asked = Pending(
                0, xid, opcode, None, frame.last_ts, frame.length, Fields(), frame.damaged
            )
            quiet = frame.last_ts - self._last_frame_ts if self._ping_answered else 0
            self._pairing.sent(asked, quiet)
            self._budget.take(asked.cost)
        number = self._pairing.count - 1
        self._frames.request(self._conn, number, frame.last_ts, frame.head, _whole(frame))

    def _reply(self, frame: Frame) -> None:
        xid = self._replies.header.unpack_from(frame.head)[0]
        # what the reply answers is known before the pairing lets go of it
        if xid == WATCH_EVENT_XID and self._pairing.peek(xid) is None:
            if self._with_rows:
                super()._reply(frame)
            else:
                self._ping_answered = False
                self._counters.watch_events += 1
            self._frames.event(self._conn, frame.last_ts, frame.head, _whole(frame))
            return
        if self._with_rows:
            before = set(self._pairing.outstanding)
            super()._reply(frame)
            gone = before - set(self._pairing.outstanding)
            number = gone.pop() if gone else None
        else:
            number = self._pair(xid, frame)
        self._frames.reply(
            self._conn, number, frame.first_ts, frame.last_ts, frame.head, _whole(frame)
        )

    def _pair(self, xid: int, frame: Frame) -> int | None:
        zxid = self._replies.header.unpack_from(frame.head)[1]
        self._ping_answered = xid == PING_XID
        if zxid > 0:
            self._last_zxid = zxid
        asked = self._pairing.answered(xid, self._requests.scan is None)
        if asked is None:
            self._counters.no_request += 1
            return None
        self._budget.release(asked.cost)
        self._counters.complete += 1
        return asked.number

    def _unanswered(self) -> int:
        if self._with_rows:
            return super()._unanswered()
        given_up = self._pairing.give_up()
        for asked in given_up:
            self._budget.release(asked.cost)
            self._counters.no_reply += 1
        return len(given_up)

    def gap(self, to_server: bool, ts: int, missing: int) -> None:
        super().gap(to_server, ts, missing)
        self._frames.lost(self._conn, ts, to_server)

    def end(self, ts: int) -> None:
        super().end(ts)
        self._frames.ended(self._conn, ts, self.how in ("closed", "reset", "reused"))


def _whole(frame: Frame) -> bool:
    return not frame.damaged and len(frame.head) == frame.length
