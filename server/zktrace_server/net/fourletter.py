"""Four-letter words (org.apache.zookeeper.server.command): what operators ask by hand.

Unknown to Java's default whitelist, so also here, are all but srvr. stmk and gtmk are about Java's
own tracing: answered, without effect.
"""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from zktrace import __version__
from zktrace.wire.fourletter import NAMES, WORDS
from zktrace_server.core.connection import Connection
from zktrace_server.net.metrics import flat
from zktrace_server.net.service import Service

#: What the words with a version in their answer say: the behaviour is that of this release.
COMPATIBLE: Final = "3.9.5"
_LONG: Final = (1 << 64) - 1
#: Answered by a server that serves nobody.
_ALWAYS: Final = frozenset(("envi", "gtmk", "ruok", "stmk"))
_INT: Final = (1 << 32) - 1
#: Java's names of last operations, by opcode (FinalRequestProcessor).
_OPERATIONS: Final = {
    -11: "CLOS", -10: "SESS", 1: "CREA", 2: "DELE", 3: "EXIS", 4: "GETD", 5: "SETD", 6: "GETA",
    7: "SETA", 8: "GETC", 9: "SYNC", 11: "PING", 12: "GETC", 13: "CHEC", 14: "MULT", 15: "CREA",
    16: "RECO", 17: "CHKW", 18: "REMW", 19: "CREA", 21: "CREA", 22: "MLTR", 101: "SETW",
    103: "GETE", 104: "GETACN", 105: "STW2", 106: "ADDW", 107: "HOMI",
}  # fmt: skip


class FourLetterWords:
    """Answers as text."""

    def __init__(self, service: Service) -> None:
        self._service = service
        allowed = service.config.words
        self._allowed = frozenset(NAMES) if "*" in allowed else allowed
        self._answers: Final[dict[str, Callable[[], str]]] = {
            "conf": self._conf,
            "cons": self._cons,
            "crst": self._crst,
            "dirs": self._dirs,
            "dump": self._dump,
            "envi": self._envi,
            "gtmk": lambda: "0",
            "hash": self._hash,
            "isro": self._isro,
            "mntr": self._mntr,
            "ruok": lambda: "imok",
            "srst": self._srst,
            "srvr": self._srvr,
            "stat": self._stat,
            "stmk": lambda: "0",
            "wchc": self._wchc,
            "wchp": self._wchp,
            "wchs": self._wchs,
        }

    def answer(self, word: bytes) -> str:
        """The answer to a word that is one."""
        name = WORDS[word]
        if name not in self._allowed:
            return f"{name} is not executed because it is not in the whitelist.\n"
        if not self._service.serving and name not in _ALWAYS:
            if name == "isro":
                return "null"
            return "This ZooKeeper instance is not currently serving requests\n"
        return self._answers[name]()

    # --- the server ---------------------------------------------------------------------------

    def _isro(self) -> str:
        return "ro" if self._service.server.read_only else "rw"

    def _srvr(self) -> str:
        return f"Zookeeper version: {version()}\n{self._numbers()}"

    def _stat(self) -> str:
        clients = "".join(f" {peer}\n" for peer in self._connections(brief=True))
        return f"Zookeeper version: {version()}\nClients:\n{clients}\n{self._numbers()}"

    def _numbers(self) -> str:
        service, server = self._service, self._service.server
        least, mean, most = service.stats.latencies()
        return (
            f"Latency min/avg/max: {least}/{mean:.4g}/{most}\n"
            f"Received: {service.stats.received}\n"
            f"Sent: {service.stats.sent}\n"
            f"Connections: {len(service.connections())}\n"
            f"Outstanding: {len(server.log)}\n"
            f"Zxid: 0x{server.tree.last_zxid & _LONG:x}\n"
            f"Mode: {service.mode}\n"
            f"Node count: {server.tree.count()}\n"
        )

    def _mntr(self) -> str:
        values = {"version": version(), "server_state": self._service.mode, **flat(self._service)}
        return "".join(f"zk_{key}\t{value}\n" for key, value in values.items())

    def _conf(self) -> str:
        config, settings = self._service.config, self._service.config.settings
        directories = self._service.directories
        return (
            f"clientPort={-1 if config.client_port is None else config.client_port}\n"
            f"secureClientPort={-1 if config.secure_port is None else config.secure_port}\n"
            f"dataDir={directories.snapshots.absolute()}\n"
            f"dataDirSize={size_of(directories.snapshots)}\n"
            f"dataLogDir={directories.logs.absolute()}\n"
            f"dataLogSize={size_of(directories.logs)}\n"
            f"tickTime={settings.tick_ms}\n"
            f"maxClientCnxns={config.max_client_connections}\n"
            f"minSessionTimeout={settings.min_session_timeout_ms}\n"
            f"maxSessionTimeout={settings.max_session_timeout_ms}\n"
            f"clientPortListenBacklog={config.backlog}\n"
            f"serverId={settings.server_id if self._service.mode != 'standalone' else 0}\n"
            f"{self._service.place()}"
        )

    def _dirs(self) -> str:
        directories = self._service.directories
        return (
            f"datadir_size: {size_of(directories.snapshots)}\n"
            f"logdir_size: {size_of(directories.logs)}\n"
        )

    def _envi(self) -> str:
        values = {
            "zookeeper.version": version(),
            "host.name": socket.gethostname(),
            "zktrace.version": __version__,
            "python.version": platform.python_version(),
            "python.implementation": platform.python_implementation(),
            "os.name": platform.system(),
            "os.arch": platform.machine(),
            "os.version": platform.release(),
            "user.dir": str(Path.cwd()),
        }
        return "Environment:\n" + "".join(f"{key}={value}\n" for key, value in values.items())

    def _hash(self) -> str:
        tree = self._service.server.tree
        return f"{tree.last_zxid & _LONG:x}: {tree.tree_digest}\n"

    def _srst(self) -> str:
        self._service.stats.reset()
        return "Server stats reset.\n"

    # --- connections, sessions, watches -------------------------------------------------------

    def _connections(self, *, brief: bool) -> list[str]:
        lines = []
        for connection, peer in self._service.connections():
            name = getattr(peer, "name", connection.address)
            more = ""
            if not brief and connection.session_id:
                least, mean, most = connection.latencies()
                more = (
                    f",sid={_session(connection.session_id)},lop={operation(connection)},"
                    f"est={connection.established_ms},to={connection.timeout_ms},"
                    f"lcxid=0x{connection.last_xid & _INT:x},lzxid=0x{connection.last_zxid:x},"
                    f"lresp={connection.last_ms},llat={connection.last_latency_ms},"
                    f"minlat={least},avglat={mean},maxlat={most}"
                )
            lines.append(
                f"/{name}[1](queued={len(connection.out)},recved={connection.received},"
                f"sent={connection.sent}{more})"
            )
        return lines

    def _cons(self) -> str:
        return "".join(f" {line}\n" for line in self._connections(brief=False)) + "\n"

    def _crst(self) -> str:
        for connection, _ in self._service.connections():
            connection.reset_stats()
        return "Connection stats reset.\n"

    def _dump(self) -> str:
        server = self._service.server
        buckets = server.sessions.by_expiry()
        lines = ["SessionTracker dump:", f"Session Sets ({len(buckets)})/({len(server.sessions)}):"]
        offset_ms = server.wall_ms - server.now_ms
        for at, sessions in buckets.items():
            when = time.strftime("%a %b %d %H:%M:%S UTC %Y", time.gmtime((at + offset_ms) / 1000))
            lines.append(f"{len(sessions)} expire at {when}:")
            lines += [f"\t{_session(i)}" for i in sessions]
        lines.append("ephemeral nodes dump:")
        lines.append(f"Sessions with Ephemerals ({len(server.tree.ephemerals)}):")
        for session_id, paths in server.tree.ephemerals.items():
            lines.append(f"{_session(session_id)}:")
            lines += [f"\t{path}" for path in paths]
        lines.append("Connections dump:")
        lines += self._connections(brief=False)
        return "\n".join(lines) + "\n"

    def _wchs(self) -> str:
        """Java counts data watches only."""
        watches = self._service.server.tree.data_watches
        total = sum(map(len, watches.by_watcher.values()))
        return (
            f"{len(watches.by_watcher)} connections watching {len(watches.by_path)} paths\n"
            f"Total watches:{total}\n"
        )

    def _wchp(self) -> str:
        watches = self._service.server.tree.data_watches
        return _blocks((str(path), map(_watcher, who)) for path, who in watches.by_path.items())

    def _wchc(self) -> str:
        watches = self._service.server.tree.data_watches
        return _blocks((_watcher(w), map(str, paths)) for w, paths in watches.by_watcher.items())


def _blocks(items: object) -> str:
    lines = []
    for head, below in items:  # type: ignore[attr-defined]
        lines.append(head)
        lines += [f"\t{line}" for line in below]
    return "".join(f"{line}\n" for line in lines) + "\n"


def _session(session_id: int) -> str:
    return f"0x{session_id & _LONG:x}"


def _watcher(watcher: object) -> str:
    return _session(getattr(watcher, "session_id", 0))


def version() -> str:
    return f"{COMPATIBLE}-zktrace-{__version__}"


def size_of(directory: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(directory) if entry.is_file())


def operation(connection: Connection) -> str:
    """What the client asked for last, in Java's word."""
    return _OPERATIONS.get(connection.last_kind, "NA")
