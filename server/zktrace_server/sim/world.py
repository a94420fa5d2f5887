"""Time and network: events in order, connections that keep the order of what they carry, and what
goes wrong with either.

A connection is as TCP is: nothing is lost in the middle of it, but what is on the way is lost when
it ends; while the way is cut it holds back. Election messages are those of connections that break
now and then: one is lost, and the next connection says so. Knows no ZooKeeper.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable

Action = Callable[[], None]


class World:
    """`now_us` since the beginning. `cut` holds (from, to) pairs of hosts between which nothing
    goes; `trace` gets a line for what is worth one, if it is wanted.
    """

    def __init__(self, seed: int, trace: list[str] | None = None) -> None:
        self.chance = random.Random(seed)
        self.now_us = 0
        self.events = 0
        self.cut: set[tuple[int, int]] = set()
        #: Extra delay of packets to and from a host, in microseconds.
        self.slow: dict[int, int] = {}
        #: Told of all that is sent, where somebody wants to hear it (None is the end).
        self.tap: Callable[[Pipe, bytes | None], None] | None = None
        self._queue: list[tuple[int, int, Action]] = []
        self._number = 0
        self._stalled: list[Pipe] = []
        self._trace = trace

    def say(self, text: str) -> None:
        if self._trace is not None:
            self._trace.append(f"{self.now_us / 1e6:9.6f} {text}")

    def at(self, when_us: int, action: Action) -> None:
        self._number += 1
        now = self.now_us
        heapq.heappush(self._queue, (when_us if when_us > now else now, self._number, action))

    def after(self, delay_us: int, action: Action) -> None:
        self.at(self.now_us + delay_us, action)

    def run(self, until_us: int, done: Callable[[], bool] | None = None) -> bool:
        """Lets time pass; true as soon as `done` says so."""
        queue = self._queue
        while queue and queue[0][0] <= until_us:
            self.now_us, _, action = heapq.heappop(queue)
            self.events += 1
            action()
            if done is not None and done():
                return True
        self.now_us = until_us
        return False

    # --- network ------------------------------------------------------------------------------

    def blocked(self, source: int, target: int) -> bool:
        return (source, target) in self.cut

    def delay_us(self, source: int, target: int) -> int:
        chance = self.chance
        usual = chance.randrange(100, 1500)
        if chance.random() < 0.01:
            usual += chance.randrange(5_000, 60_000)
        if self.slow:
            usual += self.slow.get(source, 0) + self.slow.get(target, 0)
        return usual

    def stall(self, pipe: Pipe) -> None:
        self._stalled.append(pipe)

    def heal(self, pairs: set[tuple[int, int]]) -> None:
        """The way is free again; what was held back goes on."""
        self.cut -= pairs
        stalled, self._stalled = self._stalled, []
        for pipe in stalled:
            pipe.go_on()


class Pipe:
    """One direction of a connection. `deliver` gets pieces in order; None is the end."""

    def __init__(
        self, world: World, source: int, target: int, deliver: Callable[[bytes | None], None]
    ) -> None:
        self._world = world
        self.ends = (source, target)
        self._deliver = deliver
        self._on_way: deque[bytes | None] = deque()
        self._last_us = 0
        self._broken = False
        self._stalled = False

    def send(self, data: bytes | None) -> None:
        if self._broken:
            return
        if self._world.tap is not None:
            self._world.tap(self, data)
        self._on_way.append(data)
        when = max(self._last_us, self._world.now_us + self._world.delay_us(*self.ends))
        self._last_us = when
        self._world.at(when, self._arrive)

    def break_(self) -> None:
        """What is on the way is lost, and nobody is told."""
        self._broken = True
        self._on_way.clear()

    def _arrive(self) -> None:
        if not self._on_way:
            return
        if self._world.blocked(*self.ends):
            if not self._stalled:
                self._stalled = True
                self._world.stall(self)
            return
        self._deliver(self._on_way.popleft())

    def go_on(self) -> None:
        """The way may be free again: all that is due and more comes at once."""
        self._stalled = False
        for _ in range(len(self._on_way)):
            self._world.after(self._world.chance.randrange(1, 2000), self._arrive)


class Connection:
    """Between hosts `a` and `b`: `to_b` and `to_a`, each with who takes what comes."""

    def __init__(
        self,
        world: World,
        a: int,
        b: int,
        at_a: Callable[[bytes | None], None],
        at_b: Callable[[bytes | None], None],
    ) -> None:
        self.to_b = Pipe(world, a, b, at_b)
        self.to_a = Pipe(world, b, a, at_a)

    def crash(self, host_is_a: bool) -> None:
        """One end dies: what it sent and what goes to it is lost, the other end is told."""
        mine, other = (self.to_b, self.to_a) if host_is_a else (self.to_a, self.to_b)
        other.break_()
        mine.send(None)
