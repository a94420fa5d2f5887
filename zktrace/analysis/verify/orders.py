"""Order and sameness of transactions on the quorum port: what each learner is told, and when.

Within one connection order is TCP's; what learners are told is compared by zxid, never by time.
Nothing is concluded from packets that were not captured: a learner's stretch begins with its first
PROPOSAL, and COMMITs of earlier ones are left alone.
"""

from __future__ import annotations

import numpy as np

from zktrace.analysis.columns import NONE, Ints
from zktrace.analysis.verify.arrays import grouped, hexadecimal
from zktrace.analysis.verify.ensemble import COMMITS, TXNS, Learner
from zktrace.analysis.verify.evidence import Evidence
from zktrace.analysis.verify.model import Outcome, check

#: A TxnDigest: version and digest of the tree, 12 bytes behind a txn.
_DIGEST_BYTES = 12
#: A designated leader before the txn of an INFORMANDACTIVATE.
_SID_BYTES = 8


def reach(evidence: Evidence, out: Outcome) -> None:
    """What all checks of ensembles did not see."""
    learners = evidence.ensembles.learners
    late = sum(1 for one in learners if one.first("FOLLOWERINFO") is None)
    late -= sum(1 for one in learners if one.first("OBSERVERINFO") is not None)
    out.miss(f"the beginning of {late:,} learners' connections", late)
    broken = sum(1 for one in learners if one.conn in evidence.broken_conns)
    out.miss(f"{broken:,} learners' connections have losses: nothing compared across them", broken)


def _stretches(evidence: Evidence, one: Learner, rows: Ints) -> list[Ints]:
    """Rows of a connection, cut where something was lost."""
    if one.conn not in evidence.broken_conns:
        return [rows]
    stretch = evidence.packet_stretch[rows]
    return [rows[stretch == number] for number in np.unique(stretch).tolist()]


@check("leader-order")
def leader_order(evidence: Evidence, out: Outcome) -> None:
    q = evidence.quorum
    zxids = q.ints("zxid")
    reach(evidence, out)
    kinds = ({"PROPOSAL"}, {"INFORM", "INFORMANDACTIVATE"})
    sent = np.flatnonzero(q.among("type", TXNS | COMMITS) & (zxids != NONE) & ~evidence.to_leader)
    if not len(sent):
        return
    known: dict[str, Ints] = {}
    for one in evidence.ensembles.learners:
        for kind in kinds:
            mine = one.rows[q.among_at("type", kind, one.rows)]
            out.look(txns=len(mine), learners=int(len(mine) > 0))
            for rows in _stretches(evidence, one, mine):
                zxid = zxids[rows]
                step = np.diff(zxid)
                for at in np.flatnonzero(step <= 0).tolist():
                    before, after = int(rows[at]), int(rows[at + 1])
                    out.find(
                        f"{one.server} sent {hexadecimal(int(zxid[at + 1]))} behind "
                        f"{hexadecimal(int(zxid[at]))}",
                        (evidence.packet(before), evidence.packet(after)),
                    )
                jumps = np.flatnonzero((step > 1) & (zxid[1:] >> 32 == zxid[:-1] >> 32))
                if not len(jumps):
                    continue
                if one.server not in known:
                    mine_too = q.codes("server")[sent] == q.codes("server")[one.rows[0]]
                    known[one.server] = np.unique(zxids[sent[mine_too]])
                told = known[one.server]
                for at in jumps.tolist():
                    low = np.searchsorted(told, zxid[at], side="right")
                    if low < len(told) and told[low] < zxid[at + 1]:
                        out.find(
                            f"{one.server} left out {hexadecimal(int(told[low]))}, of which "
                            "it told a learner",
                            (
                                evidence.packet(int(rows[at])),
                                evidence.packet(int(rows[at + 1])),
                                evidence.packet(_where(evidence, int(told[low]), sent)),
                            ),
                        )


def _where(evidence: Evidence, zxid: int, rows: Ints) -> int:
    return int(rows[np.argmax(evidence.quorum.ints("zxid")[rows] == zxid)])


@check("commit-order")
def commit_order(evidence: Evidence, out: Outcome) -> None:
    q = evidence.quorum
    zxids = q.ints("zxid")
    reach(evidence, out)
    for one in evidence.ensembles.learners:
        proposed = q.among_at("type", {"PROPOSAL"}, one.rows)
        committed = q.among_at("type", COMMITS, one.rows)
        if not committed.any():
            continue
        out.look(learners=1)
        mine = one.rows[proposed | committed]
        for rows in _stretches(evidence, one, mine):
            is_commit = q.among_at("type", COMMITS, rows)
            offers, commits = rows[~is_commit], rows[is_commit]
            if not len(offers):
                continue
            ordered = bool(np.all(np.diff(zxids[offers]) > 0))
            if not ordered:
                out.miss("COMMITs of connections whose PROPOSALs are out of order")
                continue
            if not one.whole:
                # of proposals before the capture, or before the loss
                commits = commits[zxids[commits] >= zxids[offers[0]]]
            out.look(commits=len(commits))
            fault = _first_fault(zxids, offers, commits)
            if fault is None:
                continue
            commit = int(commits[fault])
            packets = [evidence.packet(commit)]
            if fault < len(offers):
                due = int(offers[fault])
                text = f"where {hexadecimal(int(zxids[due]))} was the oldest proposal"
                packets.insert(0, evidence.packet(due))
            else:
                text = "which it was not proposed"
            out.find(
                f"{one.server} told {one.client} to commit {hexadecimal(int(zxids[commit]))}, "
                f"{text}",
                packets,
            )


def _first_fault(zxids: Ints, offers: Ints, commits: Ints) -> int | None:
    """Place of the first COMMIT that is not of the oldest proposal, or comes before it."""
    n = min(len(offers), len(commits))
    wrong = (zxids[offers[:n]] != zxids[commits[:n]]) | (offers[:n] > commits[:n])
    if wrong.any():
        return int(np.argmax(wrong))
    return n if len(commits) > n else None


def _carried(evidence: Evidence) -> tuple[Ints, Ints]:
    """Whole packets that carry a txn, ordered by ensemble and zxid, and their ensembles."""
    q = evidence.quorum
    carried = q.among("type", TXNS) & (q.ints("zxid") != NONE) & (q.ints("session") != NONE)
    if evidence.broken_conns:
        carried &= ~evidence.damaged
    rows = np.flatnonzero(carried)
    rows = rows[np.argsort(q.ints("zxid")[rows], kind="stable")]
    ensembles = evidence.ensembles.of_rows()[rows]
    if len(ensembles) and ensembles.min() != ensembles.max():
        order, _ = grouped(ensembles)
        rows, ensembles = rows[order], ensembles[order]
    return rows, ensembles


@check("same-txn")
def same_txn(evidence: Evidence, out: Outcome) -> None:
    q = evidence.quorum
    rows, ensembles = _carried(evidence)
    reach(evidence, out)
    zxid = q.ints("zxid")[rows]
    same = (zxid[1:] == zxid[:-1]) & (ensembles[1:] == ensembles[:-1])
    out.look(txns=len(rows), compared=int(np.count_nonzero(same)))
    size = q.ints("bytes")[rows] - _DIGEST_BYTES * (q.ints("digest")[rows] != NONE)
    size -= _SID_BYTES * q.among_at("type", {"INFORMANDACTIVATE"}, rows)
    differs = np.zeros(len(same), dtype=np.bool_)
    for values in (
        *(q.ints(name)[rows] for name in ("session", "cxid", "error")),
        *(q.codes(name)[rows] for name in ("txn_type", "path")),
        size,
    ):
        differs |= values[1:] != values[:-1]
    hashed = q.ints("txn_hash")[rows]
    # None of any: they were not wanted. Of some: not all of the txn was captured.
    both = (hashed[1:] != NONE) & (hashed[:-1] != NONE)
    differs |= both & (hashed[1:] != hashed[:-1])
    blind = int(np.count_nonzero(same & ~both))
    out.miss(f"{blind:,} txns are not compared byte by byte", blind)
    found = np.flatnonzero(same & differs)
    for at in found[: out.room].tolist():
        first, second = int(rows[at]), int(rows[at + 1])
        out.find(
            f"{hexadecimal(int(zxid[at]))} is not the same transaction for all learners",
            (
                evidence.packet(first, _of(evidence, first)),
                evidence.packet(second, _of(evidence, second)),
            ),
        )
    out.find_more(len(found) - out.violations)


def _of(evidence: Evidence, row: int) -> str:
    q = evidence.quorum
    session = evidence.session_text(int(q.ints("session")[row]))
    return f" of session {session} cxid {q.value('cxid', row)}, {q.value('bytes', row)} B"


@check("digest")
def digest(evidence: Evidence, out: Outcome) -> None:
    q = evidence.quorum
    rows, ensembles = _carried(evidence)
    reach(evidence, out)
    has = q.ints("digest")[rows] != NONE
    without = int(np.count_nonzero(~has))
    out.miss(f"{without:,} packets with a txn have no digest", without)
    rows, ensembles = rows[has], ensembles[has]
    zxid, digests = q.ints("zxid")[rows], q.ints("digest")[rows]
    together = ensembles[1:] == ensembles[:-1]
    step = zxid[1:] - zxid[:-1]
    same = together & (step == 0)
    quiet = q.among_at("txn_type", {"createSession"}, rows)[1:] & together & (step == 1)
    out.look(digests=len(rows), compared=int(np.count_nonzero(same | quiet)))
    differs = digests[1:] != digests[:-1]
    unlike = np.flatnonzero(same & differs)
    for at in unlike[: out.room].tolist():
        out.find(
            f"the trees differ after {hexadecimal(int(zxid[at]))}",
            (evidence.packet(int(rows[at])), evidence.packet(int(rows[at + 1]))),
        )
    # where learners disagree about one of the two, that is said already
    odd = np.unique(zxid[unlike])
    changed = np.flatnonzero(quiet & differs & ~np.isin(zxid[1:], odd) & ~np.isin(zxid[:-1], odd))
    for at in changed[: out.room].tolist():
        out.find(
            f"createSession {hexadecimal(int(zxid[at + 1]))} changed the tree",
            (evidence.packet(int(rows[at])), evidence.packet(int(rows[at + 1]))),
        )
    out.find_more(len(unlike) + len(changed) - out.violations)
