"""The quorum port: connections of learners to the leader, and ours to it. They carry bytes; what
these say is the core's business (`core.quorum.peer`).
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from zktrace_server.core.quorum.link import Link
from zktrace_server.net.drops import Drops, ended
from zktrace_server.net.wire import Line, Wire

#: More than this waiting to be sent: a learner that takes nothing is cut off. A snapshot of a large
#: tree has to fit.
MAX_UNSENT: Final = 1 << 30


class Owner(Protocol):
    """Who runs the core."""

    def link_accepted(self, address: str) -> Link: ...
    def link_opened(self, sid: int, address: str) -> Link: ...
    def link_received(self, link: Link, data: bytes) -> None: ...
    def link_lost(self, link: Link) -> None: ...


class QuorumConnection(asyncio.Protocol):
    """One connection; `sid` is whom we have dialled, None where it was accepted."""

    def __init__(
        self,
        owner: Owner,
        carried: dict[Link, QuorumConnection],
        drops: Drops,
        wire: Wire,
        sid: int | None = None,
    ) -> None:
        self._owner = owner
        self._wire = wire
        self._drops = drops
        self._told = False
        self._carried = carried
        self._sid = sid
        self._transport: asyncio.Transport
        self._line: Line
        self._link: Link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._line = Line(self._wire, transport, self._sid)
        peer = transport.get_extra_info("peername") or ("", 0)
        address = f"{peer[0]}:{peer[1]}"
        if self._sid is None:
            self._link = self._owner.link_accepted(address)
        else:
            self._link = self._owner.link_opened(self._sid, address)
        self._carried[self._link] = self

    def data_received(self, data: bytes) -> None:
        self._owner.link_received(self._link, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._carried.pop(self._link, None)
        self._tell(self._link.why or ended(exc))
        self._owner.link_lost(self._link)

    def flush(self) -> None:
        """Sends what the core has left in the link."""
        link, line = self._link, self._line
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
            self._drops.say("quorum", self._link.sid, self._link.address, why)
