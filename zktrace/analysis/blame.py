"""What the time of writes was spent on, and at whom: the parts of their stages.

A stage is one place's or, where two things cannot be told apart on the wire, says so. Parts add up
to the stages, stages to the latency. Works on :class:`~zktrace.analysis.writepath.Paths`, all
writes at once. Must not know output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from zktrace.analysis.columns import NONE, Bools, Ints
from zktrace.analysis.timeline import PROPOSAL, Timeline, at
from zktrace.analysis.writepath import (
    COMMITTED,
    FORWARD,
    LEADER,
    MOMENTS,
    OF_LEADER,
    PROPOSED,
    QUORUM,
    REPLY,
    REQUEST,
    Paths,
    stage_name,
)

#: What time can be spent on, with the stage that it is a part of (None: between two capture
#: points) and whose it is.
PARTS: Final[tuple[tuple[str, str | None, str], ...]] = (
    ("client_network", None, "server"),
    ("server", "server", "server"),
    ("forward_network", None, "server"),
    ("leader", "leader", "leader"),
    ("send", "quorum", "leader"),
    ("network", "quorum", "follower"),
    ("follower", "quorum", "follower"),
    ("ack", "quorum", "follower"),
    ("order", "commit", "leader"),
    ("leader_ack", "commit", "leader"),
    ("commit_network", None, "server"),
    ("reply", "reply", "server"),
    ("unseen", None, ""),
)
PART: Final = {name: number for number, (name, _, _) in enumerate(PARTS)}

#: What the parts mean, in words.
MEANING: Final = {
    "client_network": "network between client and server",
    "server": "the client's server, before it forwards to the leader",
    "forward_network": "network to the leader",
    "leader": "the leader, before it proposes",
    "send": "the leader's queue to the follower",
    "network": "network to the follower and back",
    "follower": "the follower's disk and queue",
    "ack": "the follower's disk and the network to it",
    "order": "commits of txns before it",
    "leader_ack": "the leader's own disk and queue",
    "commit_network": "network from the leader",
    "reply": "the client's server, to apply and answer",
    "unseen": "between messages that were not seen",
}


@dataclass(frozen=True, slots=True)
class Chains:
    """Paths with the same moments known and the same role: what stages they have."""

    rows: Ints
    stages: tuple[tuple[int, int, str], ...]
    """First moment, last moment, name."""


def chains(paths: Paths) -> Iterator[Chains]:
    """All paths, in groups of the same stages."""
    known = paths.moments.sent != NONE
    keys = known @ (1 << np.arange(len(MOMENTS))) * 3 + paths.role
    for key in np.flatnonzero(np.bincount(keys)).tolist():
        pattern, role = divmod(key, 3)
        seen = [moment for moment in range(len(MOMENTS)) if pattern >> moment & 1]
        stages = tuple((begin, end, stage_name(begin, end, role)) for begin, end in pairwise(seen))
        yield Chains(np.flatnonzero(keys == key), stages)


def parts(timeline: Timeline, paths: Paths) -> Ints:
    """Nanoseconds of each part (columns as :data:`PARTS`) of each path; rows add up to the time
    from the first moment that was seen to the last.
    """
    spent = np.zeros((len(paths.write), len(PARTS)), dtype=np.int64)
    sent, received = paths.moments.sent, paths.moments.received
    for group in chains(paths):
        rows = group.rows
        for begin, end, name in group.stages:
            took = sent[rows, end] - received[rows, begin]
            if name == "quorum":
                _quorum(timeline, paths, rows, took, spent)
            elif name == "commit":
                behind = np.minimum(paths.behind[rows], took)
                spent[rows, PART["order"]] += behind
                spent[rows, PART["leader_ack"]] += took - behind
            else:
                spent[rows, PART.get(name, PART["unseen"])] += took
    # Where both ends of a message were seen: what it took on its way. That of the ACK is in the
    # follower's part.
    for moment, name in (
        (REQUEST, "client_network"),
        (REPLY, "client_network"),
        (FORWARD, "forward_network"),
        (COMMITTED, "commit_network"),
    ):
        spent[:, PART[name]] += received[:, moment] - sent[:, moment]
    return spent


def _quorum(timeline: Timeline, paths: Paths, rows: Ints, took: Ints, spent: Ints) -> None:
    acker = paths.acker[rows]
    proposal = at(timeline.d_seen[PROPOSAL].sent, acker)
    # The moment of the quorum is when the ACK came; what it took to come is of this stage.
    way = paths.moments.received[rows, QUORUM] - paths.moments.sent[rows, QUORUM]
    took = took + way
    first = paths.moments.sent[rows, PROPOSED]
    send = np.where(proposal == NONE, 0, np.clip(proposal - first, 0, took))
    left = took - send
    network = at(paths.network, acker)
    known = network != NONE
    net = np.where(known, np.minimum(network, left), 0)
    spent[rows, PART["send"]] += send
    spent[rows, PART["network"]] += net
    spent[rows, PART["follower"]] += np.where(known, left - net, 0)
    spent[rows, PART["ack"]] += np.where(known, 0, left)


def gone(paths: Paths) -> Bools:
    """Which moments of each path were not seen though there must have been such a message: the
    leader's own clients need no REQUEST, its own txns no client.
    """
    lost: Bools = paths.moments.sent == NONE
    lost[paths.role == LEADER, FORWARD] = False
    own = np.flatnonzero(paths.origin == OF_LEADER)
    lost[np.ix_(own, np.array([REQUEST, FORWARD, REPLY]))] = False
    return lost


def complete(paths: Paths) -> Bools:
    """Which paths have every moment that they must have, the COMMIT being the one to the client's
    server.
    """
    own = (paths.role == LEADER) | (paths.peer >= 0) | (paths.origin == OF_LEADER)
    whole: Bools = own & ~gone(paths).any(axis=1)
    return whole


def length(paths: Paths) -> Ints:
    """From the first moment that was seen to the last; of a client's answered write its latency."""
    sent, received = paths.moments.sent, paths.moments.received
    first = np.where(sent == NONE, np.iinfo(np.int64).max, sent).min(axis=1)
    whole: Ints = np.maximum(received.max(axis=1) - first, 0)
    return whole
