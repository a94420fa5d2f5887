"""Java's servers and ours in one ensemble: each leads in turn, each is brought up to date by DIFF,
TRUNC and SNAP, clients go on through it, and nothing that was acknowledged is lost. Java compares
the digest of its tree with that of the leader's txns; so do ours.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from tests.server.quorum.mixed import PATIENCE_S, Writer, mixed, nothing_differs, program, tree

#: More than a leader keeps in memory, so that a snapshot is needed.
_MANY = 650


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
        trees = [tree(server.hosts) for server in servers]
        assert trees[0] == trees[1] == trees[2]
        assert "/alone" not in trees[0]
        there = {path.removeprefix("/load/") for path in trees[0] if path.startswith("/load/")}
        assert not set(writer.known) - there
        assert len([path for path in trees[0] if path.startswith("/many/")]) == _MANY
        nothing_differs(servers)


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
        trees = [tree(server.hosts) for server in servers if server.running]
        assert all(tree == trees[0] for tree in trees)
        nothing_differs(servers)


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
        trees = [tree(server.hosts) for server in servers]
        assert trees[0] == trees[1] == trees[2]
        assert not {f"/load/{name}" for name in writer.known} - set(trees[0])
        nothing_differs(servers)
