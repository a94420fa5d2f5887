"""What breaks no guarantee and yet is cause for alarm."""

from __future__ import annotations

import numpy as np

from zktrace.analysis.columns import NONE
from zktrace.analysis.verify.ensemble import Term
from zktrace.analysis.verify.evidence import Evidence
from zktrace.analysis.verify.model import Outcome, check
from zktrace.analysis.verify.quorums import time_margin, voters

_S = 1_000_000_000
#: A leader that flaps: so many changes in so long. An orderly restart of three servers, one after
#: another, changes the leader once or twice, and takes minutes.
FLAPS, FLAP_NS = 3, 300 * _S


@check("bare-check")
def bare_check(evidence: Evidence, out: Outcome) -> None:
    a, q = evidence.anomalies, evidence.quorum
    sent = np.flatnonzero(a.among("reason", {"bare_check"}))
    passed = np.flatnonzero(
        q.among("txn_type", {"check"}) & q.among("type", {"REQUEST", "PROPOSAL", "INFORM"})
    )
    x = evidence.exchanges
    out.look(requests=x.rows, packets=q.rows)
    for row in sent[: out.room].tolist():
        out.find("a client sent a check outside a multi", [evidence.anomaly(row)])
    for row in passed[: out.room].tolist():
        out.find("a check outside a multi is on its way to the log", [evidence.packet(row)])
    out.find_more(len(sent) + len(passed) - out.violations)


@check("no-quorum")
def no_quorum(evidence: Evidence, out: Outcome) -> None:
    c = evidence.connections
    over = c.among("event", {"closed", "reset"})
    ended = dict(zip(c.ints("conn")[over].tolist(), c.ints("ts_ns")[over].tolist(), strict=True))
    for term in evidence.ensembles.terms:
        who = voters(evidence, term, out)
        if who is None or who.unseen >= who.needed:
            continue
        gone = sorted(max(ended.get(one.conn, _END) for one in mine) for mine in who.followers)
        margin = time_margin(evidence, term)
        if margin is None:
            out.miss("terms in which the times of connections cannot be compared")
            continue
        # when so many have left that the others and those not seen are too few
        left = gone[len(gone) + who.unseen - who.needed]
        out.look(terms=1)
        out.assume(who.source)
        _proposals(evidence, out, term, min(left, _END - margin) + margin)


_END = np.iinfo(np.int64).max


def _proposals(evidence: Evidence, out: Outcome, term: Term, left: int) -> None:
    q = evidence.quorum
    rows = np.concatenate(
        [one.rows[q.among_at("type", {"PROPOSAL"}, one.rows)] for one in term.learners]
    )
    zxid = q.ints("zxid")[rows]
    late = rows[(zxid != NONE) & (zxid >> 32 == term.epoch) & (q.ints("ts_ns")[rows] > left)]
    out.look(proposals=len(rows))
    if len(late):
        count = len(np.unique(q.ints("zxid")[late]))
        out.find(
            f"{term.server} proposed {count:,} transactions after it had lost its quorum",
            (evidence.packet(int(late[0])), evidence.packet(int(late[-1]))),
        )


@check("flapping-leader")
def flapping_leader(evidence: Evidence, out: Outcome) -> None:
    q = evidence.quorum
    for terms in evidence.ensembles.by_ensemble().values():
        begun: dict[int, int] = {}
        for term in terms:
            rows = [row for one in term.followers if (row := one.first("NEWLEADER")) is not None]
            if rows:
                first = min(rows, key=lambda row: int(q.ints("ts_ns")[row]))
                begun.setdefault(term.epoch, first)
        out.look(epochs=len(begun))
        rows = sorted(begun.values(), key=lambda row: int(q.ints("ts_ns")[row]))
        times = [int(q.ints("ts_ns")[row]) for row in rows]
        for at in range(FLAPS, len(rows)):
            if times[at] - times[at - FLAPS] <= FLAP_NS:
                out.find(
                    f"{FLAPS + 1} epochs began within {(times[at] - times[at - FLAPS]) / _S:.0f} s",
                    [evidence.packet(row) for row in rows[at - FLAPS : at + 1]],
                )
                break
