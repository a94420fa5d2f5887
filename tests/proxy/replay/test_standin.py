"""An application is recorded at a server, then run against the recording: the same results."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import BadVersionError, NoNodeError, SystemZookeeperError
from kazoo.recipe.lock import Lock

from tests.proxy.replay.support import recorder
from tests.server.ourzk import ours
from zktrace_proxy import answering

Results = list[Any]
WAIT_S = 60


def client(hosts: str, timeout_s: float = 30) -> Any:
    made = KazooClient(hosts, timeout=timeout_s)
    made.start(WAIT_S)
    return made


def end(*clients: Any) -> None:
    for one in clients:
        one.stop()
        one.close()


def shown(stat: Any) -> tuple[int, ...]:
    """What of a Stat is the same in another session."""
    return (
        *(stat.czxid, stat.mzxid, stat.ctime, stat.mtime, stat.version, stat.cversion),
        *(stat.aversion, stat.dataLength, stat.numChildren, stat.pzxid),
    )


def application(hosts: str) -> Results:
    """Reads and writes, watches, transactions, errors; what it saw."""
    one = client(hosts)
    saw: Results = []
    changed = one.handler.event_object()

    def told(event: Any) -> None:
        saw.append(("event", event.type, event.path))
        changed.set()

    def wait() -> None:
        assert changed.wait(WAIT_S)
        changed.clear()

    one.create("/app", b"first")
    saw.append(one.exists("/app/none"))
    data, stat = one.get("/app", watch=told)
    saw.append((data, shown(stat)))
    saw.append(shown(one.set("/app", b"second")))
    wait()
    one.get_children("/app", watch=told)
    saw.append(one.create("/app/task-", b"", sequence=True))
    wait()
    saw.append(one.create("/app/task-", b"", sequence=True, ephemeral=True))
    saw.append(sorted(one.get_children("/app")))
    try:
        one.set("/app", b"third", version=7)
    except BadVersionError as error:
        saw.append(type(error).__name__)
    transaction = one.transaction()
    transaction.check("/app", version=1)
    transaction.create("/app/in-", b"x", sequence=True)
    transaction.set_data("/app", b"third")
    saw.append([str(part.version if hasattr(part, "version") else part)
                for part in transaction.commit()])  # fmt: skip
    one.exists("/app/task-0000000000", watch=told)
    one.delete("/app/task-0000000000")
    wait()
    try:
        one.get("/app/task-0000000000")
    except NoNodeError as error:
        saw.append(type(error).__name__)
    data, stat = one.get("/app")
    saw.append((data, shown(stat)))
    end(one)
    return saw


def recorded(directory: Path, app: Callable[[str], Results]) -> tuple[Path, Results]:
    file = directory / "app.pcapng"
    with ours(directory / "server") as server, recorder(server.address, file) as (host, port):
        return file, app(f"{host}:{port}")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    return recorded(tmp_path_factory.mktemp("app"), application)


def test_an_application_sees_what_it_saw(app: tuple[Path, Results]) -> None:
    file, results = app
    with answering(file, require_all=True) as server:
        assert application(server.hosts) == results
        assert server.unmatched == []
    assert server.report["by_tree"] == 0
    assert server.never_asked == []
