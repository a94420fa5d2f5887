"""Who is told of what."""

from __future__ import annotations

import pytest

from tests.server.core.harness import OPEN, Client, Refusal, World
from zktrace.wire.records import (
    ACL,
    AddWatchRequest,
    CreateRequest,
    Id,
    SetWatches2,
    WatchTypeRequest,
)

CREATED, DELETED, CHANGED, CHILDREN = 1, 2, 3, 4


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def writer(world: World) -> Client:
    writer = world.client()
    writer.create("/a")
    return writer


@pytest.fixture
def watcher(world: World, writer: Client) -> Client:
    return world.client()


def kinds(client: Client) -> list[tuple[int, str | None]]:
    return [(kind, path) for kind, path, _ in client.hear()]


def test_one_shot_watches_fire_once(writer: Client, watcher: Client) -> None:
    watcher.get("/a", watch=True)
    watcher.children("/a", watch=True)
    with pytest.raises(Refusal, match="-101"):
        watcher.exists("/a/b", watch=True)
    for _ in range(2):
        writer.set("/a", b"x")
        writer.create("/a/b")
        writer.delete("/a/b")
    assert kinds(watcher) == [(CHANGED, "/a"), (CREATED, "/a/b"), (CHILDREN, "/a")]


def test_an_event_carries_the_zxid_of_its_write(writer: Client, watcher: Client) -> None:
    watcher.get("/a", watch=True)
    stat = writer.set("/a", b"x")
    assert watcher.hear() == [(CHANGED, "/a", stat.mzxid)]


def test_ones_own_event_comes_before_the_reply(writer: Client) -> None:
    writer.get("/a", watch=True)
    writer.set("/a", b"x")
    assert [event[:2] for event in writer.events] == [(CHANGED, "/a")]


def test_deletion_is_told_once_to_each(writer: Client, watcher: Client) -> None:
    watcher.get("/a", watch=True)
    watcher.children("/a", watch=True)
    writer.delete("/a")
    assert kinds(watcher) == [(DELETED, "/a")]
    writer.create("/a")
    writer.create("/a/b")
    assert kinds(watcher) == []


def test_persistent_watches_stay(writer: Client, watcher: Client) -> None:
    watcher.ask("addWatch", AddWatchRequest("/a", 0))
    for _ in range(2):
        writer.create("/a/b")
        writer.set("/a/b", b"x")
        writer.delete("/a/b")
    assert kinds(watcher) == [(CHILDREN, "/a")] * 4


def test_recursive_watches_tell_of_all_below_but_of_no_children(
    writer: Client, watcher: Client
) -> None:
    watcher.ask("addWatch", AddWatchRequest("/a", 1))
    writer.create("/a/b")
    writer.create("/a/b/c")
    writer.set("/a/b/c", b"x")
    writer.delete("/a/b/c")
    writer.create("/ab")
    assert kinds(watcher) == [
        (CREATED, "/a/b"),
        (CREATED, "/a/b/c"),
        (CHANGED, "/a/b/c"),
        (DELETED, "/a/b/c"),
    ]


def test_a_path_may_be_watched_in_several_modes(writer: Client, watcher: Client) -> None:
    watcher.ask("addWatch", AddWatchRequest("/a", 0))
    watcher.ask("addWatch", AddWatchRequest("/a", 1))
    watcher.get("/a", watch=True)
    watcher.ask("removeWatches", WatchTypeRequest("/a", 2))
    watcher.ask("checkWatches", WatchTypeRequest("/a", 5))
    watcher.ask("removeWatches", WatchTypeRequest("/a", 5))
    with pytest.raises(Refusal, match="-121"):
        watcher.ask("checkWatches", WatchTypeRequest("/a", 5))
    writer.create("/a/b")
    assert kinds(watcher) == [(CHILDREN, "/a")]
    watcher.ask("removeWatches", WatchTypeRequest("/a", 3))
    writer.set("/a", b"x")
    assert kinds(watcher) == []


def test_catching_up(writer: Client, watcher: Client) -> None:
    writer.create("/gone")
    before = writer.world.tree.last_zxid
    writer.delete("/gone")
    writer.set("/a", b"x")
    writer.create("/new")
    watcher.ask(
        "setWatches2",
        SetWatches2(
            before, ["/a", "/gone", "/new"], ["/new", "/later"], ["/a", "/"], ["/a"], ["/"]
        ),
        -8,
    )
    assert watcher.hear() == [
        (CHANGED, "/a", -1),
        (DELETED, "/gone", -1),
        (CHANGED, "/new", -1),
        (CREATED, "/new", -1),
        (CHILDREN, "/", -1),
    ]
    writer.create("/later")
    writer.create("/a/b")
    assert kinds(watcher) == [(CREATED, "/later"), (CREATED, "/a/b"), (CHILDREN, "/a")]


def test_no_event_of_what_may_not_be_read(writer: Client, watcher: Client) -> None:
    watcher.ask("addWatch", AddWatchRequest("/", 1))
    writer.ask("create", CreateRequest("/secret", b"", [ACL(30, Id("world", "anyone"))], 0))
    writer.ask("create", CreateRequest("/open", b"", OPEN, 0))
    assert kinds(watcher) == [(CREATED, "/open")]


def test_watches_end_with_the_connection(writer: Client, watcher: Client) -> None:
    watcher.get("/a", watch=True)
    watcher.children("/a", watch=True)
    watcher.ask("addWatch", AddWatchRequest("/", 1))
    watcher.leave()
    tree = writer.world.tree
    assert len(tree.data_watches) == len(tree.child_watches) == 0
    writer.set("/a", b"x")
    assert watcher.frames() == []
