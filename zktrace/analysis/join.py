"""Client exchanges and quorum packets joined: which write became which txn, and who got it when.

What `zktrace trace`, `zktrace verify` and the ensemble's picture stand on. Three keys join
(protocol reference, sections 7.3 and 8): a txn's header repeats the session and the cxid of the
request that it came of, the reply's header has the txn's zxid, and PROPOSAL, ACK and COMMIT of one
connection share the zxid. All arrays are numpy arrays; no loop runs over events. Must not know
what a stage is, what is right or wrong, or how anything is shown.

Rows of the tables are meant by their number, counting from 0 in the order in which they came
(``seq``), -1 meaning none; numbers that are not known are :data:`~zktrace.analysis.columns.NONE`.
Sessions and zxids are signed 64-bit integers as in the tables. Ensembles whose zxids are the same
are kept apart, since a txn is meant by zxid, session and cxid.

Memory: some 60 bytes per quorum packet and 100 per write; nothing is kept of reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from zktrace.analysis.columns import (
    NONE,
    Bools,
    Codes,
    Gatherer,
    Ints,
    Texts,
    Words,
    first_rows,
    grouped,
    ints,
    places,
    ranked,
)
from zktrace.analysis.joined import (
    FOLLOWER,
    KIND,
    OBSERVER,
    Deliveries,
    Join,
    Packets,
    Peer,
    Txns,
    Writes,
)
from zktrace.analysis.names import vocabulary
from zktrace.wire.quorum import PACKET_TYPES

if TYPE_CHECKING:
    import pyarrow as pa

    from zktrace.analysis.arrays import Arrays

__all__ = [
    "FOLLOWER",
    "KIND",
    "OBSERVER",
    "Deliveries",
    "Join",
    "Joiner",
    "Packets",
    "Peer",
    "Txns",
    "Writes",
    "asof",
    "join",
]

#: Packets that carry a txn; those that tell a learner of its commit.
_TXN: Final = (KIND["PROPOSAL"], KIND["INFORM"], KIND["INFORMANDACTIVATE"])
_COMMITS: Final = (KIND["COMMIT"], KIND["COMMITANDACTIVATE"])
_INFORMS: Final = (KIND["INFORM"], KIND["INFORMANDACTIVATE"])
_SYNCS: Final = ("DIFF", "TRUNC", "SNAP")
_HANDSHAKE: Final = (
    *("FOLLOWERINFO", "OBSERVERINFO", "LEADERINFO", "ACKEPOCH", "NEWLEADER", "UPTODATE"),
    *_SYNCS,
)

_PACKET_NUMBERS: Final = ("seq", "ts_ns", "conn", "zxid", "session", "cxid")
_PACKET_FLAGS: Final = ("late",)
_WRITE_NUMBERS: Final = ("seq", "ts_ns", "conn", "session", "xid", "zxid", "error", "latency_ns")

#: Rows of a key that are looked through for one that fits; more come only of made-up traffic.
_TRIES: Final = 8


class Joiner:
    """Gathers batches of tables, then joins them.

    >>> joiner = Joiner()                                          # doctest: +SKIP
    >>> for batches in zktrace.iter_batches("x.pcap"):             # doctest: +SKIP
    ...     joiner.add(batches)
    >>> joiner.join().txns.zxid                                    # doctest: +SKIP
    """

    def __init__(self, ops: Words | None = None, addresses: Words | None = None) -> None:
        """Joins that are to be compared share their words."""
        self.ops = Words() if ops is None else ops
        self.addresses = Words() if addresses is None else addresses
        self.states = Words(("complete", "no_reply", "no_request"))
        kinds = Words(("", *(PACKET_TYPES[n] for n in sorted(PACKET_TYPES))))
        ends = {"client": self.addresses, "server": self.addresses}
        directions = Words(("to_leader", "to_learner"))
        self._packet_words = {"type": kinds, "direction": directions, "txn_type": self.ops} | ends
        self._write_words = {"op": self.ops, "state": self.states} | ends
        self._packets = Gatherer(_PACKET_NUMBERS, self._packet_words, _PACKET_FLAGS)
        self._writes = Gatherer(_WRITE_NUMBERS, self._write_words)
        self._packet_paths = Texts()
        self._write_paths = Texts()
        # Handshakes are few: sid, epoch and configuration of them are kept apart.
        self._told: dict[int, tuple[int, int, str | None]] = {}
        self._wanted = vocabulary().writes | {"connect"}

    def add(self, tables: Mapping[str, pa.Table | pa.RecordBatch]) -> None:
        """Takes tables or record batches by kind; kinds other than exchanges and quorum are left
        alone.
        """
        for batch in _batches(tables.get("quorum")):
            self._add_packets(batch)
        for batch in _batches(tables.get("exchanges")):
            self._add_exchanges(batch)

    def _add_packets(self, batch: pa.RecordBatch) -> None:
        base = self._packets.rows
        self._packets.add(batch)
        self._packet_paths.add(batch.column("path"))
        kinds = batch.column("type")
        handshake = [name in _HANDSHAKE for name in kinds.dictionary.to_pylist()]
        if any(handshake):
            rows = np.flatnonzero(np.array([*handshake, False])[places(kinds)])
            sids, epochs = (ints(batch.column(name))[rows].tolist() for name in ("sid", "epoch"))
            config = batch.column("config")
            texts = (config[row].as_py() for row in rows.tolist())
            told = zip(sids, epochs, texts, strict=True)
            self._told.update(zip((rows + base).tolist(), told, strict=True))

    def _add_exchanges(self, batch: pa.RecordBatch) -> None:
        ops = batch.column("op")
        wanted = np.array([*(op in self._wanted for op in ops.dictionary.to_pylist()), False])
        rows = np.flatnonzero(wanted[places(ops)])
        if len(rows):
            self._writes.add(batch, rows)
            self._write_paths.add(batch.column("path"), rows)

    def put(self, arrays: Arrays) -> None:
        """Takes all of a capture at once, of :data:`COLUMNS`."""
        kind = "quorum"
        columns: dict[str, Any] = {name: arrays.ints(kind, name) for name in _PACKET_NUMBERS}
        columns |= {name: arrays.flags(kind, name) for name in _PACKET_FLAGS}
        for name, words in self._packet_words.items():
            columns[name] = words.mapped(arrays.words(kind, name), arrays.codes(kind, name))
        self._packets.put(columns, arrays.rows(kind))
        self._packet_paths.put(arrays.words(kind, "path"), arrays.codes(kind, "path"))
        known = (KIND[name] for name in _HANDSHAKE)
        rows = np.flatnonzero(np.isin(columns["type"], list(known)))
        sids, epochs = (arrays.ints(kind, name)[rows].tolist() for name in ("sid", "epoch"))
        texts = arrays.words(kind, "config")
        places = arrays.codes(kind, "config")[rows].tolist()
        configs = (texts[place] if place >= 0 else None for place in places)
        self._told.update(zip(rows.tolist(), zip(sids, epochs, configs, strict=True), strict=True))

        kind = "exchanges"
        ops = arrays.words(kind, "op")
        wanted = np.array([*(op in self._wanted for op in ops), False])
        rows = np.flatnonzero(wanted[arrays.codes(kind, "op")])
        columns = {name: arrays.ints(kind, name)[rows] for name in _WRITE_NUMBERS}
        for name, words in self._write_words.items():
            columns[name] = words.mapped(arrays.words(kind, name), arrays.codes(kind, name))[rows]
        self._writes.put(columns, len(rows))
        self._write_paths.put(arrays.words(kind, "path"), arrays.codes(kind, "path")[rows])

    def join(self) -> Join:
        """What was gathered, joined."""
        columns = self._packets.take()
        packets, peers, leaders = self._peers(columns)
        txns, deliveries = _deliveries(packets, peers, leaders, self.ops.code("createSession"))
        writes = self._written(packets, txns)
        return Join(
            packets=packets,
            peers=peers,
            txns=txns,
            deliveries=deliveries,
            writes=writes,
            ops=self.ops,
            addresses=self.addresses,
            states=self.states,
            packet_paths=self._packet_paths,
            write_paths=self._write_paths,
        )

    # ---- connections

    def _peers(self, columns: dict[str, Any]) -> tuple[Packets, list[Peer], Codes]:
        conns, first, peer = _numbered(columns["conn"])
        packets = Packets(
            seq=columns["seq"],
            ts=columns["ts_ns"],
            peer=peer,
            kind=columns["type"],
            to_leader=columns["direction"] == 0,
            zxid=columns["zxid"],
            session=columns["session"],
            cxid=columns["cxid"],
            txn_type=columns["txn_type"],
            late=columns["late"],
        )
        leaders: Codes = columns["server"][first]
        learners = columns["client"][first]
        peers = [
            Peer(conn, self.addresses.word(learner) or "", self.addresses.word(leader) or "")
            for conn, learner, leader in zip(
                conns.tolist(), learners.tolist(), leaders.tolist(), strict=True
            )
        ]
        self._handshakes(packets, peers)
        _roles(packets, peers)
        self._sids(packets, peers)
        return packets, peers, leaders

    def _handshakes(self, packets: Packets, peers: list[Peer]) -> None:
        rows = np.array(sorted(self._told), dtype=np.int64)
        kinds = packets.kind[rows].tolist()
        for row, kind, at in zip(rows.tolist(), kinds, packets.peer[rows].tolist(), strict=True):
            peer = peers[at]
            name = PACKET_TYPES[kind]
            sid, epoch, config = self._told[row]
            if peer.handshake is None:
                # Until the sync is over, all that comes is part of it.
                peer.handshake = {}
                peer.live_from = len(packets.ts)
            peer.handshake.setdefault(name, row)
            if name in ("FOLLOWERINFO", "OBSERVERINFO"):
                peer.role = FOLLOWER if name == "FOLLOWERINFO" else OBSERVER
                peer.sid = None if sid == NONE else sid
                peer.opened = True
            elif name in ("LEADERINFO", "NEWLEADER"):
                peer.epoch = None if epoch == NONE else epoch
                peer.config = config or peer.config
            elif name == "UPTODATE":
                peer.live_from = row + 1
            elif name in _SYNCS and peer.sync is None:
                peer.sync, peer.sync_row = name, row

    def _sids(self, packets: Packets, peers: list[Peer]) -> None:
        """The sid of a learner that was joined mid-stream: the top byte of sessions that it makes
        (SessionTrackerImpl.initializeNextSessionId).
        """
        made = packets.of_kind(KIND["REQUEST"])
        rows = np.flatnonzero(made & (packets.txn_type == self.ops.code("createSession")))
        sids: dict[int, set[int]] = {}
        pairs, _ = grouped(packets.peer[rows], packets.session[rows] >> 56 & 0xFF)
        for peer, sid in pairs:
            sids.setdefault(peer, set()).add(sid)
        for peer, found in sids.items():
            if peers[peer].sid is None and len(found) == 1:
                peers[peer].sid = found.pop()

    def _written(self, packets: Packets, txns: Txns) -> Writes:
        columns = self._writes.take()
        connect = columns["op"] == self.ops.code("connect")
        cxid = np.where(connect, 0, columns["xid"])
        session, zxid, ts = columns["session"], columns["zxid"], columns["ts_ns"]
        txn = _by_zxid(txns, zxid, session, cxid)
        # Without a zxid (no reply, a connect): the next txn of this session and cxid.
        lost = np.flatnonzero((txn < 0) & (session != NONE))
        free = np.ones(len(txns.zxid), dtype=np.bool_)
        free[txn[txn >= 0]] = False
        left = np.flatnonzero(free)
        created = self.ops.code("createSession")
        found = asof(
            (txns.session[left], _cxids(txns.cxid[left], txns.type[left] == created)),
            packets.ts[txns.row[left]],
            (session[lost], _cxids(cxid[lost], connect[lost])),
            ts[lost],
            forward=True,
        )
        txn[lost] = np.where(found >= 0, left[found] if len(left) else -1, -1)
        kept = np.flatnonzero(~connect | (txn >= 0))
        self._write_paths.keep(kept)
        txn = txn[kept]
        request = np.where(txn >= 0, txns.request_row[txn] if len(txns.zxid) else -1, -1)
        # A REQUEST older than the client's is that of an earlier one with this xid.
        early = (request >= 0) & (packets.ts[request] < ts[kept] if len(packets.ts) else False)
        request[early] = -1
        lost = np.flatnonzero((txn < 0) & (session[kept] != NONE))
        asked = np.flatnonzero(packets.of_kind(KIND["REQUEST"]))
        found = asof(
            (
                packets.session[asked],
                _cxids(packets.cxid[asked], packets.txn_type[asked] == created),
            ),
            packets.ts[asked],
            (session[kept][lost], _cxids(cxid[kept][lost], connect[kept][lost])),
            ts[kept][lost],
            forward=True,
        )
        request[lost] = np.where(found >= 0, asked[found] if len(asked) else -1, -1)
        written = np.flatnonzero(txn >= 0)
        txns.write[txn[written][::-1]] = written[::-1]
        return Writes(
            seq=columns["seq"][kept],
            ts=ts[kept],
            latency=columns["latency_ns"][kept],
            conn=columns["conn"][kept],
            session=session[kept],
            cxid=cxid[kept],
            zxid=zxid[kept],
            error=columns["error"][kept],
            op=columns["op"][kept],
            server=columns["server"][kept],
            client=columns["client"][kept],
            state=columns["state"][kept],
            txn=txn,
            request_row=request,
        )


def join(tables: Mapping[str, pa.Table | pa.RecordBatch]) -> Join:
    """Tables joined; those of :func:`zktrace.read`, say."""
    joiner = Joiner()
    joiner.add(tables)
    return joiner.join()


def _cxids(cxid: Ints, connects: Bools) -> Ints:
    """The cxid as a key: that of a createSession is 0, as that of the closeSession with which the
    leader ends an expired session, which is another request.
    """
    return np.where(connects & (cxid == 0), NONE, cxid)


def asof(
    keys: tuple[Ints, Ints],
    ts: Ints,
    wanted: tuple[Ints, Ints],
    at: Ints,
    *,
    forward: bool,
) -> Ints:
    """For each of `wanted`: which place of `keys` has the same two numbers and the time nearest to
    `at`, not before it (`forward`) or not after it. -1: none.
    """
    n = len(ts)
    if not n or not len(at):
        return np.full(len(at), -1, dtype=np.int64)
    _, first = ranked(np.concatenate((keys[0], wanted[0])))
    _, second = ranked(np.concatenate((keys[1], wanted[1])))
    pair = first * (int(second.max()) + 1) + second
    times = np.concatenate((ts, at))
    asks = np.arange(len(times)) >= n
    order = np.lexsort((~asks if forward else asks, times, pair))
    if forward:
        order = order[::-1]
    last = np.maximum.accumulate(np.where(asks[order], -1, np.arange(len(order))))
    mine = np.flatnonzero(asks[order])
    near = last[mine]
    found = order[near]
    asker = order[mine]
    fits = (near >= 0) & (pair[found] == pair[asker])
    result = np.full(len(at), -1, dtype=np.int64)
    result[asker - n] = np.where(fits, found, -1)
    return result


def _batches(table: pa.Table | pa.RecordBatch | None) -> Iterable[pa.RecordBatch]:
    if table is None:
        return ()
    return table.to_batches() if hasattr(table, "to_batches") else (table,)


def _numbered(values: Ints) -> tuple[Ints, Ints, Ints]:
    """Distinct small numbers in ascending order, where each comes first, and which one each value
    is. An engine numbers connections 0, 1, 2 ..., so a table by number is small.
    """
    size = int(values.max()) + 1 if len(values) else 0
    first = np.full(size, -1, dtype=np.int64)
    first[values[::-1]] = np.arange(len(values) - 1, -1, -1)
    there = np.flatnonzero(first >= 0)
    number = np.empty(size, dtype=np.int64)
    number[there] = np.arange(len(there))
    return there, first[there], number[values]


def _roles(packets: Packets, peers: list[Peer]) -> None:
    """Roles of learners whose first packet was not seen: only followers are sent COMMITs when they
    are up to date, and only they acknowledge; observers get INFORMs.
    """
    acks = packets.of_kind(KIND["ACK"]) & (packets.zxid & 0xFFFFFFFF != 0)
    for kinds, role in ((acks, FOLLOWER), (packets.of_kind(*_INFORMS), OBSERVER)):
        for at in np.flatnonzero(np.bincount(packets.peer[kinds])).tolist():
            peer = peers[at]
            if peer.role is None and not (role == OBSERVER and peer.handshake):
                peer.role = role


def _deliveries(
    packets: Packets, peers: list[Peer], leaders: Codes, created: int
) -> tuple[Txns, Deliveries]:
    known = packets.zxid != NONE
    carried = packets.of_kind(*_TXN) & known
    rows = np.flatnonzero(carried)
    txns, txn_of = _txns(packets, rows, leaders, created)

    acks = packets.of_kind(KIND["ACK"]) & known & (packets.zxid & 0xFFFFFFFF != 0)
    told = np.flatnonzero(carried | acks | (packets.of_kind(*_COMMITS) & known))
    zxids, place = ranked(packets.zxid[told])
    pairs, at = ranked(packets.peer[told] * len(zxids) + place)
    kinds = packets.kind[told]
    last = {}
    for name, wanted in (
        ("proposal", (KIND["PROPOSAL"],)),
        ("ack", (KIND["ACK"],)),
        ("commit", _COMMITS),
        ("inform", _INFORMS),
    ):
        mine = np.flatnonzero(np.logical_or.reduce([kinds == one for one in wanted]))[::-1]
        last[name] = np.full(len(pairs), -1, dtype=np.int64)
        last[name][at[mine]] = told[mine]
    peer = pairs // len(zxids) if len(zxids) else pairs
    zxid = zxids[pairs % len(zxids)] if len(zxids) else pairs

    carrier = np.where(last["proposal"] >= 0, last["proposal"], last["inform"])
    txn = np.full(len(pairs), -1, dtype=np.int64)
    if len(rows):
        number = np.full(len(packets.ts), -1, dtype=np.int64)
        number[rows] = txn_of
        txn = np.where(carrier >= 0, number[carrier], -1)
        # An ACK or COMMIT whose PROPOSAL was not captured: the txn that this leader sent others.
        bare = np.flatnonzero(txn < 0)
        sent = np.searchsorted(zxids, packets.zxid[rows])
        sent = leaders[packets.peer[rows]].astype(np.int64) * len(zxids) + sent
        bare_at = pairs[bare] % len(zxids)
        wanted_keys = leaders[peer[bare]].astype(np.int64) * len(zxids) + bare_at
        found = first_rows(sent, wanted_keys)
        txn[bare] = np.where(found >= 0, txn_of[found], -1)
    live_from = np.array([p.live_from for p in peers], dtype=np.int64)
    # Told by what the leader sent; an ACK alone is of the broadcast or not as its time is.
    sent_row = np.where(carrier >= 0, carrier, last["commit"])
    sent_row = np.where(sent_row >= 0, sent_row, last["ack"])
    syncing = sent_row < live_from[peer] if len(peers) else np.zeros(len(pairs), np.bool_)
    deliveries = Deliveries(
        peer=peer,
        zxid=zxid,
        txn=txn,
        proposal_row=last["proposal"],
        ack_row=last["ack"],
        commit_row=last["commit"],
        inform_row=last["inform"],
        syncing=syncing,
    )
    return txns, deliveries


def _txns(packets: Packets, rows: Ints, leaders: Codes, created: int) -> tuple[Txns, Ints]:
    """Distinct txns of the rows that carry one, and which one each row carries."""
    zxid, session, cxid = packets.zxid[rows], packets.session[rows], packets.cxid[rows]
    order = np.argsort(zxid, kind="stable")

    def changes(values: Ints) -> Bools:
        ordered = values[order]
        return np.concatenate((np.ones(min(len(rows), 1), np.bool_), ordered[1:] != ordered[:-1]))

    new = changes(zxid)
    if np.any((changes(session) | changes(cxid)) & ~new):
        # Several ensembles, or one that disagrees about a zxid.
        order = np.lexsort((rows, cxid, session, zxid))
        new = changes(zxid) | changes(session) | changes(cxid)
    number = np.empty(len(rows), dtype=np.int64)
    number[order] = np.cumsum(new) - 1
    first = rows[order[new]]
    asked = np.flatnonzero(packets.of_kind(KIND["REQUEST"]))
    request = asof(
        (packets.session[asked], _cxids(packets.cxid[asked], packets.txn_type[asked] == created)),
        packets.ts[asked],
        (packets.session[first], _cxids(packets.cxid[first], packets.txn_type[first] == created)),
        packets.ts[first],
        forward=False,
    )
    txns = Txns(
        zxid=packets.zxid[first],
        session=packets.session[first],
        cxid=packets.cxid[first],
        type=packets.txn_type[first],
        row=first,
        leader=leaders[packets.peer[first]],
        request_row=np.where(request >= 0, asked[request] if len(asked) else -1, -1),
        write=np.full(len(first), -1, dtype=np.int64),
    )
    return txns, number


def _by_zxid(txns: Txns, zxid: Ints, session: Ints, cxid: Ints) -> Ints:
    """The txn of each reply, by the zxid in its header; session and cxid prove it."""
    found = np.full(len(zxid), -1, dtype=np.int64)
    n = len(txns.zxid)
    if not n:
        return found
    low = np.searchsorted(txns.zxid, zxid)
    for step in range(_TRIES):
        at = np.minimum(low + step, n - 1)
        same = (txns.zxid[at] == zxid) & (zxid != NONE) & (found < 0)
        if not same.any():
            break
        fits = same & (txns.cxid[at] == cxid)
        fits &= (txns.session[at] == session) | (session == NONE)
        found[fits] = at[fits]
    return found
