"""The ensemble's picture: who led, who followed and how far behind, elections, sessions, reaping.

Made of the joined tables (:mod:`zktrace.analysis.join`) and the few rows that are none of a write:
handshakes, votes, moves of sessions. The shape is that of ``zktrace ensemble --json``
(docs/ensemble.md); :func:`ensemble` is also what a web page asks. Times are nanoseconds where a
name ends in ``_ns``, microseconds in ``_us``; zxids and sessions hexadecimal text. Must not know
how it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zktrace.analysis.columns import NONE, Bools, Ints, grouped, ranked
from zktrace.analysis.elections import Handshake, Lost, elections
from zktrace.analysis.join import FOLLOWER, KIND, OBSERVER, Join, Joiner
from zktrace.analysis.timeline import ACK, COMMIT, PROPOSAL, Timeline, timeline
from zktrace.analysis.writereport import WriteReport, spread, us
from zktrace.wire.zxid import epoch, session_text
from zktrace.wire.zxid import text as zxid_text

#: Entries of a list of sessions or znodes; the counts beside it are of all.
SHOWN: Final = 1000

_SIDE_PACKETS: Final = (
    *("FOLLOWERINFO", "OBSERVERINFO", "LEADERINFO", "ACKEPOCH", "NEWLEADER", "UPTODATE"),
    *("DIFF", "TRUNC", "SNAP", "REVALIDATE", "COMMITANDACTIVATE"),
)

#: What a leader and its learners exchange when all are up to date.
_AT_WORK: Final = ("PING", "PROPOSAL", "COMMIT", "INFORM")


class EnsembleCollector:
    """Gathers batches of tables; memory as that of a :class:`~zktrace.analysis.join.Joiner`."""

    def __init__(self) -> None:
        self._joiner = Joiner()
        self._packets: list[dict[str, Any]] = []
        self._votes: list[dict[str, Any]] = []
        self._ends: list[dict[str, Any]] = []
        self._connects: list[dict[str, Any]] = []

    def add(self, tables: Mapping[str, pa.Table | pa.RecordBatch]) -> None:
        """Takes tables or record batches by kind."""
        self._joiner.add(tables)
        if "quorum" in tables:
            names = ["seq", "ts_ns", "conn", "client", "server", "type", "direction", "zxid"]
            names += ["session", "sid", "epoch", "timeout_ms", "valid"]
            names += ["snapshot_bytes", "snapshot_nodes", "late"]
            self._packets += _chosen(tables["quorum"], names, "type", _SIDE_PACKETS)
        if "elections" in tables:
            self._votes += tables["elections"].to_pylist()
        if "connections" in tables:
            names = ["ts_ns", "conn", "client", "server", "role", "event"]
            rows = _chosen(tables["connections"], names, "role", ("quorum",))
            self._ends += [row for row in rows if row["event"] in ("closed", "reset")]
        if "exchanges" in tables:
            names = ["ts_ns", "client", "server", "session", "error", "op"]
            self._connects += _chosen(tables["exchanges"], names, "op", ("connect",))

    def result(
        self, *, voters: int | None = None, session: Callable[[int], int] | None = None
    ) -> dict[str, Any]:
        """The picture. `session`: what is shown instead of a session's id."""
        join = self._joiner.join()
        line = timeline(join)
        report = WriteReport(line, join.addresses, join.ops, voters=voters)
        shown = (lambda real: real) if session is None else session
        handshakes = [
            Handshake(row["ts_ns"], row["type"], row["server"], row["epoch"], bool(row["late"]))
            for row in self._packets
            if row["type"] != "REVALIDATE"
        ]
        # An attempt that came to nothing is no follower lost.
        synced = {peer.conn for peer in join.peers if peer.live_from < len(join.packets.ts)}
        lost = [
            Lost(row["ts_ns"], row["server"], row["event"])
            for row in self._ends
            if row["conn"] in synced
        ]
        folded = elections(self._votes, handshakes, lost, _epochs(join))
        for one in folded:
            one["zxid"] = _hex(one["zxid"])
            for vote in one["votes"]:
                vote["zxid"] = _hex(vote["zxid"])
        sids = self._leader_sids(folded)
        leaders = _leaders(join, report, sids)
        return {
            "leaders": leaders,
            "learners": self._learners(join, report),
            "elections": folded,
            "sessions": self._sessions(join, report, shown),
            "reaped": _reaped(join, line),
        }

    def _leader_sids(self, folded: list[dict[str, Any]]) -> dict[str, int]:
        """Sids of leaders: by the address that a server announced, else those that won."""
        sids: dict[str, int] = {}
        by_ip: dict[str, set[int]] = {}
        for row in self._votes:
            if row["type"] == "initial" and row["sid"] is not None and row["address"]:
                for address in row["address"].split("|"):
                    by_ip.setdefault(address.rpartition(":")[0], set()).add(row["sid"])
        for row in self._packets:
            at = by_ip.get(row["server"].rpartition(":")[0], set())
            if len(at) == 1:
                sids[row["server"]] = next(iter(at))
        for one in folded:
            if one["leader"] and one["winner"] is not None:
                sids.setdefault(one["leader"], one["winner"])
        return sids

    def _learners(self, join: Join, report: WriteReport) -> list[dict[str, Any]]:
        line = report.timeline
        rows: dict[int, list[dict[str, Any]]] = {}
        for row in self._packets:
            rows.setdefault(row["conn"], []).append(row)
        ends = {row["conn"]: row for row in self._ends}
        packets = join.packets
        counts = np.bincount(
            packets.peer[packets.of_kind(KIND["REQUEST"])], minlength=len(join.peers)
        )
        first, last = _span(packets.peer, packets.ts, len(join.peers))
        found = []
        for number, base in enumerate(report.learners()):
            peer = join.peers[number]
            end = ends.get(peer.conn)
            found.append(
                {
                    "sid": peer.sid,
                    "learner": peer.learner,
                    "leader": peer.leader,
                    "role": peer.role,
                    "epoch": peer.epoch,
                    "opened": peer.opened,
                    "first_ns": int(first[number]),
                    "last_ns": int(last[number]),
                    "ended": None if end is None else end["event"],
                    "ended_ns": None if end is None else end["ts_ns"],
                    "sync": _sync(peer.sync, rows.get(peer.conn, []), line, number),
                    "requests": int(counts[number]),
                    **{
                        key: base[key]
                        for key in ("proposals", "acks", "commits", "made_quorum", "ack_us")
                    },
                    "network_us": base["network_us"],
                    "disk_us": base["disk_us"],
                    "ping_us": base["ping_us"],
                    "lag": _lag(line, number),
                }
            )
        return found

    def _sessions(
        self, join: Join, report: WriteReport, shown: Callable[[int], int]
    ) -> dict[str, Any]:
        txns, seen = join.txns, _seen(report.timeline)
        done = _committed(join, report.timeline)
        # What a leader proposed and could not commit did not happen.
        created = done & (txns.type == join.ops.code("createSession"))
        closed = done & (txns.type == join.ops.code("closeSession"))
        # The leader closes with cxid 0 what expired; a client's request has its xid.
        expired = np.flatnonzero(closed & (txns.cxid == 0) & (txns.request_row < 0))
        moves = self._moves(shown)
        answers = [row for row in self._packets if row["type"] == "REVALIDATE"]
        asked = [row for row in answers if row["valid"] is None]
        return {
            "created": int(created.sum()),
            "closed": int(closed.sum()) - len(expired),
            "expired": len(expired),
            "moved": len(moves),
            "revalidated": {
                "asked": len(asked),
                "valid": sum(row["valid"] is True for row in answers),
                "refused": sum(row["valid"] is False for row in answers),
            },
            "expiries": [
                {
                    "ts_ns": int(seen[at]),
                    "session": session_text(shown(int(txns.session[at]))),
                    "zxid": zxid_text(int(txns.zxid[at])),
                }
                for at in expired[:SHOWN].tolist()
            ],
            "moves": moves[:SHOWN],
        }

    def _moves(self, shown: Callable[[int], int]) -> list[dict[str, Any]]:
        """Sessions that another server granted than the one before."""
        last: dict[int, str] = {}
        moves = []
        for row in sorted(self._connects, key=lambda one: int(one["ts_ns"])):
            session, server = row["session"], row["server"]
            if row["error"] != 0 or session is None:
                continue
            before = last.get(session)
            last[session] = server
            if before is not None and before != server:
                moves.append(
                    {
                        "ts_ns": row["ts_ns"],
                        "session": session_text(shown(session)),
                        "from": before,
                        "to": server,
                        "client": row["client"],
                    }
                )
        return moves


def ensemble(
    tables: Mapping[str, pa.Table | pa.RecordBatch], *, voters: int | None = None
) -> dict[str, Any]:
    """The picture of tables, those of :func:`zktrace.read` say."""
    collector = EnsembleCollector()
    collector.add(tables)
    return collector.result(voters=voters)


def _chosen(
    table: pa.Table | pa.RecordBatch, names: list[str], by: str, words: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Rows of which a column has one of some words, as dicts of some columns."""
    wanted = pa.array(words)
    mask = pc.is_in(table[by], wanted)
    rows: list[dict[str, Any]] = table.select(names).filter(mask).to_pylist()
    return rows


def _hex(zxid: int | None) -> str | None:
    return None if zxid is None else zxid_text(zxid)


def _epochs(join: Join) -> dict[int, int]:
    """When each epoch was first seen at work: by PINGs and what is broadcast, not by handshakes."""
    packets = join.packets
    rows = np.flatnonzero(
        packets.of_kind(*(KIND[name] for name in _AT_WORK)) & (packets.zxid != NONE)
    )
    live_from = np.array([peer.live_from for peer in join.peers], dtype=np.int64)
    rows = rows[rows >= live_from[packets.peer[rows]]] if len(live_from) else rows
    numbers, which = ranked(packets.zxid[rows] >> 32 & 0xFFFFFFFF)
    first, _ = _span(which, packets.ts[rows], len(numbers))
    return dict(zip(numbers.tolist(), first.tolist(), strict=True))


def _span(group: Ints, ts: Ints, count: int) -> tuple[Ints, Ints]:
    first = np.full(count, np.iinfo(np.int64).max)
    last = np.full(count, NONE)
    np.minimum.at(first, group, ts)
    np.maximum.at(last, group, ts)
    return first, last


def _leaders(join: Join, report: WriteReport, sids: Mapping[str, int]) -> list[dict[str, Any]]:
    """Each leader's epochs, by time."""
    txns, line = join.txns, report.timeline
    ts = _seen(line)
    committed = np.zeros(len(txns.zxid), dtype=np.bool_)
    told = (line.d_txn >= 0) & (line.d_seen[COMMIT].sent != NONE)
    committed[line.d_txn[told]] = True
    found = []
    for quorum in report.paths.quorums:
        mine = (txns.leader == join.addresses.code(quorum.leader)) & (
            txns.zxid >> 32 & 0xFFFFFFFF == quorum.epoch
        )
        zxids = txns.zxid[mine]
        done = txns.zxid[mine & committed]
        found.append(
            {
                "leader": quorum.leader,
                "sid": sids.get(quorum.leader),
                "epoch": quorum.epoch,
                "first_ns": int(ts[mine].min()),
                "last_ns": int(ts[mine].max()),
                "txns": int(mine.sum()),
                "proposed_zxid": zxid_text(int(zxids.max())),
                "committed_zxid": zxid_text(int(done.max())) if len(done) else None,
                "followers": quorum.followers,
                "quorum": quorum.needed,
                "quorum_how": quorum.how,
            }
        )
    known = {(one["leader"], one["epoch"]) for one in found}
    led = {(peer.leader, peer.epoch) for peer in join.peers if peer.role != OBSERVER}
    epochs = {number for _, number in led}
    for peer in join.peers:
        # A follower may serve observers (ObserverMaster); the leader has the followers.
        master = (peer.leader, peer.epoch) not in led and peer.epoch in epochs
        if peer.epoch is not None and not master and (peer.leader, peer.epoch) not in known:
            known.add((peer.leader, peer.epoch))
            found.append(_idle(peer.leader, sids.get(peer.leader), peer.epoch))
    found.sort(key=lambda one: (one["epoch"], one["leader"]))
    return found


def _seen(line: Timeline) -> Ints:
    """When each txn was first seen."""
    first = np.full(len(line.zxid), np.iinfo(np.int64).max)
    for kind in (PROPOSAL, COMMIT):
        times = line.d_seen[kind].sent
        told = (line.d_txn >= 0) & (times != NONE)
        np.minimum.at(first, line.d_txn[told], times[told])
    return first


def _committed(join: Join, line: Timeline) -> Bools:
    """Which txns were committed: commits are in order, so a later one of the same epoch proves it;
    and what a later leader has, it passes on.
    """
    txns = join.txns
    told = (line.d_txn >= 0) & (line.d_seen[COMMIT].sent != NONE)
    done = np.zeros(len(txns.zxid), dtype=np.bool_)
    done[line.d_txn[told]] = True
    pairs, which = grouped(txns.leader, txns.zxid >> 32 & 0xFFFFFFFF)
    last = np.full(len(pairs), NONE)
    np.maximum.at(last, which[done], txns.zxid[done])
    found: Bools = done | (txns.zxid <= last[which]) if len(pairs) else done
    return found


def _idle(leader: str, sid: int | None, number: int) -> dict[str, Any]:
    """A leader without a txn."""
    return {
        "leader": leader,
        "sid": sid,
        "epoch": number,
        "first_ns": None,
        "last_ns": None,
        "txns": 0,
        "proposed_zxid": None,
        "committed_zxid": None,
        "followers": 0,
        "quorum": None,
        "quorum_how": None,
    }


def _sync(
    kind: str | None, rows: list[dict[str, Any]], line: Timeline, peer: int
) -> dict[str, Any] | None:
    """How a learner was brought up to date."""
    if kind is None:
        return None
    begin = next((row for row in rows if row["type"] == kind), None)
    done = next((row for row in rows if row["type"] == "UPTODATE"), None)
    asked = next((row for row in rows if row["type"] == "ACKEPOCH"), None)
    mine = (line.d_peer == peer) & line.d_syncing
    first = asked or begin
    since = first["ts_ns"] if first and not first["late"] else None
    done = done if done and not done["late"] else None
    return {
        "type": kind,
        "zxid": _hex(begin["zxid"]) if begin else None,
        "learner_zxid": _hex(asked["zxid"]) if asked else None,
        "txns": int(mine.sum()),
        "snapshot_bytes": begin["snapshot_bytes"] if begin else None,
        "snapshot_nodes": begin["snapshot_nodes"] if begin else None,
        "start_ns": since,
        "duration_us": us(done["ts_ns"] - since) if done and since is not None else None,
    }


def _lag(line: Timeline, peer: int) -> dict[str, Any] | None:
    """How many txns a learner was behind: a follower by what it had not acknowledged, an observer
    by what it had not been sent when others had. None where nothing was sent to it.
    """
    mine = (line.d_peer == peer) & ~line.d_syncing & (line.d_txn >= 0)
    role = line.peers[peer].role
    if role == FOLLOWER:
        sent, got = line.d_seen[PROPOSAL].sent[mine], line.d_seen[ACK].received[mine]
        # Until its first ACK is seen, what was proposed before is not known.
        mark = line.d_zxid[mine][got != NONE]
        known = sent != NONE
    else:
        first = _first_commit(line)
        sent, got = first[line.d_txn[mine]], line.d_seen[COMMIT].sent[mine]
        mark = line.d_zxid[mine][got != NONE]
        known = sent != NONE
    if not known.any():
        return None
    sent, got = sent[known], got[known]
    answered = got[got != NONE]
    times = np.concatenate((sent, answered))
    steps = np.concatenate((np.ones(len(sent), np.int64), np.full(len(answered), -1)))
    # At equal times what is sent comes first.
    order = np.lexsort((-steps, times))
    behind = np.cumsum(steps[order])
    worst = int(np.argmax(behind))
    last = int(mark.max()) if len(mark) else None
    return {
        "max_zxids": int(behind[worst]),
        "max_at_ns": int(times[order][worst]),
        "end_zxids": int(behind[-1]),
        "last_zxid": _hex(last),
        "last_epoch": None if last is None else epoch(last),
        "us": spread((got - sent)[got != NONE]),
    }


def _first_commit(line: Timeline) -> Ints:
    times = line.d_seen[COMMIT].sent
    first = np.full(len(line.zxid), np.iinfo(np.int64).max)
    told = (line.d_txn >= 0) & (times != NONE)
    np.minimum.at(first, line.d_txn[told], times[told])
    first[first == np.iinfo(np.int64).max] = NONE
    return first


def _reaped(join: Join, line: Timeline) -> dict[str, Any]:
    """Container and TTL nodes that the leader deleted (ContainerManager): txns of no session."""
    txns, seen = join.txns, _seen(line)
    reaped = (txns.session == 0) & (txns.type == join.ops.code("deleteContainer"))
    own = np.flatnonzero(reaped & _committed(join, line))
    made: dict[str, str] = {}
    kinds = {join.ops.code("createContainer"): "container", join.ops.code("createTTL"): "ttl"}
    for at in np.flatnonzero(np.isin(txns.type, list(kinds))).tolist():
        path = join.packet_paths[int(txns.row[at])]
        if path is not None:
            made[path] = kinds[int(txns.type[at])]
    nodes = []
    for at in own[:SHOWN].tolist():
        row = int(txns.row[at])
        path = join.packet_paths[row]
        nodes.append(
            {
                "ts_ns": int(seen[at]),
                "path": path,
                "zxid": zxid_text(int(txns.zxid[at])),
                "kind": None if path is None else made.get(path),
            }
        )
    return {"count": len(own), "nodes": nodes}
