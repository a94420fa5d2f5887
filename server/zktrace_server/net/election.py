"""The election port (QuorumCnxManager): one connection to each peer, which the one with the larger
sid opens.

Who has the smaller sid may knock: it opens a connection, says who it is, and closes; the other then
opens the one that stays. What is said to a peer without a connection waits for one, and only the
latest of it: older notifications say nothing any more.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Final, Protocol

from zktrace.wire.election import (
    MAX_NOTIFICATION,
    PROTOCOL_V1,
    InitialMessage,
    Notification,
    decode_initial,
    decode_notification,
)
from zktrace.wire.jute import WireError
from zktrace_server.core.quorum.auth import AuthError, Exchange
from zktrace_server.core.quorum.membership import Membership
from zktrace_server.net.drops import Drops, ended
from zktrace_server.net.quorumsasl import QuorumSasl, accepting, dialling
from zktrace_server.net.tls import reason
from zktrace_server.net.wire import Line, Wire

log: Final = logging.getLogger(__name__)

#: cnxTimeout, in seconds: to open a connection, and to hear who it is.
CONNECT_S: Final = 5.0
#: Who cannot be reached is not tried again before, in seconds.
_AGAIN_S: Final = 0.2


class Listener(Protocol):
    """Who is told."""

    def notification(self, sid: int, given: Notification) -> None: ...
    def election_connected(self, sid: int) -> None: ...


class ElectionPort:
    """`hello` is what every connection of ours begins with. `tls`: to connect with; `sasl`: what
    both ends prove behind it.
    """

    def __init__(
        self,
        sid: int,
        membership: Membership,
        told: Listener,
        drops: Drops,
        wire: Wire,
        tls: ssl.SSLContext | None = None,
        sasl: QuorumSasl | None = None,
    ) -> None:
        self._tls = tls
        self.sasl = sasl
        self.sid = sid
        self.wire = wire
        self.drops = drops
        self.told = told
        self._membership = membership
        self._channels: dict[int, Channel] = {}
        self._waiting: dict[int, bytes] = {}
        self._dialling: dict[int, asyncio.Task[None]] = {}
        self._not_before: dict[int, float] = {}
        self._closed = False
        own = membership.committed.members[sid]
        host = f"[{own.host}]" if ":" in own.host else own.host
        address = f"{host}:{own.election_port}"
        self.hello = InitialMessage(PROTOCOL_V1, sid, address).encode()

    def send(self, sid: int, vote: Notification) -> None:
        """A notification; it may replace one that is still waiting."""
        data = vote.encode()
        frame = len(data).to_bytes(4, "big") + data
        channel = self._channels.get(sid)
        if channel is not None:
            channel.write(frame)
        else:
            self._waiting[sid] = frame
            self.dial(sid)

    def dial(self, sid: int, *, knocked: str | None = None) -> None:
        """Opens a connection, if none is being opened. Not too often, but where somebody has just
        knocked: that one is there, and waits, at the address that it gave (`knocked`) if no
        configuration has another: it may be about to join.
        """
        member = self._membership.find(sid)
        address = (member.host, member.election_port) if member else _address(knocked)
        loop = asyncio.get_running_loop()
        if (
            self._closed
            or sid in self._dialling
            or address is None
            or (loop.time() < self._not_before.get(sid, 0.0) and knocked is None)
        ):
            return
        self._not_before[sid] = loop.time() + _AGAIN_S
        task = loop.create_task(self._dial(sid, *address))
        self._dialling[sid] = task
        task.add_done_callback(lambda _: self._dialling.pop(sid, None))

    async def _dial(self, sid: int, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                await self.wire.reach(sid)
                await loop.create_connection(
                    lambda: Channel(self, sid),
                    host,
                    port,
                    ssl=self._tls,
                    server_hostname=None if self._tls is None else host,
                )
        except ssl.SSLError as error:
            self.drops.say("election", sid, f"{host}:{port}", f"TLS: {reason(error)}")
        except OSError as error:
            log.debug("cannot reach server %d for the election: %s", sid, error)

    def opened(self, channel: Channel) -> None:
        """A connection that stays; it takes the place of another to the same peer."""
        before = self._channels.pop(channel.sid, None)
        if before is not None:
            before.end("another one took its place")
        self._channels[channel.sid] = channel
        frame = self._waiting.pop(channel.sid, None)
        if frame is not None:
            channel.write(frame)
        self.told.election_connected(channel.sid)

    def lost(self, channel: Channel) -> None:
        if self._channels.get(channel.sid) is channel:
            del self._channels[channel.sid]

    def accept(self) -> Channel:
        """What asyncio wants for a new connection."""
        return Channel(self, None)

    def close(self) -> None:
        """No connections any more."""
        self._closed = True
        for task in list(self._dialling.values()):
            task.cancel()
        for channel in list(self._channels.values()):
            channel.end(None)


def _address(text: str | None) -> tuple[str, int] | None:
    """The first of an initial message (host:port, "|" between them); None if it has none."""
    host, _, port = (text or "").partition("|")[0].rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) <= 0xFFFF:
        return None
    return host.strip("[]"), int(port)


class Channel(asyncio.Protocol):
    """A connection; `sid` is None until the other end has said who it is."""

    def __init__(self, port: ElectionPort, sid: int | None) -> None:
        self._port = port
        self._known = sid
        self._transport: asyncio.Transport
        self._line: Line
        self._buffer = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._ours = sid is not None
        sasl = port.sasl
        self._exchange: Exchange | None = dialling(sasl) if self._ours else accepting(sasl)
        self._hello: InitialMessage | None = None
        self._address = ""
        self._told = False

    @property
    def sid(self) -> int:
        assert self._known is not None
        return self._known

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._line = Line(self._port.wire, transport, self._known)
        peer = transport.get_extra_info("peername") or ("", 0)
        self._address = f"{peer[0]}:{peer[1]}"
        if not self._ours or self._exchange is not None:
            self._timer = asyncio.get_running_loop().call_later(CONNECT_S, self._silent)
        if not self._ours:
            return
        self._line.write(self._port.hello)
        if self._exchange is not None:
            self._line.write(self._exchange.take())
        else:
            self._begin()

    def _begin(self) -> None:
        """Of one that we have dialled: who has the larger sid opens the one that stays."""
        if self.sid > self._port.sid:
            self.end(None)
        else:
            self._port.opened(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            if self._hello is None and not self._ours and not self._introduced():
                return
            if self._exchange is not None:
                if not self._proved(self._exchange):
                    return
                self._exchange = None
                self._settled()
                if self._ours:
                    self._begin()
            if self._known is None and not self._stays():
                return
            self._frames()
        except AuthError as error:
            self._tell(str(error))
            self._line.close()
        except WireError as error:
            self._tell(str(error))
            self._transport.abort()

    def _introduced(self) -> bool:
        """Whether it has said who it is."""
        raw = bytes(self._buffer)
        got = decode_initial(raw, 0, len(raw))
        if got is None:
            return False
        self._hello, pos = got
        del self._buffer[:pos]
        if self._exchange is None:
            self._settled()
        return True

    def _proved(self, exchange: Exchange) -> bool:
        """Whether it has proved that, as far as it has to."""
        data = bytes(self._buffer)
        self._buffer.clear()
        try:
            self._buffer += exchange.receive(data)
        finally:
            said = exchange.take()
            if said:
                self._line.write(said)
        return exchange.done

    def _settled(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stays(self) -> bool:
        """Who it is decides."""
        hello = self._hello
        assert hello is not None
        if hello.sid <= self._port.sid:
            same = hello.sid == self._port.sid
            self.end(f"it says that it is server {hello.sid}, as this one is" if same else None)
            if not same:
                self._port.dial(hello.sid, knocked=hello.address or "")
            return False
        self._known = self._line.sid = hello.sid
        self._port.opened(self)
        return True

    def _frames(self) -> None:
        buffer = self._buffer
        while len(buffer) >= 4 and self._known is not None:
            length = int.from_bytes(buffer[:4], "big", signed=True)
            if not 0 < length <= MAX_NOTIFICATION:
                raise WireError(f"length {length} of a notification")
            if len(buffer) < 4 + length:
                return
            frame = bytes(buffer[4 : 4 + length])
            del buffer[: 4 + length]
            self._port.told.notification(self.sid, decode_notification(frame))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._tell(ended(exc))
        if self._known is not None:
            self._port.lost(self)

    def _silent(self) -> None:
        self._tell(f"it has not said who it is for {CONNECT_S:.0f} s")
        self._transport.abort()

    def write(self, frame: bytes) -> None:
        self._line.write(frame)

    def end(self, why: str | None) -> None:
        """Closes it. None: as it has to be, nobody needs to hear of it."""
        if why is not None:
            self._tell(why)
        self._told = True
        self._line.close()

    def _tell(self, why: str) -> None:
        if not self._told:
            self._told = True
            self._port.drops.say("election", self._known, self._address, why)
