"""Kernel filters for live capture: classic BPF programs made of ports and hosts.

Passed are TCP segments over IPv4 and IPv6 that have one of the ports on either side, whatever VLAN
tags the frame has (taken off by the network card, or up to two in the frame), later fragments of
TCP datagrams (their ports are not in them), TCP behind IPv6 extension headers (the kernel's
language has no loops to look behind them), and, if wanted, the tunnels that
:mod:`zktrace.capture.tunnel` looks into. A packet that the loopback interface shows twice passes
once. The language: linux/filter.h, and McCanne and Jacobson, The BSD Packet Filter (1993).

Knows how packets look, not how they are got.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NamedTuple, TypeAlias

from zktrace.capture.expression import All, Expression, InNet, InPorts, IsVersion, Side

Network: TypeAlias = IPv4Network | IPv6Network

#: Address (packed, None: any) and port.
Endpoint: TypeAlias = tuple[bytes | None, int]


class Instruction(NamedTuple):
    """`struct sock_filter`."""

    code: int
    jt: int
    jf: int
    k: int


class FilterTooLong(ValueError):
    """More ports and hosts than fit in a kernel's program."""


#: BPF_MAXINSNS
MAX_INSTRUCTIONS: Final = 4096

#: Keeps everything of a packet, as tcpdump does by default.
WHOLE: Final = 262_144

# Instruction codes (linux/bpf_common.h).
LD_W: Final = 0x20  # A = word at k
LD_H: Final = 0x28
LD_B: Final = 0x30
LD_W_X: Final = 0x40  # A = word at X + k
LD_H_X: Final = 0x48
LD_B_X: Final = 0x50
LDX_IMM: Final = 0x01
LD_MEM: Final = 0x60
LDX_MEM: Final = 0x61
ST: Final = 0x02
STX: Final = 0x03
XOR_X: Final = 0xAC
MUL_K: Final = 0x24
ADD_X: Final = 0x0C
ADD_K: Final = 0x04
AND_K: Final = 0x54
LSH_K: Final = 0x64
RSH_K: Final = 0x74
JA: Final = 0x05
JEQ_K: Final = 0x15
JGE_K: Final = 0x35
JSET_K: Final = 0x45
RET_K: Final = 0x06
TAX: Final = 0x07
TXA: Final = 0x87

#: Loads from here on ask about the packet instead of looking into it.
ANCILLARY: Final = 0xFFFF_F000
PROTOCOL: Final = ANCILLARY + 0
PACKET_TYPE: Final = ANCILLARY + 4
HARDWARE_TYPE: Final = ANCILLARY + 28

#: linux/if_packet.h, linux/if_arp.h
OUTGOING: Final = 4
LOOPBACK: Final = 772

_IPV4 = 0x0800
_IPV6 = 0x86DD
_VLAN_TAGS = (0x8100, 0x88A8, 0x9100)
_MOST_TAGS = 2
_TCP = 6
_UDP = 17
_TUNNELS = (47, 4, 41)  # GRE, IP in IP, IPv6 in IP
_TUNNEL_PORTS = (4789, 8472, 6081)  # VXLAN, its old port on Linux, Geneve
_FRAGMENT = 44
_EXTENSIONS = (0, 43, 60, 51)  # hop-by-hop, routing, destination options, authentication

#: Comparisons of which the first can still jump behind the last; so few that it is not worth it.
_MANY, _FEW = 200, 8

# Scratch memory: where the IP and the TCP header begin, and what is summed up.
_IP, _L4, _HASH, _PORTS = 0, 1, 2, 3

#: Knuth's multiplicative hashing: 2^32 over the golden ratio.
_GOLDEN = 0x9E37_79B1


@dataclass(slots=True)
class _Step:
    """An instruction; a jump has labels, None being the next one."""

    code: int
    k: int = 0
    jt: str | None = None
    jf: str | None = None
    far: set[str] = field(default_factory=set)  # labels out of reach of a conditional jump


class _Assembler:
    """Instructions and labels; conditional jumps (8 bits) to far places go by a `ja` (32 bits)."""

    def __init__(self) -> None:
        self._items: list[_Step | str] = []
        self._labels = 0

    def op(self, code: int, k: int = 0) -> None:
        self._items.append(_Step(code, k))

    def jump(self, code: int, k: int, jt: str | None = None, jf: str | None = None) -> None:
        self._items.append(_Step(code, k, jt, jf))

    def go(self, label: str) -> None:
        self._items.append(_Step(JA, 0, label))

    def label(self, name: str) -> None:
        self._items.append(name)

    def fresh(self) -> str:
        self._labels += 1
        return f"_{self._labels}"

    def any_of(self, values: Iterable[int], label: str) -> None:
        """To `label` if A is one of the values."""
        left = list(values)
        while len(left) > _FEW:
            # One jump to a far place for many, not one for each.
            near, after = self.fresh(), self.fresh()
            for value in left[:_MANY]:
                self.jump(JEQ_K, value, near)
            self.go(after)
            self.label(near)
            self.go(label)
            self.label(after)
            left = left[_MANY:]
        for value in left:
            self.jump(JEQ_K, value, label)

    def assembled(self) -> list[Instruction]:
        while True:
            places, length = self._places()
            if length > MAX_INSTRUCTIONS:
                raise FilterTooLong(
                    f"the filter has {length} instructions, {MAX_INSTRUCTIONS} is the kernel's "
                    "limit: give fewer ports and hosts"
                )
            program, changed = self._encoded(places)
            if not changed:
                return program

    def _places(self) -> tuple[dict[str, int], int]:
        places, at = {}, 0
        for item in self._items:
            if isinstance(item, str):
                places[item] = at
            else:
                at += 1 + len(item.far)
        return places, at

    def _encoded(self, places: dict[str, int]) -> tuple[list[Instruction], bool]:
        program: list[Instruction] = []
        changed = False
        for step in self._items:
            if isinstance(step, str):
                continue
            here = len(program)
            if step.code == JA:
                assert step.jt is not None
                program.append(Instruction(JA, 0, 0, places[step.jt] - here - 1))
                continue
            far = sorted(step.far)
            offsets = []
            for label in (step.jt, step.jf):
                if label is None:
                    offset = len(far)
                elif label in step.far:
                    offset = far.index(label)
                else:
                    offset = places[label] - here - 1
                    if offset > 0xFF:
                        step.far.add(label)
                        changed = True
                        offset = 0
                offsets.append(offset)
            program.append(Instruction(step.code, offsets[0], offsets[1], step.k))
            for label in far:
                program.append(Instruction(JA, 0, 0, places[label] - len(program) - 1))
        return program, changed


def compile_filter(
    ports: Sequence[Endpoint],
    hosts: Sequence[Network] = (),
    *,
    cooked: bool,
    tunnels: bool = False,
    snaplen: int = WHOLE,
    also: Expression | None = None,
    sample: int = 0,
) -> list[Instruction]:
    """The program for sockets whose packets begin with an Ethernet header or, `cooked`, behind it.

    Without `ports` every TCP segment passes. With `hosts` only those from or to one of them; what
    is in a tunnel passes whatever its addresses and ports. `snaplen` is what is kept of a packet.

    With `also`, what passes must match that, too; what it says of ports is not known of later
    fragments and behind IPv6 extension headers, and nothing is known of what is in tunnels: those
    pass.

    With `sample` n of all connections one of 2^n passes, whole: chosen by a hash of both ends'
    addresses and ports, the same in both directions and on every machine. Who passes with n + 1
    passes with n. What has no ports or is in a tunnel passes.
    """
    asm = _Assembler()
    asm.op(LD_W, PACKET_TYPE)
    asm.jump(JEQ_K, OUTGOING, None, "link")
    asm.op(LD_W, HARDWARE_TYPE)
    asm.jump(JEQ_K, LOOPBACK, "drop")
    asm.label("link")
    if cooked:
        _cooked(asm)
    else:
        _ethernet(asm)
    _ipv4(asm, ports, [n for n in hosts if n.version == 4], bool(hosts), tunnels)
    _ipv6(asm, ports, [n for n in hosts if n.version == 6], bool(hosts), tunnels)
    for version in (4, 6):
        for label, whole in ((f"whole{version}", True), (f"part{version}", False)):
            asm.label(label)
            sampled = f"sample{version}" if whole and sample else "accept"
            if also is not None:
                _expression(asm, also, version, whole, sampled, "drop")
            asm.go(sampled)
        if sample:
            _sample(asm, version, sample)
    asm.label("accept")
    asm.op(RET_K, snaplen)
    asm.label("drop")
    asm.op(RET_K, 0)
    return asm.assembled()


def _ethernet(asm: _Assembler) -> None:
    """To ipv4 or ipv6 with X at the IP header."""
    for tags in range(_MOST_TAGS + 1):
        asm.label(f"tag{tags}")
        asm.op(LDX_IMM, 14 + 4 * tags)
        asm.op(LD_H, 12 + 4 * tags)
        asm.jump(JEQ_K, _IPV4, "ipv4")
        asm.jump(JEQ_K, _IPV6, "ipv6")
        if tags < _MOST_TAGS:
            asm.any_of(_VLAN_TAGS, f"tag{tags + 1}")
        asm.go("drop")


def _cooked(asm: _Assembler) -> None:
    """The same, by the ethertype that the kernel tells.

    If that is a tag's, the packet begins behind the ethertype, or (it leaves with the tag in the
    frame, kernels before 6.11) with the IP header.
    """
    asm.op(LD_W, PROTOCOL)
    for tags in range(_MOST_TAGS + 1):
        asm.label(f"tag{tags}")
        for ethertype, label in ((_IPV4, "ipv4"), (_IPV6, "ipv6")):
            other = asm.fresh()
            asm.jump(JEQ_K, ethertype, None, other)
            asm.op(LDX_IMM, 4 * tags)
            if tags:
                asm.op(LD_B, 4 * tags)
                asm.op(RSH_K, 4)
                asm.jump(JEQ_K, 4 if ethertype == _IPV4 else 6, label, f"bare{tags - 1}")
            else:
                asm.go(label)
            asm.label(other)
        if tags < _MOST_TAGS:
            tagged = asm.fresh()
            asm.any_of(_VLAN_TAGS, tagged)
            asm.go(f"bare{tags - 1}" if tags else "drop")
            asm.label(tagged)
            asm.op(LD_H, 4 * tags + 2)
        else:
            asm.go(f"bare{tags - 1}")
    for tags in range(_MOST_TAGS):
        asm.label(f"bare{tags}")
        asm.op(LDX_IMM, 4 * tags)
        asm.op(LD_B, 4 * tags)
        asm.op(RSH_K, 4)
        asm.jump(JEQ_K, 4, "ipv4")
        asm.jump(JEQ_K, 6, "ipv6", "drop")


def _ipv4(
    asm: _Assembler, ports: Sequence[Endpoint], hosts: list[Network], hosted: bool, tunnels: bool
) -> None:
    asm.label("ipv4")
    asm.op(LD_B_X, 9)
    if tunnels:
        asm.any_of(_TUNNELS, "accept")
        asm.jump(JEQ_K, _UDP, "udp4")
    asm.jump(JEQ_K, _TCP, None, "drop")
    if hosted:
        for offset in (12, 16):
            for host in hosts:
                _match(asm, offset, host, "host4")
        asm.go("drop")
        asm.label("host4")
    asm.op(LD_H_X, 6)
    asm.jump(JSET_K, 0x1FFF, "part4")
    asm.op(STX, _IP)
    _behind_ipv4(asm)
    asm.op(STX, _L4)
    _ports(asm, ports, 4, "whole4")
    if tunnels:
        asm.label("udp4")
        asm.op(LD_H_X, 6)
        asm.jump(JSET_K, 0x1FFF, "accept")
        _behind_ipv4(asm)
        asm.op(LD_H_X, 2)
        asm.any_of(_TUNNEL_PORTS, "accept")
        asm.go("drop")


def _behind_ipv4(asm: _Assembler) -> None:
    """X from the IPv4 header to what it carries."""
    asm.op(LD_B_X, 0)
    asm.op(AND_K, 0xF)
    asm.op(LSH_K, 2)
    asm.op(ADD_X)
    asm.op(TAX)


def _ipv6(
    asm: _Assembler, ports: Sequence[Endpoint], hosts: list[Network], hosted: bool, tunnels: bool
) -> None:
    asm.label("ipv6")
    asm.op(LD_B_X, 6)
    if tunnels:
        asm.any_of(_TUNNELS, "accept")
        asm.jump(JEQ_K, _UDP, "udp6")
        asm.jump(JEQ_K, _FRAGMENT, "accept")
    asm.any_of((_TCP, _FRAGMENT, *_EXTENSIONS), "v6")
    asm.go("drop")
    asm.label("v6")
    if hosted:
        for offset in (8, 24):
            for host in hosts:
                _match(asm, offset, host, "host6")
        asm.go("drop")
        asm.label("host6")
        asm.op(LD_B_X, 6)
    asm.jump(JEQ_K, _TCP, "tcp6")
    asm.op(LD_B_X, 40)  # what follows the first extension header
    asm.any_of((_TCP, _FRAGMENT, *_EXTENSIONS), "part6")
    asm.go("drop")
    asm.label("tcp6")
    asm.op(STX, _IP)
    asm.op(TXA)
    asm.op(ADD_K, 40)
    asm.op(TAX)
    asm.op(STX, _L4)
    _ports(asm, ports, 16, "whole6")
    if tunnels:
        asm.label("udp6")
        asm.op(LD_H_X, 42)
        asm.any_of(_TUNNEL_PORTS, "accept")
        asm.go("drop")


def _ports(asm: _Assembler, ports: Sequence[Endpoint], size: int, passed: str) -> None:
    """To `passed` or drop, with X at the TCP header; addresses have `size` bytes."""
    if not ports:
        asm.go(passed)
        return
    anywhere = sorted({port for host, port in ports if host is None})
    if anywhere:
        for offset in (0, 2):
            asm.op(LD_H_X, offset)
            asm.any_of(anywhere, passed)
    source, destination = (12, 16) if size == 4 else (8, 24)
    for host in sorted({host for host, _ in ports if host is not None and len(host) == size}):
        own = sorted({port for at, port in ports if at == host})
        for address, offset in ((source, 0), (destination, 2)):
            is_host, other = asm.fresh(), asm.fresh()
            asm.op(LDX_MEM, _IP)
            _words(asm, address, host, 8 * size, is_host, other)
            asm.label(is_host)
            asm.op(LDX_MEM, _L4)
            asm.op(LD_H_X, offset)
            asm.any_of(own, passed)
            asm.label(other)
    asm.go("drop")


def _match(asm: _Assembler, offset: int, network: Network, label: str) -> None:
    """To `label` if the address at X + offset is in the network."""
    other = asm.fresh()
    _words(asm, offset, network.network_address.packed, network.prefixlen, label, other)
    asm.label(other)


def _words(asm: _Assembler, offset: int, address: bytes, bits: int, equal: str, other: str) -> None:
    """To `equal` if the first bits of the address at X + offset are these, else to `other`."""
    for at in range(0, len(address), 4):
        if bits <= 0:
            break
        mask = 0xFFFF_FFFF << max(32 - bits, 0) & 0xFFFF_FFFF
        asm.op(LD_W_X, offset + at)
        if mask != 0xFFFF_FFFF:
            asm.op(AND_K, mask)
        word = int.from_bytes(address[at : at + 4], "big") & mask
        asm.jump(JEQ_K, word, None, other)
        bits -= 32
    asm.go(equal)


def _expression(
    asm: _Assembler, expression: Expression, version: int, whole: bool, yes: str, no: str
) -> None:
    """To `yes` or `no`, of a packet of that version of IP. `whole`: where it and its TCP header
    begin is in scratch memory; else X is at the IP header, and ports are not known.
    """
    if isinstance(expression, (InNet, InPorts, IsVersion)):
        _leaf(asm, expression, version, whole, yes, no)
        return
    every = isinstance(expression, All)
    for part in expression.parts:
        further = asm.fresh()
        one, other = (further, no) if every else (yes, further)
        _expression(asm, part, version, whole, one, other)
        asm.label(further)
    asm.go(yes if every else no)


def _leaf(
    asm: _Assembler, leaf: InNet | InPorts | IsVersion, version: int, whole: bool, yes: str, no: str
) -> None:
    if isinstance(leaf, InPorts) and not whole:
        asm.go(yes)
        return
    if leaf.negated:
        yes, no = no, yes
    if isinstance(leaf, IsVersion):
        asm.go(yes if leaf.version in (0, version) else no)
        return
    if isinstance(leaf, InNet) and leaf.network.version != version:
        asm.go(no)
        return
    one = leaf.side in (Side.source, Side.destination)
    sides = [leaf.side] if one else [Side.source, Side.destination]
    for side in sides:
        further = asm.fresh()
        hit, miss = (further, no) if leaf.side is Side.both else (yes, further)
        if isinstance(leaf, InNet):
            if whole:
                asm.op(LDX_MEM, _IP)
            offset = 12 if version == 4 else 8
            size = leaf.network.max_prefixlen // 8
            at = offset if side is Side.source else offset + size
            bits = leaf.network.prefixlen
            _words(asm, at, leaf.network.network_address.packed, bits, hit, miss)
        else:
            asm.op(LDX_MEM, _L4)
            asm.op(LD_H_X, 0 if side is Side.source else 2)
            above = asm.fresh()
            asm.jump(JGE_K, leaf.low, above, miss)
            asm.label(above)
            asm.jump(JGE_K, leaf.high + 1, miss, hit)
        asm.label(further)
    asm.go(yes if leaf.side is Side.both else no)


def _sample(asm: _Assembler, version: int, level: int) -> None:
    """To accept with one of 2^level connections, else drop."""
    asm.label(f"sample{version}")
    # Both ends are added without carry, so that it does not matter which is which.
    offsets = range(12, 20, 4) if version == 4 else range(8, 40, 4)
    for number, offset in enumerate(offsets):
        asm.op(LDX_MEM, _IP)
        asm.op(LD_W_X, offset)
        if number:
            asm.op(LDX_MEM, _HASH)
            asm.op(XOR_X)
        asm.op(ST, _HASH)
    asm.op(LDX_MEM, _L4)
    asm.op(LD_H_X, 0)
    asm.op(ST, _PORTS)
    asm.op(LD_H_X, 2)
    asm.op(LDX_MEM, _PORTS)
    asm.op(XOR_X)
    asm.op(ST, _PORTS)
    asm.op(LD_MEM, _HASH)
    asm.op(MUL_K, _GOLDEN)
    asm.op(LDX_MEM, _PORTS)
    asm.op(XOR_X)
    asm.op(MUL_K, _GOLDEN)
    asm.op(RSH_K, 32 - level)
    asm.jump(JEQ_K, 0, "accept", "drop")
