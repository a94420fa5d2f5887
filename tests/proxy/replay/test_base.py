"""Start states out of snapshots: what the recording does not show comes, what is gone does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl

from tests.proxy.replay.support import command, differences, planned, recorder, replayed
from tests.server.ourzk import ours
from zktrace_proxy.replay.base import BaseError, join, read


def client(hosts: str) -> KazooClient:
    made = KazooClient(hosts, timeout=30)
    made.start(60)
    return made


def end(one: KazooClient) -> None:
    one.stop()
    one.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recording, and the snapshots of its server: what was there, and one node that went before
    the recording began.
    """
    directory = tmp_path_factory.mktemp("base")
    file = directory / "a.pcapng"
    with ours(directory / "server") as server:
        one = client(server.hosts)
        one.create("/app", b"app")
        one.create("/app/unread", b"never read")
        one.create("/app/gone", b"")
        one.create("/app/gone/below", b"")
        one.create("/app/mine", b"", acl=[make_digest_acl("user", "secret", all=True)])
        end(one)
        server.stop()
        server.start()  # which writes a snapshot
        one = client(server.hosts)
        one.delete("/app/gone", recursive=True)
        one.set("/app", b"changed")
        end(one)
        with recorder(server.address, file) as (host, port):
            one = client(f"{host}:{port}")
            assert one.exists("/app/gone") is None
            assert one.get("/app")[0] == b"changed"
            assert one.exists("/app/unread")
            end(one)
    return file, directory / "server" / "data" / "version-2"


def test_a_snapshot_and_what_replies_show(pair: tuple[Path, Path], tmp_path: Path) -> None:
    plan = planned(pair[0])
    base = read(pair[1])
    assert join(plan.start, base) == 0
    with ours(tmp_path) as server:
        assert differences(replayed(plan, server.address)) == []
        one = client(server.hosts)
        assert sorted(one.get_children("/app")) == ["mine", "unread"]
        assert one.get("/app/unread")[0] == b"never read"
        assert one.get("/app")[0] == b"changed"
        one.add_auth("digest", "user:secret")
        assert one.get_acls("/app/mine")[0][0].id.scheme == "digest"
        end(one)


def test_the_command_tells_what_lies_between(pair: tuple[Path, Path]) -> None:
    done = command("replay", str(pair[0]), "--plan", "--base", str(pair[1]))
    assert done.returncode == 0, done.stderr
    assert "3 nodes were there before" in done.stdout
    assert "between the snapshot" in done.stdout


@pytest.mark.parametrize("content", [b"", b"ZKSN", b"\x1f\x8bnothing", b"x" * 1000])
def test_what_is_no_snapshot(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "snapshot.1").write_bytes(content)
    with pytest.raises(BaseError, match=r"snapshot\.1: "):
        read(tmp_path)
    with pytest.raises(BaseError, match="no snapshot in it"):
        read(tmp_path / "..")
