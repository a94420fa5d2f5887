"""The client port: a socket to each client, four-letter words, limits (NIOServerCnxn,
NIOServerCnxnFactory).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Final

from zktrace.wire.fourletter import WORDS
from zktrace_server.core.connection import Connection, State
from zktrace_server.core.server import NotServing, Refused
from zktrace_server.net.fourletter import FourLetterWords
from zktrace_server.net.service import Service

log: Final = logging.getLogger(__name__)

#: Nothing more is read from a client that has so much still to read itself; asyncio asks for it to
#: go on when it has read most of that.
HIGH_WATER: Final = 1 << 20
#: Bytes of requests that are handled before the answers are looked at: some hundred requests, whose
#: answers may be a megabyte each.
PIECE: Final = 2048
#: Watch events come unasked: who lets this much of them pile up is cut off. Java has no limit.
MAX_UNSENT: Final = 256 << 20
_OPEN: Final = State.OPEN


class ClientPort:
    """Connections by address, for the limits."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self.words = FourLetterWords(service)
        self.loop = loop
        self._by_address: Counter[str] = Counter()

    def protocol(self) -> ClientProtocol:
        """What asyncio wants for a new connection."""
        return ClientProtocol(self)

    def admit(self, transport: asyncio.Transport, name: str, address: str) -> bool:
        """Counts a connection; closes one that would pass a limit."""
        refused = self._refused(address)
        if refused is not None:
            log.warning("%s: closed, %s", name, refused)
            self.service.stats.rejected += 1
            transport.abort()
            return False
        self._by_address[address] += 1
        return True

    def _refused(self, address: str) -> str | None:
        config = self.service.config
        limit = config.max_client_connections
        if 0 < limit <= self._by_address[address]:
            return f"maxClientCnxns={limit} reached"
        if 0 < config.max_connections <= self._by_address.total():
            return f"maxCnxns={config.max_connections} reached"
        return None

    def leave(self, address: str) -> None:
        """It is closed."""
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


def peer_of(transport: asyncio.BaseTransport) -> tuple[str, str]:
    """A client's address with its port, for the log, and without, for limits and ACLs."""
    peer = transport.get_extra_info("peername") or ("", 0)
    address = peer[0].partition("%")[0].removeprefix("::ffff:")
    name = f"{address}:{peer[1]}" if ":" not in address else f"[{address}]:{peer[1]}"
    return name, address


class ClientProtocol(asyncio.Protocol):
    """One client. `name` is its address and port, for the log."""

    def __init__(self, port: ClientPort) -> None:
        self._port = port
        self._service = port.service
        self._transport: asyncio.Transport
        self._connection: Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = b""
        self._full = False
        self.name = ""
        self.secure = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        name, address = peer_of(transport)
        if self._port.admit(transport, name, address):
            self.begin(transport)

    def begin(
        self, transport: asyncio.Transport, subject: str | None = None, *, secure: bool = False
    ) -> None:
        """With a connection that is admitted; `subject`: of the client's certificate."""
        self._transport = transport
        self.secure = secure
        self.name, address = peer_of(transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._connection = self._service.connected(address, self, subject)
        self._timer = self._port.loop.call_later(
            self._service.config.sessionless_timeout_ms / 1000, self._sessionless
        )

    def _sessionless(self) -> None:
        """Connected, and then never asked for a session."""
        if self._connection is not None and self._connection.state is State.NEW:
            self._service.stats.sessionless_expired += 1
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        connection = self._connection
        if connection is None:
            return
        state = connection.state
        if state is _OPEN and not self._waiting and len(data) <= PIECE:
            self._take(connection, data)
            return
        if state is State.ENDING:
            return
        if state is State.NEW and not connection.received:
            word = (bytes(connection.rest) + data)[:4]
            if word in WORDS:
                self._service.stats.received += 1
                answer = self._port.words.answer(word)
                self._transport.write(answer.encode())
                connection.end(drop=True)
                self._transport.close()
                return
        if self._waiting:
            self._waiting += data
        else:
            self._handle(connection, data)

    def _handle(self, connection: Connection, data: bytes) -> None:
        """Requests, as long as the client takes the answers; the others wait for it."""
        pos = 0
        while pos < len(data) and connection.state is not State.ENDING:
            if self._transport.get_write_buffer_size() > HIGH_WATER:
                self._waiting = data[pos:]
                self._transport.pause_reading()
                return
            # A frame that has begun is taken whole.
            begun = len(connection.rest)
            end = pos + max(PIECE, connection.need - begun if begun else 0)
            self._take(connection, data[pos:end] if pos or end < len(data) else data)
            pos = end

    def _take(self, connection: Connection, data: bytes) -> None:
        try:
            self._service.received(connection, data)
        except NotServing as reason:
            log.debug("%s: closed, %s", self.name, reason)
        except Refused as reason:
            log.info("%s: closed, %s", self.name, reason)
        except Exception:
            # A defect of this server must not harm another client's session.
            log.exception("%s: closed, its request could not be handled", self.name)
            connection.end(drop=True)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None:
            self._service.disconnected(self._connection)
            self._port.leave(self._connection.address)
            self._connection = None

    def pause_writing(self) -> None:
        self._full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        waiting, self._waiting = self._waiting, b""
        if self._connection is not None and waiting:
            self._handle(self._connection, waiting)
        if not self._waiting and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- Peer ---------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        self._transport.write(data)
        if self._full and self._transport.get_write_buffer_size() > MAX_UNSENT:
            log.warning("%s: closed, it does not read what it is sent", self.name)
            self._transport.abort()

    def close(self) -> None:
        self._transport.close()
