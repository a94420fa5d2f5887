"""The quorum and election ports: every packet and vote that the wire codecs can make is read back,
in whatever pieces; both engines agree on what no server would send.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import needs_native
from tests.support import mangle
from tests.support.cases import records
from tests.support.decoded import KINDS, decode_records
from tests.wire.strategies import of_record
from zktrace.stream.budget import Budget
from zktrace.stream.election import ElectionMachine
from zktrace.stream.events import Row
from zktrace.stream.machine import Context
from zktrace.stream.quorum import QuorumMachine
from zktrace.stream.rows import Counters
from zktrace.stream.schema import Scanner, parse_schema
from zktrace.wire import election as wire_election
from zktrace.wire import quorum as wire
from zktrace.wire.layout import schema_text
from zktrace.wire.opcodes import op_name
from zktrace.wire.snapshot import DataNode, Snapshot, SnapshotHead
from zktrace.wire.txn import BODIES, Transaction, TxnDigest, TxnHeader

REAL = ("01_election_start", "08_sync_diff", "09_sync_snap", "12_leader_kill", "42_quorum_sasl")
WHO = (0, "10.0.0.1:40000", "10.0.0.2:2888")
SCHEMA = parse_schema(schema_text())


class Sink:
    """Keeps quorum and election rows, and anomalies."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.anomalies: list[Row] = []

    def quorum(self, row: Row) -> None:
        self.rows.append(row)

    def election(self, row: Row) -> None:
        self.rows.append(row)

    def anomaly(self, row: Row) -> None:
        self.anomalies.append(row)

    def exchange(self, row: Row) -> None:
        raise AssertionError

    watch_event = connection = four_letter = exchange


def machine(kind: Any, opened: bool = True) -> tuple[Any, Sink, Context]:
    sink = Sink()
    context = Context(sink, SCHEMA, Scanner(SCHEMA), Counters(), Budget())
    return kind(context, WHO, opened), sink, context


def fed(kind: Any, data: bytes, cuts: list[int], *, to_server: bool, opened: bool = True) -> Sink:
    """What a machine makes of bytes cut at some places."""
    made, sink, context = machine(kind, opened)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, stop in pairwise(places):
        (made.to_server if to_server else made.to_client)(5, data[start:stop])
    made.end(5)
    assert context.budget.used == 0
    return sink


@st.composite
def txns(draw: st.DrawFn) -> Transaction:
    number = draw(st.sampled_from(sorted(BODIES.keys() - {14})))
    head = TxnHeader(draw(st.integers(1, 9)), draw(st.integers(0, 9)), 77, 1, number)
    body = draw(of_record(BODIES[number][0]))
    digest = draw(st.none() | st.builds(TxnDigest, st.just(2), st.integers(0, 1 << 40)))
    return Transaction(head, body, digest)


CUTS = st.lists(st.integers(0, 4000), max_size=8)


@given(st.lists(txns(), min_size=1, max_size=4), CUTS)
def test_txns_come_back(made: list[Transaction], cuts: list[int]) -> None:
    data = b"".join(wire.QuorumPacket(2, 77, txn.encode(), None).encode() for txn in made)
    sink = fed(QuorumMachine, data, cuts, to_server=False)
    assert not sink.anomalies
    for txn, row in zip(made, sink.rows, strict=True):
        assert row[4:7] == ("PROPOSAL", "to_learner", 77)
        assert row[8:11] == (txn.header.session_id, txn.header.cxid, op_name(txn.header.type))
        path = getattr(txn.body, "path", None)
        assert row[11] == (("" if path is None else path) if hasattr(txn.body, "path") else None)


@given(st.lists(of_record(wire.QuorumPacket), max_size=4), st.booleans(), CUTS)
def test_any_packet_is_framed(
    packets: list[wire.QuorumPacket], to_server: bool, cuts: list[int]
) -> None:
    for packet in packets:
        packet.type = 1 + packet.type % 14  # known ones but SNAP, which a snapshot follows
    data = b"".join(packet.encode() for packet in packets)
    sink = fed(QuorumMachine, data, cuts, to_server=to_server)
    sizes = [(SCHEMA.packets[p.type], len(p.encode())) for p in packets]
    assert [(row[4], row[7]) for row in sink.rows] == sizes


@given(of_record(SnapshotHead), st.lists(of_record(DataNode), max_size=5), CUTS)
def test_snapshots_are_read_to_their_end(
    head: SnapshotHead, nodes: list[DataNode], cuts: list[int]
) -> None:
    head.sessions = head.sessions or []
    snapshot = Snapshot(head, [("", nodes[0])] if nodes else [])
    snapshot.nodes += [(f"/{i}", node) for i, node in enumerate(nodes[1:])]
    snap = wire.QuorumPacket(15, 1 << 32, None, None).encode()
    after = wire.QuorumPacket(10, 2 << 32, b"text", None).encode()
    sink = fed(QuorumMachine, snap + snapshot.encode() + after, cuts, to_server=False)
    assert [row[4] for row in sink.rows] == ["SNAP", "NEWLEADER"]
    # the last columns: snapshot_bytes, snapshot_nodes, config, late, txn_hash
    assert sink.rows[0][-5:-3] == (len(snapshot.encode()), len(nodes))
    assert not sink.anomalies


def _vote(config: bytes | None, leader: int) -> bytes:
    note = wire_election.Notification(0, leader, 5, 1, 2, 2, config)
    return len(note.encode()).to_bytes(4, "big") + note.encode()


@given(st.integers(0, 255), st.lists(st.binary(max_size=40), max_size=4), CUTS)
def test_votes_come_back(sid: int, configs: list[bytes], cuts: list[int]) -> None:
    first = wire_election.InitialMessage(wire_election.PROTOCOL_V1, sid, "h:1").encode()
    data = first + b"".join(_vote(config, wire_election.NO_VOTE) for config in configs)
    sink = fed(ElectionMachine, data, cuts, to_server=True)
    assert not sink.anomalies
    assert [row[4] for row in sink.rows] == ["initial", *["notification"] * len(configs)]
    assert all(row[6] == sid and row[9] is None for row in sink.rows)


def test_old_notifications() -> None:
    old = (0).to_bytes(8, "big")  # a sid alone
    for size in (28, 40):
        data = old + size.to_bytes(4, "big") + bytes(size)
        sink = fed(ElectionMachine, data, [9], to_server=True)
        assert [(row[4], row[-1]) for row in sink.rows] == [("initial", 8), ("notification", size)]


@given(st.binary(max_size=400), st.booleans(), st.booleans(), CUTS)
@settings(max_examples=200)
def test_hostile_bytes_do_no_harm(
    data: bytes, to_server: bool, opened: bool, cuts: list[int]
) -> None:
    for kind in (QuorumMachine, ElectionMachine):
        fed(kind, data, cuts, to_server=to_server, opened=opened)


def test_lengths_allocate_nothing() -> None:
    made, _sink, context = machine(QuorumMachine)
    made.to_client(0, (2).to_bytes(4, "big") + bytes(8) + (64 << 20).to_bytes(4, "big"))
    assert context.budget.used < 2 << 20
    made.end(0)
    assert context.budget.used == 0


def test_a_gap_inside_known_data_keeps_the_boundary() -> None:
    commit = wire.QuorumPacket(4, 9, None, None).encode()
    data = wire.QuorumPacket(10, 1 << 32, b"x" * 1000, None).encode() + commit
    made, sink, context = machine(QuorumMachine)
    made.to_client(1, data[:100])
    made.gap(False, 2, 400)
    made.to_client(3, data[500:])
    assert [row[4] for row in sink.rows] == ["NEWLEADER", "COMMIT"]
    assert context.counters.desyncs == 0
    # one that takes the boundary with it: found again by what follows
    made.gap(False, 4, 10)
    made.to_client(5, b"\1" * 33 + commit * 4)
    assert [row[4] for row in sink.rows[2:]] == ["COMMIT"] * 4
    assert context.counters.skipped_bytes == 400 + 10 + 33
    assert [row[4] for row in sink.anomalies] == ["gap", "gap", "resync"]


def _server_rows(decoded: Any) -> dict[str, Any]:
    """Rows by who sent them to whom: who opened a joined connection is not always known."""
    out: dict[str, Any] = {}
    for row in [*decoded.quorum, *decoded.elections]:
        ends = [row["client"], row["server"]]
        if row["direction"] in ("to_learner", "to_opener"):
            ends.reverse()
        aside = ("seq", "conn", "ts_ns", "client", "server", "flow", "direction")
        plain = {key: value for key, value in row.items() if key not in aside}
        out.setdefault(">".join(ends), []).append(plain)
    return out


@pytest.mark.parametrize(
    ("name", "size"), [*((name, 7) for name in REAL), ("09_sync_snap", 1), ("42_quorum_sasl", 1)]
)
def test_segments_do_not_matter(name: str, size: int, engine: str) -> None:
    whole = decode_records(records(name), engine=engine)
    cut = decode_records(mangle.split(records(name), size), engine=engine)
    assert _server_rows(cut) == _server_rows(whole)
    assert cut.coverage["quorum_packets"] == whole.coverage["quorum_packets"]


def test_sasl_hides_nothing(engine: str) -> None:
    """The packets behind quorum SASL, which the reference counts do not have."""
    decoded = decode_records(records("42_quorum_sasl"), engine=engine)
    types = Counter(row["type"] for row in decoded.quorum)
    assert len(decoded.quorum) == 48
    assert types["FOLLOWERINFO"] == types["UPTODATE"] == 2
    assert len(decoded.elections) == 20
    assert not {row["reason"] for row in decoded.anomalies} & {"malformed", "resync"}


@needs_native
@pytest.mark.parametrize("seed", range(40))
def test_engines_agree_on_damage(seed: int) -> None:
    rng = random.Random(seed)
    mangled = list(records(rng.choice(REAL)))
    mangled = [r for r in mangled if rng.random() > rng.choice([0, 0.02, 0.2])]
    mangled = mangled[rng.choice([0, rng.randrange(len(mangled))]) :]
    for at, record in enumerate(mangled):
        if rng.random() < 0.1 and len(record.data) > 70:
            data = bytearray(record.data)
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(66, len(data))] = rng.choice([0, 1, 15, 255])
            mangled[at] = type(record)(**{**_fields(record), "data": bytes(data)})
    python, native = (decode_records(mangled, engine=engine) for engine in ("python", "native"))
    for kind in KINDS:
        assert python.kind(kind) == native.kind(kind), kind
    assert python.coverage == native.coverage


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}
