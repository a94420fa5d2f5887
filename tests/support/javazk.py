"""Java ZooKeeper (Debian's libzookeeper-java) for the tests: one server, or an ensemble.

    with standalone(tmp_path) as server:
        KazooClient(server.hosts)
    with ensemble(tmp_path) as servers:
        servers.leader().kill()

Servers listen on free ports of 127.0.0.1, or, where `inside` says how a command is run in a network
namespace (``tests.live.netns.Namespace.inside``), on those of that namespace. Each is one process,
ended by its number; what it logged is in `log`. The fixtures `java_zookeeper` and
`java_ensemble` (``tests/conftest.py``) are these for a whole module.

Without Java or the package the tests are skipped; with ZKTRACE_REQUIRE_JAVA=1 (CI) they fail.
Knows nothing of zktrace.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

_JARS: Final = Path("/usr/share/java")
#: The manifest of zookeeper.jar names what else it needs; what logs is for the user to choose. Of
#: Netty it does not name all, and a server that uses it (for TLS) answers nobody without these.
#: Jars of another release, separated by colons, may be given instead.
_WANTED: Final = ("zookeeper", "slf4j-simple", "netty-codec", "netty-resolver")
_GIVEN: Final = os.environ.get("ZKTRACE_ZOOKEEPER_CLASSPATH", "")
CLASSPATH: Final = (
    tuple(Path(jar) for jar in _GIVEN.split(os.pathsep))
    if _GIVEN
    else tuple(_JARS / f"{name}.jar" for name in _WANTED)
)
_REQUIRED: Final = os.environ.get("ZKTRACE_REQUIRE_JAVA", "") not in ("", "0")
_HOST: Final = "127.0.0.1"
#: A loaded machine starts a JVM in some ten seconds; this is for one that does not start.
_START_S: Final = 120.0
_END_S: Final = 30.0
#: Ports are free when they are asked for, and may be taken when the server comes.
_TRIES: Final = 3
#: Small and quick to start. A benchmark wants others.
SMALL: Final = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
#: All ops, all four-letter words, no servlet.
CONFIG: Final = {
    "tickTime": "2000",
    "initLimit": "10",
    "syncLimit": "5",
    "maxClientCnxns": "0",
    "admin.enableServer": "false",
    "4lw.commands.whitelist": "*",
    "extendedTypesEnabled": "true",
    "reconfigEnabled": "true",
}

#: How a command is run where the servers are.
Inside = Callable[..., Sequence[str]]


def missing() -> str | None:
    """Why there is no Java ZooKeeper here; None: there is."""
    if shutil.which("java") is None:
        return "there is no java (Debian: default-jre-headless)"
    for jar in CLASSPATH:
        if not jar.exists():
            return f"there is no {jar} (Debian: libzookeeper-java, libslf4j-java)"
    return None


def need_java() -> None:
    """Skips where there is no Java ZooKeeper, or fails if it was asked for."""
    reason = missing()
    if reason is None:
        return
    if _REQUIRED:
        pytest.fail(f"ZKTRACE_REQUIRE_JAVA is set, but: {reason}")
    pytest.skip(f"Java ZooKeeper is not tested: {reason}")


_PORTS: Final = range(12_000, 32_000)
_CHANCE: Final = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on now, all different. Not of those that the kernel
    gives to connections by itself: one of these could have taken it before a server does.
    """
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            one = socket.socket()
            held.append(one)
            try:
                one.bind((_HOST, _CHANCE.choice(_PORTS)))
            except OSError:
                held.pop().close()
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


class NotStarted(Exception):
    """A server ended, or took too long; holds what it logged."""


class JavaServer:
    """One server. A directory of its own holds its configuration, data and log."""

    def __init__(
        self,
        directory: Path,
        port: int,
        config: Mapping[str, str],
        *,
        sid: int | None = None,
        inside: Inside | None = None,
        java: Sequence[str] = SMALL,
        properties: Mapping[str, str] | None = None,
        classpath: Sequence[Path] = CLASSPATH,
    ) -> None:
        """`config`: of zoo.cfg; `properties`: of Java (`-D`); `classpath`: of another release."""
        directory.mkdir(parents=True, exist_ok=True)
        self.sid = sid
        self.address = (_HOST, port)
        self.data = directory / "data"
        self.data.mkdir(exist_ok=True)
        self.log = directory / "log"
        self._config = directory / "zoo.cfg"
        self._inside = inside
        self._java = java
        self._properties = properties or {}
        self._classpath = classpath
        self._process: subprocess.Popen[bytes] | None = None
        if sid is not None:
            (self.data / "myid").write_text(f"{sid}\n")
        self.given = {
            **CONFIG,
            "dataDir": str(self.data),
            "clientPort": str(port),
            "clientPortAddress": _HOST,
            **config,
        }
        """Its zoo.cfg."""
        self._config.write_text("".join(f"{key}={value}\n" for key, value in self.given.items()))

    @property
    def hosts(self) -> str:
        """As clients want it."""
        return f"{_HOST}:{self.address[1]}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Begins; :meth:`wait` for it to serve. A server that was ended can be started again."""
        command = [
            "java",
            *self._java,
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dzookeeper.jmx.log4j.disable=true",
            *(f"-D{name}={value}" for name, value in self._properties.items()),
            "-cp",
            os.pathsep.join(map(str, self._classpath)),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            str(self._config),
        ]
        if self._inside is not None:
            # nsenter becomes the command, so that the number is Java's.
            command = list(self._inside(*command))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.data
            )

    def ask(self, word: str) -> str | None:
        """The answer to a four-letter word; None: it does not listen."""
        if self._inside is not None:
            asked = self._inside(sys.executable, str(Path(__file__)), str(self.address[1]), word)
            done = subprocess.run(list(asked), capture_output=True, text=True)
            return done.stdout if done.returncode == 0 else None
        return ask(self.address, word)

    def mode(self) -> str | None:
        """standalone, leader, follower, observer, read-only; None: it does not serve."""
        found = re.search(r"^Mode: ([\w-]+)$", self.ask("srvr") or "", re.MULTILINE)
        return found[1] if found else None

    def wait(self) -> str:
        """Until it serves clients; its mode. NotStarted if it ends before."""
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            mode = self.mode()
            if mode is not None:
                return mode
            if not self.running:
                raise NotStarted(self.log.read_text(errors="replace")[-4000:])
            time.sleep(0.05)
        raise NotStarted(f"not within {_START_S:.0f} s:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> None:
        """As an administrator ends it (SIGTERM)."""
        self._end(kill=False)

    def kill(self) -> None:
        """As a crash ends it (SIGKILL)."""
        self._end(kill=True)

    def _end(self, kill: bool) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.kill() if kill else process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None


class Servers(list[JavaServer]):
    """An ensemble."""

    @property
    def hosts(self) -> str:
        """As clients want it: all of them."""
        return ",".join(server.hosts for server in self)

    def start(self) -> None:
        for server in self:
            server.start()
        for server in self:
            server.wait()

    def stop(self) -> None:
        for server in self:
            server.stop()

    def leader(self) -> JavaServer:
        """The one that leads now. There must be one."""
        return next(server for server in self if server.mode() in ("leader", "standalone"))

    def followers(self) -> list[JavaServer]:
        return [server for server in self if server.mode() == "follower"]


@contextmanager
def standalone(
    directory: Path,
    *,
    inside: Inside | None = None,
    port: int | None = None,
    java: Sequence[str] = SMALL,
    properties: Mapping[str, str] | None = None,
    classpath: Sequence[Path] = CLASSPATH,
    **config: str,
) -> Iterator[JavaServer]:
    """A server that serves, until the block ends."""

    def made(attempt: int) -> Servers:
        where = directory / f"standalone{attempt}"
        own = free_ports(1)[0] if port is None else port
        options: Any = {"inside": inside, "java": java, "properties": properties}
        return Servers([JavaServer(where, own, config, classpath=classpath, **options)])

    servers = _started(made)
    try:
        yield servers[0]
    finally:
        servers.stop()


@contextmanager
def ensemble(
    directory: Path,
    size: int = 3,
    *,
    observers: int = 0,
    inside: Inside | None = None,
    ports: Sequence[int] | None = None,
    java: Sequence[str] = SMALL,
    properties: Mapping[str, str] | None = None,
    **config: str,
) -> Iterator[Servers]:
    """`size` participants, sids from 1 on, then `observers`; all of them serve. `ports`: three for
    each, client's, quorum's, election's.
    """
    number = size + observers

    def made(attempt: int) -> Servers:
        free = list(ports) if ports is not None else free_ports(3 * number)
        triples = [tuple(free[at : at + 3]) for at in range(0, 3 * number, 3)]
        lines = {}
        for sid, (_, quorum, election) in enumerate(triples, 1):
            role = ":observer" if sid > size else ""
            lines[f"server.{sid}"] = f"{_HOST}:{quorum}:{election}{role}"
        return Servers(
            JavaServer(
                directory / f"ensemble{attempt}" / str(sid),
                triple[0],
                {**lines, **({"peerType": "observer"} if sid > size else {}), **config},
                sid=sid,
                inside=inside,
                java=java,
                properties=properties,
            )
            for sid, triple in enumerate(triples, 1)
        )

    servers = _started(made)
    try:
        yield servers
    finally:
        servers.stop()


def _started(made: Callable[[int], Servers]) -> Servers:
    """Servers that serve; others, with other ports, where one did not start."""
    need_java()
    for attempt in range(_TRIES):
        servers = made(attempt)
        try:
            servers.start()
            return servers
        except NotStarted as error:
            servers.stop()
            if attempt + 1 == _TRIES or "BindException" not in str(error):
                raise
        except BaseException:
            servers.stop()
            raise
    raise AssertionError("not reached")


def ask(address: tuple[str, int], word: str) -> str | None:
    """The answer to a four-letter word; None: nothing listens there."""
    try:
        with socket.create_connection(address, timeout=10) as one:
            one.sendall(word.encode())
            answer = b""
            while piece := one.recv(65_536):
                answer += piece
    except OSError:
        return None
    return answer.decode()


if __name__ == "__main__":
    told = ask((_HOST, int(sys.argv[1])), sys.argv[2])
    if told is None:
        sys.exit(1)
    sys.stdout.write(told)
