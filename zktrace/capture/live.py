"""What a live capture is told, and what it gives. Must not know: how either engine gets packets.

Who opens one: :mod:`zktrace.capture.packetsocket` and :mod:`zktrace.capture.sniffer` in Python,
``zktrace._native`` in Rust.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from dataclasses import dataclass
from io import BytesIO
from ipaddress import ip_network
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from zktrace.capture.bpf import WHOLE, Endpoint, Instruction, Network, compile_filter
from zktrace.capture.errors import CaptureError
from zktrace.capture.expression import All, Any, Expression, InNet, InPorts, Side, negated
from zktrace.capture.interfaces import ANY, Interface
from zktrace.capture.write import PcapngWriter

#: Of a file of packets.
Form: TypeAlias = Literal["pcap", "pcapng"]

#: Link types of what is written: whole frames, or (interfaces without Ethernet, or all of them) the
#: network packet behind a made-up header.
ETHERNET: Final = 1
LINUX_SLL2: Final = 276

#: A second of 100,000 packets of 300 bytes.
RING_BYTES: Final = 32 << 20

#: Packets are handed over after this time though few came: half of what a reader finds prompt.
BLOCK_MS: Final = 50


@dataclass(frozen=True, slots=True)
class CaptureFilter:
    """As it was typed, and what it means."""

    text: str
    expression: Expression


def _end(end: Endpoint) -> Expression:
    """What one end of a packet is."""
    host, port = end
    sides = []
    for side in (Side.source, Side.destination):
        parts: list[Expression] = [InPorts(port, port, side)]
        if host is not None:
            parts.append(InNet(ip_network(host), side))
        sides.append(All(tuple(parts)))
    return Any(tuple(sides))


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to listen, and to what."""

    interfaces: tuple[Interface, ...]
    ports: tuple[Endpoint, ...] = ()
    """None: every port."""
    hosts: tuple[Network, ...] = ()
    """None: every host."""
    also: CaptureFilter | None = None
    """The user's own filter; what passes must match it, too."""
    not_from: Endpoint | None = None
    """What has this end is left out: our own page."""
    tunnels: bool = False
    snaplen: int = WHOLE
    promiscuous: bool = False
    ring_bytes: int = RING_BYTES
    block_ms: int = BLOCK_MS
    record: Form | None = None
    """Records of a file are wanted as well."""

    @property
    def cooked(self) -> bool:
        """Packets begin at the network layer, since links differ or are no Ethernet."""
        return any(not interface.ethernet for interface in self.interfaces)

    @property
    def linktype(self) -> int:
        """Of the records."""
        return LINUX_SLL2 if self.cooked else ETHERNET

    def program(self, sample: int = 0) -> list[Instruction]:
        """For the kernel. `sample` n: of 1 of 2^n connections."""
        return compile_filter(
            self.ports,
            self.hosts,
            cooked=self.cooked,
            tunnels=self.tunnels,
            snaplen=self.snaplen,
            also=self._also(),
            sample=sample,
        )

    def _also(self) -> Expression | None:
        parts = [] if self.also is None else [self.also.expression]
        if self.not_from is not None:
            parts.append(negated(_end(self.not_from)))
        return All(tuple(parts)) if parts else None


class Turn(NamedTuple):
    """What one look at a capture gave."""

    packets: int
    idle: bool
    """No more packets wait."""
    rows: int
    """Rows that wait in the engine."""
    down: bool = False
    """An interface is down."""


class Taker(Protocol):
    """Takes packets: an engine."""

    def packet(self, ts_ns: int, linktype: int, data: bytes, wire_len: int) -> int:
        """One packet; gives how many rows wait to be taken."""


class Capture(Protocol):
    """A live capture that has begun."""

    def wait(self, timeout_ms: int) -> bool:
        """Waits for packets, up to `timeout_ms`; a signal ends the waiting. True: an interface is
        down, and captured from again when it is up.
        """

    def turn(self, taker: Taker, budget_ms: int, most: int, stay: bool = False) -> Turn:
        """Hands packets that are there to an engine (of the kind that the capture was opened for),
        at most so many, for about `budget_ms`. With `stay`, that of the native engine waits for
        more for all of that time, or until a signal comes or an interface is down.
        """

    def discard(self) -> None:
        """Forgets what was captured and lost so far: listening begins now."""

    def sample(self, level: int) -> bool:
        """From now on captures 1 of 2^level connections; whether it can."""

    def drops(self) -> int | None:
        """Packets lost so far, in the kernel; None where it does not tell."""

    def take_records(self) -> bytes:
        """Records of a file of the plan's form, of the packets since the last call: nanoseconds,
        this machine's byte order; in pcapng enhanced packet blocks of interface 0.
        """

    def close(self) -> None:
        """Ends it."""


def file_header(plan: Plan) -> bytes:
    """What stands before the records in a file."""
    snaplen = min(plan.snaplen, WHOLE)
    if plan.record == "pcap":
        return struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, snaplen, plan.linktype)
    out = BytesIO()
    writer = PcapngWriter(out, byte_order=sys.byteorder)
    name = " ".join(interface.name for interface in plan.interfaces)
    writer.interface(plan.linktype, snaplen=snaplen, name=name)
    return out.getvalue()


def record_bytes(form: Form, ts_ns: int, data: bytes, wire_len: int) -> bytes:
    """A packet as a file of that form has it."""
    if form == "pcap":
        seconds, ns = divmod(ts_ns, 1_000_000_000)
        return struct.pack("=IIII", seconds, ns, len(data), wire_len) + data
    padding = bytes(-len(data) % 4)
    length = len(data) + len(padding) + 32
    high, low = divmod(ts_ns, 1 << 32)
    head = struct.pack("=7I", 6, length, 0, high, low, len(data), wire_len)
    return head + data + padding + struct.pack("=I", length)


def refused(error: OSError, plan: Plan) -> CaptureError:
    """Why capturing does not begin, in one line that says what to do."""
    name = ", ".join(interface.name for interface in plan.interfaces)
    if error.errno in (errno.EPERM, errno.EACCES):
        # setcap takes no symbolic link, and a script has no capabilities: its interpreter has.
        python = os.path.realpath(sys.executable)
        return CaptureError(
            name,
            "capturing is not permitted: once, `sudo setcap cap_net_raw+ep "
            f"{python}` (for every program of that Python), or run zktrace with sudo",
        )
    if error.errno == errno.ENODEV:
        return CaptureError(name, "the interface went away")
    if error.errno == errno.EAFNOSUPPORT:
        return CaptureError(name, "this system has no packet sockets (AF_PACKET)")
    return CaptureError(name, f"capturing does not work: {error.strerror or error}")


def described(plan: Plan) -> str:
    """One line for the user: where, what, how."""
    where = " and ".join(
        "all interfaces" if interface.name == ANY else interface.name
        for interface in plan.interfaces
    )
    parts = [f"listening on {where}"]
    if plan.ports:
        from zktrace.capture.segment import endpoint_text

        shown = [str(n) if ip is None else endpoint_text(ip, n) for ip, n in plan.ports]
        parts.append(f"TCP port{'s' if len(shown) > 1 else ''} {', '.join(shown)}")
    else:
        parts.append("all TCP ports")
    if plan.hosts:
        parts.append(f"host{'s' if len(plan.hosts) > 1 else ''} {', '.join(map(str, plan.hosts))}")
    if plan.also is not None:
        parts.append(plan.also.text)
    if plan.snaplen < WHOLE:
        parts.append(f"first {plan.snaplen} bytes of a packet")
    return "; ".join(parts)
