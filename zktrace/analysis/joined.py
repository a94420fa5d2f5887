"""What a join holds: quorum packets, connections, txns, deliveries and writes as numpy arrays.

Rows of the tables are meant by their number, counting from 0 in the order in which they came
(``seq``), -1 meaning none; numbers that are not known are :data:`~zktrace.analysis.columns.NONE`.
:mod:`zktrace.analysis.join` makes it. Must not know how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from zktrace.analysis.columns import Bools, Codes, Ints, Texts, Words
from zktrace.wire.quorum import PACKET_TYPES

#: Types of quorum packets are meant by their number on the wire.
KIND: Final[Mapping[str, int]] = {name: number for number, name in PACKET_TYPES.items()}

FOLLOWER: Final = "follower"
OBSERVER: Final = "observer"


@dataclass(frozen=True, slots=True)
class Packets:
    """The quorum table row by row."""

    seq: Ints
    ts: Ints
    peer: Ints
    """Connection: place in :attr:`Join.peers`."""
    kind: Codes
    """Type number; :data:`KIND` by name."""
    to_leader: Bools
    zxid: Ints
    session: Ints
    cxid: Ints
    txn_type: Codes
    """Op of a txn or request, in ``Join.ops``."""
    late: Bools
    """`ts` is not certain: an earlier copy may have passed."""

    def of_kind(self, *kinds: int) -> Bools:
        """Which rows are of one of these types."""
        wanted = np.zeros(len(PACKET_TYPES) + 2, dtype=np.bool_)
        wanted[list(kinds)] = True
        found: Bools = wanted[self.kind]
        return found


@dataclass(slots=True)
class Peer:
    """One quorum connection: a learner's to its leader, or an observer's to a follower."""

    conn: int
    learner: str
    """Address and port that the learner has on this connection."""
    leader: str
    """Address and port of the listener."""
    role: str | None = None
    """follower or observer; by what it said or, joined mid-stream, by what it is sent."""
    sid: int | None = None
    epoch: int | None = None
    """The leader's, by its LEADERINFO or NEWLEADER."""
    sync: str | None = None
    """DIFF, TRUNC or SNAP, where the sync was seen."""
    sync_row: int = -1
    opened: bool = False
    """The connection was seen from its first packet, a FOLLOWERINFO or OBSERVERINFO."""
    live_from: int = 0
    """Row from which on the leader broadcasts to it; before, packets sync it. Beyond all rows
    where the sync was not seen to end.
    """
    handshake: dict[str, int] | None = None
    """First row of each type of handshake packet that was seen."""
    config: str | None = None
    """The ensemble's configuration, as NEWLEADER told it."""


@dataclass(frozen=True, slots=True)
class Txns:
    """Distinct transactions, ordered by zxid."""

    zxid: Ints
    session: Ints
    cxid: Ints
    type: Codes
    """Op, in ``Join.ops`` (``error`` for one that failed)."""
    row: Ints
    """The first row that carries it."""
    leader: Codes
    """The listener that sent this row, in ``Join.addresses``."""
    request_row: Ints
    """The REQUEST that it came of: the last one of its session and cxid before it."""
    write: Ints
    """The client's write, in :attr:`Join.writes`."""


@dataclass(frozen=True, slots=True)
class Deliveries:
    """What one connection carried of one zxid: first rows of each type."""

    peer: Ints
    zxid: Ints
    txn: Ints
    """Place in :class:`Txns`; -1 where its PROPOSAL or INFORM is nowhere in the capture."""
    proposal_row: Ints
    ack_row: Ints
    """An ACK of NEWLEADER (a zxid whose counter is 0) is none."""
    commit_row: Ints
    """COMMIT or COMMITANDACTIVATE."""
    inform_row: Ints
    """INFORM or INFORMANDACTIVATE."""
    syncing: Bools
    """The leader sent it while it brought the learner up to date."""


@dataclass(frozen=True, slots=True)
class Writes:
    """Exchanges of ops that write, and connects that made a session."""

    seq: Ints
    """Of the exchange: the number of its row over all tables."""
    ts: Ints
    latency: Ints
    conn: Ints
    session: Ints
    cxid: Ints
    """The xid; of a connect 0."""
    zxid: Ints
    error: Ints
    op: Codes
    server: Codes
    client: Codes
    """In ``Join.addresses``."""
    state: Codes
    """In ``Join.states``."""
    txn: Ints
    request_row: Ints
    """The REQUEST that its server sent on."""


@dataclass(frozen=True, slots=True)
class Join:
    """All of it."""

    packets: Packets
    peers: list[Peer]
    txns: Txns
    deliveries: Deliveries
    writes: Writes
    ops: Words
    addresses: Words
    states: Words
    packet_paths: Texts
    """``path`` of the quorum table."""
    write_paths: Texts
    """``path`` of the writes, by place in :class:`Writes`."""
