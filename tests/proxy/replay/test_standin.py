"""An application is recorded at a server, then run against the recording: the same results."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    ConnectionLoss,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    SystemZookeeperError,
)
from kazoo.recipe.lock import Lock

from tests.proxy.replay.support import command, recorder, started
from tests.server.ourzk import ours
from zktrace_proxy import Answering, answering, between
from zktrace_proxy.plane import Record
from zktrace_proxy.pytest_plugin import zktrace_answers

# also where an older installation does not register it
__all__ = ["zktrace_answers"]

Results = list[Any]
WAIT_S = 10


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
    events: Any = one.handler.queue_impl()
    told = events.put

    def wait() -> None:
        event = events.get(timeout=WAIT_S)
        saw.append((event.type, event.path))

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


def contenders(hosts: str) -> Results:
    """kazoo's lock, whose names are random: two sessions, the second waits for the first."""
    one, two = client(hosts), client(hosts)
    saw: Results = []
    first, second = Lock(one, "/lock", "one"), Lock(two, "/lock", "two")
    assert first.acquire(timeout=WAIT_S)
    waiting = two.handler.spawn(second.acquire, True, WAIT_S)
    while len(second.contenders()) < 2:
        pass
    saw.append(second.contenders())
    first.release()
    waiting.join(WAIT_S)
    saw.append(second.is_acquired)
    saw.append(one.get_children("/lock")[0][-10:])
    second.release()
    saw.append(one.get_children("/lock"))
    end(one, two)
    return saw


def test_locks_with_names_of_chance(tmp_path: Path) -> None:
    file, results = recorded(tmp_path, contenders)
    assert results == [["one", "two"], True, "0000000001", []]
    with answering(file) as server:
        assert contenders(server.hosts) == results


def follower(hosts: str, go_on: Callable[[], None]) -> Results:
    """What one client sees of a node that another one writes."""
    one = client(hosts)
    saw: Results = []
    told: Any = one.handler.queue_impl()
    saw.append(one.get("/config", watch=told.put)[0])
    go_on()
    event = told.get(timeout=WAIT_S)
    saw.append((event.type, event.path))
    saw.append(one.get_children("/", watch=told.put))
    data, stat = one.get("/config")
    saw.append((data, stat.version))
    go_on()
    event = told.get(timeout=WAIT_S)
    saw.append((event.type, event.path))
    saw.append(sorted(one.get_children("/")))
    end(one)
    return saw


@pytest.mark.parametrize("seen", [True, False])
def test_what_other_clients_wrote_happens_where_it_did(seen: bool, tmp_path: Path) -> None:
    """Whether the recording has those writes, or only what the client saw of them."""
    file = tmp_path / "a.pcapng"
    with ours(tmp_path / "server") as server, recorder(server.address, file) as (host, port):
        through = f"{host}:{port}"
        other = client(through if seen else server.hosts)
        other.create("/config", b"old")
        writes = iter((lambda: other.set("/config", b"new"), lambda: other.create("/more", b"")))
        results = follower(through, lambda: next(writes)())
        end(other)
    assert results[1:] == [
        ("CHANGED", "/config"), ["zookeeper", "config"] if seen else results[2],
        (b"new", 1), ("CHILD", "/"), ["config", "more", "zookeeper"],
    ]  # fmt: skip
    clients = _clients(file)
    assert len(clients) == 1 + seen
    with answering(file, clients=clients[-1:], require_all=True) as standin:
        assert follower(standin.hosts, lambda: None) == results


def _clients(file: Path) -> list[str]:
    """Addresses of the recorded clients, in the order of their first requests."""
    with answering(file) as server:
        return list(dict.fromkeys(one["client"] for one in server.report["never_asked"]))


def unlucky(hosts: str) -> Results:
    """A connection that is lost, an error that a fault made, a session that expires."""
    one = client(hosts)
    saw: Results = []
    states: Any = one.handler.queue_impl()
    one.add_listener(states.put)
    one.create("/node", b"")
    one.create("/mine", b"", ephemeral=True)
    try:
        one.get("/forbidden")
    except NoAuthError as error:
        saw.append(type(error).__name__)
    event: Any = one.handler.queue_impl()
    one.get("/mine", watch=event.put)
    try:
        one.set("/node", b"lost")
    except ConnectionLoss as error:
        saw.append(type(error).__name__)
    while (state := states.get(timeout=WAIT_S)) != "CONNECTED":
        saw.append(state)
    saw.append(one.get("/node")[0])
    saw.append(one.exists("/mine").owner_session_id == one.client_id[0])
    with pytest.raises(ConnectionLoss):
        one.get_children("/expire")
    while (state := states.get(timeout=WAIT_S)) != "CONNECTED":
        saw.append(state)
    saw.append(one.exists("/mine"))
    end(one)
    return saw


def test_connections_are_lost_and_sessions_expire_as_they_did(tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    faults = (
        'error NoAuth when path == "/forbidden"',
        'drop-reply times=1 when op == "setData"',
        'expire times=1 when path == "/expire"',
    )
    with (
        ours(tmp_path / "server") as zookeeper,
        between(zookeeper.hosts, faults=faults, record=Record(str(file))) as proxy,
    ):
        results = unlucky(proxy.hosts)
    assert results[:3] == ["NoAuthError", "ConnectionLoss", "SUSPENDED"]
    assert results[3:5] == [b"lost", True]
    assert "LOST" in results
    assert results[-1] is None
    with answering(file) as server:
        assert unlucky(server.hosts) == results


def differently(hosts: str) -> Results:
    """Another application than the recorded one: what it asks for besides."""
    one = client(hosts)
    saw: Results = []
    one.create("/app", b"mine")
    saw.append(one.get("/app")[0])
    one.create("/other", b"")
    for path in ("/other", "/app/task-0000000000"):
        try:
            saw.append(one.exists(path) is not None)
        except SystemZookeeperError as error:
            saw.append(type(error).__name__)
    end(one)
    return saw


def test_what_the_recording_does_not_have(
    app: tuple[Path, Results],
    zktrace_answers: Callable[..., Answering],
) -> None:
    file, _ = app
    by_tree = zktrace_answers(file)
    assert differently(by_tree.hosts) == [b"mine", True, False]
    assert by_tree.unmatched == ["create /other", "exists /other"]
    assert by_tree.report["other_data"] == 1
    assert "setData /app" in by_tree.never_asked
    refusing = zktrace_answers(file, unmatched="refuse")
    one = client(refusing.hosts)
    one.create("/app", b"first")
    with pytest.raises(SystemZookeeperError):
        one.create("/other", b"")
    end(one)
    with pytest.raises(AssertionError, match="never asked for"):  # noqa: SIM117
        with answering(file, require_all=True):
            pass


@contextmanager
def serving(file: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The command; where it listens, and the process."""
    process = started("replay", str(file), "--serve", "127.0.0.1:0", *options)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"(127\.0\.0\.1:\d+) answers for (\d+)", line)
        assert found is not None, line + process.stderr.read()
        yield found[1], process
    finally:
        process.kill()
        process.communicate()


def test_the_command(app: tuple[Path, Results], tmp_path: Path) -> None:
    file, results = app
    with ours(tmp_path) as other:
        beside = client(other.hosts)
        beside.create("/only-there", b"far")
        forward = f"forward={other.hosts}"
        with serving(file, "--require-all", "--unmatched", forward) as (hosts, process):
            one = client(hosts)
            assert one.get("/only-there")[0] == b"far"
            assert one.create("/app", b"first") == "/app"
            assert one.command(b"ruok") == "imok"
            end(one)
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=60)
        end(beside)
    assert process.returncode == 1
    assert "UNMATCHED 1 x getData /only-there, forwarded" in out
    assert "UNASKED" in out
    with serving(file, "--require-all", "--json") as (hosts, process):
        assert application(hosts) == results
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["never_asked"] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--serve", "nowhere"], "--serve: 'nowhere' is not HOST:PORT"),
        (["--serve", ":0", "--to", "127.0.0.1:1"], "--to or --serve, not both"),
        (["--serve", "127.0.0.1:0", "--unmatched", "guess"], "none of model, refuse, forward="),
        (["--serve", "127.0.0.1:0", "--client", "10.9.9.9"], "no session of 10.9.9.9"),
        (["--require-all", "--plan"], "are about --serve"),
    ],
)
def test_wrong_calls(options: list[str], words: str, app: tuple[Path, Results]) -> None:
    done = command("replay", str(app[0]), *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_noise_at_its_port(app: tuple[Path, Results]) -> None:
    chance = Random(5)
    with answering(app[0]) as server:
        host, _, port = server.hosts.rpartition(":")
        for size in (1, 3, 4, 7, 44, 45, 200):
            with socket.create_connection((host, int(port)), 10) as noise:
                noise.sendall(chance.randbytes(size))
            with socket.create_connection((host, int(port)), 10) as noise:
                noise.sendall(size.to_bytes(4, "big") + chance.randbytes(size))
        assert application(server.hosts) == app[1]


def claim(one: Any, path: str, name: bytes) -> bytes | None:
    """The example of docs/standin.md."""
    for task in sorted(one.get_children(path)):
        try:
            one.create(f"{path}/{task}/owner", name, ephemeral=True)
        except (NodeExistsError, NoNodeError):
            continue
        data: bytes = one.get(f"{path}/{task}")[0]
        return data
    return None


def test_the_worked_example(
    tmp_path: Path,
    zktrace_answers: Callable[..., Answering],
) -> None:
    file = tmp_path / "claim.pcapng"
    with ours(tmp_path / "server") as zookeeper:
        setting_up = client(zookeeper.hosts)
        for number in (6, 7):
            setting_up.create(f"/tasks/t{number}", b"resize photo %d" % number, makepath=True)
        setting_up.create("/tasks/t6/owner", b"worker-0")
        with between(zookeeper.hosts, record=Record(str(file))) as proxy:
            worker = client(proxy.hosts)
            assert claim(worker, "/tasks", b"worker-1") == b"resize photo 7"
            end(worker, setting_up)
    standin = zktrace_answers(file)
    worker = client(standin.hosts)
    assert claim(worker, "/tasks", b"worker-1") == b"resize photo 7"
    end(worker)
    assert standin.unmatched == []
    assert standin.never_asked == []
