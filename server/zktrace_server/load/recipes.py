"""Workloads that are recipes: what ZooKeeper's own documentation and Curator do with it."""

from __future__ import annotations

from random import Random
from typing import ClassVar, Final

from zktrace_server.load.client import (
    EPHEMERAL,
    EPHEMERAL_SEQUENTIAL,
    SEQUENTIAL,
    Changed,
    Session,
)
from zktrace_server.load.workload import Actor, Begin, words

_SERVICES: Final = 8
_LOCKS: Final = 4
_GROUPS: Final = 3
_QUEUES: Final = 2
_KEYS: Final = 20


class Discovery(Actor):
    """Instances come and go; each watches the services that it calls."""

    name = "discovery"
    summary = "service discovery with churn: ephemeral instances, watched lists of them"

    _SERVICES: ClassVar[list[str]] = [f"service-{n:02d}" for n in range(_SERVICES)]

    @classmethod
    async def prepare(cls, session: Session, root: str, random: Random) -> None:
        for service in cls._SERVICES:
            await session.ensure(f"{root}/{service}", f"{root}/{service}/instances")
            await session.ensure(f"{root}/{service}/config", data=words(random, 300))

    async def begin(self, session: Session) -> None:
        self._own = f"{self.root}/{self._SERVICES[self.number % _SERVICES]}"
        self._instance: str | None = None
        self._lists: dict[str, Changed | None] = {
            f"{self.root}/{name}/instances": None
            for name in self.random.sample(self._SERVICES, k=3)
        }
        self._known: dict[str, set[str]] = {path: set() for path in self._lists}
        await session.get(f"{self._own}/config")

    async def step(self, session: Session) -> None:
        chance = self.random.random()
        if self._instance is None:
            data = b'{"host":"10.0.%d.%d","port":8080,"weight":%d}' % (
                self.number >> 8,
                self.number & 0xFF,
                self.random.randrange(1, 10),
            )
            made = await session.create(
                f"{self._own}/instances/i-", data, EPHEMERAL_SEQUENTIAL, stat=True
            )
            if made.ok:
                self._instance = made.path
        elif chance < 0.05:
            # A deployment: the old instance goes, at the next step the new one comes.
            await session.delete(self._instance)
            self._instance = None
        elif chance < 0.06:
            # A crash: the instance goes with the session.
            await session.close()
            raise Begin
        elif chance < 0.11:
            await session.set(self._instance, words(self.random, 60))
        else:
            for path, changed in self._lists.items():
                if changed is None or changed.done():
                    await self._look(session, path)
            await session.exists(self._instance)

    async def _look(self, session: Session, path: str) -> None:
        reply, self._lists[path] = await session.watch_list(path)
        names = set(reply.children) if reply.ok else set()
        for name in sorted(names - self._known[path]):
            await session.get(f"{path}/{name}")
        self._known[path] = names


class Locks(Actor):
    """One of some locks: a place in the line, the predecessor watched, some work, out again."""

    name = "locks"
    summary = "locks: ephemeral sequential nodes, each client watches the one before its own"
    ephemeral = True

    @classmethod
    async def prepare(cls, session: Session, root: str, random: Random) -> None:
        for number in range(_LOCKS):
            await session.ensure(f"{root}/lock-{number}")
        await session.ensure(f"{root}/account", data=b"0")

    async def step(self, session: Session) -> None:
        lock = f"{self.root}/lock-{self.random.randrange(_LOCKS)}"
        reads = self.random.randrange(1, 4)
        place = await _queue_up(self, session, f"{lock}/lock-")
        for _ in range(reads):
            seen = await session.get(f"{self.root}/account")
            if seen.ok:
                # Others hold other locks: now and then the version is another.
                await session.set(f"{self.root}/account", b"%d" % self.number, seen.stat.version)
        await session.delete(place)


async def _queue_up(actor: Actor, session: Session, prefix: str) -> str:
    """A place in the line; waits until it is the first. Gives its path."""
    place = (await session.create(prefix, b"%d" % actor.number, EPHEMERAL_SEQUENTIAL)).path
    line, _, own = place.rpartition("/")
    while True:
        listed = await session.list(line, stat=False)
        names = sorted(listed.children) if listed.ok else []
        if own not in names:
            raise Begin
        at = names.index(own)
        if at == 0:
            return place
        before, changed = await session.watch_exists(f"{line}/{names[at - 1]}")
        if before.ok:
            await actor.run.wait(session, changed)


class Election(Actor):
    """Candidates of a few groups; who is first leads for a while, writes, and resigns."""

    name = "election"
    summary = "leader election: candidates in a line, the leader announces itself and resigns"
    ephemeral = True

    @classmethod
    async def prepare(cls, session: Session, root: str, random: Random) -> None:
        for number in range(_GROUPS):
            group = f"{root}/group-{number}"
            await session.ensure(group, f"{group}/candidates", f"{group}/leader", f"{group}/state")

    async def step(self, session: Session) -> None:
        group = f"{self.root}/group-{self.number % _GROUPS}"
        term = self.random.randrange(3, 12)
        place = await _queue_up(self, session, f"{group}/candidates/n_")
        await session.sync(group)
        await session.set(f"{group}/leader", b"node-%d" % self.number)
        for _ in range(term):
            await session.set(f"{group}/state", words(self.random, 40))
        await session.delete(place)


class Queue(Actor):
    """Each puts a message in, and takes one out: the oldest, if nobody is quicker."""

    name = "queue"
    summary = "queues: sequential messages, taken by whoever deletes them first"

    @classmethod
    async def prepare(cls, session: Session, root: str, random: Random) -> None:
        for number in range(_QUEUES):
            await session.ensure(f"{root}/queue-{number}")

    async def step(self, session: Session) -> None:
        queue = f"{self.root}/queue-{self.random.randrange(_QUEUES)}"
        message = words(self.random, self.random.randrange(20, 400))
        await session.create(f"{queue}/m-", message, SEQUENTIAL)
        listed = await session.list(queue, stat=False)
        for name in sorted(listed.children)[:4] if listed.ok else ():
            got = await session.get(f"{queue}/{name}")
            if got.ok and (await session.delete(f"{queue}/{name}", got.stat.version)).ok:
                return


class Config(Actor):
    """One of ten writes; the others watch all keys and read what has changed."""

    name = "config"
    summary = "configuration fan-out: few writers, many readers with a watch on each key"

    _READ_AFTER_S: ClassVar[float] = 0.02

    @classmethod
    async def prepare(cls, session: Session, root: str, random: Random) -> None:
        for number in range(_KEYS):
            await session.ensure(f"{root}/key-{number:02d}", data=words(random, 200))

    async def begin(self, session: Session) -> None:
        self._watched: dict[str, Changed | None] = {
            f"{self.root}/key-{number:02d}": None for number in range(_KEYS)
        }
        if self.number % 10 == 0:
            await session.create(f"{self.root}/writer-{self.number}", b"", EPHEMERAL)

    async def step(self, session: Session) -> None:
        if self.number % 10 == 0:
            key = f"{self.root}/key-{self.random.randrange(_KEYS):02d}"
            await session.set(key, words(self.random, self.random.randrange(100, 400)))
            await self.run.pause(self.random.uniform(0, 2 * self._READ_AFTER_S))
            return
        for path, changed in self._watched.items():
            if changed is None or changed.done():
                _, self._watched[path] = await session.watch_data(path)
        key = f"{self.root}/key-{self.random.randrange(_KEYS):02d}"
        changed = self._watched[key]
        if changed is not None:
            await self.run.wait(session, changed)
