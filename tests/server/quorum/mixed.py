"""Ensembles of this server's processes and Java's, for tests: as many of either as is asked for.

    with mixed(tmp_path, "oj o".replace(" ", "")) as servers:   # ours, Java's, ours: sids 1, 2, 3
        servers.leader().kill()

An upper-case letter makes an observer.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from kazoo.client import KazooClient
from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    NoNodeError,
    OperationTimeoutError,
    SessionExpiredError,
)
from kazoo.protocol.states import ZnodeStat
from kazoo.retry import KazooRetry

from tests.support.javazk import CONFIG, JavaServer, NotStarted, free_ports, need_java
from zktrace_server.core.apply import apply
from zktrace_server.core.tree import DataTree
from zktrace_server.storage.directory import StorageError
from zktrace_server.storage.readlog import txns_after

T = TypeVar("T")

_HOST: Final = "127.0.0.1"
_ROOT: Final = Path(__file__).resolve().parents[3]
#: For machines that do other things as well.
PATIENCE_S: Final = 90.0
_TRIES: Final = 3
#: Of which nobody knows what became.
_UNKNOWN = (ConnectionLoss, SessionExpiredError, OperationTimeoutError, ConnectionClosedError)


class OurMember(JavaServer):
    """The same handle, another program."""

    def start(self) -> None:
        path = os.pathsep.join((str(_ROOT), str(_ROOT / "server")))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "zktrace_server",
                    *(f"-D{name}={value}" for name, value in self._properties.items()),
                    str(self._config),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
            )


class Mixed(list[JavaServer]):
    """An ensemble. sids from 1 on."""

    @property
    def hosts(self) -> str:
        return ",".join(server.hosts for server in self)

    def of(self, sid: int) -> JavaServer:
        return self[sid - 1]

    def modes(self) -> dict[int, str | None]:
        return {server.sid or 0: server.mode() for server in self}

    def leader(self) -> JavaServer:
        """Who leads, when somebody does."""
        return self.until(lambda: next((s for s in self if s.mode() == "leader"), None))

    def all_serve(self) -> dict[int, str | None]:
        """Modes, when all that run serve."""

        def look() -> dict[int, str | None] | None:
            modes = {s.sid or 0: s.mode() for s in self if s.running}
            return modes if "leader" in modes.values() and None not in modes.values() else None

        return self.until(look)

    def until(self, look: Callable[[], T | None]) -> T:
        """What `look` gives, as soon as it gives something."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            found = look()
            if found:
                return found
            time.sleep(0.05)
        logs = "\n".join(f"--- {s.sid}\n{s.log.read_text()[-3000:]}" for s in self)
        raise AssertionError(f"not within {PATIENCE_S:.0f} s; {self.modes()}\n{logs}")

    def replace(self, sid: int, kind: str) -> JavaServer:
        """Another program in the place, on the data and with the zoo.cfg (as it is now) of a
        server, which has to be ended; it is not started.
        """
        before = self.of(sid)
        assert not before.running
        where = before.data.parent
        lines = (where / "zoo.cfg").read_text().splitlines()
        given = dict(line.split("=", 1) for line in lines if "=" in line)
        self[sid - 1] = program(kind)(where, before.address[1], given, sid=before.sid)
        return self[sid - 1]

    def join(self, kind: str) -> JavaServer:
        """One more server, which knows of the others as they were at first, and of itself. It
        serves, without a vote.
        """
        port, quorum, election = free_ports(3)
        sid, first = len(self) + 1, self[0]
        line = {f"server.{sid}": f"{_HOST}:{quorum}:{election}"}
        keys = {k: v for k, v in first.given.items() if k not in ("dataDir", "clientPort")}
        where = first.data.parent.with_name(str(sid))
        self.append(program(kind)(where, port, {**keys, **line}, sid=sid))
        self[-1].start()
        self.all_serve()
        return self[-1]

    def line(self, sid: int, role: str) -> str:
        """What a reconfiguration says of a server that is to have this role."""
        quorum, election = self.of(sid).given[f"server.{sid}"].split(":")[1:3]
        client = self.of(sid).address[1]
        return f"server.{sid}={_HOST}:{quorum}:{election}:{role};{_HOST}:{client}"

    def start(self) -> None:
        for server in self:
            server.start()
        for server in self:
            server.wait()

    def stop(self) -> None:
        for server in self:
            server.stop()


def program(kind: str) -> type[JavaServer]:
    """What runs a server of that kind."""
    return OurMember if kind.lower() == "o" else JavaServer


def make(
    directory: Path,
    kinds: str,
    config: Mapping[str, str],
    ports: list[int] | None = None,
    properties: Mapping[str, str] | None = None,
) -> Mixed:
    """Not started; `kinds`: o for ours, j for Java's, upper case for observers."""
    free = ports or free_ports(3 * len(kinds))
    lines = {}
    for number, kind in enumerate(kinds):
        role = ":observer" if kind.isupper() else ""
        quorum, election = free[3 * number + 1 : 3 * number + 3]
        lines[f"server.{number + 1}"] = f"{_HOST}:{quorum}:{election}{role}"
    servers = Mixed()
    for number, kind in enumerate(kinds):
        own = {
            **CONFIG,
            "tickTime": "500",
            "reconfigEnabled": "false",
            "preAllocSize": "1024",
            **lines,
            **({"peerType": "observer"} if kind.isupper() else {}),
            **config,
        }
        where = directory / str(number + 1)
        servers.append(
            program(kind)(where, free[3 * number], own, sid=number + 1, properties=properties)
        )
    return servers


@contextmanager
def mixed(
    directory: Path, kinds: str, properties: Mapping[str, str] | None = None, /, **config: str
) -> Iterator[Mixed]:
    """All of them serve. `properties`: what they are given by -D."""
    if "j" in kinds.lower():
        need_java()
    for attempt in range(_TRIES):
        servers = make(directory / f"mixed{attempt}", kinds, config, properties=properties)
        try:
            servers.start()
            break
        except NotStarted as error:
            servers.stop()
            if attempt + 1 == _TRIES or "BindException" not in str(error):
                raise
        except BaseException:
            servers.stop()
            raise
    try:
        servers.all_serve()
        yield servers
    finally:
        servers.stop()


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


def tree(hosts: str) -> dict[str, tuple[bytes, ZnodeStat | None]]:
    """All that one server shows, when it has what the leader has: data and Stat."""
    client = KazooClient(hosts, timeout=8)
    client.start(PATIENCE_S)
    found: dict[str, tuple[bytes, ZnodeStat | None]] = {}
    try:
        client.sync("/")
        below = ["/"]
        while below:
            path = below.pop()
            if path.startswith("/zookeeper"):
                continue
            try:
                found[path] = client.get(path)
                below += [f"{path.rstrip('/')}/{name}" for name in client.get_children(path)]
            except NoNodeError:
                found[path] = (b"gone", None)
    finally:
        client.stop()
        client.close()
    return found


#: What 3.8 says of a txn whose digest is not that of its tree (DataTree.logZxidDigest).
_DIFFERS: Final = "Digests are not matching"
_FIRST: Final = re.compile(
    r"First digest mismatch on txn: -?\d+,-?\d+,(\d+),.*?expected digest is \d+,(-?\d+)", re.DOTALL
)


def nothing_differs(servers: Mixed) -> None:
    """No server of ours has found another digest than the leader's. Where one of Java's says that
    it has, the leader was right, by the log of a server that has all of it: 3.8.0 says so as well
    of txns that it applies a second time while it shuts down (fastForwardDataBase), and when it has
    led without the last txn of its own log. What it shows in the end is for `tree`.
    """
    for server in servers:
        said = server.log.read_text(errors="replace")
        assert "tree differs" not in said
        if _DIFFERS in said:
            reported = [(int(zxid), int(digest)) for zxid, digest in _FIRST.findall(said)]
            assert reported
            right = _digests(servers)
            assert [(zxid, right.get(zxid)) for zxid, _ in reported] == reported


def _digests(servers: Mixed) -> dict[int, int]:
    """By zxid, of a server whose log has all txns from the first on: then each txn's digest is that
    of the tree that they make.
    """
    for server in servers:
        tree = DataTree(extended=True)
        found: dict[int, int] = {}
        try:
            for txn in txns_after(server.data / "version-2", 0, lambda _: None):
                apply(tree, txn)
                if txn.digest is not None and txn.digest.tree_digest != tree.tree_digest:
                    break
                found[txn.header.zxid] = tree.tree_digest
            else:
                return found
        except StorageError:
            continue  # it has no whole log: what is missing came by a snapshot
    raise AssertionError("no server has a whole log whose digests are right")


def led_in_turn(servers: Mixed, rounds: int) -> None:
    """A write, and the leader is killed and comes back, so often; all trees are equal then, and
    hold all writes.
    """
    for number in range(rounds):
        client = KazooClient(servers.hosts, timeout=8)
        client.start(PATIENCE_S)
        client.create(f"/n{number}", b"kept")
        client.stop()
        client.close()
        leader = servers.leader()
        leader.kill()
        servers.until(lambda: "leader" in [s.mode() for s in servers if s.running])
        leader.start()
        servers.all_serve()
    trees = [tree(server.hosts) for server in servers]
    assert all(one == trees[0] for one in trees)
    assert {f"/n{number}" for number in range(rounds)} <= set(trees[0])
    nothing_differs(servers)
