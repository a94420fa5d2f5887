"""What clients of a real ensemble do, and what they measure: every op that kazoo has, right and
wrong, a call at a time per client.

Run in the thread whose sockets are to be used (``Namespace.run``): kazoo's threads are started from
it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoNodeError, RolledBackError, RuntimeInconsistency

_OK = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One request as its client saw it, by the clock that stamps packets, too."""

    op: str
    error: int
    began_ns: int
    ended_ns: int


@dataclass(slots=True)
class Client:
    """A session, and its calls in order."""

    session: int = 0
    calls: list[Call] = field(default_factory=list)


def _error(error: KazooException) -> int:
    code = getattr(type(error), "code", None)
    assert isinstance(code, int), error
    return code


def _timed(client: Client, op: str, call: Callable[[], Any]) -> Any:
    began = time.time_ns()
    result, code = None, _OK
    try:
        result = call()
    except KazooException as error:
        code = _error(error)
    ended = time.time_ns()
    if op == "exists" and result is None and code == _OK:
        code = NoNodeError.code  # kazoo's way to say it
    if op == "multi" and isinstance(result, list):
        # As ZooKeeper's own clients: the first result that is neither good nor a mere consequence.
        for one in result:
            if isinstance(one, KazooException) and not isinstance(
                one, (RolledBackError, RuntimeInconsistency)
            ):
                code = _error(one)
                break
    client.calls.append(Call(op, code, began, ended))
    return result


def _work(hosts: str, root: str, rounds: int, seed: int) -> Client:
    chance = random.Random(seed)
    found = Client()
    zk = KazooClient(hosts, timeout=30)

    def timed(op: str, call: Callable[[], Any]) -> Any:
        return _timed(found, op, call)

    began = time.time_ns()
    zk.start(timeout=60)
    found.session = zk.client_id[0]
    found.calls.append(Call("connect", _OK, began, time.time_ns()))
    try:
        timed("create", lambda: zk.create(root, b"root"))
        for number in range(rounds):
            path = f"{root}/n{chance.randrange(rounds)}"
            data = bytes(chance.randrange(2000))
            kind = chance.randrange(12)
            if kind == 0:
                timed("create", lambda: zk.create(path, data))  # noqa: B023
            elif kind == 1:
                timed("create2", lambda: zk.create(path, data, include_data=True))  # noqa: B023
            elif kind == 2:
                timed("getData", lambda: zk.get(path))  # noqa: B023
            elif kind == 3:
                timed("setData", lambda: zk.set(path, data))  # noqa: B023
            elif kind == 4:
                timed("setData", lambda: zk.set(path, data, version=99_999))  # noqa: B023
            elif kind == 5:
                timed("exists", lambda: zk.exists(path))  # noqa: B023
            elif kind == 6:
                timed("getChildren", lambda: zk.get_children(root))
            elif kind == 7:
                timed("getChildren2", lambda: zk.get_children(root, include_data=True))
            elif kind == 8:
                timed("delete", lambda: zk.delete(path))  # noqa: B023
            elif kind == 9:
                timed("getACL", lambda: zk.get_acls(path))  # noqa: B023
            elif kind == 10:
                timed("sync", lambda: zk.sync(root))
            else:
                both = zk.transaction()
                both.create(f"{root}/m{number}", data)
                both.delete(path)
                timed("multi", both.commit)
    finally:
        began = time.time_ns()
        zk.stop()
        found.calls.append(Call("closeSession", _OK, began, time.time_ns()))
        zk.close()
    return found


def load(hosts: list[str], rounds: int) -> list[Client]:
    """A client per entry of `hosts`, all at the same time."""
    found: list[Client] = []

    def one(number: int) -> None:
        found.append(_work(hosts[number], f"/load{number}", rounds, number))

    threads = [Thread(target=one, args=(number,)) for number in range(len(hosts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(hosts)
    return found
