"""Requests that are promised but not applied see each other, and the promise is kept."""

from __future__ import annotations

import pytest

from tests.server.core.harness import OPEN, World
from tests.server.operations import NUMBER, Operations
from zktrace.wire.records import CreateRequest, PathVersionRequest
from zktrace.wire.txn import CloseSessionTxn, ErrorTxn, Transaction
from zktrace_server.core.apply import apply
from zktrace_server.core.errors import KeeperError
from zktrace_server.core.request import WRITES, Request


def prepared(world: World, ops: Operations, count: int, session_id: int) -> list[Transaction]:
    """Txns of random writes, none of them applied."""
    txns: list[Transaction] = []
    while len(txns) < count:
        name, body = ops.one()
        kind = NUMBER[name]
        if kind not in WRITES:
            continue
        request = Request(session_id, 7, kind, body.encode(), ())
        try:
            txns.append(world.server.preparer.prepare(request))
        except KeeperError:
            continue
    return txns


@pytest.mark.parametrize("seed", range(20))
def test_the_same_txns_whether_applied_at_once_or_later(seed: int) -> None:
    """One world applies each txn before the next is prepared, the other eight at a time."""
    histories = []
    for batch in (1, 8):
        world = World()
        session_id = world.client().response.session_id
        ops = Operations(seed, old=False)
        history = []
        for _ in range(160 // batch):
            txns = prepared(world, ops, batch, session_id)
            for txn in txns:
                result = apply(world.tree, txn)
                if isinstance(txn.body, ErrorTxn):
                    assert result.err == txn.body.err
                elif not result.parts:
                    assert result.err == 0
                if txn.digest is not None:
                    assert txn.digest.tree_digest == world.tree.tree_digest
                world.server.preparer.outstanding.done(txn.header.zxid)
            history += [txn.encode() for txn in txns]
            assert not world.server.preparer.outstanding
        histories.append(history)
    assert histories[0] == histories[1]


def test_a_closed_session_takes_promised_ephemerals_with_it() -> None:
    world = World()
    client = world.client()
    client.create("/kept", flags=1)
    session_id = client.response.session_id
    preparer = world.server.preparer
    txns = [
        preparer.prepare(
            Request(session_id, 1, 1, CreateRequest("/new", b"", OPEN, 1).encode(), ())
        ),
        preparer.prepare(Request(session_id, 2, 2, PathVersionRequest("/kept", -1).encode(), ())),
        preparer.prepare(Request(session_id, 3, -11, b"", ())),
    ]
    closing = txns[2].body
    assert isinstance(closing, CloseSessionTxn)
    assert closing.paths_to_delete == ["/new"]
