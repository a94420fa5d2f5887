"""Writes and txns with the times of their messages: what the stages of a write are cut from.

A message (REQUEST, PROPOSAL, ACK, COMMIT or INFORM, a client's request and its reply) is `sent`
and `received`. One capture sees each message once and both times are the same; several captures
of one ensemble may see it near both ends (:mod:`zktrace.analysis.points` merges them on one
clock). Times are nanoseconds, :data:`~zktrace.analysis.columns.NONE` where a message was not
seen. Must not know what a stage is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from zktrace.analysis.columns import NONE, Bools, Codes, Ints, ranked
from zktrace.analysis.join import KIND, Join, Peer

PROPOSAL: Final = 0
ACK: Final = 1
COMMIT: Final = 2
"""COMMIT to a follower, INFORM to an observer."""
_KINDS: Final = 3

_COUNTER: Final = 0xFFFFFFFF


@dataclass(slots=True)
class Seen:
    """When messages were sent and received."""

    sent: Ints
    received: Ints

    def take(self, places: Ints) -> Seen:
        """Those of some places, a place below 0 meaning none."""
        return Seen(at(self.sent, places), at(self.received, places))


@dataclass(slots=True)
class Timeline:
    """Txns, what each learner was sent of them, and writes. Arrays of a part run in parallel."""

    peers: list[Peer]
    leader_of: Codes
    """Listener of each peer, in the addresses of the join."""

    zxid: Ints
    session: Ints
    cxid: Ints
    type: Codes
    leader: Codes
    """Of each txn, ordered by zxid."""
    asked: Seen
    """The REQUEST of each txn, and the peer that sent it (-1: none seen)."""
    asked_peer: Ints

    d_peer: Ints
    d_zxid: Ints
    d_txn: Ints
    d_syncing: Bools
    """Of each delivery: one zxid on one connection, ordered by peer and zxid."""
    d_seen: tuple[Seen, ...]
    """PROPOSAL, ACK and COMMIT (or INFORM) of each delivery."""

    txn: Ints
    """The txn of each write, -1 if none was seen."""
    write: Ints
    """The (first) write of each txn, -1 if none was seen."""
    request: Seen
    reply: Seen
    forward: Seen
    """Of each write, and the peer that forwarded it."""
    forward_peer: Ints
    w_session: Ints
    w_cxid: Ints
    w_zxid: Ints
    w_error: Ints
    w_op: Codes
    w_server: Codes
    w_client: Codes
    w_conn: Ints
    w_seq: Ints
    w_ts: Ints
    """When the request was captured; it is none of its moments where that is not certain."""

    pings: list[tuple[Ints, Ints]]
    """Of each peer: when PINGs were sent, and how long their echoes took."""
    path_of: Callable[[int, int], str | None]
    """The path of a write (else -1) or a txn (else -1)."""

    def delivery(self, peer: Ints, zxid: Ints) -> Ints:
        """The place of a delivery, -1 if there is none (or `peer` is -1)."""
        return delivery_places(self.d_peer, self.d_zxid, peer, zxid)


def delivery_places(d_peer: Ints, d_zxid: Ints, peer: Ints, zxid: Ints) -> Ints:
    """Where deliveries, ordered by peer and zxid, have these; -1 where they do not."""
    zxids, own = ranked(d_zxid)
    n = len(zxids)
    if not n:
        return np.full(len(peer), -1, dtype=np.int64)
    keys = d_peer * n + own
    place = np.minimum(np.searchsorted(zxids, zxid), n - 1)
    wanted = peer * n + place
    found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    fits = (keys[found] == wanted) & (zxids[place] == zxid) & (peer >= 0)
    return np.where(fits, found, -1)


def at(values: Ints, places: Ints) -> Ints:
    """Values of some places, NONE where a place is below 0."""
    if not len(values):
        return np.full(len(places), NONE, dtype=np.int64)
    found: Ints = np.where(places >= 0, values[places], NONE)
    return found


def timeline(join: Join) -> Timeline:
    """That of one capture."""
    packets, txns, deliveries, writes = join.packets, join.txns, join.deliveries, join.writes

    # When a message passed of which an earlier copy may have, is not known.
    sure = packets.ts.copy() if packets.late.any() else packets.ts
    if sure is not packets.ts:
        sure[packets.late] = NONE

    def once(rows: Ints) -> Seen:
        times = at(sure, rows)
        return Seen(times, times)

    def whose(rows: Ints) -> Ints:
        if not len(packets.peer):
            return np.full(len(rows), -1, dtype=np.int64)
        return np.where(rows >= 0, packets.peer[rows], -1)

    def path_of(write: int, txn: int) -> str | None:
        return join.write_paths[write] if write >= 0 else join.packet_paths[int(txns.row[txn])]

    told = np.where(deliveries.commit_row >= 0, deliveries.commit_row, deliveries.inform_row)
    timed = writes.latency != NONE
    reply = np.where(timed, writes.ts + writes.latency, NONE)
    # Both ends of an exchange were seen, and yet it has no latency: one of its times is not
    # certain, and which is not said.
    answered = writes.state == join.states.code("complete")
    request = np.where(answered & ~timed, NONE, writes.ts)
    return Timeline(
        peers=join.peers,
        leader_of=np.array([join.addresses.code(p.leader) for p in join.peers], dtype=np.int32),
        zxid=txns.zxid,
        session=txns.session,
        cxid=txns.cxid,
        type=txns.type,
        leader=txns.leader,
        asked=once(txns.request_row),
        asked_peer=whose(txns.request_row),
        d_peer=deliveries.peer,
        d_zxid=deliveries.zxid,
        d_txn=deliveries.txn,
        d_syncing=deliveries.syncing,
        d_seen=(once(deliveries.proposal_row), once(deliveries.ack_row), once(told)),
        txn=writes.txn,
        write=txns.write,
        request=Seen(request, request),
        reply=Seen(reply, reply),
        forward=once(writes.request_row),
        forward_peer=whose(writes.request_row),
        w_session=writes.session,
        w_cxid=writes.cxid,
        w_zxid=writes.zxid,
        w_error=writes.error,
        w_op=writes.op,
        w_server=writes.server,
        w_client=writes.client,
        w_conn=writes.conn,
        w_seq=writes.seq,
        w_ts=writes.ts,
        pings=_pings(join),
        path_of=path_of,
    )


def _pings(join: Join) -> list[tuple[Ints, Ints]]:
    """Round trips of PINGs. A learner echoes a PING from the thread that reads the connection
    (Learner.ping, Follower.processPacket), so that its disk has no part in them: they take what
    the network takes, and what is queued before them.
    """
    packets = join.packets
    rows = np.flatnonzero((packets.kind == KIND["PING"]) & ~packets.late)
    order = rows[np.lexsort((packets.to_leader[rows], packets.ts[rows], packets.peer[rows]))]
    peer, ts, echo = packets.peer[order], packets.ts[order], packets.to_leader[order]
    places = np.maximum.accumulate(np.where(echo, -1, np.arange(len(order))))
    mine = np.flatnonzero(echo & (places >= 0))
    before = places[mine]
    same = peer[before] == peer[mine]
    mine, before = mine[same], before[same]
    edges = np.searchsorted(peer[mine], np.arange(len(join.peers) + 1))
    trips = []
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        sent = ts[before[low:high]]
        trips.append((sent, ts[mine[low:high]] - sent))
    return trips
