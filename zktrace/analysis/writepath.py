"""The way of a write through the ensemble: stages that add up, who made the quorum, what took long.

A client's write is sent to the leader by the client's server (REQUEST), the leader proposes it to
each follower, commits when a quorum has logged it, tells followers and observers, and the
client's server answers (Leader.propose, Leader.processAck, Leader.tryToCommit; protocol
reference, section 7.3). The six moments of :data:`MOMENTS` cut the client's latency into stages;
a moment that was not seen is left out and its stages are one, so that stages always add up.

**Quorum.** The leader counts itself when its own disk has the txn; that is not on the wire. With n
voters a quorum is n // 2 + 1, so with the leader it takes one follower less: the moment `quorum`
is the ACK of that follower, the earliest moment at which the quorum can have been complete. What
comes between it and the COMMIT is the leader's: its own disk, txns before it (commits are in
order), its queues. So a slow disk of the leader is there, and never in a follower's ACK. How many
voters there are the quorum port does not say: :func:`quorums` bounds it by what was seen.

**Network.** An ACK's time is the follower's disk, the network both ways, and queues. PINGs, which
no disk delays, tell the network's part where one capture must do; two captures tell it exactly.

Must not know captures or output. Arrays, no loop over events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from zktrace.analysis.columns import NONE, Bools, Codes, Ints, Words, grouped
from zktrace.analysis.config import Config, parse_config
from zktrace.analysis.join import FOLLOWER, Peer
from zktrace.analysis.timeline import ACK, COMMIT, PROPOSAL, Seen, Timeline, at

#: The moments of a write, in order.
MOMENTS: Final = ("request", "forward", "proposal", "quorum", "commit", "reply")
REQUEST, FORWARD, PROPOSED, QUORUM, COMMITTED, REPLY = range(6)

#: Where the client's server stands to the leader.
UNKNOWN, LEADER, LEARNER = range(3)
ROLES: Final = (None, "leader", "learner")

#: Where a write comes from: a client that was seen; a learner, whose client was not; the leader
#: itself (a session that expired, a container or TTL node to reap); not known.
CLIENT, OF_LEARNER, OF_LEADER, OF_UNKNOWN = range(4)
ORIGINS: Final = ("client", "learner", "leader", None)

#: Round trips of PINGs that make one estimate, and how far off in time they may be.
_PING_WINDOW: Final = 5
_PING_NEAR_NS: Final = 5_000_000_000

_FAR: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Quorum:
    """What is known of the quorum of one leader's epoch."""

    leader: str
    epoch: int
    followers: int
    """Most followers that one txn was proposed to."""
    least_acks: int | None
    """Fewest ACKs that were seen before a commit."""
    needed: int | None
    """Votes of a quorum, the leader's included; None: the ACKs seen are not all there were."""
    how: str | None
    """config: a NEWLEADER told who votes. seen: no other number fits. given: by the user.
    groups: groups or weights decide, no number of votes (QuorumHierarchical).
    assumed: as many voters as were seen, or the connection of one learner only, which others may
    have been beside.
    """
    txns: int


@dataclass(slots=True)
class Paths:
    """The ways of writes: first those of :class:`Timeline`'s writes, then txns without one."""

    write: Ints
    """Place in the writes, -1 for a txn whose client was not seen."""
    txn: Ints
    peer: Ints
    """The learner connection of the client's server, -1: none, or not known."""
    role: Codes
    origin: Codes
    moments: Seen
    """A row per path, a column per moment."""
    needed: Ints
    """Votes of a quorum, 0 where it is not known."""
    acks: Ints
    """ACKs before the commit."""
    acker: Ints
    """The delivery whose ACK is the moment `quorum`."""
    network: Ints
    """Of each delivery's time from PROPOSAL to ACK: the network's, as far as known."""
    exact: Bools
    """Of each delivery: that was measured at both ends, not estimated from PINGs."""
    behind: Ints
    """Of the stage before the commit: time until the txn before was committed."""
    reordered: Ints
    """How many moments were out of order and put right."""
    quorums: list[Quorum]


def paths(timeline: Timeline, addresses: Words, ops: Words, voters: int | None = None) -> Paths:
    """The paths of all writes. `voters`: how many there are, where the user knows."""
    n = len(timeline.zxid)
    acks = _acks(timeline)
    commit = _first(timeline, COMMIT)
    found = quorums(timeline, acks, commit, addresses, voters)
    needed, acker, before = _made(timeline, acks, commit, found, ops)
    proposed = _first(timeline, PROPOSAL)

    # What was seen only while a learner was brought up to date went its way before.
    went = (proposed != NONE) | (commit != NONE) | (timeline.asked.sent != NONE)
    alone = np.flatnonzero((timeline.write < 0) & went)
    write = np.concatenate((np.arange(len(timeline.txn)), np.full(len(alone), -1)))
    txn = np.concatenate((timeline.txn, alone))
    k = len(write)
    peer, role = _servers(timeline, write, txn, addresses)
    moments = [Seen(np.full(k, NONE), np.full(k, NONE)) for _ in MOMENTS]

    def put(moment: int, seen: Seen, places: Ints) -> None:
        taken = seen.take(places)
        moments[moment].sent, moments[moment].received = taken.sent, taken.received

    put(REQUEST, timeline.request, write)
    put(REPLY, timeline.reply, write)
    forward = timeline.forward.take(write)
    asked = timeline.asked.take(np.where(write < 0, txn, -1))
    moments[FORWARD] = Seen(
        np.maximum(forward.sent, asked.sent), np.maximum(forward.received, asked.received)
    )
    put(PROPOSED, Seen(proposed, proposed), txn)
    by = at(acker, txn)
    by[by == NONE] = -1
    put(QUORUM, timeline.d_seen[ACK], by)
    own = timeline.delivery(peer, at(timeline.zxid, txn)) if n else np.full(k, -1)
    told = timeline.d_seen[COMMIT].take(own)
    anyone = at(commit, txn)
    # The server of an unknown place is told by a message that cannot be named; the leader's
    # decision was seen all the same.
    told.sent = np.where(told.sent == NONE, anyone, told.sent)
    told.received = np.where(told.received == NONE, anyone, told.received)
    moments[COMMITTED] = told
    # A commit that the quorum's ACK comes after was made by others.
    late = (moments[QUORUM].received > told.sent) & (told.sent != NONE)
    moments[QUORUM].sent[late] = moments[QUORUM].received[late] = NONE
    by[late] = -1

    sent = np.column_stack([moment.sent for moment in moments])
    received = np.column_stack([moment.received for moment in moments])
    reordered = _in_order(sent, received)
    # A write none of whose times is certain is told of at the time at which it was captured.
    blank = np.flatnonzero((write >= 0) & (sent == NONE).all(axis=1))
    sent[blank, REQUEST] = received[blank, REQUEST] = timeline.w_ts[write[blank]]
    network, exact = _network(timeline)
    return Paths(
        write=write,
        txn=txn,
        peer=peer,
        role=role,
        origin=_origins(timeline, write, txn, ops),
        moments=Seen(sent, received),
        needed=np.where(txn >= 0, needed[txn] if n else 0, 0),
        acks=np.where(txn >= 0, before[txn] if n else 0, 0),
        acker=by,
        network=network,
        exact=exact,
        behind=_behind(timeline, commit, txn, sent, received),
        reordered=reordered,
        quorums=found,
    )


# ---- the quorum


@dataclass(frozen=True, slots=True)
class _Acks:
    """ACKs of broadcasts, by txn, the earliest first."""

    delivery: Ints
    start: Ints
    """Of each txn: where its ACKs begin; one more at the end."""
    proposals: Ints
    """Of each txn: how many followers it was proposed to."""


def _live(timeline: Timeline) -> Bools:
    """Deliveries of the broadcast, by the leader that sent the txn first. What a new leader sends
    again and what brings a learner up to date is none of a write's way.
    """
    known = (timeline.d_txn >= 0) & ~timeline.d_syncing
    if len(timeline.zxid) and len(timeline.peers):
        known &= timeline.leader_of[timeline.d_peer] == timeline.leader[timeline.d_txn]
    return known


def _acks(timeline: Timeline) -> _Acks:
    n = len(timeline.zxid)
    follows = np.array([_votes(peer) for peer in timeline.peers], dtype=np.bool_)
    live = _live(timeline)
    if len(follows):
        live &= follows[timeline.d_peer]
    times = timeline.d_seen[ACK].received
    rows = np.flatnonzero(live & (times != NONE))
    rows = rows[np.lexsort((times[rows], timeline.d_txn[rows]))]
    start = np.searchsorted(timeline.d_txn[rows], np.arange(n + 1))
    proposed = live & (timeline.d_seen[PROPOSAL].sent != NONE)
    proposals = np.bincount(timeline.d_txn[proposed], minlength=n)
    return _Acks(rows, start, proposals)


def _first(timeline: Timeline, kind: int) -> Ints:
    """When the leader first sent anyone a message of a txn."""
    times = timeline.d_seen[kind].sent
    rows = np.flatnonzero(_live(timeline) & (times != NONE))
    rows = rows[np.argsort(timeline.d_txn[rows], kind="stable")]
    first = np.full(len(timeline.zxid), NONE, dtype=np.int64)
    if len(rows):
        txns = timeline.d_txn[rows]
        starts = np.flatnonzero(np.concatenate(([True], txns[1:] != txns[:-1])))
        first[txns[starts]] = np.minimum.reduceat(times[rows], starts)
    return first


def _before(timeline: Timeline, acks: _Acks, commit: Ints) -> Ints:
    """How many ACKs came before the first commit of each txn."""
    times = timeline.d_seen[ACK].received[acks.delivery]
    txns = timeline.d_txn[acks.delivery]
    early = (times <= commit[txns]) if len(commit) else times < 0
    return np.bincount(txns[early], minlength=len(commit))


def quorums(
    timeline: Timeline, acks: _Acks, commit: Ints, addresses: Words, voters: int | None
) -> list[Quorum]:
    """What was seen of the quorum of each leader's epoch.

    A txn proposed to f followers has f + 1 voters or more; a commit after k ACKs needed k + 1 votes
    or fewer. Commits that fewer ACKs preceded than a quorum of the voters seen has, say that some
    ACKs were not captured: then nothing is known.
    """
    n = len(timeline.zxid)
    if not n:
        return []
    reigns, which = _reigns(timeline)
    before = _before(timeline, acks, commit)
    answered = np.diff(acks.start)
    # Where an ACK was lost the count before the commit may be too low.
    whole = (commit != NONE) & (acks.proposals > 0) & (answered >= acks.proposals)
    followers = np.zeros(len(reigns), dtype=np.int64)
    np.maximum.at(followers, which, acks.proposals)
    least = np.full(len(reigns), _FAR)
    np.minimum.at(least, which[whole], before[whole])
    counts = np.bincount(which, minlength=len(reigns))
    found = []
    for at_, (leader, number) in enumerate(reigns):
        low = (int(followers[at_]) + 1) // 2 + 1
        fewest = None if least[at_] == _FAR else int(least[at_])
        needed: int | None = low
        # Beside the leader all learners are seen, beside a learner itself only.
        several = int((timeline.leader_of == leader).sum()) > 1
        proven = several and fewest is not None and fewest + 1 == low
        how: str | None = "seen" if proven else "assumed"
        config = _config(timeline, leader, number)
        if voters is not None:
            needed, how = voters // 2 + 1, "given"
        elif config is not None and not config.simple:
            needed, how = None, "groups"
        elif config is not None:
            needed, how = len(config.voters) // 2 + 1, "config"
        elif followers[at_] == 0 or (fewest is not None and fewest + 1 < low):
            needed, how = None, None
        found.append(
            Quorum(
                leader=addresses.word(leader) or "",
                epoch=number,
                followers=int(followers[at_]),
                least_acks=fewest,
                needed=needed,
                how=how,
                txns=int(counts[at_]),
            )
        )
    return found


def _config(timeline: Timeline, leader: int, number: int) -> Config | None:
    """The configuration that a leader's NEWLEADER told; None where it was not seen, or changed."""
    texts = {
        peer.config
        for peer, own in zip(timeline.peers, timeline.leader_of.tolist(), strict=True)
        if own == leader and peer.epoch == number and peer.config
    }
    return parse_config(texts.pop()) if len(texts) == 1 else None


def _votes(peer: Peer) -> bool:
    """Whether a learner's ACKs count: a follower's, unless the configuration that it was told does
    not have it among those who vote (it joined before a reconfig that adds it).
    """
    config = parse_config(peer.config) if peer.config else None
    return peer.role == FOLLOWER and (
        config is None or peer.sid is None or peer.sid in config.voters
    )


def _reigns(timeline: Timeline) -> tuple[list[tuple[int, ...]], Ints]:
    """Leaders with their epochs, and which one each txn is of."""
    # As an unsigned number; a made-up epoch may take all 32 bits.
    return grouped(timeline.leader, timeline.zxid >> 32 & 0xFFFFFFFF)


def _made(
    timeline: Timeline, acks: _Acks, commit: Ints, found: list[Quorum], ops: Words
) -> tuple[Ints, Ints, Ints]:
    """Of each txn: votes of a quorum (0: not known), the delivery whose ACK made it with the
    leader's own, ACKs before the commit.
    """
    n = len(timeline.zxid)
    needed = np.zeros(n, dtype=np.int64)
    if n:
        _, which = _reigns(timeline)
        needed = np.array([q.needed or 0 for q in found], dtype=np.int64)[which]
        # From a reconfig on others may vote (Leader.propose, setLastSeenQuorumVerifier).
        given = np.array([q.how == "given" for q in found])[which]
        changed = np.full(len(found), _FAR)
        rows = np.flatnonzero(timeline.type == ops.code("reconfig"))
        np.minimum.at(changed, which[rows], timeline.zxid[rows])
        needed[~given & (timeline.zxid >= changed[which])] = 0
    # The leader's vote and so many ACKs.
    place = acks.start[:-1] + needed - 2
    fits = (needed >= 2) & (place < acks.start[1:])
    acker = np.full(n, -1, dtype=np.int64)
    acker[fits] = acks.delivery[place[fits]]
    return needed, acker, _before(timeline, acks, commit)


# ---- the client's server


def _servers(timeline: Timeline, write: Ints, txn: Ints, addresses: Words) -> tuple[Ints, Codes]:
    """The learner connection of each path's server, and where the server stands to the leader.

    A REQUEST says both. Where none was seen, what others of the same server said, then addresses:
    the leader's own clients use the leader's address, where no learner is known to have it.
    """
    forwarded = np.where(write >= 0, at(timeline.forward_peer, write), at(timeline.asked_peer, txn))
    peer = np.where(forwarded == NONE, -1, forwarded)
    role = np.where(peer >= 0, LEARNER, UNKNOWN).astype(np.int32)
    if not len(timeline.zxid):
        return peer, role
    seen = (write >= 0) & (txn >= 0)
    server = at(timeline.w_server.astype(np.int64), write)
    leader = np.where(txn >= 0, timeline.leader[txn], -1)
    homes: dict[tuple[int, int], set[int]] = {}
    sure = np.flatnonzero(seen & (peer >= 0))
    if len(sure):
        triples, _ = grouped(server[sure], leader[sure], peer[sure])
        for one, other, home in triples:
            homes.setdefault((one, other), set()).add(home)
    unsure = np.flatnonzero(seen & (peer < 0))
    if not len(unsure):
        return peer, role
    pairs, which = grouped(server[unsure], leader[unsure])
    for number, (one, other) in enumerate(pairs):
        mine = unsure[which == number]
        known = homes.get((one, other)) or _by_address(timeline, one, other, addresses)
        if known:
            role[mine] = LEARNER
            for home in sorted(known):
                there = timeline.delivery(np.full(len(mine), home), timeline.zxid[txn[mine]]) >= 0
                peer[mine[there]] = home
        elif _ip(addresses.word(one)) == _ip(addresses.word(other)):
            role[mine] = LEADER
        elif any(_ip(addresses.word(x)) == _ip(addresses.word(one)) for x in _leaders(timeline)):
            # It has been a leader, which this one is not: a learner.
            role[mine] = LEARNER
    return peer, role


def _by_address(timeline: Timeline, server: int, leader: int, addresses: Words) -> set[int]:
    """Connections of learners with a server's address, unless others share it."""
    ip = _ip(addresses.word(server))
    if ip == _ip(addresses.word(leader)):
        return set()
    same = [
        (number, peer)
        for number, peer in enumerate(timeline.peers)
        if timeline.leader_of[number] == leader and _ip(peer.learner) == ip
    ]
    sids = {peer.sid for _, peer in same}
    return {number for number, _ in same} if len(same) == 1 or (len(sids) == 1) else set()


def _leaders(timeline: Timeline) -> list[int]:
    found: list[int] = np.unique(timeline.leader_of).tolist()
    return found


def _ip(address: str | None) -> str:
    return (address or "").rpartition(":")[0]


def _origins(timeline: Timeline, write: Ints, txn: Ints, ops: Words) -> Codes:
    origin = np.where(write >= 0, CLIENT, OF_UNKNOWN).astype(np.int32)
    bare = np.flatnonzero(write < 0)
    txns = txn[bare]
    origin[bare[timeline.asked.sent[txns] != NONE]] = OF_LEARNER
    # The leader's own requests have cxid 0: to close a session that expired
    # (LeaderZooKeeperServer's SessionTracker), and, without a session, to reap (ContainerManager).
    own = (timeline.cxid[txns] == 0) & (
        (timeline.type[txns] == ops.code("closeSession")) | (timeline.session[txns] == 0)
    )
    origin[bare[own]] = OF_LEADER
    return origin


# ---- times


def _in_order(sent: Ints, received: Ints) -> Ints:
    """Moves moments so that none is before the one before it, nor after the reply. Packets that
    were captured out of order are off by microseconds; a sum of stages must not be.
    """
    moved = np.zeros(len(sent), dtype=np.int64)
    last = np.where(received[:, REPLY] == NONE, _FAR, received[:, REPLY])
    floor = np.full(len(sent), NONE, dtype=np.int64)
    for moment in range(len(MOMENTS)):
        for times in (sent, received):
            column = times[:, moment]
            known = column != NONE
            right = np.minimum(np.maximum(column, floor), last)
            moved += known & (right != column)
            times[:, moment] = np.where(known, right, NONE)
            floor = np.where(known, right, floor)
    return moved


def _network(timeline: Timeline) -> tuple[Ints, Bools]:
    """The network's part of each delivery's ACK: what two captures saw, else what PINGs took about
    that time.
    """
    proposal, ack = timeline.d_seen[PROPOSAL], timeline.d_seen[ACK]
    whole = (proposal.sent != NONE) & (ack.sent != NONE)
    both = whole & (proposal.received > proposal.sent) & (ack.received > ack.sent)
    exact = (proposal.received - proposal.sent) + (ack.received - ack.sent)
    network = np.where(both, exact, NONE)
    edges = np.searchsorted(timeline.d_peer, np.arange(len(timeline.pings) + 1)).tolist()
    for number, (when, took) in enumerate(timeline.pings):
        mine = np.arange(edges[number], edges[number + 1])
        mine = mine[whole[mine] & ~both[mine]]
        if len(mine) and len(when):
            estimate = round_trip(when, took, proposal.sent[mine])
            # An ACK that was quicker than any PING about then says that PINGs waited elsewhere.
            fits = estimate <= ack.received[mine] - proposal.sent[mine]
            network[mine] = np.where(fits, estimate, NONE)
    return network, both


def round_trip(when: Ints, took: Ints, times: Ints) -> Ints:
    """What PINGs took about a time, NONE where none is near: the quickest of those around it. The
    others waited, too, for a pause of the process, say; the network is what all of them took.
    """
    width = min(_PING_WINDOW, len(took))
    least = np.lib.stride_tricks.sliding_window_view(took, width).min(axis=1)
    centres = when[width // 2 : width // 2 + len(least)]
    right = np.minimum(np.searchsorted(centres, times), len(centres) - 1)
    left = np.maximum(right - 1, 0)
    nearer = np.where(np.abs(centres[left] - times) <= np.abs(centres[right] - times), left, right)
    near = np.abs(centres[nearer] - times) <= _PING_NEAR_NS
    found: Ints = np.where(near, least[nearer], NONE)
    return found


def _behind(timeline: Timeline, commit: Ints, txn: Ints, sent: Ints, received: Ints) -> Ints:
    """Commits are in order: how long each path waited for that of the txn before it."""
    if not len(commit):
        return np.zeros(len(txn), dtype=np.int64)
    follows = np.zeros(len(commit), dtype=np.bool_)
    follows[1:] = (timeline.zxid[1:] == timeline.zxid[:-1] + 1) & (
        timeline.leader[1:] == timeline.leader[:-1]
    )
    earlier = np.where(follows, np.roll(commit, 1), NONE)
    until = np.minimum(at(earlier, txn), sent[:, COMMITTED])
    start = received[:, QUORUM]
    known = (start != NONE) & (until != NONE) & (sent[:, COMMITTED] != NONE)
    return np.where(known, np.maximum(until - start, 0), 0)


#: Stages by the moments between which they are; what a stage is called where one moment between
#: was not seen is made of both.
STAGES: Final[Mapping[tuple[int, int], str]] = {
    (REQUEST, FORWARD): "server",
    (FORWARD, PROPOSED): "leader",
    (PROPOSED, QUORUM): "quorum",
    (QUORUM, COMMITTED): "commit",
    (COMMITTED, REPLY): "reply",
}


def stage_name(begin: int, end: int, role: int) -> str:
    """What the time between two moments is called; ``a..b`` where moments between were not seen."""
    if (begin, end) == (REQUEST, PROPOSED) and role == LEADER:
        return "leader"  # its own client: there is nothing to forward
    return STAGES.get((begin, end)) or f"{MOMENTS[begin]}..{MOMENTS[end]}"
