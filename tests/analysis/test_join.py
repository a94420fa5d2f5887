"""Writes, txns and packets joined, against joins done slowly, row by row."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zktrace
from zktrace.analysis.columns import NONE, Texts, Words, first_rows, grouped, ints, ranked
from zktrace.analysis.join import FOLLOWER, KIND, OBSERVER, Join, Joiner, asof, join

PCAPS = Path(__file__).parents[2] / "pcaps"
CAPTURES = (
    *("02_basic_ops", "08_sync_diff", "09_sync_snap", "12_leader_kill", "13_session_expiry_move"),
    *("15_container_ttl_reap", "18_bare_check_poison", "22_pipelined", "27_midstream"),
    *("42_quorum_sasl", "54_v39_sync_snap", "57_v39_herd", "file_empty"),
)
CARRIERS = ("PROPOSAL", "INFORM", "INFORMANDACTIVATE")
NAMES = {
    "proposal_row": ("PROPOSAL",),
    "ack_row": ("ACK",),
    "commit_row": ("COMMIT", "COMMITANDACTIVATE"),
    "inform_row": ("INFORM", "INFORMANDACTIVATE"),
}
WRITES = {
    *("create", "create2", "createContainer", "createTTL", "delete", "setData", "setACL"),
    *("multi", "reconfig", "check", "closeSession", "deleteContainer", "connect"),
}


def expect_txns(quorum: list[dict[str, Any]]) -> dict[tuple[int, int, int], int]:
    """First row per (zxid, session, cxid)."""
    first: dict[tuple[int, int, int], int] = {}
    for row, packet in enumerate(quorum):
        if packet["type"] in CARRIERS:
            first.setdefault((packet["zxid"], packet["session"], packet["cxid"]), row)
    return first


def check(joined: Join, tables: dict[str, pa.Table]) -> None:
    quorum = tables["quorum"].to_pylist()
    exchanges = tables["exchanges"].to_pylist()
    txns, deliveries, writes = joined.txns, joined.deliveries, joined.writes
    first = expect_txns(quorum)
    keys = list(zip(txns.zxid.tolist(), txns.session.tolist(), txns.cxid.tolist(), strict=True))
    assert dict(zip(keys, txns.row.tolist(), strict=True)) == first
    assert txns.zxid.tolist() == sorted(txns.zxid.tolist())
    for at, row in enumerate(txns.row.tolist()):
        assert joined.ops.word(txns.type[at]) == quorum[row]["txn_type"]
        assert joined.addresses.word(txns.leader[at]) == quorum[row]["server"]
        before = [
            (packet["ts_ns"], number)
            for number, packet in enumerate(quorum)
            if packet["type"] == "REQUEST"
            and (packet["session"], packet["cxid"]) == keys[at][1:]
            and (packet["txn_type"] == "createSession")
            == (quorum[row]["txn_type"] == "createSession")
            and packet["ts_ns"] <= quorum[row]["ts_ns"]
        ]
        assert txns.request_row[at] == (max(before)[1] if before else -1)

    rows: dict[tuple[int, int], dict[str, int]] = defaultdict(dict)
    for row, packet in enumerate(quorum):
        for name, kinds in NAMES.items():
            epoch_ack = packet["type"] == "ACK" and packet["zxid"] % (1 << 32) == 0
            if packet["type"] in kinds and not epoch_ack:
                rows[packet["conn"], packet["zxid"]].setdefault(name, row)
    assert len(deliveries.peer) == len(rows)
    for at, (peer, zxid) in enumerate(
        zip(deliveries.peer.tolist(), deliveries.zxid.tolist(), strict=True)
    ):
        wanted = rows[joined.peers[peer].conn, zxid]
        for name in NAMES:
            assert getattr(deliveries, name)[at] == wanted.get(name, -1)
        carrier = wanted.get("proposal_row", wanted.get("inform_row"))
        if carrier is not None:
            packet = quorum[carrier]
            assert keys[deliveries.txn[at]] == (zxid, packet["session"], packet["cxid"])

    wanted_rows = {row["seq"]: row for row in exchanges if row["op"] in WRITES}
    for at, seq in enumerate(writes.seq.tolist()):
        exchange = wanted_rows.pop(seq)
        cxid = 0 if exchange["op"] == "connect" else exchange["xid"]
        session, zxid, txn = exchange["session"], exchange["zxid"], writes.txn[at]
        fits = {
            number
            for number, key in enumerate(keys)
            if key[0] == zxid and key[2] == cxid and session in (None, key[1])
        }
        if fits:
            assert txn in fits
        elif txn >= 0:
            assert keys[txn][1:] == (session, cxid)
            assert quorum[txns.row[txn]]["ts_ns"] >= exchange["ts_ns"]
        if txn >= 0:
            assert writes.txn[txns.write[txn]] == txn
        request = writes.request_row[at]
        if request >= 0:
            packet = quorum[request]
            assert packet["type"] == "REQUEST"
            assert packet["cxid"] == cxid
            assert packet["ts_ns"] >= exchange["ts_ns"]
        path = exchange["path"]
        assert joined.write_paths[at] == path
    # What is left out made no session.
    assert all(exchange["op"] == "connect" for exchange in wanted_rows.values())


@pytest.mark.parametrize("name", CAPTURES)
def test_as_row_by_row(name: str, engine: str) -> None:
    tables = zktrace.read(PCAPS / f"{name}.pcap", engine=engine).tables
    check(join(tables), tables)


@pytest.mark.parametrize("name", ["08_sync_diff", "12_leader_kill", "13_session_expiry_move"])
def test_every_answered_write_has_its_txn(name: str, engine: str) -> None:
    joined = join(zktrace.read(PCAPS / f"{name}.pcap", engine=engine).tables)
    writes = joined.writes
    answered = writes.zxid != NONE
    assert answered.sum() >= 6
    assert (writes.txn[answered] >= 0).all()
    # Only connects have no zxid and yet an answer.
    others = (writes.txn >= 0) & ~answered & (writes.latency != NONE)
    assert {joined.ops.word(code) for code in writes.op[others]} <= {"connect"}


WORDS = {"op": "ops", "type": "ops", "txn_type": "ops", "state": "states"}
WORDS |= dict.fromkeys(("client", "server", "leader"), "addresses")


def values(joined: Join, part: str, field: str) -> list[Any]:
    """A column, words as words: their numbers depend on what came first."""
    column: list[Any] = getattr(getattr(joined, part), field).tolist()
    if field in WORDS:
        words = getattr(joined, WORDS[field])
        return [words.word(code) for code in column]
    return column


def test_batches_give_the_same(engine: str) -> None:
    path = PCAPS / "12_leader_kill.pcap"
    whole = join(zktrace.read(path, engine=engine).tables)
    tables = zktrace.read(path, engine=engine).tables
    for size in (1, 3, 1000):
        joiner = Joiner()
        for kind in ("exchanges", "quorum"):
            for batch in tables[kind].to_batches(max_chunksize=size):
                joiner.add({kind: batch})
        joined = joiner.join()
        assert joined.peers == whole.peers
        for part in ("packets", "txns", "deliveries", "writes"):
            for field in getattr(whole, part).__slots__:
                assert values(joined, part, field) == values(whole, part, field), (part, field)


def renamed(tables: dict[str, pa.Table], conns: int, sessions: int) -> dict[str, pa.Table]:
    """The same traffic of another ensemble: zxids stay."""
    made = {}
    for kind in ("exchanges", "quorum"):
        rows = tables[kind].to_pylist()
        for row in rows:
            row["conn"] += conns
            row["seq"] += conns << 20
            row["session"] = None if row["session"] is None else row["session"] + sessions
            row["server"] = "10" + row["server"][3:]
        made[kind] = pa.Table.from_pylist(rows, schema=tables[kind].schema)
    return made


def test_two_ensembles() -> None:
    """Two ensembles with the same zxids at the same time stay apart."""
    tables = zktrace.read(PCAPS / "12_leader_kill.pcap").tables
    others = renamed(tables, 1000, 1 << 40)
    both = {}
    for kind in ("exchanges", "quorum"):
        mixed = tables[kind].to_pylist() + others[kind].to_pylist()
        mixed.sort(key=lambda row: row["seq"])
        both[kind] = pa.Table.from_pylist(mixed, schema=tables[kind].schema)
    joined = join(both)
    alone = join(tables)
    check(joined, both)
    assert len(joined.txns.zxid) == 2 * len(alone.txns.zxid)
    assert (joined.writes.txn >= 0).sum() == 2 * (alone.writes.txn >= 0).sum()


def test_who_the_learners_are(engine: str) -> None:
    joined = join(zktrace.read(PCAPS / "12_leader_kill.pcap", engine=engine).tables)
    told = [(p.leader, p.role, p.sid, p.epoch, p.sync, p.opened) for p in joined.peers]
    assert told == [
        ("127.0.0.2:28882", FOLLOWER, None, None, None, False),
        ("127.0.0.2:28882", OBSERVER, None, None, None, False),
        ("127.0.0.2:28882", FOLLOWER, 1, None, None, False),  # it made sessions
        ("127.0.0.3:28883", FOLLOWER, 1, 3, "DIFF", True),
        ("127.0.0.3:28883", OBSERVER, 4, 3, "DIFF", True),
        ("127.0.0.3:28883", FOLLOWER, 2, 3, "DIFF", True),
    ]
    packets = joined.packets
    for peer in joined.peers[3:]:
        assert peer.handshake is not None
        assert peer.live_from == peer.handshake["UPTODATE"] + 1
        assert packets.kind[peer.sync_row] == KIND["DIFF"]
    # The old leader came back with what it had missed of the new epoch.
    deliveries = joined.deliveries
    assert set(deliveries.peer[deliveries.syncing].tolist()) == {5}


small = st.integers(min_value=0, max_value=3)
entries = st.lists(st.tuples(small, small, st.integers(min_value=0, max_value=9)), max_size=12)


@given(entries, entries, st.booleans())
def test_asof(
    have: list[tuple[int, int, int]], want: list[tuple[int, int, int]], fwd: bool
) -> None:
    def columns(rows: list[tuple[int, int, int]]) -> list[Any]:
        return [np.array([row[i] for row in rows], dtype=np.int64) for i in range(3)]

    a, b = columns(have), columns(want)
    found = asof((a[0], a[1]), a[2], (b[0], b[1]), b[2], forward=fwd)
    for (x, y, at), place in zip(want, found.tolist(), strict=True):
        times = [t for i, j, t in have if (i, j) == (x, y) and (t >= at if fwd else t <= at)]
        if not times:
            assert place == -1
        else:
            assert have[place] == (x, y, min(times) if fwd else max(times))


@given(st.lists(small), st.lists(small))
def test_first_rows(keys: list[int], wanted: list[int]) -> None:
    found = first_rows(np.array(keys, np.int64), np.array(wanted, np.int64))
    assert found.tolist() == [keys.index(key) if key in keys else -1 for key in wanted]


@given(st.lists(st.integers(min_value=-(1 << 63), max_value=(1 << 63) - 1) | small))
def test_ranked(values: list[int]) -> None:
    found, which = ranked(np.array(values, np.int64))
    assert found.tolist() == sorted(set(values))
    assert found[which].tolist() == values


@given(st.lists(st.tuples(small, small, small)))
def test_grouped(rows: list[tuple[int, int, int]]) -> None:
    columns = [np.array([row[i] for row in rows], np.int64) for i in range(3)]
    found, which = grouped(*columns)
    assert found == sorted(set(rows))
    assert [found[at] for at in which.tolist()] == rows


def test_texts() -> None:
    """Dictionaries that go on and others; rows that are chosen; nulls."""
    texts = Texts()
    batches: list[list[str | None]] = [["a", None, "b"], ["b", "ä", "a"], ["x", "a"]]
    growing = [["a", "b"], ["a", "b", "ä"], ["x", "a"]]
    for words, dictionary in zip(batches, growing, strict=True):
        codes = [None if word is None else dictionary.index(word) for word in words]
        column = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(dictionary))
        texts.add(column.slice(1), None if len(dictionary) != 3 else np.array([1, 0]))
    assert [texts[i] for i in range(len(texts))] == [None, "b", "a", "ä", "a"]
    texts.keep(np.array([3, 0]))
    assert [texts[i] for i in range(len(texts))] == ["ä", None]


def test_columns() -> None:
    assert ints(pa.array([1, None, 3], pa.int32())).tolist() == [1, NONE, 3]
    words = Words(("a",))
    column = pa.array(["b", None, "a", "b"]).dictionary_encode()
    assert words.codes(column).tolist() == [1, -1, 0, 1]
    assert [words.word(code) for code in (0, 1, -1)] == ["a", "b", None]
    assert words.code(None) == -1
    assert len(words) == 2
