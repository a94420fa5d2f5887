"""The client port's stream machine: frames of both directions in, event rows out.

Sans-IO: it is fed ordered bytes with their capture times (never a clock), is told of losses the
same way, and gives rows to a sink. It follows the protocol reference, sections 2 to 6: handshake,
requests and replies by the opcode table, watch events, errors. Secrets (passwords, credentials,
tokens, ACL ids, node data) are measured, never kept. It must not know packets, ports or how rows
are stored.
"""

from __future__ import annotations

import struct

from zktrace.stream import events, identity
from zktrace.stream.framer import Frame, Framer
from zktrace.stream.handshake import (
    CONNECT_BYTES,
    CONNECTED_BYTES,
    KEEPER_REJECTED,
    Connect,
    is_connect_again,
    is_connected,
    is_connected_again,
    parse_connect,
    parse_connected,
)
from zktrace.stream.machine import Context, StreamMachine, Way
from zktrace.stream.pairing import AUTH_XID, PING_XID, Pairing, Pending
from zktrace.stream.resync import Scan, find_replies, find_requests
from zktrace.stream.rows import Rows
from zktrace.stream.schema import Fields, Layout

WATCH_EVENT_XID = -1
PING_OPCODE, MULTI_OPCODE, CHECK_OPCODE = 11, 14, 13
RUNTIME_INCONSISTENCY = -2

#: jute.maxbuffer's default: a server with it closes the connection at a longer request.
JUTE_MAX_BUFFER = 0xFFFFF

#: ClickHouse Keeper's tracing dialect: a byte after each request says whether lines follow
#: (zktrace.wire.keeper).
TAIL_FLAG, TAIL_LINES = -1, 4

_EVENT = struct.Struct(">iii")  # type, state, path length


class Direction(Way):
    """One direction: its framer, and the form of its headers."""

    __slots__ = ("framer", "header", "late", "tail")

    def __init__(self, name: str, framer: Framer, header: struct.Struct) -> None:
        super().__init__(name)
        self.framer = framer
        self.header = header
        #: the bytes at hand may have been sent before they were captured
        self.late = False
        #: lines of a tracing context that come before the next frame; TAIL_FLAG: the byte that says
        #: whether there are any
        self.tail = 0

    def lose(self) -> None:
        super().lose()
        self.framer.stop()
        self.tail = 0

    def resume(self) -> None:
        super().resume()
        self.framer.restart()

    @property
    def cost(self) -> int:
        return self.held + self.framer.cost

    def cut(self) -> bool:
        return self.framer.cut()

    def skip_tail(self, data: bytes, pos: int) -> int:
        """Skip what follows a request in ClickHouse Keeper's tracing dialect; the position after
        it.
        """
        if self.tail == TAIL_FLAG:
            self.tail = TAIL_LINES if data[pos] else 0
            return pos + 1
        end = data.find(b"\n", pos)
        if end < 0:
            return len(data)
        self.tail -= 1
        return end + 1


class ClientMachine(StreamMachine[Direction]):
    """One client connection. `opened`: its first bytes are the ConnectRequest; else joined
    mid-stream.
    """

    _what = "frame"

    def __init__(
        self,
        context: Context,
        who: tuple[int, str, str],
        opened: bool,
        handshake_extra: int = 0,
    ) -> None:
        self._requests = Direction(
            events.TO_SERVER, Framer(context.budget, 8), struct.Struct(">ii")
        )
        self._replies = Direction(
            events.TO_CLIENT, Framer(context.budget, 16), struct.Struct(">iqi")
        )
        super().__init__(context, who, self._requests, self._replies)
        self._schema = context.schema
        self._scanner = context.scanner
        self._rows = Rows(context.sink, context.schema, context.counters, who)
        self._pairing = Pairing()
        self._requests.framer.extra_once = handshake_extra
        #: the ConnectRequest that waits for its answer, with its time, length and whether that time
        #: is uncertain
        self._connect: tuple[Connect, int, int, bool] | None = None
        self._await_connect = opened
        self._await_connected = opened
        #: the ConnectRequest is that of another connection on the same ports
        self._asked_again = False
        #: who the connection has authenticated as
        self._identities: list[str] = []
        #: nothing was lost so far: a reply without a request is odd
        self._clean = opened
        self._last_zxid: int | None = None
        self._last_frame_ts = 0
        #: the last frame of either direction answered a ping
        self._ping_answered = False
        #: what follows the handshake is compressed, and not decoded
        self._compressed = False
        self._tracing = False
        #: why the connection ended, once it has: in the flow layer's words
        self.how = "eof"
        if not opened:
            self._requests.lose()
            self._replies.lose()
            self._pairing.joined()

    # ---- bytes in

    def data(self, to_server: bool, ts: int, data: bytes, late: bool) -> None:
        """Take the next bytes of one direction. `late`: an earlier copy of them may have passed, so
        that no latency is known that begins or ends with them.
        """
        way = self._requests if to_server else self._replies
        way.late |= late
        self._feed(way, ts, data)
        # of bytes among which a frame boundary is looked for, some are as good as all
        way.late &= way.scan is not None

    def _is_ignored(self, way: Direction) -> bool:
        return self._compressed and not (way is self._replies and self._await_connected)

    def _decode(self, way: Direction, ts: int, data: bytes) -> int:
        # frames up to where framing is lost, or all
        pos = 0
        framer = way.framer
        while pos < len(data) and not self._is_ignored(way):
            if way.tail:
                pos = way.skip_tail(data, pos)
                continue
            frame, pos = framer.feed(data, pos, ts, way.late)
            if framer.new_length >= 0:
                self._length_seen(way, ts, framer.new_length)
                framer.new_length = -1
            if framer.lost:
                self._bad_length(way, ts)
                break
            if frame is not None:
                self._frame(way, frame)
        return pos

    def _frame(self, way: Direction, frame: Frame) -> None:
        counters = self._counters
        requests = way is self._requests
        if frame.damaged:
            counters.damaged_frames += 1
        elif requests:
            counters.frames_to_server += 1
        else:
            counters.frames_to_client += 1
        if requests and self._tracing:
            way.tail = TAIL_FLAG
        if requests and self._await_connect:
            self._connect_request(frame)
        elif not requests and self._await_connected and self._first_reply(frame):
            pass
        elif not self._clean and self._is_handshake(requests, frame):
            self._reopened(requests, frame)
        elif len(frame.head) < way.header.size:
            # damaged: whose it is was not captured
            self._pairing.lost(requests=requests, replies=not requests)
        elif requests:
            self._request(frame)
            self._ping_answered = False
        else:
            self._reply(frame)
        self._last_frame_ts = max(self._last_frame_ts, frame.last_ts)

    def _length_seen(self, way: Direction, ts: int, length: int) -> None:
        if way is self._requests and length > JUTE_MAX_BUFFER:
            detail = "longer than jute.maxbuffer's default: a server with it closes the connection"
            self._anomaly(ts, "oversized", way.anomaly, length, detail)

    def _bad_length(self, way: Direction, ts: int) -> None:
        length = way.framer.bad_length
        reason = "oversized" if length > way.framer.max_length or length < 0 else "malformed"
        self._anomaly(ts, reason, way.anomaly, 4, f"frame length {length}")
        self._counters.skipped_bytes += 4
        self._lost(way)

    def _lost(self, way: Direction) -> None:
        super()._lost(way)
        self._clean = False
        self._missing_in_scan(way)
        # a handshake not seen by now will not be known for one
        if way is self._requests:
            self._await_connect = False
        else:
            self._await_connected = False

    # ---- losses

    def gap(self, to_server: bool, ts: int, missing: int) -> None:
        """`missing` bytes of one direction were not captured."""
        self._clean = False
        if missing >= (CONNECT_BYTES if to_server else CONNECTED_BYTES):
            self._pairing.gone(requests=to_server)
        super().gap(to_server, ts, missing)

    def _missing_in_scan(self, way: Direction) -> None:
        requests = way is self._requests
        self._pairing.lost(requests=requests, replies=not requests)

    def _missing(self, way: Direction, missing: int) -> None:
        if way.tail:
            self._lost(way)
            return
        frame = way.framer.gap(missing)
        if frame is not None:
            self._frame(way, frame)
        if way.framer.lost:
            self._lost(way)

    def _find(self, way: Direction, scan: Scan) -> int:
        if way is self._requests:
            return find_requests(scan, self._schema, self._scanner, self._pairing.last_xid)
        return find_replies(
            scan,
            self._schema,
            self._scanner,
            self._pairing,
            self._last_zxid,
            self._requests.scan is None,
        )

    def _resume(self, way: Direction, scan: Scan, at: int) -> list[tuple[int, bytes]]:
        chunks = super()._resume(way, scan, at)
        if way is self._requests:
            self._pairing.resumed()
        return chunks

    # ---- handshake

    def _connect_request(self, frame: Frame) -> None:
        self._await_connect = False
        connect = parse_connect(frame.head)
        uncertain = frame.damaged or frame.late
        self._connect = (connect, frame.last_ts, frame.length, uncertain)
        if connect.malformed and not frame.damaged:
            self._malformed(events.TO_SERVER, frame, "ConnectRequest")
        if connect.wide_xids:
            self._requests.header = struct.Struct(">qi")
            self._requests.framer.min_length = self._requests.header.size
            self._replies.header = struct.Struct(">qqi")
        self._tracing = connect.tracing
        if connect.compressed:
            detail = "ClickHouse Keeper's compressed dialect is not decoded"
            self._anomaly(frame.last_ts, "dialect", None, None, detail)
            self._compressed = True

    def _first_reply(self, frame: Frame) -> bool:
        """Take the server's first frame, unless it is a reply: the handshake was lost then."""
        asked = self._connect
        if is_connected(frame.head, frame.length, asked[0].version if asked else None):
            self._connect_response(frame)
            return True
        self._await_connected = False
        self._clean = False
        self._pairing.lost(requests=False)
        if len(frame.head) >= self._replies.header.size:
            xid = self._replies.header.unpack_from(frame.head)[0]
            if xid < 0 or self._pairing.peek(xid) is not None:
                return False
        # neither an answer nor a reply: no field of it is what it would be shown as
        self._malformed(events.TO_CLIENT, frame, "ConnectResponse")
        return True

    def _connect_response(self, frame: Frame) -> None:
        self._await_connected = self._asked_again = False
        connected = parse_connected(frame.head, frame.length)
        if connected.malformed and not frame.damaged:
            self._malformed(events.TO_CLIENT, frame, "ConnectResponse")
        if connected.version == KEEPER_REJECTED:
            detail = "ClickHouse Keeper rejected the connection"
            self._anomaly(frame.first_ts, "dialect", events.TO_CLIENT, None, detail)
        if connected.session:
            self._rows.session = connected.session
        asked, self._connect = self._connect, None
        first_ts = None if frame.first_late else frame.first_ts
        self._rows.connect(asked, (connected, first_ts, frame.last_ts, frame.length))

    def _is_handshake(self, requests: bool, frame: Frame) -> bool:
        """Behind a loss: whether another connection began, on the same addresses and ports."""
        is_one = is_connect_again if requests else is_connected_again
        return not frame.damaged and is_one(frame.head, frame.length)

    def _reopened(self, requests: bool, frame: Frame) -> None:
        """What was known is of the connection before: nothing that it asked will be answered."""
        if not requests and self._asked_again:
            self._connect_response(frame)
            return
        if self._last_frame_ts:
            direction = self._requests if requests else self._replies
            detail = "another connection on these ports: the beginning was not captured"
            self._anomaly(frame.last_ts, "reused", direction.anomaly, None, detail)
        self._end_of_requests()
        self._rows.session = None
        self._identities = []
        self._last_zxid = None
        self._pairing = Pairing()
        self._pairing.joined()
        if requests:
            self._await_connected = self._asked_again = True
            self._requests.header = struct.Struct(">ii")
            self._requests.framer.min_length = self._requests.header.size
            self._replies.header = struct.Struct(">iqi")
            self._connect_request(frame)
        else:
            self._connect_response(frame)

    # ---- requests and replies

    def _request(self, frame: Frame) -> None:
        head = frame.head
        xid, opcode = self._requests.header.unpack_from(head)
        op = self._schema.ops.get(opcode)
        fields = Fields()
        if op is None:
            detail = f"opcode {opcode}"
            self._anomaly(frame.last_ts, "unknown_opcode", events.TO_SERVER, frame.length, detail)
        elif self._scan(op.request, frame, self._requests, fields) < 0:
            fields.ops = None
            if len(head) == frame.length:
                self._malformed(events.TO_SERVER, frame, op.name)
        if opcode == CHECK_OPCODE:
            detail = "check outside a multi: it takes down followers of ZooKeeper 3.8"
            self._anomaly(frame.last_ts, "bare_check", events.TO_SERVER, frame.length, detail)
        if opcode in identity.OPCODES and _is_all(frame):
            fields.claim = identity.claimed(opcode, head[self._requests.header.size :])
        uncertain = frame.damaged or frame.late
        asked = Pending(0, xid, opcode, op, frame.last_ts, frame.length, fields, uncertain)
        quiet = frame.last_ts - self._last_frame_ts if self._ping_answered else 0
        self._pairing.sent(asked, quiet)
        self._budget.take(asked.cost)

    def _reply(self, frame: Frame) -> None:
        head = frame.head
        xid, zxid, error = self._replies.header.unpack_from(head)
        if xid == WATCH_EVENT_XID and self._pairing.peek(xid) is None:
            self._watch_event(frame, zxid)
            return
        self._ping_answered = xid == PING_XID
        if zxid > 0:
            self._last_zxid = zxid
        asked = self._pairing.answered(xid, self._requests.scan is None)
        if asked is None:
            self._orphan(frame, xid, zxid, error)
            return
        self._budget.release(asked.cost)
        shown: int | None = error
        if error == 0 and asked.op is not None:
            fields = asked.fields
            reply = Fields()
            if self._scan(asked.op.reply, frame, self._replies, reply) < 0:
                reply.results = None
                reply.created_path = None
                if len(head) == frame.length:
                    self._malformed(events.TO_CLIENT, frame, asked.op.name)
            # a name that does not begin with the path is none: the reply answers something else
            if reply.created_path is not None and reply.created_path.startswith(
                fields.path or b"/"
            ):
                fields.created_path = reply.created_path
            fields.stat = reply.stat
            fields.children = reply.children
            fields.results = reply.results
            if fields.data_length is None:
                fields.data_length = reply.data_length
            if asked.opcode == MULTI_OPCODE:
                shown = _multi_error(fields)
        first_ts = None if frame.first_late else frame.first_ts
        self._rows.complete(asked, shown, zxid, first_ts, frame.length)
        if error == 0 and asked.opcode in identity.OPCODES and _is_all(frame):
            body = head[self._replies.header.size :]
            more = identity.granted(asked.opcode, asked.fields.claim, body)
            if identity.joined(self._identities, more):
                self._rows.authenticated(frame.last_ts, identity.shown(self._identities))

    def _scan(self, layout: Layout, frame: Frame, way: Direction, fields: Fields) -> int:
        head = frame.head
        return self._scanner.scan(layout, head, way.header.size, fields, total=frame.length)

    def _orphan(self, frame: Frame, xid: int, zxid: int, error: int) -> None:
        if self._clean:
            detail = f"xid {xid}"
            self._anomaly(frame.first_ts, "unmatched_reply", events.TO_CLIENT, frame.length, detail)
        self._pairing.orphaned(xid, frame.first_ts)
        opcode = {PING_XID: PING_OPCODE, AUTH_XID: identity.AUTH_OPCODE}.get(xid)
        self._rows.no_request(frame.last_ts, opcode, xid, error, zxid, frame.length)

    def _watch_event(self, frame: Frame, zxid: int) -> None:
        self._ping_answered = False
        head = frame.head
        pos = self._replies.header.size
        schema = self._schema
        kind: int | None = None
        state: int | None = None
        path: bytes | None = None
        if len(head) >= pos + 12:
            kind, state, size = _EVENT.unpack_from(head, pos)
            stop = pos + 12 + max(size, 0)
            if kind in schema.events and state in schema.states and size >= -1:
                if stop == frame.length and stop <= len(head):
                    path = head[pos + 12 : stop]
            else:
                # not an event's: nothing of it is to be shown
                kind = state = None
        if path is None and len(head) == frame.length:
            self._malformed(events.TO_CLIENT, frame, "watch event")
        self._rows.watch_event(frame.last_ts, kind, state, path, zxid, frame.length)

    def end(self, ts: int) -> None:
        """The connection is over, or the capture is: what has no reply will have none."""
        super().end(ts)
        self._requests.framer.stop()
        self._replies.framer.stop()
        self._end_of_requests()

    def _end_of_requests(self) -> None:
        if self._connect is not None:
            self._rows.connect(self._connect, None)
            self._connect = None
        self._unanswered()

    def _unanswered(self) -> int:
        # no reply is waited for any more; the number of requests without one
        given_up = self._pairing.give_up()
        for asked in given_up:
            self._budget.release(asked.cost)
            self._rows.no_reply(asked)
        return len(given_up)

    @property
    def cost(self) -> int:
        """What the connection holds."""
        return super().cost + sum(asked.cost for asked in self._pairing.outstanding.values())

    def give_up(self, ts: int) -> None:
        """It holds nothing then: requests that wait for their reply are given up."""
        super().give_up(ts)
        if count := self._unanswered():
            self._clean = False
            self._counters.given_up_requests += count
            detail = f"replies to {count} requests are not waited for: too much is held (limit)"
            self._anomaly(ts, "given_up", events.TO_SERVER, None, detail)

    def _malformed(self, direction: str, frame: Frame, what: str) -> None:
        detail = f"{what}: the body does not fit its layout"
        self._anomaly(frame.last_ts, "malformed", direction, frame.length, detail)


def _is_all(frame: Frame) -> bool:
    return len(frame.head) == frame.length and not frame.damaged


def _multi_error(fields: Fields) -> int | None:
    """A multi's error: its first failing result that does not just say that another one failed."""
    if fields.results is None:
        return None
    rolled_back = 0
    for _kind, error in fields.results:
        if error != 0:
            if error != RUNTIME_INCONSISTENCY:
                return error
            rolled_back = error
    return rolled_back
