"""What ``zktrace trace`` tells: one object per write, and a summary of all.

The shapes are those of ``zktrace trace --json`` (docs/trace.md). Objects are made when they are
asked for, one by one; the summary is made of arrays. Times are microseconds with up to three
decimals, ``ts_ns`` nanoseconds; zxids and sessions hexadecimal text; what is not known is None.
Must not know files or how objects are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from zktrace.analysis.blame import (
    MEANING,
    PART,
    PARTS,
    chains,
    complete,
    gone,
    length,
    parts,
)
from zktrace.analysis.columns import NONE, Bools, Ints, Words, ranked
from zktrace.analysis.histogram import Histogram
from zktrace.analysis.join import FOLLOWER
from zktrace.analysis.points import Clock
from zktrace.analysis.timeline import ACK, COMMIT, PROPOSAL, Timeline
from zktrace.analysis.writepath import (
    COMMITTED,
    LEADER,
    LEARNER,
    MOMENTS,
    OF_LEADER,
    ORIGINS,
    REPLY,
    ROLES,
    Paths,
    paths,
    stage_name,
)
from zktrace.engine.buckets import QUANTILES
from zktrace.wire.errors import error_name
from zktrace.wire.zxid import epoch, session_text
from zktrace.wire.zxid import text as zxid_text

#: The slow ones: one in so many writes.
SLOW: Final = 100

Session = Callable[[int], int]


def us(ns: int) -> float:
    """Microseconds."""
    return round(int(ns) / 1000, 3)


def spread(values: Ints) -> dict[str, float] | None:
    """Percentiles of nanoseconds, as ``stats`` has them; None of no values."""
    histogram = Histogram()
    histogram.add(values)
    if not histogram.count:
        return None
    found = {"min": us(histogram.min), "mean": round(histogram.sum / histogram.count / 1000, 3)}
    for (name, _), value in zip(QUANTILES, histogram.quantiles(), strict=True):
        found[name] = us(value)
    return found | {"max": us(histogram.max)}


class WriteReport:
    """The paths of all writes of a capture, or of those chosen.

    >>> report = zktrace.read("x.pcap").writes()                   # doctest: +SKIP
    >>> report.summary()["parts"][0]                               # doctest: +SKIP
    >>> for number in report.slowest(3):                           # doctest: +SKIP
    ...     print(report.write(number)["latency_us"])
    """

    def __init__(
        self,
        timeline: Timeline,
        addresses: Words,
        ops: Words,
        *,
        voters: int | None = None,
        chosen: Bools | None = None,
        session: Session | None = None,
        clocks: Sequence[Clock] = (),
    ) -> None:
        """`chosen`: which of the timeline's writes are told of (txns without a client's write are
        then not); `session`: what is shown instead of a session's id; `clocks`: those of several
        captures.
        """
        self._clocks = list(clocks)
        self.timeline = timeline
        self.paths: Paths = paths(timeline, addresses, ops, voters)
        self._addresses, self._ops = addresses, ops
        self._session = session
        self._parts = parts(timeline, self.paths)
        self._length = length(self.paths)
        self._complete = complete(self.paths)
        self._gone = gone(self.paths)
        if chosen is None:
            self.rows = np.arange(len(self.paths.write))
        else:
            self.rows = np.flatnonzero(chosen)
        # Deliveries of each txn.
        known = np.flatnonzero(timeline.d_txn >= 0)
        self._deliveries = known[np.argsort(timeline.d_txn[known], kind="stable")]
        numbers = np.arange(len(timeline.zxid) + 1)
        self._first = np.searchsorted(timeline.d_txn[self._deliveries], numbers)

    def __len__(self) -> int:
        return len(self.rows)

    def slowest(self, count: int) -> list[int]:
        """Numbers of the slowest, the slowest first; of equals the earliest."""
        begin = self.paths.moments.sent[self.rows]
        begin = np.where(begin == NONE, np.iinfo(np.int64).max, begin).min(axis=1)
        order = np.lexsort((begin, -self._length[self.rows]))
        found: list[int] = self.rows[order[:count]].tolist()
        return found

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All, by time."""
        begin = self.paths.moments.sent
        begin = np.where(begin == NONE, np.iinfo(np.int64).max, begin).min(axis=1)
        for number in self.rows[np.argsort(begin[self.rows], kind="stable")].tolist():
            yield self.write(number)

    # ---- one write

    def write(self, number: int) -> dict[str, Any]:
        """A write's object."""
        line, ways = self.timeline, self.paths
        write, txn = int(ways.write[number]), int(ways.txn[number])
        seen = [int(t) for t in ways.moments.sent[number]]
        start = min(t for t in seen if t != NONE)
        if write >= 0:
            session, cxid = int(line.w_session[write]), int(line.w_cxid[write])
            zxid, error = int(line.w_zxid[write]), int(line.w_error[write])
            op = self._ops.word(line.w_op[write])
            client = self._addresses.word(line.w_client[write])
            server = self._addresses.word(line.w_server[write])
        else:
            session, cxid, zxid, error = (NONE,) * 4
            op, client, server = None, None, None
        if txn >= 0:
            session, cxid = int(line.session[txn]), int(line.cxid[txn])
            zxid = int(line.zxid[txn])
            op = op or self._ops.word(line.type[txn])
        if self._session is not None and session not in (NONE, 0):
            session = self._session(session)
        answered = write >= 0 and seen[REPLY] != NONE
        peer = int(ways.peer[number])
        learner = line.peers[peer] if peer >= 0 else None
        spent = {PARTS[i][0]: us(ns) for i, ns in enumerate(self._parts[number].tolist()) if ns}
        return {
            "kind": "write",
            "ts_ns": start,
            "flow": f"{client}>{server}" if client else None,
            "op": op,
            "path": line.path_of(write, txn),
            "session": None if session == NONE else session_text(session),
            "cxid": None if cxid == NONE else cxid,
            "zxid": None if zxid == NONE else zxid_text(zxid),
            "error": None if error == NONE else error,
            "error_name": None if error == NONE else error_name(error),
            "client": client,
            "server": server,
            "origin": ORIGINS[ways.origin[number]],
            "server_role": self._role(number),
            "server_sid": learner.sid if learner else None,
            "leader": self._addresses.word(line.leader[txn]) if txn >= 0 else None,
            "epoch": epoch(zxid) if txn >= 0 else None,
            "latency_us": us(self._length[number]) if answered else None,
            "total_us": us(self._length[number]),
            "complete": bool(self._complete[number]),
            "missing": self._missing(number),
            "stages": self._stages(number, start),
            "parts": spent,
            "quorum": self._quorum(number),
            "acks": self._acks(number, txn, start),
            "critical": self._critical(number),
        }

    def _role(self, number: int) -> str | None:
        peer = self.paths.peer[number]
        if peer >= 0:
            return self.timeline.peers[peer].role or ROLES[LEARNER]
        return ROLES[self.paths.role[number]]

    def _missing(self, number: int) -> list[str]:
        """What was not seen of what there must have been."""
        gone = self._gone[number].tolist()
        missing = [name for name, lost in zip(MOMENTS, gone, strict=True) if lost]
        role, origin = self.paths.role[number], self.paths.origin[number]
        own = role == LEADER or self.paths.peer[number] >= 0 or origin == OF_LEADER
        if not own and not gone[COMMITTED]:
            missing.append("commit to the client's server")
        return missing

    def _stages(self, number: int, start: int) -> list[dict[str, Any]]:
        """Stages one after another; they add up to ``total_us``."""
        sent = self.paths.moments.sent[number].tolist()
        received = self.paths.moments.received[number].tolist()
        stages = []
        last: int | None = None

        def stage(name: str, begin: int, end: int, since: int, until: int) -> None:
            stages.append(
                {
                    "stage": name,
                    "from": MOMENTS[begin],
                    "to": MOMENTS[end],
                    "start_us": us(since - start),
                    "us": us(until - since),
                }
            )

        for moment in range(len(MOMENTS)):
            if sent[moment] == NONE:
                continue
            if last is not None:
                name = stage_name(last, moment, int(self.paths.role[number]))
                stage(name, last, moment, received[last], sent[moment])
            if received[moment] != sent[moment]:
                name = f"{MOMENTS[moment]}_network"
                stage(name, moment, moment, sent[moment], received[moment])
            last = moment
        return stages

    def _quorum(self, number: int) -> dict[str, Any] | None:
        if self.paths.txn[number] < 0:
            return None
        acker = int(self.paths.acker[number])
        peer = self.timeline.peers[self.timeline.d_peer[acker]] if acker >= 0 else None
        return {
            "needed": int(self.paths.needed[number]) or None,
            "acks_before_commit": int(self.paths.acks[number]),
            "made_by": None if peer is None else {"sid": peer.sid, "learner": peer.learner},
        }

    def _acks(self, number: int, txn: int, start: int) -> list[dict[str, Any]]:
        """What each learner was sent and when it answered, observers too."""
        line = self.timeline
        if txn < 0:
            return []
        commit = int(self.paths.moments.sent[number][COMMITTED])
        found = []
        for at in self._deliveries[self._first[txn] : self._first[txn + 1]].tolist():
            peer = line.peers[line.d_peer[at]]
            proposal, ack, told = (int(line.d_seen[i].sent[at]) for i in (PROPOSAL, ACK, COMMIT))
            back = int(line.d_seen[ACK].received[at])
            both = proposal != NONE and ack != NONE
            network = int(self.paths.network[at])
            found.append(
                {
                    "sid": peer.sid,
                    "learner": peer.learner,
                    "role": peer.role,
                    "syncing": bool(line.d_syncing[at]),
                    "proposal_us": None if proposal == NONE else us(proposal - start),
                    "ack_us": None if ack == NONE else us(back - start),
                    "commit_us": None if told == NONE else us(told - start),
                    "latency_us": us(back - proposal) if both else None,
                    "network_us": None if network == NONE else us(network),
                    "network_exact": bool(self.paths.exact[at]) if network != NONE else None,
                    "before_commit": back <= commit if NONE not in (ack, commit) else None,
                    "made_quorum": at == int(self.paths.acker[number]),
                }
            )
        return found

    def _critical(self, number: int) -> dict[str, Any] | None:
        """The part that took longest, and where."""
        total = int(self._length[number])
        if not total:
            return None
        part = int(np.argmax(self._parts[number]))
        took = int(self._parts[number][part])
        name, stage, whose = PARTS[part]
        return {
            "part": name,
            "stage": stage,
            "where": self._place(int(self._places(whose)[number])),
            "meaning": MEANING[name],
            "us": us(took),
            "share": round(took / total, 4),
        }

    # ---- places: addresses, or peers (numbered from -2 down)

    def _places(self, whose: str) -> Ints:
        """Whose a part of each path is."""
        line, ways = self.timeline, self.paths
        n = len(ways.write)
        none = np.full(n, -1, dtype=np.int64)
        if whose == "server":
            server = none
            if len(line.w_server):
                server = np.where(ways.write >= 0, line.w_server[ways.write], -1)
            # Without a client's exchange the connection of its server says who it is.
            home = np.where(ways.peer >= 0, -2 - ways.peer, -1)
            return np.where(server >= 0, server, home)
        if whose == "leader" and len(line.leader):
            return np.where(ways.txn >= 0, line.leader[ways.txn], -1).astype(np.int64)
        if whose == "follower" and len(line.d_peer):
            return np.where(ways.acker >= 0, -2 - line.d_peer[ways.acker], -1)
        return none

    def _place(self, place: int) -> str | None:
        if place >= -1:
            return self._addresses.word(place)
        peer = self.timeline.peers[-2 - place]
        return peer.learner if peer.sid is None else f"{peer.learner} (sid {peer.sid})"

    # ---- all

    def summary(self) -> dict[str, Any]:
        """Counts, percentiles per stage and follower, what the time went to."""
        rows, ways = self.rows, self.paths
        answered = (ways.write[rows] >= 0) & (ways.moments.sent[rows, REPLY] != NONE)
        missing = dict(zip(MOMENTS, self._gone[rows].sum(axis=0).tolist(), strict=True))
        return {
            "kind": "summary",
            "writes": len(rows),
            "by_origin": self._origins(),
            "answered": int(answered.sum()),
            "complete": int(self._complete[rows].sum()),
            "not_seen": {name: n for name, n in missing.items() if n},
            "reordered": int((ways.reordered[rows] > 0).sum()),
            "latency_us": spread(self._length[rows[answered]]),
            "stages": self._stage_rows(),
            "parts": self._part_rows(rows),
            "slow": self._slow(),
            "quorums": [
                {
                    "leader": q.leader,
                    "epoch": q.epoch,
                    "followers": q.followers,
                    "least_acks": q.least_acks,
                    "needed": q.needed,
                    "how": q.how,
                    "txns": q.txns,
                }
                for q in ways.quorums
            ],
            "learners": self.learners(),
            "points": [
                {
                    "point": clock.name,
                    "offset_us": us(clock.offset_ns),
                    "low_us": None if clock.low_ns is None else us(clock.low_ns),
                    "high_us": None if clock.high_ns is None else us(clock.high_ns),
                    "consistent": clock.consistent,
                }
                for clock in self._clocks
            ],
        }

    def _origins(self) -> dict[str, int]:
        counts = np.bincount(self.paths.origin[self.rows], minlength=len(ORIGINS)).tolist()
        return {name or "unknown": n for name, n in zip(ORIGINS, counts, strict=True) if n}

    def _stage_rows(self) -> list[dict[str, Any]]:
        held: dict[tuple[int, int, str], list[Ints]] = {}
        sent, received = self.paths.moments.sent, self.paths.moments.received
        shown = np.zeros(len(self.paths.write), dtype=np.bool_)
        shown[self.rows] = True
        for group in chains(self.paths):
            rows = group.rows[shown[group.rows]]
            if not len(rows):
                continue
            for begin, end, name in group.stages:
                took = sent[rows, end] - received[rows, begin]
                held.setdefault((begin, end, name), []).append(took)
        for moment in range(len(MOMENTS)):
            way = received[self.rows, moment] - sent[self.rows, moment]
            if way.any():
                held[moment, moment, f"{MOMENTS[moment]}_network"] = [way[way > 0]]
        whole = max(int(self._length[self.rows].sum()), 1)
        found = []
        for (begin, end, name), pieces in sorted(held.items()):
            values = np.concatenate(pieces)
            found.append(
                {
                    "stage": name,
                    "from": MOMENTS[begin],
                    "to": MOMENTS[end],
                    "count": len(values),
                    "us": spread(values),
                    "share": round(int(values.sum()) / whole, 4),
                }
            )
        return found

    def _part_rows(self, rows: Ints) -> list[dict[str, Any]]:
        """Time by part and place, most first."""
        whole = max(int(self._length[rows].sum()), 1)
        found: list[tuple[int, dict[str, Any]]] = []
        for name, stage, whose in PARTS:
            column = self._parts[rows, PART[name]]
            if not column.any():
                continue
            places, which = ranked(self._places(whose)[rows])
            # In halves, so that sums are exact.
            high = np.bincount(which, weights=column >> 20)
            low = np.bincount(which, weights=column & 0xFFFFF)
            for place, upper, lower in zip(places.tolist(), high, low, strict=True):
                total = (int(upper) << 20) + int(lower)
                if total:
                    row = {
                        "part": name,
                        "stage": stage,
                        "where": self._place(place),
                        "meaning": MEANING[name],
                        "us": us(total),
                        "share": round(total / whole, 4),
                    }
                    found.append((total, row))
        found.sort(key=lambda one: (-one[0], one[1]["part"], one[1]["where"] or ""))
        return [row for _, row in found]

    def _slow(self) -> dict[str, Any] | None:
        """What the slowest one in a hundred writes spent their time on."""
        count = -(-len(self.rows) // SLOW)
        if not count:
            return None
        rows = np.array(self.slowest(count), dtype=np.int64)
        return {
            "writes": count,
            "from_us": us(self._length[rows].min()),
            "parts": self._part_rows(rows),
        }

    def learners(self) -> list[dict[str, Any]]:
        """What each learner's connection shows: how long ACKs took, and the network's part."""
        line, ways = self.timeline, self.paths
        made = np.bincount(line.d_peer[ways.acker[ways.acker >= 0]], minlength=len(line.peers))
        proposal, ack = line.d_seen[PROPOSAL], line.d_seen[ACK]
        edges = np.searchsorted(line.d_peer, np.arange(len(line.peers) + 1)).tolist()
        found = []
        for number, peer in enumerate(line.peers):
            mine = slice(edges[number], edges[number + 1])
            live = ~line.d_syncing[mine]
            proposed = live & (proposal.sent[mine] != NONE)
            both = proposed & (ack.received[mine] != NONE)
            took = ack.received[mine][both] - proposal.sent[mine][both]
            network = ways.network[mine][both]
            known = network != NONE
            found.append(
                {
                    "sid": peer.sid,
                    "learner": peer.learner,
                    "leader": peer.leader,
                    "role": peer.role,
                    "proposals": int(proposed.sum()),
                    "acks": int((live & (ack.received[mine] != NONE)).sum()),
                    "commits": int((live & (line.d_seen[COMMIT].sent[mine] != NONE)).sum()),
                    "made_quorum": int(made[number]),
                    "ack_us": spread(took),
                    "network_us": spread(network[known]),
                    "disk_us": spread((took - network)[known]),
                    "ping_us": spread(line.pings[number][1]),
                }
            )
            if peer.role != FOLLOWER:
                for key in ("ack_us", "network_us", "disk_us"):
                    found[-1][key] = None
        return found
