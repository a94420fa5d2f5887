"""Live capture on Linux in plain Python: AF_PACKET sockets (packet(7)), a system call per packet.

The readable twin of the native engine's ring, and what the Python engine uses. It loses packets
from some ten thousand a second on, and counts them.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import sys
import time
from typing import Final, NamedTuple

from zktrace.capture.bpf import Instruction
from zktrace.capture.interfaces import Interface
from zktrace.capture.link import ETHERNET, IPV4, IPV6
from zktrace.capture.live import Form, Plan, Taker, Turn, record_bytes

_RAW_IP: Final = 101
_TAG_8021Q: Final = 0x8100
_VLAN_TAGS: Final = (0x8100, 0x88A8, 0x9100)
_MOST_TAGS: Final = 2

# linux/if_packet.h, linux/if_ether.h, asm-generic/socket.h
_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_PACKET_ADD_MEMBERSHIP: Final = 1
_PACKET_STATISTICS: Final = 6
_PACKET_AUXDATA: Final = 8
_PACKET_MR_PROMISC: Final = 1
_SO_TIMESTAMPNS: Final = 35
_SO_ATTACH_FILTER: Final = 26
_SO_RCVBUFFORCE: Final = 33
_VLAN_VALID: Final = 1 << 4
_VLAN_TPID_VALID: Final = 1 << 6
_MSG_TRUNC: Final = 0x20

_AUXDATA: Final = struct.Struct("=IIIHHHH")
_TIMESPEC: Final = struct.Struct("@qq")
_SLL2_HEADER: Final = 20

#: Read at once, then handed over in order of time.
_BATCH: Final = 512


class _Frame(NamedTuple):
    ts_ns: int
    data: bytes
    wire_len: int
    tag: tuple[int, int] | None
    """Ethertype and content of a VLAN tag that the kernel took off."""
    address: tuple[str, int, int, int, bytes]
    """Interface, ethertype, packet type, hardware type, hardware address of the sender."""


_NOTHING: Final = _Frame(0, b"", 0, None, ("", 0, 0, 0, b""))


class PacketSockets:
    """See :class:`zktrace.capture.live.Capture`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._cooked = plan.cooked
        self._form = plan.record
        self._records: list[bytes] = []
        self._drops = 0
        self._rows = 0
        # A packet's whole length is told by the kernel, so nothing is lost by a buffer that is
        # just as large as what is kept.
        self._buffer = bytearray(plan.snaplen)
        program = plan.program()
        self._sockets: list[socket.socket] = []
        try:
            for interface in plan.interfaces:
                self._sockets.append(_opened(plan, interface, program))
        except OSError:
            self.close()
            raise
        self._poll = select.poll()
        for one in self._sockets:
            self._poll.register(one, select.POLLIN | select.POLLERR)
        self._by_number = {one.fileno(): one for one in self._sockets}

    def wait(self, timeout_ms: int) -> bool:
        down = False
        for number, events in self._poll.poll(timeout_ms):
            if events & select.POLLERR:
                one = self._by_number[number]
                down = bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) or down
        return down

    def turn(self, taker: Taker, budget_ms: int, most: int, stay: bool = False) -> Turn:
        end = time.monotonic() + budget_ms / 1000
        packets = 0
        while packets < most and (packets == 0 or time.monotonic() < end):
            frames: list[_Frame] = []
            for number, events in self._poll.poll(0):
                if events & select.POLLIN:
                    share = min(_BATCH, most - packets - len(frames))
                    self._read(self._by_number[number], share, frames)
            if not frames:
                return Turn(packets, True, self._rows)
            if len(self._sockets) > 1:
                frames.sort(key=lambda frame: frame.ts_ns)
            for frame in frames:
                self._hand_over(frame, taker)
            packets += len(frames)
        return Turn(packets, False, self._rows)

    def _read(self, one: socket.socket, most: int, frames: list[_Frame]) -> None:
        buffer = self._buffer
        for _ in range(most):
            try:
                length, ancillary, _flags, address = one.recvmsg_into(
                    [buffer], 256, socket.MSG_DONTWAIT
                )
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                return  # the interface went down: the next poll tells
            ts_ns, wire_len, tag = 0, length, None
            for level, kind, value in ancillary:
                if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                    seconds, ns = _TIMESPEC.unpack_from(value)
                    ts_ns = seconds * 1_000_000_000 + ns
                elif level == _SOL_PACKET and kind == _PACKET_AUXDATA:
                    status, wire_len, _, _, _, tci, tpid = _AUXDATA.unpack_from(value)
                    if status & _VLAN_VALID:
                        tag = (tpid if status & _VLAN_TPID_VALID else _TAG_8021Q, tci)
            data = bytes(buffer[:length])
            frames.append(_Frame(ts_ns, data, max(wire_len, length), tag, address))

    def _hand_over(self, frame: _Frame, taker: Taker) -> None:
        data, wire_len, linktype = frame.data, frame.wire_len, ETHERNET
        if self._cooked:
            linktype = _RAW_IP
            tags = inner_tags(data, wire_len)
            data = data[tags:]
            wire_len = max(wire_len - tags, len(data))
        self._rows = taker.packet(frame.ts_ns, linktype, data, wire_len)
        if self._form is not None:
            self._records.append(_record(frame, self._cooked, self._form))

    def discard(self) -> None:
        for one in self._sockets:
            frames: list[_Frame] = [_NOTHING]
            while frames:
                frames.clear()
                self._read(one, _BATCH, frames)
        self.drops()
        self._drops = 0

    def sample(self, level: int) -> bool:
        program = self._plan.program(level)
        for one in self._sockets:
            _attach(one, program)
        return True

    def drops(self) -> int | None:
        for one in self._sockets:
            # Asking sets the counters to zero.
            packed = one.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            self._drops += struct.unpack("=II", packed)[1]
        return self._drops

    def take_records(self) -> bytes:
        records, self._records = self._records, []
        return b"".join(records)

    def close(self) -> None:
        for one in self._sockets:
            one.close()


def inner_tags(data: bytes, wire_len: int) -> int:
    """Bytes of VLAN tags before the IP packet, in data that begin behind an ethertype.

    A frame of a tag in a tag begins behind the ethertype of the outer one, and the kernel tells the
    tag's ethertype (before 6.11) or that of the IP packet; one that leaves with a tag in it begins
    with the IP packet, and the kernel tells the tag's ethertype (before 6.11). So only a look at
    the bytes tells.
    """
    at = 0
    while at < 4 * _MOST_TAGS:
        inner = int.from_bytes(data[at + 2 : at + 4], "big")
        begins = _is_ip(IPV4, data, wire_len, at) or _is_ip(IPV6, data, wire_len, at)
        if not (_is_ip(inner, data, wire_len, at + 4) or (inner in _VLAN_TAGS and not begins)):
            break
        at += 4
    return at


def _is_ip(ethertype: int, data: bytes, wire_len: int, at: int) -> bool:
    """Could an IP packet of this ethertype begin at `at`?"""
    first = data[at] if at < len(data) else 0
    if ethertype == IPV4:
        total = int.from_bytes(data[at + 2 : at + 4], "big")
        return 0x45 <= first <= 0x4F and 20 <= total <= wire_len - at
    if ethertype == IPV6:
        payload = int.from_bytes(data[at + 4 : at + 6], "big")
        return first >> 4 == 6 and payload + 40 <= wire_len - at
    return False


def _record(frame: _Frame, cooked: bool, form: Form) -> bytes:
    """A record of a file; of Ethernet with the tag put back that the kernel took off, or
    cooked (LINUX_SLL2) without any.
    """
    data, wire_len, tag = frame.data, frame.wire_len, frame.tag
    if cooked:
        name, _, packet_type, hardware, sender = frame.address
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            index = 0
        data = data[inner_tags(data, wire_len) :]
        wire_len = max(wire_len - len(frame.data) + len(data), len(data))
        protocol = IPV6 if data[:1] and data[0] >> 4 == 6 else IPV4
        fields = (protocol, 0, index, hardware, packet_type, min(len(sender), 8), sender[:8])
        data = struct.pack(">HHIHBB8s", *fields) + data
        wire_len += _SLL2_HEADER
    elif tag is not None:
        data = data[:12] + struct.pack(">HH", *tag) + data[12:]
        wire_len += 4
    return record_bytes(form, frame.ts_ns, data, wire_len)


def _opened(plan: Plan, interface: Interface, program: list[Instruction]) -> socket.socket:
    if sys.platform != "linux":  # tells type checkers, too
        raise OSError("no packet sockets")
    kind = socket.SOCK_DGRAM if plan.cooked else socket.SOCK_RAW
    # Without a protocol it gets nothing before it is bound, when the filter is in place.
    one = socket.socket(socket.AF_PACKET, kind, 0)
    try:
        _attach(one, program)
        one.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        one.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        try:
            one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, plan.ring_bytes)
        except PermissionError:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, plan.ring_bytes)
        _bind(one, interface)
        if plan.promiscuous and interface.index:
            member = struct.pack("=iHH8x", interface.index, _PACKET_MR_PROMISC, 0)
            one.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, member)
    except OSError:
        one.close()
        raise
    return one


def _bind(one: socket.socket, interface: Interface) -> None:
    """`struct sockaddr_ll` by hand: Python's own has no way to say "all interfaces"."""
    address = struct.pack(
        "=HHiHBB8x", socket.AF_PACKET, socket.htons(_ETH_P_ALL), interface.index, 0, 0, 0
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.bind(one.fileno(), address, len(address)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _attach(one: socket.socket, program: list[Instruction]) -> None:
    """`struct sock_fprog`: a length, and a pointer to the instructions, which the kernel copies."""
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    held = ctypes.create_string_buffer(packed, len(packed))
    fprog = struct.pack("@HP", len(program), ctypes.addressof(held))
    one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
