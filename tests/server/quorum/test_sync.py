"""Requests that were sent behind a sync, before its answer came, as pipelining clients do."""

from __future__ import annotations

import struct

import pytest

from tests.server.core.test_fast import framed
from tests.server.operations import OPEN
from tests.server.quorum.test_quick import Way
from zktrace.wire.codec import Record
from zktrace.wire.message import encode_request
from zktrace.wire.records import (
    CreateRequest,
    GetDataResponse,
    PathRequest,
    PathWatchRequest,
    SetDataRequest,
)
from zktrace_server.core import request as op
from zktrace_server.core.quorum.link import Link


class Slow(Way):
    """Syncs are done when :meth:`synced` is called, long after what was sent behind them."""

    def sync(self, link: Link | None) -> None:
        pass

    def synced(self) -> None:
        self.server.synced()

    def send(self, *requests: tuple[int, int, Record]) -> None:
        self.receive(0, b"".join(framed(encode_request(*one)) for one in requests))


def answers(said: bytes) -> list[tuple[int, bytes]]:
    """xids and bodies of replies."""
    found, at = [], 0
    while at < len(said):
        length, xid, _zxid, err = struct.unpack_from(">iiqi", said, at)
        assert err == 0
        found.append((xid, said[at + 20 : at + 4 + length]))
        at += 4 + length
    return found


@pytest.mark.parametrize("fast", [True, False])
def test_each_is_answered_in_its_turn(fast: bool) -> None:
    way = Slow(fast)
    way.send((1, op.CREATE, CreateRequest("/x", b"0", OPEN, 0)))
    way.commit(100)
    read, synced = PathWatchRequest("/x", False), PathRequest("/x")
    way.send(
        (2, op.SYNC, synced),
        (3, op.SET_DATA, SetDataRequest("/x", b"3", -1)),
        (4, op.GET_DATA, read),
        (5, op.SET_DATA, SetDataRequest("/x", b"5", -1)),
        (6, op.SYNC, synced),
        (7, op.GET_DATA, read),
        (8, op.SET_DATA, SetDataRequest("/x", b"8", -1)),
        (9, op.GET_DATA, read),
    )
    said = way.commit(100)[0]
    for _ in range(2):
        way.synced()
        said += way.commit(100)[0]
    found = answers(said)
    assert [xid for xid, _ in found] == list(range(2, 10))
    data = [GetDataResponse.decode(body).data for xid, body in found if xid in (4, 7, 9)]
    assert data == [b"3", b"5", b"8"]
    assert way.server.waiting == 0
    assert not way.clients[0].queue


@pytest.mark.parametrize("fast", [True, False])
def test_a_client_that_goes_meanwhile(fast: bool) -> None:
    """What it had sent is done; nobody is told."""
    way = Slow(fast)
    way.send((1, op.CREATE, CreateRequest("/x", b"0", OPEN, 0)))
    way.commit(100)
    proposed = len(way.proposed)
    way.send((2, op.SYNC, PathRequest("/x")), (3, op.SET_DATA, SetDataRequest("/x", b"3", -1)))
    assert len(way.proposed) == proposed
    way.server.disconnect(way.clients[0])
    assert len(way.proposed) == proposed + 1
    way.synced()
    assert way.commit(100)[0] == b""
    assert way.replica.tree.node("/x").data == b"3"
    assert way.server.waiting == 0
