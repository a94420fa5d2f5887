"""Epochs and leaders: how a leader takes over, and that nothing is lost when it does.

Epochs are numbers that packets carry, so most of this needs no times: that a learner accepted an
epoch is said by its next FOLLOWERINFO, whenever that was captured.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from zktrace.analysis.columns import NONE, Ints
from zktrace.analysis.verify.arrays import hexadecimal
from zktrace.analysis.verify.ensemble import COMMITS, FOLLOWER, SYNCS, TXNS, Learner, Term
from zktrace.analysis.verify.evidence import Evidence
from zktrace.analysis.verify.model import Outcome, Packet, check
from zktrace.analysis.verify.orders import reach


@check("one-leader")
def one_leader(evidence: Evidence, out: Outcome) -> None:
    reach(evidence, out)
    for terms in evidence.ensembles.by_ensemble().values():
        by_epoch: dict[int, list[Term]] = defaultdict(list)
        for term in terms:
            if term.established is not None:
                by_epoch[term.epoch].append(term)
        out.look(epochs=len(by_epoch))
        for epoch, leaders in by_epoch.items():
            for left, right in itertools.pairwise(leaders):
                if evidence.ensembles.different(left, right):
                    out.find(
                        f"{left.server} and {right.server} both lead in epoch {epoch}",
                        (_proof(evidence, left), _proof(evidence, right)),
                    )
                else:
                    out.miss(f"whether {left.server} and {right.server} are one server")
    servers = evidence.ensembles.of_server
    apart = len(set(servers.values()))
    if apart > 1:
        out.assume(f"{len(servers)} listeners are of {apart} ensembles, as far as is shown")


def _proof(evidence: Evidence, term: Term) -> Packet:
    one = term.established
    assert one is not None
    row = one.first("NEWLEADER")
    if row is None:
        acks = one.rows[evidence.quorum.among_at("type", {"ACK"}, one.rows)]
        row = int(acks[-1])
    return evidence.packet(row)


@check("epoch-order")
def epoch_order(evidence: Evidence, out: Outcome) -> None:
    reach(evidence, out)
    q = evidence.quorum
    accepted: dict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
    for one in evidence.ensembles.learners:
        info = _first(one, "FOLLOWERINFO", "OBSERVERINFO")
        offer, took, new = (one.first(name) for name in ("LEADERINFO", "ACKEPOCH", "NEWLEADER"))
        out.look(learners=1)
        if info is not None and offer is not None and took is not None and one.accepted is not None:
            epoch = int(q.value("epoch", offer))
            if epoch < one.accepted:
                out.find(
                    f"a learner that had accepted epoch {one.accepted} went back to {epoch}",
                    [evidence.packet(row) for row in (info, offer, took)],
                )
            elif not one.accepted:
                # a new server, or one whose disk was emptied
                out.miss(f"what server {one.sid} had accepted before: it joined knowing nothing")
            elif one.sid is not None and one.role == FOLLOWER:
                key = (evidence.ensembles.of_server[one.server], one.sid)
                accepted[key].append((one.accepted, epoch, info))
        if offer is not None and new is not None:
            told = [int(q.value("epoch", row)) for row in (offer, new)]
            if told[0] != told[1]:
                out.find(
                    f"{one.server} offered epoch {told[0]} and leads in {told[1]}",
                    (evidence.packet(offer), evidence.packet(new)),
                )
        _broadcast_epoch(evidence, out, one)
    for (_, sid), joins in accepted.items():
        joins.sort()
        for one_join, next_join in itertools.pairwise(joins):
            had, took_epoch, row = one_join
            later_had, later_epoch, later_row = next_join
            # whichever came first, the other one had to know of it
            if later_had < took_epoch and had < later_epoch:
                out.find(
                    f"server {sid} accepted epoch {took_epoch}, and knew only of {later_had} when "
                    f"it accepted {later_epoch}",
                    (evidence.packet(row), evidence.packet(later_row)),
                )


def _first(one: Learner, *names: str) -> int | None:
    return next((row for name in names if (row := one.first(name)) is not None), None)


def _broadcast_epoch(evidence: Evidence, out: Outcome, one: Learner) -> None:
    if one.first("NEWLEADER") is None or one.first("UPTODATE") is None or one.epoch is None:
        return
    q = evidence.quorum
    rows = one.rows[q.among_at("type", TXNS, one.rows)]
    rows = rows[rows >= one.live_from]
    out.look(broadcast=len(rows))
    strange = rows[q.ints("zxid")[rows] >> 32 != one.epoch]
    if len(strange):
        row = int(strange[0])
        new = one.first("NEWLEADER")
        assert new is not None
        out.find(
            f"{one.server} leads in epoch {one.epoch} and proposed "
            f"{hexadecimal(int(q.ints('zxid')[row]))}",
            (evidence.packet(new), evidence.packet(row)),
        )


@check("committed-kept")
def committed_kept(evidence: Evidence, out: Outcome) -> None:
    reach(evidence, out)
    q = evidence.quorum
    zxids = q.ints("zxid")
    led = evidence.ensembles.led()
    for terms in evidence.ensembles.by_ensemble().values():
        last: list[tuple[int, int, int]] = []  # epoch, zxid and row of its last COMMIT
        for term in terms:
            for one, row, reached in _synced(evidence, term):
                if one.server not in led:
                    continue
                out.look(learners=1)
                before = [(zxid, at) for epoch, zxid, at in last if epoch < term.epoch]
                if not before:
                    continue
                out.look(compared=1)
                newest, commit = max(before)
                if reached < newest:
                    out.find(
                        f"{hexadecimal(newest)} was committed, and the leader of epoch "
                        f"{term.epoch} has no more than {hexadecimal(reached)}",
                        (evidence.packet(commit), evidence.packet(row)),
                    )
            commit_row = _last_commit(evidence, term)
            if commit_row is not None:
                last.append((term.epoch, int(zxids[commit_row]), commit_row))


def _synced(evidence: Evidence, term: Term) -> Iterator[tuple[Learner, int, int]]:
    """Learners whose sync was seen up to NEWLEADER, its row, and the zxid they were brought to."""
    q = evidence.quorum
    for one in term.learners:
        new, row = one.first("NEWLEADER"), _first(one, *SYNCS)
        if new is None or row is None or not one.whole or q.ints("zxid")[row] == NONE:
            continue
        between = one.rows[(one.rows > row) & (one.rows < new)]
        sent = between[q.among_at("type", TXNS, between)]
        yield one, row, max(q.ints("zxid")[np.append(sent, row)].tolist())


def _last_commit(evidence: Evidence, term: Term) -> int | None:
    """The last COMMIT that a leader sent of its own epoch, when it had a quorum."""
    q = evidence.quorum
    zxids = q.ints("zxid")
    found: Ints = np.empty(0, np.int64)
    for one in term.followers:
        if not one.proven_epoch or one.live_from >= q.rows:
            continue
        rows = one.rows[q.among_at("type", COMMITS, one.rows)]
        rows = rows[(rows >= one.live_from) & (zxids[rows] >> 32 == term.epoch)]
        found = np.append(found, rows)
    return int(found[np.argmax(zxids[found])]) if len(found) else None


#: What a leader sends to a learner of ZooKeeper 3.4 or later, in this order.
_STEPS = (("LEADERINFO",), SYNCS, ("NEWLEADER",), ("UPTODATE",))


@check("sync-order")
def sync_order(evidence: Evidence, out: Outcome) -> None:
    reach(evidence, out)
    q = evidence.quorum
    for one in evidence.ensembles.learners:
        if not one.whole or one.first("LEADERINFO") is None:
            continue
        out.look(learners=1)
        steps = [[row for name in names for row in one.handshake.get(name, [])] for names in _STEPS]
        twice = next((rows for rows in steps if len(rows) > 1), None)
        if twice is not None:
            out.find(
                f"{one.server} told {one.client} twice",
                [evidence.packet(row) for row in twice[:2]],
            )
            continue
        rows = [step[0] for step in steps if step]
        last = max(place for place, step in enumerate(steps) if step)
        absent = next((place for place in range(last) if not steps[place]), None)
        disorder = next((at for at in range(1, len(rows)) if rows[at] < rows[at - 1]), None)
        if disorder is not None:
            out.find(
                f"{one.server} told {one.client} things out of order",
                [evidence.packet(row) for row in (rows[disorder], rows[disorder - 1])],
            )
        elif absent is not None:
            out.find(
                f"{one.server} told {one.client} {q.value('type', rows[-1])} without "
                f"{' or '.join(_STEPS[absent])}",
                [evidence.packet(row) for row in rows],
            )
        elif len(steps[3]):
            done = steps[3][0]
            acks = one.rows[q.among_at("type", {"ACK"}, one.rows)]
            if not len(acks) or acks[0] > done:
                out.find(
                    f"{one.server} told {one.client} UPTODATE before it acknowledged NEWLEADER",
                    (evidence.packet(steps[2][0]), evidence.packet(done)),
                )
