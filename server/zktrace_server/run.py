"""A server from its configuration file to its end."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from zktrace_server.net.client import ClientPort
from zktrace_server.net.config import Config, ConfigError, load
from zktrace_server.net.service import Service
from zktrace_server.storage.directory import StorageError

log: Final = logging.getLogger(__name__)

#: What asyncio takes where the file does not say how many may wait to be accepted.
_BACKLOG: Final = 1024


async def serve(config: Config) -> str | None:
    """Serves until it is told to stop; gives the reason if it cannot go on."""
    loop = asyncio.get_running_loop()
    service = Service(config, loop)
    port = ClientPort(service, loop)
    try:
        listener = await loop.create_server(
            port.protocol,
            config.client_address or None,
            config.client_port,
            backlog=config.backlog if config.backlog > 0 else _BACKLOG,
        )
    except OSError as error:
        service.stop()
        where = f"{config.client_address or '*'}:{config.client_port}"
        raise ConfigError(f"cannot listen on {where}: {error.strerror or error}") from None
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    service.failed.add_done_callback(lambda _: stop.set())
    service.start()
    _say_where(listener, service)
    await stop.wait()
    listener.close()
    for _, peer in service.connections():
        peer.close()
    service.stop()
    return service.failed.result() if service.failed.done() else None


def _say_where(listener: asyncio.Server, service: Service) -> None:
    """One line, for people and for scripts that wait for it."""
    addresses = []
    for socket in listener.sockets:
        host, port = socket.getsockname()[:2]
        addresses.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    stores = dict.fromkeys((service.directories.snapshots, service.directories.logs))
    print(
        f"zktrace server: listening on {', '.join(addresses)}, data in "
        f"{', '.join(str(path) for path in stores)}, zxid 0x{service.server.tree.last_zxid:x}",
        flush=True,
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed: it costs less for each connection."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop
    return factory


def run(path: Path) -> int:
    """Runs the server that a zoo.cfg describes; gives the exit status. One line on standard error
    where it cannot.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        config = load(path, log.warning)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            failure = runner.run(serve(config))
    except (ConfigError, StorageError) as error:
        print(f"zktrace server: {error}", file=sys.stderr)
        return 2
    if failure is not None:
        print(f"zktrace server: stopped: {failure}", file=sys.stderr)
        return 1
    return 0


def main() -> None:
    """``python -m zktrace_server ZOO.CFG``, and ``python -m server ZOO.CFG`` in a checkout."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m zktrace_server ZOO.CFG")
    sys.exit(run(Path(sys.argv[1])))
