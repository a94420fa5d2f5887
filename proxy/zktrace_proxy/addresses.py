"""Addresses as users write them, as a plane wants them."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from zktrace_proxy.plane import Listener, PlaneError, Upstream


def resolve(text: str, *, listening: bool = False) -> tuple[str, ...]:
    """All addresses of ``HOST:PORT`` as ``IP:PORT``, IPv6 in brackets, in the resolver's order.

    An empty host of a listener is every address of this machine.

    :raises PlaneError: it is none, or the name is not known.
    """
    host, colon, port = text.strip().rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 0xFFFF:
        raise PlaneError(f"{text!r} is not HOST:PORT")
    name = host.removeprefix("[").removesuffix("]")
    if not name:
        if not listening:
            raise PlaneError(f"{text!r} names no host")
        return (f"0.0.0.0:{port}",)
    try:
        found = socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PlaneError(f"{text!r}: {getattr(error, 'strerror', None) or error}") from None
    addresses = [str(address[0]) for *_, address in found]
    unique = dict.fromkeys(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip in addresses)
    return tuple(unique)


def _host(text: str) -> str:
    return text.strip().rpartition(":")[0].removeprefix("[").removesuffix("]")


def host_and_port(option: str, text: str, *, listening: bool = False) -> tuple[str, int]:
    """The first address of ``HOST:PORT``, which an option of that name gives.

    :raises zktrace.cli.failure.Failure: it is none.
    """
    from zktrace.cli.failure import Failure

    try:
        host, _, port = resolve(text, listening=listening)[0].rpartition(":")
    except PlaneError as error:
        raise Failure(f"{option}: {error}") from None
    return host.strip("[]"), int(port)


def listeners(
    listen: Sequence[str], upstream: str | None, *, name: str | None = None
) -> tuple[Listener, ...]:
    """What ``--listen ADDR[=SERVER,...]`` and ``--upstream SERVER,...`` say together.

    `name`: what the certificates of servers are to be for, rather than the hosts that are given.
    A chroot behind the servers, as in ZooKeeper's connect strings, is refused: the proxy does not
    change paths.

    :raises PlaneError: nothing to listen on, or nothing behind it.
    """
    if not listen:
        raise PlaneError("nothing to listen on: give --listen ADDR:PORT")
    made = []
    for one in listen:
        address, equals, servers = one.partition("=")
        servers = servers if equals else upstream or ""
        if not servers.strip():
            raise PlaneError(f"nothing behind {address}: give --upstream HOST:PORT[,HOST:PORT]")
        if "/" in servers:
            raise PlaneError(
                f"{servers!r} has a chroot: it belongs into the clients' connect string"
            )
        behind = dict.fromkeys(
            Upstream(found, name or _host(server))
            for server in servers.split(",")
            for found in resolve(server)
        )
        own = resolve(address, listening=True)[0]
        if own in (one.address for one in behind):
            raise PlaneError(f"{address} would relay to itself")
        made.append(Listener(own, tuple(behind)))
    return tuple(made)
