"""A recording on disk by connection, and what tells its connections apart.

Exchanges of each connection lie in chunks of one file without a name, so that they can be read
connection by connection in flat memory. Of each connection there are fingerprints of what was asked
and answered, made while it is read.
"""

from __future__ import annotations

import marshal
import re
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from zktrace.wire.jute import WireError
from zktrace.wire.records import ConnectRequest, ConnectResponse
from zktrace_proxy.messages.exchanges import CONNECT_OP, END_OP, Exchange
from zktrace_proxy.messages.reader import Reader

#: Exchanges of a connection that are written at once, and bytes.
_CHUNK: Final = 256
_CHUNK_BYTES: Final = 1 << 18
#: Prefixes of a connection's requests by which it is recognised where the rest differs.
PREFIXES: Final = (64, 32, 16, 8, 4, 2, 1)
_SEQUENCE: Final = re.compile(rb"[0-9]{10}")
_MASK: Final = (1 << 64) - 1


@dataclass(slots=True)
class Talk:
    """A connection of a recording."""

    conn: int
    client: str
    session: int = 0
    first_ns: int = 0
    requests: int = 0
    kind: str = "joined"
    #: all that was asked and answered; all that was asked; the same without sequence numbers
    exact: int = 0
    asked: int = 0
    shape: int = 0
    #: shape of the first requests, by how many
    prefixes: dict[int, int] = field(default_factory=dict)
    chunks: list[int] = field(default_factory=list)


class Recording:
    """Read once; then :meth:`exchanges` of each of `talks`. `prefix` is taken off paths where
    connections are recognised.
    """

    def __init__(self, reader: Reader, prefix: str = "") -> None:
        self.heard = reader.heard
        self.talks: list[Talk] = []
        self._prefix = prefix.encode()
        self._file: Any = tempfile.TemporaryFile(prefix="zktrace-")  # noqa: SIM115
        self._open: dict[int, tuple[Talk, list[Any], list[int]]] = {}
        for exchange in reader:
            self._add(exchange)
        for talk, held, _ in self._open.values():
            self._write(talk, held)
        self._open.clear()
        self.talks.sort(key=lambda talk: (talk.first_ns, talk.conn))

    def _add(self, exchange: Exchange) -> None:
        entry = self._open.get(exchange.conn)
        if entry is None:
            about = self.heard.conversations[exchange.conn]
            talk = Talk(exchange.conn, about.client, first_ns=exchange.sent_ns)
            entry = self._open[exchange.conn] = (talk, [], [0])
            self.talks.append(talk)
        talk, held, size = entry
        self._note(talk, exchange)
        e = exchange
        held.append(
            (e.conn, e.index, e.opcode, e.xid, e.request, e.sent_ns, e.reply, e.first_ns,
             e.answered_ns, e.think_ns, e.answered_before, e.events, e.whole, e.reply_whole,
             e.closed, e.row)
        )  # fmt: skip
        size[0] += len(e.request) + len(e.reply or b"")
        if len(held) >= _CHUNK or size[0] > _CHUNK_BYTES:
            self._write(talk, held)
            size[0] = 0
        if exchange.opcode == END_OP:
            self._write(talk, held)
            del self._open[exchange.conn]

    def _write(self, talk: Talk, held: list[Any]) -> None:
        if held:
            talk.chunks.append(self._file.seek(0, 2))
            marshal.dump(held, self._file)
            held.clear()

    def _note(self, talk: Talk, exchange: Exchange) -> None:
        if exchange.opcode == END_OP:
            return
        if exchange.opcode == CONNECT_OP:
            self._connect(talk, exchange)
            return
        talk.requests += 1
        request = exchange.request
        if self._prefix:
            request = request.replace(self._prefix, b"")
        plain = _SEQUENCE.sub(b"#", request[4:8] + request[12:])
        talk.asked = zlib.crc32(request, talk.asked)
        talk.shape = zlib.crc32(plain, talk.shape)
        talk.exact = zlib.crc32(request, talk.exact)
        reply = exchange.reply or b""
        # the error, and what is neither zxid nor Stat: names that were given
        told = reply[12:16] + (reply[16:] if exchange.opcode == 1 else b"")
        talk.exact = zlib.crc32(told.replace(self._prefix, b"") if self._prefix else told,
                                talk.exact)  # fmt: skip
        if talk.requests in PREFIXES:
            talk.prefixes[talk.requests] = talk.shape

    def _connect(self, talk: Talk, exchange: Exchange) -> None:
        try:
            asked = ConnectRequest.decode(exchange.request).session_id & _MASK
            granted = ConnectResponse.decode(exchange.reply or b"").session_id & _MASK
        except WireError:
            talk.kind = "unanswered"
            return
        talk.session = granted or asked
        talk.kind = "refused" if not granted else "again" if asked else "new"

    def exchanges(self, talk: Talk) -> Iterator[Exchange]:
        """Of one connection, in its order; the last one stands for its end."""
        for at in talk.chunks:
            self._file.seek(at)
            for fields in marshal.load(self._file):
                yield Exchange(*fields)

    def close(self) -> None:
        self._file.close()
