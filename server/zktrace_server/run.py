"""A server from its configuration file to its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from zktrace.cli.heap import set_limits
from zktrace_server.net.admin import Admin
from zktrace_server.net.client import ClientPort
from zktrace_server.net.config import Config, ConfigError, load
from zktrace_server.net.http import HttpPort, listen
from zktrace_server.net.member import MemberService
from zktrace_server.net.metrics import answer as metrics_answer
from zktrace_server.net.secure import TlsGate
from zktrace_server.net.service import Service
from zktrace_server.net.sockets import Listener
from zktrace_server.net.sockets import listen as listen_together
from zktrace_server.net.wire import VARIABLE
from zktrace_server.storage.directory import StorageError

log: Final = logging.getLogger(__name__)

#: What asyncio takes where the file does not say how many may wait to be accepted.
_BACKLOG: Final = 1024
_KEPT: Final = 1 << 20


async def serve(config: Config) -> str | None:
    """Serves until it is told to stop; gives the reason if it cannot go on."""
    loop = asyncio.get_running_loop()
    service: Service
    if config.quorum is not None:
        faults = os.environ.get(VARIABLE)
        service = MemberService(config, config.quorum, loop, Path(faults) if faults else None)
        try:
            await service.listen()
        except ConfigError:
            service.stop()
            raise
    else:
        service = Service(config, loop)
    listeners: dict[str, asyncio.Server | Listener] = {}
    try:
        await _listen(config, service, loop, listeners)
    except BaseException:
        for listener in listeners.values():
            listener.close()
        service.stop()
        raise
    # Znodes that were loaded make no cycles: to look for some among them holds up all clients.
    gc.collect()
    gc.freeze()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    service.failed.add_done_callback(lambda _: stop.set())
    service.start()
    _say_where(listeners, service)
    await stop.wait()
    for listener in listeners.values():
        listener.close()
    for _, peer in service.connections():
        peer.close()
    service.stop()
    return service.failed.result() if service.failed.done() else None


async def _listen(
    config: Config,
    service: Service,
    loop: asyncio.AbstractEventLoop,
    listeners: dict[str, asyncio.Server | Listener],
) -> None:
    """Opens the ports; what they are called is for the line that says so."""
    port = ClientPort(service, loop)
    backlog = config.backlog if config.backlog > 0 else _BACKLOG
    if config.client_port is not None:
        address = config.client_address or None
        with _may_not_listen(f"{address or '*'}:{config.client_port}"):
            if service.sockets is not None:
                listeners[""] = await listen_together(
                    service.sockets, port.protocol, address, config.client_port, backlog
                )
            else:
                listeners[""] = await loop.create_server(
                    port.protocol, address, config.client_port, backlog=backlog
                )
    if config.tls is not None and config.secure_port is not None:
        address = config.secure_address or None
        with _may_not_listen(f"{address or '*'}:{config.secure_port}"):
            listeners["TLS on "] = await loop.create_server(
                TlsGate.factory(port, config.tls), address, config.secure_port, backlog=backlog
            )
    if config.metrics is not None:
        scraped = HttpPort(lambda request: metrics_answer(service, request))
        where = f"{config.metrics.address or '*'}:{config.metrics.port} (metricsProvider.httpPort)"
        with _may_not_listen(where):
            listeners["metrics on "] = await listen(
                scraped, config.metrics.address, config.metrics.port
            )
    if config.admin is not None:
        admin = HttpPort(Admin(service, config.admin.url).answer)
        where = f"{config.admin.address or '*'}:{config.admin.port} (admin.serverPort)"
        try:
            with _may_not_listen(where):
                listeners["admin on "] = await listen(
                    admin, config.admin.address, config.admin.port
                )
        except ConfigError as error:
            # Nobody asked for it, and a standard zoo.cfg is to be served beside other programs.
            if config.admin.asked:
                raise
            log.warning("no admin server: %s", error)


@contextmanager
def _may_not_listen(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # asyncio's text has the address again; that of a name that is not found has no such number.
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        raise ConfigError(f"cannot listen on {where}: {reason}") from None


def _say_where(listeners: Mapping[str, asyncio.Server | Listener], service: Service) -> None:
    """One line, for people and for scripts that wait for it."""
    where = [
        f"{name}{_shown(socket.getsockname())}"
        for name, listener in listeners.items()
        for socket in listener.sockets
    ]
    stores = dict.fromkeys((service.directories.snapshots, service.directories.logs))
    print(
        f"zktrace server: listening on {', '.join(where)}, data in "
        f"{', '.join(str(path) for path in stores)}, zxid 0x{service.server.tree.last_zxid:x}",
        flush=True,
    )


def _shown(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _raise_limit() -> None:
    """As many connections as the system allows, as Java's machine has it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        pass  # macOS has a hard limit that it does not grant


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed: it costs less for each connection."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop
    return factory


def _keep_buffers() -> None:
    """asyncio reads into 256 KiB, of which it keeps what came: glibc maps, cuts and unmaps that for
    each read, which is three system calls and new pages. Above this size only.
    """
    set_limits(_KEPT, 2 * _KEPT)


def run(path: Path, properties: Mapping[str, str] | None = None) -> int:
    """Runs the server that a zoo.cfg describes; gives the exit status. One line on standard error
    where it cannot. `properties`: what Java's server is given by -D.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    _raise_limit()
    _keep_buffers()
    try:
        config = load(path, log.warning, properties)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            failure = runner.run(serve(config))
    except (ConfigError, StorageError) as error:
        print(f"zktrace server: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Before it served: while it read its data.
        return 130
    if failure is not None:
        print(f"zktrace server: stopped: {failure}", file=sys.stderr)
        return 1
    return 0


def main() -> None:
    """``python -m zktrace_server [-DKEY=VALUE]... ZOO.CFG``, and ``python -m server`` in a
    checkout.
    """
    given = [text for text in sys.argv[1:] if text.startswith("-D")]
    files = [text for text in sys.argv[1:] if not text.startswith("-D")]
    if len(files) != 1:
        sys.exit("usage: python -m zktrace_server [-DKEY=VALUE]... ZOO.CFG")
    properties = (text.removeprefix("-D").partition("=") for text in given)
    sys.exit(run(Path(files[0]), {key: value for key, _, value in properties}))
