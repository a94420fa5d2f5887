"""A run: clients of one or several workloads, until the time is over, the requests are made, or
somebody stops it.

What is the same for the same seed: what the clients of a workload are (their number decides), the
tree it starts from, and what each of them asks for in a row, as far as it does not depend on what
others did: each has a random generator of its own. How far each gets, and who is first at a lock,
a queue or an election, is up to the servers and the clock. With one client all of it is the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from ssl import SSLContext
from typing import Final

from zktrace.wire.message import Body
from zktrace_server.load.client import (
    Address,
    Changed,
    ConnectionLost,
    Session,
    SessionExpired,
    Unreachable,
)
from zktrace_server.load.tally import Report, Tally
from zktrace_server.load.workload import Actor, Begin, Stopped
from zktrace_server.load.workloads import WORKLOADS

#: Between attempts to reach any server, times two each time.
_FIRST_PAUSE_S: Final = 0.05
_LAST_PAUSE_S: Final = 1.0
#: To make the znodes of the workloads, before it is given up.
_ATTEMPTS: Final = 5
#: What is under way at the end may take so long; then it is given up.
_GRACE_S: Final = 5.0
#: Requests under way at once when the tree is deleted.
_DELETES: Final = 100

#: Told of each request of each client: (client, opcode, body).
Trace = Callable[[int, int, Body | None], None]


@dataclass(frozen=True, slots=True)
class Options:
    """`workloads` share the clients. Without `duration_s` and `ops` it ends when it is stopped;
    `rate`: requests/s of all clients together, else as fast as answers come.
    """

    servers: Sequence[Address]
    workloads: Sequence[str]
    clients: int = 10
    duration_s: float | None = None
    ops: int | None = None
    rate: float | None = None
    seed: int = 0
    root: str = "/zktrace-load"
    timeout_ms: int = 10_000
    keep: bool = False
    tls: SSLContext | None = None


class _Quiet:
    """For what is not part of the load: preparing, tidying up."""

    async def admit(self) -> None:
        pass

    def answered(self, number: int, body: Body | None, err: int, ns: int) -> None:
        pass

    def lost(self) -> None:
        pass

    def event(self) -> None:
        pass


class _Client:
    """An observer for one client."""

    def __init__(self, run: _Run, number: int) -> None:
        self._run = run
        self._number = number
        #: What it does now is to tidy up.
        self.leaving = False

    async def admit(self) -> None:
        if not self.leaving:
            await self._run.admit()

    def answered(self, number: int, body: Body | None, err: int, ns: int) -> None:
        if self.leaving or self._run.over:
            return
        self._run.last = time.perf_counter()
        self._run.tally.add(number, err, ns)
        if self._run.trace is not None:
            self._run.trace(self._number, number, body)

    def lost(self) -> None:
        self._run.tally.lost += 1

    def event(self) -> None:
        self._run.tally.watch_events += 1


class _Run:
    """`ended`: no new requests; `over`: nothing is counted any more."""

    def __init__(self, options: Options, trace: Trace | None) -> None:
        self.options = options
        self.tally = Tally()
        self.trace = trace
        self.over = False
        #: When it was ended, and when the last answer came.
        self.ended_at = self.last = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._admitted = 0
        self._next_at = 0.0

    def begin(self) -> None:
        self._next_at = asyncio.get_running_loop().time()

    def end(self) -> None:
        if not self.ended.done():
            self.ended_at = time.perf_counter()
            self.ended.set_result(None)

    async def admit(self) -> None:
        """Raises Stopped when there are to be no more requests; keeps to the rate."""
        options = self.options
        if self.ended.done():
            raise Stopped
        if options.ops is not None:
            if self._admitted >= options.ops:
                self.end()
                raise Stopped
            self._admitted += 1
        if options.rate:
            now = asyncio.get_running_loop().time()
            # What was missed for more than a second is not made up for.
            self._next_at = max(self._next_at, now - 1) + 1 / options.rate
            await self.pause(self._next_at - now)

    async def wait(self, session: Session, changed: Changed) -> None:
        while not changed.done():
            await asyncio.wait(
                (changed, session.gone, self.ended), return_when=asyncio.FIRST_COMPLETED
            )
            if self.ended.done():
                raise Stopped
            if not changed.done() and not await self.reach(session):
                raise Begin
        if changed.cancelled():
            raise Begin

    async def pause(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.wait((self.ended,), timeout=seconds)
            if self.ended.done():
                raise Stopped

    async def reach(self, session: Session) -> bool:
        """Until a server takes it; whether the session is the one that there was."""
        pause = _FIRST_PAUSE_S
        before = session.id
        while True:
            try:
                await session.open()
                return session.id == before
            except Unreachable:
                self.tally.unreachable += 1
                await self.pause(pause)
                pause = min(pause * 2, _LAST_PAUSE_S)
            except SessionExpired:
                self.tally.expired += 1


async def run(
    options: Options, *, stop: asyncio.Event | None = None, trace: Trace | None = None
) -> Report:
    """Runs to its end, or until `stop` is set. Unreachable where no server answers at first, or
    none long enough to make the znodes of the workloads.
    """
    state = _Run(options, trace)
    kinds = [WORKLOADS[name] for name in options.workloads]
    roots = [f"{options.root}/{kind.name}" for kind in kinds]
    interrupted = False
    quiet = Session(options.servers, _Quiet(), timeout_ms=options.timeout_ms, tls=options.tls)
    await quiet.open()
    try:
        await _prepare(quiet, options, kinds, roots)
        actors = _actors(state, kinds, roots)
        begun = time.perf_counter()
        state.begin()
        tasks = [asyncio.create_task(_live(state, n, actor)) for n, actor in enumerate(actors)]
        try:
            interrupted = await _until_the_end(state, tasks, stop)
        finally:
            state.over = True
            state.end()
            seconds = max(state.ended_at, state.last) - begun
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
        for result in done:
            if isinstance(result, Exception):
                raise result
        if not options.keep:
            await _tidy_up(quiet, options.servers, options.root)
    finally:
        await quiet.close()
    return Report(
        workloads=options.workloads,
        servers=[f"{host}:{port}" for host, port in options.servers],
        clients=options.clients,
        seed=options.seed,
        seconds=seconds,
        tally=state.tally,
        interrupted=interrupted,
    )


async def _prepare(
    session: Session, options: Options, kinds: Sequence[type[Actor]], roots: Sequence[str]
) -> None:
    """Makes the znodes that the workloads want; from the beginning where the connection is lost,
    as it is by faults on purpose: what is there already does no harm.
    """
    for _ in range(_ATTEMPTS):
        try:
            if not session.connected:
                await session.open()
            await session.ensure(*_parents(options.root))
            for kind, root in zip(kinds, roots, strict=True):
                await session.ensure(root)
                await kind.prepare(session, root, Random(f"{options.seed}/{kind.name}"))
            return
        except (ConnectionLost, SessionExpired):
            pass  # counted by the attempts
    raise Unreachable(
        f"the connection was lost {_ATTEMPTS} times while the znodes of the load were made"
    )


def _actors(state: _Run, kinds: Sequence[type[Actor]], roots: Sequence[str]) -> list[Actor]:
    """Clients go to the workloads in turn; each is told its number among those of its own."""
    options = state.options
    actors = []
    for number in range(options.clients):
        at = number % len(kinds)
        own = number // len(kinds)
        of_kind = len(range(at, options.clients, len(kinds)))
        random = Random(f"{options.seed}/{kinds[at].name}/{own}")
        actors.append(kinds[at](roots[at], own, of_kind, random, state))
    return actors


async def _until_the_end(
    state: _Run, tasks: list[asyncio.Task[None]], stop: asyncio.Event | None
) -> bool:
    """Whether it was stopped from outside."""
    asked = asyncio.create_task((stop or asyncio.Event()).wait())
    # Clients end by themselves only when the run does, or of a defect.
    failed = asyncio.create_task(_first_failure(tasks))
    try:
        await asyncio.wait(
            (asked, failed, state.ended),
            timeout=state.options.duration_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        interrupted = asked.done()
        state.end()
        await asyncio.wait(tasks, timeout=_GRACE_S)
        return interrupted
    finally:
        asked.cancel()
        failed.cancel()


async def _first_failure(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)


async def _live(state: _Run, number: int, actor: Actor) -> None:
    """One client, from its first session to the end."""
    options = state.options
    client = _Client(state, number)
    session = Session(
        options.servers,
        client,
        timeout_ms=options.timeout_ms,
        # Spread over the servers; a Java client would choose by chance.
        first=number,
        tls=options.tls,
    )
    try:
        fresh = True
        while True:
            try:
                if not session.connected:
                    fresh = not await state.reach(session) or fresh
                if fresh:
                    await actor.begin(session)
                    fresh = False
                await actor.step(session)
            except Begin:
                fresh = True
            except ConnectionLost:
                fresh = fresh or actor.ephemeral
                if fresh and session.id:
                    # Its ephemeral nodes must go: nobody knows how far it had come.
                    await state.reach(session)
                    await session.close()
    except Stopped:
        # If the server does not answer this, the run gives up after a while.
        client.leaving = True
        await session.close()
    finally:
        session.drop()


def _parents(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[: n + 1]) for n in range(len(parts))]


async def _tidy_up(session: Session, servers: Sequence[Address], root: str) -> None:
    """Deletes what was made, as far as the servers are there."""
    try:
        if not session.connected:
            await session.open()
        await _delete(session, root)
    except (ConnectionLost, Unreachable, SessionExpired):
        pass  # the report matters more; the next run finds the tree, and goes on with it


async def _delete(session: Session, path: str) -> None:
    names = await session.list(path, stat=False)
    if not names.ok:
        return
    children = [f"{path}/{name}" for name in names.children]
    for at in range(0, len(children), _DELETES):
        some = children[at : at + _DELETES]
        replies = await asyncio.gather(*(session.delete(child) for child in some))
        for child, reply in zip(some, replies, strict=True):
            if not reply.ok:
                await _delete(session, child)
    await session.delete(path)
