"""An ensemble on this machine: a process per server, in a directory of its own, and the means to
hurt them (``zktrace server ensemble``, ``zktrace server chaos``).

`DIR/N` has the zoo.cfg, the data, the log and the process number of server N; so commands of other
terminals find the servers, and a server that was killed can be started again. A process is only
ever signalled if it runs this server with that file.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from zktrace_server.net.wire import VARIABLE

HOST: Final = "127.0.0.1"
_CONFIG: Final = "zoo.cfg"
_PID: Final = "pid"
_LOG: Final = "log"
_FAULTS: Final = "faults"
#: Until all serve, and until one that was told to end has ended, in seconds.
_START_S: Final = 60.0
_END_S: Final = 10.0


class LocalError(Exception):
    """It cannot be done; the text says why."""


class Local:
    """The servers below `directory`, by number."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def sids(self) -> list[int]:
        """Numbers of the servers there are."""
        if not self.directory.is_dir():
            return []
        names = [path.parent.name for path in self.directory.glob(f"*/{_CONFIG}")]
        return sorted(int(name) for name in names if name.isdigit())

    def make(self, size: int, observers: int, tick_ms: int) -> None:
        """Configurations of so many servers, on free ports. LocalError if there are some."""
        if self.sids():
            raise LocalError(f"{self.directory} has an ensemble already")
        count = size + observers
        ports = _free_ports(4 * count)
        lines = []
        for sid in range(1, count + 1):
            role = "observer" if sid > size else "participant"
            quorum, election = ports[4 * sid - 3 : 4 * sid - 1]
            lines.append(f"server.{sid}={HOST}:{quorum}:{election}:{role}")
        for sid in range(1, count + 1):
            home = self.directory / str(sid)
            (home / "data").mkdir(parents=True)
            (home / "data" / "myid").write_text(f"{sid}\n", encoding="ascii")
            keys = [
                f"tickTime={tick_ms}",
                "initLimit=10",
                "syncLimit=5",
                f"dataDir={home / 'data'}",
                f"clientPort={ports[4 * sid - 4]}",
                f"clientPortAddress={HOST}",
                # Each its own: they would all want 8080.
                f"admin.serverPort={ports[4 * sid - 1]}",
                f"admin.serverAddress={HOST}",
                "maxClientCnxns=0",
                "4lw.commands.whitelist=*",
                *(["peerType=observer"] if sid > size else []),
                *lines,
            ]
            (home / _CONFIG).write_text("\n".join(keys) + "\n", encoding="utf-8")

    def faults(self, sid: int) -> Path:
        """The file with what is to go wrong between this server and others (`net.wire`)."""
        return self._home(sid) / _FAULTS

    def port(self, sid: int) -> int:
        """The client port."""
        for line in (self._home(sid) / _CONFIG).read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "clientPort":
                return int(value)
        raise LocalError(f"{self._home(sid) / _CONFIG} has no clientPort")

    @property
    def connect(self) -> str:
        """The connect string."""
        return ",".join(f"{HOST}:{self.port(sid)}" for sid in self.sids())

    def _home(self, sid: int) -> Path:
        home = self.directory / str(sid)
        if not (home / _CONFIG).is_file():
            known = ", ".join(map(str, self.sids())) or "none"
            raise LocalError(f"there is no server {sid} in {self.directory} (there: {known})")
        return home

    # --- processes ----------------------------------------------------------------------------

    def start(self, sid: int) -> None:
        """Starts a server that does not run."""
        home = self._home(sid)
        if self.pid(sid) is not None:
            raise LocalError(f"server {sid} runs")
        packages = os.pathsep.join(p for p in sys.path if p)
        with (home / _LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "zktrace_server", str(home / _CONFIG)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": packages, VARIABLE: str(self.faults(sid))},
                start_new_session=True,
            )
        self._children[process.pid] = process
        (home / _PID).write_text(f"{process.pid}\n", encoding="ascii")

    def pid(self, sid: int) -> int | None:
        """The process of a server; None if it does not run."""
        home = self._home(sid)
        try:
            pid = int((home / _PID).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None
        child = self._children.get(pid)
        if child is not None:
            if child.poll() is None:
                return pid
            del self._children[pid]
            return None
        return pid if str(home / _CONFIG) in _command(pid) else None

    def signal(self, sid: int, number: signal.Signals) -> None:
        """LocalError if it does not run."""
        pid = self.pid(sid)
        if pid is None:
            raise LocalError(f"server {sid} does not run")
        os.kill(pid, number)

    def stop(self, sids: Sequence[int] | None = None) -> None:
        """Ends servers; those that do not end of themselves are killed."""
        wanted = self.sids() if sids is None else sids
        for number, patience in ((signal.SIGTERM, _END_S), (signal.SIGKILL, _END_S)):
            running = [sid for sid in wanted if self.pid(sid) is not None]
            for sid in running:
                with suppress(LocalError, ProcessLookupError):
                    # One that is stopped would not hear of the end.
                    self.signal(sid, signal.SIGCONT)
                    self.signal(sid, number)
            until = time.monotonic() + patience
            while time.monotonic() < until:
                if all(self.pid(sid) is None for sid in running):
                    return
                time.sleep(0.05)

    def mode(self, sid: int) -> str:
        """leader, follower, observer, down, or what else it is."""
        if self.pid(sid) is None:
            return "down"
        answer = _ask(self.port(sid), b"srvr")
        for line in answer.splitlines():
            if line.startswith("Mode: "):
                return line[6:]
        return "does not answer" if not answer else "not serving"

    def wait(self) -> None:
        """Until all that were started serve. LocalError if one ends, or it takes too long."""
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            modes = {sid: self.mode(sid) for sid in self.sids()}
            if all(mode in ("leader", "follower", "observer") for mode in modes.values()):
                return
            for sid, mode in modes.items():
                if mode == "down":
                    log = self._home(sid) / _LOG
                    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
                    raise LocalError(f"server {sid} has ended: {''.join(last)}")
            time.sleep(0.1)
        raise LocalError(f"the servers do not serve within {_START_S:.0f} s; see {self.directory}")


def run(local: Local) -> None:
    """Starts all servers, says where they are, and ends them on Ctrl-C."""
    stop = False

    def ended(number: int, frame: object) -> None:
        nonlocal stop
        stop = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ended)
    try:
        for sid in local.sids():
            if local.pid(sid) is None:
                local.start(sid)
        local.wait()
        modes = ", ".join(f"{sid} {local.mode(sid)}" for sid in local.sids())
        print(f"zktrace server: {modes}; Ctrl-C ends them all", flush=True)
        print(local.connect, flush=True)
        while not stop:
            time.sleep(0.2)
    finally:
        local.stop()


def _command(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace")


def _ask(port: int, word: bytes) -> str:
    try:
        with socket.create_connection((HOST, port), timeout=2) as one:
            one.sendall(word)
            answer = b""
            while piece := one.recv(65_536):
                answer += piece
    except OSError:
        return ""
    return answer.decode(errors="replace")


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()
