"""What the data tree keeps of znodes, by way of requests."""

from __future__ import annotations

import pytest

from tests.server.core.harness import NOW_MS, OPEN, Client, Refusal, World
from zktrace.wire.multi import MultiOp, MultiRequest
from zktrace.wire.records import (
    ACL,
    CreateRequest,
    CreateTTLRequest,
    Id,
    PathRequest,
    PathVersionRequest,
    SetACLRequest,
)
from zktrace_server.core.node import MAX_TTL
from zktrace_server.core.quota import Track


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> Client:
    return world.client()


def refused(code: int) -> pytest.RaisesExc[Refusal]:
    return pytest.raises(Refusal, match=f"^{code}$")


def test_a_stat_says_what_was_done(client: Client) -> None:
    client.create("/a", b"one")  # zxid 2; 1 was the session's
    client.create("/a/b")
    client.delete("/a/b")
    client.create("/a/c")
    stat = client.set("/a", b"three")
    assert (stat.czxid, stat.mzxid, stat.pzxid) == (2, 6, 5)
    assert (stat.version, stat.cversion, stat.aversion) == (1, 3, 0)
    assert (stat.data_length, stat.num_children, stat.ephemeral_owner) == (5, 1, 0)
    assert stat.ctime == stat.mtime == client.world.server.wall_ms


def test_sequence_numbers_count_creations(client: Client) -> None:
    client.create("/q")
    assert client.create("/q/n-", flags=2) == "/q/n-0000000000"
    client.create("/q/other")
    assert client.create("/q/n-", flags=2) == "/q/n-0000000002"
    assert client.create("/q/", flags=2) == "/q/0000000003"


def test_ephemerals_go_with_their_session(world: World, client: Client) -> None:
    other = world.client()
    other.create("/e", flags=1)
    assert client.exists("/e").ephemeral_owner == other.response.session_id
    with refused(-108):
        client.create("/e/below")
    other.ask("closeSession")
    with refused(-101):
        client.exists("/e")


def test_a_session_that_is_silent_expires(world: World, client: Client) -> None:
    other = world.client(timeout_ms=6000)
    other.create("/e", flags=1)
    client.exists("/e", watch=True)
    world.pass_time(6000)
    client.ask("ping", xid=-2)
    assert client.exists("/e")
    world.pass_time(2000)
    assert client.hear() == [(2, "/e", 4)]
    assert other.frames() == []
    with refused(-101):
        client.exists("/e")


def test_a_container_goes_when_it_is_empty_again(world: World, client: Client) -> None:
    client.ask("createContainer", CreateRequest("/c", b"", OPEN, 4))
    client.ask("createContainer", CreateRequest("/unused", b"", OPEN, 4))
    client.create("/c/x")
    client.delete("/c/x")
    for _ in range(7):
        client.ask("ping", xid=-2)
        world.pass_time(9000)
    assert client.children("/") == ["zookeeper", "unused"]


def test_a_create_with_the_flag_of_containers_makes_none(world: World, client: Client) -> None:
    """What a node is comes from the txn, which for this opcode cannot say it."""
    client.create("/plain", flags=4)
    assert world.tree.nodes["/plain"].owner == 0
    assert not world.tree.containers


def test_a_ttl_node_goes_when_it_was_idle(world: World, client: Client) -> None:
    client.ask("createTTL", CreateTTLRequest("/t", b"", OPEN, 5, 30_000))
    client.ask("createTTL", CreateTTLRequest("/longer", b"", OPEN, 5, MAX_TTL))
    assert client.exists("/t").ephemeral_owner == 0
    for _ in range(7):
        client.ask("ping", xid=-2)
        world.pass_time(9000)
    assert client.children("/") == ["zookeeper", "longer"]


def test_ttl_nodes_are_refused_where_they_are_not_enabled() -> None:
    client = World(extended_types=False).client()
    with refused(-6):
        client.ask("createTTL", CreateTTLRequest("/t", b"", OPEN, 5, 1000))


def test_a_ttl_without_its_flag_is_refused(client: Client) -> None:
    """Java logs a txn that it then cannot apply, nor load again."""
    with refused(-8):
        client.ask("createTTL", CreateTTLRequest("/t", b"", OPEN, 0, -1))


def test_clients_do_not_delete_containers(client: Client) -> None:
    client.create("/plain")
    with refused(-6):
        client.ask("deleteContainer", PathRequest("/plain"))
    other = client.world.client()
    assert other.exists("/plain")


def test_a_quota_is_counted(client: Client) -> None:
    client.create("/a", b"12345")
    for path in ("/zookeeper/quota/a", "/zookeeper/quota/a/zookeeper_limits"):
        client.create(path, b"count=2,bytes=10")
    client.create("/zookeeper/quota/a/zookeeper_stats")
    client.create("/a/b", b"678")
    assert client.get("/zookeeper/quota/a/zookeeper_stats").data == b"count=2,bytes=8"
    client.set("/a/b", b"1")
    client.delete("/a/b")
    assert client.get("/zookeeper/quota/a/zookeeper_stats").data == b"count=1,bytes=5"


def test_hard_limits_refuse_where_they_are_enforced() -> None:
    client = World(enforce_quota=True).client()
    client.create("/a", b"12345")
    limits = b"count=2,bytes=10=;byteHardLimit=10;countHardLimit=2"
    client.create("/zookeeper/quota/a")
    client.create("/zookeeper/quota/a/zookeeper_limits", limits)
    client.create("/zookeeper/quota/a/zookeeper_stats")
    client.create("/a/b")
    with refused(-125):
        client.create("/a/c")
    with refused(-125):
        client.set("/a/b", bytes(6))
    client.set("/a/b", bytes(5))


def test_a_quota_node_may_say_anything(client: Client) -> None:
    """Clients can write it; Java dies of what is no number."""
    client.create("/a")
    client.create("/zookeeper/quota/zookeeper_limits", b"\xff=;=,=a")
    client.create("/zookeeper/quota/a")
    client.create("/zookeeper/quota/a/zookeeper_limits", b"count=many")
    client.create("/zookeeper/quota/a/zookeeper_stats")
    client.set("/zookeeper/quota/a/zookeeper_stats", b"no=numbers;;count")
    client.create("/a/b", b"x")
    client.delete("/zookeeper/quota/zookeeper_limits")
    assert client.exists("/a/b")


def test_track_reads_what_java_writes() -> None:
    track = Track(b"count=1,bytes=-1=;byteHardLimit=-1;countHardLimit=5")
    assert (track["count"], track["bytes"], track["countHardLimit"]) == (1, -1, 5)
    assert track.encode() == b"count=1,bytes=-1=;byteHardLimit=-1;countHardLimit=5"


def test_rights(world: World) -> None:
    alice, nobody, chief = world.client(), world.client(address="10.1.2.3"), world.client()
    alice.auth(b"alice:secret")
    alice.create("/private", b"", acl=[ACL(31, Id("auth", "")), ACL(1, Id("ip", "10.0.0.0/8"))])
    assert nobody.get("/private").data == b""
    with refused(-102):
        nobody.set("/private", b"x")
    with refused(-102):
        chief.get("/private")
    assert nobody.acl("/private")[0].id.id == "alice:x"
    assert alice.acl("/private")[0].id.id == "alice:aYXlLOpEooaV1cRAvUL1fp9Qt7E="


def test_the_superuser_may_do_anything() -> None:
    world = World(super_digest="super:pbsMksets+qLQDMMskY3ASyYqs8=")
    client, chief = world.client(), world.client()
    client.create("/locked", acl=[ACL(31, Id("ip", "10.0.0.1"))])
    with refused(-102):
        client.set("/locked", b"x")
    chief.auth(b"super:all")
    chief.set("/locked", b"x")
    chief.ask("setACL", SetACLRequest("/locked", OPEN, -1))
    assert client.get("/locked").data == b"x"


def test_a_multi_is_all_or_nothing(client: Client) -> None:
    def ops(*parts: tuple[int, object]) -> MultiRequest:
        return MultiRequest([MultiOp(kind, body) for kind, body in parts])  # type: ignore[arg-type]

    create = CreateRequest("/m", b"", OPEN, 0)
    below = CreateRequest("/m/x-", b"", OPEN, 2)
    failed = client.ask("multi", ops((1, create), (13, PathVersionRequest("/m", 7)), (1, below)))
    assert [result.err for result in failed.results] == [0, -103, -2]
    with refused(-101):
        client.exists("/m")
    done = client.ask("multi", ops((1, create), (1, below), (1, below)))
    assert [r.body.created_path for r in done.results] == [
        "/m",
        "/m/x-0000000000",
        "/m/x-0000000001",
    ]


def test_session_ids_begin_with_the_server(client: Client) -> None:
    assert client.response.session_id == 1 << 56 | (NOW_MS << 24 & (1 << 64) - 1) >> 8
