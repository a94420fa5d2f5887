"""setData's short way through an ensemble and the way of all txns: same txns, same trees, same
answers, byte for byte.
"""

from __future__ import annotations

import random
import struct

import pytest

from tests.server.core.test_fast import cut, framed, simple
from tests.server.operations import OPEN, Operations
from zktrace.wire.message import encode_request
from zktrace.wire.records import AuthPacket, ConnectRequest, CreateRequest, Id, SetDataRequest
from zktrace.wire.txn import CreateSessionTxn, SetDataTxn, Transaction, TxnDigest, TxnHeader
from zktrace_server.core import request as op
from zktrace_server.core.connection import Connection, State
from zktrace_server.core.errors import SASL_AUTH_REQUIRED
from zktrace_server.core.quorum import quick
from zktrace_server.core.quorum.ensemble import Ensemble, parse_ensemble
from zktrace_server.core.quorum.link import Link
from zktrace_server.core.quorum.membership import Membership
from zktrace_server.core.quorum.quick import SetData
from zktrace_server.core.quorum.replica import Replica
from zktrace_server.core.quorum.roles import LeaderServer
from zktrace_server.core.request import Request
from zktrace_server.core.server import Refused
from zktrace_server.core.settings import Settings
from zktrace_server.core.tree import DataTree
from zktrace_server.sim.disk import Disk

EPOCH = 1 << 32
#: The session of a learner's client.
_FAR = 77
SETTINGS = Settings()
MEMBERS = parse_ensemble({1: "a:1:2", 2: "b:1:2"}, {}, {})


def replica() -> Replica:
    return Replica(DataTree(extended=True), {}, Disk())


class Way:
    """A leader's server, two clients of its own and a learner's link with one; what is proposed
    waits until `commit`.
    """

    history_zxid = EPOCH

    def __init__(self, fast: bool, settings: Settings = SETTINGS) -> None:
        self.replica = replica()
        self.proposed: list[bytes] = []
        self.quick = 0
        membership = Membership(MEMBERS)
        self.server = LeaderServer(settings, self.replica, self, membership)
        self.server._want_fast = fast and self.server._want_fast
        self.server.start(1_700_000_000_000, 1000)
        self.link = Link({})
        self.clients = [self._client() for _ in range(2)]
        begin = Request(_FAR, 0, op.CREATE_SESSION, CreateSessionTxn(30_000).encode(), ())
        self.server.forwarded(begin, self.link)
        self.commit(100)

    def _client(self) -> Connection:
        connection = self.server.connect("127.0.0.1")
        self.server.receive(
            connection, framed(ConnectRequest(0, 0, 30_000, 0, bytes(16), False).encode())
        )
        return connection

    # The Proposer.

    def propose(self, txn: Transaction) -> None:
        self._add(txn.header.zxid, txn.encode(), txn)

    def propose_set_data(self, txn: SetData, payload: bytes) -> None:
        self.quick += 1
        self._add(txn.zxid, payload, txn)

    def _add(self, zxid: int, payload: bytes, txn: Transaction | SetData) -> None:
        self.proposed.append(payload)
        self.replica.append(zxid, payload, txn)

    def sync(self, link: Link | None) -> None:
        self.server.synced()

    def quorum_synced(self, ensemble: Ensemble) -> bool:
        return True

    # What happens.

    def commit(self, count: int) -> list[bytes]:
        """So many, at most; what clients are sent by that."""
        zxid = 0
        for _ in range(min(count, len(self.replica.pending))):
            zxid = self.replica.pending[0][0]
            self.replica.commit(zxid)
        self.server.applied(zxid)
        said = [b"".join(c.out) for c in self.clients]
        for c in self.clients:
            c.out.clear()
        return said

    def receive(self, index: int, data: bytes) -> None:
        client = self.clients[index]
        if client in self.server.connections:
            try:
                self.server.receive(client, data)
            except Refused:
                pass  # the same for both, as what it is sent shows

    def forwarded(self, payload: bytes) -> None:
        """Of the learner's client."""
        if not self.server.quickly(struct.pack(">q", _FAR) + payload, self.link):
            xid, kind = struct.unpack_from(">ii", payload)
            who = (Id("ip", "127.0.0.1"),)
            self.server.forwarded(Request(_FAR, xid, kind, payload[8:], who), self.link)


@pytest.mark.parametrize("seed", range(5))
def test_both_ways_are_one(seed: int) -> None:
    ops = Operations(seed, old=False)
    chance = ops.random
    short, long = Way(fast=True), Way(fast=False)
    for _ in range(500):
        payloads = []
        for _ in range(chance.choice((1, 2, 8))):
            kind = chance.random()
            if kind < 0.5:
                asked = SetDataRequest(f"/{chance.choice('abc')}", ops.data(), ops.version())
                payloads.append(encode_request(5, op.SET_DATA, asked))
            elif kind < 0.8:
                payloads.append(simple(ops))
            else:
                payloads.append(ops.payload(4, *ops.one()))
        where = chance.randrange(3)
        for way in (short, long):
            way.server.set_time(way.server.wall_ms + 7, way.server.now_ms + 7)
            if where < 2:
                for piece in cut(b"".join(map(framed, payloads)), random.Random(seed)):
                    way.receive(where, piece)
            else:
                for payload in payloads:
                    way.forwarded(payload)
        count = chance.randrange(12)
        assert short.commit(count) == long.commit(count)
        assert short.proposed == long.proposed
        assert short.replica.tree.tree_digest == long.replica.tree.tree_digest
    short.commit(1 << 20), long.commit(1 << 20)
    assert short.quick > 100  # else little was compared
    assert not short.replica.mismatches
    assert not short.server.preparer.outstanding
    assert [c.received for c in short.clients] == [c.received for c in long.clients]
    _learned(short)


def _learned(way: Way) -> None:
    """A learner that knows the short way, and one that does not, make the same of the txns."""
    quickly, slowly = replica(), replica()
    known = 0
    for payload in way.proposed:
        txn = Transaction.decode(payload)
        zxid = txn.header.zxid
        read = quick.read(payload)
        known += read is not None
        if read is not None:
            body, digest = txn.body, txn.digest
            assert isinstance(body, SetDataTxn)
            assert digest is not None
            h = txn.header
            assert read == (
                h.session_id,
                h.cxid,
                h.zxid,
                h.time_ms,
                body.path,
                body.data,
                body.version,
                digest.tree_digest,
            )
        quickly.append(zxid, payload, read or txn)
        slowly.append(zxid, payload, txn)
        for one in (quickly, slowly):
            one.commit(zxid)
        assert quickly.tree.tree_digest == slowly.tree.tree_digest
        assert quickly.tree.last_zxid == slowly.tree.last_zxid == zxid
    assert known >= way.quick
    assert quickly.tree.tree_digest == way.replica.tree.tree_digest
    assert list(quickly.history) == list(slowly.history) == list(way.replica.history)
    assert not quickly.mismatches
    assert not slowly.mismatches


def test_only_what_is_a_set_data_to_all_is_read_as_one() -> None:
    """Bytes that are nearly one: what is read is what the schema reads, or nothing."""
    chance = random.Random(7)
    body = SetDataTxn("/abc", b"some data", 3)
    whole = Transaction(TxnHeader(1, 2, 3, 4, 5), body, TxnDigest(2, 99)).encode()
    read = 0
    for _ in range(20_000):
        data = bytearray(whole)
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            data[chance.randrange(28, len(data))] = chance.choice((0, 1, 2, 5, 255))
        cut = bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data))))])
        got = quick.read(cut)
        if got is None:
            continue
        read += 1
        txn = Transaction.decode(cut)
        assert isinstance(txn.body, SetDataTxn)
        assert txn.digest is not None
        assert (got.path, got.data, got.version) == (
            txn.body.path,
            txn.body.data,
            txn.body.version,
        )
        assert got.tree_digest == txn.digest.tree_digest
    assert read > 1000
    assert quick.read(Transaction(TxnHeader(1, 2, 3, 4, 5), body).encode()) is None
    assert quick.read(Transaction(TxnHeader(1, 2, 3, 4, 5), body, TxnDigest(1, 9)).encode()) is None


def test_a_set_data_of_a_node_that_is_not_there_is_no_ones_end() -> None:
    """A leader that is broken could say so: the error is the txn's, as on the long way."""
    one = replica()
    txn = Transaction(TxnHeader(1, 2, EPOCH + 1, 4, 5), SetDataTxn("/a", b"", 1), TxnDigest(2, 0))
    payload = txn.encode()
    read = quick.read(payload)
    assert read is not None
    one.append(EPOCH + 1, payload, read)
    one.commit(EPOCH + 1)
    assert one.tree.last_zxid == EPOCH + 1
    assert one.mismatches == 1


def test_who_has_to_prove_who_it_is_cannot_write_before() -> None:
    """As at a server that stands alone (AuthenticationHelper.enforceAuthentication)."""
    way = Way(True, Settings(enforce_schemes=frozenset(("digest",))))
    asked = framed(encode_request(5, op.CREATE, CreateRequest("/a", b"", OPEN, 0)))
    before = len(way.proposed)
    way.receive(0, asked)
    assert len(way.proposed) == before
    assert way.clients[0].state is State.ENDING
    assert way.clients[0].out[-1][-4:] == struct.pack(">i", SASL_AUTH_REQUIRED)
    way.receive(1, framed(encode_request(-4, op.AUTH, AuthPacket(0, "digest", b"a:b"))))
    way.receive(1, asked)
    assert len(way.proposed) == before + 1
