"""Bytes of a real ensemble (3.8.0, 3.9.5) against values read from them by hand."""

from __future__ import annotations

import pytest

from zktrace.wire import election, message, quorum, session, txn
from zktrace.wire.codec import Record
from zktrace.wire.multi import MultiRequest, MultiResponse
from zktrace.wire.records import (
    ACL,
    ClientInfo,
    ConnectRequest,
    ConnectResponse,
    CreateRequest,
    CreateTTLRequest,
    GetChildrenResponse,
    GetDataResponse,
    Id,
    ReplyHeader,
    RequestHeader,
    SetWatches2,
    Stat,
    WatcherEvent,
    WhoAmIResponse,
)

OPEN = [ACL(31, Id("world", "anyone"))]
ACL_HEX = "000000010000001f00000005776f726c6400000006616e796f6e65"


def check(raw: str, value: Record) -> None:
    data = bytes.fromhex(raw)
    assert type(value).decode(data) == value
    assert value.encode() == data


def test_connect() -> None:
    check(
        "00000000 0000000000000000 00002710 0000000000000000 00000010" + "00" * 16 + "00",
        ConnectRequest(0, 0, 10000, 0, bytes(16), False),
    )
    reply = "00000000 00002710 0100001 1925f0000 00000010 537074fce496976de9e24c55cd3b0838 00"
    sid = 0x10000_11925F0000
    check(
        reply.replace(" ", ""),
        ConnectResponse(0, 10000, sid, session.password(sid), False),
    )
    # Clients older than 3.4 leave readOnly out, and so do the answers to them.
    old = bytes(24) + b"\0\0\0\0" + b"\0\0\0\x10" + bytes(16)
    assert len(old[4:]) == 44
    assert ConnectRequest.decode(old[4:]) == ConnectRequest(0, 0, 0, 0, bytes(16), None)
    assert ConnectRequest.decode(old[4:]).encode() == old[4:]
    assert ConnectResponse.decode(bytes(16) + b"\0\0\0\x10" + bytes(16)).read_only is None


@pytest.mark.parametrize(
    ("raw", "number", "body"),
    [
        (
            "00000001 00000001 000000022f61 0000000568656c6c6f" + ACL_HEX + "00000000",
            1,
            CreateRequest("/a", b"hello", OPEN, 0),
        ),
        (
            "00000001 00000015 000000042f74746c 0000000174" + ACL_HEX + "00000005 0000000000000bb8",
            21,
            CreateTTLRequest("/ttl", b"t", OPEN, 5, 3000),
        ),
        (
            "00000001 00000069 0000000100000038 00000001000000022f77 "
            "00000001000000092f772f6c6174657232 00000000 "
            "00000001000000052f772f7070 00000001000000022f77",
            105,
            SetWatches2(0x100000038, ["/w"], ["/w/later2"], [], ["/w/pp"], ["/w"]),
        ),
    ],
)
def test_requests(raw: str, number: int, body: message.Body) -> None:
    data = bytes.fromhex(raw)
    assert message.decode_request(data) == (RequestHeader(1, number), body)
    assert message.encode_request(1, number, body) == data


STAT = Stat(0x100000002, 0x100000002, 1795354921881, 1795354921881, 0, 6, 0, 0, 5, 6, 0x100000008)


@pytest.mark.parametrize(
    ("raw", "number", "header", "body"),
    [
        (
            "0000000f 000000010000000d 00000000 0000000568656c6c6f 0000000100000002"
            "0000000100000002 000001a2037e0b99 000001a2037e0b99 00000000 00000006 "
            "00000000 0000000000000000 00000005"
            "00000006 0000000100000008",
            4,
            ReplyHeader(15, 0x10000000D, 0),
            GetDataResponse(b"hello", STAT),
        ),
        (
            "00000019 0000000100000011 00000000 00000002 000000042f612f65"
            "000000102f612f65732d30303030303030303033",
            103,
            ReplyHeader(25, 0x100000011, 0),
            GetChildrenResponse(["/a/e", "/a/es-0000000003"]),
        ),
        (
            "00000029 000000010000001e 00000000 00000001 000000026970 000000093132372e302e302e31",
            107,
            ReplyHeader(41, 0x10000001E, 0),
            WhoAmIResponse([ClientInfo("ip", "127.0.0.1")]),
        ),
    ],
)
def test_replies(raw: str, number: int, header: ReplyHeader, body: message.Body) -> None:
    data = bytes.fromhex(raw)
    assert message.decode_reply(number, data) == (header, body)
    assert message.encode_reply(header.xid, header.zxid, header.err, body) == data


def test_watch_event_of_3_9_names_its_cause() -> None:
    data = bytes.fromhex("ffffffff 000000010000002f 00000000 00000003 00000003 000000022f77")
    header, pos = ReplyHeader.decode_from(data, 0, len(data))
    assert header == ReplyHeader(-1, 0x10000002F, 0)
    assert WatcherEvent.decode(data[pos:]) == WatcherEvent(3, 3, "/w")


def test_multi() -> None:
    data = bytes.fromhex(
        "00000001 00 ffffffff 000000052f6d2f6f6b 00000000" + ACL_HEX + "00000000"
        "0000000d 00 ffffffff 000000022f6d 00000037"
        "00000001 00 ffffffff 000000082f6d2f6e65766572 00000000" + ACL_HEX + "00000000"
        "ffffffff 01 ffffffff"
    )
    request = MultiRequest.decode(data)
    assert [op.type for op in request.ops] == [1, 13, 1]
    assert request.encode() == data
    data = bytes.fromhex(
        "ffffffff 00 00000000 00000000 ffffffff 00 ffffff99 ffffff99"
        "ffffffff 00 fffffffe fffffffe ffffffff 01 ffffffff"
    )
    reply = MultiResponse.decode(data)
    assert [(r.type, r.err) for r in reply.results] == [(-1, 0), (-1, -103), (-1, -2)]
    assert reply.encode() == data


def test_quorum() -> None:
    check(
        "0000000b 0000000000000000 00000014 0000000000000001 00010000 0000000000000000 ffffffff",
        quorum.QuorumPacket(11, 0, quorum.LearnerInfo(1, 0x10000, 0).encode(), None),
    )
    check("0000000c ffffffffffffffff ffffffff ffffffff", quorum.QuorumPacket(12, -1, None, None))
    check("5f2435013501edcc 00000000 00000000", quorum.QuorumAuthPacket(quorum.AUTH_MAGIC, 0, b""))
    assert quorum.LearnerInfo.decode(bytes(8)) == quorum.LearnerInfo(0)
    assert quorum.LearnerInfo.decode(bytes(12)) == quorum.LearnerInfo(0, 0)
    assert quorum.decode_sessions(bytes.fromhex("0100001e10f50003 00002710")) == [
        quorum.SessionTimeout(0x0100001E10F50003, 10000)
    ]
    request = quorum.ForwardedRequest.decode(
        bytes.fromhex("0100001e10f50003 00000000 fffffff6 00002710")
    )
    assert (request.type, request.body) == (-10, bytes.fromhex("00002710"))


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (
            "0100001e10f50003 00000000 0000000300000016 000001a2038aeabf fffffff6 00002710"
            "00000002 0000000bdfa42b8a",
            txn.CreateSessionTxn(10000),
        ),
        (
            "0100001e10f50003 00000002 0000000300000018 000001a2038aeb5b 00000001"
            "000000072f636f6e742f6b 00000000" + ACL_HEX + "00 00000001 00000002 0000000c5afb6d16",
            txn.CreateTxn("/cont/k", b"", OPEN, False, 1),
        ),
        (
            "0100001e10f50003 00000004 000000030000001a 000001a2038aebeb 00000015"
            "000000052f74746c78 0000000174" + ACL_HEX + "00000003 00000000000005dc"
            "00000002 0000000c42357e96",
            txn.CreateTTLTxn("/ttlx", b"t", OPEN, 3, 1500),
        ),
        (
            "0100001e10f50003 00000009 000000030000001f 000001a2038b1f7f fffffff5 00000000"
            "00000002 0000000b225c1e76",
            txn.CloseSessionTxn([]),
        ),
    ],
)
def test_txns(raw: str, body: Record) -> None:
    data = bytes.fromhex(raw)
    value = txn.Transaction.decode(data)
    assert value.body == body
    assert value.digest is not None
    assert value.digest.version == 2
    assert value.encode() == data


def test_election() -> None:
    data = bytes.fromhex("ffffffffffff0000 0000000000000003 0000000f3132372e302e302e333a3338383833")
    assert election.decode_initial(data, 0, len(data)) == (
        election.InitialMessage(election.PROTOCOL_V1, 3, "127.0.0.3:38883"),
        len(data),
    )
    data = bytes.fromhex(
        "00000000 0000000000000003 0000000000000000 0000000000000001 0000000000000000 00000002"
        "00000009 76657273696f6e3d30"
    )
    vote = election.decode_notification(data)
    assert vote == election.Notification(0, 3, 0, 1, 0, 2, b"version=0")
    assert vote.encode() == data
