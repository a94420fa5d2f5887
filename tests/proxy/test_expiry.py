"""The example of ``docs/faults.md``: an application whose session expires."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import KazooException

import zktrace_proxy
from tests.server.ourzk import ours


class Worker:
    """Keeps ``/workers/NAME`` for as long as it lives: the application under test."""

    def __init__(self, client: KazooClient, name: str) -> None:
        self.client = client
        self.path = f"/workers/{name}"
        self.lost = False
        client.ensure_path("/workers")
        client.add_listener(self._on_state)
        self._register()

    def _on_state(self, state: str) -> None:
        if state == KazooState.LOST:
            self.lost = True
        elif state == KazooState.CONNECTED and self.lost:
            # Not from this thread, which reads the answers.
            self.lost = False
            self.client.handler.spawn(self._register)

    def _register(self) -> None:
        self.client.retry(self.client.create, self.path, b"", ephemeral=True)


@pytest.fixture(scope="module")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ours(tmp_path_factory.mktemp("server")) as server:
        yield server.hosts


def eventually(what: Callable[[], object]) -> bool:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if what():
                return True
        except KazooException:
            pass  # it is connecting again
        time.sleep(0.02)
    return False


def test_my_application_survives_an_expired_session(zookeeper: str) -> None:
    with zktrace_proxy.between(zookeeper) as p:
        client = KazooClient(p.hosts)
        client.start()
        try:
            worker = Worker(client, "1")
            before = client.exists(worker.path).ephemeralOwner
            p.faults.add("expire times=1")
            p.wait_for("expire")

            def again() -> bool:
                node = client.exists(worker.path)
                return node is not None and node.ephemeralOwner != before

            assert eventually(again), "it registers again, with its new session"
        finally:
            client.stop()
            client.close()


def test_the_fixture_makes_proxies_that_end_with_the_test(
    zktrace_proxy: Callable[..., zktrace_proxy.Between], zookeeper: str
) -> None:
    p = zktrace_proxy(zookeeper, faults=["down"])
    assert len(p.addresses) == 1
    assert [fault.rule.text for fault in p.faults.list()] == ["down"]
