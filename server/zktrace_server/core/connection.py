"""A client's connection as the core sees it: what came and is not yet a whole frame, what goes out,
whose session it is and who the client is.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from zktrace.wire.records import Id
from zktrace_server.core.sasl import SaslServer


class State(Enum):
    """`NEW` until a session is there; `ENDING`: what is in `out` is sent, then it is closed, and
    nothing more is read.
    """

    NEW = 0
    OPEN = 1
    ENDING = 2


class Connection:
    """Compared and hashed by identity: it is a watcher. `address` is the client's, without port."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.state = State.NEW
        self.session_id = 0
        self.timeout_ms = 0
        self.ids: list[Id] = [Id("ip", address)]
        self.sasl: SaslServer | None = None
        self.out: list[bytes] = []
        #: The beginning of a frame, and how many bytes are worth looking at again.
        self.rest = bytearray()
        self.need = 0
        self.received = 0
        self.sent = 0
        #: Requests whose turn has not come, in an ensemble (`quorum.serving`); held: none is even
        #: looked at before the session is there.
        self.queue: deque[object] = deque()
        self.held = False
        self.knows_read_only = False

    def prove(self, ids: list[Id]) -> None:
        """The client is these, too."""
        self.ids += [i for i in ids if i not in self.ids]

    def end(self, *, drop: bool = False) -> None:
        """Closes it when what is to be sent is sent; with `drop`, without sending it."""
        self.state = State.ENDING
        if drop:
            self.out.clear()
