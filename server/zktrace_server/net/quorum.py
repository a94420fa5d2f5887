"""The quorum port: connections of learners to the leader, and ours to it. They carry bytes; what
these say is the core's business (`core.quorum.peer`).
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from zktrace_server.core.quorum.auth import AuthError, Exchange
from zktrace_server.core.quorum.link import Link
from zktrace_server.net.drops import Drops, ended
from zktrace_server.net.wire import Line, Wire

#: More than this waiting to be sent: a learner that takes nothing is cut off. A snapshot of a large
#: tree has to fit.
MAX_UNSENT: Final = 1 << 30
#: For the other end to prove who it is, in seconds.
PROVE_S: Final = 5.0


class Owner(Protocol):
    """Who runs the core."""

    def link_accepted(self, address: str) -> Link: ...
    def link_opened(self, sid: int, address: str) -> Link: ...
    def link_refused(self, sid: int) -> None: ...
    def link_received(self, link: Link, data: bytes) -> None: ...
    def link_lost(self, link: Link) -> None: ...


class QuorumConnection(asyncio.Protocol):
    """One connection; `sid` is whom we have dialled, None where it was accepted. `exchange`: what
    comes before the core hears of it.
    """

    def __init__(
        self,
        owner: Owner,
        carried: dict[Link, QuorumConnection],
        drops: Drops,
        wire: Wire,
        sid: int | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        self._exchange = exchange
        self._timer: asyncio.TimerHandle | None = None
        self._owner = owner
        self._wire = wire
        self._drops = drops
        self._told = False
        self._carried = carried
        self._sid = sid
        self._transport: asyncio.Transport
        self._line: Line
        self._link: Link | None = None
        self._address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._line = Line(self._wire, transport, self._sid)
        peer = transport.get_extra_info("peername") or ("", 0)
        self._address = f"{peer[0]}:{peer[1]}"
        if self._exchange is None:
            self._begin()
            return
        self._timer = asyncio.get_running_loop().call_later(PROVE_S, self._silent)
        self._prove(self._exchange, b"")

    def _begin(self) -> Link:
        """The core hears of it."""
        if self._sid is None:
            link = self._owner.link_accepted(self._address)
        else:
            link = self._owner.link_opened(self._sid, self._address)
        self._link = link
        self._carried[link] = self
        return link

    def _prove(self, exchange: Exchange, data: bytes) -> None:
        """Goes on with the exchange; what is behind it is the core's."""
        try:
            behind = exchange.receive(data)
        except AuthError as error:
            self._line.write(exchange.take())
            self._tell(str(error))
            self._line.close()
            return
        said = exchange.take()
        if said:
            self._line.write(said)
        if exchange.done:
            self._exchange = None
            if self._timer is not None:
                self._timer.cancel()
            link = self._begin()
            if behind:
                self._owner.link_received(link, behind)

    def _silent(self) -> None:
        self._tell(f"it has not said who it is for {PROVE_S:.0f} s")
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._link is not None:
            self._owner.link_received(self._link, data)
        elif self._exchange is not None:
            self._prove(self._exchange, data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        link = self._link
        if link is None:
            self._tell(ended(exc))
            if self._sid is not None:
                self._owner.link_refused(self._sid)
            return
        self._carried.pop(link, None)
        self._tell(link.why or ended(exc))
        self._owner.link_lost(link)

    def flush(self) -> None:
        """Sends what the core has left in the link."""
        link, line = self._link, self._line
        if link is None:
            return
        if link.out:
            out, link.out = link.out, []
            line.sid = link.sid if self._sid is None else self._sid
            line.write(b"".join(out) if len(out) > 1 else out[0])
            if line.unsent > MAX_UNSENT:
                self._tell(f"it has not read {MAX_UNSENT} bytes that it was sent")
                self._transport.abort()
        if link.closed:
            self._tell(link.why)
            line.close()

    def abort(self) -> None:
        """This server ends."""
        self._told = True
        self._transport.abort()

    def _tell(self, why: str) -> None:
        if not self._told:
            self._told = True
            sid = self._sid if self._link is None else self._link.sid
            self._drops.say("quorum", sid, self._address, why)
