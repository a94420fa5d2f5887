"""Ensembles of this server's processes and Java's, for tests: as many of either as is asked for.

    with mixed(tmp_path, "oj o".replace(" ", "")) as servers:   # ours, Java's, ours: sids 1, 2, 3
        servers.leader().kill()

An upper-case letter makes an observer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from tests.support.javazk import CONFIG, JavaServer, NotStarted, free_ports, need_java

T = TypeVar("T")

_HOST: Final = "127.0.0.1"
_ROOT: Final = Path(__file__).resolve().parents[3]
#: For machines that do other things as well.
PATIENCE_S: Final = 90.0
_TRIES: Final = 3


class OurMember(JavaServer):
    """The same handle, another program."""

    def start(self) -> None:
        path = os.pathsep.join((str(_ROOT), str(_ROOT / "server")))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "zktrace_server", str(self._config)],
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
        """Another program in the place and on the data of a server, which has to be ended; it is
        not started.
        """
        before = self.of(sid)
        assert not before.running
        self[sid - 1] = program(kind)(
            before.data.parent, before.address[1], before.given, sid=before.sid
        )
        return self[sid - 1]

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
    directory: Path, kinds: str, config: Mapping[str, str], ports: list[int] | None = None
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
        servers.append(program(kind)(where, free[3 * number], own, sid=number + 1))
    return servers


@contextmanager
def mixed(directory: Path, kinds: str, **config: str) -> Iterator[Mixed]:
    """All of them serve."""
    if "j" in kinds.lower():
        need_java()
    for attempt in range(_TRIES):
        servers = make(directory / f"mixed{attempt}", kinds, config)
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
