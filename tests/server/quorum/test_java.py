"""Java's servers and ours in one ensemble: each leads in turn, each is brought up to date by DIFF,
TRUNC and SNAP, clients go on through it, and nothing that was acknowledged is lost. Java compares
the digest of its tree with that of the leader's txns; so do ours.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    NoNodeError,
    OperationTimeoutError,
    SessionExpiredError,
)
from kazoo.retry import KazooRetry

from tests.server.quorum.mixed import PATIENCE_S, Mixed, mixed, program

#: Of which nobody knows what became.
_UNKNOWN = (ConnectionLoss, SessionExpiredError, OperationTimeoutError, ConnectionClosedError)
#: More than a leader keeps in memory, so that a snapshot is needed.
_MANY = 650


class Writer(threading.Thread):
    """Creates nodes, one after the other, and keeps the names of those it knows to be there."""

    def __init__(self, hosts: str) -> None:
        super().__init__(daemon=True)
        self.known: list[str] = []
        self.wrong: list[BaseException] = []
        self._client = KazooClient(hosts, timeout=8, connection_retry=KazooRetry(-1, 0.05, 1, 0.1))
        self._stop_it = threading.Event()

    def run(self) -> None:
        try:
            self._client.start(PATIENCE_S)
            self._client.ensure_path("/load")
            number = 0
            while not self._stop_it.is_set():
                number += 1
                name = f"n{number}"
                try:
                    self._client.create(f"/load/{name}", name.encode())
                    self.known.append(name)
                    assert self._client.get(f"/load/{name}")[0] == name.encode()
                except _UNKNOWN:
                    self._stop_it.wait(0.05)
            self._client.stop()
            self._client.close()
        except BaseException as error:
            self.wrong.append(error)

    def more(self, servers: Mixed) -> None:
        """Until it has written something more."""
        before = len(self.known)
        servers.until(lambda: len(self.known) > before + 10 or bool(self.wrong))
        assert not self.wrong

    def end(self) -> None:
        self._stop_it.set()
        self.join(PATIENCE_S)
        assert not self.is_alive()
        assert not self.wrong


def _tree(hosts: str) -> dict[str, bytes]:
    """All that one server shows, when it has what the leader has."""
    client = KazooClient(hosts, timeout=8)
    client.start(PATIENCE_S)
    found: dict[str, bytes] = {}
    try:
        client.sync("/")
        below = ["/"]
        while below:
            path = below.pop()
            if path.startswith("/zookeeper"):
                continue
            try:
                found[path] = client.get(path)[0]
                below += [f"{path.rstrip('/')}/{name}" for name in client.get_children(path)]
            except NoNodeError:
                found[path] = b"gone"
    finally:
        client.stop()
        client.close()
    return found


def _many(hosts: str, prefix: str) -> None:
    client = KazooClient(hosts, timeout=8)
    client.start(PATIENCE_S)
    client.ensure_path("/many")
    pending = [client.create_async(f"/many/{prefix}{n}", b"x" * 20) for n in range(_MANY)]
    for one in pending:
        one.get(timeout=PATIENCE_S)
    client.stop()
    client.close()


@pytest.mark.parametrize("kinds", ["joo", "ojj"])
def test_each_leads_in_turn(tmp_path: Path, kinds: str) -> None:
    with mixed(tmp_path, kinds) as servers:
        writer = Writer(servers.hosts)
        writer.start()
        writer.more(servers)
        one = servers.leader()

        # Another leads; the first lacks more than what is in memory: SNAP from the third.
        one.kill()
        two = servers.leader()
        _many(two.hosts, "a")
        writer.more(servers)
        two.kill()
        one.start()
        three = servers.leader()
        assert len({one.sid, two.sid, three.sid}) == 3
        servers.all_serve()
        writer.more(servers)

        # DIFF.
        two.start()
        servers.all_serve()
        writer.more(servers)

        # The third leads on, and has something in its log that nobody else has: TRUNC.
        alone = KazooClient(three.hosts, timeout=8)
        alone.start(PATIENCE_S)
        for server in (one, two):
            os.kill(server.pid, signal.SIGKILL)
        log = three.data / "version-2"
        alone.create_async("/alone", b"never")
        servers.until(lambda: any(b"/alone" in path.read_bytes() for path in log.glob("log.*")))
        three.kill()
        for server in (one, two):
            server.kill()
            server.start()
        writer.more(servers)
        three.start()
        servers.all_serve()
        writer.more(servers)

        writer.end()
        alone.stop()
        alone.close()
        trees = [_tree(server.hosts) for server in servers]
        assert trees[0] == trees[1] == trees[2]
        assert "/alone" not in trees[0]
        there = {path.removeprefix("/load/") for path in trees[0] if path.startswith("/load/")}
        assert not set(writer.known) - there
        assert len([path for path in trees[0] if path.startswith("/many/")]) == _MANY
        _nothing_differs(servers)


@pytest.mark.parametrize("kinds", ["jjjO", "oooJ"])
def test_observers_both_ways(tmp_path: Path, kinds: str) -> None:
    with mixed(tmp_path, kinds) as servers:
        assert servers.modes()[4] == "observer"
        writer = Writer(servers.of(4).hosts)
        writer.start()
        writer.more(servers)
        servers.leader().kill()
        writer.more(servers)
        writer.end()
        trees = [_tree(server.hosts) for server in servers if server.running]
        assert all(tree == trees[0] for tree in trees)
        _nothing_differs(servers)


@pytest.mark.parametrize(("before", "after"), [("j", "o"), ("o", "j")])
def test_rolling_replacement(tmp_path: Path, before: str, after: str) -> None:
    """One server after the other is ended, the leader last, and the other program goes on with its
    data and its zoo.cfg, while clients work.
    """
    with mixed(tmp_path, before * 3) as servers:
        writer = Writer(servers.hosts)
        writer.start()
        writer.more(servers)
        for _ in range(3):
            # Whoever leads at the time is the last of those that are left.
            left = [server for server in servers if type(server) is program(before)]
            one = next((server for server in left if server.mode() != "leader"), left[0])
            one.stop()
            writer.more(servers)
            assert one.sid is not None
            servers.replace(one.sid, after).start()
            servers.all_serve()
            writer.more(servers)
        assert {type(server) for server in servers} == {program(after)}
        writer.end()
        trees = [_tree(server.hosts) for server in servers]
        assert trees[0] == trees[1] == trees[2]
        assert not {f"/load/{name}" for name in writer.known} - set(trees[0])
        _nothing_differs(servers)


def _nothing_differs(servers: Mixed) -> None:
    """What either says of a digest that is not the leader's."""
    for server in servers:
        said = server.log.read_text(errors="replace")
        assert "tree differs" not in said
        assert "Digests are not matching" not in said
