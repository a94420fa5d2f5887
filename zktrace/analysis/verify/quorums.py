"""Commits and quorums: was what a leader committed acknowledged by enough servers before?

The leader's own ACK never passes the wire and is counted as given. Who votes is known from the
configuration in a NEWLEADER, or is told (``--voters``). A voter that was not seen, or not seen
well, may have acknowledged: a violation is only what remains one then.

ACKs pass on other connections than the COMMIT, so their times must be comparable. Capture points
with clocks apart are told by the leader's PROPOSALs: what passes on connection a so much later
than on b in one case may do so in another. An ACK is late only if it is later than the COMMIT by
more than any PROPOSAL of the term was apart between any two of its followers. (Where both are
captured is so far from the leader on either as the PROPOSALs show; the margin is exact.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from zktrace.analysis.columns import NONE, Bools, Ints
from zktrace.analysis.verify.arrays import hexadecimal
from zktrace.analysis.verify.ensemble import COMMITS, Learner, Term
from zktrace.analysis.verify.evidence import Evidence
from zktrace.analysis.verify.model import Outcome, check
from zktrace.analysis.verify.orders import reach

#: PROPOSALs that two connections must share before their times are compared.
_COMMON_MIN = 3
_NEVER = np.iinfo(np.int64).max
_MAY_BE = int(np.iinfo(np.int64).min)
_NEVER_ROW = -1


@dataclass(frozen=True, slots=True)
class Voters:
    """Who votes in a term, as far as it is known."""

    count: int
    followers: list[list[Learner]]
    """Connections of each follower that votes."""
    source: str
    """What says so."""

    @property
    def needed(self) -> int:
        """ACKs that a majority takes, the leader's not counted."""
        return self.count // 2

    @property
    def unseen(self) -> int:
        """Voters of which no connection was seen; the leader is one more."""
        return max(self.count - 1 - len(self.followers), 0)


def voters(evidence: Evidence, term: Term, out: Outcome) -> Voters | None:
    """Those of a term; None where they are not known, which is noted."""
    config = term.config
    by_sid: dict[object, list[Learner]] = defaultdict(list)
    if evidence.voters is not None:
        for one in term.followers:
            by_sid[one.sid if one.sid is not None else f"conn {one.conn}"].append(one)
        if len(by_sid) >= evidence.voters:
            out.miss("terms with more followers than voters were told of")
            return None
        told = f"{evidence.voters} servers vote, as was told; followers are voters"
        return Voters(evidence.voters, list(by_sid.values()), told)
    name = f"epoch {term.epoch} of {term.server}"
    if config is None:
        out.miss(f"who votes in {name}: no configuration was seen (--voters N tells)")
        return None
    if not config.simple:
        out.miss(f"quorums of {name}: it has groups or weights")
        return None
    for one in term.followers:
        if one.sid in config.voters:
            by_sid[one.sid].append(one)
    count = len(config.voters)
    known = f"{count} servers vote in {name}, by its NEWLEADER; a majority decides"
    return Voters(count, list(by_sid.values()), known)


def _live(evidence: Evidence, one: Learner, kinds: Set[str]) -> Ints:
    """Packets of a connection that are of the leader's own epoch and, if the leader sent them,
    of its broadcast.
    """
    q = evidence.quorum
    rows = one.rows[q.among_at("type", kinds, one.rows)]
    zxid = q.ints("zxid")[rows]
    rows = rows[(zxid >> 32 == one.epoch) & (zxid & 0xFFFF_FFFF != 0)]
    live: Ints = rows[rows >= one.live_from]
    return live


def _reconfigured(evidence: Evidence, term: Term) -> int:
    """Zxid of the first change of the configuration in a term; the largest number if none."""
    q = evidence.quorum
    found = [_NEVER]
    for one in term.learners:
        rows = one.rows[q.among_at("txn_type", {"reconfig"}, one.rows)]
        zxid = q.ints("zxid")[rows]
        zxid = zxid[zxid != NONE]
        found += zxid[zxid >> 32 == term.epoch].tolist()
    return min(found)


@check("commit-quorum")
def commit_quorum(evidence: Evidence, out: Outcome) -> None:
    reach(evidence, out)
    if not evidence.times_hold:
        out.miss("whether ACKs came in time: packets were lost or captured out of order")
    for term in evidence.ensembles.terms:
        if term.established is None:
            continue
        who = voters(evidence, term, out)
        if who is not None:
            _judge(evidence, out, term, who)


def _judge(evidence: Evidence, out: Outcome, term: Term, who: Voters) -> None:
    q = evidence.quorum
    zxids, ts = q.ints("zxid"), q.ints("ts_ns")
    changed = _reconfigured(evidence, term)
    out.miss("COMMITs behind a reconfig: who votes then is not followed", int(changed != _NEVER))
    parts = [_live(evidence, one, COMMITS) for one in term.followers]
    rows = np.concatenate(parts) if parts else np.empty(0, np.int64)
    rows = rows[zxids[rows] < changed]
    if not len(rows):
        return
    if not who.needed:
        out.miss(f"COMMITs of epoch {term.epoch} of {term.server}: who leads is the only voter")
        return
    if who.unseen >= who.needed:
        out.miss(
            f"COMMITs of epoch {term.epoch} of {term.server}: {who.unseen} of {who.count} voters "
            "were not seen, and may have acknowledged"
        )
        return
    rows = rows[np.argsort(ts[rows], kind="stable")]
    zxid, place = np.unique(zxids[rows], return_index=True)
    commit = rows[place]
    out.assume(who.source)
    given = np.stack([_acked(evidence, mine, zxid, who, out) for mine in who.followers])
    given = np.concatenate((given, np.full((who.unseen, len(zxid)), _MAY_BE)))
    # the ACK that made the quorum, at the earliest
    due = np.sort(given, axis=0)[who.needed - 1]
    never = due == _NEVER
    late = np.zeros(len(zxid), dtype=np.bool_)
    margin = time_margin(evidence, term)
    if margin is None:
        out.miss("whether ACKs came in time: times of the connections cannot be compared")
    else:
        late = ~never & (due > ts[commit] + margin)
        out.assume(f"times of different connections are good to {margin / 1e6:.3f} ms")
    # what is not known to have been acknowledged may have been: nothing is said of it
    told = never | late | (np.count_nonzero(given != _MAY_BE, axis=0) >= who.needed)
    out.look(commits=int(np.count_nonzero(told)), terms=1)
    rest = len(zxid) - int(np.count_nonzero(told))
    out.miss(f"{rest:,} COMMITs of which ACKs may have been lost", rest)
    bad = np.flatnonzero(never | late)
    shown = bad[: out.room].tolist()
    for at in shown:
        row = int(commit[at])
        acks = _ack_rows(evidence, who, int(zxid[at]))
        had = int(np.count_nonzero(given[:, at] <= ts[row])) + 1
        out.find(
            f"{term.server} committed {hexadecimal(int(zxid[at]))} with ACKs of at most {had} of "
            f"{who.count} voters, its own counted",
            (evidence.packet(row), *(evidence.packet(ack) for ack in acks)),
        )
    out.find_more(len(bad) - len(shown))


def _acked(evidence: Evidence, mine: list[Learner], zxid: Ints, who: Voters, out: Outcome) -> Ints:
    """When a follower acknowledged each of the zxids at the earliest: _MAY_BE where that is not
    known, _NEVER where it certainly did not.
    """
    q = evidence.quorum
    when = np.full(len(zxid), _MAY_BE)
    for one in mine:
        acks = _live(evidence, one, {"ACK"})
        acked = q.ints("zxid")[acks]
        order = np.argsort(acked, kind="stable")
        acks, acked = acks[order], acked[order]
        at = np.minimum(np.searchsorted(acked, zxid), max(len(acked) - 1, 0))
        here: Bools = acked[at] == zxid if len(acked) else np.zeros(len(zxid), dtype=np.bool_)
        if here.any():
            when[here] = np.maximum(when[here], q.ints("ts_ns")[acks[at[here]]])
        if len(mine) == 1 and one.conn not in evidence.broken_conns and len(acked):
            # ACKs are in order: one that a later one passed was not given
            proposed = q.ints("zxid")[_live(evidence, one, {"PROPOSAL"})]
            passed = ~here & (zxid < acked[-1]) & np.isin(zxid, proposed)
            when[passed] = _NEVER
    return when


def _ack_rows(evidence: Evidence, who: Voters, zxid: int) -> list[int]:
    q = evidence.quorum
    found = []
    for mine in who.followers:
        for one in mine:
            acks = _live(evidence, one, {"ACK"})
            found += acks[q.ints("zxid")[acks] == zxid][:1].tolist()
    return found


@check("uptodate-quorum")
def uptodate_quorum(evidence: Evidence, out: Outcome) -> None:
    reach(evidence, out)
    q = evidence.quorum
    ts = q.ints("ts_ns")
    for term in evidence.ensembles.terms:
        told = [row for one in term.learners if (row := one.first("UPTODATE")) is not None]
        who = voters(evidence, term, out) if told else None
        if who is None or not who.needed:
            continue
        first = min(told, key=lambda row: int(ts[row]))
        acks = [_took_over(evidence, term, mine) for mine in who.followers]
        may = acks.count(_MAY_BE) + who.unseen
        if may >= who.needed:
            out.miss(f"{term.server} taking over epoch {term.epoch}: a quorum of ACKs was not seen")
            continue
        known = sorted((row for row in acks if row >= 0), key=lambda row: int(ts[row]))
        due = known[who.needed - may - 1] if len(known) + may >= who.needed else None
        out.look(terms=1)
        out.assume(who.source)
        margin = time_margin(evidence, term)
        if due is not None and margin is None:
            out.miss("whether ACKs came in time: times of the connections cannot be compared")
        elif due is None or (margin is not None and int(ts[due]) > int(ts[first]) + margin):
            had = 1 + may + sum(int(ts[row]) <= int(ts[first]) for row in known)
            out.find(
                f"{term.server} told UPTODATE when at most {had} of {who.count} voters, its own "
                f"vote counted, had acknowledged epoch {term.epoch}",
                (evidence.packet(first), *(evidence.packet(row) for row in known)),
            )


def _took_over(evidence: Evidence, term: Term, mine: list[Learner]) -> int:
    """Row of a voter's first ACK of NEWLEADER; _MAY_BE where it may have given one that was not
    seen, _NEVER_ROW where it certainly did not.
    """
    q = evidence.quorum
    rows = []
    for one in mine:
        if not one.whole:
            return _MAY_BE
        acks = one.rows[q.among_at("type", {"ACK"}, one.rows)]
        acks = acks[q.ints("zxid")[acks] == term.epoch << 32]
        rows += acks[:1].tolist()
    return min(rows, key=lambda row: int(q.ints("ts_ns")[row]), default=_NEVER_ROW)


def time_margin(evidence: Evidence, term: Term) -> int | None:
    """How far apart the same PROPOSAL was seen on two connections, at the most, in ns; None where
    too few were seen on both, or where times say nothing.
    """
    if not evidence.times_hold:
        return None
    q = evidence.quorum
    sent = []
    for one in term.followers:
        rows = _live(evidence, one, {"PROPOSAL"})
        zxid, place = np.unique(q.ints("zxid")[rows], return_index=True)
        sent.append((zxid, q.ints("ts_ns")[rows[place]]))
    if len(sent) < 2:
        return None
    margin = 0
    for at, (left, left_ts) in enumerate(sent):
        for right, right_ts in sent[at + 1 :]:
            common, a, b = np.intersect1d(left, right, assume_unique=True, return_indices=True)
            if len(common) < _COMMON_MIN:
                return None
            margin = max(margin, int(np.abs(left_ts[a] - right_ts[b]).max()))
    return margin
