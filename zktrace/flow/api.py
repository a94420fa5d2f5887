"""What goes into and comes out of TCP reassembly: the handler, the limits, the counters.

Knows nothing of ZooKeeper and nothing of how reassembly is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Endpoint = tuple[bytes, int]
"""An IP address (4 or 16 bytes) and a port."""

How = Literal["closed", "reset", "reused", "evicted", "eof"]
"""Why a connection ended: FIN from both sides, RST, a new SYN (or far-away data) on the same
addresses and ports, too many connections, end of the capture."""


class FlowHandler(Protocol):
    """Takes what reassembly finds. Side 0 is A, side 1 is B.

    Per connection the calls are: one `open`, any number of `data` and `gap`, one `end`. The bytes
    of a side are the concatenation of its `data` and `gap` calls: a position in a stream is the sum
    of the lengths so far.
    """

    def open(self, conn_id: int, ts_ns: int, a: Endpoint, b: Endpoint, syn: bool) -> None:
        """A connection was found. With `syn`, A is known to be its TCP opener; without, A is the
        sender of the first packet with data (the capture joined it mid-stream)."""

    def data(self, conn_id: int, side: int, ts_ns: int, need: int, data: bytes, late: bool) -> None:
        """The next bytes of a side, captured at `ts_ns`. Never merged across segments. `late`: an
        earlier copy of them may have passed that was not captured.

        `need`: so many bytes of the OTHER side's stream had been received by this side when it
        sent these; 0 where that is not known. A `need` may be 1 more than ever arrives when the
        other side's FIN is captured later, or not at all: the FIN counts as a byte in TCP.
        """

    def gap(self, conn_id: int, side: int, ts_ns: int, n: int) -> None:
        """The next `n` bytes of a side were not captured."""

    def end(self, conn_id: int, ts_ns: int, how: How) -> None:
        """Nothing more will come of this connection."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a hostile or huge capture may cost. The same defaults stand in the native engine."""

    connections: int = 32_768
    """Live connections. A busy ensemble has some thousands; a SYN flood stops here."""
    side_buffer: int = 4 << 20
    """Bytes held for one side, behind a hole or before its start is known. Above jute.maxbuffer
    (1 MiB), and above any default receive window that could be in flight."""
    total_buffer: int = 16 << 20
    """Bytes held for all connections together; keeps the process below 100 MB."""
    tombstones: int = 16_384
    """Ended connections remembered, so that their late packets do not look like new ones."""


@dataclass(slots=True)
class FlowCounters:
    """Coverage of this layer."""

    connections: int = 0
    joined_connections: int = 0
    retransmitted_segments: int = 0
    duplicate_packets: int = 0
    keepalives: int = 0
    late_segments: int = 0
    out_of_order_segments: int = 0
    gaps: int = 0
    gap_bytes: int = 0
    stray_segments: int = 0
    buffer_limit_hits: int = 0
    evicted_connections: int = 0
