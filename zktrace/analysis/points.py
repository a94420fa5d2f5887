"""Captures of one ensemble made at several places, put on one clock and made one timeline.

Each place has a clock of its own. What is known of their difference comes from the traffic:

* A message that was seen at two places passed the one nearer its sender first. Messages of both
  directions of a connection bound the difference from both sides; the two bounds are apart by
  what the network takes there and back at its quickest.
* Nothing is before its cause: a REQUEST not before the request that it forwards, a PROPOSAL not
  before the REQUEST, an ACK not before its PROPOSAL, a reply not before the COMMIT that its server
  got. That bounds the difference where no message was seen twice.

Bounds of all pairs are difference constraints; the tightest ones that follow from them are
shortest paths. The middle of what is left is taken, and how far off it may be is told. Connections
are the same at two places if their addresses are (no translation between them). Clocks that drift
apart by more than the network takes make the bounds contradict each other, which is told, too.
Must not know stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from zktrace.analysis.columns import NONE, Bools, Ints, Words
from zktrace.analysis.join import Peer
from zktrace.analysis.timeline import (
    ACK,
    COMMIT,
    PROPOSAL,
    Seen,
    Timeline,
    at,
    delivery_places,
)

#: No bound. Far from what sums of bounds can reach.
_FREE: Final = 1 << 61


@dataclass(frozen=True, slots=True)
class Clock:
    """What a place's clock shows more than the first one's."""

    name: str
    offset_ns: int
    low_ns: int | None
    high_ns: int | None
    """Bounds of the offset, None where the traffic gives none."""
    consistent: bool = True
    """The bounds do not contradict each other."""


@dataclass(slots=True)
class _Global:
    """Places in the merged timeline of what one point saw."""

    peer: Ints
    txn: Ints
    delivery: Ints
    write: Ints


@dataclass(frozen=True, slots=True)
class Merged:
    """One timeline of several captures."""

    timeline: Timeline
    clocks: list[Clock]
    """In the order of the captures; the first one's offset is 0."""
    writes: list[Ints]
    """Of each capture: where its writes are in the merged timeline."""


def merge(
    timelines: Sequence[Timeline], names: Sequence[str], addresses: Words, ops: Words
) -> Merged:
    """One timeline of several, made with the same words."""
    peers, peer_maps = _peers(timelines)
    txn_keys, txn_maps = _places(
        [np.column_stack((t.zxid, t.session, t.cxid)) for t in timelines], 3
    )
    delivery_keys, delivery_maps = _places(
        [
            np.column_stack((one[t.d_peer], t.d_zxid)) if len(one) else np.empty((0, 2), np.int64)
            for t, one in zip(timelines, peer_maps, strict=True)
        ],
        2,
    )
    write_keys, write_maps = _places([_write_keys(t) for t in timelines], 5)
    maps = [
        _Global(*four) for four in zip(peer_maps, txn_maps, delivery_maps, write_maps, strict=True)
    ]
    counts = (len(txn_keys), len(delivery_keys), len(write_keys))
    seen = [_Times.of(t, one, counts) for t, one in zip(timelines, maps, strict=True)]
    d_txn = _first([t.d_txn for t in timelines], delivery_maps, counts[1], txn_maps)
    w_txn = _first([t.txn for t in timelines], write_maps, counts[2], txn_maps)
    _find_txns(timelines, maps, w_txn, txn_keys, ops)
    forwarders = _first([t.forward_peer for t in timelines], write_maps, counts[2], peer_maps)
    askers = _first([t.asked_peer for t in timelines], txn_maps, counts[0], peer_maps)
    homes = np.where(forwarders >= 0, forwarders, np.maximum(at(askers, w_txn), -1))
    zxids = at(txn_keys[:, 0], w_txn)
    links = _Links(
        d_txn=d_txn,
        w_txn=w_txn,
        own=delivery_places(delivery_keys[:, 0], delivery_keys[:, 1], homes, zxids),
        peer=delivery_keys[:, 0],
        way=_ways(write_keys, addresses),
    )
    clocks = _clocks(seen, list(names), links)
    whole = _merged(
        timelines,
        maps,
        seen,
        clocks,
        (peers, txn_keys, delivery_keys, d_txn, w_txn, askers, homes),
    )
    return Merged(whole, clocks, write_maps)


# ---- the same things at several places


def _peers(timelines: Sequence[Timeline]) -> tuple[list[Peer], list[Ints]]:
    """Connections by their addresses; a pair of them that comes again is another one."""
    found: dict[tuple[str, str, int], int] = {}
    peers: list[Peer] = []
    maps = []
    for line in timelines:
        times: dict[tuple[str, str], int] = {}
        places = []
        for peer in line.peers:
            pair = (peer.learner, peer.leader)
            times[pair] = times.get(pair, -1) + 1
            key = (*pair, times[pair])
            if key not in found:
                found[key] = len(peers)
                peers.append(replace(peer, conn=len(peers)))
            known = peers[found[key]]
            known.role = known.role or peer.role
            known.sid = peer.sid if known.sid is None else known.sid
            known.epoch = peer.epoch if known.epoch is None else known.epoch
            known.sync = known.sync or peer.sync
            known.config = known.config or peer.config
            known.opened = known.opened or peer.opened
            places.append(found[key])
        maps.append(np.array(places, dtype=np.int64))
    return peers, maps


def _write_keys(line: Timeline) -> Ints:
    """client, server, op, cxid, and which one of these it is."""
    keys = np.column_stack((line.w_client, line.w_server, line.w_op, line.w_cxid)).astype(np.int64)
    if not len(keys):
        return np.empty((0, 5), dtype=np.int64)
    order = np.lexsort((line.request.sent, *keys.T))
    ordered = keys[order]
    same = np.concatenate(([False], (ordered[1:] == ordered[:-1]).all(axis=1)))
    start = np.maximum.accumulate(np.where(same, 0, np.arange(len(keys))))
    number = np.empty(len(keys), dtype=np.int64)
    number[order] = np.arange(len(keys)) - start
    return np.column_stack((keys, number))


def _places(keys: Sequence[Ints], width: int) -> tuple[Ints, list[Ints]]:
    """Distinct rows of all, in order, and the place of each row of each."""
    whole = np.concatenate([one.reshape(-1, width) for one in keys])
    if not len(whole):
        return np.empty((0, width), np.int64), [np.empty(0, np.int64) for _ in keys]
    distinct, which = np.unique(whole, axis=0, return_inverse=True)
    edges = np.cumsum([len(one) for one in keys])[:-1]
    return distinct, np.split(which.reshape(-1), edges)


def _first(
    values: Sequence[Ints],
    places: Sequence[Ints],
    count: int,
    through: Sequence[Ints] | None = None,
) -> Ints:
    """Per place the first value that is known (not below 0); `through`: what the values mean."""
    found = np.full(count, -1, dtype=np.int64)
    for number, (own, place) in enumerate(zip(values, places, strict=True)):
        told = np.asarray(own, dtype=np.int64)
        if through is not None and len(through[number]):
            told = np.where(told >= 0, through[number][told], -1)
        new = (told >= 0) & (found[place] < 0)
        found[place[new]] = told[new]
    return found


def _find_txns(
    timelines: Sequence[Timeline],
    maps: Sequence[_Global],
    w_txn: Ints,
    txn_keys: Ints,
    ops: Words,
) -> None:
    """Txns of writes that were seen where the quorum port was not: by zxid, session and cxid; of a
    new session by its id, if it was made once.
    """
    connect, created = ops.code("connect"), ops.code("createSession")
    types = np.full(len(txn_keys), -1, dtype=np.int64)
    for line, one in zip(timelines, maps, strict=True):
        types[one.txn] = line.type
    whole = {key: at_ for at_, key in enumerate(map(tuple, txn_keys.tolist()))}
    sessions: dict[int, list[int]] = {}
    for at_ in np.flatnonzero(types == created).tolist():
        sessions.setdefault(int(txn_keys[at_, 1]), []).append(at_)
    for line, one in zip(timelines, maps, strict=True):
        lost = np.flatnonzero(w_txn[one.write] < 0)
        rows = np.column_stack(
            (line.w_zxid[lost], line.w_session[lost], line.w_cxid[lost], line.w_op[lost])
        )
        for own, (zxid, session, cxid, op) in zip(lost.tolist(), rows.tolist(), strict=True):
            made = sessions.get(session, [])
            if op != connect:
                w_txn[one.write[own]] = whole.get((zxid, session, cxid), -1)
            elif len(made) == 1:
                w_txn[one.write[own]] = made[0]


def _ways(write_keys: Ints, addresses: Words) -> Ints:
    """Writes whose messages take the same way, as numbers: from the client's host to the server."""
    hosts = Words()
    of = np.array(
        [hosts.code((addresses.word(i) or "").rpartition(":")[0]) for i in range(len(addresses))],
        dtype=np.int64,
    )
    if not len(write_keys):
        return np.empty(0, dtype=np.int64)
    ways: Ints = of[write_keys[:, 0]] * len(addresses) + write_keys[:, 1]
    return ways


# ---- times


@dataclass(frozen=True, slots=True)
class _Links:
    """What belongs to what in the merged timeline."""

    d_txn: Ints
    w_txn: Ints
    own: Ints
    """Of each write: what its own server was sent of the txn."""
    peer: Ints
    way: Ints
    """Deliveries and writes whose messages take the same way have the same number: of two places
    one is passed first in each direction.
    """


@dataclass(slots=True)
class _Times:
    """What one point saw, at the merged timeline's places, by its own clock."""

    captured: Ints
    request: Ints
    reply: Ints
    forward: Ints
    asked: Ints
    deliveries: tuple[Ints, ...]

    @classmethod
    def of(cls, line: Timeline, maps: _Global, counts: tuple[int, int, int]) -> _Times:
        def put(values: Ints, places: Ints, count: int) -> Ints:
            found = np.full(count, NONE, dtype=np.int64)
            found[places[::-1]] = values[::-1]
            return found

        txns, deliveries, writes = counts
        return cls(
            captured=put(line.w_ts, maps.write, writes),
            request=put(line.request.sent, maps.write, writes),
            reply=put(line.reply.sent, maps.write, writes),
            forward=put(line.forward.sent, maps.write, writes),
            asked=put(line.asked.sent, maps.txn, txns),
            deliveries=tuple(put(s.sent, maps.delivery, deliveries) for s in line.d_seen),
        )


def _clocks(seen: Sequence[_Times], names: list[str], links: _Links) -> list[Clock]:
    n = len(seen)
    bound = np.full((n, n), _FREE, dtype=np.int64)
    np.fill_diagonal(bound, 0)
    for p in range(n):
        for q in range(n):
            if p != q:
                bound[p, q] = min(_least(seen[p], seen[q], links), _passed(seen[p], seen[q], links))
    # bound[p, q]: clock q shows at most so much more than clock p (Floyd and Warshall).
    for via in range(n):
        bound = np.minimum(bound, bound[:, via, None] + bound[None, via, :])
    bound[bound > _FREE // 2] = _FREE
    contradicted = bool((np.diagonal(bound) < 0).any())
    found = []
    for q, name in enumerate(names):
        high = int(bound[0, q]) if bound[0, q] < _FREE else None
        low = -int(bound[q, 0]) if bound[q, 0] < _FREE else None
        if low is not None and high is not None:
            offset = (low + high) // 2
        else:
            # Clocks that are set by network time, as far as the one bound allows.
            offset = max(low or 0, 0) if low is not None else min(high or 0, 0)
        found.append(Clock(name, offset if q else 0, low, high, not contradicted))
    return found


def _least(p: _Times, q: _Times, links: _Links) -> int:
    """The least by which anything at q is after its cause at p: clock q is ahead by no more."""
    best = _FREE

    def pair(cause: Ints, effect: Ints) -> None:
        nonlocal best
        known = (cause != NONE) & (effect != NONE)
        if known.any():
            best = min(best, int((effect[known] - cause[known]).min()))

    proposal, ack, commit = (q.deliveries[i] for i in (PROPOSAL, ACK, COMMIT))
    by_txn = np.full(len(p.asked), NONE, dtype=np.int64)
    asker = np.flatnonzero(links.w_txn >= 0)
    by_txn[links.w_txn[asker]] = p.request[asker]
    pair(by_txn, q.asked)
    pair(p.request, q.forward)
    pair(p.request, q.reply)
    pair(p.forward, q.reply)
    for cause in (by_txn, p.asked):
        mine = at(cause, links.d_txn)
        pair(mine, proposal)
        pair(mine, ack)
        pair(mine, commit)
    pair(p.deliveries[PROPOSAL], ack)
    # Of what followers are sent, a reply is only after what its own server got: another follower
    # may get the same message later than the client its reply.
    for sent in (p.deliveries[PROPOSAL], p.deliveries[COMMIT]):
        pair(at(sent, links.own), q.reply)
    pair(at(p.asked, links.w_txn), q.reply)
    return best


def _passed(p: _Times, q: _Times, links: _Links) -> int:
    """The least by which messages that both saw are later at q, of the directions in which they
    pass p first.
    """
    best = _FREE
    # Quorum connections: PROPOSAL and COMMIT go one way, ACKs the other.
    down = [_later(p.deliveries[i], q.deliveries[i]) for i in (PROPOSAL, COMMIT)]
    up = _later(p.deliveries[ACK], q.deliveries[ACK])
    for peer in np.unique(links.peer).tolist():
        mine = links.peer == peer
        to, back = np.concatenate([one[mine] for one in down]), up[mine]
        best = min(best, _nearer(to[to != NONE], back[back != NONE]))
    # Client connections.
    there, back = _later(p.request, q.request), _later(p.reply, q.reply)
    both = np.flatnonzero((there != NONE) | (back != NONE))
    for way in np.unique(links.way[both]).tolist():
        mine = both[links.way[both] == way]
        to, fro = there[mine], back[mine]
        best = min(best, _nearer(to[to != NONE], fro[fro != NONE]))
    return best


def _later(p: Ints, q: Ints) -> Ints:
    both = (p != NONE) & (q != NONE)
    return np.where(both, q - p, NONE)


def _nearer(one: Ints, other: Ints) -> int:
    """Differences of both directions: those of the direction that passes p first are the greater
    ones, and bound the clock.
    """
    if not len(one) or not len(other):
        return _FREE
    low, high = (one, other) if np.median(one) <= np.median(other) else (other, one)
    return int(high.min()) if len(low) else _FREE


# ---- one timeline


def _merged(
    timelines: Sequence[Timeline],
    maps: Sequence[_Global],
    seen: Sequence[_Times],
    clocks: Sequence[Clock],
    keys: tuple[list[Peer], Ints, Ints, Ints, Ints, Ints, Ints],
) -> Timeline:
    peers, txn_keys, delivery_keys, d_txn, w_txn, askers, homes = keys
    writes = [one.write for one in maps]
    txns = [one.txn for one in maps]

    def both(of: Callable[[_Times], Ints], count: int) -> Seen:
        sent = np.full(count, NONE, dtype=np.int64)
        received = sent.copy()
        for times, clock in zip(seen, clocks, strict=True):
            own = of(times)
            known = own != NONE
            fixed = own - clock.offset_ns
            earlier = known & ((sent == NONE) | (fixed < sent))
            sent[earlier] = fixed[earlier]
            later = known & ((received == NONE) | (fixed > received))
            received[later] = fixed[later]
        return Seen(sent, received)

    def known(name: str, places: Sequence[Ints], count: int, missing: int = NONE) -> Ints:
        found = np.full(count, missing, dtype=np.int64)
        for line, place in zip(timelines, places, strict=True):
            own = np.asarray(getattr(line, name), dtype=np.int64)
            new = (own != missing) & (found[place] == missing)
            found[place[new]] = own[new]
        return found

    n_txns, n_deliveries, n_writes = len(txn_keys), len(delivery_keys), len(w_txn)
    syncing: Bools = np.zeros(n_deliveries, dtype=np.bool_)
    for line, one in zip(timelines, maps, strict=True):
        syncing[one.delivery[line.d_syncing]] = True
    write_of = np.full(n_txns, -1, dtype=np.int64)
    written = np.flatnonzero(w_txn >= 0)
    write_of[w_txn[written][::-1]] = written[::-1]
    leader_of = np.full(len(peers), -1, dtype=np.int32)
    pings: list[tuple[Ints, Ints]] = [(np.empty(0, np.int64), np.empty(0, np.int64)) for _ in peers]
    for line, one, clock in zip(timelines, maps, clocks, strict=True):
        leader_of[one.peer] = line.leader_of
        for place, (when, took) in zip(one.peer.tolist(), line.pings, strict=True):
            before = pings[place][1]
            # Nearer the leader round trips are longer, and whole.
            if len(took) and (not len(before) or np.median(took) > np.median(before)):
                pings[place] = (when - clock.offset_ns, took)

    owners = [_owners(writes, n_writes), _owners(txns, n_txns)]

    def path_of(write: int, txn: int) -> str | None:
        point, own = owners[write < 0]
        place = write if write >= 0 else txn
        line, local = timelines[int(point[place])], int(own[place])
        return line.path_of(local, -1) if write >= 0 else line.path_of(-1, local)

    asked = both(lambda t: t.asked, n_txns)
    forward = both(lambda t: t.forward, n_writes)
    # The REQUEST may have been seen where the client was not.
    elsewhere = asked.take(w_txn)
    early = (elsewhere.sent != NONE) & ((forward.sent == NONE) | (elsewhere.sent < forward.sent))
    forward.sent[early] = elsewhere.sent[early]
    forward.received = np.maximum(forward.received, elsewhere.received)
    return Timeline(
        peers=peers,
        leader_of=leader_of,
        zxid=txn_keys[:, 0],
        session=txn_keys[:, 1],
        cxid=txn_keys[:, 2],
        type=known("type", txns, n_txns, -1).astype(np.int32),
        leader=known("leader", txns, n_txns, -1).astype(np.int32),
        asked=asked,
        asked_peer=askers,
        d_peer=delivery_keys[:, 0],
        d_zxid=delivery_keys[:, 1],
        d_txn=d_txn,
        d_syncing=syncing,
        d_seen=(
            both(lambda t: t.deliveries[PROPOSAL], n_deliveries),
            both(lambda t: t.deliveries[ACK], n_deliveries),
            both(lambda t: t.deliveries[COMMIT], n_deliveries),
        ),
        txn=w_txn,
        write=write_of,
        request=both(lambda t: t.request, n_writes),
        reply=both(lambda t: t.reply, n_writes),
        forward=forward,
        forward_peer=homes,
        w_session=known("w_session", writes, n_writes),
        w_cxid=known("w_cxid", writes, n_writes),
        w_zxid=known("w_zxid", writes, n_writes),
        w_error=known("w_error", writes, n_writes),
        w_op=known("w_op", writes, n_writes, -1).astype(np.int32),
        w_server=known("w_server", writes, n_writes, -1).astype(np.int32),
        w_client=known("w_client", writes, n_writes, -1).astype(np.int32),
        w_conn=known("w_conn", writes, n_writes, -1),
        w_seq=known("w_seq", writes, n_writes, -1),
        w_ts=both(lambda t: t.captured, n_writes).sent,
        pings=pings,
        path_of=path_of,
    )


def _owners(places: Sequence[Ints], count: int) -> tuple[Ints, Ints]:
    """Of each place the first capture that has it, and where."""
    point = np.full(count, -1, dtype=np.int64)
    own = point.copy()
    for number, place in enumerate(places):
        new = point[place] < 0
        point[place[new]] = number
        own[place[new]] = np.flatnonzero(new)
    return point, own
