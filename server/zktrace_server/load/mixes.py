"""Workloads as systems on ZooKeeper have them, and some that are hard on a server."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Final

from zktrace.wire.multi import MultiOp
from zktrace.wire.records import CreateRequest, PathVersionRequest, SetDataRequest
from zktrace_server.load.client import (
    EPHEMERAL,
    OPEN_ACL,
    PERSISTENT,
    SEQUENTIAL,
    Changed,
    ConnectionLost,
    Session,
)
from zktrace_server.load.workload import Actor, Begin, words

_TOPICS: Final = 6
_PARTITIONS: Final = 4
_TABLES: Final = 4
_NODES: Final = 200
_LARGE: Final = 8
#: Below jute.maxbuffer with the rest of the request.
_LARGEST: Final = 900_000
_WIDE: Final = 1_500


def _create(path: str, data: bytes = b"", flags: int = PERSISTENT) -> MultiOp:
    return MultiOp(1, CreateRequest(path, data, OPEN_ACL, flags))


def _set(path: str, data: bytes, version: int = -1) -> MultiOp:
    return MultiOp(5, SetDataRequest(path, data, version))


def _check(path: str, version: int) -> MultiOp:
    return MultiOp(13, PathVersionRequest(path, version))


def _delete(path: str) -> MultiOp:
    return MultiOp(2, PathVersionRequest(path, -1))


class ReadWrite(Actor):
    """Nine reads to a write, on nodes of 100 bytes, a few of them hot."""

    name = "mix"
    summary = "90 % getData, 10 % setData, 100 bytes each, some znodes far hotter than others"

    @classmethod
    async def prepare(cls, session: Session, root: str, random: Random) -> None:
        for number in range(_NODES):
            await session.ensure(f"{root}/n{number:03d}", data=words(random, 100))

    async def step(self, session: Session) -> None:
        number = min(int(self.random.paretovariate(0.6)) - 1, _NODES - 1)
        path = f"{self.root}/n{number:03d}"
        if self.random.random() < 0.1:
            await session.set(path, words(self.random, 100))
        else:
            await session.get(path)


class Kafka(Actor):
    """Brokers of a Kafka that keeps its metadata in ZooKeeper, and consumers' offsets."""

    name = "kafka"
    summary = "Kafka-like: broker ids, controller, partition states by version, offsets, topics"

    @classmethod
    async def prepare(cls, session: Session, root: str, random: Random) -> None:
        for path in ("brokers", "brokers/ids", "brokers/topics", "config", "config/changes"):
            await session.ensure(f"{root}/{path}")
        await session.ensure(f"{root}/controller_epoch", data=b"0")
        await session.ensure(f"{root}/consumers")
        for topic in range(_TOPICS):
            base = f"{root}/brokers/topics/t{topic}"
            await session.ensure(base, f"{base}/partitions", f"{root}/consumers/t{topic}")
            for part in range(_PARTITIONS):
                await session.ensure(f"{base}/partitions/{part}")
                await session.ensure(f"{base}/partitions/{part}/state", data=_isr(random))
                await session.ensure(f"{root}/consumers/t{topic}/{part}", data=b"0")

    async def begin(self, session: Session) -> None:
        self._id = f"{self.root}/brokers/ids/{self.number}"
        self._controller: Changed | None = None
        self._offset = 0
        made = await session.create(self._id, b'{"host":"broker-%d"}' % self.number, EPHEMERAL)
        if not made.ok:
            # Of a session that has not expired yet.
            await session.exists(self._id)
        await session.list(f"{self.root}/brokers/ids")

    async def step(self, session: Session) -> None:
        if self._controller is None or self._controller.done():
            await self._control(session)
        topic, part = self.random.randrange(_TOPICS), self.random.randrange(_PARTITIONS)
        state = f"{self.root}/brokers/topics/t{topic}/partitions/{part}/state"
        chance = self.random.random()
        if chance < 0.70:
            self._offset += self.random.randrange(1, 500)
            await session.set(f"{self.root}/consumers/t{topic}/{part}", b"%d" % self._offset)
        elif chance < 0.85:
            await session.get(state)
        elif chance < 0.95:
            seen = await session.get(state)
            if seen.ok:
                await session.set(state, _isr(self.random), seen.stat.version)
        elif chance < 0.97:
            change = f"{self.root}/config/changes/config_change_"
            made = await session.create(change, words(self.random, 80), SEQUENTIAL)
            await session.list(f"{self.root}/config/changes")
            if made.ok:
                await session.delete(made.path)
        elif chance < 0.99:
            await session.list(f"{self.root}/brokers/topics", stat=False)
        else:
            await self._topic(session)

    async def _control(self, session: Session) -> None:
        path = f"{self.root}/controller"
        made = await session.create(path, b'{"brokerid":%d}' % self.number, EPHEMERAL)
        if made.ok:
            epoch = await session.get(f"{self.root}/controller_epoch")
            if epoch.ok:
                await session.set(
                    f"{self.root}/controller_epoch", b"%d" % self.number, epoch.stat.version
                )
        _, self._controller = await session.watch_data(path)

    async def _topic(self, session: Session) -> None:
        """A topic is made in one transaction, and deleted."""
        base = f"{self.root}/brokers/topics/new-{self.number}"
        paths = [base, f"{base}/partitions", f"{base}/partitions/0", f"{base}/partitions/0/state"]
        made = await session.multi(*(_create(path, words(self.random, 50)) for path in paths))
        if made.ok:
            await session.multi(*(_delete(path) for path in reversed(paths)))


def _isr(random: Random) -> bytes:
    leader = random.randrange(3)
    return b'{"controller_epoch":1,"leader":%d,"isr":[%d,%d],"leader_epoch":%d}' % (
        leader,
        leader,
        (leader + 1) % 3,
        random.randrange(100),
    )


class ClickHouse(Actor):
    """Replicas of ReplicatedMergeTree tables: inserts, the log, queues, parts."""

    name = "clickhouse"
    summary = "ClickHouse-like: inserts as multis, a log that replicas pull, queues, parts"

    @classmethod
    async def prepare(cls, session: Session, root: str, random: Random) -> None:
        for table in range(_TABLES):
            base = f"{root}/table-{table}"
            await session.ensure(base, *(f"{base}/{p}" for p in ("log", "blocks", "replicas")))
            await session.ensure(f"{base}/metadata", data=words(random, 1500))

    async def begin(self, session: Session) -> None:
        self._table = f"{self.root}/table-{self.number % _TABLES}"
        self._replica = f"{self._table}/replicas/r{self.number}"
        await session.get(f"{self._table}/metadata")
        await session.ensure(
            self._replica, *(f"{self._replica}/{p}" for p in ("queue", "parts", "log_pointer"))
        )
        await session.create(f"{self._replica}/is_active", b"%d" % self.number, EPHEMERAL)
        self._log: Changed | None = None
        self._last = ""
        self._parts: list[str] = []

    async def step(self, session: Session) -> None:
        chance = self.random.random()
        if chance < 0.35:
            await self._insert(session)
        elif chance < 0.65:
            await self._pull(session)
        elif chance < 0.75:
            await self._merge(session)
        elif chance < 0.9:
            await session.exists(f"{self._table}/replicas/r{self.random.randrange(self.clients)}")
        else:
            await session.list(f"{self._table}/replicas", stat=False)
            await session.list(f"{self._table}/blocks", stat=False)

    async def _insert(self, session: Session) -> None:
        """A block that was there before is refused: that is how inserts are made only once."""
        block = f"{self._table}/blocks/all_{self.random.randrange(2000)}"
        part = f"all_{self.random.randrange(1 << 30)}"
        done = await session.multi(
            _create(block, words(self.random, 32)),
            _create(f"{self._table}/log/log-", words(self.random, 250), SEQUENTIAL),
            _create(f"{self._replica}/parts/{part}", words(self.random, 120)),
        )
        if done.ok:
            self._parts.append(part)

    async def _pull(self, session: Session) -> None:
        if self._log is None or self._log.done():
            reply, self._log = await session.watch_list(f"{self._table}/log")
            names = sorted(reply.children) if reply.ok else []
        else:
            return
        pointer = await session.get(f"{self._replica}/log_pointer")
        fresh = [name for name in names if name > self._last][:5]
        if not fresh or not pointer.ok:
            return
        ops = [_check(f"{self._replica}/log_pointer", pointer.stat.version)]
        for name in fresh:
            entry = await session.get(f"{self._table}/log/{name}")
            if entry.ok:
                ops.append(_create(f"{self._replica}/queue/queue-", entry.data, SEQUENTIAL))
        ops.append(_set(f"{self._replica}/log_pointer", fresh[-1].encode()))
        await session.multi(*ops)
        self._last = fresh[-1]
        queue = await session.list(f"{self._replica}/queue", stat=False)
        for name in sorted(queue.children) if queue.ok else ():
            await session.delete(f"{self._replica}/queue/{name}")
        # What all have pulled may go; here whoever comes first cleans up.
        for name in names[:-50]:
            await session.delete(f"{self._table}/log/{name}")

    async def _merge(self, session: Session) -> None:
        if len(self._parts) < 3:
            return
        old, self._parts = self._parts[:3], self._parts[3:]
        merged = f"merged_{self.random.randrange(1 << 30)}"
        ops = [_create(f"{self._replica}/parts/{merged}", words(self.random, 120))]
        ops += [_delete(f"{self._replica}/parts/{part}") for part in old]
        await session.multi(*ops)
        await session.delete(f"{self._replica}/parts/{merged}")


class Large(Actor):
    """Data up to just below the limit, and a node with many children."""

    name = "large"
    summary = "large znodes, 10 kB to 900 kB, and a listing of 1,500 children"

    @classmethod
    async def prepare(cls, session: Session, root: str, random: Random) -> None:
        await session.ensure(f"{root}/wide")
        names = (f"{root}/wide/a-child-with-a-long-name-{number:06d}" for number in range(_WIDE))
        await asyncio.gather(*map(session.create, names))
        for number in range(_LARGE):
            await session.ensure(f"{root}/large-{number}", data=words(random, 1000) * 10)

    async def step(self, session: Session) -> None:
        path = f"{self.root}/large-{self.random.randrange(_LARGE)}"
        chance = self.random.random()
        if chance < 0.2:
            length = int(10_000 * (_LARGEST / 10_000) ** self.random.random())
            piece = words(self.random, 1000)
            await session.set(path, (piece * (length // 1000 + 1))[:length])
        elif chance < 0.9:
            await session.get(path)
        else:
            await session.list(f"{self.root}/wide")


class Storm(Actor):
    """Sessions that come and go: after a network was away, or of programs that connect for each
    call.
    """

    name = "storm"
    summary = "session storms: sessions for one or two calls, moved, closed, or just dropped"

    _lives = 0

    async def begin(self, session: Session) -> None:
        self._own = f"{self.root}/c{self.number}-{self._lives}"
        self._lives += 1
        await session.create(self._own, b"", EPHEMERAL)

    async def step(self, session: Session) -> None:
        chance = self.random.random()
        await session.exists(self._own)
        if chance < 0.5:
            await session.close()
            raise Begin
        if chance < 0.8:
            # The network was away: the same session, perhaps at another server.
            session.drop()
            raise ConnectionLost
        if chance < 0.85:
            # Left to expire, with its node; there is a new one at once.
            session.abandon()
            raise Begin
        await session.list(self.root)
