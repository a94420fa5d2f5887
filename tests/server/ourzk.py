"""The reference server as a process, for tests: the counterpart of ``tests.support.javazk``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.javazk import ask

_HOST: Final = "127.0.0.1"
_END_S: Final = 30.0
_ROOT: Final = Path(__file__).resolve().parents[2]
_LISTENING: Final = re.compile(r"listening on \S*?:(\d+),.* zxid 0x([0-9a-f]+)")
_SECURE: Final = re.compile(r"TLS on \S*?:(\d+)")
CONFIG: Final = {
    "tickTime": "2000",
    "maxClientCnxns": "0",
    "4lw.commands.whitelist": "*",
    "extendedTypesEnabled": "true",
    "reconfigEnabled": "true",
    "admin.enableServer": "false",
    "clientPortAddress": _HOST,
    # Small, since each start of a server begins a file.
    "preAllocSize": "1024",
}


class NotStarted(Exception):
    """The server ended; holds what it said."""


class OurServer:
    """One server; data and log are in a directory of its own. The port is any free one."""

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """`config`: of zoo.cfg; `properties`: as Java has them by -D."""
        directory.mkdir(parents=True, exist_ok=True)
        self.data = directory / "data"
        self.log = directory / "log"
        self.address = (_HOST, 0)
        self.secure_port = 0
        self.line = ""
        self._properties = [f"-D{key}={value}" for key, value in (properties or {}).items()]
        self.zxid = 0
        self._config = directory / "zoo.cfg"
        self._process: subprocess.Popen[bytes] | None = None
        self._given = {**CONFIG, "dataDir": str(self.data), "clientPort": "0", **(config or {})}
        self.set()

    def set(self, **config: str) -> None:
        """Changes the configuration; the next start reads it."""
        self._given.update(config)
        lines = (f"{key}={value}\n" for key, value in self._given.items())
        self._config.write_text("".join(lines))

    def wait_for_sessions(self, count: int) -> None:
        """Until there are so many."""
        deadline = time.monotonic() + _END_S
        while True:
            told = dict(
                line.split("\t", 1) for line in (ask(self.address, "mntr") or "").splitlines()
            )
            if int(told.get("zk_global_sessions", 0)) >= count:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"{told} after {_END_S:.0f} s")
            time.sleep(0.05)

    def wait_for_log(self, text: str) -> None:
        """Until the log has this."""
        deadline = time.monotonic() + _END_S
        while text not in self.log.read_text(errors="replace"):
            if time.monotonic() > deadline:
                raise AssertionError(f"no {text!r} in {self.log.read_text(errors='replace')}")
            time.sleep(0.05)

    @property
    def hosts(self) -> str:
        return f"{_HOST}:{self.address[1]}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> str:
        """Until it serves; the line that says so."""
        path = os.pathsep.join((str(_ROOT), str(_ROOT / "server")))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "zktrace_server", *self._properties, str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        found = _LISTENING.search(line)
        if found is None:
            self._end(kill=True)
            raise NotStarted(line + self.log.read_text(errors="replace")[-4000:])
        self.address = (_HOST, int(found[1]))
        self.zxid = int(found[2], 16)
        self.line = line
        secure = _SECURE.search(line)
        self.secure_port = int(secure[1]) if secure else 0
        return line

    def wait(self) -> int:
        """Until it ends by itself; the exit status."""
        assert self._process is not None
        self._process.wait(_END_S)
        return self._end(kill=True)

    def stop(self) -> int:
        """As Ctrl-C ends it; the exit status."""
        return self._end(kill=False)

    def kill(self) -> None:
        """As a crash ends it."""
        self._end(kill=True)

    def _end(self, kill: bool) -> int:
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.kill() if kill else process.terminate()
        try:
            status = process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._process = None
        return status


@contextmanager
def ours(
    directory: Path,
    config: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
) -> Iterator[OurServer]:
    """A server that serves, until the block ends."""
    server = OurServer(directory, config, properties)
    server.start()
    try:
        yield server
    finally:
        server.stop()
