"""An ensemble that was never there: writes whose every delay is known, seen from any place.

Hosts send messages to each other over connections; each takes a known time on its way. Where and
with which clock it is captured is decided afterwards (:meth:`Simulation.records`), so one run gives
the captures of several points. Independent of ``zktrace``; bytes are made by
:mod:`tests.support.zk`.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.support import net, zk
from tests.support.net import ACK, PSH, SYN, Address, Seg
from tests.support.pcapio import Record

MS: Final = 1_000_000
US: Final = 1_000
START_NS: Final = 1_700_000_000 * 10**9

CLIENT_PORT, QUORUM_PORT = 2181, 2888
_OPENER, _LISTENER = 0, 1

REQUEST, PROPOSAL, PACKET_ACK, COMMIT, PING = 1, 2, 3, 4, 5
INFORM, NEWLEADER, FOLLOWERINFO, UPTODATE, DIFF = 8, 10, 11, 12, 13
OBSERVERINFO, LEADERINFO, ACKEPOCH = 16, 17, 18


def packet(kind: int, zxid: int, data: bytes | None = None) -> bytes:
    """A QuorumPacket."""
    return zk.i32(kind) + zk.i64(zxid) + zk.buffer(data) + zk.vector(None)


def set_data_txn(session: int, cxid: int, zxid: int, path: str) -> bytes:
    header = zk.i64(session) + zk.i32(cxid) + zk.i64(zxid) + zk.i64(0) + zk.i32(zk.SET_DATA)
    return header + zk.ustring(path) + zk.buffer(b"v") + zk.i32(1)


@dataclass(slots=True)
class _Message:
    side: int
    sent: int
    received: int
    payload: bytes
    flags: int = PSH | ACK


@dataclass(slots=True)
class Conn:
    """A connection and what was said on it."""

    ends: tuple[Address, Address]
    messages: list[_Message] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{net.show(self.ends[0])}>{net.show(self.ends[1])}"

    def segments(self, at: str | None, clock: Callable[[int], int]) -> list[Seg]:
        """As seen by a host, or (None) half-way between both ends."""
        ordered = sorted(self.messages, key=lambda one: (one.sent, one.side))
        spans: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        next_seq = [1000, 900_000]
        found = []
        sent = [0, 0]
        for one in ordered:
            seq = next_seq[one.side]
            other = spans[1 - one.side]
            place = bisect_right(other, (one.sent, 1 << 62)) - 1
            acked = other[place][1] if place >= 0 else 0
            flags = one.flags if place >= 0 else one.flags & ~ACK
            src, dst = self.ends[one.side], self.ends[1 - one.side]
            if at is None:
                when = (one.sent + one.received) // 2
            elif src[0] == at:
                when = one.sent
            elif dst[0] == at:
                when = one.received
            else:
                return []
            # Linux numbers the packets of each end of a connection.
            sent[one.side] += 1
            ident = sent[one.side]
            seg = Seg(clock(when), src, dst, seq, acked, flags, one.payload, ident=ident)
            next_seq[one.side] += seg.span
            insort(spans[one.side], (one.received, next_seq[one.side]))
            found.append(seg)
        return found


@dataclass(slots=True)
class Written:
    """A write and when what of it happened (each on its own host)."""

    client: str
    server: int
    session: int
    cxid: int
    path: str
    sent: int
    zxid: int = 0
    at_server: int = 0
    forwarded: int = 0
    at_leader: int = 0
    proposed: int = 0
    proposals: dict[int, int] = field(default_factory=dict)
    """When each follower got it."""
    acks: dict[int, int] = field(default_factory=dict)
    """When each follower sent its ACK."""
    leader_ack: int = 0
    quorum: int = 0
    committed: int = 0
    told: int = 0
    replied: int = 0
    answered: int = 0
    made_by: int = 0
    """Sid whose vote completed the quorum; the leader's where its own disk was last."""


class Simulation:
    """Sid 1 leads unless told otherwise. Times are nanoseconds."""

    def __init__(
        self,
        *,
        voters: int = 3,
        observers: int = 0,
        leader: int = 1,
        disk: dict[int, int] | None = None,
        wire: Callable[[str, str], int] | None = None,
        work: dict[int, int] | None = None,
        down: Sequence[int] = (),
    ) -> None:
        self.leader = leader
        self.voters = [sid for sid in range(1, voters + 1) if sid not in down]
        self.observers = [voters + 1 + i for i in range(observers)]
        self.needed = voters // 2 + 1
        self.disk = dict.fromkeys(self.voters, MS) | (disk or {})
        self.work = dict.fromkeys([*self.voters, *self.observers], 20 * US) | (work or {})
        self._wire = wire or (lambda a, b: 100 * US)
        self.conns: list[Conn] = []
        self.writes: list[Written] = []
        self._ports = 40_000

    def ip(self, sid: int) -> str:
        return f"10.0.0.{sid}"

    def delay(self, src: str, dst: str) -> int:
        return 5 * US if src == dst else self._wire(src, dst)

    def _conn(self, src: str, dst: Address, at: int) -> Conn:
        self._ports += 1
        conn = Conn(((src, self._ports), dst))
        self.conns.append(conn)
        there, back = self.delay(src, dst[0]), self.delay(dst[0], src)
        conn.messages += [
            _Message(_OPENER, at, at + there, b"", SYN),
            _Message(_LISTENER, at + there, at + there + back, b"", SYN | ACK),
        ]
        return conn

    def _say(self, conn: Conn, side: int, sent: int, payload: bytes) -> int:
        """Sends a message; when it arrives, which is never before what was sent before it."""
        src, dst = conn.ends[side][0], conn.ends[1 - side][0]
        received = sent + self.delay(src, dst)
        conn.messages.append(_Message(side, sent, received, payload))
        return received

    def run(self, count: int, *, gap: int = 20 * MS, servers: Sequence[int] | None = None) -> None:
        """`count` writes, each at one of the servers in turn, `gap` after the one before."""
        at = START_NS
        learners = {
            sid: self._conn(self.ip(sid), (self.ip(self.leader), QUORUM_PORT), at)
            for sid in [*self.voters, *self.observers]
            if sid != self.leader
        }
        for sid, conn in learners.items():
            self._handshake(sid, conn, at + 50 * MS)
        homes = list(servers or self.voters)
        clients = {}
        for number, sid in enumerate(homes):
            host = f"10.0.9.{number + 1}"
            conn = self._conn(host, (self.ip(sid), CLIENT_PORT), at)
            session = (sid << 56) | (number + 1)
            # Sessions of long ago: their connects are answered without a txn.
            got = self._say(conn, _OPENER, at + 60 * MS, zk.frame(zk.connect_request()))
            self._say(
                conn, _LISTENER, got + 10 * US, zk.frame(zk.connect_response(session=session))
            )
            clients[number] = (host, sid, conn, session)
        begin = at + 1000 * MS
        for sid, conn in learners.items():
            self._pings(sid, conn, begin - 200 * MS, begin + count * gap + 2000 * MS)
        for i in range(count):
            number = i % len(homes)
            host, sid, conn, session = clients[number]
            one = Written(host, sid, session, i // len(homes) + 1, f"/w/{i}", begin + i * gap)
            self._ask(one, conn, learners)
            self.writes.append(one)
        last = last_commit = 0
        last_ack: dict[int, int] = {}
        for counter, one in enumerate(sorted(self.writes, key=lambda w: w.at_leader), 1):
            one.zxid = (1 << 32) | counter
            one.proposed = last = max(one.at_leader + self.work[self.leader], last + US)
            last_commit = self._broadcast(one, learners, last_commit, last_ack)
        for i, one in enumerate(self.writes):
            self._answer(one, clients[i % len(homes)][2])

    def _handshake(self, sid: int, conn: Conn, at: int) -> None:
        observer = sid in self.observers
        info = zk.i64(sid) + zk.i32(0x10000) + zk.i64(0)
        steps: list[tuple[int, bytes]] = [
            (_OPENER, packet(OBSERVERINFO if observer else FOLLOWERINFO, 0, info)),
            (_LISTENER, packet(LEADERINFO, 1 << 32, zk.i32(0x10000))),
            (_OPENER, packet(ACKEPOCH, 0, zk.i32(0))),
            (_LISTENER, packet(DIFF, 0)),
            (_LISTENER, packet(NEWLEADER, 1 << 32)),
            (_OPENER, packet(PACKET_ACK, 1 << 32)),
            (_LISTENER, packet(UPTODATE, -1)),
            (_OPENER, packet(PACKET_ACK, 1 << 32)),
        ]
        for side, payload in steps:
            at = self._say(conn, side, at, payload) + 10 * US

    def _pings(self, sid: int, conn: Conn, at: int, until: int) -> None:
        while at < until:
            got = self._say(conn, _LISTENER, at, packet(PING, 1 << 32))
            self._say(conn, _OPENER, got + 10 * US, packet(PING, 1 << 32, b""))
            at += 500 * MS

    def _ask(self, one: Written, conn: Conn, learners: dict[int, Conn]) -> None:
        body = zk.set_data(one.path, b"v")
        frame = zk.frame(zk.request(one.cxid, zk.SET_DATA, body))
        one.at_server = self._say(conn, _OPENER, one.sent, frame)
        one.forwarded = one.at_server + self.work[one.server]
        one.at_leader = one.at_server
        if one.server != self.leader:
            data = zk.i64(one.session) + zk.i32(one.cxid) + zk.i32(zk.SET_DATA) + body
            payload = packet(REQUEST, -1, data)
            one.at_leader = self._say(learners[one.server], _OPENER, one.forwarded, payload)

    def _broadcast(
        self, one: Written, learners: dict[int, Conn], last_commit: int, last_ack: dict[int, int]
    ) -> int:
        txn = set_data_txn(one.session, one.cxid, one.zxid, one.path)
        last_ack.setdefault(self.leader, 0)
        one.leader_ack = max(one.proposed + self.disk[self.leader], last_ack[self.leader] + US)
        last_ack[self.leader] = one.leader_ack
        votes = [(one.leader_ack, self.leader)]
        for sid in self.voters:
            if sid == self.leader:
                continue
            conn = learners[sid]
            got = self._say(conn, _LISTENER, one.proposed, packet(PROPOSAL, one.zxid, txn))
            one.proposals[sid] = got
            one.acks[sid] = max(got + self.disk[sid], last_ack.get(sid, 0) + US)
            last_ack[sid] = one.acks[sid]
            back = self._say(conn, _OPENER, one.acks[sid], packet(PACKET_ACK, one.zxid))
            votes.append((back, sid))
        one.quorum, one.made_by = sorted(votes)[self.needed - 1]
        one.committed = max(one.quorum, last_commit) + 10 * US
        one.told = one.committed
        for sid, conn in learners.items():
            if sid in self.observers:
                told = self._say(conn, _LISTENER, one.committed, packet(INFORM, one.zxid, txn))
            else:
                told = self._say(conn, _LISTENER, one.committed, packet(COMMIT, one.zxid))
            if sid == one.server:
                one.told = told
        return one.committed

    def _answer(self, one: Written, conn: Conn) -> None:
        one.replied = one.told + self.work[one.server]
        body = zk.stat(mzxid=one.zxid, version=1, data_length=1)
        frame = zk.frame(zk.reply(one.cxid, one.zxid, 0, body))
        one.answered = self._say(conn, _LISTENER, one.replied, frame)

    # ---- captures

    def records(
        self,
        at: str | None = None,
        clock: Callable[[int], int] = lambda ns: ns,
        ports: Sequence[int] = (CLIENT_PORT, QUORUM_PORT),
    ) -> list[Record]:
        """What a capture holds that was made on a host (its address), or (None) at a place that all
        pass half-way. `clock`: what its clock says at a true time.
        """
        segs = [
            seg
            for conn in self.conns
            if conn.ends[1][1] in ports
            for seg in conn.segments(at, clock)
        ]
        segs.sort(key=lambda seg: seg.ts_ns)
        return [net.record(seg) for seg in segs]
