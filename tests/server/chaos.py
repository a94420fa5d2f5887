"""Kills and stops servers of a real ensemble under load, and looks whether clients saw what
ZooKeeper promises (``zktrace_server.sim.history``):

    python -m tests.server.chaos --rounds 100

Each round one server - the leader every other time - gets SIGKILL or SIGSTOP, or is cut off from
the others; then the time is taken until a write gets through again. Prints how many operations
were checked, and what is wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.retry import KazooRetry

from zktrace_server.chaos import act
from zktrace_server.local import Local
from zktrace_server.net.wire import LOOK_S
from zktrace_server.sim.history import READ, SYNC, WRITE, Op, check

PATHS: Final = ("/a", "/b", "/c")
#: With the limits that `Local.make` writes: initLimit 10, syncLimit 5.
TICK_MS: Final = 400
#: Until the ensemble must be there again, in ms: twice what the limits allow.
AGAIN_MS: Final = 2 * TICK_MS * (10 + 5)
#: What ends it.
AGAIN: Final = {"kill": "restart", "pause": "resume", "partition": "heal"}
#: For a loaded machine to start processes; not part of what is measured.
_PATIENCE_S: Final = 120.0


class Client(threading.Thread):
    """One session after the other, one operation at a time."""

    def __init__(self, number: int, hosts: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.ops: list[Op] = []
        self.wrong: BaseException | None = None
        self._number = number
        self._stop_it = stop
        self._chance = random.Random(number)
        self._client = KazooClient(
            hosts, timeout=4, connection_retry=KazooRetry(-1, 0.05, 1, 0.1, max_delay=0.3)
        )

    def run(self) -> None:
        try:
            self._client.start(_PATIENCE_S)
            while not self._stop_it.is_set():
                self._one()
        except BaseException as error:
            self.wrong = error
        finally:
            self._client.stop()
            self._client.close()

    def _op(self, kind: str, path: str, value: bytes | None = None) -> Op:
        session = self._client.client_id[0] if self._client.client_id else 0
        op = Op(session, kind, path, value, time.monotonic_ns(), order=len(self.ops))
        self.ops.append(op)
        return op

    def _done(self, op: Op) -> None:
        op.answered = time.monotonic_ns()
        # It may have been asked in one session and answered in the next.
        session = self._client.client_id[0] if self._client.client_id else 0
        if session != op.session:
            op.answered, op.behind_sync = None, None

    def _one(self) -> None:
        path = self._chance.choice(PATHS)
        what = self._chance.random()
        try:
            if what < 0.5:
                value = b"%d:%d" % (self._number, len(self.ops))
                op = self._op(WRITE, path, value)
                op.mzxid = self._client.set(path, value).mzxid
                self._done(op)
                return
            behind = None
            if what > 0.75:
                op = self._op(SYNC, path)
                behind = op.asked
                self._client.sync(path)
                self._done(op)
                if op.answered is None:
                    return
            op = self._op(READ, path)
            op.behind_sync = behind
            data, stat = self._client.get(path)
            op.value, op.mzxid = data, stat.mzxid
            self._done(op)
        except (KazooException, KazooTimeoutError):
            self._stop_it.wait(0.02)


@dataclass(slots=True)
class Outcome:
    """`again_ms`: of each round, the time until a write got through; `hurt`: rounds by what was
    done.
    """

    rounds: int = 0
    hurt: Counter[str] = field(default_factory=Counter)
    ops: int = 0
    unknown: int = 0
    again_ms: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def campaign(directory: Path, rounds: int, seed: int, size: int = 3) -> Outcome:
    """Runs it in `directory`."""
    local = Local(directory)
    local.make(size, 0, TICK_MS)
    chance = random.Random(seed)
    outcome = Outcome()
    stop = threading.Event()
    clients: list[Client] = []
    try:
        for sid in local.sids():
            local.start(sid)
        local.wait()
        first = KazooClient(local.connect, timeout=4)
        first.start(_PATIENCE_S)
        for path in PATHS:
            first.create(path, b"")
        first.stop()
        first.close()
        clients = [Client(number, local.connect, stop) for number in range(4)]
        for client in clients:
            client.start()
        _write_after(clients, time.monotonic_ns())
        for number in range(rounds):
            _round(local, clients, chance, number % 2 == 0, outcome)
        outcome.rounds = rounds
    finally:
        stop.set()
        for client in clients:
            client.join(_PATIENCE_S)
        local.stop()
    ops = [op for client in clients for op in client.ops]
    outcome.ops = len(ops)
    outcome.unknown = sum(op.answered is None for op in ops)
    outcome.wrong += [f"{type(c.wrong).__name__}: {c.wrong}" for c in clients if c.wrong]
    # What the nodes held at first nobody wrote.
    outcome.wrong += check(op for op in ops if op.kind != READ or op.value != b"")
    return outcome


def _round(
    local: Local, clients: list[Client], chance: random.Random, lead: bool, outcome: Outcome
) -> None:
    leaders = [sid for sid in local.sids() if local.mode(sid) == "leader"]
    sid = leaders[0] if lead and leaders else chance.choice(local.sids())
    how = chance.choices(("kill", "pause", "partition"), (4, 3, 3))[0]
    since = time.monotonic_ns()
    deque(act(local, how, [str(sid)]))
    if how == "partition":
        time.sleep(2 * LOOK_S)  # until both sides know
        since = time.monotonic_ns()
    outcome.hurt[how] += 1
    after = _write_after(clients, since)
    outcome.again_ms.append((after - since) / 1e6)
    time.sleep(chance.random())
    deque(act(local, AGAIN[how], [str(sid)]))
    local.wait()
    time.sleep(chance.random() / 2)


def _write_after(clients: list[Client], since: int) -> int:
    """When a write that was asked after `since` was first answered."""
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        for client in clients:
            for op in reversed(client.ops[-200:]):
                if op.kind == WRITE and op.answered is not None and op.asked > since:
                    return op.answered
        time.sleep(0.01)
    raise AssertionError("no write gets through")


def main() -> int:
    """The exit status: 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        outcome = campaign(Path(name) / "ensemble", given.rounds, given.seed)
    again = sorted(outcome.again_ms)
    hurt = ", ".join(f"{how} {count}" for how, count in sorted(outcome.hurt.items()))
    late = [ms for ms in again if ms > AGAIN_MS]
    print(
        f"{outcome.rounds} rounds ({hurt}), {outcome.ops} operations "
        f"({outcome.unknown} unanswered), {len(outcome.wrong)} wrong; "
        f"a write got through after {again[len(again) // 2]:.0f} ms (median), "
        f"{again[-1]:.0f} ms at most; {len(late)} later than {AGAIN_MS} ms"
    )
    for line in outcome.wrong[:20]:
        print(line)
    return 1 if outcome.wrong or late else 0


if __name__ == "__main__":
    sys.exit(main())
