"""The admin server (JettyAdminServer, Commands): what operators ask by HTTP, answered as JSON.

Names, fields and their order are Java's. Not there are `snapshot`, `restore` and what else changes
the server for whoever has a password.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from zktrace import __version__
from zktrace_server.core.connection import Connection
from zktrace_server.net.fourletter import operation, size_of, version
from zktrace_server.net.http import HttpRequest, HttpResponse, not_found
from zktrace_server.net.metrics import flat
from zktrace_server.net.service import Service
from zktrace_server.storage.directory import SNAPSHOT, files

#: Answered by a server that serves nobody.
_ALWAYS: Final = frozenset(
    ("environment", "get_trace_mask", "initial_configuration", "ruok", "system_properties")
)
_OF_ENSEMBLES: Final = frozenset(("leader", "observers", "voting_view", "zabstate"))

_Answer = dict[str, Any]


class Admin:
    """Answers to commands. `url` is where they are, as in admin.commandURL."""

    def __init__(self, service: Service, url: str) -> None:
        self._service = service
        self._url = url.rstrip("/")
        commands: list[tuple[tuple[str, ...], Callable[[dict[str, str]], _Answer]]] = [
            (("configuration", "conf", "config"), self._configuration),
            (("connection_stat_reset", "crst"), self._reset_connections),
            (("connections", "cons"), self._connections),
            (("dirs",), self._dirs),
            (("dump",), self._dump),
            (("environment", "env", "envi"), self._environment),
            (("get_trace_mask", "gtmk"), lambda _: {"tracemask": 0}),
            (("hash",), self._hash),
            (("initial_configuration", "icfg"), self._initial_configuration),
            (("is_read_only", "isro"), self._is_read_only),
            (("last_snapshot", "lsnp"), self._last_snapshot),
            (("leader", "lead"), lambda _: {"error": "server is not initialized"}),
            (("monitor", "mntr"), self._monitor),
            (("observer_connection_stat_reset", "orst"), lambda _: {}),
            (("observers", "obsr"), lambda _: {"synced_observers": 0, "observers": []}),
            (("ruok",), lambda _: {}),
            (("server_stats", "srvr"), self._server_stats),
            (("stat_reset", "srst"), self._reset),
            (("stats", "stat"), self._stats),
            (("system_properties", "sysp"), lambda _: dict(service.config.given)),
            (("voting_view",), lambda _: {"current_config": {}}),
            (("watch_summary", "wchs"), self._watch_summary),
            (("watches", "wchc"), self._watches),
            (("watches_by_path", "wchp"), self._watches_by_path),
            (("zabstate",), lambda _: {"voting": False, "zabstate": ""}),
        ]
        self._names = [names[0] for names, _ in commands]
        self._commands = {n: (names[0], do) for names, do in commands for n in names}

    def answer(self, request: HttpRequest) -> HttpResponse:
        """The answer to any path."""
        path = request.path
        if path in (self._url, f"{self._url}/"):
            links = (f'<a href="{self._url}/{n}">{n}</a>\n<br/>\n' for n in self._names)
            return HttpResponse("".join(links).encode(), "text/html;charset=utf-8")
        if not path.startswith(f"{self._url}/"):
            return not_found()
        wanted = path[len(self._url) + 1 :]
        found = self._commands.get(wanted)
        if found is None:
            return _json({"command": wanted, "error": f"Unknown command: {wanted}"})
        name, do = found
        if not self._service.serving and name not in _ALWAYS:
            error = "This ZooKeeper instance is not currently serving requests"
            return _json({"command": name, "error": error})
        if self._service.mode != "standalone" and name in _OF_ENSEMBLES:
            # What is said of a server that stands alone would be wrong here.
            return _json({"command": name, "error": "not answered in an ensemble yet"})
        answer = do(request.query)
        if "error" in answer:
            return _json({**answer, "command": name})
        return _json({**answer, "command": name, "error": None})

    # --- the server ---------------------------------------------------------------------------

    def _configuration(self, _: dict[str, str]) -> _Answer:
        config, directories = self._service.config, self._service.directories
        settings = config.settings
        return {
            "client_port": -1 if config.client_port is None else config.client_port,
            "data_dir": str(directories.snapshots.absolute()),
            "data_log_dir": str(directories.logs.absolute()),
            "tick_time": settings.tick_ms,
            "max_client_cnxns": config.max_client_connections,
            "min_session_timeout": settings.min_session_timeout_ms,
            "max_session_timeout": settings.max_session_timeout_ms,
            "server_id": 0 if self._service.mode == "standalone" else settings.server_id,
            "client_port_listen_backlog": config.backlog,
        }

    def _is_read_only(self, _: dict[str, str]) -> _Answer:
        return {"read_only": self._service.server.read_only}

    def _initial_configuration(self, _: dict[str, str]) -> _Answer:
        return {"initial_configuration": self._service.config.text}

    def _dirs(self, _: dict[str, str]) -> _Answer:
        directories = self._service.directories
        return {
            "datadir_size": size_of(directories.snapshots),
            "logdir_size": size_of(directories.logs),
        }

    def _environment(self, _: dict[str, str]) -> _Answer:
        return {
            "zookeeper.version": version(),
            "host.name": socket.gethostname(),
            "zktrace.version": __version__,
            "python.version": platform.python_version(),
            "python.implementation": platform.python_implementation(),
            "python.path": sys.executable,
            "java.io.tmpdir": tempfile.gettempdir(),
            "os.name": platform.system(),
            "os.arch": platform.machine(),
            "os.version": platform.release(),
            "user.name": os.environ.get("USER", ""),
            "user.home": str(Path.home()),
            "user.dir": str(Path.cwd()),
        }

    def _hash(self, _: dict[str, str]) -> _Answer:
        """Java has the digests of some zxids of the past; here it is that of now."""
        tree = self._service.server.tree
        return {"digests": [{"zxid": tree.last_zxid, "digest": tree.tree_digest}]}

    def _last_snapshot(self, _: dict[str, str]) -> _Answer:
        found = files(self._service.directories.snapshots, SNAPSHOT)
        if not found:
            return {"zxid": None, "timestamp": None}
        zxid, path = found[-1]
        return {"zxid": f"{zxid:x}", "timestamp": int(path.stat().st_mtime)}

    def _monitor(self, _: dict[str, str]) -> _Answer:
        return {"version": version(), "server_state": self._service.mode, **flat(self._service)}

    def _reset(self, _: dict[str, str]) -> _Answer:
        self._service.stats.reset()
        return {}

    def _server_stats(self, _: dict[str, str]) -> _Answer:
        service, stats = self._service, self._service.stats
        numbers = flat(service)
        # Replies leave together, and nobody looks at each.
        sizes = {"last_buffer_size": None, "min_buffer_size": None, "max_buffer_size": None}
        return {
            "version": version(),
            "read_only": self._service.server.read_only,
            "server_stats": {
                "packets_sent": stats.sent,
                "packets_received": stats.received,
                "fsync_threshold_exceed_count": stats.slow_fsyncs,
                "client_response_stats": sizes,
                "uptime": numbers["uptime"],
                "data_dir_size": size_of(service.directories.snapshots),
                "log_dir_size": size_of(service.directories.logs),
                "provider_null": False,
                "last_processed_zxid": service.server.tree.last_zxid,
                "outstanding_requests": numbers["outstanding_requests"],
                "server_state": service.mode,
                "avg_latency": numbers["avg_latency"],
                "max_latency": numbers["max_latency"],
                "min_latency": numbers["min_latency"],
                "num_alive_client_connections": numbers["num_alive_connections"],
                "auth_failed_count": numbers["auth_failed_count"],
                "non_mtlsremote_conn_count": 0,
                "non_mtlslocal_conn_count": 0,
            },
            "client_response": sizes,
            "node_count": numbers["znode_count"],
        }

    def _stats(self, query: dict[str, str]) -> _Answer:
        return {**self._server_stats(query), **self._of_both(brief=True)}

    # --- connections, sessions, watches -------------------------------------------------------

    def _connections(self, _: dict[str, str]) -> _Answer:
        return self._of_both(brief=False)

    def _of_both(self, *, brief: bool) -> _Answer:
        """Connections of the plain and of the TLS port."""
        found: dict[bool, list[_Answer]] = {False: [], True: []}
        for connection, peer in self._service.connections():
            name = getattr(peer, "name", connection.address)
            found[getattr(peer, "secure", False)].append(_connection(name, connection, brief))
        return {"connections": found[False], "secure_connections": found[True]}

    def _reset_connections(self, _: dict[str, str]) -> _Answer:
        for connection, _peer in self._service.connections():
            connection.reset_stats()
        return {}

    def _dump(self, _: dict[str, str]) -> _Answer:
        server = self._service.server
        return {
            "expiry_time_to_session_ids": {
                str(at): ids for at, ids in server.sessions.by_expiry().items()
            },
            "session_id_to_ephemeral_paths": {
                str(session): [str(path) for path in paths]
                for session, paths in server.tree.ephemerals.items()
            },
        }

    def _watch_summary(self, _: dict[str, str]) -> _Answer:
        watches = self._service.server.tree.data_watches
        return {
            "num_connections": len(watches.by_watcher),
            "num_paths": len(watches.by_path),
            "num_total_watches": sum(map(len, watches.by_watcher.values())),
        }

    def _watches(self, _: dict[str, str]) -> _Answer:
        watches = self._service.server.tree.data_watches
        return {
            "session_id_to_watched_paths": {
                str(_session(watcher)): [str(path) for path in paths]
                for watcher, paths in watches.by_watcher.items()
            }
        }

    def _watches_by_path(self, _: dict[str, str]) -> _Answer:
        watches = self._service.server.tree.data_watches
        return {
            "path_to_session_ids": {
                str(path): [_session(one) for one in who] for path, who in watches.by_path.items()
            }
        }


def _connection(name: str, connection: Connection, brief: bool) -> _Answer:
    """ServerCnxn.getConnectionInfo."""
    info: _Answer = {
        "remote_socket_address": name,
        "interest_ops": 1,
        "outstanding_requests": len(connection.out),
        "packets_received": connection.received,
        "packets_sent": connection.sent,
    }
    if not brief and connection.session_id:
        least, mean, most = connection.latencies()
        info |= {
            "session_id": connection.session_id,
            "last_operation": operation(connection),
            "established": connection.established_ms,
            "session_timeout": connection.timeout_ms,
            "last_cxid": connection.last_xid,
            "last_zxid": connection.last_zxid,
            "last_response_time": connection.last_ms,
            "last_latency": connection.last_latency_ms,
            "min_latency": least,
            "avg_latency": mean,
            "max_latency": most,
        }
    return info


def _session(watcher: object) -> int:
    return int(getattr(watcher, "session_id", 0))


def _json(answer: _Answer) -> HttpResponse:
    text = json.dumps(answer, indent=2, separators=(",", " : "))
    return HttpResponse(text.encode() + b"\n")
