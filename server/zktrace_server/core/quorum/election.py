"""Fast leader election (FastLeaderElection; electionAlg 3) as a machine: notifications and time in,
notifications out, and in the end a leader.

It lives as long as the server: when it is not looking itself it tells those who are. Rounds are
what Java calls the logical clock. It knows neither connections nor where a peer is. Who votes is up
to the `Membership`, which may change at any time; then `look` again, or `designate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from zktrace.wire import zxid as zxids
from zktrace.wire.election import NO_VOTE, Notification
from zktrace_server.core.quorum.membership import Membership

#: Version of notifications that carry the configuration (FastLeaderElection.Notification).
VERSION: Final = 2
#: How long the winning vote has to stand unbeaten (finalizeWait), in ms.
FINALIZE_MS: Final = 200
#: When notifications are sent again: first after, and at most after, ms
#: (minNotificationInterval, maxNotificationInterval).
LEAST_INTERVAL_MS: Final = 200
MOST_INTERVAL_MS: Final = 60_000


class State(IntEnum):
    """A peer's state, as notifications have it (QuorumPeer.ServerState)."""

    LOOKING = 0
    FOLLOWING = 1
    LEADING = 2
    OBSERVING = 3


@dataclass(frozen=True, slots=True)
class Vote:
    """For `leader`, whose last txn is `zxid` and whose epoch is `peer_epoch`, in a round."""

    leader: int
    zxid: int
    round: int
    peer_epoch: int

    def better_than(self, other: Vote) -> bool:
        """By epoch, then zxid, then sid (totalOrderPredicate, weights apart)."""
        return (self.peer_epoch, self.zxid, self.leader) > (
            other.peer_epoch,
            other.zxid,
            other.leader,
        )


@dataclass(frozen=True, slots=True)
class _Seen:
    """Somebody's vote, with the state they were in, and the version of the notification."""

    vote: Vote
    state: State
    version: int


class Election:
    """`out` holds (sid, notification) to be sent; where one to the same peer is still waiting to be
    sent, only the latest matters. `vote` is what is told to others while `state` is not LOOKING.
    """

    def __init__(self, sid: int, membership: Membership) -> None:
        self.sid = sid
        self.state = State.LOOKING
        self.round = 0
        self.vote = Vote(sid, 0, 0, 0)
        self.out: list[tuple[int, Notification]] = []
        #: Whether it stands for election though only a proposed configuration has it (`look`).
        self.standing = False
        self._membership = membership
        self._initial = self.vote
        self._proposed = self.vote
        self._received: dict[int, Vote] = {}
        self._outside: dict[int, _Seen] = {}
        self._inside: dict[int, _Seen] = {}
        self._withdrawn: set[int] = set()
        self._interval = LEAST_INTERVAL_MS
        self._again_at: int | None = None
        self._decide_at: int | None = None

    @property
    def leader(self) -> int:
        """Who was elected; of use while `state` is not LOOKING."""
        return self.vote.leader

    def deadline(self) -> int | None:
        """When `tick` is to be called next, by the clock that only goes forward."""
        again, decide = self._again_at, self._decide_at
        if again is None or decide is None:
            return again if decide is None else decide
        return min(again, decide)

    @property
    def _counts(self) -> bool:
        """Whether this server's own vote does: as a participant of either configuration."""
        return self._membership.votes(self.sid)

    # --- beginning ----------------------------------------------------------------------------

    def look(self, now_ms: int, zxid: int, epoch: int, *, stand: bool = False) -> None:
        """A new round (lookForLeader): `zxid` is that of the last txn in the log, `epoch` the
        current one. `stand`: for election, too, where this server is a participant only of a
        configuration that was proposed. In Java it does not; but if it has more in its log than all
        participants of the committed one, none of them can lead it, and it has to lead them.
        """
        self.state = State.LOOKING
        self.round += 1
        usual = self._membership.committed.votes(self.sid)
        self.standing = stand and self._counts and not usual
        if usual or self.standing:
            self._initial = Vote(self.sid, zxid, 0, epoch)
        else:
            self._initial = Vote(NO_VOTE, NO_VOTE, 0, NO_VOTE)
        self.vote = self._initial
        self._received.clear()
        self._withdrawn.clear()
        self._inside.clear()
        self._outside.clear()
        self._interval = LEAST_INTERVAL_MS
        self._decide_at = None
        self._propose(now_ms, self._initial)

    def stand_down(self, now_ms: int) -> None:
        """It stood only where it had to, and nothing came of that: some whose votes are needed may
        never have heard of it. The others go on without it, in the same round.
        """
        if self.state is not State.LOOKING or not self.standing:
            return
        self.standing = False
        self._initial = Vote(NO_VOTE, NO_VOTE, 0, NO_VOTE)
        self._received.pop(self.sid, None)
        self._withdraws(now_ms, self.sid)

    def _propose(self, now_ms: int, vote: Vote) -> None:
        """This is our vote now; everybody is told."""
        self._proposed = Vote(vote.leader, vote.zxid, self.round, vote.peer_epoch)
        self._decide_at = None
        if self._counts:
            self._received[self.sid] = self._proposed
        self._send_all(now_ms)
        self._count(now_ms)

    def _send_all(self, now_ms: int) -> None:
        for sid in self._membership.voters:
            if sid != self.sid:
                self._send(sid, self._proposed)
        self._again_at = now_ms + self._interval

    def _send(self, sid: int, vote: Vote, round_: int | None = None) -> None:
        self.out.append(
            (
                sid,
                Notification(
                    int(self.state),
                    vote.leader,
                    vote.zxid,
                    vote.round if round_ is None else round_,
                    vote.peer_epoch,
                    VERSION,
                    self._membership.committed.text(),
                ),
            )
        )

    # --- what happens -------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Time has passed."""
        if self.state is not State.LOOKING:
            return
        if self._decide_at is not None and now_ms >= self._decide_at:
            self._decide(self._proposed)
            return
        if self._again_at is not None and now_ms >= self._again_at:
            self._interval = min(self._interval * 2, MOST_INTERVAL_MS)
            self._send_all(now_ms)

    def connected(self, sid: int) -> None:
        """A connection to a peer is there: what it was told last may be lost (QuorumCnxManager
        sends its last message again).
        """
        if (
            self.state is State.LOOKING
            and self._again_at is not None
            and self._membership.votes(sid)
        ):
            self._send(sid, self._proposed)

    def receive(self, now_ms: int, sid: int, given: Notification) -> None:
        """A notification of peer `sid`. What makes no sense is ignored."""
        if given.state not in State._value2member_map_:
            return
        state = State(given.state)
        if not self._membership.votes(sid):
            # An observer, or somebody we do not know: it is told how things are. Not where it would
            # only say the same again, since its round is later.
            if self.state is not State.LOOKING or given.election_epoch <= self.round:
                self._send(sid, self.vote, self.round)
            return
        vote = Vote(given.leader, given.zxid, given.election_epoch, _peer_epoch(given))
        if self.state is not State.LOOKING:
            if state is State.LOOKING:
                self._send(sid, self.vote)
            return
        if state is State.LOOKING and vote.round < self.round:
            if self._proposed.leader != NO_VOTE or not self._membership.votes(vote.leader):
                if self._counts:
                    self._send(sid, self._proposed)
                return
            # Who stands for nothing has no round that others would hear of: it joins theirs.
            self.round = vote.round
            self._received.clear()
        if not self._membership.votes(vote.leader):
            if state is State.LOOKING and vote.round == self.round:
                self._withdraws(now_ms, sid)
            return
        if state is State.LOOKING:
            self._looking(now_ms, sid, vote)
        elif state is not State.OBSERVING:
            self._settled(sid, _Seen(vote, state, given.version or 0))

    def _looking(self, now_ms: int, sid: int, vote: Vote) -> None:
        """Somebody else looks, too."""
        if vote.zxid == -1:
            return
        if vote.leader == sid:
            self._withdrawn.discard(sid)
        if vote.round > self.round:
            # Begun anew: who leads by it is asked soon, whatever came of the rounds before.
            self._interval = LEAST_INTERVAL_MS
            self.round = vote.round
            self._received.clear()
            self._withdrawn.clear()
            self._received[sid] = vote
            self._propose(now_ms, vote if self._beats(vote, self._initial) else self._initial)
            return
        self._received[sid] = vote
        if self._beats(vote, self._proposed):
            self._propose(now_ms, vote)
        elif self._stood_down(self._proposed):
            self._propose(now_ms, self._best())
        else:
            self._count(now_ms)

    def _withdraws(self, now_ms: int, sid: int) -> None:
        """It votes for a participant of a configuration that was not seen here, so it will not lead
        in this round: who would elect it nevertheless would wait for it in vain.
        """
        self._withdrawn.add(sid)
        self._received.pop(sid, None)
        if self._proposed.leader == sid:
            self._propose(now_ms, self._best())

    def _best(self) -> Vote:
        """Of our own and of what was received."""
        best = self._initial
        for vote in self._received.values():
            if self._beats(vote, best):
                best = vote
        return best

    def _stood_down(self, vote: Vote) -> bool:
        """Whether the vote is for somebody who votes for less than that: it would not lead. A vote
        only ever changes to a better one, but for one who stood and does so no longer
        (`stand_down`), or has lost what was not on its disk when it crashed.
        """
        own = self._received.get(vote.leader)
        return own is not None and own.leader != vote.leader and vote.better_than(own)

    def _beats(self, vote: Vote, other: Vote) -> bool:
        if vote.leader in self._withdrawn or self._stood_down(vote):
            return False
        return self._membership.committed.weight(vote.leader) > 0 and vote.better_than(other)

    def _count(self, now_ms: int) -> None:
        """Whether our vote has a quorum. Then it stands when nothing better comes for a while; at
        once if there is nobody left whom something better could come from.
        """
        agreeing = [sid for sid, vote in self._received.items() if vote == self._proposed]
        if not self._membership.votes(self._proposed.leader) or not self._membership.has_quorum(
            agreeing
        ):
            self._decide_at = None
        elif len(agreeing) == len(self._membership.voters):
            self._decide(self._proposed)
        elif self._decide_at is None:
            self._decide_at = now_ms + FINALIZE_MS

    def _settled(self, sid: int, seen: _Seen) -> None:
        """Somebody has a leader (receivedFollowingNotification)."""
        vote = seen.vote
        if vote.round == self.round:
            self._inside[sid] = seen
            counted = {**self._inside, **self._as_seen()}
            if self._agreed(counted, seen) and self._leads(counted, vote):
                self._decide(vote)
                return
        self._outside[sid] = seen
        if self._agreed(self._outside, seen) and self._leads(self._outside, vote):
            self.round = vote.round
            self._decide(vote)

    def _as_seen(self) -> dict[int, _Seen]:
        """Votes of this round of those who still look."""
        return {
            sid: _Seen(vote, State.LOOKING, VERSION)
            for sid, vote in self._received.items()
            if sid not in self._inside
        }

    def _agreed(self, votes: dict[int, _Seen], seen: _Seen) -> bool:
        """By one configuration: to follow who leads already does no harm, and what was proposed
        here may never have been committed. That leader needs its quorums nevertheless.
        """
        same = [sid for sid, other in votes.items() if _same(seen, other)]
        return any(one.has_quorum(same) for one in self._membership.quorums)

    def _leads(self, votes: dict[int, _Seen], vote: Vote) -> bool:
        """Whether the leader says so itself (checkLeader): else a crashed one would be elected."""
        if vote.leader == self.sid:
            return vote.round == self.round
        told = votes.get(vote.leader)
        return told is not None and told.state is State.LEADING

    def _decide(self, vote: Vote) -> None:
        self.vote = Vote(vote.leader, vote.zxid, vote.round, vote.peer_epoch)
        if vote.leader == self.sid:
            self.state = State.LEADING
        else:
            # Who is not named at all follows, and its ACKs do not count.
            observes = self._membership.committed.observes(self.sid)
            self.state = State.OBSERVING if observes else State.FOLLOWING
        self._again_at = self._decide_at = None
        self._received.clear()
        self._inside.clear()
        self._outside.clear()

    def designate(self, leader: int, zxid: int) -> None:
        """No election: who leads is what the last leader said (QuorumPeer.updateVote)."""
        self._decide(Vote(leader, zxid, self.round, -1))

    def lead_in(self, epoch: int) -> None:
        """The leader's epoch is known: all tell the same (QuorumPeer.updateElectionVote)."""
        self.vote = Vote(self.vote.leader, self.vote.zxid, self.vote.round, epoch)


def _peer_epoch(given: Notification) -> int:
    """Oldest notifications do not carry it: then it is that of the zxid."""
    return zxids.epoch(given.zxid) if given.peer_epoch is None else given.peer_epoch


def _same(one: _Seen, other: _Seen) -> bool:
    """Vote.equals: between peers that have a leader, its zxid and the round say nothing
    (ZOOKEEPER-1732), and epochs nothing if one of them is of an old release.
    """
    a, b = one.vote, other.vote
    if State.LOOKING in (one.state, other.state):
        return a == b
    if (one.version > 0) != (other.version > 0):
        return a.leader == b.leader
    return a.leader == b.leader and a.peer_epoch == b.peer_epoch
