"""Guarantees to a session, held against what passed on the client port.

What a reply's header says is the zxid that its server had processed last (FinalRequestProcessor);
replies that do not come out of the pipeline (auth, sasl, refusals) have 0 or -1 there and are left
out, as are replies whose request was not seen. All of it per connection, and within a connection
per stretch without losses; what a new connection owes to an earlier one is said by the
ConnectRequest itself. Knows nothing of the quorum port.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zktrace.analysis.columns import NONE, Ints
from zktrace.analysis.verify.arrays import contained, grouped, hexadecimal
from zktrace.analysis.verify.columns import united
from zktrace.analysis.verify.evidence import Evidence
from zktrace.analysis.verify.model import Outcome, check

#: KeeperException.Code.NOTREADONLY: ReadOnlyRequestProcessor answers ahead of reads on their way.
_NOT_READ_ONLY = -119

_CREATES = frozenset(("create", "create2", "createContainer", "createTTL"))
_SHOW_STAT = frozenset(("exists", "getData", "getACL", "getChildren2"))
#: One-shot data watches are set by these, and an event takes them away.
_DATA_READS = frozenset(("exists", "getData"))
#: After these a connection's watches are not those of its reads alone.
_OTHER_WATCHES = frozenset(("addWatch", "removeWatches", "setWatches", "setWatches2"))
_DATA_EVENTS = frozenset(("NodeCreated", "NodeDeleted", "NodeDataChanged"))


def _reach(evidence: Evidence, out: Outcome) -> None:
    """What all checks of sessions did not see."""
    joined = len(evidence.conns_of("client", "joined"))
    out.miss(f"{joined:,} connections joined in the middle", joined)
    broken = evidence.broken_conns & (
        evidence.conns_of("client", "opened") | evidence.conns_of("client", "joined")
    )
    out.miss(
        f"{len(broken):,} connections with losses or undecoded bytes: nothing compared across them",
        len(broken),
    )
    x = evidence.exchanges
    alone = int(np.count_nonzero(x.among("state", {"no_request"})))
    out.miss(f"{alone:,} replies whose request was not seen", alone)


def _sessions(evidence: Evidence, rows: Ints) -> int:
    sessions = evidence.exchanges.ints("session")[rows]
    return len(np.unique(sessions[sessions != NONE]))


@check("session-zxid")
def session_zxid(evidence: Evidence, out: Outcome) -> None:
    x = evidence.exchanges
    rows, first = evidence.answered
    zxid = x.ints("zxid")[rows]
    out.look(replies=len(rows), connections=_count(x.ints("conn")[rows[first]]))
    out.look(sessions=_sessions(evidence, rows[first]))
    _reach(evidence, out)
    back = np.flatnonzero(~first[1:] & (zxid[1:] < zxid[:-1])) + 1
    for at in back[: out.room].tolist():
        before, after = int(rows[at - 1]), int(rows[at])
        out.find(
            f"session {evidence.session_text(int(x.ints('session')[after]))} was at zxid "
            f"{hexadecimal(int(zxid[at - 1]))}, then at {hexadecimal(int(zxid[at]))}",
            (evidence.reply(before), evidence.reply(after)),
        )
    out.find_more(len(back) - out.violations)


def _count(values: Ints) -> int:
    return len(np.unique(values))


@check("session-order")
def session_order(evidence: Evidence, out: Outcome) -> None:
    x = evidence.exchanges
    rows, _ = evidence.answered
    rows = rows[(x.ints("xid")[rows] >= 0) & (x.ints("error")[rows] != _NOT_READ_ONLY)]
    stretch = evidence.stretch[rows]
    first = np.append(True, stretch[1:] != stretch[:-1])[: len(rows)]
    xid, ts = x.ints("xid")[rows], x.ints("ts_ns")[rows]
    _reach(evidence, out)
    down = np.flatnonzero(~first[1:] & (xid[1:] < xid[:-1])) + 1
    starts = np.flatnonzero(first)
    group = np.searchsorted(starts, down, side="right") - 1
    uncounted = 0
    unordered = 0
    for one in np.unique(group).tolist():
        end = int(starts[one + 1]) if one + 1 < len(starts) else len(rows)
        part = slice(int(starts[one]), end)
        by_time = np.lexsort((xid[part], ts[part]))
        if np.any(np.diff(xid[part][by_time]) < 0):
            uncounted += 1
            unordered += end - part.start
            continue
        for at in down[group == one].tolist():
            if ts[at] < ts[at - 1]:
                early, late = int(rows[at - 1]), int(rows[at])
                out.find(
                    f"xid {xid[at - 1]} was answered before xid {xid[at]}, which was sent before",
                    (
                        *(evidence.request(late), evidence.request(early)),
                        *(evidence.reply(early), evidence.reply(late)),
                    ),
                )
    out.look(replies=len(rows) - unordered, connections=_count(x.ints("conn")[rows[first]]))
    out.miss(
        f"{uncounted:,} connections whose client does not count xids up, or whose requests were "
        "captured out of order",
        uncounted,
    )


@dataclass(frozen=True, slots=True)
class _Paths:
    """Exchanges and events of nodes: one number per path, created ones by their true name."""

    path: Ints
    event: Ints
    count: int


def _paths(evidence: Evidence) -> _Paths:
    x, e = evidence.exchanges, evidence.events
    words = (x.words("path"), x.words("created_path"), e.words("path"))
    (own, made, told), count = united(*words)
    path = np.append(own, -1)[x.codes("path")]
    created = x.codes("created_path")
    path = np.where(created >= 0, np.append(made, -1)[created], path)
    return _Paths(path, np.append(told, -1)[e.codes("path")], count)


def _mzxid(evidence: Evidence) -> Ints:
    """Zxid of a node's last change in each reply's Stat. No node was changed before it was made:
    what says so is not ZooKeeper's.
    """
    mzxid = evidence.exchanges.ints("stat.mzxid")
    return np.where(mzxid >= evidence.exchanges.ints("stat.czxid"), mzxid, NONE)


@check("session-reads")
def session_reads(evidence: Evidence, out: Outcome) -> None:
    x = evidence.exchanges
    paths = _paths(evidence)
    done = x.among("state", {"complete"}) & (x.ints("error") == 0) & (paths.path >= 0)
    done &= x.ints("zxid") > 0
    mzxid = _mzxid(evidence)
    creates, deletes = x.among("op", _CREATES), x.among("op", {"delete", "deleteContainer"})
    sets = x.among("op", {"setData"})
    writes = done & (creates | deletes | (sets & (mzxid != NONE)))
    reads = done & x.among("op", _SHOW_STAT) & (mzxid != NONE)
    _reach(evidence, out)
    multis = int(np.count_nonzero(x.among("op", {"multi"})))
    out.miss(f"writes of {multis:,} multis are not followed", multis)
    stretch = evidence.stretch
    keys = stretch * max(paths.count, 1) + paths.path
    chosen = np.flatnonzero(writes | reads)
    if not len(chosen) or not writes.any():
        return
    size = (int(stretch.max()) + 1) * max(paths.count, 1)
    kept = chosen[contained(keys[chosen], keys[np.flatnonzero(writes)], size)]
    order, first = grouped(keys[kept])
    rows = kept[order]
    wrote = writes[rows]
    # a deleted node that is there again was made later than the delete
    floor = np.where(sets[rows], mzxid[rows], x.ints("zxid")[rows] + deletes[rows])
    levels, level = np.unique(floor[wrote], return_inverse=True)
    held = np.zeros(len(rows), dtype=np.int64)
    held[wrote] = level + 1
    base = (np.cumsum(first) - 1) * (len(levels) + 2)
    held = np.maximum.accumulate(held + base) - base
    read = ~wrote & (held > 0)
    least = levels[np.maximum(held - 1, 0)]
    out.look(reads=int(np.count_nonzero(read)), writes=int(np.count_nonzero(wrote)))
    out.look(sessions=_sessions(evidence, rows[first]))
    old = np.flatnonzero(read & (mzxid[rows] < least))
    for at in old[: out.room].tolist():
        mine = np.flatnonzero(wrote[:at] & (keys[rows[:at]] == keys[rows[at]]))
        last = int(rows[mine[np.argmax(floor[mine])]])
        shown = hexadecimal(int(mzxid[rows[at]]))
        out.find(
            f"session {evidence.session_text(int(x.ints('session')[last]))} wrote "
            f"{hexadecimal(int(x.ints('zxid')[last]))} and then read {shown}",
            (evidence.reply(last), evidence.reply(int(rows[at]), f" showing mzxid {shown}")),
        )
    out.find_more(len(old) - out.violations)


@check("session-events")
def session_events(evidence: Evidence, out: Outcome) -> None:
    _reach(evidence, out)
    _events_by_zxid(evidence, out)
    _events_by_stat(evidence, out)


def _events_by_zxid(evidence: Evidence, out: Outcome) -> None:
    x, e = evidence.exchanges, evidence.events
    told = np.flatnonzero(e.ints("zxid") > 0)
    bare = e.rows - len(told)
    out.miss(f"{bare:,} events do not tell the zxid of their write", bare)
    if not len(told):
        return
    rows, _ = evidence.answered
    rows = rows[np.isin(evidence.stretch[rows], evidence.event_stretch[told])]
    stretch = np.concatenate((evidence.stretch[rows], evidence.event_stretch[told]))
    zxid = np.concatenate((x.ints("zxid")[rows], e.ints("zxid")[told]))
    row = np.concatenate((rows, told))
    event = np.arange(len(row)) >= len(rows)
    order = np.argsort(np.concatenate((x.ints("seq")[rows], e.ints("seq")[told])), kind="stable")
    within, first = grouped(stretch[order])
    order = order[within]
    row, zxid, event = row[order], zxid[order], event[order]
    out.look(events=len(told))
    place = np.arange(len(row))
    group = np.maximum.accumulate(np.where(first, place, 0))
    before = np.maximum.accumulate(np.where(event, -1, place))
    late = event & (before >= group) & (zxid <= zxid[before])
    last = np.maximum.accumulate(np.where(event, place, -1))
    stale = ~event & (last >= group) & (zxid < zxid[last])
    # a reply is held against the last event alone, and only where nothing else came between
    stale &= np.concatenate(([False], event[:-1]))
    for at in np.flatnonzero(late)[: out.room].tolist():
        out.find(
            f"an event of {hexadecimal(int(zxid[at]))} came behind a reply that has "
            f"{hexadecimal(int(zxid[before[at]]))} processed",
            (evidence.reply(int(row[before[at]])), evidence.event(int(row[at]))),
        )
    for at in np.flatnonzero(stale)[: out.room].tolist():
        out.find(
            f"a reply of {hexadecimal(int(zxid[at]))} came behind an event of "
            f"{hexadecimal(int(zxid[last[at]]))}",
            (evidence.event(int(row[last[at]])), evidence.reply(int(row[at]))),
        )
    out.find_more(int(np.count_nonzero(late | stale)) - out.violations)


def _events_by_stat(evidence: Evidence, out: Outcome) -> None:
    x, e = evidence.exchanges, evidence.events
    found = out.violations
    paths = _paths(evidence)
    mzxid = _mzxid(evidence)
    shows = x.among("state", {"complete"}) & (x.ints("error") == 0) & (mzxid != NONE)
    shows &= (paths.path >= 0) & x.among("op", _SHOW_STAT | {"setData"})
    sets = shows & x.among("op", _DATA_READS) & x.flags("watch")
    if not sets.any():
        return
    others = np.unique(x.ints("conn")[x.among("op", _OTHER_WATCHES)])
    out.miss(
        f"{len(others):,} connections also set watches by addWatch or setWatches: their replies "
        "are not held against events",
        len(others),
    )
    events = np.flatnonzero(e.among("event", _DATA_EVENTS))
    at_path = paths.event[events]
    events, at_path = events[at_path >= 0], at_path[at_path >= 0]
    count = max(paths.count, 1)
    stretch = np.concatenate((evidence.stretch, evidence.event_stretch))
    keys = stretch[: x.rows] * count + paths.path
    shows &= ~np.isin(x.ints("conn"), others)
    sets &= shows
    if not sets.any():
        return
    size = (int(stretch.max()) + 1) * count
    rows = np.flatnonzero(shows)
    rows = rows[contained(keys[rows], keys[np.flatnonzero(sets)], size)]
    key = np.concatenate((keys[rows], stretch[x.rows :][events] * count + at_path))
    seq = np.concatenate((x.ints("seq")[rows], e.ints("seq")[events]))
    order = np.argsort(seq, kind="stable")
    within, first = grouped(key[order])
    order = order[within]
    event = order >= len(rows)
    row = np.append(rows, np.zeros(len(events), dtype=np.int64))[order]
    sets_here = sets[row] & ~event
    here = np.arange(len(order))
    group = np.maximum.accumulate(np.where(first, here, 0))
    # the last watch set, and the last event, before each reply
    earlier = np.maximum.accumulate(np.where(sets_here, here, -1))
    earlier = np.concatenate(([-1], earlier[:-1]))
    fired = np.maximum.accumulate(np.where(event, here, -1))
    watched = ~event & (earlier >= group) & (earlier > fired)
    set_by = row[np.maximum(earlier, 0)]
    newer = watched & (mzxid[row] > mzxid[set_by])
    # the same node with the same ACL: a session without READ is not told (DataTree, 3.9)
    for name in ("stat.czxid", "stat.aversion"):
        newer &= x.ints(name)[row] == x.ints(name)[set_by]
    out.look(watched_reads=int(np.count_nonzero(watched)))
    unseen = np.flatnonzero(newer)
    for at in unseen[: out.room].tolist():
        shown, before = hexadecimal(int(mzxid[row[at]])), hexadecimal(int(mzxid[set_by[at]]))
        out.find(
            f"a reply shows a change of {shown} of which no event told, though a watch was set at "
            f"{before}",
            (
                evidence.reply(int(set_by[at]), f" with a watch, mzxid {before}"),
                evidence.reply(int(row[at]), f" showing mzxid {shown}"),
            ),
        )
    out.find_more(len(unseen) - (out.violations - found))


@check("session-move")
def session_move(evidence: Evidence, out: Outcome) -> None:
    x = evidence.exchanges
    connects = x.among("op", {"connect"}) & x.among("state", {"complete"})
    connects &= (x.ints("error") == 0) & (x.ints("last_zxid_seen") > 0)
    connects &= x.ints("protocol_version") == 0
    asked = np.flatnonzero(connects)
    _reach(evidence, out)
    if not len(asked):
        return
    conn = x.ints("conn")
    floor = np.full(int(conn.max()) + 1, NONE, dtype=np.int64)
    floor[conn[asked]] = x.ints("last_zxid_seen")[asked]
    request = np.full(len(floor), -1, dtype=np.int64)
    request[conn[asked]] = asked
    rows = np.sort(evidence.answered[0])
    rows = rows[request[conn[rows]] >= 0]
    out.look(replies=len(rows), connections=len(asked))
    old = rows[x.ints("zxid")[rows] < floor[conn[rows]]]
    # one finding a connection: its first reply
    _, place = np.unique(conn[old], return_index=True)
    for row in old[np.sort(place)].tolist():
        connect = int(request[conn[row]])
        seen = hexadecimal(int(floor[conn[row]]))
        if not out.room:
            out.find_more(1)
            continue
        out.find(
            f"the client of session {evidence.session_text(int(x.ints('session')[row]))} had seen "
            f"{seen}, its new server is at {hexadecimal(int(x.ints('zxid')[row]))}",
            (evidence.request(connect, f" with last zxid seen {seen}"), evidence.reply(row)),
        )
