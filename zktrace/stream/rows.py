"""Rows of one client connection: what a machine found, in the columns' order.

Gives the sink its tuples and counts what it gives. Paths become text here; nothing else of a
message is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zktrace.stream import events
from zktrace.stream.events import EventSink
from zktrace.stream.handshake import CONNECT_OPCODE, Connect, Connected
from zktrace.stream.pairing import Pending
from zktrace.stream.roles import CLIENT
from zktrace.stream.schema import Fields, Schema

_STAT_NAMES = (
    *("czxid", "mzxid", "ctime", "mtime", "version", "cversion", "aversion"),
    *("ephemeral_owner", "data_length", "num_children", "pzxid"),
)
_NO_CONNECT = (None, None, None, None, None)


@dataclass(slots=True)
class Counters:
    """What a capture's connections add to the coverage."""

    frames_to_server: int = 0
    frames_to_client: int = 0
    damaged_frames: int = 0
    complete: int = 0
    no_reply: int = 0
    no_request: int = 0
    watch_events: int = 0
    quorum_packets: int = 0
    election_messages: int = 0
    skipped_bytes: int = 0
    desyncs: int = 0
    resyncs: int = 0
    given_up_requests: int = 0


class Rows:
    """Makes the rows of one connection."""

    def __init__(
        self, sink: EventSink, schema: Schema, counters: Counters, who: tuple[int, str, str]
    ) -> None:
        self._sink = sink
        self._schema = schema
        self._counters = counters
        self._who = who
        #: the session of the connection, once it was granted
        self.session: int | None = None

    def complete(
        self,
        asked: Pending,
        error: int | None,
        zxid: int,
        first_ts: int | None,
        reply_bytes: int,
    ) -> None:
        """A request with its reply, whose first byte came at `first_ts` (None: not certain)."""
        self._counters.complete += 1
        latency = None
        if first_ts is not None and not asked.uncertain and first_ts >= asked.ts:
            latency = first_ts - asked.ts
        self._exchange(
            asked.ts,
            (self._schema.op_name(asked.opcode), asked.opcode, asked.xid),
            self.session,
            asked.fields,
            (error, zxid, latency, asked.length, reply_bytes, events.COMPLETE),
        )

    def no_reply(self, asked: Pending) -> None:
        """A request whose reply was not seen."""
        self._counters.no_reply += 1
        self._exchange(
            asked.ts,
            (self._schema.op_name(asked.opcode), asked.opcode, asked.xid),
            self.session,
            asked.fields,
            (None, None, None, asked.length, None, events.NO_REPLY),
        )

    def no_request(
        self, ts: int, opcode: int | None, xid: int, error: int, zxid: int, reply_bytes: int
    ) -> None:
        """A reply whose request was not seen, or is not certain."""
        self._counters.no_request += 1
        name = None if opcode is None else self._schema.op_name(opcode)
        self._exchange(
            ts,
            (name, opcode, xid),
            self.session,
            Fields(),
            (error, zxid, None, None, reply_bytes, events.NO_REQUEST),
        )

    def connect(
        self,
        asked: tuple[Connect, int, int, bool] | None,
        answer: tuple[Connected, int | None, int, int] | None,
    ) -> None:
        """A ConnectRequest (ts, length, whether that is uncertain) and its answer (first ts, None
        where uncertain, last ts, length)."""
        counters = self._counters
        request = asked[0] if asked is not None else Connect()
        reply = answer[0] if answer is not None else Connected()
        latency = None
        session = self.session
        if asked is not None and answer is not None:
            state = events.COMPLETE
            counters.complete += 1
            first_ts = answer[1]
            if first_ts is not None and not asked[3] and first_ts >= asked[1]:
                latency = first_ts - asked[1]
        elif asked is not None:
            state = events.NO_REPLY
            counters.no_reply += 1
        else:
            state = events.NO_REQUEST
            counters.no_request += 1
        if session is None:
            # refused, or not answered: the session that was asked for
            session = request.session or None
        read_only = request.read_only if reply.read_only is None else reply.read_only
        version = reply.version if request.version is None else request.version
        self._exchange(
            asked[1] if asked is not None else answer[2] if answer is not None else 0,
            ("connect", CONNECT_OPCODE, None),
            session,
            Fields(),
            (
                reply.error,
                reply.zxid,
                latency,
                asked[2] if asked is not None else None,
                answer[3] if answer is not None else None,
                state,
            ),
            (request.timeout, reply.timeout, request.last_zxid, read_only, version),
        )

    def authenticated(self, ts: int, user: str) -> None:
        """The server took a user for who it says to be."""
        self._sink.connection((ts, *self._who, CLIENT, events.AUTHENTICATED, user))

    def _exchange(
        self,
        ts: int,
        op: tuple[str | None, int | None, int | None],
        session: int | None,
        fields: Fields,
        outcome: tuple[int | None, int | None, int | None, int | None, int | None, str],
        connect: tuple[Any, ...] = _NO_CONNECT,
    ) -> None:
        self._sink.exchange(
            (
                *(ts, *self._who, *op, session, text(fields.path), fields.watch, *outcome),
                *(fields.flags, fields.mode, fields.version, fields.data_length, fields.children),
                *(fields.ttl, text(fields.created_path), _stat(fields.stat), self._sub(fields)),
                *(fields.watches, *connect),
            )
        )

    def _sub(self, fields: Fields) -> list[dict[str, Any]] | None:
        if fields.ops is None:
            return None
        results = fields.results or []
        return [
            {
                "op": self._schema.op_name(kind),
                "path": text(path),
                "error": results[i][1] if i < len(results) else None,
            }
            for i, (kind, path) in enumerate(fields.ops)
        ]

    def watch_event(
        self,
        ts: int,
        kind: int | None,
        state: int | None,
        path: bytes | None,
        zxid: int,
        size: int,
    ) -> None:
        """A watch event."""
        self._counters.watch_events += 1
        events_, states = self._schema.events, self._schema.states
        self._sink.watch_event(
            (
                *(ts, *self._who, self.session),
                None if kind is None else events_[kind],
                None if state is None else states[state],
                *(text(path), None if zxid == -1 else zxid, size),
            )
        )


def _stat(values: tuple[int, ...] | None) -> dict[str, int] | None:
    return None if values is None else dict(zip(_STAT_NAMES, values, strict=True))


def text(path: bytes | None) -> str | None:
    """Bytes of a path as text, what is not UTF-8 replaced."""
    return None if path is None else path.decode("utf-8", "replace")
