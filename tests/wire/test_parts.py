"""What is not plain records: multi, txns, snapshots, files, election, Keeper, sessions."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import of_record
from zktrace.wire import election, files, keeper, message, quorum, schema, session, txn, zxid
from zktrace.wire.jute import WireError
from zktrace.wire.multi import MultiOp, MultiRequest, MultiResponse, MultiResult
from zktrace.wire.opcodes import BY_NUMBER, OPS, Op
from zktrace.wire.records import (
    ACL,
    Empty,
    ErrorResponse,
    FilteredListRequest,
    Id,
    MultiHeader,
    PathVersionRequest,
    StatPersisted,
)
from zktrace.wire.snapshot import AclCacheEntry, DataNode, Snapshot, SnapshotHead, ZxidDigest

SUB_OPS = [op for op in OPS if not isinstance(op.request, str) and op.number not in (-1, 500)]
NODE = DataNode(b"x", -1, StatPersisted(*range(9)))


def _ops(op: Op) -> st.SearchStrategy[MultiOp]:
    assert not isinstance(op.request, str)
    return of_record(op.request).map(lambda body: MultiOp(op.number, body))


def _results(op: Op) -> st.SearchStrategy[MultiResult]:
    assert not isinstance(op.reply, str)
    return of_record(op.reply).map(lambda body: MultiResult(op.number, 0, body))


@given(st.lists(st.sampled_from(SUB_OPS).flatmap(_ops), max_size=5))
def test_multi_round_trip(ops: list[MultiOp]) -> None:
    value = MultiRequest(ops)
    assert MultiRequest.decode(value.encode()) == value


@given(st.lists(st.sampled_from(SUB_OPS).flatmap(_results), max_size=5))
def test_multi_results_round_trip(results: list[MultiResult]) -> None:
    value = MultiResponse([*results, MultiResult(-1, -101, ErrorResponse(-101))])
    assert MultiResponse.decode(value.encode()) == value


def test_keeper_results_with_an_error_have_no_body() -> None:
    value = MultiResponse([MultiResult(4, -101, None), MultiResult(13, 0, Empty())])
    assert MultiResponse.decode(value.encode()) == value


def test_a_list_type_inside_a_multi_is_one_byte() -> None:
    ops = [MultiOp(500, FilteredListRequest("/a", False, 1, b""))] * 2
    assert MultiRequest.decode(MultiRequest(ops).encode()) == MultiRequest(ops)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        MultiHeader(4242, False, -1).encode(),
        MultiHeader(14, False, -1).encode(),
        MultiHeader(1, True, -1).encode(),
        MultiHeader(-1, True, -1).encode() + b"x",
        MultiHeader(2, False, -1).encode() + PathVersionRequest("/", 0).encode(),
    ],
)
def test_wrong_multis(raw: bytes) -> None:
    for cls in (MultiRequest, MultiResponse):
        with pytest.raises(WireError):
            cls.decode(raw)


@given(st.binary(max_size=120), st.sampled_from([*BY_NUMBER, 4242]), st.integers(-200, 3))
def test_any_bytes_give_a_message_or_a_wire_error(raw: bytes, number: int, err: int) -> None:
    for call in (
        lambda: message.decode_request(struct.pack(">ii", 1, number) + raw),
        lambda: message.decode_reply(number, struct.pack(">iqi", 1, 1, max(err, 0) % 2) + raw),
        lambda: MultiRequest.decode(MultiHeader(number, False, -1).encode() + raw),
        lambda: MultiResponse.decode(MultiHeader(number, False, err).encode() + raw),
        lambda: txn.Transaction.decode(txn.TxnHeader(1, 2, 3, 4, number).encode() + raw),
        lambda: Snapshot.decode_from(raw, 0, len(raw)),
        lambda: election.decode_initial(raw, 0, len(raw)),
        lambda: election.decode_notification(raw),
        lambda: quorum.decode_sessions(raw),
        lambda: keeper.read_tracing(raw, 0, len(raw)),
        lambda: list(files.read_log(files.FileHeader(files.LOG_MAGIC, 2, 0).encode() + raw)),
        lambda: files.SnapshotFile.decode(raw),
    ):
        try:
            call()
        except WireError:
            pass


def test_failed_replies_have_no_body() -> None:
    assert message.decode_reply(4, message.encode_reply(1, 2, -101))[1] is None
    with pytest.raises(WireError):
        message.decode_reply(4, message.encode_reply(1, 2, -101) + b"x")
    assert message.frame(b"abc") == b"\0\0\0\3abc"


# --- txns ---------------------------------------------------------------------------------------


@given(st.data(), st.sampled_from(sorted(txn.BODIES)), st.booleans())
def test_txns_round_trip(data: st.DataObject, number: int, digest: bool) -> None:
    body = data.draw(of_record(txn.BODIES[number][0]))
    value = txn.Transaction(
        data.draw(of_record(txn.TxnHeader)), body, txn.TxnDigest(2, 77) if digest else None
    )
    value.header.type = number
    assert txn.Transaction.decode(value.encode()) == value


@pytest.mark.parametrize("digest", [None, txn.TxnDigest(2, 0x0BDFA42B8A)])
def test_old_and_missing_bodies(digest: txn.TxnDigest | None) -> None:
    old = txn.Transaction(
        txn.TxnHeader(1, 2, 3, 4, 1),
        txn.CreateTxnV0("/a", b"", [ACL(31, Id("world", "anyone"))], True),
        digest,
    )
    assert txn.Transaction.decode(old.encode()) == old
    close = txn.Transaction(txn.TxnHeader(1, 2, 3, 4, -11), None, digest)
    assert txn.Transaction.decode(close.encode()) == close


def test_parts_of_a_multi_txn() -> None:
    part = txn.Txn(5, txn.SetDataTxn("/a", b"", 3).encode())
    assert txn.decode_part(part) == txn.SetDataTxn("/a", b"", 3)
    with pytest.raises(WireError):
        txn.decode_part(txn.Txn(5, (part.data or b"") + bytes(12)))
    with pytest.raises(WireError):
        txn.decode_part(txn.Txn(99, b""))


# --- snapshots and files ------------------------------------------------------------------------


def snapshot() -> Snapshot:
    head = SnapshotHead(
        [quorum.SessionTimeout(0x100, 10000)], [AclCacheEntry(1, [ACL(31, Id("world", "anyone"))])]
    )
    return Snapshot(head, [("", NODE), ("/zookeeper", NODE), ("/zookeeper/BenWasHere", NODE)])


def test_snapshot_stream_ends_where_packets_go_on() -> None:
    raw = snapshot().encode()
    assert raw.endswith(b"\0\0\0\x01/\0\0\0\x0aBenWasHere")
    assert Snapshot.decode_from(raw + b"more", 0, len(raw) + 4) == (snapshot(), len(raw))
    for size in range(len(raw)):
        with pytest.raises(WireError):
            Snapshot.decode_from(raw, 0, size)
    with pytest.raises(WireError, match="signature"):
        Snapshot.decode_from(raw[:-1] + b"E", 0, len(raw))


@pytest.mark.parametrize("digest", [None, ZxidDigest(5, 2, 99)])
@pytest.mark.parametrize("last", [None, 5])
def test_snapshot_files(digest: ZxidDigest | None, last: int | None) -> None:
    value = files.SnapshotFile(snapshot(), digest, last if digest else None)
    raw = value.encode()
    assert files.SnapshotFile.decode(raw) == value
    broken = bytearray(raw)
    broken[60] ^= 1
    with pytest.raises(WireError):
        files.SnapshotFile.decode(bytes(broken))


def test_txn_logs() -> None:
    txns = [
        txn.Transaction(txn.TxnHeader(1, i, i, i, 2), txn.DeleteTxn(f"/{i}"), txn.TxnDigest(2, i))
        for i in range(3)
    ]
    head = files.FileHeader(files.LOG_MAGIC, files.VERSION, files.LOG_DBID).encode()
    raw = head + b"".join(files.encode_entry(t.encode()) for t in txns)
    assert list(files.read_log(raw)) == txns
    assert list(files.read_log(raw + bytes(64))) == txns
    for wrong, text in (
        (raw[:-1] + b"C", "end mark"),
        (raw[:-2], "cut off"),
        (raw[:-3] + b"?" + raw[-2:], "checksum"),
        (b"????" + raw[4:], "not a txn log"),
    ):
        with pytest.raises(WireError, match=text):
            list(files.read_log(wrong))


# --- election -----------------------------------------------------------------------------------


def test_initial_messages() -> None:
    old = struct.pack(">q", 7)
    assert election.decode_initial(old, 0, 8) == (election.InitialMessage(0, 7, None), 8)
    raw = election.InitialMessage(election.PROTOCOL_V2, 1, "a:1|b:2").encode()
    for size in range(len(raw)):
        assert election.decode_initial(raw, 0, size) is None
    assert election.decode_initial(raw + b"x", 0, len(raw) + 1) == (
        election.InitialMessage(election.PROTOCOL_V2, 1, "a:1|b:2"),
        len(raw),
    )
    for wrong in (struct.pack(">q", -1), raw[:16] + bytes(4), raw[:16] + b"\0\0\x08\x01"):
        with pytest.raises(WireError):
            election.decode_initial(wrong, 0, len(wrong))


def test_notification_lengths() -> None:
    assert election.decode_notification(bytes(28)).peer_epoch is None
    old = election.decode_notification(bytes(40))
    assert (old.peer_epoch, old.version, old.config) == (0, 0, None)
    assert election.decode_notification(bytes(44)).config == b""
    for size in (0, 27, 29, 36, 39, 41, 43, 45):
        with pytest.raises(WireError):
            election.decode_notification(bytes(size))


# --- Keeper -------------------------------------------------------------------------------------


def test_keeper_handshakes() -> None:
    assert [keeper.uncounted_handshake_bytes(v) for v in (0, 10, 11, 12, 13, 42)] == [
        0, 0, 1, 2, 2, 0,
    ]  # fmt: skip
    assert len(keeper.ConnectRequestXid64(11, True, 0, 1, 0, bytes(16), True).encode()) == 46
    raw = keeper.ConnectRequestTracing(12, True, False, 0, 1, 0, bytes(16), True).encode()
    assert len(raw) == 47
    assert len(keeper.ReplyHeader64(1, 2, 0).encode()) == 20


def test_tracing_context() -> None:
    text = b"\x01f3c2a9d0-0000-0000-0000-00000000002a\n123\nvendor=1\n1\n"
    want = keeper.TracingContext("f3c2a9d0-0000-0000-0000-00000000002a", 123, "vendor=1", 1)
    assert keeper.read_tracing(text + b"next", 0, len(text) + 4) == (want, len(text))
    for size in range(len(text)):
        assert keeper.read_tracing(text, 0, size) is None
    assert keeper.read_tracing(b"\0rest", 0, 5) == (None, 1)
    for wrong in (b"\x01" + b"a" * 5000, b"\x01short\n1\n\n1\n", text.replace(b"123", b"x23")):
        with pytest.raises(WireError):
            keeper.read_tracing(wrong, 0, len(wrong))


# --- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sid", "password"),
    [
        # Seen from a 3.8.0 server.
        (0x0100001_1925F0000, "537074fce496976de9e24c55cd3b0838"),
        # java.util.Random(0).nextBytes: the well-known first bytes of seed 0.
        (0xB3415C00, "60b420bb3851d9d47acb933dbe70399b"),
    ],
)
def test_session_passwords(sid: int, password: str) -> None:
    assert session.password(sid).hex() == password


def test_signed_and_unsigned_ids_are_the_same_session() -> None:
    assert session.password(-1) == session.password(2**64 - 1)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_zxids(epoch: int, counter: int) -> None:
    value = zxid.make(epoch, counter)
    assert -(2**63) <= value < 2**63
    assert (zxid.epoch(value), zxid.counter(value)) == (epoch, counter)
    assert int(zxid.text(value), 16) == (epoch << 32) | counter


def test_texts() -> None:
    assert zxid.text(0x10000000D) == "0x10000000d"
    assert zxid.text(-1) == "0xffffffffffffffff"
    assert zxid.session_text(1) == "0x0000000000000001"


# --- the schema as data -------------------------------------------------------------------------


def test_describe_is_json() -> None:
    data: dict[str, Any] = json.loads(json.dumps(schema.describe()))
    ops = {op["name"]: op for op in data["opcodes"]}
    assert len(ops) == len(OPS)
    assert ops["create"]["effect"] == "write"
    assert ops["create"]["txn"] == ["CreateTxn", "CreateTxnV0"]
    assert {"name": "acl", "type": "vector<ACL>", "optional": False} in ops["create"]["request"][
        "fields"
    ]
    assert ops["multi"]["request"] == {"record": "multi", "fields": []}
    assert data["records"]["ConnectRequest"]["fields"][-1]["optional"] is True
    assert data["errors"]["-101"] == "NoNode"
    assert data["four_letter_words"]["72756f6b"] == "ruok"
    assert data["records"]["Stat"]["doc"].startswith("A znode's bookkeeping")


def test_packet_names() -> None:
    assert quorum.packet_name(2) == "PROPOSAL"
    with pytest.raises(WireError):
        quorum.packet_name(20)
