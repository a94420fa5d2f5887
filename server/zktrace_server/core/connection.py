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
        #: Packets of the client: those that came, and of them those that are accounted for.
        self.received = 0
        self._accounted = 0
        #: Watch events that were not yet accounted for, and all packets that were sent.
        self.events = 0
        self.sent = 0
        #: Requests whose turn has not come, in an ensemble (`quorum.serving`); held: none is even
        #: looked at before the session is there.
        self.queue: deque[object] = deque()
        self.held = False
        #: Of those in the queue: syncs that are under way.
        self.syncs = 0
        self.knows_read_only = False
        self.established_ms = 0
        self.last_kind = 0
        self.last_xid = 0
        self.last_zxid = 0
        self.last_ms = 0
        self.last_latency_ms = 0
        self._least_ms = 0
        self._most_ms = 0
        self._total_ms = 0
        self._answered = 0

    def prove(self, ids: list[Id]) -> None:
        """The client is these, too."""
        self.ids += [i for i in ids if i not in self.ids]

    def account(self, now_ms: int, latency_ms: int, zxid: int) -> int:
        """Its answers and watch events leave now; how many they are. The latency is that of the
        batch in which they were made.
        """
        count = self.received - self._accounted
        packets = count + self.events
        self.sent += packets
        self.events = 0
        if count:
            self._accounted = self.received
            self.last_ms, self.last_latency_ms, self.last_zxid = now_ms, latency_ms, zxid
            if latency_ms > self._most_ms:
                self._most_ms = latency_ms
            if not self._answered or latency_ms < self._least_ms:
                self._least_ms = latency_ms
            self._total_ms += latency_ms * count
            self._answered += count
        return packets

    def latencies(self) -> tuple[int, int, int]:
        """Least, mean and greatest, in ms, as ServerCnxn shows them."""
        mean = self._total_ms // self._answered if self._answered else 0
        return self._least_ms, mean, self._most_ms

    def reset_stats(self) -> None:
        """Begins to count anew, as crst asks for (ServerCnxn.resetStats)."""
        # Zero means that nothing came at all: the first bytes are looked at in another way.
        self.received = self._accounted = min(self.received, 1)
        self.sent = self.events = 0
        self._least_ms = self._most_ms = self._total_ms = self._answered = 0
        self.last_kind = self.last_xid = self.last_zxid = self.last_ms = 0
        self.last_latency_ms = 0

    def end(self, *, drop: bool = False) -> None:
        """Closes it when what is to be sent is sent; with `drop`, without sending it."""
        self.state = State.ENDING
        if drop:
            self.out.clear()
