"""ClickHouse Keeper's and RaftKeeper's dialects of the client protocol.

Facts, read from ClickHouse (src/Common/ZooKeeper/ZooKeeperConstants.h at 0916da1b,
ZooKeeperImpl.cpp at 00bbffd9, src/Server/KeeperTCPHandler.cpp at 00a80690; the parts with tracing
from public copies of later versions: ZooKeeperCommon.cpp in hxaxd/ClickHouse at 338a9a98 and
hanzoai/datastore at 0fda985a, ZooKeeperImpl.cpp and KeeperTCPHandler.cpp in hanzoai/datastore at
0c52a7c4 and 0f1e1b51, TracingContext::serialize of OpenTelemetryTraceContext.cpp), and RaftKeeper's
Python test client. Not seen on a wire yet.

Handshake. `protocolVersion` of ConnectRequest chooses the dialect, and THE LENGTH LIES: it is 45
(44 without readOnly) whatever follows.

    version  after the version           bytes  from then on
    0        -                           45     as ZooKeeper
    10       -                           45     compressed blocks
    11       compress bool               46     xid of 8 bytes; compressed if asked for
    12..     xid64 bool, compress bool   47     tracing; the other two if asked for

then lastZxidSeen long, timeOut int, sessionId long (always 0), passwd buffer of 16, readOnly bool.
passwd may hold a shared secret, padded with zeros. The answer is 36 bytes long (no readOnly), with
the dialect's number as its version, or 42: rejected (no leader, overloaded), session id 0, then
close. 1..9 are refused by closing.

xid of 8 bytes: request header long xid, int type; reply header long xid, long zxid, int err (20
bytes). closeSession's xid is 0x7fffffff, or 0x7fffffffffffffff in this dialect.

Tracing: behind EVERY request (pings and auth too), and NOT counted in its frame's length, comes one
byte; if it is not 0, four lines of text follow, each ended by "\\n": the trace id as a UUID (36
characters), the span id in decimal, tracestate with backslash escapes, the trace flags in decimal.
Replies carry nothing.

Compressed: behind the handshake each direction is a sequence of ClickHouse's compressed blocks
(LZ4): 16 bytes of checksum (CityHash128), then method byte 0x82, int32 little-endian size of header
(9) and data, int32 little-endian size unpacked, data. Frames may span blocks. (The block format is
ClickHouse's general one; not read for this page.)

Multi. A result with err not 0 and a type other than -1 has no body (multiRead does this); Apache
always writes type -1 then. filteredList inside multiRead answers as type 12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zktrace.wire.codec import Record, record
from zktrace.wire.jute import Bool, Buffer, Int, Long, Tail, WireError

VERSION_PLAIN: Final = 0
VERSION_COMPRESSED: Final = 10
VERSION_XID64: Final = 11
VERSION_TRACING: Final = 12
VERSION_REJECTED: Final = 42

CLOSE_XID: Final = 0x7FFFFFFF
CLOSE_XID64: Final = 0x7FFFFFFFFFFFFFFF

# First bytes of a compressed block behind its checksum.
COMPRESSED_CHECKSUM: Final = 16
COMPRESSED_METHOD_LZ4: Final = 0x82

# Longest tracing text that is believed: W3C allows 512 characters of tracestate; the rest is under
# 100.
MAX_TRACING: Final = 4096


@record
class ConnectRequestXid64(Record):
    """ConnectRequest of protocol version 11."""

    protocol_version: Int
    use_compression: Bool
    last_zxid_seen: Long
    timeout_ms: Int
    session_id: Long
    password: Buffer
    read_only: Tail[Bool] = None


@record
class ConnectRequestTracing(Record):
    """ConnectRequest of protocol version 12 and up."""

    protocol_version: Int
    use_xid64: Bool
    use_compression: Bool
    last_zxid_seen: Long
    timeout_ms: Int
    session_id: Long
    password: Buffer
    read_only: Tail[Bool] = None


@record
class RequestHeader64(Record):
    """RequestHeader where xids have 8 bytes."""

    xid: Long
    type: Int


@record
class ReplyHeader64(Record):
    """ReplyHeader where xids have 8 bytes."""

    xid: Long
    zxid: Long
    err: Int


@dataclass(frozen=True, slots=True)
class TracingContext:
    """OpenTelemetry context of one request. The trace id is a UUID's text."""

    trace_id: str
    span_id: int
    trace_state: str
    flags: int


def uncounted_handshake_bytes(protocol_version: int) -> int:
    """How many bytes a ConnectRequest is longer than its frame length says."""
    if protocol_version >= VERSION_TRACING and protocol_version != VERSION_REJECTED:
        return 2
    return 1 if protocol_version == VERSION_XID64 else 0


def read_tracing(buf: bytes, pos: int, end: int) -> tuple[TracingContext | None, int] | None:
    """What stands behind a request of version 12. None: needs more bytes. WireError: not that."""
    if pos >= end:
        return None
    if buf[pos] == 0:
        return None, pos + 1
    start = pos = pos + 1
    lines: list[str] = []
    while len(lines) < 4:
        stop = buf.find(b"\n", pos, min(end, start + MAX_TRACING))
        if stop < 0:
            if end - start >= MAX_TRACING:
                raise WireError("no end of the line", pos, "TracingContext")
            return None
        lines.append(buf[pos:stop].decode("utf-8", "replace"))
        pos = stop + 1
    numbers = (lines[1], lines[3])
    if len(lines[0]) != 36 or not all(
        n.isascii() and n.isdigit() and len(n) <= 20 for n in numbers
    ):
        raise WireError("not a tracing context", start, "TracingContext")
    return TracingContext(lines[0], int(lines[1]), lines[2], int(lines[3])), pos
