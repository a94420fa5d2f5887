"""Network interfaces of this machine, by name. Knows nothing of packets."""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass
from typing import Final

from zktrace.capture.errors import CaptureError

#: All interfaces at once.
ANY: Final = "any"

ETHERNET: Final = 1
LOOPBACK: Final = 772

_SIOCGIFHWADDR: Final = 0x8927
_SIOCGIFFLAGS: Final = 0x8913
_IFF_UP: Final = 1


@dataclass(frozen=True, slots=True)
class Interface:
    """`index` 0 is all of them; `hardware` is the type of linux/if_arp.h, None where not known."""

    name: str
    index: int
    hardware: int | None = None

    @property
    def loopback(self) -> bool:
        return self.hardware == LOOPBACK

    @property
    def ethernet(self) -> bool:
        """Do its frames begin with an Ethernet header? Those of the loopback interface do."""
        return self.hardware in (ETHERNET, LOOPBACK)


def names() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def find(wanted: list[str]) -> list[Interface]:
    """The interfaces, each once; `any` stands for all. CaptureError tells those that there are."""
    if ANY in wanted:
        return [Interface(ANY, 0)]
    found = {}
    for name in wanted:
        try:
            index = socket.if_nametoindex(name)
        except (OSError, ValueError):
            there = ", ".join([*names(), ANY])
            raise CaptureError(name, f"there is no such interface; there are {there}") from None
        found[index] = Interface(name, index, _hardware(name))
    return list(found.values())


def is_there(interface: Interface) -> bool:
    """Whether it still is the one that was found."""
    if interface.index == 0:
        return True
    try:
        return socket.if_nametoindex(interface.name) == interface.index
    except OSError:
        return False


def is_up(interface: Interface) -> bool:
    """Whether it is not known to be down."""
    flags = _ask(interface.name, _SIOCGIFFLAGS) if interface.index else None
    return flags is None or bool(flags & _IFF_UP)


def _hardware(name: str) -> int | None:
    return _ask(name, _SIOCGIFHWADDR)


def _ask(name: str, request: int) -> int | None:
    """The 16 bits behind the name in the answer to a request (netdevice(7))."""
    if not sys.platform.startswith("linux"):
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16s24x", name.encode())
        try:
            answer = fcntl.ioctl(any_socket.fileno(), request, asked)
        except OSError:
            return None
    value: int = struct.unpack_from("H", answer, 16)[0]
    return value
