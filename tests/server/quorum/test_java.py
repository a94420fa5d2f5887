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

from tests.server.quorum.mixed import (
    PATIENCE_S,
    Mixed,
    OurMember,
    Writer,
    make,
    mixed,
    nothing_differs,
    program,
    tree,
)
from tests.server.rawclient import RawClient
from tests.support.javazk import JavaServer, need_java

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


def _followers(servers: Mixed, count: int) -> list[JavaServer]:
    """So many that serve, who say that they follow."""

    def look() -> list[JavaServer] | None:
        found = [server for server in servers if server.running and server.mode() == "follower"]
        return found if len(found) == count else None

    return servers.until(look)


def test_a_leader_that_serves_nobody(tmp_path: Path) -> None:
    """leaderServes=no: clients find followers only, whichever program leads."""
    need_java()
    servers = make(tmp_path, "ojo", {"leaderServes": "no"})
    led = set()
    try:
        for server in servers:
            server.start()
        writer = Writer(servers.hosts)
        writer.start()
        for _ in range(2):
            followers = _followers(servers, 2)
            leader = next(server for server in servers if server not in followers)
            led.add(type(leader))
            assert "not currently serving" in (leader.ask("srvr") or "")
            client = RawClient(leader.address)
            assert client.connect() is None
            client.close()
            writer.more(servers)
            # The next in the order of sids leads, which is the other program.
            leader.kill()
            _followers(servers, 1)
            writer.more(servers)
            leader.start()
        writer.end()
        assert led == {OurMember, program("j")}
        nothing_differs(servers)
    finally:
        servers.stop()
