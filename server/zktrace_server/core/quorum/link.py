"""A connection of the quorum port as the core sees it: what goes out, and whether it is over.

The same for both ends of it. Whoever drives the core sends what is in `out`, in order, and closes
the connection when `closed` is set and that is sent.
"""

from __future__ import annotations

from zktrace_server.core.quorum.packets import PacketReader


class Link:
    """`dirty` collects the links that have something to send or are to be closed. For the log:
    `address` is the other end's, `sid` its number where that is known, `why` what we closed it for.
    """

    def __init__(self, dirty: dict[Link, None], address: str = "") -> None:
        self.address = address
        self.sid: int | None = None
        self.why = ""
        self.reader = PacketReader()
        self.out: list[bytes] = []
        self.closed = False
        #: What came before it was known what to do with it.
        self.early = bytearray()
        self._dirty = dirty

    def send(self, packet: bytes) -> None:
        """Nothing is sent any more once it is closed."""
        if not self.closed:
            self.out.append(packet)
            self._dirty[self] = None

    def over(self) -> bool:
        """Whether it is closed."""
        return self.closed

    def close(self, why: str) -> None:
        """The end, for us. The first reason counts."""
        self.why = self.why or why
        self.closed = True
        self._dirty[self] = None
