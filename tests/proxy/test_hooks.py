"""Hooks with a real client: the examples of ``docs/hooks``, and hooks that misbehave."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    NoAuthError,
    NoNodeError,
    SessionExpiredError,
)

import zktrace_proxy
from tests.proxy.conftest import ROOT, Proxy
from tests.server.ourzk import ours
from zktrace_proxy.hooks.runner import Hooks
from zktrace_proxy.testing import Between

EXAMPLES = ROOT / "docs" / "hooks"
LOST = (ConnectionLoss, ConnectionClosedError, SessionExpiredError)
HEAD = "import asyncio, time\nfrom zktrace_proxy.hooks import *\n"
WAIT_S = 20.0


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ours(tmp_path_factory.mktemp("server")) as server:
        yield server.hosts


@contextmanager
def kazoo(hosts: str, **options: Any) -> Iterator[KazooClient]:
    client = KazooClient(hosts, timeout=20, **options)
    client.start(WAIT_S)
    try:
        yield client
    finally:
        client.stop()
        client.close()


@pytest.fixture
def direct(upstream: str) -> Iterator[KazooClient]:
    with kazoo(upstream) as client:
        if client.exists("/h"):
            client.delete("/h", recursive=True)
        client.create("/h", b"0")
        yield client


class Hooked:
    def __init__(self, proxy: Between, hooks: Hooks, said: list[str], script: Path) -> None:
        self.proxy, self.hooks, self.said, self.script = proxy, hooks, said, script


@contextmanager
def hooked(upstream: str, script: Path | str, folder: Path | None = None) -> Iterator[Hooked]:
    """A proxy with a script, or one with this text."""
    if isinstance(script, str):
        assert folder is not None
        path = folder / "script.py"
        path.write_text(HEAD + script)
    else:
        path = script
    said: list[str] = []
    with zktrace_proxy.between(upstream, observers=1) as p:
        hooks = Hooks([str(path)], said.append)
        hooks.start(p.plane, 0)
        try:
            yield Hooked(p, hooks, said, path)
        finally:
            hooks.stop()


def until(what: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


# -- the examples


def test_read_only(upstream: str, direct: KazooClient) -> None:
    with hooked(upstream, EXAMPLES / "read_only.py") as h, kazoo(h.proxy.hosts) as client:
        assert client.get("/h")[0] == b"0"
        calls: tuple[Callable[[], Any], ...] = (
            lambda: client.set("/h", b"1"),
            lambda: client.create("/h/x"),
            lambda: client.delete("/h"),
        )
        for call in calls:
            with pytest.raises(NoAuthError):
                call()
        assert direct.get("/h")[0] == b"0"
        assert {one.detail for one in h.proxy.decisions} == {
            "answered by a hook, not sent to the server"
        }


def test_nothing_below_prod_is_deleted(upstream: str, direct: KazooClient) -> None:
    direct.ensure_path("/prod/a")
    with hooked(upstream, EXAMPLES / "keep_prod.py") as h, kazoo(h.proxy.hosts) as client:
        with pytest.raises(NoAuthError):
            client.delete("/prod/a")
        transaction = client.transaction()
        transaction.delete("/prod/a")
        with pytest.raises(NoAuthError):
            transaction.commit()
        client.create("/h/x")
        transaction = client.transaction()
        transaction.delete("/h/x")
        assert transaction.commit() == [True]
        assert direct.exists("/prod/a")
        assert h.said == []


def test_a_chroot_that_clients_do_not_know(upstream: str, direct: KazooClient) -> None:
    direct.ensure_path("/tenant")
    with hooked(upstream, EXAMPLES / "chroot.py") as h, kazoo(h.proxy.hosts) as client:
        events: list[tuple[str, str]] = []
        assert client.create("/a", b"1") == "/a"
        assert client.create("/a/n-", sequence=True, ephemeral=True) == "/a/n-0000000000"
        assert direct.get("/tenant/a")[0] == b"1"
        assert client.get_children("/a") == ["n-0000000000"]
        assert set(client.get_children("/")) >= {"a"}
        client.get("/a", watch=lambda event: events.append((event.type, event.path)))
        direct.set("/tenant/a", b"2")
        until(lambda: events)
        assert events == [("CHANGED", "/a")]
        transaction = client.transaction()
        transaction.create("/a/t")
        transaction.check("/a", 1)
        assert transaction.commit()[0] == "/a/t"
        assert client.sync("/a") == "/a"
        with pytest.raises(NoNodeError):
            client.get("/h")
        client.delete("/a", recursive=True)
        assert not direct.exists("/tenant/a")
        assert h.said == []


def test_more_than_is_allowed_is_throttled(
    upstream: str, direct: KazooClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZKTRACE_RATE", "20")
    with hooked(upstream, EXAMPLES / "rate_limit.py") as h, kazoo(h.proxy.hosts) as client:
        answers = [client.exists_async("/h") for _ in range(200)]
        until(lambda: all(answer.ready() for answer in answers))
        refused = [answer for answer in answers if not answer.successful()]
        # -127 is younger than kazoo, which has no name for it.
        assert len(refused) >= 100
        assert len(refused) < 200
        throttled = [one for one in h.proxy.decisions if "answered by a hook" in one.detail]
        assert len(throttled) == len(refused)


def test_writes_are_in_the_audit_log(
    upstream: str, direct: KazooClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "audit.log"
    monkeypatch.setenv("ZKTRACE_AUDIT", str(log))
    with hooked(upstream, EXAMPLES / "audit.py") as h, kazoo(h.proxy.hosts) as client:
        client.set("/h", b"1")
        client.get("/h")
        with pytest.raises(NoNodeError):
            client.delete("/h/none")
        until(lambda: log.exists() and log.read_text().count("\n") >= 2)
        session = f"0x{client.client_id[0]:016x}"
    rows = [json.loads(line) for line in log.read_text().splitlines()][:2]
    assert [(row["op"], row["path"], row["error_name"]) for row in rows] == [
        ("setData", "/h", "OK"),
        ("delete", "/h/none", "NoNode"),
    ]
    assert {row["session"] for row in rows} == {session}


# -- what hooks may do


def test_observers_are_told_in_order(upstream: str, direct: KazooClient, tmp_path: Path) -> None:
    names = ("connect", "session", "request", "reply", "watch_event", "close")
    text = "told = []\n" + "".join(
        f"def on_{name}(event): told.append(({name!r}, event))\n" for name in names
    )
    with hooked(upstream, text, tmp_path) as h:
        [told] = [script.observers["on_close"].__globals__["told"] for script in h.hooks._scripts]
        with kazoo(h.proxy.hosts) as client:
            fired = threading.Event()
            client.get("/h", watch=lambda event: fired.set())
            direct.set("/h", b"1")
            assert fired.wait(WAIT_S)
        until(lambda: any(kind == "close" for kind, _ in told))
        kinds = [kind for kind, _ in told]
        assert kinds[:2] == ["connect", "session"]
        assert kinds.count("watch_event") == kinds.count("close") == 1
        asked = [event["op"] for kind, event in told if kind == "request"]
        assert [op for op in asked if op != "ping"] == ["getData", "closeSession"]


def test_change_delay_drop_inject_and_answer(
    upstream: str, direct: KazooClient, tmp_path: Path
) -> None:
    text = """
from zktrace.wire.records import GetDataResponse, Stat
@intercept_request('op == setData and path == "/h"')
def change(request):
    request.body.data = b"changed"
    return request.forward()
@intercept_request('op == exists and path == "/h"')
async def wait(request):
    await asyncio.sleep(0.3)
@intercept_request('op == getData and path == "/virtual"')
def answer(request):
    request.send_event("NodeCreated", "/h/new")
    return request.answer(GetDataResponse(b"made up", Stat(*[0] * 11)))
@intercept_reply('op == getData and path == "/h"')
async def replace(reply):
    reply.body.data = reply.body.data.upper()
    return reply.forward()
@intercept_event('event == NodeDataChanged')
def lose(event):
    return DROP
@intercept_request('op == getACL')
def end(request):
    return CLOSE
"""
    with hooked(upstream, text, tmp_path) as h, kazoo(h.proxy.hosts) as client:
        created: list[str] = []
        client.exists("/h/new", watch=lambda event: created.append(event.path))
        begin = time.monotonic()
        client.exists("/h", watch=lambda event: created.append("lost"))
        assert time.monotonic() - begin >= 0.3
        client.set("/h", b"x")
        assert direct.get("/h")[0] == b"changed"
        assert client.get("/h")[0] == b"CHANGED"
        assert client.get("/virtual")[0] == b"made up"
        until(lambda: created)
        assert created == ["/h/new"]
        with pytest.raises(LOST):
            client.get_acls("/h")
        assert h.said == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise ValueError('oh')", "ValueError: oh"),
        ("return 42", "returned int"),
        ("return Change('replace', b'x')", "not a frame"),
        ("time.sleep(60)", None),
    ],
)
@pytest.mark.parametrize("fail", ["open", "closed"])
def test_hooks_that_misbehave(
    upstream: str, direct: KazooClient, tmp_path: Path, body: str, words: str | None, fail: str
) -> None:
    text = f"""
@intercept_request('op == exists', limit_s=0.2, fail={fail!r})
def bad(request):
    {body}
"""
    with hooked(upstream, text, tmp_path) as h, kazoo(h.proxy.hosts) as client:
        if fail == "open":
            assert client.exists("/h")
        else:
            with pytest.raises(LOST):
                client.exists("/h")
        if words is None:
            assert any("did not answer in time" in one.detail for one in h.proxy.decisions)
        else:
            until(lambda: any(words in one for one in h.said))
        assert client.retry(client.get, "/h")[0] == b"0", "others are not concerned"


def test_async_hooks_that_hang_and_observers_that_raise(
    upstream: str, direct: KazooClient, tmp_path: Path
) -> None:
    text = """
@intercept_request('op == exists', limit_s=0.2)
async def hang(request):
    await asyncio.sleep(60)
def on_reply(event):
    raise RuntimeError("no")
"""
    with hooked(upstream, text, tmp_path) as h, kazoo(h.proxy.hosts) as client:
        assert client.exists("/h")
        until(lambda: any("hook hang: no answer within" in one for one in h.said))
        until(lambda: any("hook on_reply: RuntimeError: no" in one for one in h.said))


def test_other_connections_and_the_other_direction_do_not_wait(
    upstream: str, direct: KazooClient, tmp_path: Path
) -> None:
    text = """
@intercept_request('op == exists', limit_s=30)
async def hold(request):
    await asyncio.sleep(1.5)
"""
    with (
        hooked(upstream, text, tmp_path) as h,
        kazoo(h.proxy.hosts) as held,
        kazoo(h.proxy.hosts) as other,
    ):
        events: list[str] = []
        held.get("/h", watch=lambda event: events.append(event.type))
        waiting = held.exists_async("/h")
        behind = held.get_async("/h")
        assert other.get("/h")[0] == b"0"
        direct.set("/h", b"1")
        until(lambda: events)
        assert not waiting.ready()
        assert not behind.ready(), "order is kept"
        assert waiting.get(timeout=WAIT_S).version == 1
        assert behind.get(timeout=WAIT_S)[0] == b"1"


def test_a_script_that_changes_is_read_again(
    upstream: str, direct: KazooClient, tmp_path: Path
) -> None:
    text = "@intercept_request('op == getData')\ndef no(request): return request.error({!r})\n"
    with hooked(upstream, text.format("NoNode"), tmp_path) as h, kazoo(h.proxy.hosts) as client:
        with pytest.raises(NoNodeError):
            client.get("/h")
        h.script.write_text(HEAD + text.format("NoAuth"))
        until(lambda: any("read again" in one for one in h.said))
        with pytest.raises(NoAuthError):
            client.get("/h")
        h.script.write_text("def broken(:\n")
        until(lambda: any("stay as they were" in one for one in h.said))
        with pytest.raises(NoAuthError):
            client.get("/h")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "no hooks in it"),
        ("def broken(:\n", "SyntaxError"),
        ("from zktrace_proxy.hooks import *\n@intercept_request('pth == x')\ndef f(r): ...\n",
         "did you mean 'path'"),
        (None, "No such file"),
    ],
)  # fmt: skip
def test_a_wrong_script_is_refused(
    proxy: Callable[..., Proxy], tmp_path: Path, text: str | None, words: str
) -> None:
    script = tmp_path / "script.py"
    if text is not None:
        script.write_text(text)
    one = proxy("--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "-s", str(script))
    assert words in one.refused()


def test_the_command_takes_scripts(
    proxy: Callable[..., Proxy], upstream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZKTRACE_AUDIT", str(tmp_path / "audit.log"))
    one = proxy(
        "--listen", "127.0.0.1:0", "--upstream", upstream,
        "-s", str(EXAMPLES / "read_only.py"), "-s", str(EXAMPLES / "audit.py"),
    )  # fmt: skip
    with kazoo(one.address()) as client:
        assert client.client_state == KazooState.CONNECTED
        with pytest.raises(NoAuthError):
            client.create("/no")
    assert one.end() == 0, one.said
