"""An ensemble's quorum port as a script of messages: leaders, learners, writes, in good order.

Made after LearnerHandler, Learner and Leader (protocol reference, section 7): what a healthy
ensemble of any size says, for tests that then break it. Times go on by a step per message, with
what chance adds; nothing else is left to it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.support.script import CLIENT, SERVER, Message, Party, Script
from zktrace.wire.quorum import (
    PACKET_TYPES,
    PROTOCOL_VERSION,
    EpochInfo,
    LeaderInfo,
    LearnerInfo,
    QuorumPacket,
)
from zktrace.wire.records import ACL, Id
from zktrace.wire.txn import CreateTxn, Transaction, TxnDigest, TxnHeader

_NUMBER = {name: number for number, name in PACKET_TYPES.items()}
_OPEN = [ACL(31, Id("world", "anyone"))]
_STEP_NS = 50_000


@dataclass(slots=True)
class Learning:
    """A learner's connection."""

    sid: int
    conn: int
    observer: bool


@dataclass
class Zab:
    """Writes the script. `size` servers vote, `observers` do not."""

    size: int = 3
    observers: int = 0
    seed: int = 0
    network: str = "10.1.0"
    names: str | None = None
    """What servers are called in the configuration, ``{}`` being the sid; None: addresses."""
    port: int = 2888
    start_ns: int = 1_700_000_000_000_000_000
    script: Script = field(default_factory=Script)
    leader: int = 0
    epoch: int = 0
    zxid: int = 0
    learning: list[Learning] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = self.start_ns
        self.chance = random.Random(self.seed)
        self.accepted = dict.fromkeys(range(1, self.size + self.observers + 1), 0)
        self.logged = dict.fromkeys(self.accepted, 0)
        self._ports = 40_000
        self._cxid = 0
        self._history = 0

    def address(self, sid: int) -> str:
        return f"{self.network}.{sid}"

    def _name(self, sid: int) -> str:
        return self.address(sid) if self.names is None else self.names.format(sid)

    def config(self) -> bytes:
        """Its text, as QuorumMaj.toString makes it."""
        lines = [
            f"server.{sid}={self._name(sid)}:{self.port}:{self.port + 1000}:"
            f"{'participant' if sid <= self.size else 'observer'};0.0.0.0:2181"
            for sid in sorted(self.accepted)
        ]
        return "\n".join([*lines, "version=100000000"]).encode()

    # ---- messages

    def tick(self, steps: int = 1) -> int:
        for _ in range(steps):
            self.now += _STEP_NS + self.chance.randrange(_STEP_NS)
        return self.now

    def tell(
        self, one: Learning, side: int, kind: str, zxid: int, data: bytes | None = None
    ) -> None:
        packet = QuorumPacket(_NUMBER[kind], zxid, data, None)
        self.script.messages.append(Message(self.tick(), one.conn, side, packet.encode()))

    # ---- what happens

    def lead(self, sid: int, followers: Iterable[int], observers: Iterable[int] = ()) -> None:
        """A leader is elected; learners come to it."""
        followers = list(followers)
        self.leader = sid
        self.epoch = max(self.accepted[one] for one in (sid, *followers)) + 1
        self.accepted[sid] = self.epoch
        self._history = self.logged[sid]
        self.zxid = self.epoch << 32
        self.learning = []
        # A quorum has acknowledged NEWLEADER before anyone is told UPTODATE.
        for one in [self.sync(one, False) for one in followers]:
            self.up_to_date(one)
        for sid_ in observers:
            self.join(sid_, True)

    def join(self, sid: int, observer: bool) -> None:
        """A learner connects to a leader that serves."""
        self.up_to_date(self.sync(sid, observer))

    def sync(self, sid: int, observer: bool) -> Learning:
        """A learner connects and is brought up to date, but for the leader's word that it is."""
        self._ports += 1
        conn = len(self.script.parties)
        here, there = (self.address(sid), self._ports), (self.address(self.leader), self.port)
        self.script.parties.append(Party(here, there, "quorum"))
        one = Learning(sid, conn, observer)
        info = LearnerInfo(sid, PROTOCOL_VERSION, 1 << 32).encode()
        kind = "OBSERVERINFO" if observer else "FOLLOWERINFO"
        self.tell(one, CLIENT, kind, self.accepted[sid] << 32, info)
        new = self.epoch << 32
        self.tell(one, SERVER, "LEADERINFO", new, LeaderInfo(PROTOCOL_VERSION).encode())
        again = self.accepted[sid] == self.epoch
        answer = EpochInfo(-1 if again else self.accepted[sid]).encode()
        self.tell(one, CLIENT, "ACKEPOCH", self.logged[sid], answer)
        self.accepted[sid] = self.epoch
        target = self._history if self.zxid == new else self.zxid
        self.tell(one, SERVER, "DIFF", target)
        self.logged[sid] = target
        self.tell(one, SERVER, "NEWLEADER", new, self.config())
        self.tell(one, CLIENT, "ACK", new)
        return one

    def up_to_date(self, one: Learning) -> None:
        """The leader serves."""
        self.tell(one, SERVER, "UPTODATE", -1)
        self.tell(one, CLIENT, "ACK", self.epoch << 32)
        self.learning.append(one)

    def txn(self, zxid: int, path: str, session: int = 0x1_0000_0000_0001) -> bytes:
        self._cxid += 1
        head = TxnHeader(session, self._cxid, zxid, self.now // 1_000_000, 1)
        body = CreateTxn(path, b"data", _OPEN, False, 1)
        return Transaction(head, body, TxnDigest(2, zxid * 7919 & 0xFFFF_FFFF)).encode()

    def write(self, count: int = 1) -> None:
        """Transactions: proposed, acknowledged, committed, some of them under way together."""
        left = count
        while left > 0:
            batch = min(left, self.chance.randint(1, 3))
            left -= batch
            zxids = [self.zxid + 1 + place for place in range(batch)]
            data = {zxid: self.txn(zxid, f"/n{zxid:x}") for zxid in zxids}
            followers = [one for one in self.learning if not one.observer]
            for zxid in zxids:
                for one in followers:
                    self.tell(one, SERVER, "PROPOSAL", zxid, data[zxid])
            slow = followers[self.size // 2 :]
            for zxid in zxids:
                for one in followers[: self.size // 2]:
                    self.tell(one, CLIENT, "ACK", zxid)
                self.tick()
                for one in followers:
                    self.tell(one, SERVER, "COMMIT", zxid)
                for one in self.learning:
                    if one.observer:
                        self.tell(one, SERVER, "INFORM", zxid, data[zxid])
                for one in slow:
                    self.tell(one, CLIENT, "ACK", zxid)
            self.zxid += batch
            for sid in (self.leader, *(one.sid for one in self.learning)):
                self.logged[sid] = self.zxid

    def pass_time(self, ns: int) -> None:
        self.now += ns


def healthy(seed: int = 0, *, size: int = 3, observers: int = 1, terms: int = 2) -> Zab:
    """An ensemble that changes its leader and loses nothing."""
    made = Zab(size=size, observers=observers, seed=seed)
    watchers = range(size + 1, size + observers + 1)
    for term in range(terms):
        leader = term % size + 1
        voters = [sid for sid in range(1, size + 1) if sid != leader]
        made.lead(leader, voters, watchers)
        made.write(12)
        made.pass_time(1_000_000_000)
    return made
