"""How a learner's history is made the leader's (LearnerHandler.syncFollower): with the txns that it
lacks, by cutting off what the leader does not have, or by a whole snapshot.

Works on the leader's committed txns alone: in memory the last of them (`Replica.history`), and the
log on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from zktrace.wire import zxid as zxids
from zktrace_server.core.quorum.packets import DIFF, SNAP, TRUNC
from zktrace_server.core.quorum.storage import Entry


@dataclass(slots=True)
class Plan:
    """`kind` DIFF, TRUNC or SNAP, with the zxid that goes with it; then `entries`, proposed and
    committed; `upto` is where the learner is then.
    """

    kind: int
    zxid: int
    upto: int
    entries: list[Entry] = field(default_factory=list)


def plan(
    peer: int, last: int, history: Sequence[Entry], on_disk: Callable[[], list[Entry]]
) -> Plan:
    """For a learner whose last txn is `peer`, where the leader's last committed is `last`.

    `on_disk` gives entries of the log from `peer` on, or none where the log does not have that txn;
    looked at only if it is needed.
    """
    least = history[0][0] if history else last
    most = history[-1][0] if history else last
    # Nothing of its own since it saw an epoch begin: it has no txn that could be wrong.
    new_epoch = zxids.counter(peer) == 0
    if peer == last:
        return Plan(DIFF, peer, peer)
    if peer > most and not new_epoch:
        return Plan(TRUNC, most, most)
    if least <= peer <= most:
        found = _from(peer, history, most)
    elif peer < least:
        # Behind what is committed the log may have more.
        entries = [entry for entry in on_disk() if entry[0] <= least]
        if entries and entries[-1][0] >= least:
            merged = entries + [entry for entry in history if entry[0] > entries[-1][0]]
            found = _from(peer, merged, most)
        else:
            found = None
    else:
        # It saw a later epoch begin, and nothing since: all of ours is its as well.
        found = Plan(DIFF, most, peer)
    return found or Plan(SNAP, last, last)


def _from(peer: int, entries: Sequence[Entry], most: int) -> Plan | None:
    """DIFF or TRUNC, and what follows; None where only a snapshot helps."""
    before = None
    for number, (zxid, _) in enumerate(entries):
        if zxid < peer:
            before = zxid
            continue
        rest = [*entries][number:]
        if zxid == peer:
            return Plan(DIFF, most, most, rest[1:])
        if zxids.counter(peer) == 0:
            return Plan(DIFF, most, most, rest)
        # It has txns that we do not have. Cutting them off may not go over an epoch's beginning.
        if before is None or zxids.epoch(zxid) != zxids.epoch(peer):
            return None
        return Plan(TRUNC, before, most, rest)
    if zxids.counter(peer) == 0:
        return Plan(DIFF, most, peer)
    return None
