"""The servers behind listeners, kept right while the proxy runs: names are looked up again, and, if
wanted, servers are asked how they are; new connections go to those that are well.

A check is a connection, with TLS where servers speak it, and the four-letter word ``srvr``. A
server that answers, or says that the word is not on its list (4lw.commands.whitelist), is well; one
that says it serves nobody (it is no member of a quorum: NIOServerCnxn, ``ZK_NOT_SERVING``) is not,
nor one that does not accept or says nothing in time. After :data:`FALL` failures in a row a server
gets no new connections, after one success it does again. Open connections are never moved. Where
none is well, all are tried: a check may be wrong, and a client learns more by trying.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, Protocol

from zktrace_proxy import tls
from zktrace_proxy.addresses import listeners
from zktrace_proxy.plane import Listener, PlaneError, Upstream

#: How often names of servers are looked up again.
RESOLVE_S: Final = 30.0
#: Checks that fail in a row until a server is not well.
FALL: Final = 2
#: Checks at once.
_WORKERS: Final = 8
_MOST_BYTES: Final = 16 * 1024
_MODE: Final = re.compile(rb"^Mode: ([a-z-]{1,32})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a server behind a listener (by its number). `up`: None: it was not checked
    yet. `mode`: as ``srvr`` says it: leader, follower, standalone ... `failures`: in a row.
    """

    listener: int
    address: str
    name: str
    up: bool | None = None
    mode: str | None = None
    why: str | None = None
    failures: int = 0
    since_s: float | None = None
    """When `up` last changed; seconds since 1970."""


class _Plane(Protocol):
    def addresses(self) -> list[str]: ...
    def set_upstreams(self, listener: int, servers: Sequence[Upstream]) -> None: ...


def _answer(server: Upstream, timeout_s: float, context: ssl.SSLContext | None) -> bytes:
    host, _, port = server.address.rpartition(":")
    until = time.monotonic() + timeout_s
    where = (host.strip("[]"), int(port))
    with socket.create_connection(where, timeout_s) as plain:
        if context is None:
            return _asked(plain, until)
        plain.settimeout(max(until - time.monotonic(), 0.001))
        with context.wrap_socket(plain, server_hostname=server.name) as secured:
            return _asked(secured, until)


def _asked(connection: socket.socket, until: float) -> bytes:
    connection.sendall(b"srvr")
    said = b""
    while len(said) < _MOST_BYTES:
        connection.settimeout(max(until - time.monotonic(), 0.001))
        try:
            some = connection.recv(4096)
        except ssl.SSLEOFError:
            break  # as servers end that do not say goodbye
        if not some:
            break
        said += some
    return said


def check(
    server: Upstream, timeout_s: float, context: ssl.SSLContext | None = None
) -> tuple[bool, str | None, str | None]:
    """Whether a server is well, its mode, and why it is not."""
    try:
        said = _answer(server, timeout_s, context)
    except TimeoutError:
        return False, None, f"no answer in {timeout_s:g} s"
    except ssl.SSLError as error:
        return False, None, f"TLS: {getattr(error, 'verify_message', None) or error.reason}"
    except OSError as error:
        return False, None, error.strerror or str(error)
    mode = _MODE.search(said)
    if mode is not None:
        return True, mode[1].decode(), None
    if b"is not executed because it is not in the whitelist" in said:
        return True, None, None
    if b"not currently serving requests" in said:
        return False, None, "it is not serving requests"
    return False, None, "it does not answer srvr as a ZooKeeper server does"


class Upstreams:
    """See the module. Its thread begins with `start`."""

    def __init__(
        self,
        plane: _Plane,
        listen: Sequence[str],
        upstream: str | None,
        now: Sequence[Listener],
        *,
        servers: tls.ToServers | None = None,
        every_s: float = 0.0,
        timeout_s: float = 5.0,
        resolve_s: float = RESOLVE_S,
        told: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`every_s`: seconds between two checks of a server; 0: none is made. `servers`: how TLS is
        spoken with them, if it is. `told`: called with a line when something changes.

        :raises TlsError: a file of `servers` cannot be used.
        """
        self._plane = plane
        self._listen, self._upstream = listen, upstream
        self._name = None if servers is None else servers.name
        self._servers = servers if every_s else None
        self._context: ssl.SSLContext | None = None
        self.reload()
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._resolve_s = resolve_s
        self._told = told
        self._lock = threading.Lock()
        self._known = [tuple(one.upstreams) for one in now]
        self._given = list(self._known)
        self._health = {
            (index, one): Health(index, one.address, one.name)
            for index, servers_of in enumerate(self._known)
            for one in servers_of
        }
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zktrace-upstreams", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Does not wait for a check under way."""
        self._ended.set()

    def reload(self) -> None:
        """Files of TLS are others.

        :raises TlsError: one cannot be used; what was there before stays.
        """
        if self._servers is not None:
            self._context = tls.client_context(self._servers)

    def listening(self) -> list[str]:
        """Where each listener is."""
        return self._plane.addresses()

    def health(self) -> list[Health]:
        """Of each server behind each listener, in their order."""
        with self._lock:
            return [
                self._health[index, one]
                for index, servers in enumerate(self._known)
                for one in servers
            ]

    def _run(self) -> None:
        wait = min(self._every_s or self._resolve_s, self._resolve_s)
        looked = time.monotonic()
        with ThreadPoolExecutor(_WORKERS, "zktrace-check") as pool:
            if self._every_s:
                self.check(pool)
            while not self._ended.wait(wait):
                if time.monotonic() - looked >= self._resolve_s:
                    looked = time.monotonic()
                    self.resolve()
                if self._every_s:
                    self.check(pool)

    def resolve(self) -> None:
        """Looks names up: new connections go where they lead then."""
        try:
            found = listeners(self._listen, self._upstream, name=self._name)
        except PlaneError:
            return  # a resolver that fails for a while: what is known stays
        with self._lock:
            for index, listener in enumerate(found):
                if set(listener.upstreams) == set(self._known[index]):
                    continue
                self._known[index] = listener.upstreams
                for one in listener.upstreams:
                    self._health.setdefault((index, one), Health(index, one.address, one.name))
                shown = ", ".join(one.address for one in listener.upstreams)
                self._told(f"{self._plane.addresses()[index]} -> {shown}")
            self._give()

    def _give(self) -> None:
        """Tells the plane whom new connections go to. With the lock held."""
        for index, servers in enumerate(self._known):
            well = tuple(one for one in servers if self._health[index, one].up is not False)
            wanted = well or servers
            if wanted != self._given[index]:
                self._given[index] = wanted
                self._plane.set_upstreams(index, wanted)

    def check(self, pool: ThreadPoolExecutor | None = None) -> None:
        """Asks each server once: in turn, or all at once."""
        with self._lock:
            wanted = list(dict.fromkeys(one for servers in self._known for one in servers))
        context = self._context
        each = map if pool is None else pool.map
        results = each(lambda one: check(one, self._timeout_s, context), wanted)
        found = dict(zip(wanted, results, strict=True))
        if self._ended.is_set():
            return
        with self._lock:
            for index, servers in enumerate(self._known):
                for one in servers:
                    if one in found:
                        self._seen(index, one, *found[one])
            self._give()

    def _seen(
        self, index: int, one: Upstream, well: bool, mode: str | None, why: str | None
    ) -> None:
        before = self._health[index, one]
        failures = 0 if well else before.failures + 1
        up = True if well else (False if failures >= FALL else before.up)
        now = replace(before, up=up, mode=mode, why=why, failures=failures)
        if up is not before.up:
            now = replace(now, since_s=time.time())
            if up is False:
                self._told(f"server {one.address} gets no new connections: {why}")
            elif before.up is False:
                self._told(f"server {one.address} is well again")
        self._health[index, one] = now
