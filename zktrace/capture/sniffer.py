"""Live capture where there are no packet sockets: scapy's, over libpcap (macOS, the BSDs).

scapy is an extra (``pip install 'zktrace[scapy]'``). It is slow, and does not tell what it lost.
"""

from __future__ import annotations

import time
from typing import Any, Final

from zktrace.capture.errors import CaptureError
from zktrace.capture.interfaces import ANY, names
from zktrace.capture.live import Plan, Taker, Turn, record_bytes
from zktrace.capture.segment import ip_text

#: Packets to read before others have their turn.
_BATCH: Final = 64
#: No type that we know: counted as such.
_UNKNOWN_LINK: Final = 0xFFFF


def expression(plan: Plan) -> str:
    """The plan's filter in libpcap's language (pcap-filter(7))."""
    ports = " or ".join(
        f"port {port}"
        if host is None
        else f"(src host {ip_text(host)} and src port {port}) or "
        f"(dst host {ip_text(host)} and dst port {port})"
        for host, port in plan.ports
    )
    wanted = f"tcp and ({ports})" if ports else "tcp"
    wanted = f"({wanted}) or (ip[6:2] & 0x1fff != 0 and ip proto 6) or ip6 proto 44"
    if plan.hosts:
        wanted = f"({wanted}) and ({' or '.join(f'net {host}' for host in plan.hosts)})"
    if plan.also is not None:
        wanted = f"({wanted}) and ({plan.also.text})"
    if plan.not_from is not None:
        host, port = plan.not_from
        own = f"port {port}" if host is None else f"host {ip_text(host)} and port {port}"
        wanted = f"({wanted}) and not ({own})"
    if plan.tunnels:
        tunnels = "ip proto 47 or ip proto 4 or ip proto 41 or ip6 proto 47"
        wanted = f"({wanted}) or {tunnels} or udp port 4789 or udp port 8472 or udp port 6081"
    # `vlan` moves all that follows it by the length of a tag, so it comes last.
    return f"({wanted}) or (vlan and ({wanted}))"


class Sniffer:
    """See :class:`zktrace.capture.live.Capture`."""

    def __init__(self, plan: Plan) -> None:
        wanted_names = ", ".join(interface.name for interface in plan.interfaces)
        try:
            # All of it: its parts put into `conf` what they know of sockets and link types.
            from scapy.all import conf
        except ImportError:
            raise CaptureError(
                wanted_names, "live capture on this system needs the Python package 'scapy'"
            ) from None
        if plan.record and plan.cooked:
            raise CaptureError(wanted_names, "only packets of Ethernet can be written here")
        self._conf: Any = conf
        conf.bufsize = plan.ring_bytes
        self._snaplen = plan.snaplen
        self._rows = 0
        self._linktype = plan.linktype
        self._form = plan.record
        self._records: list[bytes] = []
        wanted = expression(plan)
        self._sockets: list[Any] = []
        try:
            listed = [interface.name for interface in plan.interfaces]
            for name in names() if ANY in listed else listed:
                opened = conf.L2listen(iface=name, filter=wanted, promisc=plan.promiscuous)
                self._sockets.append(opened)
        except BaseException:
            self.close()
            raise

    def wait(self, timeout_ms: int) -> bool:
        self._ready(timeout_ms / 1000)
        return False

    def _ready(self, timeout_s: float) -> list[Any]:
        """Sockets that have packets; none also stands for a signal."""
        ready: list[Any] = self._sockets[0].select(self._sockets, timeout_s)
        return ready

    def turn(self, taker: Taker, budget_ms: int, most: int, stay: bool = False) -> Turn:
        end = time.monotonic() + budget_ms / 1000
        packets = 0
        while packets < most and (packets == 0 or time.monotonic() < end):
            before = packets
            for one in self._ready(0):
                packets += self._read(one, taker, min(_BATCH, most - packets))
            if packets == before:
                return Turn(packets, True, self._rows)
        return Turn(packets, False, self._rows)

    def _read(self, one: Any, taker: Taker, most: int) -> int:
        count = 0
        while count < most:
            link, data, at = one.recv_raw()
            if data is None:
                break
            count += 1
            ts_ns = int(at * 1_000_000_000) if at is not None else time.time_ns()
            linktype = self._conf.l2types.layer2num.get(link, _UNKNOWN_LINK)
            kept = data[: self._snaplen]
            self._rows = taker.packet(ts_ns, linktype, kept, len(data))
            if self._form is not None and linktype == self._linktype:
                self._records.append(record_bytes(self._form, ts_ns, kept, len(data)))
            if not getattr(one, "nonblocking_socket", False):
                break
        return count

    def discard(self) -> None:
        pass  # libpcap's buffer is small

    def sample(self, level: int) -> bool:
        return False

    def drops(self) -> int | None:
        return None

    def take_records(self) -> bytes:
        records, self._records = self._records, []
        return b"".join(records)

    def close(self) -> None:
        for one in self._sockets:
            one.close()
